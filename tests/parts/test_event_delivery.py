"""When the supervisor starts a delivery, and when it does not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.postgres_fixture import wait_until
from pgidle.history.journal import DELIVERED, JOURNAL
from pgidle.history.undelivered import MOST
from pgidle.run import event_delivery
from pgidle.run.event_delivery import EventDelivery
from pgidle.settings.options import LogFormat
from pgidle.system.event_loop import Loop
from pgidle.system.log import Log
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = '{"at":1.000,"up":1.000,"run":1,"n":%d,"event":"woken"}\n'


class Made:
    """An EventDelivery with a real loop and a real program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.given = folder / "given"
        self.program = folder / "program"
        self.loop = Loop()
        self.is_waking = False
        self.settled = 0
        self.write(f"cat >> {self.given}; exit 0")
        runtime: Any = SimpleNamespace(
            loop=self.loop,
            settings=SimpleNamespace(on_event=str(self.program), data_dir="/d"),
            state_dir=StateDir(str(self.state)),
            environ={"PATH": os.environ["PATH"]},
            log=Log(LogFormat.TEXT),
            supervisor_pid=os.getpid(),
        )
        self.delivery = EventDelivery(runtime, (1, 0), lambda: self.is_waking, self._on_settled)

    def write(self, script: str) -> None:
        self.program.write_text(f"#!/bin/sh\n{script}\n")
        self.program.chmod(0o755)

    def happen(self, *numbers: int) -> None:
        with (self.state / JOURNAL).open("a") as file:
            file.writelines(LINE % number for number in numbers)
        self.delivery.written()

    def _on_settled(self) -> None:
        self.settled += 1

    def turn_until(self, is_so: Any) -> None:
        def turn() -> bool:
            self.loop.after(0.05, "turn", lambda: None)
            self.loop.turn()
            return bool(is_so())

        wait_until(turn)

    @property
    def numbers(self) -> list[int]:
        text = self.given.read_text() if self.given.exists() else ""
        return [int(line.partition('"n":')[2].partition(",")[0] or 0) for line in text.splitlines()]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    before = signal.set_wakeup_fd(-1)
    made = Made(tmp_path)
    yield made
    if made.delivery.pid is not None:
        os.kill(made.delivery.pid, signal.SIGTERM)  # It ends its program, too.
        os.waitpid(made.delivery.pid, 0)
    signal.set_wakeup_fd(before)


def test_no_process_is_started_while_clients_wait_for_postgres(made: Made) -> None:
    made.is_waking = True
    made.happen(1)
    until = [0]

    def is_asked_often() -> bool:
        until[0] += 1
        return until[0] > 20

    made.turn_until(is_asked_often)
    assert made.delivery.pid is None
    assert made.delivery.is_under_way
    made.is_waking = False
    made.turn_until(lambda: made.settled)
    assert made.numbers == [1]


def test_one_at_a_time_and_in_order(made: Made) -> None:
    go_on = made.folder / "go-on"
    running = made.folder / "running"
    made.write(
        f"mkdir {running} || exit 1; cat >> {made.given}; until [ -e {go_on} ]; do sleep 0.02; done; rmdir {running}"
    )
    made.happen(1)
    made.turn_until(lambda: made.numbers == [1])
    for number in range(2, 6):
        made.happen(number)
    assert made.settled == 0
    go_on.touch()
    made.turn_until(lambda: made.settled)
    assert made.numbers == [1, 2, 3, 4, 5]
    assert not made.delivery.is_under_way


def test_of_a_flood_the_last_are_delivered_and_the_others_counted(
    made: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    made.happen(*range(1, MOST + 101))
    made.turn_until(lambda: made.settled)
    assert made.given.read_text().splitlines()[0].endswith('"event":"dropped","count":100}')
    assert made.numbers[1:] == list(range(101, MOST + 101))
    assert "100 events are dropped" in capfd.readouterr().err


def test_what_fails_is_tried_again_but_not_for_ever(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_delivery, "PAUSES", (0.01, 0.01))
    (made.state / DELIVERED).mkdir(parents=True)  # So that it cannot know what to deliver.
    made.happen(1)
    made.turn_until(lambda: made.settled == 3)
    assert made.delivery.pid is None
    assert not made.loop.is_set("events")
    (made.state / DELIVERED).rmdir()
    made.happen(2)
    made.turn_until(lambda: made.settled == 4)
    assert made.numbers == [1, 2]


def test_one_that_does_not_end_is_killed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_delivery, "PATIENCE", 0.3)
    made.write("exec sleep 1000")
    made.happen(1)
    made.turn_until(lambda: made.settled)
    assert made.delivery.pid is None
    assert made.loop.is_set("events")


def test_the_last_events_are_delivered_as_far_as_there_is_time(made: Made) -> None:
    made.happen(1)
    made.delivery.leave(30, time.monotonic())
    assert made.numbers == [1]
    assert made.delivery.pid is None
    made.write("exec sleep 1000")
    made.happen(2)
    made.delivery.leave(0.1, time.monotonic())
    assert made.delivery.pid is not None


def test_a_program_runs_in_a_folder_that_is_nobody_s_at_the_lowest_priority(made: Made) -> None:
    made.write(f"pwd >> {made.given}; nice >> {made.given}; cat > /dev/null; echo $PGDATA >> {made.given}")
    assert str(Path.cwd()) != "/"
    made.happen(1)
    made.turn_until(lambda: made.settled)
    assert made.given.read_text().splitlines() == ["/", "19", "/d"]
