"""Which result of a start trial counts: that of the latest trial, for as long as nothing has changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from pgidle.idle.start_result import Startable, StartQuestion, StartResult
from pgidle.observer.next_start import TRIED_FOR, NextStart
from pgidle.observer.results import StartTried
from pgidle.settings.options import LogFormat
from pgidle.system.log import Log

if TYPE_CHECKING:
    from pgidle.observer.looks import Looks

YES, NO = StartResult(Startable.YES), StartResult(Startable.NO, "no room")


class Trials:
    """Takes the requests, and lets the test answer them when it likes."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, StartQuestion]] = []

    def try_start(self, ticket: int, question: StartQuestion) -> None:
        self.asked.append((ticket, question))


def begun() -> tuple[NextStart, Trials]:
    trials = Trials()
    question = StartQuestion(("postgres",), 18, "/data", "/state", {})
    return NextStart(question, cast("Looks", trials), Log(LogFormat.TEXT), lambda: ""), trials


def test_a_trial_that_a_later_one_has_overtaken_does_not_count() -> None:
    start, trials = begun()
    start.try_it()
    start.try_it()
    (first, _), (second, _) = trials.asked
    assert not start.tried(StartTried(first, YES))
    assert start.is_being_tried
    assert not start.is_known(time.monotonic())
    assert start.tried(StartTried(second, NO))
    assert start.is_known(time.monotonic())
    assert start.is_impossible


def test_a_result_counts_until_something_changes_and_for_a_while() -> None:
    start, trials = begun()
    start.try_it()
    assert start.tried(StartTried(trials.asked[0][0], YES))
    now = time.monotonic()
    assert start.is_known(now)
    assert not start.is_known(now + TRIED_FOR)
    start.note_prepared(0)
    assert start.is_known(now)
    start.note_prepared(2)
    assert not start.is_known(now)
    start.try_it()
    assert trials.asked[-1][1].prepared == 2
