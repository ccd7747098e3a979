"""Names that are not UTF-8, and outputs that take nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.installations import server_user

if TYPE_CHECKING:
    from harness.installations import Installation, Place
    from harness.supervised import Launch

LATIN = b"caf\xe9 \xff"


def odd_folder(place: Place) -> Path:
    path = Path(os.fsdecode(os.fsencode(place.folder()) + b"/" + LATIN))
    path.mkdir(mode=0o755)
    if os.getuid() == 0:
        os.chown(path, server_user().pw_uid, server_user().pw_gid)
    return path


def test_a_data_directory_whose_name_is_not_utf_8(launch: Launch, newest: Installation, place: Place) -> None:
    folder = odd_folder(place)
    place.data_dir(newest).rename(folder / "data")
    (folder / "pgidle.toml").write_text('min_awake = "0s"\n')
    one = launch(newest, data_dir=folder / "data", when_idle="stay", min_awake=None, idle_timeout="1s")
    one.wait_for_state("asleep")
    said = one.pgidle("status", "--json")
    assert json.loads(said.stdout)["data_dir"] == str(folder / "data"), said.stderr
    mark = one.mark()
    for command in (
        ("status",),
        ("health",),
        ("config",),
        ("config", "--json"),
        ("doctor",),
        ("doctor", "--json"),
        ("wake",),
    ):
        ran = one.pgidle(*command)
        assert "Traceback" not in ran.stderr, command
        assert ran.stdout, command
    assert "caf\\udce9" in one.pgidle("config").stdout
    one.wait_for_state("awake", since=mark)
    mark = one.mark()
    (folder / "pgidle.toml").write_text('min_awake = "1s"\n')
    one.wait_log("min-awake is now 1s", since=mark)
    assert one.stop() == 0
    assert not [line.text for line in one.lines if "Traceback" in line.text or "observer: " in line.text]
    assert one.pgidle("status").returncode == 3


def test_a_first_start_in_a_folder_whose_name_is_not_utf_8(
    launch: Launch, newest: Installation, place: Place
) -> None:
    folder = odd_folder(place)
    one = launch(
        newest,
        data_dir=folder / "data",
        env={"POSTGRES_HOST_AUTH_METHOD": "trust"},
        when_idle="stay",
        socket_dir=str(folder),
    )
    one.wait_for_state("asleep")
    assert one.stop() == 0


def test_a_refusal_names_what_is_not_utf_8(place: Place) -> None:
    missing = odd_folder(place) / "conf.toml"
    ran = subprocess.run(
        [sys.executable, "-m", "pgidle", "run", "-D", "/nowhere", "--config", os.fsencode(missing)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "caf\\udce9 \\udcff/conf.toml does not exist" in ran.stderr
    assert ran.stderr.count("\n") == 1


COMMANDS = [
    ("status",),
    ("status", "--json"),
    ("health",),
    ("wake",),
    ("sleep",),
    ("hold", "1s"),
    ("release",),
    ("config",),
    ("config", "--json"),
    ("doctor",),
    ("doctor", "--json"),
    ("status", "--help"),
]


@pytest.mark.parametrize("target", [">/dev/full", ">&-"])
def test_an_answer_that_cannot_be_written_is_a_failure_in_one_line(
    launch: Launch, newest: Installation, target: str
) -> None:
    one = launch(newest, when_idle="stay")
    one.wait_for_state("awake")
    where = ("-D", str(one.data_dir))
    commands = [
        *((*words, *where) for words in COMMANDS),
        ("init", "compose", "--print"),
        ("--version",),
        ("--help",),
    ]
    for words in commands:
        ran = subprocess.run(
            ["sh", "-c", f'exec "$@" {target}', "sh", sys.executable, "-m", "pgidle", *words],
            env=one.environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode not in (0, 120), words
        assert ran.stderr.startswith("pgidle: cannot write to standard output: "), (words, ran.stderr)
        assert ran.stderr.count("\n") == 1, (words, ran.stderr)


def test_health_in_a_container_says_so_too(launch: Launch, newest: Installation) -> None:
    """By its own short way, without click."""
    one = launch(newest, when_idle="stay")
    one.wait_for_state("awake")
    environ = one.environment() | {"PGDATA": str(one.data_dir)}
    command = [sys.executable, "-m", "pgidle", "health"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            command, stdout=full, env=environ, cwd="/", stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)


def test_a_reader_that_has_gone_is_told_nothing(launch: Launch, newest: Installation) -> None:
    one = launch(newest, when_idle="stay")
    one.wait_for_state("awake")
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, "-m", "pgidle", "status", "-D", str(one.data_dir)],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=one.environment(),
        cwd="/",
        check=False,
    )
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_a_clean_end_without_any_stream(newest: Installation, place: Place) -> None:
    ran = subprocess.run(
        [
            "sh",
            "-c",
            'exec "$@" <&- >&- 2>&-',
            "sh",
            sys.executable,
            "-m",
            "pgidle",
            "run",
            "-D",
            "/nowhere/x",
        ],
        cwd="/",
        env={**os.environ, "POSTGRES_HOST_AUTH_METHOD": "trust", "PGIDLE_BIN_DIR": "/nowhere"},
        check=False,
    )
    assert ran.returncode == 2
