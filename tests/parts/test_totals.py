"""What the whole journal adds up to: the same, however often it is read, and whatever happened to its files."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from harness.made_journal import events
from pgidle.history.bounded_files import DAY_TOTALS
from pgidle.history.files import reduce_older
from pgidle.history.journal import JOURNAL, OLDER, RunClock
from pgidle.history.tally import as_json
from pgidle.history.timeline import Condition
from pgidle.history.totals import TOTALS, Counted, Totals
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NOW = 1_795_000_000.0
HOUR = 3600.0


class Written:
    """A state directory in which a test writes the journal, and rotates it as pgidle does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_dir = StateDir(str(path))

    def write(self, lines: Iterable[dict[str, Any]], name: str = JOURNAL) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def rotate(self) -> None:
        reduce_older(self.state_dir)
        (self.path / JOURNAL).replace(self.path / OLDER)

    def totals(self, clock: RunClock | None = None) -> Totals:
        return Totals(self.state_dir.folder, clock)

    def count(self, now: float = NOW, *, is_running: bool = True) -> Counted:
        """As a process that has read nothing yet."""
        return self.totals().count(now, is_running=is_running)

    def keep(self, now: float = NOW) -> Counted:
        """Count, and leave the file for the next process."""
        totals = self.totals()
        counted = totals.count(now)
        totals.keep(self.state_dir)
        return counted

    def anew(self, now: float = NOW) -> Counted:
        """As without the file."""
        (self.path / TOTALS).unlink(missing_ok=True)
        return self.count(now)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "state")


def line(at: float, event: str, number: int, *, run: int = 1, **fields: Any) -> dict[str, Any]:
    """A line of a run that began at NOW, `at` seconds after that."""
    return {"at": NOW + at, "up": at, "run": run, "n": number, "event": event, **fields}


def said(counted: Counted) -> object:
    """Everything that is counted, to be compared."""
    tally = as_json(counted.tally)
    del tally["seconds"]
    return tally, {one.value: pytest.approx(seconds, abs=0.01) for one, seconds in counted.seconds.items()}


AWAKE = [line(0, "started", 1), line(1, "woken", 2, cause="start", took=1.0)]
SLEPT = [*AWAKE, line(101, "slept", 3, cut=["a", "b"], cut_count=7, shutdown=0.2)]


def test_the_episode_that_lasts_is_counted(written: Written) -> None:
    written.write(AWAKE)
    assert written.count(NOW + 11).seconds[Condition.AWAKE] == pytest.approx(10)
    written.write(SLEPT[2:])
    counted = written.count(NOW + 131)
    assert counted.seconds[Condition.AWAKE] == pytest.approx(100)
    assert counted.seconds[Condition.ASLEEP] == pytest.approx(30)
    assert counted.lasting is Condition.ASLEEP
    assert (counted.tally.sleeps, counted.tally.sessions_cut, counted.tally.wakes["start"]) == (1, 7, 1)


