"""The table at the end, and what is kept of a round that went wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torture.injections import FAULTS
from torture.judging import EXCUSES

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clients import Ledger
    from torture.choice import Choice
    from torture.play import Outcome

MEANING = {
    "rounds": "rounds that were about this fault, another may have come with it",
    "went wrong": "of those: broke a promise, or could not be played to the end",
    "injections": "how often it was done, in any round",
    "connections": "that clients tried in those rounds",
    "broken": "connections and sessions that failed and should not have",
    **{ruling.name.lower().replace("_", " "): ruling.value for ruling in EXCUSES},
    "commits": "that were acknowledged",
    "lost": "of those: not there at the end of a round",
}
COLUMNS = ("fault", *MEANING)

LEGEND = "\b\nThe table at the end:\n" + "\n".join(f"  {name:11}  {text}" for name, text in MEANING.items())


@dataclass(slots=True)
class Totals:
    """All that was played, by fault, as MEANING says. `interrupted`: before all was."""

    choice: Choice
    lacks: dict[str, str]
    is_own: bool = False
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    interrupted: bool = False
    playing: int | None = None
    """The number of the round in play."""
    rounds: int = 0
    sleeps: int = 0
    sleepless: int = 0
    """Rounds without a sleep, which have tested nothing."""
    broken: int = 0
    unplayed: int = 0

    def add(self, outcome: Outcome) -> None:
        """Everything but injections is counted under the fault that the round was about."""
        happened = outcome.happened
        tally = happened.tally
        self.interrupted |= outcome.interrupted
        self.rounds += not outcome.interrupted
        self.sleeps += happened.sleeps
        self.sleepless += not (happened.sleeps or outcome.interrupted)
        self.broken += bool(happened.violations)
        self.unplayed += happened.harness is not None and not happened.violations
        failed = len(tally.failures) - sum(happened.excuses.values())
        self.rows.setdefault(outcome.plan.faults[0], Counter()).update(
            {
                "rounds": int(not outcome.interrupted),
                "went wrong": int(outcome.is_wrong),
                "connections": tally.tried + tally.strangers,
                "broken": failed,
                **{name.lower().replace("_", " "): count for name, count in happened.excuses.items()},
                "commits": tally.commits,
                "lost": happened.lost,
            }
        )
        for name, count in outcome.injected.items():
            self.rows.setdefault(name, Counter())["injections"] += count

    @property
    def is_good(self) -> bool:
        """Whether something was tested, to its end, and every promise was kept."""
        return bool(self.rounds) and not (self.broken or self.unplayed or self.sleepless or self.interrupted)

    def verdict(self) -> str:
        """The last line: what was tested, what came of it, and what was not tested."""
        played = [name for name in self.choice.names if self.rows.get(name, Counter())["injections"]]
        rest = [name for name in self.choice.names if name not in played and name not in self.lacks]
        where = "" if self.playing is None else f" in round {self.playing}"
        wrong = [
            *([f"BROKEN PROMISES in {_count(self.broken, 'round')}"] if self.broken else ()),
            *([f"the harness failed in {_count(self.unplayed, 'round')}"] if self.unplayed else ()),
            *([f"no sleep in {_count(self.sleepless, 'round')}"] if self.sleepless else ()),
            *([f"interrupted{where}"] if self.interrupted else ()),
        ]
        if self.interrupted and not self.broken:
            wrong.append("until then no promise was seen broken")
        said = "; ".join(wrong) or ("every promise was kept" if self.is_good else "nothing was tested")
        faults = f"{len(played)} of {len(FAULTS)} faults"
        unplayed = f"; not played: {', '.join(rest)}" if rest else ""
        left_out = f"; left out: {', '.join(self.lacks)}" if self.lacks else ""
        return f"{_count(self.rounds, 'round')}, {faults}, {_count(self.sleeps, 'sleep')}: {said}{unplayed}{left_out}"

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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
