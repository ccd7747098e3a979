"""Notices that a configuration file changed: pgidle's own, and those that Postgres reads when told to reload.

Folders are watched, not files, as editors and volume mounts replace files; what counts is whether stat(2)
says something else. Not postgresql.auto.conf: after ALTER SYSTEM a reload is a step of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from watchfiles import watch

from pgidle.inbox import ConfigurationChanged, SettingsChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from pgidle.house import Files
    from pgidle.inbox import Inbox

POSTGRES_FILES = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")
# Seconds between two questions to inotify(7), which collects in between; shorter ones follow a change, until
# nothing more changes, or for SETTLED seconds.
INTERVAL = 1.0
SETTLING = 0.2
SETTLED = 2.0

Signature = tuple[int, ...] | None


async def notice_changes(files: Files, inbox: Inbox) -> None:
    """Post SettingsChanged and ConfigurationChanged, until cancelled.

    watchfiles' own asynchronous interface takes 2 MB of anyio and a thread waking 20 times a second. Asking
    it without waiting takes less, and leaves no thread behind when the process ends.
    """
    postgres = [Path(files.data_dir, name) for name in POSTGRES_FILES]
    settings = [Path(files.settings_file)] if files.settings_file else []
    known = {path: _signature(path) for path in postgres + settings}
    # What is not there yet is about to be made by initdb, before Postgres reads it for the first time.
    unborn = {path for path in postgres if not known[path]}
    folders = {path.parent for path in known if os.access(path.parent, os.R_OK | os.X_OK)}
    for path in [path for path in known if path.parent not in folders]:
        # Nor noticed by chance, when something else has changed.
        if known.pop(path):
            inbox.post(SettingsChanged(None, f"{path} cannot be watched: send SIGHUP after changing it"))
    loop = asyncio.get_running_loop()
    since = None
    changes = _watch(folders, lambda: any(known[path] != _signature(path) for path in known))
    with contextlib.closing(changes):
        for changed in changes:
            since = since or (loop.time() if changed else None)
            if since and (not changed or loop.time() - since > SETTLED):
                since = None
                now = {path: _signature(path) for path in known}
                different = {path for path in known if known[path] != now[path]}
                known = now
                _post(inbox, files, different & set(settings), different & set(postgres) - unborn)
                unborn = {path for path in unborn if not known[path]}
            await asyncio.sleep(SETTLING if since else INTERVAL)


def _watch(folders: Iterable[Path], is_different: Callable[[], bool]) -> Generator[object, None, None]:
    """For ever, whether something has happened in folders since the last time: by inotify, or by `is_different`."""
    try:
        yield from watch(
            *folders, watch_filter=None, debounce=1, step=1, rust_timeout=1, yield_on_timeout=True,
            recursive=False, force_polling=False, debug=False, ignore_permission_denied=True,
        )  # fmt: skip
    except (OSError, RuntimeError, UnicodeEncodeError):
        # All processes of a user share fs.inotify.max_user_instances (128), in whatever container, or descriptors are
        # short: nothing else may end for that. And a name that is not UTF-8 does not get as far as inotify.
        while True:
            yield is_different()


def _post(inbox: Inbox, files: Files, settings: set[Path], postgres: set[Path]) -> None:
    if settings:
        inbox.post(files.read())
    if postgres:
        inbox.post(ConfigurationChanged(", ".join(sorted(path.name for path in postgres))))


def _signature(path: Path) -> Signature:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
