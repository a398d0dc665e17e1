"""The events of the Realtime protocol: names, inexact servers, beta names, nothing that raises."""

import base64
import json
from typing import Any, get_args

import hypothesis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from relay import realtime
from relay.realtime import (
    AudioInput,
    ClientEvent,
    ContentPart,
    ConversationItemCreated,
    ConversationItemInputAudioTranscriptionDelta,
    Error,
    ErrorDetail,
    InputAudioBufferAppend,
    InputAudioBufferSpeechStarted,
    Item,
    ResponseDone,
    ResponseOutputAudioDelta,
    ResponseOutputAudioDone,
    ResponseOutputAudioTranscriptDelta,
    ResponseOutputAudioTranscriptDone,
    ResponseOutputTextDelta,
    ResponseOutputTextDone,
    ServerEvent,
    Session,
    SessionAudio,
    SessionUpdate,
    SessionUpdated,
    TurnDetection,
    Unknown,
    Unparsable,
    decode_client,
    decode_server,
    encode,
    encode_append,
)
from tests import oracle
from tests.structs import JSON, instances, lacking, structs_of

CLIENT = {struct.__struct_config__.tag: struct for struct in get_args(ClientEvent)}
SERVER = {struct.__struct_config__.tag: struct for struct in get_args(ServerEvent)}


def server(tag: str, /, **fields: Any) -> Any:
    return decode_server(json.dumps({"type": tag, **fields}))


# Names -------------------------------------------------------------------------------------------


def test_every_client_event_of_the_sdk_is_known() -> None:
    assert set(oracle.CLIENT_EVENTS) - set(CLIENT) == set()
    assert set(CLIENT) - set(oracle.CLIENT_EVENTS) == set()


def test_every_server_event_of_the_sdk_is_known() -> None:
    assert set(oracle.SERVER_EVENTS) - set(SERVER) == set()
    assert set(SERVER) - set(oracle.SERVER_EVENTS) == set()


def test_there_are_11_client_events_and_46_server_events() -> None:
    assert (len(CLIENT), len(SERVER)) == (11, 46)


def test_every_field_of_the_sdk_is_known_at_every_depth() -> None:
    lacked = {
        f"{tag}: {path}"
        for ours, theirs in ((CLIENT, oracle.CLIENT_EVENTS), (SERVER, oracle.SERVER_EVENTS))
        for tag, models in theirs.items()
        for model in models
        for path in lacking(model, {ours[tag]})
    }
    assert lacked == set()


@pytest.mark.parametrize("tag", sorted(CLIENT))
def test_what_the_sdk_requires_of_a_client_event_must_be_given(tag: str) -> None:
    [model] = oracle.CLIENT_EVENTS[tag]
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    ours = {f.name for f in msgspec.structs.fields(CLIENT[tag]) if f.required}
    assert ours == required - {"type"}


# Inexact servers ---------------------------------------------------------------------------------

PAYLOAD = {
    "item": {"type": "message"},
    "part": {},
    "response": {},
    "session": {},
    "conversation": {},
    "error": {},
    "rate_limits": [{}],
    "delta": "",
    "text": "",
    "transcript": "",
    "arguments": "",
}


@pytest.mark.parametrize("tag", sorted(SERVER))
def test_an_event_decodes_without_ids_indices_and_times(tag: str) -> None:
    bare = {name: PAYLOAD[name] for name in SERVER[tag].__struct_fields__ if name in PAYLOAD}
    assert type(server(tag, **bare)) is SERVER[tag]


@pytest.mark.parametrize("tag", sorted(SERVER))
def test_extra_keys_of_an_event_are_ignored(tag: str) -> None:
    bare = {name: PAYLOAD[name] for name in SERVER[tag].__struct_fields__ if name in PAYLOAD}
    assert server(tag, **bare, later={"addition": [1]}) == server(tag, **bare)


@pytest.mark.conformance("C-219")
def test_a_transcription_delta_without_index_or_delta() -> None:
    event = server("conversation.item.input_audio_transcription.delta", item_id="i")
    assert event == ConversationItemInputAudioTranscriptionDelta(
        item_id="i", content_index=0, delta=""
    )


def test_whole_floats_pass_for_integers() -> None:
    event = server("input_audio_buffer.speech_started", item_id="i", audio_start_ms=120.0)
    assert event == InputAudioBufferSpeechStarted(item_id="i", audio_start_ms=120)


def test_an_error_without_code_has_a_type() -> None:
    event = server("error", error={"type": "server_error", "message": "m", "code": None})
    assert event == Error(error=ErrorDetail(type="server_error", message="m"))


