"""What the observer imports, and what it spares: in processes of their own, as imports are for ever."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys

import pytest

SPARED = (
    *("ssl", "importlib.metadata", "multiprocessing", "pickle", "shutil", "lzma"),
    *("typing_extensions", "anyio", "zoneinfo", "sysconfig", "random", "locale"),
)


def imported(code: str, **environ: str) -> str:
    ran = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            f"import sys\nfrom pgidle.observer.lean_imports import import_lean\n{code}",
        ],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    return ran.stdout.strip()


def test_what_is_spared_is_not_there_and_can_be_had() -> None:
    look = (
        f"import_lean(); print([name for name in {SPARED} if name in sys.modules], 'psycopg' in sys.modules)"
    )
    assert imported(look) == "[] True"
    wanted = "import_lean(); import ssl, ctypes.util, importlib.metadata, watchfiles.run as run"
    assert imported(f"{wanted}; print(ssl.OPENSSL_VERSION, importlib.metadata.version('psycopg'))")
    assert imported(f"{wanted}; print(ctypes.util.find_library('c'), run.run_process.__name__)")


def test_what_is_put_off_is_there_once_it_is_needed() -> None:
    code = """
import_lean()
import asyncio, psycopg, watchfiles, subprocess
from psycopg import _conninfo_utils, _conninfo_attempts, _tz
print(_conninfo_utils.is_ip_address("::1"), _conninfo_utils.is_ip_address("db"))
hosts = {"host": "a,b", "hostaddr": "::1,::1", "load_balance_hosts": "random"}
print(len(list(_conninfo_attempts.conninfo_attempts(hosts))))
print(type(_tz.ZoneInfo("UTC")).__module__, subprocess.check_output(["echo", "x"], text=True).strip())
print(asyncio.selector_events.sslproto.SSLProtocol.__name__, watchfiles.main.anyio.Event.__name__)
made = psycopg._compat.TypeVar
print(made("T", default=int).__name__, made("U", infer_variance=True).__infer_variance__)
import random, anyio, typing_extensions
print(random.shuffle.__self__.__class__.__name__, typing_extensions.TypeVar("T", default=int).__default__.__name__)
"""
    assert imported(code).splitlines() == [
        *("True False", "2", "zoneinfo x", "SSLProtocol Event", "T True", "Random int"),
    ]


def test_nothing_is_left_to_import_at_normal_priority() -> None:
    code = (
        "from pgidle.observer.process import _import_all\n_import_all()\nbefore = set(sys.modules)\n"
        "import pgidle.observer.main_loop, pgidle.observer.watch_target, pgidle.observer.changed_files\n"
        "print(sorted(set(sys.modules) - before))"
    )
    assert imported(code) == "[]"


def test_what_only_metrics_need_waits_until_somebody_asks_for_them() -> None:
    code = (
        "from pgidle.observer.process import _import_all\n_import_all()\n"
        "print([name for name in ('pgidle.control.metrics', 'pgidle.history.totals') if name in sys.modules])"
    )
    assert imported(code) == "[]"


def test_what_somebody_has_imported_before_stays_his() -> None:
    code = "import ssl, ctypes.util\nbefore = sys.modules['ssl'], ctypes.util\nimport_lean()\n"
    assert imported(f"{code}print(before == (sys.modules['ssl'], ctypes.util))") == "True"


def test_psycopg_without_its_binary() -> None:
    if ctypes.util.find_library("pq") is None:
        pytest.skip("needs libpq")
    code = "import_lean()\nimport psycopg\nprint(psycopg.pq.__impl__, psycopg.pq.version() > 0)"
    assert imported(code, PSYCOPG_IMPL="python") == "python True"
