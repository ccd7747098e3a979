"""The observer killed, stopped, and saying nonsense, at every step of a sleep and of a wake: that is doubt, and doubt
means busy. Nobody fails, no commit is lost, no process is left over, and pgidle goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
import test_every_step
from test_every_step import SLEEPING, WAKING, Scene, asleep, at

from harness.postgres_fixture import wait_until
from harness.supervised import PATIENCE
from pgidle.control.client import request
from pgidle.observer import supervisor_side
from pgidle.observer.messages import Connection
from pgidle.observer.supervisor_side import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.installations import Installation
    from harness.supervised import Launch, Supervised

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(180)]

OBSERVER = "pgidle-observer"
scene = test_every_step.scene


def observers(one: Supervised) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [child for child in psutil.Process(one.pid).children() if child.name() == OBSERVER]
    return []


def observer(one: Supervised) -> int:
    """Its pid, once it is there."""
    found: list[psutil.Process] = []

    def is_there() -> bool:
        found[:] = observers(one)
        return len(found) == 1

    wait_until(is_there)
    return found[0].pid


def signalled(number: signal.Signals) -> Callable[[Supervised], None]:
    def act(one: Supervised) -> None:
        for process in observers(one):
            process.send_signal(number)

    return act


def say_nonsense(one: Supervised) -> None:
    """In its name: through a copy of its end of the pair."""
    for process in observers(one):
        pidfd = os.pidfd_open(process.pid)
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                copy = _pidfd_getfd(pidfd, int(entry.name))
                with socket.socket(fileno=copy) as end:
                    if end.type == socket.SOCK_SEQPACKET:
                        end.send(b"rSituation;nonsense", socket.MSG_DONTWAIT)
        os.close(pidfd)


def _pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """pidfd_getfd(2). Raises OSError."""
    from ctypes import CDLL, get_errno

    libc = CDLL(None, use_errno=True)
    if (copy := libc.syscall(438, pidfd, descriptor, 0)) < 0:
        raise OSError(get_errno(), "pidfd_getfd")
    if not str(Path(f"/proc/self/fd/{copy}").readlink()).startswith("socket:"):
        os.close(copy)
        raise OSError("no socket")
    return int(copy)


def play(
    scene: Scene,
    act: Callable[[Supervised], None],
    *,
    is_waking: bool,
    before: Callable[[], object] = lambda: None,
) -> None:
    """`before` is called when clients have been served all the same, before anybody asks."""
    one = scene.one
    if is_waking:
        asleep(scene)
        # One is there because somebody has asked.
        assert request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[1]["state"] == "asleep"
        at(scene, scene.come, lambda: act(one))
    else:
        observer(one)
        at(scene, scene.sleep, lambda: act(one))
    scene.come().result(PATIENCE)
    before()
    scene.settle()
    wait_until(lambda: len(observers(one)) <= 1)
    assert one.stop() == 0


@pytest.mark.parametrize("fault", [signalled(signal.SIGKILL), say_nonsense], ids=["killed", "nonsense"])
@pytest.mark.parametrize("point", [*SLEEPING, *WAKING])
def test_it_dies_at_every_step(scene: Scene, point: str, fault: Callable[[Supervised], None]) -> None:
    if fault is say_nonsense and os.geteuid() != 0:
        pytest.skip("needs root, to speak in its name")
    play(scene, fault, is_waking=point in WAKING)


@pytest.mark.parametrize(
    "point",
    [
        "before SHUT_GATE",
        "before CONFIRM_IDLE",
        "before STOP_FAST",
        "before LOOK_AT_QUEUE",
        "after OPEN_GATE",
    ],
)
def test_it_hangs(scene: Scene, point: str) -> None:
    def hang(one: Supervised) -> None:
        signalled(signal.SIGSTOP)(one)
        # Clients do not wait for that: whoever asks the observer would.
        hung.append(one.mark())

    hung: list[int] = []
    play(
        scene,
        hang,
        is_waking=point in WAKING,
        before=lambda: scene.one.wait_log("did not", since=hung[0]),
    )


def test_it_is_started_again_and_said(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="1s")
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo()) as busy:
        busy.execute("SELECT 1")
        first = observer(one)
        os.kill(first, signal.SIGKILL)
        one.wait_log("observer.*killed by signal 9")
        wait_until(lambda: observer(one) != first)
        assert "asleep" not in one.states
    one.wait_for_state("asleep")
    wait_until(lambda: not observers(one))
    # What it had counted goes on.
    status = request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[1]
    assert (status["state"], status["wakes"], status["sleeps"]) == ("asleep", 1, 1)
    assert status["looks"] > 2


def test_it_lets_a_crowd_of_other_processes_go_first(newest: Installation, launch: Launch) -> None:
    crowd = [
        subprocess.Popen(["nice", "-n", "19", "sh", "-c", "while :; do :; done"])
        for _ in range(2 * (os.cpu_count() or 1) + 4)
    ]
    try:
        one = launch(newest, idle_timeout="100s")
        one.wait_for_state("awake")
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert not observers(one)
            time.sleep(0.05)
    finally:
        for process in crowd:
            process.kill()
            process.wait()
    wait_until(lambda: bool(observers(one)))


def test_a_hold_outlives_it_where_the_disk_takes_nothing(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="300ms")
    one.wait_for_state("awake")
    assert one.pgidle("hold", "1h").returncode == 0
    # As if it had never been written.
    (one.data_dir / "pgidle/holds.json").unlink()
    first = observer(one)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: observer(one) != first)
    status = request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[1]
    assert [lease["name"] for lease in status["leases"]] == ["1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_to_all_processes_are_the_supervisors(
    newest: Installation, launch: Launch, number: signal.Signals
) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    pid = observer(one)
    # When it answers, its handlers are there.
    assert request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[0] == 200
    os.kill(pid, number)
    assert request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[0] == 200
    assert observer(one) == pid


def test_it_ends_with_the_supervisor(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    watched = psutil.Process(observer(one))
    watched.suspend()
    one.kill()
    watched.wait(PATIENCE)


def test_it_holds_no_lock_and_no_clients_socket(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    assert request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[0] == 200
    folder = Path(f"/proc/{observer(one)}/fd")
    held = [str(entry.readlink()) for entry in folder.iterdir() if entry.is_symlink()]
    listening = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()}
    assert listening
    assert not [name for name in held if name.endswith("pgidle/lock")]
    inodes = {
        connection.split()[9]
        for connection in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if connection.split()[3] == "0A"
    }
    assert not inodes & {name.removeprefix("socket:[").rstrip("]") for name in held}


def test_health_checks_start_none_while_postgres_sleeps(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="200ms")
    one.wait_for_state("asleep")
    wait_until(lambda: not observers(one))
    for path in ("/health", "/ready"):
        assert request(str(one.data_dir / "pgidle"), "GET", path, PATIENCE)[1]["state"] == "asleep"
    assert not observers(one)
    began = time.monotonic()
    assert request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[1]["state"] == "asleep"
    assert len(observers(one)) == 1
    assert one.states[-1] == "asleep", f"asked {time.monotonic() - began} s ago"


class Still:
    """A loop on which nothing ever happens: the observer is about to be started."""

    def is_set(self, _name: object) -> bool:
        return True


def test_a_flood_that_waits_for_it_cuts_the_oldest_and_no_order() -> None:
    one = Observer(Still(), None, None, None, None)  # type: ignore[arg-type]
    pairs = [socket.socketpair() for _ in range(supervisor_side.MOST_WAITING + 2)]
    asking = [ours for ours, _ in pairs]
    for number, (_, theirs) in enumerate(pairs):
        one.hand_over(Connection(is_control=number == 0, data=b""), theirs)
    for ours in asking:
        ours.setblocking(False)
    assert asking[1].recv(1) == b""
    for ours in (asking[0], *asking[2:]):
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_a_health_check_that_has_more_to_say_is_handed_on(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(one.data_dir / "pgidle/control.sock"))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        client.settimeout(PATIENCE)
        client.sendall(b"ab")
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
