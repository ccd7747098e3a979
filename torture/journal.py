"""Whether the journal has every wake and sleep that the log has, or tells that something is missing."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pgidle.history.events import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgidle.history.events import Event

OF_LOG = {("awake", "starting"): Kind.WOKEN, ("asleep", "stopping"): Kind.SLEPT}
"""The events by the state that the log names, and the one before."""


def untold(log: Iterable[Mapping[str, Any]], events: Iterable[Event]) -> list[str]:
    """What the journal lacks without telling it: `log` are the lines of pgidle's log, as JSON has them.

    A run that was killed may lack its last events, as it has no line about its end; another lacks none, unless numbers
    are missing. A line that the log has lost may be in the journal.
    """
    said: dict[int, list[Kind]] = defaultdict(list)
    for line in log:
        if (kind := OF_LOG.get((line.get("state", ""), line.get("from") or ""))) is not None:
            said[line["pid"]].append(kind)
    runs: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        runs[event.run].append(event)
    # The latest of each pid: it may have been another's long before.
    by_pid = {run[0].count("pid"): run for run in runs.values() if run[0].kind is Kind.STARTED}
    found = []
    for pid, kinds in said.items():
        run = by_pid.get(pid)
        if run is None:
            continue  # Killed before its first line: the next one tells that.
        numbers = [event.number for event in run]
        if numbers != list(range(1, len(run) + 1)):
            continue
        kept = [event.kind for event in run if event.kind in OF_LOG.values()]
        is_told = run[-1].kind is not Kind.EXITED and _begins_with(kinds, kept)
        if not is_told and not _has_all(kept, kinds):
            found.append(f"the journal of {pid} lacks events: {_names(kept)} of {_names(kinds)}")
    return found


def _begins_with(said: list[Kind], kept: list[Kind]) -> bool:
    return said[: len(kept)] == kept


def _has_all(kept: list[Kind], said: list[Kind]) -> bool:
    """Whether all that was said is there in that order, perhaps with more between."""
    rest = iter(kept)
    return all(kind in rest for kind in said)


def _names(kinds: list[Kind]) -> str:
    return " ".join(kind.value for kind in kinds[-10:])
