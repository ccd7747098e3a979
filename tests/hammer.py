"""Connects to a port of this machine, over and over, until its input ends: prints how many failed.

python hammer.py PORT
"""

from __future__ import annotations

import select
import socket
import sys


def main(port: str) -> None:
    failures = []
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            with socket.socket() as client:
                client.settimeout(10)
                client.connect(("127.0.0.1", int(port)))
                client.sendall(b"?")
                if not client.recv(1):
                    failures.append("closed")
        except OSError as error:
            failures.append(str(error))
    sys.stdout.write(" ".join([str(len(failures)), *failures[:3]]))


if __name__ == "__main__":
    main(sys.argv[1])
