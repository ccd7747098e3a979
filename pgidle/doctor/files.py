"""The files that the doctor is given: which kind each is, by what is in it, and what belongs to it beside it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.doctor import compose, fly, kubernetes, units
from pgidle.doctor.toml_tree import statements
from pgidle.doctor.tree import BadFile, Node
from pgidle.errors import SettingsError
from pgidle.trusted_path import read_regular

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.told import Context

LARGEST = 256 * 1024
"""Bytes: no such file is longer, and the YAML reader takes a second for as much."""
KNOWN = "a fly.toml, a systemd unit, a Compose file or a Kubernetes manifest"
_HEADING = re.compile(r"^\s*\[+\s*(\w+)", re.MULTILINE)
_UNIT = re.compile(r"^\s*\[(Unit|Service|Socket|Install)\]\s*$", re.MULTILINE)


class Kind(Enum):
    FLY = "fly.toml"
    UNIT = "unit"
    COMPOSE = "Compose file"
    KUBERNETES = "Kubernetes manifest"


@dataclass(frozen=True, slots=True)
class Given:
    """A file, read. `documents` are a YAML file's."""

    path: str
    text: str
    kind: Kind
    documents: tuple[Node, ...] = ()


def read(path: str) -> Given:
    """Raises SettingsError for what is no file, cannot be read, or is of no kind that is known."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except IsADirectoryError:
        raise SettingsError(f"{path} is a directory", "name the file in it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise SettingsError(f"{path} cannot be read: {reason}", f"name {KNOWN}") from None
    if len(content) > LARGEST:
        raise SettingsError(f"{path} is larger than {LARGEST // 1024} kB", f"name {KNOWN}")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise SettingsError(f"{path} is not text", f"name {KNOWN}")
    if not text.strip():
        raise SettingsError(f"{path} is empty", f"name {KNOWN}")
    return _recognise(path, text)


def _recognise(path: str, text: str) -> Given:
    if _UNIT.search(text) is not None:
        return Given(path, text, Kind.UNIT)
    keys = {one.key for one in statements(text) if not one.section} | set(_HEADING.findall(text))
    if len(keys & fly.MARKS) >= 2 or (keys & fly.MARKS and path.endswith(".toml")):
        return Given(path, text, Kind.FLY)
    broken: BadFile | None = None
    try:
        # Imported here: a machine's own check needs no YAML.
        from pgidle.doctor.yaml_tree import read_yaml

        documents = tuple(read_yaml(text))
    except BadFile as error:
        broken, documents = error, ()
    if any(one.word("kind") and one.word("apiVersion") for one in documents):
        return Given(path, text, Kind.KUBERNETES, documents)
    root = documents[0] if documents else None
    services = root.at("services") if root is not None else None
    if services is not None and services.table is not None:
        return Given(path, text, Kind.COMPOSE, documents)
    if broken is not None and (
        re.search(r"^services:", text, re.MULTILINE) or path.endswith((".yml", ".yaml"))
    ):
        raise SettingsError(f"{path}:{broken.line} is not YAML: {broken.why}", "correct the line")
    raise SettingsError(f"{path} is none of the files that pgidle knows", f"name {KNOWN}")


def examine(given: Given, context: Context, others: list[Given]) -> Chart:
    """What there is to say about a file; `others` were given with it."""
    if given.kind in (Kind.FLY, Kind.COMPOSE):
        context = replace(context, dockerfile=_read_text(Path(given.path).with_name("Dockerfile")))
    if given.kind is Kind.FLY:
        return fly.examine(given.path, given.text, context)
    if given.kind is Kind.UNIT:
        return _examine_unit(given, context, others)
    if given.kind is Kind.COMPOSE:
        return compose.examine(given.path, given.documents[0], context)
    return kubernetes.examine(given.path, given.documents, context)


def _examine_unit(given: Given, context: Context, others: list[Given]) -> Chart:
    """A unit with its drop-ins; a drop-in with its unit."""
    path = Path(given.path)
    main, text, drop_ins = given.path, given.text, _drop_ins(path)
    if path.suffix == ".conf" and path.parent.name.endswith((".service.d", ".socket.d")):
        name = path.parent.name.removesuffix(".d")
        for candidate in (name, re.sub(r"@[^.]*\.", "@.", name)):
            unit = path.parent.parent / candidate
            if (found := _read_text(unit)) is not None:
                main, text, drop_ins = str(path.parent.parent / name), found, {given.path: given.text}
                break
    own = f"{Path(main).name.removesuffix('.service')}.socket"
    beside = {Path(one.path).name for one in others} | _names_in(Path(main).parent)
    socket = next((one for one in (own, re.sub(r"@[^.]*\.", "@.", own)) if one in beside), None)
    chart = units.examine(main, text, context, units.Beside(drop_ins, _environment_files(text), socket))
    chart.subject = given.path
    return chart


def _drop_ins(path: Path) -> dict[str, str]:
    folder = path.with_name(f"{path.name}.d")
    found = {str(folder / name): _read_text(folder / name) for name in sorted(_names_in(folder))}
    return {name: text for name, text in found.items() if text is not None and name.endswith(".conf")}


def _environment_files(text: str) -> dict[str, str | None]:
    """Contents of the files that EnvironmentFile= names, None for one that is not there; absent: cannot be read."""
    found: dict[str, str | None] = {}
    for name in re.findall(r"^\s*EnvironmentFile\s*=\s*-?(/\S+)", text, re.MULTILINE):
        content = _read_text(Path(name))
        if content is not None or not os.path.lexists(name):
            found[name] = content
    return found


def _read_text(path: Path) -> str | None:
    try:
        # Not named by who asks but found beside it: whatever else lies there is not waited for.
        return read_regular(str(path))[:LARGEST].decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def _names_in(folder: Path) -> set[str]:
    try:
        return {one.name for one in folder.iterdir()}
    except OSError:
        return set()
