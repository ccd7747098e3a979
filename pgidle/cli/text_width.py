"""How many columns of a terminal a text takes. Pure."""

from __future__ import annotations

import re
import unicodedata

# Colours, which take none (SGR, ECMA-48), each letter, and what may follow it without taking any.
PIECE = re.compile(r"\x1b\[[0-9;]*m|.", re.DOTALL)


def columns(text: str) -> int:
    """The columns that a printable text takes, colours left out."""
    return sum(map(_columns_of, PIECE.findall(text)))


def fitted(text: str, width: int) -> str:
    """The text cut to so many columns, with … at the end if something is missing."""
    if columns(text) <= width:
        return text
    kept, left = [], width - 1
    for piece in PIECE.findall(text):
        if (taken := _columns_of(piece)) > left:
            break
        kept.append(piece)
        left -= taken
    return "".join([*kept, "…"]) if width > 0 else ""


def fitted_at_end(text: str, width: int) -> str:
    """The same for a text, such as a path, whose end tells most."""
    return fitted(text[::-1], width)[::-1]


def padded(text: str, width: int) -> str:
    """The text with spaces behind it, up to so many columns."""
    return text + " " * (width - columns(text))


def wrapped(text: str, width: int, indent: int) -> list[str]:
    """The text broken at spaces into lines of so many columns, the second and later ones indented."""
    line, *words = text.split(" ")
    lines = []
    for word in words:
        if line.strip() and columns(f"{line} {word}") > width:
            lines.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}"
    return [*lines, line]


def _columns_of(piece: str) -> int:
    if len(piece) > 1 or unicodedata.combining(piece) or unicodedata.category(piece) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(piece) in ("W", "F") else 1
