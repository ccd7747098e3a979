"""Postgres, spawned before the code that looks after it is imported: while it starts, there is time for that."""

from __future__ import annotations

from pgidle.postgres.postmaster import is_shut_down, spawn
from pgidle.settings.options import Tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.postgres.postmaster import Postmaster
    from pgidle.run.runtime import House


def postgres_command(house: House) -> list[str]:
    """The words that Postgres is started with."""
    settings = house.settings
    command = [
        house.binaries.path("postgres"),
        # First, because the last word counts: where Postgres listens is the gate's too.
        *settings.postgres_args,
        *("-D", settings.data_dir),
        *("-p", str(settings.port)),
        # As numbers, so that Postgres binds what the gate has bound.
        *("-c", f"listen_addresses={','.join(house.gate.hosts)}"),
        # A backend's crash ends the postmaster, so that the gate and not Postgres meets clients in recovery.
        *("-c", "restart_after_crash=off"),
    ]
    if settings.tls is Tls.SELF_SIGNED:
        from pgidle.postgres.tls import postgres_arguments

        command += postgres_arguments(settings.data_dir)
    if settings.socket_dir is not None:
        command += ["-k", settings.socket_dir]
    return command


def spawn_postmaster(house: House, errors: int | None = None) -> Postmaster:
    """A new postmaster, of which a successor of ours can know; `errors` is its standard error, or ours. Raises OSError
    where it cannot be executed."""
    made = spawn(
        postgres_command(house),
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
