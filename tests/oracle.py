"""oracle: is this exactly what the vendor's protocol allows?

It knows the vendors' published types (`openai.types.realtime`, `deepgram.agent.v1`) and is strict
where they are lenient: the class is chosen by `type`, values are validated strictly, no field may
be unknown to the type at any depth, what the types forget to require is required, and enumerations
that the types leave open are closed. It knows nothing of `relay`.

Each check takes a text frame or its decoded object, and raises `AssertionError` naming the path.
"""

import base64
import binascii
import functools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NoReturn, TypeAlias, Union, get_args, get_origin, get_type_hints

import pydantic
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic_core import ErrorDetails

with warnings.catch_warnings():
    # The module asks for websockets.legacy, which warns that it is old.
    warnings.simplefilter("ignore", DeprecationWarning)
    from deepgram.agent.v1.socket_client import V1SocketClient, V1SocketClientResponse

Frame: TypeAlias = "str | Mapping[str, Any]"
Model: TypeAlias = type[pydantic.BaseModel]

SHORT_CHARS = 4096
"""Longer texts are not remembered."""
CLIENT_LIMIT = 2**20
"""Bytes: what the official Python client takes in one message."""


def _once(check: Callable[[Frame], None]) -> Callable[[Frame], None]:
    """A text that is valid stays so, and conversations are played thousands of times with the same
    texts in them."""
    valid = functools.lru_cache(maxsize=10_000)(check)

    @functools.wraps(check)
    def checked(frame: Frame) -> None:
        (valid if isinstance(frame, str) and len(frame) < SHORT_CHARS else check)(frame)

    return checked


@_once
def check_client_event(frame: Frame) -> None:
    """What we send to an OpenAI-Realtime upstream."""
    data = _object(frame)
    _valid(data, CLIENT_EVENTS)
    for path, value in _leaves(data):
        if value is None and path[-1] not in NULLABLE:
            _fail(data, path, "null is not a value here")
    if data["type"] == "input_audio_buffer.append":
        _check_base64(data, "audio")


@_once
def check_server_event(frame: Frame) -> None:
    """What an OpenAI-Realtime server sends: our simulator, and any test that plays one."""
    data = _object(frame)
    if data.get("type") in ("session.created", "session.updated"):
        data = {**data, "session": _without_untyped(data)}
    _valid(data, SERVER_EVENTS)
    if data["type"] == "response.output_audio.delta":
        _check_base64(data, "delta")


@_once
def check_client_message(frame: Frame) -> None:
    """What a Deepgram client sends: our own `relay talk`, and any test that plays one."""
    data = _object(frame)
    _valid(data, CLIENT_MESSAGES)
    _check_deepgram(data)


def check_server_message(frame: Frame, *, component: bool = False) -> None:
    """What we send to a Deepgram client. With `component`, its three own messages are allowed."""
    (_check_component_message if component else _check_agent_message)(frame)


@_once
def _check_agent_message(frame: Frame) -> None:
    _check_message(_object(frame), SERVER_MESSAGES)


@_once
def _check_component_message(frame: Frame) -> None:
    _check_message(_object(frame), {**SERVER_MESSAGES, **COMPONENT_MESSAGES})


def _check_message(data: dict[str, Any], classes: Mapping[str, list[Model]]) -> None:
    _valid(data, classes)
    _check_deepgram(data)
    if data["type"] in ("Error", "Warning"):
        for field in ("code", "description"):
            if not data[field].strip():
                _fail(data, (field,), "must not be empty")
    size = len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())
    if size >= CLIENT_LIMIT:
        _fail(data, (), f"{size} bytes: a client takes less than {CLIENT_LIMIT}")


# Choosing the class ------------------------------------------------------------------------------


def models_by_type(union: Any) -> dict[str, list[Model]]:
    """The models of a union by their `type` literal. History has two, for its two forms."""
    found: dict[str, list[Model]] = {}
    for model in _models(union):
        for name in get_args(model.model_fields["type"].annotation):
            found.setdefault(name, []).append(model)
    return found


