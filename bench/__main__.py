"""`scripts/bench`: what pgidle costs against bare Postgres and beside its peers, in one run on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import chart
import click
import load
import readme
from compared import Comparison
from installations import Installation, Place, debian, embedded
from measures import QUICK, Bench, Effort
from peers import PEERS
from report import Result, Row, machine, peers_table, table
from servers import PROJECT, install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "throughput": Bench.throughput,
    "cold-wake": Bench.cold_wake,
    "stay": Bench.stay,
    "crowd": Bench.crowds,
}
LOADS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "visits": load.visits,
    "pool": load.pool,
    "pgbench": load.pgbench,
}
COMPARED, CYCLES = "peers", "cycles"
MANY, FEW = 2000, 50
"""Cycles of sleep and wake, unless told."""


def _installation(major: int | None) -> Installation:
    found = [one for one in (debian(), embedded()) if one and major in (None, one.major)]
    if not found:
        raise click.ClickException(f"no PostgreSQL{f' {major}' if major else ''} found")
    return max(found, key=lambda one: one.major)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Fewer and shorter runs: rougher figures, in about a minute.")
@click.option("--runs", type=click.IntRange(1), help="Pairs of runs for every row that is a ratio.")
@click.option(
    "--postgres", "major", type=int, help="Major version of PostgreSQL. [default: the newest there is]"
)
@click.option(
    "--program",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="The pgidle command to measure. [default: this checkout, installed anew as an image does it]",
)
@click.option("--load", "loaded", is_flag=True, help="Load over many sleeps, too; a quarter of an hour more.")
@click.option(
    "--cycles", type=click.IntRange(load.FEW), help=f"With --load: sleeps to grow over. [default: {MANY}]"
)
@click.option(
    "--only",
    type=click.Choice((*PARTS, COMPARED, *LOADS, CYCLES)),
    multiple=True,
    help="This part; may be given several times.",
)
@click.option(
    "--json",
    "as_json",
    metavar="FILE",
    help="JSON, with every run's figure, to FILE; - instead of the table.",
)
@click.option(
    "--chart", "picture", type=click.Path(path_type=Path), help="The peers as a picture (SVG), to a file."
)
@click.option("--readme", "page", is_flag=True, help="The peers, and the picture, into README.md.")
def main(
    quick: bool,
    runs: int | None,
    major: int | None,
    program: Path | None,
    loaded: bool,
    cycles: int | None,
    only: tuple[str, ...],
    as_json: str | None,
    picture: Path | None,
    page: bool,
) -> None:
    """Measure pgidle against bare Postgres, and beside other ways to have a Postgres that is not always there.

    Ratios are medians of pairs taken one right after the other, so that other load on the machine meets both.
    Peers that are not installed are left out, and named; --install (Debian, root) installs them.
    """
    effort = QUICK if quick else Effort()
    if runs is not None:
        effort = dataclasses.replace(effort, load_starts=1, loads=runs, wakes=runs, crowds=runs)
    parts = set(only) or {*PARTS, COMPARED, *((*LOADS, CYCLES) if loaded else ())}
    if (picture or page) and COMPARED not in parts:
        raise click.UsageError(f"--chart and --readme show the part {COMPARED}, which --only leaves out")
    count = cycles or (FEW if quick else MANY)
    measures = {**PARTS, **LOADS, CYCLES: lambda bench: load.cycles(bench, count)}
    installation = _installation(major)
    began = time.monotonic()

    def say(what: str) -> None:
        click.echo(f"bench: {time.monotonic() - began:4.0f} s: {what}", err=True)

    place = Place()
    try:
        say("installing pgidle" if program is None else f"measuring {program}")
        bench = Bench(installation, place, program or install(place), effort, say)
        rows = {
            name: list(_said(say, name, measure(bench)))
            for name, measure in measures.items()
            if name in parts
        }
        comparison = Comparison(bench)
        lines = comparison.lines() if COMPARED in parts else []
        versions = {one.name: one.version() for one in PEERS if lines and not one.missing()}
        result = Result(
            machine(installation, bench.gate, versions), rows, lines, comparison.skipped if lines else {}
        )
    finally:
        place.clean()
    say("done")
    _show(result, as_json)
    if picture:
        readme.replace(picture, chart.svg(result))
    if page:
        shown = os.path.relpath(picture, PROJECT) if picture else None
        readme.write(PROJECT / "README.md", readme.markdown(result, shown))


def _said(say: Callable[[str], None], name: str, rows: Iterator[Row]) -> Iterator[Row]:
    say(name)
    yield from rows


def _show(result: Result, as_json: str | None) -> None:
    text = json.dumps(result.as_dict(), indent=2)
    if as_json == "-":
        click.echo(text)
        return
    if result.rows:
        click.echo(table(result))
    if result.lines:
        click.echo(peers_table(result))
    if as_json:
        readme.replace(Path(as_json), f"{text}\n")


main()
