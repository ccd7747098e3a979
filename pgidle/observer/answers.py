"""What becomes of what is ordered within the observer: of looks, checkpoints and trials of a start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pgidle.idle.policy import Look
    from pgidle.idle.start_result import StartResult


@dataclass(frozen=True, slots=True)
class Looked:
    """A look at Postgres has ended; `ticket` is the one it was asked with."""

    ticket: int
    look: Look


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The pre-sleep checkpoint has ended: what went wrong, or nothing.

    `is_impossible`: Postgres tried and could not, so that a shutdown could not either.
    """

    error: str | None
    is_impossible: bool = False


@dataclass(frozen=True, slots=True)
class StartTried:
    """Whether Postgres would start now has been tried; `ticket` is the one it was asked with."""

    ticket: int
    result: StartResult


Ended: TypeAlias = Looked | Checkpointed | StartTried
