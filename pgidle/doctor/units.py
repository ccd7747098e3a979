"""systemd's units: a service that may exit, a socket that starts it again, and the time to stop.

Facts are from systemd.service(5), systemd.socket(5), systemd.kill(5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgidle.doctor.durations import systemd_span
from pgidle.doctor.finding import Chart
from pgidle.doctor.stopping import check_kill_timeout, check_signal
from pgidle.doctor.told import run_arguments, settle
from pgidle.doctor.tree import BadFile
from pgidle.doctor.unit_file import Unit, environment, read_unit, split
from pgidle.options import WhenIdle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.doctor.told import Context, Told

STOP_TIMEOUT = 90.0
"""Seconds: systemd's DefaultTimeoutStopSec."""
MIGRATION = "net.ipv4.tcp_migrate_req"
LOOPBACK_OR_ANY = ("[::]", "[::1]", "0.0.0.0", "127.", "localhost")


@dataclass(frozen=True, slots=True)
class Beside:
    """What belongs to a unit and is in other files: drop-ins by name, what EnvironmentFile= names (None: not there)
    by path, and the name of the socket unit of a service, if there is one."""

    drop_ins: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    socket: str | None = None


def examine(name: str, text: str, context: Context, beside: Beside) -> Chart:
    """A .service or a .socket."""
    chart = Chart(name)
    try:
        unit = read_unit(name, text, beside.drop_ins)
    except BadFile as error:
        chart.wrong(
            f"not a unit file: {error.why}",
            f"{name}:{error.line}",
            "systemd passes over what it cannot read",
            "correct the line",
        )
        return chart
    if unit.has("Socket"):
        _examine_socket(chart, unit)
    elif unit.has("Service"):
        _examine_service(chart, unit, context, beside)
    else:
        chart.unknown(
            "which unit this is: there is no [Service] and no [Socket]",
            f"{name}:1",
            "nothing in it runs pgidle",
            "give the service and the socket unit",
        )
    return chart


def _examine_socket(chart: Chart, unit: Unit) -> None:
    streams = unit.all("Socket", "ListenStream")
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
            chart.wrong(
                f"ListenStream={one.value} is a Unix socket",
                one.where,
                "pgidle holds clients on TCP sockets; Postgres makes its Unix socket itself",
                "ListenStream=5432",
            )
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
                "at boot the socket fails if the machine has not got the address yet",
                "FreeBind=yes",
            )
    if unit.is_on("Socket", "ReusePort"):
        chart.fine("ReusePort=yes")
    else:
        chart.wrong(
            "ReusePort=yes is missing",
            unit.where("Socket", "ReusePort", "ListenStream"),
            "Postgres cannot listen beside a socket that does not share its port",
            "ReusePort=yes",
        )
    if unit.is_on("Socket", "Accept"):
        chart.wrong(
            "Accept=yes",
            unit.where("Socket", "Accept"),
            "systemd would start one pgidle for each connection",
            "Accept=no, which is the default",
        )


def _examine_service(chart: Chart, unit: Unit, context: Context, beside: Beside) -> None:
    start = unit.last("Service", "ExecStart")
    command = split(start.value.lstrip("@-:+!|")) if start is not None else []
    at = next((at for at, word in enumerate(command) if word.rpartition("/")[2] == "pgidle"), None)
    if start is None or at is None or command[at + 1 : at + 2] != ["run"]:
        chart.wrong(
            "ExecStart= does not start `pgidle run`",
            unit.where("Service", "ExecStart"),
            "whatever it starts is not put to sleep",
            "ExecStart=/opt/pgidle/bin/pgidle run -D /srv/pg/data",
        )
        return
    contents = {path: text for path, text in beside.environment.items() if text is not None}
    for one in unit.all("Service", "EnvironmentFile"):
        if one.value.removeprefix("-") not in contents:
            if one.value.startswith("-") and one.value[1:] in beside.environment:
                continue
            chart.unknown(
                f"what {one.value} says",
                one.where,
                "it is not there, or cannot be read by this user",
                "run pgidle doctor as root, on the machine that has the file",
            )
    said = environment(unit, contents)
    read = run_arguments(chart, start.where, command[at + 2 :])
    told = settle(chart, start.file, said, read, start.line, context)
    _check_restart(chart, unit, told)
    _check_type(chart, unit)
    _check_stop(chart, unit, told, context)
    _check_protection(chart, unit, beside)
    _check_activation(chart, unit, told, beside)


def _check_restart(chart: Chart, unit: Unit, told: Told) -> None:
    policy = unit.word("Service", "Restart", "no")
    where = unit.where("Service", "Restart", "ExecStart")
    if policy in ("always", "on-success") and told.settings.when_idle is WhenIdle.EXIT:
        chart.wrong(
            f"Restart={policy}",
            where,
            "a service that ended because Postgres went to sleep is started again at once",
            "Restart=on-failure",
        )
    elif policy == "no":
        chart.note(
            "Restart=no" + ("" if unit.last("Service", "Restart") else ", which is the default"),
            where,
            "after a crash the service stays down until a client comes, or for good",
            "Restart=on-failure",
        )
    else:
        chart.fine(f"Restart={policy}")


