"""Connection strings without their secrets, to be shown to people."""

from __future__ import annotations

HIDDEN = "***"
HARMLESS = (
    *("host", "hostaddr", "port", "user", "dbname", "application_name", "fallback_application_name"),
    *("connect_timeout", "client_encoding", "target_session_attrs", "load_balance_hosts", "service"),
    *("sslmode", "sslnegotiation", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir", "sslsni"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "gssencmode", "krbsrvname", "require_auth"),
    *("channel_binding", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "passfile", "requirepeer", "replication"),
)
"""Parameters that may be shown. Any other that libpq knows, or will know, may be a secret."""


def harmless(conninfo: str) -> str:
    """A connection string with `***` for every parameter that may be a secret, parsed as libpq parses it."""
    # Imported here because that takes long, and few callers have anything to print.
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        said = conninfo_to_dict(conninfo)
        shown = {name: str(value) if name in HARMLESS else HIDDEN for name, value in said.items()}
        return make_conninfo("", **shown)
    except (Error, ValueError):
        return HIDDEN
