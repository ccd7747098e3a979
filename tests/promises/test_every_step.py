"""A client at every step of a sleep and of a wake: the supervisor stands still there, and somebody connects, queries,
disconnects, cancels, or kills. Nobody may fail, and no acknowledged commit may be missing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest

from harness.clients import Ledger
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped
from harness.supervised import PATIENCE
from pgidle.control.client import request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from harness.installations import Installation, Place

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(180)]

SLEEPING = (
    *("before SHUT_GATE", "after SHUT_GATE", "before Gatekeeper.answer", "after Gatekeeper.answer"),
    *("before CONFIRM_IDLE", "after CONFIRM_IDLE"),
    *("before Judge.looked", "before Judge.checkpointed", "before STOP_FAST", "after STOP_FAST"),
    *("before Server.on_exit", "after Gatekeeper.ending", "before Gatekeeper.gone", "after Gatekeeper.gone"),
    *("before RECORD_SLEEP", "before LOOK_AT_QUEUE", "after LOOK_AT_QUEUE"),
)
WAKING = (
    *("before START_POSTMASTER", "before Server.spawn", "after Server.spawn"),
    *("before Gatekeeper.began", "before Gatekeeper.told", "after Gatekeeper.told"),
    *("before OPEN_GATE", "after OPEN_GATE"),
)
NOTICED = SLEEPING[: SLEEPING.index("after CONFIRM_IDLE")]
"""Steps after which Postgres is looked at once more: a session that is used there is not cut."""
HANDED = WAKING[WAKING.index("after OPEN_GATE") :]
"""Steps at which a client may be with Postgres already, and dies with it."""
STILL_RUNNING = SLEEPING[: SLEEPING.index("after STOP_FAST")]
"""Steps at which Postgres has not been told to stop: a statement succeeds."""


class Scene:
    """One supervisor, its clients, and what they were promised."""

    def __init__(self, one: Stopped) -> None:
        self.one = one
        self.ledger = Ledger()
        self.clients = ThreadPoolExecutor(16)
        self._order: Future[Any] | None = None

    def _post(self, path: str) -> int:
        return request(str(self.one.data_dir / "pgidle"), "POST", path, PATIENCE)[0]

    def order(self, is_enough: Callable[[], bool]) -> None:
        """Order a sleep until it is granted or has gone far enough: it is refused while a backend is on its way out."""
        while self._post("/sleep") != 200 and not is_enough():
            time.sleep(0.02)

    def insert(self, connection: psycopg.Connection[Any]) -> None:
        row = self.ledger.send(1)
        connection.execute("INSERT INTO ledger VALUES (%s, %s)", row)
        self.ledger.acknowledge(row)

    def _masters(self) -> list[int]:
        masters = []
        for process in self.one.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.ppid() == self.one.pid:
                    masters.append(process.pid)
        return masters

    def come(self) -> Future[None]:
        """Two clients that connect, commit, and leave: one over TCP, and one over the Unix socket."""
        both = [self.visit(where) for where in (self.one.conninfo(), self.one.unix_conninfo())]
        return self.clients.submit(lambda: [one.result() for one in both] and None)

    def visit(self, conninfo: str) -> Future[None]:
        """One client that does so."""

        def visit() -> None:
            with psycopg.connect(conninfo, autocommit=True, connect_timeout=30) as connection:
                self.insert(connection)

        return self.clients.submit(visit)

    def sleep(self) -> None:
        self._order = self.clients.submit(self.order, self.one.has_reached)

    def refused(self) -> None:
        """The order has been answered, and Postgres runs."""
        assert self._order
        self._order.result(PATIENCE)
        self.one.wait_for_state("awake")

    def settle(self) -> None:
        """Everything still works, and everything is there."""
        if self._order is not None:
            self._order.exception(PATIENCE)
        self.come().result(PATIENCE)
        self._post("/wake")
        self.one.wait_for_state("awake")
        assert self.ledger.missing(self.one.conninfo()) == []
        assert "failed" not in self.one.states
        assert self._masters() == [self.one.postmaster_pid]


@pytest.fixture
def scene(newest: Installation, place: Place, point: str) -> Iterator[Scene]:
    one = Stopped(newest, place, point, when_idle="stay", idle_timeout="off")
    made = Scene(one)
    try:
        one.start()
        one.wait_for_state("awake")
        made.ledger.create(one.conninfo())
        yield made
    finally:
        one.clean()
        made.clients.shutdown(wait=False, cancel_futures=True)


def cancel(port: int) -> None:
    """A cancel request for nobody: a client of the gate that never says more."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(struct.pack("!IIII", 16, 80877102, 2**31 - 2, 0))
        assert client.recv(1) == b""


