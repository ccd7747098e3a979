"""Little memory: no garbage, and asyncio, psycopg and watchfiles without what they import for uses nobody here has."""

from __future__ import annotations

import contextlib
import gc
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Unversioned(ModuleType):
    """Stands for importlib.metadata: nothing is installed, as far as it knows."""

    PackageNotFoundError = LookupError

    def version(self, name: str) -> str:
        raise self.PackageNotFoundError(name)


class _Runless(ModuleType):
    """Stands for watchfiles.run: nothing here runs a process again when a file has changed."""

    run_process = arun_process = None


class _Later(ModuleType):
    """Stands for a module until something of it is wanted. (importlib.util.LazyLoader's ends with the next import.)"""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


def import_lean() -> None:
    """Import them for whoever imports them later.

    Without ssl, as Python that was built without it: nothing here speaks TLS but libpq, which brings its own; Python's
    would be a tenth of this process's memory. Without importlib.metadata, by which psycopg finds out what version it
    is: 1.6 MB of archives and mail headers. Without watchfiles.run (multiprocessing, pickle), and with ctypes.util
    (temporary files, compression) only where psycopg has to look for libpq: another 0.9 MB.
    """
    import ctypes

    absent: dict[str, ModuleType | None] = {
        "ssl": None,
        "importlib.metadata": _Unversioned("importlib.metadata"),
        "watchfiles.run": _Runless("watchfiles.run"),
        "ctypes.util": _Later("ctypes.util"),
    }
    ours = {name: module for name, module in absent.items() if name not in sys.modules}
    sys.modules.update(ours)  # type: ignore[arg-type]
    if "ctypes.util" in ours:
        setattr(ctypes, "util", ours["ctypes.util"])  # noqa: B010 - mypy knows the other one
    try:
        # Without its binary psycopg needs them: then it is imported whole, by whoever wants it.
        with contextlib.suppress(ImportError):
            import asyncio  # noqa: F401

            import psycopg  # noqa: F401
            import watchfiles  # noqa: F401
    finally:
        for name in ours:
            del sys.modules[name]


def collect_garbage() -> None:
    """What a watched Postgres leaves is tied up in cycles (tasks, exceptions, connections).

    Python itself would look for them after some hundred sleeps, and by then their holes are all over the heap. What is
    there the first time is modules for the most part, and never looked at again: so the next times take a ms.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
