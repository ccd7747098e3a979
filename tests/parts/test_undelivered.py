"""Which lines of the journal are still to be delivered, whatever has become of the files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pgidle.history.journal import DELIVERED, JOURNAL, OLDER
from pgidle.history.undelivered import MOST, find_undelivered, last_delivered, mark_delivered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def line(run: int, number: int, event: str = "woken") -> str:
    quoted = r'"why":"\"run\":1,\"n\":1,"'
    return f'{{"at":1.000,"up":1.000,"run":{run},"n":{number},"event":"{event}",{quoted}}}\n'


def lines(run: int, numbers: Iterable[int]) -> str:
    return "".join(line(run, number) for number in numbers)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def found(folder: int, last: tuple[int, int]) -> list[tuple[int, int]]:
    undelivered = find_undelivered(folder, last)
    assert undelivered.dropped == 0
    return [(one.run, one.number) for one in undelivered.lines]


def test_without_a_journal_there_is_nothing(folder: int) -> None:
    assert last_delivered(folder) is None
    assert found(folder, (1, 0)) == []


@pytest.mark.parametrize(
    ("older", "journal", "last", "expected"),
    [
        ("", lines(1, [1, 2]), (1, 0), [(1, 1), (1, 2)]),
        ("", lines(1, [1, 2]), (1, 1), [(1, 2)]),
        ("", lines(1, [1, 2]), (1, 2), []),
        ("", lines(1, [1]) + lines(2, [1]), (1, 1), [(2, 1)]),
        # A clock that has jumped back gives a smaller number to a later run.
        ("", lines(9, [1]) + lines(2, [1]), (9, 1), [(2, 1)]),
        ("", lines(0, [1]) + lines(1, [1, 3, 4]), (1, 0), [(1, 1), (1, 3), (1, 4)]),
        # The line was never written: the disk was full.
        ("", lines(0, [1]) + lines(1, [1, 3, 4]), (1, 2), [(1, 3), (1, 4)]),
        (lines(1, [1, 2, 3]), lines(1, [4]), (1, 2), [(1, 3), (1, 4)]),
        (lines(1, [1, 3]), lines(1, [4]), (1, 2), [(1, 3), (1, 4)]),
        (lines(1, [1, 3]), lines(1, [4]), (1, 3), [(1, 4)]),
        # Both files have been moved on, or were removed.
        (lines(5, [1]), lines(5, [2]), (1, 7), [(5, 1), (5, 2)]),
        ("", lines(1, [8]), (1, 7), [(1, 8)]),
        ("", line(1, 1, "use") + line(1, 2) + line(1, 3, "use"), (1, 0), [(1, 2)]),
        ("", line(1, 1)[:30] + "\n" + line(1, 2) + "nonsense\n[]\n{}\n" + line(1, 3)[:-1], (1, 0), [(1, 2)]),
    ],
)
def test_what_comes_after_a_line(
    tmp_path: Path,
    folder: int,
    older: str,
    journal: str,
    last: tuple[int, int],
    expected: list[tuple[int, int]],
) -> None:
    (tmp_path / OLDER).write_text(older)
    (tmp_path / JOURNAL).write_text(journal)
    assert found(folder, last) == expected


def test_the_oldest_of_too_many_are_dropped_and_counted(tmp_path: Path, folder: int) -> None:
    (tmp_path / JOURNAL).write_text(lines(1, range(1, MOST + 8)))
    undelivered = find_undelivered(folder, (1, 0))
    assert undelivered.dropped == 7
    assert [one.number for one in undelivered.lines] == list(range(8, MOST + 8))


def test_what_is_marked_is_read_again_and_takes_no_new_space(tmp_path: Path, folder: int) -> None:
    sizes = set()
    for last in ((1764240088623, 999_999), (2, 1)):
        mark_delivered(folder, last)
        assert last_delivered(folder) == last
        sizes.add((tmp_path / DELIVERED).stat().st_size)
    assert len(sizes) == 1


@pytest.mark.parametrize("content", ["", "1", "x y", "1 2 3", "-1 2", "1 2.5"])
def test_a_mark_that_is_none_is_none(tmp_path: Path, folder: int, content: str) -> None:
    (tmp_path / DELIVERED).write_text(content)
    assert last_delivered(folder) is None
