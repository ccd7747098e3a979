"""What a round will do, derived from the seed and the round's number alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET = "socket"
MODES = ("stay", "exit", SOCKET)
"""A supervisor that stays, one that exits behind the Flycast stand-in, and one that exits and leaves its sockets to
whoever has started it, as under systemd."""

IDLE_TIMEOUTS = (0.05, 0.15, 0.3, 0.6)

PAIRS = ("SIGHUP", "sleep", "hold", "edit configuration", "kill backend", "stop backend", "stop supervisor")
"""Faults that come together with others; each keeps its own allowance."""

SETTINGS = ("logging_collector = on",)
"""Lines of postgresql.conf with which Postgres holds other descriptors and processes."""

COMPANY = 0.3
"""How often a fault does not come alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`mode` is one of MODES; `faults` the one that the round is counted under and perhaps another; `clients` the names
    of the actors; `settings` lines for postgresql.conf."""

    seed: int
    number: int
    mode: str
    faults: tuple[str, ...]
    idle_timeout: float
    clients: tuple[str, ...]
    settings: tuple[str, ...]

    def chance(self, what: str) -> random.Random:
        return random.Random(f"{self.seed} {self.number} {what}")

    @property
    def local(self) -> frozenset[str]:
        """Half of the clients: they come over the Unix socket. The first does not, so that somebody wakes a machine."""
        return frozenset(self.clients[1::2])

    def __str__(self) -> str:
        who = ", ".join(f"{name} (Unix)" if name in self.local else name for name in self.clients)
        with_what = "".join(f", {setting}" for setting in self.settings)
        where = f"{self.mode}, idle after {self.idle_timeout:g} s{with_what}"
        return f"{' + '.join(self.faults)}; {where}; {who}"


def plan(seed: int, number: int, names: Sequence[str], modes: Sequence[str]) -> Plan:
    """Faults are dealt from a shuffled pack of all, so that each has its turn before any comes again."""
    size = len(names)
    chance = random.Random(f"{seed} {number}")
    fault = random.Random(f"{seed} pack {number // size}").sample(list(names), size)[number % size]
    others = [name for name in PAIRS if name != fault and name in names]
    company = (chance.choice(others),) if others and chance.random() < COMPANY else ()
    mix = {
        "writer": (1, 4),
        "brief": (0, 4),
        "pool": (0, 2),
        "transaction": (0, 1),
        "listener": (0, 1),
        "canceller": (0, 1),
        "silent": (0, 1),
        "garbage": (0, 1),
    }
    clients = tuple(f"{name} {i}" for name, few in mix.items() for i in range(chance.randint(*few)))
    mode, idle_timeout = chance.choice(modes), chance.choice(IDLE_TIMEOUTS)
    settings = tuple(setting for setting in SETTINGS if chance.random() < 0.3)
    return Plan(seed, number, mode, (fault, *company), idle_timeout, clients, settings)
