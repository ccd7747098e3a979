"""Whose settings file root obeys, and in what."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.attacked import Attacked, give, needs_root, pgidle_command
from harness.installations import server_user

if TYPE_CHECKING:
    from harness.installations import Installation, Place
    from harness.supervised import Launch


@needs_root
@pytest.mark.parametrize("command", ["run", "doctor"])
def test_no_program_that_the_file_names_is_run(attacked: Attacked, command: str) -> None:
    proof = attacked.safe / "proof"
    # Debian's dash leaves effective ids for real ones.
    attacked.plant("bin/postgres", f"#!/bin/sh\necho 'postgres (PostgreSQL) 15'\nid > {proof}\n", 0o755)
    attacked.plant("bin/initdb", "", 0o755)
    attacked.plant("pgidle.toml", f'bin_dir = "{attacked.home}/bin"\n')
    said = attacked.run(command)
    assert not proof.exists(), proof.read_text()
    assert "bin-dir does not count" in said
    assert f"is {server_user().pw_name}'s" in said


@needs_root
def test_no_program_on_the_path_is_run_as_root(attacked: Attacked) -> None:
    """PATH is the caller's, and may lead to folders of Postgres's user's."""
    proof = attacked.safe / "proof"
    attacked.plant("bin/postgres", f"#!/bin/sh\necho 'postgres (PostgreSQL) 15'\nid > {proof}\n", 0o755)
    for command in ("run", "doctor"):
        attacked.run(command, "--bin-dir", f"{attacked.home}/bin")
        assert not proof.exists(), proof.read_text()


@needs_root
def test_no_folder_that_the_file_names_is_made(attacked: Attacked) -> None:
    attacked.plant("pgidle.toml", f'state_dir = "{attacked.safe}/made"\n')
    said = attacked.run("run", "--bin-dir", str(attacked.installation.bin_dir))
    assert not (attacked.safe / "made").exists()
    assert "state-dir does not count" in said


@needs_root
@pytest.mark.parametrize(
    "line", ['user = "nobody"', 'socket_dir = "/"', 'http = ":80"', 'watch = "host=x"', 'log_format = "json"']
)
def test_what_only_a_start_goes_by_is_refused(attacked: Attacked, line: str) -> None:
    attacked.plant("pgidle.toml", f"{line}\n")
    ran = pgidle_command("run", "--data-dir", str(attacked.data_dir), "--port", str(attacked.port))
    assert ran.returncode == 2
    assert "does not count" in ran.stderr
    assert ran.stderr.count("\n") == 1


@needs_root
def test_how_postgres_sleeps_may_be_said_by_its_user(attacked: Attacked) -> None:
    attacked.plant("pgidle.toml", 'idle_timeout = "77s"\nmin-awake = "3s"\n')
    said = json.loads(attacked.run("config", "--json"))
    assert (said["idle-timeout"]["value"], said["idle-timeout"]["source"]) == ("77s", "file")
    assert said["min-awake"]["value"] == "3s"


@needs_root
def test_a_file_of_root_s_counts_whole(attacked: Attacked) -> None:
    path = attacked.safe / "shop.toml"
    path.write_text('state_dir = "/run/shop"\nidle_timeout = "78s"\n')
    said = json.loads(attacked.run("config", "--config", str(path), "--json"))
    assert (said["state-dir"]["value"], said["idle-timeout"]["value"]) == ("/run/shop", "78s")


@needs_root
def test_nobody_else_s_file_counts(attacked: Attacked) -> None:
    give(attacked.plant("pgidle.toml", 'idle_timeout = "77s"\n'), pwd.getpwnam("nobody"))
    ran = pgidle_command("run", "--data-dir", str(attacked.data_dir), "--port", str(attacked.port))
    assert ran.returncode == 2
    assert "is not read" in ran.stderr
    assert "77s" not in attacked.run("config")


@needs_root
def test_a_file_that_everybody_may_write_does_not_count(attacked: Attacked) -> None:
    attacked.plant("pgidle.toml", 'idle_timeout = "77s"\n', 0o666)
    assert "can be written by others than its owner" in attacked.run("config")


@needs_root
def test_a_link_does_not_lend_root_s_eyes(attacked: Attacked) -> None:
    (attacked.home / "pgidle.toml").symlink_to(attacked.secret('idle_timeout = "66s"\n'))
    give(attacked.home / "pgidle.toml", server_user())
    assert "66s" not in attacked.run("config")


@needs_root
@pytest.mark.parametrize("command", ["config", "status", "run", "doctor", "health", "wake"])
def test_a_pipe_in_place_of_the_file_holds_nobody_up(attacked: Attacked, command: str) -> None:
    os.mkfifo(attacked.home / "pgidle.toml")
    give(attacked.home / "pgidle.toml", server_user())
    assert "it is not a regular file" in attacked.run(command)


@needs_root
def test_a_settings_file_of_the_caller_s_own(place: Place) -> None:
    """Without root the same holds: who runs pgidle does not obey a third."""
    folder, nobody = place.folder(), pwd.getpwnam("nobody")
    folder.chmod(0o755)
    path = folder / "pgidle.toml"
    path.write_text('idle_timeout = "77s"\n')
    user = server_user()
    command = [sys.executable, "-m", "pgidle", "config", "-D", str(folder / "data")]
    for owner, counts in ((user, True), (nobody, False)):
        give(path, owner)
        ran = subprocess.run(
            command,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert ("77s" in ran.stdout) is counts, ran.stderr
        assert ("chown it to yourself" in ran.stderr) is not counts


@needs_root
def test_the_file_is_judged_again_when_it_changes(launch: Launch, newest: Installation, place: Place) -> None:
    home = place.folder("home")
    home.chmod(0o755)
    place.data_dir(newest).rename(home / "data")
    one = launch(newest, data_dir=home / "data", idle_timeout=None, when_idle="stay")
    one.wait_for_state("awake")
    path = home / "pgidle.toml"

    def put(text: str) -> int:
        mark = one.mark()
        path.write_text(text)
        give(path, server_user())
        one.signal(1)
        return mark

    one.wait_log("settings: reloaded|idle-timeout is now 71s", since=put('idle_timeout = "71s"\n'))
    one.wait_log("bin-dir does not count", since=put('bin_dir = "/tmp"\nidle_timeout = "72s"\n'))
    one.wait_log("idle-timeout is now 73s", since=put('idle_timeout = "73s"\n'))
