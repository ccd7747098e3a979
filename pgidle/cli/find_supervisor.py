"""How a command finds the supervisor: by its state directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from pgidle.base.errors import SettingsError
from pgidle.settings.load import counted, working_directory
from pgidle.settings.options import OPTIONS
from pgidle.settings.resolve import config_path, resolve
from pgidle.system.log import one_line

# The settings that locate the supervisor. A mistake in any other must not keep a command from reaching it.
WHERE = ("data-dir", "state-dir", "config")


def find_state_dir(options: dict[str, Any]) -> str:
    """Where the supervisor's control socket is. Raises SettingsError."""
    where = {name for option in OPTIONS if option.name in WHERE for name in (option.variable, *option.env)}
    environ = {name: os.environ[name] for name in where & os.environ.keys()}
    cwd = working_directory()
    if given := options.get("state-dir") or environ.get("PGIDLE_STATE_DIR"):
        return str(Path(cwd, given))
    path, _ = config_path(options, environ, cwd)
    try:
        content = counted(options, environ, cwd)
    except SettingsError as error:
        # A supervisor may still be running with the settings from before the file was broken.
        click.echo(one_line(f"pgidle: {error} (not read)"), err=True)
        content = None
    keys = content.keys if content is not None else {}
    relevant = {key: value for key, value in keys.items() if key.replace("_", "-") in WHERE}
    return resolve(options, environ, relevant, path, cwd).settings.state_dir
