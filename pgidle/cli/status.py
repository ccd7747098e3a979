"""`pgidle status` and `pgidle health`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import click

from pgidle.base.errors import PgidleError
from pgidle.cli.asking import Answer, Asking, Local, ask, left_behind
from pgidle.cli.command_class import Command, wants_colour
from pgidle.cli.find_supervisor import WHERE, find_state_dir
from pgidle.cli.live_screen import Drawn, Size, is_possible, show
from pgidle.cli.seconds import read_interval
from pgidle.cli.setting_options import setting_options
from pgidle.cli.status_table import INDENT, as_text, moment_text, sleep_text
from pgidle.cli.text_width import wrapped
from pgidle.control import sentence
from pgidle.control.client import NotRunning, not_running, request
from pgidle.system.log import one_line

NOT_RUNNING = 3
SOON = 0.5
"""Seconds within which most answer: until then there is nothing to show."""


@click.command(cls=Command, params=setting_options(*WHERE))
@click.pass_obj
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.option(
    "--watch",
    is_flag=False,
    flag_value="2s",
    metavar="[SECONDS]",
    help="go on, every so many seconds (2), until q or Ctrl-C",
)
def status(options: dict[str, Any], as_json: bool, watch: str | None) -> None:
    """Say what the supervisor does and why. Exit status 3 if none runs."""
    state_dir = find_state_dir(options)
    if watch is not None:
        watch_status(state_dir, read_interval("--watch", watch), as_json=as_json)
        return
    try:
        _, said = request(state_dir, "GET", "/status")
    except NotRunning as error:
        said = left_behind(state_dir)
        click.echo(json.dumps(said) if as_json else not_running_text(said, error))
        sys.exit(NOT_RUNNING)
    click.echo(json.dumps(said) if as_json else running_text(said, state_dir, colour=wants_colour()))


def not_running_text(left: dict[str, Any], error: NotRunning) -> str:
    """What `left_behind` returns, for people, with the line that says where nobody answers."""
    failed, last = left["failure"], left["last_sleep"]
    lines = [sentence.sentence(left, time.time()), error.message if last is not None else str(error)]
    if failed is not None:
        lines.append(f"failed: {moment_text(failed['at'])}: {failed['why']}")
    if last is not None:
        lines.append(f"last sleep: {sleep_text(last)}")
    return "\n".join(map(one_line, lines))


def watch_status(state_dir: str, every: float, *, as_json: bool) -> None:
    """Show the status until somebody quits: in place on a terminal, else below each other."""
    target = Local(state_dir)
    if is_possible() and not as_json:
        asking = Asking(every)
        asking.add([target])
        asking.wait(SOON)
        colour = wants_colour()
        show(lambda size: _drawn(asking.answers()[0], size, colour=colour), asking.news, every)
        return
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            answer = ask(target)
            said = answer.status or {"state": None, "error": answer.error}
            click.echo(json.dumps(said) if as_json else f"{_text(answer, colour=False)}\n")
            sys.stdout.flush()
            time.sleep(every)


def _drawn(answer: Answer, size: Size, *, colour: bool) -> Drawn:
    sentence_, *lines = _text(answer, colour=colour).split("\n")
    head = wrapped(sentence_, size.width, 0)
    return Drawn(head, [part for line in lines for part in wrapped(line, size.width, INDENT)])


def _text(answer: Answer, *, colour: bool) -> str:
    """An answer for people, whatever it is."""
    if answer.status is None:
        return one_line(f"pgidle: {answer.error}")
    if answer.status["state"] == sentence.NOT_RUNNING:
        return not_running_text(answer.status, not_running(answer.where))
    try:
        return running_text(answer.status, answer.where, colour=colour)
    except PgidleError as error:
        return one_line(f"pgidle: {error}")


def running_text(said: dict[str, Any], state_dir: str, *, colour: bool) -> str:
    """A supervisor's answer, for people. Raises PgidleError if it is not what one of this version says."""
    try:
        return as_text(said, time.time(), colour=colour).removesuffix("\n")
    except sentence.NONSENSE:
        raise PgidleError(
            f"what answers at {state_dir} is not a supervisor of this version", "see status --json"
        ) from None


@click.command(
    cls=Command, params=setting_options(*WHERE), short_help="Say whether the supervisor lives, for probes."
)
@click.pass_obj
def health(options: dict[str, Any]) -> None:
    """Exit status 0 while the supervisor lives and has not failed, else 1."""
    code, body = request(find_state_dir(options), "GET", "/health")
    click.echo(one_line(str(body.get("state", body))))
    sys.exit(0 if code == 200 else 1)
