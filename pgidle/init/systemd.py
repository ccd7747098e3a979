"""systemd: a socket unit that wakes a service unit; with a name, templates for any number of databases."""

from __future__ import annotations

import os
import pwd
import re
import sys
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from pgidle.base.errors import SettingsError
from pgidle.init.plan import File, Plan, render
from pgidle.postgres.debian import find_cluster
from pgidle.postgres.postgresql_conf import read_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.init.choices import Choices
    from pgidle.postgres.postgresql_conf import Parameters

INSTALLED = "/opt/pgidle/bin/pgidle"
HOMES = ("/home/", "/root/", "/run/user/")
DEBIAN_SOCKET_DIR = "/var/run/postgresql"
"""Compiled into Debian's Postgres."""
ADDRESSES = {"*": ("0.0.0.0", "::"), "localhost": ("127.0.0.1", "::1")}

_PLAIN_FOLDER = re.compile(r"[/@][\w./+-]*\w", re.ASCII)
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_.-]*", re.ASCII)


def as_configured(given: Mapping[str, str]) -> dict[str, str]:
    """The options, completed from the configuration of an existing cluster of Debian's packages, so that its clients
    find it where it was.

    Raises SettingsError if the data directory given is the folder of a cluster's configuration.
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
    parameters = read_parameters(choices.data_dir, cluster.postgres_args if cluster is not None else ())
    owner = _owner(choices.data_dir)
    folders = parameters.value("unix_socket_directories", DEBIAN_SOCKET_DIR if cluster is not None else "")
    unix = _unix_lines(folders, choices.port)
    instance = f"@{choices.name}" if choices.name else ""
    values = {
        "name": choices.name or "main",
        "port": choices.port,
        "listen": "\n".join(_listen_lines(choices)),
        "unix": "\n".join(unix + group_lines(parameters, unix)),
        "owner": owner,
        "mode": _mode(parameters),
        "data_dir": choices.data_dir,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "program": _program(),
        "postgres_args": postgres_args,
        # Replaces the template unit's, because this cluster's configuration is not beside its data.
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
    if unix:
        values["listen"] = f"{values['listen']}\n{render('systemd/unix.conf', values)}"
    # Where each unit is written, and the template that it is made from.
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
    connect = "connect" if cluster is None else "connect-unix" if unix else "connect-existing"
    values["connect"] = render(f"systemd/{connect}.txt", values)
    values["back"] = "\n" + render("systemd/back.txt", values) if cluster is not None else ""
    return Plan(files, render("systemd/steps.txt", values))


def _home(data_dir: str) -> str:
    """The setting for a data directory in a home, which has to be writable."""
    return "# The data directory is in a home.\nProtectHome=no" if data_dir.startswith(HOMES) else ""


def _host(choices: Choices) -> str:
    """An address that a client on this machine can connect to."""
    first = choices.listen_addresses.partition(",")[0]
    return "localhost" if first in (*ADDRESSES, "0.0.0.0", "::") else first


def _listen_lines(choices: Choices) -> list[str]:
    """One socket for each address. Names other than localhost are left as they are, and systemd refuses them."""
    hosts = [
        address for host in choices.listen_addresses.split(",") for address in ADDRESSES.get(host, (host,))
    ]
    return [
        f"ListenStream=[{host}]:{choices.port}" if ":" in host else f"ListenStream={host}:{choices.port}"
        for host in hosts
    ]


def _unix_lines(folders: str, port: int) -> list[str]:
    """One socket for each folder that a unit reads as just a path. systemd warns of /var/run, which is a link."""
    plain = [one for one in (name.strip() for name in folders.split(",")) if _PLAIN_FOLDER.fullmatch(one)]
    return [f"ListenStream={re.sub('^/var/run/', '/run/', one)}/.s.PGSQL.{port}" for one in plain]


def group_lines(parameters: Parameters, unix: list[str]) -> list[str]:
    """Sets the group of the socket files, which Postgres cannot do, as root owns them. SocketGroup= would follow a link
    that Postgres's user may have put in a file's place."""
    group = parameters.value("unix_socket_group")
    paths = [one.removeprefix("ListenStream=") for one in unix if not one.startswith("ListenStream=@")]
    if not (paths and _PLAIN_NAME.fullmatch(group)):
        return []
    return [f"ExecStartPost=/bin/chgrp -h {group} {' '.join(paths)}"]


def _mode(parameters: Parameters) -> str:
    """The sockets' mode as Postgres would set it: octal if it begins with 0."""
    said = parameters.value("unix_socket_permissions")
    try:
        return f"{int(said, 8 if said.startswith('0') else 10) & 0o777:04o}"
    except ValueError:
        return "0777"


def _owner(data_dir: str) -> str:
    """The user that Postgres will run as."""
    try:
        uid = Path(data_dir).stat().st_uid
        name = pwd.getpwuid(uid).pw_name if uid else ""
    except (OSError, KeyError):
        name = ""
    return name if _PLAIN_NAME.fullmatch(name) else "postgres"


def _program() -> str:
    """The path of the command that is running now: units are mostly written for this machine."""
    beside = Path(sys.executable).with_name("pgidle")
    return str(beside) if beside.exists() else INSTALLED
