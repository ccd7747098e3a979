"""Little memory: asyncio and psycopg without what they would import for uses that nobody here has, and no garbage."""

from __future__ import annotations

import gc
import sys
from types import ModuleType


class _Unversioned(ModuleType):
    """Stands for importlib.metadata: nothing is installed, as far as it knows."""

    PackageNotFoundError = LookupError

    def version(self, name: str) -> str:
        raise self.PackageNotFoundError(name)


def import_lean() -> None:
    """Import them for whoever imports them later.

    Without ssl, as Python that was built without it: nothing here speaks TLS but libpq, which brings its own; Python's
    would be a tenth of this process's memory. And without importlib.metadata, by which psycopg finds out what version
    it is: 1.6 MB of archives and mail headers.
    """
    absent: dict[str, ModuleType | None] = {
        "ssl": None,
        "importlib.metadata": _Unversioned("importlib.metadata"),
    }
    ours = {name: module for name, module in absent.items() if name not in sys.modules}
    sys.modules.update(ours)  # type: ignore[arg-type]
    try:
        import asyncio  # noqa: F401

        import psycopg  # noqa: F401
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
