"""Settings: what each option accepts, which layer wins, and what a mistake is answered with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgidle.base.errors import SettingsError
from pgidle.postgres.conninfo import harmless
from pgidle.settings.load import line_of
from pgidle.settings.options import (
    LONGEST,
    OPTIONS,
    UNITS,
    Counts,
    Ignore,
    IgnoreField,
    LogFormat,
    Option,
    Tls,
    WhenIdle,
    format_duration,
    parse_duration,
)
from pgidle.settings.settings import (
    Kind,
    Origin,
    RefusedSetting,
    Settings,
    Source,
    config_path,
    describe,
    live_changes,
    parse_file,
    resolve,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "/etc/pgidle.toml"
BY_NAME = {option.name: option for option in OPTIONS}
NAMES = st.sampled_from(list(BY_NAME))
LIVE = set(
    "idle-timeout min-awake when-idle idle-sessions replication advisory-locks listeners autovacuum-limit"
    " ignore no-wake stop-timeout".split()
)
# Two values per kind that are good, and one that is not.
EXAMPLES = {
    Kind.ADDRESSES: ("10.0.0.1", "::1,db.example", "10.0.0.300"),
    Kind.CONNINFO: ("dbname=a", "dbname=b", "postgres"),
    Kind.DURATION: ("7s", "8min", "5 minutes"),
    Kind.ENDPOINT: ("[::1]:80", ":81", "localhost"),
    Kind.MANY: ("user=a", "address=10.0.0.0/8", "exporter"),
    Kind.NO_WAKE: ("10.0.0.8", "/run/x", "run/x"),
    Kind.PATH: ("/a", "b/../c", ""),
    Kind.PORT: ("1", "65535", "65536"),
    Kind.TEXT: ("ann", "bob", ""),
}


def example(option: Option, which: int) -> str:
    if option.kind is Kind.CHOICE:
        return [*(str(choice.value) for choice in option.choices), "maybe"][which]
    return EXAMPLES[option.kind][which]


def listed(option: Option, value: str, kind: Any = tuple) -> Any:
    """A value as the command line (tuple) or the file (list) gives it."""
    return kind((value,)) if option.is_repeatable else value


def read(
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Mapping[str, object] | None = None,
) -> Settings:
    """Settings with a data directory, unless somebody says another."""
    return resolve(options or {}, {"PGDATA": "/d", **(environ or {})}, file, FILE, "/cwd").settings


def complaint(**layers: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read(**layers)
    assert caught.value.status == 2
    return str(caught.value)


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
        log_format=LogFormat.TEXT,
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
        ({}, {"min-awake": "1s", "min_awake": "1s"}, "min-awake is there twice"),
    ],
)
def test_what_is_unknown_is_refused(environ: object, file: object, expected: str) -> None:
    assert expected in complaint(environ=environ, file=file)


def test_what_is_not_ours_is_not_judged() -> None:
    assert read(environ={"PGIDLER": "1", "PGUSER": "x", "pgidle_port": "x"}) == read()
    assert read(file={"min_awake": "1s"}) == read(file={"min-awake": "1s"}) == read({"min-awake": "1s"})


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(list(UNITS)), st.sampled_from(["", " "]))
def test_durations_are_read_as_postgresql_writes_them(n: int, thousandths: int, unit: str, gap: str) -> None:
    seconds = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    expected = (n + thousandths / 1000) * seconds
    text = f"{n}.{thousandths:03}{gap}{unit}"
    if expected > LONGEST:
        assert "too long" in complaint(options={"idle-timeout": text})
    else:
        assert math.isclose(parse_duration(text), expected, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("30m", 1800), ("1.5 m", 90), ("1w", 604_800), ("2 w", 1_209_600), ("5ms", 0.005)],
)
def test_durations_are_read_as_people_type_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(parse_duration("90m")) == "90min"


@pytest.mark.parametrize("text", ["0", "0.0", "0d", " 0 ", "00"])
def test_zero_needs_no_unit(text: str) -> None:
    assert parse_duration(text) == 0


@given(st.one_of(st.text(), st.text("0123456789.einfa -+dhmsuw")))
def test_a_duration_is_finite_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except SettingsError:
        return
    assert 0 <= seconds <= LONGEST


@given(st.integers(0, LONGEST * 10**6))
def test_a_duration_is_written_as_it_can_be_read(microseconds: int) -> None:
    assert parse_duration(format_duration(microseconds / 10**6)) == microseconds / 10**6


@pytest.mark.parametrize("text", "0s 5min 30s 2h 90s 36h 1d 250ms 1500us 90min".split())
def test_durations_are_written_as_people_write_them(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


BAD = {
    "idle-timeout": "|5|1.5|min|5mins|5MIN|5M|5W|-5min|+5min|1e3s|infs|inf|nan|nans|1..5s|.s|.|1,5s|5min 3s"
    f"|1_0s|\u0665s|\u00b2s|0x1s|OFF|{LONGEST + 1}s|24856d|{'9' * 400}s|{'9' * 400}",
    "port": "|0|65536|-1|x|5432.0|1e3|\u0661| 1|off|" + "9" * 5000,
    "listen-addresses": "| |,|*,|10.0.0.300|127.1|1.2.3|[::1]|::g|a b|a/b|127.0.0.1:5432|\xe9",
    "http": "8008|::1:80|::1|[::1]|[127.0.0.1]:80|[]:80|*:80|:0|:65536|:|a:b|300.1.1.1:80|http://a:80|OFF|[::1:80",
    "ignore": "|user|user=|=a|User=a|role=a|address=x|address=10.0.0.1/8|address=10.0.0.0/33",
    "no-wake": "|x|10.0.0.1/8|10.0.0.0/33|address=10.0.0.1",
    "when-idle": "|EXIT|exit |leave",
    "watch": "|postgres|/run/postgresql",
}
GOOD: dict[str, dict[str, object]] = {
    "listen-addresses": {
        "*": "*",
        "0.0.0.0, ::": "0.0.0.0,::",
        "fe80::1%eth0": "fe80::1%eth0",
        "db-1.example,10.0.0.1": "db-1.example,10.0.0.1",
        "fly-local-6pn": "fly-local-6pn",
    },
    "http": {
        "off": None,
        "127.0.0.1:80": ("127.0.0.1", 80),
        "[fdaa:0::2]:80": ("fdaa:0::2", 80),
        ":80": ("", 80),
        "web.example:80": ("web.example", 80),
    },
    "idle-timeout": {"off": None, "0": 0.0, "1.5 h": 5400.0, ".5s": 0.5},
    "bin-dir": {"/b/": "/b", ".": "/cwd", "x/../y": "/cwd/y"},
    "state-dir": {"s": "/cwd/s"},
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str) -> None:
    for text in BAD[name].split("|"):
        line = complaint(options={name: listed(BY_NAME[name], text)})
        assert line.startswith(f"--{name}: ")
        assert line.isprintable()


@pytest.mark.parametrize("name", GOOD)
def test_what_is_accepted(name: str) -> None:
    for text, value in GOOD[name].items():
        assert getattr(read({name: text}), BY_NAME[name].field) == value


def refusal(**layers: Any) -> tuple[Source, str, str]:
    """Where what was refused came from, as data, and which setting it is."""
    with pytest.raises(RefusedSetting) as caught:
        read(**layers)
    return caught.value.origin.source, caught.value.origin.name, caught.value.setting


def test_http_cannot_have_the_port_of_postgres() -> None:
    assert complaint(options={"http": ":5432"}).startswith("--http: port 5432 is Postgres's own: ")
    both = {"http": ":5433", "port": "5433"}
    assert complaint(options=both).startswith("--port: port 5433 is where health and status are served: ")
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


def test_ignore_in_every_layer() -> None:
    user, network = Ignore(IgnoreField.USER, "a"), Ignore(IgnoreField.ADDRESS, "10.0.0.0/8")
    program = Ignore(IgnoreField.APPLICATION_NAME, "x, y=z")
    assert read({"ignore": ("user=a", "application_name=x, y=z")}).ignore == (user, program)
    assert read(environ={"PGIDLE_IGNORE": "user=a, address=10.0.0.0/8;"}).ignore == (user, network)
    assert read(environ={"PGIDLE_IGNORE": "user=a;address=10.0.0.0/8"}).ignore == (user, network)
    assert read(file={"ignore": ["user = a", "application_name=x, y=z"]}).ignore == (user, program)
    assert read(environ={"PGIDLE_IGNORE": ""}, file={"ignore": ["user=a"]}).ignore == ()


def test_types_in_the_file() -> None:
    assert read(file={"port": 5433}) == read(file={"port": "5433"}) == read({"port": "5433"})
    assert read(file={"min-awake": 0}) == read(file={"min-awake": 0.0}) == read({"min-awake": "0"})
    wrong: list[tuple[str, object]] = [
        *(("port", value) for value in (True, 5432.0, 16**5000)),
        *(("min-awake", value) for value in (5, math.inf, math.nan, False)),
        *(("idle-timeout", False), ("http", False), ("user", 5), ("user", "a\0b"), ("data-dir", ["/d"])),
        *(("ignore", value) for value in ("user=a", 5, [5], [["user=a"]], {"user=a": "x"})),
    ]
    for key, value in wrong:
        assert complaint(file={key: value}).startswith(f"{FILE}: {key}: ")


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


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_described_can_be_read(which: int) -> None:
    said = read({option.name: listed(option, example(option, which)) for option in OPTIONS})
    shown = describe(said, harmless)
    assert [name for name, _ in shown] == list(BY_NAME)
    assert read({name: listed(BY_NAME[name], value) for name, value in shown}) == said


def test_described_as_people_write_it() -> None:
    shown = dict(
        describe(
            read(
                {
                    "http": "off",
                    "ignore": ("user=a", "address=10.0.0.0/8"),
                    "no-wake": ("10.0.0.8", "fdaa::/16"),
                }
            ),
            harmless,
        )
    )
    expected = {
        "http": "off",
        "ignore": "user=a, address=10.0.0.0/8",
        "no-wake": "10.0.0.8/32, fdaa::/16",
        "idle-timeout": "5min",
        "bin-dir": "found",
    }
    assert {name: shown[name] for name in expected} == expected
    assert dict(describe(read({"idle-timeout": "off"}), harmless))["idle-timeout"] == "off"


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=/run password=hunter2 dbname=app",
        r"password = 'hunter2 \' hunter2' dbname=app",
        r"password=x\ hunter2 dbname=app",
        "sslpassword=hunter2 dbname=app",
        "postgresql://me:hunter2@host/app",
        "postgresql://host/app?user=me&password=hunter2",
    ],
)
def test_passwords_are_not_shown(conninfo: str) -> None:
    shown = dict(describe(read({"watch": conninfo}), harmless))["watch"]
    assert "hunter2" not in shown
    assert "***" in shown
    assert "app" in shown


@given(st.sets(NAMES))
def test_live_changes_apply_and_others_are_named(changed: set[str]) -> None:
    def settings_of(changed: set[str]) -> Settings:
        options = {name: listed(o, example(o, int(name in changed))) for name, o in BY_NAME.items()}
        return resolve(options, {}, None, None, "/").settings

    applied, restart = live_changes(settings_of(set()), settings_of(changed))
    assert applied == settings_of(changed & LIVE)
    assert set(restart) == changed - LIVE


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
