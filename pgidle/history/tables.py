"""A history as text for people, 80 columns wide. Pure."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING

from pgidle.history.summary import day_text, sums
from pgidle.history.tally import DAY, Tally, day_of
from pgidle.history.timeline import Condition
from pgidle.history.what_if import WORTH, timeout_text
from pgidle.idle.reasons import duration_text, one_line

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from pgidle.history.summary import Summary
    from pgidle.history.tally import Histogram
    from pgidle.history.timeline import Episode
    from pgidle.history.what_if import Advice, Outcome
    from pgidle.settings.options import Price

WIDTH = 80
CELLS = 48
"""Characters of a bar: half an hour each, if it is a day's."""
MOST_DAYS, MOST_EPISODES, MOST_WAKERS = 62, 20, 10
"""More days are shown as months; of more episodes or clients only the last or most frequent ones are shown."""
WHOLE_BELOW = 2 * 3600.0
"""Seconds of a span of which all episodes are shown."""
GLYPHS, PLAIN_GLYPHS = "█░·", "#-."
"""Of a bar: awake, asleep, anything else."""
HOUR = 3600.0


def as_text(
    summary: Summary,
    price: Price | None,
    *,
    is_running: bool,
    is_unicode: bool = True,
    first_episodes: bool = False,
) -> Iterator[str]:
    """The lines of a history. `is_unicode`: whether bars may have other characters than ASCII's. `first_episodes`:
    where there are too many, the first ones are shown rather than the last."""
    yield from _sentences(summary, is_running=is_running)
    if price is not None:
        yield from _savings(summary, price)
    yield from _bars(summary, GLYPHS if is_unicode else PLAIN_GLYPHS)
    yield from _episodes(summary, first=first_episodes)
    yield from _wakers(summary)
    yield from _waits(summary)
    yield from _troubles(summary)


def what_if_text(
    summary: Summary,
    now: Outcome,
    others: Sequence[Outcome],
    advice: Advice,
    price: Price | None,
    known: float,
) -> Iterator[str]:
    """The lines of a replay with other timeouts. `known`: the share of the time whose settings are known."""
    if not summary.episodes:
        yield from _wrapped("There is nothing to replay: no episode of this time is on record.")
        return
    span = summary.until - summary.detailed_since
    begin = moment_text(summary.detailed_since)
    older = " (of older days there are only totals)" if summary.detailed_since - summary.since >= DAY else ""
    yield from _wrapped(f"Replayed from {begin} to {moment_text(summary.until)} UTC{older}:")
    money = "saved" if price is not None else ""
    yield f"{'idle-timeout':<16}{'asleep':>12}{'':>7}{'wakes felt':>14}{money:>16}".rstrip()
    rows = [now, *(one for one in others if one.idle_timeout != now.idle_timeout)]
    for one in sorted(rows, key=lambda one: one.idle_timeout):
        name = timeout_text(one.idle_timeout) + (" (as it was)" if one is now else "")
        share = f"{one.asleep / span:.0%}" if span else ""
        saved = price.of(one.asleep / HOUR) if price is not None else ""
        mark = "  <- best" if one is advice.best else ""
        yield f"{name:<16}{hours_text(one.asleep):>12}{share:>7}{one.wakes:>14}{saved:>16}{mark}".rstrip()
    yield ""
    if advice.best is None:
        yield from _wrapped(f"Nothing to recommend: {advice.why}.")
    else:
        verb = "Keep" if advice.best is now else "Recommended: idle-timeout"
        yield from _wrapped(f"{verb} {timeout_text(advice.best.idle_timeout)}: {advice.why}.")
    yield from _wrapped(
        f"The rule: from the longest timeout on, a shorter one is better while each further wake for which a client"
        f" waits buys {WORTH / 60:.0f} min of sleep or more. A sleep also disconnects sessions that are idle. Not"
        " known, and so left as it was: idle times of less than a second; use that fell between two looks (up to 30 s"
        " apart) splits an idle time into shorter ones that were not seen; and what clients would have done"
        " differently."
    )
    if known < 0.995:
        yield from _wrapped(
            f"For {1 - known:.0%} of the time the settings are not on record: that stays as it was."
        )


