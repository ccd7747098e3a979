"""The library by itself, before a program that waits as a postmaster does: under musl, sanitizers and valgrind too."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness
import pgidle
from harness.installations import free_port
from harness.postgres_fixture import wait_until
from pgidle.gate import preload, unix_socket_file
from pgidle.gate.channel import (
    Answer,
    Channel,
    ChannelError,
    ChildSignalled,
    Loaded,
    LockLeft,
    PeerAccepted,
    SocketMade,
    StopSignalled,
    Waits,
    decode,
)
from pgidle.gate.gate import Gate
from pgidle.gate.listeners import listen_on, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pgidle.gate.channel import Told

SOURCES = sorted((Path(pgidle.__file__).parent / "gate" / "library").glob("*.c"))
PROGRAM = Path(harness.__file__).parent / "postmaster_like.c"
STRICT = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fPIC")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

# A name: compiler, its options, words in front of the program, its environment.
WAYS: dict[str, tuple[str, Sequence[str], Sequence[str], dict[str, str]]] = {
    "gcc": ("gcc", (), (), {}),
    "clang": ("clang", (), (), {}),
    "musl": ("musl-gcc", (), (), {}),
    # The library stands before the sanitizer's own functions, on purpose.
    "sanitized": ("gcc", SANITIZED, (), {"ASAN_OPTIONS": "verify_asan_link_order=0"}),
    "valgrind": (
        "gcc",
        (),
        ("valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--trace-children=yes"),
        {},
    ),
}


@pytest.fixture(scope="module", params=WAYS)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, list[str], dict[str, str]]:
    """The library, opened; the program's words; its environment."""
    compiler, options, words, environ = WAYS[request.param]
    for needed in (compiler, *words[:1]):
        if shutil.which(needed) is None:
            pytest.skip(f"no {needed}")
    folder = tmp_path_factory.mktemp(request.param)
    # Linked to it as well where something is in front, which would load what is preloaded, and take it off.
    linked = ["-Wl,--no-as-needed", folder / "l.so"] if words else []
    for name, sources, more in (
        ("l.so", SOURCES, ["-shared"]),
        ("program", [PROGRAM], ["-rdynamic", *linked]),
    ):
        subprocess.run([compiler, *STRICT, *options, "-o", folder / name, *sources, *more], check=True)
    return os.open(folder / "l.so", os.O_RDONLY), [*words, str(folder / "program")], environ


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Run:
    """The program with the library before it, over and over with the same listeners."""

    def __init__(self, built: tuple[int, list[str], dict[str, str]], waits: str, path: Path) -> None:
        self.library, words, self.environ = built
        self.tool = words[:-1]
        self.path = path
        self.gate = Gate(listen_on(resolve("127.0.0.1", free_port()))[0])
        self.port = self.gate.listeners[0].port
        self.words = [words[-1], waits, str(self.port), str(path)]
        self.told: list[Told] = []
        self.process: subprocess.Popen[str] | None = None

    def clean(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.gate.gone()
        for one in self.gate.listeners:
            one.close()

    def start(self, *, keeps_other_end: bool = False) -> None:
        ours, theirs = preload.make_channel()
        given = [one.fileno() for one in self.gate.listeners]
        environ = {**os.environ, **self.environ}
        variables = preload.environment(environ, self.library, theirs.fileno(), given)
        if self.tool:
            del variables["LD_PRELOAD"]
        self.process = subprocess.Popen(
            [*self.tool, *self.words],
            env=variables,
            pass_fds=[self.library, theirs.fileno(), *given],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.other_end = socket.socket(fileno=theirs.detach())
        self.gate.began(ours, "/")
        self.told.clear()
        self.until(lambda: self.gate.is_shared)
        if not keeps_other_end:
            self.other_end.close()

    def until(self, is_so: Callable[[], bool]) -> None:
        def receive() -> bool:
            try:
                while (one := self.gate.receive()) is not None:
                    self.told.append(one)
            except EOFError:
                pass
            return is_so()

        wait_until(receive, lambda: str(self.told))

    def open(self) -> None:
        self.gate.open()
        self.until(lambda: self.gate.is_answered)
        assert self.gate.is_open

    def end(self) -> str:
        """Wait for its end; what it complained of."""
        assert self.process is not None
        _, complaints = self.process.communicate(timeout=60)
        self.until(lambda: True)
        assert self.process.returncode == 0, complaints
        self.gate.gone()
        return complaints


def come(stack: ExitStack, run: Run) -> list[socket.socket]:
    parked = run.gate.parked()
    made = [socket.create_connection(("127.0.0.1", run.port), timeout=60) for _ in range(3)]
    for _ in range(3):
        made.append(socket.socket(socket.AF_UNIX))
        made[-1].settimeout(60)
        made[-1].connect(str(run.path))
    for one in made:
        stack.enter_context(one)
    assert run.gate.parked() == parked + 6
    return made


def are_served(clients: list[socket.socket]) -> bool:
    return all(client.recv(32).strip().isdigit() for client in clients)


@pytest.mark.parametrize("waits", ["select", "epoll"])
def test_a_life_of_two_postmasters(built, waits: str, stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.1"
    run = Run(built, waits, path)
    stack.callback(run.clean)
    run.start()
    assert run.process is not None
    assert run.told[0] == Loaded(1)
    assert isinstance(run.told[1], SocketMade)
    assert run.told[2] == Waits(2)

    clients = come(stack, run)
    run.open()
    assert are_served(clients)
    run.until(lambda: run.told.count(PeerAccepted(os.getpid(), os.getuid())) == 3)

    run.gate.shut()
    run.until(lambda: run.gate.is_answered)
    assert not run.gate.is_open
    clients = come(stack, run)
    run.open()
    assert are_served(clients)

    # It ends a child of its own: shut at once, and open again.
    run.process.send_signal(signal.SIGUSR1)
    run.until(lambda: any(isinstance(one, ChildSignalled) for one in run.told))
    assert not run.gate.is_open
    assert not run.gate.is_ending
    clients = come(stack, run)
    run.open()
    assert are_served(clients)

    # It is stopped, and who comes waits for the next.
    run.process.send_signal(signal.SIGTERM)
    run.until(lambda: StopSignalled(15, os.getpid(), 2) in run.told)
    assert run.gate.is_ending
    clients = come(stack, run)
    assert run.end() == ""
    assert LockLeft() in run.told
    assert path.is_socket()
    assert path.with_name(f"{path.name}.lock").exists()
    run.start()
    assert run.told[:1] == [Loaded(2)]
    assert Waits(2) in run.told
    run.open()
    assert are_served(clients)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == ""


@pytest.mark.parametrize("waits", ["select", "epoll"])
def test_an_alarm_that_finds_no_room_is_told_later_and_until_then_it_does_not_open(
    built, waits: str, stack: ExitStack, tmp_path: Path
) -> None:
    run = Run(built, waits, tmp_path / ".s.PGSQL.1")
    stack.callback(run.clean)
    run.start(keeps_other_end=True)
    run.open()
    assert run.process is not None
    with run.other_end as full, suppress(BlockingIOError):
        while True:
            full.send(b"P" + bytes(15), socket.MSG_DONTWAIT)
    # A smart shutdown: the program goes on waiting.
    run.process.send_signal(signal.SIGQUIT)
    wait_until(lambda: not _is_pending(run.process, signal.SIGQUIT))
    clients = come(stack, run)
    run.until(lambda: PeerAccepted(0, 0) in run.told)
    # Only one that has heard of the alarm can know that it is not to open.
    while not run.gate.is_ending:
        run.gate.open()
        run.until(lambda: run.gate.is_answered)
        assert not run.gate.is_open
    assert run.told.count(StopSignalled(signal.SIGQUIT, os.getpid(), 1)) == 1
    assert run.gate.parked() == len(clients)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == ""


def _is_pending(process: subprocess.Popen[str] | None, number: int) -> bool:
    assert process is not None
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    pending = next(line for line in lines if line.startswith("ShdPnd:")).split()[1]
    return bool(int(pending, 16) >> (number - 1) & 1)


def test_the_supervisor_goes_and_what_it_leaves_accepts_nobody(
    built, stack: ExitStack, tmp_path: Path
) -> None:
    run = Run(built, "epoll", tmp_path / ".s.PGSQL.1")
    stack.callback(run.clean)
    run.start()
    run.open()
    assert run.process is not None
    channel = run.gate._channel
    assert channel is not None
    channel.close()
    # The channel is at its end, which is the last that its wait tells: it must not spin on that.
    wait_until(lambda: _wait_ticks(run.process) is not None)
    clients = come(stack, run)
    run.process.send_signal(signal.SIGTERM)
    _, complaints = run.process.communicate(timeout=60)
    assert complaints == ""
    assert [one.parked() for one in run.gate.listeners] == [3, 3]
    assert len(clients) == 6


def _wait_ticks(process: subprocess.Popen[str] | None) -> int | None:
    """Its descriptors once the channel is none of them."""
    assert process is not None
    links = []
    for one in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            links.append(str(one.readlink()))
        except OSError:
            continue
    return len(links) if sum(link.startswith("socket:") for link in links) == 2 else None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        bytes(15),
        bytes(17),
        b"X\0\0\0" + bytes(12),
        b"H\0\0\0\x02\0\0\0" + bytes(8),
    ],
)
def test_a_record_that_does_not_fit_is_an_error(data: bytes) -> None:
    with pytest.raises(ChannelError):
        decode(data, None)


def test_a_socket_whose_descriptor_found_no_room_is_told_all_the_same() -> None:
    assert decode(b"U" + bytes(15), None) == SocketMade(None)


def test_an_answer_to_an_order_that_came_before_is_not_taken_for_the_last_one() -> None:
    ours, theirs = preload.make_channel()
    gate = Gate([])
    gate.began(ours, "/")
    gate.open()
    gate.shut()
    theirs.send(b"S\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0")
    assert gate.receive() == Answer(1, True, 0)
    assert not gate.is_answered
    assert not gate.is_open
    theirs.send(b"S\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0")
    assert gate.receive() == Answer(2, False, 0)
    assert gate.is_answered
    theirs.close()
    with pytest.raises(EOFError):
        gate.receive()
    gate.gone()


def test_an_order_says_how_many_alarms_were_heard_of() -> None:
    ours, theirs = preload.make_channel()
    channel = Channel(ours)
    theirs.send(b"K\0\0\0\x0f\0\0\0\x07\0\0\0\x03\0\0\0")
    assert channel.receive() == ChildSignalled(15, 7, 3)
    assert channel.order_open() == 1
    assert theirs.recv(99) == b"O\0\0\0\x01\0\0\0\x03\0\0\0\0\0\0\0"
    theirs.close()
    assert channel.order_open() is None
    channel.close()


@pytest.mark.parametrize("name", ["lock", "lock.{}"])
def test_a_pipe_in_place_of_a_lock_holds_nobody_up(tmp_path: Path, name: str) -> None:
    """In /tmp anybody can put one there, if not in place of a lock that is ours."""
    path = str(tmp_path / ".s.PGSQL.5432")
    os.mkfifo(f"{path}.{name.format(os.getpid())}")
    assert unix_socket_file.owner(path) is None
    unix_socket_file.hold_lock(path, "/srv/pg", 5432)
    assert unix_socket_file.owner(path) == os.getpid()


def test_a_lock_is_held_kept_and_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / ".s.PGSQL.5432")
    lock = Path(f"{path}.lock")
    unix_socket_file.hold_lock(path, "/srv/pg", 5432)
    assert lock.read_text().split("\n")[:2] == [str(os.getpid()), "/srv/pg"]
    assert lock.read_text().split("\n")[3:] == ["5432", str(tmp_path), ""]
    assert [one.name for one in tmp_path.iterdir()] == [lock.name]
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
        file = unix_socket_file.find(path)
        assert file is not None
        os.utime(path, (0, 0))
        file.touch()
        assert Path(path).stat().st_mtime > 0
        Path(path).unlink()
        assert not file.is_in_place()
        Path(path).touch()
        file.remove()
    # What stands there now is somebody else's.
    assert [one.name for one in tmp_path.iterdir()] == [".s.PGSQL.5432"]
