"""`pgidle history` as a process: beside a supervisor and without one, on journals that were made, and on a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from test_cli import one_line, pgidle

from harness.answering import Answering
from harness.journal_script import DAY, Script
from harness.made_journal import make
from harness.postgres_fixture import wait_until
from pgidle.history.journal import JOURNAL

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation
    from harness.supervised import Launch

MONTH = 30


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """An hour ago it slept, and has since."""
    script = Script(time.time() - 2 * DAY).started().woken("start").wait(DAY)
    script.slept().wait(DAY - 7300).woken(by="10.0.0.3").wait(3600).slept().exited()
    folder = tmp_path / "pgidle"
    folder.mkdir(mode=0o700)
    (folder / JOURNAL).write_bytes(b"".join(script.lines))
    return folder


def read(*arguments: object, **environ: str) -> dict[str, Any]:
    done = pgidle("history", "--json", *arguments, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_for_people(state_dir: Path) -> None:
    done = pgidle("history", "--state-dir", state_dir, "--price", "$0.02/h")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert text.startswith("Postgres slept 23.0 h (48%) and was awake 25.0 h, from ")
    assert "(pgidle does not run)" in text
    assert "woken by 10.0.0.3 (waited 0.5s)" in text
    assert "Saved: $0.46, for 23.0 h asleep" in text
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_for_programs(state_dir: Path) -> None:
    found = read("--state-dir", state_dir)
    assert not found["running"]
    assert [one["condition"] for one in found["episodes"]] == [
        *("waking", "awake", "asleep", "waking", "awake", "asleep"),
    ]
    assert found["episodes"][-1]["lasts"]
    assert found["total"]["wakers"] == {"10.0.0.3": 1}
    assert found["longest_waits"] == [{"at": found["episodes"][4]["begin"], "wait": 0.5, "waker": "10.0.0.3"}]


def test_whether_it_runs(state_dir: Path, tmp_path: Path) -> None:
    with Answering(tmp_path / "other") as made:
        (made.state_dir / JOURNAL).write_bytes((state_dir / JOURNAL).read_bytes())
        assert read("--state-dir", made.state_dir)["running"]
    assert not read("--state-dir", made.state_dir)["running"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_bars_are_of_characters_that_the_terminal_has(state_dir: Path, encoding: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [sys.executable, "-m", "pgidle", "history", "--state-dir", state_dir],
        env=clean | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode(encoding)
    assert ("█" in text) is (encoding == "utf-8")
    assert ("###" in text) is (encoding != "utf-8")


@pytest.mark.parametrize(
    ("since", "count"),
    [
        ("30min", 1),
        ("90min", 2),
        ("1.5h", 2),
        ("1w", 6),
        ("2020-01-01", 6),
        ("1970-01-01 00:00+00:00", 6),
        ("0", 1),
    ],
)
def test_since(state_dir: Path, since: str, count: int) -> None:
    assert len(read("--since", since, "--state-dir", state_dir)["episodes"]) == count


def test_who_woke_it_at_a_moment(tmp_path: Path) -> None:
    """An awake and busy night, of which two hours are asked for, between many other wakes."""
    folder = tmp_path / "pgidle"
    folder.mkdir(mode=0o700)
    day = time.time() // DAY * DAY - 2 * DAY
    script = Script(day - 60).started().woken("start").wait(60).slept()
    for hour in range(24):
        script.wait(1200).woken(by=f"10.0.0.{hour}").wait(1200).slept().wait(1200)
    script.exited()
    (folder / JOURNAL).write_bytes(b"".join(script.lines))
    date = time.strftime("%Y-%m-%d", time.gmtime(day))
    span = ("--since", f"{date}T03:00", "--until", f"{date}T04:00")
    text = pgidle("history", "--state-dir", folder, *span).stdout
    assert "woken by 10.0.0.3" in " ".join(text.split())
    assert "10.0.0.2" not in text
    assert "10.0.0.4" not in text
    assert "It has been" not in text
    found = read("--state-dir", folder, *span)
    assert found["total"]["wakers"] == {"10.0.0.3": 1}
    assert sum(found["total"]["seconds"].values()) == pytest.approx(3600)
    assert found["until"] == day + 4 * 3600
    later = pgidle("history", "--state-dir", folder, "--since", f"{date}T03:00").stdout
    assert "10.0.0.3" in later
    assert "later ones are not shown" in later


def test_a_time_is_that_of_the_last_day(state_dir: Path) -> None:
    now = time.time()
    soon = time.strftime("%H:%M", time.gmtime(now + 3600))
    assert read("--since", soon, "--state-dir", state_dir)["since"] == pytest.approx(now - 23 * 3600, abs=90)


def test_since_a_date_is_in_utc(state_dir: Path) -> None:
    today = time.strftime("%Y-%m-%d", time.gmtime())
    found = read("--since", today, "--state-dir", state_dir, TZ="America/New_York")
    assert found["since"] == time.time() // DAY * DAY


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("--since", "yesterday"),
            "--since: 'yesterday' is neither a duration nor a date or time: write 7d, 12h, 2026-11-20",
        ),
        (("--since", "-1d"), "--since: '-1d' is neither a duration nor a date"),
        (("--since", "2999-01-01"), "--since: 2999-01-01 is still to come"),
        (("--since", "2024-13-01"), "--since: '2024-13-01' is neither"),
        (("--since", ""), "--since: '' is neither"),
        (("--until", "soon"), "--until: 'soon' is neither a duration nor a date or time"),
        (("--since", "1h", "--until", "2h"), "--until: 2h is not after --since 1h"),
        (("--since", "25:00"), "--since: '25:00' is neither"),
        (
            ("--until", "1h", "--what-if", "idle-timeout=1min"),
            "--what-if replays up to now: leave out --until",
        ),
        (("--price", "cheap"), "--price: 'cheap' is not a price: write 0.02/h, $0.50/d, 15 EUR/month"),
        (("--what-if", "5min"), "--what-if: '5min' is not idle-timeout and other values"),
        (("--what-if", "min-awake=5min"), "--what-if: 'min-awake=5min' is not idle-timeout"),
        (("--what-if", "idle-timeout="), "--what-if: 'idle-timeout=' is not idle-timeout and other values"),
        (
            ("--what-if", "idle-timeout=5min,soon"),
            "--what-if: 'soon' is not a duration: write 5min, 30s, 2h or off",
        ),
        (("--what-if", "idle-timeout=" + ",".join(f"{n}s" for n in range(30))), "--what-if: 30 values"),
    ],
)
def test_wrong_usage(state_dir: Path, arguments: tuple[str, ...], complaint: str) -> None:
    done = pgidle("history", "--state-dir", state_dir, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in one_line(done)


def test_no_state_directory(tmp_path: Path) -> None:
    done = pgidle("history", "--state-dir", tmp_path / "none")
    assert (done.returncode, one_line(done)) == (
        1,
        f"{tmp_path}/none is no state directory of pgidle's: see --data-dir and --state-dir",
    )


def test_a_folder_that_is_not_pgidle_s_is_refused(tmp_path: Path) -> None:
    done = pgidle("history", "--state-dir", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is no state directory of pgidle's" in done.stderr


def test_no_journal_yet(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    done = pgidle("history", "--state-dir", tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Nothing is on record from ")
    assert (
        "nothing to replay"
        in pgidle("history", "--state-dir", tmp_path, "--what-if", "idle-timeout=1s").stdout
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_somebody_else_may_not_read_it(state_dir: Path) -> None:
    for folder in (state_dir.parent, *state_dir.parent.parents[:2]):
        folder.chmod(0o755)
    code = "import os, sys; os.setuid(65534); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-m", "pgidle", "history", "--state-dir", str(state_dir)]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "root or as Postgres's user" in done.stderr


def test_the_price_is_a_setting(state_dir: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (tmp_path / "pgidle.toml").write_text(
        f'price = "1 EUR/h"\nstate-dir = "{state_dir}"\nport = "nonsense"\n'
    )
    by_file = read("-D", data_dir)
    assert by_file["price"] == {"text": "1 EUR/h", "per_hour": 1.0, "saved": pytest.approx(23.03, abs=0.1)}
    assert (
        read("--config", tmp_path / "pgidle.toml", "-D", data_dir, PGIDLE_PRICE="2/h")["price"]["text"]
        == "2/h"
    )
    assert read("-D", data_dir, "--price", "$3/d", PGIDLE_PRICE="2/h")["price"]["per_hour"] == 0.125
    assert "price" not in read("--state-dir", state_dir)
    assert read("--state-dir", state_dir, PGIDLE_PRICE="2/h")["price"]["text"] == "2/h"


def test_what_if(state_dir: Path) -> None:
    arguments = ("--state-dir", state_dir, "--what-if", "idle-timeout=1min,off,1min")
    done = pgidle("history", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    rows = done.stdout.partition("wakes felt\n")[2].splitlines()
    assert [row.split()[0] for row in rows[:3]] == ["1min", "5min", "off"]
    found = read(*arguments, "--price", "1/h")["what_if"]
    assert found["as_it_was"]["idle_timeout"] == 300
    assert [one["idle_timeout"] for one in found["outcomes"]] == [60, None]
    assert found["outcomes"][0]["asleep"] == pytest.approx(found["as_it_was"]["asleep"] + 480)
    assert found["outcomes"][1] == {"idle_timeout": None, "asleep": 0, "wakes": 0, "saved": 0}
    assert found["recommended"]["idle_timeout"] == 60
    tried = read("--state-dir", state_dir, "--what-if")["what_if"]["outcomes"]
    assert [one["idle_timeout"] for one in tried] == [60, 300, 900, 3600]


def test_a_long_record_has_days_of_which_only_totals_are_left(tmp_path: Path) -> None:
    make(tmp_path / "made", MONTH, 50_000)
    found = read("--state-dir", tmp_path / "made", "--since", "60d")
    assert len(found["days"]) == MONTH + 1
    assert found["episodes_since"] > found["record_begins"] + DAY
    assert found["lost_lines"] == 0
    spent = sum(found["total"]["seconds"].values())
    assert spent == pytest.approx(found["until"] - found["record_begins"], rel=1e-5)
    assert found["record_begins"] == pytest.approx(found["until"] - MONTH * DAY, abs=300)


def test_of_a_real_one(newest: Installation, launch: Launch) -> None:
    """Asleep, woken by a client, asleep again, and stopped."""
    one = launch(newest, idle_timeout="1s", min_awake="0s", when_idle="stay", state_dir=None)

    def found(*more: str) -> dict[str, Any]:
        done = one.pgidle("history", "--json", *more)
        assert done.returncode == 0, done.stderr
        content: dict[str, Any] = json.loads(done.stdout)
        return content

    def conditions() -> list[str]:
        return [episode["condition"] for episode in found()["episodes"]]

    one.wait_for_state("asleep")
    mark = one.mark()
    with psycopg.connect(one.conninfo(application_name="night owl"), autocommit=True) as client:
        client.execute("SELECT 1")
        wait_until(lambda: "night owl" in one.pgidle("history").stdout)
    one.wait_for_state("asleep", since=mark)
    twice = ["waking", "awake", "asleep"] * 2
    wait_until(lambda: conditions() == twice)
    assert found()["running"]
    one.stop()
    assert conditions() == [*twice, "stopped"]
    last = found("--what-if", "idle-timeout=1s")
    assert not last["running"]
    (waker,) = last["total"]["wakers"]
    assert 'app "night owl"' in waker
    assert last["longest_waits"][0]["waker"] == waker
    replayed = last["what_if"]
    assert replayed["outcomes"] == [replayed["as_it_was"]]
    assert replayed["as_it_was"]["wakes"] == 1
    assert replayed["as_it_was"]["asleep"] > 0