def test_null_and_absent_are_one_where_nothing_is_configured() -> None:
    assert server(
        "response.done", response={"id": "r", "usage": None, "status_details": None}
    ) == server("response.done", response={"id": "r"})


def test_integers_of_free_form_json_are_held_to_what_a_session_can_encode() -> None:
    event = server("session.updated", session={"tools": [{"parameters": {"maximum": 10**30}}]})
    assert isinstance(event, SessionUpdated)
    assert msgspec.to_builtins(event)["session"]["tools"][0]["parameters"] == {"maximum": 1e30}
    msgspec.msgpack.encode(event)


BIG = {"parameters": {"maximum": 10**30}}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "session.update", "session": {"tools": [BIG]}},
        {"type": "response.create", "response": {"tools": [BIG]}},
        {
            "type": "conversation.item.create",
            "item": {
                "type": "mcp_list_tools",
                "tools": [{"name": "f", "input_schema": {"maximum": 10**30}}],
            },
        },
    ],
    ids=lambda event: event["type"],
)
def test_so_are_those_of_a_client(event: dict[str, Any]) -> None:
    decoded = decode_client(json.dumps(event))
    assert "1e30" in encode(decoded)  # type: ignore[arg-type]  # a defect would fail here
    msgspec.msgpack.encode(decoded)


# Beta names --------------------------------------------------------------------------------------

AUDIO = b"\x01\x02\x03"
PLACE: Any = {"response_id": "r", "item_id": "i", "output_index": 1, "content_index": 2}
BETA: list[tuple[str, dict[str, Any], ServerEvent]] = [
    (
        "response.audio.delta",
        {"delta": base64.b64encode(AUDIO).decode()},
        ResponseOutputAudioDelta(delta=AUDIO, event_id="e", **PLACE),
    ),
    ("response.audio.done", {}, ResponseOutputAudioDone(event_id="e", **PLACE)),
    (
        "response.audio_transcript.delta",
        {"delta": "d"},
        ResponseOutputAudioTranscriptDelta(delta="d", event_id="e", **PLACE),
    ),
    (
        "response.audio_transcript.done",
        {"transcript": "t"},
        ResponseOutputAudioTranscriptDone(transcript="t", event_id="e", **PLACE),
    ),
    (
        "response.text.delta",
        {"delta": "d"},
        ResponseOutputTextDelta(delta="d", event_id="e", **PLACE),
    ),
    (
        "response.text.done",
        {"text": "t"},
        ResponseOutputTextDone(text="t", event_id="e", **PLACE),
    ),
]


@pytest.mark.conformance("C-183")
@pytest.mark.parametrize(("name", "fields", "event"), BETA, ids=[case[0] for case in BETA])
def test_a_beta_event_is_its_ga_event(name: str, fields: Any, event: ServerEvent) -> None:
    decoded = server(name, event_id="e", **PLACE, **fields)
    assert decoded == event
    assert type(decoded) is type(event)
    # Under its GA name it goes on and comes back.
    assert decode_server(encode(decoded)) == event


CONTENT = [
    ("assistant", "text", "output_text"),
    ("assistant", "audio", "output_audio"),
    ("assistant", "output_text", "output_text"),
    ("user", "text", "input_text"),
    ("user", "audio", "input_audio"),
    ("user", "input_text", "input_text"),
    ("system", "text", "input_text"),
]


@pytest.mark.conformance("C-183")
@pytest.mark.parametrize(("role", "beta", "ga"), CONTENT)
def test_beta_content_is_ga_content(role: str, beta: str, ga: str) -> None:
    item = {"type": "message", "role": role, "content": [{"type": beta, "text": "t"}]}
    modern = Item(type="message", role=role, content=[ContentPart(type=ga, text="t")])
    for tag in (
        "conversation.item.added",
        "conversation.item.created",
        "conversation.item.done",
        "conversation.item.retrieved",
        "response.output_item.added",
        "response.output_item.done",
    ):
        assert server(tag, item=item).item == modern
    done = server("response.done", response={"id": "r", "output": [item]})
    assert isinstance(done, ResponseDone)
    assert done.response.output == [modern]


def test_the_part_of_a_content_part_event_keeps_its_ga_name() -> None:
    event = server("response.content_part.added", part={"type": "audio"})
    assert event.part == ContentPart(type="audio")


def test_item_created_is_an_event_of_its_own() -> None:
    event = server("conversation.item.created", item={"type": "message"}, previous_item_id=None)
    assert event == ConversationItemCreated(item=Item(type="message"))


