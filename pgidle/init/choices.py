"""The options of `pgidle init` for each platform, their defaults, and how their values are read.

Sizes are megabytes (memory) and gigabytes (volumes), durations seconds. A bad value is a SettingsError.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pgidle.base.errors import SettingsError
from pgidle.base.platform_limits import (
    BUILT_MAJOR,
    FLY_CPUS,
    FLY_LARGEST_VOLUME,
    FLY_LEAST_MEMORY,
    FLY_LONGEST_KILL_TIMEOUT,
    FLY_MEMORY_STEP,
    FLY_MOST_MEMORY,
    Platform,
    image_major,
)
from pgidle.settings.options import OPTIONS, format_duration, parse_duration, read_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Value = TypeVar("Value")

HTTP_PORT = 8008
YAML_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""Not strings in YAML 1.1 or 1.2: `name: null` gives no name."""
DATA_DIR = "/var/lib/pgidle/{name}/data"
"""The data directory of a systemd instance; pgidle.toml is looked for in the folder above."""
STOP_MARGIN = 10
"""Seconds from pgidle's immediate shutdown to the platform's SIGKILL. Postgres itself gives its processes five to obey
an immediate shutdown (SIGKILL_CHILDREN_AFTER_SECS in postmaster.c)."""
LONGEST_KILL_TIMEOUT = {Platform.FLY: int(FLY_LONGEST_KILL_TIMEOUT)}
SMALLEST_MEMORY = 256
"""Megabytes: less than this is too little for Postgres and pgidle."""

# None: no default. stop-timeout: pgidle's own default of 4 s is meant for a kill timeout of 5 s, which does not apply
# here, and a checkpoint may take longer.
_COMMON = {"port": "5432", "idle-timeout": "5min", "stop-timeout": "30s"}
DEFAULTS: Mapping[Platform, Mapping[str, str | None]] = {
    Platform.FLY: {
        **{"name": "pgidle-db", "image": None, "region": "iad", "memory": "512MB", "volume-size": "1GB"},
        **_COMMON,
    },
    Platform.SYSTEMD: {"name": None, "data-dir": None, "listen-addresses": "localhost", **_COMMON},
    Platform.COMPOSE: {"name": "postgres", "image": None, **_COMMON},
    Platform.KUBERNETES: {
        **{"name": "postgres", "image": "pgidle:18", "memory": "512MB", "volume-size": "1GB"},
        **_COMMON,
    },
}


@dataclass(frozen=True, slots=True)
class Choices:
    """Everything chosen for one platform; empty or 0 where nothing was asked for, or the platform has no such option.

    `major` is the version of the image's PostgreSQL, from the image's name, or the one that pgidle's Dockerfile uses.
    """

    name: str
    port: int
    idle_timeout: str
    stop_timeout: str
    kill_timeout: int
    image: str
    major: int
    region: str
    memory: int
    volume_size: int
    data_dir: str
    listen_addresses: str


def choose(platform: Platform, given: Mapping[str, str]) -> Choices:
    """Read the given options and fill in the defaults of the others. Raises SettingsError."""
    known = DEFAULTS[platform]
    for option in given:
        if option not in known:
            raise SettingsError(f"--{option} is not for {platform.value}", f"it takes {_named(known)}")
    said = {option: text for option, text in {**known, **given}.items() if text is not None}
    stop_timeout = _read(said, "stop-timeout", parse_duration, 0.0)
    kill_timeout = math.ceil(stop_timeout) + STOP_MARGIN
    longest = LONGEST_KILL_TIMEOUT.get(platform, kill_timeout)
    if kill_timeout > longest:
        raise SettingsError(
            f"--stop-timeout: {platform.value} kills after {longest} s at the latest",
            f"write at most {longest - STOP_MARGIN}s",
        )
    port = _read(said, "port", _port, 0)
    if port == HTTP_PORT and platform is not Platform.COMPOSE:
        raise SettingsError(f"--port: health is served on {HTTP_PORT}", "choose another")
    name = _read(said, "name", _name, "")
    is_fly = platform is Platform.FLY
    image = _read(said, "image", _image, "")
    return Choices(
        name=name,
        port=port,
        idle_timeout=_read(said, "idle-timeout", _idle_timeout, ""),
        stop_timeout=format_duration(stop_timeout),
        kill_timeout=kill_timeout,
        image=image,
        major=image_major(image) or BUILT_MAJOR,
        region=_read(said, "region", _region, ""),
        memory=_read(said, "memory", _fly_memory if is_fly else _memory, 0),
        volume_size=_read(said, "volume-size", _fly_volume_size if is_fly else _volume_size, 0),
        data_dir=_read(said, "data-dir", _data_dir, DATA_DIR.format(name=name or "main")),
        listen_addresses=_read(said, "listen-addresses", _listen_addresses, ""),
    )


