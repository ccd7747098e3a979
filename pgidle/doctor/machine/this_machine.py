"""This machine: what `pgidle run` would meet here with the same settings. Changes nothing and wakes nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import PgidleError
from pgidle.doctor.finding import MACHINE, Chart, refuse
from pgidle.doctor.machine.as_postgres_user import Question, ask
from pgidle.doctor.machine.pg_hba import check_hba
from pgidle.doctor.machine.pg_ident import allows
from pgidle.doctor.machine.postgresql_conf import (
    PRELOADING,
    check_libraries,
    check_log,
    check_parameters,
    check_ssl,
    libraries,
)
from pgidle.doctor.machine.running_supervisor import check_service, check_stop
from pgidle.doctor.machine.volume import check_room
from pgidle.doctor.readers.hba_files import gather
from pgidle.gate.gate import Mode
from pgidle.postgres.data_directory import DataDirState, inspect_data_dir
from pgidle.postgres.debian import LAST_TO_COLLECT, unconfigured
from pgidle.postgres.image_variables import first_start
from pgidle.postgres.postgresql_conf import read_parameters
from pgidle.postgres.programs import find_bin_dir
from pgidle.settings.options import absolute
from pgidle.system.directories import refused_directories
from pgidle.system.users import acting_as, plan, python_unreadable, user_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.doctor.machine.as_postgres_user import Answer
    from pgidle.postgres.postgresql_conf import Parameters
    from pgidle.settings.resolve import Settings
    from pgidle.system.users import Identity

OLDEST, NEWEST = 12, 18
"""Major versions of PostgreSQL that pgidle was made for."""
_COMPLAINT = re.compile(r"(?:LOG|FATAL|ERROR|WARNING):\s+(.*)")
_FILE_LINE = re.compile(r'file "([^"]+)" line (\d+)')
_PARAMETER = re.compile(r'parameter "([\w.]+)"')
_SUMMARY = re.compile(r'configuration file "[^"]*" contains errors')


def examine(settings: Settings, environ: Mapping[str, str], shutdown: float | None) -> list[Chart]:
    """The machine, the data directory and its configuration, the supervisor if one runs.

    `shutdown` is how many seconds the last one took.
    """
    machine, data = Chart(MACHINE), Chart(f"data directory {settings.data_dir}")
    try:
        if _is_out_of_reach(settings.data_dir):
            return [_out_of_reach(settings.data_dir)]
        identity = plan(settings.user, settings.data_dir)
    except PgidleError as error:
        refuse(machine, "user", error)
        return [machine]
    uid = identity.uid if identity is not None else os.geteuid()
    machine.fine(f"Postgres runs as {user_name(uid)}")
    _check_python(machine, identity)
    version, is_ready = _check_data_dir(data, settings, identity, uid, environ)
    postgres = _find_postgres(machine, settings, identity, version, environ)
    charts = [machine, data]
    parameters = None
    if is_ready:
        check_room(data, settings.data_dir)
        # With that user's rights: a file there, or one that it includes, could be a link to one only root may read.
        with acting_as(identity):
            parameters = read_parameters(settings.data_dir, settings.postgres_args)
    try:
        answer = ask(identity, _question(settings, parameters, postgres))
    except PgidleError as error:
        machine.unknown(error.message, "user", "only that user can make these checks", error.hint)
    else:
        _check_gate(machine, answer)
        _check_socket_dirs(machine, answer, uid)
        if parameters is not None:
            major, bin_dir = int((version or "0").partition(".")[0]), None
            if postgres is not None:
                bin_dir = postgres.rpartition("/")[0]
            with acting_as(identity):
                charts += _configuration(settings, parameters, answer, uid, environ, major, bin_dir)
    check_stop(machine, settings, shutdown)
    check_service(machine, settings)
    return charts


def _is_out_of_reach(data_dir: str) -> bool:
    if os.geteuid() == 0:
        return False
    try:
        return Path(data_dir).stat().st_uid != os.geteuid() or not os.access(data_dir, os.R_OK | os.X_OK)
    except PermissionError:
        return True
    except OSError:
        return False


def _out_of_reach(data_dir: str) -> Chart:
    chart = Chart(MACHINE)
    chart.unknown(
        "this machine and the data directory",
        data_dir,
        f"the directory belongs to another user, and {user_name(os.geteuid())} cannot look into it",
        "run pgidle doctor as root, or as the user of Postgres",
    )
    return chart


def _check_python(chart: Chart, identity: Identity | None) -> None:
    place = python_unreadable(identity)
    if place is not None and identity is not None:
        chart.note(
            f"user {identity.name} cannot read {place}",
            place,
            "everything is imported before Postgres is started, so waking takes longer",
            "/usr/bin/python3 -m venv /opt/pgidle && /opt/pgidle/bin/pip install . (a Python that every user can read)",
        )


def _check_data_dir(
    chart: Chart, settings: Settings, identity: Identity | None, uid: int, environ: Mapping[str, str]
) -> tuple[str | None, bool]:
    """The data directory's version, and whether Postgres could use it as it is."""
    path = settings.data_dir
    try:
        found = inspect_data_dir(path, uid)
        if found.state is DataDirState.READY:
            with acting_as(identity):
                inspect_data_dir(path, os.geteuid())
    except PgidleError as error:
        refuse(chart, path, error)
        return None, False
    if found.state is not DataDirState.READY:
        refused = refused_directories(path, settings.state_dir, identity)
        if refused is not None:
            refuse(chart, path, refused)
        try:
            first_start(environ)
        except PgidleError as error:
            refuse(chart, "environment", error)
        if not chart.findings:
            chart.fine(f"{found.state.value}: the first start makes it")
        return found.version, False
    major = int((found.version or "0").partition(".")[0])
    if OLDEST <= major <= NEWEST:
        chart.fine(f"owner and permissions; PostgreSQL {found.version}")
    else:
        chart.note(
            f"made by PostgreSQL {found.version}",
            f"{path}/PG_VERSION",
            f"pgidle was made for {OLDEST} to {NEWEST}",
            "try sleeping and waking before relying on it",
        )
    if not Path(path, "postgresql.conf").exists() and not any(
        "config_file" in one for one in settings.postgres_args
    ):
        chart.wrong(
            "no postgresql.conf in it",
            path,
            "Postgres does not start; clusters of Debian's packages have theirs in /etc/postgresql",
            _unconfigured(path, identity).hint,
        )
        return found.version, False
    return found.version, True


