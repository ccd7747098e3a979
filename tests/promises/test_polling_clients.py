"""A statement that comes in a rhythm is named by the log, the journal, the status and a metric; the ignored one lets
Postgres sleep."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from harness.installations import free_port
from pgidle.history.journal import JOURNAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation
    from harness.supervised import Launch, Supervised

LONG = 90.0
"""Seconds for a rhythm to be recognised on a busy machine: it takes a dozen uses."""


@contextmanager
def polling(one: Supervised, statement: str, every: float = 1.0) -> Iterator[None]:
    """A session over TCP that is asked about every so many seconds, until it is cut."""
    over = threading.Event()

    def poll() -> None:
        try:
            with psycopg.connect(one.conninfo(application_name="web"), autocommit=True) as client:
                while not over.wait(every):
                    client.execute(statement.encode())
        except psycopg.OperationalError:
            pass

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def over_http(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return str(answer.read().decode())


def test_a_poll_is_named_everywhere(newest: Installation, launch: Launch) -> None:
    port = free_port()
    one = launch(newest, when_idle="stay", idle_timeout="2s", http=f"127.0.0.1:{port}")
    one.wait_for_state("awake")
    client = 'app "web", user postgres, 127.0.0.1'
    with polling(one, "SELECT 'a secret', 1"):
        asks = f"{client} asks SELECT ?, 1 every "
        slept = r"s; without it this database would have slept \S+ of the last \S+"
        one.wait_log(re.escape(json.dumps(asks)[1:-1]) + r"(0\.9|1|1\.1)" + slept, LONG)

        said: dict[str, Any] = json.loads(one.pgidle("status", "--json").stdout)
        (poll,) = said["polls"]
        assert (poll["client"], poll["statement"], poll["sessions"]) == (client, "SELECT ?, 1", 1)
        assert poll["every"] == pytest.approx(1.0, abs=0.1)
        assert 0 < said["without_polls"]["slept"] < said["without_polls"]["of"]
        table = one.pgidle("status").stdout
        assert re.search(rf"^polls +{re.escape(asks)}", table, re.MULTILINE)
        assert re.search(r"^ +without it this database would have slept", table, re.MULTILINE)

        # Whoever reaches the port may know who asks, but not what.
        told = json.loads(over_http(port, "/status"))
        assert told["polls"][0]["client"] == client
        assert told["polls"][0]["statement"] is None
        assert "SELECT" not in json.dumps(told)
        metrics = over_http(port, "/metrics")
        assert re.search(
            r'^pgidle_poll_interval_seconds\{client="app \\"web\\".*"\} (0\.9|1)', metrics, re.MULTILINE
        )

        journal = (one.data_dir / "pgidle" / JOURNAL).read_text(encoding="utf-8")
        (noted,) = [entry for entry in map(json.loads, journal.splitlines()) if entry["event"] == "poll"]
        assert (noted["client"], noted["statement"]) == (client, "SELECT ?, 1")
        assert noted["since"] < noted["at"]
    assert "secret" not in "".join(line.text for line in one.lines if "pgidle" in line.text)
    one.wait_for_state("asleep")


def test_an_ignored_statement_does_not_keep_it_awake(newest: Installation, launch: Launch) -> None:
    """Looks are a fifth of the idle timeout apart, so that no two uses fall between two of them; and for a second after
    each, no sleep cuts it."""
    one = launch(newest, when_idle="stay", idle_timeout="4s", ignore="statement=SELECT 1")
    one.wait_for_state("awake")
    with polling(one, "select 1", every=2.5):
        one.wait_for_state("asleep", LONG)
