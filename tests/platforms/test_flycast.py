"""The stand-in and the clients themselves: they must see what goes wrong when nothing holds the clients."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.clients import Habits, Ledger, run_clients
from harness.flycast import Flycast
from harness.installations import as_server, conninfo, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.installations import Installation, Place


class Script:
    """A machine that is a shell script, told its port as $1 and its data directory as $2."""

    def __init__(self, script: str, data_dir: Path | str = "/") -> None:
        self.port = free_port()
        self.command = ["sh", "-c", script, "sh", str(self.port), str(data_dir)]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, cwd="/", **as_server())

    def wait(self) -> int:
        assert self.process
        return self.process.wait()


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    made: list[Script] = []

    def make(text: str, data_dir: Path | str = "/") -> Script:
        made.append(Script(text, data_dir))
        return made[-1]

    yield make
    for one in made:
        if one.process and one.process.poll() is None:
            one.process.terminate()
            one.wait()


def bare_postgres(installation: Installation, *, seconds: float, status: int) -> str:
    """Postgres as it is: fast shutdown after so many seconds of life."""
    return f"""
        "{installation.program("postgres")}" -D "$2" -p "$1" -c listen_addresses=127.0.0.1 2>/dev/null &
        postmaster=$!
        trap 'kill -INT $postmaster; wait $postmaster; exit 0' TERM
        sleep {seconds} & wait $!
        kill -INT $postmaster
        wait $postmaster
        exit {status}
    """


async def again_until_served(work, *arguments):
    """Call it in a thread until it was not refused: a bare Postgres refuses while it starts or stops."""
    for _ in range(100):
        with contextlib.suppress(psycopg.OperationalError):
            return await asyncio.to_thread(work, *arguments)
        await asyncio.sleep(0.1)
    raise AssertionError("never served")


@pytest.mark.parametrize("status", [0, 3])
def test_clients_of_a_bare_postgres_fail(newest, place: Place, script, status):
    machine = script(bare_postgres(newest, seconds=1, status=status), place.data_dir(newest))
    ledger = Ledger()

    async def scenario():
        async with Flycast(machine, machine.port) as fly:
            await again_until_served(ledger.create, conninfo(fly.port))
            habits = Habits(cut_after=2.0)
            load = await run_clients(conninfo(fly.port), ledger, workers=6, sessions=6, seed=1, habits=habits)
            await asyncio.to_thread(machine.wait)
            missing = await again_until_served(ledger.missing, conninfo(fly.port))
            return fly.counts, load, missing

    counts, load, missing = asyncio.run(scenario())
    assert load.failures
    # No session lived long enough for its end to be a sleeper's.
    assert load.cuts == 0
    assert load.commits
    assert missing == []
    assert counts.exits[status] >= 2
    assert bool(counts.restarts) == (status != 0)
    assert counts.starts > counts.exits.total() - 1


def test_ledger_misses_a_lost_commit(newest, place, script):
    machine = script(bare_postgres(newest, seconds=600, status=0), place.data_dir(newest))
    ledger = Ledger()

    async def scenario():
        async with Flycast(machine, machine.port) as fly:
            await again_until_served(ledger.create, conninfo(fly.port))
            row = ledger.send(7)
            ledger.acknowledge(row)
            return row, await again_until_served(ledger.missing, conninfo(fly.port))

    row, missing = asyncio.run(scenario())
    assert missing == [row]


def test_a_machine_that_exits_0_starts_with_the_next_connection_only(script):
    machine = script("exit 0")

    async def scenario():
        async with Flycast(machine, machine.port) as fly:
            await fly.start()
            await fly.stopped.wait()
            starts = fly.counts.starts
            reader, writer = await asyncio.open_connection("127.0.0.1", fly.port)
            assert await reader.read() == b""
            writer.close()
            return starts, fly.counts

    starts, counts = asyncio.run(scenario())
    assert starts == 1
    assert counts.starts > 1
    assert (counts.restarts, counts.give_ups) == (0, 1)


def test_it_gives_up_on_a_machine_that_never_listens(script):
    machine = script("exec sleep 60")

    async def scenario():
        async with Flycast(machine, machine.port) as fly:
            with pytest.raises(psycopg.OperationalError, match="closed the connection"):
                await psycopg.AsyncConnection.connect(conninfo(fly.port))
            return fly.counts

    counts = asyncio.run(scenario())
    assert counts.give_ups == 1
    assert counts.refused_dials == 15