def _models(annotation: Any) -> Iterator[Model]:
    """The models directly in an annotation, not those inside them."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _sent_by_deepgram_clients() -> Any:
    """The union of all that the official client's `send_...` methods take."""
    methods = (vars(V1SocketClient)[name] for name in dir(V1SocketClient) if name[:5] == "send_")
    return Union[tuple(get_type_hints(method).get("message", bytes) for method in methods)]  # noqa: UP007  from a tuple


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="allow")


class AgentDone(_Strict):
    type: Literal["AgentDone"]


class Alternative(_Strict):
    transcript: str
    confidence: float = pydantic.Field(ge=0, le=1)
    words: list[str] = pydantic.Field(max_length=0)


class Transcript(_Strict):
    type: Literal["Transcript"]
    transcript: str
    is_final: bool
    speech_final: bool
    channel: Literal[0]
    channel_index: list[Literal[0]] = pydantic.Field(min_length=1, max_length=1)
    start: float = pydantic.Field(ge=0)
    duration: float = pydantic.Field(ge=0)
    alternatives: list[Alternative] = pydantic.Field(min_length=1)


class UtteranceEnd(_Strict):
    type: Literal["UtteranceEnd"]
    channel: list[Literal[0, 1]] = pydantic.Field(min_length=2, max_length=2)
    last_word_end: float = pydantic.Field(ge=0)


CLIENT_EVENTS = models_by_type(RealtimeClientEvent)
SERVER_EVENTS = models_by_type(RealtimeServerEvent)
CLIENT_MESSAGES = models_by_type(_sent_by_deepgram_clients())
SERVER_MESSAGES = models_by_type(V1SocketClientResponse)
COMPONENT_MESSAGES = models_by_type(AgentDone | Transcript | UtteranceEnd)


# What the types leave open -----------------------------------------------------------------------

NULLABLE = {
    "idle_timeout_ms",
    "noise_reduction",
    "prompt",
    "tracing",
    "transcription",
    "turn_detection",
}
"""Client events: the fields for which the API gives null a meaning."""

UNTYPED_SESSION_FIELDS = {"id": str, "object": str, "expires_at": int}
"""The API sends them in session.created and session.updated; the SDK's type lacks them."""

REQUIRED = {
    "AudioPCM": {"type", "rate"},
    "AudioPCMU": {"type"},
    "AudioPCMA": {"type"},
    "Content": {"type"},
    "Part": {"type"},
    "RealtimeFunctionTool": {"type", "name"},
    "RealtimeResponse": {"id"},
}
"""What the API requires and the SDK's types do not, by the name of the type."""

OPEN_ENUMS = {"model", "model_id", "voice"}
"""Deepgram: enumerations that are lists of examples of a string. All others are closed."""

OPTIONAL_CONSTANTS = {("ThinkSettingsV1Provider_Groq", "model")}
"""Deepgram: constants that may be left out. All other constants tell objects apart."""

FREE_FORM = {"content", "parameters"}
"""Deepgram: any JSON inside, null included."""


def _without_untyped(data: Mapping[str, Any]) -> Any:
    session = data.get("session")
    if not isinstance(session, dict):
        return session
    for field, kind in UNTYPED_SESSION_FIELDS.items():
        if field in session and type(session[field]) is not kind:
            _fail(data, ("session", field), f"must be {kind.__name__}")
    return {k: v for k, v in session.items() if k not in UNTYPED_SESSION_FIELDS}


def _check_base64(data: Mapping[str, Any], field: str) -> None:
    try:
        base64.b64decode(data[field], validate=True)
    except binascii.Error:
        _fail(data, (field,), "must be base64")


def _check_deepgram(data: Mapping[str, Any]) -> None:
    for path, value in _leaves(data):
        if value is None and not FREE_FORM & set(path):
            _fail(data, path, "null is never sent")


# Validating --------------------------------------------------------------------------------------

Path: TypeAlias = tuple[str | int, ...]


def _object(frame: Frame) -> dict[str, Any]:
    data = json.loads(frame, object_pairs_hook=_no_twins) if isinstance(frame, str) else frame
    if not isinstance(data, dict):
        raise AssertionError(f"{type(data).__name__} is no object")
    return data


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise AssertionError(f"a key comes twice among {[key for key, _ in pairs]}")
    return dict(pairs)


