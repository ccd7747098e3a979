"""What the command line chose, what this machine lacks for it, and the command that plays a round again."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from harness.installations import debian, embedded, installation_in
from torture.injections import FAULTS
from torture.plan import MODES, Plan, plan

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation

ALL = "all"

PROGRAMS = ("postgres", "initdb", "pg_controldata", "pg_checksums", "pg_amcheck")


@dataclass(frozen=True, slots=True)
class Choice:
    """`mode` is one of MODES, or ALL; `names` are faults in the order of FAULTS, also those that this machine lacks
    something for, so that a round is the same on every machine that can play it."""

    seed: int
    names: tuple[str, ...]
    mode: str
    seconds: float
    installation: Installation

    @property
    def modes(self) -> tuple[str, ...]:
        return MODES if self.mode == ALL else (self.mode,)

    def plan(self, number: int) -> Plan:
        return plan(self.seed, number, self.names, self.modes)

    def again(self, number: int) -> str:
        """The command that plays a round as it was planned here."""
        words = ["scripts/torture", "--seed", str(self.seed), "--round", str(number), "--mode", self.mode]
        words += ["--seconds", f"{self.seconds:.12g}", "--postgres", str(self.installation.bin_dir)]
        if self.names != tuple(FAULTS):
            words += ["--only", ",".join(self.names)]
        return shlex.join(words)


def lacking(choice: Choice, *, is_own: bool) -> dict[str, str]:
    """The faults that are chosen and cannot be played here, and why. Raises ClickException if that leaves none.

    `is_own`: whether network and mounts are this run's own.
    """
    found = {name: text for name in choice.names if (text := FAULTS[name].missing)}
    if "disk full" in choice.names and not is_own:
        found["disk full"] = "it needs root and a mount namespace, for a small file system"
    if all(name in found for name in choice.names):
        raise click.ClickException(f"no fault is left: {found[choice.names[0]]}")
    return found


def missing_for(planned: Plan, lacks: dict[str, str]) -> str | None:
    """Why a round cannot be played here, if it cannot."""
    return next((f"{one}: {lacks[one]}" for one in planned.faults if one in lacks), None)


def read_names(only: str | None) -> tuple[str, ...]:
    """Of --only. Raises BadParameter."""
    if only is None:
        return tuple(FAULTS)
    names = {name.strip() for name in only.split(",")} - {""}
    if unknown := sorted(names - set(FAULTS)):
        raise click.BadParameter(f"no fault {unknown[0]!r}; there are: {', '.join(FAULTS)}")
    if not names:
        raise click.BadParameter(f"it names no fault; there are: {', '.join(FAULTS)}")
    return tuple(name for name in FAULTS if name in names)


def find_installation(bin_dir: Path | None) -> Installation:
    """Of --postgres, or the newest. Raises BadParameter, or ClickException if there is none."""
    if bin_dir is None:
        found = [one for one in (debian(), embedded()) if one]
        if not found:
            raise click.ClickException("no PostgreSQL found: name one with --postgres")
        return max(found, key=lambda one: one.major)
    for program in PROGRAMS:
        if not (bin_dir / program).is_file():
            raise click.BadParameter(
                f"no {program} in {bin_dir}: name the bin folder of a PostgreSQL, 14 or newer"
            )
    try:
        return installation_in(bin_dir.resolve())
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.BadParameter(f"{bin_dir / 'postgres'} does not run: {error}") from None
