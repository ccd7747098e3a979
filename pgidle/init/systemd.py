"""systemd: a socket unit that wakes a service unit; with a name, templates for any number of databases."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from pgidle.conf_file import read_parameters
from pgidle.debian import find_cluster
from pgidle.errors import SettingsError
from pgidle.init.plan import File, Plan, render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.init.choices import Choices

INSTALLED = "/opt/pgidle/bin/pgidle"
HOMES = ("/home/", "/root/", "/run/user/")
ADDRESSES = {"*": ("0.0.0.0", "::"), "localhost": ("127.0.0.1", "::1")}


def as_configured(given: Mapping[str, str]) -> dict[str, str]:
    """What an existing cluster of Debian's packages says, so that its clients find it where it was.

    Raises SettingsError for the folder of its configuration.
    """
    data_dir = given.get("data-dir", "")
    if not data_dir.startswith("/"):
        return {}
    if os.access(f"{data_dir}/postgresql.conf", os.F_OK) and not os.access(f"{data_dir}/PG_VERSION", os.F_OK):
        named = read_parameters(data_dir, ()).value("data_directory", "the data directory")
        raise SettingsError(f"--data-dir: {data_dir} holds a configuration, not data", f"write {named}")
    cluster = find_cluster(data_dir)
    return cluster.choices(data_dir) if cluster is not None else {}


def plan(choices: Choices) -> Plan:
    cluster = find_cluster(choices.data_dir)
    postgres_args = f" -- {join(cluster.postgres_args)}" if cluster is not None else ""
    instance = f"@{choices.name}" if choices.name else ""
    values = {
        "name": choices.name or "main",
        "port": choices.port,
        "listen": "\n".join(_listen_lines(choices)),
        "data_dir": choices.data_dir,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "program": _program(),
        "postgres_args": postgres_args,
        # In place of the template unit's, for this one's configuration is not beside its data.
        "exec_start": f"ExecStart=\nExecStart={_program()} run{postgres_args}\n" if postgres_args else "",
        "cluster": cluster.unit if cluster is not None else "",
        "folder": cluster.folder if cluster is not None else "",
        "hardening": render("systemd/hardening.conf", {}),
        "home": _home(choices.data_dir),
        "host": _host(choices),
        "socket": f"pgidle{instance}.socket",
        "service": f"pgidle{instance}.service",
        "env": choices.name or "pgidle",
    }
    # Where a unit is written, and the template it is made of.
    units = {"pgidle.socket": "pgidle.socket", "pgidle.service": "pgidle.service"}
    if choices.name:
        units = {
            "pgidle@.socket": "pgidle@.socket",
            "pgidle@.service": "pgidle@.service",
            f"pgidle@{choices.name}.socket.d/listen.conf": "listen.conf",
            f"pgidle@{choices.name}.service.d/settings.conf": "settings.conf",
        }
    files = tuple(
        File(path, render(f"systemd/{template}", values) + "\n") for path, template in units.items()
    )
    values["units"] = " ".join(dict.fromkeys(path.partition("/")[0] for path in units))
    values["before"] = render("systemd/password.txt" if cluster is None else "systemd/takeover.txt", values)
    values["connect"] = render(
        "systemd/connect.txt" if cluster is None else "systemd/connect-existing.txt", values
    )
    values["back"] = "\n" + render("systemd/back.txt", values) if cluster is not None else ""
    return Plan(files, render("systemd/steps.txt", values))


def _home(data_dir: str) -> str:
    """A data directory in a home must be writable there."""
    return "# The data directory is in a home.\nProtectHome=no" if data_dir.startswith(HOMES) else ""


def _host(choices: Choices) -> str:
    """One that a client on this machine can connect to."""
    first = choices.listen_addresses.partition(",")[0]
    return "localhost" if first in (*ADDRESSES, "0.0.0.0", "::") else first


def _listen_lines(choices: Choices) -> list[str]:
    """One socket for each address. Names other than localhost stand as they are, and systemd refuses them."""
    hosts = [
        address for host in choices.listen_addresses.split(",") for address in ADDRESSES.get(host, (host,))
    ]
    return [
        f"ListenStream=[{host}]:{choices.port}" if ":" in host else f"ListenStream={host}:{choices.port}"
        for host in hosts
    ]


def _program() -> str:
    """The command that is running now, where it is: units are for this machine, more often than not."""
    beside = Path(sys.executable).with_name("pgidle")
    return str(beside) if beside.exists() else INSTALLED
