"""Wrong usage, reported like every other error in one line: what is wrong, and what to write instead."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

BEHIND = "arguments for postgres go after --"
HINTS = {
    **dict.fromkeys(("start", "up", "resume"), "write run for the supervisor, wake for Postgres"),
    **dict.fromkeys(("stop", "down", "suspend"), "write sleep, or end `pgidle run` by SIGTERM or Ctrl-C"),
    **dict.fromkeys(("restart", "reload"), "changed files are watched; for the rest write sleep, then wake"),
    **dict.fromkeys(("log", "logs"), "write status; the log is what `pgidle run` prints"),
    **dict.fromkeys(("check", "verify"), "write doctor"),
    **dict.fromkeys(("settings", "env"), "write config"),
    **dict.fromkeys(("version", "-v", "-V"), "write --version"),
}
"""What other programs call these commands, or commands that pgidle does not need."""


class Group(click.Group):
    """A group of commands that reports wrong usage in one line, with exit status 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added: those for the first day come first."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and (hint := HINTS.get(args[0])) is not None:
            raise click.UsageError(f"there is no {args[0]}: {hint}", ctx)
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            # The return value is an exit status, for example that of --help.
            sys.exit(super().main(*args, **{**extra, "standalone_mode": False}) or 0)
        except click.ClickException as error:
            # The class exists only since click 8.2.
            if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
                error.show()
            else:
                click.echo(one_line(error), err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(128 + signal.SIGINT)


def one_line(error: click.ClickException) -> str:
    """The error in one line, in the form of all other errors."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context is not None else "pgidle"
    return f"{command}: {message[:1].lower()}{message[1:]} ({command} --help)"
