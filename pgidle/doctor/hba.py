"""pg_hba.conf: who is let in without a password, and whether the watching role is.

The reader follows https://www.postgresql.org/docs/current/auth-pg-hba-conf.html and hba.c.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pgidle.doctor.finding import Chart

_TOKEN = re.compile(r'\s*(,|"[^"]*"?|#.*|[^\s,"#]+)')
_HOST = ("host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
INCLUDES = ("include", "include_if_exists", "include_dir")
FIRST_WITH_INCLUDES = 16
"""The major version that knows them: an older one does not start with such a line."""
MISSING = "No such file or directory"
WORLD = ("all", "0.0.0.0/0", "::/0", "0.0.0.0/0.0.0.0")
LOOPBACK = ("127.", "::1", "localhost")
DEPTH = 10
"""So deep may files include one another (CONF_FILE_MAX_DEPTH)."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Files by path: what is in them, which of them are folders (with the files that count), and why others could not
    be read."""

    contents: dict[str, str] = field(default_factory=dict)
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def resolve(file: str, name: str) -> str:
        """A path that a file names, which counts from its own folder."""
        return name if name.startswith("/") else f"{file.rpartition('/')[0]}/{name}"


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `address` is empty for `local`, and CIDR where it was given with a mask."""

    line: int
    kind: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str
    method: str
    options: tuple[str, ...]
    file: str = ""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def matches(self, database: str, user: str) -> bool | None:
        """Whether the record is for them; None where it names groups, files or patterns."""
        unsure = any(one[:1] in ("+", "@", "/") for one in (*self.databases, *self.users))
        unsure = unsure or bool({"samerole", "samegroup"} & set(self.databases))
        names = {"all", database} | ({"sameuser"} if database == user else set())
        is_database = bool(names & set(self.databases))
        is_user = bool({"all", user} & set(self.users))
        return True if is_database and is_user else None if unsure else False


@dataclass(frozen=True, slots=True)
class Oddity:
    """A line that is no record, or an include of a file that was not read. `why` is empty for what Postgres refuses."""

    where: str
    text: str
    why: str = ""


def numbered_fields(text: str) -> Iterator[tuple[int, list[list[str]]]]:
    """The fields of each line that has any."""
    for number, line in _lines(text):
        if fields := _fields(line):
            yield number, fields


def named_files(file: str, text: str) -> list[str]:
    """What a file of records or maps includes, and the files of names (@NAME) in its fields."""
    found = []
    for _, fields in numbered_fields(text):
        if fields[0][0] in INCLUDES and len(fields) == 2:
            found.append(Texts.resolve(file, fields[1][0]))
        found += [Texts.resolve(file, one[1:]) for each in fields[1:3] for one in each if one[:1] == "@"]
    return found


def read_all(file: str, texts: Texts, version: int, depth: int = 0) -> Iterator[Record | Oddity]:
    """Records in order, those of included files in their place."""
    for one in read_hba(texts.contents.get(file, "")):
        if isinstance(one, Record):
            names = (_named(one.databases, file, texts), _named(one.users, file, texts))
            yield replace(one, databases=names[0], users=names[1], file=file)
            continue
        number, line = one
        fields = _fields(line)
        where = f"{file}:{number}"
        if fields[0][0] not in INCLUDES or len(fields) != 2 or version < FIRST_WITH_INCLUDES or depth > DEPTH:
            yield Oddity(where, line)
            continue
        path = Texts.resolve(file, fields[1][0])
        why = texts.unread.get(path)
        if why == MISSING:
            if fields[0][0] != "include_if_exists":
                yield Oddity(where, line)
        elif why is not None:
            yield Oddity(where, line, why)
        for each in texts.folders.get(path, (path,)):
            yield from read_all(each, texts, version, depth + 1)


def _named(names: tuple[str, ...], file: str, texts: Texts) -> tuple[str, ...]:
    """With the names that are in files in place of @FILE; where that was not read it stays."""
    found: list[str] = []
    for name in names:
        path = Texts.resolve(file, name[1:]) if name[:1] == "@" else ""
        if path in texts.contents:
            listed = numbered_fields(texts.contents[path])
            found += [each for _, fields in listed for one in fields for each in one]
        else:
            found.append(name)
    return tuple(found)


