"""What tests of orders share: commands that wait, and what the supervisor says meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.postgres_fixture import wait_until
from harness.supervised import PATIENCE
from pgidle.control.client import request

if TYPE_CHECKING:
    import subprocess

    from harness.supervised import Supervised

STAY = {"when_idle": "stay", "idle_timeout": "off"}


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """What came of it, once its standard input has ended."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def wait_channel(process: subprocess.Popen[str]) -> str:
    """What it sleeps in, by the kernel's name: unix_stream... is a read of a Unix socket, poll_schedule... a select."""
    return Path(f"/proc/{process.pid}/wchan").read_text("ascii")


def has_asked(one: Supervised, process: subprocess.Popen[str]) -> None:
    """Wait until a command has given its order, while whoever is to answer stands still."""
    # Without and with a timeout.
    wait_until(lambda: wait_channel(process).startswith(("unix_stream", "poll_schedule")))


def status(one: Supervised) -> dict[str, Any]:
    return request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[1]


def has_begun(process: subprocess.Popen[str], name: str) -> None:
    """Wait until what was `pgidle hold` is the program."""
    wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text().strip() == name)


def held(one: Supervised) -> list[str]:
    return [lease["name"] for lease in status(one)["leases"]]


def fall_asleep(one: Supervised) -> None:
    done = one.pgidle("sleep", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert one.states[-1] == "asleep"


class Begin(Protocol):
    """Starts a pgidle command that is not waited for."""

    def __call__(self, one: Supervised, /, *arguments: str) -> subprocess.Popen[str]: ...
