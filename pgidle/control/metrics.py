"""Metrics in Prometheus's text format: https://prometheus.io/docs/instrumenting/exposition_formats/"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pgidle.control.status import seconds_until
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from pgidle.control.status import Memory, Report


def as_metrics(report: Report, now: float, memory: Memory) -> str:
    """The report in Prometheus's text format. Unknown values are left out."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str, *samples: tuple[str, float | None]) -> None:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines.extend((f"# HELP pgidle_{name} {text}", f"# TYPE pgidle_{name} {kind}"))
            lines.extend(f"pgidle_{name}{labels} {value:.15g}" for labels, value in known)

    states = [(_labels(state=state.noun), float(state is report.state)) for state in State]
    family("state", "gauge", "1 for the current state.", *states)
    family("state_number", "gauge", "The state's stable number.", ("", report.state.value))
    family("seconds_in_state", "gauge", "Seconds since the state began.", ("", now - report.since))
    left = seconds_until(report.sleeps_at, now)
    family("sleep_in_seconds", "gauge", "Seconds until sleep, if nothing happens.", ("", left))
    reasons = Counter((reason.kind.value, reason.signal.value) for reason in report.reasons)
    counted = [(_labels(kind=kind, signal=signal), float(count)) for (kind, signal), count in reasons.items()]
    family("reasons", "gauge", "Reasons behind the last verdict.", *counted)
    polls = {
        poll.client or "unseen": poll.every
        for poll in sorted(report.polls.polls, key=lambda poll: -poll.every)
    }
    intervals = [(_labels(client=client), every) for client, every in polls.items()]
    family("poll_interval_seconds", "gauge", "How often a client asks in a rhythm.", *intervals)
    held = sum(lease.until > now for lease in report.leases)
    family("leases", "gauge", "Leases that keep Postgres awake.", ("", held))
    family("gate_info", "gauge", "The gate's mode.", (_labels(mode=report.gate_mode), 1))
    family("parked", "gauge", "Clients parked at the gate.", ("", report.parked))
    family("sessions", "gauge", "Sessions at the last look.", ("", report.sessions))
    family("wakes_total", "counter", "Times that Postgres woke.", ("", report.wakes))
    family("sleeps_total", "counter", "Times that Postgres was put to sleep.", ("", report.sleeps))
    family("crashes_total", "counter", "Times that the postmaster crashed.", ("", report.crashes))
    failed = report.failed_start
    family("failed_starts", "gauge", "Starts in a row that have failed.", ("", failed.count if failed else 0))
    family("looks_total", "counter", "Looks at Postgres.", ("", report.looks))
    family("looks_failed_total", "counter", "Looks that failed or were partial.", ("", report.looks_failed))
    family("uptime_seconds", "gauge", "Seconds since the supervisor started.", ("", now - report.started))
    sizes = [
        (_labels(of="supervisor"), memory.supervisor),
        (_labels(of="observer"), memory.observer),
        (_labels(of="postgres"), memory.postgres),
    ]
    family("memory_bytes", "gauge", "Resident memory.", *sizes)
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    pairs = []
    for name, value in labels.items():
        escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        pairs.append(f'{name}="{escaped}"')
    return "{" + ",".join(pairs) + "}"
