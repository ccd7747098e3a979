"""The command line that Postgres is started with."""

from __future__ import annotations

from pgidle.settings.options import Tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.settings.settings import Settings


def postgres_command(postgres: str, settings: Settings, hosts: Sequence[str]) -> list[str]:
    """The command line. `postgres` is the program's path; `hosts` are the numeric addresses of the gate's TCP
    listeners, so that Postgres binds the same ones."""
    command = [
        postgres,
        # First, because the last setting counts: Postgres has to listen where the gate does.
        *settings.postgres_args,
        *("-D", settings.data_dir),
        *("-p", str(settings.port)),
        *("-c", f"listen_addresses={','.join(hosts)}"),
        # A backend's crash ends the postmaster, so that clients wait at the gate while Postgres recovers.
        *("-c", "restart_after_crash=off"),
    ]
    if settings.tls is Tls.SELF_SIGNED:
        from pgidle.postgres.tls import postgres_arguments

        command += postgres_arguments(settings.data_dir)
    if settings.socket_dir is not None:
        command += ["-k", settings.socket_dir]
    return command
