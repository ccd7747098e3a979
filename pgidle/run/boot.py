"""From the command line to a supervisor that runs: the order of work is the time that the first client waits.

Listening comes before everything that takes time, and only what Postgres needs comes before Postgres. So `run` is read
without click where that is certain, and nothing is imported here that the spawn can do without.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
import time

from pgidle.base.builtin_modules import signal, socket
from pgidle.base.errors import FAULTS, PgidleError
from pgidle.base.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.gate.gate import Gate
    from pgidle.gate.listeners import Address, Listener
    from pgidle.postgres.image_variables import FirstStart
    from pgidle.postgres.programs import Binaries
    from pgidle.run.runtime import Runtime
    from pgidle.settings.load import Caller
    from pgidle.settings.options import Options
    from pgidle.settings.settings import Resolved, Settings
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir
    from pgidle.system.users import Identity

EARLIER_POLL = 0.01
"""Seconds between two attempts to listen while an earlier supervisor's postmaster ends."""

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)


def run(options: Options, postgres_args: Sequence[str]) -> int:
    """`pgidle run`: the exit status. Faults are said in one line on stderr."""
    try:
        from pgidle.system.event_loop import Loop

        # First of all: a signal that comes from here on is remembered, and dealt with when there is somebody to.
        loop = Loop()
        loop.catch(CAUGHT)
        runtime = _prepare(options, tuple(postgres_args), loop)
    except PgidleError as error:
        _complain(error)
        return error.status
    except FAULTS as error:
        _complain(PgidleError(f"cannot start: {error}"))
        return 1
    early = None
    try:
        from pgidle.run.spawn import spawn_early

        early = spawn_early(runtime)
        # What Postgres does not need to start is imported while it starts.
        from pgidle.run.supervisor import Supervisor

        gc.enable()
        supervisor = Supervisor(runtime, early)
    except FAULTS as error:
        _complain(PgidleError(f"cannot look after Postgres, which ends now: {error}"))
        if early is not None:
            early.end(runtime.settings.stop_timeout)
        os._exit(1)
    try:
        status = supervisor.run()
    except PgidleError as error:
        _complain(error)
        status = error.status
    # Everything that is to be kept is kept; tearing the interpreter down would only hold the port longer.
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(status)


def read_settings(
    options: Options, postgres_args: tuple[str, ...], cwd: str | None = None, caller: Caller | None = None
) -> Resolved:
    """Settings from the command line, the environment and the file. Raises SettingsError.

    Paths count from `cwd`, or from the working directory; `caller` is who started pgidle, if that was another user.
    """
    from pgidle.settings.load import read_settings as read

    return read(options, postgres_args, cwd or _working_directory(), caller)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"  # It was removed; what is given in full still works.


def _complain(error: PgidleError) -> None:
    from pgidle.system.log import one_line

    try:
        os.write(2, os.fsencode(one_line(f"pgidle: {error}")) + b"\n")
    except OSError:
        return  # The exit status tells, too.


def _prepare(options: Options, postgres_args: tuple[str, ...], loop: Loop) -> Runtime:
    """Everything up to the moment in which Postgres can be spawned. Raises PgidleError, with nothing started."""
    from pgidle.gate.gate import Mode
    from pgidle.gate.preload import open_library
    from pgidle.postgres.data_directory import DataDirState, inspect_data_dir, refuse_closed
    from pgidle.postgres.programs import find_bin_dir
    from pgidle.run.runtime import Files, ListeningSockets, Runtime
    from pgidle.run.sd_listen import take_manager, take_sockets
    from pgidle.settings.load import Caller
    from pgidle.settings.options import Tls
    from pgidle.system.log import Log, goes_to_journal
    from pgidle.system.state_directory import StateDir
    from pgidle.system.users import acting_as, conceal, plan, prepare_directories

    # Kept, for `become` may have to leave it.
    cwd, caller = _working_directory(), Caller(os.geteuid(), os.getegid())
    settings = read_settings(options, postgres_args, cwd).settings
    log = Log(settings.log_format, is_stamped=not goes_to_journal(os.environ))
    manager = take_manager(os.environ)
    inherited = take_sockets(os.environ)
    settings = _served(settings, inherited)
    identity = plan(settings.user, settings.data_dir)
    data_dir = inspect_data_dir(settings.data_dir, identity.uid if identity else os.geteuid())
    is_first_start = data_dir.state is not DataDirState.READY
    first = None
    if is_first_start:
        from pgidle.postgres.image_variables import first_start

        # While root: what a _FILE variable names may be for root's eyes only.
        first = first_start(os.environ)
    with acting_as(identity):
        if not is_first_start:
            # What root may do does not count.
            inspect_data_dir(settings.data_dir, os.geteuid())
            _refuse_unconfigured(settings)
        # Where none is set it is Postgres's own, which only Postgres could tell.
        if settings.socket_dir and not (is_first_start and settings.socket_dir.startswith(settings.data_dir)):
            refuse_closed(settings.socket_dir)
        binaries = find_bin_dir(settings.bin_dir, data_dir.version, os.environ.get("PATH", ""), identity)
    http = _listen_http(settings, identity)
    if identity is None:
        _refuse_default_socket(settings, first, binaries)
    if is_first_start or not os.path.isdir(settings.state_dir):
        prepare_directories(settings.data_dir, settings.state_dir, identity)
    library = open_library()
    if identity is not None:
        _change_user(identity, log)
        # Not before: as root nothing is executed that need not be.
        _refuse_default_socket(settings, first, binaries)
    else:
        conceal(os.environ)
    _warn_of_exit(settings, log, is_started=bool(inherited) or manager is not None)
    state_dir = StateDir(settings.state_dir)
    if settings.tls is Tls.SELF_SIGNED:
        _certify(settings, binaries, is_first_start, log)
    gate, gate_why = _make_gate(settings, state_dir, library, inherited, log)
    if gate.mode is Mode.NONE:
        log.note("gate", f"mode {gate.mode.value}: {gate_why}")
    return Runtime(
        settings=settings,
        environ=dict(os.environ),
        binaries=binaries,
        first=first,
        library=library if gate.mode is not Mode.NONE else None,
        gate=gate,
        gate_why=gate_why,
        state_dir=state_dir,
        listening=ListeningSockets(http, _listen_control(state_dir)),
        files=Files(
            settings.data_dir,
            settings.config,
            lambda: _served(read_settings(options, postgres_args, cwd, caller).settings, inherited),
        ),
        loop=loop,
        log=log,
        manager=manager,
        supervisor_pid=os.getpid(),
    )


