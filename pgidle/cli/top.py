"""`pgidle top`: every pgidle of this machine, and remote ones, in one table."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pgidle.base.errors import PgidleError, fault_text
from pgidle.cli.asking import TIMEOUT, Asking, OneOfMany, Remote
from pgidle.cli.command_class import Command, wants_colour
from pgidle.cli.live_screen import Drawn, Size, is_possible, show
from pgidle.cli.seconds import read_interval
from pgidle.cli.status import NOT_RUNNING, SOON
from pgidle.cli.top_table import Row, head, row, table
from pgidle.system.find_control_sockets import MOST, Found, find
from pgidle.system.users import user_name

if TYPE_CHECKING:
    from collections.abc import Sequence

FIND_EVERY = 2.0
"""Seconds between two searches for new ones."""

PATIENCE = TIMEOUT + 1.0
"""Seconds for which `--once` waits for answers."""

UNLIMITED = 10**6
"""Columns where the output is no terminal."""


@click.command(cls=Command, short_help="Show every pgidle of this machine, live.")
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--every", default="2s", metavar="SECONDS", help="seconds between two questions; default 2")
@click.option("--once", is_flag=True, help="print the table once")
@click.option("--json", "as_json", is_flag=True, help="once, for programs")
def top(urls: Sequence[str], every: str, once: bool, as_json: bool) -> None:
    """Show every pgidle of this machine, and the remote ones at these URLs (http://HOST:8008), live. q quits.

    With --once and --json, exit status 3 if there is none, 1 if a URL did not answer."""
    seconds = read_interval("--every", every)
    remote = [Remote(url) for url in urls]
    asking = Asking(seconds)
    local = _Finder(asking)
    asking.add(remote)
    local.find()
    if as_json or once:
        asking.wait(PATIENCE)
        _print_once(asking, local, {one.where for one in remote}, as_json=as_json)
    elif is_possible():
        asking.wait(SOON)
        local.begin()
        colour = wants_colour()
        show(lambda size: _drawn(asking, local, size, colour=colour), asking.news, seconds)
    else:
        with contextlib.suppress(KeyboardInterrupt):
            _print_again_and_again(asking, local, seconds)


class _Finder:
    """Finds this machine's, and has them asked. A search in a thread of its own, as a file system may hang."""

    def __init__(self, asking: Asking) -> None:
        self.hidden = 0
        self.left_out = 0
        self._asking = asking
        self._known: set[str] = set()

    def find(self) -> None:
        """Raises PgidleError."""
        try:
            found = find()
        except OSError as error:
            raise PgidleError(f"cannot tell which pgidle run here: {fault_text(error)}") from None
        self._take(found)

    def begin(self) -> None:
        """Find new ones from now on."""
        threading.Thread(target=self._find_again_and_again, daemon=True).start()

    def _find_again_and_again(self) -> None:
        while True:
            time.sleep(FIND_EVERY)
            with contextlib.suppress(OSError):  # It may pass: a lack of descriptors.
                self._take(find())

    def _take(self, found: Found) -> None:
        new = [one for one in found.owned if one[0] not in self._known]
        # Those that have ended keep their rows, and their threads.
        added = new[: MOST - len(self._known)]
        self._known.update(state_dir for state_dir, _ in added)
        self.hidden, self.left_out = found.hidden, found.left_out + len(new) - len(added)
        self._asking.add(OneOfMany(state_dir, _owner_text(uid)) for state_dir, uid in added)


def _owner_text(uid: int) -> str:
    """The user, if that is neither root nor who asks: their rows say what they like."""
    return "" if uid in (0, os.geteuid()) else user_name(uid)


def _drawn(asking: Asking, local: _Finder, size: Size, *, colour: bool) -> Drawn:
    wall = time.time()
    rows = [row(answer, wall) for answer in asking.answers()]
    heading, lines = table(rows, size.width, colour=colour)
    return Drawn([f"{time.strftime('%H:%M:%S')}, q quits: {_head(rows, local)}", heading], lines)


def _text(asking: Asking, local: _Finder) -> str:
    wall = time.time()
    rows = [row(answer, wall) for answer in asking.answers()]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
    heading, lines = table(rows, width, colour=wants_colour())
    return "\n".join([_head(rows, local), *([heading] if rows else []), *lines])


def _head(rows: Sequence[Row], local: _Finder) -> str:
    return head(rows, local.hidden, local.left_out, is_root=os.geteuid() == 0)


def _print_once(asking: Asking, local: _Finder, urls: set[str], *, as_json: bool) -> None:
    answers = asking.answers()
    if as_json:
        said = {
            "pgidle": [asdict(answer) for answer in answers],
            "could_not_be_asked": local.hidden,
            "left_out": local.left_out,
        }
        click.echo(json.dumps(said))
    else:
        click.echo(_text(asking, local))
    if not answers:
        sys.exit(NOT_RUNNING)
    if any(answer.status is None for answer in answers if answer.where in urls):
        sys.exit(1)


def _print_again_and_again(asking: Asking, local: _Finder, seconds: float) -> None:
    """For what is no terminal: the whole table each time."""
    asking.wait(PATIENCE)
    while True:
        click.echo(f"{_text(asking, local)}\n")
        sys.stdout.flush()
        time.sleep(seconds)
        local.find()
