"""Rows of figures, and how they are shown: a table for people, JSON for programs."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from installations import Installation


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


def machine(installation: Installation, gate: str) -> dict[str, object]:
    """What the figures hold for; nothing that says whose machine it is."""
    model = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    postgres = subprocess.run(
        [installation.program("postgres"), "--version"], check=True, capture_output=True, text=True
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model[1] if model else platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": postgres.stdout.removeprefix("postgres (PostgreSQL)").strip(),
        "gate": gate,
    }


HEADS = ("", "unit", "bare", "best", "pgidle", "best", "ratio", "quartiles", "of", "target", "")


def table(about: dict[str, object], rows: Sequence[Row]) -> str:
    """Medians, the best run, the median and the quartiles of the ratios of so many pairs, and what was aimed at."""
    lines = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    head = [f"{name}: {value}" for name, value in about.items() if value]
    body = [
        "  ".join(
            cell.ljust(width) if column in (0, 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*head, "", *body, ""])


def _cells(row: Row) -> tuple[str, ...]:
    bare = (_number(statistics.median(row.bare)), _number(row.best(row.bare))) if row.bare else ("", "")
    target = f"{'>=' if row.floor else '<='} {row.target:g}" if row.target is not None else ""
    return (
        row.name,
        row.unit,
        *bare,
        _number(statistics.median(row.pgidle)),
        _number(row.best(row.pgidle)),
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


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"
