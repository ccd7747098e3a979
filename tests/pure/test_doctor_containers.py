"""What the doctor says of a Compose file and of a Kubernetes manifest: of right ones, with one mistake in them."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING

import kubernetes_validate
import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, Mistake, check, of_compose, of_kubernetes
from pgidle.doctor.platforms import compose, kubernetes
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.tree import BadFile
from pgidle.doctor.readers.yaml_tree import read_yaml

if TYPE_CHECKING:
    from pgidle.doctor.finding import Severity

COMPOSE = """
services:
  app:
    image: app
    healthcheck: {test: [CMD, psql]}
    restart: always
  db:
    image: pgidle
    command: ["-c", "shared_buffers=64MB"]
    environment:
      PGDATA: /var/lib/postgresql/18/docker
      PGIDLE_WHEN_IDLE: stay
      PGIDLE_STOP_TIMEOUT: 20s
    ports:
      - 5432:5432
    volumes:
      - data:/var/lib/postgresql
    healthcheck:
      test: [CMD, pgidle, health]
    restart: unless-stopped
    stop_signal: SIGINT
    stop_grace_period: 30s
volumes:
  data:
"""
STAY = "      PGIDLE_WHEN_IDLE: stay\n"
DATA = "      - data:/var/lib/postgresql\n"

OF_COMPOSE = [
    Mistake(STAY, "", WRONG, "when-idle is exit, with restart: unless-stopped", "restart: unless"),
    Mistake("WHEN_IDLE: stay", "WHEN_IDLE: exit", WRONG, "when-idle is exit", "restart: unless"),
    Mistake("    restart: unless-stopped\n", "", NOTE, "no restart policy", "  db:"),
    Mistake("period: 30s", "period: 20s", WRONG, "stop_grace_period is 20s", "stop_grace"),
    Mistake("    stop_grace_period: 30s\n", "", WRONG, "is not given, so it is 10s, and pgidle", "  db:"),
    Mistake("period: 30s", "period: soon", WRONG, "soon is not a duration", "stop_grace"),
    Mistake("SIGINT", "SIGQUIT", WRONG, "stop_signal is SIGQUIT", "stop_signal"),
    Mistake(f"    volumes:\n{DATA}", "", WRONG, "no volume holds the data directory", "  db:"),
    Mistake("data:/var", "data:/srv", WRONG, "no volume holds the data directory", "data:/srv"),
    Mistake(f"    volumes:\n{DATA}", "    tmpfs: /var/lib/postgresql\n", WRONG, "no volume holds", "  db:"),
    Mistake(STAY, f"{STAY}      POSTGRES_HOST_AUTH_METHOD: trust\n", WRONG, "is trust, and", "5432:5432"),
    Mistake("5432:5432", "5432:5433", WRONG, "port 5433 of the container is published", "5432:5433"),
    Mistake(STAY, f"{STAY}      PGIDLE_PORT: 6000\n", WRONG, "pgidle listens on 6000", "5432:5432"),
    Mistake("[CMD, pgidle, health]", "[CMD-SHELL, pg_isready -U x]", WRONG, "asks Postgres", "pg_isready"),
    Mistake("[CMD, pgidle, health]", "curl -f localhost:8008/ready", WRONG, "asks for /ready", "curl"),
    Mistake(STAY, f"{STAY}      PGIDLE_MIN_AWAKE: soon\n", WRONG, "'soon' is not a duration", "MIN_AWAKE"),
    Mistake(STAY, f"{STAY}      PGIDLE_MIN_AWAKE: $X\n", UNKNOWN, "PGIDLE_MIN_AWAKE is ${X}", "MIN_AWAKE"),
    Mistake('["-c",', '["--", "-c",', WRONG, "postgres does not understand `postgres --", "command"),
    Mistake('["-c",', '["-p", "6000", "-c",', WRONG, "-p is pgidle's own to set", "command"),
    Mistake('["-c",', '[pgidle, run, -c,', WRONG, "pgidle does not understand `pgidle run", "command"),
    Mistake('["-c",', '[pgidle, status, -c,', WRONG, "does not start Postgres", "command"),
    Mistake('["-c",', '[run, -c,', WRONG, "does not start Postgres", "command"),
    Mistake('["-c",', '[postgres, --version, -c,', WRONG, "serves no clients", "command"),
    Mistake('["-c",', '[docker-entrypoint.sh, postgres, -c,', WRONG, "bypasses pgidle", "command"),
    Mistake('["-c",', '[bash, -c,', UNKNOWN, "what `bash", "command"),
    Mistake("    image: pgidle\n", "    image: postgres:17\n", WRONG, "not in the image postgres:17", "image: p"),
    Mistake("    restart: unless", "    env_file: x\n    restart: unless", UNKNOWN, "what env_file x of", "env_file"),
]  # fmt: skip

KUBERNETES = """
apiVersion: v1
kind: Service
spec:
  ports: [{port: 5432}]
