"""realtime: the events of the OpenAI Realtime protocol, both directions, in GA shapes.

It knows every event's fields, how to decode and encode them, and the beta names, which it
translates at the door: nothing behind `decode_server` ever sees one (C-183). It does not know what
any event means, nor which values are allowed.

Three kinds of struct, by what absence means:

- what configures (`Session`, `ResponseParams` and what is inside them): absent is `UNSET` and is
  not written, null is `None` and is, because `turn_detection: null` says something;
- what describes (`Item`, `Response`, `Usage`, errors): absent and null are both `None`, and `None`
  is not written;
- server events: ids and indices that an inexact server leaves out are "" and 0.

Fields that carry audio are `bytes`; on the wire they are base64.

Source: `openai` 3.54.0 (`openai.types.realtime`) and PROTOCOL.md 2.2, 2.3, A.2.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import UNSET, UnsetType

from relay.frames import FrameDecoder, Unknown, Unparsable

__all__ = ["Unknown", "Unparsable", "decode_client", "decode_server", "encode", "encode_append"]

T = TypeVar("T")
Settable: TypeAlias = T | UnsetType | None
"""A value, an explicit null, or nothing at all."""

Int: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that MessagePack can carry."""


# What configures ---------------------------------------------------------------------------------


class Session(msgspec.Struct, kw_only=True):
    """Body of session.update (the present fields change), session.created and session.updated."""

    type: str = "realtime"
    instructions: Settable[str] = UNSET
    output_modalities: Settable[list[str]] = UNSET
    """["audio"] or ["text"], never both."""
    audio: "Settable[SessionAudio]" = UNSET
    tools: "Settable[list[Tool]]" = UNSET
    tool_choice: "Settable[str | ToolChoice]" = UNSET
    parallel_tool_calls: Settable[bool] = UNSET
    reasoning: "Settable[Reasoning]" = UNSET
    max_output_tokens: Settable[Int | str] = UNSET
    """1 to 4096, or "inf"."""
    truncation: "Settable[str | Truncation]" = UNSET
    prompt: "Settable[Prompt]" = UNSET
    include: Settable[list[str]] = UNSET
    tracing: "Settable[str | Tracing]" = UNSET
    model: Settable[str] = UNSET
    """Never sent: the URL says it (C-042)."""
    id: Settable[str] = UNSET
    """Server to client only."""
    object: Settable[str] = UNSET
    """Server to client only: "realtime.session"."""
    expires_at: Settable[Int] = UNSET
    """Server to client only: unix seconds."""


class SessionAudio(msgspec.Struct, kw_only=True):
    input: "Settable[AudioInput]" = UNSET
    output: "Settable[AudioOutput]" = UNSET


class AudioInput(msgspec.Struct, kw_only=True):
    format: "Settable[AudioFormat]" = UNSET
    noise_reduction: "Settable[NoiseReduction]" = UNSET
    """Null switches it off."""
    transcription: "Settable[Transcription]" = UNSET
    """Null switches it off."""
    turn_detection: "Settable[TurnDetection]" = UNSET
    """Null switches it off: manual commits."""


class AudioOutput(msgspec.Struct, kw_only=True):
    format: "Settable[AudioFormat]" = UNSET
    voice: "Settable[str | Voice]" = UNSET
    speed: Settable[float] = UNSET
    """0.25 to 1.5."""


class AudioFormat(msgspec.Struct):
    type: str
    """"audio/pcm", "audio/pcmu" or "audio/pcma"."""
    rate: Settable[Int] = UNSET
    """Hz, for "audio/pcm" only: 24000."""


class Voice(msgspec.Struct):
    """A custom voice."""

    id: str


class NoiseReduction(msgspec.Struct, kw_only=True):
    type: Settable[str] = UNSET
    """"near_field" or "far_field"."""
    strength: Settable[float] = UNSET