def test_the_simulator_is_not_lenient_about_beta_content() -> None:
    event = decode_client(
        '{"type":"conversation.item.create",'
        '"item":{"type":"message","role":"user","content":[{"type":"text","text":"t"}]}}'
    )
    assert msgspec.to_builtins(event)["item"]["content"] == [{"type": "text", "text": "t"}]


# Configuration: nothing, null and a value --------------------------------------------------------


def test_nothing_is_not_written_and_null_is() -> None:
    update = SessionUpdate(
        session=Session(
            instructions="",
            tools=[],
            audio=SessionAudio(input=AudioInput(turn_detection=None, noise_reduction=None)),
        )
    )
    assert json.loads(encode(update)) == {
        "type": "session.update",
        "session": {
            "type": "realtime",
            "instructions": "",
            "tools": [],
            "audio": {"input": {"turn_detection": None, "noise_reduction": None}},
        },
    }


def test_a_servers_session_tells_null_from_nothing() -> None:
    audio = {"input": {"turn_detection": None}}
    event = server("session.updated", session={"type": "realtime", "audio": audio})
    assert event.session.audio.input == AudioInput(turn_detection=None)
    assert event.session.audio.input.transcription is UNSET


def test_turn_detection_is_written_as_it_is_given() -> None:
    kind = TurnDetection(type="semantic_vad", eagerness="low", create_response=False)
    update = SessionUpdate(
        session=Session(audio=SessionAudio(input=AudioInput(turn_detection=kind)))
    )
    assert json.loads(encode(update))["session"]["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "low",
        "create_response": False,
    }


# Audio -------------------------------------------------------------------------------------------


@given(st.binary(max_size=4800))
def test_appended_audio_is_base64_on_the_wire(audio: bytes) -> None:
    frame = encode_append(audio)
    assert frame == encode(InputAudioBufferAppend(audio))
    assert json.loads(frame) == {
        "type": "input_audio_buffer.append",
        "audio": base64.b64encode(audio).decode(),
    }
    assert decode_client(frame) == InputAudioBufferAppend(audio)


NO_BASE64 = ["a", "YQ", "Y=Q=", "YQ==\n", "Y Q=", "-_-_", "é", 5, None, [], {"a": "b"}]


@pytest.mark.parametrize("delta", NO_BASE64, ids=repr)
@pytest.mark.parametrize("name", ["response.output_audio.delta", "response.audio.delta"])
def test_an_audio_delta_that_is_no_base64_is_told_from_other_defects(name: str, delta: Any) -> None:
    event = server(name, delta=delta, item_id="i")
    assert isinstance(event, Unparsable)
    assert (event.type, event.bad_audio) == (name, True)


@pytest.mark.parametrize("audio", NO_BASE64, ids=repr)
def test_an_append_that_is_no_base64_is_told_from_other_defects(audio: Any) -> None:
    event = decode_client(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
    assert isinstance(event, Unparsable)
    assert event.bad_audio


@pytest.mark.parametrize(
    "fields", [{}, {"delta": "YQ==", "output_index": "0"}, {"delta": "YQ==", "item_id": 5}]
)
def test_other_defects_of_an_audio_delta_are_not_bad_audio(fields: dict[str, Any]) -> None:
    event = server("response.output_audio.delta", **fields)
    assert isinstance(event, Unparsable)
    assert not event.bad_audio


def test_a_text_delta_that_is_no_text_is_not_bad_audio() -> None:
    event = server("response.output_text.delta", delta=5)
    assert event == Unparsable(
        "response.output_text.delta", "Expected `str`, got `int` - at `$.delta`"
    )


def test_a_delta_of_no_bytes_and_of_odd_bytes_decode() -> None:
    assert server("response.output_audio.delta", delta="").delta == b""
    assert server("response.output_audio.delta", delta="AQID").delta == AUDIO


# Bad input ---------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "Hello",
        "5",
        "[]",
        "{}",
        '{"type":7}',
        DEEP,
        '{"type":"session.updated","session":' + DEEP + "}",
        '{"type":"error","error":{"message":"\ud800"}}',
        b'{"type":"\xff"}',
        "x" * 2**21,
    ],
    ids=lambda frame: repr(frame)[:40],
)
def test_what_is_no_event_has_no_type_and_a_reason(frame: str | bytes) -> None:
    for decode in (decode_client, decode_server):
        event = decode(frame)
        assert isinstance(event, Unparsable)
        assert event.type is None
        assert event.reason


