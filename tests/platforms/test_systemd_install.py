"""The steps that `pgidle init systemd` prints, carried out as a user does, there and back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.booted import Booted
    from harness.installations import Installation, Place

needs_debian = pytest.mark.skipif(
    shutil.which("pg_createcluster") is None,
    reason="no clusters of Debian's here (apt-get install postgresql)",
)


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


@needs_debian
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