class Transcription(msgspec.Struct, kw_only=True):
    model: Settable[str] = UNSET
    language: Settable[str] = UNSET
    languages: Settable[list[str]] = UNSET
    prompt: Settable[str] = UNSET
    keywords: Settable[list[str]] = UNSET
    delay: Settable[str] = UNSET


class TurnDetection(msgspec.Struct, kw_only=True):
    """Both kinds: `eagerness` belongs to semantic_vad, the numbers to server_vad."""

    type: str
    """"server_vad" or "semantic_vad"."""
    threshold: Settable[float] = UNSET
    prefix_padding_ms: Settable[Int] = UNSET
    silence_duration_ms: Settable[Int] = UNSET
    idle_timeout_ms: Settable[Int] = UNSET
    eagerness: Settable[str] = UNSET
    create_response: Settable[bool] = UNSET
    interrupt_response: Settable[bool] = UNSET


class Tool(msgspec.Struct, kw_only=True):
    """A function, or (`type` "mcp") an MCP server. The relay declares functions only."""

    type: str = "function"
    name: Settable[str] = UNSET
    description: Settable[str] = UNSET
    parameters: Any = UNSET
    """JSON schema of the arguments."""
    server_label: Settable[str] = UNSET
    server_url: Settable[str] = UNSET
    server_description: Settable[str] = UNSET
    connector_id: Settable[str] = UNSET
    tunnel_id: Settable[str] = UNSET
    authorization: Settable[str] = UNSET
    headers: Settable[dict[str, str]] = UNSET
    allowed_tools: Any = UNSET
    """Names, or `{read_only, tool_names}`."""
    allowed_callers: Settable[list[str]] = UNSET
    require_approval: Any = UNSET
    """"always", "never", or a filter for each."""
    defer_loading: Settable[bool] = UNSET


class ToolChoice(msgspec.Struct, kw_only=True):
    """One tool: `type` "function" with `name`, or "mcp" with `server_label` and maybe `name`."""

    type: str
    name: Settable[str] = UNSET
    server_label: Settable[str] = UNSET


class Reasoning(msgspec.Struct, kw_only=True):
    effort: Settable[str] = UNSET


class Truncation(msgspec.Struct, kw_only=True):
    type: str = "retention_ratio"
    retention_ratio: float
    token_limits: "Settable[TokenLimits]" = UNSET


class TokenLimits(msgspec.Struct, kw_only=True):
    post_instructions: Settable[Int] = UNSET


class Prompt(msgspec.Struct, kw_only=True):
    """A prompt kept at the vendor's."""

    id: str
    version: Settable[str] = UNSET
    variables: Settable[dict[str, Any]] = UNSET
    """Strings, or input_text, input_image and input_file objects."""


class Tracing(msgspec.Struct, kw_only=True):
    workflow_name: Settable[str] = UNSET
    group_id: Settable[str] = UNSET
    metadata: Any = UNSET


class ResponseParams(msgspec.Struct, kw_only=True):
    """Body of response.create; what is absent is as in the session."""

    conversation: Settable[str] = UNSET
    """"auto" or "none" (out of band)."""
    input: "Settable[list[Item]]" = UNSET
    """Instead of the conversation's items."""
    instructions: Settable[str] = UNSET
    output_modalities: Settable[list[str]] = UNSET
    audio: Settable[SessionAudio] = UNSET
    """Its output only."""
    tools: Settable[list[Tool]] = UNSET
    tool_choice: Settable[str | ToolChoice] = UNSET
    parallel_tool_calls: Settable[bool] = UNSET
    reasoning: Settable[Reasoning] = UNSET
    max_output_tokens: Settable[Int | str] = UNSET
    metadata: Settable[dict[str, str]] = UNSET
    """At most 16 pairs; comes back in the response object."""
    prompt: Settable[Prompt] = UNSET


# What describes ----------------------------------------------------------------------------------


