"""What a fault excuses and what it does not: who was cut, refused or made to wait, and how pgidle may exit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgidle.gate.gate import Mode
from torture import judging
from torture.injections import ASKED, CRASH, FAULTS, KILLED, STOPPED
from torture.judging import GAP, Ruling, judge, rule
from torture.record import Allowance, Doing, Exit, Failure, Round, Window

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


@pytest.mark.parametrize(
    "text", ["... failed: Connection refused", "[Errno 111] Connect call failed ('127.0.0.1', 1)"]
)
def test_a_crash_of_postgres_excuses_no_refusal(text: str) -> None:
    for began in (98.9, 99.01):
        lost = failure(Doing.CONNECT, began=began, at=99.1)
        assert rule(lost, happened(crash())) in (Ruling.IN_FLIGHT, Ruling.LATE)
        assert rule(replace(lost, text=text), happened(crash())) is Ruling.VIOLATION


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


def test_another_gate_mode_is_noticed() -> None:
    one = happened()
    one.gates = frozenset({Mode.SHARED})
    judge(one)
    assert one.violations == []
    one.gates = frozenset({Mode.SHARED, Mode.NONE})
    judge(one)
    assert one.violations == ["gate mode none"]
