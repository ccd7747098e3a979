"""`pgidle run`, for command lines that need click: usually it is parsed without (see `settings/arguments`)."""

from __future__ import annotations

import sys
from typing import Any

import click

from pgidle.cli.command_class import RunCommand
from pgidle.cli.setting_options import setting_options
from pgidle.run import boot


@click.command(
    cls=RunCommand,
    params=setting_options(),
    options_metavar="[OPTIONS] [-- POSTGRES_ARGUMENTS]",
    short_help="Run Postgres, put it to sleep, wake it.",
    epilog="For example: pgidle run -D /srv/pg --when-idle stay --idle-timeout 10min -- -c shared_buffers=64MB",
)
@click.pass_obj
def run(options: dict[str, Any]) -> None:
    """Run Postgres, put it to sleep when it is idle, wake it when somebody connects."""
    sys.exit(boot.run(options, click.get_current_context().meta["tail"]))