def _unconfigured(data_dir: str, identity: Identity | None) -> PgidleError:
    with acting_as(identity):
        return unconfigured(data_dir)


def _find_postgres(
    chart: Chart,
    settings: Settings,
    identity: Identity | None,
    version: str | None,
    environ: Mapping[str, str],
) -> str | None:
    try:
        with acting_as(identity):
            binaries = find_bin_dir(settings.bin_dir, version, environ.get("PATH", ""), identity)
    except PgidleError as error:
        refuse(chart, "bin-dir", error)
        return None
    chart.fine(f"PostgreSQL {binaries.version_major} in {binaries.bin_dir}")
    return binaries.path("postgres")


def _question(settings: Settings, parameters: Parameters | None, postgres: str | None) -> Question:
    if parameters is None:
        return Question(settings, None)
    files = {}
    if parameters.is_on("ssl", default=False):
        for name, default in (("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")):
            files[name] = absolute(settings.data_dir, parameters.value(name) or default)
    return Question(settings, postgres, files)


def _check_gate(chart: Chart, answer: Answer) -> None:
    release = os.uname().release
    if answer.mode is Mode.SHARED:
        chart.fine(f"gate mode shared on Linux {release}")
    else:
        chart.wrong(
            f"gate mode none: {answer.gate_why.partition(': ')[0]}",
            f"Linux {release}",
            "clients that connect while Postgres is not ready are refused",
            answer.gate_why.partition(": ")[2] or "see docs/how.md",
        )


def _check_socket_dirs(chart: Chart, answer: Answer, uid: int) -> None:
    for folder, why in answer.closed_dirs.items():
        chart.wrong(
            f"Postgres's Unix socket cannot be made in {folder}: {why}",
            folder,
            f"Postgres, running as {user_name(uid)}, does not start without it",
            f"pgidle run --socket-dir with a folder that {user_name(uid)} owns"
            + ("" if Path(folder).exists() else f", or install -d -o {user_name(uid)} {folder}"),
        )
    if answer.socket_dirs and not answer.closed_dirs:
        chart.fine(f"Unix socket in {answer.socket_dirs}")


