"""A stop that goes past pgidle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.mistakes import UNKNOWN, WRONG, said
from harness.platform_files import pod
from pgidle.doctor import files
from pgidle.doctor.platforms import systemd
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.unit_file import Beside

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "stop",
    [
        "/usr/bin/pg_ctl -D /d -m fast stop",
        "-/usr/lib/postgresql/16/bin/pg_ctl stop -D ${PGDATA} -s -m fast",
        "pg_ctlcluster --skip-systemctl-redirect -m fast 15-main stop",
        "/bin/sh -c 'pg_ctl stop'",
        "/usr/bin/pkill -INT postgres",
    ],
)
def test_a_stop_of_postgres_s_own_is_no_stop(tmp_path: Path, stop: str) -> None:
    unit = "[Service]\nExecStart=/opt/pgidle run -D /d --when-idle stay\nRestart=on-failure\nKillMode=mixed\n"
    found = said(systemd.examine("a.service", f"{unit}ExecStop={stop}\n", Context(), Beside()))
    assert [one[0] for one in found] == [WRONG]
    assert "ExecStop= stops Postgres itself" in found[0][1]
    (tmp_path / "a.service").write_text(unit)
    (tmp_path / "a.service.d").mkdir()
    (tmp_path / "a.service.d/x.conf").write_text(f"[Service]\nExecStop={stop}\n")
    given = files.read(str(tmp_path / "a.service"))
    assert [one[0] for one in said(files.examine(given, Context(), [given]))] == [WRONG]
    more = f"lifecycle: {{preStop: {{exec: {{command: [sh, -c, {stop.lstrip('-')!r}]}}}}}}".replace(
        "\\'", "''"
    )
    if "'" not in stop:
        assert [one[0] for one in said(pod(more))] == [WRONG]


def test_a_stop_that_signals_pgidle_is_one() -> None:
    unit = "[Service]\nExecStart=/opt/pgidle run -D /d --when-idle stay\nRestart=on-failure\nKillMode=mixed\n"
    for stop, severities in (("/bin/kill -INT $MAINPID", []), ("/usr/local/bin/on-stop", [UNKNOWN])):
        found = said(systemd.examine("a.service", f"{unit}ExecStop={stop}\n", Context(), Beside()))
        assert [one[0] for one in found] == severities
