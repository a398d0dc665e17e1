"""The session of the simulator: its first event, its configuration, and what it refuses."""

import json
from typing import Any

import pytest

from tests.simulated import WALL, Client, Event, code, only, silence, tone, tool, types


def test_the_first_event_is_session_created_with_the_defaults_of_the_api() -> None:
    created = Client(model="gpt-realtime-2.1").created
    session = created["session"]
    assert created["type"] == "session.created"
    assert session["object"] == "realtime.session"
    assert session["id"].startswith("sess_")
    assert session["expires_at"] == int(WALL) + 3600
    assert session["model"] == "gpt-realtime-2.1"
    assert session["output_modalities"] == ["audio"]
    assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert session["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }


def test_an_update_changes_what_is_present_and_answers_with_everything() -> None:
    client = Client()
    before = client.created["session"]
    detection = {"type": "server_vad", "silence_duration_ms": 700}
    after = client.configure(audio={"input": {"turn_detection": detection}})
    before["audio"]["input"]["turn_detection"]["silence_duration_ms"] = 700
    assert after == before


def test_another_kind_of_turn_detection_brings_its_own_defaults() -> None:
    client = Client()
    detection = {"type": "semantic_vad", "eagerness": "high"}
    after = client.configure(audio={"input": {"turn_detection": detection}})
    assert after["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "high",
        "create_response": True,
        "interrupt_response": True,
    }


def test_empty_values_and_null_clear() -> None:
    client = Client()
    client.configure(
        tools=[tool("get_time")], audio={"input": {"transcription": {"model": "gpt-transcribe"}}}
    )
    after = client.configure(
        instructions="",
        tools=[],
        audio={"input": {"turn_detection": None, "transcription": None}},
    )
    assert after["instructions"] == ""
    assert after["tools"] == []
    assert after["audio"]["input"]["turn_detection"] is None
    assert after["audio"]["input"]["transcription"] is None


def test_every_setting_of_the_api_is_accepted_and_comes_back() -> None:
    session = {
        "type": "realtime",
        "instructions": "Be brief.",
        "output_modalities": ["text"],
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "noise_reduction": {"type": "near_field"},
                "transcription": {"model": "gpt-transcribe", "language": "en", "keywords": ["x"]},
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.25,
                    "prefix_padding_ms": 100,
                    "silence_duration_ms": 200,
                    "idle_timeout_ms": 6000,
                    "create_response": False,
                    "interrupt_response": False,
                },
            },
            "output": {"format": {"type": "audio/pcma"}, "voice": {"id": "voice_1"}, "speed": 1.5},
        },
        "tools": [tool("get_time")],
        "tool_choice": {"type": "function", "name": "get_time"},
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low"},
        "max_output_tokens": 100,
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8},
        "prompt": {"id": "pmpt_1", "variables": {"name": "Ada"}},
        "include": ["item.input_audio_transcription.logprobs"],
        "tracing": "auto",
    }
    after = Client().configure(**{k: v for k, v in session.items() if k != "type"})
    assert _within(session, after)


def _within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and _within(value, whole[key]) for key, value in part.items())
    return bool(part == whole)


REFUSED_SETTINGS: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 0.8}, "unknown_parameter", "session.temperature"),
    ({"voice": "alloy"}, "unknown_parameter", "session.voice"),
    ({"turn_detection": None}, "unknown_parameter", "session.turn_detection"),
    ({"audio": {"out": {}}}, "unknown_parameter", "session.audio.out"),
    ({"id": "sess_1"}, "unknown_parameter", "session.id"),
    (
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "eagerness": "low"}}}},
        "unknown_parameter",
        "session.audio.input.turn_detection.eagerness",
    ),
    (
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
        "invalid_value",
        "session.audio.input.turn_detection.threshold",
    ),
    (
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 10}}}},
        "invalid_value",
        "session.audio.input.turn_detection.idle_timeout_ms",
    ),
    (
        {"audio": {"input": {"turn_detection": {"type": "vad"}}}},
        "invalid_value",
        "session.audio.input.turn_detection.type",
    ),
    (
        {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}},
        "invalid_value",
        "session.audio.input.format.rate",
    ),
    (
        {"audio": {"output": {"format": {"type": "audio/mp3"}}}},
        "invalid_value",
        "session.audio.output.format.type",
    ),
    ({"audio": {"output": {"voice": "hal"}}}, "invalid_value", "session.audio.output.voice"),
    ({"audio": {"output": {"speed": 2.0}}}, "invalid_value", "session.audio.output.speed"),
    ({"output_modalities": ["text", "audio"]}, "invalid_value", "session.output_modalities"),
    ({"output_modalities": []}, "invalid_value", "session.output_modalities"),
    ({"max_output_tokens": 5000}, "invalid_value", "session.max_output_tokens"),
    ({"instructions": 3}, "invalid_type", "session.instructions"),
    ({"model": "gpt-realtime-mini"}, "invalid_value", "session.model"),
    ({"tools": [{"type": "function"}]}, "missing_required_parameter", "session.tools[0].name"),
    ({"tools": [tool("no spaces")]}, "invalid_value", "session.tools[0].name"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "invalid_value", "session.tools[0].type"),
    ({"tool_choice": "always"}, "invalid_value", "session.tool_choice"),
    ({"type": "transcription"}, "invalid_value", "session.type"),
]


