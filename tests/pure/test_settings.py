"""Settings: what each option accepts, which layer wins, and what a mistake is answered with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.setting_examples import BY_NAME, FILE, LIVE, NAMES, complaint, example, listed, read
from pgidle.base.errors import SettingsError
from pgidle.settings.load import line_of
from pgidle.settings.options import OPTIONS, Counts, LogFormat, Option, Tls, WhenIdle
from pgidle.settings.resolve import (
    Origin,
    RefusedSetting,
    Settings,
    Source,
    config_path,
    parse_file,
    resolve,
)


def test_defaults() -> None:
    assert read() == Settings(
        data_dir="/d",
        bin_dir=None,
        listen_addresses="*",
        port=5432,
        socket_dir=None,
        idle_timeout=300.0,
        min_awake=30.0,
        when_idle=WhenIdle.EXIT,
        idle_sessions=Counts.IGNORE,
        replication=Counts.KEEP,
        advisory_locks=Counts.KEEP,
        listeners=Counts.KEEP,
        autovacuum_limit=1800.0,
        ignore=(),
        no_wake=(),
        http=("127.0.0.1", 8008),
        state_dir="/d/pgidle",
        user=None,
        stop_timeout=4.0,
        config=FILE,
        watch=None,
        tls=Tls.AS_CONFIGURED,
        on_event=None,
        log_format=LogFormat.TEXT,
        price=None,
        postgres_args=(),
    )


def test_every_option_has_a_setting_and_every_setting_an_option() -> None:
    assert [*(option.field for option in OPTIONS), "postgres_args"] == list(Settings.__match_args__)
    assert {o.name: (o.flags, o.env) for o in OPTIONS if o.flags or o.env} == {
        "data-dir": (("-D",), ("PGDATA",)),
        "port": (("-p",), ("PGPORT",)),
    }
    assert {option.name for option in OPTIONS if option.live} == LIVE


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.name not in ("config", "data-dir")])
@pytest.mark.parametrize("strongest", list(Source))
def test_the_stronger_layer_wins(option: Option, strongest: Source) -> None:
    good, weaker = example(option, 0), example(option, 1)
    alone: dict[str, Any] = {"data-dir": "/d", option.name: listed(option, good)}
    options, environ, file = {"data-dir": "/d"}, {}, {option.name: listed(option, weaker, list)}
    origin = Origin(Source.DEFAULT, "default")
    if strongest is Source.OPTION:
        options, environ = alone, {option.variable: weaker}
        origin = Origin(strongest, f"--{option.name}")
    elif strongest is Source.ENVIRONMENT:
        environ, origin = {option.variable: good}, Origin(strongest, option.variable)
    elif strongest is Source.FILE:
        file, origin = {option.name: listed(option, good, list)}, Origin(strongest, FILE)
    else:
        alone, file = options, {}
    resolved = resolve(options, environ, file, FILE, "/cwd")
    assert resolved.settings == resolve(alone, {}, None, FILE, "/cwd").settings
    expected = dict.fromkeys(BY_NAME, Origin(Source.DEFAULT, "default"))
    expected |= {"data-dir": Origin(Source.OPTION, "--data-dir"), option.name: origin}
    assert resolved.sources == expected


@pytest.mark.parametrize(
    ("name", "ours", "foreign"),
    [("data-dir", "PGIDLE_DATA_DIR", "PGDATA"), ("port", "PGIDLE_PORT", "PGPORT")],
)
def test_variables_of_other_programs_are_weaker_than_ours(name: str, ours: str, foreign: str) -> None:
    def said(options: dict[str, str], environ: dict[str, str]) -> tuple[str, str]:
        resolved = resolve(options, environ, {"data-dir": "/4", "port": 4}, FILE, "/")
        value = getattr(resolved.settings, BY_NAME[name].field)
        return str(value).strip("/"), resolved.sources[name].name

    assert said({name: "9"}, {ours: "3", foreign: "2"}) == ("9", f"--{name}")
    assert said({}, {ours: "3", foreign: "2"}) == ("3", ours)
    assert said({}, {foreign: "2"}) == ("2", foreign)
    assert said({}, {foreign: ""}) == said({}, {}) == ("4", FILE)


def test_variables_of_other_programs_are_judged_only_where_they_count() -> None:
    assert read({"port": "1"}, {"PGPORT": "x"}).port == 1
    assert read(environ={"PGIDLE_PORT": "1", "PGPORT": "x"}).port == 1
    assert complaint(environ={"PGPORT": "x"}).startswith("PGPORT: 'x' is not a port: ")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_bad_value_is_named_with_its_place(option: Option) -> None:
    bad, good = example(option, 2), example(option, 0)
    stronger = {option.name: listed(option, good)}
    assert complaint(options={option.name: listed(option, bad)}).startswith(f"--{option.name}: ")
    assert complaint(options=stronger, environ={option.variable: bad or " "}).startswith(option.variable)
    if option.name == "config":
        assert "'config' is unknown" in complaint(file={"config": good})
    else:
        line = complaint(options=stronger, file={option.name: listed(option, bad, list)})
        assert line.startswith(f"{FILE}: {option.name}: ")


def test_the_line_says_what_to_do() -> None:
    hint = "'5 minutes' is not a duration: write 5min, 30s, 2h"
    assert complaint(environ={"PGIDLE_IDLE_TIMEOUT": "5 minutes"}) == f"PGIDLE_IDLE_TIMEOUT: {hint} or off"
    assert complaint(options={"min-awake": "5 minutes"}) == f"--min-awake: {hint}"
    line = f"{FILE}: listeners: 'yes' is not a choice: write keep or ignore"
    assert complaint(file={"listeners": "yes"}) == line
    with pytest.raises(SettingsError, match="no data directory: pass --data-dir"):
        resolve({}, {"PGDATA": ""}, {}, FILE, "/")


@pytest.mark.parametrize(
    ("environ", "file", "expected"),
    [
        ({"PGIDLE_HTPP": ":1"}, {}, "PGIDLE_HTPP: the variable is unknown: did you mean PGIDLE_HTTP?"),
        ({"PGIDLE_QWERTY": "1"}, {}, "PGIDLE_QWERTY: the variable is unknown: known are PGIDLE_DATA_DIR, "),
        ({"PGIDLE_port": "1"}, {}, "PGIDLE_port: the variable is unknown: did you mean PGIDLE_PORT?"),
        ({}, {"idle-timout": "1s"}, "'idle-timout' is unknown: did you mean idle-timeout?"),
        ({}, {"Port": 1}, "'Port' is unknown: did you mean port?"),
        ({}, {"zzz": 1}, "'zzz' is unknown: known are data-dir, "),
        ({}, {"pgidle": {"port": 1}}, "'pgidle' is unknown"),
        ({}, {"min-awake": "1s", "min_awake": "1s"}, "min-awake is given twice"),
    ],
)
def test_what_is_unknown_is_refused(environ: object, file: object, expected: str) -> None:
    assert expected in complaint(environ=environ, file=file)


def test_what_is_not_ours_is_not_judged() -> None:
    assert read(environ={"PGIDLER": "1", "PGUSER": "x", "pgidle_port": "x"}) == read()
    assert read(file={"min_awake": "1s"}) == read(file={"min-awake": "1s"}) == read({"min-awake": "1s"})


def refusal(**layers: Any) -> tuple[Source, str, str]:
    """Where what was refused came from, as data, and which setting it is."""
    with pytest.raises(RefusedSetting) as caught:
        read(**layers)
    return caught.value.origin.source, caught.value.origin.name, caught.value.setting


def test_http_cannot_have_the_port_of_postgres() -> None:
    assert complaint(options={"http": ":5432"}).startswith("--http: port 5432 is Postgres's own: ")
    both = {"http": ":5433", "port": "5433"}
    assert complaint(options=both).startswith("--port: health and status are served on port 5433: ")
    assert refusal(options=both) == (Source.OPTION, "--port", "port")
    assert refusal(environ={"PGPORT": "8008"}) == (Source.ENVIRONMENT, "PGPORT", "port")


def test_an_error_carries_where_its_value_came_from() -> None:
    assert refusal(options={"port": "x"}) == (Source.OPTION, "--port", "port")
    assert refusal(environ={"PGPORT": "x"}) == (Source.ENVIRONMENT, "PGPORT", "port")
    assert refusal(environ={"PGIDLE_PROT": "1"}) == (Source.ENVIRONMENT, "PGIDLE_PROT", "PGIDLE_PROT")
    assert refusal(file={"min_awake": "x"}) == (Source.FILE, FILE, "min-awake")
    assert refusal(file={"prot": 1}) == (Source.FILE, FILE, "prot")
    with pytest.raises(RefusedSetting) as caught:
        resolve({"data-dir": "/d"}, {}, None, None, "/", ("-p77",))
    assert caught.value.origin.source is Source.POSTGRES_ARGUMENTS
    assert caught.value.setting == "port"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('port = 1\nmin-awake = "x"\n', 2),
        ('# min-awake = "x"\n\n  min_awake="x"', 3),
        ('"min-awake" = "x"', 1),
        ("watch = '''\nmin-awake = 1\n'''\nmin-awake = 1", 4),
        ("[min-awake]\na = 1", 1),
        ("port = 1", None),
    ],
)
def test_the_line_of_a_setting_is_found(text: str, line: int | None) -> None:
    assert line_of(text, "min-awake") == line
    refused = RefusedSetting(Origin(Source.FILE, FILE), "min-awake", "no", "do").at_line(line)
    assert refused.origin == Origin(Source.FILE, FILE, line)
    assert refused.message == f"{FILE}{f':{line}' if line else ''}: no"


def test_paths_follow_the_data_directory() -> None:
    found = resolve({"data-dir": "x/../d/"}, {}, None, "f.toml", "/").settings
    assert (found.data_dir, found.state_dir, found.config) == ("/d", "/d/pgidle", "/f.toml")


RAW = st.recursive(
    st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.datetimes(), st.just("5min")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)


@given(
    st.dictionaries(NAMES, st.text(), max_size=2),
    st.dictionaries(NAMES.map(lambda name: BY_NAME[name].variable), st.text(), max_size=2),
    st.dictionaries(st.one_of(NAMES, st.text()), RAW, max_size=2),
)
@settings(max_examples=1000, deadline=None)
def test_any_input_is_read_or_refused_in_one_line(options: Any, environ: Any, file: Any) -> None:
    try:
        read(options, environ, file)
    except SettingsError as error:
        line = str(error)
    else:
        return
    assert line.isprintable()
    assert ": " in line


def test_where_the_file_is_looked_for() -> None:
    assert config_path({}, {}, "/cwd") == (None, False)
    assert config_path({"data-dir": "/v/d/"}, {"PGDATA": "/w/d"}, "/cwd") == ("/v/pgidle.toml", False)
    assert config_path({}, {"PGDATA": "/w/d", "PGIDLE_DATA_DIR": "/x/d"}, "/") == ("/x/pgidle.toml", False)
    assert config_path({}, {"PGDATA": "d"}, "/cwd") == ("/cwd/pgidle.toml", False)
    assert config_path({"config": "c"}, {"PGIDLE_CONFIG": "/e"}, "/cwd") == ("/cwd/c", True)
    assert config_path({"data-dir": "/v/d"}, {"PGIDLE_CONFIG": "/e"}, "/cwd") == ("/e", True)


def test_a_file_is_parsed() -> None:
    assert parse_file(b'port = 1\nignore = ["user=a"]', FILE) == {"port": 1, "ignore": ["user=a"]}


@pytest.mark.parametrize("content", [b"port", b"port = ", b"\xff", b"a = 1\na = 2", b"a=" + b"[" * 100_000])
def test_a_broken_file_is_refused(content: bytes) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_file(content, FILE)
    assert str(caught.value).startswith(f"{FILE}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("-D", "/elsewhere"), "--data-dir"),
        (("-c", "log_statement=all", "-p77"), "--port"),
        (("-c", "port=77"), "--port"),
        (("-clisten_addresses=*",), "--listen-addresses"),
        (("--listen-addresses=*",), "--listen-addresses"),
        (("-k", "/tmp"), "--socket-dir"),
        (("--idle_timeout=5s",), "--idle-timeout"),
        (("--when-idle", "stay"), "--when-idle"),
    ],
)
def test_what_is_pgidle_s_own_is_refused_after_the_dashes(words: tuple[str, ...], option: str) -> None:
    with pytest.raises(SettingsError, match=f"use {option}"):
        resolve({"data-dir": "/d"}, {}, None, None, "/", words)


def test_all_else_goes_to_postgres() -> None:
    words = ("-c", "port_check=1", "-B", "64", "--work-mem=4MB", "-c", "log_line_prefix=-p")
    assert resolve({"data-dir": "/d"}, {}, None, None, "/", words).settings.postgres_args == words
