"""Clients that never rest: each connects, runs one query, leaves and comes again, over TCP or a Unix socket.

    with Restless([("127.0.0.1", 5432), "/run/postgresql/.s.PGSQL.5432"], each=4) as clients:
        ...
    clients.met     # what they met

They speak the protocol themselves, so that what a client met is known to the packet. Coming too early or too late
(refused, no such file) is distinguished from connecting and then not being served.
"""

from __future__ import annotations

import collections
import json
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Address: TypeAlias = str | tuple[str, int]

STARTUP = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0application_name\0restless\0\0"
QUERY = b"SELECT 1\0"
PATIENCE = 60.0

ENDED = frozenset({"EOFError", "ConnectionResetError", "BrokenPipeError"})
"""How a client meets the end of the process that accepted it: which, depends on whether it reads or writes then."""


@dataclass(slots=True)
class Met:
    """`failed` are those that got through and had no session yet: what they met, and the client's own port (0 for a
    Unix socket). `cut` had a session; `unanswered` tried for a minute to get through."""

    served: int = 0
    refused: int = 0
    unanswered: int = 0
    cut: int = 0
    failed: list[tuple[str, int]] = field(default_factory=list)

    @property
    def kinds(self) -> dict[str, int]:
        return dict(collections.Counter(what for what, _ in self.failed))


class Restless:
    """`each` clients for each address, in two processes of their own."""

    def __init__(
        self, addresses: Sequence[Address], each: int = 3, *, rest: float = 0.0, prefix: Sequence[str] = ()
    ) -> None:
        """`rest`: seconds at most between two visits. `prefix`: a command that runs another, before Python."""
        self.met = Met()
        plan = {"addresses": addresses, "each": each, "rest": rest}
        self._command = [*prefix, sys.executable, __file__, json.dumps(plan)]

    def __enter__(self) -> Self:
        self._processes = [
            subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.close()
        for process in self._processes:
            assert process.stdout
            with process.stdout:
                found: dict[str, Any] = json.loads(process.stdout.read())
            process.wait()
            self.met.served += found["served"]
            self.met.refused += found["refused"]
            self.met.unanswered += found["unanswered"]
            self.met.cut += found["cut"]
            self.met.failed += [(what, port) for what, port in found["failed"]]


def _message(client: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(client, 5)
    return head[:1], _exactly(client, struct.unpack("!I", head[1:])[0] - 4)


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def until_ready(client: socket.socket) -> str | None:
    """None, or the SQLSTATE of an error."""
    while True:
        kind, body = _message(client)
        if kind == b"Z":
            return None
        if kind == b"E":
            fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
            return fields[b"C"].decode()


def visit(address: Address, met: dict[str, Any]) -> None:
    """`address`: the path of a Unix socket, or host and port."""
    family = (
        socket.AF_UNIX
        if isinstance(address, str)
        else socket.AF_INET6
        if ":" in address[0]
        else socket.AF_INET
    )
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            met["refused"] += 1
            time.sleep(0.002)
            return
        except TimeoutError:
            met["unanswered"] += 1
            return
        except OSError as error:
            met["failed"].append((f"connect: {error}", 0))
            return
        port = client.getsockname()[1] if family != socket.AF_UNIX else 0
        try:
            client.sendall(struct.pack("!I", len(STARTUP) + 4) + STARTUP)
            what = until_ready(client)
        except (OSError, EOFError) as error:
            what = type(error).__name__
        if what is not None:
            met["failed"].append((what, port))
            return
        try:
            client.sendall(b"Q" + struct.pack("!I", len(QUERY) + 4) + QUERY)
            what = until_ready(client)
            if what is None:
                client.sendall(b"X\0\0\0\4")
        except (OSError, EOFError) as error:
            what = type(error).__name__
        met["served" if what is None else "cut"] += 1


def main(plan: dict[str, Any]) -> None:
    met: dict[str, Any] = {"served": 0, "refused": 0, "unanswered": 0, "cut": 0, "failed": []}
    over = threading.Event()

    def live(address: Address) -> None:
        while not over.is_set():
            visit(address, met)
            time.sleep(random.uniform(0, plan["rest"]))

    # JSON has no tuples.
    addresses = [one if isinstance(one, str) else (one[0], one[1]) for one in plan["addresses"]]
    threads = [threading.Thread(target=live, args=(one,)) for one in addresses for _ in range(plan["each"])]
    for thread in threads:
        thread.start()
    select.select([sys.stdin], [], [])
    over.set()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps(met))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
