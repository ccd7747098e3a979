"""`pgidle metrics`."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import click

from pgidle.base.errors import PgidleError
from pgidle.cli.command_class import Command
from pgidle.cli.find_supervisor import WHERE, find_state_dir
from pgidle.cli.setting_options import setting_options
from pgidle.control.client import NotRunning, request_text
from pgidle.control.foreign_metrics import own_metrics
from pgidle.control.metrics import OWN_LABELS, of_none
from pgidle.history.files import open_record
from pgidle.history.totals import Totals
from pgidle.settings.load import working_directory
from pgidle.settings.options import absolute
from pgidle.system.trusted_path import replace_file, trust_in

LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


@click.command(
    cls=Command,
    params=setting_options(*WHERE),
    short_help="Print the metrics for Prometheus, also of a supervisor that has exited.",
)
@click.pass_obj
@click.option("--output", metavar="FILE", help="write them there, as a whole, for node_exporter")
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, help="a label for each; may be repeated"
)
def metrics(options: dict[str, Any], output: str | None, labels: tuple[str, ...]) -> None:
    """Print the metrics for Prometheus: from a supervisor that runs, else what is on record, with pgidle_up 0."""
    added = _read_labels(labels)
    state_dir = find_state_dir(options)
    try:
        text = request_text(state_dir, "/metrics")
    except NotRunning as error:
        text = _on_record(state_dir, error)
    # Whoever answers, or wrote what is on record, may be another user.
    text = own_metrics(text, added)
    if not text:
        raise PgidleError(f"what answers at {state_dir} is not a supervisor of this version")
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(absolute(working_directory(), output), text)


def _on_record(state_dir: str, error: NotRunning) -> str:
    try:
        folder = open_record(state_dir)
    except FileNotFoundError:
        raise error from None
    except OSError as failed:
        raise PgidleError(f"cannot read {state_dir}: {failed.strerror}") from None
    try:
        return of_none(Totals(folder).count(time.time(), is_running=False))
    except OSError as failed:
        raise PgidleError(f"cannot read the journal in {state_dir}: {failed.strerror}") from None
    finally:
        os.close(folder)


def _read_labels(given: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not LABEL.fullmatch(name) or not value.isprintable():
            raise click.UsageError(f"--label {text!r} is not NAME=VALUE")
        if name in OWN_LABELS:
            raise click.UsageError(f"--label {name}: the metrics have a label of that name; choose another")
        if name in labels:
            raise click.UsageError(f"--label {name} is given twice")
        labels[name] = value
    return labels


def _write(path: str, text: str) -> None:
    try:
        replace_file(path, text.encode(), trust_in(os.geteuid(), os.getegid()))
    except OSError as failed:
        raise PgidleError(f"cannot write {path}: {failed.strerror}") from None