class Item(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Every kind of conversation item; `type` says whose fields are meant."""

    type: str
    """"message", "function_call", "function_call_output", "mcp_call", "mcp_list_tools",
    "mcp_approval_request" or "mcp_approval_response"."""
    id: str | None = None
    object: str | None = None
    """"realtime.item"."""
    status: str | None = None
    """"in_progress", "completed" or "incomplete"."""
    role: str | None = None
    """Of a message: "user", "assistant" or "system"."""
    content: "list[ContentPart] | None" = None
    """Of a message. The model's own items are added without it."""
    name: str | None = None
    call_id: str | None = None
    arguments: str | None = None
    """JSON text."""
    output: str | None = None
    server_label: str | None = None
    tools: "list[McpTool] | None" = None
    approval_request_id: str | None = None
    approve: bool | None = None
    reason: str | None = None
    error: "McpError | None" = None


class ContentPart(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Part of a message, or of response.content_part.* (where `type` is "text" or "audio")."""

    type: str | None = None
    """"input_text", "input_audio", "input_image", "output_text" or "output_audio"."""
    text: str | None = None
    audio: bytes | None = None
    transcript: str | None = None
    image_url: str | None = None
    detail: str | None = None


class McpTool(msgspec.Struct, kw_only=True, omit_defaults=True):
    name: str
    input_schema: Any
    description: str | None = None
    annotations: Any = None


class McpError(msgspec.Struct, kw_only=True, omit_defaults=True):
    type: str
    message: str
    code: Int | None = None


class Response(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Response object of response.created and response.done."""

    id: str = ""
    object: str | None = None
    """"realtime.response"."""
    status: str | None = None
    """"in_progress", "completed", "cancelled", "failed" or "incomplete"."""
    status_details: "StatusDetails | None" = None
    conversation_id: str | None = None
    """Null for a response out of band."""
    output: list[Item] | None = None
    output_modalities: list[str] | None = None
    audio: SessionAudio | None = None
    max_output_tokens: Int | str | None = None
    metadata: dict[str, str] | None = None
    usage: "Usage | None" = None


class StatusDetails(msgspec.Struct, kw_only=True, omit_defaults=True):
    type: str | None = None
    reason: str | None = None
    """"turn_detected", "client_cancelled", "max_output_tokens" or "content_filter"."""
    error: "ErrorDetail | None" = None


class ErrorDetail(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What went wrong. `code` may be missing; some servers put it into `type`."""

    type: str | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None
    event_id: str | None = None
    """The client event that caused it."""

    @property
    def kind(self) -> str:
        """What it is to be judged by: the code, or else the type; never the text (C-180)."""
        return self.code or self.type or ""


class Usage(msgspec.Struct, kw_only=True, omit_defaults=True):
    total_tokens: Int | None = None
    input_tokens: Int | None = None
    output_tokens: Int | None = None
    input_token_details: "TokenDetails | None" = None
    output_token_details: "TokenDetails | None" = None


class TokenDetails(msgspec.Struct, kw_only=True, omit_defaults=True):
    text_tokens: Int | None = None
    audio_tokens: Int | None = None
    image_tokens: Int | None = None
    cached_tokens: Int | None = None
    cached_tokens_details: "TokenDetails | None" = None


class TranscriptionUsage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """By tokens or (`seconds`) by duration."""

    type: str | None = None
    """"tokens" or "duration"."""
    total_tokens: Int | None = None
    input_tokens: Int | None = None
    output_tokens: Int | None = None
    input_token_details: TokenDetails | None = None
    seconds: float | None = None


class LogProb(msgspec.Struct, kw_only=True):
    token: str
    logprob: float
    bytes: list[Int] | None = None


class Language(msgspec.Struct):
    code: str


class RateLimit(msgspec.Struct, kw_only=True, omit_defaults=True):
    name: str | None = None
    """"requests" or "tokens"."""
    limit: Int | None = None
    remaining: Int | None = None
    reset_seconds: float | None = None


class Conversation(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str | None = None
    object: str | None = None
    """"realtime.conversation"."""


# Client events -----------------------------------------------------------------------------------


class _ClientEvent(msgspec.Struct, tag_field="type", kw_only=True):
    event_id: str | UnsetType = UNSET
    """Comes back in the `error` it caused, never in a success."""


class SessionUpdate(_ClientEvent, tag="session.update"):
    session: Session


class InputAudioBufferAppend(_ClientEvent, tag="input_audio_buffer.append"):
    audio: bytes
    """At most 15 MiB, in the session's input format."""


class InputAudioBufferCommit(_ClientEvent, tag="input_audio_buffer.commit"): ...


class InputAudioBufferClear(_ClientEvent, tag="input_audio_buffer.clear"): ...


class OutputAudioBufferClear(_ClientEvent, tag="output_audio_buffer.clear"):
    """WebRTC and SIP only: never sent on a WebSocket."""


class ConversationItemCreate(_ClientEvent, tag="conversation.item.create"):
    item: Item
    previous_item_id: Settable[str] = UNSET
    """"root" puts it first; absent puts it last."""


class ConversationItemRetrieve(_ClientEvent, tag="conversation.item.retrieve"):
    item_id: str


class ConversationItemDelete(_ClientEvent, tag="conversation.item.delete"):
    item_id: str


class ConversationItemTruncate(_ClientEvent, tag="conversation.item.truncate"):
    item_id: str
    content_index: Int
    audio_end_ms: Int
    """Never beyond the audio that exists."""


class ResponseCreate(_ClientEvent, tag="response.create"):
    response: Settable[ResponseParams] = UNSET


class ResponseCancel(_ClientEvent, tag="response.cancel"):
    response_id: Settable[str] = UNSET
    """Absent: the one in the default conversation."""


# Server events -----------------------------------------------------------------------------------


class _ServerEvent(msgspec.Struct, tag_field="type", kw_only=True):
    event_id: Settable[str] = UNSET


class _OfItem(_ServerEvent, kw_only=True):
    item_id: str = ""


class _OfOutput(_OfItem, kw_only=True):
    """Something about an item that a response is writing."""

    response_id: str = ""
    output_index: Int = 0


class _OfContent(_OfOutput, kw_only=True):
    content_index: Int = 0


class Error(_ServerEvent, tag="error"):
    """Most are recoverable, and the session stays open."""

    error: ErrorDetail


class SessionCreated(_ServerEvent, tag="session.created"):
    """First event; the defaults, not our configuration."""

    session: Session


class SessionUpdated(_ServerEvent, tag="session.updated"):
    """Answers one session.update, with the whole effective configuration."""

    session: Session


class ConversationCreated(_ServerEvent, tag="conversation.created"):
    conversation: Conversation


class _ItemPlaced(_ServerEvent, kw_only=True):
    item: Item
    previous_item_id: str | None = None


class ConversationItemAdded(_ItemPlaced, tag="conversation.item.added"):
    """The item exists. The model's own: in progress, without content."""


class ConversationItemCreated(_ItemPlaced, tag="conversation.item.created"):
    """Older name; may come beside `conversation.item.added`."""


class ConversationItemDone(_ItemPlaced, tag="conversation.item.done"):
    """The item is final, with its content except audio."""


class ConversationItemRetrieved(_ServerEvent, tag="conversation.item.retrieved"):
    item: Item


class ConversationItemDeleted(_OfItem, tag="conversation.item.deleted"): ...


class ConversationItemTruncated(_OfItem, tag="conversation.item.truncated", kw_only=True):
    content_index: Int = 0
    audio_end_ms: Int = 0


class ConversationItemInputAudioTranscriptionDelta(
    _OfItem, tag="conversation.item.input_audio_transcription.delta", kw_only=True
):
    content_index: Int = 0
    delta: str = ""
    logprobs: Settable[list[LogProb]] = UNSET


class ConversationItemInputAudioTranscriptionCompleted(
    _OfItem, tag="conversation.item.input_audio_transcription.completed", kw_only=True
):
    """What the user said. May come before or after the reply to it."""

    content_index: Int = 0
    transcript: str
    usage: Settable[TranscriptionUsage] = UNSET
    languages: Settable[list[Language]] = UNSET
    logprobs: Settable[list[LogProb]] = UNSET


class ConversationItemInputAudioTranscriptionFailed(
    _OfItem, tag="conversation.item.input_audio_transcription.failed", kw_only=True
):
    content_index: Int = 0
    error: ErrorDetail = msgspec.field(default_factory=ErrorDetail)


class ConversationItemInputAudioTranscriptionSegment(
    _OfItem, tag="conversation.item.input_audio_transcription.segment", kw_only=True
):
    """Diarizing models only; `start` and `end` in seconds."""

    content_index: Int = 0
    id: str = ""
    text: str
    speaker: str = ""
    start: float = 0.0
    end: float = 0.0


class InputAudioBufferSpeechStarted(_OfItem, tag="input_audio_buffer.speech_started", kw_only=True):
    audio_start_ms: Int = 0
    """Into the input audio of the session."""


class InputAudioBufferSpeechStopped(_OfItem, tag="input_audio_buffer.speech_stopped", kw_only=True):
    audio_end_ms: Int = 0
    """Into the input audio of the session."""


class InputAudioBufferCommitted(_OfItem, tag="input_audio_buffer.committed", kw_only=True):
    previous_item_id: str | None = None


class InputAudioBufferCleared(_ServerEvent, tag="input_audio_buffer.cleared"): ...


class InputAudioBufferTimeoutTriggered(
    _OfItem, tag="input_audio_buffer.timeout_triggered", kw_only=True
):
    audio_start_ms: Int = 0
    audio_end_ms: Int = 0


class InputAudioBufferDtmfEventReceived(
    _ServerEvent, tag="input_audio_buffer.dtmf_event_received", kw_only=True
):
    """SIP only."""

    event: str = ""
    """The key."""
    received_at: Int = 0
    """Unix seconds."""


class OutputAudioBufferStarted(_ServerEvent, tag="output_audio_buffer.started", kw_only=True):
    """WebRTC and SIP only."""

    response_id: str = ""


class OutputAudioBufferStopped(_ServerEvent, tag="output_audio_buffer.stopped", kw_only=True):
    """WebRTC and SIP only."""

    response_id: str = ""


class OutputAudioBufferCleared(_ServerEvent, tag="output_audio_buffer.cleared", kw_only=True):
    """WebRTC and SIP only."""

    response_id: str = ""


class ResponseCreated(_ServerEvent, tag="response.created"):
    response: Response


class ResponseDone(_ServerEvent, tag="response.done"):
    """The one reliable end of a response, whatever became of it."""

    response: Response


class _OutputItem(_ServerEvent, kw_only=True):
    response_id: str = ""
    output_index: Int = 0
    item: Item


class ResponseOutputItemAdded(_OutputItem, tag="response.output_item.added"): ...


class ResponseOutputItemDone(_OutputItem, tag="response.output_item.done"):
    """Also sent when interrupted: see `item.status`."""


class ResponseContentPartAdded(_OfContent, tag="response.content_part.added"):
    part: ContentPart


class ResponseContentPartDone(_OfContent, tag="response.content_part.done"):
    part: ContentPart


class ResponseOutputTextDelta(_OfContent, tag="response.output_text.delta"):
    delta: str


class ResponseOutputTextDone(_OfContent, tag="response.output_text.done"):
    text: str


class ResponseOutputAudioDelta(_OfContent, tag="response.output_audio.delta"):
    delta: bytes
    """In the session's output format; any number of bytes, odd and 0 included."""


class ResponseOutputAudioDone(_OfContent, tag="response.output_audio.done"): ...


class ResponseOutputAudioTranscriptDelta(_OfContent, tag="response.output_audio_transcript.delta"):
    delta: str


class ResponseOutputAudioTranscriptDone(_OfContent, tag="response.output_audio_transcript.done"):
    transcript: str


class ResponseFunctionCallArgumentsDelta(
    _OfOutput, tag="response.function_call_arguments.delta", kw_only=True
):
    call_id: str = ""
    delta: str


class ResponseFunctionCallArgumentsDone(
    _OfOutput, tag="response.function_call_arguments.done", kw_only=True
):
    """Also sent when interrupted: not yet a call."""

    call_id: str = ""
    name: str = ""
    arguments: str


class ResponseMcpCallArgumentsDelta(_OfOutput, tag="response.mcp_call_arguments.delta"):
    delta: str
    obfuscation: Settable[str] = UNSET


class ResponseMcpCallArgumentsDone(_OfOutput, tag="response.mcp_call_arguments.done"):
    arguments: str


class _McpCall(_OfItem, kw_only=True):
    output_index: Int = 0


class ResponseMcpCallInProgress(_McpCall, tag="response.mcp_call.in_progress"): ...


class ResponseMcpCallCompleted(_McpCall, tag="response.mcp_call.completed"): ...


class ResponseMcpCallFailed(_McpCall, tag="response.mcp_call.failed"): ...


class McpListToolsInProgress(_OfItem, tag="mcp_list_tools.in_progress"): ...


class McpListToolsCompleted(_OfItem, tag="mcp_list_tools.completed"): ...


class McpListToolsFailed(_OfItem, tag="mcp_list_tools.failed"): ...


class RateLimitsUpdated(_ServerEvent, tag="rate_limits.updated"):
    rate_limits: list[RateLimit]


# Unions and frames -------------------------------------------------------------------------------

ClientEvent: TypeAlias = (
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

ServerEvent: TypeAlias = (
    ResponseOutputAudioDelta
    | Error
    | SessionCreated
    | SessionUpdated
    | ConversationCreated
    | ConversationItemAdded
    | ConversationItemCreated
    | ConversationItemDone
    | ConversationItemRetrieved
    | ConversationItemDeleted
    | ConversationItemTruncated
    | ConversationItemInputAudioTranscriptionDelta
    | ConversationItemInputAudioTranscriptionCompleted
    | ConversationItemInputAudioTranscriptionFailed
    | ConversationItemInputAudioTranscriptionSegment
    | InputAudioBufferSpeechStarted
    | InputAudioBufferSpeechStopped
    | InputAudioBufferCommitted
    | InputAudioBufferCleared
    | InputAudioBufferTimeoutTriggered
    | InputAudioBufferDtmfEventReceived
    | OutputAudioBufferStarted
    | OutputAudioBufferStopped
    | OutputAudioBufferCleared
    | ResponseCreated
    | ResponseDone
    | ResponseOutputItemAdded
    | ResponseOutputItemDone
    | ResponseContentPartAdded
    | ResponseContentPartDone
    | ResponseOutputTextDelta
    | ResponseOutputTextDone
    | ResponseOutputAudioDone
    | ResponseOutputAudioTranscriptDelta
    | ResponseOutputAudioTranscriptDone
    | ResponseFunctionCallArgumentsDelta
    | ResponseFunctionCallArgumentsDone
    | ResponseMcpCallArgumentsDelta
    | ResponseMcpCallArgumentsDone
    | ResponseMcpCallInProgress
    | ResponseMcpCallCompleted
    | ResponseMcpCallFailed
    | McpListToolsInProgress
    | McpListToolsCompleted
    | McpListToolsFailed
    | RateLimitsUpdated
)


def decode_server(data: str | bytes) -> ServerEvent | Unknown | Unparsable:
    """One text frame of an upstream. Never raises: a peer's mistake is `Unknown` or `Unparsable`.

    `Unparsable.bad_audio` tells an audio delta that is no base64 from every other defect.
    """
    event = _SERVER.decode(data)
    modern = _MODERN.get(type(event))
    return event if modern is None else modern(event)


def decode_client(data: str | bytes) -> ClientEvent | Unknown | Unparsable:
    """One text frame of a client of the upstream's: for the simulator, and for tests.

    `Unparsable.bad_audio` tells an append that is no base64 from every other defect.
    """
    return _CLIENT.decode(data)


def encode(event: ClientEvent | ServerEvent) -> str:
    """The text frame of an event."""
    return _ENCODER.encode(event).decode()


def encode_append(audio: bytes) -> str:
    """The text frame of `InputAudioBufferAppend(audio)`: the hot path towards the upstream."""
    return _ENCODER.encode(InputAudioBufferAppend(audio)).decode()


# Beta names --------------------------------------------------------------------------------------


class _ResponseTextDelta(ResponseOutputTextDelta, tag="response.text.delta"): ...


class _ResponseTextDone(ResponseOutputTextDone, tag="response.text.done"): ...


class _ResponseAudioDelta(ResponseOutputAudioDelta, tag="response.audio.delta"): ...


class _ResponseAudioDone(ResponseOutputAudioDone, tag="response.audio.done"): ...


class _ResponseAudioTranscriptDelta(
    ResponseOutputAudioTranscriptDelta, tag="response.audio_transcript.delta"
): ...


class _ResponseAudioTranscriptDone(
    ResponseOutputAudioTranscriptDone, tag="response.audio_transcript.done"
): ...


_BetaEvent: TypeAlias = (
    _ResponseTextDelta
    | _ResponseTextDone
    | _ResponseAudioDelta
    | _ResponseAudioDone
    | _ResponseAudioTranscriptDelta
    | _ResponseAudioTranscriptDone
)


def _renamed(event: Any) -> ServerEvent:
    """The same event under its GA name."""
    ga: Any = type(event).__base__
    renamed: ServerEvent = ga(**msgspec.structs.asdict(event))
    return renamed


def _item_renamed(event: "_WithItem") -> ServerEvent:
    _modernise(event.item)
    return event


def _response_renamed(event: "_WithResponse") -> ServerEvent:
    for item in event.response.output or ():
        _modernise(item)
    return event


def _modernise(item: Item) -> None:
    """Content of type "text" and "audio" is "output_text" and "output_audio" by now; what is not
    the model's is "input_..."."""
    prefix = "output_" if item.role == "assistant" else "input_"
    for part in item.content or ():
        if part.type in ("text", "audio"):
            part.type = prefix + part.type


_WithItem: TypeAlias = (
    ConversationItemAdded
    | ConversationItemCreated
    | ConversationItemDone
    | ConversationItemRetrieved
    | ResponseOutputItemAdded
    | ResponseOutputItemDone
)
_WithResponse: TypeAlias = ResponseCreated | ResponseDone
_WithSession: TypeAlias = SessionCreated | SessionUpdated

_MODERN: dict[type, Callable[[Any], ServerEvent]] = {
    **dict.fromkeys(get_args(_BetaEvent), _renamed),
    **dict.fromkeys(get_args(_WithItem), _item_renamed),
    **dict.fromkeys(get_args(_WithResponse), _response_renamed),
}

_SERVER: FrameDecoder[ServerEvent] = FrameDecoder(
    ServerEvent | _BetaEvent,
    free_form=get_args(_WithItem | _WithResponse | _WithSession),
    audio={"response.output_audio.delta": "delta", "response.audio.delta": "delta"},
)
_CLIENT: FrameDecoder[ClientEvent] = FrameDecoder(
    ClientEvent,
    free_form=(SessionUpdate, ConversationItemCreate, ResponseCreate),
    audio={"input_audio_buffer.append": "audio"},
)
_ENCODER = msgspec.json.Encoder()
