"""How a command finds the supervisor: by its state directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgidle.base.errors import SettingsError
from pgidle.settings.load import counted, working_directory
from pgidle.settings.options import OPTIONS
from pgidle.settings.resolve import config_path, resolve
from pgidle.system.log import one_line

if TYPE_CHECKING:
    from pgidle.settings.options import Price
    from pgidle.settings.resolve import Settings

# The settings that locate the supervisor. A mistake in any other must not keep a command from reaching it.
WHERE = ("data-dir", "state-dir", "config")


def find_state_dir(options: dict[str, Any]) -> str:
    """Where the supervisor's control socket is. Raises SettingsError."""
    if given := options.get("state-dir") or os.environ.get("PGIDLE_STATE_DIR"):
        return str(Path(working_directory(), given))
    return _resolved(options, WHERE).state_dir


def find_price(options: dict[str, Any]) -> Price | None:
    """What the machine costs, if an option, the environment or the settings file says so. Raises SettingsError."""
    data_dir = {"data-dir", "PGIDLE_DATA_DIR", "PGDATA"} & {*options, *os.environ}
    # The state directory alone may have been given: then it is not known where the settings file is.
    somewhere = {} if data_dir or options.get("config") else {"data-dir": "/"}
    return _resolved({**somewhere, **options}, (*WHERE, "price")).price


def _resolved(options: dict[str, Any], names: tuple[str, ...]) -> Settings:
    """The settings of these names; all others have their defaults."""
    variables = {name for one in OPTIONS if one.name in names for name in (one.variable, *one.env)}
    environ = {name: os.environ[name] for name in variables & os.environ.keys()}
    cwd = working_directory()
    path, _ = config_path(options, environ, cwd)
    try:
        content = counted(options, environ, cwd)
    except SettingsError as error:
        # A supervisor may still be running with the settings from before the file was broken.
        click.echo(one_line(f"pgidle: {error} (not read)"), err=True)
        content = None
    keys = content.keys if content is not None else {}
    relevant = {key: value for key, value in keys.items() if key.replace("_", "-") in names}
    return resolve(options, environ, relevant, path, cwd).settings
