"""Keys of fly.toml that flyctl ignores: misspelled ones, and those that lack their heading."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import FLY_KEYS

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.toml_tree import Statement
    from pgidle.doctor.readers.tree import Node


HEADINGS = {
    **dict.fromkeys(
        ("internal_port", "protocol", "auto_stop_machines", "auto_start_machines"), "[[services]]"
    ),
    **dict.fromkeys(("min_machines_running", "force_https"), "[[services]]"),
    **dict.fromkeys(("port", "handlers"), "[[services.ports]]"),
    **dict.fromkeys(("soft_limit", "hard_limit"), "[services.concurrency]"),
    **dict.fromkeys(("interval", "timeout", "grace_period", "restart_limit"), "[checks.NAME]"),
    **dict.fromkeys(("source", "destination", "initial_size"), "[[mounts]]"),
    **dict.fromkeys(("policy", "retries"), "[[restart]]"),
}
"""Keys that have an effect only under a heading."""


def check_keys(chart: Chart, root: Node) -> None:
    """Keys that flyctl ignores without a warning, including those that its --strict does not check."""
    for path, known in FLY_KEYS.items():
        for node in _at(root, path.split(".") if path else []):
            for key, value in (node.table or {}).items():
                if key in known or (not path and (key in HEADINGS or key.isupper())):
                    continue
                near = get_close_matches(key, known, n=1, cutoff=0.75)
                section = f" in [{path.replace('.*', '')}]" if path else ""
                said = f"flyctl has no key {key}{section}", f"{chart.subject}:{value.line}"
                if near:
                    chart.wrong(*said, "flyctl ignores it without a warning", near[0])
                else:
                    chart.note(*said, "flyctl ignores it without a warning", "leave it out")


def _at(node: Node, path: list[str]) -> list[Node]:
    """The tables at a path, in every row of an array; `*` is any key."""
    if node.rows is not None:
        return [found for row in node.rows for found in _at(row, path)]
    if not path:
        return [node]
    keys = list(node.table or {}) if path[0] == "*" else [path[0]]
    return [found for key in keys if (below := node.at(key)) is not None for found in _at(below, path[1:])]


def check_headings(chart: Chart, lines: list[Statement]) -> None:
    lost: dict[str, Statement] = {}
    for one in lines:
        if one.section or len(one.path) != 1:
            continue
        heading = HEADINGS.get(one.key) or ("[env]" if one.key.isupper() else None)
        if heading is not None:
            lost.setdefault(heading, one)
    for heading, one in lost.items():
        chart.wrong(
            f"`{one.key}` stands above every heading",
            f"{chart.subject}:{one.line}",
            f"it has no effect there: it belongs under {heading}",
            f"write {heading} on a line before it",
        )
