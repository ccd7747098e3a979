"""Errors that end the program: a line for people, and an exit status for programs."""

from __future__ import annotations


class PgidleError(Exception):
    """A fault that ends the program: what happened and where, then what to do about it."""

    status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class SettingsError(PgidleError):
    """Wrong usage or settings, found before anything was changed."""

    status = 2


FAULTS = (OSError, ImportError, MemoryError)
"""Errors of any call or import on a machine that lacks something (descriptors, memory, disk space). They may pass."""


def fault_text(error: BaseException) -> str:
    """The error in one line, without errno, which only programmers know."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    said = " ".join(str(error).split())
    return said if isinstance(error, OSError) else f"{type(error).__name__}: {said}"


def place_text(error: BaseException) -> str:
    """Where it happened, for whoever fixes it."""
    import traceback

    return "; ".join(f"{one.name}: {one.line}" for one in traceback.extract_tb(error.__traceback__)[-2:])