def kill_postmaster(scene: Scene) -> None:
    if (pid := scene.one.postmaster_pid) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start_again(scene: Scene) -> None:
    """Nobody has the port until it listens again."""
    scene.one.start()
    # By its pid: the last words of the one before may not have been read yet.
    scene.one.wait_log(rf'(?=.*"pid": {scene.one.pid}\b).*"state": "awake"')


def at(scene: Scene, begin: Callable[[], object], act: Callable[[], Any]) -> Any:
    """Let it come to the point, act there, and let it go on; what the act gave."""
    scene.one.arm()
    begin()
    scene.one.reached()
    try:
        return act()
    finally:
        scene.one.release()


def asleep(scene: Scene) -> None:
    mark = scene.one.mark()
    scene.order(lambda: False)
    scene.one.wait_for_state("asleep", since=mark)


@pytest.mark.parametrize("point", SLEEPING)
def test_falling_asleep(scene: Scene, point: str) -> None:
    one = scene.one
    coming = at(scene, scene.sleep, scene.come)
    coming.result(PATIENCE)
    scene.settle()

    if point == "before CLOSE_GATE":
        new = at(scene, scene.sleep, lambda: psycopg.connect(one.conninfo(), autocommit=True))
        scene.refused()
        with new:
            scene.insert(new)

    with psycopg.connect(one.conninfo(), autocommit=True) as idle:
        try:
            # Done while the supervisor stands there: Postgres does not need it to answer.
            at(scene, scene.sleep, lambda: scene.insert(idle))
            if point in NOTICED:
                scene.refused()
                scene.insert(idle)
        except psycopg.OperationalError:
            # Told to stop, Postgres cuts sessions that were idle, also one that speaks in that instant.
            assert point not in STILL_RUNNING
    scene.settle()

    idle = psycopg.connect(one.conninfo(), autocommit=True)
    at(scene, scene.sleep, idle.close)
    scene.settle()

    cancelling = at(scene, scene.sleep, lambda: scene.clients.submit(cancel, one.port))
    cancelling.result(PATIENCE)
    scene.settle()

    at(scene, scene.sleep, lambda: kill_postmaster(scene))
    scene.settle()

    at(scene, scene.sleep, one.kill)
    start_again(scene)
    scene.settle()
    assert one.stop() == 0


@pytest.mark.parametrize("point", WAKING)
def test_waking(scene: Scene, point: str) -> None:
    one = scene.one
    for act in (
        scene.come,
        lambda: scene.clients.submit(cancel, one.port),
        lambda: kill_postmaster(scene),
    ):
        asleep(scene)
        visits: list[Future[None]] = []
        acted = at(scene, lambda: visits.append(scene.come()), act)  # noqa: B023 - called at once
        if acted is not None:
            acted.result(PATIENCE)
        if acted is not None or point not in HANDED:
            visits[0].result(PATIENCE)
        scene.settle()

    asleep(scene)
    at(scene, scene.come, one.kill)
    start_again(scene)
    scene.settle()
    assert one.stop() == 0


def post_early(one: Stopped, path: str) -> socket.socket:
    """Give an order to a supervisor that stands still; its answer comes later."""
    order = socket.socket(socket.AF_UNIX)
    order.settimeout(PATIENCE)
    order.connect(str(one.data_dir / "pgidle/control.sock"))
    order.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return order


def answered(order: socket.socket) -> bytes:
    with order, order.makefile("rb") as answer:
        return answer.read()


@pytest.mark.parametrize("force", [False, True])
def test_a_sleep_that_is_asked_for_while_drowsy_is_answered_by_what_comes_of_it(
    newest: Installation, place: Place, *, force: bool
) -> None:
    one = Stopped(newest, place, "before CONFIRM_IDLE", when_idle="stay", idle_timeout="1s")
    one.arm()
    with one:
        one.wait_for_state("awake")
        busy = psycopg.connect(one.conninfo())
        one.reached()
        busy.execute("SELECT 1")  # And its transaction stays open.
        order = post_early(one, f"/sleep?force={force:d}")
        mark = one.mark()
        one.release()
        answer = answered(order)
        if force:
            assert b'"asked to sleep (forced)"' in answer
            one.wait_for_state("asleep", since=mark)
        else:
            assert b"409" in answer.splitlines()[0]
            assert "stopping" not in one.states
            busy.commit()
        busy.close()


