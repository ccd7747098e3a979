"""The files given to the doctor: what kind each one is, judged by its content, and the files that belong to it."""

from __future__ import annotations

import os
import re
import select
import stat
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import SettingsError
from pgidle.base.platform_limits import Platform
from pgidle.doctor.platforms import compose, fly, kubernetes, systemd
from pgidle.doctor.readers.toml_tree import statements
from pgidle.doctor.readers.tree import BadFile, Node
from pgidle.doctor.readers.unit_file import Beside
from pgidle.system.trusted_path import read_regular

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Context

LARGEST = 256 * 1024
"""Bytes: no such file is longer, and the YAML reader takes a second for one of this size."""
PATIENCE = 30.0
"""Seconds without a byte after which a pipe is given up."""
KNOWN = "a fly.toml, a systemd unit, a Compose file or a Kubernetes manifest"
_HEADING = re.compile(r"^\s*\[+\s*(\w+)", re.MULTILINE)
_UNIT = re.compile(r"^\s*\[(Unit|Service|Socket|Install|Container|Pod|Kube)\]\s*$", re.MULTILINE)
_TEMPLATE = re.compile(r"\{\{[^}\n]*\}\}|<%|\{%")
_HELM = re.compile(r"\{\{-?\s*(?:\.(?:Values|Release|Chart)\b|include\s+\")|\{\{[^}\n]*\.Values\.")


@dataclass(frozen=True, slots=True)
class Given:
    """A file that has been read. `documents` are those of a YAML file."""

    path: str
    text: str
    kind: Platform
    documents: tuple[Node, ...] = ()


def read(path: str) -> Given:
    """Raises SettingsError if it is not a file, cannot be read, or is of no known kind."""
    try:
        content = _read_whole(path)
    except IsADirectoryError:
        raise SettingsError(f"{path} is a directory", "name the file in it") from None
    except TimeoutError:
        raise SettingsError(f"{path}: nothing came out of it for {PATIENCE:g} s", f"name {KNOWN}") from None
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


def _read_whole(path: str) -> bytes:
    """What is in a file, or comes out of a pipe, up to one byte more than is allowed. Raises OSError, and TimeoutError
    for a FIFO that nobody writes to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        content, end = b"", time.monotonic() + PATIENCE
        while len(content) <= LARGEST:
            # A FIFO reads as ended both before its first writer and after its last: poll(2) tells the two apart.
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                raise TimeoutError
            try:
                part = os.read(descriptor, LARGEST + 1 - len(content))
            except BlockingIOError:
                continue
            if not part:
                break
            content += part
            end = time.monotonic() + PATIENCE
        return content
    finally:
        os.close(descriptor)


def _recognise(path: str, text: str) -> Given:
    if _UNIT.search(text) is not None:
        return Given(path, text, Platform.SYSTEMD)
    keys = {one.key for one in statements(text) if not one.section} | set(_HEADING.findall(text))
    if len(keys & fly.MARKS) >= 2 or (keys & fly.MARKS and path.endswith(".toml")):
        return Given(path, text, Platform.FLY)
    broken: BadFile | None = None
    try:
        # Imported here because checking the machine needs no YAML.
        from pgidle.doctor.readers.yaml_tree import read_yaml

        documents = tuple(read_yaml(text))
    except BadFile as error:
        broken, documents = error, ()
    is_manifest = any(one.word("kind") and one.word("apiVersion") for one in documents)
    if is_manifest and _HELM.search(text) is None:
        return Given(path, text, Platform.KUBERNETES, documents)
    root = documents[0] if documents else None
    services = root.at("services") if root is not None else None
    if services is not None and services.table is not None:
        return Given(path, text, Platform.COMPOSE, documents)
    if _TEMPLATE.search(text) is not None:
        raise SettingsError(
            f"{path} is a template, and not yet a file of its kind",
            "fill it in first: helm template ... | pgidle doctor /dev/stdin",
        )
    if broken is not None and (
        re.search(r"^services:", text, re.MULTILINE) or path.endswith((".yml", ".yaml"))
    ):
        raise SettingsError(f"{path}:{broken.line} is not YAML: {broken.why}", "correct the line")
    if Path(path).name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf"):
        raise SettingsError(
            f"{path} is looked at together with its data directory",
            "pgidle doctor -D DATA_DIRECTORY; if its configuration is elsewhere, followed by -- -c config_file=PATH",
        )
    raise SettingsError(f"{path} is none of the files that pgidle knows", f"name {KNOWN}")


def examine(given: Given, context: Context, others: list[Given]) -> Chart:
    """The findings about one file; `others` were given on the same command line."""
    if given.kind in (Platform.FLY, Platform.COMPOSE):
        context = replace(context, dockerfile=_read_text(Path(given.path).with_name("Dockerfile")))
    if given.kind is Platform.FLY:
        names = fly.named_files(given.text)
        context = replace(
            context, beside={name: _read_text(Path(given.path).parent / name) for name in names}
        )
        return fly.examine(given.path, given.text, context)
    if given.kind is Platform.SYSTEMD:
        return _examine_unit(given, context, others)
    if given.kind is Platform.COMPOSE:
        names = compose.named_files(given.documents[0])
        context = replace(
            context, beside={name: _read_text(Path(given.path).parent / name) for name in names}
        )
        return compose.examine(given.path, given.documents[0], context)
    return kubernetes.examine(given.path, given.documents, context)


def _examine_unit(given: Given, context: Context, others: list[Given]) -> Chart:
    """Examine a unit together with its drop-ins, and a drop-in together with its unit."""
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
    texts = [text, *drop_ins.values()]
    environment = {name: content for each in texts for name, content in _environment_files(each).items()}
    found_beside = Beside(drop_ins, environment, socket, _started(main, text, others))
    chart = systemd.examine(main, text, context, found_beside)
    chart.subject = given.path
    return chart


def _started(main: str, text: str, others: list[Given]) -> str | None:
    """The text of the service that a socket unit starts, if it was given as well or lies beside it."""
    named = re.search(r"^\s*Service\s*=\s*(\S+)", text, re.MULTILINE)
    name = named[1] if named is not None else Path(main).name.replace(".socket", ".service")
    names = {name, re.sub(r"@[^.]*\.", "@.", name)}
    given = next((one.text for one in others if Path(one.path).name in names and one.path != main), None)
    return given or next(
        (found for one in names if (found := _read_text(Path(main).with_name(one))) is not None), None
    )


def _drop_ins(path: Path) -> dict[str, str]:
    folder = path.with_name(f"{path.name}.d")
    found = {str(folder / name): _read_text(folder / name) for name in sorted(_names_in(folder))}
    return {name: text for name, text in found.items() if text is not None and name.endswith(".conf")}


def _environment_files(text: str) -> dict[str, str | None]:
    """The contents of the files that EnvironmentFile= names: None for a missing file; an unreadable one is left out."""
    found: dict[str, str | None] = {}
    for name in re.findall(r"^\s*EnvironmentFile\s*=\s*-?(/\S+)", text, re.MULTILINE):
        content = _read_text(Path(name))
        if content is not None or not os.path.lexists(name):
            found[name] = content
    return found


def _read_text(path: Path) -> str | None:
    """The text of a file beside another; None if it cannot be read. Only regular files are opened."""
    try:
        # The user did not name this file, so never wait for it: it might be a FIFO.
        return read_regular(str(path))[:LARGEST].decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def _names_in(folder: Path) -> set[str]:
    try:
        return {one.name for one in folder.iterdir()}
    except OSError:
        return set()
