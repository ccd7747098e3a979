"""State that the next start restores after a shutdown, and the settings that must allow for it.

The startup process restores it, after everything that a trial start reads, and ends Postgres if a limit or wal_level is
too low for it. So a changed setting that waits for a restart can be one that no start survives. (restoreTwoPhaseData in
twophase.c, RestoreSlotFromDisk in slot.c, StartupReplicationOrigin in origin.c)
"""

from __future__ import annotations

import os
import struct

from pgidle.base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SLOT = struct.Struct("=16x64s I I")
"""How a slot's file begins: name, database (0: a physical slot), persistency (ReplicationSlotOnDisk, 9.4 to 18)."""

PERSISTENT = 0
"""RS_PERSISTENT: a start drops any other slot."""

ORIGIN_BYTES = 16
"""Size of a ReplicationStateOnDisk. The file begins with a magic number and ends with a checksum, of 4 bytes each."""


@record
class Restored:
    """`logical` is the name of a logical replication slot, if there is one."""

    prepared: int
    slots: int
    logical: str
    origins: int


def restored(data_dir: str, prepared: int) -> Restored:
    """The state on disk, except for prepared transactions, which may still be only in WAL. Raises OSError."""
    names = (entry.name for entry in os.scandir(f"{data_dir}/pg_replslot"))
    kept = [slot for name in names if (slot := _slot(data_dir, name)) is not None]
    logical = next((name for name, database in kept if database), "")
    return Restored(prepared, len(kept), logical, _origins(data_dir))


def complaint(there: Restored, version: int, ask: Callable[[str], str]) -> str:
    """Why Postgres would not start, in one line; empty: it would. `ask` returns a setting as a start would see it."""
    origin_setting = "max_active_replication_origins" if version >= 18 else "max_replication_slots"
    if there.prepared and (room := int(ask("max_prepared_transactions"))) < there.prepared:
        return f"max_prepared_transactions is {room}, and there are {there.prepared} (pg_prepared_xacts)"
    if there.slots:
        if (room := int(ask("max_replication_slots"))) < there.slots:
            return f"max_replication_slots is {room}, and there are {there.slots} (pg_replication_slots)"
        level = ask("wal_level")
        if there.logical and level != "logical":
            return f'wal_level is {level}, and replication slot "{there.logical}" is logical'
        if level == "minimal":
            return "wal_level is minimal, and there are replication slots (pg_replication_slots)"
    # With 0 they are not restored at all.
    if there.origins > 1 and 0 < (room := int(ask(origin_setting))) < there.origins:
        return f"{origin_setting} is {room}, and there are {there.origins} origins (pg_replication_origin_status)"
    return ""


def _slot(data_dir: str, name: str) -> tuple[str, int] | None:
    """A slot's name and database; None if a start would drop it, or it has just been dropped."""
    try:
        with open(f"{data_dir}/pg_replslot/{name}/state", "rb") as file:
            text, database, persistency = SLOT.unpack(file.read(SLOT.size))
    except (FileNotFoundError, NotADirectoryError, struct.error):
        return None
    if name.endswith(".tmp") or persistency != PERSISTENT:
        return None
    return text.partition(b"\0")[0].decode(errors="replace"), database


def _origins(data_dir: str) -> int:
    """The number of replication origins as of the last checkpoint."""
    try:
        return max(0, os.stat(f"{data_dir}/pg_logical/replorigin_checkpoint").st_size - 8) // ORIGIN_BYTES
    except FileNotFoundError:
        return 0
