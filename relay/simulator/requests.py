"""requests: the 11 client events, read as strictly as the API reads them.

It knows the shape of each event and which code answers a wrong one. It does not know the state of
any session; what depends on that is refused by the machine that has it.

The structs are on purpose not those of `relay.realtime`: that reading is lenient and serves the
relay, this one is strict and stands for the vendor, so neither can share a mistake of the other.
Sources of the limits: PROTOCOL.md 2.2 and A.2.
"""

import re
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

DEEPEST = 64
"""Nesting beyond this is refused, so that nothing further on can run out of stack."""
APPEND_LIMIT = 15 * 1024 * 1024
"""Bytes of audio in one input_audio_buffer.append (PROTOCOL.md 2.1)."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not obeyed: the inside of an error event."""

    code: str
    message: str
    param: str | None = None


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An object of the API: an unknown key in it is an error."""


class Request(Strict, frozen=True, tag_field="type"):
    """What every client event may carry."""

    event_id: Annotated[str, msgspec.Meta(max_length=512)] | None = None


MaxOutputTokens: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=4096)] | Literal["inf"]
Modalities: TypeAlias = Annotated[
    tuple[Literal["text", "audio"], ...], msgspec.Meta(min_length=1, max_length=1)
]
"""Exactly one: the API refuses both together (L-29)."""
ToolName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ItemId: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
CallId: TypeAlias = Annotated[
    str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
]
Milliseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Pcm(Strict, frozen=True, tag="audio/pcm", tag_field="type"):
    """Signed 16-bit, mono; the API has one rate."""

    rate: Literal[24000] = 24000


class Pcmu(Strict, frozen=True, tag="audio/pcmu", tag_field="type"):
    """G.711 mu-law at 8 kHz."""


class Pcma(Strict, frozen=True, tag="audio/pcma", tag_field="type"):
    """G.711 A-law at 8 kHz."""


AudioType: TypeAlias = Pcm | Pcmu | Pcma


class CustomVoice(Strict, frozen=True):
    """A voice of one's own."""

    id: str


Voice: TypeAlias = (
    Literal["alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar"]
    | CustomVoice
)


class Tool(Strict, frozen=True, tag="function", tag_field="type"):
    """A function the model may call. The simulator has no MCP and refuses such tools."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ForcedFunction(Strict, frozen=True, tag="function", tag_field="type"):
    """A tool choice that names the function."""

    name: ToolName


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | ForcedFunction


class Reasoning(Strict, frozen=True):
    """How long a reasoning model thinks; the simulator does not."""

    effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class Prompt(Strict, frozen=True):
    """A prompt kept by the vendor; the simulator has none and carries the reference only."""

    id: str
    version: str | None = None
    variables: dict[str, Any] | None = None


class Content(Strict, frozen=True):
    """One part of a message."""

    type: Literal["input_text", "input_audio", "input_image", "output_text", "output_audio"]
    text: str | None = None
    audio: bytes | None = None
    transcript: str | None = None
    image_url: str | None = None
    detail: Literal["auto", "low", "high"] | None = None


class NewItem(Strict, frozen=True, kw_only=True, tag_field="type"):
    """What every item may carry."""

    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class NewMessage(NewItem, frozen=True, kw_only=True, tag="message"):
    """Something said by somebody."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Content, ...]


class NewFunctionCall(NewItem, frozen=True, kw_only=True, tag="function_call"):
    """A call from an earlier conversation."""

    name: ToolName
    arguments: str
    call_id: CallId | None = None


class NewFunctionCallOutput(NewItem, frozen=True, kw_only=True, tag="function_call_output"):
    """The result of a call."""

    call_id: CallId
    output: str


class ItemReference(Strict, frozen=True, tag="item_reference", tag_field="type"):
    """An item of the conversation, in the input of a response."""

    id: ItemId


AnyNewItem: TypeAlias = NewMessage | NewFunctionCall | NewFunctionCallOutput


class ResponseAudioOutput(Strict, frozen=True):
    """How one response sounds."""

    format: AudioType | None = None
    voice: Voice | None = None


class ResponseAudio(Strict, frozen=True):
    """The audio of one response."""

    output: ResponseAudioOutput | None = None


Metadata: TypeAlias = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=64)], Annotated[str, msgspec.Meta(max_length=512)]],
    msgspec.Meta(max_length=16),
]


