"""The gate: no client ever meets a Postgres that is not ready, and no byte passes through us.

The gate listens on Postgres's public address in the same reuseport group as Postgres and never accepts. While
Postgres is not ready, new connections are steered to the gate and *park* in its accept queue, their handshake done.
When Postgres is ready they are steered to Postgres, and the gate stops listening for an instant: the kernel moves
those parked into Postgres's queue. Then the gate listens again, behind Postgres's back. The gate also holds a copy of
Postgres's own socket: when a postmaster dies, even in the middle of this, who waits in its queue waits on, until the
copy is given up and the kernel moves them to the gate.

Where the kernel does not move connections (`synhold`), nobody may park: the gate is *plugged* from before it hears
anybody else, one connection of our own filling a queue of one, so that SYNs are dropped and sent again by the
client's kernel. Where not even the group can be shared (`none`), the gate is a plain listener that makes way.
"""

from __future__ import annotations

import errno
import os
import select
import struct

from pgidle.errors import PgidleError
from pgidle.light import socket
from pgidle.record import Enum
from pgidle.steering import (
    WIDE,
    bound_to,
    can_migrate,
    dropped,
    hear_all,
    hear_only,
    make_socket,
    near,
    queue_length,
    sockaddr,
    steer,
    try_shim,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.steering import Address


SETTLING = 0.0005
"""Seconds between steering newcomers away from a listener and stopping it. Who is in the middle of a handshake with it
in the very instant in which it stops is reset (inet_csk_reqsk_queue_add in net/ipv4/inet_connection_sock.c)."""


CLAIM_TRIES = 200
"""Times SETTLING, which another gate has from bind(2) to listen(2)."""

UCRED = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""

PLUG_PATIENCE = 10.0
"""Seconds for a connection to ourselves."""


class Mode(Enum):
    """What happens to a client that comes while Postgres is not ready."""

    HANDOFF = "handoff"
    SYNHOLD = "synhold"
    NONE = "none"


def open_shim() -> int | None:
    """The compiled shim in the package, if it was compiled when the package was installed: a descriptor of it.

    By its descriptor it can be preloaded also where Postgres's user cannot reach it (under root's home), and after
    the package was replaced by another version while this one runs.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    named = (name for name in os.listdir(folder) if name.startswith("_reuseport.") and name.endswith(".so"))
    name = next(named, None)
    return None if name is None else os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)


def try_mode(family: int, shim: int | None) -> tuple[Mode, str]:
    """What this kernel, container and user allow, and why not more. Tried, never guessed; run as Postgres's user."""
    if shim is None:
        return Mode.NONE, "the preload shim was not compiled: install a C compiler and then pgidle again"
    # It runs while the kernel is tried.
    shim_works = try_shim(shim)
    migrates, refusal = False, ""
    try:
        migrates = can_migrate(family)
    except OSError as error:
        refusal = os.strerror(error.errno or 0)
    if not shim_works():
        path = os.readlink(f"/proc/self/fd/{shim}")
        return Mode.NONE, f"user {os.geteuid()} cannot preload {path}: install pgidle where it can"
    if refusal:
        return Mode.NONE, f"the kernel refuses to steer connections: {refusal}"
    if migrates:
        return Mode.HANDOFF, "the kernel moves parked connections"
    return (
        Mode.SYNHOLD,
        "the kernel does not move parked connections: set sysctl net.ipv4.tcp_migrate_req=1 (Linux 5.14+)",
    )


class Door:
    """The gate's listener on one address."""

    def __init__(self, address: Address, inherited: socket.socket | None) -> None:
        self.address = address
        self.inherited = inherited is not None
        self.number = 0
        self.plug: socket.socket | None = None
        self.copy: socket.socket | None = None
        """Of Postgres's listener: the same socket, which ends only when this is shut down, too."""
        self.listener = inherited or _bound(address)
        self.claim: socket.socket | None = None
        if inherited is None:
            try:
                self.claim = _claim(address)
            except PgidleError:
                self.listener.close()
                raise

    def listen(self, backlog: int) -> None:
        """Join the group, or change the backlog of a member."""
        self.listener.listen(backlog)

    def to_gate(self) -> None:
        steer(self.listener, self.number)

    def to_postgres(self) -> None:
        steer(self.listener, 1 - self.number)

    def migrate(self) -> None:
        """Move everybody who is parked to Postgres, and be the last of the group again. Needs Postgres in the group."""
        self.to_postgres()
        _settle()
        self.listener.shutdown(socket.SHUT_RD)
        self.number = 1  # Postgres took number 0 when we left; we come back behind it.
        self.listener.listen(WIDE)
        self.to_postgres()
        # Some kernels do not wake who waits on a listener that got its connections by migration.
        with make_socket(self.address[0]) as nudge:
            nudge.settimeout(0.5)
            _try_to_connect(nudge, self.address)

    def drop_copy(self) -> None:
        """Postgres is gone: its socket leaves the group, and who waits in its queue moves to the gate."""
        if self.copy is not None:
            self.to_gate()
            _settle()
            _end(self.copy)
            self.copy = None

    def plug_first(self) -> None:
        """Listen with a queue that is plugged before anybody else can be in it, whom nothing could hand to Postgres."""
        self.plug = make_socket(self.address[0])
        hear_only(self.listener, self.plug)
        self.listener.listen(0)
        self.to_gate()
        # In no time, unless the machine is very busy.
        self.plug.settimeout(PLUG_PATIENCE)
        self.plug.connect(near(self.address))
        hear_all(self.listener)

    def fill(self, others: int) -> None:
        """Plug the queue: everybody else's connections go to `others` until one of ours fills it.

        The backlog shrinks only when ours is in the queue: a listener with room in its queue and none for handshakes
        answers with a SYN cookie (tcp_conn_request in net/ipv4/tcp_input.c), and who is in the middle of such a
        handshake when the queue fills can be seen nowhere.
        """
        if self.plug is not None:
            return
        plug = make_socket(self.address[0])
        family, (host, _) = self.address
        plug.bind(near((family, (host, 0))))
        steer(self.listener, others, from_port=plug.getsockname()[1], port_number=self.number)
        plug.setblocking(False)
        _try_to_connect(plug, self.address)
        self.listener.listen(0)
        self.plug = plug

    def parked(self) -> int:
        """How many clients wait here; a plug of ours is none."""
        plug = self.plug  # Another thread may ask, while it is pulled.
        ours = plug is not None and _is_connected(plug)
        return queue_length(self.listener) - ours


class Gate:
    """Every door of Postgres's public addresses, moved together. All calls are for the supervisor alone."""

    def __init__(self, addresses: Sequence[Address], mode: Mode, inherited: Sequence[socket.socket]) -> None:
        """Bind every address. Raises PgidleError where one is taken, or where inherited sockets cannot be served."""
        self.mode = mode
        self.addresses = tuple(addresses)
        self._open = False
        self._doors: list[Door] = []
        if inherited and mode is not Mode.HANDOFF:
            raise PgidleError(
                f"clients of a service manager's socket cannot be handed to Postgres in gate mode {mode.value}",
                "set sysctl net.ipv4.tcp_migrate_req=1, or start pgidle without a socket unit",
            )
        given = {bound_to(one): one for one in inherited}
        if mode is not Mode.NONE:
            self._doors = [Door(address, given.get(address)) for address in addresses]

    @property
    def is_inherited(self) -> bool:
        """Whether a service manager keeps the sockets open when we are gone."""
        return bool(self._doors) and all(door.inherited for door in self._doors)

    @property
    def is_open(self) -> bool:
        """Whether newcomers are Postgres's."""
        return self._open

    def plugs(self) -> frozenset[tuple[str, int]]:
        """Addresses and ports of connections to the gate that are our own."""
        ends = [door.plug.getsockname() for door in self._doors if door.plug is not None]
        return frozenset((str(end[0]), int(end[1])) for end in ends)

    def listeners(self) -> list[socket.socket]:
        return [door.listener for door in self._doors]

    def listen(self, *, behind: bool = False) -> None:
        """Begin to hold clients. `behind`: a dying Postgres of an earlier supervisor may still be in the group."""
        for door in self._doors:
            door.number = 1 if behind else 0
            if self.mode is Mode.SYNHOLD:
                door.plug_first()
            else:
                door.listen(WIDE)
            door.to_gate()

    def keep_copies(self, listeners: Sequence[socket.socket]) -> None:
        """Sockets that Postgres has bound, to be kept from ending with it."""
        for one in listeners:
            door = next((door for door in self._doors if door.address == bound_to(one)), None)
            if door is None or self.mode is not Mode.HANDOFF:
                one.close()
            else:
                door.copy = one

    def open(self) -> None:
        """Postgres is ready: hand it those who are parked, and everybody who comes."""
        self._open = True
        for door in self._doors:
            if self.mode is Mode.HANDOFF:
                door.migrate()
            elif self.mode is Mode.SYNHOLD:
                door.to_postgres()

    def close(self) -> None:
        """Keep newcomers away from Postgres, which still runs."""
        self._open = False
        for door in self._doors:
            door.to_gate()

    def postgres_gone(self) -> None:
        """Postgres has left the group: the gate is alone in it, and number 0."""
        self._open = False
        for door in self._doors:
            if self.mode is not Mode.NONE:
                # First: its number in the group is given to the gate.
                door.drop_copy()
                door.number = 0
                door.to_gate()

    def await_knock(self) -> None:
        """Postgres sleeps and we stay: in mode `none` only now is there somebody to listen for."""
        if self.mode is Mode.NONE:
            self._doors = [Door(address, None) for address in self.addresses]
            for door in self._doors:
                door.listen(WIDE)

    def make_way(self) -> None:
        """Before Postgres binds: where the port cannot be shared, stop listening. Who knocked is refused."""
        if self.mode is Mode.NONE:
            self.shut()
            self._doors = []

    def plug(self) -> None:
        """Let nobody in any more, and nobody wait: SYNs are dropped. At a socket that outlives us they may wait."""
        for door in self._doors:
            if self.mode is Mode.HANDOFF and not door.inherited:
                door.fill(others=1 - door.number if self._open else door.number)
            if self.mode is not Mode.NONE:
                door.to_gate()
        self._open = False

    def unplug(self) -> None:
        """Let clients park again."""
        for door in self._doors:
            if self.mode is Mode.HANDOFF and door.plug is not None:
                door.plug.close()
                door.plug = None
                door.listen(WIDE)

    def parked(self) -> int:
        """How many clients wait at the gate."""
        return sum(door.parked() for door in self._doors)

    def dropped(self) -> int:
        """How many connection attempts were dropped so far, where nobody can park."""
        return sum(dropped(door.listener) for door in self._doors)

    def inodes(self) -> frozenset[int]:
        """The listeners' numbers, to tell them from Postgres's."""
        return frozenset(os.fstat(door.listener.fileno()).st_ino for door in self._doors)

    def hosts(self) -> tuple[str, ...]:
        """The addresses as numbers, each once."""
        return tuple(dict.fromkeys(address[1][0] for address in self.addresses))

    def shut(self) -> None:
        """Close everything: who is parked is refused. Inherited sockets go on listening with whoever keeps them."""
        for door in self._doors:
            for one in (door.listener, door.plug, door.claim, door.copy):
                if one is not None:
                    one.close()


def _try_to_connect(one: socket.socket, address: Address) -> None:
    """Connect, or be on the way, or not."""
    try:
        one.connect(near(address))
    except OSError:
        return


def _end(copy: socket.socket) -> None:
    """Have a socket of another process's leave the group, if it has not left it."""
    with copy:
        try:
            copy.shutdown(socket.SHUT_RD)
        except OSError:
            return


def _settle() -> None:
    # Not time.sleep(), whose absolute deadline fails under libfaketime, with which the torture moves the clock.
    select.select((), (), (), SETTLING)


def _is_connected(plug: socket.socket) -> bool:
    try:
        plug.getpeername()
    except OSError:
        return False
    return True


def _bound(address: Address) -> socket.socket:
    """A socket bound to an address that nobody listens on. Raises PgidleError."""
    family, (host, port) = address
    made = make_socket(family)
    try:
        made.bind(sockaddr(address))
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise PgidleError(
                f"port {port} on {host} is taken", "stop what listens there, or set --port"
            ) from error
        reason, hint = os.strerror(error.errno or 0), "set --listen-addresses and --port"
        if error.errno == errno.EINVAL and host.startswith("fe80:"):
            hint = f"a link-local address needs its interface: {host}%eth0"
        raise PgidleError(f"cannot listen on {host} port {port}: {reason}", hint) from error
    return made


def _claim(address: Address) -> socket.socket | None:
    """An address of ours alone among all gates: two that start at once would both find it free, and share it.

    A name in the abstract namespace (unix(7)) belongs to one socket, and is gone with it. Anybody may take any name, so
    who has it counts only where it is the same user's: no other's could share the port.
    """
    _, (host, port) = address
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    name = f"\0pgidle/{host}/{port}"
    try:
        claim.bind(name)
        claim.listen(1)
    except OSError as error:
        claim.close()
        if not _is_ours(name):
            return None
        raise PgidleError(f"port {port} on {host} is taken by another pgidle", "set --port") from error
    return claim


def _is_ours(name: str) -> bool:
    """Whether a process of our user's listens there (SO_PEERCRED, unix(7)); doubt means yes."""
    for _ in range(CLAIM_TRIES):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
            asking.setblocking(False)
            try:
                asking.connect(name)
            except ConnectionRefusedError:
                _settle()  # Bound, and about to listen, if it is one of ours.
                continue
            except OSError:
                return True
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
            return int(UCRED.unpack(credentials)[1]) == os.geteuid()
    return False


def refuse_taken(addresses: Sequence[Address]) -> None:
    """Raise PgidleError where somebody listens already, even one who would share the port.

    A second gate in the reuseport group of a first would take its clients.
    """
    for family, (host, port) in addresses:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(sockaddr((family, (host, port))))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PgidleError(
                        f"port {port} on {host} is taken", "stop what listens there, or set --port"
                    ) from error
                # Anything else is said by the bind that counts.
