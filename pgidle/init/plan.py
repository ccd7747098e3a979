"""What a platform gets: its files, and the commands that come after. Both are templates, filled in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    """A file of `templates/`, `$name` replaced by its value."""
    text = files("pgidle.init").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def commented(text: str) -> str:
    """The same as comment lines of TOML, YAML and systemd."""
    return "\n".join(f"#   {line}".rstrip() for line in text.splitlines())
