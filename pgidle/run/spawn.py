"""Postgres, spawned before the code that looks after it is imported: while it starts, there is time for that."""

from __future__ import annotations

from pgidle.postgres.command import postgres_command
from pgidle.postgres.postmaster import is_shut_down, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.postgres.postmaster import Postmaster
    from pgidle.run.runtime import House


def spawn_postmaster(house: House, errors: int | None = None) -> Postmaster:
    """A new postmaster, of which a successor of ours can know; `errors` is its standard error, or ours. Raises OSError
    where it cannot be executed."""
    made = spawn(
        postgres_command(house.binaries.path("postgres"), house.settings, house.gate.hosts),
        house.settings.data_dir,
        house.environ,
        house.library,
        house.gate.to_share(),
        errors,
    )
    house.state_dir.remember_postmaster(made.pid)
    return made


def spawn_early(house: House) -> Postmaster | None:
    """A postmaster, where nothing has to be done first; None where something has, or where it fails, which whoever
    tries again has to deal with."""
    if house.first is not None or not is_shut_down(house.settings.data_dir):
        return None
    try:
        return spawn_postmaster(house)
    except OSError:
        return None
