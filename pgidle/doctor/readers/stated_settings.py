"""The settings that a platform's file gives pgidle, as variables or as options, read as `run` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgidle.settings.arguments import Arguments, fast
from pgidle.settings.options import OPTIONS
from pgidle.settings.resolve import RefusedSetting, Source, resolve

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.tree import Node
    from pgidle.settings.resolve import Settings

NOWHERE = "/data-directory"
"""Stands for a data directory that is not stated, as with an image that has its own."""
OURS = ("PGIDLE_", "PGDATA", "PGPORT")


@dataclass(frozen=True, slots=True)
class Context:
    """What is known from outside the file. `options`: those on the doctor's own command line, as variables, which the
    file's variables override. `shutdown`: seconds that the last shutdown took, None if none was measured. `dockerfile`:
    the text of the Dockerfile beside the file. `beside`: the contents of other files that it names, None for one that
    cannot be read."""

    options: Mapping[str, str] = field(default_factory=dict)
    shutdown: float | None = None
    dockerfile: str | None = None
    beside: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Variables set where the doctor cannot look: `names` are those whose values are unknown, `sources` are whole files
    or objects of which not even the names are known."""

    names: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()

    def of(self, known: Collection[str], given: Collection[str]) -> frozenset[str]:
        """The settings that hidden variables may set: those that the known environment and command line do not give."""
        unknown = set()
        for option in OPTIONS:
            own = {option.variable, *option.env}
            if option.name not in given and (own & self.names or (self.sources and not own & set(known))):
                unknown.add(option.name)
        return frozenset(unknown)

    def __str__(self) -> str:
        return ", ".join((*self.sources, *sorted(one for one in self.names if one.startswith(OURS))))


@dataclass(frozen=True, slots=True)
class Told:
    """The settings that a file states, and the data directory if they name one. `unknown` are the names of settings
    that may be set elsewhere, where the doctor cannot look: here they have defaults. `elsewhere` names those places."""

    settings: Settings
    data_dir: str | None
    unknown: frozenset[str] = frozenset()
    elsewhere: str = ""

    def knows(self, *names: str) -> bool:
        return not self.unknown.intersection(names)


def variables(node: Node | None) -> dict[str, Node]:
    """An environment, written as a table or as a list of NAME=VALUE; the nodes are the values."""
    if node is None:
        return {}
    if node.table is not None:
        return dict(node.table)
    pairs = [(each, *(each.text or "").partition("=")[::2]) for each in node.each()]
    return {name: type(each)(each.line, value) for each, name, value in pairs}


def run_arguments(chart: Chart, where: str, argv: Sequence[str]) -> Arguments:
    """Read what follows `pgidle run`. Arguments that pgidle would refuse are a finding, and are then ignored."""
    read = fast(argv) if argv else Arguments({})
    if read is None:
        chart.wrong(
            f"pgidle does not understand `pgidle run {' '.join(argv)}`",
            where,
            "it would refuse to start with exit status 2",
            "see pgidle run --help; arguments for postgres go after --",
        )
    return read or Arguments({})


def settle(
    chart: Chart,
    name: str,
    environ: Mapping[str, Node],
    arguments: Arguments,
    line: int,
    context: Context,
    *,
    hidden: Hidden | None = None,
    defaults: Mapping[str, str] | None = None,
) -> Told:
    """The settings that apply in the file. Each value that pgidle would refuse is a finding, and is then ignored.

    `line` is where the arguments are; `defaults` are the variables of the image itself.
    """
    hidden = hidden or Hidden()
    said = {key: node.text or "" for key, node in environ.items() if key.startswith(OURS)}
    given, postgres_args = dict(arguments.options), arguments.postgres_args
    while True:
        known = {**(defaults or {}), **context.options, **said}
        data_dir = given.get("data-dir") or known.get("PGIDLE_DATA_DIR") or known.get("PGDATA")
        environment = known if data_dir else {**known, "PGDATA": NOWHERE}
        try:
            settings = resolve(given, environment, None, None, "/", postgres_args).settings
        except RefusedSetting as error:
            source, variable = error.origin.source, error.origin.name
            is_said_here = source is Source.ENVIRONMENT and variable in said
            at = environ[variable].line if is_said_here else line
            chart.wrong(
                error.message, f"{name}:{at}", "pgidle refuses to start with a bad setting",
                error.hint or "correct it",
            )  # fmt: skip
            if is_said_here:
                del said[variable]
            elif source is Source.OPTION:
                del given[error.setting]
            elif source is Source.POSTGRES_ARGUMENTS:
                postgres_args = ()
            else:
                context, defaults = Context(shutdown=context.shutdown), None
        else:
            unknown = hidden.of({**context.options, **said}, given)
            return Told(settings, str(data_dir) if data_dir else None, unknown, str(hidden))
