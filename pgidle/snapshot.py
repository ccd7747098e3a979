"""What one look at Postgres saw: values only, gathered by `activity`, judged by `policy`.

Times: `at` is on the monotonic clock, `backend_start` and `state_change` are the server's wall clock (seconds
since 1970, only ever compared for equality), ages are seconds that the server itself worked out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Key = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Peer:
    """The far end of a TCP connection."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Session:
    """One row of pg_stat_activity, the watcher's own excepted, with what other views say about its pid.

    `state_age` is the seconds since `state_change`; None where Postgres keeps none (most workers). `unread`: its
    client has sent what the backend has not read yet, so that an idle state is out of date.
    """

    pid: int
    backend_start: float
    backend_type: str | None
    usename: str | None = None
    datname: str | None = None
    application_name: str = ""
    client_addr: str | None = None
    client_port: int | None = None
    state: str | None = None
    state_change: float | None = None
    state_age: float | None = None
    listening: bool = False
    advisory_locks: int = 0
    subscription: str | None = None
    base_backup: bool = False
    walsender_state: str | None = None
    unread: bool = False

    @property
    def key(self) -> Key:
        """Names a session for ever: pids are used again."""
        return (self.pid, self.backend_start)

    @property
    def is_client(self) -> bool:
        """A client backend; one whose type is hidden is taken for one."""
        return self.backend_type in (None, "client backend")

    @property
    def is_walsender(self) -> bool:
        return self.backend_type == "walsender"

    @property
    def streams(self) -> bool:
        """A walsender whose receiver has begun to receive, and would go on where it was after a cut."""
        return self.walsender_state in ("catchup", "streaming", "stopping")

    @property
    def is_autovacuum_worker(self) -> bool:
        return self.backend_type == "autovacuum worker"

    @property
    def is_subscription_worker(self) -> bool:
        """Applies or copies for a subscription: `logical replication worker` before 16, four names since."""
        name = self.backend_type or ""
        return self.subscription is not None or (
            name.startswith("logical replication") and not self.is_launcher
        )

    @property
    def is_launcher(self) -> bool:
        """Only starts others: autovacuum's, logical replication's, pg_cron's."""
        return (self.backend_type or "").endswith("launcher")

    @property
    def is_working(self) -> bool:
        """An extension's background worker that runs a query; a parallel worker's leader speaks for it."""
        busy = self.state is not None and self.state not in ("idle", "disabled")
        return busy and not (self.is_client or self.is_launcher or self.backend_type == "parallel worker")


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot that nobody uses. `held_back`: bytes of WAL that are kept for it alone."""

    name: str
    slot_type: str
    held_back: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Sums over pg_stat_database (PostgreSQL 14+).

    `active_time` leaves out the database that the watcher is connected to, whose sum every look moves.
    """

    sessions: int
    active_time: float


@dataclass(frozen=True, slots=True)
class Connecting:
    """Clients that Postgres (or its accept queue) has, but pg_stat_activity does not show yet.

    `peers` are established TCP connections; `children` counts processes of the postmaster that no row
    explains, which also shows clients of the Unix socket. A TCP client that has a process is in both.
    """

    peers: tuple[Peer, ...] = ()
    children: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for Postgres's files, where it is least: bytes, and inodes. None: the file system does not tell."""

    free_bytes: int | None = None
    free_files: int | None = None
    is_read_only: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One whole look. `epoch` changes when the watcher had to connect again, which moves the counters.

    `in_recovery`: it is a standby. `slots` are the inactive ones.
    """

    at: float
    epoch: int
    server_version: int
    sessions: tuple[Session, ...] = ()
    counters: Counters | None = None
    connecting: Connecting = field(default_factory=Connecting)
    prepared_transactions: int = 0
    in_recovery: bool = False
    slots: tuple[Slot, ...] = ()
    room: Room = Room()

    @property
    def has_arrivals(self) -> bool:
        """Whether anybody is between connect() and the first prompt, where an end would be a failed connection."""
        arriving = any(session.state in (None, "starting") for session in self.clients)
        return arriving or self.connecting != Connecting()

    @property
    def clients(self) -> tuple[Session, ...]:
        """Client backends only."""
        return tuple(session for session in self.sessions if session.is_client)


@dataclass(frozen=True, slots=True)
class LookFailed:
    """A look that did not see everything. `reason` is one line for a person."""

    reason: str
