"""What a round will be, from the seed and its number alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgidle.gate import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET = "socket"
MODES = ("stay", "exit", SOCKET)
"""A supervisor that stays, one that exits behind the Flycast stand-in, and one that exits and leaves its socket to
whoever has started it, as under systemd."""

GATES = (Mode.HANDOFF, Mode.SYNHOLD)
"""Gate modes in which nobody is to fail. A socket that somebody else keeps needs the first."""

SYNHOLD = 0.2
"""How often a round is played in the second, where there is a choice."""

IDLE_TIMEOUTS = (0.05, 0.15, 0.3, 0.6)

PAIRS = ("SIGHUP", "sleep", "hold", "edit configuration", "kill backend", "stop backend", "stop supervisor")
"""Faults that come together with others; each keeps its own allowance."""

SETTINGS = ("logging_collector = on",)
"""Lines of postgresql.conf with which Postgres holds other descriptors and processes."""

COMPANY = 0.3
"""How often a fault does not come alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`mode` is one of MODES, `gate` of GATES; `faults` the one that the round is counted under and perhaps another;
    `clients` the names of the actors; `settings` lines for postgresql.conf."""

    seed: int
    number: int
    mode: str
    gate: Mode
    faults: tuple[str, ...]
    idle_timeout: float
    clients: tuple[str, ...]
    settings: tuple[str, ...]

    def chance(self, what: str) -> random.Random:
        return random.Random(f"{self.seed} {self.number} {what}")

    def __str__(self) -> str:
        who = ", ".join(self.clients)
        with_what = "".join(f", {setting}" for setting in self.settings)
        where = f"{self.mode}, {self.gate.value}, idle after {self.idle_timeout:g} s{with_what}"
        return f"{' + '.join(self.faults)}; {where}; {who}"


def plan(
    seed: int, number: int, names: Sequence[str], modes: Sequence[str], gates: Sequence[Mode] = GATES
) -> Plan:
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
    gate = _gate(seed, number, modes, gates)
    fitting = [mode for mode in modes if gate is Mode.HANDOFF or mode != SOCKET]
    mode, idle_timeout = chance.choice(fitting), chance.choice(IDLE_TIMEOUTS)
    settings = tuple(setting for setting in SETTINGS if chance.random() < 0.3)
    return Plan(seed, number, mode, gate, (fault, *company), idle_timeout, clients, settings)


def _gate(seed: int, number: int, modes: Sequence[str], gates: Sequence[Mode]) -> Mode:
    if len(gates) == 1 or set(modes) == {SOCKET}:
        return gates[0]
    return Mode.SYNHOLD if random.Random(f"{seed} {number} gate").random() < SYNHOLD else Mode.HANDOFF
