"""`pgidle init`: what is chosen, what is written, and that nothing is overwritten or half-written."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

import pgidle
from pgidle.base.errors import PgidleError, SettingsError
from pgidle.base.platform_limits import Platform
from pgidle.cli.commands import cli
from pgidle.init.choices import DEFAULTS, STOP_MARGIN, Choices, choose
from pgidle.init.plan import File
from pgidle.init.write import Outcome, write

ROOT = Path(pgidle.__file__).parent.parent


@dataclass(frozen=True)
class Done:
    status: int
    stdout: str
    stderr: str


Init = Callable[..., Done]


@pytest.fixture
def init(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Init:
    """The command, in this process and in the folder `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            cli(["init", *map(str, arguments)], prog_name="pgidle")
        status = ended.value.code
        assert isinstance(status, int)
        return Done(status, *capsys.readouterr())

    return run


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("platform", Platform)
def test_files_are_written_and_said_and_the_steps_come_after(
    platform: Platform, tmp_path: Path, init: Init
) -> None:
    done = init(platform.value)
    assert (done.status, done.stderr) == (0, "")
    files, _, steps = done.stdout.partition("\n\nNext, in this order:\n\n")
    assert sorted(files.splitlines()) == [f"written {name}" for name in sorted(contents(tmp_path))]
    assert steps
    # In the head of the file, too: it is what is found again later.
    if platform is not Platform.SYSTEMD:
        (text,) = contents(tmp_path).values()
        assert "".join(f"#   {line}\n" for line in steps.splitlines()) in text


@pytest.mark.parametrize("platform", Platform)
def test_steps_are_commands_that_a_shell_can_read(platform: Platform, tmp_path: Path, init: Init) -> None:
    steps = init(platform.value, "--dir", tmp_path / "a folder").stdout.partition("Next, in this order:")[2]
    assert subprocess.run(["sh", "-n"], input=steps, text=True, check=False, capture_output=True).stderr == ""
    folder = f"'{tmp_path}/a folder'"
    if platform is Platform.FLY:
        # In a checkout: that is where flyctl finds the Dockerfile.
        assert f"cd {folder}" not in steps
        assert steps.count(f"--config '{tmp_path}/a folder/fly.toml'") == 2
    else:
        # What is built is built in a checkout, before.
        before, _, after = steps.partition(f"cd {folder}\n")
        assert after
        assert "docker build" not in after
        assert ("docker build --tag pgidle:18 ." in before) is (platform is not Platform.SYSTEMD)


def test_printing_writes_nothing_and_gives_the_same(tmp_path: Path, init: Init) -> None:
    printed = init("compose", "--print").stdout
    assert contents(tmp_path) == {}
    init("compose")
    assert contents(tmp_path) == {"compose.yaml": printed}


def test_what_is_there_stays_unless_forced(tmp_path: Path, init: Init) -> None:
    (tmp_path / "fly.toml").write_text("mine")
    done = init("fly", "--dir", tmp_path)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr == (
        f"pgidle: {tmp_path}/fly.toml is there already: pass --force to replace, or --print to compare\n"
    )
    assert contents(tmp_path) == {"fly.toml": "mine"}
    assert init("fly", "--dir", tmp_path, "--force").stdout.startswith(f"replaced {tmp_path}/fly.toml\n")
    assert init("fly", "--dir", tmp_path).stdout.startswith(f"unchanged {tmp_path}/fly.toml\n")


def test_a_second_database_shares_the_templates_of_the_first(tmp_path: Path, init: Init) -> None:
    assert init("systemd", "--name", "shop", "--dir", tmp_path).status == 0
    done = init("systemd", "--name", "blog", "--port", "5433", "--idle-timeout", "1h", "--dir", tmp_path)
    outcomes = [line.split()[0] for line in done.stdout.partition("\n\n")[0].splitlines()]
    assert outcomes == ["unchanged", "unchanged", "written", "written"]
    assert init("systemd", "--name", "shop", "--port", "5434", "--dir", tmp_path).status == 1


def test_all_or_nothing(tmp_path: Path, init: Init) -> None:
    # The last of four files cannot be written, for somebody's file is where its folder would be.
    (tmp_path / "pgidle@shop.service.d").write_text("")
    done = init("systemd", "--name", "shop", "--dir", tmp_path)
    assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"pgidle: cannot write {tmp_path}/pgidle@shop.service.d")
    assert [path.name for path in tmp_path.iterdir()] == ["pgidle@shop.service.d"]


def test_a_link_to_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("nowhere")
    with pytest.raises(PgidleError, match="file is there already"):
        write([File("file", "text")], tmp_path)
    assert write([File("file", "text")], tmp_path, force=True) == [(tmp_path / "file", Outcome.REPLACED)]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_the_way_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(PgidleError, match="file: Is a directory"):
        write([File("file", "text")], tmp_path, force=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fly", "--region", "frankfurt"), "--region: 'frankfurt' is not a region"),
        (("fly", "--app", "My_App"), "--name: 'My_App' is not a name"),
        (("compose", "--name", "null"), "--name: 'null' is a value in YAML, not a name"),
        (("kubernetes", "--name", "no"), "--name: 'no' is a value in YAML, not a name"),
        (("kubernetes", "--name", "x" * 53), f"--name: '{'x' * 53}' is not a name"),
        (("fly", "--memory", "128MB"), "--memory: '128MB' is too little"),
        (("fly", "--memory", "1"), "--memory: '1' is not a size"),
        (
            ("fly", "--memory", "300MB"),
            "--memory: '300MB' is not a memory size of Fly's, which go in steps of 256 MB",
        ),
        (("fly", "--memory", "1000MB"), "--memory: '1000MB' is not a memory size of Fly's"),
        (("fly", "--memory", "17GB"), "--memory: '17GB' is more than a machine with shared CPUs has"),
        (("fly", "--volume-size", "600GB"), "--volume-size: '600GB' is more than a volume has"),
        (("kubernetes", "--volume-size", "1500MB"), "--volume-size: '1500MB' is not a volume's size"),
        (("kubernetes", "--volume-size", "0GB"), "--volume-size: '0GB' is not a volume's size"),
        (("compose", "--image", "an image"), "--image: 'an image' is not an image"),
        (("compose", "--image", 'x"\n'), "--image: "),
        (("systemd", "--data-dir", "data"), "--data-dir: 'data' is not a plain absolute path"),
        (("systemd", "--listen-addresses", "1.2.3"), "--listen-addresses: '1.2.3' is not an address"),
        (("compose", "--port", "0"), "--port: '0' is not a port"),
        (("kubernetes", "--port", "8008"), "--port: health is served on 8008"),
        (("compose", "--idle-timeout", "soon"), "--idle-timeout: 'soon' is not a duration"),
        (("compose", "--stop-timeout", "off"), "--stop-timeout: 'off' is not a duration"),
        (("fly", "--stop-timeout", "291s"), "--stop-timeout: fly kills after 300 s at the latest"),
        (("compose", "--region", "fra"), "--region is not for compose"),
        (("fly", "--data-dir", "/x"), "--data-dir is not for fly"),
    ],
)
def test_a_bad_value_is_one_line_and_status_2(arguments: tuple[str, ...], said: str) -> None:
    given = {arguments[1].removeprefix("--").replace("app", "name"): arguments[2]}
    with pytest.raises(SettingsError, match=f"^{re.escape(said)}") as caught:
        choose(Platform(arguments[0]), given)
    assert str(caught.value).count("\n") == 0
    assert caught.value.status == 2


def test_the_command_refuses_a_bad_value_so(tmp_path: Path, init: Init) -> None:
    done = init("fly", "--stop-timeout", "5min")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == (
        "pgidle: --stop-timeout: fly kills after 300 s at the latest: write at most 290s\n"
    )
    assert init("heroku").status == 2
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize(
    ("stop_timeout", "kill_timeout"), [("0", 10), ("1500ms", 12), ("30s", 40), ("290s", 300)]
)
def test_the_platform_kills_later_than_pgidle_does(
    platform: Platform, stop_timeout: str, kill_timeout: int
) -> None:
    assert choose(platform, {"stop-timeout": stop_timeout}).kill_timeout == kill_timeout
    assert STOP_MARGIN > 5  # What Postgres's processes have to obey an immediate shutdown.


def test_every_choice_is_an_option_of_the_command(init: Init) -> None:
    said = init("--help").stdout
    for known in DEFAULTS.values():
        for name, default in known.items():
            assert f"--{name} " in said or f"--{name}, " in said
            common = {known.get(name) for known in DEFAULTS.values() if name in known}
            if default and len(common) == 1 and name != "listen-addresses":
                assert f"default: {default}]" in " ".join(said.split())
    assert {name.replace("-", "_") for known in DEFAULTS.values() for name in known} <= set(
        Choices.__dataclass_fields__
    )


def test_the_wheel_carries_every_template_and_package() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("pgidle/**/__init__.py")}
    assert set(built["packages"]) == packages
    folder = ROOT / "pgidle" / "init"
    templates = [str(path.relative_to(folder)) for path in folder.glob("templates/**/*") if path.is_file()]
    assert templates
    for template in templates:
        assert any(fnmatch(template, pattern) for pattern in built["package-data"]["pgidle.init"]), template


def test_no_other_command_pays_for_it() -> None:
    look = "import sys, pgidle.cli; print(*(name for name in sys.modules if name.startswith('pgidle.init.')))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
