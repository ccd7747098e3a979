"""A journal that lacks an event which the log has is noticed, unless it tells that."""

from __future__ import annotations

from typing import Any

import pytest

from pgidle.history.events import Event, Kind
from torture.journal import untold

WOKEN, SLEPT, EXITED = Kind.WOKEN, Kind.SLEPT, Kind.EXITED
LOG = [
    ("awake", "starting"),
    ("drowsy", "awake"),
    ("awake", "drowsy"),
    ("asleep", "stopping"),
    ("awake", "starting"),
]


def log(pid: int = 7) -> list[dict[str, Any]]:
    return [{"pid": pid, "state": state, "from": before} for state, before in LOG]


def journal(*kinds: Kind, pid: int = 7, skip: int = 0) -> list[Event]:
    numbers = [number for number in range(1, len(kinds) + 3) if number != skip]
    return [
        Event(0.0, 0.0, 1, number, kind, {"pid": pid})
        for number, kind in zip(numbers, (Kind.STARTED, *kinds), strict=False)
    ]


@pytest.mark.parametrize(
    "kept",
    [
        journal(WOKEN, SLEPT, WOKEN, EXITED),
        journal(WOKEN, SLEPT, WOKEN),
        journal(WOKEN, SLEPT),
        journal(),
        journal(WOKEN, SLEPT, WOKEN, SLEPT, WOKEN, EXITED),
        journal(WOKEN, WOKEN, EXITED, skip=3),
        journal(WOKEN, pid=8),
        [],
    ],
    ids=[
        "all",
        "killed",
        "killed before the last line",
        "before any",
        "more than the log",
        "told",
        "another's",
        "none",
    ],
)
def test_what_is_all_there_or_told(kept: list[Event]) -> None:
    assert untold(log(), kept) == []


@pytest.mark.parametrize(
    "kept",
    [
        journal(WOKEN, SLEPT, EXITED),
        journal(WOKEN, WOKEN, EXITED),
        journal(SLEPT, WOKEN),
        journal(WOKEN, WOKEN),
    ],
    ids=[
        "the last",
        "one between",
        "the first, of one that was killed",
        "one between, of one that was killed",
    ],
)
def test_what_is_missing(kept: list[Event]) -> None:
    assert len(untold(log(), kept)) == 1
