"""What a look finds in use: sessions that are not idle, and clients that are connecting. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.idle.between_looks import is_ignored, is_ignored_address
from pgidle.idle.reasons import Reason, ReasonKind, Signal, client_text, duration_text, who

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgidle.idle.snapshot import Session, Snapshot
    from pgidle.settings.resolve import Settings

NO_STATE = "starting, without a state yet"
ENDS = {
    "active": "when its query ends",
    "idle in transaction": "when it commits, rolls back or disconnects",
    "idle in transaction (aborted)": "when it rolls back or disconnects",
    "fastpath function call": "when its call ends",
    "starting": "when it is authenticated or gives up",
    NO_STATE: "when it has started or disconnects",
    "disabled": "when it disconnects (track_activities is off, so its state is not known)",
}


def activity_of(session: Session, settings: Settings) -> Reason | None:
    """What one client does at the moment that counts as use; None if that is nothing."""
    if is_ignored(session, settings):
        return None
    if session.state != "idle":
        state = session.state or NO_STATE
        since = f" for {duration_text(session.state_age)}" if session.state_age is not None else ""
        text = f"{who(session)} has been {state}{since}" if since else f"{who(session)} is {state}"
        ends = ENDS.get(state, "when it disconnects")
        return Reason(ReasonKind.ACTIVITY, Signal.SESSION_STATE, text, ends, client_text(session))
    if session.unread:
        text = f"{who(session)} has sent data that its backend has not read yet"
        return Reason(
            ReasonKind.ACTIVITY, Signal.SESSION_STATE, text, "when it is read", client_text(session)
        )
    return None


def in_use(look: Snapshot, settings: Settings) -> Iterator[Reason]:
    """What is in use, and who is connecting."""
    for session in look.clients:
        if (reason := activity_of(session, settings)) is not None:
            yield reason
    for peer in look.connecting.peers:
        if not is_ignored_address(peer.address, settings):
            text = f"a client is connecting from {peer.address} port {peer.port}"
            yield Reason(ReasonKind.ACTIVITY, Signal.CONNECTING, text, "when it is authenticated or gives up")
    ignored_peers = sum(is_ignored_address(peer.address, settings) for peer in look.connecting.peers)
    if look.connecting.children > ignored_peers and len(look.connecting.peers) == ignored_peers:
        count = look.connecting.children
        text = "a client is connecting" if count == 1 else f"{count} clients are connecting"
        yield Reason(ReasonKind.ACTIVITY, Signal.CONNECTING, text, "when authenticated, or given up")
