"""What is said about the supervisor: to programs and to people."""

from __future__ import annotations

import json
from math import inf

import pytest

from harness.answering import make_report
from pgidle.cli.status_table import as_table
from pgidle.control.status import Memory, as_dict
from pgidle.idle.flapping import LastSleep
from pgidle.idle.policy import Lease
from pgidle.idle.polls import Findings, Poll
from pgidle.idle.reasons import Reason, ReasonKind, Signal
from pgidle.lifecycle.transitions import State

NOW, WALL = 1000.0, 1_795_390_801.5
MEMORY = Memory(12 * 2**20, 30 * 2**20, 96 * 2**20)
BUSY = Reason(ReasonKind.ACTIVITY, Signal.SESSION_STATE, "session 7 is active", "when its query ends")
HELD = Reason(ReasonKind.BLOCKER, Signal.LEASE, "held")


def test_programs_get_everything() -> None:
    report = make_report(
        since=NOW - 90,
        started=NOW - 100,
        sleeps_at=NOW + 30,
        reasons=(BUSY, HELD),
        leases=(Lease(NOW + 60, "backup", "3"), Lease(NOW, "over", "4"), Lease(inf, "", "5", "sh (pid 7)")),
        postmaster_pid=42,
        sessions=3,
        last_sleep=LastSleep("idle for 5min", WALL - 3600, 0.0146),
    )
    said = json.loads(json.dumps(as_dict(report, NOW, WALL, MEMORY)))
    assert said["state"] == "awake"
    assert said["since"] == WALL - 90
    assert (said["seconds_in_state"], said["uptime"], said["sleeps_in"]) == (90, 100, 30)
    assert said["reasons"] == [
        {
            "kind": "activity",
            "signal": "session_state",
            "text": "session 7 is active",
            "ends": "when its query ends",
        },
        {"kind": "blocker", "signal": "lease", "text": "held", "ends": ""},
    ]
    assert said["leases"] == [
        {"name": "3", "ends_in": 60, "why": "backup", "program": None},
        {"name": "5", "ends_in": None, "why": "", "program": "sh (pid 7)"},
    ]
    assert said["last_sleep"] == {"why": "idle for 5min", "at": WALL - 3600, "seconds": 0.0146}
    assert "idle for 5min; the shutdown took 15 ms\n" in as_table(said)
    assert said["memory"] == {"supervisor": 12 * 2**20, "observer": 30 * 2**20, "postgres": 96 * 2**20}


def test_a_sleep_that_is_due_is_not_in_the_past() -> None:
    report = make_report(sleeps_at=NOW - 5)
    assert as_dict(report, NOW, WALL, MEMORY)["sleeps_in"] == 0


@pytest.mark.parametrize("state", list(State))
def test_people_get_a_table_in_every_state(state: State) -> None:
    report = make_report(state=state, since=NOW - 90, started=NOW - 100, initialising=True)
    table = as_table(as_dict(report, NOW, WALL, Memory(1, 1, None)))
    first = f"state       {state.noun}, initialising the data directory for 1min 30s, since 2026-11-22 "
    assert table.startswith(first)
    assert "\x1b" in as_table(as_dict(report, NOW, WALL, Memory(1, 1, None)), colour=True)


def test_the_table_names_every_reason_on_a_line_of_its_own() -> None:
    mean = Reason(ReasonKind.BLOCKER, Signal.LISTENER, 'app "x\n\x1b[2J"')
    leases = (
        Lease(NOW + 60, "backup", "3"),
        Lease(NOW + 60, "", "4", "sh (pid 7)"),
        Lease(inf, "", "5", "x"),
    )
    report = make_report(reasons=(BUSY, mean), leases=leases, postmaster_pid=42, sessions=3)
    table = as_table(as_dict(report, NOW, WALL, MEMORY))
    assert "reasons     activity: session 7 is active; ends when its query ends\n" in table
    assert '\n            blocker: app "x??[2J"\n' in table
    assert "held        3: for another 1min: backup\n" in table
    assert "\n            4: for another 1min, while sh (pid 7) runs\n            5: while x runs\n" in table
    assert "listens     0.0.0.0:5432, [::]:5432\n" in table
    assert "Postgres    postmaster 42, 96.0 MB\n" in table
    assert "clients     0 parked, 3 sessions\n" in table
    alone = as_table(as_dict(make_report(sessions=1), NOW, WALL, MEMORY))
    assert "clients     0 parked, 1 session\n" in alone
    assert "sleeps in   not foreseeable\n" in table
    asleep = as_table(as_dict(make_report(state=State.ASLEEP), NOW, WALL, MEMORY))
    assert "clients     0 parked\n" in asleep
    assert "so far      wakes: 2, sleeps: 1, crashes: 0, looks: 7, looks failed: 0\n" in table


POLLS = (
    Poll('app "web"', "SELECT 1", 30.0, NOW - 600),
    Poll('app "web"', "SELECT 2", 5.0, NOW - 60, sessions=2),
    Poll("", "", 10.0, NOW - 60),
)


def test_polls_are_named_and_what_they_cost() -> None:
    report = make_report(polls=Findings(POLLS, 3000.0, 3600.0))
    said = as_dict(report, NOW, WALL, MEMORY, with_statements=True)
    table = as_table(said)
    assert (
        'polls       app "web" asks SELECT 1 every 30s; turn it off in the client, or let it not count'
        in table
    )
    assert '            app "web" asks SELECT 2 every 5s in each of 2 sessions; turn it off in' in table
    assert (
        "            somebody connects every 10s, for too short a time to be seen; log_connections = on"
        in table
    )
    assert "without these polls this database would have slept 50min of the last 1h\n" in table
    assert said["polls"][0]["since"] == WALL - 600


def test_who_may_not_know_statements_learns_of_none() -> None:
    said = as_dict(make_report(polls=Findings(POLLS, 0.0, 3600.0)), NOW, WALL, MEMORY)
    assert "SELECT" not in json.dumps(said)
    assert 'app "web" is used every 30s' in as_table(said)
    assert "would have slept" not in as_table(said)
