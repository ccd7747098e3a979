"""pg_hba.conf: who is let in without a password, and whether the watching role is.

The reader follows https://www.postgresql.org/docs/current/auth-pg-hba-conf.html.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pgidle.doctor.finding import Chart

_TOKEN = re.compile(r'\s*(,|"[^"]*"?|#.*|[^\s,"#]+)')
_HOST = ("host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
INCLUDES = ("include", "include_if_exists", "include_dir")
WORLD = ("all", "0.0.0.0/0", "::/0", "0.0.0.0/0.0.0.0")
LOOPBACK = ("127.", "::1", "localhost")


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

    def matches(self, database: str, user: str) -> bool | None:
        """Whether the record is for them; None where it names groups, files or patterns."""
        unsure = any(one[:1] in ("+", "@", "/") for one in (*self.databases, *self.users))
        names = {"all", database} | ({"sameuser"} if database == user else set())
        is_database = bool(names & set(self.databases))
        is_user = bool({"all", user} & set(self.users))
        return True if is_database and is_user else None if unsure else False


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
    text: str,
    *,
    watchers: Sequence[str],
    system_user: str,
    is_public: bool,
    has_ssl: bool,
) -> None:
    """`watchers` are the roles that the watching connection tries, empty if it goes another way; `is_public` says
    whether Postgres listens beyond loopback, `has_ssl` whether `ssl` is on."""
    found = list(read_hba(text))
    records = [one for one in found if isinstance(one, Record)]
    for one in found:
        if not isinstance(one, Record) and one[1].split()[0] in INCLUDES:
            chart.unknown(
                f"what `{one[1]}` brings in",
                f"{file}:{one[0]}",
                "included files are not read here",
                "SELECT * FROM pg_hba_file_rules, while Postgres is awake",
            )
        elif not isinstance(one, Record):
            chart.wrong(
                f"not a record: {one[1][:60]}",
                f"{file}:{one[0]}",
                "Postgres does not start with it",
                "host all all 10.0.0.0/8 scram-sha-256",
            )
    _check_trust(chart, file, records, is_public=is_public)
    if watchers:
        _check_watcher(chart, file, records, watchers, system_user)
    if is_public:
        _check_network(chart, file, records, has_ssl=has_ssl)


def _is_loopback(record: Record) -> bool:
    return record.address.startswith(LOOPBACK) or record.address == "samehost"


def _check_trust(chart: Chart, file: str, records: Sequence[Record], *, is_public: bool) -> None:
    trusted = [one for one in records if one.kind in _HOST and one.method == "trust"]
    for one in trusted:
        if _is_loopback(one):
            continue
        if one.address in WORLD and is_public:
            chart.wrong(
                f"trust for {one.address}",
                f"{file}:{one.line}",
                "whoever reaches the port is any user, superuser included, without a password",
                f"{one.kind} {','.join(one.databases)} {','.join(one.users)} {one.address} scram-sha-256",
            )
        else:
            chart.note(
                f"trust for {one.address}",
                f"{file}:{one.line}",
                "whoever connects from there is any user without a password",
                "scram-sha-256 in place of trust",
            )
    # pgidle relays nothing, so a remote client never looks like a local one: only other programs do that.
    loopback = [one for one in trusted if _is_loopback(one)]
    if loopback:
        chart.note(
            f"trust for {', '.join(dict.fromkeys(one.address for one in loopback))}",
            f"{file}:{loopback[0].line}",
            "every program on this machine is any user without a password, and so is who comes through a proxy, a"
            " pooler or a tunnel on it; pgidle is none of these, Postgres sees the client's own address",
            "scram-sha-256 in place of trust, unless nothing else runs here",
        )
    if not trusted:
        chart.fine("nobody is trusted over TCP without a password")


def _check_watcher(
    chart: Chart, file: str, records: Sequence[Record], watchers: Sequence[str], system_user: str
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
                    f"{file}:{one.line}",
                    "the record names groups, files or patterns, which only Postgres can tell the members of",
                    "pgidle status, while Postgres is awake, says whether it sees everything",
                )
                return
            if matches:
                decided = one
                break
        mapped = decided is not None and any(option.startswith("map=") for option in decided.options)
        if decided is not None and (
            decided.method == "trust" or (decided.method == "peer" and (mapped or user == system_user))
        ):
            chart.fine(f"the watching role {user} is let in over the Unix socket ({decided.method})")
            return
        refused.append((user, decided))
    user, record = refused[-1]
    method = f"its method is {record.method}" if record is not None else "no local record is for it"
    chart.wrong(
        f"the watching connection is not let in: {' and '.join(one for one, _ in refused)} over the Unix socket,"
        f" {method}",
        f"{file}:{record.line if record is not None else 1}",
        "pgidle cannot see whether Postgres is used, so it never sleeps",
        f"local postgres {system_user if system_user in watchers else user} peer, as the first record;"
        " or pgidle run --watch with a connection string that is let in",
    )


def _check_network(chart: Chart, file: str, records: Sequence[Record], *, has_ssl: bool) -> None:
    remote = [
        one for one in records if one.kind in _HOST and not _is_loopback(one) and one.method != "reject"
    ]
    if not remote:
        chart.note(
            "no record lets anybody in over the network",
            f"{file}:{records[-1].line if records else 1}",
            "clients from elsewhere get `no pg_hba.conf entry for host`, although the port is open to them",
            "host all all all scram-sha-256, or pgidle run --listen-addresses localhost",
        )
    elif all(one.kind == "hostssl" for one in remote):
        if has_ssl:
            chart.note(
                "clients from elsewhere are let in with TLS only (hostssl)",
                f"{file}:{remote[0].line}",
                "who says sslmode=disable, as clients do over Flycast, gets `no pg_hba.conf entry`",
                f"host in place of hostssl for the network that is safe without ({remote[0].address})",
            )
        else:
            chart.wrong(
                "clients from elsewhere are let in with TLS only (hostssl), and ssl is off",
                f"{file}:{remote[0].line}",
                "nobody gets in: `no pg_hba.conf entry for host`",
                "host in place of hostssl, or ssl = on in postgresql.conf",
            )
    else:
        chart.fine("clients from elsewhere have a record")
