"""on-event: a real program and a real web server are given the journal's events, and neither harms the database."""

from __future__ import annotations

import http.server
import json
import os
import shlex
import signal
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest

from harness.installations import server_user
from harness.postgres_fixture import wait_until
from pgidle.history.journal import DELIVERED, JOURNAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Supervised

SLEEPER = {"when_idle": "stay", "idle_timeout": "1s"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Program:
    """A shell script, as executable as a user would make it, in a folder that Postgres's user can write to."""

    def __init__(self, place: Place) -> None:
        self.folder = place.folder("program")
        self.folder.chmod(0o777)
        self.path = self.folder / "tell"
        self.given = self.folder / "given"

    def write(self, *lines: str) -> str:
        """Its path. `$GIVEN` is the file that `events` reads."""
        given = f"GIVEN={shlex.quote(str(self.given))}"
        self.path.write_text("\n".join(["#!/bin/sh", given, *lines, ""]))
        self.path.chmod(0o755)
        return str(self.path)

    def records(self, *lines: str) -> str:
        return self.write('cat >> "$GIVEN"', *lines)

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def lines(self) -> list[str]:
        return self.given.read_text().splitlines() if self.given.exists() else []

    @property
    def events(self) -> list[str]:
        return [entry["event"] for entry in self.entries]

    def wait_for(self, event: str, count: int = 1) -> None:
        wait_until(lambda: self.events.count(event) >= count, lambda: f"no {event}: {self.events}")

    def pids(self, name: str, count: int = 1) -> list[int]:
        """What it has written into a file of that name, once it has."""
        path = self.folder / name
        wait_until(lambda: path.exists() and len(path.read_text().split()) >= count)
        return [int(word) for word in path.read_text().split()]


@pytest.fixture
def program(place: Place) -> Program:
    return Program(place)


def journal(one: Supervised) -> list[dict[str, Any]]:
    text = (one.data_dir / "pgidle" / JOURNAL).read_text()
    return [json.loads(line) for line in text.splitlines()]


def to_tell(one: Supervised) -> list[dict[str, Any]]:
    return [entry for entry in journal(one) if entry["event"] != "use"]


def wake(one: Supervised) -> None:
    with psycopg.connect(one.conninfo()) as connection:
        connection.execute("SELECT 1")


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_program_is_given_every_event_but_use_in_order(newest: Installation, launch, program) -> None:
    one = launch(newest, **SLEEPER, on_event=program.records())
    program.wait_for("slept")
    wake(one)
    program.wait_for("slept", 2)
    assert program.events[:4] == ["started", "woken", "slept", "woken"]
    assert one.stop() == 0
    assert program.entries == to_tell(one)
    assert program.events[-2:] == ["stop", "exited"]


def test_an_exit_after_a_sleep_waits_until_the_sleep_is_told(newest, launch, program) -> None:
    one = launch(newest, on_event=program.records())
    assert one.wait() == 0
    assert program.events == ["started", "woken", "slept"]
    assert [entry["event"] for entry in to_tell(one)] == ["started", "woken", "slept", "exited"]
    one.start()
    assert one.wait() == 0
    assert program.events == ["started", "woken", "slept", "exited", "started", "woken", "slept"]


def test_settings_that_are_read_again_do_not_cut_the_telling_of_a_sleep(newest, launch, program) -> None:
    go_on, told = program.folder / "go-on", program.folder / "told"
    wait = f'while tail -n 1 "$GIVEN" | grep -q slept && ! [ -e {go_on} ]; do sleep 0.1; done'
    one = launch(newest, idle_timeout="1s", on_event=program.records(wait, f'cp "$GIVEN" {told}'))
    program.wait_for("slept")
    mark = one.mark()
    one.signal(signal.SIGHUP)
    one.wait_log("reloaded: no changes", since=mark)
    go_on.touch()
    assert one.wait() == 0
    assert '"slept"' in told.read_text()


def test_who_comes_while_the_sleep_is_told_is_served(newest, launch, program) -> None:
    go_on = program.folder / "go-on"
    wait = f'while grep -q slept "$GIVEN" && ! [ -e {go_on} ]; do sleep 0.1; done'
    one = launch(newest, idle_timeout="1s", on_event=program.records(wait))
    program.wait_for("slept")
    assert one.states[-1] == "asleep"
    wake(one)
    assert "leaving" not in one.states
    go_on.touch()
    assert one.wait() == 0
    assert [event for event in program.events if event != "client"][2:] == ["slept", "woken", "slept"]


def test_an_exit_waits_for_no_program_that_hangs(newest, launch, program) -> None:
    pids = program.folder / "pids"
    hang = f'grep -q slept "$GIVEN" && {{ sleep 100 & echo $$ $! > {pids}; wait; }}'
    one = launch(newest, on_event=program.records(hang))
    assert one.wait() == 0
    assert one.states[-2:] == ["asleep", "leaving"]
    assert not [line for line in one.lines if "longer than" in line.text]  # Its own time was not over.
    for pid in program.pids("pids", 2):
        wait_until(lambda pid=pid: is_gone(pid))


def test_a_stop_waits_for_no_program_that_hangs(newest, launch, program) -> None:
    pids = program.folder / "pids"
    hang = f'grep -q stop "$GIVEN" && {{ sleep 100 & echo $$ $! > {pids}; wait; }}'
    one = launch(newest, **SLEEPER, on_event=program.records(hang))
    program.wait_for("woken")
    assert one.stop() == 0
    for pid in program.pids("pids", 2):
        wait_until(lambda pid=pid: is_gone(pid))


def test_a_program_that_is_cut_never_gets_the_same_lines_again(newest, launch, program) -> None:
    hang = f"grep -q stop && {{ echo $$ > {program.folder}/pids; exec sleep 100; }}"
    one = launch(newest, **SLEEPER, on_event=program.write('tee -a "$GIVEN" | ' + hang))
    program.wait_for("woken")
    assert one.stop() == 0
    (pid,) = program.pids("pids")
    wait_until(lambda: is_gone(pid))
    program.records()
    one.start()
    program.wait_for("woken", 2)
    assert program.entries == to_tell(one)[: len(program.entries)]


def test_nothing_of_a_delivery_outlives_a_killed_pgidle(newest, launch, program) -> None:
    hang = f"sleep 100 & setsid sleep 100 & echo $$ $! > {program.folder}/pids; wait"
    one = launch(newest, **SLEEPER, on_event=program.write(hang))
    pids = program.pids("pids", 2)
    one.kill()
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid))


