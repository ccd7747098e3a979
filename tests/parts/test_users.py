"""Who to become, what is prepared before, and what still works after."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness
import pgidle
from harness.installations import free_port, run_as_server, server_user
from pgidle.base.errors import PgidleError, SettingsError
from pgidle.system.directories import prepare_directories
from pgidle.system.users import (
    Identity,
    acting_as,
    plan,
    python_unreadable,
    user_name,
)

if TYPE_CHECKING:
    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: becomes another user")
needs_no_root = pytest.mark.skipif(os.getuid() == 0, reason="needs not to be root")
NOBODY_HAS = 54321


def server_identity() -> Identity | None:
    return plan(server_user().pw_name, "")


def as_root(script: str, *arguments: str) -> str:
    """Run Python that may change its user; returns what it printed."""
    command = [sys.executable, "-c", script, *arguments]
    path = {"PYTHONPATH": str(Path(pgidle.__file__).parents[1])}
    done = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def owner_and_mode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, stat.S_IMODE(found.st_mode)


@needs_no_root
def test_who_is_not_root_becomes_nobody(tmp_path: Path) -> None:
    own = pwd.getpwuid(os.getuid()).pw_name
    assert plan(None, str(tmp_path)) is None
    assert plan(own, str(tmp_path)) is None
    with pytest.raises(SettingsError, match=f"only root.*this is {own}"):
        plan("root", str(tmp_path))


@needs_root
def test_root_becomes_the_option_then_the_owner_then_postgres(place: Place) -> None:
    folder = place.folder()
    os.chown(folder, 1, 1)
    chosen = plan("nobody", str(folder))
    assert chosen is not None
    assert chosen.name == "nobody"
    owner = plan(None, str(folder))
    assert owner is not None
    assert (owner.name, owner.uid, owner.home) == ("daemon", 1, pwd.getpwuid(1).pw_dir)
    os.chown(folder, NOBODY_HAS, NOBODY_HAS)
    assert plan(None, str(folder)) == Identity(str(NOBODY_HAS), NOBODY_HAS, NOBODY_HAS, (NOBODY_HAS,), "/")
    assert plan(str(NOBODY_HAS), "") == plan(None, str(folder))


@needs_root
def test_root_becomes_postgres_for_a_directory_of_roots_or_none(place: Place) -> None:
    if server_user().pw_name != "postgres":
        pytest.skip("needs a user postgres")
    os.chown(folder := place.folder(), 0, 0)
    for data_dir in (folder, folder / "missing"):
        identity = plan(None, str(data_dir))
        assert identity is not None
        assert identity.name == "postgres"
        assert set(identity.groups) == set(os.getgrouplist("postgres", identity.gid))


@needs_root
@pytest.mark.parametrize(
    ("user", "complaint"), [("root", "as root"), ("0", "as root"), ("nobody-has-this", "no such user")]
)
def test_a_user_that_does_not_serve_is_refused(user: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=rf"--user {user}.*{complaint}"):
        plan(user, "/")


@needs_root
def test_without_a_user_postgres_root_must_name_one(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    def unknown(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", unknown)
    with pytest.raises(SettingsError, match=r"no user postgres.*--user"):
        plan(None, str(place.path / "missing"))


def test_a_user_without_a_name_is_called_by_its_number() -> None:
    assert user_name(0) == "root"
    assert user_name(NOBODY_HAS) == f"uid {NOBODY_HAS}"


@needs_root
def test_acting_as_lends_effective_ids_and_gives_them_back(place: Place) -> None:
    before = os.getresuid(), os.getresgid(), os.getgroups()
    identity = server_identity()
    assert identity is not None
    with acting_as(identity):
        assert (os.geteuid(), os.getegid()) == (identity.uid, identity.gid)
        assert set(os.getgroups()) == set(identity.groups)
        assert not os.access("/proc/1/environ", os.R_OK, effective_ids=True)
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


def test_acting_as_nobody_changes_nothing() -> None:
    before = os.geteuid(), os.getegid(), os.getgroups()
    with acting_as(None):
        assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before


BECOME = """
import json, os, sys
from pgidle.system.users import become, plan
os.chdir(sys.argv[2])
become(plan(sys.argv[1], ""))
try:
    os.setuid(0)
