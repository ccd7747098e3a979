"""pg_ident.conf: whether a map lets a user of the system in as a role of the database.

https://www.postgresql.org/docs/current/auth-username-maps.html and check_ident_usermap in hba.c.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgidle.doctor.readers.hba_records import numbered_fields

if TYPE_CHECKING:
    from pgidle.doctor.readers.hba_records import Texts


def allows(texts: Texts, path: str, name: str, system_user: str, role: str) -> bool | None:
    """Whether the map `name` lets `system_user` in as `role`; None where only Postgres can tell: groups, or a file
    that could not be read."""
    is_sure = True
    waiting = [path]
    seen: set[str] = set()
    while waiting:
        file = waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        waiting += texts.folders.get(file, ())
        if file in texts.unread and texts.unread[file] != "No such file or directory":
            is_sure = False
        for _, fields in numbered_fields(texts.contents.get(file, "")):
            if fields[0][0].startswith("include") and len(fields) == 2:
                waiting.append(texts.resolve(file, fields[1][0]))
                continue
            if len(fields) < 3 or fields[0][0] != name:
                continue
            said = _matches(fields[1][0], fields[2][0], system_user, role)
            if said:
                return True
            is_sure = is_sure and said is not None
    return False if is_sure else None


def _matches(system: str, database: str, system_user: str, role: str) -> bool | None:
    if system.startswith("/"):
        try:
            found = re.search(_python(system[1:]), system_user)
        except re.error:
            return None
        if found is None:
            return False
        if "\\1" in database:
            database = database.replace("\\1", (found[1] or "") if found.re.groups else "")
    elif system != system_user:
        return False
    if database.startswith("+"):
        return None
    if database.startswith("/"):
        try:
            return re.search(_python(database[1:]), role) is not None
        except re.error:
            return None
    return database in ("all", role)


def _python(pattern: str) -> str:
    """One of Postgres's advanced regular expressions as one of Python's, near enough."""
    return pattern.replace("[[:alpha:]]", "[A-Za-z]").replace("[[:alnum:]]", "[A-Za-z0-9]")
