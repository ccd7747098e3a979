"""A first start that fails, is stopped or is killed: what is left, and that the next one goes on."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from harness.initialising import (
    MAKE,
    PASSWORD,
    PATIENCE,
    QUICK,
    SUPERUSER,
    begin,
    finish,
    initialise,
    over_tcp,
    script,
    served,
    state,
    wait_for,
    working_in,
)
from pgidle.postgres.data_directory import DataDirState

if TYPE_CHECKING:
    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: is another user than Postgres's")


def test_killed_before_each_step_the_next_start_goes_on(installation: Installation, place: Place) -> None:
    data_dir = place.folder()
    environ = {**PASSWORD, **QUICK}
    for step in ("make", "complete"):
        assert "killed" in initialise(installation, data_dir, environ, step)
        assert state(data_dir) is DataDirState.INTERRUPTED
        assert [entry.name for entry in data_dir.iterdir()] == ["pgidle"]
    assert "killed" in initialise(installation, data_dir, environ, "base")
    made = data_dir / "pgidle/initdb/data"
    inode = made.joinpath("PG_VERSION").stat().st_ino
    for step in sorted(entry.name for entry in made.iterdir() if entry.name != "PG_VERSION"):
        assert "killed" in initialise(installation, data_dir, environ, step)
        assert made.joinpath(step).exists()
        assert state(data_dir) is DataDirState.INTERRUPTED
    assert "killed" in initialise(installation, data_dir, environ, "PG_VERSION")
    assert state(data_dir) is DataDirState.INTERRUPTED
    assert "killed" in initialise(installation, data_dir, environ, "tidy")
    assert state(data_dir) is DataDirState.READY
    assert initialise(installation, data_dir, environ) == ""
    assert data_dir.joinpath("PG_VERSION").stat().st_ino == inode
    assert not list(data_dir.joinpath("pgidle").iterdir())
    with served(installation, data_dir, place) as where:
        assert over_tcp(where, **SUPERUSER)


@pytest.mark.parametrize("whom", ["child", "supervisor", "all"])
def test_killed_while_initdb_runs(installation: Installation, place: Place, whom: str) -> None:
    data_dir = place.folder()
    base = data_dir / "pgidle/initdb/data/base/1"
    started = begin(installation, data_dir, PASSWORD)
    assert started.stdout is not None
    child = int(started.stdout.readline())
    wait_for(base.exists)
    if whom != "child":
        started.kill()
    if whom != "supervisor":
        os.kill(child, signal.SIGKILL)
    started.communicate()
    # No waiting: the next start meets whatever still runs.
    assert initialise(installation, data_dir, {**PASSWORD, **QUICK}) == ""
    assert state(data_dir) is DataDirState.READY
    assert not data_dir.joinpath("pgidle/initdb").exists()
    assert not working_in(data_dir)
    with served(installation, data_dir, place) as where:
        assert over_tcp(where, **SUPERUSER)


def test_the_child_cleans_up_after_a_killed_supervisor(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    started = begin(newest, data_dir, PASSWORD)
    wait_for(data_dir.joinpath("pgidle/initdb/data/base/1").exists)
    started.kill()
    started.communicate()
    wait_for(lambda: not data_dir.joinpath("pgidle/initdb").exists())
    assert state(data_dir) is DataDirState.EMPTY
    wait_for(lambda: not working_in(data_dir))


@pytest.mark.parametrize("again", [False, True])
def test_stopped_while_initdb_runs(installation: Installation, place: Place, again: bool) -> None:
    data_dir = place.folder()
    started = begin(installation, data_dir, PASSWORD)
    assert started.stdout is not None
    child = int(started.stdout.readline())
    wait_for(data_dir.joinpath("pgidle/initdb/data/base/1").exists)
    started.terminate()
    while again and started.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    assert "stopped" in finish(started)
    assert state(data_dir) is DataDirState.EMPTY
    assert not working_in(data_dir)


def test_two_at_once_make_one_cluster(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    environ = {**PASSWORD, **QUICK}
    both = [begin(newest, data_dir, environ) for _ in range(2)]
    assert [finish(one) for one in both] == ["", ""]
    assert state(data_dir) is DataDirState.READY
    assert not working_in(data_dir)


def test_a_directory_with_something_in_it_is_left_alone(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    data_dir.joinpath("photo.jpg").write_text("")
    assert "photo.jpg" in initialise(newest, data_dir, PASSWORD)
    assert data_dir.joinpath("photo.jpg").exists()
    assert not data_dir.joinpath("pgidle/initdb").exists()


def test_the_wal_may_be_elsewhere_and_is_thrown_away_too(newest: Installation, place: Place) -> None:
    data_dir, wal_dir = place.folder(), place.folder("wal")
    environ = {**PASSWORD, **QUICK, "POSTGRES_INITDB_WALDIR": str(wal_dir)}
    assert "killed" in initialise(newest, data_dir, environ, "complete")
    assert list(wal_dir.iterdir())
    assert initialise(newest, data_dir, environ) == ""
    assert data_dir.joinpath("pg_wal").resolve() == wal_dir
    other = place.folder()
    assert f"{wal_dir} is not empty" in initialise(newest, other, environ)
    assert list(wal_dir.iterdir())


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"POSTGRES_INITDB_ARGS": "--encoding=KLINGON"}, "KLINGON"),
        ({"POSTGRES_INITDB_ARGS": "--no-such-option"}, "no-such-option"),
        ({"POSTGRES_USER": "pg_app"}, "pg_app"),
        ({**QUICK, "POSTGRES_DB": "x" * 20 + "é" + "\udcff"}, "byte sequence"),
    ],
)
def test_what_initdb_refuses_is_said_in_its_words_and_nothing_is_left(
    newest: Installation, place: Place, environ: dict[str, str], complaint: str
) -> None:
    data_dir = place.folder()
    said = initialise(newest, data_dir, {**PASSWORD, **environ})
    assert complaint in said
    assert "\n" not in said
    assert state(data_dir) is DataDirState.EMPTY
    assert not list(data_dir.joinpath("pgidle").iterdir())


@pytest.mark.parametrize("how", ["fails", "is stopped", "is killed", "is left"])
def test_a_script_that_ends_early_leaves_no_server(newest: Installation, place: Place, how: str) -> None:
    data_dir = place.folder()
    environ = {**QUICK, **PASSWORD, "SOCKETS": str(place.folder("s"))}
    path = script(place, newest, f"{MAKE}\n{'exit 3' if how == 'fails' else 'touch there; sleep 1000'}")
    started = begin(newest, data_dir, environ, path=path)
    assert started.stdout is not None
    child = int(started.stdout.readline())
    if how != "fails":
        wait_for(data_dir.joinpath("pgidle/initdb/data/there").exists)
        if how == "is left":
            started.kill()
        os.kill(child, signal.SIGTERM if how == "is stopped" else signal.SIGKILL)
    if how == "is left":
        started.wait()
        assert working_in(data_dir)
        assert initialise(newest, data_dir, {**PASSWORD, **QUICK}) == ""
        assert not working_in(data_dir)
    said = started.communicate(timeout=PATIENCE)[1].splitlines()[-1]
    if how != "is left":
        assert {"fails": "status 3", "is stopped": "stopped", "is killed": "killed"}[how] in said
    assert not working_in(data_dir)
    if how in ("fails", "is stopped"):
        assert state(data_dir) is DataDirState.EMPTY