def _valid(data: Mapping[str, Any], classes: Mapping[str, list[Model]]) -> None:
    """Valid as one of the classes of its type."""
    if "type" not in data:
        _fail(data, ("type",), "is missing")
    candidates = classes.get(data["type"]) if isinstance(data["type"], str) else None
    if not candidates:
        _fail(data, ("type",), f"{data['type']!r} is not a type of this direction")
    defects = [_defect(data, model) for model in candidates]
    if all(defects):
        raise AssertionError(f"{data['type']}: " + "; or ".join(str(defect) for defect in defects))


def _defect(data: Mapping[str, Any], model: Model) -> str | None:
    try:
        value = _adapter(model).validate_python(dict(data), strict=True)
    except pydantic.ValidationError as error:
        return ", ".join(f"{_dotted(e['loc'])}: {e['msg']}" for e in _telling(error.errors()))
    return next(_leniencies(value, ()), None)


@functools.cache
def _adapter(model: Model) -> pydantic.TypeAdapter[Any]:
    """Building one takes milliseconds, and every message of every test is validated."""
    return pydantic.TypeAdapter(model)


def _telling(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without those of the branches of a union that were never meant: the wrong type or role."""
    dead = [
        error["loc"][:-1]
        for error in errors
        if error["type"] == "literal_error"
        if error["loc"][-1] in ("type", "role") and not isinstance(error["loc"][-2], int)
    ]
    alive = [e for e in errors if not any(_within(e, branch) for branch in dead)]
    # If no branch was meant, all of them are worth telling.
    hopeless = [b for b in dead if not any(_within(e, b[:-1]) for e in alive)]
    return [e for e in errors if e in alive or any(_within(e, branch) for branch in hopeless)]


def _within(error: ErrorDetails, path: Path) -> bool:
    return error["loc"][: len(path)] == path


def _leniencies(value: Any, path: Path) -> Iterator[str]:
    """What a lenient type let through, here and below."""
    match value:
        case pydantic.BaseModel():
            yield from _leniencies_of(value, path)
            for field in type(value).model_fields:
                yield from _leniencies(getattr(value, field), (*path, field))
        case dict():
            for key, inner in value.items():
                yield from _leniencies(inner, (*path, key))
        case list():
            for index, inner in enumerate(value):
                yield from _leniencies(inner, (*path, index))
        case _:
            pass


def _leniencies_of(value: pydantic.BaseModel, path: Path) -> Iterator[str]:
    model = type(value)
    for extra in value.model_extra or ():
        yield f"{_dotted((*path, extra))}: unknown to {model.__name__}"
    for name in _required(model) - value.model_fields_set:
        yield f"{_dotted((*path, name))}: required by {model.__name__}"
    for name, allowed in _enums(model).items():
        given = getattr(value, name)
        if name in OPEN_ENUMS and not isinstance(given, str):
            yield f"{_dotted((*path, name))}: {given!r} is no string"
        elif name not in OPEN_ENUMS and given not in (*allowed, None):
            yield f"{_dotted((*path, name))}: {given!r} is none of {allowed}"


@functools.cache
def _required(model: Model) -> set[str]:
    constants = {
        name
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is Literal and not field.is_required()
        if (model.__name__, name) not in OPTIONAL_CONSTANTS
    }
    return constants | REQUIRED.get(model.__name__, set())


@functools.cache
def _enums(model: Model) -> dict[str, tuple[str, ...]]:
    """The literals of `Literal[...] | Any`: how the Deepgram types write an enumeration."""
    return {
        name: get_args(literal)
        for name, field in model.model_fields.items()
        if Any in get_args(field.annotation)
        for literal in get_args(field.annotation)
        if get_origin(literal) is Literal
    }


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(inner, (*path, key))
        case list():
            for index, inner in enumerate(value):
                yield from _leaves(inner, (*path, index))
        case _:
            yield path, value


def _fail(data: Mapping[str, Any], path: Path, what: str) -> NoReturn:
    raise AssertionError(f"{data.get('type')}: {_dotted(path)}: {what}")


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path) or "(whole)"
