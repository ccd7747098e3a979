"""`pgidle hold` and `pgidle release`. With a program, the process that took the hold becomes the program.

So there is nobody between the program and its caller: exit status, signals, terminal and job control are its own. The
supervisor watches the process, whose end ends the hold, however it ends. A descriptor that the program inherited would
not do: sudo closes them all, and a daemon that it leaves behind keeps them.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlencode

import click

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.cli.command_class import Command, TailCommand
from pgidle.cli.find_supervisor import WHERE
from pgidle.cli.setting_options import setting_options
from pgidle.cli.sleep_wake import give_order
from pgidle.control.holds import start_of
from pgidle.settings.options import parse_duration
from pgidle.system.execute import execute
from pgidle.system.log import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

NOT_STARTED = 125
"""The exit status where the program was not even tried, as of env(1) and timeout(1)."""


@click.command(
    cls=TailCommand,
    params=setting_options(*WHERE),
    options_metavar="[OPTIONS] [DURATION] [-- PROGRAM [ARGUMENT]...]",
    short_help="Keep Postgres awake for a time, or while a program runs.",
    epilog="For example: pgidle hold 2h --why migration, or: pgidle hold --why backup -- pg_dump -h localhost",
)
@click.pass_obj
@click.argument("duration", required=False, metavar="")
@click.option("--why", default="", help="what status says about it")
def hold(options: dict[str, Any], duration: str | None, why: str) -> None:
    """Keep Postgres awake for a DURATION (5min, 2h), or for as long as a PROGRAM runs, or until the first of
    both ends. The program starts when Postgres accepts connections, and its exit status is the command's; where
    it cannot be started at all, that is 125, 126 or 127, as of env(1).
    """
    words = list(click.get_current_context().meta["tail"])
    if duration is None and not words:
        raise SettingsError(
            "hold: neither a time nor a program", "write pgidle hold 2h, or pgidle hold -- pg_dump"
        )
    given: dict[str, object] = {"why": one_line(why)}
    if duration is not None:
        try:
            seconds = parse_duration(duration)
        except SettingsError as error:
            raise SettingsError(f"hold: {error.message}", error.hint) from None
        if seconds <= 0:
            raise SettingsError(f"hold: {duration!r} is not a time to hold", "write 5min, 2h")
        given["seconds"] = seconds
    if words:
        _hold_for(words, lambda program: give_order(options, "/hold?" + urlencode(given | program), None))
    click.echo(give_order(options, "/hold?" + urlencode(given)))


@click.command(cls=Command, params=setting_options(*WHERE))
@click.pass_obj
@click.argument("number", required=False)
def release(options: dict[str, Any], number: str | None) -> None:
    """End one hold, by its number, or every hold."""
    click.echo(give_order(options, "/release?" + urlencode({} if number is None else {"name": number})))


def _hold_for(words: list[str], take: Callable[[dict[str, object]], object]) -> NoReturn:
    """Take a hold for this process, by parameters of the order, and become the program.

    Raises PgidleError, with an exit status that programs do not normally use.
    """
    name = os.path.basename(words[0])
    if not name:
        raise SettingsError(f"{words[0]!r} is not a program", "name one after --")
    # Do not wake Postgres for a program that does not exist.
    if shutil.which(words[0]) is None and not os.path.exists(words[0]):
        execute(words, "")
    pid = os.getpid()
    try:
        take({"pid": pid, "started": start_of(pid) or 0, "program": name})
    except SettingsError:
        raise
    except PgidleError as error:
        error.status = NOT_STARTED
        raise
    execute(words, "")
