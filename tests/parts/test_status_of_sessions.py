"""`pgidle status` of a real Postgres: what its sessions do to sleep, and how pgidle has ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg

from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from harness.installations import Installation
    from harness.supervised import Launch, Supervised


def status(one: Supervised) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(one.pgidle("status", "--json").stdout)
    return said


def connect(one: Supervised, name: str) -> psycopg.Connection[Any]:
    return psycopg.connect(one.conninfo(application_name=name), autocommit=True)


def test_each_session_with_what_it_does(launch: Launch, installation: Installation) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="1h", ignore="application_name=exporter")
    one.wait_for_state("awake")
    with connect(one, "web") as web, connect(one, "jobs") as jobs, connect(one, "exporter") as exporter:
        with connect(one, "shell") as shell:
            web.execute("BEGIN")
            jobs.execute("LISTEN jobs")
            exporter.execute("SELECT 1")
            shell.execute("SELECT 1")
            wait_until(lambda: status(one)["sessions"] == 4)
            said = status(one)
            seen = {
                one["client"].split('"')[1]: (one["effect"], one["text"]) for one in said["sessions_seen"]
            }
            assert seen == {
                "web": ("active", "keeps Postgres awake until it commits, rolls back or disconnects"),
                "jobs": (
                    "blocks",
                    "is idle and listening for notifications: sleep waits; that ends with UNLISTEN *, or when it "
                    "disconnects",
                ),
                "shell": ("idle", "does not keep Postgres awake"),
                "exporter": ("ignored", "does not count (setting ignore)"),
            }
            assert said["sessions_seen"][0]["state"] == "idle in transaction"
            assert [one["pid"] for one in said["sessions_seen"]][:2] == [
                web.info.backend_pid,
                jobs.info.backend_pid,
            ]
            assert said["summary"].startswith(f'Awake: session {web.info.backend_pid} (app "web", ')
            assert said["summary"].endswith("; 1 more reason keeps it awake, too.")
            web.execute("COMMIT")
            jobs.execute("UNLISTEN *")
        wait_until(lambda: {one["effect"] for one in status(one)["sessions_seen"]} == {"idle", "ignored"})
        said = status(one)
        assert said["last_use"]["by"].startswith('app "')
        assert said["summary"].startswith("Awake: idle for ")
    text = one.pgidle("status").stdout
    assert text.startswith("Awake: ")
    assert f"pgidle      {said['version']}, pid " in text


def test_afterwards_it_says_how_it_ended(launch: Launch, installation: Installation) -> None:
    one = launch(installation, when_idle="exit", idle_timeout="1s")
    assert one.wait() == 0
    done = one.pgidle("status")
    assert done.returncode == 3
    assert done.stdout.startswith("Asleep for ")
    assert "; it was idle " in done.stdout
    one.options["idle-timeout"] = "1h"
    one.start()
    one.wait_for_state("awake")
    assert one.stop() == 0
    assert one.pgidle("status").stdout.startswith("Not running; it ended ")
    one.start()
    wait_until(lambda: (one.data_dir / "pgidle/journal.jsonl").read_text().count('"woken"') == 3)
    one.kill()
    assert one.pgidle("status").stdout.startswith("Not running: pgidle was killed, or ")
