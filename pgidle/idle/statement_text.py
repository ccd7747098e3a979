"""A statement's text, made comparable, and made fit to be shown. Pure."""

from __future__ import annotations

from functools import lru_cache

from pgidle.idle.statements import tokens

LONGEST_SHOWN = 80
"""Characters of a statement that are shown."""

ASCII_LOWER = {ord(letter): ord(letter) + 32 for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


@lru_cache(maxsize=128)
def normal(query: str) -> str:
    """The same for two texts that differ only in comments, in white space where some is, in the case of words that are
    not quoted, and in semicolons and white space around them."""
    said = ""
    for kind, text in tokens(query):
        if kind in ("comment", "line_comment") or text.isspace():
            said += "" if said.endswith(" ") else " "
        else:
            said += text.translate(ASCII_LOWER) if kind == "word" else text
    return said.strip(" ;")


@lru_cache(maxsize=128)
def shown(query: str) -> str:
    """The statement as it may be shown to others: one line of at most 80 characters, without comments and without what
    could be data. Strings and numbers of more than one digit are replaced by `?`."""
    said, number = "", ""
    for kind, text in tokens(query):
        if kind == "other" and (text.isdigit() or (number and text == ".")):
            number += text
            continue
        if kind == "word" and number:
            number += text  # As in 0xff or 1e10.
            continue
        said, number = said + _number(number), ""
        if kind in ("string", "dollar"):
            said += "?"
            if "\\" in text:
                # Where standard_conforming_strings is off, a string may go on after this.
                return _cut(said + " …")
        elif kind in ("comment", "line_comment") or text.isspace():
            said += " "
        else:
            said += text
    return _cut(said + _number(number))


def _number(text: str) -> str:
    return "?" if len(text) > 1 else text


def _cut(text: str) -> str:
    line = " ".join("".join(one if one.isprintable() else "?" for one in text).split()).strip(" ;")
    return line if len(line) <= LONGEST_SHOWN else f"{line[: LONGEST_SHOWN - 1]}…"
