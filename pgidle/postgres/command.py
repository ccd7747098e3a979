"""The command line that Postgres is started with."""

from __future__ import annotations

from pgidle.settings.options import Tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.settings.settings import Settings


def postgres_command(postgres: str, settings: Settings, hosts: Sequence[str]) -> list[str]:
    """The words of it. `postgres` is the program's path; `hosts` are the addresses of the gate's TCP listeners, as
    numbers, so that Postgres binds what the gate has bound."""
    command = [
        postgres,
        # First, because the last word counts: where Postgres listens is the gate's too.
        *settings.postgres_args,
        *("-D", settings.data_dir),
        *("-p", str(settings.port)),
        *("-c", f"listen_addresses={','.join(hosts)}"),
        # A backend's crash ends the postmaster, so that the gate and not Postgres meets clients in recovery.
        *("-c", "restart_after_crash=off"),
    ]
    if settings.tls is Tls.SELF_SIGNED:
        from pgidle.postgres.tls import postgres_arguments

        command += postgres_arguments(settings.data_dir)
    if settings.socket_dir is not None:
        command += ["-k", settings.socket_dir]
    return command
