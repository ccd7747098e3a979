"""`pgidle status` and `pgidle health`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from pgidle.base.errors import PgidleError
from pgidle.cli.command_class import Command, wants_colour
from pgidle.cli.find_supervisor import WHERE, find_state_dir
from pgidle.cli.setting_options import setting_options
from pgidle.cli.status_table import as_table, moment_text, sleep_text
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
        _, body = request(state_dir, "GET", "/status")
    except NotRunning as error:
        found = last_sleep(state_dir)
        last = asdict(found) if found is not None else None
        failed = last_failure(state_dir)
        if as_json:
            failure = {"why": failed[1], "at": failed[0]} if failed is not None else None
            click.echo(json.dumps({"state": "not running", "failure": failure, "last_sleep": last}))
        else:
            slept = sleep_text(last) if last is not None else "none is on record"
            click.echo(one_line(error.message if last is not None else str(error)))
            if failed is not None:
                click.echo(one_line(f"failed: {moment_text(failed[0])}: {failed[1]}"))
            click.echo(f"last sleep: {one_line(slept)}")
        sys.exit(NOT_RUNNING)
    if as_json:
        click.echo(json.dumps(body))
    else:
        colour = wants_colour()
        try:
            table = as_table(body, colour=colour)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise PgidleError(
                f"what answers at {state_dir} is not a supervisor of this version", "see status --json"
            ) from None
        click.echo(table, nl=False)


@click.command(
    cls=Command, params=setting_options(*WHERE), short_help="Say whether the supervisor lives, for probes."
)
@click.pass_obj
def health(options: dict[str, Any]) -> None:
    """Exit status 0 while the supervisor lives and has not failed, else 1."""
    code, body = request(find_state_dir(options), "GET", "/health")
    click.echo(one_line(str(body.get("state", body))))
    sys.exit(0 if code == 200 else 1)
