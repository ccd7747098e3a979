"""How a postmaster ended, in words."""

from __future__ import annotations

from pgidle.base.builtin_modules import signal


def describe(status: int, complaint: str = "") -> str:
    """An exit status as a person would say it, with what Postgres itself has said of it."""
    if complaint:
        complaint = f": {complaint}"
    if status == 0:
        return "the postmaster ended without a clean shutdown: the next start recovers, and empties unlogged tables"
    if status > 0:
        return f"the postmaster exited with status {status}{complaint or ' (its own message is above)'}"
    # Of the real-time signals only the first and the last have names.
    names = [name for name in dir(signal) if name.startswith("SIG") and not name.startswith("SIG_")]
    named = next((name for name in names if getattr(signal, name) == -status), f"signal {-status}")
    return f"the postmaster was ended by {named}{complaint}"
