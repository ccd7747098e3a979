"""What the doctor says about a file, and what it says after one change to a correct file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgidle.doctor.finding import Severity
from pgidle.doctor.platforms import compose, fly, kubernetes
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.yaml_tree import read_yaml

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart

WRONG, NOTE, UNKNOWN = Severity.WRONG, Severity.NOTE, Severity.UNKNOWN
Said = list[tuple[Severity, str]]


@dataclass(frozen=True, slots=True)
class Mistake:
    """`old` becomes `new` in the right file; then `what` is found, at the line with `at` in it (None: the first)."""

    old: str
    new: str
    severity: Severity
    what: str
    at: str | None = None

    def __str__(self) -> str:
        return self.what.replace(" ", "-")[:40]

    def made_in(self, right: str) -> str:
        assert right.count(self.old) == 1, self.old
        return right.replace(self.old, self.new)


def check(mistake: Mistake, chart: Chart, text: str) -> None:
    """That the mistake is named, in its place, and nothing else is said to be wrong."""
    said = [(one.severity, one.what, one.where) for one in chart.findings]
    found = [one for one in chart.findings if mistake.what in one.what]
    assert found, said
    assert found[0].severity is mistake.severity, said
    assert len([one for one in chart.findings if one.severity is WRONG]) == (mistake.severity is WRONG), said
    lines = text.split("\n")
    line = next(at for at, each in enumerate(lines, 1) if mistake.at in each) if mistake.at else 1
    assert found[0].where.endswith(f":{line}"), (found[0].where, line)
    assert all((found[0].why, found[0].change))


def said(chart: Chart, *words: str) -> Said:
    """The findings that have one of the words, or all."""
    return [
        (one.severity, one.what)
        for one in chart.findings
        if not words or any(word in f"{one.what} {one.why}" for word in words)
    ]


def of_compose(text: str, context: Context | None = None) -> Chart:
    return compose.examine("compose.yaml", read_yaml(text)[0], context or Context())


def of_kubernetes(text: str) -> Chart:
    return kubernetes.examine("k8s.yaml", read_yaml(text), Context())


def of_fly(text: str, context: Context | None = None) -> Chart:
    return fly.examine("fly.toml", text, context or Context())
