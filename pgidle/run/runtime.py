"""What `boot` has made ready for the supervisor, and what stays the same while that runs: settings, sockets,
folders."""

from __future__ import annotations

from pgidle.base.errors import PgidleError
from pgidle.base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from pgidle.gate.gate import Gate
    from pgidle.postgres.image_variables import FirstStart
    from pgidle.postgres.programs import Binaries
    from pgidle.run.sd_listen import Manager
    from pgidle.settings.resolve import Settings
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir


@record
class SettingsRead:
    """The settings, or the line that says what is wrong with them."""

    settings: Settings | None
    error: str


@record
class ListeningSockets:
    """HTTP over TCP (any number of sockets), and the control socket."""

    http: tuple[socket.socket, ...]
    control: socket.socket


@record
class Files:
    """The files whose changes count: the data directory's configuration, and the settings file, which may not exist
    yet.

    `resolve` reads the settings again; it raises PgidleError.
    """

    data_dir: str
    settings_file: str | None
    resolve: Callable[[], Settings]

    def read(self) -> SettingsRead:
        """The settings as they are now, or what is wrong with them."""
        try:
            return SettingsRead(self.resolve(), "")
        except PgidleError as error:
            return SettingsRead(None, str(error))


@record
class Runtime:
    """Made by `boot`, and passed to everything that the supervisor consists of.

    `first` is set while the data directory has yet to be made. `library` is the open file that Postgres preloads; None
    where the gate does without.
    """

    settings: Settings
    environ: Mapping[str, str]
    binaries: Binaries
    first: FirstStart | None
    library: int | None
    gate: Gate
    gate_why: str
    state_dir: StateDir
    listening: ListeningSockets
    files: Files
    loop: Loop
    log: Log
    manager: Manager | None
    supervisor_pid: int
