"""What one look at Postgres saw: values only, gathered by `observer.watcher` and judged by `policy`.

Times: `at` is on the monotonic clock. `backend_start`, `state_change` and the like are the server's wall clock, in
whole microseconds since 1970, and are only compared with each other. Ages are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Peer:
    """The far end of a TCP connection."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Received:
    """What a TCP connection has received so far: segments with data, and their bytes."""

    segments: int
    octets: int


@dataclass(frozen=True, slots=True)
class Session:
    """One row of pg_stat_activity (never the watcher's own), with what other views say about its pid.

    `state_age` is the seconds since `state_change`; None where Postgres keeps none (most workers). `unread`: its
    client has sent data that the backend has not read yet, so an idle state is out of date. `query` is its last one,
    where that may tell what the session holds. `listening`, and a client's `base_backup`, are derived from it by
    `held_by_sessions`. `statement`: the beginning of the last one of a client that was used of late; `is_whole`: all of
    it. `received`: what its TCP connection had received before the look and after it.
    """

    pid: int
    backend_start: int
    backend_type: str | None
    usename: str | None = None
    datname: str | None = None
    application_name: str = ""
    client_addr: str | None = None
    client_port: int | None = None
    state: str | None = None
    state_change: int | None = None
    state_age: float | None = None
    query: str = ""
    listening: bool = False
    may_back_up: bool = False
    advisory_locks: int = 0
    subscription: str | None = None
    base_backup: bool = False
    walsender_state: str | None = None
    unread: bool = False
    statement: str = ""
    is_whole: bool = False
    received: tuple[Received, Received] | None = None

    @property
    def key(self) -> Key:
        """Identifies a session for good: pids are reused."""
        return (self.pid, self.backend_start)

    @property
    def is_client(self) -> bool:
        """A client backend, or one whose type is hidden."""
        return self.backend_type in (None, "client backend")

    @property
    def is_walsender(self) -> bool:
        return self.backend_type == "walsender"

    @property
    def streams(self) -> bool:
        """A walsender whose receiver has begun to receive, and would resume where it was after a disconnect."""
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
        """Only starts other workers: autovacuum's, logical replication's, pg_cron's."""
        return (self.backend_type or "").endswith("launcher")

    @property
    def is_working(self) -> bool:
        """An extension's background worker that runs a query. Parallel workers are left out: their leader counts."""
        busy = self.state is not None and self.state not in ("idle", "disabled")
        return busy and not (self.is_client or self.is_launcher or self.backend_type == "parallel worker")


@dataclass(frozen=True, slots=True)
class Slot:
    """An inactive replication slot. `held_back`: bytes of WAL retained for it alone."""

    name: str
    slot_type: str
    held_back: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Sums over pg_stat_database (PostgreSQL 14+), which reveal sessions that no look has seen.

    `sessions` does not count the watcher's. `active_time` (microseconds) leaves out database `left_out`, where the
    watcher itself is counted. The rest tells whether two sums cover the same: the number of databases, the sum of their
    oids, and when one of them was last reset.
    """

    sessions: int
    active_time: int
    left_out: str = ""
    databases: int = 0
    datids: int = 0
    reset: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last checkpoint, from pg_control: its redo pointer in bytes of WAL, and its time. `requested` counts the
    checkpoints requested by anybody but the watcher. `is_shutdown`: nothing was written between its redo pointer and
    its record, as at a shutdown, and with wal_level = minimal at other times too."""

    redo: int
    segment_bytes: int
    requested: int
    time: int
    is_shutdown: bool = False


@dataclass(frozen=True, slots=True)
class Connecting:
    """Clients that are connected (perhaps only in the accept queue) but not yet in pg_stat_activity.

    `peers` are established TCP connections; `children` counts processes of the postmaster that match no row, which
    includes those of clients on the Unix socket. A TCP client that has a process is in both.
    """

    peers: tuple[Peer, ...] = ()
    children: int = 0


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Bytes and inodes left for Postgres's files, on the fullest file system. None: the file system does not tell."""

    free_bytes: int | None = None
    free_files: int | None = None
    is_read_only: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One complete look.

    `in_recovery`: it is a standby. `slots` are the inactive ones. `started`: when the postmaster was started.
    `exclusive_backup` (up to PostgreSQL 14): a base backup that belongs to no session. `watched_as` is the role that
    looked; `refusal` tells why the role made for watching was refused.
    """

    at: float
    server_version: int
    sessions: tuple[Session, ...] = ()
    counters: Counters | None = None
    connecting: Connecting = field(default_factory=Connecting)
    prepared_transactions: int = 0
    in_recovery: bool = False
    slots: tuple[Slot, ...] = ()
    room: FreeSpace = FreeSpace()
    checkpoint: Checkpoint | None = None
    started: int = 0
    exclusive_backup: bool = False
    watched_as: str = ""
    refusal: str | None = None

    @property
    def has_arrivals(self) -> bool:
        """Whether a client is between connect() and its first prompt, where a shutdown would be a failed connection."""
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
