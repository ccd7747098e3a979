"""Charts for people and for programs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from pgidle.doctor.finding import MACHINE, Severity
from pgidle.idle.reasons import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pgidle.doctor.finding import Chart, Finding

WIDTH = 110
COLOURS = {Severity.WRONG: 31, Severity.NOTE: 33, Severity.UNKNOWN: 36}


def as_dict(charts: Sequence[Chart]) -> dict[str, Any]:
    """For programs: the counts, and each subject with its findings, what was right, what was read and what not."""
    counts = {severity.value: sum(chart.count(severity) for chart in charts) for severity in Severity}
    return counts | {
        "subjects": [
            {
                "subject": chart.subject,
                "findings": [
                    {
                        "severity": one.severity.value,
                        "what": one.what,
                        "where": one.where,
                        "why": one.why,
                        "change": one.change,
                    }
                    for one in chart.findings
                ],
                "right": list(dict.fromkeys(chart.right)),
                "read": list(dict.fromkeys(chart.read)),
                "not_read": list(dict.fromkeys(chart.not_read)),
            }
            for chart in charts
        ]
    }


def as_text(charts: Sequence[Chart], *, colour: bool = False) -> str:
    """For people: a block for each finding, what is wrong first, then what was right, was read, and was not."""
    blocks = ["\n".join(_chart(chart, colour=colour)) for chart in charts]
    counted = {severity: sum(chart.count(severity) for chart in charts) for severity in Severity}
    wrong, notes, unknown = (counted[one] for one in (Severity.WRONG, Severity.NOTE, Severity.UNKNOWN))
    found = f"{wrong} wrong" if wrong else "nothing wrong in what was read"
    total = f"{found}, {notes} to note, {unknown} not checked"
    is_whole = any(chart.subject == MACHINE for chart in charts)
    rest = "" if is_whole else "this machine was not checked: add -D DATA_DIRECTORY\n"
    return "\n\n".join([*blocks, total]) + "\n" + rest


def _chart(chart: Chart, *, colour: bool) -> Iterator[str]:
    yield one_line(chart.subject)
    for finding in sorted(chart.findings, key=_order):
        yield from _finding(finding, colour=colour)
    for label, said in (("right", chart.right), ("read", chart.read), ("not read", chart.not_read)):
        if said:
            yield _wrapped(f"  {label:<9}", "; ".join(dict.fromkeys(said)))


def _order(finding: Finding) -> tuple[int, int]:
    """What is wrong first, and by line within."""
    line = finding.where.rpartition(":")[2]
    return list(Severity).index(finding.severity), int(line) if line.isdecimal() else 0


def _finding(finding: Finding, *, colour: bool) -> Iterator[str]:
    word = finding.severity.value
    shown = _wrapped(f"  {word:<9}", f"{finding.where}: {finding.what}")
    if colour:
        shown = shown.replace(word, f"\x1b[1;{COLOURS[finding.severity]}m{word}\x1b[0m", 1)
    yield shown
    yield _wrapped("    why    ", finding.why)
    yield _wrapped("    change ", finding.change)


def _wrapped(label: str, text: str) -> str:
    lines = textwrap.wrap(
        one_line(text), WIDTH - len(label), break_long_words=False, break_on_hyphens=False
    ) or [""]
    return label + f"\n{' ' * len(label)}".join(lines)
