"""`pgidle doctor` run as a program, and its answer in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from harness.installations import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation

    Severities = dict[str, dict[str, dict[str, str]]]


def run(
    *arguments: object, python_path: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "POSTGRES_"))}
    if python_path is not None:
        clean["PYTHONPATH"] = str(python_path)
    command = [sys.executable, "-P", "-m", "pgidle", "doctor", *map(str, arguments)]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, check=False, cwd="/")


class Said:
    """What the doctor said in JSON: `wrong`, `note` and `unknown` are findings by what they are about."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.stderr == "", done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        self.status = done.returncode
        self.right = [one for subject in said["subjects"] for one in subject["right"]]
        found = [one for subject in said["subjects"] for one in subject["findings"]]
        assert all(one[key] for one in found for key in ("what", "where", "why", "change")), found
        self.wrong, self.note, self.unknown = (
            {one["what"]: one["where"] for one in found if one["severity"] == severity}
            for severity in ("wrong", "note", "unknown")
        )
        assert [said["wrong"], said["note"], said["unknown"]] == [
            len(one) for one in (self.wrong, self.note, self.unknown)
        ]
        assert self.status == bool(self.wrong)


def doctor(installation: Installation, data_dir: Path, *more: object, **environ: str) -> Said:
    options = ("-D", data_dir, "--bin-dir", installation.bin_dir, "--json")
    port = () if "-p" in more else ("-p", free_port())
    return Said(run(*options, *port, *more, python_path=None, **environ))


def has(found: dict[str, str] | list[str], *words: str) -> bool:
    return any(all(word in one for word in words) for one in found)
