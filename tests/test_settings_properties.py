"""Whatever Settings and updates say: they are answered with data, and what goes up is valid."""

import types
import typing
from typing import Annotated, Any, get_args, get_origin

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from relay import realtime, voice_agent
from relay.session.options import SessionOptions
from relay.settings import (
    Change,
    Dialect,
    MappingOptions,
    Passthrough,
    Plan,
    Refusal,
    TurnOptions,
    Update,
    change,
    plan,
)
from tests.oracle import check_client_event

JSON = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
"""Without null: the oracle takes it for a mistake wherever it stands, in a schema too."""

WORDS = st.sampled_from(
    [
        "",
        " ",
        "linear16",
        "linear32",
        "mulaw",
        "alaw",
        "opus",
        "none",
        "wav",
        "user",
        "assistant",
        "system",
        "nova-3",
        "flux-general-en",
        "gpt-4o-transcribe",
        "gpt-realtime-whisper",
        "gpt-4o-mini",
        "gpt-realtime-2",
        "gpt-realtime-1.5",
        "en-US",
        "multi",
        "es",
        "v1",
        "v2",
        "alloy",
        "max",
        "low",
        "none",
        "f",
        "g",
        "tea-shop",
        "https://fns.test/v1",
    ]
)
"""Words that mean something somewhere; anywhere else they are as good as any."""

EXTENSIONS: dict[str, st.SearchStrategy[Any]] = {
    "tool_choice": st.sampled_from(["auto", "required", {"type": "function", "name": "f"}]),
    "output_modalities": st.lists(st.sampled_from(["text", "audio", "video", 1])),
    "max_output_tokens": st.integers(-10, 10_000) | st.floats(0, 10_000),
    "managed_prompt": st.fixed_dictionaries(
        {"id": WORDS}, optional={"version": WORDS, "variables": st.dictionaries(WORDS, JSON)}
    ),
    "session_audio_output": st.fixed_dictionaries(
        {},
        optional={
            "voice": WORDS | st.fixed_dictionaries({"id": WORDS}),
            "speed": st.floats(0, 2),
            "format": st.fixed_dictionaries(
                {"type": st.sampled_from(["audio/pcm", "audio/pcmu", "audio/pcma", "audio/mp3"])},
                optional={"rate": st.sampled_from([8000, 24000])},
            ),
        },
    ),
    "use_openai_manual_audio_commit": st.booleans(),
    "parameters": st.dictionaries(st.text(), JSON, max_size=3),
}
"""Fields that take any JSON: mostly something near to what is meant."""


