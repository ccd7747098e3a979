"""Rows of figures, and how they are shown: a table for people, JSON for programs."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.installations import Installation


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured, in `unit`, run by run.

    With `bare`, run i of both is a pair, taken one right after the other, and the target is for the median of
    the pairs' ratios; else it is for the median itself. A `floor` must be reached, otherwise not exceeded.
    """

    name: str
    unit: str
    pgidle: Sequence[float]
    bare: Sequence[float] = ()
    target: float | None = None
    floor: bool = False
    is_promise: bool = False
    """Its target is not an aim: missed, the run has failed."""

    @property
    def ratios(self) -> list[float]:
        return (
            [mine / theirs for mine, theirs in zip(self.pgidle, self.bare, strict=True)] if self.bare else []
        )

    @property
    def judged(self) -> float:
        return statistics.median(self.ratios or self.pgidle)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.judged >= self.target if self.floor else self.judged <= self.target

    def best(self, values: Sequence[float]) -> float:
        return max(values) if self.floor else min(values)

    def as_dict(self) -> dict[str, object]:
        sides = {"bare": self.bare, "pgidle": self.pgidle}
        figures = {
            side: {"median": statistics.median(values), "best": self.best(values), "runs": list(values)}
            for side, values in sides.items()
            if values
        }
        ratio = {"ratio": self.judged, "ratios": self.ratios} if self.bare else {}
        target = {"target": self.target, "met": self.met} if self.target is not None else {}
        return {"name": self.name, "unit": self.unit} | figures | ratio | target


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured of one peer, run by run; with `bare` as pairs, as in Row. `text` is for what is no number."""

    values: Sequence[float]
    bare: Sequence[float] = ()
    text: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What happened how often, where `values` is made of that."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratios(self) -> list[float]:
        return [mine / theirs for mine, theirs in zip(self.values, self.bare, strict=False)]

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def failed(self) -> int:
        """Connections."""
        return sum(self.counts.values()) - self.counts.get("connections", 0)

    def as_dict(self) -> dict[str, object]:
        found: dict[str, object] = {"text": self.text} if self.text else {}
        if self.values:
            found |= {"median": self.median, "runs": list(self.values)}
        if self.ratio is not None:
            found |= {"ratio": self.ratio, "bare": list(self.bare)}
        return found | ({"counts": dict(self.counts)} if self.counts else {})


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement of all peers. `unit` is "ratio" where the cells' ratios to bare are the figure."""

    name: str
    unit: str
    cells: dict[str, Cell]

    def as_dict(self) -> dict[str, object]:
        cells = {name: cell.as_dict() for name, cell in self.cells.items()}
        return {"name": self.name, "unit": self.unit, "cells": cells}


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run: the machine, what was measured of pgidle, and of the peers; `skipped` says why some are not there."""

    about: Mapping[str, object]
    parts: Mapping[str, Sequence[Row]]
    lines: Sequence[Line]
    skipped: Mapping[str, str]

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.parts.values() for row in rows]

    @property
    def peers(self) -> list[str]:
        return list(dict.fromkeys(name for line in self.lines for name in line.cells))

    @property
    def broken(self) -> list[str]:
        """What pgidle promises and did not keep in this run."""
        broken = [
            f"{part}: {row.name.strip()}: {number(row.judged)}"
            for part, rows in self.parts.items()
            for row in rows
            if row.is_promise and not row.met
        ]
        for line in self.lines:
            cell = line.cells.get("pgidle")
            if cell is not None and (cell.failed or (line.name == "client_addr" and cell.text != "kept")):
                broken.append(f"{line.name}: {shown(line, 'pgidle')}")
        return broken

    @property
    def notes(self) -> list[str]:
        """Who is not there, and what those met that failed, for each peer."""
        notes = [f"{name}: skipped, {why}" for name, why in self.skipped.items()]
        for line in self.lines:
            for name, cell in line.cells.items():
                met = [f"{count} {why}" for why, count in cell.counts.items() if why != "connections"]
                if met:
                    notes.append(f"{name}, {line.name}: {'; '.join(met)}")
        return notes

    def as_dict(self) -> dict[str, object]:
        return {
            "about": dict(self.about),
            "rows": [{"part": part} | row.as_dict() for part, rows in self.parts.items() for row in rows],
            "peers": [line.as_dict() for line in self.lines],
            "skipped": dict(self.skipped),
        }


def machine(
    installation: Installation, gate: str, versions: Mapping[str, str], measured: str
) -> dict[str, object]:
    """What the figures hold for; nothing that says whose machine it is. `measured` is a commit, or empty."""
    model = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    postgres = subprocess.run(
        [installation.program("postgres"), "--version"], check=True, capture_output=True, text=True
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model[1] if model else platform.machine(),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "postgresql": postgres.stdout.removeprefix("postgres (PostgreSQL)").strip(),
        "gate": gate,
        "peers": ", ".join(one for one in versions.values() if one),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": measured,
    }


HEADS = ("", "unit", "bare", "best", "pgidle", "best", "ratio", "quartiles", "of", "target", "")


LEGEND = """\
bare, pgidle: medians of the runs, and the best of them; a run of bare is right before its run of pgidle
ratio: median of the pairs' ratios (not the ratio of the medians); quartiles: the middle half of them lies between
of: runs; MISSED: of speed, memory and CPU an aim, of the others a promise: then the exit status is 1
"""
PEERS_LEGEND = """\
bare: all its runs, one of them right before each of a peer's; ratios are medians over those pairs, so that they do not
follow from the cells; in brackets their quartiles, or behind a time its ratio: a range that spans 1 is noise
memory, CPU: of what is there besides Postgres
"""


def table(result: Result) -> str:
    """Medians, the best run, the median and the quartiles of the ratios of so many pairs, and what was aimed at."""
    head = [f"{name}: {value}" for name, value in result.about.items() if value]
    return "\n".join([*head, "", *_aligned([HEADS, *(_cells(row) for row in result.rows)], 2), "", LEGEND])


def peers_table(result: Result) -> str:
    """A column for each peer: medians, with the median of the ratios to bare behind those that are timed."""
    body = [(line.name, line.unit, *(shown(line, name) for name in result.peers)) for line in result.lines]
    return "\n".join(
        [*_aligned([("", "unit", *result.peers), *body], 2), "", *result.notes, "", PEERS_LEGEND]
    )


def shown(line: Line, name: str) -> str:
    cell = line.cells.get(name)
    if cell is None:
        return ""
    if not cell.values:
        return cell.text
    if line.unit == "ratio":
        quartiles = _quartiles(cell.ratios)
        return f"{cell.ratio:.2f}" + (f" ({quartiles})" if quartiles else "")
    if cell.counts:
        return f"{cell.median:.1f} ({cell.failed} of {cell.counts['connections']})" if cell.failed else "0"
    return number(cell.median) + (f" ({cell.ratio:.2f}x)" if cell.ratio is not None else "")


def _aligned(lines: Sequence[tuple[str, ...]], left: int) -> list[str]:
    """Columns of one width each, the first so many to the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _cells(row: Row) -> tuple[str, ...]:
    bare = (number(statistics.median(row.bare)), number(row.best(row.bare))) if row.bare else ("", "")
    target = f"{'>=' if row.floor else '<='} {row.target:g}" if row.target is not None else ""
    return (
        row.name,
        row.unit,
        *bare,
        number(statistics.median(row.pgidle)),
        number(row.best(row.pgidle)),
        f"{row.judged:.3f}" if row.bare else "",
        _quartiles(row.ratios),
        str(len(row.pgidle)),
        target,
        {True: "met", False: "MISSED", None: ""}[row.met],
    )


def _quartiles(ratios: Sequence[float]) -> str:
    """Between which the middle half of the ratios lies: how far the median is to be trusted."""
    if len(ratios) < 3:
        return ""
    low, _, high = statistics.quantiles(ratios, method="inclusive")
    return f"{low:.2f}-{high:.2f}"


def number(value: float) -> str:
    whole = value >= 1000 or value == int(value)
    return f"{value:.0f}" if whole else f"{value:.1f}" if value >= 10 else f"{value:.3g}"
