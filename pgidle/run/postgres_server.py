"""Postgres as pgidle runs it, from an empty data directory to its last process: started, found ready, stopped.

Nothing here decides when. Every start takes the same steps: end what an earlier postmaster left running, initialise the
data directory on the first start, spawn, and poll until postmaster.pid says that Postgres is ready.
"""

from __future__ import annotations

import time

from pgidle.base.builtin_modules import signal
from pgidle.base.errors import FAULTS, fault_text
from pgidle.lifecycle.transitions import Event
from pgidle.postgres.data_directory import living_postmaster
from pgidle.postgres.exit_status import describe
from pgidle.postgres.postmaster import has_unlogged, is_checkpointed, is_shut_down, unarchived
from pgidle.run.spawn import spawn_postmaster
from pgidle.system.file_signature import signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.gate.gatekeeper import Gatekeeper
    from pgidle.postgres.first_start import Initialisation
    from pgidle.postgres.image_variables import FirstStart
    from pgidle.postgres.postmaster import Postmaster
    from pgidle.postgres.stderr_copy import ErrorCopy
    from pgidle.run.runtime import Runtime
    from pgidle.settings.resolve import Settings
    from pgidle.system.file_signature import Signature

READY_POLLS = ((0.25, 0.001), (2.0, 0.01), (float("inf"), 0.05))
"""While Postgres starts, how often to look whether it is ready: (seconds since the spawn up to which, interval)."""

WRITER_POLL = 0.2
"""Seconds between two looks for the background writer, which old versions start only after they are ready."""

WAITS_LIMIT = 1.0
"""Seconds after Postgres is ready within which the preloaded library has to report that it controls the listeners."""

REAP_POLL = 0.01
"""Seconds between two attempts to reap a postmaster that has exited."""

ORPHANS_POLL = 0.02
"""Seconds between two looks at processes that must exit before a start."""

WITHOUT_LIBRARY = (
    "; it ran without the library that pgidle preloads: a wrapper in place of postgres must exec it, "
    "and pass on the environment and the file descriptors that it was given"
)

NOT_RECOVERED = "Postgres had not finished recovery; the next start will"


