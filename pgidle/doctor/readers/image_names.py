"""What an image's name and its Dockerfile reveal: whether pgidle is in it, and which PostgreSQL."""

from __future__ import annotations

import re
from enum import Enum
from posixpath import normpath
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import image_major, image_name

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Context
    from pgidle.doctor.readers.tree import Node

SERVERS = re.compile(r"(?:postgres|postgresql|pgvector|postgis|timescaledb|spilo|paradedb|citus|pgvecto)\d*")
"""How the names of images with a PostgreSQL server begin."""
OTHERS = frozenset(
    {
        *("exporter", "backup", "backups", "client", "operator", "meta", "rest", "proxy", "bouncer"),
        *("pgbouncer", "dump", "restore", "migrate", "migrations", "migrator", "migration", "mcp", "s3"),
        *("admin", "ui", "web", "tools", "utils", "init", "test", "tests", "adminer", "monitor", "watcher"),
        *("upgrade", "sync", "job", "seed", "seeder", "setup", "cleaner", "cron"),
    }
)
"""Words in the names of images that have to do with PostgreSQL but contain no server."""
_BASE = re.compile(r"^\s*ARG\s+(\w+)=(\S+)", re.MULTILINE | re.IGNORECASE)
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.MULTILINE | re.IGNORECASE)
_PROGRAM = re.compile(r"^(?!\s*#).*\bpgidle\b", re.MULTILINE)


class Contents(Enum):
    """What is in an image, as far as its name says."""

    PGIDLE = "pgidle"
    POSTGRES = "PostgreSQL without pgidle"
    OTHER = "not known"


def contents(image: str) -> Contents:
    if "pgidle" in image:
        return Contents.PGIDLE
    words = re.split(r"[-_.]", image_name(image)[0].lower())
    if SERVERS.fullmatch(words[0]) is not None and not OTHERS & set(words):
        return Contents.POSTGRES
    return Contents.OTHER


def check_named(chart: Chart, image: Node | None) -> None:
    """Check the image of a container that has pgidle's settings: any image may contain pgidle but PostgreSQL's own."""
    if image is not None and image.text and contents(image.text) is Contents.POSTGRES:
        chart.wrong(
            f"pgidle is not in the image {image.text}",
            f"{chart.subject}:{image.line}",
            "nothing puts Postgres to sleep, and PGIDLE_ variables have no effect there",
            cure(image.text),
        )


def cure(image: str) -> str:
    """How to get an image with pgidle. Its name keeps the major version, which says where the data is."""
    version = image_major(image)
    ours = f"pgidle:{version}" if version is not None else "pgidle"
    build = "docker build --build-arg BASE={0} -t {1} . in a checkout of pgidle, and {1} as the image"
    if "alpine" not in image:
        return build.format(image, ours)
    base = f"postgres:{version}" if version is not None else "postgres"
    return (
        f"{build.format(base, ours)}; pgidle's image is based on Debian, which sorts text differently from"
        " Alpine, so move the data with pg_dump, not with the volume"
    )


def check_image(chart: Chart, image: Node | None) -> None:
    """Check the image's name: nothing else says whether pgidle is in it."""
    check_named(chart, image)
    if image is not None and image.text and contents(image.text) is Contents.OTHER:
        chart.unknown(
            f"whether pgidle is in the image {image.text}",
            f"{chart.subject}:{image.line}",
            "its name does not say; without pgidle nothing puts Postgres to sleep",
            f"docker run --rm --entrypoint pgidle {image.text} --version, which fails if it is not",
        )


def built_major(build: Node | None, context: Context) -> int | None:
    """PostgreSQL's major version in an image that is built: by the build argument BASE, else by the Dockerfile."""
    if build is not None and (base := _argument(build)) is not None:
        return image_major(base)
    dockerfile = _dockerfile(build, context)
    if dockerfile is None:
        return None
    sources = {alias.lower(): source for source, alias in _FROM.findall(dockerfile) if alias}
    last = _FROM.findall(dockerfile)[-1:]
    source = last[0][0] if last else ""
    source = sources.get(source.lower(), source)
    for name, value in _BASE.findall(dockerfile):
        source = source.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return image_major(source)


def builds_pgidle(build: Node | None, context: Context) -> bool | None:
    """Whether the Dockerfile has to do with pgidle; None if it was not read or does not say."""
    dockerfile = _dockerfile(build, context)
    if dockerfile is None:
        return None
    if _PROGRAM.search(dockerfile) is not None:
        return True
    last = _FROM.findall(dockerfile)[-1:]
    return False if last and contents(last[0][0]) is Contents.POSTGRES else None


def dockerfile_path(build: Node | None) -> str | None:
    """The Dockerfile's path relative to the file that has `build`; None if it is inline or in a remote context."""
    if build is None:
        return "Dockerfile"
    folder = build.text or build.word("context") or "."
    if "://" in folder or folder.startswith("git@") or build.at("dockerfile_inline") is not None:
        return None
    return normpath(f"{folder}/{build.word('dockerfile') or 'Dockerfile'}")


def _dockerfile(build: Node | None, context: Context) -> str | None:
    """The Dockerfile's text; None if it was not read."""
    if build is not None and (inline := build.word("dockerfile_inline")) is not None:
        return inline
    path = dockerfile_path(build)
    if path is None:
        return None
    return context.dockerfile if path == "Dockerfile" else context.beside.get(path)


def _argument(build: Node) -> str | None:
    args = build.at("args")
    if args is None:
        return None
    listed = dict((each.text or "").partition("=")[::2] for each in args.rows or ())
    return args.word("BASE") or listed.get("BASE")
