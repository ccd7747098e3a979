"""The journal as it is written: on a full disk, beside a torn line, by two writers, until it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pgidle.base.errors import PgidleError
from pgidle.history import journal as module
from pgidle.history.events import Event, parse_all
from pgidle.history.journal import JOURNAL, LARGEST_BYTES, LONGEST_TEXT, MOST_USES, OLDER, Journal
from pgidle.history.timeline import Timeline
from pgidle.settings.options import LogFormat
from pgidle.system.log import Log
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def journal(folder: Path) -> Journal:
    return Journal(StateDir(str(folder)), Log(LogFormat.TEXT))


def events(folder: Path) -> list[Event]:
    return [*parse_all((folder / JOURNAL).read_bytes().splitlines(keepends=True))]


def lost(folder: Path) -> int:
    timeline = Timeline()
    for event in events(folder):
        for _ in timeline.add(event):
            pass
    return timeline.position.lost


def test_what_is_noted_is_read_again(folder: Path) -> None:
    one = journal(folder)
    fields: dict[str, Any] = {
        "why": 'line\nbreak "quoted" \\ \x00 é \U0001f418',
        "wait": 0.25,
        "none": None,
        "yes": True,
        "many": ("a", "b"),
        "more": {"x": [1, 2.5], "y": {}},
        "endless": float("inf"),
    }
    one.note("woken", fields)
    assert not (folder / JOURNAL).exists()
    one.write()
    one.write()
    (event,) = events(folder)
    expected = {**fields, "many": ["a", "b"], "endless": None}
    assert {name: event.fields[name] for name in fields} == expected
    assert (folder / JOURNAL).stat().st_mode & 0o777 == 0o600
    assert event.number == 1


def test_moments_are_those_of_the_events_and_not_of_their_writing(folder: Path) -> None:
    one = journal(folder)
    one.note("crashed", {})
    before = one._unwritten[0]
    one.note("woken", {})
    one.write()
    assert (folder / JOURNAL).read_bytes().splitlines(keepends=True)[0] == before


def test_a_torn_last_line_stays_by_itself(folder: Path) -> None:
    one = journal(folder)
    one.note("started", {})
    one.write()
    with (folder / JOURNAL).open("ab") as file:
        file.write(b'{"at":1764244800.1,"up":12')
    one.note("woken", {})
    one.note("slept", {})
    one.write()
    assert [event.number for event in events(folder)] == [1, 2, 3]


def test_long_texts_are_cut_and_of_a_line_that_is_still_too_long_a_field_is_lost(folder: Path) -> None:
    one = journal(folder)
    one.note("started", {"why": "x" * 9000})
    one.note("slept", {"cut": ["x" * 490] * 20})
    one.note("woken", {})
    one.write()
    found = events(folder)
    assert [event.kind.value for event in found] == ["started", "slept", "woken"]
    assert found[0].text("why") == "x" * LONGEST_TEXT
    assert lost(folder) == 0


@contextlib.contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    folder.mkdir(mode=0o700)
    options = f"size={size},mode=0700"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    hog = folder / "hog"
    with hog.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return hog


def test_on_a_full_disk_lines_wait_until_there_is_room(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_file_system(folder, "256k"):
        one = journal(folder)
        one.note("started", {})
        one.write()
        hog = fill(folder)
        # The rest of the first page takes some of them; no line is there in part.
        for _ in range(60):
            one.note("use", {"by": "x" * 200})
            one.write()
        full = (folder / JOURNAL).read_bytes()
        assert full.endswith(b"\n")
        assert 1 < len(events(folder)) < 61
        said = capfd.readouterr().err
        assert said.count("cannot write the journal: No space left on device") == 1
        hog.unlink()
        one.write()
        assert (folder / JOURNAL).read_bytes().startswith(full)
        assert [event.number for event in events(folder)] == [*range(1, 62)]
        assert lost(folder) == 0
        assert "that is over" in capfd.readouterr().err


def test_half_a_line_is_taken_back(folder: Path) -> None:
    """Where several lines are written at once, what fits of them is no whole number of lines."""
    with small_file_system(folder, "256k"):
        one = journal(folder)
        one.note("started", {})
        one.write()
        hog = fill(folder)
        for _ in range(60):
            one.note("use", {"by": "x" * 200})
        one.write()
        assert len(events(folder)) == 1
        assert (folder / JOURNAL).read_bytes().endswith(b"\n")
        hog.unlink()
        one.write()
        assert [event.number for event in events(folder)] == [*range(1, 62)]


def test_what_a_full_disk_costs_is_told_by_the_numbers(folder: Path) -> None:
    with small_file_system(folder, "256k"):
        one = journal(folder)
        hog = fill(folder)
        for _ in range(MOST_USES + 30):
            one.note("use", {})
            one.write()
        hog.unlink()
        one.note("slept", {})
        one.write()
        # The sleep matters more than the last uses.
        assert len(events(folder)) == MOST_USES + 1
        one.note("woken", {})
        one.write()
        assert lost(folder) == 30


def test_the_first_line_that_cannot_be_written_is_not_lost(folder: Path) -> None:
    with small_file_system(folder, "256k"):
        one = journal(folder)
        hog = fill(folder)
        one.note("started", {})
        one.write()
        assert not (folder / JOURNAL).exists() or events(folder) == []
        hog.unlink()
        one.write()
        assert [event.number for event in events(folder)] == [1]


def test_a_file_that_nothing_reduces_grows_no_further(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = journal(folder)
    one.note("started", {})
    one.write()
    os.truncate(folder / JOURNAL, LARGEST_BYTES + 1)
    one.note("slept", {})
    one.write()
    assert (folder / JOURNAL).stat().st_size == LARGEST_BYTES + 1
    assert "grown too large" in capfd.readouterr().err
    one.rotate()
    one.note("woken", {})
    one.write()
    assert [event.number for event in events(folder)] == [3]
    assert (folder / OLDER).stat().st_size == LARGEST_BYTES + 1


def test_a_link_in_its_place_is_not_followed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = journal(folder)
    (folder / "elsewhere").write_text("mine")
    (folder / JOURNAL).symlink_to(folder / "elsewhere")
    one.note("started", {})
    one.write()
    assert (folder / "elsewhere").read_text() == "mine"
    assert "cannot write the journal" in capfd.readouterr().err


def test_only_one_supervisor_can_write(folder: Path) -> None:
    first = journal(folder)
    with pytest.raises(PgidleError, match="already serves this data directory"):
        journal(folder)
    first.note("started", {})
    first.write()
    assert len(events(folder)) == 1


WRITER = """
import sys
from pgidle.history.journal import Journal
from pgidle.settings.options import LogFormat
from pgidle.system.log import Log
from pgidle.system.state_directory import StateDir
state_dir = StateDir(sys.argv[1] + "/own" + sys.argv[2])
state_dir.folder = __import__("os").open(sys.argv[1], 0)
journal = Journal(state_dir, Log(LogFormat.TEXT))
print("ready", flush=True)
sys.stdin.readline()
for number in range(500):
    journal.note("use", {"by": sys.argv[2] * 300})
    if number % 3 == 0:
        journal.write()
