"""The messages of Voice Agent V1: names, leniency towards clients, and nothing that raises."""

import json
from typing import Any, get_args

import hypothesis
import msgspec
import pytest
from deepgram.agent.v1 import types as sdk
from hypothesis import given
from hypothesis import strategies as st

from relay import voice_agent
from relay.voice_agent import (
    Agent,
    Audio,
    AudioInput,
    ClientMessage,
    Context,
    ContextFunctionCall,
    ContextMessage,
    Flags,
    FunctionCallResponse,
    InjectAgentMessage,
    InjectUserMessage,
    KeepAlive,
    Listen,
    ListenProvider,
    ServerMessage,
    Settings,
    Think,
    ThinkProvider,
    Unknown,
    Unparsable,
    UpdateThink,
    decode_client,
    decode_server,
    encode,
)
from tests import oracle
from tests.structs import JSON, instances, lacking, structs_of

CLIENT = {struct.__struct_config__.tag: struct for struct in get_args(ClientMessage)}
SERVER = {struct.__struct_config__.tag: struct for struct in get_args(ServerMessage)}


def client(**fields: Any) -> Any:
    return decode_client(json.dumps(fields))


def settings(**agent: Any) -> Any:
    message = client(type="Settings", audio={}, agent=agent)
    assert isinstance(message, Settings), message
    assert isinstance(message.agent, Agent)
    return message.agent


# Names -------------------------------------------------------------------------------------------


def test_every_client_message_of_the_sdk_is_known() -> None:
    assert set(oracle.CLIENT_MESSAGES) - set(CLIENT) == set()


def test_every_server_message_of_the_sdk_is_known() -> None:
    assert set(oracle.SERVER_MESSAGES) - set(SERVER) == set()


def test_nothing_is_said_that_the_sdk_does_not_know_but_what_the_component_asks_for() -> None:
    assert set(SERVER) - set(oracle.SERVER_MESSAGES) == set(oracle.COMPONENT_MESSAGES)
    assert set(CLIENT) - set(oracle.CLIENT_MESSAGES) == set()


LEFT_OUT = {
    "agent.think.provider.credentials": "could only be leaked: never forwarded, never logged",
    "agent.speak.provider.credentials": "could only be leaked: never forwarded, never logged",
    "think.provider.credentials": "could only be leaked: never forwarded, never logged",
    "speak.provider.credentials": "could only be leaked: never forwarded, never logged",
}


def test_every_field_of_the_sdk_is_known_at_every_depth() -> None:
    lacked = {
        path
        for ours, theirs in ((CLIENT, oracle.CLIENT_MESSAGES), (SERVER, oracle.SERVER_MESSAGES))
        for tag, models in theirs.items()
        for model in models
        for path in lacking(model, {ours[tag]})
    }
    assert lacked == set(LEFT_OUT)


TWO_SHAPES = {"FunctionCallResponse", "History"}
"""One struct for two directions, or for two forms: nothing is common to both."""


@pytest.mark.parametrize("tag", sorted(set(oracle.SERVER_MESSAGES) - TWO_SHAPES))
def test_what_the_sdk_requires_of_a_server_message_must_be_given(tag: str) -> None:
    [model] = oracle.SERVER_MESSAGES[tag]
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    ours = {f.encode_name for f in msgspec.structs.fields(SERVER[tag]) if f.required}
    assert ours == required


def test_components_fields_have_the_components_spelling() -> None:
    agent = settings(
        idleTimeoutMs=-1,
        sessionAudioOutput={"speed": "fast"},
        useOpenAIManualAudioCommit=True,
        think={
            "toolChoice": 7,
            "outputModalities": "audio",
            "maxOutputTokens": "many",
            "managedPrompt": [],
        },
    )
    assert (agent.idle_timeout_ms, agent.session_audio_output) == (-1, {"speed": "fast"})
    assert agent.use_openai_manual_audio_commit is True
    # Invalid values decode: C-051 ... C-055 have them dropped, not refused.
    think = agent.think
    assert (think.tool_choice, think.output_modalities) == (7, "audio")
    assert (think.max_output_tokens, think.managed_prompt) == ("many", [])


# Leniency ----------------------------------------------------------------------------------------