def _refuse_unconfigured(settings: Settings) -> None:
    """Raise PgidleError where Postgres would not find its configuration."""
    if any("config_file" in word.replace("-", "_") for word in settings.postgres_args):
        return
    if not os.access(f"{settings.data_dir}/postgresql.conf", os.F_OK, effective_ids=True):
        from pgidle.postgres.debian import unconfigured

        raise unconfigured(settings.data_dir)


def _refuse_default_socket(settings: Settings, first: FirstStart | None, binaries: Binaries) -> None:
    """Raise SettingsError where the first start would end, after initdb, without a place for its Unix socket."""
    from pgidle.postgres.data_directory import refuse_closed
    from pgidle.postgres.programs import default_socket_dirs

    if first is None or settings.socket_dir is not None:
        return
    if any("unix_socket_directories" in word for word in first.initdb_args):
        return
    for folder in default_socket_dirs(binaries.path("postgres")).split(","):
        if folder.strip().startswith("/"):
            refuse_closed(folder.strip(), is_default=True)


def _warn_of_exit(settings: Settings, log: Log, *, is_started: bool) -> None:
    """Say to somebody at a terminal what no platform is there to do."""
    from pgidle.settings.options import WhenIdle

    is_managed = is_started or {"FLY_MACHINE_ID", "INVOCATION_ID"} & os.environ.keys()
    if settings.when_idle is WhenIdle.EXIT and os.isatty(2) and not is_managed:
        log.note(
            "boot",
            "when-idle is exit: once asleep, nothing here starts pgidle again for a client; "
            "--when-idle stay wakes Postgres itself",
        )


def _certify(settings: Settings, binaries: Binaries, is_first_start: bool, log: Log) -> None:
    """A certificate that serves, made where there is none. Raises PgidleError."""
    from pgidle.postgres.tls import is_valid

    if is_valid(settings.data_dir, time.time()):
        return
    from pgidle.postgres.certificate import make, refuse_unfit

    refuse_unfit(binaries, settings.data_dir, settings.postgres_args, is_first_start)
    log.note("tls", make(settings.data_dir, os.environ))


def _served(settings: Settings, inherited: Sequence[Listener]) -> Settings:
    """Inherited sockets, if any, say where Postgres listens. Raises PgidleError where it could not."""
    tcp = [one for one in inherited if not one.is_unix]
    if not tcp:
        return settings
    ports = {one.port for one in tcp}
    if len(ports) > 1:
        raise PgidleError(
            f"the inherited sockets have ports {sorted(ports)}", "Postgres has one: give each a service"
        )
    names = [one.name for one in tcp]
    if len(set(names)) < len(names):
        raise PgidleError(
            f"two inherited sockets have the same address: {', '.join(names)}", "name each once"
        )
    addresses = ",".join(names)
    return replace(settings, port=ports.pop(), listen_addresses=addresses)


def _change_user(identity: Identity, log: Log) -> None:
    """Become the user that Postgres runs as, with all that it will need."""
    from pgidle.system.users import become, python_unreadable

    if (place := python_unreadable(identity)) is not None:
        from pgidle.system.preload_modules import preload

        preload()
        log.note(
            "boot",
            f"user {identity.name} cannot read {place}: waking takes longer, as all is imported before",
        )
    become(identity)


