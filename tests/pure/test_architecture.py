"""The rules that CONTRIBUTING.md states about the code: a pure core, imports one way, a light wake."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pgidle
from harness.installations import free_port

PACKAGE = Path(pgidle.__file__).parent

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)

PURE_PACKAGES = ("base", "settings", "lifecycle", "idle")
TOUCHES = {"settings.load"}
"""The one module of those packages that reads a file."""
CORE = {
    *(name for name in MODULES if name.partition(".")[0] in PURE_PACKAGES and name not in TOUCHES),
    *("observer.messages", "observer.record_encoding", "observer.results", "observer.look_query"),
    *(f"history.{name}" for name in ("events", "timeline", "tally", "summary", "tables", "what_if")),
    *(
        "control.status",
        "control.sentence",
        "control.metrics",
        "control.orders",
        "control.hold_file",
        "postgres.error_messages",
    ),
}
PURE_DOCTOR = {
    "doctor.finding",
    "doctor.output",
    *(name for name in MODULES if name.startswith("doctor.platforms.")),
    *(name for name in MODULES if name.startswith("doctor.readers.") and name != "doctor.readers.hba_files"),
    *(f"doctor.machine.{name}" for name in ("postgresql_conf", "pg_hba", "pg_ident")),
}
IMPURE = {
    *("asyncio", "select", "socket", "subprocess", "threading", "signal", "psycopg", "psutil", "h11"),
    *("click", "watchfiles", "random", "shutil", "logging"),
}
HEAVY = {
    *("asyncio", "click", "dataclasses", "inspect", "json", "logging", "pathlib", "psutil", "psycopg", "re"),
    *("ssl", "subprocess", "tomllib", "typing", "h11", "watchfiles"),
    *("collections", "contextlib", "enum", "functools", "selectors", "signal", "socket"),
}


def imports(module: str, *, at_run_time: bool) -> set[str]:
    """What a module of the package imports, by top-level name, or `pgidle.x` for our own."""
    tree = ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    found = set()
    for node in ast.walk(tree):
        if at_run_time and id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one for one in named if one.removeprefix("pgidle.") in MODULES} or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name if name.startswith("pgidle.") else name.partition(".")[0] for name in found}


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_touches_nothing(module: str) -> None:
    assert not imports(module, at_run_time=True) & IMPURE


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_imports_only_the_core(module: str) -> None:
    ours = {
        name.removeprefix("pgidle.")
        for name in imports(module, at_run_time=True)
        if name.startswith("pgidle.")
    }
    assert ours <= CORE


def test_the_core_asks_no_clock() -> None:
    for module in CORE:
        text = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        assert "monotonic()" not in text.replace("`time.monotonic()`", ""), module
        assert "time.time()" not in text, module


def layers() -> dict[str, int]:
    """The row of each package, or single module, in the map in CONTRIBUTING.md; 0 is the top."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## The map")[2].partition("\n\nTwo processes")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    named = [re.findall(r"`([a-z_]+)/?`", cell) for cell in cells]
    return {name: number for number, names in enumerate(filter(None, named)) for name in names}


def own_imports() -> dict[str, set[str]]:
    return {
        module: {
            name.removeprefix("pgidle.")
            for name in imports(module, at_run_time=True)
            if name.startswith("pgidle.")
        }
        for module in MODULES
    }


def test_imports_go_down_the_map() -> None:
    row = layers()
    assert {module.partition(".")[0] for module in MODULES} == set(row)
    upwards = [
        f"{module} imports {name}"
        for module, names in own_imports().items()
        for name in names
        if row[name.partition(".")[0]] < row[module.partition(".")[0]]
    ]
    assert upwards == []


def test_no_package_says_anything_when_it_is_imported() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        assert path.read_text(encoding="utf-8") == "", path


def test_imports_have_no_cycle() -> None:
    graph = own_imports()
    done: set[str] = set()
    while waiting := set(graph) - done:
        free = {module for module in waiting if not (graph[module] & waiting - {module})}
        assert free, f"a cycle among {sorted(waiting)}"
        done |= free


@pytest.mark.parametrize("module", sorted(PURE_DOCTOR))
def test_the_doctor_judges_text_and_reads_nothing(module: str) -> None:
    imported = imports(module, at_run_time=True)
    assert not imported & (IMPURE | {"os"})
    ours = {name.removeprefix("pgidle.") for name in imported if name.startswith("pgidle.")}
    assert ours <= CORE | PURE_DOCTOR


def test_only_the_command_knows_the_doctor() -> None:
    for module in MODULES:
        if not module.startswith(("doctor.", "cli.")):
            found = imports(module, at_run_time=False)
            assert not any(name.startswith("pgidle.doctor") for name in found), module


def test_every_folder_of_the_package_is_installed() -> None:
    checkout = Path(__file__).parents[2]
    listed = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    found = {".".join(path.parent.relative_to(checkout).parts) for path in checkout.glob("pgidle/**/*.py")}
    assert set(listed["tool"]["setuptools"]["packages"]) == found


SPAWN = """
import gc
import sys
sys.path.insert(0, sys.argv.pop(1))
import pgidle.run.spawn
def spawn(*_):
    import os
    os.write(1, " ".join([*sys.modules, *["collecting"] * gc.isenabled()]).encode())
    os._exit(0)
pgidle.run.spawn.spawn = spawn
name = sys.argv.pop(1)
__import__(name)
sys.modules[name].main()
"""


def test_what_the_supervisor_does_not_need_is_not_imported() -> None:
    look = "import sys; sys.path.insert(0, sys.argv[1]); import pgidle.run.supervisor; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", look, str(PACKAGE.parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pgidle.run.postgres_server" in ran.stdout.split()
    assert not {
        "pgidle.postgres.collected_log",
        "pgidle.postgres.error_messages",
        "pgidle.postgres.stderr_copy",
        *("enum", "dataclasses", "functools", "collections", "signal", "socket"),
    } & {*ran.stdout.split()}


@pytest.mark.parametrize(
    ("module", "words"),
    [("pgidle.__main__", ["run", "--http", "off"]), ("pgidle.image_entrypoint", ["-c", "work_mem=8MB"])],
)
def test_nothing_heavy_is_imported_before_postgres_is_spawned(newest, place, module, words) -> None:
    settings = {
        "PGDATA": place.data_dir(newest),
        "PGPORT": free_port(),
        "PGIDLE_BIN_DIR": newest.bin_dir,
        "PGIDLE_HTTP": "off",
    }
    ran = subprocess.run(
        # Without site: an editable install has a finder that imports much by itself.
        [sys.executable, "-I", "-S", "-c", SPAWN, str(PACKAGE.parent), module, *words],
        env={name: str(value) for name, value in settings.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = set(ran.stdout.split())
    assert "pgidle.run.spawn" in loaded, ran.stderr
    assert sorted(loaded & HEAVY) == [], ran.stderr
    assert "collecting" not in loaded
    # Imported while Postgres starts.
    assert not loaded & {
        "pgidle.lifecycle.transitions",
        "pgidle.run.postgres_server",
        "pgidle.run.supervisor",
    }
