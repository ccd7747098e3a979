"""`scripts/bench-systemd`: what sleeping databases cost under the real systemd, and how fast each wakes.

Boots systemd in namespaces, installs the template units that `pgidle init systemd` writes, and starts a socket for each
of many instances, all with their own data directories and ports.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING

import click
import psycopg

from bench.servers import install_in_venv
from harness.booted import Booted, why_not
from harness.installations import Place, conninfo, debian, embedded, server_user
from pgidle.init.command import make_plan, write_plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.installations import Installation

ONE_BY_ONE = 20
IDLE_TIMEOUT = 100
"""Seconds. From then on an observer is put off as long as with the usual 300. Of a thousand that are all awake at once
many a machine has not the memory."""
AT_A_TIME = 100
"""Instances, for one command inside the machine, which may take a minute."""
FIRST_PORT = 6000
HOME = "/srv"
TEMPLATES = ("1", "4")
"""Folders of template1 and template0, from PostgreSQL 15 on (pg_database.dat)."""


class Instances:
    """So many instances of the template, asleep."""

    def __init__(
        self, machine: Booted, place: Place, installation: Installation, count: int, idle_timeout: int
    ) -> None:
        self._machine = machine
        self._idle_timeout = idle_timeout
        self.names = [f"db{number}" for number in range(count)]
        self.ports = dict(zip(self.names, range(FIRST_PORT, FIRST_PORT + count), strict=True))
        units = place.folder("units")
        template = place.data_dir(installation)
        for name in self.names:
            self._write(units, name)
        self._copy(template, installation)
        machine.run("mkdir", "-p", "/etc/pgidle")
        settings = f"PGIDLE_BIN_DIR={installation.bin_dir}\\nPGIDLE_MIN_AWAKE=0s\\n"
        machine.run(
            "sh", "-c", f"for n in {' '.join(self.names)}; do printf '{settings}' >/etc/pgidle/$n.env; done"
        )
        program = install_in_venv(place)
        dropin = units / "pgidle@.service.d/program.conf"
        dropin.parent.mkdir()
        dropin.write_text(f"[Service]\nExecStart=\nExecStart={program} run\n")
        machine.run("cp", "-r", f"{units}/.", "/etc/systemd/system/")

    def _copy(self, template: Path, installation: Installation) -> None:
        """A data directory for each, in memory, which a disk could not keep up with. Of 40 MB each they would fill it:
        so segments of WAL are small, and all share the files of the two template databases, which nobody opens."""
        machine, user = self._machine, server_user().pw_name
        machine.run("cp", "-a", template, f"{HOME}/template")
        resize = (f"{installation.bin_dir}/pg_resetwal", "--wal-segsize=1", "-D", f"{HOME}/template")
        machine.run("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *resize)
        # Two postmasters that write the same files would ruin them.
        machine.run("sh", "-c", f"echo autovacuum=off >>{HOME}/template/postgresql.conf")
        share = f'mkdir shared; for one in {" ".join(TEMPLATES)}; do mv "template/base/$one" shared; done'
        machine.run("sh", "-euc", f"cd {HOME}; {share}")
        copy = 'for name; do cp -a template "$name"; cp -al shared/* "$name/base"; done'
        for names in self._some():
            machine.run("sh", "-euc", f"cd {HOME}; {copy}", "sh", *names)

    def _some(self) -> Iterator[list[str]]:
        """All names, AT_A_TIME in a list."""
        for first in range(0, len(self.names), AT_A_TIME):
            yield self.names[first : first + AT_A_TIME]

    def _write(self, units: Path, name: str) -> None:
        where = {"port": str(self.ports[name]), "data-dir": f"{HOME}/{name}"}
        chosen = {"name": name, "idle-timeout": f"{self._idle_timeout}s"} | where
        write_plan(make_plan("systemd", chosen), str(units), force=True)

    def open(self) -> None:
        self._machine.run("systemctl", "daemon-reload")
        for names in self._some():
            self._machine.run("systemctl", "start", *(f"pgidle@{name}.socket" for name in names))

    def wake(self, name: str) -> float | None:
        """Seconds from a client's connect to the answer to its first query, or None if it failed."""
        began = time.monotonic()
        where = conninfo(self.ports[name], connect_timeout=120)
        try:
            with self._machine.network(), psycopg.connect(where, autocommit=True) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            click.echo(f"{name}: {error}", err=True)
            return None
        return time.monotonic() - began

    def wait_until_asleep(self) -> None:
        deadline = time.monotonic() + self._idle_timeout + 300
        while awake := self._machine.run(
            "systemctl",
            "list-units",
            "--plain",
            "--no-legend",
            "--state=active,activating,deactivating",
            "pgidle@*.service",
        ).splitlines():
            if time.monotonic() > deadline:
                said = self._machine.journal(awake[0].split()[0]).splitlines()
                raise click.ClickException("\n".join((f"{len(awake)} never slept; the first:", *said[-20:])))
            time.sleep(0.5)

    def lost(self) -> int:
        """Sockets that do not listen any more."""
        listening = self._machine.run(
            "systemctl", "list-units", "--plain", "--no-legend", "--state=active", "pgidle@*.socket"
        )
        return len(self.names) - len(listening.splitlines())

    def processes(self) -> int:
        """How many run for all of them together."""
        groups = "/sys/fs/cgroup/system.slice/*/pgidle*/cgroup.procs"
        return int(self._machine.run("sh", "-c", f"cat {groups} 2>/dev/null | wc -l"))


