"""Results of the work that the judge orders: looks, checkpoints and start trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pgidle.idle.policy import Look
    from pgidle.idle.start_result import StartResult


@dataclass(frozen=True, slots=True)
class Looked:
    """A look at Postgres has ended; `ticket` is that of its request."""

    ticket: int
    look: Look


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The checkpoint before a sleep has ended; `error`: what went wrong, or None.

    `is_impossible`: Postgres tried and failed, so a clean shutdown would fail too.
    """

    error: str | None
    is_impossible: bool = False


@dataclass(frozen=True, slots=True)
class StartTried:
    """A trial whether Postgres would start now has ended; `ticket` is that of its request."""

    ticket: int
    result: StartResult


Ended: TypeAlias = Looked | Checkpointed | StartTried
