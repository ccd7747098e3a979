"""Metrics in Prometheus's text format: https://prometheus.io/docs/instrumenting/exposition_formats/

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters, moments instead of ages.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import TYPE_CHECKING

from pgidle.base.version import VERSION
from pgidle.history.tally import BOUNDS
from pgidle.history.timeline import Condition
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.control.status import Memory, Report
    from pgidle.history.tally import Histogram
    from pgidle.history.totals import Counted

CAUSES = ("client", "order", "hold", "start", "crash")
"""Of wakes: these are there from the beginning, as a counter that appears with its first count has no increase."""

STATES = {Condition.ASLEEP: State.ASLEEP, Condition.FAILING: State.FAILED}
"""The state that pgidle has left behind, if it is known."""

OWN_LABELS = frozenset(
    "version python postgres gate state process kind signal client condition cause le".split()
)
"""The names of every label below: another with such a name would make a sample that Prometheus rejects."""

HISTOGRAMS = ("wake_wait_seconds", "wake_duration_seconds", "shutdown_duration_seconds")


def of_running(report: Report, counted: Counted, memory: Memory, now: float, wall: float) -> str:
    """What a supervisor says of itself. `now` and `wall` are the monotonic and the wall clock at the same moment.
    Unknown values are left out."""
    text = _Text()

    def moment(monotonic: float | None) -> float | None:
        return None if monotonic is None else wall - now + monotonic

    text.family("up", "gauge", "Whether pgidle runs.", ("", 1))
    build = _labels(
        version=VERSION,
        python=".".join(map(str, sys.version_info[:3])),
        postgres=str(report.postgres_major),
        gate=report.gate_mode,
    )
    text.family("build_info", "gauge", "Versions, and the gate's mode.", (build, 1))
    text.family(
        "start_time_seconds", "gauge", "When pgidle started, in Unix time.", ("", moment(report.started))
    )
    _state(text, report.state)
    text.family(
        "state_change_timestamp_seconds",
        "gauge",
        "When the state was entered, in Unix time.",
        ("", moment(report.since)),
    )
    text.family(
        "next_sleep_timestamp_seconds",
        "gauge",
        "When Postgres is put to sleep if nobody uses it until then, in Unix time.",
        ("", moment(report.sleeps_at)),
    )
    _reasons(text, report)
    ends = [lease.until for lease in report.leases if lease.until > now]
    text.family("holds", "gauge", "Holds in force.", ("", len(ends)))
    text.family(
        "hold_end_timestamp_seconds",
        "gauge",
        "When the last of the holds in force ends, in Unix time.",
        ("", moment(max(ends, default=None))),
    )
    text.family("parked_clients", "gauge", "Clients that wait until Postgres is ready.", ("", report.parked))
    text.family("sessions", "gauge", "Sessions at the last look.", ("", report.sessions))
    failed = report.failed_start
    text.family(
        "consecutive_start_failures",
        "gauge",
        "Starts in a row that have failed.",
        ("", failed.count if failed is not None else 0),
    )
    text.family("looks_total", "counter", "Looks at Postgres since pgidle started.", ("", report.looks))
    text.family(
        "look_failures_total",
        "counter",
        "Looks at Postgres since pgidle started that failed.",
        ("", report.looks_failed),
    )
    _memory(text, memory)
    _counters(text, counted)
    return text.content()


def _memory(text: _Text, memory: Memory) -> None:
    text.family(
        "resident_memory_bytes",
        "gauge",
        "Memory of pgidle's processes, and of all of Postgres's.",
        (_labels(process="supervisor"), memory.supervisor),
        (_labels(process="observer"), memory.observer),
        (_labels(process="postgres"), memory.postgres),
    )


def _reasons(text: _Text, report: Report) -> None:
    """What keeps Postgres awake."""
    reasons = Counter((reason.kind.value, reason.signal.value) for reason in report.reasons)
    counts = [(_labels(kind=kind, signal=signal), float(count)) for (kind, signal), count in reasons.items()]
    text.family("reasons", "gauge", "What keeps Postgres awake, as the last look found it.", *counts)
    polls = {
        poll.client or "unseen": poll.every
        for poll in sorted(report.polls.polls, key=lambda poll: -poll.every)
    }
    intervals = [(_labels(client=client), every) for client, every in polls.items()]
    text.family("poll_interval_seconds", "gauge", "How often a client asks in a rhythm.", *intervals)


def of_none(counted: Counted) -> str:
    """What is known while no supervisor runs."""
    text = _Text()
    text.family("up", "gauge", "Whether pgidle runs.", ("", 0))
    _state(text, STATES.get(counted.lasting) if counted.lasting is not None else None)
    _counters(text, counted)
    return text.content()


class _Text:
    """Families of metrics, each with its name (without the prefix), type and help."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, *samples: tuple[str, float | None]) -> None:
        """Samples are labels and values; unknown ones are left out."""
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            self._head(name, kind, text)
            self._lines.extend(f"pgidle_{name}{labels} {_value(value)}" for labels, value in known)

    def histogram(self, name: str, text: str, one: Histogram) -> None:
        self._head(name, "histogram", text)
        total = 0
        for bound, count in zip((*BOUNDS, math.inf), one.buckets, strict=True):
            total += count
            self._lines.append(f"pgidle_{name}_bucket{_labels(le=_value(bound))} {total}")
        self._lines.append(f"pgidle_{name}_sum {_value(one.total)}")
        self._lines.append(f"pgidle_{name}_count {total}")

    def content(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _head(self, name: str, kind: str, text: str) -> None:
        self._lines.extend((f"# HELP pgidle_{name} {text}", f"# TYPE pgidle_{name} {kind}"))


def _state(text: _Text, now: State | None) -> None:
    states = [(_labels(state=state.noun), float(state is now)) for state in State]
    text.family("state", "gauge", "1 for the current state.", *states)
    number = float(now.value) if now is not None else None
    text.family("state_number", "gauge", "The current state's number.", ("", number))


def _counters(text: _Text, counted: Counted) -> None:
    """What is counted over all runs, from the journal."""
    tally = counted.tally
    text.family(
        "condition_seconds_total",
        "counter",
        "Time that Postgres has spent in each condition.",
        *((_labels(condition=one.value), counted.seconds.get(one, 0.0)) for one in Condition),
    )
    causes = dict.fromkeys((*CAUSES, *sorted(tally.wakes)))
    text.family(
        "wakes_total",
        "counter",
        "Times that Postgres was started, by what caused it.",
        *((_labels(cause=cause), float(tally.wakes[cause])) for cause in causes),
    )
    text.family("sleeps_total", "counter", "Times that Postgres was put to sleep.", ("", tally.sleeps))
    text.family("crashes_total", "counter", "Times that Postgres crashed.", ("", tally.crashes))
    text.family(
        "start_failures_total",
        "counter",
        "Times that Postgres did not start; retries that fail in the same way are counted once.",
        ("", tally.failed_starts),
    )
    text.family(
        "sessions_cut_total",
        "counter",
        "Idle sessions that sleeps have disconnected.",
        ("", tally.sessions_cut),
    )
    for name, what, one in zip(
        HISTOGRAMS,
        (
            "How long the first client of each wake waited.",
            "From the cause of each wake to ready.",
            "How long the shutdown before each sleep took.",
        ),
        (tally.wait, tally.took, tally.shutdown),
        strict=True,
    ):
        text.histogram(name, what, one)
    for name, what, at in (
        ("last_wake_timestamp_seconds", "When Postgres was last ready after a start", tally.last_wake),
        ("last_sleep_timestamp_seconds", "When Postgres was last put to sleep", tally.last_sleep),
    ):
        text.family(name, "gauge", f"{what}, in Unix time.", ("", at or None))


def _value(value: float) -> str:
    """A number; whole milliseconds are enough for every duration and moment."""
    return "+Inf" if value == math.inf else f"{round(value, 3):.15g}"


def _labels(**labels: str) -> str:
    return f"{{{label_text(labels)}}}"


def label_text(labels: Mapping[str, str]) -> str:
    """Labels as they stand between the braces."""
    pairs = []
    for name, value in labels.items():
        escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        pairs.append(f'{name}="{escaped}"')
    return ",".join(pairs)
