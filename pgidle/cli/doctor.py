"""`pgidle doctor`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from pgidle.cli.command_class import RunCommand, wants_colour
from pgidle.cli.setting_options import setting_options


@click.command(
    cls=RunCommand,
    params=setting_options(),
    options_metavar="[OPTIONS] [FILE]... [-- POSTGRES_ARGUMENTS]",
    short_help="Say what is wrong with machine, configuration and files.",
)
@click.pass_obj
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.argument("files", nargs=-1, metavar="")
def doctor(options: dict[str, Any], files: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong with the machine that `run` would start on with the same options, with the
    configuration of Postgres, and with each FILE: a fly.toml, a systemd unit, a Compose file, a Kubernetes
    manifest. Exit status 1 if anything is.
    """
    # Only this command needs them, and there are many.
    from pgidle.doctor import examine, output
    from pgidle.doctor.finding import Severity

    charts = examine.examine(options, click.get_current_context().meta["tail"], files)
    if as_json:
        click.echo(json.dumps(output.as_dict(charts)))
    else:
        colour = wants_colour()
        click.echo(output.as_text(charts, colour=colour), nl=False)
    sys.exit(1 if any(chart.count(Severity.WRONG) for chart in charts) else 0)
