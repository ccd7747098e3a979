"""`fast` reads the command line of `run` as click does, or leaves it to click."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import pgidle
from pgidle.settings.arguments import Arguments, fast
from pgidle.settings.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence


def click_command() -> click.Command:
    """`run` as click reads it: every value a string, judged later by `resolve`."""
    options: list[click.Parameter] = [
        click.Option([f"--{option.name}", *option.flags], help=option.help, multiple=option.is_repeatable)
        for option in OPTIONS
    ]
    rest = click.Argument(["postgres_args"], nargs=-1, type=click.UNPROCESSED)
    return click.Command("run", params=[*options, rest])


COMMAND = click_command()


def by_click(argv: Sequence[str]) -> Arguments | None:
    """What click reads; None where it prints an error or its help instead."""
    try:
        parameters = COMMAND.make_context("run", list(argv)).params
    except (click.ClickException, click.exceptions.Exit):
        return None
    postgres_args = tuple(parameters.pop("postgres_args"))
    given_options = {
        option.name: parameters[option.field]
        for option in OPTIONS
        if parameters[option.field] not in (None, ())
    }
    return Arguments(given_options, postgres_args)


LONG = [f"--{option.name}" for option in OPTIONS]
SHORT = [flag for option in OPTIONS for flag in option.flags]
VALUES = st.sampled_from(["/srv/pg", "5433", "off", "user=a", "a b", "x=y", "=", "", "é", "run"])
PLAIN = VALUES.filter(lambda value: value and not value.startswith("="))
GOOD = st.one_of(
    st.tuples(st.sampled_from(LONG + SHORT), PLAIN).map(list),
    st.tuples(st.sampled_from(LONG), PLAIN).map(lambda pair: ["=".join(pair)]),
    st.tuples(st.sampled_from(SHORT), PLAIN).map(lambda pair: ["".join(pair)]),
)
ODD = st.one_of(
    st.sampled_from(
        [*LONG, *SHORT, "--", "-", "--help", "-h", "--dat", "--PORT", "-x", "-D=", "-D=/d", "-Dp", "-c"]
    ),
    st.tuples(st.sampled_from([*LONG, *SHORT, "--nope", "-x"]), st.sampled_from(["", "="]), VALUES).map(
        "".join
    ),
    VALUES,
    st.text(alphabet="-=Dpaé ", max_size=6),
).map(lambda argument: [argument])
END = st.lists(st.sampled_from(["-c", "a=b", "--", "--port", "-D", "--help", ""]), max_size=4)


def flat(parts: list[list[str]]) -> list[str]:
    return [argument for part in parts for argument in part]


@given(st.lists(st.one_of(GOOD, GOOD, ODD), max_size=6).map(flat), st.one_of(st.none(), END))
@settings(max_examples=1500, deadline=None)
def test_fast_is_click_or_nothing(argv: list[str], end: list[str] | None) -> None:
    argv = argv if end is None else [*argv, "--", *end]
    read = fast(argv)
    event("left to click" if read is None else "read")
    if read is not None:
        assert read == by_click(argv)


@given(st.lists(GOOD, max_size=6).map(flat), st.one_of(st.none(), END))
@settings(max_examples=500, deadline=None)
def test_what_people_write_needs_no_click(argv: list[str], end: list[str] | None) -> None:
    argv = argv if end is None else [*argv, "--", *end]
    read = fast(argv)
    assert read is not None
    assert read == by_click(argv)


def test_what_is_read() -> None:
    argv = "-D /d --port=1 -p 5433 --ignore user=a --ignore=user=b --idle-timeout off -- -c a=b -- --help"
    assert fast(argv.split()) == Arguments(
        {"data-dir": "/d", "port": "5433", "ignore": ("user=a", "user=b"), "idle-timeout": "off"},
        ("-c", "a=b", "--", "--help"),
    )
    assert fast(["-D/d", "-p5433"]) == Arguments({"data-dir": "/d", "port": "5433"})
    assert fast([]) == fast(["--"]) == Arguments({}, ())


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["-h"],
        ["-D", "/d", "--help"],
        ["--nope", "1"],
        ["--data", "/d"],
        ["--data_dir", "/d"],
        ["--DATA-DIR", "/d"],
        ["-x"],
        ["-"],
        [""],
        ["start"],
        ["-D", "/d", "start", "--", "-c"],
        ["-D"],
        ["--port"],
        ["--port", "--"],
        ["--port="],
        ["--port", ""],
        ["--http", "--port", "1"],
        ["-D", "-p", "1"],
        ["-D=/d"],
        ["-c", "a=b"],
    ],
)
def test_what_is_not_certain_is_left_to_click(argv: list[str]) -> None:
    assert fast(argv) is None


def test_reading_the_command_line_costs_no_heavy_import() -> None:
    code = """
import sys
from pgidle.settings.arguments import fast
from pgidle.settings.resolve import resolve
read = fast(["-D", "/d", "-p", "5433", "--listen-addresses", "::1", "--ignore", "user=a", "--http=off"])
resolve(read.options, {"PGIDLE_IDLE_TIMEOUT": "2s", "PGDATA": "/e"}, None, "/pgidle.toml", "/")
print(*sys.modules)
"""
    # -S: what an installed package imports at every start of Python is not ours.
    path = {"PYTHONPATH": str(Path(pgidle.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=path, capture_output=True, text=True, check=True
    )
    heavy = "dataclasses typing re inspect pathlib logging json asyncio click ipaddress difflib tomllib"
    assert set(done.stdout.split()) & set(heavy.split()) == set()
    assert "pgidle.settings.resolve" in done.stdout
