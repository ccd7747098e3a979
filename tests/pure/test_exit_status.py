"""How a postmaster ended, in words."""

from __future__ import annotations

import signal

import pytest

from pgidle.postgres.exit_status import describe


@pytest.mark.parametrize("number", sorted(signal.Signals))
def test_a_signal_has_the_name_that_the_standard_library_gives_it(number: signal.Signals) -> None:
    assert describe(-number) == f"the postmaster was ended by {number.name}"


def test_a_signal_without_a_name_has_its_number() -> None:
    assert describe(-(signal.SIGRTMIN + 3)) == f"the postmaster was ended by signal {signal.SIGRTMIN + 3}"


def test_what_postgres_has_said_of_it_is_told() -> None:
    assert describe(1, "FATAL: no room") == "the postmaster exited with status 1: FATAL: no room"
