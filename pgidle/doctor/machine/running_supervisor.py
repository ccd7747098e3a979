"""The supervisor: its own status if one runs, else whether it could start; and how long its last shutdown took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgidle.base.errors import PgidleError
from pgidle.control.client import NotRunning, request
from pgidle.doctor.finding import refuse
from pgidle.doctor.readers.durations import written
from pgidle.gate.gate import Mode
from pgidle.gate.listeners import listen_on, resolve
from pgidle.postgres.data_directory import living_postmaster
from pgidle.postgres.debian import find_cluster
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.settings.resolve import Settings


def check_stop(chart: Chart, settings: Settings, shutdown: float | None) -> None:
    """Whether the stop timeout is enough; `shutdown` is how many seconds the last one took."""
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


def check_service(chart: Chart, settings: Settings) -> None:
    """The status of a running supervisor; if none runs, whether its port is free."""
    try:
        _, status = request(settings.state_dir, "GET", "/status")
    except NotRunning:
        _check_port(chart, settings)
        return
    except PgidleError as error:
        chart.unknown(
            f"the supervisor: {error.message}",
            settings.state_dir,
            "a supervisor runs, but it could not be asked",
            error.hint,
        )
        return
    try:
        _check_status(chart, status)
    except (LookupError, TypeError):
        chart.unknown(
            "the supervisor: its answer is not in this version's format",
            settings.state_dir,
            "the answer was not understood",
            "pgidle status --json",
        )


def _check_status(chart: Chart, status: dict[str, Any]) -> None:
    state, mode = status["state"], status["gate"]["mode"]
    if state == "failed":
        chart.wrong("pgidle has failed", "pgidle status", status["why"], "fix that, and start pgidle again")
    if mode == Mode.NONE.value:
        chart.wrong(
            "pgidle runs in gate mode none",
            "pgidle status",
            f"clients that connect while Postgres is not ready are refused: {status['gate']['why']}",
            "fix that, and start pgidle again",
        )
    blind = [one["text"] for one in status["reasons"] if one["kind"] == "unknown"]
    for text in blind:
        chart.wrong(
            "pgidle cannot see whether Postgres is in use",
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
            f"stop it; with Debian's packages: systemctl disable --now {_debian_unit(settings.data_dir)}",
        )
        return
    try:
        made, _ = listen_on(resolve(settings.listen_addresses, settings.port))
    except PgidleError as error:
        refuse(chart, "port", error)
    except OSError as error:
        refuse(chart, "listen-addresses", PgidleError(f"{settings.listen_addresses}: {error.strerror}"))
    else:
        for one in made:
            one.close()
        chart.fine(f"port {settings.port} is free")
    if settings.when_idle is WhenIdle.STAY:
        chart.fine("when-idle stay: pgidle wakes Postgres itself")


def _debian_unit(data_dir: str) -> str:
    """The unit of one cluster; `postgresql` would stop every cluster."""
    cluster = find_cluster(data_dir)
    return cluster.unit if cluster is not None else "postgresql@VERSION-NAME (pg_lsclusters lists them)"
