"""What root reads, and from where: nothing that root alone may see is shown, and nothing holds a command up."""

from __future__ import annotations

import json
import os

import pytest

from harness.attacked import SECRET, Attacked, give, needs_root
from harness.installations import server_user


@needs_root
def test_nothing_that_root_alone_may_read_is_shown(attacked: Attacked) -> None:
    secret = attacked.secret(f"root:{SECRET}:19000:0:99999:7:::\n")
    options = ("--bin-dir", str(attacked.installation.bin_dir))
    for name in ("PG_VERSION", "pg_hba.conf", "postgresql.conf", "postgresql.auto.conf", "postmaster.pid"):
        path = attacked.data_dir / name
        kept = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
        for command in ("doctor", "run"):
            assert SECRET not in attacked.run(command, *options), name
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)
            give(path, server_user())
    (attacked.data_dir / "postgresql.conf").write_text(f"include '{secret}'\nhba_file = '{secret}'\n")
    assert SECRET not in attacked.run("doctor", *options)


@needs_root
@pytest.mark.parametrize("name", ["PG_VERSION", "pg_hba.conf", "postgresql.conf", "postmaster.pid"])
def test_no_pipe_holds_the_doctor_up(attacked: Attacked, name: str) -> None:
    (attacked.data_dir / name).unlink(missing_ok=True)
    os.mkfifo(attacked.data_dir / name)
    give(attacked.data_dir / name, server_user())
    assert attacked.run("doctor", "--bin-dir", str(attacked.installation.bin_dir))


@needs_root
def test_what_was_kept_is_read_through_no_link(attacked: Attacked) -> None:
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    kept = state_dir / "last.json"
    kept.symlink_to(attacked.secret(json.dumps({"why": SECRET, "at": 1.0, "seconds": 1.0})))
    assert SECRET not in attacked.run("status")
    kept.unlink()
    os.mkfifo(kept)
    assert "no sleep is on record" in attacked.run("status")
    kept.unlink()
    state_dir.rmdir()
    (attacked.safe / "last.json").write_text(json.dumps({"why": SECRET, "at": 1.0, "seconds": 1.0}))
    attacked.safe.chmod(0o700)
    state_dir.symlink_to(attacked.safe)
    give(state_dir, server_user())
    assert SECRET not in attacked.run("status")


@needs_root
@pytest.mark.parametrize("moment", ["1e300", "NaN", "-1", '"x"', "[]", f"1{'0' * 400}", "true"])
def test_what_was_kept_may_be_anything(attacked: Attacked, moment: str) -> None:
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    for text in (
        f'{{"why": "\\u001b[2J", "at": {moment}, "seconds": 1}}',
        f'{{"why": "\\u001b[2J", "at": 1, "seconds": {moment}}}',
    ):
        (state_dir / "last.json").write_text(text)
        for command in ("status", "wake", "doctor"):
            said = attacked.run(command)
            assert "Traceback" not in said
            assert "\x1b" not in said


@needs_root
def test_a_data_directory_may_be_a_link_of_its_owner_s(attacked: Attacked) -> None:
    (attacked.home / "main").symlink_to(attacked.data_dir)
    give(attacked.home / "main", server_user())
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    give(state_dir, server_user())
    (state_dir / "last.json").write_text('{"why": "quiet", "at": 1, "seconds": 1}')
    assert "quiet" in attacked.run("status", data_dir=attacked.home / "main")
