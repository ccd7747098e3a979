"""Records: immutable values that cost no import of dataclasses."""

from __future__ import annotations

import enum
import subprocess
import sys
from typing import Any

import pytest

from pgidle.base.record import Enum, record, replace
from pgidle.observer.messages import Pong
from pgidle.observer.record_encoding import WireError, decode


@record
class Point:
    """A place."""

    x: int
    y: int = 0
    tags: tuple[str, ...] = ()

    @property
    def sum(self) -> int:
        return self.x + self.y

    def moved(self, by: int) -> Point:
        return replace(self, x=self.x + by)


@record
class Twin:
    x: int
    y: int = 0
    tags: tuple[str, ...] = ()


def test_fields_by_position_by_name_and_by_default() -> None:
    point = Point(1, y=2)
    assert (point.x, point.y, point.tags, point.sum) == (1, 2, (), 3)
    assert Point(x=1) == Point(1, 0, ())
    assert Point.__doc__ == "A place."


@pytest.mark.parametrize(
    ("values", "named", "complaint"),
    [
        ((), {}, "x is missing"),
        ((), {"y": 1}, "x is missing"),
        ((1, 2, (), 4), {}, "4 values for 3 fields"),
        ((1,), {"z": 1}, "z is unknown"),
        ((1,), {"x": 1}, "x is unknown or given twice"),
    ],
)
def test_wrong_fields_are_refused(
    values: tuple[object, ...], named: dict[str, object], complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        Point(*values, **named)  # type: ignore[arg-type]


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(point, name, 5)
    with pytest.raises((AttributeError, TypeError)):
        del point.x
    assert point == Point(1)
    assert not hasattr(point, "__dict__")


def test_equal_by_value_and_type() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(1, 3)
    others: list[object] = [Twin(1, 2), (1, 2, ())]
    assert Point(1, 2) not in others
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    assert {Point(1), Twin(1), Point(1)} == {Point(1), Twin(1)}


def test_replace_copies() -> None:
    point = Point(1, 2, ("a",))
    assert replace(point, y=5) == Point(1, 5, ("a",))
    assert point.moved(2) == Point(3, 2, ("a",))
    assert point == Point(1, 2, ("a",))
    with pytest.raises(TypeError, match="z is unknown"):
        replace(point, z=1)


def test_shown_and_matched_as_a_dataclass() -> None:
    assert repr(Point(1, 2)) == "Point(x=1, y=2, tags=())"
    match Point(1, 2):
        case Point(x, 2):
            assert x == 1
        case _:
            pytest.fail("a record matches by position")


def test_costs_no_import() -> None:
    code = "import sys; before = set(sys.modules); import pgidle.base.record; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"__future__"} == {"pgidle", "pgidle.base", "pgidle.base.record"}


class Light(Enum):
    RED = "red"
    GREEN = "green"


class Heavy(enum.Enum):
    RED = "red"
    GREEN = "green"


@pytest.mark.parametrize("kind", [Light, Heavy])
def test_an_enumeration_does_what_the_standard_librarys_does(kind: Any) -> None:
    assert [(one.name, one.value) for one in kind] == [("RED", "red"), ("GREEN", "green")]
    assert len(kind) == 2
    assert kind("red") is kind.RED
    assert isinstance(kind.RED, kind)
    assert kind.RED != kind.GREEN
    assert {kind.RED: 1}[kind("red")] == 1
    assert repr(kind.RED) == f"<{kind.__name__}.RED: 'red'>"
    with pytest.raises(ValueError, match=f"'blue' is not a valid {kind.__name__}"):
        kind("blue")
    with pytest.raises(AttributeError, match="cannot reassign member 'RED'"):
        kind.RED = "blue"


def test_a_member_of_what_is_no_enumeration_is_no_record() -> None:
    with pytest.raises(WireError, match="are not a record"):
        decode(b"ePong.x;", {"Pong": Pong})
