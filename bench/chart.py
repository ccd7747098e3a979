"""The comparison as a picture: panels of horizontal bars, one for each peer, readable on light and dark backgrounds."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from bench.compared import TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.report import Line, Result

WIDTH, LEFT, RIGHT = 760, 190, 90
"""Of the picture, of the names, of the figures behind the bars."""
BAR, GAP, TITLE, MARGIN = 15, 5, 30, 16

PANELS = (
    ("pgbench -S, 8 clients", "Throughput: pgbench -S, 8 clients", "of bare Postgres; more is better"),
    ("COPY of", "Throughput: {}", "of bare Postgres; more is better"),
    ("wake, connect", "Wake: from connect to the first row", "ms; less is better"),
    ("failed of 1000", "{}", "less is better"),
    ("memory awake: RSS", "Memory of what supervises or relays", "MB resident; less is better"),
)
"""How a line's name begins, the panel's title ({}: the line's name), and how to read it."""

STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 13px }
.quiet { fill: #59636e; font-size: 11px }
.bar { fill: #9aa4af }
.ours { fill: #1f6feb }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .quiet { fill: #9198a1 }
  .bar { fill: #656c76 }
  .ours { fill: #58a6ff }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: float
    figure: str
    is_ours: bool


def svg(result: Result) -> str:
    """The picture, with the machine below."""
    body: list[str] = []
    top = MARGIN
    for begins, title, hint in PANELS:
        bars = list(_bars(result.lines, result.peers, begins))
        if not bars:
            continue
        first = next(line.name for line in result.lines if line.name.startswith(begins))
        title = title.format(first.removesuffix(", of bare"))
        body.append(
            f'<text class="title" x="{MARGIN}" y="{top + 13}">{escape(title[0].upper() + title[1:])} '
            f'<tspan class="quiet" font-weight="400">{escape(hint)}</tspan></text>'
        )
        body += _panel(bars, top + TITLE - 6)
        top += TITLE + len(bars) * (BAR + GAP) + 12
    for words in _caption(result.about):
        body.append(f'<text class="quiet" x="{MARGIN}" y="{top + 8}">{escape(words)}</text>')
        top += 16
    height = top + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="pgidle compared with its peers">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", *body, "</svg>", ""])


def _bars(lines: Sequence[Line], peers: Sequence[str], begins: str) -> Iterator[Bar]:
    for line in lines:
        if not line.name.startswith(begins):
            continue
        told = ", told" if line.name.endswith(TOLD) else ""
        for name in peers:
            if (cell := line.cells.get(name)) is None:
                continue
            value = cell.ratio if line.unit == "ratio" else cell.median
            assert value is not None
            figure = (
                f"{value:.2f}" if line.unit == "ratio" else f"{value:.0f}" if value >= 10 else f"{value:.1f}"
            )
            yield Bar(name + told, value, figure.removesuffix(".0"), name == "pgidle")


def _panel(bars: Sequence[Bar], top: int) -> Iterator[str]:
    longest = max(bar.value for bar in bars) or 1.0
    room = WIDTH - LEFT - RIGHT
    for index, bar in enumerate(bars):
        y = top + index * (BAR + GAP)
        # A bar of no length would look like one that is missing.
        width = max(bar.value / longest * room, 1.5)
        weight = ' font-weight="600"' if bar.is_ours else ""
        yield f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end"{weight}>{escape(bar.name)}</text>'
        kind = "ours" if bar.is_ours else "bar"
        yield f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        yield f'<text x="{LEFT + width + 6:.1f}" y="{y + 12}"{weight}>{escape(bar.figure)}</text>'


def _caption(about: Mapping[str, object]) -> Iterator[str]:
    yield f"{about['cores']} cores of {about['cpu']}, {about['kernel']}, PostgreSQL {about['postgresql']}"
    yield str(about["peers"])
    yield f"gate mode {about['gate']}; told: the harness tells the proxy of each stop and start"
