"""Example values of every setting, and settings read from the layers that a test names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from pgidle.base.errors import SettingsError
from pgidle.settings.options import OPTIONS, Kind, Option
from pgidle.settings.resolve import Settings, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping
FILE = "/etc/pgidle.toml"
BY_NAME = {option.name: option for option in OPTIONS}
NAMES = st.sampled_from(list(BY_NAME))
LIVE = set(
    "idle-timeout min-awake when-idle idle-sessions replication advisory-locks listeners autovacuum-limit"
    " ignore no-wake stop-timeout on-event price".split()
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
    Kind.RECEIVER: ("/a/program", "https://host.example", "program"),
    Kind.PRICE: ("0.02/h", "$15/month", "cheap"),
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
