"""The Unix sockets while Postgres sleeps: keeps their files in place, and removes those whose clients must not wake
it."""

from __future__ import annotations

import os

from pgidle.gate.listeners import listen_at
from pgidle.gate.unix_socket_file import hold_lock, is_alive, lock_owner, owner, release_lock
from pgidle.settings.options import is_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgidle.gate.gate import Gate
    from pgidle.gate.listeners import Listener
    from pgidle.gate.unix_socket_file import SocketFile
    from pgidle.system.log import Log


class UnixSockets:
    """The Unix sockets of one gate. A failure is logged, and tried again the next time."""

    def __init__(self, gate: Gate, log: Log) -> None:
        self._gate = gate
        self._log = log
        self._lock = ("", 0)
        """Data directory and port for the lock files, known once there has been a postmaster."""
        self._refused: list[SocketFile] = []

    def hold(self, data_dir: str, port: int) -> None:
        """The postmaster has exited and is not reaped yet: take over its lock files."""
        self._lock = (data_dir, port)
        for path in self._gate.paths():
            try:
                self._hold_lock(path)
            except OSError:
                continue  # Logged, and tried again.
        for one in self._gate.listeners:
            try:
                one.note_file()
            except OSError:
                continue  # What is known of it stays as it was.

    def restore(self) -> None:
        """Make those again whose file was removed or replaced. Clients that wait at the former socket are still
        served."""
        for one in [one for one in self._gate.listeners if not one.is_ended]:
            try:
                self._restore(one)
            except OSError as error:
                self._log.once("gate", f"no Unix socket at {one.name}: {error.strerror}")

    def refuse(self, no_wake: Iterable[str]) -> None:
        """Postgres sleeps: from now on refuse clients in these folders, and in no others. A client that is in a queue
        already stays there."""
        folders = [folder for folder in no_wake if is_folder(folder)]
        for file in [file for file in self._refused if not _is_in(file.path, folders)]:
            self._refused.remove(file)
            try:
                self._hold_lock(file.path)
                self._gate.listeners.append(listen_at(file))
            except OSError as error:
                self._log.note(
                    "gate", f"no Unix socket at {file.path} before Postgres wakes: {error.strerror}"
                )
        for one in [one for one in self._gate.listeners if not one.is_inherited and not one.is_ended]:
            if one.path is not None and one.file is not None and _is_in(one.path, folders):
                self._refuse(one, one.file)

    def wake(self) -> None:
        """Postgres is about to start, and will make those sockets again that were refused."""
        self._refused = []
        self.restore()

    def check(self, no_wake: Iterable[str]) -> None:
        """Postgres has begun to listen: log where it does not, and which entries of `no_wake` have no effect."""
        for one in self._gate.left_out:
            if one.path is None or one.is_inherited:
                self._log.once(
                    f"gate {one.name}", f"Postgres does not listen on {one.name}: nobody is served there"
                )
            else:
                self._log.note("gate", f"Postgres no longer listens on {one.name}, which is gone now")
                self._give_up(one)
        for folder in no_wake:
            held = [
                one for one in self._gate.listeners if one.path is not None and _is_in(one.path, [folder])
            ]
            if is_folder(folder) and not held:
                self._log.once(
                    f"no-wake {folder}", f"no-wake: {folder} is none of Postgres's unix_socket_directories"
                )
            elif is_folder(folder) and any(one.is_inherited for one in held):
                self._log.once(
                    f"no-wake {folder}",
                    f"no-wake: the service manager holds the socket in {folder}, which wakes",
                )

    def empty_ended(self) -> None:
        """Postgres accepts again: make it take the clients that are left in sockets that have ended. It looks into
        those whenever a client comes to the socket that replaced one, or to any socket if none did."""
        ended = {one.name for one in self._gate.listeners if one.is_ended}
        left_out = self._gate.left_out
        served = [one for one in self._gate.listeners if not one.is_ended and one not in left_out]
        for name in ended:
            if at := [one for one in served if one.name == name] or served:
                at[0].knock()

    def _restore(self, one: Listener) -> None:
        if one.file is None or not one.is_lost() or not self._lock[0]:
            return
        path = one.file.path
        pid = owner(path)
        if pid not in (None, os.getpid()) and is_alive(pid or 0):
            self._log.once("gate", f"the Unix socket {path} is process {pid}'s now: stop it")
            return
        self._hold_lock(path)
        made = listen_at(one.file)
        self._gate.listeners.append(made)
        self._log.note("gate", f"{path} was removed or replaced, and is made again")
        if one.is_inherited:
            one.is_ended = True  # Nobody can connect to it, but the service manager still has it.
        else:
            one.end()
        if not one.parked():
            self._forget(one)

    def _hold_lock(self, path: str) -> None:
        """Write our pid into the lock file. Raises OSError after logging it: Postgres will not start while another
        process has that lock."""
        topic = f"gate {path}.lock"
        try:
            hold_lock(path, *self._lock)
        except OSError as error:
            self._log.once(topic, f"{lock_owner(path)}: {error.strerror}")
            raise
        self._log.forget(topic)

    def _refuse(self, one: Listener, file: SocketFile) -> None:
        if one.parked():
            return
        one.end()
        if one.parked():
            # A client came in the last instant: the next postmaster accepts it from there, and a new socket takes over.
            try:
                self._gate.listeners.append(listen_at(file))
            except OSError as error:
                self._log.note(
                    "gate", f"no Unix socket at {file.path} before the next start: {error.strerror}"
                )
            return
        self._refused.append(file)
        self._drop(one)

    def _drop(self, one: Listener) -> None:
        """End and close it, and remove its files."""
        if not one.is_ended:
            one.end()
        self._remove_files(one)
        self._forget(one)

    def _give_up(self, one: Listener) -> None:
        """End it and remove its files, but serve the clients that are in its queue."""
        one.end()
        self._remove_files(one)
        one.is_given_up = True
        if not one.parked():
            self._forget(one)

    def _remove_files(self, one: Listener) -> None:
        try:
            if one.file is not None:
                one.file.remove()
            elif one.path is not None:
                release_lock(one.path)
        except OSError as error:
            self._log.note("gate", f"{one.name} is left behind: {error.strerror}")

    def _forget(self, one: Listener) -> None:
        self._gate.listeners.remove(one)
        one.close()


def _is_in(path: str, folders: list[str]) -> bool:
    """Whether a file is in one of these folders, however their paths are written."""
    try:
        here = os.stat(os.path.dirname(path))
    except OSError:
        return False
    for folder in folders:
        try:
            if os.path.samestat(os.stat(folder), here):
                return True
        except OSError:
            continue
    return False
