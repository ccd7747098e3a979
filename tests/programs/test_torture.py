"""That `scripts/torture` notices what it is there to notice, and a minute of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shlex
import socket
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

from harness.clients import Ledger
from harness.faults import as_server, carry_out
from harness.installations import free_port
from harness.supervised import parse_line
from pgidle.gate.gate import Mode
from pgidle.postgres.exit_status import describe

ROOT = Path(__file__).parents[2]

from torture import checks, injections, judging, namespace, play  # noqa: E402
from torture.__main__ import main  # noqa: E402
from torture.choice import ALL, Choice, lacking, missing_for  # noqa: E402
from torture.injections import ASKED, CRASH, FAULTS, KILLED, STOPPED  # noqa: E402
from torture.judging import GAP, Ruling, judge, rule  # noqa: E402
from torture.machine import Machine, ServiceManager, listening  # noqa: E402
from torture.plan import MODES, plan  # noqa: E402
from torture.record import Allowance, Doing, Exit, Failure, Round, Window  # noqa: E402
from torture.table import Totals  # noqa: E402
from torture.volume import Volume  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Launch

SECONDS = 38
"""Of the run that is part of the tests, for which CI has time. The seed is one that begins with the hardest faults."""


LOCAL = "writer 1"


def failure(
    doing: Doing,
    began: float = 100.0,
    at: float = 100.1,
    idle: float = 0.0,
    held: float = 90.0,
    who: str = "writer 0",
    text: str = "server closed the connection unexpectedly",
) -> Failure:
    return Failure(began, at, who, doing, text, None, idle, held)


def happened(*windows: Window, exits: tuple[Exit, ...] = (), stays: bool = True) -> Round:
    return Round(0.5, stays, windows=list(windows), exits=list(exits), local=frozenset({LOCAL}))


def crash(began: float = 99.0, felt: float | None = 99.05) -> Window:
    return Window("kill postmaster", CRASH, began, 101.0, felt)


@pytest.mark.parametrize("doing", Doing)
def test_without_a_fault_every_failure_counts(doing: Doing) -> None:
    assert rule(failure(doing, idle=0.1), happened()) is Ruling.VIOLATION


def test_who_was_idle_long_enough_has_slept_and_who_was_held_has_not() -> None:
    one = happened()
    one.stops = [99.8]
    assert rule(failure(Doing.IDLE, idle=0.5), one) is Ruling.SLEPT
    assert rule(failure(Doing.HELD, idle=0.5), one) is Ruling.VIOLATION
    assert rule(failure(Doing.IDLE, idle=0.1), one) is Ruling.VIOLATION


def test_who_connected_after_a_sleep_was_cut_by_the_fault() -> None:
    stopped = Window("SIGTERM", STOPPED, 99.5, 101.0, felt=99.9)
    one = happened(stopped)
    one.idle_timeout, one.stops = 0.05, [99.4]
    young = failure(Doing.IDLE, began=99.65, at=99.66, idle=0.1)
    assert rule(young, one) is Ruling.BY_FAULT
    assert rule(replace(young, idle=0.3), one) is Ruling.SLEPT
    one.windows = []
    assert rule(young, one) is Ruling.SLEPT  # said late


@pytest.mark.parametrize("stops", [[], [99.0], [101.0]])
def test_who_was_cut_without_a_sleep_has_not_slept(stops: list[float]) -> None:
    one = happened()
    one.stops = stops
    assert rule(failure(Doing.IDLE, idle=0.5), one) is Ruling.VIOLATION


def test_a_crash_excuses_sessions_and_only_while_it_lasts() -> None:
    assert rule(failure(Doing.HELD), happened(crash())) is Ruling.BY_FAULT
    assert rule(failure(Doing.HELD, began=102.0, at=102.1), happened(crash())) is Ruling.VIOLATION
    unseen = failure(Doing.IDLE, began=102.0, at=102.1, idle=1.5)
    assert rule(unseen, happened(crash())) is Ruling.BY_FAULT
    assert rule(replace(unseen, idle=0.6), happened(crash())) is Ruling.VIOLATION


def test_a_crash_excuses_a_connection_until_it_is_felt_and_no_longer() -> None:
    assert rule(failure(Doing.CONNECT, began=99.04, at=99.2), happened(crash())) is Ruling.LATE
    assert rule(failure(Doing.CONNECT, began=99.06, at=99.2), happened(crash())) is Ruling.VIOLATION
    assert rule(failure(Doing.CONNECT, began=98.9, at=99.2), happened(crash())) is Ruling.IN_FLIGHT
    parked = crash()
    parked.parks_since = 98.0
    assert rule(failure(Doing.CONNECT, began=98.9, at=99.2), happened(parked)) is Ruling.VIOLATION
    late = crash(felt=120.0)
    assert rule(failure(Doing.CONNECT, began=100.5, at=100.6), happened(late)) is Ruling.VIOLATION


def test_nobody_is_accepted_by_a_postmaster_that_is_no_more() -> None:
    killed = Window("kill postmaster", KILLED, 99.0, 101.0, 99.05)
    assert rule(failure(Doing.CONNECT, began=98.9, at=99.2), happened(killed)) is Ruling.IN_FLIGHT
    assert rule(failure(Doing.CONNECT, began=99.01, at=99.2), happened(killed)) is Ruling.VIOLATION


def test_where_a_fault_leads_to_a_crash_in_its_own_time_that_is_what_counts() -> None:
    one = happened(Window("disk full", FAULTS["disk full"].allowance, 95.0, 101.0))
    one.crashes = [(100.05, "PANIC")]
    assert rule(failure(Doing.CONNECT), one) is Ruling.IN_FLIGHT
    assert rule(failure(Doing.CONNECT, began=100.06), one) is Ruling.VIOLATION
    assert rule(failure(Doing.CONNECT, began=96.0, at=96.1), one) is Ruling.VIOLATION


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("doing", Doing)
def test_nothing_excuses_a_postgres_that_turns_clients_away(fault: str, doing: Doing) -> None:
    """Which is what the gate is for, whatever happens to anybody."""
    gone = Exit(-9, at=99.9, said=True, is_clean=False, listening=100.2, serving=100.3)
    one = happened(Window(fault, FAULTS[fault].allowance, 99.0, 101.0), exits=(gone,), stays=False)
    one.crashes, one.stops = [(100.0, "killed")], [100.0]
    turned_away = failure(doing, idle=1.0, text="FATAL: the database system is starting up")
    assert rule(turned_away, one) is Ruling.VIOLATION


@pytest.mark.parametrize(
    ("path", "cut"),
    [("/sleep", {Doing.IDLE}), ("/sleep?force=1", {Doing.IDLE, Doing.HELD, Doing.CANCEL}), ("/wake", set())],
)
def test_an_order_excuses_what_it_may_do_and_no_more(path: str, cut: set[Doing]) -> None:
    window = Window("sleep", ASKED[path], 99.0, 101.0)
    excused = {doing for doing in Doing if rule(failure(doing), happened(window)) is Ruling.BY_FAULT}
    assert excused == cut


def test_who_became_busy_after_an_unforced_sleep_was_ordered_may_have_been_idle_when_it_was_decided() -> None:
    window = Window("sleep", ASKED["/sleep"], 99.0, 101.0)
    assert rule(failure(Doing.HELD, held=99.01), happened(window)) is Ruling.BY_FAULT


@pytest.mark.parametrize(
    ("fault", "doing", "ruling"),
    [
        ("stop backend", Doing.CANCEL, Ruling.BY_FAULT),
        ("stop backend", Doing.IDLE, Ruling.VIOLATION),
        ("stop postgres", Doing.CANCEL, Ruling.BY_FAULT),
        ("stop postgres", Doing.IDLE, Ruling.BY_FAULT),
        ("stop postgres", Doing.HELD, Ruling.VIOLATION),
        ("stop supervisor", Doing.CANCEL, Ruling.VIOLATION),
    ],
)
def test_what_a_process_that_stands_still_excuses(fault: str, doing: Doing, ruling: Ruling) -> None:
    """A cancel request before its statement, and the sessions of a postmaster that has its order pending."""
    still = Window(fault, FAULTS[fault].allowance, 99.0, 101.0)
    assert rule(failure(doing, idle=0.03), happened(still)) is ruling


def test_a_postgres_that_ends_by_itself_is_noticed() -> None:
    one = happened(crash())
    one.crashes = [(100.0, "killed"), (103.0, "nobody knows")]
    judge(one)
    assert len(one.violations) == 1
    assert "nobody knows" in one.violations[0]


def test_on_a_full_disk_postgres_may_say_so() -> None:
    full = Window("disk full", FAULTS["disk full"].allowance, 99.0, 101.0)
    said = Failure(
        100.0, 100.1, "x", Doing.CONNECT, "FATAL: could not write init file: No space left on device"
    )
    assert rule(said, happened(full)) is Ruling.ANSWERED
    assert rule(said, happened(crash(felt=99.9))) is Ruling.VIOLATION
    full.lifted = 99.9
    assert rule(said, happened(full)) is Ruling.VIOLATION


@pytest.mark.parametrize(
    ("ruling", "one", "most"),
    [
        (Ruling.LATE, failure(Doing.CONNECT, began=99.01, at=99.02), CRASH.late),
        (Ruling.IN_FLIGHT, failure(Doing.CONNECT, began=98.9, at=99.02), 1),
        (Ruling.BY_FAULT, failure(Doing.HELD), 1),
        (Ruling.BY_FAULT, failure(Doing.HELD, who="pool 0"), 3),
        (Ruling.SLEPT, failure(Doing.IDLE, 104.0, 104.1, 1.0), 1),
        (Ruling.SLEPT, failure(Doing.IDLE, 104.0, 104.1, 1.0, who="pool 1"), 3),
    ],
    ids=lambda one: one.name if isinstance(one, Ruling) else "",
)
def test_each_excuse_is_counted_and_bounded(ruling: Ruling, one: Failure, most: int) -> None:
    for count in (most, most + 1):
        now = happened(crash())
        now.stops = [103.9]
        now.tally.failures = [one] * count
        judge(now)
        assert now.excuses == {ruling.name: count}
        assert len(now.violations) == count - most
        assert all(f"{most} may" in text for text in now.violations)


def test_who_was_cut_again_by_the_next_end_of_postgres_in_one_fault_is_excused_again() -> None:
    one = happened(crash())
    one.crashes = [(99.1, "killed"), (99.9, "killed")]
    one.tally.failures = [failure(Doing.HELD)] * 2
    judge(one)
    assert one.violations == []


def test_a_platform_that_starts_nobody_for_long_is_noticed() -> None:
    for gap, wrong in ((GAP - 1, False), (GAP + 1, True), (float("inf"), False)):
        gone = Exit(0, at=100.0, said=True, is_clean=True, listening=100.0 + gap)
        stopped = Window("SIGTERM", STOPPED, 99.5, 101.0)
        assert (judging.judge_exit(gone, happened(stopped)) is not None) == wrong


def test_only_a_gap_that_a_fault_made_excuses_a_refusal() -> None:
    gone = Exit(0, at=100.0, said=True, is_clean=True, listening=100.2, serving=100.4)
    stopped = Window("SIGTERM", STOPPED, 99.5, 101.0, felt=99.9)
    refused = failure(Doing.CONNECT, began=100.1, at=100.1, text="Connection refused")
    assert rule(refused, happened(stopped, exits=(gone,))) is Ruling.AWAY
    assert rule(refused, happened(exits=(gone,), stays=False)) is Ruling.VIOLATION
    later = replace(refused, began=100.21, at=100.3)
    assert rule(later, happened(stopped, exits=(gone,))) is Ruling.VIOLATION
    # Postgres makes the Unix socket, later.
    assert rule(replace(later, who=LOCAL), happened(stopped, exits=(gone,))) is Ruling.AWAY
    assert rule(replace(later, who=LOCAL, began=100.41), happened(stopped, exits=(gone,))) is Ruling.VIOLATION


def test_a_stop_closes_the_unix_socket_before_the_end() -> None:
    stopped = Window("SIGTERM", STOPPED, 99.0, 101.0, felt=99.1)
    gone = Exit(0, at=100.0, said=True, is_clean=True, listening=100.2, serving=100.4, stopping=99.1)
    refused = failure(Doing.CONNECT, began=99.2, at=99.2, who=LOCAL, text="Connection refused")
    assert rule(refused, happened(stopped, exits=(gone,))) is Ruling.AWAY
    assert rule(replace(refused, began=98.8, at=98.8), happened(stopped, exits=(gone,))) is Ruling.VIOLATION
    assert rule(replace(refused, who="writer 0"), happened(stopped, exits=(gone,))) is Ruling.VIOLATION
    assert rule(replace(refused, text="EOF"), happened(stopped, exits=(gone,))) is Ruling.VIOLATION


def test_nobody_is_left_in_the_queues_of_a_supervisor_that_ended_in_order() -> None:
    stopped = Window("SIGTERM", STOPPED, 99.5, 101.0, felt=99.9)
    cut = failure(Doing.CONNECT, began=99.95, at=100.0)
    for status, ruling in ((0, Ruling.VIOLATION), (-15, Ruling.AWAY)):
        gone = Exit(status, at=100.0, said=True, is_clean=True, listening=100.2)
        assert rule(cut, happened(stopped, exits=(gone,))) is ruling


def test_nobody_but_a_client_over_tcp_starts_a_machine_that_has_left() -> None:
    gone = Exit(0, at=100.0, said=True, is_clean=True, listening=100.2, serving=100.4)
    absent = failure(Doing.CONNECT, began=100.1, who=LOCAL, text='"/run/x" failed: No such file or directory')
    assert rule(absent, happened(exits=(gone,), stays=False)) is Ruling.AWAY
    assert rule(absent, happened(exits=(gone,), stays=True)) is Ruling.VIOLATION
    assert rule(replace(absent, who="writer 0"), happened(exits=(gone,), stays=False)) is Ruling.VIOLATION


def test_sockets_that_a_service_manager_keeps_excuse_no_refusal() -> None:
    for who in ("writer 0", LOCAL):
        refused = failure(Doing.CONNECT, began=100.1, who=who, text="Connection refused")
        for status, allowance in ((0, STOPPED), (-9, FAULTS["kill supervisor"].allowance)):
            gone = Exit(status, at=100.0, said=True, is_clean=True, listening=100.2, serving=100.4)
            one = happened(Window("x", allowance, 99.5, 101.0, felt=99.6), exits=(gone,), stays=False)
            one.keeps_socket = True
            assert rule(refused, one) is Ruling.VIOLATION


def test_a_service_manager_hears_who_knocks_at_either_socket(newest: Installation, place: Place) -> None:
    folder = place.folder("s")
    for number in range(2):
        sockets = listening(free_port(), folder / ".s.PGSQL.1")
        machine = Machine(newest, place, data_dir=folder, listen=sockets)

        async def scenario(number: int = number, machine: Machine = machine) -> None:
            wanted = asyncio.create_task(ServiceManager(machine)._wanted(0))
            done, _ = await asyncio.wait({wanted}, timeout=0.1)
            assert not done
            with socket.socket(machine.listen[number].family) as client:
                client.connect(machine.listen[number].getsockname())
                await asyncio.wait_for(wanted, 10)

        asyncio.run(scenario())
        for one in sockets:
            one.close()


@pytest.mark.parametrize(
    "text", ["... failed: Connection refused", "[Errno 111] Connect call failed ('127.0.0.1', 1)"]
)
def test_a_crash_of_postgres_excuses_no_refusal(text: str) -> None:
    for began in (98.9, 99.01):
        lost = failure(Doing.CONNECT, began=began, at=99.1)
        assert rule(lost, happened(crash())) in (Ruling.IN_FLIGHT, Ruling.LATE)
        assert rule(replace(lost, text=text), happened(crash())) is Ruling.VIOLATION


def test_who_listens_again_ends_every_gap_before(newest: Installation, place: Place) -> None:
    machine = Machine(newest, place)
    machine.exits = [Exit(-15, 100.0, said=True, is_clean=True), Exit(2, 100.1, said=False, is_clean=True)]
    for line, is_serving in (
        ('{"pid": 1, "state": "starting", "from": null, "reason": "pgidle was started"}', False),
        ('{"pid": 1, "state": "awake", "from": "starting", "reason": "it accepts"}', True),
    ):
        with subprocess.Popen(["sh", "-c", f"echo '{line}' >&2"], stderr=subprocess.PIPE, text=True) as said:
            machine._read(said)
        assert all(gone.listening <= time.monotonic() for gone in machine.exits)
        assert all((gone.serving <= time.monotonic()) is is_serving for gone in machine.exits)


@pytest.mark.parametrize(
    ("status", "is_clean", "stays", "windows", "right"),
    [
        (0, True, False, (), True),
        (0, True, True, (), False),
        (0, False, False, (), False),
        (0, False, True, (Window("SIGTERM", STOPPED, 99.0, 101.0),), False),
        (0, True, True, (Window("SIGTERM", STOPPED, 99.0, 101.0),), True),
        (1, True, False, (), False),
        (1, False, False, (crash(),), False),
        (-9, False, True, (Window("x", Allowance(exits=frozenset({-9})), 99.0, 101.0),), True),
    ],
)
def test_exit_statuses_must_be_true_and_explained(
    status: int, is_clean: bool, stays: bool, windows: tuple[Window, ...], right: bool
) -> None:
    gone = Exit(status, 100.0, said=True, is_clean=is_clean)
    assert (judging.judge_exit(gone, happened(*windows, stays=stays)) is None) == right


def test_one_that_stays_gives_up_on_nothing() -> None:
    gone = Exit(1, 100.0, said=True, is_clean=False)
    for name in ("disk full", "break configuration"):
        window = Window(name, FAULTS[name].allowance, 99.0, 101.0)
        assert judging.judge_exit(gone, happened(window, stays=False)) is None
        assert judging.judge_exit(gone, happened(window, stays=True)) is not None


def test_only_who_has_not_spoken_may_die_of_a_stop_signal() -> None:
    stopped = Window("SIGTERM", STOPPED, 99.0, 101.0)
    python = Exit(-15, 100.0, said=False, is_clean=True)
    assert judging.judge_exit(python, happened(stopped)) is None
    assert "SIGTERM" in (judging.judge_exit(replace(python, said=True), happened(stopped)) or "")


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


def test_another_gate_mode_is_noticed() -> None:
    one = happened()
    one.gates = frozenset({Mode.SHARED})
    judge(one)
    assert one.violations == []
    one.gates = frozenset({Mode.SHARED, Mode.NONE})
    judge(one)
    assert one.violations == ["gate mode none"]


def test_what_libfaketime_left_is_removed_where_it_is_ours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "SHARED_MEMORY", tmp_path)
    left, other = tmp_path / "sem.faketime_sem_7", tmp_path / "PostgreSQL.7"
    for path in (left, other):
        path.touch()
    namespace.forget_clocks()
    assert left.exists()
    monkeypatch.setenv(namespace.INSIDE, "1")
    namespace.forget_clocks()
    assert list(tmp_path.iterdir()) == [other]


def test_the_last_line_says_what_was_tested(newest: Installation, place: Place) -> None:
    choice = Choice(7, ("none", "hold", "disk full"), "stay", 5.0, newest)
    totals = Totals(choice, {"disk full": "it needs root"})
    assert (totals.is_good, "nothing was tested" in totals.verdict()) == (False, True)
    one = play.Outcome(
        replace(choice.plan(0), faults=("none",)),
        happened(),
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


def test_one_postmaster_is_one_and_a_second_is_noticed(installation: Installation, launch: Launch) -> None:
    one = launch(installation)
    one.wait_for_state("awake")
    carry_out(one, "SELECT 1")
    assert checks.postmasters(one.data_dir) == [one.postmaster_pid]
    with checks.Sentry(one.data_dir) as sentry, other(one.data_dir) as second:
        while not sentry.seen:
            assert second.poll() is None
            time.sleep(0.01)
    assert str(second.pid) in sentry.seen[0]
    with checks.Sentry(one.data_dir) as sentry:
        while not sentry.most:
            time.sleep(0.01)
    assert sentry.seen == []


def test_children_of_a_killed_postmaster_are_no_second_one(
    installation: Installation, launch: Launch
) -> None:
    one = launch(installation)
    one.wait_for_state("awake")
    postmaster = one.postmaster_pid
    assert postmaster is not None
    children = [child.pid for child in psutil.Process(postmaster).children()]
    assert len(checks.images([postmaster, *children])) == 1
    with other(one.data_dir) as second, other(one.data_dir) as third:
        assert len(checks.images([postmaster, second.pid, third.pid])) == 3


def other(data_dir: Path, **env: str) -> subprocess.Popen[bytes]:
    """A process that looks like a postmaster."""
    return Other(
        ["cat"], cwd=data_dir, stdin=subprocess.PIPE, process_group=0, env=os.environ | env, **as_server()
    )


class Other(subprocess.Popen[bytes]):
    def __exit__(self, *arguments: object) -> None:
        self.terminate()
        super().__exit__(*arguments)  # type: ignore[arg-type]


def test_an_orphan_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.1)
    folder = place.folder()
    assert checks.orphans(folder, "mine") == []
    with other(folder) as left:
        assert str(left.pid) in checks.orphans(folder, "mine")[0]
    with other(Path("/"), TORTURE="mine") as left:
        assert str(left.pid) in checks.orphans(folder, "mine")[0]
        assert checks.orphans(folder, "theirs") == []


def test_a_leaked_descriptor_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.3)

    async def scenario() -> tuple[list[str], list[str]]:
        before = await checks.steady(os.getpid())
        same = await checks.leaked(os.getpid(), before)
        with socket.socket():
            return same, await checks.leaked(os.getpid(), before)

    same, more = asyncio.run(scenario())
    assert same == []
    assert "socket" in more[0]


def test_what_comes_and_goes_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.5)
    one, two, three = Counter(pipe=1, socket=2), Counter(pipe=2, socket=1), Counter(pipe=2, socket=2)

    async def scenario(*seen: Counter[str], before: Counter[str]) -> list[str]:
        looks = itertools.cycle(seen)
        monkeypatch.setattr(checks, "descriptors", lambda _: Counter(next(looks)))
        return await checks.leaked(1, before)

    rest = Counter(pipe=1, socket=1)
    assert asyncio.run(scenario(one, two, before=rest)) == []
    assert asyncio.run(scenario(one, three, before=rest)) != []
    looks = itertools.cycle([one, two])
    monkeypatch.setattr(checks, "descriptors", lambda _: Counter(next(looks)))
    assert asyncio.run(checks.steady(1)) == three


def test_a_socket_that_postgres_should_not_have_is_noticed(place: Place) -> None:
    port = free_port()
    shared = listening(port, place.folder("s") / f".s.PGSQL.{port}")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[one.fileno() for one in shared]) as child:
        assert checks.inherited(os.getpid(), child.pid, port) == []
        assert len(checks.inherited(os.getpid(), child.pid, port + 1)) == 1
        child.communicate()
    for one in shared:
        one.close()
    with socket.socket() as ours:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            assert checks.inherited(os.getpid(), child.pid, 1) == []
            child.communicate()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[ours.fileno()]) as child:
            assert checks.inherited(os.getpid(), child.pid, 1) != []
            child.communicate()


def test_a_lost_commit_a_broken_page_and_no_sleep_are_noticed(
    newest: Installation, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger()
    ledger.acknowledge(ledger.send(-1))
    volume = Volume(newest, place, is_own=False)
    stage = play.Stage(newest, place, volume, ledger)
    monkeypatch.setattr(injections, "NAP", 0.5)
    monkeypatch.setattr(play, "NAP", 0.5)
    planned = replace(plan(1, 0, ("none",), ("stay",)), idle_timeout=3600.0)
    outcome = play.play(stage, planned, 0.1)
    assert outcome.happened.violations == [
        "no sleep in 0.5 s, though nobody did anything to it",
        "no sleep in the whole round, nor 0.5 s after it",
        "lost: [(-1, 1)]",
    ]
    assert outcome.happened.tally.commits > 0
    table = max((volume.data_dir / "base").glob("*/*"), key=lambda path: path.stat().st_size)
    with table.open("r+b") as file:
        file.seek(5000)
        file.write(b"broken")
    assert "pg_checksums" in checks.checksums(newest, volume.data_dir)[0]


def test_half_a_block_is_forgiven_after_a_full_disk_alone(newest: Installation, place: Place) -> None:
    volume = Volume(newest, place, is_own=False)
    table = next(
        one for one in volume.data_dir.glob("base/*/*") if one.stat().st_size and one.name.isdecimal()
    )
    whole = table.stat().st_size
    os.truncate(table, whole + 4096)
    volume.cut_half_blocks()
    assert "pg_checksums" in checks.checksums(newest, volume.data_dir)[0]
    volume._was_filled = True
    volume.cut_half_blocks()
    assert (table.stat().st_size, checks.checksums(newest, volume.data_dir)) == (whole, [])
    with table.open("r+b") as file:
        file.write(os.urandom(100))
    volume._was_filled = True
    volume.cut_half_blocks()
    assert "pg_checksums" in checks.checksums(newest, volume.data_dir)[0]


def test_whoever_fills_the_disk_has_connected_before() -> None:
    is_full = False

    class Full:
        @contextlib.contextmanager
        def filled(self) -> Iterator[None]:
            nonlocal is_full
            is_full = True
            yield
            is_full = False

    class Client:
        async def run(self, _: str) -> bool:
            return not is_full

    class Stage:
        happened, volume, chance = Round(0.5, True), Full(), random.Random(1)

        @property
        def crowd(self) -> Stage:
            return self

        @contextlib.asynccontextmanager
        async def session(self, _: str) -> AsyncIterator[Client]:
            assert not is_full
            yield Client()

        @contextlib.asynccontextmanager
        async def window(self, name: str, allowance: Allowance) -> AsyncIterator[Window]:
            yield Window(name, allowance, 0.0)
            assert not is_full

    fault = FAULTS["disk full"]
    asyncio.run(fault.inject(Stage(), fault))  # type: ignore[arg-type]


def test_bad_lines_are_noticed() -> None:
    lines = ["PANIC:  could not write", "LOG:  fine"]
    assert len(checks.bad_lines(lines, False)) == 1
    assert checks.bad_lines(lines, True) == []


def test_what_the_logging_collector_wrote_is_read_for_one_round(newest: Installation, place: Place) -> None:
    volume = Volume(newest, place, is_own=False)
    file = volume.data_dir / "log" / "postgresql.log"
    file.parent.mkdir()
    file.write_text("LOG:  fine\nPANIC:  could not write\n")
    assert len(checks.bad_lines(volume.collected(), False)) == 1
    volume.settle(())
    assert volume.collected() == []


def test_a_start_that_fails_is_a_crash_that_is_noticed(newest: Installation, place: Place) -> None:
    machine = Machine(newest, place)
    said = (
        {"topic": "start", "reason": "waiting for postmaster 1 of an earlier supervisor to end"},
        {"topic": "start", "reason": describe(1)},
        {"topic": "start", "reason": describe(-9)},
    )
    machine.lines = [parse_line(json.dumps(one)) for one in said]
    machine.times = [1.0, 2.0, 3.0]
    assert [at for at, _ in machine.crashes()] == [2.0, 3.0]


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_a_minute_of_torture(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--minutes", str(SECONDS / 60), "--seconds", "2.5", "--seed", "156729"]
    ended = subprocess.run([ROOT / "scripts/torture", *words], check=False)
    with capfd.disabled():
        print(f"\n{capfd.readouterr().out}")  # noqa: T201
    assert ended.returncode == 0
