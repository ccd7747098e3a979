"""`scripts/bench`, in miniature: every peer that is installed is started, stopped, woken, and told apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import chart
import pytest
import readme
from compared import Comparison
from installations import Place, debian, embedded
from measures import Bench, Effort
from peers import PEERS, Peer
from report import Cell, Line, Result, Row, peers_table

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(sys.executable).with_name("pgidle")
FAST = ("fsync=off", "shared_buffers=16MB", "max_connections=100")
TINY = Effort(
    load_starts=1, loads=1, load_seconds=0, wakes=1, awake_seconds=0.1, idle_seconds=0.1, copied=1000, cycles=3
)  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    found = [one for one in (debian(), embedded()) if one]
    if not found:
        pytest.skip("no PostgreSQL")
    place = Place()
    yield Bench(max(found, key=lambda one: one.major), place, PROGRAM, TINY, lambda what: None, FAST)
    place.clean()


@pytest.mark.parametrize("peer", PEERS, ids=lambda one: one.name)
def test_a_peer_is_measured(bench: Bench, peer: type[Peer]) -> None:
    if why := peer.missing():
        pytest.skip(why)
    comparison = Comparison(bench, (peer,))
    cells = {line.name: line.cells[peer.name] for line in comparison.lines() if peer.name in line.cells}

    assert cells["client_addr"].text == ("kept" if peer.name in ("bare", "pgidle") else "lost")
    [failed] = [cell for name, cell in cells.items() if name.startswith("failed") and "told" not in name]
    assert failed.counts["connections"] > 0
    if peer.name == "pgidle":
        assert failed.values == [0.0], failed.counts
    assert (cells["memory awake: RSS"].median > 0) is (peer.name != "bare")
    if peer.name != "bare":
        assert cells["COPY of 1 MB to the client, of bare"].ratio
        assert cells["wake, connect to first row"].median > 0
        assert (any("told" in name for name in cells)) is peer.can_be_told


def test_a_peer_that_is_not_there_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    [proxy] = [one for one in PEERS if one.name == "HAProxy"]
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("peers.haproxy.ELSEWHERE", "/nowhere")
    assert (
        "HAProxy: skipped, no haproxy (apt-get install haproxy)"
        in Result({}, [], [], Comparison(bench, (proxy,)).skipped).notes
    )


RESULT = Result(
    dict.fromkeys(("cores", "cpu", "kernel", "postgresql", "python", "gate", "peers"), "<&>"),
    {"pool": [Row("failed to reconnect", "", [3.0], (), 0)]},
    [
        Line("memory awake: RSS", "MB", {"pgidle": Cell([40.0]), "PgBouncer": Cell([8.0])}),
        Line("failed of 1000 connections", "", {
            "pgidle": Cell([0.0], counts={"connections": 50}),
            "PgBouncer": Cell([40.0], counts={"connections": 50, "ECONNRESET": 2}),
        }),
    ],
    {"HAProxy": "no haproxy"},
)  # fmt: skip


def test_the_picture_is_valid_and_has_a_bar_for_each() -> None:
    root = ElementTree.fromstring(chart.svg(RESULT))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    assert [bar.get("class") for bar in bars] == ["ours", "bar", "ours", "bar"]


def test_the_table_says_what_failed() -> None:
    text = peers_table(RESULT)
    assert "40.0 (2 of 50)" in text
    assert "PgBouncer, failed of 1000 connections: 2 ECONNRESET" in text
    assert "HAProxy: skipped, no haproxy" in text


def test_the_page_is_written_between_the_marks_only(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    readme.write(page, readme.markdown(RESULT, "docs/bench.svg"))
    text = page.read_text()
    assert text.startswith(f"before\n{readme.BEGIN}\n\n![")
    assert text.endswith(f"{readme.END}\nafter\n")
    assert "| failed to reconnect |  |  | 3 |  |" in text
    assert "old" not in text


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("nothing\n")
    with pytest.raises(SystemExit, match="no place for the figures"):
        readme.write(page, "x")
    assert page.read_text() == "nothing\n"
