"""`pgidle init`."""

from __future__ import annotations

import click

from pgidle.base.platform_limits import Platform
from pgidle.cli.command_class import Command

PLATFORMS = [platform.value for platform in Platform]


@click.command(cls=Command, short_help=f"Write configuration for {', '.join(PLATFORMS)}.")
@click.argument("platform", type=click.Choice(PLATFORMS))
@click.option(
    "--name", "--app", metavar="NAME", help="of the app, the unit's instance, the service, the StatefulSet"
)
@click.option(
    "--port",
    "-p",
    metavar="PORT",
    help="that clients connect to; a cluster of Debian's keeps its own  [default: 5432]",
)
@click.option(
    "--idle-timeout", metavar="DURATION", help="time without use before sleep, or off  [default: 5min]"
)
@click.option(
    "--stop-timeout", metavar="DURATION", help="for a fast shutdown; kill timeouts follow  [default: 30s]"
)
@click.option("--memory", metavar="SIZE", help="[fly, kubernetes; default: 512MB]")
@click.option("--volume-size", metavar="SIZE", help="[fly, kubernetes; default: 1GB]")
@click.option("--region", metavar="REGION", help="[fly; default: iad]")
@click.option("--image", metavar="IMAGE", help="to run, instead of building one  [fly, compose, kubernetes]")
@click.option("--data-dir", "-D", metavar="PATH", help="[systemd; default: /var/lib/pgidle/NAME/data]")
@click.option(
    "--listen-addresses",
    metavar="ADDRESSES",
    help="separated by commas; a Debian cluster keeps its own  [systemd; default: localhost]",
)
@click.option("--dir", "folder", metavar="PATH", default=".", help="where to write  [default: here]")
@click.option("--force", is_flag=True, help="replace files that are there")
@click.option("--print", "is_printed", is_flag=True, help="print the files and write nothing")
def init(platform: str, folder: str, force: bool, is_printed: bool, **given: str | None) -> None:
    """Write the configuration that a PLATFORM needs, with comments, and say what comes next."""
    from pgidle.init.command import make_plan, print_plan, write_plan

    chosen = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
    plan = make_plan(platform, chosen, folder)
    click.echo(print_plan(plan) if is_printed else write_plan(plan, folder, force=force))
