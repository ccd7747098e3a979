"""`/history` and the page's file, through real sockets."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from harness.answering import PATIENCE, Answering, make_report
from harness.made_journal import make
from pgidle.control import history_answer
from pgidle.control.client import request
from pgidle.history import spans
from pgidle.history.bounded_files import DAY_TOTALS
from pgidle.history.files import read
from pgidle.history.journal import JOURNAL, OLDER
from pgidle.idle.reasons import Reason, ReasonKind, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HTML = 'app "<img src=x onerror=alert(1)>", user "</script>, 10.0.0.3'


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    with Answering(tmp_path) as made:
        yield made


def ask(
    made: Answering, path: str, method: str = "GET", host: str = ""
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=PATIENCE)
    with closing(connection):
        connection.request(method, path, headers={"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def history(made: Answering, seconds: int = 86400) -> dict[str, Any]:
    status, headers, body = ask(made, f"/history?since={seconds}")
    assert status == 200, body
    assert headers["content-type"] == "application/json"
    said = json.loads(body)
    assert isinstance(said, dict)
    return said


def write(made: Answering, *events: dict[str, Any], name: str = JOURNAL, tail: bytes = b"") -> None:
    """Write a journal: each event has `ago` (seconds), `event` and its fields."""
    lines = []
    now = time.time()
    for number, event in enumerate(events, 1):
        fields = {key: value for key, value in event.items() if key != "ago"}
        at = now - event["ago"]
        lines.append(json.dumps({"at": at, "up": 10**6 - event["ago"], "run": 1, "n": number} | fields))
    (made.state_dir / name).write_bytes("".join(f"{line}\n" for line in lines).encode() + tail)


STORY: tuple[dict[str, Any], ...] = (
    {"ago": 9000, "event": "started", "why": "pgidle started"},
    {"ago": 8999, "event": "woken", "cause": "start", "took": 1.0},
    {"ago": 7200, "event": "slept", "why": "idle 5min", "last_use": HTML, "shutdown": 0.2, "cut": [HTML]},
    {
        "ago": 3600,
        "event": "woken",
        "cause": "client",
        "by": ["10.0.0.3"],
        "parked": 2,
        "wait": 0.5,
        "took": 0.4,
    },
    {"ago": 3599, "event": "client", "client": HTML},
    {"ago": 3000, "event": "use", "idle": 200, "count": 4, "by": HTML},
    {"ago": 2900, "event": "poll", "client": HTML, "statement": "SELECT 1", "every": 30},
    {"ago": 600, "event": "slept", "why": "asked to sleep"},
)


def test_without_a_journal_there_is_nothing(answering: Answering) -> None:
    said = history(answering)
    assert said["spans"] == said["polls"] == []
    assert said["on_record_since"] is None
    assert said["total"]["seconds"] == {}


def test_what_has_happened(answering: Answering) -> None:
    write(answering, *STORY)
    said = history(answering)
    assert [one["condition"] for one in said["spans"]] == ["awake", "asleep", "awake", "asleep"]
    start, slept, woken, sleeps = said["spans"]
    assert (start["cause"], start["took"]) == ("start", 1.0)
    assert (slept["why"], slept["last_use"], slept["shutdown"], slept["cut"]) == (
        "idle 5min",
        HTML,
        0.2,
        [HTML],
    )
    assert (woken["waker"], woken["parked"], woken["wait"], woken["used_by"]) == (HTML, 2, 0.5, {HTML: 4})
    assert sleeps["lasts"]
    assert "lasts" not in slept
    assert said["total"]["seconds"]["asleep"] == pytest.approx(3600 + 600, abs=5)
    assert said["total"]["wakers"] == {HTML: 1}
    assert said["polls"][0]["client"] == HTML
    assert (said["polls"][0]["statement"], said["polls"][0]["every"]) == (None, 30.0)


def test_only_who_may_give_orders_is_told_a_statement(answering: Answering) -> None:
    write(answering, *STORY)
    assert b"SELECT" not in ask(answering, "/history")[2]
    status, said = request(str(answering.state_dir), "GET", "/history")
    assert (status, said["polls"][0]["statement"]) == (200, "SELECT 1")


def test_only_as_far_back_as_asked(answering: Answering) -> None:
    write(answering, *STORY)
    said = history(answering, 3000)
    assert [one["condition"] for one in said["spans"]] == ["awake", "asleep"]
    assert said["total"]["seconds"]["awake"] == pytest.approx(2400, abs=5)
    assert said["total"]["wakers"] == {}


@pytest.mark.parametrize(
    "tail", [b'{"at":17', b"\0\0\0\n", b"\xff\xfe{}\n[]\n1\n", b'{"event":"slept"}\n', b"[" * 50_000]
)
def test_a_torn_line_spoils_no_other(answering: Answering, tail: bytes) -> None:
    write(answering, *STORY, tail=tail)
    (answering.state_dir / DAY_TOTALS).write_bytes(b'{"covers": 1, "days": {"20000": []}')
    assert len(history(answering)["spans"]) == 4


def test_a_journal_that_cannot_be_read_is_an_answer_too(answering: Answering) -> None:
    (answering.state_dir / JOURNAL).symlink_to("/etc/passwd")
    status, _, body = ask(answering, "/history")
    assert status == 500
    assert "cannot read the journal" in json.loads(body)["error"]
    assert ask(answering, "/health")[0] == 200


@pytest.mark.parametrize(
    "query",
    [
        *("since=", "since=0", "since=-1", "since=1.5", "since=x", "since=99999999999", "since=²"),
        *("since=1&since=2", "until=3", "since=1&x=2", "since=" + "9" * 5000),
    ],
)
def test_a_wrong_parameter_is_refused(answering: Answering, query: str) -> None:
    status, _, body = ask(answering, "/history?" + query.replace("²", "%C2%B2"))
    assert status == 400
    assert json.loads(body)["error"]


@pytest.mark.parametrize("path", ["/", "/history"])
def test_it_only_reads(answering: Answering, path: str) -> None:
    assert ask(answering, path, "POST")[0] == 405
    status, headers, body = ask(answering, path, "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 100


def test_ten_thousand_episodes_are_told_in_as_many_spans_as_fit(answering: Answering) -> None:
    make(answering.state_dir, 29, 36_000)
    assert (answering.state_dir / OLDER).exists()
    folder = os.open(answering.state_dir, os.O_PATH)
    try:
        on_record = read(folder)
        timeline = on_record.reduced.timeline
        since = timeline.current.begin if timeline.current else 0.0
        all_of_them = [one for event in on_record.events for one in timeline.add(event)]
    finally:
        os.close(folder)
    assert len(all_of_them) > 10_000
    said = history(answering, 30 * 86400)
    told = said["spans"]
    assert 100 < len(told) <= 2 * spans.MOST_SPANS
    assert all(
        one["end"] == pytest.approx(other["begin"], abs=0.01) for one, other in itertools.pairwise(told)
    )
    seconds: dict[str, float] = dict.fromkeys(said["total"]["seconds"], 0.0)
    for one in told:
        for condition, spent in one.get("seconds", {one["condition"]: one["end"] - one["begin"]}).items():
            seconds[condition] += spent
    assert sum(seconds.values()) == pytest.approx(sum(said["total"]["seconds"].values()), rel=1e-3)
    assert seconds["asleep"] == pytest.approx(said["total"]["seconds"]["asleep"], rel=1e-3)
    recent = [one for one in told if one["begin"] >= since]
    assert sum(one["end"] - one["begin"] for one in recent) == pytest.approx(said["end"] - since, rel=1e-3)
    assert told[-1]["lasts"]
    assert told[-1]["condition"] != "mixed"


def test_other_work_has_its_turn_meanwhile(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_answer, "AT_ONCE", 10)
    write(answering, *({"ago": 5000 - number, "event": "use", "idle": 1.0} for number in range(1000)))
    folder = os.open(answering.state_dir, os.O_PATH)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> None:
        counting = asyncio.create_task(count())
        await history_answer.history(folder, 86400.0, time.time())
        counting.cancel()

    try:
        asyncio.run(both())
    finally:
        os.close(folder)
    assert turns >= 100


def test_the_page_is_one_file_that_allows_nothing_else(answering: Answering) -> None:
    status, headers, body = ask(answering, "/")
    text = body.decode()
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    nonce = policy["script-src"].removeprefix("'nonce-").removesuffix("'")
    assert policy["style-src"] == policy["script-src"] == f"'nonce-{nonce}'"
    assert "unsafe" not in headers["content-security-policy"]
    assert text.count(f'nonce="{nonce}"') == text.count("<script") + text.count("<style") == 2
    assert "NONCE" not in text
    assert nonce not in ask(answering, "/")[2].decode()
    markup = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\son\w+=|\sstyle=|\ssrc=|\shref=|https?:", markup)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org)", text
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("path", ["/", "/status", "/history", "/metrics"])
def test_no_other_site_reads_it(answering: Answering, path: str) -> None:
    status, headers, _ = ask(answering, path)
    assert status == 200
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.lower().startswith("access-control-")]
    for host in ("localhost", f"127.0.0.1:{answering.port}", "[::1]:80", "db", "db.internal"):
        assert ask(answering, path, host=host)[0] == 200
    status, _, body = ask(answering, path, host=f"rebound.example:{answering.port}")
    assert status == 421
    assert b"127.0.0.1" in body


def test_nothing_of_it_is_imported_before_somebody_asks() -> None:
    look = "import pgidle.observer.main_loop, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-P", "-c", look], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "pgidle.control.api" in loaded
    assert not loaded & {"pgidle.control.history_answer", "pgidle.control.web_page", "pgidle.history.spans"}


@pytest.mark.parametrize(
    ("ago", "cause", "by", "summary"),
    [
        (
            90,
            "client",
            ["127.0.0.1"],
            "Awake: woken AGO ago by 127.0.0.1, not seen in use since; sleeps in",
        ),
        (
            90,
            "client",
            ["a", "b", "c", "d"],
            "Awake: woken AGO ago by a, b, c and 1 more, not seen in use",
        ),
        (90, "start", [], "Awake: not used since it woke; sleeps in"),
        (9000, "client", ["127.0.0.1"], "Awake: not used since it woke; sleeps in"),
    ],
)
def test_who_woke_it_is_known_though_no_look_has_seen_them(
    answering: Answering, ago: float, cause: str, by: list[str], summary: str
) -> None:
    write(answering, {"ago": ago, "event": "woken", "cause": cause, "by": by}, {"ago": 80, "event": "hold"})
    now = time.monotonic()
    clock = Reason(ReasonKind.CLOCK, Signal.IDLE_TIMEOUT, "idle 90s of 2min (idle-timeout)", "in 30s")
    answering.report = make_report(since=now - 90, sleeps_at=now + 30, reasons=(clock,))
    said = json.loads(ask(answering, "/status")[2])
    assert re.sub(r"\d+min( \d+s)?", "AGO", said["summary"]).startswith(summary)
