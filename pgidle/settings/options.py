"""The options: the name of each, how it is read from text, and how it is written back.

Durations are seconds. A bad value raises a SettingsError, which does not know yet where the value came from.
"""

from __future__ import annotations

from os.path import normpath

from pgidle.base.errors import SettingsError
from pgidle.base.record import Enum, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Options = Mapping[str, str | tuple[str, ...]]

PREFIX = "PGIDLE_"
# In microseconds, longest first: PostgreSQL's own spellings, case included.
UNITS = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
# What people also write, from Prometheus, Go and systemd. `m` is minutes: nobody means months or metres of an idle
# timeout, and milliseconds are `ms` everywhere.
SPELLINGS = {**UNITS, "w": 7 * UNITS["d"], "m": UNITS["min"]}
LONGEST = 2_147_483_647  # seconds: INT_MAX, where PostgreSQL's own settings in seconds end
WHOLE_BELOW = 96
"""Bytes of a statement: shorter ones are known whole, whatever track_activity_query_size is (100 at least)."""
HOURS = {"h": 1, "d": 24, "month": 730}
"""Hours of the times for which prices are given."""
# Certainly valid: these must not cost the wake an import of ipaddress.
COMMON_HOSTS = ("", "*", "localhost", "0.0.0.0", "127.0.0.1", "::", "::1")


class WhenIdle(Enum):
    EXIT = "exit"
    STAY = "stay"


class Counts(Enum):
    KEEP = "keep"
    IGNORE = "ignore"


class LogFormat(Enum):
    TEXT = "text"
    JSON = "json"


class Tls(Enum):
    AS_CONFIGURED = "as-configured"
    SELF_SIGNED = "self-signed"


class IgnoreField(Enum):
    APPLICATION_NAME = "application_name"
    USER = "user"
    ADDRESS = "address"
    STATEMENT = "statement"


class Kind(Enum):
    ADDRESSES = "addresses"
    CHOICE = "choice"
    CONNINFO = "conninfo"
    DURATION = "duration"
    ENDPOINT = "endpoint"
    MANY = "many"
    NO_WAKE = "no-wake"
    PATH = "path"
    PORT = "port"
    RECEIVER = "receiver"
    PRICE = "price"
    TEXT = "text"


@record
class Option:
    """One setting: `default` as a person would write it, `unset` the meaning of having no value."""

    name: str
    kind: Kind
    default: str | None
    help: str
    unset: str = ""
    flags: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    choices: tuple[Enum, ...] = ()
    live: bool = False

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")

    @property
    def is_repeatable(self) -> bool:
        return self.kind in (Kind.MANY, Kind.NO_WAKE)

    @property
    def variable(self) -> str:
        return PREFIX + self.field.upper()


def _counts(name: str, default: str, who: str) -> Option:
    text = f"whether {who} keep Postgres awake"
    return Option(name, Kind.CHOICE, default, text, choices=tuple(Counts), live=True)


def _duration(name: str, default: str, text: str, unset: str = "") -> Option:
    return Option(name, Kind.DURATION, default, text, unset, live=True)


OPTIONS = (
    Option("data-dir", Kind.PATH, None, "data directory", flags=("-D",), env=("PGDATA",)),
    Option("bin-dir", Kind.PATH, None, "folder of the postgres binary", "found"),
    Option(
        "listen-addresses", Kind.ADDRESSES, "*", "addresses of Postgres and the gate, separated by commas"
    ),
    Option("port", Kind.PORT, "5432", "port of Postgres and the gate", flags=("-p",), env=("PGPORT",)),
    Option("socket-dir", Kind.PATH, None, "folder of the Unix socket", "as Postgres's"),
    _duration("idle-timeout", "5min", "time without use before sleep; off: never sleep", "off"),
    _duration("min-awake", "30s", "never sleep sooner than this after waking"),
    Option("when-idle", Kind.CHOICE, "exit", "what follows sleep", choices=tuple(WhenIdle), live=True),
    _counts("idle-sessions", "ignore", "sessions that are connected but idle"),
    _counts("replication", "keep", "walsenders and subscriptions"),
    _counts("advisory-locks", "keep", "idle sessions that hold an advisory lock"),
    _counts("listeners", "keep", "sessions that LISTEN"),
    _duration("autovacuum-limit", "30min", "how long maintenance may delay sleep; 0: not at all"),
    Option(
        "ignore",
        Kind.MANY,
        None,
        "what never counts: application_name=, user=, address= or statement=",
        live=True,
    ),
    Option(
        "no-wake", Kind.NO_WAKE, None, "addresses and socket folders that do not wake Postgres", live=True
    ),
    Option("http", Kind.ENDPOINT, "127.0.0.1:8008", "where health and status are served, or off", "off"),
    Option("state-dir", Kind.PATH, None, "control socket and own files", "pgidle in the data directory"),
    Option("user", Kind.TEXT, None, "user to become when started as root", "the data directory's owner"),
    _duration("stop-timeout", "4s", "time that a fast shutdown gets before an immediate one"),
    Option("config", Kind.PATH, None, "settings file", "pgidle.toml beside the data directory"),
    Option("watch", Kind.CONNINFO, None, "connection string of the watching connection", "found"),
    Option("tls", Kind.CHOICE, "as-configured", "whose certificate Postgres shows", choices=tuple(Tls)),
    Option(
        "on-event",
        Kind.RECEIVER,
        None,
        "program or http(s) address that is given each event",
        "off",
        live=True,
    ),
    Option("log-format", Kind.CHOICE, "text", "how pgidle writes its log lines", choices=tuple(LogFormat)),
    Option("price", Kind.PRICE, None, "what the machine costs: $0.02/h, 15 EUR/month", "unknown", live=True),
)


