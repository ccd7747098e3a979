"""Notices changed configuration files: Postgres's lead to a reload, pgidle's own to new settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from watchfiles import watch

from pgidle.system.file_signature import signature

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from pgidle.system.file_signature import Signature

# Seconds between two reads from inotify(7), which collects events in between. After a change they are SETTLING apart,
# until nothing more changes, or for SETTLED seconds.
INTERVAL = 2.0
SETTLING = 0.2
SETTLED = 2.0


async def notice_changes(known: Mapping[str, Signature], changed: Callable[[tuple[str, ...]], None]) -> None:
    """Call `changed` with the paths of files that no longer match their `known` signature, until cancelled.

    watchfiles' own asynchronous interface takes 2 MB of anyio and a thread that wakes 20 times a second. Polling it
    without waiting takes less, and leaves no thread behind when the process exits.
    """
    known = dict(known)
    # Folders that we may not read cannot be watched.
    folders = {path.parent for path in map(Path, known) if os.access(path.parent, os.R_OK | os.X_OK)}
    watched = [path for path in known if Path(path).parent in folders]

    def different() -> tuple[str, ...]:
        return tuple(path for path in watched if known[path] != signature(path))

    loop = asyncio.get_running_loop()
    # Changes made before watching began count too.
    since = loop.time() if different() else None
    changes = _watch(folders, lambda: bool(different()))
    with contextlib.closing(changes):
        for is_changed in changes:
            since = since or (loop.time() if is_changed else None)
            if since and (not is_changed or loop.time() - since > SETTLED):
                since = None
                if paths := different():
                    known.update((path, signature(path)) for path in paths)
                    changed(paths)
            await asyncio.sleep(SETTLING if since else INTERVAL)


def _watch(folders: Iterable[Path], is_different: Callable[[], bool]) -> Generator[object, None, None]:
    """Yields, without end, whether anything happened in the folders since last time: by inotify, or `is_different`."""
    try:
        yield from watch(
            *folders, watch_filter=None, debounce=1, step=1, rust_timeout=1, yield_on_timeout=True,
            recursive=False, force_polling=False, debug=False, ignore_permission_denied=True,
        )  # fmt: skip
    except (OSError, RuntimeError, UnicodeEncodeError):
        # fs.inotify.max_user_instances (128) is shared by all processes of a user, across containers, and descriptors
        # may run out too: nothing else may fail because of that. And a name that is not UTF-8 never reaches inotify.
        while True:
            yield is_different()
