"""A .service unit: whether it may exit, what starts it again, and the time that it has to stop."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import SYSTEMD_STOP_TIMEOUT
from pgidle.doctor.platforms.stop_time import check_kill_timeout, check_signal, check_stop_command
from pgidle.doctor.platforms.systemd_sandbox import check_sandbox
from pgidle.doctor.readers.compose_variables import CLOSE, OPEN, is_known, shown
from pgidle.doctor.readers.durations import systemd_span
from pgidle.doctor.readers.stated_settings import Hidden, run_arguments, settle
from pgidle.doctor.readers.unit_file import Unit, environment, split
from pgidle.settings.arguments import Arguments
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Context, Told
    from pgidle.doctor.readers.tree import Node
    from pgidle.doctor.readers.unit_file import Beside, Setting


SERVERS = frozenset(
    {"postgres", "postmaster", "pg_ctl", "pg_ctlcluster", "postgresql-start", "docker-entrypoint.sh"}
)
STAYS_CONNECTED = frozenset(
    {"pg_receivewal", "pg_recvlogical", "pg_receivexlog", "receive-wal", "receivewal", "barman"}
)
"""Programs that keep a replication connection for as long as they run."""
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


def examine_service(chart: Chart, unit: Unit, context: Context, beside: Beside) -> None:
    contents = {path: text for path, text in beside.environment.items() if text is not None}
    said = environment(unit, contents)
    start = unit.last("Service", "ExecStart")
    command = split(start.value.lstrip("@-:+!|")) if start is not None else []
    at = next((at for at, word in enumerate(command) if word.rpartition("/")[2] == "pgidle"), None)
    if start is None or at is None or command[at + 1 : at + 2] != ["run"]:
        _check_other_program(chart, unit, start, command)
        return
    sources = _check_files(chart, unit, beside, contents)
    words = [word for one in command[at + 2 :] for word in _expanded(one, said)]
    unset = [word for word in words if not is_known(word)]
    for word in unset:
        chart.unknown(
            f"what {shown(word)} is in ExecStart=",
            start.where,
            "it is set in none of the files that were read",
            "the value itself; or Environment=",
        )
    read = (
        run_arguments(chart, start.where, [word for word in words if is_known(word)]) if not unset else None
    )
    hidden = Hidden(frozenset(), (*sources, *(("ExecStart=",) if unset else ())))
    told = settle(chart, start.file, said, read or Arguments({}), start.line, context, hidden=hidden)
    _check_restart(chart, unit, told)
    _check_type(chart, unit)
    _check_stop(chart, unit, told, context)
    check_sandbox(chart, unit, told)
    _check_activation(chart, unit, told, beside)


def _check_other_program(chart: Chart, unit: Unit, start: Setting | None, command: list[str]) -> None:
    where = unit.where("Service", "ExecStart")
    programs = {part.rpartition("/")[2] for word in command for part in word.split()}
    if start is None:
        chart.unknown(
            "what ExecStart= is",
            where,
            "the files that were read have none",
            "give the unit that this is a drop-in of, too",
        )
    elif any("pgidle" in one for one in programs):
        chart.unknown(
            f"what `{' '.join(command)[:60]}` starts",
            where,
            "it names pgidle but is not `pgidle run` itself, so settings and signals may get lost on the way",
            "ExecStart=/opt/pgidle/bin/pgidle run -D /srv/pg/data",
        )
    elif programs & STAYS_CONNECTED:
        chart.note(
            f"{min(programs & STAYS_CONNECTED)} stays connected to Postgres",
            where,
            "it streams WAL, and keeps Postgres awake for as long as it does (setting replication)",
            'replication = "ignore", if Postgres may sleep all the same; docs/neighbours.md says what follows',
        )
    elif "patroni" in programs:
        chart.wrong(
            "Patroni runs Postgres here",
            where,
            "pgidle is not involved, and Patroni would take a sleeping Postgres for a failed one",
            "a unit of pgidle's own: pgidle init systemd",
        )
    elif programs & SERVERS:
        chart.wrong(
            "ExecStart= does not start `pgidle run`",
            where,
            "the Postgres that it starts is not put to sleep",
            "pgidle init systemd -D DATA_DIRECTORY, which also writes units for existing data",
        )
    else:
        chart.unknown(
            f"whether this unit has anything to do with Postgres: it starts `{' '.join(command)[:60]}`",
            where,
            "it starts neither pgidle nor a program that is known to be Postgres",
            "give the unit that starts Postgres",
        )


def _check_files(chart: Chart, unit: Unit, beside: Beside, contents: Mapping[str, str]) -> list[str]:
    """The names of EnvironmentFile= files that were not read but may exist."""
    hidden = []
    for one in unit.all("Service", "EnvironmentFile"):
        path, is_optional = one.value.removeprefix("-"), one.value.startswith("-")
        if path in contents or (is_optional and path in beside.environment):
            continue
        is_missing = path in beside.environment
        if "%" not in path or not is_optional:
            chart.unknown(
                f"what {one.value} says",
                one.where,
                "it is not on this machine; where it is missing systemd does not start the service"
                if is_missing
                else "it cannot be read by this user",
                "run pgidle doctor on the machine that has the file"
                if is_missing
                else "run pgidle doctor as root",
            )
        hidden.append(f"EnvironmentFile={path}")
    return hidden


def _expanded(word: str, said: Mapping[str, Node]) -> list[str]:
    """A word with variables expanded as systemd does it: $NAME alone is split into words, ${NAME} is not."""
    alone = re.fullmatch(r"\$(\w+)", word)
    if alone is not None and alone[1] in said:
        return split(said[alone[1]].text or "")

    def put(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return said[name].text or "" if name in said else f"{OPEN}{name}{CLOSE}"

    return [_VARIABLE.sub(put, word)]


def _check_restart(chart: Chart, unit: Unit, told: Told) -> None:
    policy = unit.word("Service", "Restart", "no")
    where = unit.where("Service", "Restart", "ExecStart")
    if policy in ("always", "on-success") and not told.knows("when-idle"):
        chart.unknown(
            f"whether Restart={policy} is right",
            where,
            f"with when-idle exit it is not, and {told.elsewhere} may set that",
            "Restart=on-failure",
        )
    elif policy in ("always", "on-success") and told.settings.when_idle is WhenIdle.EXIT:
        chart.wrong(
            f"Restart={policy}",
            where,
            "the service ends when Postgres goes to sleep, and would be restarted at once",
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
            "pgidle stays in the foreground, so systemd would wait in vain and then kill it",
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
            "at a stop the signal also goes to every process of Postgres and ends sessions before pgidle has begun"
            " the shutdown",
            "KillMode=mixed",
        )


def _check_stop(chart: Chart, unit: Unit, told: Told, context: Context) -> None:
    for key in ("ExecStop", "ExecStopPost"):
        for one in unit.all("Service", key):
            words = split(one.value.lstrip("@-:+!|"))
            if key == "ExecStop" and check_stop_command(
                chart, "ExecStop=", words, one.where, "no ExecStop=: systemd's signal stops it cleanly"
            ):
                continue
            if key == "ExecStop" and "$MAINPID" in one.value and re.search(r"\bkill\b", one.value):
                chart.fine("ExecStop= signals pgidle")
            else:
                chart.unknown(
                    f"what {key}={one.value[:50]} does",
                    one.where,
                    "it runs at each stop or sleep; if it fails, the service has failed, and Restart=on-failure starts"
                    " it again",
                    f"no {key}=",
                )
    if (signal := unit.last("Service", "KillSignal")) is not None:
        check_signal(chart, "KillSignal", signal.value, signal.where)
    found = unit.last("Service", "TimeoutStopSec") or unit.last("Service", "TimeoutSec")
    where = unit.where("Service", "TimeoutStopSec", "TimeoutSec", "ExecStart")
    seconds = SYSTEMD_STOP_TIMEOUT if found is None else systemd_span(found.value)
    if seconds is None:
        chart.wrong(
            f"{found.key}={found.value} is not a time span" if found is not None else "",
            where,
            "systemd ignores it and uses its default",
            "TimeoutStopSec=30s",
        )
        seconds = SYSTEMD_STOP_TIMEOUT
    name = found.key if found is not None else "TimeoutStopSec"
    longer = int(max(told.settings.stop_timeout + 5, (context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        name,
        seconds,
        where,
        told,
        context,
        f"TimeoutStopSec={longer}s",
        is_given=found is not None,
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
