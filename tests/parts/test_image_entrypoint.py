"""The image's entrypoint: which words start pgidle, and which another program, and how."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pgidle.cli.commands import cli
from pgidle.settings.image_command import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Dispatch = Callable[..., subprocess.CompletedProcess[str]]

NO_PASSWORD = "needs a password for the superuser"
"""What the way to a supervisor says here: nobody gave one."""


@pytest.fixture
def dispatch(tmp_path: Path) -> Dispatch:
    """Runs words as the image does. What would be the official image's entrypoint says BASE."""
    base = tmp_path / "docker-entrypoint.sh"
    base.write_text('#!/bin/sh\necho BASE "$@"\n')
    base.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PGIDLE_DATA_DIR": str(tmp_path / "data")}
    command = (sys.executable, "-c", "from pgidle.image_entrypoint import main; main()")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], env=env, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("word", ["--checkpoint_timeout=30min", "--check-function-bodies=off"])
def test_a_parameter_whose_name_begins_like_an_option_is_for_a_server(dispatch: Dispatch, word: str) -> None:
    ran = dispatch(word)
    assert (ran.stdout, ran.returncode) == ("", 2)
    assert NO_PASSWORD in ran.stderr


@pytest.mark.parametrize("words", [["--version"], ["-C", "port"], ["-Cport"], ["postgres", "--single"]])
def test_what_does_not_serve_is_left_to_the_official_image(dispatch: Dispatch, words: list[str]) -> None:
    ran = dispatch(*words)
    assert ran.stdout == f"BASE postgres {' '.join(word for word in words if word != 'postgres')}\n"
    assert ran.returncode == 0


def test_another_command_finds_its_signals_as_they_should_be(dispatch: Dispatch) -> None:
    ran = dispatch("sh", "-c", "yes | head -n 1")
    assert (ran.stdout, ran.stderr, ran.returncode) == ("y\n", "", 0)


def test_an_empty_word_is_refused(dispatch: Dispatch) -> None:
    ran = dispatch("")
    assert ran.stderr == (
        "pgidle: the first word is empty: name a command of this image, or nothing for postgres\n"
    )
    assert ran.returncode == 2


def test_every_command_without_pgidle_before_it_is_recognised(dispatch: Dispatch) -> None:
    assert set(COMMANDS) == set(cli.commands)
    ran = dispatch("doctor")
    assert ran.stderr.endswith("write: pgidle doctor\n")
    assert ran.returncode == 127


@pytest.mark.parametrize("is_link", [False, True])
def test_a_volume_that_was_opened_to_a_group_is_closed_again(
    dispatch: Dispatch, tmp_path: Path, *, is_link: bool
) -> None:
    """As Kubernetes does at a mount, for an fsGroup."""
    data_dir = tmp_path / "data"
    folder = tmp_path / "elsewhere" if is_link else data_dir
    folder.mkdir()
    folder.chmod(0o2770)
    if is_link:
        data_dir.symlink_to(folder)
    dispatch("postgres")
    assert f"{folder.stat().st_mode & 0o7777:o}" == ("2770" if is_link else "700")