@pytest.mark.parametrize(("patch", "expected", "param"), REFUSED_SETTINGS)
def test_a_setting_that_the_api_refuses_changes_nothing(
    patch: dict[str, Any], expected: str, param: str
) -> None:
    client = Client()
    session = {"type": "realtime", "instructions": "never set", **patch}
    (error,) = client.say("session.update", session=session, event_id="e7")
    assert error["error"]["code"] == expected
    assert error["error"]["param"] == param
    assert error["error"]["event_id"] == "e7"
    assert client.configure() == client.created["session"]


def test_a_session_without_type_is_refused() -> None:
    (error,) = Client().say("session.update", session={"instructions": "x"})
    assert error["error"]["code"] == "missing_required_parameter"
    assert error["error"]["param"] == "session.type"


def test_the_voice_is_fixed_once_the_model_has_spoken() -> None:
    client = Client()
    client.configure(audio={"output": {"voice": "marin"}})
    client.ask("hello", output_modalities=["text"])
    client.configure(audio={"output": {"voice": "cedar"}})
    client.ask("hello")
    patch = {"type": "realtime", "audio": {"output": {"voice": "marin"}}}
    assert code(client.say("session.update", session=patch)) == "cannot_update_voice"
    assert client.configure(audio={"output": {"voice": "cedar"}, "input": {}})
    output = {"output": {"voice": "marin"}}
    assert code(client.say("response.create", response={"audio": output})) == "cannot_update_voice"


def test_the_speed_changes_between_turns_only() -> None:
    client = Client()
    client.say("response.create")
    patch = {"type": "realtime", "audio": {"output": {"speed": 1.2}}}
    assert code(client.say("session.update", session=patch)) == "invalid_value"
    client.until("response.done")
    assert client.configure(audio={"output": {"speed": 1.2}})["audio"]["output"]["speed"] == 1.2


def test_tracing_cannot_change_once_it_is_on() -> None:
    client = Client()
    client.configure(tracing={"workflow_name": "w"})
    patch = {"type": "realtime", "tracing": None}
    assert code(client.say("session.update", session=patch)) == "invalid_value"


REFUSED_EVENTS: list[tuple[str | bytes, str, str | None]] = [
    ("", "invalid_json", None),
    ("{", "invalid_json", None),
    (b"\xff\xfe", "invalid_json", None),
    ("[" * 100_000, "invalid_json", None),
    ('{"type":"response.create","x":' + "[" * 80 + "]" * 80 + "}", "invalid_json", None),
    ("[]", "invalid_type", None),
    ("null", "invalid_type", None),
    ("{}", "missing_required_parameter", "type"),
    ('{"type": 3}', "invalid_type", "type"),
    ('{"type": "response.begin"}', "invalid_value", "type"),
    ('{"type": "response.create", "now": true}', "unknown_parameter", "now"),
    ('{"type": "session.update"}', "missing_required_parameter", "session"),
    ('{"type": "session.update", "session": []}', "invalid_type", "session"),
    ('{"type": "input_audio_buffer.append"}', "missing_required_parameter", "audio"),
    ('{"type": "input_audio_buffer.append", "audio": "no base64"}', "invalid_value", "audio"),
    ('{"type": "input_audio_buffer.append", "audio": null}', "invalid_type", "audio"),
    ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty", None),
    ('{"type": "output_audio_buffer.clear"}', "invalid_value", "type"),
    ('{"type": "response.cancel"}', "response_cancel_not_active", None),
    ('{"type": "response.cancel", "response_id": "x"}', "response_cancel_not_active", None),
    ('{"type": "conversation.item.create"}', "missing_required_parameter", "item"),
    ('{"type": "conversation.item.retrieve"}', "missing_required_parameter", "item_id"),
    (
        '{"type": "conversation.item.retrieve", "item_id": "x"}',
        "item_retrieve_invalid_item_id",
        "item_id",
    ),
    (
        '{"type": "conversation.item.delete", "item_id": "x"}',
        "item_delete_invalid_item_id",
        "item_id",
    ),
    (
        '{"type":"conversation.item.truncate","item_id":"x","content_index":0,"audio_end_ms":0}',
        "item_truncate_invalid_item_id",
        "item_id",
    ),
    (
        '{"type":"conversation.item.truncate","item_id":"x","content_index":0,"audio_end_ms":1.5}',
        "invalid_type",
        "audio_end_ms",
    ),
    (
        '{"type": "response.create", "response": {"metadata": {"a": 1}}}',
        "invalid_type",
        "response.metadata[...]",
    ),
    (
        '{"type": "response.create", "response": {"modalities": ["text"]}}',
        "unknown_parameter",
        "response.modalities",
    ),
    (
        '{"type": "response.create", "response": {"conversation": "other"}}',
        "invalid_value",
        "response.conversation",
    ),
    (
        '{"type":"response.create","response":{"input":[{"type":"message","role":"user",'
        '"content":[{"type":"output_text","text":"x"}]}]}}',
        "invalid_value",
        "response.input[0].content[0].type",
    ),
    (
        '{"type":"response.create","response":{"input":[{"type":"item_reference","id":"x"}]}}',
        "invalid_value",
        "response.input[0].id",
    ),
]


