"""voice_agent: the messages of Deepgram's Voice Agent V1 protocol, both directions.

It knows every message's fields and how to decode and encode them. It does not know what any of
them means, nor which values are allowed: enumerations are plain strings here, and `relay.settings`
and `relay.session` judge them.

Null means absent at every level (C-208), so here absent is always `None`, and `None` is never
written. Unknown keys are ignored. Whole floats pass for integers. Fields that only the browser
component sends, and whose invalid values are dropped rather than refused (C-051 ... C-055), are
`Any`. Provider credentials are left out: they could only be leaked.

Source: `deepgram-sdk` 7.17.0 (`deepgram.agent.v1`) and PROTOCOL.md 1.3, 1.4, 1.5, 3.4.17, A.1.
"""

from typing import Annotated, Any, TypeAlias

import msgspec

from relay.frames import FrameDecoder, Unknown, Unparsable

__all__ = ["Unknown", "Unparsable", "decode_client", "decode_server", "encode"]

Int: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that MessagePack can carry."""


class _Message(msgspec.Struct, tag=True, tag_field="type", omit_defaults=True): ...


class _Part(msgspec.Struct, omit_defaults=True): ...


# Settings ----------------------------------------------------------------------------------------


class Settings(_Message):
    """The first message, once. Without `audio` or `agent` it decodes, and is INVALID_SETTINGS."""

    tags: list[str] | None = None
    experimental: bool | None = None
    flags: "Flags | None" = None
    mip_opt_out: bool | None = None
    audio: "Audio | None" = None
    agent: "Agent | str | None" = None
    """A string is the id of a saved agent."""


class Flags(_Part):
    history: bool | None = None


class Audio(_Part):
    input: "AudioInput | None" = None
    output: "AudioOutput | None" = None


class AudioInput(_Part):
    encoding: str | None = None
    sample_rate: Int | None = None
    """Hz, mono."""


class AudioOutput(_Part):
    encoding: str | None = None
    sample_rate: Int | None = None
    """Hz, mono."""
    bitrate: Int | None = None
    container: str | None = None


class Agent(_Part):
    language: str | None = None
    context: "Context | list[ContextMessage] | None" = None
    """A bare array is the component's shape."""
    messages: "list[ContextMessage] | None" = None
    """Old SDKs put `context.messages` here."""
    listen: "Listen | None" = None
    think: "Think | list[Think] | None" = None
    """An array is a primary and its fallbacks."""
    think_live: "ThinkLive | None" = None
    speak: "Speak | list[Speak] | None" = None
    """An array is a primary and its fallbacks."""
    greeting: str | None = None
    idle_timeout_ms: Any = msgspec.field(name="idleTimeoutMs", default=None)
    """Component: the client's own close timer."""
    session_audio_output: Any = msgspec.field(name="sessionAudioOutput", default=None)
    """Component: `{format, speed, voice}`."""
    use_openai_manual_audio_commit: Any = msgspec.field(
        name="useOpenAIManualAudioCommit", default=None
    )
    """Component, its tests only: a boolean."""


class Context(_Part):
    messages: "list[ContextMessage] | None" = None


class ContextMessage(_Part):
    """A spoken statement (`role`, `content`) or completed function calls (`function_calls`)."""

    type: str | None = None
    """"History"."""
    role: str | None = None
    content: str | None = None
    function_calls: "list[ContextFunctionCall] | None" = None


class ContextFunctionCall(_Part):
    id: str | None = None
    name: str | None = None
    client_side: bool | None = None
    arguments: str | None = None
    response: str | None = None
    thought_signature: str | None = None


class Listen(_Part):
    provider: "ListenProvider | None" = None


class ListenProvider(_Part):
    """Both versions in one. The model decides which, not `version` (C-239)."""

    type: str | None = None
    version: str | None = None
    model: str | None = None
    language: str | None = None
    language_hints: list[str] | None = None
    language_hint: str | list[str] | None = None
    """An older SDK's spelling; `language_hints` wins."""
    keyterms: list[str] | None = None
    smart_format: bool | None = None
    eot_threshold: float | None = None
    eager_eot_threshold: float | None = None
    eot_timeout_ms: Int | None = None


class Think(_Part):
    provider: "ThinkProvider | None" = None
    endpoint: "Endpoint | None" = None
    prompt: str | None = None
    context_length: str | float | None = None
    """"max" or a number of characters."""
    functions: "list[Function] | None" = None
    tool_choice: Any = msgspec.field(name="toolChoice", default=None)
    """Component: "auto", "none", "required" or `{type: "function", name}`."""
    output_modalities: Any = msgspec.field(name="outputModalities", default=None)
    """Component: an array of "text" and "audio"."""
    max_output_tokens: Any = msgspec.field(name="maxOutputTokens", default=None)
    """Component: an integer."""
    managed_prompt: Any = msgspec.field(name="managedPrompt", default=None)
    """Component: `{id, version?, variables?}`."""


