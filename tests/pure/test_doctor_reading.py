"""What is read, and what is said to have been read: addresses, pipes, whole files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from harness.mistakes import of_compose, of_fly
from harness.platform_files import SERVICE, STOCK, pod
from pgidle.base.errors import SettingsError
from pgidle.base.platform_limits import Platform
from pgidle.doctor import files
from pgidle.doctor.output import as_dict, as_text
from pgidle.doctor.platforms import systemd
from pgidle.doctor.readers.server_addresses import Variable, addresses
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.unit_file import Beside

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("X", "postgres://u:p%40@a:1/d?sslmode=require", [("a", "1", "require")]),
        ("X", "postgresql://a,b:2/d", [("a", "5432", ""), ("b", "2", "")]),
        ("X", "postgresql:///d?host=/run/pg", [("/run/pg", "5432", "")]),
        ("DATA_SOURCE_NAME", "user=u host=/tmp sslmode=disable", [("/tmp", "5432", "disable")]),
        ("DSN", "host=a port=7 dbname=d", [("a", "7", "")]),
        ("PGHOST", "a", [("a", "5432", None)]),
        ("PG_HOST", "a:6", [("a", "6", None)]),
        ("MYSQL_HOST", "a", []),
        ("HOST", "a", []),
        ("POSTGRES_HOST_AUTH_METHOD", "trust", []),
        ("PGHOST", "http://a", []),
    ],
)
def test_addresses(name: str, value: str, found: list[tuple[str, str, str | None]]) -> None:
    assert [(one.host, one.port, one.sslmode) for one in addresses([Variable(name, value, 1)])] == found


def test_every_file_says_what_was_read_and_what_not() -> None:
    charts = [
        of_fly(STOCK), of_compose(SERVICE.format(image="pgidle:18", volume="x:/y", more="")), pod(),
        systemd.examine("a.service", "[Service]\nExecStart=x\nCPUQuota=1%\n", Context(), Beside()),
    ]  # fmt: skip
    for chart in charts:
        assert chart.read, chart.subject
        assert chart.not_read, chart.subject
    assert "[Service]: CPUQuota" in charts[3].not_read
    assert all(subject["read"] and subject["not_read"] for subject in as_dict(charts)["subjects"])
    shown = " ".join(as_text(charts).split())
    assert "read as flyctl" in shown
    assert "not read [Service]: CPUQuota" in shown
    assert "nothing wrong in what was read" not in shown
    assert "nothing wrong in what was read" in as_text([of_fly(STOCK)])


def test_a_fifo_hangs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SettingsError, match="nothing came out of it"):
        files.read(str(tmp_path / "fifo"))
    monkeypatch.setattr(files, "PATIENCE", 60.0)
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_text(STOCK))
    writer.start()
    assert files.read(str(tmp_path / "fifo")).kind is Platform.FLY
    writer.join()


def test_a_pipe_is_read_to_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pgidle", "doctor", "/dev/stdin"], input=STOCK, capture_output=True, text=True,
        check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "whether pgidle runs here" in re.sub(r"\s+", " ", done.stdout)
