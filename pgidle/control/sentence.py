"""A supervisor's status in a sentence: what Postgres does, why, and what would change that. Pure.

It is made from what `status.as_dict` returns, so that any program that has read it can make it. Texts in it come from
clients: print it with `one_line`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgidle.idle.reasons import ReasonKind, Signal, duration_text
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Status = Mapping[str, Any]

NONSENSE = (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError)
"""What a status may raise, here and where it becomes a table, that is none of this version's. (OSError: a moment that
gmtime(3) takes for too far away.)"""

NOT_RUNNING = "not running"
"""The state where no supervisor answers. Such a status has what the last one has left behind: `failure`, `last_sleep`
and `ended`."""

LOST = "lost"
"""The state in which a supervisor has ended whose end is not on record."""

KEEPING = (ReasonKind.ACTIVITY.value, ReasonKind.BLOCKER.value)


def sentence(status: Status, wall: float) -> str:
    """One sentence, or two. `wall` is Unix time, for a status without durations of its own (`NOT_RUNNING`). Raises
    LookupError, TypeError or ValueError for what is no status."""
    if status["state"] == NOT_RUNNING:
        return _not_running(status, wall)
    made = _BY_STATE[status["state"]]
    return made(status) + _waiting(status)


def _awake(status: Status) -> str:
    reasons = status["reasons"]
    if unknown := _first(reasons, kind=ReasonKind.UNKNOWN):
        return f"Awake, as it cannot be seen whether Postgres is in use: {unknown['text']}."
    keeping = [one for one in reasons if one["kind"] in KEEPING and one["ends"]]
    if keeping:
        return f"Awake: {_kept(keeping)}{_sleeps_then(status)}."
    if (without := status.get("without_polls")) and without["text"]:
        return _polled(status["polls"])
    spent = duration_text(status["seconds_in_state"])
    if not reasons:
        return f"Awake for {spent}: {status['why']}. Nobody has looked yet who uses Postgres."
    if status["sleeps_in"] is None:
        never = _first(reasons, signal=Signal.IDLE_TIMEOUT)
        return f"Awake for {spent}: {never['text'] if never else status['why']}."
    return f"Awake: {_unused(status)}{_longer(reasons)}{_sleeps_then(status)}."


def _kept(keeping: list[dict[str, Any]]) -> str:
    first = keeping[0]
    ends = first["ends"]
    if first["signal"] == Signal.LEASE.value:
        text = f"{first['text'].removeprefix('held awake: ')} (pgidle hold); ends {ends}"
    elif ends.startswith("when ") and ", or " not in ends:
        text = f"{first['text']}; cannot sleep before {ends.removeprefix('when ')}"
    else:
        text = f"{first['text']}; cannot sleep before that ends, {ends}"
    more = sum(map(_count, keeping)) - 1
    if not more:
        return text
    return f"{text}; {more} more {'reason keeps' if more == 1 else 'reasons keep'} it awake, too"


def _polled(polls: list[dict[str, Any]]) -> str:
    first = polls[0]
    more = len(polls) - 1
    others = f" (and {more} more poll{'s' * (more > 1)})" if more else ""
    keeps = "keep" if more else "keeps"
    return f"Awake: {first['text']}{others}, which {keeps} it awake; {first['advice']}."


def _count(reason: dict[str, Any]) -> int:
    """How many a reason stands for: the last one of its signal may stand for the rest (`policy`)."""
    words = reason["text"].split()
    return int(words[1]) if words[2:] == ["more", "like", "these"] else 1


def _sleeps_then(status: Status) -> str:
    left = status["sleeps_in"]
    return f"; sleeps in {duration_text(left)} if nobody comes" if left is not None else ""


def _unused(status: Status) -> str:
    used = status.get("last_use")
    if used is None:
        if waker := status.get("waker"):
            ago = duration_text(status["seconds_in_state"])
            return f"woken {ago} ago by {waker}, not seen in use since"
        return "not used since it woke"
    return f"idle for {duration_text(used['seconds_ago'])}, last used by {used['by']}"


def _longer(reasons: list[dict[str, Any]]) -> str:
    flapping = _first(reasons, signal=Signal.FLAPPING)
    return f"; {flapping['text']}" if flapping else ""


def _starting(status: Status) -> str:
    spent = duration_text(status["seconds_in_state"])
    if status["failed_start"]:
        return _does_not_start(status)
    if status["initialising"]:
        return f"Makes the data directory (initdb), for {spent} so far."
    return f"Starting for {spent}: {status['why']}."


def _does_not_start(status: Status) -> str:
    failed = status["failed_start"]
    left = failed["tried_again_in"]
    again = (
        f"; tried again in {duration_text(left)}" if left else "; tried again now" if left is not None else ""
    )
    times = f" ({failed['count']} times)" if failed["count"] > 1 else ""
    return f"Does not start{times}: {failed['why']}{again}."


def _drowsy(status: Status) -> str:
    return f"About to sleep: {status['why']}."


def _stopping(status: Status) -> str:
    return f"Going to sleep: Postgres has been shutting down for {duration_text(status['seconds_in_state'])}."


def _asleep(status: Status) -> str:
    spent = status["seconds_in_state"]
    lasts = f" for {duration_text(spent)}" if spent is not None else ""
    return f"Asleep{lasts}{_slept_because(status)}. The next client wakes it."


def _slept_because(status: Status) -> str:
    last = status["last_sleep"]
    return f"; it was {last['why']}" if last and last["why"] else ""


def _leaving(status: Status) -> str:
    return f"Asleep{_slept_because(status)}. pgidle is about to exit; the platform starts it for the next client."


def _terminating(status: Status) -> str:
    return f"Stopping for {duration_text(status['seconds_in_state'])}: {status['why']}."


def _failed(status: Status) -> str:
    return f"Failed, and exits: {status['why']}."


def _not_running(left: Status, wall: float) -> str:
    failure, last, ended = left["failure"], left["last_sleep"], left["ended"]
    if failure:
        ago = duration_text(wall - failure["at"])
        return f"Not running, as pgidle failed {ago} ago: {failure['why']}."
    if ended and ended["state"] == LOST:
        ago = duration_text(wall - ended["at"])
        return f"Not running: pgidle was killed, or its machine was lost, at most {ago} ago."
    if ended and ended["state"] == State.LEAVING.noun and last:
        ago = duration_text(wall - last["at"])
        because = _slept_because(left)
        return f"Asleep for {ago}{because}. pgidle has exited; the platform starts it for the next client."
    if ended:
        return f"Not running; it ended {duration_text(wall - ended['at'])} ago: {ended['why']}."
    if last:
        ago = duration_text(wall - last["at"])
        return f"Not running; Postgres was last put to sleep {ago} ago: it was {last['why']}."
    return "Not running, and no sleep is on record."


_BY_STATE: dict[str, Callable[[Status], str]] = {
    State.STARTING.noun: _starting,
    State.AWAKE.noun: _awake,
    State.DROWSY.noun: _drowsy,
    State.STOPPING.noun: _stopping,
    State.ASLEEP.noun: _asleep,
    State.LEAVING.noun: _leaving,
    State.TERMINATING.noun: _terminating,
    State.FAILED.noun: _failed,
}


def _first(
    reasons: list[dict[str, Any]], kind: ReasonKind | None = None, signal: Signal | None = None
) -> dict[str, Any] | None:
    for one in reasons:
        if (kind is None or one["kind"] == kind.value) and (signal is None or one["signal"] == signal.value):
            return one
    return None


def _waiting(status: Status) -> str:
    return f" {_clients(status['parked'])} meanwhile." if status.get("parked") else ""


def _clients(count: int) -> str:
    return f"{count} client{'s' * (count > 1)} wait{'s' * (count == 1)}"
