"""The part of docs/bench.md that the benchmark writes, between two markers."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.report import number, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.report import Line, Result

QUIET = ("throughput", "cold-wake", "stay")
"""Parts of pgidle's own figures that the table of the peers has, or that are too small for the page."""
BEGIN, END = "<!-- scripts/bench --page writes from here -->", "<!-- to here -->"


def markdown(result: Result, chart: str) -> str:
    """The chart, the table of the peers, the machine, and what is to be said about single figures."""
    about, peers = result.about, result.peers
    when = f"{about['date']}, commit {about['commit']}," if about["commit"] else f"{about['date']}"
    rows = [(_named(line), *(shown(line, name) or "-" for name in peers)) for line in result.lines]
    words = [
        f"{about['cores']} cores of {about['cpu']}",
        f"{about['kernel']}",
        f"PostgreSQL {about['postgresql']}",
    ]
    words += [f"Python {about['python']}", f"gate mode {about['gate']}", f"{about['peers']}"]
    return "\n".join(
        [
            f"![pgidle and its peers]({chart})",
            "",
            f"| | {' | '.join(peers)} |",
            f"|---|{'---:|' * len(peers)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Measured {when} on {', '.join(words)}.",
            *(["", *(f"- {note}" for note in result.notes)] if result.notes else []),
            *_under_load(result),
        ]
    )


def _under_load(result: Result) -> Iterator[str]:
    rows = [row for part, each in result.parts.items() if part not in QUIET for row in each]
    if rows:
        yield from ("", "| under load | | bare | pgidle | ratio |", "|---|---|---:|---:|---:|")
    for row in rows:
        bare = number(statistics.median(row.bare)) if row.bare else ""
        ratio = f"{row.judged:.2f}" if row.bare else ""
        # What starts with spaces belongs to the row before.
        name = f"&nbsp;&nbsp;{row.name.strip()}" if row.name.startswith(" ") else row.name
        yield f"| {name} | {row.unit} | {bare} | {number(statistics.median(row.pgidle))} | {ratio} |"


def _named(line: Line) -> str:
    return f"{line.name} ({line.unit})" if line.unit not in ("", "ratio") else line.name


def around(path: Path) -> tuple[str, str]:
    """What stands before the marks and after them. SystemExit if they are not there, each once and in order."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"bench: {path} has no place for the figures: {BEGIN} ... {END}")
    return before, after


def write(path: Path, text: str) -> None:
    """Replace what stands between the marks."""
    before, after = around(path)
    replace(path, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def replace(path: Path, text: str) -> None:
    """Write a file so that it is never there in half."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
