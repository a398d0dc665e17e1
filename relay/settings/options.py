"""options: what the configuration says about turning Settings into a session."""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from relay import voice_agent

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Probability: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TurnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the upstream finds the user's turns. The values are always sent, because the API's
    documented and its real defaults differ (U-11)."""

    kind: Literal["auto", "server_vad", "semantic_vad", "off"] = "auto"
    """`auto` is `semantic_vad` for a Flux listen model and `server_vad` for any other. With `off`
    only ForceEndTurn ends a turn."""
    threshold: Probability = 0.5
    """Of `server_vad`: how loud speech must be."""
    prefix_padding_ms: Count = 300
    """Of `server_vad`: audio kept from before the speech."""
    silence_duration_ms: Count = 500
    """Of `server_vad`: the silence that ends a turn."""
    idle_timeout_ms: Annotated[int, msgspec.Meta(ge=5000, le=30000)] | None = None
    """Of `server_vad`: the model speaks on its own after so long a silence; unset, never. It is not
    the component's `idleTimeoutMs` (C-057)."""
    interrupt_response: bool = True
    """The upstream itself cuts its response when the user speaks."""


class NoiseReduction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the upstream filters out of the user's audio."""

    type: Literal["near_field", "far_field"]
    """`near_field` for headsets, `far_field` for a room's microphone."""
    strength: Probability | None = None
    """Unset: the upstream's own."""


class Tracing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the upstream's trace of a session is filed. Never taken from a client."""

    workflow_name: str | None = None
    group_id: str | None = None
    metadata: dict[str, Any] | None = None


class Passthrough(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parts of the upstream's session that have no counterpart in Settings. Unset: not sent."""

    noise_reduction: NoiseReduction | None = None
    tracing: Literal["auto"] | Tracing | None = None
    logprobs: bool = False
    """Ask for the transcription's log probabilities; the component's confidence is made of them."""
    parallel_tool_calls: bool | None = None
    """Sent to reasoning models only."""


class MappingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names and values that Settings are mapped with."""

    model: str = "gpt-realtime-2.1"
    """Realtime model for every think model that is none itself."""
    models: dict[str, str] = {}
    """Think model -> Realtime model; comes before every other rule."""
    reasoning_models: tuple[str, ...] = ("gpt-realtime-2",)
    """Families that take `reasoning` and `parallel_tool_calls`: a name counts as a member when it
    goes on with `.` or `-` (gpt-realtime-2.1-mini does, gpt-realtime-2025-08-28 does not)."""

    voice: str = "marin"
    """Voice for every speak model or voice that is not the upstream's own."""
    voices: dict[str, str] = {}
    """Speak voice or model -> upstream's voice; comes before every other rule. `voice_...` is the
    id of a custom voice."""

    transcription_model: str = "gpt-transcribe"
    """Transcription model for every listen model that is none of OpenAI's; empty: no transcription,
    and so no ConversationText for what the user says."""
    transcription_models: dict[str, str] = {}
    """Listen model -> transcription model; comes before every other rule."""
    g711: bool = True
    """The upstream speaks G.711 where the client does. False: it is always asked for PCM, because
    some servers confirm G.711 and send PCM all the same."""
    turns: TurnOptions = TurnOptions()

    agents: dict[str, voice_agent.Agent] = {}
    """Agent id -> what Settings would carry as `agent`."""
    prompt_limit_chars: Annotated[int, msgspec.Meta(ge=1)] = 25_000
    """A longer prompt is truncated, as Deepgram does for its managed models."""
    functions_prompt: str = ""
    """Text added to the instructions while there are functions; empty adds nothing."""
    retention_ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """Share of the conversation to keep when a numeric `context_length` is exceeded; unset, such a
    length is ignored."""
    function_endpoints: tuple[str, ...] = ()
    """URLs under which the relay itself calls functions that have an `endpoint`; empty: it calls
    none, and the client is asked instead."""
    passthrough: Passthrough = Passthrough()
