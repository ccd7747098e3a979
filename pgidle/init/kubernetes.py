"""Kubernetes: a StatefulSet of one pod that stays and wakes Postgres itself, and its Services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.init.plan import shared_buffers, with_steps

if TYPE_CHECKING:
    from pgidle.init.choices import Choices
    from pgidle.init.plan import Plan


def plan(choices: Choices, _folder: str) -> Plan:
    # An image name without a registry is for a test cluster.
    deliver = (
        f"docker push {choices.image}"
        if "/" in choices.image
        else f"kind load docker-image {choices.image}   # minikube: minikube image load {choices.image}"
    )
    values = {
        "name": choices.name,
        "image": choices.image,
        "deliver": deliver,
        "port": choices.port,
        "major": choices.major,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "memory": f"{choices.memory}Mi",
        "shared_buffers": shared_buffers(choices, "kubernetes/shared_buffers.yaml"),
        "volume_size": f"{choices.volume_size}Gi",
    }
    return with_steps(
        "kubernetes/kubernetes.yaml",
        "kubernetes.yaml",
        values,
        "kubernetes/steps.txt",
        build="kubernetes/build.txt",
    )
