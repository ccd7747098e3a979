"""What each session does to sleep: as the verdict has it."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from harness.answering import make_report
from harness.looks import SETTINGS, client, ignoring, quiet
from pgidle.base.record import replace as changed
from pgidle.cli.status_table import as_table
from pgidle.control.status import MOST_LISTED, Memory, as_dict
from pgidle.idle.blockers import replicates
from pgidle.idle.policy import begin, evaluate
from pgidle.idle.polls import Findings, Poll
from pgidle.idle.reasons import Signal, client_text
from pgidle.idle.sessions import Effect, sessions
from pgidle.settings.options import Counts, IgnoreField

if TYPE_CHECKING:
    from pgidle.idle.snapshot import Session
    from pgidle.settings.resolve import Settings

AT = 1e6
STATES = (
    "idle",
    "active",
    "idle in transaction",
    "idle in transaction (aborted)",
    "disabled",
    "starting",
    None,
)
SESSIONS = [
    *(client(state=state, state_age=7.0) for state in STATES),
    client(state_age=180.0, unread=True),
    client(listening=True),
    client(advisory_locks=2),
    client(listening=True, advisory_locks=1, state="active"),
    client(base_backup=True),
    client(backend_type=None, state=None),
    client(backend_type="walsender", state="active", walsender_state="streaming"),
    client(backend_type="walsender", state="active", walsender_state="backup", base_backup=True),
    client(backend_type="walreceiver", state=None),
    client(backend_type="logical replication apply worker", state=None, subscription="s"),
    client(backend_type="autovacuum worker", state="active"),
    client(backend_type="pg_cron launcher", state=None),
    client(backend_type="pg_cron", state="active"),
    client(backend_type="checkpointer", state=None, usename=None),
]
KEEPING = (Counts.KEEP, Counts.IGNORE)


@pytest.mark.parametrize(("keep", "idle"), list(product(KEEPING, KEEPING)))
@pytest.mark.parametrize("one", SESSIONS, ids=range(len(SESSIONS)))
def test_a_session_does_what_the_verdict_says_of_it(one: Session, keep: Counts, idle: Counts) -> None:
    settings = changed(SETTINGS, replication=keep, advisory_locks=keep, listeners=keep, idle_sessions=idle)
    verdict, memory = evaluate(quiet(AT, one), settings, begin(0.0), AT)
    keeping = {reason.signal for reason in verdict.reasons if reason.keeps}
    assert memory.look is not None
    effects = [seen.effect for seen in sessions(memory.look, settings)]
    assert (Effect.ACTIVE in effects) == (Signal.SESSION_STATE in keeping)
    assert (Effect.BLOCKS in effects) == bool(keeping and Signal.SESSION_STATE not in keeping)
    assert len(effects) == bool(one.is_client or replicates(one) or keeping)


def ignoring_web(settings: Settings) -> Settings:
    return changed(settings, ignore=ignoring(IgnoreField.APPLICATION_NAME, "web").ignore)


@pytest.mark.parametrize(
    ("one", "settings", "says"),
    [
        (client(state="active"), SETTINGS, "keeps Postgres awake until its query ends"),
        (client(), SETTINGS, "does not keep Postgres awake"),
        (
            client(listening=True, advisory_locks=1),
            SETTINGS,
            "is idle and holds an advisory lock and is idle and listening for notifications: sleep waits until it "
            "releases the lock or disconnects",
        ),
        (
            client(listening=True),
            SETTINGS,
            "is idle and listening for notifications: sleep waits; that ends with UNLISTEN *, or when it disconnects",
        ),
        (
            client(backend_type="walsender", walsender_state="streaming"),
            changed(SETTINGS, replication=Counts.IGNORE),
            "does not keep Postgres awake (setting replication)",
        ),
        (client(application_name="web"), ignoring_web(SETTINGS), "does not count (setting ignore)"),
    ],
)
def test_what_it_does_in_words(one: Session, settings: Settings, says: str) -> None:
    assert [seen.text for seen in sessions(quiet(AT, one), settings)] == [says]


def test_those_that_keep_it_awake_come_first_and_then_those_used_last() -> None:
    look = quiet(
        AT,
        client(1, state_age=500.0),
        client(2, state_age=5.0),
        client(3, state="active", state_age=1.0),
        client(4, listening=True, state_age=900.0),
        client(5, application_name="web"),
    )
    assert [seen.pid for seen in sessions(look, ignoring_web(SETTINGS))] == [3, 4, 2, 1, 5]


def test_a_poller_is_not_said_to_let_it_sleep() -> None:
    asking, other = client(1, statement="SELECT 1"), client(2, statement="SELECT now()")
    poll = Poll(client_text(asking), "SELECT 1", 30.0, AT - 900)
    look = quiet(AT, asking, other)
    polling, idle = sessions(look, SETTINGS, Findings((poll,), 600.0, 900.0))
    assert (polling.pid, polling.effect) == (1, Effect.POLLS)
    assert polling.text == "used every 30s, which keeps Postgres awake"
    assert (idle.pid, idle.effect) == (2, Effect.IDLE)
    assert {one.effect for one in sessions(look, SETTINGS, Findings((poll,)))} == {Effect.IDLE}
    (unread,) = sessions(quiet(AT, client(1)), SETTINGS, Findings((poll,), 600.0, 900.0))
    assert unread.effect is Effect.POLLS


def status(*seen: Session, **more: Any) -> dict[str, Any]:
    report = make_report(look=quiet(AT - 2, *seen), judged_by=SETTINGS, sessions=len(seen), **more)
    said: dict[str, Any] = json.loads(json.dumps(as_dict(report, AT, 2e9, Memory(1, 1, None))))
    return said


def test_programs_get_the_first_hundred_and_people_ten() -> None:
    said = status(*(client(pid, state_age=float(pid)) for pid in range(1, 151)))
    assert [one["pid"] for one in said["sessions_seen"]] == list(range(1, MOST_LISTED + 1))
    assert said["sessions_seen"][0] == {
        "pid": 1,
        "client": "user app",
        "state": "idle",
        "seconds": 3.0,
        "effect": "idle",
        "text": "does not keep Postgres awake",
    }
    assert (said["sessions"], said["sessions_left_out"]) == (150, 50)
    table = as_table(said)
    assert "\nsessions    1 user app: idle, last used 3s ago; does not keep Postgres awake\n" in table
    assert "\n            10 user app: idle, last used 12s ago; " in table
    assert "\n            and 140 more (the first 100: --json)\n" in table


def test_the_table_says_what_a_session_does_and_since_when() -> None:
    mean = client(7, application_name='x"\x1b[2J\n', state="active", state_age=1.0, client_addr="10.0.0.3")
    worker = client(8, backend_type="autovacuum worker", usename=None, state="active", state_age=60.0)
    table = as_table(status(mean, worker))
    assert (
        '\nsessions    7 app "x"?[2J?", user app, 10.0.0.3: active for 3s; keeps Postgres awake until its query ends\n'
        "            8 autovacuum worker: active for 1min 2s; is running: sleep waits until it finishes\n"
    ) in table


def test_before_a_look_no_session_is_known() -> None:
    said: dict[str, Any] = as_dict(make_report(), AT, 2e9, Memory(1, 1, None))
    assert said["sessions_seen"] is None
    assert "sessions   " not in as_table(said)
