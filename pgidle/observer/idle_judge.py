"""When to look at Postgres, and what the looks add up to: idle, in use, or still idle with the gate shut.

The judge orders looks, has `policy` evaluate them, and reports its judgements to the supervisor. It lives in the
observer, and its memory ends with it: after that the idle clock starts anew.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgidle.base.record import replace
from pgidle.control.orders import Sleep
from pgidle.idle import awake_too_long, policy
from pgidle.idle.policy import AskedToSleep, is_near
from pgidle.idle.reasons import ReasonKind, slot_text
from pgidle.idle.snapshot import LookFailed, Snapshot
from pgidle.observer.messages import Judgement
from pgidle.observer.next_start import NextStart
from pgidle.observer.past_sleeps import PastSleeps
from pgidle.observer.poll_watch import PollWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pgidle.control.holds import Holds, Kept
    from pgidle.control.orders import Hold, Requested
    from pgidle.idle.policy import Look
    from pgidle.idle.reasons import Verdict
    from pgidle.idle.snapshot import Key
    from pgidle.idle.start_result import StartQuestion
    from pgidle.observer.journal_notes import JournalNotes
    from pgidle.observer.looks import Looks
    from pgidle.observer.results import Checkpointed, Looked, StartTried
    from pgidle.observer.timers import Timers
    from pgidle.settings.resolve import Settings
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir

LOOK_DEADLINE = 5.0
"""Seconds after which a look has failed."""

CHECKPOINT_TIMEOUT = 60.0
"""Seconds after which Postgres is put to sleep without waiting for the checkpoint any longer."""

SLOT_WORTH_A_LINE = 16 * 2**20
"""Bytes of WAL (one segment) that an inactive replication slot may retain before it is logged."""

DRAIN_POLL = 0.005
"""Seconds between two last looks while a forced sleep waits for clients that are still logging in."""

DRAIN_LIMIT = 2.0
"""Most seconds for which it waits for them."""


class Judge:
    """Judges one Postgres; call `begin` at every wake."""

    def __init__(
        self,
        settings: Settings,
        orders: Looks,
        holds: Holds,
        timers: Timers,
        log: Log,
        state_dir: StateDir,
        tell: Callable[[Judgement, str, float], None],
        next_start: StartQuestion,
        own_fault: Callable[[], str],
        notes: JournalNotes,
        counts: tuple[int, int] = (0, 0),
    ) -> None:
        """`orders` carries out looks, checkpoints and start trials; each is answered by a call of `looked`,
        `checkpointed` or `start_tried`. `tell` is called with each judgement, its reason, and the moment it is about
        (monotonic). `own_fault` says why pgidle itself would not start again. `counts`: the numbers of looks so far,
        and of those that failed."""
        self.settings = settings
        self.holds = holds
        self.verdict: Verdict | None = None
        self.looks, self.looks_failed = counts
        self.sessions: int | None = None
        self.past_sleeps = PastSleeps(settings, state_dir, log, notes)
        self._slots: dict[str, float] = {}
        self._orders = orders
        self._timers = timers
        self._log = log
        self._tell = tell
        self._notes = notes
        self._next_start = NextStart(next_start, orders, log, own_fault)
        self._memory = policy.begin(time.monotonic())
        self._ticket = 0
        self._is_confirming = False
        self._is_checkpointing = False
        self._checkpoint_since = 0.0
        self._requests: list[Requested] = []
        """Requests for a sleep that wait for an answer whether it comes."""
        self._keepers = awake_too_long.begin(time.monotonic())
        self.polls = PollWatch(log, notes)
        self._judged_at = 0.0
        """When the last look was taken before the gate was shut (monotonic)."""
        self._drain_since = 0.0
        self._last_look_at = 0.0
        """When the last look was ordered (monotonic): what it shows may be as old as that."""
        self._askers: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Postgres has become ready: start the clock, with the first look as a baseline."""
        self._memory = policy.begin(time.monotonic())
        self._keepers = awake_too_long.begin(time.monotonic())
        self.polls.begin()
        self.verdict = None
        self._next_start.begin()
        self._notes.begin()
        self.past_sleeps.ended()
        self.resume()

    def resume(self) -> None:
        """Postgres is awake (again): go on looking."""
        self.answer(False, "not put to sleep: a client arrived meanwhile")
        self._is_confirming = False
        self._is_checkpointing = False
        self._next_start.resume()
        self.look_now()

    def pause(self, why: str, *, granted: bool) -> None:
        """Stop looking at Postgres, and answer requests for a sleep: whether it comes."""
        self._ticket += 1
        self._timers.cancel("look")
        self._timers.cancel("drain")
        self._is_confirming = False
        self.answer(granted, why)
        self._tell_askers()

    def adopt(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self.settings = settings
        self.past_sleeps.adopt(settings)

    def look_now(self) -> None:
        """Order a look; one that is under way no longer counts."""
        self._timers.cancel("look")
        self._ticket += 1
        self._orders.look(self._ticket, LOOK_DEADLINE)

    def look_for(self, asker: Callable[[], None]) -> None:
        """Call back once there has been a look taken after this call."""
        self._askers.append(asker)
        if self._timers.is_set("look"):
            self.look_now()

    def confirm(self) -> None:
        """The gate is shut: look for the last time."""
        self._is_confirming = True
        self._drain_since = time.monotonic()
        self._ticket += 1
        self._timers.cancel("look")
        self._look_for_the_last_time()

    def asked_to_sleep(self, request: Requested) -> None:
        """Sleep now if nobody is active, or in any case if forced; the request is answered once that is decided."""
        self._requests.append(request)
        if self._is_confirming:
            return  # The last look is under way, and decides this too.
        if self._is_forced:
            self._checkpoint()
        else:
            self._next_start.void()
            self.look_now()

    @property
    def look(self) -> Snapshot | None:
        """The last look; None if it failed."""
        return self._memory.look

    @property
    def last_use(self) -> tuple[str, float] | None:
        """Who used Postgres last since it woke, and when (monotonic); None: nobody has."""
        memory = self._memory
        return None if memory.last_use == policy.NO_USE else (memory.last_use, memory.last_activity)

    @property
    def _is_forced(self) -> bool:
        return any(isinstance(one.order, Sleep) and one.order.force for one in self._requests)

    def answer(self, granted: bool, text: str) -> None:
        """Answer the requests for a sleep."""
        requests, self._requests = self._requests, []
        for request in requests:
            request.reply(granted, text)

    def wanted(self) -> None:
        """A wake was asked for: a use like any other, which overrides earlier orders to sleep."""
        self.answer(False, "not put to sleep: asked to wake meanwhile")
        now = time.monotonic()
        self._memory = policy.note_use(self._memory, now, "pgidle wake")
        self._keepers = awake_too_long.use(self._keepers, "pgidle wake", now, self.settings)
        if not self._is_confirming:
            self.look_now()

    def hold(self, order: Hold, by: str, kept: Kept) -> int:
        """Take a hold, which every look from now on respects; its number. Raises PgidleError."""
        number = self.holds.take(order.seconds, order.why, order.program, kept)
        self._notes.held(number, order, by)
        self.on_hold_changed()
        return number

    def release(self, name: str | None, by: str, kept: Kept) -> None:
        """End one hold, or all. Raises PgidleError."""
        self.holds.release(name, kept)
        self._notes.note("release", name=name, by=by)
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
            self._log.once(
                "watch", f"cannot see whether Postgres is in use, so it stays awake: {look.reason}"
            )
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
            # How long Postgres has been idle does not matter, only that it was not used since the look before.
            asked = AskedToSleep(now - self._judged_at if self._is_confirming else 0.0)
        before = self._memory
        verdict, self._memory = policy.evaluate(
            look,
            self.settings,
            before,
            now,
            leases=self.holds.leases,
            backoff=self.past_sleeps.backoff,
            start=self._next_start.result,
            asked=asked,
        )
        self.verdict = verdict
        self._notes.looked(look, verdict, before, self._memory)
        if isinstance(look, Snapshot):
            self._next_start.note_prepared(look.prepared_transactions)
            self._tell_keeper(look, verdict, now)
            self.polls.see(look, verdict, self.settings, self._passed_over, now)
        else:
            self.polls.doubt(now)
        self._tell_askers()
        if self._is_confirming:
            self._conclude(look, verdict)
        else:
            self._act_on(verdict, now)

    def _act_on(self, verdict: Verdict, now: float) -> None:
        """Checkpoint if Postgres is idle and would start again; else look again. Nothing is decided during a trial."""
        is_tried = self._next_start.is_known(now)
        if verdict.idle and is_tried:
            self._checkpoint()
            return
        # Try in time, so that the sleep need not wait for the result.
        is_due = verdict.idle or is_near(verdict, now) or self._next_start.is_impossible
        if is_due and not is_tried and not self._next_start.is_being_tried:
            self.try_start()
        if verdict.idle:
            self._disconnect()  # So as not to be in anybody's way during the trial.
        else:
            if self._requests and not self._is_forced and not self._next_start.is_being_tried:
                idle = (ReasonKind.CLOCK, ReasonKind.NOTE)
                awake = "; ".join(str(one) for one in verdict.reasons if one.kind not in idle)
                self.answer(False, f"not put to sleep: {awake} (pgidle sleep --force overrides this)")
            self._timers.after(self.polls.next_look(now, verdict.next_look), "look", self.look_now)
            if not is_near(verdict, now):
                self._disconnect()

    def try_start(self) -> None:
        """A file has changed: try whether Postgres would start with it."""
        self._next_start.try_it()

    def start_tried(self, message: StartTried) -> None:
        """A start trial has ended."""
        if self._next_start.tried(message) and not (self._is_checkpointing or self._is_confirming):
            self.look_now()

    def checkpointed(self, message: Checkpointed) -> None:
        """The checkpoint before a sleep has ended. Without one a shutdown only takes longer, unless Postgres cannot
        checkpoint at all."""
        is_impossible = message.is_impossible and not self._is_forced
        if message.error is None:
            self._log.forget("checkpoint")
        elif is_impossible:
            text = f"Postgres cannot checkpoint, so it stays awake: {message.error} (see its own log)"
            self._log.once("checkpoint", text)
        else:
            self._log.once("checkpoint", f"no checkpoint before sleep: {message.error}")
        if not self._is_checkpointing:
            return
        self._is_checkpointing = False
        self._notes.checkpointed(time.monotonic() - self._checkpoint_since)
        if is_impossible:
            self._next_start.refuse(f"cannot checkpoint: {message.error}")
            self.look_now()
        else:
            self._tell(Judgement.IDLE, self._summary(), time.monotonic())

    def _tell_askers(self) -> None:
        askers, self._askers = self._askers, []
        for asker in askers:
            asker()

    def _tell_keeper(self, look: Snapshot, verdict: Verdict, now: float) -> None:
        """Log what has kept Postgres awake for a whole idle timeout, once."""
        settings = self.settings
        if settings.idle_timeout is not None:
            settings = replace(settings, idle_timeout=settings.idle_timeout + self.past_sleeps.backoff.extra)
        self._keepers, line = awake_too_long.note(
            *(self._keepers, look, verdict.reasons, settings, now), passed_over=self._passed_over
        )
        if line:
            self._log.note("awake", line)

    @property
    def _passed_over(self) -> Collection[Key]:
        """Sessions whose use, since the look before, does not count."""
        return self._memory.baseline.passed_over if self._memory.baseline is not None else ()

    def _warn_of_slots(self, look: Snapshot) -> None:
        """An inactive slot fills the disk: log it, and again whenever the WAL it retains has doubled."""
        self._slots = {slot.name: self._slots.get(slot.name, SLOT_WORTH_A_LINE / 2) for slot in look.slots}
        for slot in look.slots:
            if slot.held_back >= 2 * self._slots[slot.name]:
                self._slots[slot.name] = slot.held_back
                self._log.note("replication", f"{slot_text(slot)}; ends {policy.SLOT_ENDS}")

    def _checkpoint(self) -> None:
        if not self._is_checkpointing:
            self._is_checkpointing = True
            self._checkpoint_since = time.monotonic()
            self._orders.checkpoint(CHECKPOINT_TIMEOUT)

    def _conclude(self, look: Look, verdict: Verdict) -> None:
        if not self._is_forced:
            if verdict.idle:
                self._confirm()
            else:
                self._tell(Judgement.USED, "; ".join(map(str, verdict.reasons)), self._last_look_at)
        elif isinstance(look, Snapshot) and look.has_arrivals and self._may_drain():
            # Force cuts sessions, but not clients that are still logging in: that takes only milliseconds.
            self._timers.after(DRAIN_POLL, "drain", self._look_for_the_last_time)
        else:
            self._confirm()

    def _disconnect(self) -> None:
        # The last look, which follows the checkpoint, cannot connect again.
        if not self._is_checkpointing:
            self._orders.disconnect()

    def _look_for_the_last_time(self) -> None:
        self._last_look_at = time.monotonic()
        self._orders.look(self._ticket, LOOK_DEADLINE, may_connect=False)

    def _confirm(self) -> None:
        """Nobody uses Postgres: confirm it, unless a changed file is still on trial."""
        if self._next_start.is_being_tried and not self._is_forced:
            self._tell(Judgement.USED, "a file that Postgres starts with has changed", self._last_look_at)
        else:
            self._notes.confirmed(self._memory, time.monotonic())
            self._tell(Judgement.CONFIRMED, self._summary(), self._last_look_at)

    def _may_drain(self) -> bool:
        return time.monotonic() - self._drain_since < DRAIN_LIMIT

    def _summary(self) -> str:
        """Why Postgres sleeps, in one line."""
        if self._requests:
            return "asked to sleep" + (" (forced)" if self._is_forced else "")
        clocks = [
            reason
            for reason in (self.verdict.reasons if self.verdict else ())
            if reason.kind is ReasonKind.CLOCK
        ]
        return "; ".join(map(str, clocks)) or "idle"
