"""Kubernetes: a StatefulSet of one pod that stays and wakes Postgres itself, and its Services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.init.plan import File, Plan, commented, render

if TYPE_CHECKING:
    from pgidle.init.choices import Choices


def plan(choices: Choices) -> Plan:
    values = {
        "name": choices.name,
        "image": choices.image,
        "port": choices.port,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "memory": f"{choices.memory}Mi",
        "shared_buffers": f"{choices.memory // 4}MB",
        "volume_size": f"{choices.volume_size}Gi",
    }
    steps = render("kubernetes/steps.txt", values)
    text = render("kubernetes/kubernetes.yaml", values | {"steps": commented(steps)})
    return Plan((File("kubernetes.yaml", text),), steps)
