"""`pgidle history`."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from datetime import UTC, datetime
from datetime import time as clock
from typing import TYPE_CHECKING, Any

import click

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.cli.command_class import Command
from pgidle.cli.find_supervisor import WHERE, find_price, find_state_dir
from pgidle.cli.setting_options import setting_options
from pgidle.control.client import NoAnswer, NotRunning, request
from pgidle.history.files import read_of_another
from pgidle.history.summary import episode_as_json, summarise, summary_as_json
from pgidle.history.tables import GLYPHS, HOUR, as_text, what_if_text
from pgidle.history.tally import DAY
from pgidle.history.what_if import Outcome, as_it_was, known_share, recommend, replay
from pgidle.settings.options import OPTIONS, parse_duration, read_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgidle.history.summary import Summary
    from pgidle.settings.options import Price

MOST_TIMEOUTS = 20
USUAL_TIMEOUTS = ("1min", "5min", "15min", "1h")
"""Those that are tried where none is given."""


@click.command(
    cls=Command,
    params=setting_options(*WHERE, "price"),
    short_help="Say when Postgres slept, who woke it, and what that saved.",
)
@click.pass_obj
@click.option(
    "--since",
    default="7d",
    metavar="MOMENT",
    help="12h (ago), 2026-11-20, 2026-11-20T03:00, or 03:00 (the last one); UTC  [default: 7d]",
)
@click.option("--until", metavar="MOMENT", help="likewise  [default: now]")
@click.option(
    "--what-if",
    is_flag=False,
    flag_value=f"idle-timeout={','.join(USUAL_TIMEOUTS)}",
    metavar="[idle-timeout=1min,15min]",
    help="what other idle timeouts would have saved, and cost",
)
@click.option("--json", "is_json", is_flag=True, help="for programs")
def history(
    options: dict[str, Any], since: str, until: str | None, what_if: str | None, is_json: bool
) -> None:
    """Say when Postgres slept, who woke it, what that saved, and what other settings would have saved.

    Works whether pgidle runs or not. Who woke it at 3 am? pgidle history --since 02:30 --until 03:30
    """
    now = time.time()
    begin = _moment("--since", since, now)
    end = _moment("--until", until, now) if until is not None else None
    if end is not None and end <= begin:
        raise SettingsError(f"--until: {until} is not after --since {since}", "write a later one")
    if end is not None and what_if is not None:
        raise SettingsError("--what-if replays up to now", "leave out --until")
    timeouts = _timeouts(what_if) if what_if is not None else []
    price = find_price(options)
    state_dir = find_state_dir(options)
    is_running = _is_running(state_dir)
    try:
        read = read_of_another(state_dir)
        summary = summarise(read.reduced, read.events, begin, now, is_running=is_running, until=end)
    except PermissionError:
        raise PgidleError(
            f"may not read the journal in {state_dir}", "run this as root or as Postgres's user"
        ) from None
    except FileNotFoundError:
        raise PgidleError(
            f"{state_dir} is no state directory of pgidle's", "see --data-dir and --state-dir"
        ) from None
    except OSError as error:
        raise PgidleError(f"cannot read the journal in {state_dir}: {error.strerror}") from None
    replayed = _Replayed(summary, timeouts) if timeouts else None
    if is_json:
        content = json.dumps(_as_json(summary, price, replayed, is_running=is_running))
        # One by one, as all of them together would take more memory than everything else.
        click.echo(content.removesuffix("}") + ', "episodes": [', nl=False)
        for number, one in enumerate(summary.episodes):
            click.echo((", " if number else "") + json.dumps(episode_as_json(one)), nl=False)
        click.echo("]}")
        return
    if replayed is not None:
        lines = what_if_text(summary, replayed.now, replayed.outcomes, replayed.advice, price, replayed.known)
    else:
        lines = as_text(
            summary,
            price,
            is_running=is_running,
            is_unicode=_can_print(GLYPHS),
            first_episodes=end is not None or not _is_duration(since),
        )
    _print(lines)


class _Replayed:
    def __init__(self, summary: Summary, timeouts: list[float]) -> None:
        episodes, since = summary.episodes, summary.detailed_since
        terms = summary.terms
        in_force = terms.idle_timeout if terms is not None else None
        self.now = as_it_was(episodes, since, math.inf if in_force is None else in_force)
        self.outcomes = [replay(episodes, since, timeout) for timeout in timeouts]
        self.known = known_share(episodes)
        self.advice = recommend(self.now if terms is not None else None, self.outcomes, summary.until - since)


def _moment(option: str, text: str, now: float) -> float:
    """A duration before now, a date, a date and time, or a time of the last 24 hours, as Unix time."""
    if _is_duration(text):
        return max(0.0, now - parse_duration(text))
    try:
        moment = _timestamp(text.strip(), now)
    except (ValueError, OverflowError):
        raise SettingsError(
            f"{option}: {text!r} is neither a duration nor a date or time",
            "write 7d, 12h, 2026-11-20, 2026-11-20T03:00, 03:00",
        ) from None
    if moment > now:
        raise SettingsError(f"{option}: {text} is still to come", "write a duration or a date before now")
    return max(0.0, moment)


def _is_duration(text: str) -> bool:
    try:
        parse_duration(text)
    except SettingsError:
        return False
    return True


def _timestamp(text: str, now: float) -> float:
    """Raises ValueError or OverflowError."""
    if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
        at = datetime.combine(datetime.fromtimestamp(now, UTC), clock.fromisoformat(text), UTC).timestamp()
        return at if at <= now else at - DAY
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _timeouts(text: str) -> list[float]:
    """The timeouts to replay (seconds; infinity: off), each once."""
    name, _, values = text.partition("=")
    if name.strip().replace("_", "-") != "idle-timeout" or not values.strip():
        raise SettingsError(
            f"--what-if: {text!r} is not idle-timeout and other values", "write idle-timeout=1min,15min"
        )
    option = next(one for one in OPTIONS if one.name == "idle-timeout")
    try:
        read = [read_value(option, value.strip(), "/") for value in values.split(",")]
    except SettingsError as error:
        raise SettingsError(f"--what-if: {error.message}", error.hint) from None
    found = list(dict.fromkeys(math.inf if one is None else one for one in read))
    if len(found) > MOST_TIMEOUTS:
        raise SettingsError(f"--what-if: {len(found)} values", f"write at most {MOST_TIMEOUTS}")
    return found


def _is_running(state_dir: str) -> bool:
    try:
        request(state_dir, "GET", "/health")
    except NotRunning:
        return False
    except NoAnswer:
        return True
    return True


def _as_json(
    summary: Summary, price: Price | None, replayed: _Replayed | None, *, is_running: bool
) -> dict[str, Any]:
    content = {"running": is_running, **summary_as_json(summary)}
    content["longest_waits"] = [
        {"at": one.begin, "wait": one.wait, "waker": one.waker} for one in summary.longest_waits
    ]
    if price is not None:
        hours = summary.seconds["asleep"] / HOUR
        content["price"] = {"text": price.text, "per_hour": price.per_hour, "saved": price.per_hour * hours}
    if replayed is not None:

        def said(one: Outcome) -> dict[str, Any]:
            timeout = None if math.isinf(one.idle_timeout) else one.idle_timeout
            saved = {"saved": price.per_hour * one.asleep / HOUR} if price is not None else {}
            return {"idle_timeout": timeout, "asleep": one.asleep, "wakes": one.wakes} | saved

        best = replayed.advice.best
        content["what_if"] = {
            "since": summary.detailed_since,
            "as_it_was": said(replayed.now),
            "outcomes": [said(one) for one in replayed.outcomes],
            "recommended": said(best) if best is not None else None,
            "why": replayed.advice.why,
            "known": round(replayed.known, 4),
        }
    return content


def _can_print(text: str) -> bool:
    """Whether standard output's encoding has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _print(lines: Iterator[str]) -> None:
    encoding = sys.stdout.encoding or "ascii"
    text = "\n".join(lines)
    click.echo(text.encode(encoding, "replace").decode(encoding))
