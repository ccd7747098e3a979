"""The time that a platform leaves to a shutdown, against what pgidle allows itself, and what one took."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgidle.doctor.readers.durations import written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Context, Told

HARMLESS_SIGNALS = ("SIGINT", "SIGTERM")
_STOPS = re.compile(
    r"\bpg_ctl(?:cluster)?\b.*\b(?:stop|restart|kill)\b|\bp?kill(?:all)?\b.*\b(?:postgres|postmaster)"
    r"|\b(?:systemctl|service)\b.*\bpostgres\S*.*\b(?:stop|restart)\b|\bsystemctl\s+(?:stop|restart)\s+postgres"
)


def check_kill_timeout(
    chart: Chart,
    name: str,
    seconds: float,
    where: str,
    told: Told,
    context: Context,
    change: str,
    *,
    is_given: bool = True,
) -> None:
    """`name` is the platform's word for the seconds after which it kills; `change` gives it more."""
    amount = written(seconds) if seconds == float("inf") else f"{seconds:g}s"
    said = f"{name} is {written(seconds)}" if is_given else f"{name} is not given, so it is {amount}"
    stop, took = told.settings.stop_timeout, context.shutdown
    if not told.knows("stop-timeout"):
        chart.unknown(
            f"whether {name} is above stop-timeout",
            where,
            f"{told.elsewhere} may set that, and is not read",
            "PGIDLE_STOP_TIMEOUT, written out beside the other variables",
        )
    elif stop >= seconds:
        chart.wrong(
            f"{said}, and pgidle gives a fast shutdown {written(stop)} (stop-timeout)",
            where,
            "the platform kills Postgres before pgidle ends it in its own way, and the next start recovers",
            f"{change}, or a shorter stop-timeout",
        )
    elif took is not None and took >= seconds:
        chart.wrong(
            f"{said}, and the last shutdown took {written(took)}",
            where,
            "the platform kills Postgres while it shuts down, and the next start recovers",
            change,
        )
    else:
        measured = f", the last shutdown took {written(took)}" if took is not None else ""
        shown = f"{name} {written(seconds)}" if is_given else f"{name} (default {amount})"
        chart.fine(f"{shown} is above stop-timeout {written(stop)}{measured}")


def check_signal(chart: Chart, name: str, signal: str, where: str) -> None:
    """A stop signal other than the two that shut Postgres down in good order."""
    signal = signal.upper()
    signal = signal if signal.startswith("SIG") or signal.isdecimal() else f"SIG{signal}"
    if signal in (*HARMLESS_SIGNALS, "2", "15"):
        chart.fine(f"{name} {signal}")
    elif signal in ("SIGQUIT", "3"):
        chart.wrong(
            f"{name} is SIGQUIT", where, "it makes an immediate shutdown: the next start recovers",
            f"{name}: SIGINT",
        )  # fmt: skip
    else:
        chart.wrong(
            f"{name} is {signal}", where, "pgidle shuts Postgres down on SIGINT and SIGTERM only",
            f"{name}: SIGINT",
        )  # fmt: skip


def check_stop_command(chart: Chart, name: str, command: Sequence[str], where: str, change: str) -> bool:
    """A platform's own command that stops Postgres past pgidle; whether it does."""
    said = " ".join(command)
    if _STOPS.search(said) is None:
        return False
    chart.wrong(
        f"{name} stops Postgres itself ({said[:60]})",
        where,
        "pgidle takes that for somebody's pg_ctl and starts Postgres again: the stop takes until the platform kills,"
        " and the next start recovers",
        change,
    )
    return True
