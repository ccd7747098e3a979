"""How a reason reads: who, since when, and what would end it; on one line, and not without end."""

from __future__ import annotations

import pytest

from harness.looks import client, idle_after, quiet
from pgidle.idle.policy import begin
from pgidle.idle.reasons import duration_text, who


def test_a_reason_says_who_since_when_and_what_would_end_it() -> None:
    busy = client(
        application_name="rails", client_addr="10.0.0.3", state="idle in transaction", state_age=720.0
    )
    assert str(idle_after(begin(0.0), quiet(1e6, busy)).reasons[0]) == (
        'session 4711 (app "rails", user app, 10.0.0.3) has been idle in transaction for 12min; '
        "ends when it commits, rolls back or disconnects"
    )


def test_a_crowd_is_counted_not_listed() -> None:
    crowd = [client(pid, state="active") for pid in range(1, 501)]
    verdict = idle_after(begin(0.0), quiet(1e6, *crowd))
    assert len(verdict.reasons) < 20
    assert "and 490 more like these" in [reason.text for reason in verdict.reasons]


def test_names_cannot_break_lines() -> None:
    assert "\n" not in who(client(usename="a\nb"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (0.44, "0.4s"),
        (9.99, "10s"),
        (59.6, "1min"),
        (61, "1min 1s"),
        (3600, "1h"),
        (93784, "1d 2h"),
    ],
)
def test_durations_are_read_by_people(value: float, text: str) -> None:
    assert duration_text(value) == text
