"""The files for a platform and the commands to run next, both made from templates."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import FIRST_INITDB_WITH_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.init.choices import Choices


DEFAULT_SHARED_BUFFERS = 128
"""Megabytes: what initdb chooses if the machine has room for it."""


@dataclass(frozen=True, slots=True)
class File:
    """`path` is relative to the folder that the files are written to."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps`: commands for a shell, with comments, in the order in which to run them, in the folder of the files.

    `build` come first, and are for a checkout of pgidle. `is_run_there` is false for steps that name the folder.
    """

    files: tuple[File, ...]
    steps: str
    build: str = ""
    is_run_there: bool = True


def render(template: str, values: Mapping[str, object]) -> str:
    """A file of `templates/` with each `$name` replaced by its value, without the line break at its end."""
    text = files("pgidle.init").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(values).rstrip("\n")


def shared_buffers(choices: Choices, template: str) -> str:
    """Whole lines that set a quarter of the memory; empty if Postgres takes that much anyway, or if its initdb has no
    option for it."""
    size = choices.memory // 4
    if size == DEFAULT_SHARED_BUFFERS or choices.major < FIRST_INITDB_WITH_SETTINGS:
        return ""
    return render(template, {"shared_buffers": f"{size}MB"}) + "\n"


def with_steps(
    template: str,
    path: str,
    values: Mapping[str, object],
    steps: str,
    *,
    build: str = "",
    is_run_there: bool = True,
) -> Plan:
    """One file with all steps at its top, as comment lines of TOML and YAML. `build` is a template, too."""
    rendered, first = render(steps, values), render(build, values) if build else ""
    lines = [*first.splitlines(), *rendered.splitlines()]
    head = "\n".join(f"#   {line}".rstrip() for line in lines)
    file = File(path, render(template, {**values, "steps": head}) + "\n")
    return Plan((file,), rendered, first, is_run_there)
