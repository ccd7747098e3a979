"""The table at the end, and what is kept of a round that went wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from clients import Ledger

    from torture.play import Outcome

COLUMNS = (
    "fault",
    "rounds",
    "injected",
    "connections",
    "failed",
    "known limits",
    "excused",
    "slept",
    "commits",
    "lost",
)


@dataclass(slots=True)
class Totals:
    """By fault. `failed` are violations; `excused` and `slept` are sessions and connections that a fault, or idleness,
    may end."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Everything but injections is counted under the fault that the round was about."""
        happened = outcome.happened
        main = self.rows.setdefault(outcome.plan.faults[0], Counter())
        tally = happened.tally
        failed = len(tally.failures) - happened.limits - happened.excused - happened.slept
        main += Counter(
            {
                "rounds": 1,
                "connections": tally.tried + tally.strangers,
                "failed": failed,
                "known limits": happened.limits,
                "excused": happened.excused,
                "slept": happened.slept,
                "commits": tally.commits,
                "lost": happened.lost,
            }
        )
        for name, count in outcome.injected.items():
            self.rows.setdefault(name, Counter())["injected"] += count

    def text(self) -> str:
        names = sorted(self.rows)
        lines = [COLUMNS, *(self._line(name, self.rows[name]) for name in names)]
        total: Counter[str] = sum(self.rows.values(), Counter())
        lines.append(self._line("all", total))
        widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
        return "\n".join(
            "  ".join(
                [line[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(line[1:], widths[1:], strict=True))]
            )
            for line in lines
        )

    @staticmethod
    def _line(name: str, row: Counter[str]) -> tuple[str, ...]:
        return (name, *(str(row[column]) for column in COLUMNS[1:]))


def keep(outcome: Outcome, ledger: Ledger, folder: Path) -> Path:
    """Everything needed to understand a round: what was planned, said, met and done, and the data directory."""
    where = folder / f"seed-{outcome.plan.seed}-round-{outcome.plan.number}"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    machine = outcome.machine
    (where / "log").write_text(
        "".join(f"{at:.3f} {line.text}\n" for at, line in zip(machine.times, machine.lines, strict=True))
    )
    (where / "round.json").write_text(
        json.dumps(
            {
                "plan": dataclasses.asdict(outcome.plan),
                "command": machine.command(),
                "round": dataclasses.asdict(outcome.happened),
            },
            indent=2,
            default=str,
        )
    )
    (where / "ledger.json").write_text(
        json.dumps({"acknowledged": sorted(ledger.acknowledged), "unanswered": sorted(ledger.unanswered)})
    )
    shutil.copytree(
        machine.data_dir, where / "data", symlinks=True, ignore=shutil.ignore_patterns("*.sock", "control")
    )
    return where
