"""frames: what the decoders of both protocols share: one frame in, one typed value out, or why not.

It knows msgspec and how peers get JSON wrong. It does not know any message or event.
"""

import math
from collections.abc import Iterable
from typing import Any, Generic, TypeVar, get_args

import msgspec

MAX_DEPTH = 100
"""Levels of nesting accepted in free-form JSON (tool schemas, function results). Far below the
interpreter's limit, so that whatever was decoded can also be encoded further down the stack."""

MAX_VALUES = 32_768
"""Values accepted in one such message, 2 to 3 MiB of them: of `[{},{},...]` a megabyte would be 25
in memory, for as long as a session. The Realtime API takes far smaller schemas."""

_INT64 = range(-(2**63), 2**63)
_EXACT = 2.0**53


class Unknown(msgspec.Struct, frozen=True):
    """A JSON object with a `type` that the protocol does not know."""

    type: str
    """The first 100 characters of it: it may be shown and logged."""
    size: int
    """Bytes of the frame."""


class Unparsable(msgspec.Struct, frozen=True):
    """A frame that is no message: not JSON, not an object, no `type`, or wrong field types."""

    type: str | None
    """The `type` if it could be read and is known, e.g. "Settings"."""
    reason: str
    """A path and the expected type. Fit to show to a client: never a piece of the payload."""
    bad_audio: bool = False
    """The frame carries audio, and what is wrong is the audio itself: no base64 (C-227)."""


T = TypeVar("T")


class FrameDecoder(Generic[T]):
    """Decodes text frames into a union of structs tagged by `type`. Nothing a peer sends raises.

    `free_form` lists the structs with fields of any JSON: those are held to `MAX_DEPTH` and to
    64-bit integers, because a session that holds one must be able to encode it. `audio` maps the
    types that carry audio to the name of the field.
    """

    def __init__(
        self, union: Any, *, free_form: Iterable[type] = (), audio: dict[str, str] | None = None
    ) -> None:
        self._union = union
        self._typed: msgspec.json.Decoder[T] = msgspec.json.Decoder(union, float_hook=_number)
        self._known = {struct.__struct_config__.tag for struct in get_args(union)}
        self._free_form = frozenset(free_form)
        self._audio = audio or {}

    def decode(self, data: str | bytes) -> T | Unknown | Unparsable:
        """One frame. The usual one is decoded once, from its bytes."""
        try:
            raw = data.encode() if isinstance(data, str) else data
        except UnicodeError:
            return Unparsable(None, "text is not Unicode")
        try:
            message = self._typed.decode(raw)
        except msgspec.ValidationError:
            return self._second_look(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return Unparsable(None, _reason(error))
        if type(message) not in self._free_form or _surely_modest(raw, message):
            return message
        return self._second_look(raw)

    def _second_look(self, raw: bytes) -> T | Unknown | Unparsable:
        """Tell the unknown from the wrong, and forgive numbers that only look wrong."""
        try:
            tag = _PEEK.decode(raw).type
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return Unparsable(None, _reason(error))
        if tag not in self._known:
            return Unknown(tag[:100], len(raw))
        try:
            tree = msgspec.json.decode(raw)
            if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
                _count(tree)
            message: T = msgspec.convert(_plain(tree), self._union)
        except (
            _TooMany,
            msgspec.DecodeError,
            UnicodeError,
            RecursionError,
            OverflowError,
        ) as error:
            reason = _reason(error)
            field = self._audio.get(tag)
            return Unparsable(tag, reason, field is not None and reason.endswith(f"`$.{field}`"))
        return message


def _surely_modest(raw: bytes, message: Any) -> bool:
    """Whether a second look would find nothing: most often this is seen without one, which takes
    ten times as long."""
    opened = raw.count(b"{") + raw.count(b"[")
    if opened > MAX_DEPTH or opened + raw.count(b",") > MAX_VALUES:
        return False
    try:
        return _UINT64 not in _MSGPACK.encode(message)
    except OverflowError:
        return False  # an integer beyond all 64 bits


_MSGPACK = msgspec.msgpack.Encoder()
_UINT64 = b"\xcf"
"""In MessagePack an integer that may be beyond 63 bits begins so; half a Greek letter may, too."""


class _TooMany(Exception):
    """There are more than `MAX_VALUES`."""


def _count(tree: Any) -> None:
    """Raises _TooMany. Not recursive: what is nested too deeply is found elsewhere."""
    count, waiting = 0, [tree]
    while waiting:
        value = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(value, dict | list):
            count += len(inner)
            waiting.extend(inner)
        if count > MAX_VALUES:
            raise _TooMany


class _Peek(msgspec.Struct):
    type: str


_PEEK = msgspec.json.Decoder(_Peek)


def _plain(value: Any, depth: int = 0) -> Any:
    """The same JSON with numbers as JavaScript has them: 1.0 is 1 (the vendors' SDKs turn one into
    the other), and an integer beyond 64 bits is a float."""
    if depth > MAX_DEPTH:
        raise RecursionError
    match value:
        case dict():
            return {key: _plain(inner, depth + 1) for key, inner in value.items()}
        case list():
            return [_plain(inner, depth + 1) for inner in value]
        case float():
            return _whole(value)
        case int() if value not in _INT64:
            return float(value)
        case _:
            return value


def _number(written: str) -> float | int:
    value = float(written)
    if math.isinf(value):
        raise ValueError("number out of range")
    return _whole(value)


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def _reason(error: Exception) -> str:
    match error:
        case RecursionError():
            return "nested too deeply"
        case _TooMany():
            return f"more than {MAX_VALUES} values"
        case OverflowError():
            return "number out of range"
        case UnicodeError():
            return "text is not UTF-8"
        case _:
            return str(error)
