"""What to do about a poll. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pgidle.idle.policy import LOOK_UNCOUNTED
from pgidle.idle.statement_text import normal
from pgidle.settings.options import WHOLE_BELOW, IgnoreField

if TYPE_CHECKING:
    from pgidle.idle.polls import Poll
    from pgidle.settings.resolve import Settings

OVER_UNIX_SOCKET = "Unix socket"
"""How `client_text` ends for a client that is connected over one."""


def advice(poll: Poll, settings: Settings | None, *, with_statement: bool) -> str:
    """The next step, without a full stop. `with_statement`: for those who may know what is asked.

    `ignore` cannot help against everything: docs/settings.md says when a statement still counts. `settings`: those in
    force, if they are known.
    """
    if not poll.client:
        return "log_connections = on in postgresql.conf shows who connects"
    if poll.client.endswith(OVER_UNIX_SOCKET):
        return "turn it off in the client: the setting ignore lets no statement over the Unix socket pass"
    if poll.every <= LOOK_UNCOUNTED:
        least = f"{LOOK_UNCOUNTED:g}s"
        return f"turn it off in the client, or slow it down: ignore does not help against one every {least} or less"
    ignores = settings.ignore if settings is not None else ()
    ignored = {normal(one.value) for one in ignores if one.field is IgnoreField.STATEMENT}
    if poll.statement and normal(poll.statement) in ignored:
        return "turn it off in the client: ignore names it, but it still counts, for instance as it connects anew"
    if not with_statement:
        return (
            "turn it off in the client, or let it not count with the setting ignore (pgidle status shows how)"
        )
    if _is_whole(poll.statement):
        line = f"ignore = [{json.dumps(f'statement={poll.statement}', ensure_ascii=False)}]"
        return f"turn it off in the client, or let it not count: {line}"
    return 'turn it off in the client, or let it not count, by its full text: ignore = ["statement=…"]'


def _is_whole(statement: str) -> bool:
    """Whether it is shown as it was asked, and may be the value of `ignore`."""
    return bool(statement) and not {"?", "…"} & {*statement} and len(statement.encode()) < WHOLE_BELOW
