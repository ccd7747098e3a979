"""Checks whether Postgres would start with the files that are on disk now, by letting Postgres try: a separate program.

A running Postgres ignores a configuration file with errors, and reads some settings only at a start, so nobody notices
until it has to start again. It is tried in steps, each with Postgres's real command line:

- `postgres -C` reads and judges every configuration file, as for a start, and exits.
- From 15 on `postgres -C shared_memory_size` also loads the preloaded libraries and the TLS files, and adds up memory.
- pg_hba.conf is read last of all, after which the first child is forked. In a trial that may have no children
  (RLIMIT_NPROC) that fork fails, and the postmaster exits: by then everything has been tried. (postmaster.c)

The last two need a data directory that no Postgres has locked: a scratch one, with copies of PG_VERSION and pg_control,
and links to what an administrator may have put beside Postgres's own files (certificates). It has no WAL and no tables,
so there is nothing that a trial could harm. A trial listens on no port and writes no log file.

It runs as Postgres's user, at a low priority: `main` takes version, prepared transactions, data directory, folder and
command from sys.argv, and prints a word of `Startable` and the reason. It changes nothing but its own folder. As it
runs before every sleep, it imports no more than it needs: most of Python's library takes longer to import than Postgres
takes to start.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import sys
import time

from pgidle.base.builtin_modules import signal
from pgidle.idle.start_result import Startable, StartQuestion, StartResult
from pgidle.postgres.error_messages import first_complaint
from pgidle.postgres.restore_limits import complaint, restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LIMIT = 30.0
"""Seconds for the whole check."""

COMPUTES_MEMORY = 15
"""The first major version whose `-C` goes as far as memory (GUC_RUNTIME_COMPUTED in guc.h)."""

POLL = 0.002
"""Seconds between two checks of whether a trial has ended."""

SCRATCH = "start-check"
"""The scratch directory's name."""

LEFT_OUT = frozenset({
    "PG_VERSION", "backup_label", "base", "current_logfiles", "global", "pgidle", "pg_wal", "postmaster.opts",
    "postmaster.pid", "recovery.signal", "standby.signal", "tablespace_map",
})  # fmt: skip
"""Postgres's own files in a data directory, besides FOLDERS."""

FOLDERS = frozenset({
    "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_multixact", "pg_notify", "pg_replslot", "pg_serial",
    "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase", "pg_xact",
})  # fmt: skip
"""Folders that a start looks into before it reads WAL (subdirs in initdb.c)."""

SOCKET = ".s.PGSQL."
"""How the names of Unix sockets and their lock files begin; these may be in the data directory, too."""

QUIET = {
    "listen_addresses": "",
    "unix_socket_directories": ".",
    "external_pid_file": "",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
    "log_error_verbosity": "default",
    "log_line_prefix": "",
    "lc_messages": "C",
    # There may not be enough huge pages for two Postgreses at once.
    "huge_pages": "off",
}
"""Settings for a trial that opens no socket of another Postgres, writes no file, and complains in English."""

SMALL = {"shared_preload_libraries": "", "ssl": "off", "shared_buffers": "16"}
"""More settings, for a trial after one that has tried them. pg_hba.conf does not depend on them."""

STARTED = r"could not fork|startup process \(PID"
"""The output of a trial that succeeded: it only lacked processes or, if the kernel allowed it one despite the limit,
WAL. CAP_SYS_RESOURCE and CAP_SYS_ADMIN (a unit's AmbientCapabilities=) override the limit."""

CERTAIN = (
    r"could not (load|access file|access private key file|map anonymous shared memory)|incompatible library"
    r"|private key file .* (has group|must be owned)|configuration file .* contains errors|cannot be enabled when"
    r"|requires wal_level|must be less than"
)
"""Messages after which a start of a version up to 14 would fail in any case. Others may be due to the trial, which also
loads libraries that may need children or threads."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

OUT_OF_ROOM = "No space left on device|Disk quota exceeded|Read-only file system"
"""Trouble of the trial's own, like any message that names its scratch directory. Disk space is checked elsewhere."""


class Fatal(Exception):
    """Postgres would not start; the reason in one line."""


class Doubtful(Exception):
    """It could not be tried; the reason in one line."""