def _make_gate(
    settings: Settings,
    state_dir: StateDir,
    library: int | None,
    inherited: Sequence[Listener],
    log: Log,
) -> tuple[Gate, str]:
    """A gate that holds clients from now on, and why it is no better one. Raises PgidleError."""
    from pgidle.gate.gate import Gate, Mode
    from pgidle.gate.listeners import resolve
    from pgidle.run.sd_listen import is_reachable

    try:
        addresses = resolve(settings.listen_addresses, settings.port)
    except OSError as error:
        raise PgidleError(
            f"cannot listen on {settings.listen_addresses}: {error.strerror}", "set --listen-addresses"
        ) from None
    for one in [one for one in inherited if one.is_unix]:
        if is_reachable(one, settings.port):
            one.listen_as_ourselves()
            one.note_file()
        else:
            log.note(
                "gate",
                f"{one.path} is gone; until its socket unit is restarted, it is there only while awake",
            )
            inherited = [other for other in inherited if other is not one]
            one.close()
    taken = {one.name for one in inherited}
    made, missing = _listen([one for one in addresses if one[1][0] not in taken], settings, state_dir, log)
    for why in missing if settings.listen_addresses.strip() != "*" else ():
        log.note("gate", why)
    served = {*taken, *(one.name for one in made)}
    addresses = [one for one in addresses if one[1][0] in served]
    if library is not None:
        return Gate([*inherited, *made], addresses), "clients wait while Postgres is not ready"
    why = "the preloaded library was not compiled: install a C compiler and then pgidle again"
    if inherited:
        raise PgidleError(f"an inherited socket cannot be shared with Postgres: {why}")
    return Gate(made, addresses, Mode.NONE), why


def _listen(
    addresses: Sequence[Address], settings: Settings, state_dir: StateDir, log: Log
) -> tuple[list[Listener], list[str]]:
    """Listen, once an earlier supervisor's postmaster has ended, which may still have the port. Raises PgidleError."""
    from pgidle.gate.listeners import listen_on
    from pgidle.postgres.data_directory import living_postmaster, read_pidfile

    began = time.monotonic()
    while True:
        living = living_postmaster(settings.data_dir) if read_pidfile(settings.data_dir) is not None else None
        if living is not None and living != state_dir.earlier_postmaster:
            from pgidle.postgres.orphans import is_abandoned

            if not is_abandoned(living):
                raise PgidleError(
                    f"a postmaster with pid {living} already runs on {settings.data_dir}", "stop it first"
                )
        try:
            return listen_on(addresses)
        except PgidleError:
            from pgidle.postgres.orphans import hasten_postmaster, is_abandoned

            # It may not have come as far as to its lock yet.
            earlier = state_dir.earlier_postmaster
            if living is None and earlier is not None and is_abandoned(earlier):
                living = earlier
            if living is None:
                raise
        hasten_postmaster(living, time.monotonic() - began, settings.stop_timeout, log)
        time.sleep(EARLIER_POLL)


def _listen_http(settings: Settings, identity: Identity | None) -> tuple[socket.socket, ...]:
    """The HTTP socket, open from now on: who asks early waits for the answer. Raises PgidleError."""
    if settings.http is None:
        return ()
    host, port = settings.http
    try:
        if host:
            listener = _listener(host, port)
        else:
            try:
                listener = _listener("::", port, both_families=True)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                listener = _listener("0.0.0.0", port)
    except OSError as error:
        from pgidle.system.state_directory import refuse_served
        from pgidle.system.users import acting_as

        # Taken by our like, more often than not: then that is what to say.
        with acting_as(identity):
            refuse_served(settings.state_dir)
        raise PgidleError(
            f"cannot serve HTTP on {host or '*'}:{port}: {error.strerror}", "set --http, or --http off"
        ) from None
    return (listener,)


def _listener(host: str, port: int, *, both_families: bool = False) -> socket.socket:
    """Listen on one address; on `::` also for IPv4, whatever net.ipv6.bindv6only says. Raises OSError."""
    family, _, _, _, where = socket.getaddrinfo(
        host.encode(), port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both_families:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(where)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_control(state_dir: StateDir) -> socket.socket:
    """The control socket, for this user alone."""
    from pgidle.system.state_directory import CONTROL_SOCKET

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        _unlink(CONTROL_SOCKET, state_dir.folder)
        # Through the descriptor: a socket's whole path may have 107 bytes (unix(7)).
        listener.bind(f"/proc/self/fd/{state_dir.folder}/{CONTROL_SOCKET}")
        listener.listen(16)
    except OSError as error:
        raise PgidleError(
            f"cannot make {state_dir.path}/{CONTROL_SOCKET}: {error.strerror}", "set --state-dir"
        ) from None
    finally:
        os.umask(mask)
    return listener


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
