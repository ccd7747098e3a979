"""The units that `pgidle init systemd` writes, under the real systemd, as a user installs them.

One machine is booted for all of them; each test has an instance of the template of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.booted import Booted, booted
from harness.clients import Habits, Ledger, run_clients
from harness.installations import conninfo, free_port, server_user
from harness.postgres_fixture import wait_until
from harness.supervised import Supervised
from pgidle.base.errors import PgidleError
from pgidle.control.client import request
from pgidle.init.systemd import group_lines
from pgidle.postgres.postgresql_conf import read_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.clients import Load
    from harness.installations import Installation, Place

HABITS = Habits(short=0.3, long=1.5, dozes=0.5, statements=3, cut_after=0.25)
# Where services are stopped and killed, sessions are cut at any time; that a connection fails is never right.
CUT = Habits(short=0.2, long=0.6, dozes=0.3, statements=2, cut_after=0)


def init(folder: Path, *options: object) -> Path:
    """What `pgidle init systemd` writes."""
    subprocess.run(
        [sys.executable, "-m", "pgidle", "init", "systemd", "--dir", folder, *map(str, options)],
        check=True,
        capture_output=True,
        cwd="/",
    )
    return folder


@dataclass(slots=True)
class Instance:
    """pgidle@NAME in the booted machine; the plain units for no name."""

    machine: Booted
    name: str
    port: int
    data_dir: Path

    @property
    def unit(self) -> str:
        return f"pgidle@{self.name}" if self.name else "pgidle"

    @property
    def service(self) -> str:
        return f"{self.unit}.service"

    @property
    def socket(self) -> str:
        return f"{self.unit}.socket"

    def systemctl(self, verb: str, unit: str | None = None, *, check: bool = True) -> str:
        return self.machine.run("systemctl", verb, unit or self.service, check=check)

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        with self.machine.network():
            return psycopg.connect(conninfo(self.port, connect_timeout=30), autocommit=True)

    def ask(self) -> int:
        """Connect, and have Postgres say its own postmaster's pid, as this machine sees it."""
        with self.connect() as connection:
            connection.execute("SELECT 1")
        return int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])

    def set(self, **settings: object) -> None:
        """Write the instance's file of settings, as a user would."""
        lines = "".join(f"{name.upper()}={value}\n" for name, value in settings.items())
        self.machine.run(
            "sh", "-c", f"mkdir -p /etc/pgidle; printf '{lines}' > /etc/pgidle/{self.name or 'pgidle'}.env"
        )

    def wait_for(self, state: str) -> None:
        self.machine.wait_for(self.service, ActiveState=state)

    def sleeps(self) -> int:
        return self.machine.journal(self.service).count("asleep: Postgres shut down cleanly")

    def force_sleep(self) -> bool:
        with contextlib.suppress(PgidleError, OSError):
            return request(str(self.data_dir / "pgidle"), "POST", "/sleep?force=1")[0] == 200
        return False

    def check(self) -> None:
        """The socket was never lost, whatever happened to the service."""
        assert self.machine.show(self.socket, "ActiveState", "Result") == {
            "ActiveState": "active",
            "Result": "success",
        }
        assert "limit hit" not in self.machine.journal(self.socket)


@pytest.fixture(scope="module")
def machine(place: Place) -> Iterator[Booted]:
    with booted(place.path) as one:
        yield one