def test_an_event_that_is_not_utf8_is_unparsable() -> None:
    event = decode_server(b'{"type":"error","error":{"message":"\xff"}}')
    assert event == Unparsable(None, "text is not UTF-8")


def test_wrong_types_in_a_known_event_name_the_event_and_the_path() -> None:
    assert server("response.done", response={"output": [{"type": 1}]}) == Unparsable(
        "response.done", "Expected `str`, got `int` - at `$.response.output[0].type`"
    )
    assert server("session.created", session=[]) == Unparsable(
        "session.created", "Expected `object`, got `array` - at `$.session`"
    )


@pytest.mark.conformance("C-181")
@pytest.mark.parametrize(
    "name", ["response.output_text.added", "session.closed", "transcription_session.updated"]
)
def test_an_event_nobody_knows_is_unknown(name: str) -> None:
    frame = json.dumps({"type": name, "delta": 5})
    assert decode_server(frame) == Unknown(name, len(frame))


def test_an_event_of_the_other_direction_is_unknown() -> None:
    assert isinstance(server("session.update", session={}), Unknown)
    assert isinstance(decode_client('{"type":"session.updated","session":{}}'), Unknown)


def test_a_beta_name_is_unknown_to_the_simulator() -> None:
    assert isinstance(decode_client('{"type":"response.audio.delta","delta":""}'), Unknown)


# Properties --------------------------------------------------------------------------------------

CLIENT_EVENTS = st.one_of(*map(instances, CLIENT.values()))
SERVER_EVENTS = st.one_of(*map(instances, SERVER.values()))


@given(CLIENT_EVENTS)
def test_client_events_come_back_as_they_were(event: Any) -> None:
    assert decode_client(encode(event)) == event


@given(SERVER_EVENTS)
def test_server_events_come_back_as_they_were(event: Any) -> None:
    assert decode_server(encode(event)) == event


class Held(msgspec.Struct):
    """As a session holds events and what is in them."""

    to_send: list[ClientEvent]
    received: list[ServerEvent]
    items: dict[str, Item]
    session: Session | None


@given(
    st.builds(
        Held,
        st.lists(CLIENT_EVENTS, max_size=3),
        st.lists(SERVER_EVENTS, max_size=3),
        st.dictionaries(st.text(max_size=4), instances(Item), max_size=2),
        st.none() | instances(Session),
    )
)
def test_events_survive_in_a_snapshot(held: Held) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(held), type=Held) == held


@pytest.mark.parametrize("struct", structs_of(realtime), ids=lambda struct: struct.__name__)
def test_every_struct_survives_in_a_snapshot(struct: type[msgspec.Struct]) -> None:
    @hypothesis.settings(max_examples=20)
    @given(instances(struct))
    def survives(value: Any) -> None:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=struct) == value

    survives()


def sound(event: Any) -> None:
    """Whatever was decoded, a session can hold and encode, and no beta name is left."""
    assert type(event) in {*CLIENT.values(), *SERVER.values(), Unknown, Unparsable}
    msgspec.msgpack.encode(event)


@given(st.binary() | st.text())
def test_nothing_raises(frame: str | bytes) -> None:
    sound(decode_client(frame))
    sound(decode_server(frame))


@given(SERVER_EVENTS, st.data())
def test_no_damaged_frame_raises(event: Any, data: st.DataObject) -> None:
    frame = encode(event).encode()
    start = data.draw(st.integers(0, len(frame)))
    end = data.draw(st.integers(start, min(len(frame), start + 8)))
    sound(decode_server(frame[:start] + data.draw(st.binary(max_size=4)) + frame[end:]))


HUGE = st.integers(2**63, 2**70) | st.integers(-(2**70), -(2**63))
BETA_NAMES = [name for name, _, _ in BETA]


@given(st.sampled_from(sorted({*CLIENT, *SERVER, *BETA_NAMES})), st.data())
def test_no_wrong_value_raises_or_is_quoted(tag: str, data: st.DataObject) -> None:
    known = {**SERVER, **CLIENT}.get(tag, ResponseOutputAudioDelta)
    canary = st.just("s3cr3t") | st.just(["s3cr3t"]) | st.just({"s3cr3t": "s3cr3t"})
    wire = {name: data.draw(canary | JSON | HUGE) for name in known.__struct_fields__}
    for decode in (decode_client, decode_server):
        event = decode(json.dumps({"type": tag, **wire}))
        sound(event)
        if isinstance(event, Unparsable):
            assert "s3cr3t" not in event.reason