@record
class Ignore:
    """Sessions that never count: those whose `field` is `value` (an address: a network, as in 10.0.0.0/8). Of a
    statement, only the use that consists in it."""

    field: IgnoreField
    value: str


@record
class Price:
    """What the machine costs while it runs: `per_hour` in the currency that `before` or `behind` the number names, if
    one does. `text`: as it was written."""

    per_hour: float
    before: str
    behind: str
    text: str

    def of(self, hours: float) -> str:
        """The money for so many hours, as the price was written."""
        amount = self.per_hour * hours
        return f"{self.before}{amount:.{2 if amount >= 0.1 or not amount else 4}f}{self.behind}"


def parse_price(text: str) -> Price:
    """A price for a time: 0.02/h, $0.50/d, 15 EUR/month (of 730 h, as clouds count)."""
    money, _, unit = (part.strip() for part in text.rpartition("/"))
    number = money.strip("".join(letter for letter in money if letter not in "0123456789."))
    before, _, behind = money.partition(number or "/")
    is_number = number.replace(".", "", 1).isdigit() and number.isascii() and len(number) < 16
    is_plain = len(before + behind) <= 10 and (before + behind).isprintable() and "-" not in before
    if unit not in HOURS or not is_number or not is_plain:
        raise SettingsError(f"{text!r} is not a price", "write 0.02/h, $0.50/d, 15 EUR/month")
    return Price(float(number) / HOURS[unit], before, behind, text.strip())


def parse_duration(text: str) -> float:
    """Seconds of a duration as PostgreSQL writes it: 5min, 1.5 h, 250ms; also 5m and 1w. Only 0 goes without a unit."""
    stripped = text.strip()
    number = stripped.rstrip("dhimnsuw")
    unit, number = stripped[len(number) :], number.rstrip()
    plain = number.isascii() and number.replace(".", "", 1).isdigit()
    if not plain or (unit not in SPELLINGS if unit else float(number) != 0):
        raise SettingsError(f"{text!r} is not a duration", "write 5min, 30s, 2h")
    seconds = float(number) * SPELLINGS.get(unit, 0) / 1_000_000
    if seconds > LONGEST:
        raise SettingsError(f"{text!r} is too long a duration", f"write at most {LONGEST // 86_400}d")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration as people write it, exact to the microsecond."""
    amount = round(seconds * 1_000_000)
    unit = next(unit for unit, size in UNITS.items() if amount % size == 0) if amount else "s"
    return f"{amount // UNITS[unit]}{unit}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535


def _port(text: str) -> int:
    if not _is_port(text):
        raise SettingsError(f"{text!r} is not a port", "write a number from 1 to 65535")
    return int(text)


def _is_host(text: str) -> bool:
    """Whether this is an IP address or could be a host's name; nothing is asked of a resolver."""
    if text in COMMON_HOSTS:
        return True
    if ":" not in text and text.strip("0123456789."):
        return text.isascii() and text.replace("-", "").replace(".", "").replace("_", "").isalnum()
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _addresses(text: str) -> str:
    hosts = [host.strip() for host in text.split(",")]
    for host in hosts:
        if not host or not _is_host(host):
            raise SettingsError(f"{host!r} is not an address", "write * or addresses separated by commas")
    return ",".join(hosts)


def _endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not colon or bracketed != (":" in bare) or bare == "*" or not _is_host(bare):
        raise SettingsError(f"{text!r} is not host:port", "write 127.0.0.1:8008, [::1]:8008, :8008")
    return bare, _port(port)