---
apiVersion: apps/v1
kind: StatefulSet
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 30
      containers:
        - image: other
          startupProbe: {exec: {command: [pg_isready]}}
        - name: db
          image: pgidle
          args: [pgidle, run, --when-idle, stay]
          env:
            - name: PGDATA
              value: /var/lib/postgresql/18/docker
            - name: PGIDLE_STOP_TIMEOUT
              value: 20s
            - name: PGIDLE_USER
              valueFrom: {secretKeyRef: {name: x, key: y}}
          livenessProbe:
            httpGet: {path: /health, port: 8008}
          readinessProbe:
            httpGet: {path: /health, port: 8008}
          volumeMounts:
            - name: data
              mountPath: /var/lib/postgresql
"""
LIVE = "livenessProbe:\n            httpGet: {path: /health, port: 8008}"
READY = "readinessProbe:\n            httpGet: {path: /health, port: 8008}"

OF_KUBERNETES = [
    Mistake("kind: StatefulSet\nspec:", "kind: StatefulSet\nspec:\n  replicas: 2", WRONG, "Set is 2", "replicas"),
    Mistake(READY, "readinessProbe: {exec: {command: [pg_isready]}}", WRONG, "asks Postgres", "readinessProbe"),
    Mistake("image: pgidle", "image: pgvector/pgvector:pg17", WRONG, "is not in the image pgv", "image: pgv"),
    Mistake("--when-idle, stay", "--port, '5432'", WRONG, "with restartPolicy Always", "name: db"),
    Mistake(LIVE, LIVE.replace("/health", "/ready"), WRONG, "livenessProbe asks for /ready", "livenessProbe"),
    Mistake(LIVE, "livenessProbe: {exec: {command: [psql]}}", WRONG, "livenessProbe asks Postgres", "[psql]"),
    Mistake(LIVE, "livenessProbe: {tcpSocket: {port: 5432}}", WRONG, "livenessProbe connects", "tcpSocket"),
    Mistake(READY, READY.replace("/health", "/ready"), WRONG, "readinessProbe asks for /ready", "readinessProbe"),
    Mistake("Seconds: 30", "Seconds: 20", WRONG, "terminationGracePeriodSeconds is 20s", "termination"),
    Mistake("value: 20s", "value: 1h", WRONG, "terminationGracePeriodSeconds is 30s", "termination"),
    Mistake("mountPath: /var/lib/postgresql", "mountPath: /x", WRONG, "no volume holds", "- name: data"),
    Mistake("    spec:\n", "    spec:\n      volumes: [{name: data, emptyDir: {}}]\n", WRONG, "no volume", "volumeM"),
]  # fmt: skip


def test_right_files_are_right() -> None:
    assert of_compose(COMPOSE).findings == []
    assert of_kubernetes(KUBERNETES).findings == []


@pytest.mark.parametrize("mistake", OF_COMPOSE, ids=str)
def test_a_mistake_in_compose_is_named_in_its_place(mistake: Mistake) -> None:
    text = mistake.made_in(COMPOSE)
    check(mistake, of_compose(text), text)


@pytest.mark.parametrize("mistake", OF_KUBERNETES, ids=str)
def test_a_mistake_in_kubernetes_is_named_in_its_place(mistake: Mistake) -> None:
    text = mistake.made_in(KUBERNETES)
    check(mistake, of_kubernetes(text), text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("restart: unless-stopped", "restart: always"),
        ("restart: unless-stopped", "restart: on-failure"),
        ("period: 30s", "period: 1m"),
        ('["-c", "shared_buffers=64MB"]', '["postgres", "-c", "shared_buffers=64MB"]'),
        ('["-c", "shared_buffers=64MB"]', "-c shared_buffers=64MB"),
        ('["-c", "shared_buffers=64MB"]', "postgres -cshared_buffers=64MB --work_mem=8MB"),
        ('["-c", "shared_buffers=64MB"]', "pgidle run -- -c shared_buffers=64MB"),
        ('    command: ["-c"', '    entrypoint: [tini, --, /opt/pgidle/entrypoint]\n    command: ["-c"'),
        ("    image: pgidle\n", "    image: postgres:17\n    build: .\n"),
        ("SIGINT", "SIGTERM"),
        ("    environment:\n", "    environment: &e\n"),
        (STAY, f"{STAY}      POSTGRES_HOST_AUTH_METHOD: scram-sha-256\n"),
        (STAY, STAY.replace("stay", '"${MODE:-stay}"')),
        (STAY, f"{STAY}      PASSWORD: $X\n"),
        ("5432:5432", "127.0.0.1:6000:5432/tcp"),
        ("5432:5432", "{target: 5432, published: 1}"),
        ("data:/var/lib/postgresql", "{type: volume, source: data, target: /var/lib/postgresql}"),
        ("data:/var/lib/postgresql", "./here:/var/lib/postgresql/18/docker:Z"),
        ("    restart: unless", "    sysctls: [net.core.somaxconn=65535]\n    restart: unless"),
        ("[CMD, pgidle, health]", "[CMD, curl, -f, 'http://localhost:8008/health']"),
    ],
)
def test_what_is_near_a_mistake_in_compose_is_none(old: str, new: str) -> None:
    assert COMPOSE.count(old) == 1
    assert of_compose(COMPOSE.replace(old, new)).findings == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("      terminationGracePeriodSeconds: 30\n", ""),
        (LIVE, "livenessProbe: {tcpSocket: {port: 8008}}"),
        ("ports: [{port: 5432}]", "publishNotReadyAddresses: true"),
        (
            "[pgidle, run, --when-idle, stay]",
            "[/opt/pgidle/command/pgidle, run, --when-idle=stay, --, -c, a=b]",
        ),
        ("          args: [", "          command: [tini, --]\n          args: ["),
        (
            "apiVersion: apps/v1\nkind: StatefulSet\nspec:",
            "apiVersion: apps/v1\nkind: StatefulSet\nspec:\n  replicas: 1",
        ),
    ],
)
def test_what_is_near_a_mistake_in_kubernetes_is_none(old: str, new: str) -> None:
    assert KUBERNETES.count(old) == 1
    assert of_kubernetes(KUBERNETES.replace(old, new)).findings == []


def test_trust_is_nobody_elses_behind_loopback() -> None:
    text = COMPOSE.replace(STAY, f"{STAY}      POSTGRES_HOST_AUTH_METHOD: trust\n")
    assert of_compose(text.replace("5432:5432", '"127.0.0.1:5432:5432"')).findings == []


def test_not_ready_addresses_that_are_published_forgive_the_probe() -> None:
    text = KUBERNETES.replace(READY, READY.replace("/health", "/ready"))
    text = text.replace("ports: [{port: 5432}]", "publishNotReadyAddresses: true")
    assert of_kubernetes(text).findings == []


def test_a_file_without_pgidle_says_so() -> None:
    chart = of_compose("services:\n  db:\n    image: postgres:17\n")
    assert [(one.what, one.where) for one in chart.findings] == [
        ("no service here runs pgidle", "compose.yaml:2")
    ]
    text = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: postgres}]}\n"
    assert [one.what for one in of_kubernetes(text).findings] == ["no container here runs pgidle"]


def test_a_list_of_variables_is_an_environment() -> None:
    text = "services:\n  db:\n    environment:\n      - PGIDLE_WHEN_IDLE=stay\n      - PGIDLE_PORT=x\n"
    found = [one for one in of_compose(text).findings if "PORT" in one.what]
    assert [(one.what, one.where) for one in found] == [("PGIDLE_PORT: 'x' is not a port", "compose.yaml:5")]


def test_what_is_merged_counts_and_own_keys_win() -> None:
    text = COMPOSE.replace("services:\n", "x-base: &base {restart: 'no', stop_signal: KILL}\nservices:\n", 1)
    text = text.replace("    image: pgidle\n", "    image: pgidle\n    <<: *base\n")
    text = text.replace("    stop_signal: SIGINT\n", "")
    assert [(one.what, one.where) for one in of_compose(text).findings] == [
        ("stop_signal is SIGKILL", "compose.yaml:2")
    ]


BOMB = "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))


def test_a_bomb_of_aliases_is_no_larger_than_its_file() -> None:
    root = read_yaml(f"{BOMB}\nservices:\n  db: {{image: pgidle, volumes: *a39, environment: *a39}}\n")[0]
    assert compose.examine("x", root, Context()).findings


def test_tags_make_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    root = read_yaml("services: !!python/object/apply:os.system ['echo boom']\nx: !reset null")[0]
    assert root.words("services") == ["echo boom"]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "&a [*a]", "[" * 3000, "a: *b", "\tx: 1", "a: \x01", "%YAML 9"]
)
def test_what_is_no_yaml_has_a_line(text: str) -> None:
    with pytest.raises(BadFile) as refused:
        read_yaml(text)
    assert refused.value.line >= 1


def test_what_cannot_be_read_hides_nothing_else() -> None:
    text = COMPOSE.replace(STAY, f"{STAY}      PGIDLE_IDEL_TIMEOUT: 5s\n      PGIDLE_MIN_AWAKE: soon\n")
    text = text.replace('["-c",', '["-p", "1", "-c",').replace("period: 30s", "period: 20s")
    assert [one.what.partition(",")[0] for one in of_compose(text).findings] == [
        "-p is pgidle's own to set",
        "PGIDLE_IDEL_TIMEOUT: the variable is unknown",
        "PGIDLE_MIN_AWAKE: 'soon' is not a duration",
        "stop_grace_period is 20s",
    ]
    text = KUBERNETES.replace(
        "[pgidle, run, --when-idle, stay]", "[pgidle, run, --port, x, --when-idle, stay]"
    )
    assert [one.what for one in of_kubernetes(text).findings] == ["--port: 'x' is not a port"]
    text = COMPOSE.replace(STAY, f"{STAY}      PGIDLE_PORT: 8008\n      PGIDLE_HTTP: ':8008'\n")
    clash = [one for one in of_compose(text).findings if "8008" in one.what]
    assert [one.what for one in clash] == ["PGIDLE_PORT: health and status are served on port 8008"]
    assert clash[0].where.endswith(f":{1 + text[: text.index('PGIDLE_PORT')].count(chr(10))}")


OLD = COMPOSE.replace("      PGDATA: /var/lib/postgresql/18/docker\n", "").replace(
    DATA, f"{DATA[:-1]}/data\n"
)


@pytest.mark.parametrize(
    ("source", "dockerfile", "severity"),
    [
        ("image: pgidle", None, UNKNOWN),
        ("image: pgidle:18", None, WRONG),
        ("image: r.io:5000/pgidle@sha256:17", None, UNKNOWN),
        ("image: pgidle:17.2", None, NOTE),
        ("image: pgidle:pg16-bookworm", None, NOTE),
        ("build: .", None, UNKNOWN),
        ("build: .", "ARG BASE=postgres:18\nFROM ${BASE} AS build\nFROM $BASE\n", WRONG),
        ("build: .", "FROM debian:12 AS build\nFROM --platform=x postgres:16\n", NOTE),
        ("build: elsewhere", "FROM postgres:16\n", UNKNOWN),
        (
            "build: {context: ., args: {BASE: 'pgvector/pgvector:pg17'}}",
            "ARG BASE=postgres:18\nFROM $BASE\n",
            NOTE,
        ),
        ("build: {context: ., args: ['BASE=postgres:18']}", "ARG BASE=postgres:17\nFROM $BASE\n", WRONG),
    ],
)
def test_the_old_place_of_data_is_right_in_old_images(
    source: str, dockerfile: str | None, severity: Severity
) -> None:
    text = OLD.replace("    image: pgidle\n", f"    {source}\n")
    chart = compose.examine("compose.yaml", read_yaml(text)[0], Context(dockerfile=dockerfile))
    assert [(one.severity, one.where) for one in chart.findings] == [
        (severity, f"compose.yaml:{line_of('/data', text)}")
    ]


def line_of(word: str, text: str) -> int:
    return next(at for at, line in enumerate(text.split("\n"), 1) if word in line)


def test_the_new_place_of_data_needs_no_variable() -> None:
    text = OLD.replace("/postgresql/data", "/postgresql")
    assert of_compose(text.replace("image: pgidle\n", "image: pgidle:18\n")).findings == []
    assert [one.severity for one in of_compose(text).findings] == [UNKNOWN]


def properties(schema: object) -> set[str]:
    """The names of all properties that a JSON schema has anywhere."""
    if isinstance(schema, list):
        return {name for each in schema for name in properties(each)}
    if not isinstance(schema, dict):
        return set()
    own = schema.get("properties")
    return (set(own) if isinstance(own, dict) else set()) | {
        name for each in schema.values() for name in properties(each)
    }


def test_the_keys_that_are_known_are_keys_of_the_platforms() -> None:
    builtin = resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
    known = properties(json.loads(builtin.read_text())["$defs"])
    assert (compose.READ | compose.HARMLESS) - known == set()
    assert "restrat" not in known
    release = kubernetes_validate.utils.all_versions()[-1]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    for key in kubernetes.READ | kubernetes.HARMLESS:
        # A key that there is not is called additional; a value of the wrong type is something else.
        container = {"name": "x", "image": "x", key: 7}
        with pytest.raises(kubernetes_validate.ValidationError) as refused:
            kubernetes_validate.validate(pod | {"spec": {"containers": [container]}}, release, strict=True)
        assert "Additional properties" not in refused.value.message, key
