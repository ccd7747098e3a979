"""Postgres, spawned before the code that looks after it is imported: while it starts, there is time for that."""

from __future__ import annotations

from pgidle.postgres.postmaster import is_shut_down, postgres_command, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.postgres.postmaster import Postmaster
    from pgidle.run.runtime import Runtime


def spawn_postmaster(runtime: Runtime, errors: int | None = None) -> Postmaster:
    """Start a postmaster, and write its pid down for a supervisor that may have to succeed this one.

    `errors` is the postmaster's standard error; None: ours. Raises OSError where it cannot be executed.
    """
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
    """Start a postmaster unless something has to be done first. None if so, or if it fails: the supervisor, which tries
    again, deals with the failure."""
    if runtime.first is not None or not is_shut_down(runtime.settings.data_dir):
        return None
    try:
        return spawn_postmaster(runtime)
    except OSError:
        return None
