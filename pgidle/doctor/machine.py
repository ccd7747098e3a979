"""This machine: what `pgidle run` would meet here with the same settings. Nothing is changed, and nobody is woken."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.binaries import find_bin_dir
from pgidle.client import NotRunning, request
from pgidle.cluster import DataDirState, inspect_data_dir, living_postmaster
from pgidle.doctor.conf_file import read_parameters
from pgidle.doctor.configuration import check_parameters, check_ssl
from pgidle.doctor.durations import written
from pgidle.doctor.finding import MACHINE, Chart
from pgidle.doctor.hba import check_hba
from pgidle.doctor.places import debian_unit, refused_directories
from pgidle.doctor.probe import Question, ask
from pgidle.errors import PgidleError
from pgidle.first_start import first_start
from pgidle.gate import Mode, refuse_taken
from pgidle.options import WhenIdle, absolute
from pgidle.privileges import MIGRATION, acting_as, plan, python_unreadable, user_name
from pgidle.steering import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.doctor.conf_file import Parameters
    from pgidle.doctor.probe import Answer
    from pgidle.privileges import Identity
    from pgidle.settings import Settings

OLDEST, NEWEST = 12, 18
"""Major versions of PostgreSQL that pgidle was made for."""
LEAST_FREE = 256 * 2**20
"""Bytes: a few WAL segments and a checkpoint's worth. Postgres that cannot write WAL crashes."""
PASSING = ("overlay", "aufs", "tmpfs", "ramfs")
"""File systems that end with the container or the machine."""
_COMPLAINT = re.compile(r"(?:LOG|FATAL|ERROR|WARNING):\s+(.*)")
_FILE_LINE = re.compile(r'file "([^"]+)" line (\d+)')


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
        _refusal(machine, "user", error)
        return [machine]
    uid = identity.uid if identity is not None else os.geteuid()
    machine.fine(f"Postgres runs as {user_name(uid)}")
    _check_python(machine, identity)
    version, is_ready = _check_data_dir(data, settings, identity, uid, environ)
    postgres = _find_postgres(machine, settings, identity, version, environ)
    charts = [machine, data]
    parameters = None
    if is_ready:
        _check_room(data, settings.data_dir)
        parameters = read_parameters(settings.data_dir, settings.postgres_args)
    try:
        answer = ask(identity, _question(settings, parameters, postgres))
    except PgidleError as error:
        machine.unknown(error.message, "user", "these checks are the user's alone to make", error.hint)
    else:
        _check_gate(machine, answer)
        _check_socket_dirs(machine, answer, uid)
        if parameters is not None:
            charts += _configuration(settings, parameters, answer, uid, environ)
    _check_stop(machine, settings, shutdown)
    _check_service(machine, settings)
    return charts


def _refusal(chart: Chart, where: str, error: PgidleError) -> None:
    """What `run` would end with."""
    chart.wrong(error.message, where, "`pgidle run` refuses to start", error.hint or "see what it says")


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
        f"it is another user's than {user_name(os.geteuid())}'s, who cannot look into it",
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
    """Its version, and whether Postgres could use it as it is."""
    path = settings.data_dir
    try:
        found = inspect_data_dir(path, uid)
        if found.state is DataDirState.READY:
            with acting_as(identity):
                inspect_data_dir(path, os.geteuid())
    except PgidleError as error:
        _refusal(chart, path, error)
        return None, False
    if found.state is not DataDirState.READY:
        refused = refused_directories(path, settings.state_dir, identity)
        if refused is not None:
            _refusal(chart, path, refused)
        try:
            first_start(environ)
        except PgidleError as error:
            _refusal(chart, "environment", error)
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
        elsewhere = next(
            Path("/etc/postgresql").glob(f"{found.version}/{Path(path).name}/postgresql.conf"), None
        )
        chart.wrong(
            "no postgresql.conf in it",
            path,
            "Postgres does not start; clusters of Debian's packages have theirs in /etc/postgresql",
            f"pgidle run -D {path} -- -c config_file={elsewhere or '/etc/postgresql/VERSION/NAME/postgresql.conf'}",
        )
        return found.version, False
    return found.version, True


