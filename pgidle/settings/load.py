"""The settings file: whether it counts, and which of its settings do.

It says which programs are run and which folders are made, so all of it counts only if nobody but root and the user who
started pgidle could have written it. Beside a data directory there is often no such place: Postgres's user owns
everything there. From such a file root takes only settings that concern how Postgres sleeps and wakes, which are those
that may be changed while pgidle runs; the file is opened with that user's rights.
"""

from __future__ import annotations

import errno
import os

from pgidle.base.errors import SettingsError
from pgidle.base.record import record
from pgidle.settings.options import OPTIONS
from pgidle.settings.resolve import Origin, RefusedSetting, Source, config_path, parse_file, resolve
from pgidle.system.trusted_path import read_trusted, trust_in
from pgidle.system.users import acting_as, plan, weakness_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.settings.options import Options
    from pgidle.settings.resolve import Resolved
    from pgidle.system.users import Identity

LARGEST_LESSER = 1 << 14
"""Bytes of a lesser user's file: few settings count in it, and TOML can be written so that reading it takes long."""
MISSING = (errno.ENOENT, errno.ENOTDIR)


@record
class Caller:
    """The user who started pgidle: the effective ids at that moment, which `become` changes."""

    uid: int
    gid: int


@record
class Content:
    """The file's content, unchecked. `weakness` is None if all of it counts, otherwise why only part of it does."""

    text: bytes
    keys: Mapping[str, object]
    weakness: str | None = None

    def place(self, error: RefusedSetting) -> RefusedSetting:
        """The same error, with the setting's line if it is about this file."""
        if error.origin.source is not Source.FILE:
            return error
        return error.at_line(line_of(self.text.decode(), error.setting))

    def refuse_unfit(self, path: str) -> None:
        """Raise RefusedSetting for a key that does not count."""
        if self.weakness is None:
            return
        live = {option.name for option in OPTIONS if option.live}
        known = {option.name for option in OPTIONS}
        for key in self.keys:
            name = key.replace("_", "-")
            if name in known - live:
                refused = RefusedSetting(
                    Origin(Source.FILE, path),
                    name,
                    f"{name} does not count: {self.weakness}, and root takes from there only what may be changed while"
                    " pgidle runs",
                    f"set PGIDLE_{name.replace('-', '_').upper()}, or move the file to /etc/pgidle.toml, as root's, and"
                    " set --config",
                )
                raise self.place(refused)


def working_directory() -> str:
    """The working directory; `/` if it was removed, so that absolute paths still work."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def read_settings(
    options: Options, postgres_args: tuple[str, ...], cwd: str | None = None, caller: Caller | None = None
) -> Resolved:
    """Settings from the command line, the environment and the file. Raises SettingsError.

    Relative paths count from `cwd`, by default the working directory; `caller` is the user who started pgidle, if that
    is not the one who runs it now.
    """
    cwd = cwd or working_directory()
    path = config_path(options, os.environ, cwd)[0]
    content = counted(options, os.environ, cwd, caller)
    if content is None:
        return resolve(options, os.environ, None, path, cwd, postgres_args)
    try:
        return resolve(options, os.environ, content.keys, path, cwd, postgres_args)
    except RefusedSetting as error:
        raise content.place(error) from None


def counted(
    options: Options, environ: Mapping[str, str], cwd: str, caller: Caller | None = None
) -> Content | None:
    """The settings file, if there is one. Raises SettingsError if it has a key that does not count, or if it was named
    explicitly but is missing."""
    path, is_asked_for = config_path(options, environ, cwd)
    if path is None:
        return None
    content = read_file(path, options, caller or Caller(os.geteuid(), os.getegid()), cwd)
    if content is not None:
        content.refuse_unfit(path)
    elif is_asked_for:
        raise SettingsError(f"{path} does not exist", "correct --config")
    return content


def line_of(text: str, name: str) -> int | None:
    """The line of a TOML file that begins with a key, or is a heading, of that name, counted from 1. In a setting's
    name `-` and `_` are the same."""
    import tomllib

    lines = text.split("\n")
    for number, line in enumerate(lines):
        key = line.partition("=")[0].strip().strip("[]").strip(" \"'")
        if key.replace("_", "-") == name.replace("_", "-"):
            try:
                # The lines above parse only if this line is not within a string or an array.
                tomllib.loads("\n".join(lines[:number]))
            except ValueError:
                continue
            return number + 1
    return None


def read_file(path: str, options: Options, caller: Caller, cwd: str) -> Content | None:
    """The file's content; None if there is no file. Raises SettingsError if it cannot or must not be read."""
    try:
        text, weakness = read_trusted(path, trust_in(caller.uid, caller.gid))
    except OSError as error:
        if error.errno in MISSING:
            return None
        if error.errno != errno.ELOOP and (error.errno != errno.EACCES or caller.uid != 0):
            raise _unreadable(path, error) from None
        why = f"{error.filename or path}: {error.strerror}"
    else:
        if weakness is None:
            return Content(text, parse_file(text, path))
        why = weakness_text(weakness)
    return _read_lesser(path, why, options, caller, cwd)


def _read_lesser(path: str, why: str, options: Options, caller: Caller, cwd: str) -> Content | None:
    """The content of a file that only the user that root becomes could have written, read with that user's rights."""
    if caller.uid != 0:
        raise _refusal(path, why, caller)
    if not (options.get("data-dir") or os.environ.get("PGIDLE_DATA_DIR") or os.environ.get("PGDATA")):
        # The file itself must not decide who that user is.
        raise _refusal(path, why, caller)
    identity = _identity(options, cwd)
    try:
        with acting_as(identity):
            text, weakness = read_trusted(path, trust_in(*_ids(identity)))
    except OSError as error:
        if error.errno in MISSING:
            return None
        raise _unreadable(path, error) from None
    if weakness is not None:
        raise _refusal(path, weakness_text(weakness), caller)
    if len(text) > LARGEST_LESSER:
        raise SettingsError(f"{path} is larger than {LARGEST_LESSER >> 10} kB", "make it shorter")
    return Content(text, parse_file(text, path), why)


def _refusal(path: str, why: str, caller: Caller) -> SettingsError:
    return SettingsError(
        f"{path} is not read: {why}, so that somebody else could have written it",
        f"chown {'root' if caller.uid == 0 else 'it to yourself'} and chmod go-w, or set --config to a place that is"
        " nobody else's, such as /etc/pgidle.toml",
    )


def _identity(options: Options, cwd: str) -> Identity | None:
    """The user that root becomes; None once it has."""
    settings = resolve(options, os.environ, None, None, cwd).settings
    return plan(settings.user if os.geteuid() == 0 else None, settings.data_dir)


def _ids(identity: Identity | None) -> tuple[int, int]:
    return (identity.uid, identity.gid) if identity is not None else (os.geteuid(), os.getegid())


def _unreadable(path: str, error: OSError) -> SettingsError:
    return SettingsError(f"{path} cannot be read: {error.strerror}", "fix it, or set --config")
