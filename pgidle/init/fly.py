"""Fly.io: a fly.toml for one machine behind a Flycast address. https://fly.io/docs/reference/configuration/"""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import FLY_DEPLOY_WATCH
from pgidle.init.choices import fly_size
from pgidle.init.plan import render, shared_buffers, with_steps
from pgidle.settings.options import parse_duration

if TYPE_CHECKING:
    from pgidle.init.choices import Choices
    from pgidle.init.plan import Plan


def plan(choices: Choices, folder: str) -> Plan:
    """Outside of a checkout, fly.toml names no Dockerfile: flyctl uses that of the folder in which it runs, which
    should be a checkout."""
    is_here = folder == "."
    build = "fly/image.toml" if choices.image else "fly/dockerfile.toml" if is_here else "fly/checkout.toml"
    values = {
        "name": choices.name,
        "region": choices.region,
        "port": choices.port,
        "major": choices.major,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "min_awake": render("fly/min_awake.toml", {}) + "\n" if _is_short(choices.idle_timeout) else "",
        "size": fly_size(choices.memory),
        "memory": f"{choices.memory}mb",
        "shared_buffers": shared_buffers(choices, "fly/shared_buffers.toml"),
        "volume_size": f"{choices.volume_size}gb",
        "config": quote("fly.toml" if is_here else f"{folder.rstrip('/')}/fly.toml"),
        "checkout": ""
        if choices.image
        else "# Do all of this in a checkout of pgidle, whose Dockerfile is built.\n",
        "build": render(build, {"image": choices.image}),
    }
    return with_steps("fly/fly.toml", "fly.toml", values, "fly/steps.txt", is_run_there=False)


def _is_short(idle_timeout: str) -> bool:
    """Whether a machine could be asleep before `fly deploy` has seen that it is healthy."""
    return idle_timeout != "off" and parse_duration(idle_timeout) < FLY_DEPLOY_WATCH
