"""Whether Postgres would start with what is on disk now: question and answer of `start_check`. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class StartQuestion:
    """A start as it would be. `version` is Postgres's major version; `folder` is one that it may write."""

    command: tuple[str, ...]
    version: int
    data_dir: str
    folder: str
    environ: Mapping[str, str] = field(default_factory=dict)


class Startable(Enum):
    """`UNKNOWN`: the trial itself did not work, which says nothing about Postgres."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StartResult:
    """`reason` is one line: Postgres's own words where it would not start; empty where it would."""

    startable: Startable
    reason: str = ""
