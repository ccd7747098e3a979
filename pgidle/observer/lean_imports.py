"""Saves memory: imports asyncio, psycopg and watchfiles without the parts that are not used here; collects garbage."""

from __future__ import annotations

import contextlib
import gc
import sys
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar


class _Unversioned(ModuleType):
    """Stands in for importlib.metadata, and knows of no installed package."""

    PackageNotFoundError = LookupError

    def version(self, name: str) -> str:
        raise self.PackageNotFoundError(name)


class _Runless(ModuleType):
    """Stands in for watchfiles.run, which restarts a process when a file has changed."""

    run_process = arun_process = None


class _Later(ModuleType):
    """Stands in for a module until one of its attributes is needed. What importers take out of it by name must be
    among `functions`: it is needed once it is called. (importlib.util.LazyLoader loads at the next import.)"""

    def __init__(self, name: str, *functions: str) -> None:
        super().__init__(name)
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._functions:
            return lambda *values, **named: getattr(self._load(), name)(*values, **named)
        return getattr(self._load(), name)

    def _load(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return import_module(self.__name__)


class _TypingExtensions(_Later):
    """Of typing_extensions psycopg takes type variables with a default, which means something to type checkers only."""

    def TypeVar(self, name: str, *constraints: Any, default: object = None, **named: Any) -> TypeVar:
        if named.keys() <= {"bound", "covariant", "contravariant"}:
            return TypeVar(name, *constraints, **named)
        made: TypeVar = self._load().TypeVar(name, *constraints, default=default, **named)
        return made


def import_lean() -> None:
    """Import them ahead of the modules that need them.

    Without ssl, like a Python built without it: only libpq speaks TLS here, and brings its own; Python's would be a
    tenth of this process's memory. Without importlib.metadata, from which psycopg reads its own version: 1.6 MB of
    archives and mail headers. Without watchfiles.run (multiprocessing, pickle), and with ctypes.util (temporary files,
    compression) only where psycopg has to look for libpq: another 0.9 MB. The others of _Later take 1.5 MB and a fifth
    of the time of all imports together, for what is not done here: other event loops, time zones, connecting to one of
    several hosts, and reading a program's output as text.
    """
    import ctypes

    absent: dict[str, ModuleType | None] = {
        "ssl": None,
        "importlib.metadata": _Unversioned("importlib.metadata"),
        "watchfiles.run": _Runless("watchfiles.run"),
        "ctypes.util": _Later("ctypes.util"),
        "typing_extensions": _TypingExtensions("typing_extensions"),
        "anyio": _Later("anyio"),
        "asyncio.sslproto": _Later("asyncio.sslproto"),
        "zoneinfo": _Later("zoneinfo", "ZoneInfo"),
        "random": _Later("random", "shuffle"),
        "ipaddress": _Later("ipaddress", "ip_address"),
        "locale": _Later("locale"),
    }
    ours = {name: module for name, module in absent.items() if name not in sys.modules}
    sys.modules.update(ours)  # type: ignore[arg-type]
    if "ctypes.util" in ours:
        setattr(ctypes, "util", ours["ctypes.util"])  # noqa: B010 - mypy knows the other one
    try:
        # Without its compiled part psycopg needs what is left out: then it is imported normally later.
        with contextlib.suppress(ImportError):
            import asyncio  # noqa: F401

            import psycopg  # noqa: F401
            import watchfiles  # noqa: F401
    finally:
        for name, module in ours.items():
            if sys.modules.get(name, module) is module:
                sys.modules.pop(name, None)


def collect_garbage() -> None:
    """Free what watching a Postgres leaves behind in reference cycles (tasks, exceptions, connections).

    Python by itself would collect it only after some hundred sleeps, when it has fragmented the whole heap. What
    survives the first collection is mostly modules, so it is frozen: later collections take a millisecond.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
