"""configuration: what a session is set to, and which changes it accepts.

It knows the effective configuration, the API's defaults and the rules of session.update. It does
not know what any setting leads to.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from relay.audio.formats import PCM24K, PCMA8K, PCMU8K, Format
from relay.simulator.requests import (
    AudioType,
    MaxOutputTokens,
    Modalities,
    Pcm,
    Pcma,
    Pcmu,
    Prompt,
    Reasoning,
    Refusal,
    Strict,
    Tool,
    ToolChoice,
    Voice,
    refusal,
)

DEFAULT_INSTRUCTIONS = (
    "You are the embedded simulator of a realtime model. Be brief, friendly and plain, and call a "
    "tool whenever one fits."
)
"""The API has such a text too, and so a session is never without instructions until it says so."""


class ServerVad(Strict, frozen=True, tag="server_vad", tag_field="type"):
    """A turn ends when it has been quiet for a while."""

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 300
    silence_duration_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 500
    idle_timeout_ms: Annotated[int, msgspec.Meta(ge=5000, le=30_000)] | None = None
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(Strict, frozen=True, tag="semantic_vad", tag_field="type"):
    """A turn ends when the user seems to be done; more eagerly or less."""

    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection: TypeAlias = ServerVad | SemanticVad


class NoiseReduction(Strict, frozen=True):
    """Carried, and without effect: the simulator listens to energy only."""

    type: Literal["near_field", "far_field"] | None = None
    strength: float | None = None


class Transcription(Strict, frozen=True):
    """With it, what the user says is transcribed (by script); its settings are only carried."""

    model: str | None = None
    language: str | None = None
    languages: tuple[str, ...] | None = None
    prompt: str | None = None
    keywords: tuple[str, ...] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class AudioInput(Strict, frozen=True):
    format: AudioType = Pcm()
    noise_reduction: NoiseReduction | None = None
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = ServerVad()


class AudioOutput(Strict, frozen=True):
    format: AudioType = Pcm()
    voice: Voice = "alloy"
    speed: Annotated[float, msgspec.Meta(ge=0.25, le=1.5)] = 1.0


class Audio(Strict, frozen=True):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class TokenLimits(Strict, frozen=True):
    post_instructions: Annotated[int, msgspec.Meta(ge=0)] | None = None


class RetentionRatio(Strict, frozen=True, tag="retention_ratio", tag_field="type"):
    retention_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)]
    token_limits: TokenLimits | None = None


class Tracing(Strict, frozen=True):
    workflow_name: str | None = None
    group_id: str | None = None
    metadata: dict[str, Any] | None = None


class Configuration(Strict, frozen=True):
    """Everything a session is set to (PROTOCOL.md 2.2). No temperature, no top-level voice."""

    type: Literal["realtime"]
    model: str = "gpt-realtime"
    instructions: str = DEFAULT_INSTRUCTIONS
    output_modalities: Modalities = ("audio",)
    audio: Audio = Audio()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: MaxOutputTokens = "inf"
    truncation: Literal["auto", "disabled"] | RetentionRatio = "auto"
    prompt: Prompt | None = None
    include: tuple[Literal["item.input_audio_transcription.logprobs"], ...] | None = None
    tracing: Literal["auto"] | Tracing | None = None


def changed(
    was: Configuration, patch: Mapping[str, Any], *, has_spoken: bool, responding: bool
) -> Configuration | Refusal:
    """The configuration after a session.update, or why it stays as it is.

    Only what is present changes. `has_spoken`: the session has sent assistant audio; `responding`:
    a response is active.
    """
    if "type" not in patch:
        return Refusal(
            "missing_required_parameter",
            "Missing required parameter: 'session.type'.",
            "session.type",
        )
    try:
        now = msgspec.convert(_laid_over(msgspec.to_builtins(was), patch), Configuration)
    except msgspec.ValidationError as error:
        return refusal(error, within="session")
    if now.model != was.model:
        return Refusal("invalid_value", "The model of a session cannot change.", "session.model")
    if has_spoken and now.audio.output.voice != was.audio.output.voice:
        return Refusal(
            "cannot_update_voice",
            "Cannot update a conversation's voice if assistant audio is present.",
            "session.audio.output.voice",
        )
    if responding and now.audio.output.speed != was.audio.output.speed:
        return Refusal(
            "invalid_value",
            "The speed can only change between turns.",
            "session.audio.output.speed",
        )
    if was.tracing is not None and now.tracing != was.tracing:
        return Refusal("invalid_value", "Tracing cannot change once it is on.", "session.tracing")
    return now


def audio_format(audio: AudioType) -> Format:
    """What the bytes of an API audio type mean."""
    match audio:
        case Pcm():
            return PCM24K
        case Pcmu():
            return PCMU8K
        case Pcma():
            return PCMA8K


def _laid_over(base: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in patch.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and not _another_kind(below, value):
            result[key] = _laid_over(below, value)
        else:
            result[key] = value
    return result


def _another_kind(below: dict[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether one tagged object replaces another, so that nothing of the old one may remain."""
    return "type" in value and value["type"] != below.get("type")
