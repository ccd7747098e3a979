"""`pgidle metrics` as a process: of a supervisor that answers, of a journal that was left behind, into a file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.answering import Answering
from harness.impostor import impostor as answers
from harness.installations import free_port
from harness.postgres_fixture import wait_until
from harness.promtool import promtool
from pgidle.history.journal import JOURNAL

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN = 1_795_000_000.0
NODE_EXPORTER = "prometheus-node-exporter"

JOURNAL_LINES: list[dict[str, Any]] = [
    {"at": 0.0, "event": "started"},
    {"at": 0.4, "event": "woken", "cause": "start", "wait": None, "took": 0.4},
    {"at": 100.4, "event": "slept", "cut": ["a"], "cut_count": 3, "shutdown": 0.2},
    {"at": 1000.4, "event": "woken", "cause": "client", "wait": 0.06, "took": 0.06},
    {"at": 1050.4, "event": "crashed"},
    {"at": 1051.4, "event": "woken", "cause": "crash", "wait": 3.0, "took": 1.0},
    {"at": 1100.4, "event": "start-failed", "count": 7},
    {"at": 1200.4, "event": "exited", "state": "failed", "status": 1},
    {"at": 1300.0, "run": 2, "event": "started"},
    {"at": 1300.5, "run": 2, "event": "woken", "cause": "order", "wait": None, "took": 0.5},
    {"at": 1400.5, "run": 2, "event": "slept", "cut": [], "cut_count": 0, "shutdown": 11.0},
    {"at": 1400.5, "run": 2, "event": "exited", "state": "leaving", "status": 0},
]

COUNTED = """\
pgidle_up 0
pgidle_state{state="starting"} 0
pgidle_state{state="awake"} 0
pgidle_state{state="drowsy"} 0
pgidle_state{state="stopping"} 0
pgidle_state{state="asleep"} 1
pgidle_state{state="failed"} 0
pgidle_state{state="leaving"} 0
pgidle_state{state="terminating"} 0
pgidle_state_number 5
pgidle_condition_seconds_total{condition="waking"} 1.96
pgidle_condition_seconds_total{condition="awake"} 299
pgidle_condition_seconds_total{condition="asleep"} SINCE
pgidle_condition_seconds_total{condition="failing"} 199.6
pgidle_condition_seconds_total{condition="stopped"} 0
pgidle_condition_seconds_total{condition="unknown"} 0
pgidle_wakes_total{cause="client"} 1
pgidle_wakes_total{cause="order"} 1
pgidle_wakes_total{cause="hold"} 0
pgidle_wakes_total{cause="start"} 1
pgidle_wakes_total{cause="crash"} 1
pgidle_sleeps_total 2
pgidle_crashes_total 1
pgidle_start_failures_total 1
pgidle_sessions_cut_total 3
pgidle_wake_wait_seconds_bucket{le="0.05"} 0
pgidle_wake_wait_seconds_bucket{le="0.1"} 1
pgidle_wake_wait_seconds_bucket{le="0.25"} 1
pgidle_wake_wait_seconds_bucket{le="0.5"} 1
pgidle_wake_wait_seconds_bucket{le="1"} 1
pgidle_wake_wait_seconds_bucket{le="2.5"} 1
pgidle_wake_wait_seconds_bucket{le="5"} 2
pgidle_wake_wait_seconds_bucket{le="10"} 2
pgidle_wake_wait_seconds_bucket{le="30"} 2
pgidle_wake_wait_seconds_bucket{le="60"} 2
pgidle_wake_wait_seconds_bucket{le="+Inf"} 2
pgidle_wake_wait_seconds_sum 3.06
pgidle_wake_wait_seconds_count 2
pgidle_wake_duration_seconds_bucket{le="0.05"} 0
pgidle_wake_duration_seconds_bucket{le="0.1"} 1
pgidle_wake_duration_seconds_bucket{le="0.25"} 1
pgidle_wake_duration_seconds_bucket{le="0.5"} 3
pgidle_wake_duration_seconds_bucket{le="1"} 4
pgidle_wake_duration_seconds_bucket{le="2.5"} 4
pgidle_wake_duration_seconds_bucket{le="5"} 4
pgidle_wake_duration_seconds_bucket{le="10"} 4
pgidle_wake_duration_seconds_bucket{le="30"} 4
pgidle_wake_duration_seconds_bucket{le="60"} 4
pgidle_wake_duration_seconds_bucket{le="+Inf"} 4
pgidle_wake_duration_seconds_sum 1.96
pgidle_wake_duration_seconds_count 4
pgidle_shutdown_duration_seconds_bucket{le="0.05"} 0
pgidle_shutdown_duration_seconds_bucket{le="0.1"} 0
pgidle_shutdown_duration_seconds_bucket{le="0.25"} 1
pgidle_shutdown_duration_seconds_bucket{le="0.5"} 1
pgidle_shutdown_duration_seconds_bucket{le="1"} 1
pgidle_shutdown_duration_seconds_bucket{le="2.5"} 1
pgidle_shutdown_duration_seconds_bucket{le="5"} 1
pgidle_shutdown_duration_seconds_bucket{le="10"} 1
pgidle_shutdown_duration_seconds_bucket{le="30"} 2
pgidle_shutdown_duration_seconds_bucket{le="60"} 2
pgidle_shutdown_duration_seconds_bucket{le="+Inf"} 2
pgidle_shutdown_duration_seconds_sum 11.2
pgidle_shutdown_duration_seconds_count 2
pgidle_last_wake_timestamp_seconds 1795001300.5
pgidle_last_sleep_timestamp_seconds 1795001400.5
"""


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The state directory of a pgidle that sleeps and has exited."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    numbers = {1: 0, 2: 0}
    with (folder / JOURNAL).open("w", encoding="utf-8") as file:
        for line in JOURNAL_LINES:
            run = line.get("run", 1)
            numbers[run] += 1
            up = line["at"] - (1300.0 if run == 2 else 0.0)
            head = {"at": BEGIN + line["at"], "up": up, "run": run, "n": numbers[run]}
            file.write(json.dumps(line | head) + "\n")
    return folder


def metrics(*arguments: object) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "POSTGRES_"))}
    command = [sys.executable, "-m", "pgidle", "metrics", *map(str, arguments)]
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False)


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def refusal(*arguments: object) -> str:
    done = metrics(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pgidle: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_what_is_left_of_a_pgidle_that_has_exited(left: Path) -> None:
    done = metrics("--state-dir", left)
    assert done.stderr == ""
    samples = re.sub(r"^#.*\n", "", done.stdout, flags=re.MULTILINE)
    asleep = re.search(r'condition="asleep"\} (\S+)\n', samples)
    assert asleep
    # 899.94 s of it have ended.
    assert float(asleep[1]) > 900
    assert samples.replace(asleep[1], "SINCE", 1) == COUNTED
    assert names_in(left) == [JOURNAL], "it only reads"


def test_prometheus_takes_it(left: Path) -> None:
    assert promtool("check", "metrics", given=metrics("--state-dir", left).stdout) == ""


def test_of_a_supervisor_that_runs(tmp_path: Path) -> None:
    with Answering(tmp_path) as answering:
        done = metrics("--state-dir", answering.state_dir)
        assert 'pgidle_state{state="awake"} 1\n' in done.stdout
        assert "pgidle_up 1\n" in done.stdout


def test_nothing_on_record_is_an_error(tmp_path: Path) -> None:
    assert "no pgidle is running at" in refusal("--state-dir", tmp_path / "typo")


@pytest.mark.parametrize("label", ["x", "=x", "1a=x", "a-b=x", "__a=x", "a=x\ny"])
def test_a_bad_label_is_refused(left: Path, label: str) -> None:
    done = metrics("--state-dir", left, "--label", label)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not NAME=VALUE" in done.stderr


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (("state=c",), "--label state: the metrics have a label of that name; choose another"),
        (("cluster=a", "le=1"), "--label le: the metrics have a label of that name; choose another"),
        (("a=1", "a=2"), "--label a is given twice"),
    ],
)
def test_a_sample_has_no_label_twice(left: Path, labels: tuple[str, ...], complaint: str) -> None:
    done = metrics("--state-dir", left, *(word for label in labels for word in ("--label", label)))
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_labels_are_on_every_sample(left: Path) -> None:
    text = metrics("--state-dir", left, "--label", "cluster=main", "--label", 'note=a "b\\').stdout
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) == COUNTED.count("\n")
    assert all('{cluster="main",note="a \\"b\\\\"' in line for line in samples)
    assert promtool("check", "metrics", given=text) == ""


def test_a_file_is_replaced_as_a_whole_and_is_for_everybody(left: Path, tmp_path: Path) -> None:
    path = tmp_path / "pgidle.prom"
    path.write_text("old")
    path.chmod(0o600)
    before = path.stat().st_ino
    done = metrics("--state-dir", left, "--output", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "pgidle_sleeps_total 2\n" in path.read_text()
    assert path.stat().st_mode & 0o7777 == 0o644
    assert path.stat().st_ino != before
    assert names_in(tmp_path) == ["pgidle.prom", "state"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(left: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "Is a directory" in refusal("--state-dir", left, "--output", tmp_path / "folder")
    assert "No such file or directory" in refusal("--state-dir", left, "--output", tmp_path / "no/x.prom")
    assert names_in(tmp_path) == ["folder", "state"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has lesser users")
@pytest.mark.parametrize("what", ["folder", "file", "beside"])
def test_no_other_user_can_direct_where_root_writes(left: Path, tmp_path: Path, what: str) -> None:
    """In a folder of theirs, as Debian's for node_exporter is in one of the user prometheus."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    ours.mkdir()
    (ours / "file").write_text("precious")
    if what == "folder":
        link, target, path = theirs / "way", ours, theirs / "way" / "pgidle.prom"
    else:
        link, target, path = theirs / "pgidle.prom", ours / "file", theirs / "pgidle.prom"
    if what == "beside":
        # Any name that is there is replaced, and none is written to.
        os.link(target, theirs / "pgidle.prom")
        assert metrics("--state-dir", left, "--output", path).returncode == 0
        assert "pgidle_up 0\n" in path.read_text()
        assert names_in(theirs) == ["pgidle.prom"]
    else:
        link.symlink_to(target)
        os.chown(link, 65534, 65534, follow_symlinks=False)
        assert "symbolic link" in refusal("--state-dir", left, "--output", path)
    assert (ours / "file").read_text() == "precious"
    assert names_in(ours) == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has lesser users")
