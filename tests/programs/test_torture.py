"""`scripts/torture` as a command: what it plays, what it prints, wrong usage, and a minute of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psutil
import pytest

from torture import play
from torture.__main__ import main
from torture.choice import ALL, Choice, lacking, missing_for
from torture.injections import FAULTS
from torture.machine import Machine
from torture.plan import MODES, plan
from torture.record import Round
from torture.table import Totals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place

ROOT = Path(__file__).parents[2]

SECONDS = 38
"""Of the run that is part of the tests, for which CI has time. The seed is one that begins with the hardest faults."""


def test_the_printed_command_plays_the_same_round(newest: Installation) -> None:
    names = tuple(name for name in FAULTS if name in ("hold", "clock", "kill backend"))
    for choice in (
        Choice(7, tuple(FAULTS), ALL, 2.5, newest),
        Choice(8, names, "stay", 5.0, newest),
    ):
        program, *words = shlex.split(choice.again(23))
        assert program == "scripts/torture"
        given = main.make_context(program, words).params
        again = Choice(*(given[name] for name in ("seed", "names", "mode", "seconds", "installation")))
        assert again == choice
        assert given["number"] == 23


def test_what_this_machine_lacks_is_left_out_and_changes_no_other_round(newest: Installation) -> None:
    choice = Choice(7, tuple(FAULTS), ALL, 5.0, newest)
    everything = lacking(choice, is_own=True)
    lacks = lacking(choice, is_own=False)
    assert lacks.keys() - everything.keys() == {"disk full"}
    for planned in map(choice.plan, range(60)):
        assert (missing_for(planned, lacks) is not None) == bool({*planned.faults} & lacks.keys())
    with pytest.raises(click.ClickException, match="no fault is left"):
        lacking(Choice(7, ("disk full",), "stay", 5.0, newest), is_own=False)


def test_half_of_the_clients_come_over_the_unix_socket() -> None:
    for planned in (plan(7, number, list(FAULTS), MODES) for number in range(60)):
        assert len(planned.local) == len(planned.clients) // 2
        assert planned.clients[0] not in planned.local
        assert str(planned).count("(Unix)") == len(planned.local)


def test_the_last_line_says_what_was_tested(newest: Installation, place: Place) -> None:
    choice = Choice(7, ("none", "hold", "disk full"), "stay", 5.0, newest)
    totals = Totals(choice, {"disk full": "it needs root"})
    assert (totals.is_good, "nothing was tested" in totals.verdict()) == (False, True)
    one = play.Outcome(
        replace(choice.plan(0), faults=("none",)),
        Round(0.5, stays=True),
        Machine(newest, place, data_dir=place.folder()),
        Counter({"none": 2}),
        1.0,
    )
    one.happened.sleeps = 3
    totals.add(one)
    assert totals.is_good
    assert totals.verdict() == (
        f"1 round, 1 of {len(FAULTS)} faults, 3 sleeps: every promise was kept; not played: hold; "
        "left out: disk full"
    )
    one.happened.sleeps = 0
    totals.add(one)
    assert "3 sleeps: no sleep in 1 round;" in totals.verdict()
    assert not totals.is_good
    one.happened.harness = "no such file"
    totals.add(one)
    assert "the harness failed in 1 round" in totals.verdict()
    one.happened.violations.append("lost")
    totals.add(one)
    assert "BROKEN PROMISES in 1 round;" in totals.verdict()
    assert "every promise" not in totals.verdict()
    assert (totals.is_good, totals.rows["none"]["went wrong"]) == (False, 2)
    assert all(column in totals.text() for column in ("in flight", "late", "away", "slept", "by fault"))


@pytest.mark.parametrize(
    "words",
    [
        ["--seconds", "0"],
        ["--minutes", "0"],
        ["--round", "1", "--rounds", "2"],
        ["--round", "1", "--minutes", "2"],
        ["--only", ""],
        ["--postgres", "/tmp"],
        ["--json", "/nope/x.json"],
    ],
    ids=shlex.join,
)
def test_what_cannot_be_played_is_said_before_anything_runs(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("torture.__main__.enter")
    with pytest.raises(click.UsageError) as says:
        main(words, standalone_mode=False)
    text = says.value.format_message()
    assert (words[0] in text, "\n" in text) == (True, False)


def test_wrong_usage_is_one_line_and_status_2() -> None:
    words = torture("--postgres", "/tmp")
    says = subprocess.run(words, env=ENV, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (says.returncode, says.stdout, says.stderr.count("\n")) == (2, "", 1)


def test_an_interrupted_run_cleans_up_and_says_what_it_saw(place: Place) -> None:
    folder = place.folder()
    words = torture("--seed", "1", "--seconds", "600", "--only", "SIGHUP", "--mode", "stay")
    with subprocess.Popen(
        words, env=ENV | {"TMPDIR": str(folder)}, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as run:
        below: list[psutil.Process] = []
        try:
            while not any("127.0.0.1" in title for title in titles(below)):
                assert run.poll() is None
                time.sleep(0.02)
                below = psutil.Process(run.pid).children(recursive=True)
            run.terminate()
            said, _ = run.communicate()
        finally:
            run.kill()
    assert run.returncode == 1
    assert "again: scripts/torture --seed 1 --round 0 --mode stay --seconds 600 " in said
    assert "interrupted in round 0; until then no promise was seen broken" in said.splitlines()[-1]
    assert list(folder.iterdir()) == []
    assert not any(one.is_running() for one in below)


def titles(processes: list[psutil.Process]) -> Iterator[str]:
    for one in processes:
        with contextlib.suppress(psutil.Error):
            yield " ".join(one.cmdline())


def torture(*words: str) -> list[str]:
    return [sys.executable, "-m", "torture", *words]


ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_each_fault_has_its_turn_and_the_seed_says_which() -> None:
    names = list(FAULTS)
    planned = [plan(7, number, names, ("stay", "exit")) for number in range(len(names))]
    assert sorted(one.faults[0] for one in planned) == sorted(names)
    assert planned == [plan(7, number, names, ("stay", "exit")) for number in range(len(names))]
    assert planned != [plan(8, number, names, ("stay", "exit")) for number in range(len(names))]


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_a_minute_of_torture(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--minutes", str(SECONDS / 60), "--seconds", "2.5", "--seed", "156729"]
    ended = subprocess.run([ROOT / "scripts/torture", *words], check=False)
    with capfd.disabled():
        print(f"\n{capfd.readouterr().out}")  # noqa: T201
    assert ended.returncode == 0
