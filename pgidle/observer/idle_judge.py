"""When to look at Postgres, and what the looks add up to: idle, not idle, and still idle with nobody let in.

The judge orders looks, has `policy` weigh them, and tells the supervisor what they add up to. It lives in the observer,
whose end is the end of what it remembers: then the idle clock begins anew.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgidle.control.orders import Sleep
from pgidle.idle import keeps_awake, policy
from pgidle.idle.policy import AskedToSleep, is_near
from pgidle.idle.reasons import ReasonKind, slot_text
from pgidle.idle.snapshot import LookFailed, Snapshot
from pgidle.observer.messages import Judgement
from pgidle.observer.next_start import NextStart
from pgidle.observer.past_sleeps import PastSleeps

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.control.holds import Holds, Kept
    from pgidle.control.orders import Hold, Requested
    from pgidle.idle.policy import Look
    from pgidle.idle.reasons import Verdict
    from pgidle.idle.start_result import StartQuestion
    from pgidle.observer.answers import Checkpointed, Looked, StartTried
    from pgidle.observer.looks import Looks
    from pgidle.observer.timers import Timers
    from pgidle.settings.settings import Settings
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir

LOOK_DEADLINE = 5.0
"""Seconds after which a look has failed."""

CHECKPOINT_TIMEOUT = 60.0
"""Seconds after which Postgres is put to sleep without a checkpoint of its own before."""

SLOT_WORTH_A_LINE = 16 * 2**20
"""Bytes of WAL (a segment) that an unused replication slot may hold back before the log says so."""

DRAIN_POLL = 0.005
"""Seconds between two last looks, where a sleep that is forced waits for those who have yet to get a session."""

DRAIN_LIMIT = 2.0
"""Seconds for which it waits for them."""


class Judge:
    """The verdicts on one Postgres; `begin` for every wake."""

    def __init__(
        self,
        settings: Settings,
        orders: Looks,
        holds: Holds,
        timers: Timers,
        log: Log,
        state_dir: StateDir,
        tell: Callable[[Judgement, str], None],
        next_start: StartQuestion,
        counts: tuple[int, int] = (0, 0),
    ) -> None:
        """`orders` carries out looks, checkpoints and trials; each is answered by a call of `looked`, `checkpointed` or
        `start_tried`. `tell` is told each judgement, and why. `counts`: of looks so far, and of those that failed."""
        self.settings = settings
        self.holds = holds
        self.verdict: Verdict | None = None
        self.looks, self.looks_failed = counts
        self.sessions: int | None = None
        self.past_sleeps = PastSleeps(settings, state_dir, log)
        self._slots: dict[str, float] = {}
        self._orders = orders
        self._timers = timers
        self._log = log
        self._tell = tell
        self._next_start = NextStart(next_start, orders, log)
        self._memory = policy.begin(time.monotonic())
        self._ticket = 0
        self._is_confirming = False
        self._is_checkpointing = False
        self._requests: list[Requested] = []
        """Who has asked for a sleep, and waits to be told whether it comes."""
        self._keepers = keeps_awake.begin(time.monotonic())
        self._judged_at = 0.0
        """When the last look was taken that the next sleep may be judged by (monotonic)."""
        self._drain_since = 0.0
        self._askers: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Postgres has become ready: the clock starts, and the first look is a baseline."""
        self._memory = policy.begin(time.monotonic())
        self._keepers = keeps_awake.begin(time.monotonic())
        self.verdict = None
        self._next_start.begin()
        self.past_sleeps.ended()
        self.resume()

    def resume(self) -> None:
        """Postgres is awake (again): go on looking."""
        self.answer(False, "not put to sleep: somebody came meanwhile")
        self._is_confirming = False
        self._is_checkpointing = False
        self._next_start.resume()
        self.look_now()

    def pause(self, why: str, *, granted: bool) -> None:
        """Postgres is not to be looked at any more; who asked for a sleep is told whether it comes."""
        self._ticket += 1
        self._timers.cancel("look")
        self._timers.cancel("drain")
        self._is_confirming = False
        self.answer(granted, why)
        self._tell_askers()

    def adopt(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        self.settings = settings
        self.past_sleeps.adopt(settings)

    def look_now(self) -> None:
        """Ask for a look; one that is under way no longer counts."""
        self._timers.cancel("look")
        self._ticket += 1
        self._orders.look(self._ticket, LOOK_DEADLINE)

    def look_for(self, asker: Callable[[], None]) -> None:
        """Call back when there has been a look that is no older than this question."""
        self._askers.append(asker)
        if self._timers.is_set("look"):
            self.look_now()

    def confirm(self) -> None:
        """Postgres accepts nobody any more: look for the last time."""
        self._is_confirming = True
        self._drain_since = time.monotonic()
        self._ticket += 1
        self._timers.cancel("look")
        self._look_for_the_last_time()

    def asked_to_sleep(self, request: Requested) -> None:
        """Sleep now if nobody is active, or at once if forced; the request is answered when that is known."""
        self._requests.append(request)
        if self._is_confirming:
            return  # The last look is under way, and decides it.
        if self._is_forced:
            self._checkpoint()
        else:
            self._next_start.void()
            self.look_now()

    @property
    def _is_forced(self) -> bool:
        return any(isinstance(one.order, Sleep) and one.order.force for one in self._requests)

    def answer(self, granted: bool, text: str) -> None:
        """Answer who waits for a sleep, if anybody does."""
        requests, self._requests = self._requests, []
        for request in requests:
            request.reply(granted, text)

    def wanted(self) -> None:
        """Somebody asked for a wake: a use like any other, and a later word than any order to sleep."""
        self.answer(False, "somebody asked for a wake meanwhile")
        now = time.monotonic()
        self._memory = policy.note_use(self._memory, now, "somebody asked for a wake")
        self._keepers = keeps_awake.use(self._keepers, "pgidle wake", now, self.settings)
        if not self._is_confirming:
            self.look_now()

    def hold(self, order: Hold, kept: Kept) -> int:
        """Take a hold, which any look respects from now on; its number. Raises PgidleError."""
        number = self.holds.take(order.seconds, order.why, order.program, kept)
        self.on_hold_changed()
        return number

    def release(self, name: str | None, kept: Kept) -> None:
        """End one hold, or every one. Raises PgidleError."""
        self.holds.release(name, kept)
        self.on_hold_changed()

    def on_hold_changed(self) -> None:
        if not self._is_confirming:
            self.look_now()

    def looked(self, message: Looked) -> None:
        """A look has ended."""
        if message.ticket != self._ticket:
            return
        look = message.look
        self.looks += 1
        if isinstance(look, LookFailed):
            self.looks_failed += 1
            self._log.once("watch", f"cannot see whether Postgres is used, so it stays awake: {look.reason}")
        else:
            self._log.forget("watch")
            if not self._is_confirming:
                self._judged_at = look.at
            self.sessions = len(look.clients)
            self.past_sleeps.seen(look, time.monotonic() - self._memory.awake_since)
            self._warn_of_slots(look)
        now = time.monotonic()
        asked = None
        if self._requests:
            # How long it has been idle does not matter; that nobody has come since it was judged does.
            asked = AskedToSleep(now - self._judged_at if self._is_confirming else 0.0)
        verdict, self._memory = policy.evaluate(
            look,
            self.settings,
            self._memory,
            now,
            leases=self.holds.leases,
            backoff=self.past_sleeps.backoff,
            start=self._next_start.result,
            asked=asked,
        )
        self.verdict = verdict
        if isinstance(look, Snapshot):
            self._next_start.note_prepared(look.prepared_transactions)
            self._tell_keeper(look, verdict, now)
        self._tell_askers()
        if self._is_confirming:
            self._conclude(look, verdict)
        else:
            self._act_on(verdict, now)

    def _act_on(self, verdict: Verdict, now: float) -> None:
        """Checkpoint, if it is idle and would start again; else look again. While that is tried nothing is decided."""
        is_tried = self._next_start.is_known(now)
        if verdict.idle and is_tried:
            self._checkpoint()
            return
        # In time for the sleep, which does not wait for it then.
        is_due = verdict.idle or is_near(verdict, now) or self._next_start.is_impossible
        if is_due and not is_tried and not self._next_start.is_being_tried:
            self.try_start()
        if verdict.idle:
            self._disconnect()  # In nobody's way while that is tried.
        else:
            if self._requests and not self._is_forced and not self._next_start.is_being_tried:
                idle = (ReasonKind.CLOCK, ReasonKind.NOTE)
                awake = "; ".join(str(one) for one in verdict.reasons if one.kind not in idle)
                self.answer(False, f"not put to sleep: {awake} (pgidle sleep --force does it all the same)")
            self._timers.after(verdict.next_look, "look", self.look_now)
            if not is_near(verdict, now):
                self._disconnect()

    def try_start(self) -> None:
        """A file has changed: find out whether Postgres would start with it."""
        self._next_start.try_it()

    def start_tried(self, message: StartTried) -> None:
        """It is known, or known not to be known, whether Postgres would start."""
        if self._next_start.tried(message) and not (self._is_checkpointing or self._is_confirming):
            self.look_now()

    def checkpointed(self, message: Checkpointed) -> None:
        """The checkpoint before a sleep has ended. Without it a shutdown only takes longer, unless it cannot be had."""
        is_impossible = message.is_impossible and not self._is_forced
        if message.error is None:
            self._log.forget("checkpoint")
        elif is_impossible:
            text = f"Postgres could not be shut down cleanly, so it stays awake: {message.error} (its own log says why)"
            self._log.once("checkpoint", text)
        else:
            self._log.once("checkpoint", f"no checkpoint before sleep: {message.error}")
        if not self._is_checkpointing:
            return
        self._is_checkpointing = False
        if is_impossible:
            self._next_start.refuse(f"a checkpoint fails: {message.error}")
            self.look_now()
        else:
            self._tell(Judgement.IDLE, self._summary())

    def _tell_askers(self) -> None:
        askers, self._askers = self._askers, []
        for asker in askers:
            asker()

    def _tell_keeper(self, look: Snapshot, verdict: Verdict, now: float) -> None:
        """Once it has kept Postgres awake for an idle timeout on end: that is why it did not sleep."""
        self._keepers, line = keeps_awake.note(self._keepers, look, verdict.reasons, self.settings, now)
        if line:
            self._log.note("awake", line)

    def _warn_of_slots(self, look: Snapshot) -> None:
        """A slot that nobody uses fills the disk: say so, and again whenever it has doubled."""
        self._slots = {slot.name: self._slots.get(slot.name, SLOT_WORTH_A_LINE / 2) for slot in look.slots}
        for slot in look.slots:
            if slot.held_back >= 2 * self._slots[slot.name]:
                self._slots[slot.name] = slot.held_back
                self._log.note("replication", f"{slot_text(slot)}; ends {policy.SLOT_ENDS}")

    def _checkpoint(self) -> None:
        if not self._is_checkpointing:
            self._is_checkpointing = True
            self._orders.checkpoint(CHECKPOINT_TIMEOUT)

    def _conclude(self, look: Look, verdict: Verdict) -> None:
        if not self._is_forced:
            if verdict.idle:
                self._confirm()
            else:
                self._tell(Judgement.USED, "; ".join(map(str, verdict.reasons)))
        elif isinstance(look, Snapshot) and look.has_arrivals and self._may_drain():
            # Force cuts sessions, but nobody who has yet to get one: it takes milliseconds.
            self._timers.after(DRAIN_POLL, "drain", self._look_for_the_last_time)
        else:
            self._confirm()

    def _disconnect(self) -> None:
        # The last look, after a checkpoint, cannot connect again.
        if not self._is_checkpointing:
            self._orders.disconnect()

    def _look_for_the_last_time(self) -> None:
        self._orders.look(self._ticket, LOOK_DEADLINE, may_connect=False)

    def _confirm(self) -> None:
        """Nobody uses Postgres; and it would start with what is there now?"""
        if self._next_start.is_being_tried and not self._is_forced:
            self._tell(Judgement.USED, "a file has changed that Postgres is started with")
        else:
            self._tell(Judgement.CONFIRMED, self._summary())

    def _may_drain(self) -> bool:
        return time.monotonic() - self._drain_since < DRAIN_LIMIT

    def _summary(self) -> str:
        """Why it sleeps, in a line."""
        if self._requests:
            return "asked to sleep" + (" (forced)" if self._is_forced else "")
        clocks = [
            reason
            for reason in (self.verdict.reasons if self.verdict else ())
            if reason.kind is ReasonKind.CLOCK
        ]
        return "; ".join(map(str, clocks)) or "nobody uses it"
