"""`scripts/clients`: the tables of docs/clients.md, with each cell as observed in this run."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.installations import Place, debian
from harness.real_clients import CLIENTS, SSLMODES, Host, clean_environment

if TYPE_CHECKING:
    from harness.real_clients import RealClient

STATES = ("asleep", "awake")
LONGEST = 180.0
"""Seconds after which a client that still waits for an answer is taken to wait for ever."""


@dataclass(slots=True)
class Seen:
    failures: list[str] = field(default_factory=list)

    def cell(self, host: Host, client: RealClient, sslmode: str) -> str:
        host.sleep()
        served = []
        for state in STATES:
            if (wrong := host.seen(client, sslmode)) is None:
                served.append(state)
            else:
                self.failures.append(f"{client.name}, {sslmode}, {state}: {wrong}")
        return ", ".join(served) or "fails"


def across_a_sleep(host: Host, client: RealClient, action: str) -> str:
    """What a pooled connection that sleep has cut means to the program that uses it next."""
    with host.pooled(client, action, "require") as process:
        host.sleep()
        output, _ = process.communicate("go on\n", timeout=60)
    said = [line.partition(" ")[0] for line in output.splitlines()]
    if process.returncode or len(said) != 2:
        return "ends the program"
    if said == ["ok", "ok"]:
        return "no error"
    return "one error" if said[1] == "ok" else "errors until it is opened again"


def after_sleep(host: Host, client: RealClient) -> str:
    if not client.has_pool:
        return ""
    plain = across_a_sleep(host, client, "pool")
    return (
        f"{plain}; {across_a_sleep(host, client, 'checked')} with {client.checked}"
        if client.checked
        else plain
    )


def patience(clients: list[RealClient]) -> dict[str, str]:
    """How long each client waits, unless told otherwise, for a server that takes connections and says nothing."""
    waited: dict[str, list[str]] = {client.name: [] for client in clients}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for client in clients:
            for sslmode in ("disable", "require"):
                mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                selector.register(mute, selectors.EVENT_READ, (client.name, sslmode, None))
                _launch(stack, client.command("once", mute.getsockname()[1], sslmode, Path("/dev/null")))
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline:
            for key, _ in selector.select(1.0):
                assert isinstance(key.fileobj, socket.socket)
                name, sslmode, since = key.data
                if since is None:
                    taken = stack.enter_context(key.fileobj.accept()[0])
                    selector.unregister(key.fileobj)
                    selector.register(taken, selectors.EVENT_READ, (name, sslmode, time.monotonic()))
                elif not key.fileobj.recv(4096):
                    selector.unregister(key.fileobj)
                    waited[name].append(f"`{sslmode}` {time.monotonic() - since:.0f} s")
        for key in selector.get_map().values():
            waited[key.data[0]].append(f"`{key.data[1]}` no limit")
    return {name: ", ".join(sorted(each)) for name, each in waited.items()}


def _launch(stack: contextlib.ExitStack, command: list[str]) -> None:
    process = subprocess.Popen(
        command,
        env=clean_environment(),
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)


@click.command()
@click.option(
    "--patience", "is_patience", is_flag=True, help="instead: how long each waits for a mute server"
)
def main(is_patience: bool) -> None:
    """The table of clients: asleep and awake, with each sslmode."""
    clients = [client for client in CLIENTS if client.is_there()]
    for missing in (client for client in CLIENTS if client not in clients):
        click.echo(f"clients: {missing.name} is not here: {missing.install}", err=True)
    if is_patience:
        for name, waited in patience(clients).items():
            click.echo(f"{name}: {waited}")
        return
    installation = debian()
    if installation is None:
        raise click.ClickException("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql")
    place, seen = Place(), Seen()
    try:
        with Host(installation, place) as host:
            modes = " | ".join(f"`{mode}`" for mode in SSLMODES)
            click.echo(f"| client | {modes} | next query on a connection that sleep cut |")
            click.echo("|---" * (2 + len(SSLMODES)) + "|")
            for client in clients:
                cells = [client.name, *(seen.cell(host, client, sslmode) for sslmode in SSLMODES)]
                click.echo(f"| {' | '.join([*cells, after_sleep(host, client)])} |")
    finally:
        place.clean()
    if seen.failures:
        raise click.ClickException("\n".join(seen.failures))


if __name__ == "__main__":
    main()
