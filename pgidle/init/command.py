"""What `pgidle init` does: read the options, fill in the templates, write the files, and print the next steps."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import Platform
from pgidle.init import compose, fly, kubernetes, systemd
from pgidle.init.choices import choose
from pgidle.init.write import write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.init.plan import Plan

PLANNERS = {
    Platform.FLY: fly.plan,
    Platform.COMPOSE: compose.plan,
    Platform.KUBERNETES: kubernetes.plan,
}


def make_plan(platform: str, given: Mapping[str, str], folder: str = ".") -> Plan:
    """The files and steps for a platform; `given` holds options by name, `folder` is where the files will be written.
    Raises SettingsError."""
    known = Platform(platform)
    if known is Platform.SYSTEMD:
        given = {**systemd.as_configured(given), **given}
    choices = choose(known, given)
    if known is Platform.SYSTEMD:
        return systemd.plan(choices)
    return PLANNERS[known](choices, folder)


def write_plan(plan: Plan, folder: str, *, force: bool) -> str:
    """Write the files; the answer says which, and what comes next. Raises PgidleError."""
    outcomes = write(plan.files, Path(folder), force=force)
    lines = [f"{outcome.value} {path}" for path, outcome in outcomes]
    build = [plan.build] if plan.build else []
    where = [f"cd {quote(folder)}"] if folder != "." and plan.is_run_there else []
    return "\n".join([*lines, "", "Next, in this order:", "", *build, *where, plan.steps])


def print_plan(plan: Plan) -> str:
    """The files themselves; where there are several, each under a comment with its path."""
    if len(plan.files) == 1:
        return plan.files[0].text.rstrip()
    return "\n\n".join(f"# {file.path}\n{file.text.rstrip()}" for file in plan.files)
