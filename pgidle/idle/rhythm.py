"""Whether moments come in a rhythm, of which only some are seen. Pure.

The differences between moments that are seen are whole multiples of the period. So the period is taken to be the
greatest number of which nearly all differences are multiples, within a tolerance that allows for jitter. Neighbours are
compared, and not all moments with a fixed grid, because a client that waits for so long after each answer drifts. A
period counts as found once moments at random would hardly ever look the same (`SURE`).

It may still be a multiple of the true period: to looks that come in step with the moments, say every 30 s, something
that happens every 5 s seems to happen every 30 s. `polls` settles that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LEAST = 0.8
"""Seconds of the shortest period that is recognised."""

DIVISORS = 32
"""The smallest differences are taken for up to so many periods."""

SURE = math.log(1e-5)
"""Logarithm of the chance with which moments at random may be taken for a rhythm."""

MISFITS = 6
"""One in so many differences need not fit: a poll that was late, or asked twice."""

COUNTED = 10
"""Looks, and arrivals, that it takes to recognise a rhythm by the number of arrivals alone."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Seconds between two moments that were seen one after the other, and between the looks that saw them."""

    seconds: float
    looks: float


def gaps(seen: Iterable[tuple[float, float]]) -> list[Gap]:
    """The gaps between moments, each given with the time of the look that saw it."""
    return [Gap(later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in pairwise(seen)]


def tolerance(period: float) -> float:
    """Seconds by which a difference may deviate from one period."""
    return min(0.1 * period, 0.2 + 0.01 * period)


def find(gaps: Iterable[Gap], known: float | None = None) -> float | None:
    """The greatest period (seconds) that the gaps have for sure; None if there is none. `known`: one that they had
    before, which need not be found anew, only confirmed."""
    ordered = sorted(gaps, key=lambda gap: gap.seconds)
    if known is not None:
        found = _refined(ordered, known)
        return found[0] if found and 0.9 < found[0] / known < 1.1 else None
    smallest = sorted(
        {round(gap.seconds, 1): gap.seconds for gap in ordered if gap.seconds >= LEAST}.values()
    )
    candidates = sorted((one / part for one in smallest[:3] for part in range(1, DIVISORS + 1)), reverse=True)
    for candidate in candidates:
        if candidate < LEAST:
            break
        if (found := _refined(ordered, candidate)) is not None:
            period, fitting = found
            ways = len(candidates) * math.comb(len(ordered), len(fitting))
            if _chance(fitting, period) + math.log(ways) <= SURE:
                return period
    return None


def _refined(ordered: Sequence[Gap], period: float) -> tuple[float, list[Gap]] | None:
    """The period, refined by gaps of ever more periods, with those that fit; None if too few do."""
    total, count, misfits = 0.0, 0, 0
    fitting = []
    for gap in ordered:
        number = max(1, round(gap.seconds / period))
        if abs(gap.seconds - number * period) <= _allowed(period, number):
            fitting.append(gap)
            total += gap.seconds
            count += number
            period = total / count
        else:
            misfits += 1
            if misfits * MISFITS > len(ordered):
                return None
    return period, fitting


def _allowed(period: float, number: int) -> float:
    """Seconds by which so many periods may be off: jitter adds up like a random walk where the client waits for so long
    after each answer."""
    return min(tolerance(period) * math.sqrt(number), 0.2 * period)


def _chance(fitting: Sequence[Gap], period: float) -> float:
    """The logarithm of the chance that all of these would fit.

    The gap from which the period was made proves nothing. Nor does one of several periods that is as long as another
    between looks that were as far apart: looks in step with the moments see the same again and again.
    """
    chances = []
    known: set[tuple[int, int]] = set()
    for gap in fitting:
        number = max(1, round(gap.seconds / period))
        like = number, round(gap.looks / period * 3)
        if number == 1 or like not in known:
            known.add(like)
            chances.append(math.log(2 * _allowed(period, number) / period))
    return sum(sorted(chances)[:-1])


def find_counted(looks: Sequence[tuple[float, int]]) -> float | None:
    """The period of arrivals that no look sees, from the moments of looks and the number of all arrivals by then.

    Arrival number n, at `begin + n * period`, must lie after the look before it and before the look after it. For each
    period that leaves an interval for `begin`; the periods that leave one are an interval too, and the period is known
    once that is narrow. None if it is not, or if there is no rhythm.
    """
    if len(looks) <= COUNTED:
        return None
    (first, before), (last, after) = looks[0], looks[-1]
    arrivals = after - before
    if arrivals < COUNTED:
        return None
    shortest, longest = (last - first) / (arrivals + 1), (last - first) / (arrivals - 1)
    if longest < LEAST:
        return None
    steps = 20
    possible = [
        period
        for period in (shortest + (longest - shortest) * step / steps for step in range(steps + 1))
        if _leaves_room(looks, period)
    ]
    if not possible or possible[-1] - possible[0] > 0.1 * possible[0]:
        return None
    return (possible[0] + possible[-1]) / 2


def _leaves_room(looks: Sequence[tuple[float, int]], period: float) -> bool:
    latest = min(at - number * period for at, number in looks)
    earliest = max(at - (number + 1) * period for at, number in looks)
    return earliest - latest <= tolerance(period)
