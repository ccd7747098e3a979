"""`pgidle doctor` as a command: its settings, the files that it is given, and wrong usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.doctor_run import Said, run
from pgidle.base.errors import SettingsError
from pgidle.base.platform_limits import Platform
from pgidle.cli.commands import cli
from pgidle.doctor import files
from pgidle.doctor.finding import Chart, Severity
from pgidle.doctor.output import as_text
from pgidle.doctor.readers.stated_settings import Context

if TYPE_CHECKING:
    from pathlib import Path

    Severities = dict[str, dict[str, dict[str, str]]]


FLY = 'app = "pg"\nkill_timeout = "30s"\n[[mounts]]\ndestination = "/data"\n[[services]]\ninternal_port = 5432\n'


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    said = Said(run("-D", tmp_path, "--json", PGIDLE_IDLE_TIMEOUT="soon"))
    assert said.wrong == {"'soon' is not a duration": "PGIDLE_IDLE_TIMEOUT"}
    (tmp_path / "pgidle.toml").write_text("port = 5432\nmin_awake = 'soon'\n")
    said = Said(run("-D", tmp_path / "data", "--json"))
    assert said.wrong == {"min-awake: 'soon' is not a duration": f"{tmp_path}/pgidle.toml:2"}
    # What the doctor itself was told wrongly is no finding.
    assert run("-D", tmp_path, "--json", "--port", "x").returncode == 2
    assert run("-D", tmp_path, "--json", "--", "-p", "1").returncode == 2


def test_files_alone_and_several(tmp_path: Path) -> None:
    (tmp_path / "fly.toml").write_text(FLY)
    (tmp_path / "x").write_text("services:\n  db: {image: pgidle}\n")
    (tmp_path / "y").write_text("[Service]\nExecStart=pgidle run\n")
    (tmp_path / "z").write_text("kind: Pod\napiVersion: v1\n")
    done = run(*(tmp_path / name for name in ("fly.toml", "x", "y", "z")))
    assert done.returncode == 1
    for line in (
        f"  wrong    {tmp_path}/fly.toml:5: the service of Postgres has no [[services.ports]]",
        f"  wrong    {tmp_path}/x:2: when-idle is exit, with restart: no",
        f"  note     {tmp_path}/y:2: Restart=no, which is the default",
        f"  unknown  {tmp_path}/z:1: which container runs Postgres",
    ):
        assert line in done.stdout.replace("\n           ", " ")
    assert done.stdout.endswith(" not checked\nthis machine was not checked: add -D DATA_DIRECTORY\n")
    assert "this machine" not in [line.strip() for line in done.stdout.splitlines()]
    alone = Said(run("--json", tmp_path / "fly.toml"))
    assert "this machine" not in alone.unknown
    assert "was not checked" not in run("-D", tmp_path / "none", tmp_path / "fly.toml").stdout


@pytest.mark.parametrize("arguments", [*((one.value,) for one in Platform), ("systemd", "--name", "main")])
def test_what_init_writes_is_right(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        cli(["init", *arguments, "--dir", str(tmp_path)], prog_name="pgidle")
    given = [files.read(str(path)) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    charts = [files.examine(one, Context(), given) for one in given]
    assert charts
    found = [one for chart in charts for one in chart.findings]
    assert [one.what for one in found if one.severity is not Severity.UNKNOWN] == []
    # A template's socket is told by its drop-in where to listen.
    assert [one.what for one in found] == ["where the socket listens"] * ("--name" in arguments)


def test_usage(tmp_path: Path) -> None:
    for arguments in ((), ("-D", "/x", "--port", "0"), (tmp_path,)):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\x7fELF\0\0", "is not text"),
        (b"\xff\xfe\x00", "is not text"),
        (b"a: 1\n" * 100_000, "is larger than 256 kB"),
        (b"hello", "is none of the files"),
        (b"app = 1", "is none of the files"),
        (b"idle-timeout = '5min'", "is none of the files"),
        (b"- a\n- b\n", "is none of the files"),
        (b"services: [a]\n", "is none of the files"),
        (b"services:\n  db: {image: [\n", ":3 is not YAML"),
        (b'{"services": 1}', "is none of the files"),
    ],
)
def test_what_is_no_file_of_ours(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        files.read(str(path))
    assert why in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("\ufeffapp = 'x'\r\nkill_timeout = 5\r\n", Platform.FLY),
        ("app = 'x\n[[services]]\n", Platform.FLY),
        ("# x\n[Service]\nExecStart=x\n", Platform.SYSTEMD),
        ("services:\n  a: {image: x}\n", Platform.COMPOSE),
        ("---\n---\napiVersion: v1\nkind: Pod\n", Platform.KUBERNETES),
        ('{"services": {"a": {"image": "x"}}}', Platform.COMPOSE),
    ],
)
def test_what_a_file_is_is_in_it_and_not_in_its_name(tmp_path: Path, content: str, kind: files.Kind) -> None:
    path = tmp_path / "file"
    path.write_bytes(content.encode())
    assert files.read(str(path)).kind is kind


@pytest.mark.parametrize(
    "content",
    [
        "services:\n  db: {image: pgidle, ports: {a: b}, volumes: 7, environment: [x, [y]], sysctls: z}\n",
        "services: {db: {image: pgidle, healthcheck: x, restart: [a], stop_grace_period: {}, command: {a: b}}}",
        "services: {db: null, pgidle: {image: [pgidle], environment: {PGIDLE_PORT: null}}}",
        "kind: Pod\napiVersion: v1\nspec: {containers: [1, {image: pgidle, env: x, livenessProbe: 1}]}",
        "app = 1\nservices = 1\nmounts = 'x'\nrestart = 7\nenv = 'x'\nchecks = 1\n",
        "app = []\n[[services]]\nports = 1\ninternal_port = []\nconcurrency = 1\nhttp_checks = {}\n[env]\nPGDATA = []",
        '[Service]\nExecStart=\nEnvironment="\n',
        "[Socket]\nListenStream=\n",
        "[Service]\n\\\n\\",
    ],
)
def test_shapes_that_nobody_expects_end_no_program(tmp_path: Path, content: str) -> None:
    (tmp_path / "file.toml").write_text(content)
    given = files.read(str(tmp_path / "file.toml"))
    assert isinstance(files.examine(given, Context(), [given]), Chart)


def test_a_file_says_nothing_to_the_terminal() -> None:
    chart = Chart("a\x1b[2J")
    chart.wrong("x\n\x1b[31m", "here", "why", "change")
    assert "\x1b" not in as_text([chart])
    assert as_text([chart], colour=True).count("\x1b[1;31mwrong") == 1