def _read(said: Mapping[str, str], option: str, reader: Callable[[str], Value], unsaid: Value) -> Value:
    if option not in said:
        return unsaid
    try:
        return reader(said[option])
    except SettingsError as error:
        raise SettingsError(f"--{option}: {error.message}", error.hint) from None


def _named(options: Mapping[str, object]) -> str:
    return ", ".join(f"--{option}" for option in sorted(options))


def _setting(name: str, text: str) -> object:
    """Read as `pgidle run` would, so that what is written here is accepted there."""
    option = next(option for option in OPTIONS if option.name == name)
    return read_value(option, text, "/")


def _port(text: str) -> int:
    _setting("port", text)
    return int(text)


def _idle_timeout(text: str) -> str:
    _setting("idle-timeout", text)
    return text if text == "off" else format_duration(parse_duration(text))


def _data_dir(text: str) -> str:
    if not re.fullmatch(r"/[\w./+-]*\w", text, re.ASCII):
        raise SettingsError(f"{text!r} is not a plain absolute path", "write it from / on, without spaces")
    return text


def _listen_addresses(text: str) -> str:
    return str(_setting("listen-addresses", text))


def _name(text: str) -> str:
    # What Fly, DNS and Kubernetes all accept. 52: a StatefulSet's pods get a label of its name and ten more characters.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", text):
        raise SettingsError(
            f"{text!r} is not a name", "write a letter, then letters, digits and -, all lower case"
        )
    if text in YAML_WORDS:
        raise SettingsError(f"{text!r} is a value in YAML, not a name", "write another, or a longer one")
    return text


def _image(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][\w./:@-]*\w", text, re.ASCII):
        raise SettingsError(
            f"{text!r} is not an image", "write it as in docker pull: registry.example.com/pgidle:18"
        )
    return text


def _region(text: str) -> str:
    if not re.fullmatch(r"[a-z]{3}", text):
        raise SettingsError(
            f"{text!r} is not a region", "write three letters; `fly platform regions` lists them"
        )
    return text


def _memory(text: str) -> int:
    size = _megabytes(text)
    if size < SMALLEST_MEMORY:
        raise SettingsError(f"{text!r} is too little", f"write at least {SMALLEST_MEMORY}MB")
    return size


def _fly_memory(text: str) -> int:
    size = _memory(text)
    step, most = FLY_MEMORY_STEP["shared"], FLY_MOST_MEMORY["shared"] * max(FLY_CPUS["shared"])
    if size > most:
        raise SettingsError(
            f"{text!r} is more than a machine with shared CPUs has", f"write at most {most // 1024}GB"
        )
    if size % step:
        below = size // step * step
        raise SettingsError(
            f"{text!r} is not a memory size of Fly's, which go in steps of {step} MB",
            f"write {below}MB or {below + step}MB",
        )
    fly_size(size)
    return size


def fly_size(memory: int) -> str:
    """The smallest machine size that may have that many megabytes. Raises SettingsError."""
    for cpus in FLY_CPUS["shared"]:
        if FLY_LEAST_MEMORY["shared"] * cpus <= memory <= FLY_MOST_MEMORY["shared"] * cpus:
            return f"shared-cpu-{cpus}x"
    raise SettingsError(f"Fly has no machine with {memory} MB", "write 512MB, 2GB")


def _fly_volume_size(text: str) -> int:
    size = _volume_size(text)
    if size > FLY_LARGEST_VOLUME:
        raise SettingsError(f"{text!r} is more than a volume has", f"write at most {FLY_LARGEST_VOLUME}GB")
    return size


def _volume_size(text: str) -> int:
    size, rest = divmod(_megabytes(text), 1024)
    if rest or not size:
        raise SettingsError(f"{text!r} is not a volume's size", "write whole gigabytes: 1GB, 10GB")
    return size


def _megabytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})(MB|GB)", text.upper())
    if found is None:
        raise SettingsError(f"{text!r} is not a size", "write 512MB, 1GB")
    return int(found[1]) * (1024 if found[2] == "GB" else 1)
