"""structs: any instance of a msgspec struct, for Hypothesis, and the vendor fields one lacks.

It knows msgspec, pydantic and Hypothesis, and no protocol. Values have the right types and no
meaning: a role may be "\\x00".
"""

import functools
import operator
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import pydantic
from hypothesis import strategies as st

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | FLOATS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
"""What JSON can say and a session can hold."""

SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    Any: JSON,
    str: st.text(max_size=12),
    bool: st.booleans(),
    int: INT64,
    float: FLOATS,
    bytes: st.binary(max_size=24),
    type(None): st.none(),
    msgspec.UnsetType: st.just(msgspec.UNSET),
}


@functools.cache
def instances(struct: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Instances with any of the optional fields present."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(struct):
        (required if field.required else optional)[field.name] = values(field.type)
    return st.fixed_dictionaries(required, optional=optional).map(lambda kw: struct(**kw))


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a type annotation."""
    arguments = get_args(annotation)
    match get_origin(annotation):
        case None if annotation in SIMPLE:
            return SIMPLE[annotation]
        case None:
            return st.deferred(lambda: instances(annotation))
        case origin if origin is Annotated:
            return values(arguments[0])
        case origin if origin in (Union, types.UnionType):
            return st.one_of(*map(values, arguments))
        case origin if origin is list:
            return st.lists(values(arguments[0]), max_size=3)
        case origin if origin is tuple:
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        case origin if origin is dict:
            return st.dictionaries(st.text(max_size=4), values(arguments[1]), max_size=3)
        case origin:
            raise NotImplementedError(origin)


def structs_of(module: types.ModuleType) -> list[type[msgspec.Struct]]:
    """The public structs that a module defines."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
        if value.__module__ == module.__name__ and not name.startswith("_")
    ]


def lacking(
    model: type[pydantic.BaseModel], structs: set[type[msgspec.Struct]], path: str = ""
) -> Iterator[str]:
    """Paths of the model's fields, at any depth, that none of the structs has.

    `type` is every tagged struct's; below a field that takes any JSON there is nothing to lack.
    """
    fields = _fields(structs)
    for name, field in model.model_fields.items():
        here = f"{path}.{name}" if path else name
        if name not in fields:
            tagged = any(struct.__struct_config__.tag_field == name for struct in structs)
            yield from () if tagged else (here,)
        elif Any not in _inside(fields[name]):
            inner = {t for t in _inside(fields[name]) if isinstance(t, type)}
            below = {t for t in inner if issubclass(t, msgspec.Struct)}
            for part in _inside(field.annotation):
                if isinstance(part, type) and issubclass(part, pydantic.BaseModel):
                    yield from lacking(part, below, here)


def _fields(structs: set[type[msgspec.Struct]]) -> dict[str, Any]:
    """Wire name to annotation; structs that share a name share it with all their annotations."""
    found: dict[str, Any] = {}
    for struct in structs:
        for field in msgspec.structs.fields(struct):
            name = field.encode_name
            found[name] = operator.or_(found[name], field.type) if name in found else field.type
    return found


def _inside(annotation: Any) -> Iterator[Any]:
    """An annotation and everything it is made of."""
    yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)