def _row(name: str, figure: str) -> None:
    click.echo(f"{name:<58} {figure:>14}")


def _milliseconds(wakes: list[float | None]) -> str:
    seconds = [wake for wake in wakes if wake is not None]
    return f"{median(seconds) * 1000:.0f} / {max(seconds) * 1000:.0f} ms" if seconds else "-"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--instances", type=click.IntRange(ONE_BY_ONE), default=200, show_default=True)
@click.option(
    "--at-once", type=click.IntRange(1), default=20, show_default=True, help="How many are woken together."
)
@click.option(
    "--idle-timeout",
    type=click.IntRange(1),
    default=IDLE_TIMEOUT,
    show_default=True,
    help="Of each, in seconds.",
)
def main(instances: int, at_once: int, idle_timeout: int) -> None:
    """Memory of systemd with many sleeping databases, and the wakes of all of them. Needs root."""
    if (reason := why_not()) is not None:
        raise click.ClickException(reason)
    installation = max((one for one in (embedded(), debian()) if one), key=lambda one: one.major)
    place = Place()
    try:
        with Booted(place.path) as machine:
            sleeping = Instances(machine, place, installation, instances, idle_timeout)
            before = machine.memory()
            sleeping.open()
            opened = machine.memory()
            alone = [sleeping.wake(name) for name in sleeping.names[:ONE_BY_ONE]]
            sleeping.wait_until_asleep()
            with ThreadPoolExecutor(at_once) as pool:
                together = list(pool.map(sleeping.wake, sleeping.names[ONE_BY_ONE:]))
            sleeping.wait_until_asleep()
            after = machine.memory()
            processes, lost = sleeping.processes(), sleeping.lost()
    finally:
        place.clean()
    _row("instances", str(instances))
    _row("processes of all of them, asleep", str(processes))
    _row("systemd's memory (PSS) without them", f"{before / 1024:.0f} kB")
    _row("  more for each socket that was opened", f"{(opened - before) / 1024 / instances:.1f} kB")
    _row(
        "  more for each that has been awake once and sleeps", f"{(after - before) / 1024 / instances:.1f} kB"
    )
    _row(f"wake of {ONE_BY_ONE}, one by one: median / slowest", _milliseconds(alone))
    if together:
        _row(f"wake of {len(together)}, {at_once} at once: median / slowest", _milliseconds(together))
    failed = [*alone, *together].count(None)
    _row("connections that failed", str(failed))
    _row("sockets that listen no more", str(lost))
    if failed or lost:
        raise click.ClickException(f"{failed} connections failed, {lost} sockets listen no more")


if __name__ == "__main__":
    main(prog_name="scripts/bench-systemd")
