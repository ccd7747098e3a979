"""`pgidle config`."""

from __future__ import annotations

import json
from typing import Any

import click

from pgidle.cli.command_class import RunCommand
from pgidle.cli.setting_options import setting_options
from pgidle.postgres.conninfo import harmless
from pgidle.settings.load import read_settings
from pgidle.settings.resolve import describe
from pgidle.system.log import one_line


@click.command(
    cls=RunCommand,
    params=setting_options(),
    options_metavar="[OPTIONS] [-- POSTGRES_ARGUMENTS]",
    short_help="Say what run would go by, and where each value comes from.",
)
@click.pass_obj
@click.option("--json", "as_json", is_flag=True, help="for programs")
def config(options: dict[str, Any], as_json: bool) -> None:
    """Say what `run` would go by with the same options, and where each value comes from."""
    resolved = read_settings(options, click.get_current_context().meta["tail"])
    rows = [
        (name, value, resolved.sources[name].source.value, resolved.sources[name].name)
        for name, value in describe(resolved.settings, harmless)
    ]
    if as_json:
        keys = ("value", "source", "from")
        click.echo(json.dumps({row[0]: dict(zip(keys, row[1:], strict=True)) for row in rows}))
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source, where in (tuple(map(one_line, row)) for row in rows):
        origin = source if where == source else f"{source}: {where}"
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
