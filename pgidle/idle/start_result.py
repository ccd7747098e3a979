"""Whether Postgres would start with what is on disk now: the question and the answer of `start_check`. Values only."""

from __future__ import annotations

from pgidle.base.record import Enum, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


@record
class StartQuestion:
    """The start to try. `version` is Postgres's major version; `folder` is a folder that the trial may write to.

    `prepared`: how many prepared transactions it would have to restore.
    """

    command: tuple[str, ...]
    version: int
    data_dir: str
    folder: str
    environ: Mapping[str, str]
    prepared: int = 0


class Startable(Enum):
    """`UNKNOWN`: the trial itself failed, which says nothing about Postgres."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@record
class StartResult:
    """`reason` is one line: Postgres's own words where it would not start; empty where it would."""

    startable: Startable
    reason: str = ""
