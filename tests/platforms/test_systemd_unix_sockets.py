"""Unix sockets that systemd holds: they wake Postgres, with the rights that it would have given them."""

from __future__ import annotations

import grp
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.installations import free_port, server_user
from harness.supervised import Supervised
from pgidle.init.systemd import group_lines
from pgidle.postgres.postgresql_conf import read_parameters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.installations import Installation, Place
    from harness.systemd_units import Instance


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
    installation: Installation, place: Place, instance: Callable[..., Instance]
) -> None:
    one = instance("unix", idle_timeout="1h", on=installation)
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
    newest: Installation, place: Place, instance: Callable[..., Instance]
) -> None:
    one, group = instance("group", idle_timeout="1h"), grp.getgrnam("daemon").gr_gid
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
    newest: Installation, place: Place, instance: Callable[..., Instance]
) -> None:
    """A door for exporters, which are not to wake it."""
    one = instance("door", idle_timeout="1h")
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
    newest: Installation, place: Place, instance: Callable[..., Instance]
) -> None:
    one = instance("swept", idle_timeout="1h")
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
    newest: Installation, place: Place, instance: Callable[..., Instance]
) -> None:
    one = instance("user", idle_timeout="1h")
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