except PermissionError:
    way_back = False
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
ids = [os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.environ["HOME"], os.environ["USER"]]
print(json.dumps([*ids, os.getcwd(), int(status["CapEff"], 16) | int(status["CapPrm"], 16), way_back]))
"""


@needs_root
def test_becoming_is_for_good(place: Place) -> None:
    user = server_user()
    folder = place.folder("closed")
    os.chown(folder, 0, 0)
    groups = sorted(os.getgrouplist(user.pw_name, user.pw_gid))
    ids = [[user.pw_uid] * 3, [user.pw_gid] * 3, groups, user.pw_dir, user.pw_name]
    assert json.loads(as_root(BECOME, user.pw_name, str(folder))) == [*ids, "/", 0, False]
    folder.chmod(0o755)
    assert json.loads(as_root(BECOME, user.pw_name, str(folder))) == [*ids, str(folder), 0, False]


@needs_root
def test_root_that_may_not_change_its_user_says_so() -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv (util-linux) to take a capability away")
    script = (
        "from pgidle.base.errors import PgidleError\nfrom pgidle.system.users import *\n"
        "for way in (become, lambda one: acting_as(one).__enter__()):\n"
        "    try:\n        way(plan('nobody', ''))\n    except PgidleError as fault:\n        print(fault)"
    )
    command = [setpriv, "--bounding-set", "-setuid", "--inh-caps", "-setuid", sys.executable, "-c", script]
    path = {"PYTHONPATH": str(Path(pgidle.__file__).parents[1])}
    said = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=True)
    lines = said.stdout.splitlines()
    assert len(lines) == 2
    assert all("cannot become user nobody: Operation not permitted" in line for line in lines)


def test_directories_are_made_for_whom_they_are(place: Place) -> None:
    user = server_user().pw_uid
    data_dir = place.folder() / "a/b/data"
    prepare_directories(str(data_dir), str(data_dir / "pgidle"), server_identity())
    assert owner_and_mode(data_dir) == (user, 0o700)
    assert owner_and_mode(data_dir / "pgidle") == (user, 0o700)
    assert owner_and_mode(data_dir.parent) == (user, 0o755)
    prepare_directories(str(data_dir), str(data_dir / "pgidle"), server_identity())


@needs_root
def test_root_makes_what_the_user_cannot(place: Place) -> None:
    user = server_user().pw_uid
    above = place.folder()
    os.chown(above, 0, 0)
    above.chmod(0o755)
    data_dir, state_dir = above / "data", above / "run/pgidle"
    prepare_directories(str(data_dir), str(state_dir), server_identity())
    assert owner_and_mode(data_dir) == owner_and_mode(state_dir) == (user, 0o700)
    assert owner_and_mode(state_dir.parent) == owner_and_mode(above) == (0, 0o755)


@needs_root
def test_an_empty_volume_of_roots_is_handed_over_and_a_full_one_is_not(place: Place) -> None:
    user = server_user().pw_uid
    empty, full = place.folder(), place.folder()
    full.joinpath("file").write_text("")
    for folder in (empty, full):
        os.chown(folder, 0, 0)
        folder.chmod(0o755)
    prepare_directories(str(empty), str(empty / "pgidle"), server_identity())
    assert owner_and_mode(empty) == (user, 0o700)
    with pytest.raises(PgidleError, match=f"data directory {full} cannot be used by user"):
        prepare_directories(str(full), str(full / "pgidle"), server_identity())
    assert owner_and_mode(full) == (0, 0o755)


@needs_root
def test_a_volume_below_a_folder_of_the_user_s_is_handed_over(place: Place) -> None:
    """As in the official image, where /var/lib/postgresql is the user's and a fresh volume in it is root's."""
    above = place.folder()
    above.chmod(0o1777)
    volume = above / "data"
    volume.mkdir(mode=0o755)
    prepare_directories(str(volume), str(volume / "pgidle"), server_identity())
    assert owner_and_mode(volume) == (server_user().pw_uid, 0o700)
    inner = above / "18"
    inner.mkdir(mode=0o755)
    prepare_directories(str(inner / "docker"), str(inner / "docker/pgidle"), server_identity())
    assert owner_and_mode(inner / "docker") == (server_user().pw_uid, 0o700)
    assert inner.stat().st_uid == 0


@needs_root
def test_nothing_is_made_where_the_user_cannot_get(place: Place) -> None:
    closed = place.folder()
    os.chown(closed, 0, 0)
    with pytest.raises(PgidleError, match="cannot be created: Permission denied"):
        prepare_directories(str(closed / "a/data"), str(closed / "a/data/pgidle"), server_identity())
    assert not list(closed.iterdir())
    existing = closed / "data"
    existing.mkdir(mode=0o755)
    existing.joinpath("file").write_text("")
    with pytest.raises(PgidleError, match="cannot be used by user"):
        prepare_directories(str(existing), str(place.folder()), server_identity())
    assert owner_and_mode(existing) == (0, 0o755)


def test_a_state_directory_that_cannot_be_made_is_said(place: Place) -> None:
    folder = place.folder()
    file = folder / "file"
    file.write_text("")
    with pytest.raises(PgidleError, match=f"state directory {file}/pgidle cannot be created: "):
        prepare_directories(str(folder), str(file / "pgidle"), server_identity())


def test_a_readable_python_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert python_unreadable(None) is None
    readable = [str(Path(os.__file__).parent), "/no/such/folder", ""]
    monkeypatch.setattr(sys, "path", readable)
    assert python_unreadable(plan(pwd.getpwuid(os.getuid()).pw_name, "") if os.getuid() else None) is None


@needs_root
def test_a_place_that_only_root_reads_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    home, packages = place.folder("home"), place.folder("packages")
    os.chown(home, 0, 0)
    packages.joinpath("click").mkdir(mode=0o700)
    monkeypatch.setattr(sys, "path", [str(packages)])
    assert python_unreadable(server_identity()) == str(packages / "click")
    packages.joinpath("click").chmod(0o755)
    if (own := python_unreadable(server_identity())) is not None:
        assert own == str(Path(pgidle.__file__).parent)
    monkeypatch.setattr(sys, "path", [str(home)])
    home.joinpath("module.py").write_text("")
    assert python_unreadable(server_identity()) == str(home)


@needs_root
@pytest.mark.parametrize("prepared", [True, False])
def test_all_that_runs_later_runs_after_a_preload(newest: Installation, place: Place, prepared: bool) -> None:
    closed = place.folder("root")
    os.chown(closed, 0, 0)
    for number, entry in enumerate([*filter(os.path.isdir, sys.path), Path(pgidle.__file__).parents[1]]):
        closed.joinpath(str(number)).symlink_to(Path(entry).absolute())
    data_dir, sockets, port = place.data_dir(newest), place.folder("s"), free_port()
    options = f"-p {port} -c listen_addresses='' -c unix_socket_directories={sockets}"
    command = ("-D", str(data_dir), "-l", str(data_dir / "log"), "-o", options, "-w")
    run_as_server(newest.program("pg_ctl"), "start", *command)
    try:
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-I",
                    "-S",
                    Path(harness.__file__).parent / "unreadable.py",
                    closed,
                    place.folder(),
                ),
                *(server_user().pw_name, sockets, str(port), str(free_port()), *["preload"][: int(prepared)]),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        run_as_server(newest.program("pg_ctl"), "stop", "-D", str(data_dir), "-m", "immediate")
    if not prepared:
        assert "ModuleNotFoundError" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    missed = [name for name in json.loads(done.stdout) if can_be_imported(name)]
    assert missed == [], "preload does not import them"


def can_be_imported(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def test_the_owner_of_what_is_not_planted_is_who_to_become(place: Place) -> None:
    if os.getuid() != 0:
        pytest.skip("nobody to become")
    folder = place.folder()
    found = plan(None, str(folder))
    assert found is not None
    assert found.uid == server_user().pw_uid
    (place.path / f"link{time.monotonic_ns()}").symlink_to(folder)
