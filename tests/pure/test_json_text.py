"""JSON that is put together by hand is what the standard library reads."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as some

from pgidle.base.json_text import encode

ATOMS = some.one_of(
    some.none(), some.booleans(), some.integers(-(2**60), 2**60), some.floats(-1e12, 1e12), some.text()
)
VALUES = some.recursive(ATOMS, lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner))


@given(VALUES)
def test_it_reads_as_it_was(value: object) -> None:
    line = encode(value)  # type: ignore[arg-type]
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line) == rounded(value)


def rounded(value: object) -> object:
    """As it is written: with 15 digits."""
    if isinstance(value, float):
        return float(f"{value:.15g}")
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return {name: rounded(one) for name, one in value.items()} if isinstance(value, dict) else value


def test_what_json_has_no_number_for_is_null() -> None:
    assert encode((math.inf, -math.inf, math.nan)) == "[null, null, null]"