@pytest.mark.parametrize("point", ["before Judge.checkpointed", "before CONFIRM_IDLE"])
def test_a_wake_that_is_asked_for_at_the_last_moment_is_a_use(
    newest: Installation, place: Place, point: str
) -> None:
    one = Stopped(newest, place, point, when_idle="stay", idle_timeout="1s")
    one.arm()
    with one:
        one.reached()
        order = post_early(one, "/wake")
        mark = one.mark()
        one.release()
        assert b'"granted": true' in answered(order)
        line = one.wait_for_state("stopping", since=mark)
        # Or something later: then it was in use for longer still.
        assert "none since waking" not in line.data["reason"]


@pytest.mark.parametrize("when_idle", ["stay", "exit"])
@pytest.mark.parametrize(
    "point", ["before STOP_FAST", "after STOP_FAST", "before Server.on_exit", "before LOOK_AT_QUEUE"]
)
def test_a_wake_that_is_ordered_while_it_goes_to_sleep_is_kept(
    newest: Installation, place: Place, point: str, when_idle: str
) -> None:
    """Nobody else comes: it is the order alone that wakes it."""
    one = Stopped(newest, place, point, when_idle=when_idle, idle_timeout="off")
    scene = Scene(one)
    with one:
        one.wait_for_state("awake")
        order = at(scene, scene.sleep, lambda: post_early(one, "/wake?wait=1"))
        mark = one.mark()
        answer = answered(order)
        assert b'"granted": true' in answer
        assert b'"state": "awake"' in answer
        one.wait_for_state("awake", since=mark)
        # Not merely answered: it is there, and stays.
        with psycopg.connect(one.conninfo(), connect_timeout=30) as client:
            assert client.execute("SELECT 1").fetchone() == (1,)
        assert one.stop() == 0


@pytest.mark.parametrize(
    "point", ["before BEGIN_LEAVING", "after BEGIN_LEAVING", "before Leaving.look", "before EXIT_CLEAN"]
)
@pytest.mark.parametrize("path", ["/wake?wait=1", "/hold?seconds=60"])
def test_an_order_that_comes_before_the_end_is_as_good_as_a_client(
    newest: Installation, place: Place, point: str, path: str
) -> None:
    one = Stopped(newest, place, point, when_idle="exit", idle_timeout="off")
    scene = Scene(one)
    with one:
        one.wait_for_state("awake")
        mark = one.mark()
        order = at(scene, scene.sleep, lambda: post_early(one, path))
        assert b'"granted": true' in answered(order)
        one.wait_for_state("awake", since=mark)
        assert one.stop() == 0


def test_a_client_who_comes_before_the_last_verdict_keeps_postgres_awake(
    newest: Installation, place: Place
) -> None:
    """And with it every session, idle or not: nobody is cut while somebody waits to be served."""
    one = Stopped(newest, place, "before ObserverDialogue.confirmed", when_idle="stay", idle_timeout="off")
    scene = Scene(one)
    with one:
        one.wait_for_state("awake")
        scene.ledger.create(one.conninfo())
        with psycopg.connect(one.conninfo(), autocommit=True) as idle:

            def come() -> Future[None]:
                coming = scene.come()
                wait_until(lambda: one.parked() > 0 and one.parked_at_unix_socket() > 0)
                return coming

            coming = at(scene, scene.sleep, come)
            coming.result(PATIENCE)
            scene.refused()
            scene.insert(idle)
        assert "stopping" not in one.states
        scene.settle()
        assert one.stop() == 0


@pytest.mark.parametrize("point", ["before BEGIN_LEAVING", "after BEGIN_LEAVING", "before Leaving.look"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_client_who_comes_before_the_last_look_is_served(
    newest: Installation, place: Place, point: str, kind: str
) -> None:
    """In exit mode, without any proxy: nobody else would start it again."""
    one = Stopped(newest, place, point, when_idle="exit", idle_timeout="off")
    scene = Scene(one)
    is_dropped = kind == "tcp" and point != "before BEGIN_LEAVING"

    def come() -> Future[None]:
        coming = scene.visit(one.conninfo() if kind == "tcp" else one.unix_conninfo())
        wait_until(lambda: is_dropped or one.parked() + one.parked_at_unix_socket() > 0)
        return coming

    with one:
        one.wait_for_state("awake")
        scene.ledger.create(one.conninfo())
        coming = at(scene, scene.sleep, come)
        if is_dropped:
            # Its SYN was dropped, so it had no handshake, and meets nobody after the exit.
            assert one.wait() == 0
            one.start()
        coming.result(PATIENCE)
        scene.settle()
        assert one.stop() == 0
