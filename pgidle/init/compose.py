"""Docker Compose: a service that stays and wakes Postgres itself. https://github.com/compose-spec/compose-spec"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.init.plan import File, Plan, commented, render

if TYPE_CHECKING:
    from pgidle.init.choices import Choices


def plan(choices: Choices) -> Plan:
    values = {
        "name": choices.name,
        "port": choices.port,
        "idle_timeout": choices.idle_timeout,
        "stop_timeout": choices.stop_timeout,
        "kill_timeout": choices.kill_timeout,
        "source": render("compose/image.yaml" if choices.image else "compose/build.yaml", {"image": choices.image}),
    }
    values["source"] = values["source"].rstrip()
    steps = render("compose/steps.txt", values)
    text = render("compose/compose.yaml", values | {"steps": commented(steps)})
    return Plan((File("compose.yaml", text),), steps)
