"""Docker Compose: a service that stays and wakes Postgres itself. https://github.com/compose-spec/compose-spec"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.init.plan import render, with_steps

if TYPE_CHECKING:
    from pgidle.init.choices import Choices
    from pgidle.init.plan import Plan


def plan(choices: Choices, folder: str) -> Plan:
    """In a checkout of pgidle, Compose builds the image; elsewhere it is named, and has to be built before."""
    is_here = not choices.image and folder == "."
    image = choices.image or f"pgidle:{choices.major}"
    values = {
        "name": choices.name,
        "port": choices.port,
        "major": choices.major,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "image": image,
        "checkout": "# Do all of this in a checkout of pgidle, whose Dockerfile is built.\n"
        if is_here
        else "",
        "source": render("compose/build.yaml" if is_here else "compose/image.yaml", {"image": image}),
    }
    build = "" if is_here or choices.image else "compose/build.txt"
    return with_steps("compose/compose.yaml", "compose.yaml", values, "compose/steps.txt", build=build)
