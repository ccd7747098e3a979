"""The journal's files as they are read: reduced or not, interrupted at any step, nothing is counted twice or never."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from harness.journal_script import DAY, MIDNIGHT, Script
from harness.made_journal import make
from pgidle.history import files
from pgidle.history.bounded_files import DAY_TOTALS, MOST_BYTES
from pgidle.history.files import read, read_of_another, reduce_older
from pgidle.history.journal import JOURNAL, LONGEST_LINE, OLDER, SEGMENT_BYTES, is_full
from pgidle.history.tally import MOST_DAYS, Days, Tally, as_json, count_in, day_of, spend_in
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.history.events import Event


class Killed(BaseException):
    """Where a process ends in the middle of something."""


@pytest.fixture
def state_dir(tmp_path: Path) -> StateDir:
    return StateDir(str(tmp_path / "state"))


def weeks(count: int = 3) -> Script:
    """Some runs with sleeps, a crash, and a run that was killed."""
    script = Script()
    for week in range(count):
        script.started().woken("start")
        for _ in range(7):
            script.wait(400).note("use", idle=60, count=2, by="a").wait(300).slept(cut=["a"], shutdown=0.2)
            script.wait(DAY - 3000).woken(by=f"10.0.0.{week}").wait(1).note("client", client=f"app {week}")
        script.note("crashed", why="signal 9").woken("crash").wait(300)
        if week % 2:
            script.lose(2).slept().exited()
        script.wait(5000)
    return script


def totals(state_dir: StateDir, now: float) -> tuple[dict[int, Any], int]:
    """What is on record, by day, and how many lines are lost."""
    found = read(state_dir.folder)
    days: Days = found.reduced.days
    timeline = found.reduced.timeline
    for event in found.events:
        for episode in timeline.add(event):
            spend_in(days, episode)
        count_in(days, event)
    for episode in timeline.up_to(now, is_running=True):
        spend_in(days, episode)
    empty = as_json(Tally())
    said = {day: as_json(one) for day, one in sorted(days.items())}
    return {day: one for day, one in said.items() if one != empty}, timeline.position.lost


def nearly(found: tuple[dict[int, Any], int]) -> Any:
    """Sums of rounded seconds differ in the last digit."""

    def rounded(one: Any) -> Any:
        if isinstance(one, dict):
            return {name: rounded(value) for name, value in one.items()}
        return pytest.approx(one, abs=0.01) if isinstance(one, float) else one

    return rounded(found[0]), found[1]


def write(state_dir: StateDir, name: str, lines: list[bytes]) -> None:
    with open(
        name, "wb", opener=lambda path, flags: os.open(path, flags, 0o600, dir_fd=state_dir.folder)
    ) as f:
        f.writelines(lines)


def rotate(state_dir: StateDir) -> None:
    os.replace(JOURNAL, OLDER, src_dir_fd=state_dir.folder, dst_dir_fd=state_dir.folder)


def test_nothing_is_on_record(state_dir: StateDir) -> None:
    assert totals(state_dir, MIDNIGHT) == ({}, 0)
    reduce_older(state_dir)
    assert not is_full(state_dir)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 20])
def test_however_it_is_divided_and_reduced_the_totals_are_the_same(state_dir: StateDir, parts: int) -> None:
    script = weeks()
    write(state_dir, JOURNAL, script.lines)
    expected = nearly(totals(state_dir, script.wall))
    os.unlink(JOURNAL, dir_fd=state_dir.folder)
    size = -(-len(script.lines) // parts)
    for at in range(0, len(script.lines), size):
        reduce_older(state_dir)
        if at:
            rotate(state_dir)
        write(state_dir, JOURNAL, script.lines[at : at + size])
    assert totals(state_dir, script.wall) == expected
    assert expected[1] == 2


def steps(state_dir: StateDir) -> list[Callable[[], None]]:
    return [lambda: reduce_older(state_dir), lambda: rotate(state_dir)]


@pytest.mark.parametrize(
    "step", ["before it is kept", "before it is in its place", "before the next file", ""]
)
def test_a_reduction_that_is_interrupted_counts_nothing_twice_or_never(
    state_dir: StateDir, step: str
) -> None:
    script = weeks()
    third = len(script.lines) // 3
    write(state_dir, JOURNAL, script.lines)
    expected = nearly(totals(state_dir, script.wall))
    write(state_dir, OLDER, script.lines[:third])
    write(state_dir, JOURNAL, script.lines[third : 2 * third])
    killed = pytest.MonkeyPatch()

    def die(*_: object, **__: object) -> None:
        raise Killed

    if step == "before it is kept":
        killed.setattr(StateDir, "keep", die)
    elif step == "before it is in its place":
        killed.setattr(os, "replace", die)
    try:
        reduce_older(state_dir)
    except Killed:
        pass
    finally:
        killed.undo()
    if step:
        # Another observer comes, and does it again.
        reduce_older(state_dir)
        reduce_older(state_dir)
    rotate(state_dir)
    write(state_dir, JOURNAL, script.lines[2 * third :])
    assert totals(state_dir, script.wall) == expected
    reduce_older(state_dir)
    assert totals(state_dir, script.wall) == expected


def test_the_next_file_counts_even_if_both_begin_with_the_same_torn_line(state_dir: StateDir) -> None:
    script = weeks()
    third = len(script.lines) // 3
    write(state_dir, JOURNAL, script.lines)
    expected = nearly(totals(state_dir, script.wall))
    parts = [script.lines[:third], script.lines[third : 2 * third], script.lines[2 * third :]]
    for part in parts:
        reduce_older(state_dir)
        if part is not parts[0]:
            rotate(state_dir)
        write(state_dir, JOURNAL, [b'{"at"\n', *part])
    assert totals(state_dir, script.wall) == expected


def test_a_file_of_garbage_is_reduced_to_nothing(state_dir: StateDir) -> None:
    write(state_dir, OLDER, [b"\0" * 5000, b"\n", b"\xff\n"])
    reduce_older(state_dir)
    assert totals(state_dir, MIDNIGHT) == ({}, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"covers":"","timeline":{},"days":{}}',
        b'{"days":{"x":{}}}',
        b"\xff",
        b"[" * 9999,
    ],
)
def test_day_totals_that_cannot_be_read_cost_only_themselves(state_dir: StateDir, content: bytes) -> None:
    script = weeks(1)
    write(state_dir, JOURNAL, script.lines)
    expected = totals(state_dir, script.wall)
    write(state_dir, DAY_TOTALS, [content])
    assert totals(state_dir, script.wall) == expected


def test_a_reader_that_is_overtaken_counts_nothing_twice(
    state_dir: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are reduced and moved aside after the reader has opened any number of them."""
    script = weeks()
    half = len(script.lines) // 2
    opened = files.open_bounded
    for overtaken_after in range(4):
        for name in (JOURNAL, OLDER, DAY_TOTALS):
            state_dir.forget(name)
        write(state_dir, JOURNAL, script.lines)
        expected = nearly(totals(state_dir, script.wall))
        write(state_dir, OLDER, script.lines[:half])
        write(state_dir, JOURNAL, script.lines[half:])
        opens = 0

        def overtake(name: str, folder: int, after: int = overtaken_after) -> BinaryIO | None:
            nonlocal opens
            if opens == after:
                with pytest.MonkeyPatch.context() as plain:
                    plain.setattr(files, "open_bounded", opened)
                    for step in steps(state_dir):
                        step()
            opens += 1
            return opened(name, folder)

        monkeypatch.setattr(files, "open_bounded", overtake)
        assert totals(state_dir, script.wall) == expected, overtaken_after
        monkeypatch.setattr(files, "open_bounded", opened)


