"""What contrib/ has for Prometheus, Grafana and systemd, judged by their own programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.promtool import promtool

CONTRIB = Path(__file__).parents[2] / "contrib"
DASHBOARD = json.loads((CONTRIB / "grafana-dashboard.json").read_text(encoding="utf-8"))
VARIABLES = {"$job": ".*", "$instance": ".*", "$cluster": ".*", "$__range": "1d"}


def test_prometheus_takes_the_alerts() -> None:
    assert promtool("check", "rules", CONTRIB / "alerts.yml") == ""
    assert promtool("test", "rules", CONTRIB / "alerts_test.yml") == ""


def test_every_alert_is_seen_to_be_raised_and_not_to_be() -> None:
    groups = yaml.safe_load((CONTRIB / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    tests = yaml.safe_load((CONTRIB / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    seen = [one for test in tests for one in test["alert_rule_test"]]
    assert {one["alertname"] for one in seen if one.get("exp_alerts")} == alerts
    assert {one["alertname"] for one in seen if not one.get("exp_alerts")} == alerts


def targets() -> list[dict[str, Any]]:
    return [target for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_prometheus_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = []
    for number, target in enumerate(targets()):
        query = target["expr"]
        for name, value in VARIABLES.items():
            query = query.replace(name, value)
        assert "$" not in query
        rules.append({"record": f"query:{number}", "expr": query})
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert promtool("check", "rules", path) == ""


def test_every_panel_asks_the_chosen_source_about_the_chosen_databases() -> None:
    for target in targets():
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        selectors = re.findall(r"pgidle_\w+(\{[^}]*\})?", target["expr"])
        assert selectors
        chosen = 'job=~"$job", instance=~"$instance", cluster=~"$cluster"'
        assert all(chosen in one for one in selectors), target["expr"]
    variables = {one["name"]: one["type"] for one in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query", "instance": "query", "cluster": "query"}


def test_the_panels_fill_the_dashboard_and_do_not_overlap() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert len(cells) == 24 * (1 + max(y for _, y in cells))


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (apt-get install systemd)"
)
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in CONTRIB.glob("systemd/*"):
        # Its own folders of programs need not have pgidle.
        text = path.read_text(encoding="utf-8").replace("ExecStart=pgidle ", "ExecStart=/bin/echo ")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            *("systemd-analyze", "verify", "--man=no"),
            *("pgidle-metrics@shop.timer", "pgidle-metrics@shop.service"),
        ],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:/usr/lib/systemd/system"},
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "pgidle" in line]
    assert (done.returncode, ours) == (0, [])