def test_the_next_run_tells_what_a_killed_one_has_not(newest, launch, program) -> None:
    one = launch(newest, **SLEEPER, on_event=program.records())
    program.wait_for("slept")
    hidden = program.path.rename(program.folder / "hidden")
    one.kill()
    with (one.data_dir / "pgidle" / JOURNAL).open(
        "ab"
    ) as file:  # As if it had been killed before it told this.
        last = to_tell(one)[-1] | {"event": "stop"}
        last["n"] += 1
        file.write(json.dumps(last, separators=(",", ":")).encode() + b"\n")
    hidden.rename(program.path)
    one.start()
    program.wait_for("woken", 2)
    assert program.entries == to_tell(one)


def test_a_program_that_fails_is_logged_and_given_what_comes_next(newest, launch, program) -> None:
    one = launch(newest, **SLEEPER, on_event=program.records("exit 7"))
    one.wait_log("on-event.*/tell: exited with status 7")
    program.wait_for("slept")
    for change, complaint in (
        (lambda: program.write("kill -9 $$"), "killed by signal 9"),
        (lambda: program.path.chmod(0o644), "it cannot be run: Permission denied"),
        (program.path.unlink, "it cannot be run: No such file"),
        (
            lambda: program.path.write_bytes(b"") or program.path.chmod(0o755),
            "it cannot be run: Exec format error",
        ),
    ):
        one.wait_for_state("asleep")
        mark = one.mark()
        change()
        wake(one)
        one.wait_log(f"on-event.*/tell: {complaint}", since=mark)
        one.wait_for_state("asleep", since=mark)
    assert one.stop() == 0