def read_hba(text: str) -> Iterator[Record | tuple[int, str]]:
    """Records in order; for a line that is none, its number and what it says. An include is such a line too."""
    for number, line in _lines(text):
        fields = _fields(line)
        if not fields:
            continue
        kind = fields[0][0]
        least = 4 if kind == "local" else 5
        if kind not in (*_HOST, "local") or len(fields) < least:
            yield number, line.strip()
            continue
        at, address = 3, ""
        if kind != "local":
            address, at = fields[3][0], 4
            if "/" not in address and re.fullmatch(r"[\d.]+|[\da-fA-F:]*:[\da-fA-F:.]*", fields[4][0]):
                address, at = _cidr(address, fields[4][0]), 5
        if len(fields) <= at:
            yield number, line.strip()
            continue
        options = tuple(one for field in fields[at + 1 :] for one in field)
        yield Record(number, kind, tuple(fields[1]), tuple(fields[2]), address, fields[at][0], options)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines, joined where one ends in a backslash."""
    begun, kept = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        begun = begun or number
        if line.endswith("\\"):
            kept += line[:-1]
            continue
        yield begun, kept + line
        begun, kept = 0, ""


def _fields(line: str) -> list[list[str]]:
    """Fields, each a list by comma; a quoted word is no keyword, and keeps its quotes off."""
    fields: list[list[str]] = []
    joins = False
    for found in _TOKEN.finditer(line):
        token = found[1]
        if token.startswith("#"):
            break
        if token == ",":
            if found[0] != ",":
                return [["a comma that follows a space"]]  # Postgres ends the field before it.
            joins = True
            continue
        word = token.strip('"') if token.startswith('"') else token
        if joins and fields:
            fields[-1].append(word)
        else:
            fields.append([word])
        joins = False
    return fields


def _cidr(address: str, mask: str) -> str:
    try:
        return str(ipaddress.ip_network(f"{address}/{mask}", strict=False))
    except ValueError:
        return f"{address}/{mask}"


def check_hba(
    chart: Chart,
    file: str,
    texts: Texts,
    *,
    watchers: Sequence[str],
    is_mapped: Callable[[str, str], bool | None],
    system_user: str,
    is_public: bool,
    has_ssl: bool,
    version: int,
) -> None:
    """`watchers` are the roles that the watching connection tries, empty if it goes another way; `is_mapped` says of a
    map of pg_ident.conf and a role whether the map lets `system_user` in as that role (None: it cannot tell);
    `is_public` says whether Postgres listens beyond loopback, `has_ssl` whether `ssl` is on; `version` is the major
    one."""
    chart.read.append(", ".join(texts.contents) or file)
    if (why := texts.unread.get(file)) is not None:
        if why == MISSING:
            chart.wrong(f"there is no {file}", file, "Postgres does not start without it", "restore it")
        else:
            chart.unknown(f"what {file} says", file, f"it cannot be read: {why}", "run pgidle doctor as root")
        return
    found = list(read_all(file, texts, version))
    records = [one for one in found if isinstance(one, Record)]
    for one in found:
        if isinstance(one, Record):
            continue
        if one.why:
            chart.unknown(
                f"what `{one.text}` brings in",
                one.where,
                f"it cannot be read: {one.why}",
                "run pgidle doctor as root; or SELECT * FROM pg_hba_file_rules, while Postgres is awake",
            )
        elif one.text.split()[0] in INCLUDES:
            chart.wrong(
                f"`{one.text[:60]}`",
                one.where,
                "Postgres does not start with it: what it names is not there"
                if version >= FIRST_WITH_INCLUDES
                else f"Postgres {version} does not start with it: {FIRST_WITH_INCLUDES} is the first that knows it",
                "take the line out, or make the file",
            )
        else:
            chart.wrong(
                f"not a record: {one.text[:60]}",
                one.where,
                "Postgres does not start with it",
                "host all all 10.0.0.0/8 scram-sha-256",
            )
    if not found:
        chart.wrong(
            f"{file} has no records",
            f"{file}:1",
            "Postgres does not start without any",
            f"local all {system_user} peer",
        )
        return
    _check_trust(chart, records, is_public=is_public)
    if watchers:
        _check_watcher(chart, file, records, watchers, system_user, is_mapped)
    if is_public:
        _check_network(chart, file, records, has_ssl=has_ssl)


def _is_loopback(record: Record) -> bool:
    return record.address.startswith(LOOPBACK) or record.address == "samehost"


def _check_trust(chart: Chart, records: Sequence[Record], *, is_public: bool) -> None:
    trusted = [one for one in records if one.kind in _HOST and one.method == "trust"]
    for one in trusted:
        if _is_loopback(one):
            continue
        if one.address in WORLD and is_public:
            chart.wrong(
                f"trust for {one.address}",
                one.where,
                "whoever reaches the port is any user, superuser included, without a password",
                f"{one.kind} {','.join(one.databases)} {','.join(one.users)} {one.address} scram-sha-256",
            )
        else:
            chart.note(
                f"trust for {one.address}",
                one.where,
                "whoever connects from there is any user without a password",
                "scram-sha-256 in place of trust",
            )
    # pgidle relays nothing, so a remote client never looks like a local one: only other programs do that.
    loopback = [one for one in trusted if _is_loopback(one)]
    if loopback:
        chart.note(
            f"trust for {', '.join(dict.fromkeys(one.address for one in loopback))}",
            loopback[0].where,
            "every program on this machine is any user without a password, and so is who comes through a proxy, a"
            " pooler or a tunnel on it; pgidle is none of these, Postgres sees the client's own address",
            "scram-sha-256 in place of trust, unless nothing else runs here",
        )
    if not trusted:
        chart.fine("nobody is trusted over TCP without a password")


def _check_watcher(
    chart: Chart,
    file: str,
    records: Sequence[Record],
    watchers: Sequence[str],
    system_user: str,
    is_mapped: Callable[[str, str], bool | None],
) -> None:
    local = [one for one in records if one.kind == "local"]
    refused: list[tuple[str, Record | None]] = []
    for user in watchers:
        decided: Record | None = None
        for one in local:
            matches = one.matches("postgres", user)
            if matches is None:
                chart.unknown(
                    f"whether the watching role {user} is let in",
                    one.where,
                    "the record names groups, files or patterns, which only Postgres can tell the members of",
                    "pgidle status, while Postgres is awake, says whether it sees everything",
                )
                return
            if matches:
                decided = one
                break
        lets_in = _lets_in(decided, user, system_user, is_mapped) if decided is not None else False
        if decided is not None and lets_in is None:
            chart.unknown(
                f"whether the watching role {user} is let in",
                decided.where,
                "its map in pg_ident.conf names groups, or cannot be read",
                "pgidle status, while Postgres is awake, says whether it sees everything",
            )
            return
        if decided is not None and lets_in:
            chart.fine(f"the watching role {user} is let in over the Unix socket ({decided.method})")
            return
        refused.append((user, decided))
    user, record = refused[-1]
    method = f"its method is {record.method}" if record is not None else "no local record is for it"
    if record is not None and (name := _map(record)):
        method = f"no line of the map {name} in pg_ident.conf lets the system's user {system_user} in as it"
    chart.wrong(
        f"the watching connection is not let in: {' and '.join(one for one, _ in refused)} over the Unix socket,"
        f" {method}",
        record.where if record is not None else f"{file}:1",
        "pgidle cannot see whether Postgres is used, so it never sleeps",
        f"local postgres {system_user if system_user in watchers else user} peer, as the first record;"
        " or pgidle run --watch with a connection string that is let in",
    )


def _map(record: Record) -> str:
    return next((one.removeprefix("map=") for one in record.options if one.startswith("map=")), "")


def _lets_in(
    record: Record, user: str, system_user: str, is_mapped: Callable[[str, str], bool | None]
) -> bool | None:
    """Whether a `local` record lets a role in whom nobody is there to type a password for."""
    if record.method == "trust":
        return True
    if record.method not in ("peer", "ident"):
        return False
    name = _map(record)
    return is_mapped(name, user) if name else user == system_user


def _check_network(chart: Chart, file: str, records: Sequence[Record], *, has_ssl: bool) -> None:
    remote = [
        one for one in records if one.kind in _HOST and not _is_loopback(one) and one.method != "reject"
    ]
    if not remote:
        chart.note(
            "no record lets anybody in over the network",
            records[-1].where if records else f"{file}:1",
            "clients from elsewhere get `no pg_hba.conf entry for host`, although the port is open to them",
            "host all all all scram-sha-256, or pgidle run --listen-addresses localhost",
        )
    elif all(one.kind == "hostssl" for one in remote):
        if has_ssl:
            chart.note(
                "clients from elsewhere are let in with TLS only (hostssl)",
                remote[0].where,
                "who says sslmode=disable, as clients do over Flycast, gets `no pg_hba.conf entry`",
                f"host in place of hostssl for the network that is safe without ({remote[0].address})",
            )
        else:
            chart.wrong(
                "clients from elsewhere are let in with TLS only (hostssl), and ssl is off",
                remote[0].where,
                "nobody gets in: `no pg_hba.conf entry for host`",
                "host in place of hostssl, or ssl = on in postgresql.conf",
            )
    else:
        chart.fine("clients from elsewhere have a record")
