"""The commands, as click understands them. `run` is usually read without it: see `arguments`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.cli.hold import hold_for
from pgidle.cli.usage import BEHIND, Group
from pgidle.control.client import TIMEOUT, NoAnswer, NotRunning, request
from pgidle.control.status import as_table, moment_text, sleep_text
from pgidle.history.sleeps import last_sleep
from pgidle.idle.reasons import duration_text
from pgidle.postgres.conninfo import harmless
from pgidle.run import boot
from pgidle.settings.load import Caller, read_file, read_settings
from pgidle.settings.options import OPTIONS, Kind, parse_duration
from pgidle.settings.settings import config_path, describe, resolve
from pgidle.system.log import one_line
from pgidle.system.state_directory import last_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.settings.options import Option

    Decorator = Callable[[Callable[..., None]], Callable[..., None]]

# What finds the supervisor. Nothing else that is set may keep a command from talking to it.
WHERE = ("data-dir", "state-dir", "config")
NOT_RUNNING = 3
SLEEP_TIMEOUT = 90.0
"""Seconds: more than the supervisor takes to decide, which is a checkpoint (a minute at most) and looks."""
LAST_STATES = ("leaving", "terminating")
"""A supervisor that has kept an order to sleep and says this is about to end."""
METAVARS = {Kind.ENDPOINT: "HOST:PORT", Kind.MANY: "FIELD=VALUE", Kind.NO_WAKE: "NETWORK|FOLDER"}


class _Command(click.Command):
    """A command whose faults are one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PgidleError as error:
            click.echo(one_line(f"pgidle: {error}"), err=True)
            ctx.exit(error.status)


class _TailCommand(_Command):
    """What follows `--` is another program's, and only that: a stray word before it is a mistake."""

    behind = "a program goes behind --"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = args[: args.index("--")] if "--" in args else args
        ctx.meta["tail"] = tuple(args[len(own) + 1 :])
        try:
            return super().parse_args(ctx, own)
        except click.UsageError as error:
            # An unknown option, or a word that is nobody's.
            if not isinstance(error, click.NoSuchOption) and type(error) is not click.UsageError:
                raise
            raise click.UsageError(
                f"{error.format_message().removesuffix('.')}; {self.behind}", ctx
            ) from None


class _RunCommand(_TailCommand):
    """What follows `--` is Postgres's."""

    behind = BEHIND


def _click_option(option: Option) -> Decorator:
    default = option.default or option.unset
    choices = "|".join(choice.value for choice in option.choices)
    variables = ", ".join((option.variable, *option.env))
    return click.option(
        f"--{option.name}",
        *option.flags,
        option.field,
        metavar=choices or METAVARS.get(option.kind, option.kind.name),
        multiple=option.is_repeatable,
        help=f"{option.help}  [{f'default: {default}; ' if default else ''}{variables}]",
    )