journal.write()
"""


def test_two_writers_would_not_tear_each_others_lines(folder: Path) -> None:
    """Even if the lock did not forbid it: each writes whole lines at the file's end."""
    folder.mkdir(mode=0o700)
    writers = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", WRITER, str(folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for one in writers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in writers:
        one.communicate("go\n")
        assert one.returncode == 0
    lines = (folder / JOURNAL).read_bytes().splitlines()
    found = [json.loads(line) for line in lines if line]
    assert len(found) == 1000
    assert {one["by"] for one in found} == {"a" * 300, "b" * 300}


def test_it_imports_nothing_that_the_supervisor_does_without() -> None:
    look = "import sys; before = {*sys.modules}; import pgidle.history.journal; print(*({*sys.modules} - before))"
    ran = subprocess.run(
        [sys.executable, "-P", "-S", "-c", f"import sys; sys.path.insert(0, {sys.path[0]!r}); {look}"],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert module.__name__ in ran.stdout.split()
    assert not {*ran.stdout.split()} & {"json", "re", "dataclasses", "typing", "enum", "collections"}


def test_an_event_with_long_fields_is_not_lost(folder: Path) -> None:
    """As when a list of hundreds of addresses changes, or twenty sessions with names full of quotes are cut."""
    one = journal(folder)
    many = ", ".join(f"address=10.0.{number}.0/24" for number in range(400))
    one.note("settings", {"changed": {"ignore": ("", many)}, "settings": {"idle-timeout": 60}})
    one.note("slept", {"why": "idle"}, f',"last_use":{json.dumps("x" * 9000)}')
    assert one.write()
    settings, slept = events(folder)
    assert settings.fields["settings"] == {"idle-timeout": 60}
    assert (slept.text("why"), lost(folder)) == ("idle", 0)


def test_a_second_order_to_rotate_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from two observers, the second of which began to reduce before the file was moved aside."""
    monkeypatch.setattr(module, "SEGMENT_BYTES", 50)
    one = journal(folder)
    for count in range(3):
        one.note("woken", {"why": str(count)})
        if count:
            one.rotate()
        assert one.write()
        monkeypatch.setattr(module, "SEGMENT_BYTES", 50 + 10_000 * count)
    assert b'"why":"0"' in (folder / OLDER).read_bytes()
    assert [event.text("why") for event in events(folder)] == ["1", "2"]
