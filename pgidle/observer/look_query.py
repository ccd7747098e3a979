"""The watching session's queries, and how it makes sure that they mean what they say.

It looks as a superuser if no role was made for it, in a database that may belong to another user. So it relies on no
other user's settings or objects (CVE-2018-1058): every setting that changes the meaning, the output or the limits of a
statement is pinned in the startup packet, which overrides settings of a role or a database (PGC_S_CLIENT in
src/include/utils/guc.h); relations, functions, operators and types are qualified with pg_catalog, in which only a
superuser can create anything. All times are sent as whole microseconds, which no setting can round.
"""

from __future__ import annotations

from pgidle.settings.options import WHOLE_BELOW

PINS = {
    # Names. pg_temp last: by default a temporary table hides a catalog.
    "search_path": "pg_catalog,pg_temp",
    "role": "none",
    "local_preload_libraries": "",
    "standard_conforming_strings": "on",
    "row_security": "on",
    # Output.
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    # Limits.
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # Cost: no JIT compiler, and no parallel workers, which would be sessions too.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
"""Settings that any session may set, in every version."""

PINS_SINCE = {
    14: {"idle_session_timeout": "0"},
    15: {"stats_fetch_consistency": "cache"},
    17: {"transaction_timeout": "0"},
}

SUPERUSER_PINS = {
    "log_min_messages": "panic",
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "log_duration": "off",
    "log_min_duration_statement": "-1",
}
"""So that looks do not fill the log of a server that logs every statement. Only a superuser may set these."""

SUPERUSER_PINS_SINCE = {17: {"event_triggers": "off"}}
"""Login triggers could refuse the connection, or write at every look."""

FLUSH = b"SELECT pg_catalog.pg_stat_force_next_flush()"
"""Makes the server count this session now, before the next statement begins, and not a moment later (15+)."""

# A subquery runs when its value is first needed: the filter on `counters` makes that one run first. `query` is included
# where it may tell what a session holds (see `statements`); `statement`, where it is short and was used of late: whole
# if it is shorter than Postgres can have cut it (track_activity_query_size is at least 100). A text in another
# database's encoding could fail to be sent.
LOOK = """
WITH counters AS MATERIALIZED (
    {counters}
), sessions AS MATERIALIZED (
    SELECT a.pid, {backend_start} AS backend_start, a.backend_type, a.usename, a.datname,
        coalesce(a.application_name, '') AS application_name, pg_catalog.host(a.client_addr) AS client_addr,
        a.client_port, a.state, {state_change} AS state_change,
        CASE WHEN a.query OPERATOR(pg_catalog.~*) 'listen|discard|backup' THEN a.query ELSE '' END AS query,
        CASE WHEN a.backend_type OPERATOR(pg_catalog.=) 'client backend'
                AND a.state_change OPERATOR(pg_catalog.>)
                    (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '2 min'::pg_catalog.interval)
                AND b.encoding OPERATOR(pg_catalog.=)
                    pg_catalog.pg_char_to_encoding(pg_catalog.getdatabaseencoding())
                AND pg_catalog.octet_length(a.query) OPERATOR(pg_catalog.<=) 1024
            THEN a.query ELSE '' END AS statement,
        pg_catalog.octet_length(a.query) OPERATOR(pg_catalog.<) {whole_below} AS is_whole,
        coalesce(pg_catalog.has_function_privilege(a.usesysid, '{backup_function}', 'EXECUTE'), false)
            AS may_back_up,
        coalesce(l.locks, 0) AS advisory_locks, s.subscription, r.state AS walsender_state
    FROM pg_catalog.pg_stat_activity a
        LEFT JOIN pg_catalog.pg_database b ON b.oid OPERATOR(pg_catalog.=) a.datid
        LEFT JOIN (
            SELECT k.pid, pg_catalog.count(*) AS locks FROM pg_catalog.pg_locks k
            WHERE k.locktype OPERATOR(pg_catalog.=) 'advisory' AND k.granted GROUP BY k.pid
        ) l ON l.pid OPERATOR(pg_catalog.=) a.pid
        LEFT JOIN (
            SELECT u.pid, pg_catalog.min(u.subname::pg_catalog.text) AS subscription
            FROM pg_catalog.pg_stat_subscription u GROUP BY u.pid
        ) s ON s.pid OPERATOR(pg_catalog.=) a.pid
        LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid OPERATOR(pg_catalog.=) a.pid
    WHERE (SELECT pg_catalog.count(*) FROM counters) OPERATOR(pg_catalog.=) 1
), slots AS (
    SELECT s.slot_name::pg_catalog.text AS name, s.slot_type, coalesce(pg_catalog.pg_wal_lsn_diff(
        CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn
    ), 0)::pg_catalog.int8 AS held_back
    FROM pg_catalog.pg_replication_slots s
    WHERE NOT s.active AND s.restart_lsn IS NOT NULL{not_synced}
)
SELECT pg_catalog.json_build_object(
    'sees_all', pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
    'role', current_user, 'pid', pg_catalog.pg_backend_pid(),
    'counters', (SELECT pg_catalog.row_to_json(counters) FROM counters),
    'sessions', (SELECT pg_catalog.json_agg(sessions) FROM sessions),
    'prepared', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts),
    'in_recovery', pg_catalog.pg_is_in_recovery(),
    'slots', (SELECT pg_catalog.json_agg(slots) FROM slots),
    'checkpoint', (
        SELECT pg_catalog.json_build_object(
            'redo', pg_catalog.pg_wal_lsn_diff(c.redo_lsn, '0/0')::pg_catalog.int8,
            'segment_bytes', i.bytes_per_wal_segment, 'requested', {requested}, 'time', {checkpoint_time},
            'is_shutdown', c.redo_lsn OPERATOR(pg_catalog.=) c.checkpoint_lsn
        ) FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_init() i
    ),
    'exclusive_backup', {exclusive_backup},
    'started', {started},
    'authentication_timeout', {authentication_timeout},
    'has_postgres', EXISTS (
        SELECT FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) 'postgres' AND d.datallowconn
    ),
    'free_walsenders', pg_catalog.current_setting('max_wal_senders')::pg_catalog.int4 OPERATOR(pg_catalog.-)
        (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication w
            WHERE w.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()),
    'has_role', EXISTS (
        SELECT FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) '{watch_role}' AND r.rolcanlogin
            AND pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE')
    ),
    'now', {now}
)
"""

COUNTERS = """SELECT {sessions}::pg_catalog.int8 AS sessions,
        coalesce(pg_catalog.sum(d.active_time){others}, 0)::pg_catalog.int8 AS active_time,
        pg_catalog.count(*) AS databases, pg_catalog.sum(d.datid::pg_catalog.int8)::pg_catalog.int8 AS datids,
        pg_catalog.max({reset}) AS reset
    FROM pg_catalog.pg_stat_database d"""

# 14's collector does not count sessions with track_counts off, which may be set for a role or a database.
COUNTED_14 = """CASE WHEN pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'on' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS c (line)
        WHERE c.line OPERATOR(pg_catalog.~~*) 'track_counts=%'
    ) THEN pg_catalog.sum(d.sessions) END"""

NO_COUNTERS = "SELECT NULL::pg_catalog.int8 AS sessions"

WATCH_ROLE = "pgidle"
"""A role of this name, if it may log in and read all statistics, is preferred to a superuser."""


def startup_options(major: int, *, statement_timeout: float, superuser: bool) -> str:
    """The `options` of the startup packet: everything that is pinned. `statement_timeout` is in seconds."""
    pins = PINS | {"statement_timeout": f"{statement_timeout * 1000:.0f}"} | _since(PINS_SINCE, major)
    if superuser:
        pins |= superuser_pins(major)
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in pins.items())


