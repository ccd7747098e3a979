"""What the supervisor and its observer know, gathered into a `Report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.control.status import Report
from pgidle.idle.polls import NO_FINDINGS
from pgidle.lifecycle.transitions import State
from pgidle.postgres.conninfo import harmless
from pgidle.settings.resolve import describe

if TYPE_CHECKING:
    from pgidle.observer.idle_judge import Judge
    from pgidle.observer.messages import Situation
    from pgidle.run.runtime import Runtime


def make_report(
    situation: Situation, judge: Judge, runtime: Runtime, supervisor_pid: int, version: str
) -> Report:
    """The report for a situation. `version`: the supervisor's."""
    # A verdict only applies while Postgres runs.
    verdict = judge.verdict if situation.state in (State.AWAKE, State.DROWSY) else None
    return Report(
        state=situation.state,
        since=situation.since,
        why=situation.why,
        reasons=verdict.reasons if verdict is not None else (),
        sleeps_at=verdict.sleeps_at if verdict is not None else None,
        gate_mode=runtime.gate.mode.value,
        gate_why=runtime.gate_why,
        parked=situation.parked,
        sessions=judge.sessions,
        leases=judge.holds.leases,
        data_dir=runtime.settings.data_dir,
        listen=runtime.gate.hosts,
        port=runtime.settings.port,
        supervisor_pid=supervisor_pid,
        postmaster_pid=situation.postmaster_pid,
        initialising=situation.is_initialising,
        started=situation.started,
        wakes=situation.wakes,
        sleeps=situation.sleeps,
        crashes=situation.crashes,
        looks=judge.looks,
        looks_failed=judge.looks_failed,
        last_sleep=judge.past_sleeps.last,
        failed_start=situation.failed_start,
        resident=situation.resident,
        polls=judge.polls.findings if verdict is not None else NO_FINDINGS,
        settings=tuple(describe(judge.settings, harmless)),
        postgres_major=runtime.binaries.version_major,
        version=version,
        look=judge.look if verdict is not None else None,
        judged_by=judge.settings,
        last_use=judge.last_use if verdict is not None else None,
        woken_by=judge.past_sleeps.woken_by if verdict is not None else None,
    )