def test_what_was_read_is_not_read_again(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    written.write(events(NOW, 3, 1000))
    before = written.keep()
    assert said(before) == said(written.anew())
    written.keep()
    read: list[object] = []
    add = Totals._add
    monkeypatch.setattr(Totals, "_add", lambda totals, event: (read.append(event), add(totals, event)))
    assert said(written.count()) == said(before)
    assert read == []
    written.write([line(HOUR, "crashed", 1, run=2)])
    assert written.count(NOW + HOUR).tally.crashes == before.tally.crashes + 1
    assert len(read) == 1


def test_one_reader_follows_while_the_journal_is_written_and_rotated(written: Written) -> None:
    following = written.totals()
    lines = list(events(NOW, 3, 1000))
    for number in range(0, len(lines), 50):
        written.write(lines[number : number + 50])
        if number % 300 == 150:
            written.rotate()
        following.count(lines[min(number + 49, len(lines) - 1)]["at"])
    assert (written.path / DAY_TOTALS).exists()
    end = lines[-1]["at"] + HOUR
    assert said(following.count(end)) == said(written.anew(end))


@pytest.mark.parametrize("step", ["nothing", "reduced", "rotated", "one more line", "rotated twice"])
def test_a_new_reader_goes_on_at_every_step_of_a_rotation(written: Written, step: str) -> None:
    lines = list(events(NOW, 3, 1000))
    written.write(lines[:300])
    written.rotate()
    written.write(lines[300:600])
    written.keep(lines[599]["at"])
    written.write(lines[600:620])
    if step == "reduced":
        reduce_older(written.state_dir)
    elif step != "nothing":
        written.rotate()
    if step in ("one more line", "rotated twice"):
        written.write(lines[620:621])
    if step == "rotated twice":
        written.rotate()
        written.write(lines[621:700])
    assert said(written.count()) == said(written.anew())


def test_lines_that_are_in_the_day_totals_already_are_not_counted_twice(written: Written) -> None:
    for run in (1, 2, 3):
        at = 1000.0 * run
        written.write([line(at, "started", 1, run=run), line(at + 50, "crashed", 2, run=run)])
    written.rotate()
    written.write([line(4000, "crashed", 3, run=3)])
    reduce_older(written.state_dir)
    assert written.count(NOW + 4001).tally.crashes == 4


def test_another_file_that_has_taken_the_place_of_the_one_read_is_noticed(written: Written) -> None:
    """A file that was removed may have left its inode to the next one, which may be longer, too."""
    lines = list(events(NOW, 3, 1000))
    written.write(lines[:100])
    written.keep(lines[99]["at"])
    written.rotate()
    written.write(lines[100:101])
    written.rotate()
    written.write(lines[101:600])
    assert said(written.count()) == said(written.anew())


def test_a_line_that_is_being_written_is_counted_once(written: Written) -> None:
    written.write(AWAKE)
    following = written.totals()
    whole = json.dumps(line(50, "crashed", 3)) + "\n"
    with (written.path / JOURNAL).open("a", encoding="utf-8") as file:
        for part in (whole[:30], whole[30:]):
            file.write(part)
            file.flush()
            counted = following.count(NOW + 60)
    assert counted.tally.crashes == 1


def test_a_line_that_was_taken_back_and_written_again_is_counted_once(written: Written) -> None:
    """As on a full disk."""
    written.write(AWAKE)
    size = (written.path / JOURNAL).stat().st_size
    following = written.totals()
    crash = [line(50, "crashed", 3)]
    written.write(crash)
    following.count(NOW + 60)
    os.truncate(written.path / JOURNAL, size)
    assert following.count(NOW + 60).tally.crashes == 0
    written.write(crash)
    assert following.count(NOW + 60).tally.crashes == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 5000, b'{"tally": {}}', b"half"],
    ids=["empty", "torn", "list", "null", "binary", "deep", "other", "half"],
)
def test_a_damaged_file_is_made_again(written: Written, content: bytes) -> None:
    written.write(SLEPT)
    good = written.keep(NOW + 200)
    kept = (written.path / TOTALS).read_bytes()
    (written.path / TOTALS).write_bytes(kept[: len(kept) // 2] if content == b"half" else content)
    assert said(written.keep(NOW + 200)) == said(good)
    assert json.loads((written.path / TOTALS).read_bytes())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("offset", value) for value in (-1, 10**9, "7", None, True, 1.5e300)),
        *(("file", value) for value in ("", 7, None, "9.9")),
        *(("shown", value) for value in ({"awake": -1}, {"dreaming": 1}, [], {"awake": "x"})),
        ("tally", {}),
        ("timeline", {"position": None}),
    ],
)
def test_a_file_with_a_strange_value_is_made_again(written: Written, name: str, value: object) -> None:
    written.write(SLEPT)
    good = written.keep(NOW + 200)
    path = written.path / TOTALS
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    os.utime(path, (NOW + 200, NOW + 200))
    assert said(written.keep(NOW + 200)) == said(good)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_of_ours_is_not_followed(written: Written, tmp_path: Path, kind: str) -> None:
    written.write(SLEPT)
    path, other = written.path / TOTALS, tmp_path / "other"
    other.write_text("secret")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert written.count(NOW + 200).tally.sleeps == 1
    assert other.read_text() == "secret"