def superuser_pins(major: int) -> dict[str, str]:
    """Pins that only a superuser may set."""
    return SUPERUSER_PINS | _since(SUPERUSER_PINS_SINCE, major)


def set_superuser_pins(major: int) -> bytes:
    """The same as a statement, for a session that turns out to be a superuser's only once connected."""
    words = (
        f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in superuser_pins(major).items()
    )
    return f"SELECT {', '.join(words)}".encode()


def set_statement_timeout(seconds: float) -> bytes:
    return f"SET statement_timeout = {max(1, int(seconds * 1000))}".encode()


def look(major: int, *, counts_itself: bool) -> bytes:
    """The look for a server's major version. `counts_itself`: the watching session is counted in its own database."""
    others = ""
    if counts_itself:
        other = "d.datname OPERATOR(pg_catalog.<>) pg_catalog.current_database()"
        others = f" FILTER (WHERE {other})"
    counters = COUNTERS.format(
        sessions=COUNTED_14 if major == 14 else "pg_catalog.sum(d.sessions)",
        others=others,
        reset=_micros("d.stats_reset"),
    )
    requested = (
        "(SELECT k.num_requested FROM pg_catalog.pg_stat_checkpointer k)"
        if major >= 17
        else "(SELECT b.checkpoints_req FROM pg_catalog.pg_stat_bgwriter b)"
    )
    return LOOK.format(
        counters=counters if major >= 14 else NO_COUNTERS,
        backend_start=_micros("a.backend_start"),
        state_change=_micros("a.state_change"),
        backup_function=(
            "pg_catalog.pg_backup_start(pg_catalog.text, pg_catalog.bool)"
            if major >= 15
            else "pg_catalog.pg_start_backup(pg_catalog.text, pg_catalog.bool, pg_catalog.bool)"
        ),
        # From 17 on a standby may have slots synced from its primary, which are never active there.
        not_synced=" AND NOT s.synced" if major >= 17 else "",
        requested=requested,
        checkpoint_time=_micros("c.checkpoint_time"),
        exclusive_backup="false" if major >= 15 else "pg_catalog.pg_is_in_backup()",
        started=_micros("pg_catalog.pg_postmaster_start_time()"),
        authentication_timeout=_micros(
            "pg_catalog.current_setting('authentication_timeout')::pg_catalog.interval"
        ),
        watch_role=WATCH_ROLE,
        whole_below=WHOLE_BELOW,
        now=_micros("pg_catalog.clock_timestamp()"),
    ).encode()


def _micros(value: str) -> str:
    """Whole microseconds: since 1970 for a moment, or of an interval."""
    return f"(EXTRACT(epoch FROM {value}) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"


def _since(pins: dict[int, dict[str, str]], major: int) -> dict[str, str]:
    return {name: value for since, some in pins.items() if major >= since for name, value in some.items()}
