"""`scripts/torture`: endless faults, and after every round the question whether pgidle has kept its promises."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.clients import Ledger
from harness.installations import Place
from pgidle.gate.preload import open_library
from torture.choice import ALL, Choice, find_installation, lacking, missing_for, read_names
from torture.namespace import enter
from torture.plan import MODES
from torture.play import Stage, play
from torture.table import LEGEND, Totals, keep
from torture.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torture.plan import Plan
    from torture.play import Outcome

CALM = 5.0
"""Seconds of clients and faults in a round."""

SAID = 8
"""Broken promises of a round that are printed; all are kept."""


class Positive(click.FloatRange):
    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=LEGEND)
@click.option(
    "--minutes",
    type=Positive(),
    help="How long; the round that is being played then is the last. [default: 5]",
)
@click.option("--rounds", type=click.IntRange(1), help="How many rounds, instead of --minutes.")
@click.option("--seed", type=int, help="Repeat what was planned with this seed. [default: a new one]")
@click.option("--round", "number", type=click.IntRange(0), help="Play this round of the seed alone.")
@click.option("--mode", type=click.Choice((*MODES, ALL)), default=ALL, show_default=True)
@click.option(
    "--postgres",
    "installation",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    callback=lambda _, __, value: find_installation(value),
    help="Folder of `postgres`. [default: the newest there is]",
)
@click.option(
    "--only",
    "names",
    metavar="FAULT,...",
    callback=lambda _, __, value: read_names(value),
    help="Only these faults.",
)
@click.option(
    "--seconds", type=Positive(), default=CALM, show_default=True, help="Clients and faults, per round."
)
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
    keep_going: bool,
    keep_in: Path,
    json_file: Path | None,
    **chosen: object,
) -> None:
    """Torture pgidle: seeded rounds of clients and faults on one data directory, each judged.

    What is planned repeats from the seed; what the scheduler makes of it does not. Exit status 1 if any promise was
    broken, if a round could not be played, or if it was interrupted.
    """
    if number is not None and (rounds is not None or minutes is not None):
        raise click.UsageError("--round plays one round: leave out --rounds and --minutes")
    if rounds is not None and minutes is not None:
        raise click.UsageError("--rounds or --minutes, not both")
    if json_file is not None and not os.access(json_file.parent, os.W_OK | os.X_OK):
        raise click.UsageError(f"--json: cannot write in {json_file.parent}: name a folder that is there")
    choice = Choice(random.randrange(1_000_000) if seed is None else seed, **chosen)  # type: ignore[arg-type]
    is_own = enter()
    # Also where a shell that started us in the background has told us to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if open_library() is None:
        raise click.ClickException(
            "the preloaded library is not compiled, and without it clients are refused"
        )
    one = choice.installation
    click.echo(f"torture: seed {choice.seed}, PostgreSQL {one.major} ({one.bin_dir})")
    lacks = lacking(choice, is_own=is_own)
    for name, text in lacks.items():
        click.echo(f"torture: left out: {name}: {text}")
    if number is not None and (lack := missing_for(choice.plan(number), lacks)):
        raise click.ClickException(f"round {number} cannot be played here: {lack}")
    plans = (choice.plan(index) for index in range(number or 0, sys.maxsize))
    playable = (one for one in plans if missing_for(one, lacks) is None)
    totals = Totals(choice, lacks, is_own)
    minutes = None if rounds or number is not None else minutes or 5.0
    try:
        _play_all(
            totals, playable, 1 if number is not None else rounds, minutes, keep_in, keep_going=keep_going
        )
    except KeyboardInterrupt:
        totals.interrupted = True
    if totals.interrupted and totals.playing is not None:
        click.echo(f"  again: {choice.again(totals.playing)}")
    click.echo(totals.text())
    if json_file is not None:
        table = {"seed": choice.seed, "postgres": one.major, "faults": totals.rows}
        json_file.write_text(json.dumps(table, indent=2))
    click.echo(f"torture: seed {choice.seed}: {totals.verdict()}")
    sys.exit(0 if totals.is_good else 1)


def _play_all(
    totals: Totals,
    plans: Iterable[Plan],
    rounds: int | None,
    minutes: float | None,
    keep_in: Path,
    *,
    keep_going: bool,
) -> None:
    """Rounds until there were so many, or so many minutes are over, or one went wrong."""
    choice = totals.choice
    place = Place()
    volume = Volume(choice.installation, place, is_own=totals.is_own)
    try:
        stage = Stage(choice.installation, place, volume, Ledger())
        over = time.monotonic() + (minutes * 60 if minutes is not None else float("inf"))
        for count, plan in enumerate(plans, 1):
            click.echo(f"round {plan.number}: {plan}")
            totals.playing = plan.number
            outcome = play(stage, plan, choice.seconds)
            totals.add(outcome)
            _tell(outcome)
            if outcome.is_wrong:
                click.echo(f"  kept in {keep(outcome, stage.ledger, keep_in)}")
            if outcome.interrupted:
                break
            if outcome.is_wrong:
                click.echo(f"  again: {choice.again(plan.number)}")
            totals.playing = None
            if (outcome.is_wrong and not keep_going) or count == rounds or time.monotonic() >= over:
                break
    finally:
        volume.close()
        place.clean()


def _tell(outcome: Outcome) -> None:
    happened = outcome.happened
    injected = ", ".join(f"{name} x{count}" for name, count in outcome.injected.items())
    click.echo(
        f"  {outcome.seconds:.1f} s: {injected or 'nothing'}; {happened.sleeps} sleeps, "
        f"{happened.tally.tried + happened.tally.strangers} connections, {happened.tally.commits} commits, "
        f"longest connect {happened.tally.longest:.2f} s"
    )
    for one in happened.violations[:SAID]:
        click.echo(f"  BROKEN PROMISE: {one}")
    if (more := len(happened.violations) - SAID) > 0:
        click.echo(f"  and {more} more")
    if happened.harness is not None:
        click.echo(f"  THE HARNESS FAILED, which says nothing about pgidle: {happened.harness}")
    if outcome.interrupted:
        click.echo("  interrupted; it was not judged to its end")


if __name__ == "__main__":
    try:
        main(prog_name="scripts/torture", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"torture: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