def moment_text(moment: float) -> str:
    """A moment (Unix time, UTC) to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment))


def hours_text(seconds: float) -> str:
    """Hours; of less than one, minutes or seconds."""
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} h"
    if seconds >= 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 0.5 else "0 h"


def _sentences(summary: Summary, *, is_running: bool) -> Iterator[str]:
    span = f"from {moment_text(summary.since)} to {moment_text(summary.until)} UTC"
    found = summary.seconds
    if not found.total() and not summary.episodes:
        yield from _wrapped(f"Nothing is on record {span}.")
        return
    total = summary.total
    on_record = found.total() or 1.0
    first = f"Postgres slept {hours_text(found['asleep'])} ({found['asleep'] / on_record:.0%})"
    other = f", and {hours_text(found['other'])} neither" if found["other"] >= 0.05 * HOUR else ""
    text = f"{first} and was awake {hours_text(found['awake'])}{other}, {span}."
    if summary.begins - summary.since >= 60:
        text += f" The record begins at {moment_text(summary.begins)}."
    wakes = total.wakes["client"]
    by = "a client" if wakes == 1 else "clients"
    text += f" It slept {_times(total.sleeps)}, and was woken {_times(wakes)} by {by}{_waited(total.wait)}."
    if trouble := _trouble_counts(total):
        text += f" {trouble}."
    yield from _wrapped(text + _now_text(summary, is_running=is_running))
    if summary.lost:
        lines = "1 line" if summary.lost == 1 else f"{summary.lost} lines"
        yield from _wrapped(
            f"{lines} of the journal could not be written, or were never reached: some of this may be missing."
        )


def _wait_text(seconds: float) -> str:
    """As durations are, but the wait for a small database may be below a tenth of a second."""
    return f"{seconds * 1000:.0f}ms" if seconds < 0.0995 else duration_text(seconds)


def _waited(wait: Histogram) -> str:
    if not wait.count:
        return ""
    longest = _wait_text(wait.longest)
    if wait.count == 1:
        return f", which waited {longest}"
    return f", which waited {_wait_text(wait.total / wait.count)} on average and {longest} at most"


def _now_text(summary: Summary, *, is_running: bool) -> str:
    if not summary.episodes or not summary.is_now:
        return ""
    last = summary.episodes[-1]
    doing = {
        Condition.WAKING: "starting",
        Condition.AWAKE: "awake",
        Condition.ASLEEP: "asleep",
        Condition.FAILING: "not starting",
        Condition.STOPPED: "stopped",
    }.get(last.condition)
    program = "" if is_running else "pgidle does not run"
    if doing is None:
        return f" {program or 'It is not known what it does'} now."
    since = f"{doing} since {moment_text(last.begin)}"
    return f" It has been {since}{program and f' ({program})'}."


def _trouble_counts(total: Tally) -> str:
    crashes = f"It crashed {_times(total.crashes)}" if total.crashes else ""
    failed = f"failed to start {_times(total.failed_starts)}" if total.failed_starts else ""
    if crashes and failed:
        return f"{crashes}, and {failed}"
    return crashes or (f"It {failed}" if failed else "")


def _savings(summary: Summary, price: Price) -> Iterator[str]:
    hours = summary.seconds["asleep"] / HOUR
    text = f"Saved: {price.of(hours)}, for {hours_text(summary.seconds['asleep'])} asleep at {price.text}."
    when_idle = summary.terms.when_idle if summary.terms is not None else ""
    if when_idle == "stay":
        text += (
            " This assumes a machine that is not billed while Postgres sleeps. With when-idle stay, as here, pgidle"
            " stays and only memory is freed: it holds only if something else stops the machine, or shares it."
        )
    else:
        text += (
            " This assumes that the machine is not billed while Postgres sleeps, as where pgidle exits (when-idle exit)"
            " and the platform stops the machine."
        )
    yield from _wrapped(text)


def _bars(summary: Summary, glyphs: str) -> Iterator[str]:
    rows = [*_rows(summary)]
    if not rows:
        return
    yield ""
    what = "month (UTC)" if len(rows[0][0]) == len("2026-11") else "day (UTC)"
    yield f"{what:<12}{'awake':>8}{'asleep':>9}   {glyphs[0]} awake  {glyphs[1]} asleep  {glyphs[2]} other"
    for name, seconds, span in rows:
        hours = f"{hours_text(seconds['awake']):>8}{hours_text(seconds['asleep']):>9}"
        yield f"{name:<12}{hours}   {_bar(seconds, span, glyphs)}".rstrip()


def _rows(summary: Summary) -> Iterator[tuple[str, Counter[str], float]]:
    """What each bar is called, its seconds, and the seconds that make it full."""
    days = summary.days
    shown = [day for day in days if day * DAY < summary.until and (day + 1) * DAY > summary.since]
    if not shown:
        return
    every = range(min(shown), day_of(summary.until) + 1)
    names = {day: day_text(day) for day in every}
    if len(every) <= MOST_DAYS:
        for day in every:
            yield names[day], sums(days.get(day, Tally())), DAY
        return
    months: dict[str, list[int]] = {}
    for day in every:
        months.setdefault(names[day][:7], []).append(day)
    for month, of_it in months.items():
        together = Tally()
        for day in of_it:
            together.merge(days.get(day, Tally()))
        yield month, sums(together), max(sum(sums(together).values()), len(of_it) * DAY)


def _bar(seconds: Counter[str], span: float, glyphs: str) -> str:
    """Whatever has happened is seen, if only in one character."""
    text = ""
    reached = 0.0
    for name, glyph in zip(("awake", "asleep", "other"), glyphs, strict=True):
        reached += seconds[name]
        upto = round(reached / span * CELLS)
        text += glyph * max(upto - len(text), 1 if seconds[name] > 0 else 0)
    return text[:CELLS]


def _episodes(summary: Summary, *, first: bool) -> Iterator[str]:
    shown = [
        one
        for one in summary.episodes
        if one.condition is not Condition.WAKING or one.lasts or one.cause == "crash"
    ]
    if not shown:
        return
    yield ""
    yield f"{'since (UTC)':<18}{'for':<11}{'what':<9}why, and by whom"
    most = len(shown) if summary.until - summary.since <= WHOLE_BELOW else MOST_EPISODES
    for one in shown[:most] if first else shown[-most:]:
        duration = duration_text(one.seconds) + ("..." if one.lasts else "")
        head = f"{moment_text(one.begin):<18}{duration:<11}{one.condition.value:<9}"
        yield from _hanging(head, _explained(one))
    if (more := len(shown) - most) > 0:
        which = "later" if first else "earlier"
        yield from _wrapped(
            f"({more} {which} ones are not shown: --since and --until narrow it, --json has all)"
        )


def _explained(one: Episode) -> str:
    """Why, and by whom."""
    if one.condition is Condition.AWAKE:
        who = one.waker or (f"first used by {one.client}" if one.client else "")
        cause = {
            "client": "woken by",
            "order": "pgidle wake, by",
            "hold": "pgidle hold, by",
            "start": "pgidle started",
            "crash": "started again after a crash",
        }.get(one.cause, one.why)
        text = f"{cause} {who}" if one.waker else f"{cause}; {who}" if who else cause.removesuffix(", by")
        return text + (f" (waited {_wait_text(one.wait)})" if one.wait else "")
    if one.condition is Condition.ASLEEP:
        used = f"last used by {one.last_use}" if one.last_use and "none since" not in one.last_use else ""
        asked = one.why if one.why.startswith("asked to sleep") else ""
        cut = f"; {len(one.cut)} sessions cut" if len(one.cut) > 1 else ""
        return ("; ".join(filter(None, (asked, used))) or one.why) + cut
    return one.why


def _wakers(summary: Summary) -> Iterator[str]:
    wakers = summary.total.wakers.most_common()
    if not wakers:
        return
    yield ""
    yield "wakes by client"
    for name, times in wakers[:MOST_WAKERS]:
        yield from _hanging(f"{times:>6}  ", name)
    if len(wakers) > MOST_WAKERS:
        rest = sum(times for _, times in wakers[MOST_WAKERS:])
        yield f"{rest:>6}  {len(wakers) - MOST_WAKERS} more"


def _waits(summary: Summary) -> Iterator[str]:
    waits = summary.longest_waits
    if len(waits) < 2:
        return
    yield ""
    yield "longest waits"
    for one in waits:
        yield from _hanging(f"{_wait_text(one.wait or 0.0):>6}  {moment_text(one.begin)}  ", one.waker)


def _troubles(summary: Summary) -> Iterator[str]:
    troubles = summary.troubles
    if not troubles:
        return
    yield ""
    yield "crashes, failed starts, times that are not known"
    for one in troubles[-MOST_EPISODES:]:
        lasted = f"{duration_text(one.seconds)}{'...' if one.lasts else ''}"
        kind = "crash" if one.condition is Condition.WAKING else one.condition.value
        yield from _hanging(f"{moment_text(one.begin):<18}{lasted:<11}{kind:<9}", one.why)
    if (more := len(troubles) - MOST_EPISODES) > 0:
        yield f"({more} earlier ones)"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(one_line(text), WIDTH)


def _hanging(head: str, text: str) -> list[str]:
    """A text behind a head, continued below it."""
    indent = " " * len(head)
    return textwrap.wrap(head + one_line(text), WIDTH, subsequent_indent=indent, drop_whitespace=True) or [
        head
    ]
