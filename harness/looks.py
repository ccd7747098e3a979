"""Looks and sessions made by hand, and what the policy says about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgidle.base.record import replace as changed
from pgidle.idle.policy import Memory, evaluate
from pgidle.idle.snapshot import Session, Snapshot
from pgidle.settings.options import Ignore, IgnoreField
from pgidle.settings.resolve import Settings, resolve

if TYPE_CHECKING:
    from pgidle.idle.reasons import ReasonKind, Signal, Verdict

SETTINGS = resolve(
    {"data-dir": "/nowhere", "idle-timeout": "5min", "min-awake": "30s"}, {}, None, None, "/"
).settings
BUSY = (
    "active",
    "idle in transaction",
    "idle in transaction (aborted)",
    "fastpath function call",
    "disabled",
)


def quiet(at: float, *sessions: Session, **more: Any) -> Snapshot:
    return Snapshot(at=at, server_version=150000, sessions=sessions, **more)


def client(pid: int = 4711, **more: Any) -> Session:
    usual: dict[str, Any] = {"backend_type": "client backend", "usename": "app", "state": "idle"}
    return Session(pid, 1, **(usual | {"state_change": 1, "state_age": 1000.0} | more))


def idle_after(memory: Memory, look: Snapshot, by: Settings = SETTINGS, **more: Any) -> Verdict:
    return evaluate(look, by, memory, look.at, **more)[0]


def signals(verdict: Verdict, kind: ReasonKind) -> set[Signal]:
    return {reason.signal for reason in verdict.reasons if reason.kind is kind}


def ignoring(field: IgnoreField, value: str) -> Settings:
    return changed(SETTINGS, ignore=(Ignore(field, value),))
