"""Which Host headers could be another site's name that was made to mean this machine."""

from __future__ import annotations

import pytest

from pgidle.control.host_header import could_be_rebound

LOOPBACK = ("127.0.0.1", 8008)


@pytest.mark.parametrize(
    "host",
    [
        *(b"evil.example", b"evil.example:8008", b"EVIL.example.", b"127.0.0.1.evil.example", b"1.2.3.evil"),
        *(b"localhost.evil.example", b"notlocalhost.com", b"xn--bcher-kva.example", b"1.2.3.4.5", b"1.2.3.x"),
    ],
)
@pytest.mark.parametrize(
    "local", [LOOPBACK, ("127.1.2.3", 80), ("::1", 80, 0, 0), ("::ffff:127.0.0.1", 80, 0, 0)]
)
def test_a_name_that_somebody_may_own_is_refused_on_loopback(host: bytes, local: object) -> None:
    assert could_be_rebound(host, local)


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b"localhost", b"localhost:8008", b"LOCALHOST", b"localhost.", b"db.localhost:1", b"127.0.0.1"),
        *(
            b"127.0.0.1:8008",
            b"10.0.0.3:80",
            b"[::1]",
            b"[::1]:8008",
            b"[fe80::1%25eth0]:80",
            b"db",
            b"db:8008",
        ),
        *(b"laptop.local", b"db.internal:8008", b"nas.home.arpa", b" localhost "),
    ],
)
def test_a_name_that_nobody_can_own_is_not(host: bytes) -> None:
    assert not could_be_rebound(host, LOOPBACK)


@pytest.mark.parametrize("local", [("10.0.0.3", 8008), ("fd00::3", 8008, 0, 0), "", None])
def test_any_name_will_do_where_machines_have_names(local: object) -> None:
    assert not could_be_rebound(b"db.example.com", local)
