"""Settings: how the layers (command line, environment, file, defaults) are read, and which of them wins.

Nothing is looked up here: the caller passes the command line, the environment, the file's content and the
working directory. Durations are seconds. A bad value is a RefusedSetting, which carries where it came from.
"""

from __future__ import annotations

from pgidle.base.errors import SettingsError
from pgidle.base.record import Enum, record, replace
from pgidle.settings.options import (
    OPTIONS,
    PREFIX,
    Counts,
    Ignore,
    Kind,
    LogFormat,
    Option,
    Price,
    Tls,
    WhenIdle,
    absolute,
    printable,
    read_value,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from pgidle.settings.options import Options


OWN_FLAGS = {"-D": "--data-dir", "-p": "--port", "-k": "--socket-dir", "-h": "--listen-addresses"}
OWN_PARAMETERS = {
    "data_directory": "--data-dir",
    "port": "--port",
    "unix_socket_directories": "--socket-dir",
    "listen_addresses": "--listen-addresses",
}


class Source(Enum):
    OPTION = "option"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"
    POSTGRES_ARGUMENTS = "arguments of postgres"


@record
class Settings:
    """What pgidle does, every default filled in. None: `idle_timeout`, `http` and `on_event` are off, others found."""

    data_dir: str
    bin_dir: str | None
    listen_addresses: str
    port: int
    socket_dir: str | None
    idle_timeout: float | None
    min_awake: float
    when_idle: WhenIdle
    idle_sessions: Counts
    replication: Counts
    advisory_locks: Counts
    listeners: Counts
    autovacuum_limit: float
    ignore: tuple[Ignore, ...]
    no_wake: tuple[str, ...]
    http: tuple[str, int] | None
    state_dir: str
    user: str | None
    stop_timeout: float
    config: str | None
    watch: str | None
    tls: Tls
    on_event: str | None
    log_format: LogFormat
    price: Price | None
    postgres_args: tuple[str, ...] = ()


@record
class Origin:
    """Where a value came from: `name` is the flag, the variable or the file. `line` is that of a refused value in the
    file, counted from 1, where it could be found."""

    source: Source
    name: str
    line: int | None = None

    @property
    def where(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


class RefusedSetting(SettingsError):
    """A setting that pgidle refuses: `origin` says where it was given, `setting` is its name, and `reason` says what is
    wrong with it."""

    def __init__(self, origin: Origin, setting: str, reason: str, hint: str) -> None:
        super().__init__(f"{origin.where}: {reason}", hint)
        self.origin, self.setting, self.reason = origin, setting, reason

    def at_line(self, line: int | None) -> RefusedSetting:
        """The same error, with the setting's line in the file."""
        return RefusedSetting(replace(self.origin, line=line), self.setting, self.reason, self.hint)


@record
class Resolved:
    settings: Settings
    sources: Mapping[str, Origin]


def _value(option: Option, source: Source, raw: object, cwd: str) -> Any:
    """Read the value from one layer: the environment has only strings, TOML also arrays and numbers."""
    if option.is_repeatable:
        if isinstance(raw, str) and source is Source.ENVIRONMENT:
            raw = [entry for entry in raw.replace(";", ",").split(",") if entry.strip()]
        if not isinstance(raw, (list, tuple)) or not all(isinstance(entry, str) for entry in raw):
            example = "user=exporter" if option.kind is Kind.MANY else "10.0.0.0/8"
            raise SettingsError("an array of strings is expected", f'write ["{example}"]')
        return tuple(read_value(option, entry, cwd) for entry in raw)
    numeric = option.kind in (Kind.PORT, Kind.DURATION)
    if numeric and isinstance(raw, (int, float)) and abs(raw) < 2**63:  # all that TOML promises
        raw = str(raw)
    if not isinstance(raw, str):
        raise SettingsError(f"a string is expected, not {type(raw).__name__}", "write it in quotes")
    return read_value(option, raw, cwd)


def _unknown(origin: Origin, name: str, known: list[str]) -> RefusedSetting:
    import difflib

    prefix = PREFIX if known[0].startswith(PREFIX) else ""
    bare = [one.removeprefix(prefix) for one in known]
    said = (name.upper() if prefix else name.lower()).removeprefix(prefix)
    near = difflib.get_close_matches(said, bare, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
    what = "the variable" if prefix else repr(name)
    return RefusedSetting(origin, name, f"{what} is unknown", hint)


def _refuse_unknown(environ: Mapping[str, str], file: Mapping[str, object], file_name: str) -> None:
    variables = [option.variable for option in OPTIONS]
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in variables:
            raise _unknown(Origin(Source.ENVIRONMENT, variable), variable, variables)
    keys = [option.name for option in OPTIONS if option.name != "config"]
    said = [key.replace("_", "-") for key in file]
    for key, name in zip(file, said, strict=True):
        if name not in keys:
            raise _unknown(Origin(Source.FILE, file_name), key, keys)
        if said.count(name) > 1:
            reason = f"{name} is given twice"
            raise RefusedSetting(
                Origin(Source.FILE, file_name), name, reason, "write it once, with - or with _"
            )


def _said(
    option: Option, options: Options, environ: Mapping[str, str], file: Mapping[str, object], file_name: str
) -> Iterator[tuple[Origin, object]]:
    """Every value given for an option, the one that takes precedence first."""
    if (given := options.get(option.name, ())) != ():
        yield Origin(Source.OPTION, f"--{option.name}"), given
    own = option.variable in environ
    if own:
        yield Origin(Source.ENVIRONMENT, option.variable), environ[option.variable]
    for variable in option.env:
        # Shared with other programs, which treat empty as unset. Ignored if pgidle's own variable or option is given.
        if environ.get(variable) and given == () and not own:
            yield Origin(Source.ENVIRONMENT, variable), environ[variable]
    for key in {option.name, option.field} & file.keys():
        yield Origin(Source.FILE, file_name), file[key]


def resolve(
    options: Options,
    environ: Mapping[str, str],
    file: Mapping[str, object] | None,
    file_name: str | None,
    cwd: str,
    postgres_args: tuple[str, ...] = (),
) -> Resolved:
    """The effective settings, and where each came from.

    A bad value is an error even if another one takes precedence. `file_name` is where the file was looked for, whether
    it exists (`file`) or not.
    """
    path = absolute(cwd, file_name) if file_name else ""
    _refuse_own(postgres_args)
    _refuse_unknown(environ, file or {}, path)
    values: dict[str, Any] = {"postgres_args": postgres_args}
    sources: dict[str, Origin] = {}
    for option in OPTIONS:
        unset = () if option.is_repeatable else None
        values[option.field] = read_value(option, option.default, cwd) if option.default else unset
        sources[option.name] = Origin(Source.DEFAULT, "default")
        for origin, raw in _said(option, options, environ, file or {}, path):
            try:
                value = _value(option, origin.source, raw, cwd)
            except SettingsError as error:
                raise _refused(origin, option.name, error.message, error.hint) from None
            if sources[option.name].source is Source.DEFAULT:
                values[option.field], sources[option.name] = value, origin
    if values["data_dir"] is None:
        raise SettingsError("no data directory", "pass --data-dir, or set PGIDLE_DATA_DIR or PGDATA")
    if values["http"] and values["http"][1] == values["port"]:
        raise _shared_port(values["port"], sources)
    values["state_dir"] = values["state_dir"] or f"{values['data_dir']}/pgidle"
    values["config"] = path or values["config"]
    return Resolved(Settings(**values), sources)


def _refused(origin: Origin, setting: str, reason: str, hint: str) -> RefusedSetting:
    """A flag or a variable names its setting already; for a file the message has to."""
    named = f"{setting}: {reason}" if origin.source is Source.FILE else reason
    return RefusedSetting(origin, setting, named, hint)


def _shared_port(port: int, sources: Mapping[str, Origin]) -> RefusedSetting:
    if sources["port"].source is Source.DEFAULT:
        return _refused(sources["http"], "http", f"port {port} is Postgres's own", "choose another, or off")
    reason = f"health and status are served on port {port}"
    return _refused(sources["port"], "port", reason, "choose another, or set http")


def own_argument(words: Sequence[str]) -> tuple[str, Option] | None:
    """The first of Postgres's arguments that is pgidle's own to set, as written, and pgidle's option for it.

    Every option of pgidle's counts as one: Postgres would refuse it, too, but far less clearly.
    """
    waiting = iter(words)
    for word in waiting:
        own, said = OWN_FLAGS.get(word[:2]), word
        if word[:2] in ("-c", "--"):
            named = word[2:]
            if not named:
                named = next(waiting, "")
                said = f"{word} {named}"
            name = named.partition("=")[0].strip().replace("_", "-").lower()
            own = OWN_PARAMETERS.get(name.replace("-", "_"))
            if own is None and word.startswith("--"):
                own = f"--{name}"
        option = next((one for one in OPTIONS if own == f"--{one.name}"), None)
        if option is not None:
            return said, option
    return None


def _refuse_own(postgres_args: tuple[str, ...]) -> None:
    """Postgres must not be given directly what pgidle sets itself: the gate would be somewhere else."""
    if (found := own_argument(postgres_args)) is not None:
        said, option = found
        origin = Origin(Source.POSTGRES_ARGUMENTS, "after --")
        reason = f"{said} is pgidle's own to set"
        raise RefusedSetting(origin, option.name, reason, f"use --{option.name} before it")


def config_path(options: Options, environ: Mapping[str, str], cwd: str) -> tuple[str | None, bool]:
    """Where the settings file is looked for, and whether the user named it, so that it has to exist."""
    if asked := options.get("config") or environ.get("PGIDLE_CONFIG"):
        return absolute(cwd, str(asked)), True
    data_dir = options.get("data-dir") or environ.get("PGIDLE_DATA_DIR") or environ.get("PGDATA")
    return (absolute(cwd, f"{data_dir}/../pgidle.toml") if data_dir else None), False


def parse_file(content: bytes, file_name: str) -> dict[str, object]:
    """The keys of a settings file, with their values as TOML has them."""
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{file_name}: {error}", "correct the file, which is TOML") from None


def describe(settings: Settings, harmless: Callable[[str], str]) -> list[tuple[str, str]]:
    """Every option and its value as a person would write it; of a connection string, only what `harmless` leaves."""
    return [(option.name, printable(option, getattr(settings, option.field), harmless)) for option in OPTIONS]


def live_changes(old: Settings, new: Settings) -> tuple[Settings, tuple[str, ...]]:
    """`old` with the changes of `new` that apply while running, and the options that need a restart."""
    changed = [option for option in OPTIONS if getattr(old, option.field) != getattr(new, option.field)]
    applied = replace(old, **{option.field: getattr(new, option.field) for option in changed if option.live})
    return applied, tuple(option.name for option in changed if not option.live)
