"""What is there before the supervisor lives, and stays: settings, sockets, folders."""

from __future__ import annotations

from pgidle.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.backstage import Doors, Files
    from pgidle.binaries import Binaries
    from pgidle.first_start import FirstStart
    from pgidle.gate import Gate
    from pgidle.inbox import Inbox
    from pgidle.log import Log
    from pgidle.loop import Loop
    from pgidle.settings import Settings
    from pgidle.statedir import StateDir


@record
class House:
    """Made by `boot`, lent to everybody. `first` is there when the data directory has yet to be made."""

    settings: Settings
    environ: Mapping[str, str]
    binaries: Binaries
    first: FirstStart | None
    shim: str | None
    gate: Gate
    gate_why: str
    state_dir: StateDir
    doors: Doors
    files: Files
    loop: Loop
    inbox: Inbox
    log: Log
