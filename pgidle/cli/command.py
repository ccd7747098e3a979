"""What the commands have in common: faults are one line, and what follows -- is another program's."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from pgidle.base.errors import PgidleError
from pgidle.cli.usage import BEHIND
from pgidle.system.log import one_line


class Command(click.Command):
    """A command whose faults are one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PgidleError as error:
            click.echo(one_line(f"pgidle: {error}"), err=True)
            ctx.exit(error.status)


class TailCommand(Command):
    """What follows `--` is another program's, and only that: a stray word before it is a mistake."""

    behind = "a program goes behind --"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = args[: args.index("--")] if "--" in args else args
        ctx.meta["tail"] = tuple(args[len(own) + 1 :])
        try:
            return super().parse_args(ctx, own)
        except click.UsageError as error:
            # An unknown option, or a word that is nobody's.
            if not isinstance(error, click.NoSuchOption) and type(error) is not click.UsageError:
                raise
            raise click.UsageError(
                f"{error.format_message().removesuffix('.')}; {self.behind}", ctx
            ) from None


class RunCommand(TailCommand):
    """What follows `--` is Postgres's."""

    behind = BEHIND


def wants_colour() -> bool:
    """Whether a terminal reads, and nobody asked it to stay plain (https://no-color.org)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