@needs_root
def test_a_program_has_no_right_and_no_descriptor_of_pgidle_s(newest, launch, program) -> None:
    user = server_user()
    # Not by Python, which changes what signals do.
    look = program.write(
        f"readlink /proc/$$/cwd > {program.folder}/cwd",
        f"cd {program.folder}",
        "ls -l /proc/$$/fd > links",
        "cat /proc/$$/environ > environ",
        "cat /proc/$$/stat > stat",
        "cat /proc/self/status > status",
        'touch "$GIVEN"',
    )
    secrets = {"PGPASSWORD": "hunter2", "POSTGRES_PASSWORD": "hunter2", "PGIDLE_MIN_AWAKE": "0s"}
    one = launch(newest, **SLEEPER, on_event=look, env=secrets | {"KEPT": "kept"})
    wait_until(program.given.exists)
    seen = {
        name: (program.folder / name).read_text() for name in ("links", "cwd", "environ", "stat", "status")
    }
    status = dict(line.split(":\t", 1) for line in seen["status"].splitlines())
    assert status["Uid"].split() == [str(user.pw_uid)] * 4
    assert status["Gid"].split() == [str(user.pw_gid)] * 4
    groups = sorted(map(int, status["Groups"].split()))
    assert groups == sorted(os.getgrouplist(user.pw_name, user.pw_gid))
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "SigBlk", "SigIgn"):
        assert int(status[name], 16) == 0, name
    pairs = [line.split(" -> ") for line in seen["links"].splitlines() if " -> " in line]
    links = {before.split()[-1]: after for before, after in pairs}
    assert {number for number in links if int(number) < 10} == {
        "0",
        "1",
        "2",
    }  # The shell has its script at 10.
    assert not [link for link in links.values() if "socket" in link or "pgidle/" in link]
    assert "memfd" in links["0"]
    pid, _, rest = seen["stat"].partition(" (")
    _, parent, group, session, terminal, *_ = rest.rpartition(") ")[2].split()
    assert (group, session, terminal) == (pid, pid, "0")
    assert parent != str(one.pid)
    assert rest.rpartition(") ")[2].split()[16] == "19"
    assert seen["cwd"].strip() == "/"
    environ = dict(word.split("=", 1) for word in seen["environ"].split("\0") if word)
    assert (environ["PGDATA"], environ["KEPT"]) == (str(one.data_dir), "kept")
    assert "hunter2" not in str(environ)
    assert not [name for name in environ if name.startswith("PGIDLE_")]


@needs_root
def test_the_first_process_of_a_container_tells_events_and_reaps(newest, launch, program) -> None:
    leave = f"setsid sleep 100 & echo $! >> {program.folder}/left"
    one = launch(
        newest,
        **SLEEPER,
        on_event=program.records(leave),
        prefix=("unshare", "--pid", "--fork", "--mount-proc"),
    )
    try:
        program.wait_for("slept")
        (inner,) = psutil.Process(one.pid).children()
        wait_until(lambda: inner.children(recursive=True) == [])
        assert serves(one)
        program.wait_for("slept", 2)
    finally:
        for inner in psutil.Process(one.pid).children():
            inner.terminate()
    assert one.wait() == 0
    program.wait_for("exited")


def serves(one: Supervised) -> bool:
    with psycopg.connect(one.conninfo()) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def test_it_may_be_changed_while_pgidle_runs(newest, launch, program, place) -> None:
    settings = place.folder("settings") / "pgidle.toml"
    settings.write_text("")
    one = launch(newest, **SLEEPER, config=str(settings))
    one.wait_for_state("asleep")
    delivered = one.data_dir / "pgidle" / DELIVERED

    def change(text: str) -> None:
        mark = one.mark()
        settings.write_text(text)
        one.signal(signal.SIGHUP)
        one.wait_log("settings.*on-event is now", since=mark)

    change(f'on-event = "{program.records()}"')
    program.wait_for("settings")
    assert program.events == ["settings"]
    wait_until(delivered.exists)
    change("")
    wait_until(lambda: not delivered.exists())
    wake(one)
    one.wait_for_state("asleep")
    assert program.events == ["settings"]
    wait_until(lambda: journal(one)[-1]["event"] == "slept")
    change(f'on-event = "{program.path}"')
    program.wait_for("settings", 2)
    assert program.events == ["settings", "settings"]


def test_without_a_receiver_a_mark_that_cannot_be_removed_harms_nothing(newest, launch) -> None:
    one = launch(newest, start=False, idle_timeout="500ms")
    (one.data_dir / "pgidle" / DELIVERED).mkdir(parents=True)
    (one.data_dir / "pgidle").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(one.data_dir / "pgidle", server_user().pw_uid, server_user().pw_gid)
    one.start()
    assert one.wait() == 0
    assert journal(one)[-1]["event"] == "exited"
    assert not [line for line in one.lines if "retrying" in line.text]


