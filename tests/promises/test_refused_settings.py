"""Settings, files and configurations that do not serve: one line says what to do, and nothing is touched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from harness.faults import complaint, contents, last_reason, query, start_again
from harness.installations import server_user

if TYPE_CHECKING:
    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: a file that only root can read")


@pytest.mark.parametrize(
    ("toml", "env", "options", "says"),
    [
        ('idel-timeout = "1min"', {}, {}, "'idel-timeout' is unknown: did you mean idle-timeout?"),
        ('idle-timeout = "5 minutes"', {}, {}, "idle-timeout: '5 minutes' is not a duration: write 5min"),
        ("idle-timeout = ", {}, {}, "correct the file, which is TOML"),
        ("", {"PGIDLE_IDEL_TIMEOUT": "1min"}, {}, "did you mean PGIDLE_IDLE_TIMEOUT?"),
        ("", {"PGIDLE_MIN_AWAKE": "soon"}, {}, "PGIDLE_MIN_AWAKE: 'soon' is not a duration"),
        ("", {}, {"stop_timeout": "4"}, "--stop-timeout: '4' is not a duration"),
        ("", {}, {"when_idle": "snore"}, "--when-idle: 'snore' is not a choice: write exit or stay"),
        ("", {}, {"user": "nobody-at-all"}, "--user nobody-at-all: "),
    ],
)  # fmt: skip
def test_settings_that_are_none(newest: Installation, place: Place, launch, toml, env, options, says: str):
    config = place.folder() / "pgidle.toml"
    config.write_text(toml)
    config.parent.chmod(0o755)
    one = launch(newest, start=False, env=env, config=str(config), **options)
    before = contents(one.data_dir)
    one.start()
    line = complaint(one, 2)
    assert says in line
    assert (str(config) in line) == bool(toml)
    assert contents(one.data_dir) == before
    assert not (one.data_dir / "pgidle").exists()


def test_a_settings_file_that_cannot_be_read(newest: Installation, place: Place, launch):
    folder = place.folder()
    line = complaint(launch(newest, config=str(folder)), 2)
    assert f"{folder} cannot be read: Is a directory: fix it, or set --config" in line


@needs_root
def test_a_settings_file_that_only_root_can_read(newest: Installation, place: Place, launch):
    config = place.folder() / "pgidle.toml"
    config.write_text("")
    os.chown(config, 0, 0)
    config.chmod(0o600)
    user = server_user()
    prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    line = complaint(launch(newest, config=str(config), prefix=prefix), 2)
    assert f"{config} cannot be read: Permission denied: fix it, or set --config" in line


def test_a_password_file_that_cannot_be_read(newest: Installation, place: Place, launch):
    path = place.folder() / "data"
    line = complaint(launch(newest, data_dir=path, env={"POSTGRES_PASSWORD_FILE": "/nowhere/secret"}), 2)
    assert "POSTGRES_PASSWORD_FILE: /nowhere/secret cannot be read" in line
    assert not path.exists()


@pytest.mark.parametrize(
    ("setting", "says"),
    [("nonsense = on", "unrecognized configuration parameter"), ("shared_buffers = 'many'", "invalid value")],
)
def test_a_configuration_that_postgres_rejects(installation: Installation, launch, setting: str, says: str):
    one = launch(installation, start=False)
    conf = one.data_dir / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + setting)
    before = contents(one.data_dir)
    one.start()
    assert one.wait() == 1
    assert one.states[-1] == "failed"
    shown = [line.text for line in one.lines if says in line.text and not line.data]
    assert 1 <= len(shown) <= 3
    assert "the postmaster exited with status 1: " in last_reason(one)
    assert says in last_reason(one)
    assert "start pgidle again" in last_reason(one)
    assert contents(one.data_dir) == before
    assert one.processes() == []
    conf.write_text(good)
    start_again(one)
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0
