"""Checks that only the user that Postgres runs as can make: a child process becomes that user and makes them."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import PgidleError
from pgidle.gate.gate import Mode
from pgidle.gate.preload import open_library
from pgidle.system.users import become, for_children

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.settings.resolve import Settings
    from pgidle.system.users import Identity


PATIENCE = 10
"""Seconds that Postgres has for reading its configuration."""


@dataclass(frozen=True, slots=True)
class Question:
    """`postgres` is the program; None if it was not found or has no data directory yet."""

    settings: Settings
    postgres: str | None
    ssl_files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """`socket_dirs` is what Postgres would use, None if it could not be asked. `refusal` is its message if it would not
    start. `closed_dirs` are those of the folders that the user cannot write to, each with why. `unusable` are the TLS
    files that cannot be used, by setting, with why."""

    gate_mode: str
    gate_why: str
    socket_dirs: str | None = None
    refusal: str = ""
    closed_dirs: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    @property
    def mode(self) -> Mode:
        return Mode(self.gate_mode)


def ask(identity: Identity | None, question: Question) -> Answer:
    """Ask as that user, in a child process that becomes it for good, so that the kernel judges. Raises PgidleError.

    Everything that the child needs is imported before: the user may not be able to read Python.
    """
    library = open_library()
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.close(reader)
            # The programs that it runs must not be able to type into root's terminal.
            os.setsid()
            if identity is not None:
                become(identity)
            answer = json.dumps(asdict(_answer(question, is_compiled=library is not None)))
            with os.fdopen(writer, "w", encoding="utf-8", errors="surrogateescape") as out:
                out.write(answer)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
            traceback.print_exc(file=sys.stderr)
        os._exit(1)
    os.close(writer)
    if library is not None:
        os.close(library)
    with os.fdopen(reader, encoding="utf-8") as said:
        text = said.read()
    os.waitpid(pid, 0)
    if not text:
        who = identity.name if identity is not None else "this user"
        raise PgidleError(f"the checks as {who} ended without an answer", "see their output above")
    return Answer(**json.loads(text))


def _answer(question: Question, *, is_compiled: bool) -> Answer:
    settings = question.settings
    mode, why = Mode.SHARED, ""
    if not is_compiled:
        mode, why = Mode.NONE, "the library was not compiled: install a C compiler and then pgidle again"
    folders, refusal = settings.socket_dir, ""
    if question.postgres is not None:
        said, status = _run(_command(question.postgres, settings))
        if status:
            refusal = said
        else:
            folders = said.strip()
    closed = {
        folder: _why_closed(folder)
        for folder in (one.strip() for one in (folders or "").split(","))
        if folder and not folder.startswith("@") and _why_closed(folder)
    }
    files = {name: _why_unusable(name, path) for name, path in question.ssl_files.items()}
    unusable = {name: why for name, why in files.items() if why}
    return Answer(mode.value, why, folders, refusal, closed, unusable)


def _command(postgres: str, settings: Settings) -> list[str]:
    """Print one setting as a start would see it: for that Postgres reads and judges its whole configuration."""
    command = [postgres, *settings.postgres_args, "-D", settings.data_dir, "-C", "unix_socket_directories"]
    return [*command, "-k", settings.socket_dir] if settings.socket_dir is not None else command


def _run(command: Sequence[str]) -> tuple[str, int]:
    """What it prints, on either stream if it fails, and its exit status."""
    out, err = os.pipe(), os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, out[1], 1),
        (os.POSIX_SPAWN_DUP2, err[1], 2),
    ]
    pid = os.posix_spawn(
        command[0], list(command), {**for_children(os.environ), "LC_ALL": "C"}, file_actions=actions
    )
    os.close(out[1])
    os.close(err[1])
    # A file that it reads may be a FIFO without a writer.
    signal.signal(signal.SIGALRM, lambda _number, _frame: os.kill(pid, signal.SIGKILL))
    signal.alarm(PATIENCE)
    with os.fdopen(out[0], encoding="utf-8", errors="replace") as stream:
        said = stream.read()
    with os.fdopen(err[0], encoding="utf-8", errors="replace") as stream:
        complaint = stream.read()
    _, status = os.waitpid(pid, 0)
    if signal.alarm(0) == 0:
        complaint = f"postgres -C did not end within {PATIENCE} s"
    return (complaint, status) if status else (said, 0)


def _why_closed(folder: str) -> str:
    if not Path(folder).is_dir():
        return "it does not exist"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "it is not writable"


def _why_unusable(name: str, path: str) -> str:
    try:
        found = Path(path).stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not os.access(path, os.R_OK):
        return f"{path} cannot be read"
    # be-secure-common.c: for its owner alone, or owned by root and then for a group, too.
    forbidden = 0o027 if found.st_uid == 0 else 0o077
    if name == "ssl_key_file" and found.st_mode & forbidden:
        return f"{path} has permissions {found.st_mode & 0o777:04o}"
    return ""
