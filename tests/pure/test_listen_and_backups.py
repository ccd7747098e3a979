"""What sessions hold on to is remembered until it is seen to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgidle.base.record import replace
from pgidle.idle.listen_and_backups import Held, note_held
from pgidle.idle.snapshot import Checkpoint, Session, Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

MINUTE = 60_000_000
STARTED = 1000 * MINUTE
SEGMENT = 16 * 2**20


def client(query: str = "", pid: int = 1, **more: Any) -> Session:
    usual: dict[str, Any] = {"backend_type": "client backend", "state": "idle", "state_change": STARTED}
    return Session(pid, STARTED, **(usual | {"query": query} | more))


def look(*sessions: Session, checkpoint: Checkpoint | None = None) -> Snapshot:
    return Snapshot(at=0.0, server_version=180000, sessions=sessions, checkpoint=checkpoint, started=STARTED)


def after(*looks: Snapshot) -> tuple[Session, ...]:
    """The sessions of the last of some looks."""
    held, seen = Held(), looks[0]
    for one in looks:
        seen, held = note_held(one, held)
    return seen.sessions


@pytest.mark.parametrize("then", ["", "SELECT 1", "COMMIT", "UNLISTEN b"])
def test_a_listener_is_one_whatever_it_says_next(then: str) -> None:
    (session,) = after(look(client("LISTEN a")), look(client(then)), look(client(then)))
    assert session.listening


@pytest.mark.parametrize("end", ["UNLISTEN *", "DISCARD ALL"])
def test_a_listener_is_none_when_it_has_unlistened(end: str) -> None:
    (session,) = after(look(client("LISTEN a")), look(client(end, state="active")))
    assert session.listening, "it has not returned, and may fail"
    (session,) = after(look(client("LISTEN a")), look(client(end)), look(client("SELECT 1")))
    assert not session.listening


def test_another_session_of_the_same_pid_listens_to_nothing() -> None:
    other = client("SELECT 1", state_change=STARTED + 1)
    (session,) = after(look(client("LISTEN a")), look(replace(other, backend_start=STARTED + 1)))
    assert not session.listening


def test_a_look_that_misses_the_session_ends_it() -> None:
    (session,) = after(look(client("LISTEN a")), look(), look(client("SELECT 1")))
    assert not session.listening


def test_a_backup_lasts_until_it_is_stopped() -> None:
    began = look(client("SELECT pg_backup_start('x')"))
    (session,) = after(began, look(client("SELECT 1")), look(client("SET a = b")))
    assert session.base_backup
    (session,) = after(began, look(client("SELECT pg_backup_stop()", state="active")))
    assert session.base_backup
    (session,) = after(began, look(client("SELECT pg_backup_stop()")), look(client("SELECT 1")))
    assert not session.base_backup


def checkpoint(segment: int, requested: int, at: int = STARTED + MINUTE, **more: Any) -> Checkpoint:
    return Checkpoint(segment * SEGMENT + 40, SEGMENT, requested, at, **more)


BEFORE = checkpoint(1, 5, STARTED - MINUTE)
LATER = STARTED + 2 * MINUTE


def hidden(*checkpoints: Checkpoint, **more: Any) -> bool:
    """Whether who says something else after a checkpoint, as these looks see it, is taken to be in a backup."""
    usual: dict[str, Any] = {"may_back_up": True, "state_change": LATER}
    sessions = [client("SELECT 1", **(usual | more))]
    (session,) = after(*(look(*sessions, checkpoint=one) for one in checkpoints))
    return session.base_backup


def test_a_backup_whose_words_nobody_saw_is_known_by_its_checkpoint() -> None:
    assert hidden(BEFORE, checkpoint(2, 6))
    assert hidden(BEFORE, checkpoint(2, 6), checkpoint(2, 6)), "it lasts"
    assert hidden(BEFORE, checkpoint(2, 5), checkpoint(2, 6)), "what is asked for is counted a moment later"
    assert hidden(checkpoint(2, 6)), "in the first look"
    assert hidden(BEFORE, checkpoint(2, 6), checkpoint(3, 6)), "another checkpoint does not end it"


@pytest.mark.parametrize(
    ("checkpoints", "more"),
    [
        ([BEFORE, checkpoint(2, 5)], {}),
        ([BEFORE, replace(checkpoint(2, 6), redo=2 * SEGMENT + SEGMENT // 2)], {}),
        ([BEFORE, checkpoint(2, 6)], {"may_back_up": False}),
        ([BEFORE, checkpoint(2, 6)], {"state_change": STARTED}),
        ([BEFORE, BEFORE], {}),
        ([BEFORE], {}),
        ([checkpoint(2, 6, is_shutdown=True)], {}),
    ],
    ids=["by time", "within", "no right", "not since", "no other", "before the start", "a shutdown's"],
)
def test_other_checkpoints_begin_no_backup(checkpoints: Sequence[Checkpoint], more: Any) -> None:
    assert not hidden(*checkpoints, **more)


@pytest.mark.parametrize(
    "backing_up",
    [
        client("", 2, backend_type="walsender", base_backup=True),
        client("SELECT pg_backup_start('x')", 2),
        client("SELECT pg_backup_stop()", 2),
    ],
    ids=["pg_basebackup", "words", "done"],
)
def test_a_backup_that_is_seen_to_begin_is_nobody_elses(backing_up: Session) -> None:
    app = client("SELECT 1", may_back_up=True, state_change=LATER)
    before, now = look(app, checkpoint=BEFORE), look(app, backing_up, checkpoint=checkpoint(2, 6))
    assert not after(before, now)[0].base_backup


def test_a_backup_that_goes_on_says_nothing_of_the_next_checkpoint() -> None:
    app = client("SELECT 1", may_back_up=True, state_change=LATER)
    walsender = client("", 2, backend_type="walsender", base_backup=True)
    looks = [look(app, walsender, checkpoint=checkpoint(segment, segment)) for segment in (1, 2)]
    assert after(look(app, checkpoint=checkpoint(0, 0)), *looks)[0].base_backup


def test_who_came_after_the_checkpoint_did_not_begin_the_backup() -> None:
    late = replace(client("SELECT 1", may_back_up=True, state_change=LATER), backend_start=LATER)
    (session,) = after(look(checkpoint=BEFORE), look(late, checkpoint=checkpoint(2, 6)))
    assert not session.base_backup


@given(st.lists(st.sampled_from(["LISTEN a", "SELECT 1", "UNLISTEN *", "UNLISTEN a", ""]), min_size=1))
def test_who_listens_is_whoever_did_since_it_last_unlistened(queries: list[str]) -> None:
    (session,) = after(*(look(client(query)) for query in queries))
    since = (
        queries[len(queries) - queries[::-1].index("UNLISTEN *") :] if "UNLISTEN *" in queries else queries
    )
    assert session.listening is bool({"LISTEN a", "UNLISTEN a"} & set(since))
