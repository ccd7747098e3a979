"""The statements of the watching session: each name has its schema, for whatever version."""

from __future__ import annotations

import re

import pytest

from pgidle.observer import look_query

VERSIONS = [12, 13, 14, 15, 16, 17, 18]
# What may stand before a parenthesis, or between two operands, and is looked up in no schema.
WORDS = {
    *("AND", "AS", "BY", "CASE", "ELSE", "EXISTS", "EXTRACT", "FILTER", "FROM", "IN", "JOIN", "LATERAL"),
    *("MATERIALIZED", "NOT", "ON", "OPERATOR", "SELECT", "THEN", "WHEN", "WHERE", "coalesce", "c", "l", "s"),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_has_its_schema(version: int) -> None:
    """Functions, types, relations and operators; what is left over is SQL's own."""
    said = [
        look_query.look(version, counts_itself=True).decode(),
        look_query.set_superuser_pins(version).decode(),
        look_query.FLUSH.decode(),
    ]
    for text in said:
        bare = re.sub(r"'[^']*'", "''", text)
        assert set(re.findall(r"(?<![.\w])([A-Za-z_]\w*)\s*\(", bare)) <= WORDS
        assert not re.findall(r"::(?!pg_catalog\.)\S*", bare)
        assert {
            name
            for name in re.findall(r"\b(?:FROM|JOIN)\s+([\w.]+)", bare)
            if not name.startswith(("pg_catalog.", "a.", "d.", "c."))
        } <= {"counters", "sessions", "slots"}
        without = re.sub(r"OPERATOR\(pg_catalog\.[^)]*\)|::|\bc\.line\b|count\(\*\)", "", bare)
        assert not re.findall(r"[=<>~!@#%^&|?+*/-]+", without)
        assert not re.findall(r"(?i)\b(like|ilike|similar|between|distinct|using|nullif)\b", without)