@pytest.mark.parametrize(("frame", "expected", "param"), REFUSED_EVENTS)
def test_an_event_that_the_api_refuses_gets_an_error_and_the_session_stays_open(
    frame: str | bytes, expected: str, param: str | None
) -> None:
    client = Client()
    (error,) = client.frame(frame)
    assert error["error"]["code"] == expected
    assert error["error"].get("param") == param
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"]
    assert "event_id" not in error["error"]
    assert client.configure(instructions="still here")


def test_an_error_names_the_event_that_caused_it_and_a_success_does_not() -> None:
    client = Client()
    (error,) = client.say("response.cancel", event_id="mine")
    assert error["error"]["event_id"] == "mine"
    assert error["event_id"] != "mine"
    (cleared,) = client.say("input_audio_buffer.clear", event_id="mine")
    assert "mine" not in json.dumps(cleared)


def _answers() -> dict[str, tuple[Event, list[str]]]:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    placed = ["conversation.item.added", "conversation.item.done"]
    return {
        "session.update": ({"session": {"type": "realtime"}}, ["session.updated"]),
        "input_audio_buffer.append": ({"audio": "AAAA"}, []),
        "input_audio_buffer.commit": ({}, ["input_audio_buffer.committed", *placed]),
        "input_audio_buffer.clear": ({}, ["input_audio_buffer.cleared"]),
        "output_audio_buffer.clear": ({}, ["error"]),
        "conversation.item.create": ({"item": item}, placed),
        "conversation.item.retrieve": ({"item_id": "known"}, ["conversation.item.retrieved"]),
        "conversation.item.delete": ({"item_id": "known"}, ["conversation.item.deleted"]),
        "conversation.item.truncate": (
            {"item_id": "spoken", "content_index": 0, "audio_end_ms": 100},
            ["conversation.item.truncated"],
        ),
        "response.create": ({}, ["response.created", "rate_limits.updated"]),
        "response.cancel": ({}, ["response.done"]),
    }


@pytest.mark.parametrize("kind", _answers())
def test_each_of_the_eleven_client_events_has_its_answer(kind: str) -> None:
    client = Client()
    client.configure(audio={"input": {"turn_detection": None}})
    client.say(
        "conversation.item.create",
        item={"type": "message", "role": "system", "id": "known", "content": []},
    )
    spoken = only(client.ask("hello"), "response.output_item.done")["item"]["id"]
    client.hear(tone(0.2))
    if kind == "response.cancel":
        client.say("response.create")
    fields, expected = _answers()[kind]
    if fields.get("item_id") == "spoken":
        fields["item_id"] = spoken
    assert types(client.say(kind, **fields)) == expected


def test_after_an_hour_the_session_expires_with_an_error_and_close_1001() -> None:
    client = Client()
    assert client.wait(3599.9) == []
    (error,) = client.wait(0.2)
    assert error["error"]["code"] == "session_expired"
    assert client.hangup is not None
    assert client.hangup.code == 1001
    assert client.hangup.reason == error["error"]["message"]
    assert "60 minutes" in client.hangup.reason
    assert client.say("response.create") == []
    assert client.hear(silence(1)) == []
    assert client.wait(4000) == []


def test_a_request_that_comes_after_the_end_is_not_obeyed() -> None:
    client = Client()
    client.now += 4000
    assert code(client.say("response.create")) == "session_expired"
    assert client.hangup is not None


def test_ids_are_unique_and_carry_the_connection() -> None:
    client = Client()
    events = client.ask("hello") + client.ask("again")
    ids = [event["event_id"] for event in events]
    assert len(set(ids)) == len(ids)
    assert all(event_id.startswith("event_1_") for event_id in ids)
