"""Kubernetes: what is around a manifest, and its own ways of losing data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, of_compose, of_kubernetes, said
from harness.platform_files import POD, SERVICE
from pgidle.base.errors import SettingsError
from pgidle.doctor import files

if TYPE_CHECKING:
    from pathlib import Path

    from pgidle.doctor.finding import Severity


def test_lists_and_templates_are_taken_apart() -> None:
    inner = {"List": "items", "Template": "objects"}
    mounts = "volumeMounts: [{name: x, mountPath: /var/lib/postgresql}]"
    one = f"{{apiVersion: v1, kind: Pod, spec: {{containers: [{{image: pgidle:18, {mounts}}}]}}}}"
    for kind, key in inner.items():
        chart = of_kubernetes(f"apiVersion: v1\nkind: {kind}\n{key}: [{one}]\n")
        assert [what for _, what in said(chart)] == ["when-idle is exit, in a Pod with restartPolicy Always"]
    template = "{spec: {containers: [{image: pgidle}]}}"
    job = f"apiVersion: batch/v1\nkind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {template}}}}}}}\n"
    assert "when-idle is exit, in a CronJob" in str(said(of_kubernetes(job)))


@pytest.mark.parametrize(
    ("head", "severity", "what"),
    [
        (
            "apiVersion: postgresql.cnpg.io/v1\nkind: Cluster",
            WRONG,
            "an operator runs Postgres here: Cluster x",
        ),
        ("apiVersion: acid.zalan.do/v1\nkind: postgresql", WRONG, "an operator runs Postgres here"),
        ("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease", UNKNOWN, "what HelmRelease x makes"),
        ("apiVersion: argoproj.io/v1alpha1\nkind: Application", UNKNOWN, "what Application x makes"),
        ("apiVersion: v1\nkind: ConfigMap", UNKNOWN, "which container runs Postgres"),
    ],
)
def test_kinds_that_only_stand_for_a_postgres(head: str, severity: Severity, what: str) -> None:
    (found,) = said(of_kubernetes(f"{head}\nmetadata: {{name: x}}\n"))
    assert found[0] is severity
    assert what in found[1]


@pytest.mark.parametrize(
    "text",
    [
        "kind: Pod\nspec: {{ .Values.x }}\n",
        "{{- if .a }}\nkind: Pod\n{{ end }}\n",
        "services:\n  db: {% if x %}\n",
    ],
)
def test_a_template_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SettingsError, match="is a template"):
        files.read(str(tmp_path / "x.yaml"))


def test_a_deployment_starts_a_second_pod_beside_the_first() -> None:
    text = POD.format(more="", beside="").replace("kind: StatefulSet", "kind: Deployment")
    assert said(of_kubernetes(text)) == [
        (WRONG, "the strategy of the Deployment is RollingUpdate, the default")
    ]
    for strategy, wrong in (("{type: Recreate}", 0), ("{type: RollingUpdate, rollingUpdate: {maxSurge: 0}}", 0),
                            ("{rollingUpdate: {maxSurge: 1}}", 1)):  # fmt: skip
        chart = of_kubernetes(text.replace("  template:", f"  strategy: {strategy}\n  template:", 1))
        assert len(said(chart)) == wrong


def test_a_volume_s_root_is_no_data_directory() -> None:
    text = POD.format(more="", beside="").replace("pgidle:18", "pgidle:16")
    old = text.replace("/var/lib/postgresql}", "/var/lib/postgresql/data}")
    assert [one[0] for one in said(of_kubernetes(old))] == [NOTE, NOTE]
    sub_path = old.replace("/postgresql/data}", "/postgresql/data, subPath: x}")
    assert [one[0] for one in said(of_kubernetes(sub_path))] == [NOTE]


def test_of_what_does_not_start_pgidle_nothing_more_is_said() -> None:
    text = SERVICE.format(image="pgidle:18", volume="x:/y", more="").replace("PGIDLE_WHEN_IDLE: stay", "A: b")
    assert [one[0] for one in said(of_compose(f"{text}    command: [sh, -c, etcd]\n"))] == [UNKNOWN]
