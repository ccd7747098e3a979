"""`scripts/bench`, in miniature: every peer that is installed is started, stopped, woken, and told apart."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from bench import chart, figures
from bench.compared import Comparison
from bench.measures import Bench, Effort
from bench.peers import PEERS, Peer
from bench.report import Cell, Line, Result, Row, peers_table
from harness.installations import Place, debian, embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(sys.executable).with_name("pgidle")
PROJECT = Path(__file__).resolve().parents[2]
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
    monkeypatch.setattr("bench.peers.haproxy.ELSEWHERE", "/nowhere")
    assert (
        "HAProxy: skipped, no haproxy (apt-get install haproxy)"
        in Result({}, [], [], Comparison(bench, (proxy,)).skipped).notes
    )


RESULT = Result(
    dict.fromkeys(
        ("cores", "cpu", "kernel", "postgresql", "python", "gate", "peers", "date", "commit"), "<&>"
    ),
    {
        "throughput": [Row("tps", "", [1.0], [2.0], 0.97, floor=True)],
        "pool": [Row("failed to reconnect", "", [3.0], (), 0, is_promise=True)],
        "cycles": [Row("open files, after 10 sleeps", "", [12.0])],
    },
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
    page.write_text(f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n")
    figures.write(page, figures.markdown(RESULT, "docs/bench.svg"))
    text = page.read_text()
    assert text.startswith(f"before\n{figures.BEGIN}\n\n![")
    assert text.endswith(f"{figures.END}\nafter\n")
    assert "| failed to reconnect |  |  | 3 |  |" in text
    assert "| open files, after 10 sleeps |  |  | 12 |  |" in text
    assert "tps" not in text
    assert "Measured <&>, commit <&>, on" in text
    assert "old" not in text


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("nothing\n")
    with pytest.raises(SystemExit, match="no place for the figures"):
        figures.write(page, "x")
    assert page.read_text() == "nothing\n"


def test_quartiles_stand_beside_a_ratio() -> None:
    cell = Cell([80.0, 100.0, 105.0], [100.0, 100.0, 100.0])
    line = Line("pgbench, of bare", "ratio", {"pgidle": cell})
    assert "1.00 (0.90-1.02)" in peers_table(Result({}, {}, [line], {}))


def test_a_broken_promise_is_told_from_an_aim_that_was_missed() -> None:
    assert RESULT.broken == ["pool: failed to reconnect: 3"]


def test_a_connection_that_pgidle_failed_is_a_broken_promise() -> None:
    failed = Cell([20.0], counts={"connections": 50, "ECONNRESET": 1})
    lines = [
        Line("failed of 1000 connections", "", {"pgidle": failed, "HAProxy": failed}),
        Line("client_addr", "", {"pgidle": Cell((), text="lost"), "HAProxy": Cell((), text="lost")}),
    ]
    assert Result({}, {}, lines, {}).broken == [
        "failed of 1000 connections: 20.0 (1 of 50)",
        "client_addr: lost",
    ]


def _bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "--quick", "--only", "peers", *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--json", "{tmp}/no/x.json"], "--json: {tmp}/no is no folder that can be written to"),
        (["--chart", "{tmp}"], "--chart: {tmp} is a folder"),
        (["--page"], "--page shows the picture, too"),
        (["--page", "--chart", "{tmp}/x.svg"], "--page shows the picture, too"),
        (["--program", "/bin/true"], "is not pgidle"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_what_cannot_be_written_or_measured_is_refused_at_once(
    tmp_path: Path, words: list[str], says: str
) -> None:
    done = _bench(*(word.format(tmp=tmp_path) for word in words))
    assert done.returncode == 2
    assert says.format(tmp=tmp_path) in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _alone(tmp_path: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Of a script that has nothing beside it: whatever it would do first, it cannot."""
    (tmp_path / "scripts").mkdir()
    alone = shutil.copy(PROJECT / "scripts" / script, tmp_path / "scripts")
    return subprocess.run(["sh", alone, *words], capture_output=True, text=True, check=False, cwd=tmp_path)


@pytest.mark.parametrize("script", ["check", "clients", "image", "install", "run", "test", "versions"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_does_nothing_else(tmp_path: Path, script: str, option: str) -> None:
    done = _alone(tmp_path, script, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"scripts/{script}" in done.stdout
    assert [one.name for one in tmp_path.rglob("*")] == ["scripts", script]


@pytest.mark.parametrize(
    "words",
    [
        "bench --install --quick",
        "bench --quick --install",
        "check now",
        "clients -q",
        "install all",
        "install dev x",
    ],
)
def test_a_word_that_a_script_does_not_know_is_refused(tmp_path: Path, words: str) -> None:
    done = _alone(tmp_path, *words.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"{words.split()[0]}: ")
    assert done.stderr.count("\n") == 1