class ResponseParams(Strict, frozen=True):
    """What one response does differently from the session."""

    audio: ResponseAudio | None = None
    conversation: Literal["auto", "none"] | None = None
    input: tuple[AnyNewItem | ItemReference, ...] | None = None
    instructions: str | None = None
    max_output_tokens: MaxOutputTokens | None = None
    metadata: Metadata | None = None
    output_modalities: Modalities | None = None
    parallel_tool_calls: bool | None = None
    prompt: Prompt | None = None
    reasoning: Reasoning | None = None
    tool_choice: ToolChoice | None = None
    tools: tuple[Tool, ...] | None = None


class SessionUpdate(Request, frozen=True, kw_only=True, tag="session.update"):
    session: dict[str, Any]
    """Read by `configuration`, once it is laid over what the session has."""


class InputAudioBufferAppend(Request, frozen=True, kw_only=True, tag="input_audio_buffer.append"):
    audio: bytes


class InputAudioBufferCommit(Request, frozen=True, kw_only=True, tag="input_audio_buffer.commit"):
    pass


class InputAudioBufferClear(Request, frozen=True, kw_only=True, tag="input_audio_buffer.clear"):
    pass


class OutputAudioBufferClear(Request, frozen=True, kw_only=True, tag="output_audio_buffer.clear"):
    pass


class ConversationItemCreate(Request, frozen=True, kw_only=True, tag="conversation.item.create"):
    item: AnyNewItem
    previous_item_id: str | None = None


class ConversationItemRetrieve(
    Request, frozen=True, kw_only=True, tag="conversation.item.retrieve"
):
    item_id: str


class ConversationItemDelete(Request, frozen=True, kw_only=True, tag="conversation.item.delete"):
    item_id: str


class ConversationItemTruncate(
    Request, frozen=True, kw_only=True, tag="conversation.item.truncate"
):
    item_id: str
    content_index: Milliseconds
    audio_end_ms: Milliseconds


class ResponseCreate(Request, frozen=True, kw_only=True, tag="response.create"):
    response: ResponseParams | None = None


class ResponseCancel(Request, frozen=True, kw_only=True, tag="response.cancel"):
    response_id: str | None = None


AnyRequest: TypeAlias = (
    SessionUpdate
    | InputAudioBufferAppend
    | InputAudioBufferCommit
    | InputAudioBufferClear
    | OutputAudioBufferClear
    | ConversationItemCreate
    | ConversationItemRetrieve
    | ConversationItemDelete
    | ConversationItemTruncate
    | ResponseCreate
    | ResponseCancel
)


def read(data: str | bytes) -> tuple[AnyRequest | Refusal, str | None]:
    """The client event in a frame, or why there is none; and the frame's `event_id`, if any.

    Nothing a client sends raises.
    """
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Refusal("invalid_json", "The event is not valid JSON."), None
    if not isinstance(raw, dict):
        return Refusal("invalid_type", "Expected an object."), None
    if _too_deep(raw):
        return Refusal("invalid_json", "The event is nested too deeply."), None
    event_id = raw.get("event_id")
    return _read(raw), event_id if isinstance(event_id, str) else None


def refusal(error: msgspec.ValidationError, within: str = "") -> Refusal:
    """The API's code and parameter for what msgspec found wrong.

    `within` is the path of the object that was read, such as `session`.
    """
    text, _, place = str(error).partition(" - at ")
    path = re.sub(r"^.*?\$\.?|`$", "", place)
    if field := re.search(r"(?:unknown|required) field `(.*)`", text):
        path = f"{path}.{field[1]}"
    param = ".".join(part for part in (within, path.strip(".")) if part) or None
    if "unknown field" in text:
        return Refusal("unknown_parameter", f"Unknown parameter: '{param}'.", param)
    if "missing required field" in text:
        return Refusal(
            "missing_required_parameter", f"Missing required parameter: '{param}'.", param
        )
    code = "invalid_type" if ", got " in text else "invalid_value"
    return Refusal(code, f"{text}: '{param}'.".replace("`", ""), param)


def _read(raw: dict[str, Any]) -> AnyRequest | Refusal:
    try:
        request: AnyRequest = msgspec.convert(raw, AnyRequest)
    except msgspec.ValidationError as error:
        return refusal(error)
    if isinstance(request, InputAudioBufferAppend) and len(request.audio) > APPEND_LIMIT:
        return Refusal("invalid_value", "The audio is larger than 15 MiB.", "audio")
    return request


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
