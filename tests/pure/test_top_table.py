"""`pgidle top` as text, in every width, whatever is answered; and what stands in the kernel's table."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from harness.answering import make_report
from harness.attacked import needs_root
from pgidle.base.errors import SettingsError
from pgidle.cli.asking import Answer, read_url
from pgidle.cli.text_width import columns, fitted, fitted_at_end, padded, wrapped
from pgidle.cli.top_table import head, row, table
from pgidle.control.status import Memory, as_dict
from pgidle.idle.reasons import Reason, ReasonKind, Signal
from pgidle.lifecycle.transitions import State
from pgidle.system.find_control_sockets import MOST, judged, names

if TYPE_CHECKING:
    from pathlib import Path

WALL = 1_795_390_801.5
MEAN = 'app "x\x1b[2J\u202e数据库"'
CLOCK = Reason(ReasonKind.CLOCK, Signal.IDLE_TIMEOUT, "idle 12s of 5min (idle-timeout)", "in 4min 48s")


def answer(where: str = "/srv/pg/pgidle", **changes: Any) -> Answer:
    now = time.monotonic()
    report = make_report(since=now - 90, started=now - 100, **changes)
    said = as_dict(report, now, WALL, Memory(10 * 2**20, 30 * 2**20, 60 * 2**20))
    return Answer(where, json.loads(json.dumps(said)))


def lines(*answers: Answer, width: int = 80, colour: bool = False) -> list[str]:
    heading, below = table([row(one, WALL) for one in answers], width, colour=colour)
    return [heading, *below]


def test_two_lines_for_each_on_eighty_columns() -> None:
    busy = answer(
        data_dir="/srv/pg",
        reasons=(CLOCK,),
        sleeps_at=time.monotonic() + 288.2,
        sessions=3,
        parked=1,
        woken_by='app "web"',
        last_use=('app "web"', time.monotonic() - 12),
    )
    assert lines(busy) == [
        "pgidle       state       for       sleeps in sess wait memory",
        "/srv/pg      awake       1min 30s  4min 48s  3    1    100.0 MB",
        '  idle for 12s, last used by app "web"; sleeps in 4min 48s if nobody comes. 1 c…',
    ]


def test_one_line_on_a_wide_terminal() -> None:
    _, first = lines(answer("/var/lib/postgresql/data/pgidle", woken_by='app "web"'), width=200)
    assert first.startswith("/var/lib/postgresql/data awake       1min 30s ")
    assert first.endswith('Nobody has looked yet who uses Postgres. Woken by app "web".')


@pytest.mark.parametrize("width", [1, 10, 40, 80, 149, 150, 300])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    answers = [
        answer("/srv/数据库/" + "x" * 100, woken_by=MEAN, why="long " * 100),
        *(answer(state=state) for state in State),
        Answer("http://a.example:8008", None, "no answer" * 50),
    ]
    heading, below = table([row(one, WALL) for one in answers], width, colour=True)
    # The columns of figures are never cut: the screen does that.
    least = 63 if width < 75 else width
    assert all(columns(line) <= max(width, least) for line in below)
    assert columns(heading) <= max(width, least) + 4
    assert all(
        "\x1b" not in line for line in table([row(one, WALL) for one in answers], width, colour=False)[1]
    )


def test_the_end_of_a_long_path_is_shown() -> None:
    shown = lines(answer("/var/lib/postgresql/a-very-long-name-indeed/18/main"), width=80)[1]
    assert re.match(r"…[\w-]+/18/main awake  ", shown)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"state": "awake"},
        {"state": "dreaming"},
        {"state": "awake", "seconds_in_state": "long", "reasons": [], "why": 1, "sleeps_in": None},
        {"state": "asleep", "seconds_in_state": 1.0, "last_sleep": 7},
        {"state": "asleep", "seconds_in_state": float("nan"), "last_sleep": None},
        {"state": "awake", "memory": "much"},
        {"state": "asleep", "seconds_in_state": 1e300, "last_sleep": None, "memory": {"postgres": 10**400}},
        {"state": "not running", "failure": None, "last_sleep": []} | {"memory": [1]},
    ],
)
def test_an_answer_that_makes_no_sense_is_a_row_of_its_own(nonsense: dict[str, Any]) -> None:
    one = row(Answer("/srv/pg/pgidle", nonsense), WALL)
    assert (one.name, one.state) == ("/srv/pg", "?")
    assert "not a pgidle of this version" in one.why


def test_a_row_is_named_by_its_folder_and_its_owner_whatever_is_answered() -> None:
    said = answer("/home/mallory/x/pgidle", data_dir="/var/lib/postgresql/15/main").status
    one = row(Answer("/home/mallory/x/pgidle", said, owner="mallory"), WALL)
    assert one.name == "/home/mallory/x (mallory)"
    long = "/tmp" + "/x" * 40 + "/var/lib/postgresql/15/main/pgidle"
    for width in (80, 200):
        first = table([row(Answer(long, said, owner="mallory"), WALL)], width, colour=False)[1][0]
        assert "/15/main (mallory) awake" in first
    assert row(Answer("/x/pgidle", None, "no answer", "mallory"), WALL).name == "/x (mallory)"


def test_texts_of_an_answer_are_cut_before_they_are_measured() -> None:
    said = answer().status
    assert said is not None
    one = row(Answer("/x", said | {"state": "asleep", "last_sleep": {"why": "y" * 10**6}}), WALL)
    assert len(one.why) == 500
    assert len(row(Answer("/x", None, "z" * 10**6), WALL).why) == 500
    assert max(map(len, row(Answer("/x", said | {"parked": 10**4000}), WALL).cells)) == 500


def owned_folder(path: Path, owner: int) -> str:
    path.mkdir(mode=0o700)
    (path / "lock").write_text("1\n")
    os.chown(path, owner, owner)
    return str(path)


@needs_root
def test_no_users_many_sockets_leave_out_those_of_others(tmp_path: Path) -> None:
    theirs = tuple(owned_folder(tmp_path / f"a{number}", 65534) for number in range(3 * MOST))
    ours = tuple(owned_folder(tmp_path / f"z{number}", 0) for number in range(3))
    found = judged((*theirs, *ours))
    assert len(found.owned) == MOST
    assert (found.left_out, found.hidden) == (2 * MOST + 3, 0)
    assert {one for one in found.owned if one[1] == 0} == {(path, 0) for path in ours}
    assert head([], 0, 203, is_root=True) == "203 left out (too many)"


def test_what_sleeps_without_having_been_asked() -> None:
    said = {"state": "asleep", "seconds_in_state": 3600.0, "last_sleep": {"why": "idle 5min", "at": 1.0}}
    one = row(Answer("/srv/pg/pgidle", said), WALL)
    assert (one.name, one.cells) == ("/srv/pg", ("asleep", "1h", "", "", "", ""))
    assert one.why == "Asleep for 1h; it was idle 5min. The next client wakes it."
    unknown = row(Answer("/a", {"state": "asleep", "seconds_in_state": None, "last_sleep": None}), WALL)
    assert unknown.why == "Asleep. The next client wakes it."


def test_the_first_line_counts_them() -> None:
    rows = [row(answer(state=state), WALL) for state in (State.AWAKE, State.ASLEEP, State.ASLEEP)]
    rows.append(row(Answer("/x", None, "no answer"), WALL))
    assert head(rows, 0, is_root=True) == "1 awake, 2 asleep, 1 no answer"
    assert head([], 0, is_root=True) == "no pgidle runs here"
    assert head([], 2, is_root=False) == "2 that may not be asked (run this as root)"
    assert lines() == [""]


def test_widths_are_those_of_a_terminal() -> None:
    assert columns("a\x1b[1;32mb\x1b[0me\u0301数") == 5
    assert fitted("\x1b[1mabcdef\x1b[0m", 4) == "\x1b[1mabc…"
    assert (fitted("abc", 3), fitted("数据库", 4), fitted("abc", 0)) == ("abc", "数…", "")
    assert fitted_at_end("/a/b/c", 4) == "…b/c"
    assert padded("数", 4) == "数  "
    assert wrapped("because     one two three", 18, 4) == ["because     one", "    two three"]
    assert wrapped("            one two three", 16, 4) == ["            one", "    two three"]
    assert wrapped("unbreakable", 4, 2) == ["unbreakable"]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("db.example", "http://db.example:8008"),
        ("db.example:80/x/", "http://db.example:80/x"),
        ("http://[::1]", "http://[::1]:8008"),
        ("https://db.example/pg", "https://db.example/pg"),
    ],
)
def test_a_url_is_completed(text: str, url: str) -> None:
    assert read_url(text) == url


@pytest.mark.parametrize(
    "text", ["ftp://x", "http://", "http://x:99999", "http://u:p@x", "", "http://x/?a=b", "[::1"]
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        read_url(text)


def test_listening_control_sockets_are_found_in_the_kernels_table() -> None:
    kept = b"0000000000000000: 00000002 00000000 00010000 0001 01 11357074 "
    connected = b"0000000000000000: 00000003 00000000 00000000 0001 03 11357075 "
    lines = (
        b"Num       RefCount Protocol Flags    Type St Inode Path",
        kept + b"/srv/my data/pgidle/control.sock",
        kept + b"/srv/\xff/pgidle/control.sock",
        connected + b"/srv/other/pgidle/control.sock",
        kept + b"@/srv/abstract/control.sock",
        kept + b"/srv/xcontrol.sock",
        kept + b"control.sock",
        kept,
        b"nonsense",
        b"a b c zz e f g /x/control.sock",
    )
    assert names(b"\n".join(lines)) == ("/srv/my data/pgidle", "/srv/\udcff/pgidle")
