"""Gate mode `none`, without the preloaded library: it says so, and works as a bare Postgres does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.faults import notes, query, without_shim
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from harness.installations import Installation, Place
    from harness.supervised import Supervised

pytestmark = pytest.mark.heavy


def test_none_says_so_and_works_as_bare_postgres_does(installation: Installation, place: Place, launch):
    one = launch(installation, when_idle="stay", idle_timeout="300ms", env=without_shim(place))
    assert one.wait_for_state("starting").data["gate"] == "none"
    assert any("mode none: the preloaded library was not compiled" in note for note in notes(one, "gate"))
    for _ in range(2):
        mark = one.mark()
        one.wait_for_state("asleep", since=mark)
        wait_until(lambda: knocked(one))
        one.wait_for_state("awake", since=mark)
        assert query(one, "SELECT 1") == 1
    assert one.stop() == 0


def knocked(one: Supervised) -> bool:
    """Whether somebody who connected was noticed, though perhaps not served."""
    try:
        return bool(query(one, "SELECT 1"))
    except psycopg.OperationalError:
        return False
