"""Which failures of clients and which exits are legitimate, judged strictly by what was done to Postgres and when.

Each excuse has a cause, and each cause a bound: what fails more often than it can have caused is a violation.
"""

from __future__ import annotations

import enum
import signal
from collections import Counter
from typing import TYPE_CHECKING

from pgidle.gate.gate import Mode
from torture.record import Cuts, Doing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.record import Allowance, Exit, Failure, Round, Window

LATE = 0.25
"""Seconds by which the client's clock of a session's idle time may be behind the server's."""

SLACK = 0.25
"""Seconds by which two observers of one event in this process may differ."""

LIMIT = 1.0
"""Seconds after a crash in which it must have been noticed, whatever else happens."""

AT_THE_GATE = 0.05
"""Seconds after pgidle's word for it, by which a newcomer is kept waiting."""

GAP = 30.0
"""Seconds after which somebody must listen again, if a fault has ended the supervisor."""

SESSIONS = {"pool": 3}
"""How many a client has at once, by its kind; else it has one."""

REFUSED = ("Connection refused", "Connect call failed", "No such file or directory")
"""What libpq and asyncio say where nobody listens."""

TURNED_AWAY = "the database system is"
"""How Postgres tells a client that it has come at the wrong time, whatever that is: starting up, in recovery mode,
shutting down, not yet accepting connections (SQLSTATE 57P03, of which libpq tells only the words)."""

UNCAUGHT = frozenset({-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT})
"""Exit statuses of whoever met such a signal before it had a handler: Python itself, still starting."""


class Ruling(enum.Enum):
    SLEPT = "sessions cut by a sleep that were idle for the idle timeout"
    BY_FAULT = "sessions and cancel requests that this fault excuses"
    ANSWERED = "that Postgres itself answered it cannot, for the reason that the fault gave it"
    AWAY = "refused, as there was no supervisor"
    IN_FLIGHT = "accepted, and not yet authenticated when Postgres was hit"
    LATE = "accepted after that, before anybody could know"
    VIOLATION = "violation"


EXCUSES = tuple(one for one in Ruling if one is not Ruling.VIOLATION)

Explained = tuple[Ruling, float]
"""What a failure was, and when that began which caused it."""

UNEXPLAINED = (Ruling.VIOLATION, 0.0)


def rule(failure: Failure, happened: Round) -> Ruling:
    """What a client's failure was, by itself."""
    return _explain(failure, happened)[0]


def _explain(failure: Failure, happened: Round) -> Explained:
    # An idle session may have been cut long before anybody noticed.
    since = failure.began - failure.idle - SLACK
    at_work = [one for one in happened.windows if one.overlaps(since, failure.at)]
    if TURNED_AWAY in failure.text:
        return UNEXPLAINED
    for one in at_work:
        if failure.began <= one.lifted and _is_answer(failure, one.allowance):
            return Ruling.ANSWERED, one.began
    if failure.doing in (Doing.CONNECT, Doing.CANCEL):
        return _explain_connecting(failure, happened, at_work)
    slept: list[float] = []
    if failure.doing is Doing.IDLE and failure.idle + LATE >= happened.idle_timeout:
        # A stop since its last reply, else a fault, else a stop that was said late: each has its own bound.
        slept = [stop for stop in happened.stops if since <= stop <= failure.at + SLACK]
        if slept and slept[-1] >= since + SLACK:
            return Ruling.SLEPT, slept[-1]
    by_fault = next(((Ruling.BY_FAULT, one.began) for one in at_work if _may_cut(failure, one)), None)
    return by_fault or ((Ruling.SLEPT, slept[-1]) if slept else UNEXPLAINED)


def _may_cut(failure: Failure, window: Window) -> bool:
    """Whether a fault may have cut this session. Who was idle when that was decided may be busy a moment later."""
    if window.allowance.cuts is Cuts.IDLE:
        return failure.doing is Doing.IDLE or failure.held >= window.began
    return window.allowance.cuts is Cuts.ALL


def _is_answer(failure: Failure, allowance: Allowance) -> bool:
    """Whether Postgres itself said that it cannot, for a reason that the fault gave it."""
    if failure.sqlstate is not None:
        return failure.sqlstate.startswith(allowance.errors)
    return any(word in failure.text for word in allowance.words)


def _explain_connecting(failure: Failure, happened: Round, at_work: list[Window]) -> Explained:
    for gone in happened.exits:
        if _is_away(gone, failure, happened):
            return Ruling.AWAY, gone.at
    if failure.doing is Doing.CANCEL:
        for one in at_work:
            if one.allowance.deaf or _may_cut(failure, one):
                return Ruling.BY_FAULT, one.began  # whom it was to cancel may be gone
    if _is_refusal(failure):
        return UNEXPLAINED  # whoever else dies, there is somebody who listens
    return next((found for one in at_work if (found := _accepted(failure, one, happened))), UNEXPLAINED)


def _accepted(failure: Failure, window: Window, happened: Round) -> Explained | None:
    """Whether Postgres may have accepted a connection before it was hit, or before it knew."""
    if window.parks_since is not None and failure.began > window.parks_since + AT_THE_GATE:
        return None
    for hit in _hits(window, happened) if window.allowance.in_flight else ():
        if failure.began <= hit and hit - SLACK <= failure.at:
            return Ruling.IN_FLIGHT, hit
    felt = min(window.felt if window.felt is not None else float("inf"), window.began + LIMIT)
    is_late = window.allowance.late and window.began < failure.began <= felt
    return (Ruling.LATE, window.began) if is_late else None


