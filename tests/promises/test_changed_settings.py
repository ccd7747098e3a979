"""Settings and Postgres's configuration, edited while it runs: applied at once, or refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.faults import carry_out, notes, query, start_again
from harness.installations import server_user
from harness.namespaces import UNPRIVILEGED
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from harness.installations import Installation, Place

pytestmark = pytest.mark.heavy


def test_configuration_that_is_edited_while_it_runs(newest: Installation, place: Place, launch):
    config = place.folder() / "pgidle.toml"
    config.write_text('idle-timeout = "off"')
    one = launch(newest, config=str(config), idle_timeout=None, when_idle="stay")
    one.wait_for_state("awake")
    carry_out(one, "SELECT 1")

    # Written again until it is seen, as nothing tells when files begin to be watched.
    wait_until(lambda: config.write_text('idle-timeout = "now"') and notes(one, "settings") != [])
    line = one.wait_log("settings unchanged")
    assert f"{config}:1: idle-timeout: 'now' is not a duration: write" in line.data["reason"]

    mark = one.mark()
    hba = one.data_dir / "pg_hba.conf"
    hba.write_text("local all all trust\nhost all nobody 127.0.0.1/32 reject\n" + hba.read_text())
    one.wait_log("pg_hba.conf changed: reloading Postgres", since=mark)
    one.wait_log("received SIGHUP, reloading configuration files", since=mark)
    with pytest.raises(psycopg.OperationalError, match="rejects"):
        psycopg.connect(one.conninfo(user="nobody"))

    mark = one.mark()
    one.signal(signal.SIGHUP)
    one.wait_log("received SIGHUP, reloading configuration files", since=mark)
    assert one.states == ["starting", "awake"]

    mark = one.mark()
    config.write_text('idle-timeout = "300ms"')
    one.wait_for_state("asleep", since=mark)
    assert any("that is over" in note for note in notes(one, "settings"))
    assert one.stop() == 0


def test_sighup_reads_the_settings_too(newest: Installation, place: Place, launch):
    """At once, also where the file's folder cannot be watched."""
    if os.getuid() != 0:
        pytest.skip("needs root, for a folder that the user of Postgres cannot list")
    folder = place.folder()
    config = folder / "pgidle.toml"
    config.write_text('idle-timeout = "off"')
    os.chown(folder, 0, 0)
    folder.chmod(0o711)
    one = launch(newest, config=str(config), idle_timeout=None, when_idle="stay")
    one.wait_for_state("awake")
    config.write_text('idle-timeout = "200ms"')
    one.signal(signal.SIGHUP)
    one.wait_for_state("asleep")
    # What holds, and not what a new start would take.
    config.write_text('idle-timeout = "off"')
    assert json.loads(one.pgidle("status", "--json").stdout)["settings"]["idle-timeout"] == "200ms"
    assert one.stop() == 0


def test_who_waits_and_is_no_longer_named_in_no_wake_wakes(newest: Installation, place: Place, launch):
    config = place.folder() / "pgidle.toml"
    config.write_text('no-wake = ["127.0.0.1"]')
    one = launch(newest, config=str(config), idle_timeout="200ms", when_idle="stay")
    one.wait_for_state("asleep")
    with ThreadPoolExecutor() as clients:
        visit = clients.submit(query, one, "SELECT 1")
        wait_until(lambda: one.parked() == 1)
        config.write_text("")
        one.signal(signal.SIGHUP)
        assert visit.result()
    assert one.stop() == 0


def test_who_is_to_exit_when_idle_from_now_on_does_so_from_its_sleep(
    newest: Installation, place: Place, launch
):
    config = place.folder() / "pgidle.toml"
    config.write_text('when-idle = "stay"')
    one = launch(newest, config=str(config), idle_timeout="200ms", when_idle=None)
    one.wait_for_state("asleep")
    config.write_text('when-idle = "exit"')
    one.signal(signal.SIGHUP)
    assert one.wait() == 0


def test_a_shorter_idle_timeout_shortens_what_flapping_adds_to_it(newest: Installation, place: Place, launch):
    config = place.folder() / "pgidle.toml"
    config.write_text('idle-timeout = "10min"')
    one = launch(newest, start=False, config=str(config), idle_timeout=None)
    (one.data_dir / "pgidle").mkdir()
    sleep = {"asleep_at": 1.0, "woken_at": 2.0, "cut": ["pool"], "woken_by": "pool"}
    (one.data_dir / "pgidle/last.json").write_text(json.dumps({"why": "", "at": 1.0, "sleeps": [sleep]}))
    if os.getuid() == 0:
        shutil.chown(one.data_dir / "pgidle", server_user().pw_name)
    start_again(one)
    one.wait_log("idle-timeout extended by 600 s")
    config.write_text('idle-timeout = "200ms"')
    one.signal(signal.SIGHUP)
    assert one.wait() == 0


NO_INOTIFY = (
    *("unshare", "--user", "--map-current-user", "--keep-caps"),
    *("sh", "-c", 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"', "sh"),
)


def test_who_can_watch_no_files_looks_and_sleeps_all_the_same(newest: Installation, launch):
    prefix = (*(UNPRIVILEGED.format(server_user()).split() if os.geteuid() == 0 else ()), *NO_INOTIFY)
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, for a user who has no inotify left")
    one = launch(newest, idle_timeout="200ms", when_idle="exit", prefix=prefix)
    assert one.wait() == 0
    assert "asleep" in one.states


def test_with_settings_that_the_next_start_refuses_it_does_not_exit(
    newest: Installation, place: Place, launch
):
    """Nothing would start Postgres again for a client."""
    config = place.folder("etc") / "pgidle.toml"
    config.write_text('idle-timeout = "1s"\n')
    one = launch(newest, config=str(config), idle_timeout=None, when_idle="exit")
    one.wait_for_state("awake")
    config.write_text('idle-timeout = "1s"\nprice = "cheap"\n')
    one.wait_log("Postgres could not start again, so it stays awake: pgidle would not start: .*price")
    assert "pgidle would not start" in one.pgidle("status").stdout
    assert one.running
    config.write_text('idle-timeout = "1s"\n')
    assert one.wait() == 0
