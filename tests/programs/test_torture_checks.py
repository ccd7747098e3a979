"""What is looked for after a round, and is found: a second postmaster, orphans, leaks, lost commits, broken pages."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from harness.clients import Ledger
from harness.faults import carry_out
from harness.installations import as_server, free_port
from torture import checks, injections, play
from torture.machine import listening
from torture.plan import plan
from torture.volume import Volume

if TYPE_CHECKING:
    import pytest

    from harness.installations import Installation, Place
    from harness.supervised import Launch


def test_one_postmaster_is_one_and_a_second_is_noticed(installation: Installation, launch: Launch) -> None:
    one = launch(installation)
    one.wait_for_state("awake")
    carry_out(one, "SELECT 1")
    assert checks.postmasters(one.data_dir) == [one.postmaster_pid]
    with checks.Sentry(one.data_dir) as sentry, other(one.data_dir) as second:
        while not sentry.seen:
            assert second.poll() is None
            time.sleep(0.01)
    assert str(second.pid) in sentry.seen[0]
    with checks.Sentry(one.data_dir) as sentry:
        while not sentry.most:
            time.sleep(0.01)
    assert sentry.seen == []


def test_children_of_a_killed_postmaster_are_no_second_one(
    installation: Installation, launch: Launch
) -> None:
    one = launch(installation)
    one.wait_for_state("awake")
    postmaster = one.postmaster_pid
    assert postmaster is not None
    children = [child.pid for child in psutil.Process(postmaster).children()]
    assert len(checks.images([postmaster, *children])) == 1
    with other(one.data_dir) as second, other(one.data_dir) as third:
        assert len(checks.images([postmaster, second.pid, third.pid])) == 3


def other(data_dir: Path, **env: str) -> subprocess.Popen[bytes]:
    """A process that looks like a postmaster."""
    return Other(
        ["cat"], cwd=data_dir, stdin=subprocess.PIPE, process_group=0, env=os.environ | env, **as_server()
    )


class Other(subprocess.Popen[bytes]):
    def __exit__(self, *arguments: object) -> None:
        self.terminate()
        super().__exit__(*arguments)  # type: ignore[arg-type]


def test_an_orphan_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.1)
    folder = place.folder()
    assert checks.orphans(folder, "mine") == []
    with other(folder) as left:
        assert str(left.pid) in checks.orphans(folder, "mine")[0]
    with other(Path("/"), TORTURE="mine") as left:
        assert str(left.pid) in checks.orphans(folder, "mine")[0]
        assert checks.orphans(folder, "theirs") == []


def test_a_leaked_descriptor_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.3)

    async def scenario() -> tuple[list[str], list[str]]:
        before = await checks.steady(os.getpid())
        same = await checks.leaked(os.getpid(), before)
        with socket.socket():
            return same, await checks.leaked(os.getpid(), before)

    same, more = asyncio.run(scenario())
    assert same == []
    assert "socket" in more[0]


def test_what_comes_and_goes_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.5)
    one, two, three = Counter(pipe=1, socket=2), Counter(pipe=2, socket=1), Counter(pipe=2, socket=2)

    async def scenario(*seen: Counter[str], before: Counter[str]) -> list[str]:
        looks = itertools.cycle(seen)
        monkeypatch.setattr(checks, "descriptors", lambda _: Counter(next(looks)))
        return await checks.leaked(1, before)

    rest = Counter(pipe=1, socket=1)
    assert asyncio.run(scenario(one, two, before=rest)) == []
    assert asyncio.run(scenario(one, three, before=rest)) != []
    looks = itertools.cycle([one, two])
    monkeypatch.setattr(checks, "descriptors", lambda _: Counter(next(looks)))
    assert asyncio.run(checks.steady(1)) == three


def test_a_socket_that_postgres_should_not_have_is_noticed(place: Place) -> None:
    port = free_port()
    shared = listening(port, place.folder("s") / f".s.PGSQL.{port}")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[one.fileno() for one in shared]) as child:
        assert checks.inherited(os.getpid(), child.pid, port) == []
        assert len(checks.inherited(os.getpid(), child.pid, port + 1)) == 1
        child.communicate()
    for one in shared:
        one.close()
    with socket.socket() as ours:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            assert checks.inherited(os.getpid(), child.pid, 1) == []
            child.communicate()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[ours.fileno()]) as child:
            assert checks.inherited(os.getpid(), child.pid, 1) != []
            child.communicate()


def test_a_lost_commit_a_broken_page_and_no_sleep_are_noticed(
    newest: Installation, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger()
    ledger.acknowledge(ledger.send(-1))
    volume = Volume(newest, place, is_own=False)
    stage = play.Stage(newest, place, volume, ledger)
    monkeypatch.setattr(injections, "NAP", 0.5)
    monkeypatch.setattr(play, "NAP", 0.5)
    planned = replace(plan(1, 0, ("none",), ("stay",)), idle_timeout=3600.0)
    outcome = play.play(stage, planned, 0.1)
    assert outcome.happened.violations == [
        "no sleep in 0.5 s, though nobody did anything to it",
        "no sleep in the whole round, nor 0.5 s after it",
        "lost: [(-1, 1)]",
    ]
    assert outcome.happened.tally.commits > 0
    table = max((volume.data_dir / "base").glob("*/*"), key=lambda path: path.stat().st_size)
    with table.open("r+b") as file:
        file.seek(5000)
        file.write(b"broken")
    assert "pg_checksums" in checks.checksums(newest, volume.data_dir)[0]


def test_bad_lines_are_noticed() -> None:
    lines = ["PANIC:  could not write", "LOG:  fine"]
    assert len(checks.bad_lines(lines, False)) == 1
    assert checks.bad_lines(lines, True) == []
