"""The image under a real engine: Podman with crun, its own seccomp filter and capabilities, no sysctl of ours.

Containers have a network of their own and no bridge: clients are run in it, by `podman exec` or by nsenter(1).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from harness import containers
from harness.postgres_fixture import wait_until
from harness.restless import Restless

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

NAME = f"pgidle-test-{os.getpid()}"
ENVIRONMENT = {
    "POSTGRES_PASSWORD": "secret",
    "PGPASSWORD": "secret",
    "PGIDLE_WHEN_IDLE": "stay",
    "PGIDLE_IDLE_TIMEOUT": "1s",
    "PGIDLE_MIN_AWAKE": "1s",
}
AS_DOCUMENTED: tuple[str, ...] = ()
LEAST_RIGHTS = (
    *("--user", "999:999", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--read-only", "--tmpfs", "/tmp", "--tmpfs", "/run/postgresql:mode=1777"),
)
NO_IPV6 = ("--sysctl", "net.ipv6.conf.all.disable_ipv6=1")
"""As Docker up to 26 makes every container."""


class Engine:
    """Podman, in a mount namespace of its own: crun wants cgroups of one version, and some machines have both."""

    def __enter__(self) -> Self:
        only_version_1 = (
            "! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified; echo there; exec cat"
        )
        self._room = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", only_version_1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._room.stdout
        assert self._room.stdout.readline() == "there\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._room.communicate()

    def __call__(self, *arguments: str, check: bool = True) -> str:
        storage = containers.CACHE / "storage"
        own = (
            "--root",
            str(storage / "root"),
            "--runroot",
            str(storage / "run"),
            "--storage-driver",
            "overlay",
        )
        done = subprocess.run(
            [
                *("nsenter", "--target", str(self._room.pid), "--mount"),
                *("podman", *own, "--cgroup-manager", "cgroupfs", *arguments),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout


class Pod:
    """One container, which outlives its own end and can be started again."""

    def __init__(self, podman: Engine, *options: str, **environment: str) -> None:
        self._podman = podman
        self._options = options
        self._environment = ENVIRONMENT | environment

    def __enter__(self) -> Pod:
        given = [f"--env={name}={value}" for name, value in self._environment.items()]
        # Podman asks for as many descriptors as root may have where nothing is kept from it.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        given += [f"--ulimit=nofile={most}:{most}", "--ulimit=nproc=4096:4096"]
        own = ("--detach", "--name", NAME, "--network", "none")
        self._podman("run", *own, *given, *self._options, "localhost/pgidle")
        return self

    def __exit__(self, *_: object) -> None:
        self._podman("rm", "--force", "--volumes", NAME)

    @property
    def pid(self) -> int:
        return int(self._podman("inspect", NAME, "--format", "{{.State.Pid}}"))

    def run(self, *command: str) -> str:
        return self._podman("exec", NAME, *command).strip()

    def status(self) -> dict[str, Any]:
        said = self._podman("exec", NAME, "pgidle", "status", "--json", check=False)
        found: dict[str, Any] = json.loads(said) if said.startswith("{") else {"state": "unknown"}
        return found

    def wait_for(self, state: str) -> None:
        wait_until(lambda: self.status()["state"] == state)

    def stop(self) -> int:
        self._podman("stop", "--time", "20", NAME)
        return int(self._podman("inspect", NAME, "--format", "{{.State.ExitCode}}"))


@pytest.fixture(scope="module")
def podman() -> Iterator[Engine]:
    why = containers.missing() or ("" if shutil.which("podman") else "no podman")
    if why:
        assert os.environ.get("CI") != "true", f"podman must be tried here: {why}"
        pytest.skip(why)
    with containers.built(), Engine() as engine:
        yield engine


@pytest.mark.parametrize(
    "options", [AS_DOCUMENTED, LEAST_RIGHTS, NO_IPV6], ids=["documented", "least rights", "no IPv6"]
)
def test_it_sleeps_and_wakes_over_both_kinds_of_socket(podman: Engine, options: tuple[str, ...]) -> None:
    with Pod(podman, *options) as pod:
        for host in ("127.0.0.1", "/run/postgresql"):
            pod.wait_for("asleep")
            assert pod.status()["gate"]["mode"] == "shared"
            assert pod.run("psql", "-h", host, "-U", "postgres", "-XAtc", "SELECT 42") == "42"
        pod.wait_for("asleep")
        podman("healthcheck", "run", NAME)
        assert pod.status()["state"] == "asleep"
        assert pod.stop() == 0


def test_a_container_that_was_killed_is_ready_only_when_it_is(podman: Engine) -> None:
    """Its new postmaster may have the pid of the old one, whose postmaster.pid says that it is ready."""
    with Pod(podman, PGIDLE_IDLE_TIMEOUT="1h") as pod:
        pod.wait_for("awake")
        # All that it has to recover makes the start long enough for many to come.
        pod.run(
            "psql",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-c",
            "CREATE TABLE t AS SELECT generate_series(1, 100000)",
        )
        for _ in range(3):
            podman("kill", "--signal", "KILL", NAME)
            wait_until(lambda: podman("inspect", NAME, "--format", "{{.State.Status}}").strip() == "exited")
            podman("start", NAME)
            inside = ("nsenter", "--target", str(pod.pid), "--net")
            with Restless([("127.0.0.1", 5432)], each=10, prefix=inside, rest=0.01) as clients:
                pod.wait_for("awake")
                time.sleep(0.5)
            assert clients.met.failed == []
            assert clients.met.served > 0
        assert pod.stop() == 0
