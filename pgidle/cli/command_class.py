"""What the commands have in common: one-line errors, and arguments after -- for another program."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from pgidle.base.errors import PgidleError
from pgidle.cli.usage import BEHIND
from pgidle.system.log import one_line


class Command(click.Command):
    """A command that reports an error in one line, with an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PgidleError as error:
            click.echo(one_line(f"pgidle: {error}"), err=True)
            ctx.exit(error.status)


class TailCommand(Command):
    """A command whose arguments after `--` go to another program. A stray word before `--` is an error."""

    behind = "a program goes after --"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = args[: args.index("--")] if "--" in args else args
        ctx.meta["tail"] = tuple(args[len(own) + 1 :])
        try:
            return super().parse_args(ctx, own)
        except click.UsageError as error:
            # An unknown option, or a stray word.
            if not isinstance(error, click.NoSuchOption) and type(error) is not click.UsageError:
                raise
            raise click.UsageError(
                f"{error.format_message().removesuffix('.')}; {self.behind}", ctx
            ) from None


class RunCommand(TailCommand):
    """A command whose arguments after `--` go to Postgres."""

    behind = BEHIND


def wants_colour() -> bool:
    """Whether standard output is a terminal and NO_COLOR is not set (https://no-color.org)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