def _conninfo(text: str) -> str:
    if "=" not in text and not text.startswith(("postgresql://", "postgres://")):
        raise SettingsError(
            "this is not a connection string", "write dbname=... user=... or postgresql://..."
        )
    _, is_uri, rest = text.partition("://") if text.startswith("postgres") else ("", "", "")
    user_and_hosts, _, path = rest.partition("?")[0].partition("/")
    if is_uri and (user_and_hosts.count("@") > 1 or "@" in path):
        # libpq would take the rest of a password for a host, and show it in what it complains of.
        raise SettingsError(
            "a name or password has a bare @ or / in it", "write @ as %40, / as %2F, : as %3A"
        )
    return text


def _ignore(text: str) -> Ignore:
    name, _, value = (part.strip() for part in text.partition("="))
    field = next((field for field in IgnoreField if field.value == name), None)
    if not field or not value:
        raise SettingsError(
            f"{text!r} does not say which sessions", "write application_name=, user=, address= or statement="
        )
    if field is IgnoreField.STATEMENT and not (value.strip("; ") and len(value.encode()) < WHOLE_BELOW):
        raise SettingsError(
            f"{text!r} has no statement of less than {WHOLE_BELOW} bytes", "write statement=SELECT 1"
        )
    if field is IgnoreField.ADDRESS:
        import ipaddress

        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise SettingsError(f"{text!r}: {error}", "write an address, or a network: 10.0.0.0/8") from None
    return Ignore(field, value)


def _receiver(text: str) -> str:
    from pgidle.settings.receiver import authority, host_and_port, is_address  # Only where there is one.

    if text.startswith("/"):
        return normpath(text)
    # Neither error quotes the text, which may hold a secret.
    if not is_address(text):
        raise SettingsError(
            "this is no program and no address", "write /path/of/program, http://... or https://..."
        )
    who_and_where = authority(text)
    if not all("!" <= letter <= "~" for letter in text) or who_and_where.count("@") > 1 or "#" in text:
        raise SettingsError("the address contains a character that must be escaped (a space as %20)")
    host, port = host_and_port(who_and_where)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_valid = bare and bare != "*" and (bare != host) is (":" in bare) and _is_host(bare)
    if not is_valid or not (port is None or _is_port(port)):
        raise SettingsError("the address has no valid host and port", "write https://host/path")
    return text


def _no_wake(text: str) -> str:
    if is_folder(text):
        return normpath(text)
    import ipaddress

    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError as error:
        hint = "write an address, a network (10.0.0.0/8), or a folder (/run/exporter)"
        raise SettingsError(f"{text!r}: {error}", hint) from None


def is_folder(no_wake: str) -> bool:
    """Whether a value of no-wake is a folder of Unix sockets, and no network."""
    return no_wake.startswith("/")


def absolute(cwd: str, path: str) -> str:
    return normpath(path if path.startswith("/") else f"{cwd.rstrip('/')}/{path}")


def read_value(option: Option, text: str, cwd: str) -> Any:
    if not text.strip() or "\0" in text:
        raise SettingsError("the value is empty or has a zero byte", "write one, or leave the setting out")
    if option.unset == "off" and text == "off":
        return None
    if option.kind is Kind.PATH:
        return absolute(cwd, text)
    if option.kind is Kind.CHOICE:
        choices = {choice.value: choice for choice in option.choices}
        if text not in choices:
            raise SettingsError(f"{text!r} is not a choice", f"write {' or '.join(choices)}")
        return choices[text]
    readers: dict[Kind, Callable[[str], Any]] = {
        Kind.ADDRESSES: _addresses,
        Kind.CONNINFO: _conninfo,
        Kind.DURATION: parse_duration,
        Kind.ENDPOINT: _endpoint,
        Kind.MANY: _ignore,
        Kind.NO_WAKE: _no_wake,
        Kind.PORT: _port,
        Kind.RECEIVER: _receiver,
        Kind.PRICE: parse_price,
        Kind.TEXT: str,
    }
    try:
        return readers[option.kind](text)
    except SettingsError as error:
        if option.unset == "off" and error.hint:
            error.hint += " or off"
        raise


def printable(option: Option, value: Any, harmless: Callable[[str], str]) -> str:
    """A value as a person would write it, or what having none means. `harmless` hides what a connection string has of
    secrets."""
    if value is None:
        return option.unset
    if option.kind is Kind.DURATION:
        return format_duration(value)
    if option.kind is Kind.MANY:
        return ", ".join(f"{entry.field.value}={entry.value}" for entry in value)
    if option.kind is Kind.NO_WAKE:
        return ", ".join(value)
    if option.kind is Kind.ENDPOINT:
        return f"[{value[0]}]:{value[1]}" if ":" in value[0] else f"{value[0]}:{value[1]}"
    if option.kind is Kind.RECEIVER:
        from pgidle.settings.receiver import harmless_receiver

        return harmless_receiver(value)
    if option.kind is Kind.CONNINFO:
        return harmless(value)
    if option.kind is Kind.PRICE:
        return str(value.text)
    return str(value.value if isinstance(value, Enum) else value)
