"""A supervisor's status, as data for programs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgidle.idle.flapping import LastSleep
    from pgidle.idle.policy import Lease
    from pgidle.idle.reasons import Reason
    from pgidle.lifecycle.restarts import FailedStart
    from pgidle.lifecycle.transitions import State


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
    settings: tuple[tuple[str, str], ...] = ()
    """The settings in force: names, and values as a person would write them."""
    postgres_major: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes resident in the supervisor and in its observer, and taken by all of Postgres (None: it is not running)."""

    supervisor: int
    observer: int
    postgres: int | None


def as_dict(report: Report, now: float, wall: float, memory: Memory) -> dict[str, Any]:
    """The report for programs. Durations are seconds, moments Unix time in seconds, memory bytes.

    `now` and `wall` are the monotonic and the wall clock at the same moment.
    """
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
        if (failed := report.failed_start) is not None
        else None,
        "sleeps_in": seconds_until(report.sleeps_at, now),
        "reasons": [
            {"kind": each.kind.value, "signal": each.signal.value, "text": each.text, "ends": each.ends}
            for each in report.reasons
        ],
        "leases": [
            {
                "name": lease.name,
                "ends_in": seconds_until(lease.until, now) if lease.until < math.inf else None,
                "why": lease.why,
                "program": lease.program or None,
            }
            for lease in report.leases
            if lease.until > now
        ],
        "gate": {"mode": report.gate_mode, "why": report.gate_why},
        "parked": report.parked,
        "sessions": report.sessions,
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
        "memory": {
            "supervisor": memory.supervisor,
            "observer": memory.observer,
            "postgres": memory.postgres,
        },
    }


def seconds_until(moment: float | None, now: float) -> float | None:
    return None if moment is None else max(0.0, moment - now)
