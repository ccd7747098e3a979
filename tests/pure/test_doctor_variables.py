"""Variables that Compose and Kubernetes put in, and what comes from elsewhere."""

from __future__ import annotations

import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, of_compose, of_kubernetes, said
from harness.platform_files import POD, SERVICE, pod
from pgidle.doctor.readers.compose_variables import is_known, read_env_file, substitute
from pgidle.doctor.readers.stated_settings import Context


@pytest.mark.parametrize(
    ("text", "known", "made"),
    [
        ("5432:${P:-5432}", {}, "5432:5432"),
        ("5432:${P:-5432}", {"P": "6000"}, "5432:6000"),
        ("${D:-./d}:/x", {}, "./d:/x"),
        ("${A:-${B:-c}}", {}, "c"),
        ("${A-d}", {"A": ""}, ""),
        ("${A:-d}", {"A": ""}, "d"),
        ("${A:+d}${B+e}", {"A": "x"}, "d"),
        ("$$A $A_B", {"A_B": "1"}, "$A 1"),
        ("${A:?no such}", {"A": "x"}, "x"),
        ("a$", {}, "a$"),
        ("${", {}, "${"),
    ],
)
def test_variables_are_put_in_as_compose_does(text: str, known: dict[str, str], made: str) -> None:
    assert substitute(text, known) == made


@pytest.mark.parametrize("text", ["$A", "${A}", "${A:?x}", "${A?x}", "b${A}c", "${A.b}"])
def test_a_variable_that_is_set_nowhere_is_not_known(text: str) -> None:
    assert not is_known(substitute(text, {}))


def test_a_default_with_a_colon_splits_nothing() -> None:
    text = SERVICE.format(image="pgidle:16", volume="${D:-./d}:/var/lib/postgresql/data", more="")
    assert [one[0] for one in said(of_compose(text + '    ports: ["5432:${P:-5432}"]\n'))] == [NOTE]
    assert [one[0] for one in said(of_compose(text + '    ports: ["${P:-5432}:${Q:-6000}"]\n'))] == [
        NOTE,
        WRONG,
    ][::-1]
    for port in ("5432:$Q", '"127.0.0.1:${P:-5432}:5432"', '"5430-5440:5430-5440"', '"[::1]:5432:5432"'):
        assert [one[0] for one in said(of_compose(f"{text}    ports: [{port}]\n"))] == [NOTE]
    moved = text.replace("/var/lib/postgresql/data", "$WHERE")
    assert [one[0] for one in said(of_compose(moved))] == [UNKNOWN]
    windows = text.replace("${D:-./d}", "C:/pg")
    assert [one[0] for one in said(of_compose(windows))] == [NOTE]


def test_dot_env_and_env_file_are_read_where_they_are() -> None:
    text = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="").replace(
        "PGIDLE_WHEN_IDLE: stay", "A: b"
    )
    text += "    env_file: [pg.env]\n    command: [pgidle, run]\n"
    assert {one[0] for one in said(of_compose(text))} == {UNKNOWN}
    assert (UNKNOWN, "what when-idle is") in said(of_compose(text))
    there = Context(beside={"pg.env": "# x\nPGIDLE_WHEN_IDLE='stay'\n", ".env": None})
    chart = of_compose(text, there)
    assert said(chart) == []
    assert "beside it: pg.env" in chart.read
    assert [one[0] for one in said(of_compose(text, Context(beside={"pg.env": "A=b\n"})))] == [WRONG]
    mode = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="").replace(
        "stay", "$MODE"
    )
    assert WRONG not in [one[0] for one in said(of_compose(mode))]
    assert [one[0] for one in said(of_compose(mode, Context(beside={".env": "MODE=exit\n"})))] == [WRONG]
    assert read_env_file("export A=1\nB=\"$A x\" \nC='$A' # y\nD=e # f\nE\n=g\n") == {
        **{"A": "1", "B": "1 x", "C": "$A", "D": "e"}, "": "g",
    }  # fmt: skip


def test_what_a_service_extends_counts() -> None:
    base = "  base:\n    image: pgidle:18\n    environment: [PGIDLE_WHEN_IDLE=stay]\n    restart: always\n"
    text = f"services:\n{base}  db:\n    extends: {{service: base}}\n    volumes: [pg:/var/lib/postgresql]\n"
    assert WRONG not in [one[0] for one in said(of_compose(text)) if "db" in one[1]]
    elsewhere = "services:\n  db:\n    extends: {file: base.yaml, service: db}\n    image: pgidle:18\n"
    assert (UNKNOWN, "what service db inherits from the file that it extends") in said(of_compose(elsewhere))
    included = "include: [db.yaml]\nservices:\n  app: {image: app}\n"
    assert said(of_compose(included)) == [(UNKNOWN, "which service runs Postgres")]
    assert any("include" in one for one in of_compose(included).not_read)


FROM = """---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {PGIDLE_WHEN_IDLE: stay, PGDATA: /var/lib/postgresql/18/docker}
"""


@pytest.mark.parametrize(
    "env",
    [
        "envFrom: [{configMapRef: {name: c}}]",
        "env: [{name: PGIDLE_WHEN_IDLE, valueFrom: {configMapKeyRef: {name: c, key: PGIDLE_WHEN_IDLE}}}]",
        "envFrom: [{secretRef: {name: c}}]",
    ],
)
def test_what_comes_from_elsewhere_is_not_known_unless_it_is_in_the_file(env: str) -> None:
    text = POD.replace(
        "env: [{{name: PGIDLE_WHEN_IDLE, value: stay}}]", env.replace("{", "{{").replace("}", "}}")
    )
    text = text.replace("pgidle:18", "pgidle")
    alone = said(of_kubernetes(text.format(more="", beside="")))
    assert (UNKNOWN, "what when-idle is") in alone
    assert WRONG not in [one[0] for one in alone]
    maps = FROM
    if "secret" in env:
        maps = FROM.replace("ConfigMap", "Secret").replace("\ndata:", "\nstringData:")
    chart = of_kubernetes(text.format(more="", beside=maps))
    assert WRONG not in [one[0] for one in said(chart)]
    assert "when-idle stay" in chart.right
    changed = of_kubernetes(text.format(more="", beside=maps.replace("stay", "exit")))
    assert "when-idle is exit" in str(said(changed))


def test_what_the_kubelet_puts_in_is_put_in() -> None:
    env = "env: [{name: MODE, value: stay}, {name: PGIDLE_WHEN_IDLE, value: $(MODE)}]"
    text = POD.replace(
        "env: [{{name: PGIDLE_WHEN_IDLE, value: stay}}]", env.replace("{", "{{").replace("}", "}}")
    )
    assert said(of_kubernetes(text.format(more="", beside=""))) == []


def test_a_service_called_pgidle_gives_variables_that_pgidle_refuses() -> None:
    service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: pgidle}\nspec: {selector: {app: db}}\n"
    assert said(pod(beside=service)) == [(WRONG, "a Service called pgidle, and service links")]
