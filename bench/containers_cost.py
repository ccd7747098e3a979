"""`scripts/image --measure`: what the image costs compared with Postgres alone in the same root, on this machine."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench import wire
from harness.containers import Container, Image, built, report
from harness.namespaces import own_network

RUNS = 7
MANY = 100
MS = 1000.0
PORT = 5432
TRUST = {"POSTGRES_HOST_AUTH_METHOD": "trust", "PGIDLE_WHEN_IDLE": "stay", "PGIDLE_IDLE_TIMEOUT": "off"}


def wake(one: Container) -> float:
    """Milliseconds from the entrypoint's exec to a client's first row; it tries all the while."""
    began = one.began
    wire.first_row(PORT, lambda: True)
    return (time.monotonic() - began) * MS


def wake_again(one: Container) -> float:
    """Milliseconds from a client's connect() to its first row, while Postgres sleeps."""
    assert one.exec("pgidle", "sleep", "--wait").returncode == 0
    began = time.monotonic()
    wire.first_row(PORT, lambda: True)
    return (time.monotonic() - began) * MS


def bare(image: Image, work: Path) -> Container:
    return Container(image, work, "postgres", "-c", "listen_addresses=*", user=(999, 999), entrypoint=())


def resident(pid: int) -> float:
    """Megabytes of a process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def asleep_together(image: Image, work: Path, count: int) -> float:
    """Megabytes that the processes of so many sleeping containers take together (their proportional set sizes)."""
    with ExitStack() as all_of_them:
        containers = []
        for number in range(count):
            folder = work / f"many{number}"
            folder.mkdir()
            settings = TRUST | {"PGIDLE_IDLE_TIMEOUT": "1s", "PGIDLE_MIN_AWAKE": "0s", "PGIDLE_HTTP": "off"}
            one = Container(image, folder, env=settings | {"PGPORT": str(PORT + number)})
            containers.append(all_of_them.enter_context(one))
            one.wait_log("asleep:")
        inside = [family(one.pid) for one in containers]
        while any(len(pids) > 2 for pids in inside):  # An observer on its way out.
            time.sleep(0.1)
            inside = [family(one.pid) for one in containers]
        return sum(proportional(pid) for pids in inside for pid in pids)


def family(pid: int) -> list[int]:
    """A process, and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def proportional(pid: int) -> float:
    """Megabytes of a process's proportional set size."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(rollup.split("Pss:")[1].split()[0]) / 1024


def health_seconds(one: Container, *command: str) -> float:
    """CPU seconds of one command in the container."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert one.exec(*command).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with (
        built() as (base, image),
        tempfile.TemporaryDirectory(prefix="pgidle-image-") as folder,
        own_network(),
    ):
        print("\n".join(report(base, image)))  # noqa: T201
        os.chmod(folder, 0o755)  # noqa: PTH101
        work = Path(folder)
        theirs, ours, again, checks, nothing = [], [], [], [], []
        with Container(image, work, env=TRUST) as one:
            one.wait_log("awake:")
            one.stop()
        for _ in range(RUNS + 1):
            with bare(image, work) as one:
                theirs.append(wake(one))
                one.stop()
            with Container(image, work, env=TRUST) as one:
                ours.append(wake(one))
                one.wait_log("awake:")
                again.append(wake_again(one))
                checks.append(health_seconds(one, "pgidle", "health"))
                nothing.append(health_seconds(one, "true"))
                supervisor = int(Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()[0])
                memory = resident(supervisor), resident(one.pid)
                one.stop()
        # The first of each only warmed the caches.
        without, with_it = median(theirs[1:]), median(ours[1:])
        print(f"wake, exec of the entrypoint to first row: {with_it:.0f} ms, of postgres: {without:.0f} ms")  # noqa: T201
        print(f"wake of one that stays, connect to first row: {median(again[1:]):.0f} ms")  # noqa: T201
        together = asleep_together(image, work, MANY)
        print(f"{MANY} asleep: {together:.0f} MB together")  # noqa: T201
        print(f"resident: pgidle {memory[0]:.0f} MB, tini {memory[1]:.1f} MB")  # noqa: T201
        spent = (median(checks) - median(nothing)) * MS
        print(f"CPU of a health check, without the engine's own: {spent:.0f} ms")  # noqa: T201


main()
