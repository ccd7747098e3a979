"""A full disk, at the first start, at a later one, and while Postgres is awake."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from harness.faults import TRUST, contents, fill, query, start_again

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation, Place


@pytest.mark.parametrize("leave", [0, 8192])
def test_a_full_disk(installation: Installation, place: Place, small_disk: Path, launch, leave: int):
    data_dir = small_disk / "data"
    subprocess.run(["cp", "-a", place.data_dir(installation), data_dir], check=True)
    hog = fill(small_disk, leave)
    before = contents(data_dir)
    one = launch(installation, data_dir=data_dir)
    assert one.wait() == 1
    assert any("No space left on device" in line.text for line in one.lines)
    assert not any("Traceback" in line.text for line in one.lines)
    assert contents(data_dir) == before
    hog.unlink()
    start_again(one)
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0


def test_on_a_full_disk_postgres_stays_awake(newest: Installation, place: Place, small_disk: Path, launch):
    """Asleep it could not write its pid file, and would not start again."""
    data_dir = small_disk / "data"
    subprocess.run(["cp", "-a", place.data_dir(newest), data_dir], check=True)
    one = launch(newest, data_dir=data_dir, when_idle="stay", idle_timeout="1s")
    one.wait_for_state("asleep")
    hog = fill(small_disk, 20 << 20)
    mark = one.mark()
    assert query(one, "SELECT 1") == 1
    one.wait_for_state("awake", since=mark)
    said = one.pgidle("status").stdout
    while "MB left in its data directory" not in said:
        assert one.states[-1] == "awake"
        said = one.pgidle("status").stdout
    refused = one.pgidle("sleep")
    assert refused.returncode == 1
    assert "when 32 MB are free" in refused.stderr
    hog.unlink()
    one.wait_for_state("asleep", since=mark)


def test_a_disk_that_is_too_small_for_the_first_start(newest: Installation, small_disk: Path, launch):
    data_dir = small_disk / "data"
    hog = fill(small_disk, 10 << 20)
    one = launch(newest, data_dir=data_dir, env=TRUST)
    assert one.wait() == 1
    assert "No space left on device" in "".join(line.text for line in one.lines)
    assert [path.name for path in data_dir.iterdir()] == ["pgidle"]
    assert not (data_dir / "pgidle/initdb").exists()
    hog.unlink()
    start_again(one)
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0
