"""What a platform gets: its files, and the commands that come after. Both are templates, filled in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.init.choices import Choices


DEFAULT_SHARED_BUFFERS = 128
"""Megabytes: what initdb writes where it can."""


@dataclass(frozen=True, slots=True)
class File:
    """`path` is relative to the folder that is asked for."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps`: commands for a shell, with comments, in the order in which they are to be run."""

    files: tuple[File, ...]
    steps: str


def render(template: str, values: Mapping[str, object]) -> str:
    """A file of `templates/`, `$name` replaced by its value; without the line break at its end."""
    text = files("pgidle.init").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(values).rstrip("\n")


def shared_buffers(choices: Choices, template: str) -> str:
    """A quarter of the memory, as whole lines; nothing where that is what Postgres takes anyway."""
    size = choices.memory // 4
    return "" if size == DEFAULT_SHARED_BUFFERS else render(template, {"shared_buffers": f"{size}MB"}) + "\n"


def with_steps(template: str, path: str, values: Mapping[str, object], steps: str) -> Plan:
    """One file that has the steps in its head, as comment lines of TOML and YAML."""
    rendered = render(steps, values)
    head = "\n".join(f"#   {line}".rstrip() for line in rendered.splitlines())
    return Plan((File(path, render(template, {**values, "steps": head}) + "\n"),), rendered)