def _options(*names: str) -> Decorator:
    """Options of the settings table, all or some. The command gets one dictionary of what was given."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        chosen = [option for option in OPTIONS if not names or option.name in names]

        def command(**given: Any) -> None:
            options = {each.name: given.pop(each.field) for each in chosen}
            function({name: value for name, value in options.items() if value not in (None, ())}, **given)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(chosen):
            _click_option(option)(command)
        return command

    return decorate


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pgidle")
def cli() -> None:
    """Puts an idle PostgreSQL to sleep, and wakes it without anybody noticing."""


@cli.command(
    cls=_RunCommand,
    options_metavar="[OPTIONS] [-- POSTGRES_ARGUMENTS]",
    short_help="Run Postgres, put it to sleep, wake it.",
    epilog="For example: pgidle run -D /srv/pg --when-idle stay --idle-timeout 10min -- -c shared_buffers=64MB",
)
@_options()
def run(options: dict[str, Any]) -> None:
    """Run Postgres, put it to sleep when it is idle, wake it when somebody connects."""
    sys.exit(boot.run(options, click.get_current_context().meta["tail"]))


@cli.command(cls=_Command)
@_options(*WHERE)
@click.option("--json", "as_json", is_flag=True, help="for programs")
def status(options: dict[str, Any], as_json: bool) -> None:
    """Say what the supervisor does and why. Exit status 3 if none runs."""
    state_dir = _state_dir(options)
    try:
        _, body = request(state_dir, "GET", "/status")
    except NotRunning as error:
        found = last_sleep(state_dir)
        last = asdict(found) if found is not None else None
        failed = last_failure(state_dir)
        if as_json:
            failure = {"why": failed[1], "at": failed[0]} if failed is not None else None
            click.echo(json.dumps({"state": "not running", "failure": failure, "last_sleep": last}))
        else:
            slept = sleep_text(last) if last is not None else "none is on record"
            click.echo(one_line(error.message if last is not None else str(error)))
            if failed is not None:
                click.echo(one_line(f"failed: {moment_text(failed[0])}: {failed[1]}"))
            click.echo(f"last sleep: {one_line(slept)}")
        sys.exit(NOT_RUNNING)
    if as_json:
        click.echo(json.dumps(body))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        try:
            table = as_table(body, colour=colour)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise PgidleError(
                f"what answers at {state_dir} is no supervisor of this version", "see status --json"
            ) from None
        click.echo(table, nl=False)


@cli.command(cls=_Command, short_help="Say whether the supervisor lives, for probes.")
@_options(*WHERE)
def health(options: dict[str, Any]) -> None:
    """Exit status 0 while the supervisor lives and has not failed, else 1."""
    code, body = request(_state_dir(options), "GET", "/health")
    click.echo(one_line(str(body.get("state", body))))
    sys.exit(0 if code == 200 else 1)


def _wait(until: str) -> Decorator:
    text = f"return when {until}; with a time (30, 2min): exit status 1 if it is over before"
    return click.option("--wait", is_flag=False, flag_value="", metavar="[SECONDS]", help=text)


@cli.command(cls=_Command)
@_options(*WHERE)
@click.option("--force", is_flag=True, help="even if sessions are active: they are cut")
@_wait("Postgres sleeps, or pgidle has exited")
def sleep(options: dict[str, Any], force: bool, wait: str | None) -> None:
    """Put Postgres to sleep now, if nobody is active. Else exit status 1, and who is."""
    path = f"/sleep?force={int(force)}&wait={int(wait is not None)}"
    # What it takes to decide: a checkpoint, and two looks.
    click.echo(
        _order(options, path, SLEEP_TIMEOUT if wait is None else _patience(wait), is_waiting=wait is not None)
    )


@cli.command(cls=_Command)
@_options(*WHERE)
@_wait("Postgres accepts connections")
def wake(options: dict[str, Any], wait: str | None) -> None:
    """Wake Postgres, and count as a use."""
    path = f"/wake?wait={int(wait is not None)}"
    click.echo(
        _order(options, path, TIMEOUT if wait is None else _patience(wait), is_waiting=wait is not None)
    )


@cli.command(
    cls=_TailCommand,
    options_metavar="[OPTIONS] [DURATION] [-- PROGRAM [ARGUMENT]...]",
    short_help="Keep Postgres awake for a time, or while a program runs.",
    epilog="For example: pgidle hold 2h --why migration, or: pgidle hold --why backup -- pg_dump -h localhost",
)
@_options(*WHERE)
@click.argument("duration", required=False, metavar="")
@click.option("--why", default="", help="what status says about it")
def hold(options: dict[str, Any], duration: str | None, why: str) -> None:
    """Keep Postgres awake for a DURATION (5min, 2h), or for as long as a PROGRAM runs, or until the first of
    both ends. The program starts when Postgres accepts connections, and its exit status is the command's; where
    it cannot be started at all, that is 125, 126 or 127, as of env(1).
    """
    words = list(click.get_current_context().meta["tail"])
    if duration is None and not words:
        raise SettingsError(
            "hold: neither a time nor a program", "write pgidle hold 2h, or pgidle hold -- pg_dump"
        )
    given: dict[str, object] = {"why": one_line(why)}
    if duration is not None:
        if (seconds := parse_duration(duration)) <= 0:
            raise SettingsError(f"{duration!r} is no time to hold", "write 5min, 2h")
        given["seconds"] = seconds
    if words:
        hold_for(words, lambda program: _order(options, "/hold?" + urlencode(given | program), None))
    click.echo(_order(options, "/hold?" + urlencode(given)))


@cli.command(cls=_Command)
@_options(*WHERE)
@click.argument("number", required=False)
def release(options: dict[str, Any], number: str | None) -> None:
    """End one hold, by its number, or every hold."""
    click.echo(_order(options, "/release?" + urlencode({} if number is None else {"name": number})))


@cli.command(
    cls=_RunCommand,
    options_metavar="[OPTIONS] [-- POSTGRES_ARGUMENTS]",
    short_help="Say what run would go by, and where each value comes from.",
)
@_options()
@click.option("--json", "as_json", is_flag=True, help="for programs")
def config(options: dict[str, Any], as_json: bool) -> None:
    """Say what `run` would go by with the same options, and where each value comes from."""
    resolved = read_settings(options, click.get_current_context().meta["tail"])
    rows = [
        (name, value, resolved.sources[name].source.value, resolved.sources[name].name)
        for name, value in describe(resolved.settings, harmless)
    ]
    if as_json:
        keys = ("value", "source", "from")
        click.echo(json.dumps({row[0]: dict(zip(keys, row[1:], strict=True)) for row in rows}))
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source, where in (tuple(map(one_line, row)) for row in rows):
        origin = source if where == source else f"{source}: {where}"
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


@cli.command(cls=_Command, short_help="Write configuration for fly, systemd, compose, kubernetes.")
@click.argument("platform", type=click.Choice(["fly", "systemd", "compose", "kubernetes"]))
@click.option(
    "--name", "--app", metavar="NAME", help="of the app, the unit's instance, the service, the StatefulSet"
)
@click.option(
    "--port",
    "-p",
    metavar="PORT",
    help="that clients connect to; a cluster of Debian's keeps its own  [default: 5432]",
)
@click.option("--idle-timeout", metavar="DURATION", help="quiet time before sleep, or off  [default: 5min]")
@click.option(
    "--stop-timeout", metavar="DURATION", help="for a fast shutdown; kill timeouts follow  [default: 30s]"
)
@click.option("--memory", metavar="SIZE", help="[fly, kubernetes; default: 512MB]")
@click.option("--volume-size", metavar="SIZE", help="[fly, kubernetes; default: 1GB]")
@click.option("--region", metavar="REGION", help="[fly; default: iad]")
@click.option("--image", metavar="IMAGE", help="to run, instead of building one  [fly, compose, kubernetes]")
@click.option("--data-dir", "-D", metavar="PATH", help="[systemd; default: /var/lib/pgidle/NAME/data]")
@click.option(
    "--listen-addresses",
    metavar="ADDRESSES",
    help="by comma; a cluster of Debian's keeps its own  [systemd; default: localhost]",
)
@click.option("--dir", "folder", metavar="PATH", default=".", help="where to write  [default: here]")
@click.option("--force", is_flag=True, help="replace files that are there")
@click.option("--print", "is_printed", is_flag=True, help="print the files and write nothing")
def init(platform: str, folder: str, force: bool, is_printed: bool, **given: str | None) -> None:
    """Write the configuration that a PLATFORM needs, with comments, and say what comes next."""
    from pgidle.init.command import make_plan, print_plan, write_plan

    chosen = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
    plan = make_plan(platform, chosen, folder)
    click.echo(print_plan(plan) if is_printed else write_plan(plan, folder, force=force))


@cli.command(
    cls=_RunCommand,
    options_metavar="[OPTIONS] [FILE]... [-- POSTGRES_ARGUMENTS]",
    short_help="Say what is wrong with machine, configuration and files.",
)
@_options()
@click.option("--json", "as_json", is_flag=True, help="for programs")
@click.argument("files", nargs=-1, metavar="")
def doctor(options: dict[str, Any], files: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong with the machine that `run` would start on with the same options, with the
    configuration of Postgres, and with each FILE: a fly.toml, a systemd unit, a Compose file, a Kubernetes
    manifest. Exit status 1 if anything is.
    """
    # Nobody else needs them, and they are many.
    from pgidle.doctor import examine, printed
    from pgidle.doctor.finding import Severity

    charts = examine.examine(options, click.get_current_context().meta["tail"], files)
    if as_json:
        click.echo(json.dumps(printed.as_dict(charts)))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        click.echo(printed.as_text(charts, colour=colour), nl=False)
    sys.exit(1 if any(chart.count(Severity.WRONG) for chart in charts) else 0)


