"""What the doctor says of systemd's units: of a right pair, with one mistake in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, Mistake, check
from pgidle.doctor import files
from pgidle.doctor.finding import Chart, Severity
from pgidle.doctor.platforms import systemd
from pgidle.doctor.readers.durations import go_duration, systemd_span, written
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.unit_file import Beside

if TYPE_CHECKING:
    from pathlib import Path

SERVICE = """# A comment
[Unit]
Description=Postgres that sleeps
[Service]
Type=exec
ExecStart=/opt/pgidle/bin/pgidle run \\
    -D /srv/pg/data
Environment=PGIDLE_STOP_TIMEOUT=20s "PGIDLE_IDLE_TIMEOUT=1h"
EnvironmentFile=-/etc/pgidle/none.env
Restart=on-failure
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec=30s
"""
SOCKET = """
[Socket]
ListenStream=0.0.0.0:5432
ListenStream=[::]:5432
ListenStream=/run/postgresql/.s.PGSQL.5432
BindIPv6Only=ipv6-only
SocketMode=0777
[Install]
WantedBy=sockets.target
"""
ENV = "Environment=PGIDLE_STOP_TIMEOUT=20s"
BESIDE = Beside(environment={"/etc/pgidle/none.env": None}, socket="pgidle.socket")

OF_SERVICE = [
    Mistake("on-failure", "always", WRONG, "Restart=always", "Restart="),
    Mistake("on-failure", "on-success", WRONG, "Restart=on-success", "Restart="),
    Mistake("on-failure", "no", NOTE, "Restart=no", "Restart="),
    Mistake("Restart=on-failure\n", "", NOTE, "Restart=no, which is the default", "ExecStart"),
    Mistake("TimeoutStopSec=30s", "TimeoutStopSec=20", WRONG, "TimeoutStopSec is 20s", "TimeoutStopSec"),
    Mistake("TimeoutStopSec=30s", "TimeoutSec=10", WRONG, "TimeoutSec is 10s", "TimeoutSec"),
    Mistake("TimeoutStopSec=30s", "TimeoutStopSec=x", WRONG, "=x is not a time span", "TimeoutStopSec"),
    Mistake("STOP_TIMEOUT=20s", "STOP_TIMEOUT=2min", WRONG, "TimeoutStopSec is 30s", "TimeoutStopSec"),
    Mistake("SIGTERM", "SIGKILL", WRONG, "KillSignal is SIGKILL", "KillSignal"),
    Mistake("SIGTERM", "QUIT", WRONG, "KillSignal is SIGQUIT", "KillSignal"),
    Mistake("Type=exec", "Type=forking", WRONG, "Type=forking", "Type"),
    Mistake("Type=exec", "PrivateNetwork=yes", WRONG, "PrivateNetwork=yes", "PrivateN"),
    Mistake("KillMode=mixed\n", "", NOTE, "KillMode=control-group, which is", "ExecStart"),
    Mistake("KillMode=mixed", "KillMode=process", NOTE, "KillMode=process", "KillMode"),
    Mistake("pgidle run", "postgres", WRONG, "ExecStart= does not start", "ExecStart"),
    Mistake("    -D", "    --nonsense", WRONG, "pgidle does not understand `pgidle run", "ExecStart"),
    Mistake("_TIMEOUT=1h", "_TIMEOUT=1", WRONG, "'1' is not a duration", "Environment="),
    Mistake("[Unit]\n", "[Unit]\nnonsense\n", WRONG, "not a unit file", "nonsense"),
    Mistake(
        "-/etc/pgidle/none.env", "/etc/pgidle/none.env", UNKNOWN, "what /etc/pgidle/none", "EnvironmentF"
    ),
]
OF_SOCKET = [
    Mistake("[Install]", "Accept=yes\n[Install]", WRONG, "Accept=yes", "Accept"),
    Mistake("/run/postgresql/.s.PGSQL.5432", "/run/pg.sock", WRONG, "is not a Unix socket of", "/run/pg"),
    Mistake("/run/postgresql/.s.PGSQL.5432", "@pg", WRONG, "=@pg is not a Unix socket of", "@pg"),
    Mistake("PGSQL.5432", "PGSQL.5433", WRONG, "is for port 5433, and TCP has 5432", "PGSQL.5433"),
    Mistake("SocketMode=0777", "SocketUser=postgres", NOTE, "SocketUser=postgres", "SocketUser"),
    Mistake("BindIPv6Only=ipv6-only\n", "", WRONG, "takes IPv4 and IPv6", "[::]"),
    Mistake("0.0.0.0:5432", "10.0.0.7:5432", NOTE, "without FreeBind", "10.0.0.7"),
    Mistake("5432\nBind", "5432\nListenStream=\nBind", WRONG, "no ListenStream=", "[Socket]"),
]


def examine(text: str, beside: Beside = BESIDE, context: Context | None = None) -> Chart:
    return systemd.examine("pgidle.unit", text, context or Context(), beside)


def test_the_right_pair_is_right() -> None:
    assert examine(SERVICE).findings == []
    assert "pgidle.socket starts it again" in examine(SERVICE).right
    assert examine(SOCKET).findings == []


@pytest.mark.parametrize("mistake", OF_SERVICE, ids=str)
def test_a_service_s_mistake_is_named_in_its_place(mistake: Mistake) -> None:
    text = mistake.made_in(SERVICE)
    beside = Beside(socket="pgidle.socket") if mistake.severity is UNKNOWN else BESIDE
    check(mistake, examine(text, beside), text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.0.0.0:5432", "127.0.0.1:5432"),
        (
            "/run/postgresql/.s.PGSQL.5432\n",
            "/run/postgresql/.s.PGSQL.5432\nListenStream=/tmp/.s.PGSQL.5432\n",
        ),
        ("/run/postgresql/.s.PGSQL.5432", "/run/postgresql/.s.PGSQL.%i"),
        (
            "/run/postgresql/.s.PGSQL.5432\nBindIPv6Only=ipv6-only\nSocketMode=0777\n",
            "@pg/.s.PGSQL.5432\nBindIPv6Only=ipv6-only\n",
        ),
        ("SocketMode=0777\n", ""),
        ("SocketMode=0777", "SocketUser=root"),
        ("SocketMode=0777", "SocketMode=0777\nReusePort=yes"),
    ],
)
def test_what_is_near_a_socket_s_mistake_is_none(old: str, new: str) -> None:
    assert SOCKET.count(old) == 1
    assert examine(SOCKET.replace(old, new)).findings == []


@pytest.mark.parametrize("mistake", OF_SOCKET, ids=str)
def test_a_socket_s_mistake_is_named_in_its_place(mistake: Mistake) -> None:
    text = mistake.made_in(SOCKET)
    check(mistake, examine(text), text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("on-failure", "on-abnormal"),
        ("TimeoutStopSec=30s", "TimeoutStopSec=infinity"),
        ("TimeoutStopSec=30s", "TimeoutStopSec=1min 5s"),
        ("TimeoutStopSec=30s\n", ""),
        ("SIGTERM", "SIGINT"),
        ("SIGTERM", "15"),
        ("Type=exec", "Type=simple"),
        ("Type=exec", "Type=notify"),
        ("Type=exec", "User=root"),
        ("Type=exec", "User=postgres"),
        ("Type=exec", "ProtectKernelTunables=yes"),
        ("/opt/pgidle/bin/pgidle run", "-/usr/bin/env pgidle run"),
        ("Type=exec", "Restart=always\nRestart="),
    ],
)
def test_what_is_near_a_mistake_is_none(old: str, new: str) -> None:
    assert SERVICE.count(old) == 1
    assert examine(SERVICE.replace(old, new)).findings == []


def test_who_stays_may_be_restarted_always_and_needs_no_socket() -> None:
    text = SERVICE.replace("on-failure", "always").replace(ENV, f"{ENV} PGIDLE_WHEN_IDLE=stay")
    assert examine(text, Beside(environment=BESIDE.environment)).findings == []


def test_the_time_to_stop_that_is_not_given() -> None:
    text = SERVICE.replace("TimeoutStopSec=30s\n", "")
    assert "TimeoutStopSec (default 90s) is above stop-timeout 20s" in examine(text).right


def test_a_unit_of_another_kind_is_not_known() -> None:
    assert [one.severity for one in examine("[Unit]\nDescription=x\n").findings] == [UNKNOWN]


def test_who_exits_needs_somebody_to_start_it() -> None:
    found = examine(SERVICE, Beside(environment=BESIDE.environment)).findings
    assert [one.severity for one in found] == [UNKNOWN]
    assert "what starts the service again" in found[0].what


def test_a_measured_shutdown_counts() -> None:
    found = examine(SERVICE, context=Context(shutdown=31.0)).findings
    assert [one.what for one in found] == ["TimeoutStopSec is 30s, and the last shutdown took 31s"]


def test_a_file_of_variables_counts(tmp_path: Path) -> None:
    (tmp_path / "env").write_text('# x\nPGIDLE_STOP_TIMEOUT="1h"\n')
    (tmp_path / "pgidle.service").write_text(SERVICE.replace("-/etc/pgidle/none.env", str(tmp_path / "env")))
    (tmp_path / "pgidle.socket").write_text(SOCKET)
    assert wrong(tmp_path / "pgidle.service") == [
        "TimeoutStopSec is 30s, and pgidle gives a fast shutdown 1h (stop-timeout)"
    ]


def wrong(*paths: Path) -> list[str]:
    given = [files.read(str(path)) for path in paths]
    charts = [files.examine(one, Context(), given) for one in given]
    return [one.what for chart in charts for one in chart.findings if one.severity is Severity.WRONG]


def test_drop_ins_count(tmp_path: Path) -> None:
    (tmp_path / "pgidle.service").write_text(SERVICE)
    assert wrong(tmp_path / "pgidle.service") == []
    drop_ins = tmp_path / "pgidle.service.d"
    drop_ins.mkdir()
    (drop_ins / "mine.conf").write_text("[Service]\nRestart=always\n")
    (drop_ins / "note.txt").write_text("[Service]\nType=forking\n")
    given = files.read(str(tmp_path / "pgidle.service"))
    found = [one for one in files.examine(given, Context(), [given]).findings if one.severity is WRONG]
    assert [(one.what, one.where) for one in found] == [("Restart=always", f"{drop_ins}/mine.conf:2")]


def test_a_drop_in_is_read_with_its_template(tmp_path: Path) -> None:
    (tmp_path / "pgidle@.socket").write_text(
        "".join(line for line in SOCKET.splitlines(keepends=True) if not line.startswith("Listen"))
    )
    (tmp_path / "pgidle@main.socket.d").mkdir()
    drop_in = tmp_path / "pgidle@main.socket.d/listen.conf"
    drop_in.write_text("[Socket]\nListenStream=127.0.0.1:6000\nListenStream=/tmp/.s.PGSQL.6000\n")
    assert wrong(drop_in, tmp_path / "pgidle@.socket") == []
    drop_in.write_text("[Socket]\nListenStream=127.0.0.1:6000\nAccept=yes\n")
    assert wrong(drop_in) == ["Accept=yes"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("1m30s", 90),
        ("7", 7),
        ("1.5h", 5400),
        ("100ms", 0.1),
        ("", None),
        ("5 min", None),
        ("s", None),
    ],
)
def test_durations_of_fly_and_compose(text: str, seconds: float | None) -> None:
    assert go_duration(text) == seconds


def test_durations_for_people() -> None:
    assert [written(one) for one in (0.0, 0.25, 1.5, 90.0, float("inf"))] == [
        "0s",
        "250ms",
        "1.5s",
        "90s",
        "infinite",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("1min 30s", 90), ("2m", 120), ("infinity", float("inf")), ("0", float("inf")), ("x", None)],
)
def test_durations_of_systemd(text: str, seconds: float | None) -> None:
    assert systemd_span(text) == seconds
