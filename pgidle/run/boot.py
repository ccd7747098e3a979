"""From the command line to a running supervisor, step by step. The first client waits for as long as this takes.

Sockets listen before anything that takes time, and only what Postgres needs comes before Postgres. So each step imports
what it needs itself, and what can wait is imported after the spawn.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from pgidle.base.builtin_modules import signal
from pgidle.base.errors import FAULTS, PgidleError
from pgidle.base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from pgidle.gate.listeners import Listener
    from pgidle.run.preconditions import Found
    from pgidle.run.runtime import Runtime
    from pgidle.run.sd_listen import Manager
    from pgidle.run.supervisor import Supervisor
    from pgidle.settings.options import Options
    from pgidle.settings.resolve import Settings
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log
    from pgidle.system.users import Identity

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)


def run(options: Options, postgres_args: Sequence[str]) -> int:
    """`pgidle run`. Returns the exit status where it fails before Postgres is spawned, and else ends the process.

    An error is reported in one line on stderr.
    """
    try:
        runtime = _prepare(options, tuple(postgres_args))
    except PgidleError as error:
        _complain(error)
        return error.status
    except FAULTS as error:
        _complain(PgidleError(f"cannot start: {error}"))
        return 1
    _supervise(_spawn(runtime))


def _prepare(options: Options, postgres_args: tuple[str, ...]) -> Runtime:
    """Everything up to the moment in which Postgres can be spawned. Raises PgidleError, with nothing started."""
    from pgidle.gate.preload import open_library
    from pgidle.run.http_socket import listen_http
    from pgidle.run.make_gate import make_gate
    from pgidle.run.preconditions import find_postgres
    from pgidle.run.runtime import Files, ListeningSockets, Runtime
    from pgidle.system import control_socket
    from pgidle.system.state_directory import StateDir
    from pgidle.system.users import plan

    loop = _catch_signals()
    # As whoever started pgidle, root perhaps:
    given = _read_settings(options, postgres_args)
    settings, log = given.settings, given.log
    identity = plan(settings.user, settings.data_dir)
    found = find_postgres(settings, identity)
    http = listen_http(settings, identity)
    _make_directories(settings, found, identity)
    library = open_library()
    _change_user(settings, found, identity, log)
    # As the user that Postgres runs as, and for good:
    _warn_of_exit(given)
    state_dir = StateDir(settings.state_dir)
    _make_certificate(settings, found, log)
    made = make_gate(settings, state_dir, library, given.inherited, log)
    return Runtime(
        settings=settings,
        environ=dict(os.environ),
        binaries=found.binaries,
        first=found.first,
        library=made.library,
        gate=made.gate,
        gate_why=made.why,
        state_dir=state_dir,
        listening=ListeningSockets(http, control_socket.listen(state_dir)),
        files=Files(settings.data_dir, settings.config, given.read_again),
        loop=loop,
        log=log,
        manager=given.manager,
        supervisor_pid=os.getpid(),
    )


def _catch_signals() -> Loop:
    """The event loop. A signal that comes from here on is remembered until the supervisor can deal with it."""
    from pgidle.system.event_loop import Loop

    loop = Loop()
    loop.catch(CAUGHT)
    return loop


@record
class _Given:
    """What pgidle was started with. `read_again` reads the settings as they are by then; it raises PgidleError."""

    settings: Settings
    log: Log
    manager: Manager | None
    inherited: tuple[Listener, ...]
    read_again: Callable[[], Settings]


def _read_settings(options: Options, postgres_args: tuple[str, ...]) -> _Given:
    """Settings, and what a service manager has left in the environment. Raises PgidleError."""
    from pgidle.run.sd_listen import listening_where_inherited, take_manager, take_sockets
    from pgidle.settings.load import Caller, read_settings, working_directory
    from pgidle.system.log import Log, goes_to_journal

    # Both as of now: `become` changes the user, and may have to leave the directory.
    cwd, caller = working_directory(), Caller(os.geteuid(), os.getegid())

    def read() -> Settings:
        return read_settings(options, postgres_args, cwd, caller).settings

    settings = read()
    log = Log(settings.log_format, is_stamped=not goes_to_journal(os.environ))
    manager = take_manager(os.environ)
    inherited = take_sockets(os.environ)
    return _Given(
        settings=listening_where_inherited(settings, inherited),
        log=log,
        manager=manager,
        inherited=inherited,
        read_again=lambda: listening_where_inherited(read(), inherited),
    )


def _make_directories(settings: Settings, found: Found, identity: Identity | None) -> None:
    """Make the data directory and the state directory where they are missing. Raises PgidleError."""
    if identity is None:
        from pgidle.run.preconditions import refuse_default_socket_dir

        refuse_default_socket_dir(settings, found)  # Before, so that a refusal leaves nothing behind.
    if found.first is not None or not os.path.isdir(settings.state_dir):
        from pgidle.system.directories import prepare_directories

        prepare_directories(settings.data_dir, settings.state_dir, identity)


def _change_user(settings: Settings, found: Found, identity: Identity | None, log: Log) -> None:
    """Become the user that Postgres runs as, with everything imported that this user could not read."""
    from pgidle.system.users import become, conceal, python_unreadable

    if identity is None:
        conceal(os.environ)
        return
    if (place := python_unreadable(identity)) is not None:
        from pgidle.system.preload_modules import preload

        preload()
        log.note(
            "boot",
            f"user {identity.name} cannot read {place}: waking takes longer, as all is imported before",
        )
    become(identity)
    from pgidle.run.preconditions import refuse_default_socket_dir

    refuse_default_socket_dir(settings, found)  # Only now, as root executes no program that it need not.


def _warn_of_exit(given: _Given) -> None:
    """Tell somebody at a terminal that no platform is there to start pgidle again."""
    from pgidle.settings.options import WhenIdle

    is_started = given.inherited or given.manager is not None
    is_managed = is_started or {"FLY_MACHINE_ID", "INVOCATION_ID"} & os.environ.keys()
    if given.settings.when_idle is WhenIdle.EXIT and os.isatty(2) and not is_managed:
        given.log.note(
            "boot",
            "when-idle is exit: once asleep, nothing here starts pgidle again for a client; "
            "--when-idle stay wakes Postgres itself",
        )


def _make_certificate(settings: Settings, found: Found, log: Log) -> None:
    """With --tls self-signed, make a certificate where there is no valid one. Raises PgidleError."""
    from pgidle.settings.options import Tls

    if settings.tls is not Tls.SELF_SIGNED:
        return
    from pgidle.postgres.tls import is_valid

    if is_valid(settings.data_dir, time.time()):
        return
    from pgidle.postgres.certificate import make, refuse_unfit

    refuse_unfit(found.binaries, settings.data_dir, settings.postgres_args, found.first is not None)
    log.note("tls", make(settings.data_dir, os.environ))


def _spawn(runtime: Runtime) -> Supervisor:
    """Postgres, and the supervisor, whose code is imported while Postgres starts. Ends the process if that fails."""
    early = None
    try:
        from pgidle.run.spawn import spawn_early

        early = spawn_early(runtime)
        from pgidle.run.supervisor import Supervisor

        gc.enable()
        return Supervisor(runtime, early)
    except FAULTS as error:
        _complain(PgidleError(f"cannot look after Postgres, which ends now: {error}"))
        if early is not None:
            early.end(runtime.settings.stop_timeout)
        os._exit(1)


def _supervise(supervisor: Supervisor) -> NoReturn:
    """Run until pgidle is to exit."""
    try:
        status = supervisor.run()
    except PgidleError as error:
        _complain(error)
        status = error.status
    # Everything worth keeping has been written; tearing down the interpreter would only hold the port longer.
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(status)


def _complain(error: PgidleError) -> None:
    from pgidle.system.log import one_line

    try:
        os.write(2, os.fsencode(one_line(f"pgidle: {error}")) + b"\n")
    except OSError:
        return  # The exit status still tells.
