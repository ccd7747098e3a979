"""The journal's lines as events: a line is an event or nothing, and its fields are what they should be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgidle.history.events import Kind, Terms, parse, parse_all

HEAD = {"at": 1764244800.123, "up": 4711.5, "run": 1764240088623, "n": 12, "event": "slept"}


def line(**fields: object) -> str:
    return json.dumps(HEAD | fields)


def test_a_line() -> None:
    event = parse(line(why="idle", idle=3, cut=["a", 1, "b"], cut_count=2).encode())
    assert event is not None
    assert (event.at, event.up, event.run, event.number) == (1764244800.123, 4711.5, 1764240088623, 12)
    assert (event.kind, event.text("why"), event.seconds("idle")) == (Kind.SLEPT, "idle", 3.0)
    assert (event.texts("cut"), event.count("cut_count")) == (("a", "b"), 2)


def test_the_page_lists_every_kind() -> None:
    page = (Path(__file__).parents[2] / "docs/journal.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1] for row in page.partition("| event |")[2].splitlines() if row.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert told == {kind.value for kind in Kind} - {"other"}


def test_what_a_later_version_notes_is_no_lost_line() -> None:
    event = parse(line(event="resized", amount={"a": [1]}))
    assert event is not None
    assert event.kind is Kind.OTHER


@pytest.mark.parametrize(
    "torn",
    [
        *("", "\n", "{", "[]", "null", "7", '"slept"', "[" * 100_000, "\0" * 100, "9" * 5000),
        line()[:-1],
        line(event=["slept"]),
        line(event=None)[:40],
        line(at="1764244800"),
        line(at=None),
        line(at=True),
        line(at=-1),
        line(at=1e300),
        line(at=float("nan")),
        line(up=float("inf")),
        line(up=-0.1),
        line(run=1.5),
        line(run=2**60),
        line(run=0),
        line(n="12"),
        line(n=False),
        line(n=0),
        line(n=2**60),
        json.dumps({name: value for name, value in HEAD.items() if name != "n"}),
    ],
)
def test_what_is_no_event(torn: str) -> None:
    assert parse(torn) is None
    assert parse(torn.encode()) is None


def test_garbage_costs_nothing_but_itself() -> None:
    lines = [line().encode(), b"\xff\xfe\x00", b'{"at":17', b"\n", line(n=13).encode()]
    assert [event.number for event in parse_all(lines)] == [12, 13]


@given(st.binary())
def test_no_line_is_an_error(raw: bytes) -> None:
    parse(raw)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(VALUES)
def test_a_field_that_is_something_else_is_missing(value: object) -> None:
    event = parse(line(x=value, settings=value))
    assert event is not None
    assert isinstance(event.text("x"), str)
    assert event.count("x") >= 0
    seconds = event.seconds("x")
    assert seconds is None or (type(seconds) is float and seconds >= 0)
    assert all(isinstance(one, str) for one in event.texts("x"))
    event.terms()


def test_a_truth_value_is_no_number() -> None:
    event = parse(line(idle=True, cut_count=True))
    assert event is not None
    assert (event.seconds("idle"), event.count("cut_count")) == (None, 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"idle-timeout": 300, "min-awake": 30.0, "when-idle": "stay"},
            Terms(300.0, 30.0, "stay"),
        ),
        ({"idle-timeout": None}, Terms(None, 0.0, "")),
        ({"idle-timeout": None, "min-awake": "x", "when-idle": 1}, Terms(None, 0.0, "")),
        ({"min-awake": 1}, None),
        (None, None),
        ([], None),
    ],
)
def test_the_settings_in_force(settings: object, expected: Terms | None) -> None:
    event = parse(line(event="started", settings=settings))
    assert event is not None
    assert event.terms() == expected
