"""Statements made comparable, and made fit to be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgidle.idle.statement_text import LONGEST_SHOWN, normal, shown

TEXTS = st.text(st.sampled_from("sSlL1 9$'\"\\*/-;.e\n\t_(\N{SNOWMAN}"), max_size=60)


@pytest.mark.parametrize(
    "text",
    [
        *("select 1", " SELECT 1 ; ", "SELECT\n\t1;;", "SeLeCt 1;\n;", "SELECT/* a /* nested */ one */1"),
        *("SELECT 1 -- why", "/*traceparent='00-x'*/ SELECT 1", "-- first\nSELECT 1"),
    ],
)
def test_what_is_the_same_statement(text: str) -> None:
    assert normal(text) == normal("SELECT 1")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "SELECT 2",
            "SELECT 11",
            "SELECT 1 1",
            "SELECT1",
            "SELECT 1; DELETE FROM t",
            "DELETE FROM t; SELECT 1",
        ),
        *("SELECT '1'", 'SELECT "1"', "", ";", "SELECT $1", "SELECT 1'", "SELECT 1."),
    ],
)
def test_what_is_another_statement(text: str) -> None:
    assert normal(text) != normal("SELECT 1")


@pytest.mark.parametrize(
    ("one", "other"),
    [("SELECT 'a'", "SELECT 'A'"), ('SELECT "a"', 'SELECT "A"'), ("SELECT $$a  b$$", "SELECT $$a b$$")],
)
def test_what_is_quoted_is_compared_as_it_is(one: str, other: str) -> None:
    assert normal(one) != normal(other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  SELECT\n 1 ;", "SELECT 1"),
        (
            "SELECT * FROM t WHERE a = 4711 AND b = 'secret''s' AND c = 1.5e10",
            "SELECT * FROM t WHERE a = ? AND b = ? AND c = ?",
        ),
        ("SELECT E'sec\\'ret', 1", "SELECT ? …"),
        ("SELECT 'sec\\' secret' FROM t", "SELECT ? …"),
        ("ALTER ROLE a PASSWORD $x$secret$x$", "ALTER ROLE a PASSWORD ?"),
        ("SELECT 'cut off sec", "SELECT ?"),
        ("SELECT /* secret */ a -- secret", "SELECT a"),
        ("SELECT 0x5ec5e7, 12_345, col1 FROM t2 LIMIT $1", "SELECT ?, ?, col1 FROM t2 LIMIT $1"),
        ("", ""),
    ],
)
def test_what_is_shown_has_no_data(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_long_statement_is_cut() -> None:
    text = shown("SELECT " + ", ".join("abcdefgh" for _ in range(50)))
    assert len(text) == LONGEST_SHOWN
    assert text.endswith("…")


@given(TEXTS)
def test_any_text_becomes_one_short_line(text: str) -> None:
    assert len(shown(text)) <= LONGEST_SHOWN
    assert shown(text).isprintable()


@given(st.text(max_size=40))
def test_no_string_is_shown(secret: str) -> None:
    quoted = secret.replace("'", "''").replace("\0", "")
    assert shown(f"SELECT '{quoted}', a") == ("SELECT ? …" if "\\" in secret else "SELECT ?, a")
