"""Who has yet to get their first prompt."""

from __future__ import annotations

import pytest

from pgidle.idle.snapshot import Connecting, Peer, Session, Snapshot


def look(*sessions: Session, connecting: Connecting | None = None) -> Snapshot:
    return Snapshot(at=0.0, server_version=180000, sessions=sessions, connecting=connecting or Connecting())


def session(state: str | None, kind: str | None = "client backend") -> Session:
    return Session(pid=1, backend_start=0.0, backend_type=kind, state=state)


@pytest.mark.parametrize("state", [None, "starting"])
def test_a_session_without_a_state_of_its_own_has_not_arrived(state: str | None) -> None:
    assert look(session(state)).has_arrivals


@pytest.mark.parametrize("connecting", [Connecting(peers=(Peer("10.0.0.1", 4),)), Connecting(children=1)])
def test_who_has_no_backend_in_sight_has_not_arrived(connecting: Connecting) -> None:
    assert look(session("idle"), connecting=connecting).has_arrivals


@pytest.mark.parametrize("state", ["idle", "active", "idle in transaction"])
def test_sessions_and_workers_have(state: str) -> None:
    assert not look(session(state), session(None, "checkpointer")).has_arrivals
