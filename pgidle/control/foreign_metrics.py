"""Metrics that somebody else answered with, reduced to what pgidle's can be. Pure.

Whoever owns the state directory may answer in the supervisor's place, and node_exporter takes a file with every other
metric of the machine: so no name may come through that is not pgidle's, no type that differs from that in another
database's file, and nothing twice, as each of these would spoil more than this one database's metrics.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgidle.control.metrics import HISTOGRAMS, label_text
from pgidle.idle.reasons import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_SAMPLES = 1000
LONGEST_LINE = 4000
"""Characters."""

_NUMBER = r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{1,30})?(?:e[+-]?[0-9]{1,3})?|Inf)"
_LABEL = r'(?!__)[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\[\\"n])*"'
_SAMPLE = re.compile(rf"(pgidle_[a-z_]+)(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? ({_NUMBER})")
_LABELS = re.compile(r'([^=,]+)="((?:[^"\\]|\\.)*)",?')
_HELP = re.compile(r"# HELP (pgidle_[a-z_]+) ([^\\]*)")
_BOUND = re.compile(_NUMBER)
_PARTS = re.compile(rf"({'|'.join(f'pgidle_{name}' for name in HISTOGRAMS)})_(bucket|sum|count)")


def own_metrics(text: str, added: Mapping[str, str]) -> str:
    """Those metrics in the text that are pgidle's, with more labels on each sample, in Prometheus's text format. Empty
    if there are none."""
    helps: dict[str, str] = {}
    families: dict[str, list[str]] = {}
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for line in text.split("\n"):
        if len(line) > LONGEST_LINE or len(seen) >= MOST_SAMPLES:
            continue
        line = one_line(line)
        if found := _HELP.fullmatch(line):
            helps.setdefault(found[1], found[2])
        elif found := _SAMPLE.fullmatch(line):
            name, labels = found[1], _LABELS.findall(found[2] or "")
            # A label without a value is as good as none.
            key = (name, frozenset((label, value) for label, value in labels if value))
            names = [label for label, _ in labels]
            family = _family(name, dict(labels))
            if family is None or key in seen or len({*names, *added}) < len(names) + len(added):
                continue
            seen.add(key)
            more = ",".join(part for part in (label_text(added), found[2]) if part)
            families.setdefault(family, []).append(
                f"{name}{{{more}}} {found[3]}" if more else f"{name} {found[3]}"
            )
    lines = []
    for name, samples in families.items():
        if name in helps:
            lines.append(f"# HELP {name} {helps[name]}")
        lines += [f"# TYPE {name} {_kind(name)}", *samples]
    return "".join(f"{line}\n" for line in lines)


def _family(name: str, labels: Mapping[str, str]) -> str | None:
    """The name of the family that a sample belongs to; None if it cannot be one."""
    if name.removeprefix("pgidle_") in HISTOGRAMS:
        return None
    if (part := _PARTS.fullmatch(name)) is None:
        return name
    is_bound = _BOUND.fullmatch(labels.get("le", "")) is not None
    return part[1] if is_bound == (part[2] == "bucket") else None


def _kind(name: str) -> str:
    """By the conventions of pgidle's names."""
    if name.removeprefix("pgidle_") in HISTOGRAMS:
        return "histogram"
    return "counter" if name.endswith("_total") else "gauge"
