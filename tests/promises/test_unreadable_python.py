"""A Python that only root can read, which Postgres's user goes on with all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import pgidle
from harness.faults import notes, query

if TYPE_CHECKING:
    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: files that only root can read")


@needs_root
def test_a_python_that_only_root_can_read(newest: Installation, place: Place, launch):
    """A virtual environment under root's home, with all that is in this one."""
    closed = place.folder("root")
    os.chown(closed, 0, 0)
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", closed / "venv"], check=True)
    (closed / "own").mkdir()
    (closed / "own/pgidle").symlink_to(Path(pgidle.__file__).parent)
    (closed / "site").symlink_to(Path(psutil.__file__).parent.parent)
    (site,) = closed.glob("venv/lib/python*/site-packages")
    (site / "all.pth").write_text(f"{closed}/own\n{closed}/site\n")
    one = launch(newest, python=str(closed / "venv/bin/python"), when_idle="stay", idle_timeout="300ms")
    one.wait_for_state("asleep")
    assert any(str(closed) in note for note in notes(one, "boot"))
    assert one.wait_for_state("starting", since=0).data["gate"] == "shared"
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0
    assert not any("Traceback" in line.text for line in one.lines)
