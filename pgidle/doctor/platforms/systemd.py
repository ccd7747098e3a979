"""systemd's units: a service that may exit, a socket that starts it again, and the time to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.base.platform_limits import SYSTEMD
from pgidle.doctor.finding import Chart
from pgidle.doctor.platforms.systemd_service import examine_service
from pgidle.doctor.platforms.systemd_socket import examine_socket
from pgidle.doctor.readers.tree import BadFile
from pgidle.doctor.readers.unit_file import Beside, Unit, read_unit

if TYPE_CHECKING:
    from pgidle.doctor.readers.stated_settings import Context

READ = {
    "Service": frozenset(
        {
            *("ExecStart", "ExecStop", "ExecStopPost", "Environment", "EnvironmentFile", "Restart", "Type"),
            *("KillMode", "KillSignal", "TimeoutStopSec", "TimeoutSec", "Sockets", "PrivateNetwork"),
            *("ProtectSystem", "ProtectHome", "ReadWritePaths", "StateDirectory", "MemoryDenyWriteExecute"),
        }
    ),
    "Socket": frozenset({"ListenStream", "BindIPv6Only", "FreeBind", "SocketUser", "Accept", "Service"}),
    "Unit": frozenset({"Requires"}),
}
"""Keys that are checked."""
HARMLESS = frozenset({"Description", "Documentation", "SyslogIdentifier", "WantedBy", "Alias", "Also"})


def examine(name: str, text: str, context: Context, beside: Beside) -> Chart:
    """A .service or a .socket."""
    chart = Chart(name)
    try:
        unit = read_unit(name, text, beside.drop_ins)
    except BadFile as error:
        chart.wrong(
            f"not a unit file: {error.why}",
            f"{name}:{error.line}",
            "systemd ignores what it cannot read",
            "correct the line",
        )
        return chart
    _account(chart, unit, beside)
    if unit.has("Socket"):
        examine_socket(chart, unit, beside)
    elif unit.has("Container") or unit.has("Pod") or unit.has("Kube"):
        chart.unknown(
            "what this Quadlet unit passes to its container",
            f"{name}:1",
            "podman generates the service from it, and its own sections are not read here",
            "podman-system-generator --dryrun prints the generated unit; give that to pgidle doctor",
        )
    elif unit.has("Service"):
        examine_service(chart, unit, context, beside)
    else:
        chart.unknown(
            "which unit this is: there is no [Service] and no [Socket]",
            f"{name}:1",
            "nothing in it runs pgidle",
            "give the service and the socket unit",
        )
    return chart


def _account(chart: Chart, unit: Unit, beside: Beside) -> None:
    chart.read.append(f"as {SYSTEMD} reads it")
    for section in dict.fromkeys(one.section for one in unit.settings):
        keys = [one.key for one in unit.settings if one.section == section and one.key not in HARMLESS]
        chart.account(f"[{section}]", keys, READ.get(section, frozenset()))
    if beside.drop_ins:
        chart.read.append(f"drop-ins: {', '.join(beside.drop_ins)}")
    there = [path for path, text in beside.environment.items() if text is not None]
    if there:
        chart.read.append(f"variables: {', '.join(there)}")
    chart.not_read.append("drop-ins in other folders, systemd's own defaults (system.conf), pgidle.toml")
