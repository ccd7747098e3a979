"""The journal of a real pgidle: every event is in it, with who caused it, or the reader is told that it is not."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from harness.faults import fill, query
from harness.postgres_fixture import wait_until
from pgidle.history.files import read_of_another
from pgidle.history.journal import JOURNAL, SEGMENT_BYTES
from pgidle.history.timeline import Condition
from pgidle.lifecycle.transitions import Event, Moment, State
from pgidle.run.journal_entries import JournalEntries
from pgidle.settings.options import LogFormat, WhenIdle
from pgidle.system.event_loop import Loop
from pgidle.system.log import Log
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation, Place
    from harness.supervised import Supervised
    from pgidle.history.timeline import Episode

SLEEPER = {"when_idle": "stay", "idle_timeout": "1s"}


def journal(one: Supervised) -> Path:
    return one.data_dir / "pgidle" / JOURNAL


def entries(one: Supervised, *events: str) -> list[dict[str, Any]]:
    """The lines so far, of some events or of all."""
    path = journal(one)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [entry for entry in found if not events or entry["event"] in events]


def wait_for(one: Supervised, event: str, count: int = 1) -> dict[str, Any]:
    """The entry of that event with that number, counted from 1, once it is written."""
    wait_until(lambda: len(entries(one, event)) >= count, lambda: f"no {event}: {entries(one)}")
    return entries(one, event)[count - 1]


def episodes(one: Supervised, *, is_running: bool = True) -> list[Episode]:
    read = read_of_another(str(one.data_dir / "pgidle"))
    timeline = read.reduced.timeline
    found = [episode for event in read.events for episode in timeline.add(event)]
    last = timeline.open(found[-1].end if found else 0.0, is_running=is_running)
    return [*found, last] if last is not None else found


def connect(one: Supervised, name: str, **more: object) -> psycopg.Connection:
    return psycopg.connect(one.conninfo(application_name=name, **more), autocommit=True)  # type: ignore[arg-type]


def sleeps_in(one: Supervised) -> float | None:
    """Seconds."""
    left: float | None = json.loads(one.pgidle("status", "--json").stdout)["sleeps_in"]
    return left


def test_a_life_with_all_who_took_part_in_it(newest: Installation, launch):
    one = launch(newest, **SLEEPER)
    started = wait_for(one, "started")
    assert started["settings"] == {"idle-timeout": 1, "min-awake": 0, "when-idle": "stay"}
    assert wait_for(one, "woken")["cause"] == "start"
    with connect(one, "web") as connection:
        seen = wait_for(one, "client")
        connection.execute("SELECT 1")
        assert (seen["application"], seen["address"]) == ("web", "127.0.0.1")
        slept = wait_for(one, "slept")
    assert slept["cut"] == [seen["client"]]
    assert 'app "web"' in slept["last_use"]
    assert slept["idle"] >= 1
    assert slept["shutdown"] > 0
    assert slept["checkpoint"] is not None

    one.wait_for_state("asleep")
    assert query(one, "SELECT 1") == 1
    woken = wait_for(one, "woken", 2)
    assert (woken["cause"], woken["parked"]) == ("client", 1)
    assert woken["by"] == ["127.0.0.1"]
    assert woken["wait"] == woken["took"] > 0

    wait_for(one, "slept", 2)
    with psycopg.connect(one.unix_conninfo(application_name="cron")):
        woken = wait_for(one, "woken", 3)
    assert woken["by"] == ["user root, Unix socket"]

    wait_for(one, "slept", 3)
    assert one.pgidle("hold", "1h", "--why", "a dump").returncode == 0
    held = wait_for(one, "hold")
    assert (held["why"], held["seconds"]) == ("a dump", 3600)
    assert held["by"].startswith("user root (")
    woken = wait_for(one, "woken", 4)
    assert (woken["cause"], woken["parked"], woken["wait"]) == ("hold", 0, None)
    assert woken["by"][0].startswith("user root (")
    assert one.pgidle("release").returncode == 0
    wait_for(one, "release")

    assert one.stop() == 0
    assert [entry["event"] for entry in entries(one)][-2:] == ["stop", "exited"]
    assert entries(one, "exited")[0]["state"] == "terminating"
    numbers = [entry["n"] for entry in entries(one)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_an_order_during_a_wake_does_not_take_the_place_of_the_client(
    newest: Installation, place: Place, launch
):
    one = launch(newest, **SLEEPER)
    one.wait_for_state("asleep")
    go_on = place.folder("gate") / "go-on"
    (one.data_dir / "recovery.signal").touch()
    with (one.data_dir / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = 'until [ -e {go_on} ]; do sleep 0.1; done; false'\n")
    mark = one.mark()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(query, one, "SELECT 1")
        try:
            one.wait_for_state("starting", since=mark)
            wait_until(lambda: b'"parked": 1' in one.pgidle("status", "--json").stdout.encode())
            assert one.pgidle("hold", "1h").returncode == 0
        finally:
            go_on.touch()
        assert asked.result() == 1
    woken = wait_for(one, "woken", 2)
    assert (woken["cause"], woken["by"], woken["parked"]) == ("client", ["127.0.0.1"], 1)


def test_idle_times_that_a_use_ended(newest: Installation, launch):
    one = launch(newest, when_idle="stay", idle_timeout="5s")
    wait_for(one, "woken")
    with connect(one, "poller") as connection:
        for _ in range(3):
            wait_until(lambda: (sleeps_in(one) or 9) < 3)
            connection.execute("SELECT 1")
        wait_for(one, "slept")
    uses = entries(one, "use")
    assert uses
    assert all('app "poller"' in use["by"] and 1 <= use["idle"] <= 5 for use in uses)


def test_a_crash_and_a_kill_of_pgidle_itself(newest: Installation, launch):
    one = launch(newest, when_idle="stay", idle_timeout="off")
    wait_for(one, "woken")
    assert one.postmaster_pid
    os.kill(one.postmaster_pid, signal.SIGKILL)
    assert "SIGKILL" in wait_for(one, "crashed")["why"]
    assert wait_for(one, "woken", 2)["cause"] == "crash"
    one.kill()
    one.start()
    wait_for(one, "woken", 3)
    unknown = [episode for episode in episodes(one) if episode.condition is Condition.UNKNOWN]
    assert [episode.why for episode in unknown] == [
        "no end on record: pgidle was killed, or its machine was lost, while Postgres was awake"
    ]


def test_in_exit_mode_one_sleep_over_two_runs(newest: Installation, launch):
    one = launch(newest, when_idle="exit", idle_timeout="1s")
    assert one.wait() == 0
    assert entries(one, "exited")[0]["state"] == "leaving"
    one.start()
    wait_for(one, "woken", 2)
    conditions = [episode.condition for episode in episodes(one)]
    assert conditions == [
        *(Condition.WAKING, Condition.AWAKE, Condition.ASLEEP),
        *(Condition.WAKING, Condition.AWAKE),
    ]


def test_a_failed_start_with_what_postgres_says(newest: Installation, launch):
    one = launch(newest, **SLEEPER)
    wait_for(one, "slept")
    one.wait_for_state("asleep")
    with (one.data_dir / "postgresql.auto.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    assert one.pgidle("wake", "--wait").returncode == 1
    wait_until(lambda: any("shared_buffers" in entry["why"] for entry in entries(one, "start-failed")))


def test_what_settings_have_changed(newest: Installation, place: Place, launch):
    config = place.folder("etc") / "pgidle.toml"
    config.write_text('idle-timeout = "1h"\n')
    one = launch(newest, when_idle="stay", idle_timeout=None, config=str(config))
    wait_for(one, "woken")
    config.write_text('idle-timeout = "2h"\n')
    one.signal(signal.SIGHUP)
    changed = wait_for(one, "settings")
    assert changed["changed"] == {"idle-timeout": ["1h", "2h"]}
    assert changed["settings"]["idle-timeout"] == 7200


def test_a_torn_line_spoils_no_other(newest: Installation, launch):
    one = launch(newest, **SLEEPER)
    wait_for(one, "slept")
    assert one.stop() == 0
    whole = journal(one).read_bytes()
    journal(one).write_bytes(whole[:-20])
    one.start()
    wait_until(lambda: b"\n{" in journal(one).read_bytes()[len(whole) - 20 :])
    kinds = [episode.condition for episode in episodes(one)]
    assert Condition.UNKNOWN in kinds
    assert kinds.count(Condition.WAKING) == 2


def test_lines_that_a_full_disk_has_kept_back(newest: Installation, place: Place, small_disk: Path, launch):
    state = small_disk / "state"
    one = launch(newest, **SLEEPER, state_dir=str(state))
    path = state / JOURNAL
    wait_until(lambda: b"slept" in (path.read_bytes() if path.exists() else b""))
    one.wait_for_state("asleep")
    hog = fill(small_disk, 0)
    # What is left of the last block of the file.
    with path.open("ab") as file:
        room = -path.stat().st_size % 4096
        file.write(b"\n" * room)
    assert query(one, "SELECT 1") == 1
    one.wait_log("cannot write the journal: No space left on device")
    hog.unlink()
    one.wait_log("that is over: cannot write the journal")
    numbers = [json.loads(line)["n"] for line in path.read_bytes().split(b"\n") if line]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_full_file_is_moved_aside_once_the_one_before_is_reduced(newest: Installation, launch):
    one = launch(newest, **SLEEPER)
    wait_for(one, "slept")
    assert one.stop() == 0
    path = journal(one)
    line = path.read_bytes().splitlines(keepends=True)[0]
    with path.open("ab") as file:
        file.write(line * (SEGMENT_BYTES // len(line) + 1))
    size = path.stat().st_size
    older = path.with_name("journal-older.jsonl")
    one.start()
    wait_until(lambda: older.exists() and path.exists())
    assert one.stop() == 0
    assert older.stat().st_size >= size
    assert path.stat().st_size < SEGMENT_BYTES


@pytest.mark.parametrize("kind", ["a link", "a pipe"])
def test_what_is_not_a_file_is_not_written_to(newest: Installation, place: Place, launch, kind: str):
    one = launch(newest, start=False, **SLEEPER)
    path = journal(one)
    path.parent.mkdir(mode=0o700)
    os.chown(path.parent, *[one.data_dir.stat().st_uid, one.data_dir.stat().st_gid])
    target = place.folder() / "target"
    target.write_text("")
    if kind == "a link":
        path.symlink_to(target)
    else:
        os.mkfifo(path)
    one.start()
    one.wait_log("cannot write the journal")
    one.wait_for_state("asleep")
    assert query(one, "SELECT 1") == 1
    assert target.read_text() == ""


def test_uses_without_end_do_not_push_out_the_sleep(tmp_path: Path):
    """As when nothing else happens for days: they are written by themselves."""
    loop, written = Loop(), []
    folder = tmp_path / "state"
    runtime = SimpleNamespace(
        state_dir=StateDir(str(folder)), log=Log(LogFormat.TEXT), loop=loop, gate=SimpleNamespace()
    )
    awake = Moment(State.AWAKE, 0.0, "")
    settings = SimpleNamespace(idle_timeout=1.0, min_awake=0.0, when_idle=WhenIdle.STAY)
    notes = JournalEntries(runtime, awake, settings, lambda: written.append(True))  # type: ignore[arg-type]
    loop.cancel("who")
    for number in range(300):
        notes.used(10.0, f"app {number}")
    while not written:
        loop.turn()
    for number in range(300):
        notes.used(10.0, f"app {number}")
    stopping, asleep = Moment(State.STOPPING, 1.0, "idle"), Moment(State.ASLEEP, 2.0, "")
    notes.entered(Event.POSTMASTER_EXITED_CLEANLY, stopping, asleep)
    notes.write()
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    assert lines[-1]["event"] == "slept"
    assert sum(line["event"] == "use" for line in lines) > 100
