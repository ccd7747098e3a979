"""The timer of contrib/systemd under the real systemd: metrics of a pgidle that runs, and of one that has exited."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.installations import Place

UNITS = Path(__file__).parents[2] / "contrib/systemd"
FOLDER = "/var/lib/prometheus/node-exporter"


def test_node_exporter_is_told_also_while_pgidle_has_exited(place: Place, instance) -> None:
    one = instance("told", idle_timeout="1min")
    units = place.folder("told")
    for path in UNITS.iterdir():
        text = path.read_text(encoding="utf-8")
        text = text.replace("ExecStart=pgidle ", f"ExecStart={sys.executable} -P -m pgidle ")
        (units / path.name).write_text(text.replace("/var/lib/pgidle/%i/data", str(one.data_dir)), "utf-8")
    one.machine.install(units)
    one.machine.run("mkdir", "-p", FOLDER)

    def told() -> str:
        one.machine.run("systemctl", "start", "pgidle-metrics@told.service", check=False)
        shown = one.machine.show("pgidle-metrics@told.service", "Result")
        assert shown == {"Result": "success"}, one.machine.journal("pgidle-metrics@told.service")
        return one.machine.run("cat", f"{FOLDER}/pgidle-told.prom")

    one.ask()
    assert 'pgidle_up{cluster="told"} 1\n' in told()
    assert one.force_sleep()
    one.wait_for("inactive")
    text = told()
    assert 'pgidle_up{cluster="told"} 0\n' in text
    assert 'pgidle_state{cluster="told",state="asleep"} 1\n' in text
    assert 'pgidle_sleeps_total{cluster="told"} 1\n' in text
    one.machine.run("systemctl", "start", "pgidle-metrics@told.timer")
    assert "pgidle-metrics@told.service" in one.machine.run("systemctl", "list-timers")
    assert one.machine.show(one.service, "ActiveState") == {"ActiveState": "inactive"}, "it was woken"
    one.check()
