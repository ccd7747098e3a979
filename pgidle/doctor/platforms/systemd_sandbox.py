"""What a unit's sandbox denies although pgidle or Postgres needs it: systemd.exec(5), "Sandboxing"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.doctor.readers.unit_file import split

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Told
    from pgidle.doctor.readers.unit_file import Unit


def _check_paths(chart: Chart, unit: Unit, told: Told) -> None:
    """Whether the data directory may be written: systemd.exec(5), "Sandboxing"."""
    if told.data_dir is None or not told.knows("data-dir"):
        return
    opened = [path.lstrip("-+") for one in unit.all("Service", "ReadWritePaths") for path in split(one.value)]
    opened += [
        f"/var/lib/{path}" for one in unit.all("Service", "StateDirectory") for path in split(one.value)
    ]
    if any(f"{told.data_dir}/".startswith(f"{path.rstrip('/')}/") for path in opened):
        return
    homes = ("/home/", "/root/", "/run/user/")
    home = unit.word("Service", "ProtectHome").lower()
    for key, is_closed in (
        ("ProtectSystem", unit.word("Service", "ProtectSystem").lower() == "strict"),
        ("ProtectHome", home not in ("", "no", "false", "0", "off") and told.data_dir.startswith(homes)),
    ):
        if is_closed:
            chart.wrong(
                f"{key}={unit.word('Service', key)}, and the data directory is {told.data_dir}",
                unit.where("Service", key),
                "nothing can be written there, so Postgres does not start",
                f"ReadWritePaths={told.data_dir}",
            )


def check_sandbox(chart: Chart, unit: Unit, told: Told) -> None:
    if unit.is_on("Service", "PrivateNetwork"):
        chart.wrong(
            "PrivateNetwork=yes",
            unit.where("Service", "PrivateNetwork"),
            "the service has a network namespace of its own, in which no client reaches what Postgres listens on",
            "no PrivateNetwork=",
        )
    _check_paths(chart, unit, told)
    if unit.is_on("Service", "MemoryDenyWriteExecute"):
        chart.note(
            "MemoryDenyWriteExecute=yes",
            unit.where("Service", "MemoryDenyWriteExecute"),
            "Postgres compiles parts of long queries (JIT), and those queries then fail",
            "jit = off in postgresql.conf",
        )
