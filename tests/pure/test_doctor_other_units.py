"""Units that are not pgidle's, or not plainly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, said
from pgidle.doctor import files
from pgidle.doctor.platforms import systemd
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.unit_file import Beside

if TYPE_CHECKING:
    from pathlib import Path

    from pgidle.doctor.finding import Severity


def test_a_socket_of_somebody_else_s_is_not_judged(tmp_path: Path) -> None:
    docker = "[Socket]\nListenStream=/run/docker.sock\nSocketMode=0660\n"
    assert [one[0] for one in said(systemd.examine("docker.socket", docker, Context(), Beside()))] == [
        UNKNOWN
    ]
    (tmp_path / "a.socket").write_text("[Socket]\nListenStream=127.0.0.1:6000\nAccept=yes\n")
    (tmp_path / "a.service").write_text("[Service]\nExecStart=/opt/pgidle/bin/pgidle run -D /d\n")
    given = files.read(str(tmp_path / "a.socket"))
    assert "Accept=yes" in str(said(files.examine(given, Context(), [given])))
    (tmp_path / "a.service").write_text("[Service]\nExecStart=/usr/bin/other\n")
    assert said(files.examine(given, Context(), [given])) == [(UNKNOWN, "this socket does not start pgidle")]


@pytest.mark.parametrize(
    ("start", "severity"),
    [
        ("/bin/sh -c 'exec pgidle run -D /d'", UNKNOWN),
        ("/usr/local/bin/start-pgidle.sh", UNKNOWN),
        ("/usr/bin/docker run --rm pgidle", UNKNOWN),
        ("/usr/lib/postgresql/16/bin/postgres -D /d", WRONG),
        ("/opt/pgidle/bin/pgidle run -D /d --when-idle stay --idle-timeout $T", UNKNOWN),
    ],
)
def test_a_start_that_is_not_plain_is_not_called_wrong(start: str, severity: Severity) -> None:
    unit = f"[Service]\nExecStart={start}\nRestart=on-failure\nKillMode=mixed\n"
    found = said(systemd.examine("a.service", unit, Context(), Beside()))
    assert {one[0] for one in found} == {severity}


def test_variables_of_the_unit_are_put_in() -> None:
    unit = (
        "[Service]\nEnvironment=D=/d T=1h\nEnvironment='O=--when-idle stay'\nRestart=on-failure\nKillMode=mixed\n"
        "ExecStart=/opt/pgidle/bin/pgidle run -D ${D}/x --stop-timeout $T $O\n"
    )
    found = said(systemd.examine("a.service", unit, Context(), Beside()))
    assert found == [
        (
            WRONG,
            "TimeoutStopSec is not given, so it is 90s, and pgidle gives a fast shutdown 1h (stop-timeout)",
        )
    ]


def test_a_quadlet_is_not_read() -> None:
    chart = systemd.examine("a.container", "[Container]\nImage=pgidle\n", Context(), Beside())
    assert [one[0] for one in said(chart)] == [UNKNOWN]


def test_a_file_of_variables_that_is_not_there_hides_them() -> None:
    unit = (
        "[Service]\nExecStart=/opt/pgidle run -D /d\nEnvironmentFile=/etc/x\nRestart=always\nKillMode=mixed\n"
    )
    found = said(
        systemd.examine("a.service", unit, Context(), Beside(environment={"/etc/x": None}, socket="a.socket"))
    )
    assert WRONG not in [one[0] for one in found]
    assert (UNKNOWN, "whether Restart=always is right") in found


@pytest.mark.parametrize(
    ("more", "severity"),
    [
        ("ProtectSystem=strict", WRONG),
        ("ProtectSystem=strict\nReadWritePaths=/srv", None),
        ("ProtectSystem=strict\nReadWritePaths=/srv/other", WRONG),
        ("ProtectSystem=full", None),
        ("MemoryDenyWriteExecute=yes", NOTE),
    ],
)
def test_a_data_directory_that_the_unit_closes(more: str, severity: Severity | None) -> None:
    unit = "[Service]\nExecStart=/opt/pgidle run -D /srv/pg --when-idle stay\nRestart=on-failure\nKillMode=mixed\n"
    found = said(systemd.examine("a.service", unit + more, Context(), Beside()))
    assert [one[0] for one in found] == ([severity] if severity else [])
    home = unit.replace("/srv/pg", "/home/x/pg") + "ProtectHome=yes\n"
    assert [one[0] for one in said(systemd.examine("a.service", home, Context(), Beside()))] == [WRONG]


@pytest.mark.parametrize(
    ("start", "severity", "what"),
    [
        ("/usr/bin/miniflux", UNKNOWN, "whether this unit has anything to do with Postgres"),
        ("/usr/bin/pg_receivewal -D /x", NOTE, "pg_receivewal stays connected"),
        ("/bin/patroni /etc/patroni.yml", WRONG, "Patroni runs Postgres here"),
        ("-/usr/bin/pg_ctlcluster --skip-systemctl-redirect %i start", WRONG, "does not start `pgidle run`"),
    ],
)
def test_units_that_are_not_pgidle_s(start: str, severity: Severity, what: str) -> None:
    (found,) = said(systemd.examine("a.service", f"[Service]\nExecStart={start}\n", Context(), Beside()))
    assert found[0] is severity
    assert what in found[1]