def every_field_null(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {f.encode_name: None for f in msgspec.structs.fields(struct) if not f.required}


PARTS = [
    struct
    for struct in structs_of(voice_agent)
    if struct.__struct_config__.tag is None
    if not any(field.required for field in msgspec.structs.fields(struct))
]


@pytest.mark.conformance("C-208")
@pytest.mark.parametrize("struct", PARTS, ids=lambda struct: struct.__name__)
def test_a_null_field_of_any_object_is_absent(struct: type[msgspec.Struct]) -> None:
    nulls = json.dumps(every_field_null(struct)).encode()
    assert msgspec.json.decode(nulls, type=struct) == struct()


@pytest.mark.conformance("C-208")
@pytest.mark.parametrize("tag", ["Settings", "InjectAgentMessage", "FunctionCallResponse"])
def test_a_null_field_of_any_message_is_absent(tag: str) -> None:
    assert client(type=tag, **every_field_null(CLIENT[tag])) == client(type=tag)


@pytest.mark.conformance("C-208")
def test_nulls_inside_settings_are_absent() -> None:
    message = client(
        type="Settings",
        tags=None,
        flags={"history": None},
        audio={"input": {"encoding": "linear16", "sample_rate": 16000}, "output": None},
        agent={
            "greeting": None,
            "think": {"prompt": None, "provider": {"type": "open_ai", "temperature": None}},
            "listen": {"provider": {"type": "deepgram", "keyterms": None}},
            "speak": None,
        },
    )
    assert message == Settings(
        flags=Flags(),
        audio=Audio(input=AudioInput(encoding="linear16", sample_rate=16000)),
        agent=Agent(
            think=Think(provider=ThinkProvider(type="open_ai")),
            listen=Listen(provider=ListenProvider(type="deepgram")),
        ),
    )


def test_whole_floats_pass_for_integers_and_integers_for_floats() -> None:
    message = client(
        type="Settings",
        audio={"input": {"encoding": "linear16", "sample_rate": 16000.0}},
        agent={
            "listen": {"provider": {"eot_threshold": 1, "eot_timeout_ms": 5000.0}},
            "think": {"context_length": 12000.0, "functions": [{"agent_filler_max_count": 2.0}]},
        },
    )
    assert message.audio.input.sample_rate == 16000
    assert isinstance(message.audio.input.sample_rate, int)
    assert message.agent.listen.provider.eot_threshold == 1.0
    assert message.agent.listen.provider.eot_timeout_ms == 5000
    assert message.agent.think.functions[0].agent_filler_max_count == 2


def test_a_fraction_does_not_pass_for_an_integer() -> None:
    message = client(type="Settings", audio={"input": {"sample_rate": 16000.5}})
    assert message == Unparsable(
        "Settings", "Expected `int | null`, got `float` - at `$.audio.input.sample_rate`"
    )


def test_unknown_keys_are_ignored_at_every_depth() -> None:
    agent = settings(think={"provider": {"type": "open_ai", "top_k": 3}, "x": 1}, y=[])
    assert agent == Agent(think=Think(provider=ThinkProvider(type="open_ai")))
    assert client(type="KeepAlive", since=5) == KeepAlive()


def test_values_that_no_one_knows_decode_for_the_settings_to_judge() -> None:
    message = client(type="Settings", audio={"input": {"encoding": "morse", "sample_rate": -1}})
    assert message.audio.input == AudioInput(encoding="morse", sample_rate=-1)


def test_settings_without_agent_or_audio_decode() -> None:
    assert client(type="Settings") == Settings()


# Shapes in the wild (L-75) -----------------------------------------------------------------------


def test_agent_may_be_the_id_of_a_saved_one() -> None:
    assert client(type="Settings", audio={}, agent="a-uuid").agent == "a-uuid"


def test_think_and_speak_may_be_arrays() -> None:
    agent = settings(think=[{"prompt": "a"}, {"prompt": "b"}], speak=[{"provider": {}}])
    assert [think.prompt for think in agent.think] == ["a", "b"]
    assert len(agent.speak) == 1
    update = client(type="UpdateThink", think=[{"prompt": "c"}])
    assert update == UpdateThink(think=[Think(prompt="c")])


HISTORY = [
    {"type": "History", "role": "user", "content": "Hello"},
    {
        "type": "History",
        "function_calls": [
            {"id": "c", "name": "f", "client_side": True, "arguments": "{}", "response": "ok"}
        ],
    },
]
HISTORY_DECODED = [
    ContextMessage(type="History", role="user", content="Hello"),
    ContextMessage(
        type="History",
        function_calls=[
            ContextFunctionCall(id="c", name="f", client_side=True, arguments="{}", response="ok")
        ],
    ),
]


def test_context_comes_in_three_shapes() -> None:
    assert settings(context={"messages": HISTORY}).context == Context(messages=HISTORY_DECODED)
    assert settings(context=HISTORY).context == HISTORY_DECODED
    assert settings(messages=HISTORY).messages == HISTORY_DECODED


def test_a_language_hint_is_a_string_or_an_array() -> None:
    for hint in ("en", ["en", "de"]):
        provider = settings(listen={"provider": {"language_hint": hint}}).listen.provider
        assert provider.language_hint == hint


def test_a_voice_is_a_name_or_an_object() -> None:
    named = settings(speak={"provider": {"type": "open_ai", "voice": "alloy"}})
    assert named.speak.provider.voice == "alloy"
    mode = settings(speak={"provider": {"type": "cartesia", "voice": {"mode": "id", "id": "v"}}})
    assert mode.speak.provider.voice.id == "v"


def test_the_type_may_come_last() -> None:
    message = decode_client('{"mip_opt_out":true,"experimental":false,"type":"Settings"}')
    assert message == Settings(mip_opt_out=True, experimental=False)


def test_what_the_official_python_client_builds_decodes() -> None:
    built = sdk.AgentV1Settings(
        audio=sdk.AgentV1SettingsAudio(
            input=sdk.AgentV1SettingsAudioInput(encoding="linear16", sample_rate=24000)
        ),
        agent=sdk.AgentV1SettingsAgent.model_validate(
            {
                "greeting": "Hello!",
                "listen": {"provider": {"type": "deepgram", "version": "v1", "model": "nova-3"}},
                "think": {
                    "provider": {"type": "open_ai", "model": "gpt-4o-mini", "temperature": 0.7},
                    "prompt": "Be brief.",
                },
                "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
            }
        ),
    )
    message = decode_client(json.dumps(built.dict()))
    assert isinstance(message, Settings)
    assert isinstance(message.agent, Agent)
    assert isinstance(message.agent.think, Think)
    assert message.agent.think.prompt == "Be brief."
    oracle.check_client_message(encode(message))


def test_credentials_are_not_kept() -> None:
    secret = {"type": "iam", "secret_access_key": "s3cr3t"}
    agent = settings(
        think={"provider": {"type": "aws_bedrock", "credentials": secret}},
        speak={"provider": {"type": "aws_polly", "credentials": secret}},
    )
    assert "s3cr3t" not in repr(agent)


@pytest.mark.parametrize("content", ["text", 5, 1.5, True, [1, {"a": None}], {"a": "b"}, ""])
def test_a_function_call_response_takes_content_of_any_json_type(content: Any) -> None:
    answer = client(type="FunctionCallResponse", id="c", name="f", content=content)
    assert answer == FunctionCallResponse(id="c", name="f", content=content)


def test_a_function_call_response_has_older_spellings() -> None:
    answer = client(
        type="FunctionCallResponse", function_call_id="c", output="o", result={"r": 1}, error="e"
    )
    assert answer == FunctionCallResponse(
        function_call_id="c", output="o", result={"r": 1}, error="e"
    )


def test_an_injection_has_three_forms() -> None:
    assert client(type="InjectAgentMessage", message="m", behavior="queue") == InjectAgentMessage(
        message="m", behavior="queue"
    )
    assert client(type="InjectAgentMessage", content="c") == InjectAgentMessage(content="c")
    dynamic = client(type="InjectAgentMessage", is_dynamic=True)
    assert dynamic == InjectAgentMessage(is_dynamic=True)


def test_integers_of_free_form_json_are_held_to_what_a_session_can_encode() -> None:
    answer = client(type="FunctionCallResponse", id="c", content={"big": 10**30, "max": 2**63 - 1})
    assert answer.content == {"big": 1e30, "max": 2**63 - 1}
    msgspec.msgpack.encode(answer)


def test_a_float_beyond_the_exact_integers_stays_a_float() -> None:
    content = [2.0**53, 2.0**53 + 2, -0.5]
    answer = client(type="FunctionCallResponse", id="c", content=content)
    assert [type(number) for number in answer.content] == [int, float, float]
    message = client(type="Settings", audio={"input": {"sample_rate": 1e300}})
    assert isinstance(message, Unparsable)


# Bad input ---------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
NAMELESS: list[tuple[str, str | bytes, str]] = [
    ("empty", "", "Input data was truncated"),
    ("not JSON", "Hello", "JSON is malformed: invalid character (byte 0)"),
    ("cut short", '{"type":"KeepAlive"', "Input data was truncated"),
    ("trailing", '{"type":"KeepAlive"}{}', "JSON is malformed: trailing characters (byte 21)"),
    ("NaN", '{"type":"UpdatePrompt","prompt":NaN}', "JSON is malformed: invalid character"),
    ("array", '["Settings"]', "Expected `object`, got `array`"),
    ("number", "5", "Expected `object`, got `int`"),
    ("string", '"Settings"', "Expected `object`, got `str`"),
    ("null", "null", "Expected `object`, got `null`"),
    ("no type", "{}", "Object missing required field `type`"),
    ("null type", '{"type":null}', "Expected `str`, got `null` - at `$.type`"),
    ("type no string", '{"type":7}', "Expected `str`, got `int` - at `$.type`"),
    ("deep", DEEP, "Expected `object`, got `array`"),
    ("deep unknown key", '{"type":"KeepAlive","x":' + DEEP + "}", "nested too deeply"),
    ("lone surrogate", '{"type":"UpdatePrompt","prompt":"\ud800"}', "text is not Unicode"),
    ("escaped one", '{"type":"UpdatePrompt","prompt":"\\ud800"}', "Input data was truncated"),
    ("not UTF-8", b'{"type":"UpdatePrompt","prompt":"\xff"}', "text is not UTF-8"),
    ("type not UTF-8", b'{"type":"\xff"}', "text is not UTF-8"),
]


@pytest.mark.parametrize(
    ("frame", "reason"), [case[1:] for case in NAMELESS], ids=[case[0] for case in NAMELESS]
)
def test_what_is_no_message_has_no_type_and_a_reason(frame: str | bytes, reason: str) -> None:
    message = decode_client(frame)
    assert isinstance(message, Unparsable)
    assert message.type is None
    assert message.reason.startswith(reason)


WRONG = [
    ({"type": "InjectUserMessage"}, "Object missing required field `content`"),
    ({"type": "InjectUserMessage", "content": 5}, "Expected `str`, got `int` - at `$.content`"),
    ({"type": "InjectUserMessage", "content": None}, "Expected `str`, got `null` - at `$.content`"),
    ({"type": "UpdatePrompt", "prompt": ["x"]}, "Expected `str`, got `array` - at `$.prompt`"),
    (
        {"type": "UpdateThink", "think": "x"},
        "Expected `object | array`, got `str` - at `$.think`",
    ),
    (
        {"type": "Settings", "agent": 7},
        "Expected `str | object | null`, got `int` - at `$.agent`",
    ),
    (
        {"type": "Settings", "agent": {"think": [{}, {"functions": [{"name": 1}]}]}},
        "Expected `str | null`, got `int` - at `$.agent.think[1].functions[0].name`",
    ),
    (
        {"type": "Settings", "audio": {"input": {"sample_rate": "16000"}}},
        "Expected `int | null`, got `str` - at `$.audio.input.sample_rate`",
    ),
    ({"type": "Settings", "agent": {"think": {"toolChoice": 10**400}}}, "number out of range"),
]


@pytest.mark.parametrize(("message", "reason"), WRONG, ids=lambda case: str(case)[:60])
def test_wrong_types_in_a_known_message_name_the_message_and_the_path(
    message: dict[str, Any], reason: str
) -> None:
    assert client(**message) == Unparsable(message["type"], reason)


def test_a_message_nobody_knows_is_unknown() -> None:
    frame = '{"type":"CloseStream","é":1}'
    assert decode_client(frame) == Unknown("CloseStream", len(frame.encode()))
    assert decode_client('{"type":"ConversationText"}') == Unknown("ConversationText", 27)


def test_the_name_of_an_unknown_message_is_cut() -> None:
    message = client(type="x" * 1000)
    assert message == Unknown("x" * 100, 1000 + len('{"type": ""}'))


def test_free_form_json_may_be_nested_a_hundred_levels_deep() -> None:
    def nested(levels: int) -> str:
        inside = "[" * levels + "]" * levels
        return '{"type":"FunctionCallResponse","id":"c","content":' + inside + "}"

    assert isinstance(decode_client(nested(99)), FunctionCallResponse)
    for levels in (101, 900, 100_000):
        message = decode_client(nested(levels))
        assert isinstance(message, Unparsable)
        assert message.reason == "nested too deeply"


def test_two_mebibytes_are_decoded_like_any_other_frame() -> None:
    text = "x" * 2**21
    assert client(type="InjectUserMessage", content=text) == InjectUserMessage(content=text)
    assert isinstance(decode_client("x" * 2**21), Unparsable)


def test_of_two_types_the_last_counts_as_in_javascript() -> None:
    assert decode_client('{"type":"Settings","type":"KeepAlive"}') == KeepAlive()
    assert decode_client('{"type":"KeepAlive","type":"s3cr3t"}') == Unknown("s3cr3t", 36)


# Properties --------------------------------------------------------------------------------------

CLIENT_MESSAGES = st.one_of(*map(instances, CLIENT.values()))
SERVER_MESSAGES = st.one_of(*map(instances, SERVER.values()))


@given(CLIENT_MESSAGES)
def test_client_messages_come_back_as_they_were(message: Any) -> None:
    assert decode_client(encode(message)) == message


@given(SERVER_MESSAGES)
def test_server_messages_come_back_as_they_were(message: Any) -> None:
    assert decode_server(encode(message)) == message


@given(SERVER_MESSAGES)
def test_no_null_is_ever_sent_outside_free_form_json(message: Any) -> None:
    free_form = {"content", "output", "result", "error"}
    wire = {k: v for k, v in json.loads(encode(message)).items() if k not in free_form}
    assert None not in atoms(wire)


def atoms(value: Any) -> list[Any]:
    match value:
        case dict():
            return [atom for inner in value.values() for atom in atoms(inner)]
        case list():
            return [atom for inner in value for atom in atoms(inner)]
        case _:
            return [value]


class Queue(msgspec.Struct):
    """As a session holds messages."""

    frames: list[ClientMessage | bytes]
    held: list[ServerMessage]


@given(st.lists(CLIENT_MESSAGES | st.binary(max_size=9)), st.lists(SERVER_MESSAGES))
def test_messages_survive_in_a_snapshot(frames: list[Any], held: list[Any]) -> None:
    queue = Queue(frames, held)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(queue), type=Queue) == queue


