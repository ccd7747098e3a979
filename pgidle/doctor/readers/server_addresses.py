"""Which variables and words in a file are the address of a Postgres server, and which only look like one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_URL = re.compile(
    r"\b(?:jdbc:)?(?:postgres(?:ql)?|postgis|pgsql|ecto)(?:\+\w+)?://(?:[^\s/@\"']*@)?([^\s/?\"'#]*)([^\s\"'#]*)"
)
_OTHER_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CONNINFO = re.compile(r"(?:^|[\s;\"'])(?:host|hostaddr)\s*=\s*([^\s;\"']+)", re.IGNORECASE)
_CONNINFO_PORT = re.compile(r"(?:^|[\s;\"'])port\s*=\s*(\d+)", re.IGNORECASE)
_SSLMODE = re.compile(r"[?&\s]sslmode=([\w-]+)")
_BARE = re.compile(r"^([\w.-]+|\[[0-9a-f:]+\]):(\d{1,5})(?:/|$)", re.IGNORECASE)
_HOST = re.compile(r"^[\w.-]+$|^\[?[0-9a-fA-F:]+\]?$|^/")
_OURS = re.compile(
    r"(?:^|_)(?:PG|POSTGRES|POSTGRESQL|PSQL|PGSQL|TIMESCALE)_?"
    r"(?:DB_?)?(?:HOST|HOSTNAME|HOSTADDR|SERVER|ADDR|ADDRESS|ENDPOINT)$|^DATA_SOURCE_URI$",
    re.IGNORECASE,
)
_ANY = re.compile(r"(?:^|_)(?:DB|DATABASE|SQL)_?(?:HOST|HOSTNAME|SERVER|ADDR|ADDRESS)$", re.IGNORECASE)
_SAYS_POSTGRES = re.compile(r"postgres|\bpgsql\b|\bpsycopg|\basyncpg\b|\b5432\b", re.IGNORECASE)
_SAYS_OTHER = re.compile(
    r"mysql|mariadb|mongo|\b3306\b|\b27017\b|mssql|sqlserver|oracle|sqlite", re.IGNORECASE
)
PORT = "5432"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, or a word of a command, whose name is empty."""

    name: str
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Address:
    """`host` is a folder for a Unix socket. `is_sure`: it is certainly a Postgres, not perhaps another database.
    `sslmode` is None if the value is not a connection string, and empty if the string does not set it."""

    variable: Variable
    host: str
    port: str
    is_sure: bool = True
    sslmode: str | None = None

    @property
    def is_socket(self) -> bool:
        return self.host.startswith(("/", "@"))


def addresses(variables: Iterable[Variable]) -> Iterator[Address]:
    """The addresses, in the order of the variables."""
    variables = list(variables)
    dialect = " ".join(f"{one.name}={one.value}" for one in variables if _tells_dialect(one))
    is_postgres, is_other = _SAYS_POSTGRES.search(dialect), _SAYS_OTHER.search(dialect)
    for one in variables:
        found = list(_in_value(one))
        yield from found
        if found or _OTHER_URL.search(one.value) or not _HOST.match(one.value.partition(":")[0]):
            continue
        host, _, port = one.value.partition("/")[0].rpartition(":")
        host, port = (host, port) if port.isdecimal() and host else (one.value, PORT)
        if _OURS.search(one.name):
            yield Address(one, host.partition(",")[0], port)
        elif _ANY.search(one.name) and not (is_other and not is_postgres):
            yield Address(one, host, port, is_sure=bool(is_postgres and not is_other))


def _tells_dialect(one: Variable) -> bool:
    return re.search(r"(?:^|_)(?:DB|DATABASE|SQL|PG|POSTGRES\w*|MYSQL|MARIADB)(?:_|$)", one.name) is not None


def _in_value(one: Variable) -> Iterator[Address]:
    """Connection strings, and anything that ends in Postgres's default port."""
    urls = list(_URL.finditer(one.value))
    for found in urls:
        mode = _SSLMODE.search(found[2])
        socket = re.search(r"[?&]host=([^&]+)", found[2])
        for each in (socket[1] if socket else found[1]).split(","):
            host, _, port = each.rpartition(":") if re.search(r":\d*$", each) else (each, "", PORT)
            yield Address(one, host, port or PORT, sslmode=mode[1] if mode else "")
    if urls:
        return
    is_ours = re.search(r"(?:PG|POSTGRES|DATABASE|DB|DATA_SOURCE)\w*", one.name, re.IGNORECASE) is not None
    if (host := _CONNINFO.search(one.value)) is not None and (is_ours or "dbname=" in one.value):
        port, mode = _CONNINFO_PORT.search(one.value), _SSLMODE.search(f" {one.value}")
        if not _SAYS_OTHER.search(one.value):
            yield Address(one, host[1], port[1] if port else PORT, sslmode=mode[1] if mode else "")
    elif (bare := _BARE.match(one.value)) is not None and bare[2] == PORT:
        yield Address(one, bare[1], PORT)