def test_root_follows_no_link_of_a_lesser_user_to_a_journal(left: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    os.chown(other, 65534, 65534)
    (other / JOURNAL).symlink_to(left / JOURNAL)
    assert "cannot read the journal" in refusal("--state-dir", other)


@contextlib.contextmanager
def node_exporter(folder: Path) -> Iterator[str]:
    """The address of its metrics."""
    if not shutil.which(NODE_EXPORTER):
        pytest.skip(f"no {NODE_EXPORTER} (apt-get install {NODE_EXPORTER})")
    port = free_port()
    words = [
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
    ]
    with subprocess.Popen(
        [NODE_EXPORTER, f"--web.listen-address=127.0.0.1:{port}", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: _answers(port))
            yield f"http://127.0.0.1:{port}/metrics"
        finally:
            process.kill()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
        return True
    return False


def test_node_exporter_takes_the_files_of_several_databases(left: Path, tmp_path: Path) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    with node_exporter(folder) as address:
        for name in ("main", "shop"):
            done = metrics(
                "--state-dir", left, "--label", f"cluster={name}", "--output", folder / f"pgidle-{name}.prom"
            )
            assert done.returncode == 0, done.stderr
        with urllib.request.urlopen(address, timeout=30) as answer:
            text = answer.read().decode()
    assert "node_textfile_scrape_error 0\n" in text
    for name in ("main", "shop"):
        assert f'pgidle_sleeps_total{{cluster="{name}"}} 2\n' in text
        assert f'pgidle_wake_wait_seconds_count{{cluster="{name}"}} 2\n' in text


IMPOSTOR = """\
# HELP pgidle_up Whether pgidle runs.
# TYPE pgidle_up counter
pgidle_up 1
pgidle_up 2
pgidle_up{cluster=""} 1
pgidle_up{cluster="main"} 1
pgidle_up{x=""} 3
# TYPE pgidle_up gauge
pgidle_sleeps_total 5 1795001400
pgidle_wake_wait_seconds 3
pgidle_wake_wait_seconds_bucket 3
pgidle_wake_wait_seconds_bucket{le="many"} 3
pgidle_wake_wait_seconds_sum{le="1"} 3
pgidle_sessions{a="1",a="2"} 3
pgidle_sessions{a="\x1b[2J"} 3
node_load1 99
# TYPE node_load1 gauge
# HELP node_load1 \\x
# HELP pgidle_sessions \\x
"""


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Path]:
    """The state directory of a user who answers in the supervisor's place."""
    many = "".join(f'pgidle_reasons{{kind="{number}"}} 1\n' for number in range(5000))
    body = f'{IMPOSTOR}pgidle_long{{a="{"x" * 5000}"}} 1\n{many}'
    with answers(tmp_path / "impostor", body.encode()) as state_dir:
        yield Path(state_dir)


def test_an_impostors_metrics_are_pgidles_and_each_is_there_once(impostor: Path) -> None:
    text = metrics("--state-dir", impostor, "--label", "cluster=main").stdout
    lines = text.splitlines()
    assert lines[:3] == [
        "# HELP pgidle_up Whether pgidle runs.",
        "# TYPE pgidle_up gauge",
        'pgidle_up{cluster="main"} 1',
    ]
    assert 'pgidle_sessions{cluster="main",a="?[2J"} 3' in lines
    rest = [line for line in lines[3:] if not line.startswith(("# ", "pgidle_reasons{", "pgidle_sessions{"))]
    assert rest == []
    assert all("pgidle_" in line for line in lines)
    assert len(lines) < 1100
    assert len(text) < 100_000


def test_an_impostor_spoils_nothing_of_others(left: Path, impostor: Path, tmp_path: Path) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    with node_exporter(folder) as address:
        for name, state_dir in (("main", left), ("shop", impostor)):
            path = folder / f"pgidle-{name}.prom"
            assert (
                metrics("--state-dir", state_dir, "--label", f"cluster={name}", "--output", path).returncode
                == 0
            )
        with urllib.request.urlopen(address, timeout=30) as answer:
            text = answer.read().decode()
    assert "node_textfile_scrape_error 0\n" in text
    assert "node_load1" not in text
    assert 'pgidle_up{cluster="shop"} 1\n' in text.replace(',a=""', "").replace(',x=""', "")


def test_what_answers_without_one_of_pgidles_metrics_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pgidle.prom"
    with answers(tmp_path / "state", b"node_load1 99\n") as state_dir:
        assert "is not a supervisor of this version" in refusal("--state-dir", state_dir, "--output", path)
    assert not path.exists()