@pytest.mark.parametrize("struct", structs_of(voice_agent), ids=lambda struct: struct.__name__)
def test_every_struct_survives_in_a_snapshot(struct: type[msgspec.Struct]) -> None:
    @hypothesis.settings(max_examples=20)
    @given(instances(struct))
    def survives(value: Any) -> None:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=struct) == value

    survives()


def sound(message: Any) -> None:
    """Whatever was decoded, a session can hold and encode."""
    assert isinstance(message, (*CLIENT.values(), *SERVER.values(), Unknown, Unparsable))
    msgspec.msgpack.encode(message)
    if isinstance(message, Unparsable):
        assert message.reason


@given(st.binary() | st.text())
def test_nothing_raises(frame: str | bytes) -> None:
    sound(decode_client(frame))
    sound(decode_server(frame))


@given(CLIENT_MESSAGES, st.data())
def test_no_damaged_frame_raises(message: Any, data: st.DataObject) -> None:
    frame = encode(message).encode()
    start = data.draw(st.integers(0, len(frame)))
    end = data.draw(st.integers(start, min(len(frame), start + 8)))
    sound(decode_client(frame[:start] + data.draw(st.binary(max_size=4)) + frame[end:]))


def test_a_server_says_by_the_type_what_it_says() -> None:
    assert decode_server('{"type":"PromptUpdated"}') == voice_agent.PromptUpdated()
    assert decode_server('{"type":"Odd"}') == Unknown("Odd", 14)


HUGE = st.integers(2**63, 2**70) | st.integers(-(2**70), -(2**63))


@given(st.sampled_from(sorted({*CLIENT, *SERVER})), st.data())
def test_no_wrong_value_raises_or_is_quoted(tag: str, data: st.DataObject) -> None:
    fields = [f.encode_name for f in msgspec.structs.fields({**SERVER, **CLIENT}[tag])]
    canary = st.just("s3cr3t") | st.just(["s3cr3t"]) | st.just({"s3cr3t": "s3cr3t"})
    wire = {name: data.draw(canary | JSON | HUGE) for name in fields}
    for decode in (decode_client, decode_server):
        message = decode(json.dumps({"type": tag, **wire}))
        sound(message)
        if isinstance(message, Unparsable):
            assert "s3cr3t" not in message.reason
