"""A supervisor's status as a table for people."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from pgidle.base.version import VERSION
from pgidle.control.sentence import sentence
from pgidle.idle.reasons import duration_text, one_line
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


INDENT = 12
"""Columns of the words before the texts."""

COLOURS = {"awake": 32, "asleep": 34, "failed": 31}
"""Of states (SGR, ECMA-48); others are yellow."""

NAMED = 10
"""Sessions that the table names; the rest are counted."""


def as_text(status: Mapping[str, Any], wall: float, *, colour: bool = False) -> str:
    """What `control.status.as_dict` returns, for people: a sentence, and the table. Raises LookupError, TypeError,
    ValueError or the like for what is no status of this version."""
    said = one_line(sentence(status, wall))
    if colour:
        said = _bold(said, re.split("[:;,.(]", said, maxsplit=1)[0], status["state"])
    return f"{said}\n{as_table(status, colour=colour)}"


def as_table(status: Mapping[str, Any], *, colour: bool = False) -> str:
    """What `control.status.as_dict` returns, as a table for people: a word and its text on each line."""
    lines = []
    before = ""
    for word, text in _rows(status):
        shown = "" if word == before else word
        lines.append(f"{shown:<{INDENT}}{one_line(text)}".rstrip())
        before = word
    if colour:
        lines[0] = _bold(lines[0], status["state"], status["state"])
    return "\n".join(lines) + "\n"


def _bold(text: str, word: str, state: str) -> str:
    """The text with a word of it in bold, in the state's colour."""
    return text.replace(word, f"\x1b[1;{COLOURS.get(state, 33)}m{word}\x1b[0m", 1)


def _rows(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    initialising = ", initialising the data directory" if status["initialising"] else ""
    spent = duration_text(status["seconds_in_state"])
    yield "state", f"{status['state']}{initialising} for {spent}, since {moment_text(status['since'])}"
    yield "because", status["why"]
    if failed := status["failed_start"]:
        yield "problem", failure_text(failed)
    if status["sleeps_in"] is not None:
        yield "sleeps in", duration_text(status["sleeps_in"])
    elif status["state"] == State.AWAKE.noun:
        yield "sleeps in", "not foreseeable"
    for reason in status["reasons"]:
        ends = f"; ends {reason['ends']}" if reason["ends"] else ""
        yield "reasons", f"{reason['kind']}: {reason['text']}{ends}"
    yield from _polls(status)
    for lease in status["leases"]:
        left = f"for another {duration_text(lease['ends_in'])}" if lease["ends_in"] is not None else ""
        while_it_runs = f"while {lease['program']} runs" if lease["program"] else ""
        ends = ", ".join(part for part in (left, while_it_runs) if part)
        yield "held", f"{lease['name']}: {ends}{lease['why'] and ': '}{lease['why']}"
    yield "gate", f"{status['gate']['mode']}: {status['gate']['why']}"
    sessions = "1 session" if status["sessions"] == 1 else f"{_or_unknown(status['sessions'])} sessions"
    # Without Postgres there are none.
    seen = f", {sessions}" if status["postmaster_pid"] is not None or status["sessions"] is not None else ""
    yield "clients", f"{status['parked']} parked{seen}"
    for text in _sessions(status):
        yield "sessions", text
    yield "listens", ", ".join(_endpoint(host, status["port"]) for host in status["listen"])
    memory = status["memory"]
    if status["postmaster_pid"] is not None:
        taken = f", {_mebibytes(memory['postgres'])}" if memory["postgres"] is not None else ""
        yield "Postgres", f"postmaster {status['postmaster_pid']}{taken}"
    pid, up = status["supervisor_pid"], duration_text(status["uptime"])
    sizes = f"{_mebibytes(memory['supervisor'])}, observer {_mebibytes(memory['observer'])}"
    yield "pgidle", f"{status['version']}, pid {pid}, {sizes}, up {up}"
    if status["version"] != VERSION:
        yield "", f"this command is of version {VERSION}: that runs once pgidle is started again"
    yield "data", status["data_dir"]
    counts = ("wakes", "sleeps", "crashes", "looks", "looks_failed")
    yield "so far", ", ".join(f"{name.replace('_', ' ')}: {status[name]}" for name in counts)
    if last := status["last_sleep"]:
        yield "last sleep", sleep_text(last)


def _polls(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for poll in status["polls"]:
        yield "polls", f"{poll['text']}; {poll['advice']}"
    if (without := status["without_polls"]) and without["text"]:
        yield "polls", without["text"]


def _sessions(status: Mapping[str, Any]) -> Iterator[str]:
    seen = status["sessions_seen"] or ()
    for one in seen[:NAMED]:
        yield f"{one['pid']} {one['client']}: {_doing(one)}{one['text']}"
    if (rest := len(seen[NAMED:]) + status["sessions_left_out"]) > 0:
        yield f"and {rest} more (the first {len(seen)}: --json)"


def _doing(session: Mapping[str, Any]) -> str:
    state, seconds = session["state"], session["seconds"]
    spent = duration_text(seconds) if seconds is not None else ""
    if state == "idle" and spent:
        return f"idle, last used {spent} ago; "
    return f"{state} for {spent}; " if state and spent else f"{state}; " if state else ""


def failure_text(failed: Mapping[str, Any]) -> str:
    """Failed starts, from `as_dict`."""
    starts = f"{failed['count']} failed start{'s' * (failed['count'] > 1)}"
    again = f"; next in {duration_text(failed['tried_again_in'])}" if failed["tried_again_in"] else ""
    return f"{failed['why']} ({starts} since {moment_text(failed['since'])}{again})"


def sleep_text(last: Mapping[str, Any]) -> str:
    """The last sleep, from `as_dict`."""
    took = f"; the shutdown took {last['seconds'] * 1000:.0f} ms" if last["seconds"] is not None else ""
    return f"{moment_text(last['at'])}: {last['why']}{took}"


def moment_text(moment: float) -> str:
    """A moment (Unix time) as the log writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)
