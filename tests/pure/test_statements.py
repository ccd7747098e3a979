"""What is read out of a session's last statement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgidle.idle.statements import Said, Word, said

LISTENS = [
    "LISTEN a",
    "listen a;",
    '\n listen"jobs"',
    "SET application_name = 'x'; LISTEN a",
    "-- name: Listen :exec\nLISTEN a",
    "/*app='x'*/ LISTEN a",
    "/* a /* nested */ one */ LISTEN a",
    "BEGIN; LISTEN a; COMMIT",
    "SELECT 'it''s'; LISTEN a",
    "SELECT e'\\''; LISTEN a",
    "SELECT $1, $x$ ; $x$; LISTEN a",
    "UNLISTEN b",
    "UNLISTEN *; LISTEN a",
    "DO $$ begin execute 'listen a'; end $$",
    "DO 'begin listen a; end'",
    "LISTEN a; SELECT 'cut off he",
]
SAYS_NOTHING = [
    "",
    ";",
    "SELECT 'listen'",
    "SELECT $$ ; listen a $$",
    'SELECT "listen"',
    "-- LISTEN a",
    "/* cut off LISTEN a",
    "NOTIFY listen",
    "SELECT listen FROM t",
    "UPDATE listen SET a = 1",
    "COMMIT",
]
LETS_GO = [
    "UNLISTEN *",
    "unlisten*",
    "DISCARD ALL",
    "LISTEN a; UNLISTEN *",
    "CLOSE ALL; UNLISTEN *; RESET ALL",
]


@pytest.mark.parametrize("query", LISTENS)
def test_a_listener_is_known(query: str) -> None:
    assert said(query).listening is Word.HOLDS


@pytest.mark.parametrize("query", SAYS_NOTHING)
def test_other_statements_say_nothing(query: str) -> None:
    assert said(query) == Said()


@pytest.mark.parametrize("query", LETS_GO)
def test_only_what_ends_all_listening_ends_it(query: str) -> None:
    assert said(query).listening is Word.LETS_GO


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("SELECT pg_backup_start('x', true)", Word.HOLDS),
        ("select pg_catalog.pg_start_backup ('x', true, false)", Word.HOLDS),
        ("SELECT \"pg_backup_start\"('x')", Word.HOLDS),
        ("SELECT lsn FROM pg_backup_stop()", Word.LETS_GO),
        ("SELECT pg_stop_backup(false, false)", Word.LETS_GO),
        ("-- pg_backup_start()\nSELECT 1", Word.NOTHING),
        ("SELECT 'pg_backup_start('", Word.NOTHING),
        ("SELECT my_pg_backup_start()", Word.NOTHING),
    ],
)
def test_a_base_backup_is_known(query: str, word: Word) -> None:
    assert said(query).backup is word


@given(st.text(st.sampled_from("$'\"*/-;eE\\ \nlisten_1"), max_size=60))
def test_any_text_can_be_read(query: str) -> None:
    said(query)


@given(st.text(st.sampled_from("'\"$*/-;ab \n"), max_size=40))
def test_a_comment_hides_nothing_behind_it(text: str) -> None:
    """Whatever is in a comment; unless it ends the comment, or begins one within it."""
    inside = text.replace("*/", "").replace("/*", "")
    if not inside.endswith(("/", "*")):
        assert said(f"/*{inside}*/ LISTEN a").listening is Word.HOLDS
    line = text.replace("\n", " ")
    assert said(f"--{line}\nLISTEN a").listening is Word.HOLDS
