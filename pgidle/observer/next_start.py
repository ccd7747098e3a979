"""Whether Postgres would start again with what is on disk now: tried before each sleep, and when a file has changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgidle.base.record import replace
from pgidle.idle.start_result import Startable, StartResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.idle.start_result import StartQuestion
    from pgidle.observer.looks import Looks
    from pgidle.observer.results import StartTried
    from pgidle.system.log import Log

TRIED_FOR = 30.0
"""Seconds for which a result counts, unless a file changes."""


class NextStart:
    """The latest result, how old it is, and whether another is under way. Times are monotonic."""

    def __init__(
        self, question: StartQuestion, orders: Looks, log: Log, own_fault: Callable[[], str]
    ) -> None:
        """`own_fault` says why pgidle itself would not start, if a platform has to start it again; empty: it would."""
        self.result: StartResult | None = None
        self.is_being_tried = False
        self._question = question
        self._orders = orders
        self._log = log
        self._own_fault = own_fault
        self._tried_at = 0.0
        self._prepared = 0
        self._ticket = 0

    def begin(self) -> None:
        """Postgres has just started."""
        self.result = None

    def resume(self) -> None:
        """A trial that is under way no longer counts."""
        self.is_being_tried = False

    def void(self) -> None:
        """Something has changed: the last result no longer counts."""
        self._tried_at = 0.0

    def is_known(self, now: float) -> bool:
        """Whether there is a result that counts, good or bad."""
        return self.result is not None and now - self._tried_at < TRIED_FOR

    @property
    def is_impossible(self) -> bool:
        return self.result is not None and self.result.startable is Startable.NO

    def note_prepared(self, transactions: int) -> None:
        """The number of prepared transactions, each of which the next start must have room for."""
        if transactions != self._prepared:
            self._prepared = transactions
            self.void()

    def refuse(self, why: str) -> None:
        """Set the result without a trial: Postgres would not start again."""
        self.result, self._tried_at = StartResult(Startable.NO, why), time.monotonic()

    def try_it(self) -> None:
        """Begin a trial; its result is passed to `tried`."""
        self.void()
        self.is_being_tried = True
        self._ticket += 1
        self._orders.try_start(self._ticket, replace(self._question, prepared=self._prepared))

    def tried(self, message: StartTried) -> bool:
        """A trial has ended. Whether it was the latest one."""
        if message.ticket != self._ticket:
            return False
        self.is_being_tried = False
        result = message.result
        if result.startable is not Startable.NO and (fault := self._own_fault()):
            result = StartResult(Startable.NO, f"pgidle would not start: {fault}")
        self.result, self._tried_at = result, time.monotonic()
        match result.startable:
            case Startable.NO:
                text = f"Postgres could not start again, so it stays awake: {result.reason}"
                self._log.once("configuration", text)
            case Startable.UNKNOWN:
                text = f"cannot tell whether Postgres would start again: {result.reason}"
                self._log.once("configuration", text)
            case Startable.YES:
                self._log.forget("configuration")
        return True
