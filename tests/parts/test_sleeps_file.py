"""last.json as the observer reads it: whatever is in there, an observer that cannot start would never let Postgres
sleep again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pgidle.history.sleeps import History, load, remember, save
from pgidle.idle.flapping import Sleep
from pgidle.system.state_directory import LAST_SLEEP, StateDir

if TYPE_CHECKING:
    from pathlib import Path

SLEEP = {"asleep_at": 1.0, "woken_at": 2.0, "cut": ["a"], "woken_by": "a"}
NOT_TIMES = [10**400, -(10**400), 1e300, float("nan"), -1, True, "1", [1], {}]


@pytest.fixture
def state_dir(tmp_path: Path) -> StateDir:
    return StateDir(str(tmp_path / "state"))


def loaded(state_dir: StateDir, said: object) -> History:
    state_dir.keep(LAST_SLEEP, json.dumps(said))
    return load(state_dir)


def test_what_is_read_is_what_was_written(state_dir: StateDir) -> None:
    history = History("idle", (Sleep(1.0, 2.0, frozenset("ab"), None), Sleep(3.0, 0.0, frozenset())), 0.5)
    save(state_dir, history)
    assert load(state_dir) == history
    remember(state_dir, "asked", 9.0, 0.25)
    assert load(state_dir).why == "asked"


@pytest.mark.parametrize("name", ["asleep_at", "woken_at"])
@pytest.mark.parametrize("value", NOT_TIMES, ids=lambda value: repr(value)[:8])
def test_a_moment_that_is_none_makes_no_history(state_dir: StateDir, name: str, value: Any) -> None:
    assert loaded(state_dir, {"why": "x", "sleeps": [SLEEP | {name: value}]}) == History()


@pytest.mark.parametrize("value", NOT_TIMES, ids=lambda value: repr(value)[:8])
def test_a_duration_that_is_none_makes_no_history(state_dir: StateDir, value: Any) -> None:
    assert loaded(state_dir, {"why": "x", "seconds": value, "sleeps": [SLEEP]}) == History()


@pytest.mark.parametrize("value", [7, ["a"], {"a": 1}])
def test_a_client_that_is_no_text_makes_no_history(state_dir: StateDir, value: Any) -> None:
    assert loaded(state_dir, {"why": "x", "sleeps": [SLEEP | {"woken_by": value}]}) == History()
