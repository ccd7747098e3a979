"""A supervisor's status as a table for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pgidle.idle.reasons import duration_text, one_line
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def as_table(status: Mapping[str, Any], *, colour: bool = False) -> str:
    """What `control.status.as_dict` returns, as a table for people: a word and its text on each line."""
    lines = []
    before = ""
    for word, text in _rows(status):
        shown = "" if word == before else word
        lines.append(f"{shown:<12}{one_line(text)}".rstrip())
        before = word
    if colour:
        bold = {"awake": 32, "asleep": 34, "failed": 31}.get(status["state"], 33)
        lines[0] = lines[0].replace(status["state"], f"\x1b[1;{bold}m{status['state']}\x1b[0m", 1)
    return "\n".join(lines) + "\n"


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
    for poll in status["polls"]:
        yield "polls", poll["text"]
    if (without := status["without_polls"]) and without["text"]:
        yield "polls", without["text"]
    for lease in status["leases"]:
        left = f"for another {duration_text(lease['ends_in'])}" if lease["ends_in"] is not None else ""
        while_it_runs = f"while {lease['program']} runs" if lease["program"] else ""
        ends = ", ".join(part for part in (left, while_it_runs) if part)
        yield "held", f"{lease['name']}: {ends}{lease['why'] and ': '}{lease['why']}"
    yield "gate", f"{status['gate']['mode']}: {status['gate']['why']}"
    sessions = "1 session" if status["sessions"] == 1 else f"{_or_unknown(status['sessions'])} sessions"
    yield "clients", f"{status['parked']} parked, {sessions}"
    yield "listens", ", ".join(_endpoint(host, status["port"]) for host in status["listen"])
    memory = status["memory"]
    if status["postmaster_pid"] is not None:
        taken = f", {_mebibytes(memory['postgres'])}" if memory["postgres"] is not None else ""
        yield "Postgres", f"postmaster {status['postmaster_pid']}{taken}"
    pid, up = status["supervisor_pid"], duration_text(status["uptime"])
    sizes = f"{_mebibytes(memory['supervisor'])}, observer {_mebibytes(memory['observer'])}"
    yield "pgidle", f"pid {pid}, {sizes}, up {up}"
    yield "data", status["data_dir"]
    counts = ("wakes", "sleeps", "crashes", "looks", "looks_failed")
    yield "so far", ", ".join(f"{name.replace('_', ' ')}: {status[name]}" for name in counts)
    if last := status["last_sleep"]:
        yield "last sleep", sleep_text(last)


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