def check_statistics(chart: Chart, parameters: Parameters, data_dir: str, version: int) -> None:
    """Only PostgreSQL up to 14 has the setting; newer versions refuse it with a message of their own."""
    if version > LAST_TO_COLLECT:
        return
    folder = absolute(data_dir, parameters.value("stats_temp_directory") or "pg_stat_tmp")
    if not Path(folder).is_dir():
        chart.wrong(
            f"there is no folder {folder}",
            parameters.where("stats_temp_directory"),
            "Postgres up to 14 keeps its statistics there: without them use cannot be seen, so it never sleeps; "
            "Debian's pg_ctlcluster makes it, pgidle does not",
            "pgidle run -- -c stats_temp_directory=pg_stat_tmp",
        )


def _say_refusal(chart: Chart, parameters: Parameters, refusal: str) -> None:
    """Report each of Postgres's complaints, at the file and line that it gives, or at the setting that it names."""
    complaints = [found[1] for line in refusal.splitlines() if (found := _COMPLAINT.search(line))]
    # A missing file gets a finding of its own elsewhere.
    gone = [path for path, _ in parameters.unread]
    told = [one for one in complaints if _SUMMARY.search(one) is None] or complaints
    if gone:
        told = [one for one in told if not any(f'"{path}"' in one for path in gone)]
    for one in told or ([] if gone else [refusal.strip() or "Postgres refuses its configuration"]):
        placed, named = _FILE_LINE.search(one), _PARAMETER.search(one)
        where = parameters.where(named[1].lower()) if named else "postgresql.conf"
        cure = "correct it; `postgres -C port -D DATA_DIRECTORY` says whether it is right"
        if named is not None and named[1] == "stats_temp_directory":
            cure = f"take it out: PostgreSQL {LAST_TO_COLLECT + 1} and newer have no such setting"
        elif named is not None and named[1].startswith("lc_"):
            cure = "make that locale on this machine (`locale -a` lists them), or name another"
        chart.wrong(
            one,
            f"{placed[1]}:{placed[2]}" if placed else where,
            "Postgres does not start with this configuration",
            cure,
        )


def _missing_libraries(parameters: Parameters, bin_dir: str) -> dict[str, list[str]]:
    """Libraries to be preloaded that are certainly missing. Their folder is that of plpgsql, which is always there."""
    above = Path(bin_dir).parent
    places = [above / one for one in ("lib", "lib/postgresql", "lib64", "lib64/postgresql")]
    folder = next((one for one in places if (one / "plpgsql.so").exists()), None)
    if folder is None or "dynamic_library_path" in parameters.values:
        return {}
    return {
        setting: [
            name
            for name in libraries(parameters, setting)
            if not any(Path(folder, name.replace("$libdir/", "") + suffix).exists() for suffix in ("", ".so"))
        ]
        for setting in PRELOADING
    }


def _configuration(
    settings: Settings,
    parameters: Parameters,
    answer: Answer,
    uid: int,
    environ: Mapping[str, str],
    version: int,
    bin_dir: str | None,
) -> list[Chart]:
    conf, hba = Chart("postgresql.conf"), Chart("pg_hba.conf")
    if answer.refusal:
        _say_refusal(conf, parameters, answer.refusal)
    elif answer.socket_dirs is not None:
        conf.fine("Postgres accepts its own settings (postgres -C)")
    check_parameters(conf, parameters, settings)
    check_log(conf, parameters, settings)
    check_libraries(conf, parameters, _missing_libraries(parameters, bin_dir) if bin_dir is not None else {})
    check_statistics(conf, parameters, settings.data_dir, version)
    check_ssl(conf, parameters, answer.unusable)
    file, ident = (
        absolute(settings.data_dir, parameters.value(name) or f"{settings.data_dir}/{default}")
        for name, default in (("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf"))
    )
    maps = gather(ident)
    watchers = [environ.get("POSTGRES_USER", ""), user_name(uid), "postgres"]
    over_socket = settings.watch is None and answer.socket_dirs != ""
    local = {"localhost", "127.0.0.1", "::1"}
    records = gather(file)
    if any("map=" in text for text in records.contents.values()):
        hba.read += list(maps.contents)
    check_hba(
        hba,
        file,
        records,
        is_mapped=lambda name, role: allows(maps, ident, name, user_name(uid), role),
        version=version,
        watchers=list(dict.fromkeys(filter(None, watchers))) if over_socket else [],
        system_user=user_name(uid),
        is_public=not {one.strip() for one in settings.listen_addresses.split(",")} <= local,
        has_ssl=parameters.is_on("ssl", default=False),
    )
    return [conf, hba]
