"""How long a platform lets a shutdown take, compared with stop-timeout and with the last measured shutdown."""

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
    """`name` is the platform's name for the seconds after which it kills; `change` makes them more."""
    amount = written(seconds) if seconds == float("inf") else f"{seconds:g}s"
    said = f"{name} is {written(seconds)}" if is_given else f"{name} is not given, so it is {amount}"
    stop, took = told.settings.stop_timeout, context.shutdown
    if not told.knows("stop-timeout"):
        chart.unknown(
            f"whether {name} is above stop-timeout",
            where,
            f"{told.elsewhere} may set that, and it is not read",
            "PGIDLE_STOP_TIMEOUT, written out beside the other variables",
        )
    elif stop >= seconds:
        chart.wrong(
            f"{said}, and pgidle gives a fast shutdown {written(stop)} (stop-timeout)",
            where,
            "the platform kills Postgres before pgidle has stopped it, and the next start has to recover",
            f"{change}, or a shorter stop-timeout",
        )
    elif took is not None and took >= seconds:
        chart.wrong(
            f"{said}, and the last shutdown took {written(took)}",
            where,
            "the platform kills Postgres while it shuts down, and the next start has to recover",
            change,
        )
    else:
        measured = f", the last shutdown took {written(took)}" if took is not None else ""
        shown = f"{name} {written(seconds)}" if is_given else f"{name} (default {amount})"
        chart.fine(f"{shown} is above stop-timeout {written(stop)}{measured}")


def check_signal(chart: Chart, name: str, signal: str, where: str) -> None:
    """A stop signal other than the two on which pgidle shuts Postgres down cleanly."""
    signal = signal.upper()
    signal = signal if signal.startswith("SIG") or signal.isdecimal() else f"SIG{signal}"
    if signal in (*HARMLESS_SIGNALS, "2", "15"):
        chart.fine(f"{name} {signal}")
    elif signal in ("SIGQUIT", "3"):
        chart.wrong(
            f"{name} is SIGQUIT", where, "it is an immediate shutdown, so the next start has to recover",
            f"{name}: SIGINT",
        )  # fmt: skip
    else:
        chart.wrong(
            f"{name} is {signal}", where, "pgidle shuts Postgres down on SIGINT and SIGTERM only",
            f"{name}: SIGINT",
        )  # fmt: skip


def check_stop_command(chart: Chart, name: str, command: Sequence[str], where: str, change: str) -> bool:
    """Whether a platform's stop command stops Postgres behind pgidle's back, which is a finding."""
    said = " ".join(command)
    if _STOPS.search(said) is None:
        return False
    chart.wrong(
        f"{name} stops Postgres itself ({said[:60]})",
        where,
        "to pgidle that looks like an administrator's pg_ctl, so it starts Postgres again: the stop lasts until the"
        " platform kills it, and the next start has to recover",
        change,
    )
    return True
