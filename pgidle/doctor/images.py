"""What an image's name and a Dockerfile tell: whether pgidle is in it, and which PostgreSQL."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.told import Context
    from pgidle.doctor.tree import Node

PLAIN = ("postgres", "pgvector", "postgis", "timescaledb")
"""How the names of images begin that have PostgreSQL and not pgidle."""
CURE = "docker build --build-arg BASE={image} -t pgidle . in a checkout of pgidle, and that image"
_TAG = re.compile(r":(?:pg|v)?(\d{2})(?!\d)[^/]*$")
_BASE = re.compile(r"^\s*ARG\s+(\w+)=(\S+)", re.MULTILINE | re.IGNORECASE)
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)", re.MULTILINE | re.IGNORECASE)


class Contents(Enum):
    """What is in an image, as far as its name tells."""

    PGIDLE = "pgidle"
    POSTGRES = "PostgreSQL without pgidle"
    OTHER = "not known"


def contents(image: str) -> Contents:
    if "pgidle" in image:
        return Contents.PGIDLE
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return Contents.POSTGRES if name.startswith(PLAIN) else Contents.OTHER


def check_named(chart: Chart, image: Node | None) -> None:
    """The image of a container that is told of pgidle, and may have it under any name but PostgreSQL's."""
    if image is not None and image.text and contents(image.text) is Contents.POSTGRES:
        chart.wrong(
            f"pgidle is not in the image {image.text}",
            f"{chart.subject}:{image.line}",
            "nothing puts Postgres to sleep, and PGIDLE_ variables mean nothing there",
            CURE.format(image=image.text),
        )


def check_image(chart: Chart, image: Node | None) -> None:
    """The only thing that tells whether pgidle is there."""
    check_named(chart, image)
    if image is not None and image.text and contents(image.text) is Contents.OTHER:
        chart.unknown(
            f"whether pgidle is in the image {image.text}",
            f"{chart.subject}:{image.line}",
            "its name does not tell; without pgidle nothing puts Postgres to sleep",
            f"docker run --rm --entrypoint pgidle {image.text} --version, which fails where it is not",
        )


def major(image: str) -> int | None:
    """PostgreSQL's major version by the image's tag, where that tells it."""
    found = _TAG.search(image.partition("@")[0])
    return int(found[1]) if found is not None else None


def built_major(build: Node | None, context: Context) -> int | None:
    """The same of what is built: by the build's argument BASE, else by the Dockerfile beside the file."""
    if build is not None and (base := _argument(build)) is not None:
        return major(base)
    named = build.word("dockerfile") if build is not None else None
    folder = (build.text or build.word("context") if build is not None else None) or "."
    if (
        context.dockerfile is None
        or named not in (None, "Dockerfile", "./Dockerfile")
        or folder not in (".", "./")
    ):
        return None
    sources = _FROM.findall(context.dockerfile)
    source = sources[-1] if sources else ""
    for name, value in _BASE.findall(context.dockerfile):
        source = source.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return major(source)


def _argument(build: Node) -> str | None:
    args = build.at("args")
    if args is None:
        return None
    listed = dict((each.text or "").partition("=")[::2] for each in args.rows or ())
    return args.word("BASE") or listed.get("BASE")
