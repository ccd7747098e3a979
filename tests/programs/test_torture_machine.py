"""What torture starts pgidle with, fills its disk with, and reads of its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from harness.installations import free_port
from harness.supervised import parse_line
from pgidle.postgres.exit_status import describe
from torture import checks, namespace
from torture.injections import FAULTS
from torture.machine import Machine, ServiceManager, listening
from torture.record import Allowance, Exit, Round, Window
from torture.volume import Volume

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import pytest

    from harness.installations import Installation, Place


def test_a_service_manager_hears_who_knocks_at_either_socket(newest: Installation, place: Place) -> None:
    folder = place.folder("s")
    for number in range(2):
        sockets = listening(free_port(), folder / ".s.PGSQL.1")
        machine = Machine(newest, place, data_dir=folder, listen=sockets)

        async def scenario(number: int = number, machine: Machine = machine) -> None:
            wanted = asyncio.create_task(ServiceManager(machine)._wanted(0))
            done, _ = await asyncio.wait({wanted}, timeout=0.1)
            assert not done
            with socket.socket(machine.listen[number].family) as client:
                client.connect(machine.listen[number].getsockname())
                await asyncio.wait_for(wanted, 10)

        asyncio.run(scenario())
        for one in sockets:
            one.close()


def test_who_listens_again_ends_every_gap_before(newest: Installation, place: Place) -> None:
    machine = Machine(newest, place)
    machine.exits = [Exit(-15, 100.0, said=True, is_clean=True), Exit(2, 100.1, said=False, is_clean=True)]
    for line, is_serving in (
        ('{"pid": 1, "state": "starting", "from": null, "reason": "pgidle started"}', False),
        ('{"pid": 1, "state": "awake", "from": "starting", "reason": "it accepts"}', True),
    ):
        with subprocess.Popen(["sh", "-c", f"echo '{line}' >&2"], stderr=subprocess.PIPE, text=True) as said:
            machine._read(said)
        assert all(gone.listening <= time.monotonic() for gone in machine.exits)
        assert all((gone.serving <= time.monotonic()) is is_serving for gone in machine.exits)


def test_what_libfaketime_left_is_removed_where_it_is_ours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "SHARED_MEMORY", tmp_path)
    left, other = tmp_path / "sem.faketime_sem_7", tmp_path / "PostgreSQL.7"
    for path in (left, other):
        path.touch()
    namespace.forget_clocks()
    assert left.exists()
    monkeypatch.setenv(namespace.INSIDE, "1")
    namespace.forget_clocks()
    assert list(tmp_path.iterdir()) == [other]


def test_half_a_block_is_forgiven_after_a_full_disk_alone(newest: Installation, place: Place) -> None:
    volume = Volume(newest, place, is_own=False)
    table = next(
        one for one in volume.data_dir.glob("base/*/*") if one.stat().st_size and one.name.isdecimal()
    )
    whole = table.stat().st_size
    os.truncate(table, whole + 4096)
    volume.cut_half_blocks()
    assert "pg_checksums" in checks.checksums(newest, volume.data_dir)[0]
    volume._was_filled = True
    volume.cut_half_blocks()
    assert (table.stat().st_size, checks.checksums(newest, volume.data_dir)) == (whole, [])
    with table.open("r+b") as file:
        file.write(os.urandom(100))
    volume._was_filled = True
    volume.cut_half_blocks()
    assert "pg_checksums" in checks.checksums(newest, volume.data_dir)[0]


def test_whoever_fills_the_disk_has_connected_before() -> None:
    is_full = False

    class Full:
        @contextlib.contextmanager
        def filled(self) -> Iterator[None]:
            nonlocal is_full
            is_full = True
            yield
            is_full = False

    class Client:
        async def run(self, _: str) -> bool:
            return not is_full

    class Stage:
        happened, volume, chance = Round(0.5, True), Full(), random.Random(1)

        @property
        def crowd(self) -> Stage:
            return self

        @contextlib.asynccontextmanager
        async def session(self, _: str) -> AsyncIterator[Client]:
            assert not is_full
            yield Client()

        @contextlib.asynccontextmanager
        async def window(self, name: str, allowance: Allowance) -> AsyncIterator[Window]:
            yield Window(name, allowance, 0.0)
            assert not is_full

    fault = FAULTS["disk full"]
    asyncio.run(fault.inject(Stage(), fault))  # type: ignore[arg-type]


def test_what_the_logging_collector_wrote_is_read_for_one_round(newest: Installation, place: Place) -> None:
    volume = Volume(newest, place, is_own=False)
    file = volume.data_dir / "log" / "postgresql.log"
    file.parent.mkdir()
    file.write_text("LOG:  fine\nPANIC:  could not write\n")
    assert len(checks.bad_lines(volume.collected(), False)) == 1
    volume.settle(())
    assert volume.collected() == []


def test_a_start_that_fails_is_a_crash_that_is_noticed(newest: Installation, place: Place) -> None:
    machine = Machine(newest, place)
    said = (
        {"topic": "start", "reason": "waiting for postmaster 1 of an earlier supervisor to end"},
        {"topic": "start", "reason": describe(1)},
        {"topic": "start", "reason": describe(-9)},
    )
    machine.lines = [parse_line(json.dumps(one)) for one in said]
    machine.times = [1.0, 2.0, 3.0]
    assert [at for at, _ in machine.crashes()] == [2.0, 3.0]
