"""The supervisor's knowledge of itself, gathered into a `Report`. Called from any thread: it only reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgidle.conninfo import harmless
from pgidle.lifecycle import State
from pgidle.settings import describe
from pgidle.status import Report

if TYPE_CHECKING:
    from pgidle.gate.gate import Gate
    from pgidle.supervisor import Supervisor


def make_report(supervisor: Supervisor) -> Report:
    """What holds at this moment."""
    house, judge, moment = supervisor.house, supervisor.judge, supervisor.moment
    # A verdict is about a Postgres that runs.
    verdict = judge.verdict if judge is not None and moment.state in (State.AWAKE, State.DROWSY) else None
    return Report(
        state=moment.state,
        since=moment.since,
        why=moment.why,
        reasons=verdict.reasons if verdict is not None else (),
        sleeps_at=verdict.sleeps_at if verdict is not None else None,
        gate_mode=house.gate.mode.value,
        gate_why=house.gate_why,
        parked=_parked(house.gate),
        sessions=judge.sessions if judge is not None else None,
        leases=judge.holds.leases if judge is not None else (),
        data_dir=house.settings.data_dir,
        listen=house.gate.hosts,
        port=house.settings.port,
        supervisor_pid=os.getpid(),
        postmaster_pid=supervisor.server.pid,
        initialising=supervisor.server.is_initialising,
        started=supervisor.started,
        wakes=supervisor.wakes,
        sleeps=supervisor.sleeps,
        crashes=supervisor.crashes,
        looks=judge.looks if judge is not None else 0,
        looks_failed=judge.looks_failed if judge is not None else 0,
        last_sleep=judge.last_sleep if judge is not None else None,
        failed_start=supervisor.failed_start,
        settings=tuple(describe(supervisor.settings, harmless)),
    )


def _parked(gate: Gate) -> int:
    try:
        return gate.parked()
    except OSError:
        return 0  # The supervisor closes it in this moment, or has: nobody waits there.