def _order(
    options: dict[str, Any], path: str, timeout: float | None = TIMEOUT, *, is_waiting: bool = False
) -> str:
    """Give an order: what is said of it when it was granted. Raises PgidleError where it was not."""
    state_dir = _state_dir(options)
    try:
        code, body = request(state_dir, "POST", path, timeout, until_gone=LAST_STATES if is_waiting else ())
    except NotRunning as error:
        if (found := last_sleep(state_dir)) is None:
            raise
        slept = f"{error.message}; it went to sleep at {moment_text(found.at)}"
        raise NotRunning(
            slept, "a client's connection through the platform, or pgidle run, starts it"
        ) from None
    except NoAnswer:
        if not is_waiting:
            raise
        _, now = request(state_dir, "GET", "/status")
        raise NoAnswer(f"{now['state']} still after {duration_text(timeout or 0.0)}: {now['why']}") from None
    if code != 200:
        said = body.get("message") or body.get("error") or f"the supervisor answered {code}"
        raise PgidleError(str(said))
    return one_line(str(body.get("message")))


def _patience(text: str) -> float | None:
    """Seconds that `--wait` says; None: for ever. Raises SettingsError."""
    if not text:
        return None
    seconds = parse_duration(f"{text}s" if text[-1:].isdigit() else text)
    if seconds <= 0:
        raise SettingsError(f"--wait: {text!r} is no time to wait", "write 30, 2min, or nothing")
    return seconds


def _state_dir(options: dict[str, Any]) -> str:
    """Where the supervisor's control socket is. Raises SettingsError."""
    where = {name for option in OPTIONS if option.name in WHERE for name in (option.variable, *option.env)}
    environ = {name: os.environ[name] for name in where & os.environ.keys()}
    cwd = str(Path.cwd())
    if given := options.get("state-dir") or environ.get("PGIDLE_STATE_DIR"):
        return str(Path(cwd, given))
    path, is_asked_for = config_path(options, environ, cwd)
    content = None
    try:
        content = read_file(path, options, Caller(os.geteuid(), os.getegid()), cwd) if path else None
        if content is None and is_asked_for:
            raise SettingsError(f"{path} is not there", "correct --config")
        if content is not None and path:
            content.refuse_unfit(path)
    except SettingsError as error:
        # The supervisor may well run on with what the file said before it was broken.
        click.echo(one_line(f"pgidle: {error} (not read)"), err=True)
        content = None
    keys = content.keys if content is not None else {}
    relevant = {key: value for key, value in keys.items() if key.replace("_", "-") in WHERE}
    return resolve(options, environ, relevant, path, cwd).settings.state_dir
