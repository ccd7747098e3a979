"""The pages for users: that their links lead somewhere, and that nothing is missing from the references."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from pgidle.cli.commands import cli
from pgidle.settings.options import OPTIONS

TOP = Path(__file__).parents[2]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, without punctuation, - for each space."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(page: Path, heading: str) -> dict[str, list[str]]:
    """The table below a heading: the cells of each row, by what is first in backquotes."""
    text = page.read_text(encoding="utf-8").partition(f"# {heading}\n")[2].partition("\n#")[0]
    found = {}
    for line in text.splitlines():
        if (name := re.match(r"\| `([^`]+)`", line)) is not None:
            found[name[1]] = [cell.strip() for cell in line.strip("|").split("|")]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https:", "http:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\b(?:pgidle|tests|harness|bench|torture)/[\w/]+\.(?:py|c)\b", text)
    assert [name for name in named if not (TOP / name).exists()] == []
    tests = re.findall(r"`(test_[\w*]+\.py)`", text)
    assert [name for name in tests if not list(TOP.glob(f"tests/*/{name}"))] == []


def test_every_page_is_linked_from_the_first() -> None:
    linked = {
        link.partition("#")[0] for link in LINK.findall((TOP / "README.md").read_text(encoding="utf-8"))
    }
    assert {f"docs/{page.name}" for page in TOP.glob("docs/*.md")} <= linked


def test_every_setting_is_told_with_its_default() -> None:
    table = rows(TOP / "docs/settings.md", "Settings")
    assert table.keys() == {option.name for option in OPTIONS}
    for option in OPTIONS:
        first, default, _ = table[option.name]
        assert first.endswith("*") is option.live
        for other in (*option.flags, *option.env):
            assert f"`{other}`" in first
        if option.default:
            assert default == f"`{option.default}`"


def test_the_short_table_says_what_the_long_one_says() -> None:
    long = rows(TOP / "docs/settings.md", "Settings")
    for name, (_, default, _) in rows(TOP / "README.md", "Settings").items():
        assert default == long[name][1]
        assert long[name][0].endswith("*")


def test_every_command_is_told() -> None:
    told = {name.split()[1] for name in rows(TOP / "docs/commands.md", "Commands")}
    assert told == set(cli.commands)


def pgidle_commands(page: Path) -> list[list[str]]:
    """The words behind each `pgidle` in the page's shell blocks, up to `--` or the end of the command."""
    found = []
    for block in SHELL.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for at, word in enumerate(words):
                # Not always the first: it may stand behind variables, or behind `docker exec CONTAINER`.
                if word == "pgidle" and words[at + 1 : at + 2] and words[at + 1] in cli.commands:
                    rest = itertools.takewhile(lambda word: word not in ("--", "|", "&"), words[at + 1 :])
                    found.append(list(rest))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_to_type_have_the_options_that_they_are_given(page: Path) -> None:
    for name, *words in pgidle_commands(page):
        known = {option for parameter in cli.commands[name].params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used <= known, f"pgidle {name}"


def test_commands_to_type_are_found() -> None:
    """Else the test of their options passes without having seen one."""
    assert sum(len(pgidle_commands(page)) for page in PAGES) >= 20
