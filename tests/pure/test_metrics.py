"""What Prometheus is told: values, names, and that nothing names a metric that does not exist."""

from __future__ import annotations

import json
import re
from collections import Counter
from math import inf
from pathlib import Path

import pytest

from harness.answering import make_report
from pgidle.control.metrics import CAUSES, OWN_LABELS, of_none, of_running
from pgidle.control.status import Memory, Report
from pgidle.history.tally import Histogram, Tally
from pgidle.history.timeline import Condition
from pgidle.history.totals import Counted
from pgidle.idle.policy import Lease
from pgidle.idle.polls import Findings, Poll
from pgidle.idle.reasons import Reason, ReasonKind, Signal
from pgidle.lifecycle.restarts import FailedStart
from pgidle.lifecycle.transitions import State

TOP = Path(__file__).parents[2]
NOW, WALL = 1000.0, 1_795_390_801.5
MEMORY = Memory(12 * 2**20, 30 * 2**20, 96 * 2**20)
BUSY = Reason(ReasonKind.ACTIVITY, Signal.SESSION_STATE, "session 7 is active", "when its query ends")
HELD = Reason(ReasonKind.BLOCKER, Signal.LEASE, "held")
POLLS = Findings(
    (
        Poll('app "web"', "SELECT 1", 30.0, NOW - 600),
        Poll('app "web"', "SELECT 2", 5.0, NOW - 60, sessions=2),
        Poll("", "", 10.0, NOW - 60),
    ),
    0.0,
    1.0,
)
NOTHING = Counted(Tally(), {}, None)
SUFFIX = re.compile(r"_(?:bucket|sum|count)$")

# https://prometheus.io/docs/instrumenting/exposition_formats/
SAMPLE = re.compile(r'([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*\})? (\S+)')


def samples(text: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            found[sample[1].removeprefix("pgidle_") + (sample[2] or "")] = float(sample[3])
    return found


def running(report: Report, counted: Counted = NOTHING, memory: Memory = MEMORY) -> dict[str, float]:
    return samples(of_running(report, counted, memory, NOW, WALL))


def everything() -> str:
    """A text that has every metric."""
    report = make_report(
        sessions=3,
        sleeps_at=NOW + 30,
        reasons=(BUSY, HELD),
        leases=(Lease(NOW + 60, "", "3"),),
        postgres_major=15,
        polls=POLLS,
    )
    tally = Tally(last_wake=WALL - 60, last_sleep=WALL - 90)
    return of_running(report, Counted(tally, {}, None), MEMORY, NOW, WALL)


def names(text: str) -> set[str]:
    """Without the suffixes of histograms."""
    histograms = set(re.findall(r"^# TYPE (\S+) histogram$", text, re.MULTILINE))
    found = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}
    return {SUFFIX.sub("", name) if SUFFIX.sub("", name) in histograms else name for name in found}


def test_the_state_in_every_form() -> None:
    report = make_report(state=State.ASLEEP, since=NOW - 90, started=NOW - 100, parked=4, sessions=3)
    found = running(report)
    assert {name: value for name, value in found.items() if name.startswith("state{") and value} == {
        'state{state="asleep"}': 1
    }
    assert found["state_number"] == State.ASLEEP.value
    assert found["state_change_timestamp_seconds"] == WALL - 90
    assert found["start_time_seconds"] == WALL - 100
    assert (found["up"], found["parked_clients"], found["sessions"]) == (1, 4, 3)
    assert found['resident_memory_bytes{process="postgres"}'] == 96 * 2**20


def test_what_keeps_it_awake() -> None:
    leases = (Lease(NOW + 60, "backup", "3"), Lease(NOW, "over", "4"), Lease(NOW + 5, "", "5", "sh (pid 7)"))
    found = running(make_report(reasons=(BUSY, BUSY, HELD), leases=leases, sleeps_at=NOW + 300))
    assert found['reasons{kind="activity",signal="session_state"}'] == 2
    assert found['reasons{kind="blocker",signal="lease"}'] == 1
    assert (found["holds"], found["hold_end_timestamp_seconds"]) == (2, WALL + 60)
    assert found["next_sleep_timestamp_seconds"] == WALL + 300


def test_a_hold_of_a_program_has_no_end() -> None:
    report = make_report(leases=(Lease(inf, "", "5", "sh (pid 7)"), Lease(NOW + 60, "", "6")))
    text = of_running(report, NOTHING, MEMORY, NOW, WALL)
    assert "\npgidle_hold_end_timestamp_seconds +Inf\n" in text


def test_failed_starts_in_a_row() -> None:
    assert running(make_report())["consecutive_start_failures"] == 0
    failed = FailedStart("no space", 4, NOW - 60, NOW + 5)
    assert running(make_report(failed_start=failed))["consecutive_start_failures"] == 4


def test_what_is_not_known_is_no_metric() -> None:
    found = running(make_report(), memory=Memory(1, 1, None))
    assert (
        not {
            "next_sleep_timestamp_seconds",
            "sessions",
            "hold_end_timestamp_seconds",
            "last_wake_timestamp_seconds",
            "last_sleep_timestamp_seconds",
            'resident_memory_bytes{process="postgres"}',
        }
        & found.keys()
    )


