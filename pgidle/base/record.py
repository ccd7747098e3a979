"""Records and enumerations for the supervisor.

Importing `dataclasses`, with `inspect`, takes a third of a cold wake, and `enum` a tenth; while Postgres sleeps they
would be a tenth of all memory. So what the supervisor imports uses `@record` instead: frozen, slotted, compared by
value, and a dataclass to type checkers (PEP 681). It also uses this `Enum`, which type checkers take for the standard
one. Modules of other processes use the standard library's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import Enum as Enum
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_: object):
        return lambda function: function

    class _Members(type):
        """Every name in the class body becomes a member, but for properties and names with a leading underscore."""

        def __new__(cls, name, bases, body):
            values = {
                key: value
                for key, value in body.items()
                if not key.startswith("_") and not isinstance(value, property)
            }
            made = super().__new__(cls, name, bases, {k: v for k, v in body.items() if k not in values})
            made._members = {}
            for key, value in values.items():
                member = made._members[value] = object.__new__(made)
                member.name, member.value = key, value
                type.__setattr__(made, key, member)
            return made

        def __call__(cls, value):
            try:
                return cls._members[value]
            except KeyError:
                raise ValueError(f"{value!r} is not a valid {cls.__name__}") from None

        def __iter__(cls):
            return iter(cls._members.values())

        def __len__(cls):
            return len(cls._members)

        def __setattr__(cls, name, value):
            if name in cls.__dict__ and name != "_members":
                raise AttributeError(f"cannot reassign member {name!r}")
            super().__setattr__(name, value)

    class Enum(metaclass=_Members):
        """Members with a name and a value, each unique; without aliases, methods or automatic values, but with
        properties."""

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"


@dataclass_transform(frozen_default=True, kw_only_default=False)
def record(cls: type[T]) -> type[T]:
    """Make a frozen, slotted record of a class whose body only annotates its fields and their defaults."""
    names = tuple(cls.__annotations__)
    defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    body = {
        k: v for k, v in cls.__dict__.items() if k not in defaults and k not in ("__dict__", "__weakref__")
    }
    set_field = object.__setattr__

    def __init__(self: T, *values: object, **named: object) -> None:
        for name, value in _bind(cls.__name__, names, defaults, values, named).items():
            set_field(self, name, value)

    def __setattr__(self: T, name: str, _value: object) -> None:
        raise AttributeError(f"{cls.__name__} is immutable: {name}")

    def __delattr__(self: T, name: str) -> None:
        raise AttributeError(f"{cls.__name__} is immutable: {name}")

    def __eq__(self: object, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def __hash__(self: object) -> int:
        return hash((type(self), *(getattr(self, name) for name in names)))

    def __repr__(self: object) -> str:
        return f"{cls.__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    body |= {
        "__slots__": names,
        "__match_args__": names,
        "__init__": __init__,
        "__setattr__": __setattr__,
        "__delattr__": __delattr__,
        "__eq__": __eq__,
        "__hash__": __hash__,
        "__repr__": __repr__,
    }
    made: type[T] = type.__new__(type(cls), cls.__name__, cls.__bases__, body)
    return made


def _bind(
    of: str,
    names: tuple[str, ...],
    defaults: dict[str, object],
    values: tuple[object, ...],
    named: dict[str, object],
) -> dict[str, object]:
    """The value of every field. Raises TypeError as a function's call would."""
    if len(values) > len(names):
        raise TypeError(f"{of}: {len(values)} values for {len(names)} fields")
    given = dict(zip(names, values, strict=False))
    if unknown := [name for name in named if name in given or name not in names]:
        raise TypeError(f"{of}: {unknown[0]} is unknown or given twice")
    bound = defaults | given | named
    if missing := [name for name in names if name not in bound]:
        raise TypeError(f"{of}: {missing[0]} is missing")
    return bound


def replace(value: T, **changes: Any) -> T:
    """A copy of a record with some fields changed."""
    fields: tuple[str, ...] = type(value).__slots__  # type: ignore[attr-defined]
    return type(value)(**{name: getattr(value, name) for name in fields} | changes)
