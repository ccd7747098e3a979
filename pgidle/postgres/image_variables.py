"""The variables that configure the first start, with the names and rules of the official `postgres` image.

They are read while still root and before anything is written: only root may be able to read a secret's file, and a
refusal must leave nothing behind.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

FROM_FILE = ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_INITDB_ARGS")
"""Variables that have a `_FILE` form, which names a file with the value."""


@dataclass(frozen=True, slots=True)
class FirstStart:
    """The superuser, the database made for it, and how clients authenticate.

    `auth_method` is the method in pg_hba.conf for all hosts; None: the one that passwords are encrypted with.
    """

    user: str
    database: str
    password: str | None = field(repr=False)
    auth_method: str | None
    initdb_args: tuple[str, ...]
    wal_dir: str | None

    @property
    def trusts(self) -> bool:
        return self.auth_method == "trust"

    @property
    def syncs(self) -> bool:
        """Whether the files are synced to disk; `--no-sync` asks for speed instead."""
        return not {"-N", "--no-sync"} & set(self.initdb_args)

    def script_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` with the values instead of `_FILE` variables, whose files the user may not be able to read."""
        values = {
            "POSTGRES_USER": self.user,
            "POSTGRES_DB": self.database,
            "POSTGRES_PASSWORD": self.password or "",
            "POSTGRES_INITDB_ARGS": shlex.join(self.initdb_args),
        }
        return {
            name: value for name, value in environ.items() if name.removesuffix("_FILE") not in FROM_FILE
        } | values


def first_start(environ: Mapping[str, str]) -> FirstStart:
    """Read the environment. Raises SettingsError, also for no password and no explicit `trust`."""
    user = _value(environ, "POSTGRES_USER") or "postgres"
    database = _value(environ, "POSTGRES_DB") or user
    password = _value(environ, "POSTGRES_PASSWORD") or None
    for name, value in (("POSTGRES_USER", user), ("POSTGRES_DB", database), ("POSTGRES_PASSWORD", password)):
        if value is not None and {"\n", "\r"} & set(value):
            raise SettingsError(f"{name} has a line break in it", "leave it out")
    auth_method = environ.get("POSTGRES_HOST_AUTH_METHOD", "").strip() or None
    if password is None and auth_method != "trust":
        raise SettingsError(
            "the first start needs a password for the superuser",
            "set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE (or POSTGRES_HOST_AUTH_METHOD=trust)",
        )
    if auth_method is not None and "\n" in auth_method:
        raise SettingsError("POSTGRES_HOST_AUTH_METHOD has a line break in it", "leave it out")
    try:
        initdb_args = tuple(shlex.split(_value(environ, "POSTGRES_INITDB_ARGS")))
    except ValueError as fault:
        raise SettingsError(f"POSTGRES_INITDB_ARGS: {fault}", "quote it as for a shell") from None
    wal_dir = environ.get("POSTGRES_INITDB_WALDIR") or None
    if wal_dir is not None and not wal_dir.startswith("/"):
        raise SettingsError(
            f"POSTGRES_INITDB_WALDIR: {wal_dir} is not an absolute path", "write it from / on"
        )
    return FirstStart(user, database, password, auth_method, initdb_args, wal_dir)


def _value(environ: Mapping[str, str], name: str) -> str:
    """The variable, or its file's contents without the line breaks at the end; empty counts as not set."""
    value, file = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    if value and file:
        raise SettingsError(f"{name} and {name}_FILE are both set", "keep one of them")
    if not file:
        return value
    try:
        return os.fsdecode(Path(file).read_bytes().rstrip(b"\n"))
    except OSError as fault:
        raise SettingsError(
            f"{name}_FILE: {file} cannot be read: {fault.strerror}", "name a readable file"
        ) from None