def values(annotation: Any, field: str = "") -> st.SearchStrategy[Any]:
    """Values of an annotation in `relay.voice_agent`: what its decoder can give, and no others."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return st.none() | EXTENSIONS.get(field, st.nothing()) | JSON
    if origin is Annotated:
        usual = st.sampled_from([8000, 16000, 24000, 44100, 48000])
        return usual | st.integers(-(2**63), 2**63 - 1)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(argument, field) for argument in arguments])
    if origin is list:
        return st.lists(values(arguments[0], field), max_size=3)
    if origin is dict:
        return EXTENSIONS.get(field, st.dictionaries(st.text(), st.text(), max_size=2))
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return st.deferred(lambda: struct(annotation))
    return {
        str: WORDS | st.text(),
        bool: st.booleans(),
        float: st.floats(0, 2) | st.floats(allow_nan=False, allow_infinity=False),
        type(None): st.none(),
    }[annotation]


def struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: values(hint, name) for name, hint in hints.items()})


SETTINGS: st.SearchStrategy[voice_agent.Settings] = struct(voice_agent.Settings)
FUNCTIONS = st.lists(
    st.builds(
        voice_agent.Function,
        name=st.sampled_from("fgh"),
        endpoint=values(voice_agent.FunctionEndpoint | None),
        parameters=EXTENSIONS["parameters"],
    ),
    unique_by=lambda function: function.name,
    max_size=3,
)
THINK = st.builds(
    msgspec.structs.replace, struct(voice_agent.Think), functions=FUNCTIONS | st.none()
)
ACCEPTABLE = st.builds(
    msgspec.structs.replace,
    SETTINGS,
    audio=st.just(voice_agent.Audio()),
    agent=st.builds(
        msgspec.structs.replace,
        struct(voice_agent.Agent),
        think=THINK | st.lists(THINK, max_size=2),
        listen=st.none()
        | st.builds(
            voice_agent.Listen,
            provider=st.builds(
                msgspec.structs.replace,
                struct(voice_agent.ListenProvider),
                eot_threshold=st.none() | st.floats(0.5, 1),
                eager_eot_threshold=st.none() | st.floats(0.3, 0.9),
            ),
        ),
    ),
)
"""Settings with nothing in them that is refused."""
UPDATES: st.SearchStrategy[Update] = st.one_of(
    struct(voice_agent.UpdatePrompt),
    struct(voice_agent.UpdateThink),
    st.builds(voice_agent.UpdateThink, think=THINK),
    struct(voice_agent.UpdateSpeak),
    struct(voice_agent.UpdateListen),
)
OPTIONS = st.sampled_from(
    [
        MappingOptions(),
        MappingOptions(
            agents={"tea-shop": voice_agent.Agent(greeting="Tea?")},
            voices={"nova-3": "voice_1"},
            models={"f": "gpt-realtime-1.5"},
            retention_ratio=0.5,
            functions_prompt="Use the tools.",
            function_endpoints=("https://fns.test",),
            prompt_limit_chars=3,
            transcription_model="",
            turns=TurnOptions(kind="server_vad", idle_timeout_ms=5000),
            passthrough=Passthrough(parallel_tool_calls=True, logprobs=True, tracing="auto"),
        ),
    ]
)
FLAGS = st.builds(
    SessionOptions,
    strict=st.booleans(),
    context_mode=st.sampled_from(["items", "instructions"]),
    update_prompt=st.sampled_from(["append", "replace"]),
    wav_header=st.booleans(),
)


def planned(
    message: voice_agent.Settings,
    options: MappingOptions,
    flags: SessionOptions,
    dialect: Dialect = Dialect.DEEPGRAM,
) -> Plan | Refusal:
    return plan(
        message,
        options,
        dialect,
        strict=flags.strict,
        context_mode=flags.context_mode,
        wav_header=flags.wav_header,
    )


def check_session(session: realtime.Session) -> None:
    check_client_event(realtime.encode(realtime.SessionUpdate(session=session)))


@given(
    st.one_of(SETTINGS, ACCEPTABLE),
    OPTIONS,
    FLAGS,
    st.sampled_from(Dialect),
)
def test_settings_give_a_plan_or_a_refusal(
    message: voice_agent.Settings, options: MappingOptions, flags: SessionOptions, dialect: Dialect
) -> None:
    made = planned(message, options, flags, dialect)
    if isinstance(made, Refusal):
        assert made.code
        assert made.description
        return
    check_session(made.session())
    for item in made.context:
        check_client_event(realtime.encode(realtime.ConversationItemCreate(item=item)))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Plan) == made


@given(ACCEPTABLE, FLAGS)
def test_acceptable_settings_are_accepted(
    message: voice_agent.Settings, flags: SessionOptions
) -> None:
    """So that the properties above and below are about more than refusals."""
    lenient = msgspec.structs.replace(flags, strict=False)
    assert isinstance(planned(message, MappingOptions(), lenient), Plan)


@given(ACCEPTABLE, st.lists(UPDATES, max_size=4), OPTIONS, FLAGS)
def test_updates_give_a_change_or_a_refusal(
    message: voice_agent.Settings,
    updates: list[Update],
    options: MappingOptions,
    flags: SessionOptions,
) -> None:
    current = planned(message, options, flags)
    if isinstance(current, Refusal):
        return
    for asked in updates:
        made = change(
            current, asked, options, strict=flags.strict, update_prompt=flags.update_prompt
        )
        if isinstance(made, Refusal):
            assert made.code in ("THINK_REQUEST_FAILED", "SPEAK_REQUEST_FAILED")
            continue
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Change) == made
        if made.session is not None:
            check_session(made.session)
        check_session(made.plan.session())
        current = made.plan
