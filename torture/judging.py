"""Which failures of clients are legitimate, and which exits: strictly, from what was done to Postgres and when."""

from __future__ import annotations

import enum
import signal
from typing import TYPE_CHECKING

from torture.record import Cuts, Doing

if TYPE_CHECKING:
    from torture.record import Allowance, Exit, Failure, Round, Window

LATE = 0.25
"""Seconds by which the client's clock of a session's idle time may be behind the server's."""

SLACK = 0.25
"""Seconds by which two observers of one event in this process may differ."""

LIMIT = 1.0
"""Seconds after a crash in which it must have been noticed, whatever else happens."""

AT_THE_GATE = 0.05
"""Seconds after pgidle's word for it, by which a newcomer is at the gate."""

LIMIT_PER_CRASH = 4
"""Connections begun after a crash that may be lost before it is noticed. Of those begun before, each client has one."""

REFUSED = ("Connection refused", "Connect call failed")
"""What libpq and asyncio say where nobody listens."""

UNCAUGHT = frozenset({-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT})
"""Exit statuses of whoever met such a signal before it had a handler: Python itself, still starting."""


class Ruling(enum.Enum):
    SLEPT = "was idle for the idle timeout"
    EXCUSED = "excused by the fault"
    IN_FLIGHT = "was connecting when Postgres was killed"
    LIMIT = "came in the milliseconds before that was noticed"
    VIOLATION = "violation"


def rule(failure: Failure, happened: Round) -> Ruling:
    """What a client's failure was."""
    at_work = [one for one in happened.windows if one.overlaps(failure.began - SLACK, failure.at)]
    if any(_is_answer(failure, one.allowance) for one in at_work):
        return Ruling.EXCUSED
    if failure.doing in (Doing.CONNECT, Doing.CANCEL):
        return _rule_connecting(failure, happened, at_work)
    if failure.doing is Doing.IDLE and failure.idle + LATE >= happened.idle_timeout:
        return Ruling.SLEPT
    return Ruling.EXCUSED if any(_may_cut(failure, one) for one in at_work) else Ruling.VIOLATION


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


def _rule_connecting(failure: Failure, happened: Round, at_work: list[Window]) -> Ruling:
    for gone in happened.exits:
        # The line that `listening` is known by comes later than the port: no slack there.
        is_away = gone.at - SLACK <= failure.at and failure.began <= gone.listening
        if is_away and _leaves_the_port(gone, happened) and excused(gone, happened):
            return Ruling.EXCUSED
    if failure.doing is Doing.CANCEL:
        if any(one.allowance.deaf or _may_cut(failure, one) for one in at_work):
            return Ruling.EXCUSED  # whom it was to cancel may be gone
    if any(word in failure.text for word in REFUSED):
        return Ruling.VIOLATION  # whoever dies, the gate listens
    for one in at_work:
        if one.parks_since is not None and failure.began > one.parks_since + AT_THE_GATE:
            continue
        if one.allowance.limit:
            felt = min(one.felt if one.felt is not None else float("inf"), one.began + LIMIT)
            if failure.began <= felt:
                return Ruling.IN_FLIGHT if failure.began <= one.began else Ruling.LIMIT
    return Ruling.VIOLATION


def _leaves_the_port(gone: Exit, happened: Round) -> bool:
    """Whether nobody may have held the port. A service manager keeps its socket, and only after a SIGKILL does a
    Postgres that nobody looks after have what comes to it."""
    return not happened.keeps_socket or gone.status == -signal.SIGKILL


def excused(gone: Exit, happened: Round) -> bool:
    """Whether a fault explains that the supervisor ended as it did."""
    return any(
        gone.status in one.allowance.exits and one.overlaps(gone.at - SLACK, gone.at)
        for one in happened.windows
    )


def judge_exit(gone: Exit, happened: Round) -> str | None:
    """What is wrong with the end of a supervisor, if anything is."""
    if gone.said and gone.status in UNCAUGHT:
        return f"ended by {signal.Signals(-gone.status).name}, which it had to catch: it had begun to speak"
    if gone.status == 0 and not gone.is_clean:
        return "exit status 0, and Postgres is not shut down cleanly"
    if excused(gone, happened):
        return None
    if gone.status == 0 and not happened.stays:
        return None
    if gone.status == 1 and gone.is_clean:
        return "exit status 1, though Postgres is shut down cleanly and nobody did anything to pgidle"
    return f"exit status {gone.status}, which nothing explains"


def judge(happened: Round) -> None:
    """Rule on every failure and exit; note the violations and the counts."""
    late = 0
    for gate in happened.gates - {happened.gate}:
        happened.violations.append(f"gate mode {gate.value}, where {happened.gate.value} was to be had")
    for failure in happened.tally.failures:
        ruling = rule(failure, happened)
        late += ruling is Ruling.LIMIT
        happened.slept += ruling is Ruling.SLEPT
        happened.excused += ruling is Ruling.EXCUSED
        happened.limits += ruling in (Ruling.IN_FLIGHT, Ruling.LIMIT)
        if ruling is Ruling.VIOLATION:
            happened.violations.append(
                f"{failure.who} failed, {failure.doing.value} (began {failure.began:.3f}, failed {failure.at:.3f}, "
                f"idle {failure.idle:.3f} s): {failure.text}"
            )
    crashes = sum(one.allowance.limit for one in happened.windows)
    if late > crashes * LIMIT_PER_CRASH:
        happened.violations.append(
            f"{late} connections begun after one of {crashes} crashes failed before it was noticed: too many"
        )
    for at, why in happened.crashes:
        if not any(one.allowance.crashes and one.overlaps(at - SLACK, at) for one in happened.windows):
            happened.violations.append(
                f"Postgres ended at {at:.3f}, and nobody had done anything to it: {why}"
            )
    for gone in happened.exits:
        if wrong := judge_exit(gone, happened):
            happened.violations.append(f"{wrong} (at {gone.at:.3f})")
