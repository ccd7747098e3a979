"""Fly.io: a fly.toml for one machine behind a Flycast address. https://fly.io/docs/reference/configuration/"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.init.plan import File, Plan, commented, render

if TYPE_CHECKING:
    from pgidle.init.choices import Choices


def plan(choices: Choices) -> Plan:
    values = {
        "name": choices.name,
        "region": choices.region,
        "port": choices.port,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "memory": f"{choices.memory}mb",
        "shared_buffers": f"{choices.memory // 4}MB",
        "volume_size": f"{choices.volume_size}gb",
        "build": render("fly/image.toml" if choices.image else "fly/dockerfile.toml", {"image": choices.image}),
    }
    values["build"] = values["build"].rstrip()
    steps = render("fly/steps.txt", values)
    return Plan((File("fly.toml", render("fly/fly.toml", values | {"steps": commented(steps)})),), steps)
