"""Addresses of Postgres in a fly.toml, the application's own included."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.server_addresses import Address


def check_addresses(chart: Chart, named: list[Address]) -> None:
    """Names and connection strings of Postgres servers, wherever they are written."""
    for one in named:
        where = f"{chart.subject}:{one.variable.line}"
        if one.host.endswith(".internal"):
            app = one.host.removesuffix(".internal").rpartition(".")[2]
            said = (
                f"{one.host} is an .internal name",
                where,
                "such names leave out machines that are stopped, and connecting to one wakes nothing",
                f"{app}.flycast, an address that fly ips allocate-v6 --private makes",
            )
            if one.is_sure:
                chart.wrong(*said)
            else:
                chart.note(said[0] + ", and perhaps that of a Postgres", *said[1:])
        elif one.host.endswith(".flycast") and one.sslmode in ("require", "verify-ca", "verify-full"):
            chart.wrong(
                f"sslmode={one.sslmode} over Flycast",
                where,
                "Flycast already runs over WireGuard, and nothing there speaks TLS: the client sees"
                " `tls handshake eof` or that the server does not support it",
                "sslmode=disable at the end of the connection string",
            )
        elif one.host.endswith(".flycast") and one.sslmode is not None and one.sslmode != "disable":
            chart.note(
                "a connection over Flycast does not say sslmode=disable",
                where,
                "some drivers insist on TLS, which Flycast does not need",
                "sslmode=disable at the end of the connection string",
            )
