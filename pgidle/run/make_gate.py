"""Makes the gate: its listening sockets, inherited or our own, once no earlier supervisor's postmaster has the port."""

from __future__ import annotations

import time

from pgidle.base.errors import PgidleError
from pgidle.base.record import record
from pgidle.gate.gate import Gate, Mode
from pgidle.gate.listeners import listen_on, resolve
from pgidle.postgres.data_directory import living_postmaster, read_pidfile
from pgidle.run.sd_listen import is_reachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.gate.listeners import Address, Listener
    from pgidle.settings.resolve import Settings
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir

EARLIER_POLL = 0.01
"""Seconds between two attempts to listen while an earlier supervisor's postmaster ends."""


@record
class MadeGate:
    """A gate that already holds clients, why it has the mode that it has, and the open library that Postgres preloads
    (None in mode `none`)."""

    gate: Gate
    why: str
    library: int | None


def make_gate(
    settings: Settings, state_dir: StateDir, library: int | None, inherited: Sequence[Listener], log: Log
) -> MadeGate:
    """Listen wherever Postgres is to listen, so that clients wait from now on. Raises PgidleError."""
    addresses = _resolve(settings)
    inherited = _keep_reachable(inherited, settings.port, log)
    taken = {one.name for one in inherited}
    made, missing = _listen([one for one in addresses if one[1][0] not in taken], settings, state_dir, log)
    if settings.listen_addresses.strip() != "*":
        for why in missing:
            log.note("gate", why)
    served = {*taken, *(one.name for one in made)}
    addresses = [one for one in addresses if one[1][0] in served]
    if library is not None:
        gate = Gate([*inherited, *made], addresses)
        return MadeGate(gate, "clients wait while Postgres is not ready", library)
    why = "the preloaded library was not compiled: install a C compiler and then pgidle again"
    if inherited:
        raise PgidleError(f"an inherited socket cannot be shared with Postgres: {why}")
    log.note("gate", f"mode {Mode.NONE.value}: {why}")
    return MadeGate(Gate(made, addresses, Mode.NONE), why, None)


def _resolve(settings: Settings) -> list[Address]:
    try:
        return resolve(settings.listen_addresses, settings.port)
    except OSError as error:
        raise PgidleError(
            f"cannot listen on {settings.listen_addresses}: {error.strerror}", "set --listen-addresses"
        ) from None


def _keep_reachable(inherited: Sequence[Listener], port: int, log: Log) -> list[Listener]:
    """The inherited sockets that clients can connect to; the others are closed. Raises PgidleError, OSError."""
    kept = []
    for one in inherited:
        if one.is_unix and not is_reachable(one, port):
            log.note(
                "gate",
                f"{one.path} is gone; until its socket unit is restarted, it is there only while awake",
            )
            one.close()
            continue
        if one.is_unix:
            one.listen_as_ourselves()
            one.note_file()
        kept.append(one)
    return kept


def _listen(
    addresses: Sequence[Address], settings: Settings, state_dir: StateDir, log: Log
) -> tuple[list[Listener], list[str]]:
    """Listen on the addresses; as long as an earlier supervisor's postmaster has the port, make it end and wait.

    Returns the listeners, and why an address has none. Raises PgidleError.
    """
    began = time.monotonic()
    while True:
        living = _living_postmaster(settings.data_dir, state_dir.earlier_postmaster)
        try:
            return listen_on(addresses)
        except PgidleError:
            from pgidle.postgres.orphans import hasten_postmaster, is_abandoned

            # It may not have written its lock file yet.
            earlier = state_dir.earlier_postmaster
            if living is None and earlier is not None and is_abandoned(earlier):
                living = earlier
            if living is None:
                raise
        hasten_postmaster(living, time.monotonic() - began, settings.stop_timeout, log)
        time.sleep(EARLIER_POLL)


def _living_postmaster(data_dir: str, earlier: int | None) -> int | None:
    """The postmaster that runs on the data directory, if one does. Raises PgidleError where nobody left it behind.

    `earlier` is the one that the supervisor before this one started.
    """
    living = living_postmaster(data_dir) if read_pidfile(data_dir) is not None else None
    if living is not None and living != earlier:
        from pgidle.postgres.orphans import is_abandoned

        if not is_abandoned(living):
            raise PgidleError(f"a postmaster with pid {living} already runs on {data_dir}", "stop it first")
    return living