def _find_postgres(
    chart: Chart,
    settings: Settings,
    identity: Identity | None,
    version: str | None,
    environ: Mapping[str, str],
) -> str | None:
    try:
        with acting_as(identity):
            binaries = find_bin_dir(settings.bin_dir, version, environ.get("PATH", ""))
    except PgidleError as error:
        _refusal(chart, "bin-dir", error)
        return None
    chart.fine(f"PostgreSQL {binaries.version_major} in {binaries.bin_dir}")
    return binaries.path("postgres")


def _check_room(chart: Chart, path: str) -> None:
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    if free < LEAST_FREE:
        chart.wrong(
            f"{free // 2**20} MB are free",
            path,
            "Postgres crashes when it cannot write its log, and does not start again",
            "make room, or a larger volume",
        )
    else:
        chart.fine(f"{free / 2**30:.1f} GB free")
    kind = _file_system(path)
    if kind in PASSING:
        chart.note(
            f"it lies on {kind}",
            path,
            "in a container that is gone with the container, on tmpfs with the machine",
            "mount a volume above it",
        )


def _file_system(path: str) -> str:
    """The type of the file system that holds it, by /proc/self/mountinfo (proc(5)); empty if that does not tell."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4]
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, right.split(" ")[0]
    return kind


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
    if answer.mode is Mode.HANDOFF:
        chart.fine(f"gate mode handoff on Linux {release}")
    elif answer.mode is Mode.NONE:
        chart.wrong(
            f"gate mode none: {answer.gate_why.partition(': ')[0]}",
            f"Linux {release}",
            "clients that come while Postgres is not ready are refused",
            answer.gate_why.partition(": ")[2] or "see The kernel's part in the README",
        )
    elif os.geteuid() == 0 and os.access(MIGRATION, os.W_OK):
        chart.fine(
            f"gate mode handoff on Linux {release}, once `pgidle run`, started as root, has set its sysctl"
        )
    else:
        chart.note(
            "gate mode synhold",
            f"Linux {release}",
            "the kernel does not move waiting connections, so who wakes Postgres waits a second or two",
            "sysctl -w net.ipv4.tcp_migrate_req=1 (Linux 5.14+; docker run --sysctl net.ipv4.tcp_migrate_req=1)",
        )


def _check_socket_dirs(chart: Chart, answer: Answer, uid: int) -> None:
    for folder, why in answer.closed_dirs.items():
        chart.wrong(
            f"Postgres's Unix socket cannot be made in {folder}: {why}",
            folder,
            f"Postgres, as {user_name(uid)}, does not start without it",
            f"pgidle run --socket-dir with a folder of {user_name(uid)}'s own"
            + ("" if Path(folder).exists() else f", or install -d -o {user_name(uid)} {folder}"),
        )
    if answer.socket_dirs and not answer.closed_dirs:
        chart.fine(f"Unix socket in {answer.socket_dirs}")


def _configuration(
    settings: Settings, parameters: Parameters, answer: Answer, uid: int, environ: Mapping[str, str]
) -> list[Chart]:
    conf, hba = Chart("postgresql.conf"), Chart("pg_hba.conf")
    if answer.refusal:
        complaints = [found[1] for line in answer.refusal.splitlines() if (found := _COMPLAINT.search(line))]
        placed = _FILE_LINE.search(answer.refusal)
        conf.wrong(
            (complaints or [answer.refusal.strip() or "Postgres refuses its configuration"])[0],
            f"{placed[1]}:{placed[2]}" if placed else "postgresql.conf",
            "Postgres does not start with this configuration",
            "correct it; `postgres -C port -D DATA_DIRECTORY` says whether it is right",
        )
    elif answer.socket_dirs is not None:
        conf.fine("Postgres accepts it")
    check_parameters(conf, parameters, settings)
    check_ssl(conf, parameters, answer.unusable)
    file = parameters.value("hba_file") or f"{settings.data_dir}/pg_hba.conf"
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        hba.wrong(f"{file} cannot be read: {error.strerror}", file, "without it nobody gets in", "restore it")
        return [conf, hba]
    watchers = [environ.get("POSTGRES_USER", ""), user_name(uid), "postgres"]
    over_socket = settings.watch is None and answer.socket_dirs != ""
    local = {"localhost", "127.0.0.1", "::1"}
    check_hba(
        hba,
        file,
        text,
        watchers=list(dict.fromkeys(filter(None, watchers))) if over_socket else [],
        system_user=user_name(uid),
        is_public=not {one.strip() for one in settings.listen_addresses.split(",")} <= local,
        has_ssl=parameters.is_on("ssl", default=False),
    )
    return [conf, hba]


def _check_stop(chart: Chart, settings: Settings, shutdown: float | None) -> None:
    stop = settings.stop_timeout
    if shutdown is None:
        chart.unknown(
            "how long a shutdown takes",
            f"stop-timeout {written(stop)}",
            "none was measured yet",
            "pgidle sleep, while pgidle runs, and then pgidle doctor again",
        )
    elif shutdown >= stop:
        chart.wrong(
            f"the last shutdown took {written(shutdown)}, and stop-timeout is {written(stop)}",
            "stop-timeout",
            "a stop that takes that long is cut short, and the next start recovers",
            f"--stop-timeout {int(shutdown * 2) + 1}s, and a kill timeout of the platform's above it",
        )
    else:
        chart.fine(f"the last shutdown took {written(shutdown)} of {written(stop)} (stop-timeout)")


def _check_service(chart: Chart, settings: Settings) -> None:
    """The supervisor, where one runs; where none does, whether it would find its port free."""
    try:
        _, status = request(settings.state_dir, "GET", "/status")
    except NotRunning:
        _check_port(chart, settings)
        return
    except PgidleError as error:
        chart.unknown(
            f"the supervisor: {error.message}", settings.state_dir, "it runs, and was not asked", error.hint
        )
        return
    state, mode = status["state"], status["gate"]["mode"]
    if state == "failed":
        chart.wrong(
            "pgidle has failed", "pgidle status", status["why"], "put that right, and start pgidle again"
        )
    if mode == Mode.NONE.value:
        chart.wrong(
            "pgidle runs in gate mode none",
            "pgidle status",
            f"clients that come while Postgres is not ready are refused: {status['gate']['why']}",
            "put that right, and start pgidle again",
        )
    blind = [one["text"] for one in status["reasons"] if one["kind"] == "unknown"]
    for text in blind:
        chart.wrong(
            "pgidle cannot see whether Postgres is used",
            "pgidle status",
            f"so it stays awake: {text}",
            "GRANT pg_monitor to the watching role, or --watch with a connection string that works",
        )
    if not blind and state != "failed":
        seen = ", and sees who uses Postgres" if status["looks"] else ""
        chart.fine(f"pgidle runs: {state}, gate mode {mode}{seen}")


def _check_port(chart: Chart, settings: Settings) -> None:
    if (living := living_postmaster(settings.data_dir)) is not None:
        chart.wrong(
            f"a postmaster with pid {living} runs on the data directory, without pgidle",
            settings.data_dir,
            "`pgidle run` refuses to start beside it",
            f"stop it; with Debian's packages: systemctl disable --now {debian_unit(settings.data_dir)}",
        )
        return
    try:
        refuse_taken(resolve(settings.listen_addresses, settings.port))
    except PgidleError as error:
        _refusal(chart, "port", error)
    except OSError as error:
        _refusal(chart, "listen-addresses", PgidleError(f"{settings.listen_addresses}: {error.strerror}"))
    else:
        chart.fine(f"port {settings.port} is free")
    if settings.when_idle is WhenIdle.STAY:
        chart.fine("when-idle stay: pgidle wakes Postgres itself")