def _check_type(chart: Chart, unit: Unit) -> None:
    kind = unit.word("Service", "Type", "simple")
    if kind in ("forking", "oneshot", "dbus"):
        chart.wrong(
            f"Type={kind}",
            unit.where("Service", "Type"),
            "pgidle stays in the foreground, so systemd would wait in vain, and kill it",
            "Type=exec",
        )
    mode = unit.word("Service", "KillMode", "control-group")
    where = unit.where("Service", "KillMode", "ExecStart")
    if mode in ("none", "process"):
        chart.note(
            f"KillMode={mode}",
            where,
            "if pgidle has to be killed, systemd leaves Postgres's processes alone",
            "KillMode=mixed",
        )
    elif mode == "control-group":
        chart.note(
            "KillMode=control-group" + ("" if unit.last("Service", "KillMode") else ", which is the default"),
            where,
            "at a stop the signal goes to every process of Postgres's too, and ends sessions before pgidle has begun"
            " the shutdown",
            "KillMode=mixed",
        )


def _check_stop(chart: Chart, unit: Unit, told: Told, context: Context) -> None:
    if (signal := unit.last("Service", "KillSignal")) is not None:
        check_signal(chart, "KillSignal", signal.value, signal.where)
    found = unit.last("Service", "TimeoutStopSec") or unit.last("Service", "TimeoutSec")
    where = unit.where("Service", "TimeoutStopSec", "TimeoutSec", "ExecStart")
    seconds = STOP_TIMEOUT if found is None else systemd_span(found.value)
    if seconds is None:
        chart.wrong(
            f"{found.key}={found.value} is no time span" if found is not None else "",
            where,
            "systemd passes over it and takes its default",
            "TimeoutStopSec=30s",
        )
        seconds = STOP_TIMEOUT
    name = found.key if found is not None else "TimeoutStopSec"
    longer = int(max(told.settings.stop_timeout + 5, (context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        name,
        seconds,
        where,
        told.settings,
        context,
        f"TimeoutStopSec={longer}s",
        is_given=found is not None,
    )


def _check_protection(chart: Chart, unit: Unit, beside: Beside) -> None:
    if unit.is_on("Service", "PrivateNetwork"):
        chart.wrong(
            "PrivateNetwork=yes",
            unit.where("Service", "PrivateNetwork"),
            "the service has a network of its own, with nobody else in it, where no client reaches what Postgres"
            " listens on",
            "no PrivateNetwork=",
        )
    if not unit.is_on("Service", "ProtectKernelTunables"):
        return
    where, what = unit.where("Service", "ProtectKernelTunables"), "ProtectKernelTunables=yes"
    why = "pgidle cannot set net.ipv4.tcp_migrate_req"
    cure = f"no ProtectKernelTunables=, or, before it starts, sysctl -w {MIGRATION}=1 (to keep: in /etc/sysctl.d)"
    if beside.socket is not None:
        chart.wrong(
            f"{what} in a service that a socket unit starts",
            where,
            f"{why}, and unless something else has set it, clients that wait at systemd's socket are not served",
            cure,
        )
    else:
        chart.note(
            what, where, f"{why}, so who wakes Postgres may wait a second or two (gate mode synhold)", cure
        )


def _check_activation(chart: Chart, unit: Unit, told: Told, beside: Beside) -> None:
    named = unit.word("Service", "Sockets") or unit.word("Unit", "Requires")
    socket = beside.socket or next((word for word in named.split() if word.endswith(".socket")), None)
    if told.settings.when_idle is WhenIdle.STAY:
        chart.fine("when-idle stay: pgidle wakes Postgres itself")
    elif socket is not None:
        chart.fine(f"{socket} starts it again")
    else:
        own = unit.name.rpartition("/")[2].replace(".service", ".socket")
        chart.unknown(
            f"what starts the service again when a client comes: there is no {own} beside it",
            unit.where("Service", "ExecStart"),
            "with when-idle exit, the default, the service ends when Postgres sleeps",
            f"give {own} to pgidle doctor, too; or write pgidle run --when-idle stay",
        )
    user = unit.last("Service", "User")
    if socket is not None and user is not None and user.value not in ("root", "0"):
        chart.note(
            f"User={user.value} in a service that a socket unit starts",
            user.where,
            "its clients are served in gate mode handoff only; without root pgidle cannot set"
            " net.ipv4.tcp_migrate_req, nor make the socket its own",
            f"no User=, and Environment=PGIDLE_USER={user.value}",
        )
