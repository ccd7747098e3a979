"""A supervisor's status, as data for programs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pgidle.idle.polls import NO_FINDINGS, Findings

if TYPE_CHECKING:
    from pgidle.idle.flapping import LastSleep
    from pgidle.idle.policy import Lease
    from pgidle.idle.reasons import Reason
    from pgidle.idle.snapshot import Snapshot
    from pgidle.lifecycle.restarts import FailedStart
    from pgidle.lifecycle.transitions import State
    from pgidle.settings.resolve import Settings

NO_LOOK = "look=no"
"""The query of a request for the status as it was at the last look, rather than at one taken for it."""

MOST_LISTED = 100
"""Sessions that are listed; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything known about a supervisor at one moment. Times are monotonic, in seconds."""

    state: State
    since: float
    why: str
    reasons: tuple[Reason, ...]
    sleeps_at: float | None
    gate_mode: str
    gate_why: str
    parked: int
    sessions: int | None
    leases: tuple[Lease, ...]
    data_dir: str
    listen: tuple[str, ...]
    port: int
    supervisor_pid: int
    postmaster_pid: int | None
    initialising: bool
    started: float
    wakes: int
    sleeps: int
    crashes: int
    looks: int
    looks_failed: int
    last_sleep: LastSleep | None
    failed_start: FailedStart | None = None
    resident: int = 0
    """Bytes of the supervisor's resident memory."""
    polls: Findings = NO_FINDINGS
    """What asks in a rhythm, and how long Postgres would have slept without that."""
    settings: tuple[tuple[str, str], ...] = ()
    """The settings in force: names, and values as a person would write them."""
    postgres_major: int = 0
    version: str = ""
    """The supervisor's."""
    look: Snapshot | None = None
    judged_by: Settings | None = None
    """The last look at Postgres, and the settings that it was judged by."""
    last_use: tuple[str, float] | None = None
    """Who used Postgres last since it woke, and when."""
    woken_by: str | None = None
    """The client that came first after the last sleep, if a look has seen one."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes resident in the supervisor and in its observer, and taken by all of Postgres (None: it is not running)."""

    supervisor: int
    observer: int
    postgres: int | None


def as_dict(
    report: Report, now: float, wall: float, memory: Memory, *, with_statements: bool = False, waker: str = ""
) -> dict[str, Any]:
    """The report for programs. Durations are seconds, moments Unix time in seconds, memory bytes.

    `now` and `wall` are the monotonic and the wall clock at the same moment. `with_statements`: for those who may know
    what is asked. `waker`: who woke Postgres, where nobody has been seen to use it since.
    """
    from pgidle.control.sentence import sentence  # Like `sessions`, only once somebody asks.

    said = {
        "version": report.version,
        **_state(report, now, wall),
        "reasons": [
            {"kind": each.kind.value, "signal": each.signal.value, "text": each.text, "ends": each.ends}
            for each in report.reasons
        ],
        "leases": [_lease(lease, now) for lease in report.leases if lease.until > now],
        "gate": {"mode": report.gate_mode, "why": report.gate_why},
        **_polls(report, now, wall, with_statements),
        "parked": report.parked,
        "sessions": report.sessions,
        **_sessions(report, now),
        "last_use": {"by": used[0], "seconds_ago": max(0.0, now - used[1])}
        if (used := report.last_use) is not None
        else None,
        "woken_by": report.woken_by,
        "waker": waker or None,
        "data_dir": report.data_dir,
        "listen": list(report.listen),
        "port": report.port,
        "supervisor_pid": report.supervisor_pid,
        "postmaster_pid": report.postmaster_pid,
        "initialising": report.initialising,
        "uptime": now - report.started,
        "wakes": report.wakes,
        "sleeps": report.sleeps,
        "crashes": report.crashes,
        "looks": report.looks,
        "looks_failed": report.looks_failed,
        "last_sleep": asdict(report.last_sleep) if report.last_sleep is not None else None,
        "settings": dict(report.settings),
        "memory": asdict(memory),
    }
    return {"summary": sentence(said, wall), **said}


def _state(report: Report, now: float, wall: float) -> dict[str, Any]:
    """The state, why it holds, and what comes next."""
    failed = report.failed_start
    return {
        "state": report.state.noun,
        "state_number": report.state.value,
        "since": wall - (now - report.since),
        "seconds_in_state": now - report.since,
        "why": report.why,
        "failed_start": {
            "why": failed.why,
            "count": failed.count,
            "since": wall - (now - failed.since),
            "tried_again_in": seconds_until(failed.next_at, now),
        }
        if failed is not None
        else None,
        "sleeps_in": seconds_until(report.sleeps_at, now),
    }


def _lease(lease: Lease, now: float) -> dict[str, Any]:
    return {
        "name": lease.name,
        "ends_in": seconds_until(lease.until, now) if lease.until < math.inf else None,
        "why": lease.why,
        "program": lease.program or None,
    }


def _polls(report: Report, now: float, wall: float, with_statements: bool) -> dict[str, Any]:
    """The polls that were found, and how long Postgres would have slept without them."""
    found = report.polls
    if not found.polls:
        return {"polls": [], "without_polls": None}
    from pgidle.idle.poll_advice import advice

    polls = [
        {
            "text": poll.full_text if with_statements else poll.text,
            "client": poll.client or None,
            "statement": (poll.statement or None) if with_statements else None,
            "every": poll.every,
            "sessions": poll.sessions,
            "advice": advice(poll, report.judged_by, with_statement=with_statements),
            "since": wall - (now - poll.since),
        }
        for poll in found.polls
    ]
    without = {"slept": found.slept, "of": found.of, "text": found.consequence}
    return {"polls": polls, "without_polls": without}


def _sessions(report: Report, now: float) -> dict[str, Any]:
    """The sessions of the last look, and how many more there are; None: there is no look."""
    if report.look is None or report.judged_by is None:
        return {"sessions_seen": None, "sessions_left_out": 0}
    from pgidle.idle.sessions import sessions

    found = sessions(report.look, report.judged_by, report.polls)
    listed = [
        {
            "pid": one.pid,
            "client": one.client,
            "state": one.state,
            "seconds": max(0.0, now - one.since) if one.since is not None else None,
            "effect": one.effect.value,
            "text": one.text,
        }
        for one in found[:MOST_LISTED]
    ]
    return {"sessions_seen": listed, "sessions_left_out": len(found) - len(listed)}


def seconds_until(moment: float | None, now: float) -> float | None:
    return None if moment is None else max(0.0, moment - now)
