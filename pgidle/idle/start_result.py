"""Whether Postgres would start with what is on disk now: question and answer of `start_check`. Values only."""

from __future__ import annotations

from pgidle.base.record import Enum, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


@record
class StartQuestion:
    """A start as it would be. `version` is Postgres's major version; `folder` is one that it may write.

    `prepared`: transactions that are prepared, which it would have to restore.
    """

    command: tuple[str, ...]
    version: int
    data_dir: str
    folder: str
    environ: Mapping[str, str]
    prepared: int = 0


class Startable(Enum):
    """`UNKNOWN`: the trial itself did not work, which says nothing about Postgres."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@record
class StartResult:
    """`reason` is one line: Postgres's own words where it would not start; empty where it would."""

    startable: Startable
    reason: str = ""
