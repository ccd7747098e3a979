"""The preloaded library in a real postmaster: what its children do not get, and a program that waits otherwise."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pgidle
from harness.installations import free_port
from harness.postgres_fixture import wait_until
from harness.visitors import session

SOURCES = sorted((Path(pgidle.__file__).parent / "gate" / "library").glob("*.c"))
STRICT = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fPIC", "-shared")
OWN_VARIABLES = ("LD_PRELOAD", "PGIDLE_")


def test_what_postgres_executes_has_nothing_of_ours(installation, share, stack, place) -> None:
    out = place.folder("archived")
    script = f"(ls -l /proc/self/fd; cat /proc/self/environ | tr '\\\\0' '\\\\n'; cat /proc/self/maps) > {out}/%f.txt"
    sharer = share(installation, options={"archive_mode": "on", "archive_command": script})
    sharer.do("start")
    sharer.do("open")
    connection = session(sharer, stack)
    connection.execute("SELECT pg_switch_wal()")
    wait_until(lambda: bool(list(out.glob("*.txt"))))
    connection.execute(
        "COPY (SELECT 1) TO PROGRAM "
        f'\'(ls -l /proc/self/fd; tr "\\0" "\\n" </proc/self/environ; cat /proc/self/maps) > {out}/copy.txt\''
    )
    ours = sockets_of(sharer.do("look")["pid"])
    for path in out.glob("*.txt"):
        wait_until(lambda path=path: "[stack]" in path.read_text())
        text = path.read_text()
        assert not [line for line in text.splitlines() if line.startswith(OWN_VARIABLES)]
        assert "_listener" not in text
        assert not [one for one in ours if one in text]


def test_a_backend_has_neither_channel_nor_listeners(installation, share, stack) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    connection = session(sharer, stack)
    assert not sockets_of(connection.info.backend_pid) & sockets_of(sharer.do("look")["pid"])


def sockets_of(pid: int) -> set[str]:
    """But those for datagrams: up to 14 that of the statistics collector is everybody's."""
    links = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("udp", "udp6"))
    datagrams = {f"socket:[{line.split()[9]}]" for table in tables for line in table.splitlines()[1:]}
    return {one for one in links - datagrams if one.startswith("socket:")}


def test_what_is_preloaded_besides_stays_so(installation, share, stack) -> None:
    other = next(Path("/").glob("lib/x86_64-linux-gnu/libpthread.so.0"), None)
    if other is None:
        pytest.skip("no library to preload")
    sharer = share(installation, environ={"LD_PRELOAD": str(other)})
    sharer.do("start")
    sharer.do("open")
    connection = session(sharer, stack)
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row
    rows = connection.execute("CREATE TEMP TABLE e (l text); COPY e FROM PROGRAM 'env'; SELECT l FROM e")
    while rows.nextset():
        pass
    assert f"LD_PRELOAD={other}" in {line for (line,) in rows.fetchall()}


POLLS = """
import os, select, socket
made = socket.socket()
made.bind(("127.0.0.1", int(os.environ["PORT"])))
made.listen()
poll = select.poll()
poll.register(made, select.POLLIN)
poll.poll()
"""


@pytest.mark.parametrize(("waits", "is_known"), [("poll", False), ("select", True), ("epoll", True)])
def test_a_wait_by_an_unknown_function_is_never_told(tmp_path: Path, waits: str, is_known: bool) -> None:
    from pgidle.gate import preload
    from pgidle.gate.channel import Channel, Loaded, Waits
    from pgidle.gate.listeners import listen_on, resolve

    ways = {
        "poll": POLLS,
        "select": POLLS.partition("poll =")[0] + "select.select([made], [], [])",
        "epoll": POLLS.replace("poll =", "epoll =")
        .replace("poll()", "epoll()")
        .replace("POLLIN", "EPOLLIN")
        .replace("poll.register", "epoll.register")
        .replace("poll.epoll()", "epoll.poll()")
        .replace("eepoll", "epoll"),
    }
    (listener,), _ = listen_on(resolve("127.0.0.1", free_port()))
    library = preload.open_library()
    assert library is not None
    ours, theirs = preload.make_channel()
    # By this the library takes Python for a Postgres.
    known_by = tmp_path / "known_by.so"
    words = ("cc", "-shared", "-fPIC", "-x", "c", "-", "-o", known_by)
    subprocess.run(words, input="void PostmasterMain(void) {}", text=True, check=True)
    environ = os.environ | {"LD_PRELOAD": str(known_by)}
    given = preload.environment(environ, library, theirs.fileno(), [listener.fileno()])
    process = subprocess.Popen(
        [sys.executable, "-c", ways[waits]],
        env={**given, "PORT": str(listener.port)},
        pass_fds=[library, theirs.fileno(), listener.fileno()],
    )
    theirs.close()
    channel = Channel(ours)
    told = []
    with contextlib.suppress(EOFError):
        wait_until(lambda: (one := channel.receive()) is not None and told.append(one) is None)
        # Python waits with nothing else here: asleep in the call, it has said all that it will.
        wait_until(lambda: Path(f"/proc/{process.pid}/wchan").read_text() != "0" and _sleeps(process.pid))
        while (one := channel.receive()) is not None:
            told.append(one)
    process.kill()
    process.wait()
    listener.close()
    channel.close()
    os.close(library)
    assert told == [Loaded(1), Waits(1)][: 1 + is_known]


def _sleeps(pid: int) -> bool:
    """Whether it waits in one of the system calls that wait for descriptors (x86-64 and aarch64)."""
    number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return number in {"7", "23", "232", "270", "281", "22", "72", "73"}


@pytest.mark.parametrize("compiler", ["gcc", "clang", "musl-gcc"])
def test_it_compiles_without_a_warning(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    subprocess.run([compiler, *STRICT, "-o", tmp_path / "l.so", *SOURCES], check=True)
