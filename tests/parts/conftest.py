"""Postgres without pgidle: with the watcher that looks at it, or sharing the listeners of a small supervisor."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from harness.postgres_fixture import Cluster
from harness.sharing import Sharer
from harness.watch import Watch, watching

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.installations import Installation, Place

OPTIONS = {
    # Helpers of the postmaster that pg_stat_activity does not show must not be taken for clients.
    "logging_collector": "on",
    "archive_mode": "on",
    "archive_command": "true",
    "autovacuum": "off",
    "wal_level": "logical",
    "max_prepared_transactions": "5",
}
# A client that a test kills must not leave its query running.
SINCE_14 = {"client_connection_check_interval": "50ms"}
END_ALL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@pytest.fixture(scope="module")
def clusters(place: Place) -> Iterator[dict[Installation, Cluster]]:
    running: dict[Installation, Cluster] = {}
    yield running
    for cluster in running.values():
        cluster.stop()


@pytest.fixture
def shared_cluster(
    installation: Installation, place: Place, clusters: dict[Installation, Cluster]
) -> Cluster:
    """One for all tests of this file; a test that stops it uses `cluster`."""
    if installation not in clusters:
        clusters[installation] = Cluster(installation.bin_dir, place.data_dir(installation))
        clusters[installation].start(OPTIONS | (SINCE_14 if installation.major >= 14 else {}))
    if installation.major < 14:
        with clusters[installation].connect() as client:
            client.execute(END_ALL)
    return clusters[installation]


@pytest.fixture
def _counters(installation: Installation) -> None:
    if installation.major < 14:
        pytest.skip("PostgreSQL counts sessions and their time from 14 on")


@pytest.fixture
def cluster(installation: Installation, place: Place) -> Iterator[Cluster]:
    with Cluster(installation.bin_dir, place.data_dir(installation)) as cluster:
        yield cluster


@pytest.fixture
def watch(installation: Installation, shared_cluster: Cluster) -> Iterator[Watch]:
    with watching(shared_cluster) as watch:
        watch.lag = 1.5 if installation.major == 14 else 0.0
        watch.settle()
        yield watch


class Share(Protocol):
    def __call__(self, installation: Installation, /, **more: Any) -> Sharer: ...


@pytest.fixture(scope="module")
def data_dirs() -> dict[Installation, Path]:
    """One for each installation: whatever a test did to it, the next start recovers."""
    return {}


@pytest.fixture
def share(place: Place, data_dirs: dict[Installation, Path]) -> Iterator[Share]:
    """Starts a sharer, which ends with the test: one in a test."""
    with ExitStack() as stack:

        def begin(installation: Installation, /, **more: Any) -> Sharer:
            if installation not in data_dirs:
                data_dirs[installation] = place.data_dir(installation)
            return stack.enter_context(Sharer(installation, place, data_dir=data_dirs[installation], **more))

        yield begin


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack
