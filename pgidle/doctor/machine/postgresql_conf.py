"""postgresql.conf: settings that conflict with pgidle, or whose meaning changes when Postgres sleeps."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from pgidle.settings.options import LogFormat, absolute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.postgres.postgresql_conf import Parameters
    from pgidle.settings.resolve import Settings

MISSING = "No such file or directory"
TIMED = ("pg_cron", "pg_partman_bgw", "timescaledb", "pg_timetable", "pgagent", "pg_task")
"""Libraries whose background workers run jobs at set times."""
PRELOADING = ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries")


def check_parameters(chart: Chart, parameters: Parameters, settings: Settings) -> None:
    """Compare the settings with what pgidle needs, and with what it sets itself."""
    chart.read.append(", ".join(parameters.files))
    chart.not_read.append("ALTER ROLE and ALTER DATABASE ... SET, which are in the database")
    for path, why in parameters.unread:
        if why == MISSING:
            chart.wrong(
                f"there is no {path}",
                path,
                "Postgres does not start: its configuration names it",
                "restore it",
            )
        else:
            chart.unknown(f"what {path} says", path, f"it cannot be read: {why}", "run pgidle doctor as root")
    _check_overridden(chart, parameters, settings)
    _check_data_directory(chart, parameters, settings)
    _check_visibility(chart, parameters)
    _check_timed(chart, parameters)
    _check_archiving(chart, parameters)
    _check_standbys(chart, parameters)


def _check_overridden(chart: Chart, parameters: Parameters, settings: Settings) -> None:
    """Settings of the file that pgidle overrides with a different value."""
    for name, value, option in (
        ("listen_addresses", settings.listen_addresses, "--listen-addresses"),
        ("port", str(settings.port), "--port"),
        ("unix_socket_directories", settings.socket_dir, "--socket-dir"),
    ):
        written = parameters.values.get(name)
        if written is None or value is None:
            continue
        hosts = [{one.strip() for one in text.split(",")} for text in (written.value, value)]
        if hosts[0] != hosts[1]:
            chart.note(
                f"{name} is {written.value!r} here, and pgidle starts Postgres with {value!r}",
                written.where,
                "the gate and Postgres share their addresses, so pgidle's own setting counts",
                f"pgidle run {option} {shlex.quote(written.value)}, if that is what is meant",
            )


def _check_data_directory(chart: Chart, parameters: Parameters, settings: Settings) -> None:
    said = parameters.value("data_directory")
    if said and absolute("/", said) != settings.data_dir:
        chart.wrong(
            f"data_directory is {said}, but pgidle uses {settings.data_dir}",
            parameters.where("data_directory"),
            "Postgres would run on the one while pgidle watches the other, and never be seen to get ready",
            f"pgidle run -D {said}",
        )


def _check_visibility(chart: Chart, parameters: Parameters) -> None:
    for name, why in (
        ("track_activities", "no session can be seen to be idle, so Postgres never sleeps"),
        ("track_counts", "sessions that came and went between two looks cannot be seen"),
    ):
        if parameters.is_on(name, default=True):
            chart.fine(f"{name} is on")
        else:
            chart.wrong(f"{name} is off", parameters.where(name), why, f"{name} = on")


def check_log(chart: Chart, parameters: Parameters, settings: Settings) -> None:
    """With log-format json, pgidle's own lines are JSON but Postgres's are not: it writes JSON only to files."""
    wanted = "jsonlog" in parameters.value("log_destination")
    if settings.log_format is LogFormat.JSON and not (
        wanted and parameters.is_on("logging_collector", default=False)
    ):
        chart.note(
            "log-format is json, and Postgres's own lines are text",
            parameters.where("log_destination"),
            "Postgres writes JSON from version 15 on, and only to files in its own log_directory, not to stderr",
            "logging_collector = on and log_destination = 'jsonlog'",
        )


def check_libraries(chart: Chart, parameters: Parameters, missing: Mapping[str, Sequence[str]]) -> None:
    """`missing` are the names of missing libraries, by the setting that names them."""
    for setting, names in missing.items():
        if not names:
            continue
        chart.wrong(
            f"{setting} names libraries that are not installed: {', '.join(names)}",
            parameters.where(setting),
            "Postgres does not start"
            if setting == "shared_preload_libraries"
            else "every session ends with an error",
            "install the package of each such library, or take it out",
        )
    loaded = [name for setting in PRELOADING for name in libraries(parameters, setting)]
    if loaded:
        chart.not_read.append(f"what preloaded libraries do and set: {', '.join(dict.fromkeys(loaded))}")
    chart.not_read.append("whether there is enough memory, which only a start shows")


def libraries(parameters: Parameters, setting: str) -> list[str]:
    found = (one.strip().strip('"') for one in parameters.value(setting).split(","))
    return [one for one in found if one]


def _check_timed(chart: Chart, parameters: Parameters) -> None:
    for library in libraries(parameters, "shared_preload_libraries"):
        if library.rpartition("/")[2] in TIMED:
            chart.note(
                f"{library} is loaded",
                parameters.where("shared_preload_libraries"),
                "jobs that fall due while Postgres sleeps are not run, and they do not wake it",
                "pgidle wake from cron or a timer before the job is due; pgidle hold for its duration",
            )


def _check_archiving(chart: Chart, parameters: Parameters) -> None:
    if parameters.value("archive_mode", "off").lower() not in ("off", "false", "no", "0"):
        chart.note(
            "archive_mode is on",
            parameters.where("archive_mode"),
            "a shutdown waits until the last WAL segment is archived, however long the command takes; while asleep"
            " nothing is archived, whatever archive_timeout says",
            "a stop-timeout that is longer than archive_command ever takes, and a kill timeout above it",
        )


def _check_standbys(chart: Chart, parameters: Parameters) -> None:
    if re.fullmatch(r"0+\s*(?:ms|s|min|h|d)?", parameters.value("wal_sender_timeout")):
        chart.note(
            "wal_sender_timeout is 0",
            parameters.where("wal_sender_timeout"),
            "a standby that hangs delays a shutdown until stop-timeout, or forever if pgidle did not ask for it",
            "wal_sender_timeout = 60s, which is the default",
        )


def check_ssl(chart: Chart, parameters: Parameters, unusable: dict[str, str]) -> None:
    """With ssl on, Postgres does not start without its certificate and key; `unusable` has the bad files, with why."""
    if not parameters.is_on("ssl", default=False):
        return
    for name, why in unusable.items():
        chart.wrong(
            f"ssl is on, and {name} cannot be used: {why}",
            parameters.where(name) if name in parameters.values else parameters.where("ssl"),
            "Postgres does not start",
            f"put the file there, readable by the user of Postgres alone (chmod 0600), or {name} = '...'",
        )
    if not unusable:
        chart.fine("ssl is on, with certificate and key")
