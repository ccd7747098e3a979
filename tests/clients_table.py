"""`scripts/clients`: every client that is here, asleep and awake, with each sslmode, as README's tables."""

from __future__ import annotations

import sys
import time

from installations import Place, debian
from real_clients import CLIENTS, SSLMODES, Host

STATES = ("asleep", "awake")
POOLED = ("psycopg", "asyncpg", "SQLAlchemy", "Django", "node-postgres", "postgres.js", "JDBC (pgjdbc)")


def main() -> int:
    installation = debian()
    if installation is None:
        print("clients: no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql", file=sys.stderr)  # noqa: T201
        return 1
    place, failures = Place(), 0
    try:
        with Host(installation, place) as host:
            print(
                "| client | "
                + " | ".join(f"`{mode}` {state}" for mode in SSLMODES for state in STATES)
                + " |"
            )  # noqa: T201
            print("|---" * (1 + len(SSLMODES) * len(STATES)) + "|")  # noqa: T201
            for client in CLIENTS:
                cells = []
                for sslmode in SSLMODES if client.is_there() else ():
                    host.sleep()
                    for state in STATES:
                        began = time.monotonic()
                        wrong = host.seen(client, sslmode)
                        failures += wrong is not None
                        cells.append(
                            f"{time.monotonic() - began:.2f} s" if wrong is None else f"fails: {wrong}"
                        )
                print(f"| {client.name} | {' | '.join(cells) or f'not here: {client.install}'} |", flush=True)  # noqa: T201
            print("\n| client | as it is | checked |\n|---|---|---|")  # noqa: T201
            for client in (one for one in CLIENTS if one.name in POOLED and one.is_there()):
                print(
                    f"| {client.name} | {' | '.join(_cut(host, client, how) for how in ('pool', 'checked'))} |"
                )  # noqa: T201
    finally:
        place.clean()
    return min(failures, 1)


def _cut(host: Host, client, action: str) -> str:
    with host.pooled(client, action, "require") as process:
        host.sleep()
        output, errors = process.communicate("go on\n", timeout=60)
        said = ", then ".join(output.splitlines()) or " ".join(errors.split())[-200:]
        return f"{said} (status {process.returncode})"


if __name__ == "__main__":
    sys.exit(main())