class Server:
    """A web server that answers with `statuses` in turn, and with 204 after them."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.statuses.pop(0) if outer.statuses else 204
                outer.requests.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def entries(self) -> list[Any]:
        return [entry for _, _, entry in self.requests]

    @property
    def events(self) -> list[str]:
        return [entry["event"] for entry in self.entries]

    def wait_for(self, event: str, count: int = 1) -> None:
        wait_until(lambda: self.events.count(event) >= count, lambda: f"no {event}: {self.events}")


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_a_web_server_is_given_each_event_and_its_secrets_are_shown_to_nobody(newest, launch, server) -> None:
    address = f"http://me:p%40ss@127.0.0.1:{server.port}/hook/hunter2?db=1"
    one = launch(newest, **SLEEPER, on_event=address)
    server.wait_for("slept")
    config = one.pgidle("config", "--on-event", address).stdout
    status = one.pgidle("status", "--json").stdout
    shown = f"http://127.0.0.1:{server.port}/***"
    assert shown in config
    assert shown in status
    assert one.stop() == 0
    assert server.entries == to_tell(one)
    assert server.events[-1] == "exited"
    path, headers, _ = server.requests[0]
    assert path == "/hook/hunter2?db=1"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="
    told = "\n".join(line.text for line in one.lines)
    assert "hunter2" not in config + status + told
    assert "p%40ss" not in config + status + told


def test_what_a_server_refuses_is_skipped_and_what_it_cannot_take_follows(newest, launch, server) -> None:
    server.statuses = [404, 302, 503]
    one = launch(newest, **SLEEPER, on_event=f"http://127.0.0.1:{server.port}")
    one.wait_log(
        "2 of . events are refused: the answer is status 302, and redirects are not followed|status 503"
    )
    server.wait_for("slept", 2)
    events = server.events
    assert events[:4] == ["started", "woken", "slept", "slept"]
    assert [path for path, _, _ in server.requests] == ["/"] * len(events)
    wait_until(lambda: (one.data_dir / "pgidle" / DELIVERED).exists())


def test_a_server_that_is_away_is_given_everything_by_the_next_run(newest, launch, server) -> None:
    one = launch(newest, **SLEEPER, on_event="http://127.0.0.1:1/hunter2")
    refused = one.wait_log(
        "on-event.*http://127.0.0.1:1/[*]{3}: Connection refused; 2 events are not delivered yet"
    )
    assert "hunter2" not in refused.text
    assert one.stop() == 0
    one.options["on-event"] = f"http://127.0.0.1:{server.port}"
    one.start()
    server.wait_for("woken", 2)
    assert server.entries == to_tell(one)[: len(server.entries)]


def test_tls_is_checked(newest, launch, server, place) -> None:
    folder = place.folder("tls")
    folder.chmod(0o755)
    made = folder / "ca.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [
            *command.split(),
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            f"{folder}/key",
            "-out",
            made,
        ],
        check=True,
        capture_output=True,
    )
    made.chmod(0o644)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, folder / "key")
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    address = f"https://localhost:{server.port}/hook"
    one = launch(newest, **SLEEPER, on_event=address)
    one.wait_log("on-event.*CERTIFICATE_VERIFY_FAILED|on-event.*certificate verify failed")
    assert one.stop() == 0
    assert server.requests == []
    one.env["SSL_CERT_FILE"] = str(made)
    one.start()
    server.wait_for("woken", 2)


def test_a_server_that_hangs_delays_neither_wakes_nor_a_stop(newest, launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        one = launch(newest, **SLEEPER, on_event=f"http://127.0.0.1:{port}")
        asked, _ = silent.accept()
        with asked:
            posting = [child for child in children(one) if child.net_connections()]
            # Neither the process nor its parent has a listener, or a Unix socket.
            (connection,) = posting[0].net_connections("all")
            assert connection.raddr.port == port
            (parent,) = [child for child in children(one) if child.pid == posting[0].ppid()]
            assert parent.name() == "pgidle-events"
            assert parent.net_connections("all") == []
            for _ in range(2):
                mark = one.mark()
                one.wait_for_state("asleep", since=mark)
                wake(one)
            assert one.stop() == 0


def children(one: Supervised) -> list[psutil.Process]:
    """Those that deliver."""
    found = psutil.Process(one.pid).children(recursive=True)
    return [child for child in found if child.name() == "pgidle-events"]
