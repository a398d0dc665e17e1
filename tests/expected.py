"""expected: what a test says about a message or event, and how either is shown in a line.

It knows JSON as Python has it, and nothing of sessions. An expectation is partial where it is an
object, so that a test names what it is about and nothing else.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec


class Anything:
    """Equal to any value that is there."""

    def __repr__(self) -> str:
        return "ANY"


class Absent:
    """Equal to a field that is not there."""

    def __repr__(self) -> str:
        return "ABSENT"


ANY = Anything()
ABSENT = Absent()


class Captured:
    """A value that the session chooses: anything the first time, the same from then on."""

    def __init__(self, name: str = "captured") -> None:
        self.name = name
        self.values: list[Any] = []

    @property
    def value(self) -> Any:
        if not self.values:
            raise LookupError(f"{self.name} was not captured yet")
        return self.values[0]

    def __repr__(self) -> str:
        return f"<{self.name}{f' = {self.values[0]!r}' if self.values else ''}>"


class About:
    """Equal to a number but for rounding."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and abs(other - self.value) < 1e-6

    def __repr__(self) -> str:
        return f"about {self.value}"


Wire: TypeAlias = Mapping[str, Any]
"""A message or event as it is on the wire."""
Expected: TypeAlias = "str | Wire | msgspec.Struct"
"""A type alone, some of the fields (`like`), or a whole struct, which must be equal."""


def like(of_type: str, /, **fields: Any) -> Wire:
    """A message or event of this type with (at least) these fields.

    Objects inside are partial as well, lists are not. `ANY`, `ABSENT` and `Captured` may stand for
    any value.
    """
    return {"type": of_type, **fields}


def difference(expected: Any, actual: Any, where: str = "") -> str | None:
    """The first difference, in words; None if there is none. Objects are compared partially."""
    at = f"{where or 'value'}: "
    match expected:
        case Anything():
            return None
        case Absent():
            return f"{at}{actual!r} should not be there"
        case Captured():
            if expected.values and expected.values[0] != actual:
                return f"{at}{actual!r} is not the {expected}"
            expected.values = [actual]
            return None
        case Mapping():
            if not isinstance(actual, Mapping):
                return f"{at}{actual!r} is no object"
            for key, value in expected.items():
                inner = f"{where}.{key}" if where else str(key)
                if key not in actual:
                    if value is not ABSENT:
                        return f"{inner}: is missing"
                elif (found := difference(value, actual[key], inner)) is not None:
                    return found
            return None
        case list() | tuple():
            if not isinstance(actual, list) or len(actual) != len(expected):
                return f"{at}{actual!r} is not {len(expected)} values like {expected!r}"
            for n, (wanted, there) in enumerate(zip(expected, actual, strict=True)):
                if (found := difference(wanted, there, f"{where}[{n}]")) is not None:
                    return found
            return None
        case bool() | None:
            same = expected is actual
        case int() | float():
            same = not isinstance(actual, bool) and expected == actual
        case _:
            same = expected == actual
    return None if same else f"{at}{actual!r} is not {expected!r}"


def brief(value: Any, room: int = 60) -> str:
    """A value on the wire in few words."""
    match value:
        case bytes():
            text = f"<{len(value)} bytes>"
        case Mapping():
            text = "{" + ", ".join(f"{k}: {brief(v, 30)}" for k, v in value.items()) + "}"
        case list() | tuple():
            text = "[" + ", ".join(brief(v, 40) for v in value) + "]"
        case _:
            text = repr(value)
    return text if len(text) <= room else text[: room - 3] + "..."


def told(wire: Wire) -> str:
    """A message or event in one line: its type, then its fields."""
    fields = " ".join(f"{k}={brief(v)}" for k, v in wire.items() if k not in ("type", "event_id"))
    text = f"{wire.get('type')} {fields}".rstrip()
    return text if len(text) <= 110 else text[:107] + "..."
