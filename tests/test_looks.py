"""Looks are far apart while no sleep is near: nobody is connected then, and who asks gets one at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
from postgres_fixture import wait_until

if TYPE_CHECKING:
    from conftest import Launch
    from installations import Installation
    from supervised import Supervised

CONNECTED = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgidle'"


def _reasons(one: Supervised) -> str:
    ran = one.pgidle("status", "--json")
    assert ran.returncode == 0, ran.stderr
    return json.dumps(json.loads(ran.stdout)["reasons"])


def test_status_shows_who_came_a_moment_ago(installation: Installation, launch: Launch) -> None:
    one = launch(installation, idle_timeout="1h", when_idle="stay")
    one.wait_for_state("awake")
    wait_until(lambda: "1h" in _reasons(one))
    for _ in range(5):
        with psycopg.connect(one.conninfo()) as client:
            client.execute("SELECT 1")
            assert f"session {client.info.backend_pid} " in _reasons(one)
    with psycopg.connect(one.conninfo(), autocommit=True) as client:
        # A look is a connection of milliseconds.
        wait_until(lambda: client.execute(CONNECTED).fetchone() == (0,))
    assert one.stop() == 0


def test_asking_for_the_status_does_not_keep_it_awake(installation: Installation, launch: Launch) -> None:
    one = launch(installation, idle_timeout="3s", min_awake="1s", when_idle="stay")
    one.wait_for_state("awake")
    wait_until(lambda: json.loads(one.pgidle("status", "--json").stdout)["state"] == "asleep")
    assert one.stop() == 0
