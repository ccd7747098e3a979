"""Holds as they are kept: what is read is what was written, and nothing else is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgidle.control.hold_file import LARGEST, MOST, Hold, HoldFile, from_text, to_text
from pgidle.control.orders import LONGEST_WHY, Program
from pgidle.settings.options import LONGEST

WALL = 1_795_390_801.5
times = st.floats(0, 2**40, allow_nan=False)
lengths = st.floats(0, LONGEST, exclude_min=True)
texts = st.text(max_size=LONGEST_WHY)
programs = st.builds(Program, st.integers(1, 2**22), st.integers(0, 2**50), texts)
holds = st.builds(Hold, st.just(0), times, lengths, texts, st.none() | programs) | st.builds(
    Hold, st.just(0), times, st.none(), texts, programs
)


@st.composite
def files(draw: st.DrawFn) -> HoldFile:
    drawn = draw(st.lists(holds, max_size=4))
    numbered = tuple(
        Hold(number, one.taken_at, one.seconds, one.why, one.program) for number, one in enumerate(drawn, 1)
    )
    return HoldFile(draw(texts), len(numbered) + draw(st.integers(0, 9)), numbered)


@given(files())
def test_what_is_read_is_what_was_written(file: HoldFile) -> None:
    assert from_text(to_text(file)) == file


def test_the_most_that_can_be_held_is_read() -> None:
    worst = Program(2**22, 2**50, "\x01" * LONGEST_WHY)
    many = tuple(
        Hold(number, WALL, LONGEST, "\U0001f418" * LONGEST_WHY, worst) for number in range(1, MOST + 1)
    )
    text = to_text(HoldFile("x" * 36, MOST, many))
    assert len(text.encode()) < LARGEST
    assert from_text(text).holds == many


def said(**changes: Any) -> dict[str, Any]:
    hold = {"number": 1, "taken_at": WALL, "seconds": 60.0, "why": "", "program": None}
    return {"boot": "b", "last": 1, "holds": [hold | changes]}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        to_text(HoldFile("b", 1, (Hold(1, WALL, 60.0),)))[:-20],
        "[" * 100_000,
        "null",
        "[]",
        "{}",
        json.dumps(said() | {"more": 1}),
        json.dumps(said() | {"last": 0}),
        json.dumps(said() | {"last": True}),
        json.dumps(said() | {"boot": None}),
        json.dumps(said() | {"holds": {}}),
        json.dumps(said() | {"holds": [1]}),
        json.dumps(said() | {"holds": 2 * said()["holds"]}),
        json.dumps(
            {"boot": "", "last": 999, "holds": [said()["holds"][0] | {"number": n} for n in range(1, 102)]}
        ),
        *(
            json.dumps(said(**{name: value}))
            for name, value in [
                ("number", 0),
                ("number", 1.0),
                ("number", True),
                ("number", 10**30),
                ("taken_at", None),
                ("taken_at", "now"),
                ("taken_at", 1e300),
                ("taken_at", float("nan")),
                ("seconds", None),
                ("seconds", 0),
                ("seconds", -1),
                ("seconds", LONGEST + 1),
                ("seconds", float("inf")),
                ("seconds", "60"),
                ("why", None),
                ("why", 201 * "x"),
                ("program", 7),
                ("program", {"pid": 7}),
                ("program", {"pid": 0, "started": 1, "name": ""}),
                ("program", {"pid": 7, "started": -1, "name": ""}),
                ("program", {"pid": 7, "started": 1, "name": None}),
                ("more", 1),
            ]
        ),
        '{"boot": "b", "last": 1' + "0" * 5000 + ', "holds": []}',
    ],
)
def test_anything_else_is_refused_in_a_line(content: str) -> None:
    with pytest.raises(ValueError, match=r"^.+$"):
        from_text(content)


def test_what_is_left_of_a_hold() -> None:
    hold = Hold(1, WALL, 60.0)
    assert [hold.left(WALL + passed) for passed in (0, 20, 60, 1e9)] == [60, 40, 0, 0]
    assert Hold(1, WALL, None, "", Program(7, 8, "x")).left(WALL + 1e9) is None


@given(times, lengths, times)
def test_no_clock_makes_a_hold_longer_than_it_was(taken_at: float, seconds: float, wall: float) -> None:
    hold = Hold(1, taken_at, seconds).counted_from(wall)
    left = hold.left(wall)
    assert left is not None
    assert 0 <= left <= seconds
    # Nor does the next start, by a clock that goes on as it should.
    after = hold.counted_from(wall + seconds).left(wall + seconds + 0.001 + wall * 1e-9)
    assert after == pytest.approx(0, abs=1.0)
