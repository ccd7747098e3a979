"""What the environment asks of the first start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pgidle.base.errors import SettingsError
from pgidle.postgres.image_variables import FROM_FILE, FirstStart, first_start

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = {"POSTGRES_PASSWORD": "secret"}


def test_a_password_is_enough() -> None:
    assert first_start(PASSWORD) == FirstStart("postgres", "postgres", "secret", None, (), None)


def test_the_database_is_named_after_the_user() -> None:
    assert first_start({**PASSWORD, "POSTGRES_USER": "app"}).database == "app"
    assert first_start({**PASSWORD, "POSTGRES_USER": "app", "POSTGRES_DB": "shop"}).database == "shop"


@pytest.mark.parametrize("method", [None, "", "md5", "scram-sha-256", "trust or not"])
def test_no_password_and_no_trust_is_refused(method: str | None) -> None:
    with pytest.raises(SettingsError, match="POSTGRES_PASSWORD") as caught:
        first_start({} if method is None else {"POSTGRES_HOST_AUTH_METHOD": method, "POSTGRES_PASSWORD": ""})
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)


def test_trust_needs_no_password() -> None:
    first = first_start({"POSTGRES_HOST_AUTH_METHOD": "trust"})
    assert first.password is None
    assert first.trusts


@pytest.mark.parametrize("name", FROM_FILE)
def test_each_may_come_from_a_file_but_not_from_both(tmp_path: Path, name: str) -> None:
    file = tmp_path / "value"
    file.write_text("from-file\n\n")
    environ = {k: v for k, v in PASSWORD.items() if k != name}
    first = first_start({**environ, f"{name}_FILE": str(file)})
    assert "from-file" in (first.user, first.database, first.password, *first.initdb_args)
    assert first == first_start({**environ, name: "", f"{name}_FILE": str(file)})
    with pytest.raises(SettingsError, match=f"{name} and {name}_FILE"):
        first_start({**PASSWORD, name: "x", f"{name}_FILE": str(file)})
    with pytest.raises(SettingsError, match=rf"{name}_FILE: {file}x cannot be read: No such file"):
        first_start({**environ, f"{name}_FILE": f"{file}x"})


def test_initdb_args_are_split_as_a_shell_does() -> None:
    args = "--wal-segsize=1 --locale='C' -E \"UTF 8\""
    assert first_start({**PASSWORD, "POSTGRES_INITDB_ARGS": args}).initdb_args == (
        "--wal-segsize=1",
        "--locale=C",
        "-E",
        "UTF 8",
    )
    with pytest.raises(SettingsError, match="POSTGRES_INITDB_ARGS: No closing quotation"):
        first_start({**PASSWORD, "POSTGRES_INITDB_ARGS": "'"})


@pytest.mark.parametrize(
    "name", ["POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "POSTGRES_HOST_AUTH_METHOD"]
)
def test_a_line_break_inside_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} has a line break"):
        first_start({**PASSWORD, name: "a\nb"})


def test_the_wal_directory_is_absolute() -> None:
    assert first_start({**PASSWORD, "POSTGRES_INITDB_WALDIR": "/wal"}).wal_dir == "/wal"
    with pytest.raises(SettingsError, match="POSTGRES_INITDB_WALDIR"):
        first_start({**PASSWORD, "POSTGRES_INITDB_WALDIR": "wal"})


@pytest.mark.parametrize("flag", ["-N", "--no-sync"])
def test_whoever_wants_no_sync_gets_none(flag: str) -> None:
    assert first_start(PASSWORD).syncs
    assert not first_start({**PASSWORD, "POSTGRES_INITDB_ARGS": f"-E UTF8 {flag}"}).syncs


def test_a_script_gets_values_and_no_files(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    environ = {"POSTGRES_PASSWORD_FILE": str(file), "POSTGRES_INITDB_ARGS": "-E 'UTF 8'", "OTHER": "1"}
    assert first_start(environ).script_environ(environ) == {
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": "postgres",
        "POSTGRES_PASSWORD": "secret",
        "POSTGRES_INITDB_ARGS": "-E 'UTF 8'",
        "OTHER": "1",
    }


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(first_start(PASSWORD))