def test_it_is_due_when_it_has_grown(state_dir: StateDir) -> None:
    write(state_dir, JOURNAL, [b"x" * (SEGMENT_BYTES - 1)])
    assert not is_full(state_dir)
    write(state_dir, JOURNAL, [b"x" * SEGMENT_BYTES])
    assert is_full(state_dir)


def test_days_are_kept_for_years_and_those_to_come_do_not_displace_them(state_dir: StateDir) -> None:
    script = weeks(1)
    write(state_dir, OLDER, script.lines)
    reduce_older(state_dir)
    said = json.loads(state_dir.find(DAY_TOTALS) or "")
    today = int(script.wall // DAY)
    known = {str(day): as_json(Tally(sleeps=1)) for day in range(today - 1500, today - 8)}
    wrong = {str(day): as_json(Tally(sleeps=1)) for day in range(today + 26_000, today + 27_000)}
    said["days"] |= known | wrong
    said["covers"] = ""
    state_dir.keep(DAY_TOTALS, json.dumps(said))
    write(state_dir, OLDER, Script(script.wall).started().lines)
    reduce_older(state_dir)
    days = {int(day) for day in json.loads(state_dir.find(DAY_TOTALS) or "")["days"]}
    assert len(days) == MOST_DAYS
    assert {int(day) for day in known} <= days


def test_a_link_or_a_pipe_in_its_place_is_refused(state_dir: StateDir, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    os.symlink(tmp_path / "secret", JOURNAL, dir_fd=state_dir.folder)
    with pytest.raises(OSError, match="Too many levels"):
        read(state_dir.folder)
    os.unlink(JOURNAL, dir_fd=state_dir.folder)
    os.mkfifo(JOURNAL, dir_fd=state_dir.folder)
    with pytest.raises(OSError, match="not a regular file"):
        read_of_another(state_dir.path)


def test_a_made_year_is_read_within_its_span(tmp_path: Path) -> None:
    """What harness/made_journal makes goes through several reductions."""
    end = MIDNIGHT + 40 * DAY
    make(tmp_path / "made", 40, 60_000, end)
    folder = os.open(tmp_path / "made", os.O_PATH)
    try:
        found = read(folder)
        assert found.reduced.days
        days, timeline = found.reduced.days, found.reduced.timeline
        for event in found.events:
            for episode in timeline.add(event):
                spend_in(days, episode)
        for episode in timeline.up_to(end, is_running=True):
            spend_in(days, episode)
    finally:
        os.close(folder)
    assert timeline.position.lost == 0
    assert sum(sum(one.seconds.values()) for one in days.values()) == pytest.approx(40 * DAY, abs=1)


@pytest.mark.parametrize("name", [JOURNAL, OLDER, DAY_TOTALS])
def test_a_file_larger_than_any_of_pgidles_is_refused_without_being_read(
    state_dir: StateDir, name: str
) -> None:
    """Root reads them in a folder of Postgres's user: a sparse file costs that user nothing."""
    write(state_dir, JOURNAL, weeks().lines)
    write(state_dir, name, [b"{"])
    os.truncate(f"{state_dir.path}/{name}", 2**42)
    for command in ("history", "metrics"):
        done = subprocess.run(
            [sys.executable, "-m", "pgidle", command, "--state-dir", state_dir.path],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
        )
        assert done.returncode == 1
        assert done.stderr.startswith(
            f"pgidle: cannot read the journal in {state_dir.path}: {name} is larger"
        )
        assert done.stderr.count("\n") == 1
    assert files.last_event(state_dir.path) is None or name != JOURNAL


def test_a_line_longer_than_the_journals_is_none(state_dir: StateDir) -> None:
    script = weeks(1)
    whole = [event.number for event in read_events(state_dir, script.lines)]
    long = script.lines[1].replace(b'{"at"', b'{"x":"' + b"x" * 3 * LONGEST_LINE + b'","at"')
    behind = b"y" * LONGEST_LINE + script.lines[2]
    found = [
        event.number for event in read_events(state_dir, [script.lines[0], long, behind, *script.lines[3:]])
    ]
    assert found == [whole[0], *whole[3:]]


def read_events(state_dir: StateDir, lines: list[bytes]) -> list[Event]:
    write(state_dir, JOURNAL, lines)
    return [*read(state_dir.folder).events]


def test_the_longest_line_that_is_written_is_read(state_dir: StateDir) -> None:
    line = weeks(1).lines[0]
    longest = line.replace(b"{", b'{"x":"' + b"x" * (LONGEST_LINE - len(line) - 7) + b'",', 1)
    assert len(longest) == LONGEST_LINE
    assert len(read_events(state_dir, [longest])) == 1


def test_day_totals_are_never_written_larger_than_they_are_read(
    state_dir: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST_BYTES, DAY_TOTALS, 2 * files.LONGEST_REST)
    script = weeks(52)
    write(state_dir, OLDER, script.lines)
    reduce_older(state_dir)
    days = files.read_day_totals(state_dir.folder).days
    assert 10 < len(days) < 360
    assert max(days) == day_of(script.wall)


@pytest.mark.parametrize("day", ["-1", "9" * 400, "1e3", "99999999"])
def test_a_day_that_is_none_makes_no_totals(state_dir: StateDir, day: str) -> None:
    write(state_dir, OLDER, weeks().lines)
    reduce_older(state_dir)
    path = Path(state_dir.path, DAY_TOTALS)
    said = json.loads(path.read_text("utf-8"))
    said["days"][day] = next(iter(said["days"].values()))
    path.write_text(json.dumps(said), "utf-8")
    assert files.read_day_totals(state_dir.folder).days == {}
