"""The commands of `pgidle`, in the order in which its help lists them."""

from __future__ import annotations

import click

from pgidle.base.version import VERSION
from pgidle.cli.config import config
from pgidle.cli.doctor import doctor
from pgidle.cli.history import history
from pgidle.cli.hold import hold, release
from pgidle.cli.init import init
from pgidle.cli.metrics import metrics
from pgidle.cli.run import run
from pgidle.cli.sleep_wake import sleep, wake
from pgidle.cli.status import health, status
from pgidle.cli.top import top
from pgidle.cli.usage import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION)
def cli() -> None:
    """Puts an idle PostgreSQL to sleep, and wakes it without anybody noticing."""


for command in (run, status, history, top, health, metrics, sleep, wake, hold, release, config, init, doctor):
    cli.add_command(command)
