"""fly.toml: when Fly starts the machine again, how long it lets it stop, and what a deploy expects of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.base.platform_limits import (
    FLY_DEPLOY_STRATEGIES,
    FLY_DEPLOY_WATCH,
    FLY_KILL_TIMEOUT,
    FLY_LONGEST_KILL_TIMEOUT,
    FLY_RESTART_POLICIES,
)
from pgidle.doctor.platforms.stop_time import check_kill_timeout, check_signal
from pgidle.doctor.readers.durations import go_duration, written
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Context, Told
    from pgidle.doctor.readers.tree import Node


def check_restart(chart: Chart, root: Node, told: Told) -> None:
    rows = root.list("restart")
    exits = told.settings.when_idle is WhenIdle.EXIT
    for row in rows:
        policy = row.word("policy") or ""
        node = row.at("policy") or row
        where = f"{chart.subject}:{node.line}"
        if policy == "always" and exits:
            chart.wrong(
                "restart policy is always",
                where,
                "the machine is restarted as soon as Postgres goes to sleep, and never stays stopped",
                'policy = "on-failure"',
            )
        elif policy and policy not in FLY_RESTART_POLICIES:
            chart.wrong(
                f"restart policy is {policy}", where, f"flyctl refuses it: it has {', '.join(FLY_RESTART_POLICIES)}",
                'policy = "on-failure"',
            )  # fmt: skip
        elif policy == "never":
            chart.wrong(
                f"restart policy is {policy}", where, "after a crash the machine stays down",
                'policy = "on-failure"',
            )  # fmt: skip
        else:
            chart.fine(f"restart policy {policy or 'on-failure'}")
    if not rows and exits:
        chart.note(
            "no restart policy is given",
            f"{chart.subject}:1",
            "fly deploy takes on-failure, but a machine made by fly machine run or fly postgres keeps always,"
            " which defeats sleeping",
            '[[restart]] policy = "on-failure"',
        )


def check_stop(chart: Chart, root: Node, told: Told, context: Context) -> None:
    if (signal := root.at("kill_signal")) is not None:
        check_signal(chart, "kill_signal", signal.text or "", f"{chart.subject}:{signal.line}")
    node = root.at("kill_timeout")
    where = f"{chart.subject}:{node.line if node is not None else 1}"
    seconds = FLY_KILL_TIMEOUT if node is None else go_duration(node.text or "")
    if seconds is None:
        chart.wrong(
            f"kill_timeout {node.text if node is not None else ''} is not a duration",
            where, "fly deploy refuses it", 'kill_timeout = "30s"',
        )  # fmt: skip
        return
    if seconds > FLY_LONGEST_KILL_TIMEOUT:
        chart.wrong(
            f"kill_timeout is {written(seconds)}", where,
            f"Fly allows {written(FLY_LONGEST_KILL_TIMEOUT)} at most", "kill_timeout = 300",
        )  # fmt: skip
        seconds = FLY_LONGEST_KILL_TIMEOUT
    longer = max(30, int(told.settings.stop_timeout + 5), int((context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        "kill_timeout",
        seconds,
        where,
        told,
        context,
        f'kill_timeout = "{min(longer, 300)}s"',
        is_given=node is not None,
    )
    if node is None and told.settings.stop_timeout < seconds:
        chart.note(
            "kill_timeout is not given, so it is 5 s",
            where,
            "a shutdown under load has to write a checkpoint, which may take longer; if it is cut short, Postgres"
            " has to recover at the next start",
            'kill_timeout = "30s", and PGIDLE_STOP_TIMEOUT = "25s" under [env]',
        )


def check_deploy(chart: Chart, root: Node, told: Told) -> None:
    settings = told.settings
    strategy = root.at("deploy", "strategy")
    if strategy is not None and strategy.text not in FLY_DEPLOY_STRATEGIES:
        chart.wrong(
            f"deploy strategy is {strategy.text}", f"{chart.subject}:{strategy.line}", "fly deploy refuses it",
            'strategy = "rolling"',
        )  # fmt: skip
    awake = max(settings.idle_timeout or 0.0, settings.min_awake)
    if settings.idle_timeout is not None and awake < FLY_DEPLOY_WATCH and settings.when_idle is WhenIdle.EXIT:
        node = root.at("env", "PGIDLE_IDLE_TIMEOUT")
        chart.note(
            f"Postgres may sleep {written(awake)} after waking",
            f"{chart.subject}:{node.line if node is not None else 1}",
            "fly deploy waits until the machine has started and its checks pass, and fails if the machine exits before"
            " that",
            'PGIDLE_MIN_AWAKE = "1min" under [env]',
        )
    if strategy is not None and strategy.text in ("canary", "bluegreen"):
        chart.wrong(
            f"deploy strategy is {strategy.text}",
            f"{chart.subject}:{strategy.line}",
            "it starts a second machine beside the first, and the two cannot share a volume",
            'strategy = "rolling"',
        )
