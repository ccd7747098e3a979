"""Runs `start_check` in a process of its own: its answer counts, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from pgidle.idle.start_result import Startable, StartQuestion, StartResult
from pgidle.system.users import for_children

LIMIT = 40.0
"""Seconds. Normally it ends by itself before."""


PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from pgidle.postgres.start_check import main
main()
"""


async def try_start(question: StartQuestion) -> StartResult:
    """Whether Postgres would start now. If this is cancelled, the process is ended, with all that it has started."""
    reader, writer = os.pipe()
    try:
        try:
            pid = _spawn(question, writer)
        except OSError as error:
            return StartResult(Startable.UNKNOWN, f"cannot execute {sys.executable}: {error.strerror}")
        finally:
            os.close(writer)
        try:
            async with asyncio.timeout(LIMIT):
                said = await _read(reader)
        except TimeoutError:
            return StartResult(Startable.UNKNOWN, f"it could not be tried within {LIMIT:g} s")
        finally:
            _end(pid)
    finally:
        os.close(reader)
    word, _, reason = said.decode(errors="replace").partition(" ")
    try:
        return StartResult(Startable(word), reason)
    except ValueError:
        return StartResult(Startable.UNKNOWN, "its trial ended without an answer")


def _spawn(question: StartQuestion, writer: int) -> int:
    """Its pid, which is that of a process group of its own. Raises OSError."""
    # Without `site`, because it does not need the folders that it adds.
    return os.posix_spawn(
        sys.executable,
        [
            *(sys.executable, "-I", "-S", "-c", PROGRAM, str(Path(__file__).parents[2])),
            *(str(question.version), str(question.prepared), question.data_dir, question.folder),
            *question.command,
        ],
        for_children(question.environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writer, 1),
        ],
        setpgroup=0,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


async def _read(descriptor: int) -> bytes:
    """Everything written to the pipe, until no process has it open for writing."""
    loop = asyncio.get_running_loop()
    said = b""
    while True:
        readable = loop.create_future()
        loop.add_reader(descriptor, _set, readable)
        try:
            await readable
        finally:
            loop.remove_reader(descriptor)
        part = os.read(descriptor, 65536)
        if not part:
            return said
        said += part


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _end(pid: int) -> None:
    """End the process and its group. A container's first process reaps every child, and may have been quicker."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