def check(question: StartQuestion) -> StartResult:
    """Try everything. The result is the first thing that is wrong."""
    scratch = f"{question.folder}/{SCRATCH}"
    try:
        trial = Trial(question, scratch)
        trial.try_configuration()
        try:
            make_scratch(question.data_dir, scratch)
            trial.try_scratch()
            trial.try_restored()
        except OSError as error:
            # Only this shows that a quota is used up: Postgres could not write its pid file either.
            if (
                error.errno in NO_ROOM
                and os.stat(question.folder).st_dev == os.stat(question.data_dir).st_dev
            ):
                raise Fatal(f"nothing can be written in {question.data_dir}: {error.strerror}") from None
            raise
        finally:
            remove(scratch)
    except Fatal as error:
        return StartResult(Startable.NO, str(error))
    except Doubtful as error:
        return StartResult(Startable.UNKNOWN, str(error))
    except (OSError, ValueError) as error:
        return StartResult(Startable.UNKNOWN, f"it could not be tried: {' '.join(str(error).split())}")
    return StartResult(Startable.YES)


def make_scratch(data_dir: str, scratch: str) -> None:
    """Make a data directory that looks real to a postmaster until it reads WAL. Raises OSError."""
    remove(scratch)
    os.mkdir(scratch, 0o700)
    os.mkdir(f"{scratch}/global", 0o700)
    for name in ("PG_VERSION", "global/pg_control"):
        with open(f"{data_dir}/{name}", "rb") as source, open(f"{scratch}/{name}", "wb") as copy:
            copy.write(source.read())
    for entry in os.scandir(data_dir):
        if entry.name in FOLDERS:
            os.mkdir(f"{scratch}/{entry.name}", 0o700)
        elif entry.name not in LEFT_OUT and not entry.name.startswith(SOCKET):
            os.symlink(os.path.join(data_dir, entry.name), f"{scratch}/{entry.name}")


def remove(scratch: str) -> None:
    """Remove it with everything in it, but nothing that its links lead to. Raises OSError."""
    if os.path.islink(scratch):
        os.unlink(scratch)
    for folder, folders, others in os.walk(scratch, topdown=False):
        for name in folders + others:
            path = f"{folder}/{name}"
            if os.path.islink(path) or not os.path.isdir(path):
                os.unlink(path)
            else:
                os.rmdir(path)
    if os.path.lexists(scratch):
        os.rmdir(scratch)


