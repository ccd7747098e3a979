"""The settings in force: read again when their file changes, or on SIGHUP."""

from __future__ import annotations

from pgidle.system.file_signature import signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.run.runtime import Runtime
    from pgidle.settings.resolve import Settings
    from pgidle.system.file_signature import Signature

POLL = 10.0
"""Seconds between two checks of the settings file: while Postgres sleeps, no observer is there to notice a change."""


class LiveSettings:
    """`changed` is called with the new settings, in which only those that can change live differ."""

    def __init__(self, runtime: Runtime, changed: Callable[[Settings], None]) -> None:
        self.current = runtime.settings
        self._files = runtime.files
        self._loop = runtime.loop
        self._log = runtime.log
        self._changed = changed
        self.changes: dict[str, tuple[str, str]] = {}
        """What the last reading has changed: values before and after, by name."""
        self.signature = self._seen = self._sign()
        """The file's signature when it was last read."""

    def watch(self) -> None:
        """Check the file every POLL seconds from now on."""
        if self._files.settings_file:
            self._loop.after(POLL, "settings", self._look)

    def read(self) -> None:
        """Read everything again. Wrong settings change nothing, and are logged."""
        self.signature = self._sign()
        found = self._files.read()
        if found.settings is None:
            self._log.once("settings", f"settings unchanged: {found.error}")
            return
        from pgidle.postgres.conninfo import harmless
        from pgidle.settings.resolve import describe, live_changes

        self._log.forget("settings")
        before = dict(describe(self.current, harmless))
        self.current, waiting = live_changes(self.current, found.settings)
        now = describe(self.current, harmless)
        self.changes = {name: (before[name], value) for name, value in now if before[name] != value}
        changed = [f"{name} is now {value}" for name, (_, value) in self.changes.items()]
        changed += [f"{name} needs a restart" for name in waiting]
        self._log.note("settings", f"reloaded: {'; '.join(changed) or 'no changes'}")
        self._changed(self.current)

    def _look(self) -> None:
        """Read the file if it has changed, once it has stopped changing."""
        seen, self._seen = self._seen, self._sign()
        if self._seen not in (self.signature, None) and seen == self._seen:
            self.read()
        self._loop.after(POLL, "settings", self._look)

    def _sign(self) -> Signature:
        return signature(self._files.settings_file) if self._files.settings_file else None
