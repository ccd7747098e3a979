"""What a session's last query tells about what the session holds: LISTEN, and a base backup of its own. Pure.

Only the text is known, as pg_stat_activity shows it: up to track_activity_query_size bytes (1 kB by default), and not
whether it succeeded. So a statement that takes hold of something is believed at once, and one that lets go only where
nothing can remain held.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Word(Enum):
    """What a query tells about one thing that a session may hold."""

    HOLDS = "holds"
    LETS_GO = "lets go"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Said:
    """What a query tells about LISTEN, and about a base backup."""

    listening: Word = Word.NOTHING
    backup: Word = Word.NOTHING


# After src/backend/parser/scan.l: comments nest, which no regular expression can follow, so each is skipped in code;
# quotes are doubled, and a dollar quote ends with its own tag. A token that is cut off extends to the end.
TOKEN = re.compile(
    r"""
      (?P<line_comment> --[^\n\r]* )
    | (?P<comment> /[*] )
    | (?P<string> [eE]'(?:[^'\\]|\\.|'')*(?:'|$) | '(?:[^']|'')*(?:'|$) )
    | (?P<name> "(?:[^"]|"")*(?:"|$) )
    | (?P<dollar> [$](?P<tag>(?:[^\W\d]\w*)?)[$].*?(?:[$](?P=tag)[$]|$) )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
DOLLARS = re.compile(r"^[$]\w*[$]|[$]\w*[$]\Z")
COMMENT_EDGE = re.compile(r"/[*]|[*]/")
BEGINS = frozenset({"pg_backup_start", "pg_start_backup"})
ENDS = frozenset({"pg_backup_stop", "pg_stop_backup"})
LISTEN = re.compile(r"\blisten\b", re.IGNORECASE)


def said(query: str) -> Said:
    """What all statements of a query tell together; a later one overrides an earlier one."""
    listening = backup = Word.NOTHING
    for words in _statements(query):
        match words[:2]:
            case ["listen", *_]:
                listening = Word.HOLDS
            case ["unlisten", "*"] | ["discard", "all"]:
                listening = Word.LETS_GO
            case ["unlisten", *_]:
                # A session that leaves one channel by name probably listens on others.
                listening = Word.HOLDS
            case ["do", *_] if any(LISTEN.search(word) for word in words[1:]):
                listening = Word.HOLDS
        for word in words:
            if word in BEGINS:
                backup = Word.HOLDS
            elif word in ENDS:
                backup = Word.LETS_GO
    return Said(listening, backup)


def _statements(query: str) -> Iterator[list[str]]:
    """The tokens of each statement, words in lower case. A string is one token, a comment none."""
    statement: list[str] = []
    for token in _tokens(query):
        if token == ";":
            yield statement
            statement = []
        else:
            statement.append(token)
    yield statement


def _tokens(query: str) -> Iterator[str]:
    for kind, text in tokens(query):
        match kind:
            case "word":
                yield text.lower()
            case "string":
                yield text
            case "name":
                # A quoted name is not a keyword, but may name a function.
                yield name if (name := text.strip('"')) in BEGINS | ENDS else '"name"'
            case "other" if not text.isspace():
                yield text
            case "dollar":
                yield DOLLARS.sub("", text)


def tokens(query: str) -> Iterator[tuple[str, str]]:
    """The kind and the text of each token, in order; white space is one, too. Together they are the query."""
    at = 0
    while found := TOKEN.match(query, at):
        begin, at = at, found.end()
        if found.lastgroup == "comment":
            at = _end_of_comment(query, at)
        yield found.lastgroup or "", query[begin:at]


def _end_of_comment(query: str, at: int) -> int:
    """Where the comment ends whose opening `/*` ends at `at`."""
    depth = 1
    while depth and (edge := COMMENT_EDGE.search(query, at)):
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at if not depth else len(query)
