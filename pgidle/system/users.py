"""The user to run as: chosen while still root, then become for good.

Everything after `become` is unprivileged, the supervisor included. What a file's mode means to that user is not worked
out here: `acting_as` gives the process the user's effective ids, and the kernel decides.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.base.record import record
from pgidle.system.trusted_path import open_folder, trust_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from pgidle.system.trusted_path import Weakness


PACKAGES = ("anyio", "click", "h11", "pgidle", "psutil", "psycopg", "psycopg_binary", "watchfiles")
"""The packages outside of the standard library that pgidle imports."""

SECRETS = ("POSTGRES_PASSWORD", "PGPASSWORD")
"""Variables that hold a password. Whoever may run a program on the server (COPY TO PROGRAM) reads its environment."""


@record
class Identity:
    """A user, as setuid(2) and its relatives take it. `name` is the one in passwd, or else the uid."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def user_name(uid: int) -> str:
    """The user's name, or `uid 1234` for one without an entry in passwd."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def local_user_name(uid: int) -> str:
    """The same from /etc/passwd alone: whoever else knows users may be slow, or be a client of this very Postgres."""
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, number, *_ = [*line.split(":", 3), "", ""]
                if number == str(uid):
                    return name
    except OSError:
        pass  # Then by number.
    return f"uid {uid}"


def weakness_text(weakness: Weakness) -> str:
    """What is weak about a path, in words."""
    if weakness.is_owned:
        return f"{weakness.path} is {user_name(weakness.uid)}'s"
    return f"{weakness.path} can be written by others than its owner"


def plan(option_user: str | None, data_dir: str) -> Identity | None:
    """The user to become: `option_user`, else the owner of `data_dir` unless that is root, else `postgres`.

    None when not root. Raises SettingsError for a user that is unknown, is root (Postgres refuses to run as root), is
    another one while we are not root, or cannot be determined: an owner counts only where nobody but root and the owner
    could have put the directory there.
    """
    if os.geteuid() != 0:
        if option_user is not None and _look_up(option_user).uid != os.geteuid():
            current = user_name(os.geteuid())
            raise SettingsError(
                f"--user {option_user}: only root can become another user, this is {current}", "leave it out"
            )
        return None
    if option_user is not None:
        identity = _look_up(option_user)
        if identity.uid == 0:
            raise SettingsError(f"--user {option_user}: Postgres refuses to run as root", "name another user")
        return identity
    try:
        found = os.stat(data_dir)
    except OSError:
        pass
    else:
        if found.st_uid != 0:
            if stat.S_ISDIR(found.st_mode):
                _refuse_planted(data_dir, found)
            return _of_uid(found.st_uid, found.st_gid)
    try:
        return _of_entry(pwd.getpwnam("postgres"))
    except KeyError:
        raise SettingsError(
            "started as root, which Postgres refuses to run as, and there is no user postgres",
            "name one with --user",
        ) from None


def _refuse_planted(data_dir: str, owner: os.stat_result) -> None:
    """Raise SettingsError if somebody else could have put the owner's directory there, and so choose who pgidle
    becomes."""
    why = "it has just been replaced"
    try:
        folder, weakness = open_folder(data_dir, trust_in(owner.st_uid, owner.st_gid))
    except OSError as fault:
        why = f"{fault.filename}: {fault.strerror}"
    else:
        is_same = os.path.samestat(os.fstat(folder), owner)
        os.close(folder)
        # Whether others may write to the directory itself is checked by Postgres.
        if is_same and (weakness is None or weakness.path == os.path.realpath(data_dir)):
            return
        if weakness is not None:
            why = weakness_text(weakness)
    raise SettingsError(
        f"whom {data_dir} belongs to does not tell who Postgres is to run as: {why}",
        f"pass --user {user_name(owner.st_uid)} if that is who",
    )


def _look_up(user: str) -> Identity:
    try:
        return _of_entry(pwd.getpwnam(user))
    except KeyError:
        if user.isdecimal():
            return _of_uid(int(user), int(user))
        raise SettingsError(
            f"--user {user}: there is no such user", "name one that passwd knows, or a uid"
        ) from None


def _of_uid(uid: int, gid: int) -> Identity:
    try:
        return _of_entry(pwd.getpwuid(uid))
    except KeyError:
        return Identity(str(uid), uid, gid, (gid,), "/")


def _of_entry(entry: pwd.struct_passwd) -> Identity:
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Identity(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


class acting_as:
    """Within the block the effective ids are the identity's, so that the kernel applies that user's permissions.

    Does nothing for None, or when not root. Only for a process with a single thread.
    """

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity if os.geteuid() == 0 else None

    def __enter__(self) -> None:
        self._gid, self._groups = os.getegid(), os.getgroups()
        if self._identity is None:
            return
        try:
            os.setgroups(self._identity.groups)
            os.setegid(self._identity.gid)
            os.seteuid(self._identity.uid)
        except OSError as fault:
            self._restore()
            raise _cannot_become(self._identity, fault) from None

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._identity is not None:
            self._restore()

    def _restore(self) -> None:
        os.seteuid(0)
        os.setegid(self._gid)
        os.setgroups(self._groups)


def become(identity: Identity) -> None:
    """Become the user for good: ids, groups, capabilities (the kernel drops them), HOME, USER and LOGNAME.

    A working directory that the user cannot enter (root's home) is left for `/`: Postgres must return to it.
    """
    try:
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as fault:
        raise _cannot_become(identity, fault) from None
    os.environ.update(HOME=identity.home, USER=identity.name, LOGNAME=identity.name)
    if not os.access(".", os.R_OK | os.X_OK):
        os.chdir("/")


def for_children(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of programs that pgidle starts: without passwords, and without its own settings, which may hold
    one."""
    return {
        name: value
        for name, value in environ.items()
        if name not in SECRETS and not name.startswith("PGIDLE_")
    }


def output_of(program: str, arguments: Sequence[str], identity: Identity | None) -> bytes:
    """What a program prints on standard output, run as the identity for good: with effective ids alone it could become
    root again. It gets no terminal, and no descriptor but the standard three. Raises OSError where it cannot run.
    """
    reader, writer = os.pipe()
    failed, failing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.seteuid(os.getuid())
            os.setsid()
            if identity is not None:
                become(identity)
            null = os.open(os.devnull, os.O_RDWR)
            for number, descriptor in enumerate((null, writer, null)):
                os.dup2(descriptor, number)
            os.closerange(3, failing)
            os.closerange(failing + 1, os.sysconf("SC_OPEN_MAX"))
            os.execve(program, [program, *arguments], for_children(os.environ))
        except OSError as fault:
            os.write(failing, str(fault.errno).encode())
        finally:
            os._exit(127)
    for descriptor in (writer, failing):
        os.close(descriptor)
    with open(reader, "rb") as output, open(failed, "rb") as refused:
        text, error = output.read(4096), refused.read()
    os.waitpid(pid, 0)
    if error:
        raise OSError(int(error), os.strerror(int(error)), program)
    return text


def conceal(environ: Mapping[str, str]) -> None:
    """If there is a password in the environment, keep the user's other processes from reading it in /proc (prctl(2),
    PR_SET_DUMPABLE). After `become` the kernel does so by itself."""
    if not {*SECRETS, "PGIDLE_WATCH", "PGIDLE_ON_EVENT"} & environ.keys():
        return
    import ctypes

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


def _cannot_become(identity: Identity, fault: OSError) -> PgidleError:
    return PgidleError(
        f"cannot become user {identity.name}: {fault.strerror}",
        "start as that user, or grant CAP_SETUID and CAP_SETGID",
    )


def python_unreadable(identity: Identity | None) -> str | None:
    """A place that Python imports from and that the identity cannot read, if there is one.

    A virtual environment in root's home is such a place: after `become` no import works any more, not even of a codec.
    Then call `preload` first.
    """
    if identity is None:
        return None
    roots = [folder for folder in sys.path if folder]
    places = [*roots, *(f"{root}/{name}" for root in roots for name in PACKAGES)]
    needed = [
        (place, os.R_OK | os.X_OK if os.path.isdir(place) else os.R_OK)
        for place in (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), *places)
        if os.path.exists(place)
    ]
    with acting_as(identity):
        return next((place for place, mode in needed if not os.access(place, mode, effective_ids=True)), None)
