"""The result of an examination: findings with their place and cure, what was right, and what was not read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pgidle.base.errors import PgidleError

MACHINE = "machine"
"""The subject of the chart of this machine, which exists only if a data directory was named."""


class Severity(Enum):
    """WRONG needs repair and makes the exit status 1. A NOTE may be intended. UNKNOWN could not be checked."""

    WRONG = "wrong"
    NOTE = "note"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """`where` is file:line or a place; `change` is the line to write or the command to run."""

    severity: Severity
    what: str
    where: str
    why: str
    change: str


@dataclass(slots=True)
class Chart:
    """Everything found out about one subject, a file or the machine, in the order in which it was noticed.

    `read` lists what was looked at; `not_read` lists what is there but was skipped, and so could hide anything.
    """

    subject: str
    findings: list[Finding] = field(default_factory=list)
    right: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)

    def wrong(self, what: str, where: str, why: str, change: str) -> None:
        self._add(Severity.WRONG, what, where, why, change)

    def note(self, what: str, where: str, why: str, change: str) -> None:
        self._add(Severity.NOTE, what, where, why, change)

    def unknown(self, what: str, where: str, why: str, change: str) -> None:
        self._add(Severity.UNKNOWN, what, where, why, change)

    def fine(self, what: str) -> None:
        """Record something that was checked and is right."""
        self.right.append(what)

    def account(self, of: str, keys: Iterable[str], known: Collection[str]) -> None:
        """Record which keys of something were looked at (those that are `known`) and which were not."""
        keys = list(dict.fromkeys(keys))
        for said, some in (
            (self.read, [key for key in keys if key in known]),
            (self.not_read, [key for key in keys if key not in known]),
        ):
            if some:
                said.append(f"{of}: {', '.join(some)}")

    def count(self, severity: Severity) -> int:
        return sum(finding.severity is severity for finding in self.findings)

    def _add(self, severity: Severity, what: str, where: str, why: str, change: str) -> None:
        finding = Finding(severity, what, where, why, change)
        if finding not in self.findings:
            self.findings.append(finding)


def refuse(chart: Chart, where: str, error: PgidleError) -> None:
    """Record the error with which `pgidle run` would end."""
    chart.wrong(error.message, where, "`pgidle run` refuses to start", error.hint or "see what it says")
