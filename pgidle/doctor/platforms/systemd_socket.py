"""A .socket unit: whether it starts pgidle, and what it listens on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.unit_file import Beside, Setting, Unit


LOOPBACK_OR_ANY = ("[::]", "[::1]", "0.0.0.0", "127.", "localhost")


def _starts_pgidle(unit: Unit, beside: Beside) -> bool | None:
    """Whether a socket unit starts pgidle; None if that is unclear."""
    name = unit.name.rpartition("/")[2]
    if "pgidle" in name or "pgidle" in unit.word("Socket", "Service"):
        return True
    if beside.service is not None:
        return "pgidle" in beside.service
    return None


def examine_socket(chart: Chart, unit: Unit, beside: Beside) -> None:
    streams = unit.all("Socket", "ListenStream")
    is_ours = _starts_pgidle(unit, beside)
    if is_ours is not True and not any(re.search(r"(?:^|:)5432$", one.value) for one in streams):
        started = unit.word("Socket", "Service") or unit.name.rpartition("/")[2].replace(
            ".socket", ".service"
        )
        what = (
            "this socket does not start pgidle" if is_ours is False else "whether this socket starts pgidle"
        )
        chart.unknown(
            what,
            f"{unit.name}:1",
            f"it is for {started}, "
            + ("which does not name it" if is_ours is False else "which is not beside it"),
            f"give {started} to pgidle doctor, too",
        )
        return
    place = unit.where("Socket", "ListenStream")
    if not streams and unit.is_template:
        chart.unknown(
            "where the socket listens",
            place,
            "a template leaves that to the drop-in of each instance",
            "give the drop-in, as pgidle@NAME.socket.d/listen.conf",
        )
    elif not streams:
        chart.wrong(
            "no ListenStream=", place, "nothing listens, so nothing wakes Postgres", "ListenStream=5432"
        )
    for one in streams:
        if one.value.startswith(("/", "@")):
            _check_unix(chart, unit, one, streams)
        elif (one.value.isdecimal() or one.value.startswith("[::]:")) and unit.word(
            "Socket", "BindIPv6Only"
        ) != "ipv6-only":
            chart.wrong(
                f"ListenStream={one.value} takes IPv4 and IPv6 with one socket",
                one.where,
                "Postgres has one socket for each, so pgidle refuses to start with this one",
                "BindIPv6Only=ipv6-only, and ListenStream=0.0.0.0:5432 beside ListenStream=[::]:5432",
            )
        elif (
            ":" in one.value
            and not one.value.startswith(LOOPBACK_OR_ANY)
            and not unit.is_on("Socket", "FreeBind")
        ):
            chart.note(
                f"ListenStream={one.value} without FreeBind=yes",
                one.where,
                "at boot the socket fails if the machine does not have the address yet",
                "FreeBind=yes",
            )
    if unit.is_on("Socket", "Accept"):
        chart.wrong(
            "Accept=yes",
            unit.where("Socket", "Accept"),
            "systemd would start one pgidle for each connection",
            "Accept=no, which is the default",
        )


def _check_unix(chart: Chart, unit: Unit, stream: Setting, streams: list[Setting]) -> None:
    """Postgres's Unix sockets are recognized by their names."""
    named = re.search(r"/\.s\.PGSQL\.(\d+)$", stream.value)
    ports = [found[1] for one in streams if (found := re.search(r"(?:^|:)(\d+)$", one.value))]
    port = ports[0] if ports else "5432"
    said = unit.last("Socket", "SocketUser")
    if named is None and "%" not in stream.value:
        chart.wrong(
            f"ListenStream={stream.value} is not a Unix socket of Postgres's",
            stream.where,
            f"Postgres listens on .s.PGSQL.{port} in one of unix_socket_directories, and nowhere else",
            f"ListenStream=/run/postgresql/.s.PGSQL.{port}",
        )
    elif named is not None and ports and named[1] not in ports:
        chart.wrong(
            f"ListenStream={stream.value} is for port {named[1]}, and TCP has {port}",
            stream.where,
            "one Postgres has one port, and its Unix socket is named after it, too",
            f"ListenStream={stream.value[: named.start(1)]}{port}",
        )
    elif stream.value.startswith("/") and said is not None and said.value not in ("root", "0"):
        chart.note(
            f"SocketUser={said.value}",
            said.where,
            f"systemd gives {said.value} whatever a link at {stream.value} leads to, even a file of root's, if "
            "that user may write to the folder",
            "leave it out: root's socket serves Postgres as well, and SocketMode= says who may connect",
        )
    else:
        chart.fine(f"the Unix socket {stream.value} wakes it, too")
