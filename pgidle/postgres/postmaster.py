"""The postmaster as a child process: spawns, signals and reaps it, and tells when it accepts connections."""

from __future__ import annotations

import os
import struct
import time

from pgidle.base.builtin_modules import close, signal
from pgidle.gate import preload
from pgidle.settings.options import Tls
from pgidle.system.users import for_children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgidle.base.builtin_modules import socket
    from pgidle.settings.resolve import Settings

END_PATIENCE, END_POLL = 10.0, 0.02
"""Seconds that an immediate shutdown, and a SIGKILL, may take; and seconds between two looks whether it has ended."""

_STATE_OFFSET = 16
"""Offset of `state` in pg_control, after a uint64 and two uint32 (src/include/catalog/pg_control.h), in every
version."""
_SHUT_DOWN = (1, 2)
"""DB_SHUTDOWNED, and DB_SHUTDOWNED_IN_RECOVERY: a standby, or a crash recovery that was stopped cleanly."""


def is_shut_down(data_dir: str) -> bool:
    """Whether the cluster was shut down cleanly. False if that cannot be read.

    The exit status alone does not tell: a postmaster also exits with 0 after an immediate shutdown.
    """
    return not os.path.lexists(f"{data_dir}/postmaster.pid") and is_checkpointed(data_dir)


def is_checkpointed(data_dir: str) -> bool:
    """Whether the shutdown checkpoint is written: processes that still run only archive WAL, or send it to replicas.

    False if that cannot be read.
    """
    try:
        with open(f"{data_dir}/global/pg_control", "rb") as file:
            (state,) = struct.unpack_from("=i", file.read(64), _STATE_OFFSET)
    except (OSError, struct.error):
        return False
    return state in _SHUT_DOWN


def has_unlogged(data_dir: str) -> bool:
    """Whether there are unlogged tables, sequences or indexes: only they have an init fork (relpath.h)."""
    from glob import iglob

    places = ("base/*/*_init", "pg_tblspc/*/PG_*/*/*_init")
    return any(next(iglob(place, root_dir=data_dir), None) is not None for place in places)


def unarchived(data_dir: str) -> int:
    """The number of WAL segments that wait for archive_command; 0 if that cannot be read."""
    try:
        return sum(name.endswith(".ready") for name in os.listdir(f"{data_dir}/pg_wal/archive_status"))
    except OSError:
        return 0