@pytest.fixture
def launch(machine: Booted, newest: Installation, place: Place) -> Iterator[Callable[..., Instance]]:
    """Installs the units of an instance and starts its socket. `env` is its file of settings."""
    launched: list[Instance] = []

    def begin(
        name: str, idle_timeout: str = "300ms", on: Installation | None = None, **env: object
    ) -> Instance:
        port = 5432 + len(launched)
        installation = on or newest
        one = Instance(machine, name, port, place.data_dir(installation))
        named = ("--name", name) if name else ()
        options = ("--port", port, "--idle-timeout", idle_timeout, "--data-dir", one.data_dir)
        machine.install(init(place.folder("units"), *named, *options))
        one.set(pgidle_bin_dir=installation.bin_dir, pgidle_min_awake="0s", **env)
        machine.run("systemctl", "start", one.socket)
        launched.append(one)
        return one

    yield begin
    for one in launched:
        machine.run("systemctl", "stop", one.socket, one.service)
        machine.run("systemctl", "reset-failed", check=False)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (apt-get install systemd)"
)
@pytest.mark.parametrize("name", ["", "shop"])
def test_systemd_accepts_every_line(place: Place, name: str) -> None:
    folder = init(place.folder("units"), *(("--name", name) if name else ()))
    unit = f"pgidle@{name}" if name else "pgidle"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"{unit}.socket", f"{unit}.service"],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:/usr/lib/systemd/system"},
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "pgidle" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (apt-get install systemd)"
)
@pytest.mark.parametrize("name", ["", "shop"])
def test_little_is_left_that_it_may_do(place: Place, name: str) -> None:
    """Below 4.0 of 10; Debian's postgresql@ has 9.6."""
    folder = init(place.folder("units"), *(("--name", name) if name else ()))
    unit = f"pgidle@{name}.service" if name else "pgidle.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=39", unit],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:/usr/lib/systemd/system"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_postgres_and_its_programs_do_they_may(installation: Installation, place: Place, launch) -> None:
    one = launch("hard", idle_timeout="1min", on=installation)
    folder = place.folder("archive")
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"archive_mode = on\narchive_command = 'gzip <%p >{folder}/%f.gz'\nhuge_pages = try\n")
        conf.write("shared_preload_libraries = 'pg_stat_statements'\nlog_destination = 'stderr, syslog'\n")
        if installation.major >= 18:
            conf.write("io_method = worker\n")
    with one.connect() as connection:
        run = connection.execute
        run("CREATE TABLE many AS SELECT g FROM generate_series(1, 200000) g")
        run("SET jit_above_cost = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
        run("SET min_parallel_table_scan_size = 0")
        plan = "\n".join(
            str(row[0]) for row in run("EXPLAIN (ANALYZE) SELECT sum(sqrt(g)) FROM many").fetchall()
        )
        assert "Workers Launched: 2" in plan
        assert run("SELECT pg_jit_available()").fetchone() != (True,) or "JIT:" in plan
        run(f"COPY many TO '{folder}/file'")
        run(f"COPY many TO PROGRAM 'cat >{folder}/program'")
        run("COPY many TO '/tmp/hard'")
        run(f"CREATE TABLESPACE elsewhere LOCATION '{place.folder('space')}'")
        run("CREATE TABLE there TABLESPACE elsewhere AS SELECT 1")
        run("SELECT pg_switch_wal()")
        run("CHECKPOINT")
    assert (folder / "file").read_bytes() == (folder / "program").read_bytes()
    # In /tmp, and the socket too: others see it.
    assert one.machine.run("cat", "/tmp/hard").count("\n") == 199999
    psql = (
        installation.client_program("psql"),
        "-h",
        place.path / "s",
        "-p",
        str(one.port),
        "-U",
        "postgres",
    )
    assert one.machine.run("runuser", "-u", "postgres", "--", *psql, "-Atc", "TABLE there") == "1"
    backup = (
        installation.client_program("pg_basebackup"),
        "-h127.0.0.1",
        f"-p{one.port}",
        "-Upostgres",
        "-Xs",
    )
    one.machine.run(*backup, "-Ft", "-D", place.folder("backup"))
    wait_until(lambda: any(folder.glob("*.gz")))
    status = one.machine.run(
        "grep", "-E", "^(CapEff|NoNewPrivs|Seccomp):", f"/proc/{one.ask()}/status"
    ).split()
    assert status == ["CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    before = one.sleeps()
    one.machine.run(sys.executable, "-m", "pgidle", "sleep", "-D", one.data_dir)
    one.wait_for("inactive")
    assert one.sleeps() == before + 1
    said = one.machine.journal(one.service)
    # A start was tried in there too.
    assert "is not known" not in said
    assert not re.search("not permitted|denied", said, re.IGNORECASE)
    one.ask()
    one.check()


def test_the_printed_steps_from_nothing_to_a_served_client(
    machine: Booted, newest: Installation, place: Place
) -> None:
    folder = place.folder("steps")
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "pgidle",
            "init",
            "systemd",
            "--name",
            "new",
            "--port",
            "5433",
            "--dir",
            folder,
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
    )
    *steps, psql = [
        line.removeprefix("sudo ")
        for line in said.stdout.partition("Next, in this order:")[2].splitlines()
        if line and not line.startswith(("#", "cd "))
    ]
    machine.run("sh", "-exc", "\n".join([f"cd {folder}", *steps]))
    # Which of two installed versions makes the data directory is not what is tested.
    machine.run("sh", "-c", f"echo PGIDLE_BIN_DIR={newest.bin_dir} >>/etc/pgidle/new.env")
    # Nobody needs sudo here, and psql is not on the machine's PATH.
    psql = psql.replace("sudo ", "").replace(" psql ", f" {newest.program('psql')} ")
    machine.run("sh", "-c", f"{psql} -c 'SELECT 1'")
    assert machine.show("pgidle@new.service", "NRestarts", "User") == {"NRestarts": "0", "User": ""}
    machine.run("systemctl", "stop", "pgidle@new.socket")


@pytest.mark.skipif(
    shutil.which("pg_createcluster") is None,
    reason="no clusters of Debian's here (apt-get install postgresql)",
)
def test_a_cluster_of_debian_s_there_and_back(machine: Booted) -> None:
    version = machine.run("sh", "-c", "ls /usr/lib/postgresql | sort -n | tail -n 1")
    debian = f"postgresql@{version}-shop"
    data_dir = f"/var/lib/postgresql/{version}/shop"
    as_postgres = ("runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--port=5499")
    machine.run("pg_createcluster", version, "shop", "--port=5499", "--", "--nosync")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", debian)
    machine.run(*as_postgres, "-c", "ALTER ROLE postgres PASSWORD 'x'", "-c", "CREATE TABLE kept ()")
    machine.run(*as_postgres, "-c", "ALTER SYSTEM SET listen_addresses = '127.0.0.2, ::1'")
    machine.run("systemctl", "restart", debian)

    def ask(host: str) -> str:
        where = f"host={host} port=5499 user=postgres password=x"
        query = "SELECT current_setting('cluster_name'), 'kept'::regclass"
        return machine.run("psql", "--no-psqlrc", "-Atc", query, where)

    def states() -> list[str]:
        return machine.run(
            "systemctl", "is-active", debian, "pgidle@there.socket", "pgidle@there.service", check=False
        ).splitlines()

    before = ask("127.0.0.2")
    command = (sys.executable, "-m", "pgidle", "init", "systemd", "--name=there", "--dir=/root/there")
    said = machine.run(*command, f"--data-dir={data_dir}")
    there, _, back = (
        said.partition("Next, in this order:")[2]
        .replace("sudo -u postgres", "runuser -u postgres --")
        .partition("# Back")
    )
    *steps, psql = [line for line in there.replace("sudo ", "").splitlines() if line and line[0] != "#"]
    machine.run("sh", "-exc", "\n".join(steps))
    assert states() == ["inactive", "active", "inactive"]
    # Nobody gives a password: pg_hba.conf says peer.
    assert machine.run("sh", "-c", f"{psql} --no-psqlrc -Atc \"SELECT 'kept'::regclass\"") == "kept"
    assert states() == ["inactive", "active", "active"]
    assert machine.run(
        "runuser", "-u", "nobody", "--", "psql", "--port=5499", "postgres", check=False
    ).endswith('role "nobody" does not exist')
    machine.run(sys.executable, "-m", "pgidle", "sleep", "-D", data_dir)
    machine.wait_for("pgidle@there.service", ActiveState="inactive")
    assert machine.run("runuser", "-u", "postgres", "--", "pg_dumpall", "--port=5499").endswith(
        "PostgreSQL database cluster dump complete\n--"
    )
    assert [ask("127.0.0.2"), ask("::1")] == [before, before]
    assert states() == ["inactive", "active", "active"]
    machine.run(sys.executable, "-m", "pgidle", "sleep", "-D", data_dir)
    machine.wait_for("pgidle@there.service", ActiveState="inactive")
    assert "not known" not in machine.journal("pgidle@there.service")
    assert ask("::1") == before

    machine.run("sh", "-exc", back.partition("\n")[2].replace("#", "").replace("sudo ", ""))
    assert states() == ["active", "inactive", "inactive"]
    assert [ask("127.0.0.2"), ask("::1")] == [before, before]
    assert machine.run(*as_postgres, "-Atc", "SELECT 'kept'::regclass") == "kept"
    assert machine.run("cat", f"/etc/postgresql/{version}/shop/start.conf") == "auto"
    machine.run("systemctl", "stop", debian)


def test_started_means_served(launch) -> None:
    one = launch("started", idle_timeout="1min")
    one.systemctl("start")
    assert one.machine.show(one.service, "ActiveState", "SubState") == {
        "ActiveState": "active",
        "SubState": "running",
    }
    postmaster = one.ask()
    status = one.systemctl("status")
    assert re.search(r'Status: "awake: Postgres accepts connections after \d+ ms"', status), status
    environ = one.machine.run("sh", "-c", f"cat /proc/{postmaster}/environ | tr '\\0' '\\n'")
    assert "NOTIFY_SOCKET" not in environ
    assert "PG_OOM_ADJUST_VALUE=0" in environ
    one.systemctl("reload")
    one.machine.wait_said(one.service, "reload: SIGHUP received")
    one.machine.wait_said(one.service, "LOG:  received SIGHUP, reloading")
    assert one.ask() == postmaster
    one.check()


def test_what_the_journal_says(launch) -> None:
    one = launch("said")
    one.ask()
    one.wait_for("inactive")
    lines = one.machine.journal(one.service).splitlines()
    # The journal's own time and pid, and no second ones of ours.
    assert any(re.search(r"\]: awake: Postgres accepts", line) for line in lines), lines
    assert re.search(r'Status: "asleep: last use ', one.systemctl("status", check=False))
    assert one.machine.show(one.service, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }


def test_a_start_that_fails_is_seen_and_its_clients_are_served_when_it_is_mended(
    launch, newest: Installation
) -> None:
    one = launch("broken", pgidle_port="nonsense")
    waiting = threading.Thread(target=one.ask)
    waiting.start()
    # More often than systemd would let it, without being told.
    one.machine.wait_for(one.service, NRestarts="[6-9]|..")
    one.machine.wait_said(one.service, "Main process exited, code=exited, status=2")
    one.check()
    one.set(pgidle_bin_dir=newest.bin_dir)
    waiting.join(30)
    assert not waiting.is_alive()
    one.wait_for("active")
    one.check()


def test_recovery_is_given_its_time(launch) -> None:
    one = launch("slow", idle_timeout="1min")
    (one.data_dir / "recovery.signal").touch()
    with (one.data_dir / "postgresql.auto.conf").open("a") as conf:
        conf.write("restore_command = 'sleep 0.5; false'\n")
    one.machine.run("mkdir", "-p", f"/etc/systemd/system/{one.service}.d")
    one.machine.run(
        "sh", "-c", f"printf '[Service]\\nTimeoutStartSec=1s\\n' > /etc/systemd/system/{one.service}.d/t.conf"
    )
    one.machine.run("systemctl", "daemon-reload")
    one.systemctl("start")
    assert one.machine.show(one.service, "NRestarts", "ActiveState") == {
        "NRestarts": "0",
        "ActiveState": "active",
    }


async def both(instances: list[Instance], ledgers: list[Ledger], sessions: int, habits: Habits) -> list[Load]:
    return await asyncio.gather(
        *(
            run_clients(
                conninfo(one.port), ledger, workers=2, sessions=sessions, seed=one.port, habits=habits
            )
            for one, ledger in zip(instances, ledgers, strict=True)
        )
    )


@pytest.mark.heavy
def test_two_instances_sleep_and_wake_side_by_side(machine: Booted, launch) -> None:
    instances = [launch("left"), launch("right")]
    ledgers = [Ledger(), Ledger()]
    with machine.network():
        for one, ledger in zip(instances, ledgers, strict=True):
            ledger.create(conninfo(one.port))
        loads = asyncio.run(both(instances, ledgers, 14, HABITS))
        for one, ledger, load in zip(instances, ledgers, loads, strict=True):
            assert load.failures == []
            assert load.connections == 28
            assert ledger.missing(conninfo(one.port)) == []
            assert one.sleeps() >= 3
            one.check()
            assert machine.show(one.service, "NRestarts") == {"NRestarts": "0"}


class Nuisance:
    """Does something again and again beside a block, and as often as wanted at least."""

    def __init__(self, act: Callable[[], object], times: int) -> None:
        self._act, self._times = act, times
        self._thread = threading.Thread(target=self._run)
        self.done = threading.Event()

    def __enter__(self) -> Nuisance:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        for _ in range(self._times):
            self._act()
        self.done.set()


def visit_while(one: Instance, ledger: Ledger, act: Callable[[], object], times: int) -> list[Load]:
    """Clients for as long as something is done to their service so many times."""
    loads = []
    with one.machine.network():
        ledger.create(conninfo(one.port))
        with Nuisance(act, times) as nuisance:
            while not nuisance.done.is_set():
                loads.append(
                    asyncio.run(
                        run_clients(
                            conninfo(one.port), ledger, workers=4, sessions=3, seed=len(loads), habits=CUT
                        )
                    )
                )
    return loads


@pytest.mark.heavy
@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_an_administrator_s_hand(launch, verb: str) -> None:
    one = launch(verb)
    ledger = Ledger()
    loads = visit_while(one, ledger, lambda: one.systemctl(verb), 4)
    assert [failure for load in loads for failure in load.failures] == []
    with one.machine.network():
        assert ledger.missing(conninfo(one.port)) == []
    one.wait_for("inactive")
    assert one.machine.show(one.service, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }
    one.check()


def test_crashes(launch) -> None:
    one = launch("crash", idle_timeout="1min")
    ledger = Ledger()
    with one.machine.network():
        ledger.create(conninfo(one.port))
        asyncio.run(run_clients(conninfo(one.port), ledger, workers=2, sessions=2, seed=1, habits=CUT))
    postmaster = one.ask()
    one.machine.run("kill", "-9", str(postmaster))
    assert one.ask() != postmaster
    assert one.machine.show(one.service, "NRestarts") == {"NRestarts": "0"}
    postmaster = one.ask()
    one.machine.signal(one.service, signal.SIGKILL)
    one.machine.wait_for(one.service, NRestarts="1", ActiveState="active")
    assert one.ask() != postmaster
    with one.machine.network():
        assert ledger.missing(conninfo(one.port)) == []
    one.check()


def test_a_client_who_comes_while_nothing_runs_waits_for_the_restart(launch) -> None:
    one = launch("gone", idle_timeout="1min")
    postmaster = one.ask()
    one.machine.signal(one.service, signal.SIGKILL)
    one.machine.wait_for(one.service, SubState="auto-restart|start")
    assert one.ask() != postmaster
    one.check()


def test_the_socket_is_the_switch(launch) -> None:
    one = launch("switch", idle_timeout="1min")
    one.ask()
    one.systemctl("stop", one.socket)
    assert one.machine.show(one.service, "ActiveState", "Result") == {
        "ActiveState": "inactive",
        "Result": "success",
    }
    with pytest.raises(psycopg.OperationalError, match="refused"):
        one.connect()
    # A service that is started by hand brings its socket.
    one.systemctl("start")
    one.ask()
    one.check()


@pytest.mark.heavy
def test_a_storm_of_clients_in_every_exit(launch) -> None:
    """Each exit is met by many at once. systemd gives up on a socket that triggers too often."""
    one = launch("storm", idle_timeout="off")
    failures: list[str] = []

    def knock() -> None:
        try:
            one.ask()
        except (psycopg.Error, OSError, ValueError) as error:
            failures.append(str(error))

    one.ask()
    for _ in range(6):
        before = one.sleeps()
        assert one.force_sleep()
        storm = [threading.Thread(target=knock) for _ in range(20)]
        for thread in storm:
            thread.start()
        for thread in storm:
            thread.join()
        assert one.sleeps() > before
    assert failures == []
    one.check()


def test_the_plain_units(launch) -> None:
    one = launch("")
    for _ in range(3):
        one.ask()
        one.wait_for("inactive")
    one.check()


@dataclass(frozen=True, slots=True)
class Psql:
    """psql at an instance's Unix socket, as Postgres's user, without a password."""

    one: Instance
    program: Path

    def ask(self, folder: Path, **env: str) -> str:
        where = ("-h", folder, "-p", str(self.one.port), "-XAtc", "SELECT 'served'", "postgres")
        become = ("runuser", "-u", server_user().pw_name, "--")
        return self.one.machine.run(*become, self.program, *where, check=False, env=env)


def drop_in(one: Instance, unit: str, text: str) -> None:
    folder = f"/etc/systemd/system/{unit}.d"
    one.machine.run("sh", "-c", f"mkdir -p {folder}; printf '%s' '{text}' >{folder}/test.conf")
    one.machine.run("systemctl", "daemon-reload")


def test_whoever_comes_by_the_unix_socket_wakes_it(
    installation: Installation, place: Place, launch: Callable[..., Instance]
) -> None:
    one = launch("unix", idle_timeout="1h", on=installation)
    (one.data_dir / "pg_hba.conf").write_text("local all all peer\n")
    path = place.path / "s" / f".s.PGSQL.{one.port}"
    lock = path.with_name(f"{path.name}.lock")
    inode = path.stat().st_ino
    psql = Psql(one, installation.client_program("psql"))
    assert psql.ask(path.parent) == "served"
    assert path.stat().st_mode & 0o777 == 0o777
    for at in range(3):
        assert lock.exists()
        assert one.force_sleep()
        one.wait_for("inactive")
        # The path is systemd's still, and nobody's process has a claim to it.
        assert (path.stat().st_ino, lock.exists()) == (inode, False)
        # By whoever listened last, which was Postgres's user.
        assert psql.ask(path.parent, PGREQUIREPEER=server_user().pw_name) == "served", at
    refused = one.machine.run(psql.program, "-h", path.parent, f"-p{one.port}", "-U", "postgres", check=False)
    assert "Peer authentication failed" in refused
    one.check()


def test_the_group_that_postgresql_conf_names_is_given_without_following_a_link(
    newest: Installation, place: Place, launch: Callable[..., Instance]
) -> None:
    one, group = launch("group", idle_timeout="1h"), grp.getgrnam("daemon").gr_gid
    path = place.path / "s" / f".s.PGSQL.{one.port}"
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write("unix_socket_group = 'daemon'\nunix_socket_permissions = 0770\n")
    (line,) = group_lines(read_parameters(str(one.data_dir), ()), [f"ListenStream={path}"])
    drop_in(one, one.socket, f"[Socket]\nSocketMode=0770\n{line}\n")
    one.systemctl("stop", one.socket)
    one.systemctl("start", one.socket)
    assert (path.stat().st_mode & 0o777, path.stat().st_uid, path.stat().st_gid) == (0o770, 0, group)
    become = ("runuser", "-u", server_user().pw_name, "-g", "daemon", "--")
    psql = (newest.client_program("psql"), "-h", path.parent, f"-p{one.port}", "-XAtc", "SELECT 'served'")
    for _ in range(2):
        assert one.machine.run(*become, *psql, "-U", "postgres", "postgres", check=False) == "served"
        assert (path.stat().st_uid, path.stat().st_gid) == (0, group)
        assert one.force_sleep()
        one.wait_for("inactive")
    # What Postgres's user has put in its place is left alone.
    target = place.path / "root-only"
    target.touch(0o600)
    path.unlink()
    path.symlink_to(target)
    one.machine.run("sh", "-c", line.removeprefix("ExecStartPost="))
    assert target.stat().st_gid == 0
    path.unlink()


def test_a_folder_that_systemd_does_not_hold_is_there_only_while_it_is_awake(
    newest: Installation, place: Place, launch: Callable[..., Instance]
) -> None:
    """A door for exporters, which are not to wake it."""
    one = launch("door", idle_timeout="1h")
    held, other = place.path / "s", place.folder("metrics")
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{other}, {held}'\n")
    psql = Psql(one, newest.client_program("psql"))
    assert "No such file" in psql.ask(other)
    assert psql.ask(held) == "served"
    assert psql.ask(other) == "served"
    for _ in range(3):
        before = one.sleeps()
        assert one.force_sleep()
        one.wait_for("inactive")
        for _ in range(3):
            assert "No such file" in psql.ask(other)
        assert one.machine.show(one.service, "ActiveState") == {"ActiveState": "inactive"}
        assert one.sleeps() == before + 1
        assert psql.ask(held) == "served"
    one.check()


def test_a_unix_socket_that_somebody_removed_while_nothing_ran(
    newest: Installation, place: Place, launch: Callable[..., Instance]
) -> None:
    one = launch("swept", idle_timeout="1h")
    (place.path / "s" / f".s.PGSQL.{one.port}").unlink()
    one.ask()
    one.machine.wait_said(one.service, "is gone; until its socket unit is restarted")
    psql = Psql(one, newest.client_program("psql"))
    assert psql.ask(place.path / "s") == "served"
    assert one.force_sleep()
    one.wait_for("inactive")
    one.systemctl("stop", one.socket)
    one.systemctl("start", one.socket)
    assert psql.ask(place.path / "s") == "served"
    one.check()


def test_a_service_with_a_user_of_its_own_needs_no_root(
    newest: Installation, place: Place, launch: Callable[..., Instance]
) -> None:
    one = launch("user", idle_timeout="1h")
    drop_in(one, one.service, f"[Service]\nUser={server_user().pw_name}\nCapabilityBoundingSet=\n")
    psql = Psql(one, newest.client_program("psql"))
    for _ in range(2):
        one.ask()
        assert psql.ask(place.path / "s") == "served"
        assert one.force_sleep()
        one.wait_for("inactive")
        assert psql.ask(place.path / "s") == "served"
    assert "gate: " not in one.machine.journal(one.service)
    one.check()


def test_a_unix_socket_that_postgres_could_not_take_is_refused_with_what_to_do(
    newest: Installation, place: Place
) -> None:
    port, folder = free_port(), place.folder("s")
    path = folder / ".s.PGSQL.1"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with Supervised(newest, place, port=port, listen=[listener]) as one:
            assert one.wait() == 1
    assert one.lines[-1].text == (
        f"pgidle: the inherited Unix socket {path} is none of a Postgres on port {port}: "
        f"give pgidle.socket ListenStream={folder}/.s.PGSQL.{port}"
    )
