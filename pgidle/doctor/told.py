"""What a platform's file tells the pgidle that it starts: its environment and its command, read as `run` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgidle.arguments import Arguments, fast
from pgidle.errors import SettingsError
from pgidle.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.tree import Node
    from pgidle.settings import Settings

NOWHERE = "/data-directory"
"""Stands for a data directory that is not told, as in an image that has its own."""
OURS = ("PGIDLE_", "PGDATA", "PGPORT")


@dataclass(frozen=True, slots=True)
class Context:
    """What is known from elsewhere: `options` of the doctor's own command line, as variables, which the file's
    own beat; `shutdown`, the seconds that the last one took, None where none was measured."""

    options: Mapping[str, str] = field(default_factory=dict)
    shutdown: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """Settings, and whether they name a data directory at all."""

    settings: Settings
    data_dir: str | None


def variables(node: Node | None) -> dict[str, Node]:
    """An environment, written as a table or as a list of NAME=VALUE; the nodes are the values."""
    if node is None:
        return {}
    if node.table is not None:
        return dict(node.table)
    pairs = [(each, *(each.text or "").partition("=")[::2]) for each in node.each()]
    return {name: type(each)(each.line, value) for each, name, value in pairs}


def settle(
    chart: Chart, name: str, environ: Mapping[str, Node], argv: Sequence[str], line: int, context: Context
) -> Told | None:
    """The settings that hold there; None, and a finding, where pgidle would refuse to start.

    `argv` is what follows `pgidle run`, and stands at `line`.
    """
    said = {key: node.text or "" for key, node in environ.items() if key.startswith(OURS)}
    arguments = fast(argv) if argv else Arguments({})
    if arguments is None:
        chart.wrong(
            f"`pgidle run {' '.join(argv)}` is not what pgidle understands",
            f"{name}:{line}",
            "it would refuse to start with exit status 2",
            "see pgidle run --help; what is meant for postgres goes behind --",
        )
        return None
    known = {**context.options, **said}
    data_dir = arguments.options.get("data-dir") or known.get("PGIDLE_DATA_DIR") or known.get("PGDATA")
    try:
        settings = resolve(
            arguments.options,
            known if data_dir else {**known, "PGDATA": NOWHERE},
            None,
            None,
            "/",
            arguments.postgres_args,
        ).settings
    except SettingsError as error:
        at = next((node.line for key, node in environ.items() if key in error.message), line)
        chart.wrong(
            error.message, f"{name}:{at}", "pgidle refuses to start with a setting that it cannot read",
            error.hint or "correct it",
        )  # fmt: skip
        return None
    return Told(settings, str(data_dir) if data_dir else None)