class Server:
    """One Postgres, running or not. `happen` is called with POSTMASTER_READY, POSTMASTER_FAILING,
    POSTMASTER_EXITED_CLEANLY, POSTMASTER_CRASHED (also for a failed start) and, if the data directory could not be
    created, RESTARTS_EXHAUSTED."""

    def __init__(
        self,
        runtime: Runtime,
        early: Postmaster | None,
        gatekeeper: Gatekeeper,
        happen: Callable[[Event, str], None],
    ) -> None:
        """`early`: a postmaster that was spawned already."""
        settings = runtime.settings
        self._runtime = runtime
        self._settings = settings
        self._first = runtime.first
        self._binaries = runtime.binaries
        self._environ = runtime.environ
        self._gate = runtime.gate
        self._gatekeeper = gatekeeper
        self._loop = runtime.loop
        self._log = runtime.log
        self._happen = happen
        self._postmaster: Postmaster | None = None
        self._errors: ErrorCopy | None = None
        """The copy of its stderr, of a postmaster that was started after a failed start."""
        self._spawned_at = 0.0
        """Unix time: older log files belong to an earlier start."""
        self._has_failed = False
        """Whether the last start failed."""
        self._known = {runtime.state_dir.earlier_postmaster}
        """Pids of postmasters that are ours to end. An earlier supervisor's is one too: it may have only just taken the
        lock file, which the postmaster that we spawn would then find taken."""
        self._ready_since: float | None = None
        self.files_read: dict[str, Signature] = {}
        """The configuration files as Postgres last read them, by name."""
        self._initialisation: Initialisation | None = None
        self._step_since = 0.0
        self._asked_to_stop = False
        self._is_reload_due = False
        self._is_stopping_immediately = False
        self.is_ready = False
        self.is_clean = runtime.first is not None or is_shut_down(settings.data_dir)
        """Whether the last postmaster is known to have shut down cleanly, or never to have run."""
        if early is not None:
            self._look_after(early)

    def adopt(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    @property
    def pid(self) -> int | None:
        """The running postmaster's pid."""
        return self._postmaster.pid if self._postmaster else None

    @property
    def children(self) -> tuple[int, ...]:
        """Pids of the processes that this object reaps."""
        return tuple(one.pid for one in (self._postmaster, self._initialisation) if one is not None)

    @property
    def is_initialising(self) -> bool:
        """Whether the data directory is being created."""
        return self._initialisation is not None

    @property
    def connecting(self) -> int:
        """How many clients have a server process but no session yet."""
        return self._postmaster.connecting() if self._postmaster is not None else 0

    def would_lose_unlogged(self) -> bool:
        """Whether an immediate shutdown would empty unlogged tables: not once the shutdown checkpoint is written."""
        data_dir = self._settings.data_dir
        return not is_checkpointed(data_dir) and has_unlogged(data_dir)

    def start(self, delay: float = 0.0) -> None:
        """Begin the steps of a start, after `delay` seconds."""
        self._asked_to_stop = False
        if self._postmaster is not None:
            return  # It was spawned early.
        self.is_ready = False
        if self._first is not None:
            try:
                self._initialise(self._first)
            except FAULTS as error:
                # Not retried: it forks, which needs a process without threads.
                self._happen(
                    Event.RESTARTS_EXHAUSTED, f"cannot create the data directory: {fault_text(error)}"
                )
        elif delay or not self.is_clean:
            self._loop.after(delay, "start", self._await_orphans)
            self._step_since = time.monotonic() + delay
        else:
            self._spawn()

    def stop_fast(self) -> None:
        """Fast shutdown, or an end to whatever precedes Postgres."""
        self._asked_to_stop = True
        if self._postmaster is not None:
            self._postmaster.fast_shutdown()
        elif self._initialisation is not None:
            self._initialisation.stop()
        elif self.is_clean:
            self._loop.cancel("start")
            self._happen(Event.POSTMASTER_EXITED_CLEANLY, "Postgres was not running")
        else:
            # What is left of an earlier postmaster exits before we do.
            self._await_orphans()

    def end(self) -> None:
        """Stop Postgres and wait until it has exited: from now on nothing supervises it."""
        if self._postmaster is not None:
            self._postmaster.end(self._settings.stop_timeout)

    def stop_immediate(self) -> None:
        """Immediate shutdown: crash-safe, but not clean. When asked again, SIGKILL to everything that is left."""
        if self._postmaster is not None:
            if self._is_stopping_immediately:
                self._postmaster.kill()
            self._is_stopping_immediately = True
            self._postmaster.immediate_shutdown()
        elif self._initialisation is not None:
            self._initialisation.stop()

    def reload(self) -> None:
        """Have Postgres reload its configuration."""
        self.files_read = signatures(self._settings.data_dir)
        if self._postmaster is not None and self.is_ready:
            self._postmaster.reload()
        else:
            # Before Postgres has installed its handler, SIGHUP would kill it.
            self._is_reload_due = True

    def _know_background_writer(self) -> None:
        """Tell the gate its pid, so that its exit is not taken for that of another worker."""
        if self._postmaster is None:
            return
        if (pid := self._postmaster.find_background_writer()) is not None:
            self._runtime.gate.knows(pid)
        else:
            self._loop.after(WRITER_POLL, "writer", self._know_background_writer)

    def _initialise(self, first: FirstStart) -> None:
        from pgidle.postgres.first_start import Initialisation
        from pgidle.postgres.initdb import Order

        version = self._binaries.version_major
        self._log.note(
            "starting", f"creating data directory {self._settings.data_dir} (PostgreSQL {version})"
        )
        order = Order(self._binaries, first, self._environ, self._settings.postgres_args)
        self._initialisation = Initialisation(self._settings.data_dir, order)
        self._loop.watch(self._initialisation.fileno(), self._on_initialised)

    def _on_initialised(self) -> None:
        initialisation = self._initialisation
        if initialisation is None:
            return
        self._loop.forget(initialisation.fileno())
        error = initialisation.error()
        self._initialisation = None
        if self._asked_to_stop:
            self._happen(
                Event.POSTMASTER_EXITED_CLEANLY, "initialisation was interrupted; the next start begins again"
            )
        elif error is not None:
            self._happen(Event.RESTARTS_EXHAUSTED, error)
        else:
            self._first = None
            self._spawn()

    def _await_orphans(self) -> None:
        """Once no process of an earlier postmaster is left: spawn, or finish stopping."""
        from pgidle.postgres import orphans

        data_dir = self._settings.data_dir
        waited = time.monotonic() - self._step_since
        living = living_postmaster(data_dir)
        if living is not None and living not in self._known and not orphans.is_abandoned(living):
            # It was started by others while Postgres slept. It is not ours to end, even with clients at the gate.
            self._loop.cancel("start")
            reason = f"another server (pid {living}) is running on {data_dir}: stop it"
            self._tell_failure(reason)
            return
        if living is not None:
            # Ours, whose supervisor died.
            orphans.hasten_postmaster(living, waited, self._settings.stop_timeout, self._log)
        elif left := orphans.find_orphans(data_dir):
            pids = ", ".join(map(str, left))
            self._log.once("start", f"waiting for processes of an earlier postmaster to exit: {pids}")
            orphans.hasten(left, waited)
        elif self._asked_to_stop:
            self._loop.cancel("start")
            self._tell_end(NOT_RECOVERED, is_shut_down(data_dir))
            return
        else:
            orphans.discard_stale_pidfile(data_dir)
            self._spawn()
            return
        self._loop.after(ORPHANS_POLL, "start", self._await_orphans)

    def _spawn(self) -> None:
        program = self._binaries.path("postgres")
        self._spawned_at = time.time()
        if self._errors is not None and self._has_failed:
            self._errors.give_up()
        self._errors = None
        try:
            # Only a start that follows a failed one has its stderr copied: most first ones succeed.
            if self._has_failed:
                from pgidle.postgres.stderr_copy import ErrorCopy

                self._errors = ErrorCopy(self._loop)
            try:
                errors = self._errors.writing if self._errors is not None else None
                postmaster = spawn_postmaster(self._runtime, errors)
            finally:
                if self._errors is not None:
                    self._errors.spawned()
        except OSError as error:
            self._tell_failure(
                f"cannot start {program}: {error.strerror}: check --bin-dir and its permissions"
            )
            return
        self._look_after(postmaster)

    def _look_after(self, postmaster: Postmaster) -> None:
        self._postmaster = postmaster
        self.files_read = signatures(self._settings.data_dir)
        self.is_clean = False
        self.is_ready = False
        self._is_reload_due = False
        self._is_stopping_immediately = False
        self._known.add(postmaster.pid)
        self._step_since = postmaster.since
        self._ready_since = None
        self._loop.watch(postmaster.pidfd, self._on_exit)
        if postmaster.channel is not None:
            self._gatekeeper.began(postmaster.channel, self._settings.data_dir)
        self._loop.after(READY_POLLS[0][1], "ready", self._on_ready_poll)

    def _forget(self) -> None:
        """The postmaster has been reaped."""
        self._postmaster = None
        self._loop.cancel("ready")
        self._loop.cancel("writer")

    def _on_ready_poll(self) -> None:
        if self._postmaster is None:
            return
        if self._postmaster.accepts() and self._is_told():
            self.is_ready = True
            self._has_failed = False
            self._know_background_writer()
            self._known = {self._postmaster.pid}
            if self._is_reload_due:
                self._postmaster.reload()
            waited = time.monotonic() - self._step_since
            self._happen(Event.POSTMASTER_READY, f"Postgres accepts connections after {waited * 1000:.0f} ms")
            return
        waited = time.monotonic() - self._step_since
        interval = next(interval for until, interval in READY_POLLS if waited < until)
        self._loop.after(interval, "ready", self._on_ready_poll)

    def _is_told(self) -> bool:
        """Whether postmaster.pid was written by this postmaster: an earlier one may have had the same pid, in another
        container. Once the library reports that Postgres waits for clients, it has written its own. Without the library
        there is no telling."""
        if self._gate.is_shared or self._runtime.library is None:
            return True
        now = time.monotonic()
        if self._ready_since is None:
            self._ready_since = now
        if now - self._ready_since < WAITS_LIMIT:
            return False
        self._log.once(
            "gate",
            "the preloaded library does not support the way this Postgres waits for clients: it is not put to sleep, "
            "as clients could not be kept waiting",
        )
        return True

    def _on_exit(self) -> None:
        postmaster = self._postmaster
        if postmaster is None:
            return
        self._loop.forget(postmaster.pidfd)
        self._gatekeeper.ending(self._settings.data_dir, self._settings.port)
        status = postmaster.reap()
        if status is None:
            # It is being traced, and the tracer reaps it first (wait_consider_task in kernel/exit.c).
            self._loop.after(REAP_POLL, "reap", self._on_exit)
            return
        was_ready, is_loaded = self.is_ready, self._gate.is_loaded
        self._forget()
        # SIGINT may arrive before the postmaster has installed its handler: then it has touched nothing yet.
        never_began = self._asked_to_stop and status == -signal.SIGINT and not was_ready
        is_clean = (status == 0 or never_began) and is_shut_down(self._settings.data_dir)
        if never_began and not is_clean:
            self._tell_end(NOT_RECOVERED, is_clean)
        else:
            how = describe(status, "" if was_ready or is_clean else self._complaint())
            if self._runtime.library is not None and not (was_ready or is_loaded):
                how += WITHOUT_LIBRARY
            self._tell_end(how, is_clean)

    def _complaint(self) -> str:
        """The last thing that a failed start complained about, in Postgres's words; empty if not known."""
        said = b""
        try:
            from pgidle.postgres.collected_log import end_of_log
            from pgidle.postgres.error_messages import last_complaint

            if self._errors is not None:
                self._errors.drain()
                said = self._errors.said
            return last_complaint(said) or last_complaint(
                end_of_log(self._settings.data_dir, self._spawned_at)
            )
        except FAULTS:
            return ""

    def _tell_end(self, how: str, is_clean: bool) -> None:
        self.is_clean = is_clean
        if is_clean:
            if left := unarchived(self._settings.data_dir):
                text = f"{left} WAL segment{'s' * (left > 1)} not archived yet; archiving resumes at the next start"
                self._log.note("archive", text)
            self._happen(Event.POSTMASTER_EXITED_CLEANLY, "Postgres shut down cleanly")
        else:
            self._tell_failure(how)

    def _tell_failure(self, how: str) -> None:
        self._has_failed = not self.is_ready
        self._happen(Event.POSTMASTER_CRASHED, how)
