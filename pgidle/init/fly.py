"""Fly.io: a fly.toml for one machine behind a Flycast address. https://fly.io/docs/reference/configuration/"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.init.plan import render, shared_buffers, with_steps

if TYPE_CHECKING:
    from pgidle.init.choices import Choices
    from pgidle.init.plan import Plan


def plan(choices: Choices) -> Plan:
    values = {
        "name": choices.name,
        "region": choices.region,
        "port": choices.port,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "memory": f"{choices.memory}mb",
        "shared_buffers": shared_buffers(choices, "fly/shared_buffers.toml"),
        "volume_size": f"{choices.volume_size}gb",
        "checkout": ""
        if choices.image
        else "# All of this in a checkout of pgidle, whose Dockerfile is built.\n",
        "build": render(
            "fly/image.toml" if choices.image else "fly/dockerfile.toml", {"image": choices.image}
        ),
    }
    return with_steps("fly/fly.toml", "fly.toml", values, "fly/steps.txt")
