"""JSON by hand, for the supervisor: the standard library's module costs more memory than all that is written with it.

An import at a moment when the machine lacks something could fail, too, and what is to be logged may be just that.
"""

from __future__ import annotations

from _json import encode_basestring_ascii as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    Value: TypeAlias = str | float | bool | Sequence["Value"] | Mapping[str, "Value"] | None

__all__ = ["encode", "quoted"]


def encode(value: Value) -> str:
    """A value as JSON in one line of ASCII. A number that JSON does not know (infinity) becomes null."""
    if isinstance(value, str):
        return quoted(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.15g}" if abs(value) < float("inf") else "null"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(encode, value)) + "]"
    if hasattr(value, "items"):
        return "{" + ", ".join(f"{quoted(name)}: {encode(one)}" for name, one in value.items()) + "}"
    return quoted(str(value))
