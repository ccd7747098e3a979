"""What `pgidle init` writes, against the platforms' schemas and documentation, and against pgidle itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.resources import files
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from pgidle.base.platform_limits import FLY_KEYS, Platform
from pgidle.cli.commands import cli
from pgidle.init.choices import choose
from pgidle.init.command import make_plan
from pgidle.postgres.image_variables import first_start
from pgidle.settings.options import WhenIdle, parse_duration
from pgidle.settings.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.settings.resolve import Settings


# Values that differ from every default, for each platform.
OTHERS: dict[Platform, dict[str, str]] = {
    Platform.FLY: {
        "name": "shop",
        "region": "fra",
        "memory": "1GB",
        "volume-size": "10GB",
        "image": "r.io/a/b:18",
    },
    Platform.SYSTEMD: {"name": "shop", "data-dir": "/srv/shop", "listen-addresses": "10.0.0.1,fd00::1"},
    Platform.COMPOSE: {"name": "shop", "image": "r.io/a/b:18"},
    Platform.KUBERNETES: {"name": "shop", "image": "r.io/a/b:18", "memory": "1GB", "volume-size": "10GB"},
}


TIMES = {"port": "5444", "idle-timeout": "off", "stop-timeout": "90s"}


GIVEN = {Platform(name): [{}, OTHERS[Platform(name)] | TIMES] for name in (one.value for one in Platform)}


def text_of(platform: Platform, given: Mapping[str, str]) -> str:
    (file,) = make_plan(platform.value, given).files
    return file.text


def resolved(environ: Mapping[str, str]) -> Settings:
    """What `pgidle run` makes of an environment; raises SettingsError for anything that it would refuse."""
    if environ.get("POSTGRES_PASSWORD"):
        first_start(environ)
    return resolve({}, environ, None, None, "/").settings


def fly_tables(table: Mapping[str, Any], path: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """Every table of a fly.toml with its path; those of an array one by one."""
    found = [(path, table)]
    for key, value in table.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                found += fly_tables(inner, f"{path}.{key}".lstrip("."))
    return found


@pytest.mark.parametrize("given", GIVEN[Platform.FLY])
def test_fly_keys_are_keys_of_fly(given: dict[str, str]) -> None:
    fly = tomllib.loads(text_of(Platform.FLY, given))
    for path, table in fly_tables(fly):
        if path not in ("env", "checks"):
            assert set(table) <= FLY_KEYS[path.replace("checks.pgidle", "checks.*")], path
    assert all(isinstance(value, str) for value in fly["env"].values())
    assert not any(name.startswith("FLY_") for name in fly["env"])


@pytest.mark.parametrize("given", GIVEN[Platform.FLY])
def test_fly_says_what_lets_a_machine_sleep_and_wake(given: dict[str, str]) -> None:
    fly = tomllib.loads(text_of(Platform.FLY, given))
    settings = resolved(fly["env"] | {"POSTGRES_PASSWORD": "secret"})
    (service,) = fly["services"]
    (port,) = service["ports"]
    assert (service["auto_start_machines"], service["auto_stop_machines"]) == (True, "off")
    assert service["min_machines_running"] == 0
    assert service["protocol"] == "tcp"
    # Raw TCP, on the port that clients expect and Postgres has.
    assert port == {"port": settings.port}
    assert service["internal_port"] == settings.port
    # Nothing decides about routing: neither a check nor a limit that one machine could reach.
    assert not {"tcp_checks", "http_checks", "machine_checks"} & set(service)
    assert service["concurrency"] == {"type": "connections", "soft_limit": 1000}
    assert fly["restart"] == [{"policy": "on-failure", "retries": 10}]
    assert fly["kill_signal"] == "SIGINT"
    assert settings.stop_timeout < fly["kill_timeout"] <= 300
    assert settings.when_idle is WhenIdle.EXIT
    # Checks and metrics dial 0.0.0.0; only /health may be red without harm.
    assert settings.http == ("", 8008)
    assert settings.listen_addresses == "*"
    assert {(check["port"], check["path"], check["type"]) for check in fly["checks"].values()} == {
        (8008, "/health", "http")
    }
    assert fly["metrics"] == {"port": 8008, "path": "/metrics"}
    (mount,) = fly["mounts"]
    assert PurePosixPath(mount["destination"]) in PurePosixPath(settings.data_dir).parents
    assert re.fullmatch(r"[a-z0-9_]{1,30}", mount["source"])
    assert ("dockerfile" in fly["build"]) != ("image" in fly["build"])


def test_fly_takes_what_was_chosen() -> None:
    fly = tomllib.loads(text_of(Platform.FLY, GIVEN[Platform.FLY][1]))
    assert (fly["app"], fly["primary_region"], fly["kill_timeout"]) == ("shop", "fra", 100)
    assert fly["build"] == {"image": "r.io/a/b:18"}
    assert fly["mounts"][0]["initial_size"] == "10gb"
    assert fly["vm"] == [{"size": "shared-cpu-1x", "memory": "1024mb"}]
    assert fly["env"]["POSTGRES_INITDB_ARGS"] == "-c shared_buffers=256MB"


def test_fly_steps_make_one_private_machine() -> None:
    steps = make_plan("fly", {"name": "shop", "port": "5444"}).steps
    commands = [line for line in steps.splitlines() if line.startswith("fly ")]
    order = ["apps create", "secrets set --stage", "config validate", "deploy"]
    positions = [
        next(at for at, line in enumerate(commands) if line.startswith(f"fly {step}")) for step in order
    ]
    assert positions == sorted(positions)
    assert "fly deploy --ha=false --flycast " in steps
    # flyctl looks at few keys, the doctor at all; and a deploy over a sleeping machine proves nothing by itself.
    assert (
        steps.index("config validate --strict")
        < steps.index("pgidle doctor fly.toml")
        < steps.index("fly deploy")
    )
    assert steps.index("psql") < steps.index("After a later deploy, too")
    assert "less than 600 s" in steps
    assert "@shop.flycast:5444/postgres?sslmode=disable&connect_timeout=15" in steps
    assert ".internal:" not in steps


def test_the_dockerfile_that_is_named_is_there() -> None:
    root = Path(__file__).parents[2]
    assert (root / tomllib.loads(text_of(Platform.FLY, {}))["build"]["dockerfile"]).exists()
    base = re.search(r"^ARG \w+=postgres:(\d+)$", (root / "Dockerfile").read_text(), re.MULTILINE)
    assert base
    assert resolved(tomllib.loads(text_of(Platform.FLY, {}))["env"]).data_dir == (
        f"/var/lib/postgresql/{base[1]}/docker"
    )


@pytest.mark.parametrize("given", GIVEN[Platform.COMPOSE])
def test_compose_fits_its_schema(given: dict[str, str]) -> None:
    schema = json.loads(
        files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    )
    compose = yaml.safe_load(text_of(Platform.COMPOSE, given))
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(compose)
    compose["services"]["x"] = {"restrat": "always"}
    assert not validator.is_valid(compose)


@pytest.mark.parametrize("given", GIVEN[Platform.COMPOSE])
def test_compose_stays_and_hands_over(given: dict[str, str]) -> None:
    compose = yaml.safe_load(text_of(Platform.COMPOSE, given))
    ((name, service),) = compose["services"].items()
    assert name == given.get("name", "postgres")
    assert all(isinstance(value, str) for value in service["environment"].values())
    settings = resolved(service["environment"])
    assert settings.when_idle is WhenIdle.STAY
    # Nothing of the kernel's, and no privilege.
    assert not {"sysctls", "privileged", "cap_add"} & set(service)
    assert service["restart"] == "unless-stopped"
    assert parse_duration(service["stop_grace_period"]) > settings.stop_timeout
    assert service["stop_signal"] == "SIGINT"
    assert service["ports"] == [f"127.0.0.1:{given.get('port', '5432')}:{settings.port}"]
    (volume,) = service["volumes"]
    source, destination = volume.split(":")
    assert source in compose["volumes"]
    assert PurePosixPath(destination) in PurePosixPath(settings.data_dir).parents
    (secret,) = service["secrets"]
    assert service["environment"]["POSTGRES_PASSWORD_FILE"] == f"/run/secrets/{secret}"
    assert compose["secrets"][secret]["file"].removeprefix("./") in make_plan("compose", given).steps
    assert service["healthcheck"]["test"] == ["CMD", "pgidle", "health"]
    assert ("build" in service) != ("image" in service)


@pytest.mark.parametrize("given", GIVEN[Platform.KUBERNETES])
@pytest.mark.parametrize("release", [all_versions()[at] for at in (0, -1)])
def test_kubernetes_fits_its_schemas(given: dict[str, str], release: str) -> None:
    documents = list(yaml.safe_load_all(text_of(Platform.KUBERNETES, given)))
    assert [one["kind"] for one in documents] == ["Service", "Service", "StatefulSet"]
    for document in documents:
        kubernetes_validate.validate(document, release, strict=True)
    documents[-1]["spec"]["template"]["spec"]["containers"][0]["envv"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(documents[-1], release, strict=True)


@pytest.mark.parametrize("given", GIVEN[Platform.KUBERNETES])
def test_kubernetes_lets_clients_wait(given: dict[str, str]) -> None:
    service, headless, stateful = yaml.safe_load_all(text_of(Platform.KUBERNETES, given))
    spec = stateful["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    settings = resolved({one["name"]: one.get("value", "secret") for one in container["env"]})
    assert settings.when_idle is WhenIdle.STAY
    assert spec["replicas"] == 1
    assert pod["terminationGracePeriodSeconds"] > settings.stop_timeout
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert settings.http == ("", ports["http"])
    assert settings.port == ports["postgres"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    labels = spec["template"]["metadata"]["labels"]
    assert (
        labels
        == spec["selector"]["matchLabels"]
        == service["spec"]["selector"]
        == headless["spec"]["selector"]
    )
    for one in (service, headless):
        assert one["spec"]["publishNotReadyAddresses"] is True
        assert one["spec"]["ports"] == [{"name": "postgres", "port": settings.port, "targetPort": "postgres"}]
    assert headless["spec"]["clusterIP"] == "None"
    assert spec["serviceName"] == headless["metadata"]["name"] != service["metadata"]["name"]
    # A Service called pgidle would otherwise give variables that pgidle refuses.
    assert pod["enableServiceLinks"] is False
    # Else the kubelet makes the data directory group-writable, which Postgres refuses.
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    # An unsafe sysctl keeps the pod from starting where the kubelet does not allow it.
    assert "sysctls" not in pod["securityContext"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    (claim,) = spec["volumeClaimTemplates"]
    assert PurePosixPath(mounts[claim["metadata"]["name"]]) in PurePosixPath(settings.data_dir).parents
    assert set(mounts) == {claim["metadata"]["name"], *(one["name"] for one in pod["volumes"])}
    secret = next(one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one)
    made = make_plan("kubernetes", given)
    steps = f"{made.build}\n{made.steps}"
    assert f"create secret generic {secret['name']} --from-literal={secret['key']}=" in steps
    assert f"docker build --tag {container['image']} ." in steps


@pytest.mark.parametrize("given", GIVEN[Platform.SYSTEMD])
def test_systemd_units_say_what_pgidle_takes(given: dict[str, str]) -> None:
    plan = make_plan("systemd", given)
    lines = [line for file in plan.files for line in file.text.splitlines() if not line.startswith("#")]
    pairs = [line.partition("=")[::2] for line in lines if "=" in line]
    environ = dict(
        pair.split("=", 1) for key, value in pairs if key == "Environment" for pair in value.split(" ")
    )
    settings = resolved(environ)
    assert settings.when_idle is WhenIdle.EXIT
    assert settings.data_dir == given.get("data-dir", "/var/lib/pgidle/main/data")
    said: dict[str, list[str]] = {}
    for key, value in pairs:
        said.setdefault(key, []).append(value)
    assert int(said["TimeoutStopSec"][-1]) > settings.stop_timeout
    assert said["Restart"] == ["on-failure"]
    assert said["BindIPv6Only"] == ["ipv6-only"]
    assert said["ListenStream"] == (
        ["10.0.0.1:5444", "[fd00::1]:5444"] if given else ["127.0.0.1:5432", "[::1]:5432"]
    )


def test_systemd_units_are_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    for given in GIVEN[Platform.SYSTEMD]:
        for file in make_plan("systemd", given).files:
            path = tmp_path / file.path
            path.parent.mkdir(exist_ok=True)
            path.write_text(file.text.replace("/opt/pgidle/bin/pgidle", sys.executable))
    units = ["pgidle.socket", "pgidle.service", "pgidle@shop.socket", "pgidle@shop.service"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("platform", Platform)
def test_every_pgidle_command_that_is_named_exists(platform: Platform) -> None:
    plan = make_plan(platform.value, {})
    text = "\n".join([plan.steps, *(file.text for file in plan.files)])
    named = re.findall(r"(?:/|exec \S+ |-- |\"|`)pgidle ([a-z]+)((?: [^\s`\";]+)*)", text)
    assert named
    for verb, rest in named:
        command = cli.commands[verb]
        known = {
            flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in rest.split() if word.startswith("-")} <= known, verb


def test_lines_are_short_enough_to_read() -> None:
    for platform in Platform:
        for file in make_plan(platform.value, {}).files:
            for above, line in pairwise(file.text.splitlines()):
                assert len(line) <= 121, (file.path, above)


@pytest.mark.parametrize(("name", "env"), [("shop", "shop"), (None, "pgidle")])
def test_systemd_steps_know_the_password(tmp_path: Path, name: str | None, env: str) -> None:
    steps = make_plan("systemd", {"name": name} if name else {}).steps
    (tmp_path / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "psql").write_text('#!/bin/sh\necho "$PGPASSWORD" "$@"\n')
    for program in ("sudo", "psql"):
        (tmp_path / program).chmod(0o755)
    lines = [line for line in steps.splitlines() if "/etc/pgidle" in line]
    script = "\n".join(lines).replace("/etc/pgidle", str(tmp_path / "pgidle"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-eu"], input=script, env={"PATH": path}, capture_output=True, text=True, check=True
    )
    password, psql = done.stdout.strip().split(" ", 1)
    assert (tmp_path / f"pgidle/{env}.env").read_text() == f"POSTGRES_PASSWORD={password}\n"
    assert (len(password), psql) == (48, "host=localhost port=5432 user=postgres")


@pytest.mark.parametrize("platform", [Platform.FLY, Platform.COMPOSE, Platform.KUBERNETES])
@pytest.mark.parametrize(
    ("image", "major"),
    [("r.io/a/pgidle:16", 16), ("pgidle:pg17", 17), ("r.io:5/pgidle", 18), ("pgidle:15-1", 15)],
)
def test_the_data_directory_is_that_of_the_image_s_version(
    platform: Platform, image: str, major: int
) -> None:
    memory = {"memory": "1GB"} if platform is not Platform.COMPOSE else {}
    made = make_plan(platform.value, {"image": image} | memory)
    text = "\n".join([made.steps, *(file.text for file in made.files)])
    assert set(re.findall(r"/var/lib/postgresql/(\d+)/docker", text)) == {str(major)}
    # initdb of 15 knows no -c.
    assert ("POSTGRES_INITDB_ARGS" in text) is (major >= 16 and bool(memory))
    for file in made.files:
        assert f"{major}: the image's major version." in file.text


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        ("256MB", "shared-cpu-1x"),
        ("2GB", "shared-cpu-1x"),
        ("4GB", "shared-cpu-2x"),
        ("16GB", "shared-cpu-8x"),
    ],
)
def test_fly_has_a_machine_for_the_memory(memory: str, size: str) -> None:
    assert tomllib.loads(text_of(Platform.FLY, {"memory": memory}))["vm"][0]["size"] == size
    assert choose(Platform.KUBERNETES, {"memory": "300MB"}).memory == 300


@pytest.mark.parametrize(("idle_timeout", "min_awake"), [("20s", "1min"), ("1m", None), ("off", None)])
def test_a_short_idle_timeout_breaks_no_deploy(idle_timeout: str, min_awake: str | None) -> None:
    text = text_of(Platform.FLY, {"idle-timeout": idle_timeout})
    assert tomllib.loads(text)["env"].get("PGIDLE_MIN_AWAKE") == min_awake


def test_elsewhere_than_in_a_checkout_no_dockerfile_is_named() -> None:
    fly = tomllib.loads(make_plan("fly", {}, "/elsewhere").files[0].text)
    assert "build" not in fly
    compose = yaml.safe_load(make_plan("compose", {}, "/elsewhere").files[0].text)
    assert compose["services"]["postgres"]["image"] == "pgidle:18"
    assert make_plan("compose", {"image": "r.io/a:18"}, "/elsewhere").build == ""


def test_what_is_postgres_s_default_anyway_is_not_written() -> None:
    for platform in (Platform.FLY, Platform.KUBERNETES):
        assert "POSTGRES_INITDB_ARGS" not in text_of(platform, {"memory": "512MB"})
        text = text_of(platform, {"memory": "256MB"})
        assert "-c shared_buffers=64MB" in text
        assert "leave it out" in text


def test_fly_steps_try_it_from_here() -> None:
    steps = make_plan("fly", {"name": "shop", "port": "5444"}).steps
    assert "fly proxy 15432:5444 shop.flycast --app shop &" in steps
    assert "@localhost:15432/postgres?sslmode=disable" in steps
    assert 'echo "$PASSWORD"' in steps
