"""Starts a postmaster with the library preloaded: its environment, and the descriptors that it inherits."""

from __future__ import annotations

import os

from pgidle.base.builtin_modules import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "_listener."


def open_library() -> int | None:
    """A descriptor of the compiled library in the package; None if it was not compiled at installation.

    Through the descriptor it can be preloaded even if Postgres's user cannot reach the file (in root's home), or if the
    package has been replaced by another version while this one runs.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    found = next((one for one in os.listdir(folder) if one.startswith(NAME) and one.endswith(".so")), None)
    return None if found is None else os.open(f"{folder}/{found}", os.O_RDONLY | os.O_CLOEXEC)


def make_channel() -> tuple[socket.socket, socket.socket]:
    """Our end and the postmaster's. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours, theirs


def environment(
    environ: Mapping[str, str], library: int, channel: int, listeners: Sequence[int]
) -> dict[str, str]:
    """The environment for the postmaster, from which the library removes our variables again.

    Ours come last, because Postgres overwrites its arguments and environment with its title.
    """
    made = {name: value for name, value in environ.items() if not name.startswith("PGIDLE_")}
    if inherited := made.pop("LD_PRELOAD", ""):
        made["PGIDLE_LD_PRELOAD"] = inherited
    preloaded = f"/proc/self/fd/{library}"
    made["LD_PRELOAD"] = f"{preloaded}:{inherited}" if inherited else preloaded
    made["PGIDLE_SUPERVISOR"] = str(os.getpid())
    made["PGIDLE_SHIM"] = str(library)
    made["PGIDLE_CHANNEL"] = str(channel)
    made["PGIDLE_LISTENERS"] = ",".join(map(str, listeners))
    return made


def kept_open(*descriptors: int) -> list[tuple[int, int, int]]:
    """File actions of posix_spawn that leave descriptors open over exec (posix_spawn_file_actions_adddup2(3))."""
    return [(os.POSIX_SPAWN_DUP2, one, one) for one in descriptors]
