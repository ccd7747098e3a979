"""Prometheus' own judgement of metrics and rules, and skips where its program is not installed."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def promtool(*words: str | Path, given: str = "") -> str:
    """What `promtool` complains of; empty if of nothing."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool (apt-get install prometheus)")
    ran = subprocess.run(
        [program, *map(str, words)], input=given, capture_output=True, text=True, timeout=60, check=False
    )
    said = (ran.stdout + ran.stderr).strip()
    if ran.returncode and not said:
        said = f"exit status {ran.returncode}"
    return said if ran.returncode or words[:2] == ("check", "metrics") else ""