def test_counters_are_there_before_they_count() -> None:
    """Prometheus sees no increase in a series that appears with its first count."""
    found = running(make_report())
    assert {name for name in found if name.startswith(("wakes_total", "condition_seconds"))} == {
        *(f'wakes_total{{cause="{cause}"}}' for cause in CAUSES),
        *(f'condition_seconds_total{{condition="{one.value}"}}' for one in Condition),
    }
    for name in ("sleeps_total", "crashes_total", "start_failures_total", "sessions_cut_total"):
        assert found[name] == 0
    assert found['wake_wait_seconds_bucket{le="+Inf"}'] == found["wake_wait_seconds_count"] == 0


def test_what_is_counted() -> None:
    wait = Histogram()
    for seconds in (0.05, 0.06, 70.0):
        wait.add(seconds)
    tally = Tally(
        wakes=Counter(client=3, later=1), sleeps=4, crashes=1, failed_starts=2, sessions_cut=9, wait=wait
    )
    found = running(make_report(), Counted(tally, {Condition.ASLEEP: 3600.0004}, Condition.AWAKE))
    assert found['wakes_total{cause="client"}'] == 3
    assert found['wakes_total{cause="later"}'] == 1, "of another version"
    assert [found[f"{name}_total"] for name in ("sleeps", "crashes", "start_failures", "sessions_cut")] == [
        *(4, 1, 2, 9),
    ]
    assert found['condition_seconds_total{condition="asleep"}'] == 3600
    buckets = {le: found[f'wake_wait_seconds_bucket{{le="{le}"}}'] for le in ("0.05", "0.1", "60", "+Inf")}
    assert buckets == {"0.05": 1, "0.1": 2, "60": 2, "+Inf": 3}
    assert found["wake_wait_seconds_sum"] == pytest.approx(70.11)
    assert found["wake_wait_seconds_count"] == 3


@pytest.mark.parametrize(
    ("lasting", "state"),
    [(Condition.ASLEEP, "asleep"), (Condition.FAILING, "failed"), (Condition.STOPPED, None), (None, None)],
)
def test_what_is_known_while_nothing_runs(lasting: Condition | None, state: str | None) -> None:
    found = samples(of_none(Counted(Tally(sleeps=4), {Condition.ASLEEP: 60.0}, lasting)))
    assert (found["up"], found["sleeps_total"]) == (0, 4)
    assert [name for name, value in found.items() if name.startswith("state{") and value] == (
        [f'state{{state="{state}"}}'] if state else []
    )
    assert found['condition_seconds_total{condition="asleep"}'] == 60
    assert "start_time_seconds" not in found


@pytest.mark.parametrize("text", [everything(), of_none(NOTHING)], ids=["running", "none"])
def test_every_metric_has_its_type_and_help(text: str) -> None:
    for word in ("HELP", "TYPE"):
        assert {line.split()[2] for line in text.splitlines() if line.startswith(f"# {word}")} == names(text)
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            assert line.endswith(" counter") == line.split()[2].endswith("_total")


def test_labels_may_have_any_character() -> None:
    assert 'gate="a\\"b\\\\c\\nd"' in of_running(
        make_report(gate_mode='a"b\\c\nd'), NOTHING, MEMORY, NOW, WALL
    )


def test_no_other_label_may_have_the_name_of_one_of_these() -> None:
    assert set(re.findall(r'[{,]([a-z]+)="', everything())) == OWN_LABELS


def test_every_metric_is_told() -> None:
    page = (TOP / "docs/monitoring.md").read_text(encoding="utf-8")
    table = page.partition("| metric |")[2].partition("\n\n")[0]
    told = [re.findall(r"`(pgidle_\w+)", line.split("|")[1]) for line in table.splitlines()[2:]]
    assert {name for line in told for name in line} == names(everything())


def dashboard_queries() -> list[str]:
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            found.extend(
                one for name, one in value.items() if name in ("expr", "query") and isinstance(one, str)
            )
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(json.loads((TOP / "contrib/grafana-dashboard.json").read_text(encoding="utf-8")))
    return [query for query in found if "pgidle" in query]


@pytest.mark.parametrize("where", ["dashboard", "alerts.yml", "alerts_test.yml"])
def test_queries_name_only_metrics_that_exist(where: str) -> None:
    if where == "dashboard":
        text = "\n".join(dashboard_queries())
    else:
        text = (TOP / "contrib" / where).read_text(encoding="utf-8")
    named = set(re.findall(r"\bpgidle_\w+", text))
    assert len(named) >= 5
    known = names(everything())
    histograms = set(re.findall(r"^# TYPE (\S+) histogram$", everything(), re.MULTILINE))
    assert named <= known | {
        f"{name}{suffix}" for name in histograms for suffix in ("_bucket", "_sum", "_count")
    }


def test_a_client_has_one_interval_however_many_polls() -> None:
    found = running(make_report(polls=POLLS))
    intervals = {name: value for name, value in found.items() if name.startswith("poll_interval_seconds")}
    assert intervals == {
        r'poll_interval_seconds{client="app \"web\""}': 5.0,
        'poll_interval_seconds{client="unseen"}': 10.0,
    }
