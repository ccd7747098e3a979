"""The two HTTP servers, through real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from harness.answering import PATIENCE, Answering, make_report
from pgidle.base.errors import PgidleError
from pgidle.control import health_checks, http_server
from pgidle.control.client import NoAnswer, NotRunning, request
from pgidle.control.memory_use import MemoryReader
from pgidle.control.orders import Hold, Order, Program, Release, Sleep, Wake
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    with Answering(tmp_path) as made:
        yield made


def ask(made: Answering, method: str, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read()


def give_order(made: Answering, path: str) -> tuple[int, dict[str, Any]]:
    return request(str(made.state_dir), "POST", path, PATIENCE)


@pytest.mark.parametrize("state", list(State))
def test_health_and_readiness_in_every_state(answering: Answering, state: State) -> None:
    answering.report = make_report(state=state)
    body = json.dumps({"state": state.noun}).encode() + b"\n"
    json_type = "application/json"
    health = 503 if state is State.FAILED else 200
    ready = 200 if state is State.AWAKE else 503
    assert ask(answering, "GET", "/health") == (health, json_type, body)
    assert ask(answering, "GET", "/ready") == (ready, json_type, body)


def test_status_and_metrics(answering: Answering) -> None:
    answering.report = make_report(postmaster_pid=os.getpid())
    status, _, body = ask(answering, "GET", "/status")
    said = json.loads(body)
    assert status == 200
    assert said["state"] == "awake"
    assert said["memory"]["supervisor"] > 2**20
    status, kind, body = ask(answering, "GET", "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'pgidle_state{state="awake"} 1\n' in body
    assert request(str(answering.state_dir), "GET", "/status")[1]["state"] == "awake"


def test_head_tells_as_much_without_a_body(answering: Answering) -> None:
    answering.report = make_report(state=State.DROWSY)
    assert ask(answering, "HEAD", "/ready") == (503, "application/json", b"")


@pytest.mark.parametrize(
    "path", ["/index.html", "/nothing", "/health/", "health", "sleep", "/status/x", "//sleep", "/%73leepy"]
)
def test_a_wrong_path_is_not_found(answering: Answering, path: str) -> None:
    assert ask(answering, "GET", path)[0] == 404
    assert request(str(answering.state_dir), "POST", path)[0] == 404


@pytest.mark.parametrize(("method", "path"), [("POST", "/health"), ("DELETE", "/status"), ("GET", "/sleep")])
def test_a_wrong_method_is_refused(answering: Answering, method: str, path: str) -> None:
    status, body = request(str(answering.state_dir), method, path)
    assert status == 405
    assert "must be" in body["error"]


@pytest.mark.parametrize("path", ["/sleep", "/wake", "/hold?seconds=1", "/release"])
def test_nobody_gives_orders_over_tcp(answering: Answering, path: str) -> None:
    assert ask(answering, "POST", path)[0] == 404
    assert answering.orders.empty()


@pytest.mark.parametrize(
    "path",
    [
        "/sleep?force=yes",
        "/sleep?force=1&force=1",
        "/sleep?now=1",
        "/wake?force=1",
        "/hold",
        "/hold?seconds=",
        "/hold?seconds=0",
        "/hold?seconds=-1",
        "/hold?seconds=nan",
        "/hold?seconds=inf",
        "/hold?seconds=1e12",
        "/hold?seconds=5min",
        "/hold?why=" + 201 * "x" + "&seconds=1",
        "/hold?pid=1",
        "/hold?pid=1&started=x",
        "/hold?pid=-1&started=1",
        "/hold?pid=1&started=1&seconds=0",
        "/wake?wait=5",
        "/sleep?wait=",
        "/release?why=x",
    ],
)
def test_a_wrong_parameter_is_refused_before_anybody_is_asked(answering: Answering, path: str) -> None:
    status, body = give_order(answering, path)
    assert status == 400
    assert body["error"]
    assert answering.orders.empty()


@pytest.mark.parametrize(
    ("path", "order"),
    [
        ("/sleep", Sleep()),
        ("/sleep?force=1&wait=0", Sleep(force=True)),
        ("/sleep?wait=1", Sleep(wait=True)),
        ("/wake", Wake()),
        ("/wake?wait=1", Wake(wait=True)),
        ("/hold?" + urlencode({"seconds": 1.5, "why": "a & b é"}), Hold(1.5, "a & b é")),
        ("/hold?pid=7&started=8&program=x", Hold(None, "", Program(7, 8, "x"))),
        ("/hold?seconds=2&pid=7&started=8", Hold(2.0, "", Program(7, 8, ""))),
        ("/release", Release()),
        ("/release?name=3", Release("3")),
    ],
)
@pytest.mark.parametrize(("granted", "status"), [(True, 200), (False, 409)])
def test_an_order_reaches_the_supervisor_and_its_answer_the_asker(
    answering: Answering, path: str, order: Order, granted: bool, status: int
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(answering.state_dir / "control.sock"))
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        asked = answering.receive()
        assert asked.order == order
        assert asked.is_awaited()
        asked.reply(granted, "so be it")
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    said = {"granted": granted, "message": "so be it", "state": "awake"}
    assert json.loads(answer.split(b"\r\n\r\n")[1]) == said


def test_an_answer_may_take_its_time_and_who_does_not_wait_leaves_nothing_behind(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "CONNECTION_TIME", 0.2)
    path = b"POST /wake?wait=1 HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as silent:
        for one in (client, silent):
            one.settimeout(PATIENCE)
            one.connect(str(answering.state_dir / "control.sock"))
        client.sendall(path)
        asked = answering.receive()
        # Came later, and is not kept; who has asked still is.
        assert silent.recv(1) == b""
        asked.reply(True, "at last")
        assert b"at last" in client.makefile("rb").read()
    with pytest.raises(NoAnswer):
        request(str(answering.state_dir), "POST", "/wake?wait=1", 0.05)
    asked = answering.receive()
    while asked.is_awaited():
        assert ask(answering, "GET", "/health")[0] == 200
    asked.reply(True, "too late, and no harm")
    assert ask(answering, "GET", "/health")[0] == 200
    assert not caplog.records


def test_an_answer_after_the_end_reaches_nobody_and_harms_nobody(tmp_path: Path) -> None:
    with Answering(tmp_path) as made, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(made.state_dir / "control.sock"))
        client.sendall(b"POST /wake HTTP/1.1\r\nHost: x\r\n\r\n")
        asked = made.receive()
    asked.reply(True, "nobody hears this")


def test_one_who_asks_at_length_is_answered(answering: Answering) -> None:
    """With a body that nobody needs, in pieces, asking whether to go on, and with nothing more to say after it."""
    with socket.create_connection(("127.0.0.1", answering.port), PATIENCE) as client:
        client.sendall(
            b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = client.makefile("rb")
        assert answer.readline() == b"HTTP/1.1 100 \r\n"
        for piece in (b"bo", b"dy"):
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 200 OK\r\n" in answer.read()


def test_only_the_first_of_two_requests_is_answered(answering: Answering) -> None:
    with socket.create_connection(("127.0.0.1", answering.port), PATIENCE) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        assert client.makefile("rb").read().count(b"HTTP/1.1") == 1


def test_garbage_closes_its_own_connection_only(answering: Answering) -> None:
    for garbage in (b"\x00\x03\x00\x00user\x00x\x00\x00", b"GET / HTTP/9\r\n\r\n", b"x" * 100_000):
        with socket.create_connection(("127.0.0.1", answering.port), PATIENCE) as client:
            with contextlib.suppress(OSError):
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                assert not client.makefile("rb").read().startswith(b"HTTP/1.1 2")
    assert ask(answering, "GET", "/health")[0] == 200


@pytest.mark.parametrize("limit", ["CONNECTION_TIME", "REQUEST_TIME"])
def test_a_silent_client_is_not_kept(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(http_server if limit == "CONNECTION_TIME" else health_checks, limit, 0.05)
    for beginning in (b"", b"GET /hea"):
        with socket.create_connection(("127.0.0.1", answering.port), PATIENCE) as client:
            client.sendall(beginning)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@contextlib.contextmanager
def crowd(made: Answering, beginning: bytes, addresses: Sequence[str]) -> Iterator[list[socket.socket]]:
    """Connections that say no more than the beginning of a request, one from each address."""
    with contextlib.ExitStack() as stack:
        connected = []
        for address in addresses:
            one = socket.create_connection(("127.0.0.1", made.port), PATIENCE, (address, 0))
            connected.append(stack.enter_context(one))
            with contextlib.suppress(ConnectionError):
                one.sendall(beginning)
        yield connected


@pytest.mark.parametrize("beginning", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
@pytest.mark.parametrize("spread", [1, 100])
def test_a_probe_is_answered_whoever_else_is_connected(
    answering: Answering, beginning: bytes, spread: int
) -> None:
    addresses = [f"127.0.0.{1 + number % spread}" for number in range(200)]
    with crowd(answering, beginning, addresses):
        assert ask(answering, "GET", "/health")[0] == 200
        assert ask(answering, "GET", "/metrics")[0] == 200


def test_a_flood_takes_only_so_many_descriptors(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_checks, "CONNECTIONS", 4)
    with crowd(answering, b"", [f"127.0.0.{number}" for number in range(1, 6)]) as connected:
        assert is_closed(connected[0])
        for one in connected[1:]:
            one.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.makefile("rb").read().startswith(b"HTTP/1.1 200 ")


def test_one_address_takes_only_its_own_place(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_checks, "CONNECTIONS_OF_ONE", 2)
    with crowd(answering, b"", ["127.0.0.2", *["127.0.0.1"] * 3]) as connected:
        assert is_closed(connected[1])
        connected[0].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connected[0].makefile("rb").read().startswith(b"HTTP/1.1 200 ")


def test_the_control_socket_of_a_deep_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    with Answering(deep) as made:
        assert request(str(made.state_dir), "GET", "/health") == (200, {"state": "awake"})


def test_who_is_not_there_is_told_from_who_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(NotRunning, match="no pgidle is running at"):
        request(str(missing), "GET", "/health")
    with pytest.raises(NotRunning, match=f"{missing} does not exist"):
        request(str(missing / "pgidle"), "GET", "/health")
    with pytest.raises(NotRunning, match="no pgidle is running at"):
        request(str(tmp_path), "GET", "/health")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
        with pytest.raises(NotRunning, match="no pgidle is running at"):
            request(str(tmp_path), "GET", "/health")
        dead.listen()
        with pytest.raises(PgidleError, match="did not answer within") as silent:
            request(str(tmp_path), "GET", "/health", 0.05)
    assert not isinstance(silent.value, NotRunning)


def test_memory_of_a_process_that_is_no_more_is_not_known() -> None:
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    assert MemoryReader().read(1, gone).postgres is None
    assert MemoryReader().read(1, None).postgres is None
    own = MemoryReader().read(1, os.getpid())
    assert own.postgres
    assert own.observer > 2**20
