"""Postgres, spawned before the code that looks after it is imported: while it starts, there is time for that."""

from __future__ import annotations

from pgidle.postgres.command import postgres_command
from pgidle.postgres.postmaster import is_shut_down, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.postgres.postmaster import Postmaster
    from pgidle.run.runtime import Runtime


def spawn_postmaster(runtime: Runtime, errors: int | None = None) -> Postmaster:
    """A new postmaster, of which a successor of ours can know; `errors` is its standard error, or ours. Raises OSError
    where it cannot be executed."""
    made = spawn(
        postgres_command(runtime.binaries.path("postgres"), runtime.settings, runtime.gate.hosts),
        runtime.settings.data_dir,
        runtime.environ,
        runtime.library,
        runtime.gate.to_share(),
        errors,
    )
    runtime.state_dir.remember_postmaster(made.pid)
    return made


def spawn_early(runtime: Runtime) -> Postmaster | None:
    """A postmaster, where nothing has to be done first; None where something has, or where it fails, which whoever
    tries again has to deal with."""
    if runtime.first is not None or not is_shut_down(runtime.settings.data_dir):
        return None
    try:
        return spawn_postmaster(runtime)
    except OSError:
        return None
