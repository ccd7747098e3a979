"""Import now what would be imported later, for a Python that the user to become cannot read.

Costs half a second of the wake, and only there. A part that does not import (another system's, or one that
wants a package that is not installed) would not import later either, and is passed over.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import pkgutil
import warnings

from pgidle.system.users import PACKAGES

CODECS = ("ascii", "latin-1", "utf-8", "utf-8-sig", "idna", "punycode", "unicode_escape", "hex")
MODULES = (
    *("ctypes.util", "difflib", "gettext", "grp", "http.client", "ipaddress", "json", "linecache", "locale"),
    *(
        "logging.config",
        "logging.handlers",
        "multiprocessing.util",
        "pprint",
        "queue",
        "shlex",
        "shutil",
        "ssl",
    ),
    *("stringprep", "subprocess", "tempfile", "textwrap", "tomllib", "traceback", "unicodedata", "uuid"),
    "zoneinfo",
)
"""The standard library's modules that others import inside functions."""
CHOOSING = ("asyncio", "concurrent", *PACKAGES)
"""Packages that choose their parts while running: every part of theirs is imported."""
NOT_IMPORTED = ("__main__",)


def preload() -> None:
    """Import all of it. Call it while still the user who can read Python, then `become`."""
    for codec in CODECS:
        codecs.lookup(codec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in MODULES:
            _import(module)
        for package in CHOOSING:
            folders = getattr(importlib.import_module(package), "__path__", ()) if _import(package) else ()
            for part in pkgutil.walk_packages(folders, f"{package}.", onerror=lambda _name: None):
                if part.name.rpartition(".")[2] not in NOT_IMPORTED:
                    _import(part.name)


def _import(name: str) -> bool:
    with contextlib.suppress(Exception):
        importlib.import_module(name)
        return True
    return False
