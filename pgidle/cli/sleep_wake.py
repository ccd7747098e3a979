"""`pgidle sleep` and `pgidle wake`, and how an order is given to the supervisor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from pgidle.base.errors import PgidleError
from pgidle.cli.asking import left_behind
from pgidle.cli.command_class import Command
from pgidle.cli.find_supervisor import WHERE, find_state_dir
from pgidle.cli.seconds import read_seconds
from pgidle.cli.setting_options import setting_options
from pgidle.cli.status_table import moment_text
from pgidle.control.client import TIMEOUT, NoAnswer, NotRunning, request
from pgidle.control.sentence import sentence
from pgidle.history.sleeps import last_sleep
from pgidle.idle.reasons import duration_text
from pgidle.lifecycle.transitions import State
from pgidle.system.log import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., None]], Callable[..., None]]

SLEEP_TIMEOUT = 90.0
"""Seconds: more than the supervisor takes to decide, which is a checkpoint (a minute at most) and looks."""

LAST_STATES = ("leaving", "terminating")
"""A supervisor that has kept an order to sleep and says this is about to end."""


def _wait(until: str) -> Decorator:
    text = f"return when {until}; with a time (30, 2min): exit status 1 if it is over before"
    return click.option("--wait", is_flag=False, flag_value="", metavar="[SECONDS]", help=text)


@click.command(cls=Command, params=setting_options(*WHERE))
@click.pass_obj
@click.option("--force", is_flag=True, help="even if sessions are active: they are cut")
@_wait("Postgres sleeps, or pgidle has exited")
def sleep(options: dict[str, Any], force: bool, wait: str | None) -> None:
    """Put Postgres to sleep now, if nobody is active. Otherwise say who is, with exit status 1."""
    path = f"/sleep?force={int(force)}&wait={int(wait is not None)}"
    # Deciding takes a checkpoint and two looks.
    click.echo(
        give_order(
            options, path, SLEEP_TIMEOUT if wait is None else _patience(wait), is_waiting=wait is not None
        )
    )


@click.command(cls=Command, params=setting_options(*WHERE))
@click.pass_obj
@_wait("Postgres accepts connections")
def wake(options: dict[str, Any], wait: str | None) -> None:
    """Wake Postgres, and count as a use."""
    path = f"/wake?wait={int(wait is not None)}"
    click.echo(
        give_order(options, path, TIMEOUT if wait is None else _patience(wait), is_waiting=wait is not None)
    )


def give_order(
    options: dict[str, Any], path: str, timeout: float | None = TIMEOUT, *, is_waiting: bool = False
) -> str:
    """Give an order; return the supervisor's message if it was carried out. Raises PgidleError if it was not."""
    state_dir = find_state_dir(options)
    try:
        code, body = request(state_dir, "POST", path, timeout, until_gone=LAST_STATES if is_waiting else ())
    except NotRunning as error:
        left = left_behind(state_dir)
        if left["failure"] is not None or (left["ended"] and left["ended"]["state"] != State.LEAVING.noun):
            said = one_line(sentence(left, time.time())).removesuffix(".")
            raise NotRunning(f"{error.message}; {said}", "pgidle run, or the platform, starts it") from None
        if (found := last_sleep(state_dir)) is None:
            raise
        slept = f"{error.message}; it went to sleep at {moment_text(found.at)}"
        raise NotRunning(
            slept, "a client's connection through the platform, or pgidle run, starts it"
        ) from None
    except NoAnswer:
        if not is_waiting:
            raise
        _, now = request(state_dir, "GET", "/status")
        raise NoAnswer(
            f"{now.get('state')} still after {duration_text(timeout or 0.0)}: {now.get('why')}"
        ) from None
    if code != 200:
        said = body.get("message") or body.get("error") or f"the supervisor answered {code}"
        raise PgidleError(str(said))
    return one_line(str(body.get("message")))


def _patience(text: str) -> float | None:
    """Seconds to wait according to `--wait`; None: forever. Raises SettingsError."""
    return read_seconds("--wait", text) if text else None
