"""`pgidle status` and `pgidle health`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import click

from pgidle.base.errors import PgidleError
from pgidle.cli.command_class import Command, wants_colour
from pgidle.cli.find_supervisor import WHERE, find_state_dir
from pgidle.cli.setting_options import setting_options
from pgidle.cli.status_table import as_text, moment_text, sleep_text
from pgidle.control import sentence
from pgidle.control.client import NotRunning, request
from pgidle.history.sleeps import last_sleep
from pgidle.system.log import one_line
from pgidle.system.state_directory import last_failure

NOT_RUNNING = 3


@click.command(cls=Command, params=setting_options(*WHERE))
@click.pass_obj
@click.option("--json", "as_json", is_flag=True, help="for programs")
def status(options: dict[str, Any], as_json: bool) -> None:
    """Say what the supervisor does and why. Exit status 3 if none runs."""
    state_dir = find_state_dir(options)
    try:
        _, said = request(state_dir, "GET", "/status")
    except NotRunning as error:
        said = left_behind(state_dir)
        click.echo(json.dumps(said) if as_json else not_running_text(said, error))
        sys.exit(NOT_RUNNING)
    click.echo(json.dumps(said) if as_json else running_text(said, state_dir, colour=wants_colour()))


def left_behind(state_dir: str) -> dict[str, Any]:
    """The status where no supervisor runs: what the last one has left behind."""
    last, failed = last_sleep(state_dir), last_failure(state_dir)
    return {
        "state": sentence.NOT_RUNNING,
        "failure": {"why": failed[1], "at": failed[0]} if failed is not None else None,
        "last_sleep": asdict(last) if last is not None else None,
    }


def not_running_text(left: dict[str, Any], error: NotRunning) -> str:
    """What `left_behind` returns, for people, with the line that says where nobody answers."""
    failed, last = left["failure"], left["last_sleep"]
    lines = [sentence.sentence(left, time.time()), error.message if last is not None else str(error)]
    if failed is not None:
        lines.append(f"failed: {moment_text(failed['at'])}: {failed['why']}")
    lines.append(f"last sleep: {sleep_text(last) if last is not None else 'none is on record'}")
    return "\n".join(map(one_line, lines))


def running_text(said: dict[str, Any], state_dir: str, *, colour: bool) -> str:
    """A supervisor's answer, for people. Raises PgidleError if it is not what one of this version says."""
    try:
        return as_text(said, time.time(), colour=colour).removesuffix("\n")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
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