class Trial:
    """Runs of Postgres's program, all within LIMIT seconds. `scratch` need not exist before `try_scratch`."""

    def __init__(self, question: StartQuestion, scratch: str) -> None:
        self._question = question
        self._scratch = scratch
        self._until = time.monotonic() + LIMIT

    def try_configuration(self) -> None:
        """Try every value of every file, and the folders that a start needs. Raises Fatal, Doubtful."""
        data_dir = self._ask("data_directory")
        if not _is_same(data_dir, self._question.data_dir):
            raise Fatal(f"data_directory is {data_dir}, not {self._question.data_dir}")
        folders = [one.strip().strip('"') for one in self._ask("unix_socket_directories").split(",")]
        for folder in folders:
            if folder and not folder.startswith("@") and not _is_writable(folder):
                raise Fatal(f"unix_socket_directories: no socket can be made in {folder}")
        if self._ask("logging_collector") == "on":
            log_directory = os.path.join(self._question.data_dir, self._ask("log_directory"))
            if not _can_hold(log_directory):
                raise Fatal(f"logging_collector is on, and log_directory {log_directory} cannot be written")

    def try_scratch(self) -> None:
        """Try libraries, TLS, memory and pg_hba.conf. Raises Fatal, Doubtful."""
        # Up to 14, and with Debian outside of the data directory: there the running Postgres is using it.
        quiet = early = QUIET | {"stats_temp_directory": "."}
        if self._question.version >= COMPUTES_MEMORY:
            self._try_memory(int(self._ask("shared_memory_size", data_directory=self._scratch)))
            if self._ask("huge_pages") == "on":
                self._try_huge_pages()
            quiet = QUIET | SMALL
        _, _, said = self._run((), is_alone=True, data_directory=self._scratch, **quiet)
        if any(_is_in(STARTED, line) for line in said):
            return
        complaint = first_complaint(said)
        if "could not map anonymous shared memory" in complaint and _overcommit() == 2:
            raise Doubtful(f"a trial start beside Postgres says: {complaint}")
        is_own = self._scratch in complaint or _is_in(OUT_OF_ROOM, complaint)
        if complaint and not is_own and (quiet is not early or _is_in(CERTAIN, complaint)):
            raise Fatal(complaint)
        raise Doubtful(f"a trial start says: {complaint}")

    def try_restored(self) -> None:
        """Check what a start has to restore, as a scratch directory has none of it. Raises Fatal, Doubtful, OSError."""
        there = restored(self._question.data_dir, self._question.prepared)
        if said := complaint(there, self._question.version, self._ask):
            raise Fatal(said)

    def _ask(self, name: str, **settings: str) -> str:
        """The value of a setting as a start would see it. Raises Fatal in Postgres's own words."""
        status, value, said = self._run(("-C", name), is_alone=False, **settings)
        if status == 0:
            return value.removesuffix("\n")
        complaint = first_complaint(said)
        if status < 0 or self._scratch in complaint or _is_in(OUT_OF_ROOM, complaint):
            raise Doubtful(f"postgres -C {name} says: {complaint or f'ended by signal {-status}'}")
        raise Fatal(complaint or f"postgres -C {name} exits with status {status}")

    def _run(self, more: tuple[str, ...], *, is_alone: bool, **settings: str) -> tuple[int, str, list[str]]:
        """Run it: exit status (negative for a signal), output, and lines on stderr. `is_alone`: it may not fork."""
        said = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [*self._question.command, *said, *more]
        with open(os.memfd_create("stdout"), "rb") as out, open(os.memfd_create("stderr"), "rb") as err:
            if (pid := os.fork()) == 0:
                _become(command, out.fileno(), err.fileno(), is_alone=is_alone)
            status = self._await(pid)
            out.seek(0)
            err.seek(0)
            printed, complaints = (file.read().decode(errors="surrogateescape") for file in (out, err))
        return status, printed, complaints.splitlines()

    def _await(self, pid: int) -> int:
        """The exit status, negative for a signal. Raises Doubtful if it takes too long."""
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > self._until:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise Doubtful(f"a trial start takes longer than {LIMIT:g} s")
            time.sleep(POLL)

    def _try_memory(self, megabytes: int) -> None:
        """Map the memory as Postgres does (CreateAnonymousSegment in sysv_shmem.c), but use none of it."""
        try:
            mmap.mmap(-1, megabytes * 2**20).close()
        except OSError as error:
            text = f"{megabytes} MB of shared memory cannot be allocated: {error.strerror}"
            # Strict accounting: the running Postgres's share will be free by then.
            if _overcommit() == 2 and megabytes * 1024 <= _meminfo("CommitLimit"):
                raise Doubtful(f"{text} while Postgres runs") from None
            raise Fatal(f"{text} (shared_buffers, max_connections)") from None

    def _try_huge_pages(self) -> None:
        needed = int(self._ask("shared_memory_size_in_huge_pages", data_directory=self._scratch))
        there = _meminfo("HugePages_Total")
        if needed > there and self._ask("huge_page_size") == "0":
            raise Fatal(
                f"huge_pages is on and needs {needed} huge pages, but there are {there} (vm.nr_hugepages)"
            )


def _become(command: list[str], out: int, err: int, *, is_alone: bool) -> NoReturn:
    """Execute the command in place of this process, which is a child."""
    try:
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
            os.dup2(descriptor, number)
        if is_alone:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"cannot execute {command[0]}: {error.strerror}".encode())
    finally:
        os._exit(127)


def _is_in(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, text) is not None


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _is_writable(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _can_hold(folder: str) -> bool:
    """Whether log files can be made there. The log collector makes that folder, but none above it (SysLogger_Start in
    syslogger.c)."""
    return _is_writable(folder if os.path.lexists(folder) else os.path.dirname(folder))


def _overcommit() -> int:
    with open("/proc/sys/vm/overcommit_memory", "rb") as file:
        return int(file.read())


def _meminfo(name: str) -> int:
    """A value of /proc/meminfo: kB, or a number of pages."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith(f"{name}:")), 0)


def main() -> None:
    os.nice(10)
    _yield_memory()
    version, prepared, data_dir, folder, *command = sys.argv[1:]
    result = check(StartQuestion(tuple(command), int(version), data_dir, folder, os.environ, int(prepared)))
    try:
        os.write(1, f"{result.startable.value} {result.reason}".encode(errors="surrogateescape"))
    except BrokenPipeError:
        return  # The process that asked is gone.


def _yield_memory() -> None:
    """If memory runs short, let the kernel kill a trial rather than anything else."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        return
