"""The page in a real Chromium: with made journals and fixed reports, and with a real pgidle."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from harness.answering import Answering, make_report
from harness.chromium import PATIENCE, chromium, missing, opened
from harness.installations import free_port
from harness.made_journal import make
from harness.postgres_fixture import wait_until
from pgidle.history.journal import JOURNAL
from pgidle.idle.flapping import LastSleep
from pgidle.idle.reasons import Reason, ReasonKind, Signal
from pgidle.lifecycle.restarts import FailedStart
from pgidle.lifecycle.transitions import State

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(bool(missing()), reason=missing())]

if not missing():
    from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from harness.installations import Installation
    from harness.supervised import Launch

HTML = '<img src=x onerror=alert(1)><script>alert(2)</script><b>"&amp;'
CLIENT = f'app "{HTML}", user web, 10.0.0.3'
SETTINGS = (("idle-timeout", "5min"), ("when-idle", "stay"), ("price", "12 EUR/d"))
KEPT = Reason(
    ReasonKind.ACTIVITY,
    Signal.SESSION_STATE,
    f"session 26860 ({CLIENT}) has been idle in transaction for 9.5s",
    "when it commits, rolls back or disconnects",
)
TURN = "fetch('ready').then((answer) => answer.text())"
"""Ends when the page has had its turn with what came before."""
HEADINGS = {
    State.STARTING: "Waking",
    State.AWAKE: "Awake",
    State.DROWSY: "About to sleep",
    State.STOPPING: "Going to sleep",
    State.ASLEEP: "Asleep",
    State.LEAVING: "Asleep",
    State.TERMINATING: "Stopping",
    State.FAILED: "Failed",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    with Answering(tmp_path) as made:
        yield made


def write(made: Answering, *events: tuple[float, str, dict[str, Any]]) -> None:
    """Write a journal of one run: hours ago, event, fields."""
    now = time.time()
    lines = [
        {"at": now - ago * 3600, "up": (1000 - ago) * 3600, "run": 1, "n": number, "event": event} | fields
        for number, (ago, event, fields) in enumerate(events, 1)
    ]
    (made.state_dir / JOURNAL).write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def write_story(made: Answering) -> None:
    write(
        made,
        (60, "started", {"why": "pgidle started"}),
        (59, "woken", {"cause": "start", "took": 0.5}),
        (40, "slept", {"why": f"idle 5min (idle-timeout 5min); last use: {CLIENT}", "cut": [CLIENT]}),
        (20, "woken", {"cause": "client", "by": ["10.0.0.3"], "parked": 1, "wait": 0.8, "took": 0.7}),
        (19.9, "client", {"client": CLIENT}),
        (19, "poll", {"client": CLIENT, "statement": f"SELECT '{HTML}'", "every": 30}),
        (14, "start-failed", {"why": "no space left on device", "count": 3}),
        (12, "woken", {"cause": "start", "took": 1.0}),
        (10, "slept", {"why": "asked to sleep", "shutdown": 0.3}),
    )


def visit(page: Page, made: Answering) -> None:
    page.goto(f"http://127.0.0.1:{made.port}/")
    page.wait_for_selector("#past:not([aria-busy])")


def choose(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_selector("#past:not([aria-busy])")


def text_of(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text()


def has_text(page: Page, selector: str, text: str) -> None:
    """Wait until it has."""
    expect(page.locator(selector)).to_contain_text(text, timeout=PATIENCE)


def value_text(page: Page) -> str:
    return page.get_by_role("slider").get_attribute("aria-valuetext") or ""


@pytest.mark.parametrize("state", list(State))
def test_each_state_is_said(browser: Browser, answering: Answering, state: State) -> None:
    answering.report = make_report(state=state, why="the reason for it")
    with opened(browser) as page:
        visit(page, answering)
        assert text_of(page, "#state") == HEADINGS[state]
        assert page.title().startswith(HEADINGS[state])
        if state is not State.AWAKE:
            assert text_of(page, "#why") == "The reason for it."
        assert text_of(page, "#detail") == "Nothing is on record yet."


def test_why_it_is_awake_and_what_would_end_that(browser: Browser, answering: Answering) -> None:
    clock = Reason(ReasonKind.CLOCK, Signal.IDLE_TIMEOUT, "idle 0s of 5min (idle-timeout)", "in 5min")
    answering.report = make_report(reasons=(KEPT, clock), sessions=2)
    with opened(browser) as page:
        visit(page, answering)
        assert text_of(page, "#why") == f"Session{KEPT.text[7:]}; ends {KEPT.ends}."
        assert page.locator("#reasons li").count() == 2
        answering.report = make_report(reasons=(clock,), sleeps_at=time.monotonic() + 100)
        has_text(page, "#next", "Sleeps in 1min")
        assert page.locator("#reasons li").count() == 1


def test_why_it_sleeps_and_what_fails(browser: Browser, answering: Answering) -> None:
    last = LastSleep(f"idle 5min; last use: {CLIENT}", time.time() - 60)
    answering.report = make_report(state=State.ASLEEP, last_sleep=last)
    with opened(browser) as page:
        visit(page, answering)
        assert CLIENT in text_of(page, "#why")
        assert text_of(page, "#next") == "The next client that connects wakes it."
        failed = FailedStart("no space left on device", 3, time.monotonic() - 9, time.monotonic() + 9)
        answering.report = make_report(state=State.STARTING, failed_start=failed)
        page.wait_for_selector("#problem:visible")
        assert "tried 3 times): no space left on device" in text_of(page, "#problem")


def test_what_clients_call_themselves_is_only_text(browser: Browser, answering: Answering) -> None:
    write_story(answering)
    answering.report = make_report(
        reasons=(KEPT,), settings=(*SETTINGS, ("watch", HTML)), data_dir=f"/srv/{HTML}"
    )
    with opened(browser) as page:
        visit(page, answering)
        choose(page, "Week")
        for summary in page.locator("summary").all():
            summary.click()
        for selector in ("#where", "#why", "#wakers", "#polls", "#settings", "#episodes"):
            assert HTML in (page.locator(selector).text_content() or ""), selector
        assert page.locator("img, b, main script").count() == 0


def provoke(browser: Browser, made: Answering, script: str) -> None:
    with opened(browser) as page:
        visit(page, made)
        refused = "new Promise((done) => addEventListener('securitypolicyviolation', done, {once: true}))"
        page.evaluate(f"async () => {{ const seen = {refused}; try {{ {script} }} catch {{}} await seen }}")


def test_its_policy_holds(browser: Browser, answering: Answering) -> None:
    """That nothing was refused, which `opened` checks, means something only if something can be."""
    other = free_port()
    tries = {
        "document.body.innerHTML = '<b>x</b>'": "TrustedHTML",
        f"fetch('http://127.0.0.1:{other}/')": "connect-src",
        "const s = document.createElement('style'); s.textContent = 'p{}'; document.body.append(s)": "style-src",
        "document.body.append(Object.assign(new Image(), {src: '/status'}))": "img-src",
    }
    for script, directive in tries.items():
        with pytest.raises(AssertionError, match=f"console: .*{directive}"):
            provoke(browser, answering, script)


def test_figures_wakers_and_findings(browser: Browser, answering: Answering) -> None:
    write_story(answering)
    answering.report = make_report(settings=SETTINGS)
    with opened(browser) as page:
        visit(page, answering)
        figures = text_of(page, "#figures")
        assert re.search(r"14h|13h 59min", figures)
        assert "asleep, 58 % of the time" in figures
        assert "saved, at 12 EUR/d" in figures
        assert "7.00 EUR" in figures or "6.99 EUR" in figures
        assert text_of(page, "#wakers").splitlines() == [CLIENT, "1 wake"]
        assert f"{CLIENT} asked every 30s." in text_of(page, "#polls")
        choose(page, "Week")
        assert text_of(page, "#range-heading") == "The last 7 days"
        assert "1d 6h" in text_of(page, "#figures")


def test_sessions_and_what_each_does_to_sleep(browser: Browser, answering: Answering) -> None:
    active = {"pid": 7, "client": CLIENT, "state": "active", "seconds": 3.2, "effect": "active"}
    idle = {"pid": 8, "client": 'app "psql"', "state": "idle", "seconds": 90, "effect": "idle"}
    more = {
        "sessions_seen": [
            active | {"text": "keeps Postgres awake until its query ends"},
            idle | {"text": "does not keep Postgres awake"},
        ],
        "sessions_left_out": 3,
        "polls": [{"client": CLIENT, "text": f"{CLIENT} is used every 30s", "since": time.time() - 600}],
        "without_polls": {"text": "without it this database would have slept 21h of the last 1d"},
    }
    write_story(answering)
    with opened(browser) as page:
        page.route("**/status", lambda route: route.fulfill(json=route.fetch().json() | more))
        visit(page, answering)
        assert text_of(page, "#sessions").splitlines() == [
            CLIENT,
            "keeps it awake",
            "active for 3s · keeps Postgres awake until its query ends · pid 7",
            'app "psql"',
            "lets it sleep",
            "idle for 1min 30s · does not keep Postgres awake · pid 8",
            "and 3 more",
        ]
        said = text_of(page, "#polls").splitlines()
        assert said[0] == f"{CLIENT} is used every 30s."
        # Who asks still is not told of again as one who asked before.
        assert said[2:] == ["Without it this database would have slept 21h of the last 1d."]


def test_hovering_and_tapping_tell_who_and_why(browser: Browser, answering: Answering) -> None:
    write_story(answering)
    with opened(browser, has_touch=True) as page:
        visit(page, answering)
        box = page.get_by_role("slider").bounding_box()
        assert box

        def place(hours_ago: float) -> tuple[float, float]:
            return box["x"] + box["width"] * (1 - hours_ago / 24), box["y"] + box["height"] * 0.7

        assert text_of(page, "#detail").startswith("Asleep since")
        page.mouse.move(*place(17))
        assert text_of(page, "#detail").startswith("Awake")
        assert f"Woken by {CLIENT}, who waited 0.8s." in text_of(page, "#detail")
        page.mouse.move(*place(13))
        assert "No space left on device." in text_of(page, "#detail")
        page.mouse.move(1, 1)
        assert text_of(page, "#detail").startswith("Asleep since")
        page.touchscreen.tap(*place(13))
        has_text(page, "#detail", "Failing")


def test_it_is_used_with_the_keyboard(browser: Browser, answering: Answering) -> None:
    write_story(answering)
    with opened(browser) as page:
        visit(page, answering)
        focused = "document.activeElement.dataset.range ?? document.activeElement.id ?? document.activeElement.tagName"
        for expected in ("day", "week", "month"):
            page.keyboard.press("Tab")
            assert page.evaluate(focused) == expected
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#past:not([aria-busy])")
        assert page.get_by_role("button", name="Week", pressed=True).count() == 1
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "chart"
        slider = page.get_by_role("slider", name="Timeline, by episode")
        assert slider.get_attribute("aria-valuenow") == slider.get_attribute("aria-valuemax")
        said = []
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
            said.append(value_text(page))
        assert [one.split(",")[0] for one in said] == ["Awake", "Failing", "Awake"]
        assert f"Woken by {CLIENT}" in said[-1]
        assert text_of(page, "#detail").startswith("Awake")
        page.keyboard.press("Home")
        assert slider.get_attribute("aria-valuenow") == "1"
        page.keyboard.press("PageDown")
        assert slider.get_attribute("aria-valuenow") != "1"
        page.keyboard.press("Escape")
        assert value_text(page).startswith("Asleep, since")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        rows = page.get_by_role("table").get_by_role("row")
        assert rows.count() == 1 + int(slider.get_attribute("aria-valuemax") or 0)
        assert rows.nth(1).get_by_role("cell").nth(3).inner_text() == "Asleep"


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2, 1.4.3) of an opaque color as browsers compute it."""
    channels = [int(one) / 255 for one in re.findall(r"\d+", color)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_or_dark_as_asked_and_legible(
    browser: Browser, answering: Answering, scheme: str
) -> None:
    write_story(answering)
    answering.report = make_report(reasons=(KEPT,))
    with opened(browser, color_scheme=scheme) as page:
        visit(page, answering)

        def style(selector: str, name: str) -> str:
            return str(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}"))

        paper = style("body", "backgroundColor")
        assert (luminance(paper) > 0.5) is (scheme == "light")
        for selector in (
            "#why",
            "#since",
            "#where",
            ".sub",
            "#figures dt",
            "summary",
            "#footer",
            "#detail .when",
        ):
            assert contrast(style(selector, "color"), paper) >= 4.5, selector
        assert contrast(style(".chart text", "fill"), paper) >= 4.5
        for condition in ("awake", "failing"):
            assert contrast(style(f".chart .{condition}", "fill"), paper) >= 3
            assert contrast(style(f".chart .{condition}", "fill"), style(".chart .asleep", "fill")) >= 2.5


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, answering: Answering, width: int) -> None:
    write_story(answering)
    long = Reason(ReasonKind.ACTIVITY, Signal.SESSION_STATE, f"session 1 ({'x' * 200})", "some day")
    answering.report = make_report(
        reasons=(long,), settings=(*SETTINGS, ("ignore", "y" * 300)), data_dir=f"/srv/{'z' * 200}"
    )
    with opened(browser, viewport={"width": width, "height": 800}) as page:
        visit(page, answering)
        for summary in page.locator("summary").all():
            summary.click()
        for name in ("Day", "Week", "Month"):
            choose(page, name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            drawn = page.locator("#chart svg").bounding_box()
            assert drawn
            assert drawn["x"] >= 0
            assert drawn["x"] + drawn["width"] <= width
        for button in page.locator("button:visible").all():
            box = button.bounding_box()
            assert box
            assert box["height"] >= 24


def test_ten_thousand_episodes(browser: Browser, answering: Answering) -> None:
    make(answering.state_dir, 30, 34_000)
    with opened(browser) as page:
        visit(page, answering)
        choose(page, "Month")
        assert "wakes" in text_of(page, "#figures")
        assert int(page.get_by_role("slider").get_attribute("aria-valuemax") or 0) > 1000
        page.get_by_role("slider").focus()
        said = set()
        for _ in range(20):
            page.keyboard.press("ArrowLeft")
            said.add(value_text(page))
        assert len(said) == 20
        page.locator("#table-holder summary").click()
        page.get_by_role("button", name="Show earlier ones").click()
        assert page.get_by_role("table").get_by_role("row").count() == 101
        assert page.evaluate("document.querySelectorAll('*').length") < 2000


def counts(page: Page) -> dict[str, int]:
    """DOM nodes and listeners that are alive."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    found = session.send("Memory.getDOMCounters")
    session.detach()
    return {"nodes": found["nodes"], "listeners": found["jsEventListeners"]}


def test_hours_of_updates_leave_nothing_behind(browser: Browser, answering: Answering) -> None:
    write_story(answering)
    with opened(browser) as page:
        page.clock.install()
        visit(page, answering)
        for summary in page.locator("summary").all():
            summary.click()

        def update(number: int) -> None:
            reasons = (KEPT, Reason(ReasonKind.CLOCK, Signal.IDLE_TIMEOUT, f"idle {number}s", "some day"))
            answering.report = make_report(reasons=reasons, wakes=number // 5, sessions=number)
            with page.expect_response("**/status"):
                page.clock.run_for(6000)
            has_text(page, "#reasons", f"Idle {number}s.")

        for number in range(10):
            update(number)
        before = counts(page)
        for number in range(10, 110):
            update(number)
        # Not all garbage is collected at the first try.
        wait_until(lambda: counts(page)["nodes"] <= before["nodes"] + 20, lambda: f"{before}, {counts(page)}")
        assert counts(page)["listeners"] == before["listeners"]


def paths_asked(page: Page) -> list[str]:
    asked: list[str] = []
    page.on("request", lambda one: asked.append("/" + one.url.split("/", 3)[3].partition("?")[0]))
    return asked


def test_asleep_it_asks_only_what_starts_nothing(browser: Browser, answering: Answering) -> None:
    answering.report = make_report(state=State.ASLEEP)
    with opened(browser) as page:
        page.clock.install()
        visit(page, answering)
        asked = paths_asked(page)
        for _ in range(10):
            with page.expect_response("**/health"):
                page.clock.run_for(6000)
        assert set(asked) == {"/health"}
        answering.report = make_report()
        with page.expect_response("**/health"):
            page.clock.run_for(6000)
        has_text(page, "#state", "Awake")
        assert text_of(page, "#said") == "Postgres: Awake"
        # Not at once: the clients that have just woken Postgres come first.
        assert "/status" not in asked
        with page.expect_response("**/status"):
            page.clock.run_for(6000)
        has_text(page, "#why", "Nobody is using it at this moment.")


def test_hidden_it_asks_nothing(browser: Browser, answering: Answering) -> None:
    with opened(browser) as page:
        page.add_init_script(
            "Object.defineProperty(document, 'hidden', {get: () => window.isHidden ?? false})"
        )
        page.clock.install()
        visit(page, answering)
        asked = paths_asked(page)
        page.evaluate("isHidden = true; document.dispatchEvent(new Event('visibilitychange')); null")
        page.clock.run_for(600_000)
        page.evaluate(TURN)
        assert asked == ["/ready"]
        with page.expect_response("**/status"):
            page.evaluate("isHidden = false; document.dispatchEvent(new Event('visibilitychange')); null")


def test_no_answer_is_said_and_asked_for_ever_more_seldom(browser: Browser, answering: Answering) -> None:
    answering.report = make_report(settings=(("when-idle", "exit"),), state=State.STOPPING)
    with opened(browser, excused="Failed to load resource") as page:
        page.clock.install()
        visit(page, answering)
        gone = {"is": True}
        page.route("**/status", lambda route: route.abort() if gone["is"] else route.continue_())
        asked = paths_asked(page)
        page.clock.run_for(6000)
        page.wait_for_selector("#stale:visible")
        assert "pgidle has probably exited, as Postgres sleeps" in text_of(page, "#stale")
        for _ in range(5):
            with page.expect_event("requestfailed"):
                page.clock.run_for(61_000)
            page.evaluate(TURN)
        asked.clear()
        page.clock.run_for(50_000)
        page.evaluate(TURN)
        assert "/status" not in asked
        gone["is"] = False
        page.clock.run_for(60_000)
        page.wait_for_selector("#stale", state="hidden")


def test_a_wake_while_somebody_looks(browser: Browser, newest: Installation, launch: Launch) -> None:
    port = free_port()
    one = launch(newest, when_idle="stay", idle_timeout="1s", http=f"127.0.0.1:{port}")
    one.wait_for_state("asleep")
    mark = one.mark()
    with opened(browser, viewport={"width": 390, "height": 844}) as page:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#past:not([aria-busy])")
        assert text_of(page, "#state") == "Asleep"
        assert "asleep" in text_of(page, "#figures")
        assert page.locator("#figures dt").all_inner_texts()[2] == "wake"
        lines = "it => { const all = new Range(); all.selectNodeContents(it); return all.getClientRects().length }"
        assert page.locator("header .name").evaluate(lines) == 1
        choose(page, "Month")
        # Looking has woken nobody.
        assert one.states[-1] == "asleep"
        assert one.mark() == mark or "starting" not in [line.data.get("state") for line in one.lines[mark:]]
        name = "<b>web</b>"
        with closing(psycopg.connect(one.conninfo(application_name=name), autocommit=True)) as client:
            client.execute("BEGIN")
            has_text(page, "#state", "Awake")
            has_text(page, "#reasons", name)
            assert text_of(page, "#said") == "Postgres: Awake"
            has_text(page, "#sessions", f'app "{name}"')
            has_text(page, "#wakers", name)
        has_text(page, "#state", "Asleep")
        has_text(page, "#why", name)
    assert one.stop() == 0
