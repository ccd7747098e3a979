"""Docker Compose: a service that stays and wakes Postgres itself. https://github.com/compose-spec/compose-spec"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.init.plan import render, with_steps

if TYPE_CHECKING:
    from pgidle.init.choices import Choices
    from pgidle.init.plan import Plan


def plan(choices: Choices) -> Plan:
    values = {
        "name": choices.name,
        "port": choices.port,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "checkout": ""
        if choices.image
        else "# All of this in a checkout of pgidle, whose Dockerfile is built.\n",
        "source": render(
            "compose/image.yaml" if choices.image else "compose/build.yaml", {"image": choices.image}
        ),
    }
    return with_steps("compose/compose.yaml", "compose.yaml", values, "compose/steps.txt")
