"""pg_hba.conf: which clients get in without a password, and whether the watching role gets in at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.doctor.readers.hba_records import (
    FIRST_WITH_INCLUDES,
    HOST,
    INCLUDES,
    MISSING,
    Oddity,
    Record,
    read_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.hba_records import Texts

WORLD = ("all", "0.0.0.0/0", "::/0", "0.0.0.0/0.0.0.0")
LOOPBACK = ("127.", "::1", "localhost")


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
    """`watchers` are the roles that the watching connection tries, empty if it goes another way. `is_mapped` takes the
    name of a map in pg_ident.conf and a role, and says whether the map lets `system_user` in as that role (None:
    unclear). `is_public`: Postgres listens beyond loopback. `has_ssl`: `ssl` is on. `version` is the major version."""
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
        if isinstance(one, Oddity):
            _check_odd_line(chart, one, version)
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


def _check_odd_line(chart: Chart, odd: Oddity, version: int) -> None:
    """A line that is not a record, or an include that cannot be read."""
    if odd.why:
        chart.unknown(
            f"what `{odd.text}` includes",
            odd.where,
            f"it cannot be read: {odd.why}",
            "run pgidle doctor as root; or SELECT * FROM pg_hba_file_rules, while Postgres is awake",
        )
    elif odd.text.split()[0] in INCLUDES:
        chart.wrong(
            f"`{odd.text[:60]}`",
            odd.where,
            "Postgres does not start with it: what it names does not exist"
            if version >= FIRST_WITH_INCLUDES
            else f"Postgres {version} does not start with it: {FIRST_WITH_INCLUDES} is the first that knows it",
            "take the line out, or create the file",
        )
    else:
        chart.wrong(
            f"not a record: {odd.text[:60]}",
            odd.where,
            "Postgres does not start with it",
            "host all all 10.0.0.0/8 scram-sha-256",
        )


def _is_loopback(record: Record) -> bool:
    return record.address.startswith(LOOPBACK) or record.address == "samehost"


def _check_trust(chart: Chart, records: Sequence[Record], *, is_public: bool) -> None:
    trusted = [one for one in records if one.kind in HOST and one.method == "trust"]
    for one in trusted:
        if _is_loopback(one):
            continue
        if one.address in WORLD and is_public:
            chart.wrong(
                f"trust for {one.address}",
                one.where,
                "anybody who reaches the port can log in as any user, superusers included, without a password",
                f"{one.kind} {','.join(one.databases)} {','.join(one.users)} {one.address} scram-sha-256",
            )
        else:
            chart.note(
                f"trust for {one.address}",
                one.where,
                "anybody who connects from there can log in as any user without a password",
                "scram-sha-256 in place of trust",
            )
    # pgidle relays nothing, so a remote client never looks like a local one: only other programs do that.
    loopback = [one for one in trusted if _is_loopback(one)]
    if loopback:
        chart.note(
            f"trust for {', '.join(dict.fromkeys(one.address for one in loopback))}",
            loopback[0].where,
            "every program on this machine can log in as any user without a password, and so can clients of a proxy, a"
            " pooler or a tunnel on it; pgidle is none of these: Postgres sees the client's own address",
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
                    "the record names groups, files or patterns, and only Postgres knows who belongs to them",
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
        method = (
            f"no line of the map {name} in pg_ident.conf lets the system user {system_user} in as that role"
        )
    chart.wrong(
        f"the watching connection is not let in: {' and '.join(one for one, _ in refused)} over the Unix socket,"
        f" {method}",
        record.where if record is not None else f"{file}:1",
        "pgidle cannot see whether Postgres is in use, so it never sleeps",
        f"local postgres {system_user if system_user in watchers else user} peer, as the first record;"
        " or pgidle run --watch with a connection string that is let in",
    )


def _map(record: Record) -> str:
    return next((one.removeprefix("map=") for one in record.options if one.startswith("map=")), "")


def _lets_in(
    record: Record, user: str, system_user: str, is_mapped: Callable[[str, str], bool | None]
) -> bool | None:
    """Whether a `local` record lets a role in without a password, which pgidle could not supply."""
    if record.method == "trust":
        return True
    if record.method not in ("peer", "ident"):
        return False
    name = _map(record)
    return is_mapped(name, user) if name else user == system_user


def _check_network(chart: Chart, file: str, records: Sequence[Record], *, has_ssl: bool) -> None:
    remote = [one for one in records if one.kind in HOST and not _is_loopback(one) and one.method != "reject"]
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
                "clients with sslmode=disable, as is usual over Flycast, get `no pg_hba.conf entry`",
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
