"""`scripts/torture`: faults without end, and after every round the question whether pgidle has kept its promises."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import click
from clients import Ledger
from installations import Installation, Place, debian, embedded, installation_in

from torture.injections import FAULTS
from torture.namespace import enter
from torture.plan import MODES, plan
from torture.play import Stage, play
from torture.table import Totals, keep
from torture.volume import Volume

CALM = 5.0
"""Seconds of clients and faults in a round."""

SAID = 8
"""Violations of a round that are printed; all are kept."""


def _installation(bin_dir: Path | None) -> Installation:
    if bin_dir is not None:
        return installation_in(bin_dir)
    found = [one for one in (debian(), embedded()) if one]
    if not found:
        raise click.ClickException("no PostgreSQL found: name one with --postgres")
    return max(found, key=lambda one: one.major)


def _names(only: str | None) -> list[str]:
    names = [name.strip() for name in only.split(",")] if only else list(FAULTS)
    if unknown := [name for name in names if name not in FAULTS]:
        raise click.BadParameter(f"no fault {unknown[0]!r}; there are: {', '.join(FAULTS)}")
    for name in names:
        if why := FAULTS[name].missing:
            click.echo(f"torture: left out: {name}: {why}", err=True)
    names = [name for name in names if not FAULTS[name].missing]
    if os.geteuid() != 0 and "disk full" in names:
        click.echo("torture: left out: disk full: needs root, for a small file system", err=True)
        names.remove("disk full")
    if not names:
        raise click.ClickException("no fault is left")
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--minutes", type=float, help="How long; the round that is being played then is the last. [default: 5]"
)
@click.option("--rounds", type=click.IntRange(1), help="How many rounds, instead of --minutes.")
@click.option("--seed", type=int, help="Repeat what was planned with this seed. [default: a new one]")
@click.option("--round", "number", type=click.IntRange(0), help="Play this round of the seed alone.")
@click.option("--mode", type=click.Choice((*MODES, "all")), default="all", show_default=True)
@click.option(
    "--postgres",
    "bin_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of `postgres`. [default: the newest there is]",
)
@click.option("--only", metavar="FAULT,...", help="Only these faults.")
@click.option("--seconds", type=float, default=CALM, show_default=True, help="Clients and faults, per round.")
@click.option("--keep-going", is_flag=True, help="Play on after a round that went wrong.")
@click.option(
    "--keep-in",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/tmp/pgidle-torture"),
    show_default=True,
    help="Where what is left of such a round is kept.",
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the table here."
)
def main(
    minutes: float | None,
    rounds: int | None,
    seed: int | None,
    number: int | None,
    mode: str,
    bin_dir: Path | None,
    only: str | None,
    seconds: float,
    keep_going: bool,
    keep_in: Path,
    json_file: Path | None,
) -> None:
    """Torture pgidle: seeded rounds of clients and faults on one data directory, each judged.

    What is planned repeats from the seed; what the scheduler makes of it does not. Exit status 1 if any promise was
    broken.
    """
    names = _names(only)
    is_inside = enter()
    seed = random.randrange(1_000_000) if seed is None else seed
    installation = _installation(bin_dir)
    click.echo(f"torture: seed {seed}, PostgreSQL {installation.major} ({installation.bin_dir})")
    modes = MODES if mode == "all" else (mode,)
    until = time.monotonic() + (minutes or 5.0) * 60 if rounds is None and number is None else float("inf")
    first = number or 0
    last = first + 1 if number is not None else (first + rounds if rounds else sys.maxsize)
    totals, wrong = Totals(), 0
    place = Place()
    volume = Volume(installation, place, is_own=is_inside)
    try:
        stage = Stage(installation, place, volume, Ledger())
        for index in range(first, last):
            if time.monotonic() >= until:
                break
            outcome = play(stage, plan(seed, index, names, modes), seconds)
            totals.add(outcome)
            happened = outcome.happened
            injected = ", ".join(f"{name} x{count}" for name, count in outcome.injected.items())
            click.echo(
                f"round {index}: {outcome.plan}\n"
                f"  {outcome.seconds:.1f} s: {injected or 'nothing'}; {happened.sleeps} sleeps, "
                f"{happened.tally.tried + happened.tally.strangers} connections, {happened.tally.commits} commits, "
                f"longest connect {happened.tally.longest:.2f} s"
            )
            if happened.violations:
                wrong += 1
                where = keep(outcome, stage.ledger, keep_in)
                for one in happened.violations[:SAID]:
                    click.echo(f"  WRONG: {one}")
                if (more := len(happened.violations) - SAID) > 0:
                    click.echo(f"  and {more} more")
                click.echo(f"  kept in {where}; again: scripts/torture --seed {seed} --round {index}")
                if not keep_going:
                    break
    finally:
        volume.close()
        place.clean()
    click.echo(totals.text())
    if json_file is not None:
        rows = {name: dict(row) for name, row in totals.rows.items()}
        json_file.write_text(
            json.dumps({"seed": seed, "postgres": installation.major, "faults": rows}, indent=2)
        )
    click.echo(f"torture: seed {seed}: {f'{wrong} rounds went wrong' if wrong else 'every promise was kept'}")
    sys.exit(1 if wrong else 0)


main(prog_name="scripts/torture")