class ThinkProvider(_Part):
    type: str | None = None
    version: str | None = None
    model: str | None = None
    temperature: float | None = None
    reasoning_mode: str | None = None
    voice_prompt_opt_out: bool | None = None


class Endpoint(_Part):
    """A language model or a voice of the client's own."""

    url: str | None = None
    headers: dict[str, str] | None = None


class Function(_Part):
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments."""
    endpoint: "FunctionEndpoint | None" = None
    """Absent: the client executes the function."""
    defer_until_eot: bool | None = None
    initial_agent_filler: bool | None = None
    agent_filler_max_count: Int | None = None
    agent_filler_interval_ms: Int | None = None


class FunctionEndpoint(_Part):
    url: str | None = None
    method: str | None = None
    headers: dict[str, str] | None = None


class ThinkLive(_Part):
    provider: "ThinkLiveProvider | None" = None


class ThinkLiveProvider(_Part):
    type: str | None = None
    version: str | None = None
    agent_backchannel_sensitivity: float | None = None
    presence_check_max_count: Int | None = None
    presence_check_interval_ms: Int | None = None
    frustration_max_count: Int | None = None
    restricted_terms: list[str] | None = None


class Speak(_Part):
    provider: "SpeakProvider | None" = None
    endpoint: Endpoint | None = None


class SpeakProvider(_Part):
    """All vendors in one: `type` says whose fields are meant."""

    type: str | None = None
    version: str | None = None
    model: str | None = None
    model_id: str | None = None
    voice: "str | CartesiaVoice | None" = None
    language: str | None = None
    language_code: str | None = None
    engine: str | None = None
    speed: float | None = None
    expressivity: float | None = None
    volume: float | None = None


class CartesiaVoice(_Part):
    mode: str | None = None
    id: str | None = None


# Client -> server --------------------------------------------------------------------------------


class UpdateListen(_Message):
    listen: Listen


class UpdateThink(_Message):
    think: Think | list[Think]
    """Replaces the whole think configuration."""


class UpdateThinkLive(_Message, tag="UpdateThink_Live"):
    think_live: ThinkLive


class UpdateSpeak(_Message):
    speak: Speak | list[Speak]


class UpdatePrompt(_Message):
    prompt: str
    """Added to the current prompt."""


class InjectUserMessage(_Message):
    content: str


class InjectAgentMessage(_Message):
    """The text is `message`, else `content` (the component's spelling)."""

    message: str | None = None
    content: str | None = None
    behavior: str | None = None
    """"default", "queue" or "interrupt"."""
    is_dynamic: bool | None = None
    """The form without text, for Think Live."""


class FunctionCallResponse(_Message):
    """Both directions: the client's answer to a call, or the result of a server-side function.

    What we send carries `id`, `name` and a string `content`. What clients send carries any of
    these; PROTOCOL.md 4.5 says which wins.
    """

    id: str | None = None
    function_call_id: str | None = None
    """Older clients' spelling of `id`."""
    name: str | None = None
    content: Any = None
    output: Any = None
    """Older clients' spelling of `content`."""
    result: Any = None
    error: Any = None


class ForceEndTurn(_Message): ...


class KeepAlive(_Message): ...


class CustomToThinkProvider(_Message, tag="__customToThinkProvider"):
    content: Any


# Server -> client --------------------------------------------------------------------------------


class Welcome(_Message):
    request_id: str


class SettingsApplied(_Message): ...


class ConversationText(_Message):
    """Something the user or the agent said."""

    role: str
    """"user" or "assistant"."""
    content: str
    conversational_behavior: str | None = None
    languages_hinted: list[str] | None = None
    languages: list[str] | None = None


class UserStartedSpeaking(_Message): ...


class AgentThinking(_Message):
    content: str


class AgentStartedSpeaking(_Message):
    """All three latencies are in seconds, and always present."""

    total_latency: float
    tts_latency: float
    ttt_latency: float


class AgentAudioDone(_Message): ...


class LatencyReport(_Message):
    """Seconds; what was not measured is left out."""

    stt_latency: float | None = None
    ttt_token_latency: float | None = None
    ttt_text_latency: float | None = None
    ttt_tool_latency: float | None = None
    ttt_thinking_latency: float | None = None
    tts_latency: float | None = None
    total_latency: float | None = None


class FunctionCallRequest(_Message):
    functions: "list[FunctionCall]"


class FunctionCall(_Part):
    id: str
    name: str
    arguments: str
    """JSON text."""
    client_side: bool
    thought_signature: str | None = None


class FunctionCallCancelled(_Message):
    functions: "list[CancelledFunction]"


class CancelledFunction(_Part):
    id: str
    name: str


class PromptUpdated(_Message): ...


class SpeakUpdated(_Message): ...


class ThinkUpdated(_Message): ...


class ListenUpdated(_Message): ...


class ThinkLiveUpdated(_Message): ...


class InjectionRefused(_Message):
    message: str


class History(_Message):
    """Form A has `role` and `content`, form B has `function_calls`; never both."""

    role: str | None = None
    """"user" or "assistant"."""
    content: str | None = None
    function_calls: "list[FunctionCallRecord] | None" = None


class FunctionCallRecord(_Part):
    """A completed function call."""

    id: str
    name: str
    client_side: bool
    arguments: str
    """JSON text."""
    response: str
    thought_signature: str | None = None


class Error(_Message):
    """Fatal: the connection closes after it."""

    description: str
    code: str


class Warning(_Message):  # noqa: A001  the vendor's name for the vendor's message
    description: str
    code: str


class FrustrationDetected(_Message):
    count: Int
    escalated: bool


class CustomFromThinkProvider(_Message, tag="__customFromThinkProvider"):
    content: Any


# Server -> browser component only ----------------------------------------------------------------


class AgentDone(_Message): ...


class Transcript(_Message, kw_only=True, omit_defaults=False):
    transcript: str
    is_final: bool
    speech_final: bool
    channel: Int = 0
    channel_index: tuple[int, ...] = (0,)
    start: float
    """Seconds into the input audio."""
    duration: float
    """Seconds, 0 when not known."""
    alternatives: "list[Alternative]"


class Alternative(msgspec.Struct):
    transcript: str
    confidence: float
    words: tuple[str, ...] = ()


class UtteranceEnd(_Message, kw_only=True, omit_defaults=False):
    channel: tuple[int, ...] = (0, 1)
    last_word_end: float
    """Seconds into the input audio."""


# Unions and frames -------------------------------------------------------------------------------

ClientMessage: TypeAlias = (
    Settings
    | UpdateListen
    | UpdateThink
    | UpdateThinkLive
    | UpdateSpeak
    | UpdatePrompt
    | InjectUserMessage
    | InjectAgentMessage
    | FunctionCallResponse
    | ForceEndTurn
    | KeepAlive
    | CustomToThinkProvider
)

ServerMessage: TypeAlias = (
    Welcome
    | SettingsApplied
    | ConversationText
    | UserStartedSpeaking
    | AgentThinking
    | AgentStartedSpeaking
    | AgentAudioDone
    | LatencyReport
    | FunctionCallRequest
    | FunctionCallResponse
    | FunctionCallCancelled
    | PromptUpdated
    | SpeakUpdated
    | ThinkUpdated
    | ListenUpdated
    | ThinkLiveUpdated
    | InjectionRefused
    | History
    | Error
    | Warning
    | FrustrationDetected
    | CustomFromThinkProvider
    | AgentDone
    | Transcript
    | UtteranceEnd
)


def decode_client(data: str | bytes) -> ClientMessage | Unknown | Unparsable:
    """One text frame of a client. Never raises: a peer's mistake is `Unknown` or `Unparsable`."""
    return _CLIENT.decode(data)


def decode_server(data: str | bytes) -> ServerMessage | Unknown | Unparsable:
    """One text frame of a server: for our own client, and for tests."""
    return _SERVER.decode(data)


def encode(message: ClientMessage | ServerMessage) -> str:
    """The text frame of a message."""
    return _ENCODER.encode(message).decode()


def memory(message: ClientMessage) -> int:
    """About the bytes that a message takes, rather too many."""
    frame = _ENCODER.encode(message)
    return len(frame) + _VALUE_BYTES * (frame.count(b",") + frame.count(b"{") + frame.count(b"["))


_VALUE_BYTES = 64
"""Of a value beside its text: `{}` is two bytes in JSON, and a dict."""
_CLIENT: FrameDecoder[ClientMessage] = FrameDecoder(
    ClientMessage,
    free_form=(Settings, UpdateThink, FunctionCallResponse, CustomToThinkProvider),
)
_SERVER: FrameDecoder[ServerMessage] = FrameDecoder(
    ServerMessage, free_form=(FunctionCallResponse, CustomFromThinkProvider)
)
_ENCODER = msgspec.json.Encoder()
