"""Probes that connect to the database port, by any of its names."""

from __future__ import annotations

import pytest

from harness.mistakes import UNKNOWN, WRONG, of_compose, said
from harness.platform_files import SERVICE, pod


def test_the_pod_is_right() -> None:
    assert said(pod()) == []


@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe", "startupProbe"])
@pytest.mark.parametrize(
    ("asks", "wakes"),
    [
        ("{tcpSocket: {port: 5432}}", True),
        ("{tcpSocket: {port: pg}}", True),
        ("{httpGet: {port: pg, path: /}}", True),
        ("{grpc: {port: 5432}}", True),
        ("{exec: {command: [sh, -c, 'pg_isready -U x']}}", True),
        ("{exec: {command: [nc, -z, localhost, '5432']}}", True),
        ("{exec: {command: [bash, -c, 'echo > /dev/tcp/localhost/5432']}}", True),
        ("{tcpSocket: {port: http}}", False),
        ("{httpGet: {port: http, path: /health}}", False),
        ("{exec: {command: [pgidle, health]}}", False),
    ],
)
def test_a_probe_of_the_database_port_wakes_it(probe: str, asks: str, wakes: bool) -> None:
    found = said(pod(f"{probe}: {asks}"))
    assert [one[0] for one in found] == [WRONG] * wakes
    assert not wakes or probe in found[0][1]


def test_a_probe_that_nobody_understands_is_not_right() -> None:
    chart = pod("livenessProbe: {exec: {command: [/healthcheck.sh]}}")
    assert [one[0] for one in said(chart)] == [UNKNOWN]
    assert not any("healthcheck" in one for one in chart.right)
    text = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="")
    for test, severity in (
        ("/check.sh", UNKNOWN),
        ("[NONE]", None),
        ("pgidle health", None),
        ("nc -z db 5432", WRONG),
    ):
        found = said(of_compose(f"{text}    healthcheck: {{test: {test}}}\n"))
        assert [one[0] for one in found] == ([severity] if severity else [])
