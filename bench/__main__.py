"""`scripts/bench`: what pgidle costs compared with bare Postgres and with its peers, in one run on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from bench import chart, figures, load
from bench.compared import Comparison
from bench.measures import QUICK, Bench, Effort
from bench.peers import PEERS
from bench.report import Result, Row, machine, peers_table, table
from bench.servers import PROJECT, commit, install
from harness.installations import Installation, Place, debian, embedded

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
PAGE = PROJECT / "docs/bench.md"
MANY, FEW = 2000, 50
"""Cycles of sleep and wake, unless told."""


class Refused(click.ClickException):
    """What was asked for cannot be done; said before anything is measured."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"bench: {self.message}", err=True, file=file)


def _check_files(as_json: str | None, picture: Path | None, *, page: bool) -> None:
    """That what is measured can be written in the end."""
    told = {"--json": Path(as_json) if as_json not in (None, "-") else None, "--chart": picture}
    for option, path in told.items():
        if path is None:
            continue
        if path.is_dir():
            raise Refused(f"{option}: {path} is a folder: name a file")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            raise Refused(
                f"{option}: {path.parent} is no folder that can be written to: make it, or name another"
            )
    if page:
        if picture is None or not picture.resolve().is_relative_to(PROJECT):
            raise Refused(
                "--page shows the picture, too: say --chart docs/bench.svg, or another file of the project"
            )
        figures.around(PAGE)


def _check_program(program: Path) -> None:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
        said = done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"--program: {program}: {error}") from None
    if not said.startswith("pgidle"):
        raise Refused(f"--program: {program} is not pgidle: its --version says {said.strip()[:60]!r}")


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
@click.option(
    "--page", "page", is_flag=True, help="The figures, and the picture of --chart, into docs/bench.md."
)
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
    Peers that are not installed are left out, and named; --install, alone, installs them (Debian, root).
    The exit status is 1 if a connection failed or another promise was broken; what is missed of speed, memory and
    CPU is only said.
    """
    effort = QUICK if quick else Effort()
    if runs is not None:
        effort = dataclasses.replace(effort, load_starts=1, loads=runs, wakes=runs, crowds=runs)
    parts = set(only) or {*PARTS, COMPARED, *((*LOADS, CYCLES) if loaded else ())}
    if (picture or page) and COMPARED not in parts:
        raise Refused(f"--chart and --page show the part {COMPARED}, which --only leaves out")
    _check_files(as_json, picture, page=page)
    if program is not None:
        _check_program(program)
    cycles_of = partial(load.cycles, count=cycles or (FEW if quick else MANY))
    began = time.monotonic()

    def say(what: str) -> None:
        click.echo(f"bench: {time.monotonic() - began:4.0f} s: {what}", err=True)

    every: dict[str, Callable[[Bench], Iterator[Row]]] = {**PARTS, **LOADS, CYCLES: cycles_of}
    measures = {name: measure for name, measure in every.items() if name in parts}
    result = _measure(_installation(major), program, effort, measures, compare=COMPARED in parts, say=say)
    say("done")
    _show(result, as_json)
    if picture:
        figures.replace(picture, chart.svg(result))
    if page and picture:
        figures.write(PAGE, figures.markdown(result, os.path.relpath(picture.resolve(), PAGE.parent)))
    if result.broken:
        click.echo(f"bench: a promise was broken: {'; '.join(result.broken)}", err=True)
        sys.exit(1)


def _measure(
    installation: Installation,
    program: Path | None,
    effort: Effort,
    measures: dict[str, Callable[[Bench], Iterator[Row]]],
    *,
    compare: bool,
    say: Callable[[str], None],
) -> Result:
    """Take every measure, and beside the peers if so wanted; without a program, of this checkout installed anew."""
    measured = commit() if program is None else ""
    place = Place()
    try:
        say("installing pgidle" if program is None else f"measuring {program}")
        bench = Bench(installation, place, program or install(place), effort, say)
        rows = {name: list(_said(say, name, measure(bench))) for name, measure in measures.items()}
        comparison = Comparison(bench)
        lines = comparison.lines() if compare else []
        versions = {one.name: one.version() for one in PEERS if lines and not one.missing()}
        about = machine(installation, bench.gate, versions, measured)
        return Result(about, rows, lines, comparison.skipped if lines else {})
    finally:
        place.clean()


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
        figures.replace(Path(as_json), f"{text}\n")


main(prog_name="scripts/bench")
