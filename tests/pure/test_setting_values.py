"""Settings: what each option accepts, how it is written, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.setting_examples import BY_NAME, FILE, LIVE, NAMES, complaint, example, listed, read
from pgidle.base.errors import SettingsError
from pgidle.postgres.conninfo import harmless
from pgidle.settings.options import (
    LONGEST,
    OPTIONS,
    UNITS,
    Ignore,
    IgnoreField,
    format_duration,
    parse_duration,
    parse_price,
)
from pgidle.settings.resolve import Settings, describe, live_changes, resolve


@pytest.mark.parametrize(
    ("text", "per_hour", "ten_hours"),
    [
        ("0.02/h", 0.02, "0.20"),
        ("$0.02/h", 0.02, "$0.20"),
        ("0.02 EUR/h", 0.02, "0.20 EUR"),
        ("€ 24 / d", 1.0, "€ 10.00"),
        ("73/month", 0.1, "1.00"),
        ("$.001/h", 0.001, "$0.0100"),
        ("0/h", 0.0, "0.00"),
    ],
)
def test_a_price(text: str, per_hour: float, ten_hours: str) -> None:
    price = parse_price(text)
    assert (pytest.approx(price.per_hour), price.of(10), price.text) == (per_hour, ten_hours, text)
    assert dict(describe(read(file={"price": text}), harmless))["price"] == text


@pytest.mark.parametrize(
    "text",
    [
        "0.02",
        "/h",
        "$/h",
        "0.02/year",
        "-1/h",
        "1-2/h",
        "1e3/h",
        "1,000/h",
        "1.2.3/h",
        "²/h",
        "inf/h",
        "$\x1b[1m1/h",
    ],
)
def test_what_is_no_price(text: str) -> None:
    with pytest.raises(SettingsError, match=r"is not a price: write 0\.02/h"):
        parse_price(text)


@given(st.one_of(st.text(), st.text("0123456789.$€ -/hdmonth")))
def test_a_price_is_finite_or_refused(text: str) -> None:
    try:
        price = parse_price(text)
    except SettingsError:
        return
    assert 0 <= price.per_hour < 1e16
    assert price.of(1).isprintable()


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
    "ignore": "|user|user=|=a|User=a|role=a|address=x|address=10.0.0.1/8|address=10.0.0.0/33|statement=|statement=; ;"
    f"|statement=SELECT {'x' * 89}",
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


def test_ignore_in_every_layer() -> None:
    user, network = Ignore(IgnoreField.USER, "a"), Ignore(IgnoreField.ADDRESS, "10.0.0.0/8")
    program = Ignore(IgnoreField.APPLICATION_NAME, "x, y=z")
    assert read({"ignore": ("user=a", "application_name=x, y=z")}).ignore == (user, program)
    assert read(environ={"PGIDLE_IGNORE": "user=a, address=10.0.0.0/8;"}).ignore == (user, network)
    assert read(environ={"PGIDLE_IGNORE": "user=a;address=10.0.0.0/8"}).ignore == (user, network)
    assert read(file={"ignore": ["user = a", "application_name=x, y=z"]}).ignore == (user, program)
    poll = Ignore(IgnoreField.STATEMENT, "SELECT a = 'b, c;'")
    assert read({"ignore": ("statement=SELECT a = 'b, c;'",)}).ignore == (poll,)
    assert read(file={"ignore": ["statement = SELECT a = 'b, c;'"]}).ignore == (poll,)
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


@pytest.mark.parametrize(
    ("receiver", "shown"),
    [
        ("https://hooks.example/services/hunter2", "https://hooks.example/***"),
        ("https://me:hunter2@hooks.example:8443/", "https://hooks.example:8443"),
        ("http://me:hunter2@[::1]:80?token=hunter2", "http://[::1]:80/***"),
        ("https://hooks.example?hunter2", "https://hooks.example/***"),
        ("http://10.0.0.1:81", "http://10.0.0.1:81"),
        ("/usr/../opt/tell", "/opt/tell"),
        ("off", "off"),
    ],
)
def test_of_an_address_that_events_go_to_only_the_server_is_shown(receiver: str, shown: str) -> None:
    assert dict(describe(read({"on-event": receiver}), harmless))["on-event"] == shown


@pytest.mark.parametrize(
    "receiver",
    [
        *("ftp://host/hunter2", "HTTPS://host/hunter2", "hunter2", "./hunter2", "curl https://host/hunter2"),
        *("https:///hunter2", "https://:80/hunter2", "https://*/hunter2", "https://a b/hunter2"),
        *("https://me:p@hunter2@host/", "https://me:hunter2/x@host/", "https://host/hunter2#x"),
        *("https://host/\nhunter2", "https://h\u00f6st/x"),
        *("https://host:0/hunter2", "https://host:x/hunter2", "https://host:/hunter2", "https://::1/hunter2"),
        *("https://[::1/hunter2", "https://[host]/hunter2", "https://10.0.0.300/hunter2"),
    ],
)
def test_a_receiver_that_is_neither_is_refused_and_not_quoted(receiver: str) -> None:
    said = complaint(options={"on-event": receiver})
    assert said.startswith("--on-event: ")
    assert "hunter2" not in said
    assert said.endswith((" or off", "must be escaped (a space as %20)"))


@given(st.sets(NAMES))
def test_live_changes_apply_and_others_are_named(changed: set[str]) -> None:
    def settings_of(changed: set[str]) -> Settings:
        options = {name: listed(o, example(o, int(name in changed))) for name, o in BY_NAME.items()}
        return resolve(options, {}, None, None, "/").settings

    applied, restart = live_changes(settings_of(set()), settings_of(changed))
    assert applied == settings_of(changed & LIVE)
    assert set(restart) == changed - LIVE
