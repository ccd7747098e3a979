"""What `pgidle doctor` examines: the machine, if a data directory is named, and then each file that was given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgidle.base.errors import SettingsError
from pgidle.doctor import files
from pgidle.doctor.finding import MACHINE, Chart
from pgidle.doctor.machine import this_machine
from pgidle.doctor.readers.stated_settings import Context
from pgidle.history.sleeps import last_sleep
from pgidle.settings.load import read_settings
from pgidle.settings.options import OPTIONS
from pgidle.settings.resolve import RefusedSetting, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.settings.options import Options


def examine(options: Options, postgres_args: Sequence[str], paths: Sequence[str]) -> list[Chart]:
    """Examine everything. Raises SettingsError for wrong usage: a bad option, or a file of an unknown kind."""
    given = [files.read(path) for path in paths]
    charts, shutdown = _examine_machine(options, tuple(postgres_args), is_alone=not given)
    context = Context(_as_variables(options), shutdown)
    return [*charts, *(files.examine(one, context, given) for one in given)]


def _examine_machine(
    options: Options, postgres_args: tuple[str, ...], *, is_alone: bool
) -> tuple[list[Chart], float | None]:
    """The charts, and how many seconds the last shutdown took here (None if none was measured)."""
    named = {"data-dir", "config"} & options.keys()
    variables = {"PGIDLE_DATA_DIR", "PGDATA", "PGIDLE_CONFIG"} & os.environ.keys()
    chart = Chart(MACHINE)
    if not named and not variables:
        if is_alone:
            raise SettingsError("nothing to look at", "name the data directory with -D, or a file, or both")
        return [], None
    try:
        settings = read_settings(options, postgres_args).settings
    except SettingsError as error:
        what, where = error.message, "settings"
        if isinstance(error, RefusedSetting):
            if error.origin.source in (Source.OPTION, Source.POSTGRES_ARGUMENTS):
                raise
            what, where = error.reason, error.origin.where
        chart.wrong(what, where, "`pgidle run` refuses to start", error.hint or "correct the setting")
        return [chart], None
    last = last_sleep(settings.state_dir)
    shutdown = last.seconds if last is not None else None
    return this_machine.examine(settings, os.environ, shutdown), shutdown


def _as_variables(options: Options) -> dict[str, str]:
    said = {option.variable: options[option.name] for option in OPTIONS if option.name in options}
    return {name: value if isinstance(value, str) else ",".join(value) for name, value in said.items()}
