"""Records as bytes, and back: the wire format between two processes of the same program.

A value is encoded as a letter and its content. A record is its name and its fields in order; decoding checks every
field against the record's annotations, so that anything else is an error and never a surprise. Nothing is imported for
it: json alone would be a tenth of the supervisor's memory.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Kinds = Mapping[str, type[Any]]
    """Records and enumerations, by class name."""

DEEPEST = 8
"""Levels of nested values."""
_CONSTANTS = {b"N": None, b"T": True, b"F": False}


class WireError(Exception):
    """The bytes are not a record, or a field has a wrong type."""


def encode(value: object) -> bytes:
    """A value as bytes: None, bool, int, float, str, bytes, tuples, enumerations and records. Raises WireError."""
    if value is None or value is True or value is False:
        return b"N" if value is None else b"T" if value else b"F"
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, float):
        return f"d{value!r};".encode()
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        return b"s%d;%b" % (len(data), data)
    if isinstance(value, bytes):
        return b"b%d;%b" % (len(value), value)
    if isinstance(value, tuple):
        return b"t%d;%b" % (len(value), b"".join(map(encode, value)))
    kind = type(value)
    if (fields := getattr(kind, "__match_args__", None)) is not None:
        return b"r%b;%b" % (kind.__name__.encode(), b"".join(encode(getattr(value, one)) for one in fields))
    if (member := getattr(value, "name", None)) is not None:
        return f"e{kind.__name__}.{member};".encode()
    raise WireError(f"a {kind.__name__} cannot be sent")


def decode(data: bytes, kinds: Kinds) -> Any:
    """The record that `data` encodes, of one of these kinds. Raises WireError."""
    try:
        value, end = _read(data, 0, kinds, DEEPEST)
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, StopIteration) as error:
        raise WireError(f"{len(data)} bytes are not a record: {type(error).__name__}") from None
    if end != len(data) or getattr(type(value), "__match_args__", None) is None:
        raise WireError(f"{len(data)} bytes are not one record")
    return value


def _read(data: bytes, at: int, kinds: Kinds, depth: int) -> tuple[Any, int]:
    """The value that begins at `at`, and the position behind it."""
    if depth < 0:
        raise WireError("values are nested too deeply")
    letter = data[at : at + 1]
    if letter in _CONSTANTS:
        return _CONSTANTS[letter], at + 1
    end = data.index(b";", at)
    word, at = data[at + 1 : end].decode("ascii"), end + 1
    match letter:
        case b"i":
            return int(word), at
        case b"d":
            return float(word), at
        case b"e":
            name, _, member = word.partition(".")
            return next(one for one in kinds[name] if one.name == member), at
        case b"r":
            return _read_record(kinds[word], data, at, kinds, depth)
        case b"t":
            values = []
            for _ in range(int(word)):
                value, at = _read(data, at, kinds, depth - 1)
                values.append(value)
            return tuple(values), at
    return _read_text(letter, int(word), data, at)


def _read_text(letter: bytes, size: int, data: bytes, at: int) -> tuple[str | bytes, int]:
    if letter not in (b"s", b"b") or not 0 <= size <= len(data) - at:
        raise WireError(f"no value can begin with {letter!r} and {size}")
    piece = data[at : at + size]
    return piece.decode("utf-8", "surrogateescape") if letter == b"s" else piece, at + size


def _read_record(kind: type[Any], data: bytes, at: int, kinds: Kinds, depth: int) -> tuple[Any, int]:
    values = []
    for name in kind.__match_args__:
        value, at = _read(data, at, kinds, depth - 1)
        annotation = kind.__annotations__[name]
        if not _fits(value, annotation):
            raise WireError(f"{kind.__name__}.{name} is {annotation}, not {type(value).__name__}")
        values.append(value)
    return kind(*values), at


def _fits(value: object, annotation: str) -> bool:
    """Whether a value matches a record's annotation."""
    return any(_is(value, one) for one in annotation.split(" | "))


def _is(value: object, annotation: str) -> bool:
    if annotation == "None":
        return value is None
    if annotation == "float":
        return type(value) in (float, int)
    if not annotation.startswith("tuple["):
        return type(value).__name__ == annotation
    parts = annotation[len("tuple[") : -1].split(", ")
    if not isinstance(value, tuple):
        return False
    if parts[-1] == "...":
        return all(_is(one, parts[0]) for one in value)
    return len(value) == len(parts) and all(map(_is, value, parts))
