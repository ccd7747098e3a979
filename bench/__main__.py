"""`scripts/bench`: what pgidle costs against bare Postgres, in one run on this machine."""

from __future__ import annotations

import dataclasses
import json
import time

import click
from installations import Installation, Place, debian, embedded
from measures import QUICK, Bench, Effort
from report import Row, machine, table
from servers import install

PARTS = {
    "pgbench": Bench.throughput,
    "cold-wake": Bench.cold_wake,
    "stay": Bench.stay,
    "crowd": Bench.crowds,
}


def _installation(major: int | None) -> Installation:
    found = [one for one in (debian(), embedded()) if one and major in (None, one.major)]
    if not found:
        raise click.ClickException(f"no PostgreSQL{f' {major}' if major else ''} found")
    return max(found, key=lambda one: one.major)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Fewer and shorter runs: under a minute, rougher figures.")
@click.option("--runs", type=click.IntRange(1), help="Pairs of runs for every row that is a ratio.")
@click.option(
    "--postgres", "major", type=int, help="Major version of PostgreSQL. [default: the newest there is]"
)
@click.option(
    "--only", type=click.Choice(PARTS), multiple=True, help="This part; may be given several times."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every run's figure.")
def main(quick: bool, runs: int | None, major: int | None, only: tuple[str, ...], as_json: bool) -> None:
    """Measure pgidle against bare Postgres: throughput, wakes, sleeps, memory, CPU.

    Ratios are medians of pairs taken one right after the other, so that other load on the machine meets both.
    """
    effort = QUICK if quick else Effort()
    if runs is not None:
        effort = dataclasses.replace(effort, load_starts=1, loads=runs, wakes=runs, crowds=runs)
    installation = _installation(major)
    began = time.monotonic()

    def say(what: str) -> None:
        click.echo(f"bench: {time.monotonic() - began:4.0f} s: {what}", err=True)

    place = Place()
    try:
        say("installing pgidle")
        bench = Bench(installation, place, install(place), effort)
        rows: list[Row] = []
        for name, measure in PARTS.items():
            if not only or name in only:
                say(name)
                rows += measure(bench)
        about = machine(installation, bench.gate)
    finally:
        place.clean()
    say("done")
    if as_json:
        click.echo(json.dumps({"about": about, "rows": [row.as_dict() for row in rows]}, indent=2))
    else:
        click.echo(table(about, rows))


main()