def _hits(window: Window, happened: Round) -> list[float]:
    """When Postgres was hit: at once, or when pgidle noticed what a fault had led to."""
    if window.allowance.crashes and window.felt is None:
        return [at for at, _ in happened.crashes if window.overlaps(at, at)]
    return [window.began]


def _is_refusal(failure: Failure) -> bool:
    return any(word in failure.text for word in REFUSED)


def _is_away(gone: Exit, failure: Failure, happened: Round) -> bool:
    """Whether nobody had to listen, after an exit. A service manager goes on; and without one nobody but a client over
    TCP starts a machine that has left in order. Only who did had nobody in its queues."""
    is_local = failure.who in happened.local
    # The lines that these are known by come later than the sockets: no slack there.
    back = gone.serving if is_local else gone.listening
    since = min(gone.at, gone.stopping) if is_local else gone.at
    if happened.keeps_socket or not (since - SLACK <= failure.at and failure.began <= back):
        return False
    sleeps = gone.status == 0 and not happened.stays and is_local
    return (sleeps or excused(gone, happened)) and (gone.status != 0 or _is_refusal(failure))


def excused(gone: Exit, happened: Round) -> bool:
    """Whether a fault explains that the supervisor ended as it did."""
    return any(
        gone.status in (one.allowance.exits | (frozenset() if happened.stays else one.allowance.gives_up))
        and one.overlaps(gone.at - SLACK, gone.at)
        for one in happened.windows
    )


def judge_exit(gone: Exit, happened: Round) -> str | None:
    """What is wrong with the end of a supervisor, if anything is."""
    if gone.said and gone.status in UNCAUGHT:
        return f"ended by {signal.Signals(-gone.status).name}, which it had to catch: it had begun to speak"
    if gone.status == 0 and not gone.is_clean:
        return "exit status 0, and Postgres is not shut down cleanly"
    if excused(gone, happened):
        late = gone.listening - gone.at
        return f"nobody listened for {late:.1f} s after it ended" if GAP < late < float("inf") else None
    if gone.status == 0 and not happened.stays:
        return None
    if gone.status == 1 and gone.is_clean:
        return "exit status 1, though Postgres is shut down cleanly and nobody did anything to pgidle"
    return f"exit status {gone.status}, which nothing explains"


def judge(happened: Round) -> None:
    """Rule on every failure and exit; note the violations and the counts."""
    happened.violations += [f"gate mode {mode.value}" for mode in happened.gates if mode is not Mode.SHARED]
    explained = [(failure, *_explain(failure, happened)) for failure in happened.tally.failures]
    happened.excuses = dict(
        Counter(ruling.name for _, ruling, _ in explained if ruling is not Ruling.VIOLATION)
    )
    for failure, ruling, _ in explained:
        if ruling is Ruling.VIOLATION:
            happened.violations.append(
                f"{failure.who} failed, {failure.doing.value} (began {failure.began:.3f}, failed {failure.at:.3f}, "
                f"idle {failure.idle:.3f} s): {failure.text}"
            )
    happened.violations += _too_many(explained, happened)
    for at, why in happened.crashes:
        if not any(one.allowance.crashes and one.overlaps(at - SLACK, at) for one in happened.windows):
            happened.violations.append(
                f"Postgres ended at {at:.3f}, and nobody had done anything to it: {why}"
            )
    for gone in happened.exits:
        if wrong := judge_exit(gone, happened):
            happened.violations.append(f"{wrong} (at {gone.at:.3f})")


def _too_many(explained: list[tuple[Failure, Ruling, float]], happened: Round) -> Iterator[str]:
    """Where more failed than one cause can have made fail. Who was refused or answered is bounded by time alone."""
    late = Counter(cause for _, ruling, cause in explained if ruling is Ruling.LATE)
    for cause, count in late.items():
        most = max(one.allowance.late for one in happened.windows if one.began == cause)
        if count > most:
            yield f"{count} connections begun after {cause:.3f} failed before that was noticed: {most} may"
    ends = {
        Ruling.SLEPT: len(happened.stops),
        Ruling.BY_FAULT: sum(_ends(one, happened) for one in happened.windows),
        Ruling.IN_FLIGHT: len({cause for _, ruling, cause in explained if ruling is Ruling.IN_FLIGHT}),
    }
    each = Counter((ruling, one.who, one.doing) for one, ruling, _ in explained if ruling in ends)
    for (ruling, who, doing), count in each.items():
        sessions = 1 if ruling is Ruling.IN_FLIGHT else SESSIONS.get(who.partition(" ")[0], 1)
        if count > (most := sessions * ends[ruling]):
            yield f"{who} failed {count} times, {doing.value} ({ruling.value}): {most} may"


def _ends(window: Window, happened: Round) -> int:
    """How often all sessions can have ended during a fault."""
    if window.allowance.cuts is Cuts.NONE:
        return int(window.allowance.deaf)
    times = [*happened.stops, *(at for at, _ in happened.crashes), *(gone.at for gone in happened.exits)]
    return max(1, sum(window.overlaps(at - SLACK, at) for at in times))