def test_removed_files_are_forgotten(written: Written) -> None:
    written.write(SLEPT)
    written.keep()
    for name in (JOURNAL, TOTALS):
        (written.path / name).unlink()
    counted = written.count(NOW + HOUR)
    assert (counted.tally.sleeps, counted.lasting) == (0, None)
    assert not any(counted.seconds.values())


def test_a_killed_run_has_lived_up_to_the_last_scrape(written: Written) -> None:
    """Else the counter would go down, and Prometheus would add all of it once more."""
    written.write(AWAKE)
    assert written.keep(NOW + HOUR).seconds[Condition.AWAKE] == pytest.approx(HOUR - 1)
    after = written.count(NOW + 2 * HOUR, is_running=False)
    assert after.seconds[Condition.AWAKE] == pytest.approx(HOUR - 1)
    assert after.seconds[Condition.UNKNOWN] == pytest.approx(HOUR)
    assert after.lasting is Condition.UNKNOWN
    again = NOW + 3 * HOUR
    written.write([{"at": again, "up": 0.0, "run": 2, "n": 1, "event": "started"}])
    counted = written.count(again + 1)
    assert counted.seconds[Condition.AWAKE] == pytest.approx(HOUR - 1)
    assert counted.seconds[Condition.UNKNOWN] == pytest.approx(2 * HOUR)


def test_no_counter_goes_down(written: Written) -> None:
    """A scraper asks at every moment: also before a line is written that says that something ended earlier."""
    lines = list(events(NOW, 2, 400))
    shown = dict.fromkeys(Condition, 0.0)
    totals = written.totals()
    for number, one in enumerate(lines):
        written.write([one])
        if number % 40 == 20:
            written.rotate()
        if number % 7 == 3:
            totals = written.totals()
        # Lines are written up to a second after what they tell.
        for later in (0.0, 0.9):
            counted = totals.count(one["at"] + later)
            totals.keep(written.state_dir)
            lower = [one.value for one in Condition if counted.seconds[one] < shown[one] - 1e-6]
            assert lower == [], number
            shown = dict(counted.seconds)


def test_a_wall_clock_that_is_set_changes_nothing(written: Written) -> None:
    since = time.clock_gettime(time.CLOCK_BOOTTIME) - 100
    written.write(AWAKE)
    totals = written.totals(RunClock(1, since))
    for now in (NOW + 100, NOW - 1e8, NOW + 1e8):
        assert totals.count(now).seconds[Condition.AWAKE] == pytest.approx(99, abs=5)


def test_a_run_whose_first_line_is_not_written_yet_does_not_prolong_the_one_before(written: Written) -> None:
    written.write(AWAKE)
    clock = RunClock(2, time.clock_gettime(time.CLOCK_BOOTTIME))
    counted = written.totals(clock).count(NOW + HOUR)
    assert counted.seconds[Condition.AWAKE] == pytest.approx(0)
    assert counted.seconds[Condition.UNKNOWN] == pytest.approx(HOUR - 1)


def test_a_file_from_the_future_prolongs_nothing(written: Written) -> None:
    written.write(AWAKE)
    written.keep(NOW + 10)
    later = time.time() + 1000 * HOUR
    os.utime(written.path / TOTALS, (later, later))
    counted = written.count(NOW + HOUR, is_running=False)
    assert counted.seconds[Condition.AWAKE] == pytest.approx(9)


def test_days_that_are_no_longer_kept_stay_counted(written: Written) -> None:
    """The sums of days are rounded and limited: a journal that is read anew must not count less."""
    written.write(SLEPT)
    before = written.keep(NOW + 201)
    (written.path / JOURNAL).unlink()
    written.write([{"at": NOW + HOUR, "up": 0.0, "run": 2, "n": 1, "event": "started"}])
    counted = written.count(NOW + HOUR)
    for one in Condition:
        assert counted.seconds[one] >= before.seconds[one]
