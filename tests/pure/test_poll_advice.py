"""What is said to do about a poll: only what can help."""

from __future__ import annotations

import pytest

from harness.looks import SETTINGS, client
from pgidle.base.record import replace
from pgidle.idle.poll_advice import advice
from pgidle.idle.polls import Poll
from pgidle.idle.reasons import client_text
from pgidle.settings.options import Ignore, IgnoreField

IGNORING = replace(SETTINGS, ignore=(Ignore(IgnoreField.STATEMENT, "select 1"),))
WEB = 'app "web", user app, 10.0.0.3'


def said(client: str = WEB, statement: str = "SELECT 1", every: float = 30.0) -> str:
    return advice(Poll(client, statement, every, 0.0), SETTINGS, with_statement=True)


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("SELECT 1", 'ignore = ["statement=SELECT 1"]'),
        ('SELECT 1 FROM "t"', r'ignore = ["statement=SELECT 1 FROM \"t\""]'),
        ("SELECT ?", 'by its full text: ignore = ["statement=…"]'),
        ("SELECT a, b …", 'by its full text: ignore = ["statement=…"]'),
        ("", 'by its full text: ignore = ["statement=…"]'),
    ],
)
def test_the_line_that_lets_it_not_count(statement: str, line: str) -> None:
    assert said(statement=statement).endswith(line)


def test_a_line_that_would_not_help_is_not_recommended() -> None:
    assert "ignore does not help against one every 5s or less" in said(every=5.0)
    assert said(every=5.5).endswith('ignore = ["statement=SELECT 1"]')
    assert "Unix socket" in said("user app, Unix socket")
    assert said("", "").startswith("log_connections = on")
    ignored = advice(Poll(WEB, "SELECT 1;", 30.0, 0.0), IGNORING, with_statement=True)
    assert "ignore names it, but it still counts" in ignored


def test_a_client_over_the_unix_socket_is_recognised() -> None:
    assert "ignore lets no statement over the Unix socket" in said(client_text(client(1, client_port=-1)))


def test_who_may_not_know_what_is_asked_is_not_told() -> None:
    poll = Poll(WEB, "SELECT 1", 30.0, 0.0)
    assert "SELECT" not in advice(poll, SETTINGS, with_statement=False)