class Postmaster:
    """One running postmaster. `pidfd` becomes readable when it has exited (pidfd_open(2))."""

    def __init__(self, pid: int, data_dir: str, channel: socket.socket | None = None) -> None:
        """`channel`: our end of the channel to its library, if it has one; whoever takes it closes it."""
        self.pid = pid
        self.since = time.monotonic()
        self.data_dir = data_dir
        self.pidfd = os.pidfd_open(pid)
        self.channel = channel

    def fast_shutdown(self) -> None:
        """Disconnect everybody, checkpoint, exit 0."""
        self._send(signal.SIGINT)

    def immediate_shutdown(self) -> None:
        """Exit at once, without a checkpoint: safe, and the next start recovers."""
        self._send(signal.SIGQUIT)

    def reload(self) -> None:
        """Read postgresql.conf and pg_hba.conf again."""
        self._send(signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL for every process of Postgres's, the postmaster last."""
        for child in self._children():
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._send(signal.SIGKILL)

    def find_background_writer(self) -> int | None:
        """The background writer's pid. It runs as long as Postgres serves: its end is the first sign of any other end
        (postmaster.c)."""
        return next((child for child in self._children() if b"background writer" in _title(child)), None)

    def connecting(self) -> int:
        """The number of its processes whose client has no session yet, as far as their titles tell. With
        update_process_title off, titles tell nothing after the fork."""
        import re

        # Before a process knows its client it still has the postmaster's own title.
        early = re.compile(
            rb"(?!postgres: ).|postgres: .*(\[local\]|\(\d+\)) (startup|initializing|authentication)$"
        )
        return sum(early.match(_title(child)) is not None for child in self._children())

    def _children(self) -> list[int]:
        """Pids of its processes; none where that cannot be read."""
        try:
            return children_of(self.pid)
        except OSError:
            return []

    def accepts(self) -> bool:
        """Whether connections are accepted: line 8 of postmaster.pid (src/include/utils/pidfile.h) says so.

        Without hot_standby it says `standby` while Postgres recovers, and clients are refused: from a crash or a backup
        that ends by itself. Of a standby it is the last word until that is promoted.
        """
        try:
            with open(f"{self.data_dir}/postmaster.pid", encoding="utf-8", errors="replace") as file:
                lines = file.read().split("\n")
        except OSError:
            return False
        if len(lines) < 8 or lines[0] != str(self.pid):
            return False
        says = lines[7].strip()
        return says == "ready" or (says == "standby" and os.path.lexists(f"{self.data_dir}/standby.signal"))

    def reap(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        close(self.pidfd)
        return os.waitstatus_to_exitcode(status)

    def end(self, stop_timeout: float) -> bool:
        """Stop it cleanly, by force after `stop_timeout` seconds, and wait for its end. For a caller that can no longer
        look after it. Whether it exited with status 0."""
        for number, seconds in (
            (signal.SIGINT, stop_timeout),
            (signal.SIGQUIT, END_PATIENCE),
            (signal.SIGKILL, END_PATIENCE),
        ):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                try:
                    os.kill(self.pid, number)
                    if (status := self.reap()) is not None:
                        return status == 0
                except ProcessLookupError:
                    return False  # Somebody else has reaped it.
                except OSError:
                    pass  # Once more.
                time.sleep(END_POLL)
        return False

    def _send(self, number: int) -> None:
        signal.pidfd_send_signal(self.pidfd, number)


def _title(pid: int) -> bytes:
    """A process's title; empty where it cannot be read."""
    try:
        return title_of(pid)
    except OSError:
        return b""


def children_of(pid: int) -> list[int]:
    """Pids of a process's children (proc_pid_children, proc(5)); none if it is gone.

    Raises OSError, FileNotFoundError on a kernel without CONFIG_PROC_CHILDREN.
    """
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}"):
            raise
        return []


def title_of(pid: int) -> bytes:
    """What a process has written over its arguments, without what fills up the rest; empty if it is gone.

    Raises OSError.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def postgres_command(postgres: str, settings: Settings, hosts: Sequence[str]) -> list[str]:
    """The command line. `postgres` is the program's path; `hosts` are the numeric addresses of the gate's TCP
    listeners, so that Postgres binds the same ones."""
    command = [
        postgres,
        # First, because the last setting counts: Postgres has to listen where the gate does.
        *settings.postgres_args,
        *("-D", settings.data_dir),
        *("-p", str(settings.port)),
        *("-c", f"listen_addresses={','.join(hosts)}"),
        # A backend's crash ends the postmaster, so that clients wait at the gate while Postgres recovers.
        *("-c", "restart_after_crash=off"),
    ]
    if settings.tls is Tls.SELF_SIGNED:
        from pgidle.postgres.tls import postgres_arguments

        command += postgres_arguments(settings.data_dir)
    if settings.socket_dir is not None:
        command += ["-k", settings.socket_dir]
    return command


def spawn(
    command: list[str],
    data_dir: str,
    environ: Mapping[str, str],
    library: int | None,
    listeners: Sequence[int],
    errors: int | None = None,
) -> Postmaster:
    """Start a postmaster in a session of its own: a terminal's Ctrl-C reaches us alone, and nothing of Postgres's can
    type into that terminal (TIOCSTI, ioctl_tty(2)), which may be root's.

    `library` is the open file that it preloads, through which it shares the `listeners`. It gets SIGINT, a fast
    shutdown, when this process dies (PR_SET_PDEATHSIG, set by the library where there is one). `errors` is its standard
    error; ours, if None. Raises OSError where the program cannot be executed or looked after; none is left then.
    """
    environment = for_children(environ)
    quiet_stdin = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    # Python ignores these, and a child inherits what is ignored.
    defaults = (signal.SIGPIPE, signal.SIGXFSZ)
    if library is None:
        return _looked_after(_fork(command, environment, defaults, errors), data_dir, None)
    ours, theirs = preload.make_channel()
    actions = [quiet_stdin, *preload.kept_open(library, theirs.fileno(), *listeners)]
    if errors is not None:
        actions.append((os.POSIX_SPAWN_DUP2, errors, 2))
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            preload.environment(environment, library, theirs.fileno(), listeners),
            file_actions=actions,
            setsid=True,
            setsigdef=defaults,
            setsigmask=(),
        )
        return _looked_after(pid, data_dir, ours)
    except OSError:
        close(ours)
        raise
    finally:
        close(theirs)


def _looked_after(pid: int, data_dir: str, channel: socket.socket | None) -> Postmaster:
    """The new postmaster. If its end could not be noticed it is killed, before it has done anything that the next one
    cannot recover. Raises OSError."""
    try:
        return Postmaster(pid, data_dir, channel)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _fork(
    command: list[str], environment: Mapping[str, str], defaults: Sequence[int], errors: int | None
) -> int:
    """Start it without the library: the child sets PR_SET_PDEATHSIG itself, which takes ctypes and a fork."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    supervisor = os.getpid()
    # Closed by exec, so that an end of file says that it worked.
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if (pid := os.fork()) == 0:
        try:
            os.setsid()
            # SIGINT too: a handler of ours would swallow the supervisor's death between here and exec.
            for number in (*defaults, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            libc.prctl(1, int(signal.SIGINT), 0, 0, 0)  # PR_SET_PDEATHSIG
            if os.getppid() != supervisor:
                os._exit(1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if errors is not None:
                os.dup2(errors, 2)
            os.execve(command[0], command, environment)
        except OSError as error:
            os.write(writer, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(writer)
    with open(reader, "rb") as answer:
        failed = answer.read()
    if failed:
        os.waitpid(pid, 0)
        raise OSError(int(failed), os.strerror(int(failed)))
    return pid
