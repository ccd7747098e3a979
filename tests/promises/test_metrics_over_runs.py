"""The metrics of a real pgidle: counters go on over sleeps, exits and kills; asking is no use, and wakes nobody."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
from typing import TYPE_CHECKING
from urllib.request import urlopen

import psycopg

from harness.faults import query
from harness.installations import free_port
from harness.postgres_fixture import wait_until
from harness.promtool import promtool

if TYPE_CHECKING:
    from harness.installations import Installation
    from harness.supervised import Launch, Supervised

SAMPLE = re.compile(r"^(pgidle_\S+) (\S+)$", re.MULTILINE)
COUNTS = re.compile(r"pgidle_\w+_(total|bucket|sum|count)(\{|$)")
PER_RUN = ("pgidle_looks_total", "pgidle_look_failures_total")


def scrape(one: Supervised) -> dict[str, float]:
    """By HTTP if it answers there, else by command."""
    address = one.options["http"]
    try:
        with urlopen(f"http://{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    except (OSError, http.client.HTTPException):
        done = one.pgidle("metrics")
        assert done.returncode == 0, done.stderr
        text = done.stdout
    return {name: float(value) for name, value in SAMPLE.findall(text)}


class Scraper:
    """Scrapes, and sees to it that no counter ever goes down."""

    def __init__(self, one: Supervised) -> None:
        self._one = one
        self._before: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        found = scrape(self._one)
        lower = {
            name: (self._before[name], found[name])
            for name in found.keys() & self._before.keys()
            if COUNTS.match(name) and name not in PER_RUN and found[name] < self._before[name]
        }
        assert lower == {}
        self._before = found
        return found

    def until(self, name: str, at_least: float) -> dict[str, float]:
        wait_until(lambda: self().get(name, 0) >= at_least, lambda: f"{name}: {self._before.get(name)}")
        return self._before


def test_counters_go_on_over_sleeps_exits_and_kills(newest: Installation, launch: Launch) -> None:
    one = launch(newest, http=f"127.0.0.1:{free_port()}", idle_timeout="1s", when_idle="exit")
    scraped = Scraper(one)
    one.wait_for_state("awake")
    scraped.until('pgidle_wakes_total{cause="start"}', 1)
    with psycopg.connect(one.conninfo(application_name="web")):
        assert one.wait() == 0

    # Nothing runs: it sleeps, and nobody wakes it.
    found = scraped.until("pgidle_sleeps_total", 1)
    assert (found["pgidle_up"], found['pgidle_state{state="asleep"}']) == (0, 1)
    assert found["pgidle_sessions_cut_total"] == 1
    scraped.until('pgidle_condition_seconds_total{condition="asleep"}', 0.1)
    assert not one.running

    one.options["idle-timeout"] = "1h"
    one.start()
    one.wait_for_state("awake")
    found = scraped.until('pgidle_wakes_total{cause="start"}', 2)
    assert (found["pgidle_up"], found["pgidle_sleeps_total"]) == (1, 1)
    awake = 'pgidle_condition_seconds_total{condition="awake"}'
    found = scraped.until(awake, found[awake] + 0.5)

    # What was scraped of a run that is killed is not taken back, and what follows is unknown.
    one.kill()
    left = scraped()
    assert left["pgidle_up"] == 0
    assert left[awake] >= found[awake]
    scraped.until('pgidle_condition_seconds_total{condition="unknown"}', 0.1)
    one.start()
    one.wait_for_state("awake")
    scraped.until('pgidle_wakes_total{cause="start"}', 3)


def test_counters_go_on_in_one_that_stays(newest: Installation, launch: Launch) -> None:
    one = launch(newest, http=f"127.0.0.1:{free_port()}", idle_timeout="1s", when_idle="stay")
    scraped = Scraper(one)
    one.wait_for_state("asleep")
    found = scraped.until("pgidle_sleeps_total", 1)
    assert found["pgidle_shutdown_duration_seconds_count"] == 1
    asleep = 'pgidle_condition_seconds_total{condition="asleep"}'
    scraped.until(asleep, found[asleep] + 0.2)
    assert one.states[-1] == "asleep", "asking woke it"

    mark = one.mark()
    query(one, "SELECT 1")
    found = scraped.until('pgidle_wakes_total{cause="client"}', 1)
    assert found["pgidle_wake_wait_seconds_count"] == 1
    assert found["pgidle_last_wake_timestamp_seconds"] > found["pgidle_last_sleep_timestamp_seconds"]
    # Scraped all the time, it sleeps again.
    wait_until(
        lambda: bool(scraped()) and any(line.data.get("state") == "asleep" for line in one.lines[mark:])
    )

    mark = one.mark()
    query(one, "SELECT 1")
    one.wait_for_state("awake", since=mark)
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(one.conninfo()) as connection:
        connection.execute("BEGIN")  # So that it does not sleep meanwhile.
        assert one.postmaster_pid
        os.kill(one.postmaster_pid, signal.SIGKILL)
        scraped.until("pgidle_crashes_total", 1)
    scraped.until('pgidle_wakes_total{cause="crash"}', 1)


def test_prometheus_takes_it_in_every_state(newest: Installation, launch: Launch) -> None:
    one = launch(newest, http=f"127.0.0.1:{free_port()}", idle_timeout="1s", when_idle="stay")
    for state in ("awake", "asleep"):
        one.wait_for_state(state)
        with urlopen(f"http://{one.options['http']}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        assert f'postgres="{newest.major}"' in text
        assert promtool("check", "metrics", given=text) == ""
    assert promtool("check", "metrics", given=one.pgidle("metrics").stdout) == ""
    one.stop()
    assert promtool("check", "metrics", given=one.pgidle("metrics").stdout) == ""
