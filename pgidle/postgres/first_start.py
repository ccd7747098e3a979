"""The first start, safe against every interruption.

The data directory may be a mount point, which cannot be renamed, and initdb needs an empty folder. So everything is
made in `pgidle/initdb/data` inside it, synced and marked complete. Only then do its entries move up, PG_VERSION last.
Whatever interrupts this, a data directory with PG_VERSION is finished; the next start goes on moving a complete cluster
and throws away an incomplete one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pgidle.base.errors import PgidleError
from pgidle.postgres.data_directory import COMPLETE, INITDB_DATA, INITDB_FOLDER, OWN_FOLDER
from pgidle.postgres.initdb import Order, end_processes, make_cluster
from pgidle.system.forked import SupervisorGone, fork, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK_WAIT = 10.0
"""Seconds to wait for the child of a killed supervisor, which is about to end by itself."""
DONE, FAILED = b"+", b"-"


def initialise(data_dir: str, order: Order, before: Callable[[str], None] = lambda _step: None) -> None:
    """Initialise `data_dir`, or go on with an initialisation that was interrupted. Blocks.

    `before` is called with the name of each step. Raises PgidleError or OSError, after removing everything it has made.
    """
    final, folder, inner = Path(data_dir), Path(data_dir, INITDB_FOLDER), Path(data_dir, INITDB_DATA)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(final):
        if not final.joinpath("PG_VERSION").exists():
            if not _is_complete(folder):
                _discard(folder)
                _check_empty(final)
                try:
                    _prepare(folder, order)
                    before("make")
                    make_cluster(inner, final, order)
                    before("complete")
                    _mark_complete(folder)
                except BaseException:
                    _discard(folder)
                    raise
            _publish(folder, final, before)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(final: Path) -> Iterator[None]:
    descriptor = os.open(final, os.O_RDONLY | os.O_DIRECTORY)
    deadline = time.monotonic() + LOCK_WAIT
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise PgidleError(f"{final} is being initialised by another pgidle", "stop one") from None
                time.sleep(0.02)
            else:
                break
        yield
    finally:
        os.close(descriptor)


def _is_complete(folder: Path) -> bool:
    # PG_VERSION moves last, so it is still here as long as anything is left to move.
    return folder.joinpath(COMPLETE).exists() and folder.joinpath("data/PG_VERSION").exists()


def _check_empty(final: Path) -> None:
    for entry in final.iterdir():
        if entry.name != OWN_FOLDER:
            raise PgidleError(f"{final} is not empty ({entry.name} is there)", "empty it or name another")


def _prepare(folder: Path, order: Order) -> None:
    folder.mkdir(mode=0o700)
    folder.joinpath("data").mkdir(mode=0o700)
    if order.first.wal_dir is not None:
        wal_dir = Path(order.first.wal_dir)
        if wal_dir.is_dir() and any(wal_dir.iterdir()):
            raise PgidleError(f"POSTGRES_INITDB_WALDIR {wal_dir} is not empty", "empty it or name another")
        folder.joinpath("wal_dir").write_bytes(os.fsencode(order.first.wal_dir))


def _discard(folder: Path) -> None:
    """Throw away an unfinished cluster, and its WAL if that is elsewhere, after ending the processes working in it."""
    end_processes(folder / "data")
    with contextlib.suppress(FileNotFoundError):
        # Only written if that folder was empty: everything in it now was made here.
        for entry in Path(os.fsdecode(folder.joinpath("wal_dir").read_bytes())).iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _mark_complete(folder: Path) -> None:
    folder.joinpath("wal_dir").unlink(missing_ok=True)
    with folder.joinpath(COMPLETE).open("x") as file:
        os.fsync(file.fileno())
    for place in (folder, folder.parent, folder.parent.parent):
        _sync(place)


def _publish(folder: Path, final: Path, before: Callable[[str], None]) -> None:
    inner = folder / "data"
    for name in sorted(entry.name for entry in inner.iterdir()):
        if name != "PG_VERSION":
            before(name)
            inner.joinpath(name).rename(final / name)
    before("PG_VERSION")
    final.chmod(inner.stat().st_mode & 0o777)
    _sync(final)
    inner.joinpath("PG_VERSION").rename(final / "PG_VERSION")
    _sync(final)
    with contextlib.suppress(PermissionError):
        _sync(final.parent)
    before("tidy")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as fault:
        if fault.errno != errno.EINVAL:  # from a file system that does not sync folders
            raise
    finally:
        os.close(descriptor)


class Initialisation:
    """`initialise` in a forked child, so that the supervisor's loop can go on.

    The child dies with the supervisor. `fileno()` becomes readable when it has ended; then call `error()`.
    """

    def __init__(
        self, data_dir: str, order: Order, before: Callable[[str], None] = lambda _step: None
    ) -> None:
        self._inner = Path(data_dir, INITDB_DATA)
        self._answer, writer = os.pipe()
        supervisor = os.getpid()
        self.pid = fork(lambda: _child(lambda: initialise(data_dir, order, before), writer, supervisor))
        os.close(writer)

    def fileno(self) -> int:
        return self._answer

    def stop(self) -> None:
        """Ask the child to end its programs, remove what it has made, and exit. Repeating this changes nothing."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def error(self) -> str | None:
        """Wait for the child's end and reap it. Why it failed, in one line; None if it did not. Call this once."""
        with os.fdopen(self._answer, "rb") as file:
            answer = file.read()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        if answer == DONE:
            return None
        if answer:
            return answer[1:].decode(errors="replace")
        # It was killed before it could end its programs.
        end_processes(self._inner)
        return "the first start was killed: start again"


class _Stopped(BaseException):
    """The supervisor asked the child to stop, or died."""


def _child(work: Callable[[], None], writer: int, supervisor: int) -> NoReturn:
    answer = FAILED
    try:
        try:
            _settle(writer, supervisor)
            work()
            answer = DONE
        except PgidleError as fault:
            answer += str(fault).encode(errors="backslashreplace")
        except OSError as fault:
            said = f"the first start failed: {fault}: fix that and start again"
            answer += said.encode(errors="backslashreplace")
        except _Stopped:
            answer += b"the first start was stopped: start again"
        except BaseException:
            sys.excepthook(*sys.exc_info())
            answer += b"the first start failed because of a bug in pgidle, shown above: report it"
            raise
    finally:
        os.write(writer, answer)
        os._exit(answer != DONE)


def _settle(writer: int, supervisor: int) -> None:
    try:
        settle((writer,), supervisor, signal.SIGTERM)
    except SupervisorGone:
        raise _Stopped from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _stop(_number: int, _frame: object) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise _Stopped
