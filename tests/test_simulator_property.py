"""Whatever a client sends in whatever order: the simulator answers validly and never raises.

`Client` holds every event to the vendor's types, so each example is also a run of the oracle.
"""

import base64
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulated import Client, input_text, only, silence, tone, tool, types

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def fixed(optional: dict[str, Any], **required: Any) -> st.SearchStrategy[dict[str, Any]]:
    """An object with these fields; what is no strategy is a constant."""
    strategies = {
        key: value if isinstance(value, st.SearchStrategy) else st.just(value)
        for key, value in required.items()
    }
    return st.fixed_dictionaries(strategies, optional=optional)


item_ids = st.sampled_from(["a", "b", "root", "item_1_9", "item_1_9"])
"""Of which "a" and the last, which the model said, exist at the start."""
detections = st.none() | st.fixed_dictionaries(
    {"type": st.sampled_from(["server_vad", "semantic_vad"])},
    optional={
        "threshold": st.floats(0, 1),
        "silence_duration_ms": st.integers(0, 500),
        "prefix_padding_ms": st.integers(0, 500),
        "idle_timeout_ms": st.none() | st.integers(5000, 6000),
        "interrupt_response": st.booleans(),
        "create_response": st.booleans(),
        "eagerness": st.sampled_from(["low", "high"]),
    },
)
formats = st.sampled_from(["audio/pcm", "audio/pcmu", "audio/pcma"]).map(
    lambda kind: {"type": kind}
)
tools = st.lists(
    st.builds(
        tool, st.sampled_from(["get_time", "weather"]), st.dictionaries(st.text(), json_values)
    ),
    max_size=2,
)
sessions = st.fixed_dictionaries(
    {"type": st.just("realtime")},
    optional={
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "input": st.fixed_dictionaries(
                    {},
                    optional={
                        "turn_detection": detections,
                        "format": formats,
                        "transcription": st.none() | st.just({"model": "gpt-transcribe"}),
                    },
                ),
                "output": st.fixed_dictionaries(
                    {}, optional={"format": formats, "voice": st.sampled_from(["ash", "marin"])}
                ),
            },
        ),
        "tools": tools,
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "output_modalities": st.sampled_from([["text"], ["audio"]]),
        "max_output_tokens": st.integers(1, 60),
    },
)
some_id = {"id": item_ids}
texts = st.lists(
    st.builds(input_text, st.sampled_from(["what time is it", "weather in Oslo", ""])), max_size=2
)
call_ids = st.sampled_from(["c1", "c2"])
items = st.one_of(
    fixed(some_id, type="message", role=st.sampled_from(["user", "system"]), content=texts),
    fixed(some_id, type="message", role=st.sampled_from(["user", "assistant"]), content=texts),
    fixed(some_id, type="function_call", name="get_time", arguments="{}", call_id=call_ids),
    fixed(some_id, type="function_call_output", call_id=call_ids, output=st.text(max_size=5)),
    fixed(some_id, type="mcp_call"),
)
responses = st.fixed_dictionaries(
    {},
    optional={
        "conversation": st.sampled_from(["auto", "none"]),
        "output_modalities": st.sampled_from([["text"], ["audio"]]),
        "instructions": st.sampled_from(['Say "this"', "Be kind"]),
        "input": st.lists(items, max_size=2),
        "metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        "max_output_tokens": st.integers(1, 60),
        "tools": tools,
    },
)
sounds = st.sampled_from([b"", b"\x00", silence(0.3), silence(0.6), tone(0.1), tone(0.5)])
appends = sounds.map(lambda sound: {"audio": base64.b64encode(sound).decode()})
requests: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "session.update": fixed({}, session=sessions),
    "input_audio_buffer.append": appends,
    "input_audio_buffer.commit": st.just({}),
    "input_audio_buffer.clear": st.just({}),
    "output_audio_buffer.clear": st.just({}),
    "conversation.item.create": fixed({"previous_item_id": item_ids}, item=items),
    "conversation.item.retrieve": fixed({}, item_id=item_ids),
    "conversation.item.delete": fixed({}, item_id=item_ids),
    "conversation.item.truncate": fixed(
        {}, item_id=item_ids, content_index=st.integers(0, 1), audio_end_ms=st.integers(0, 300)
    ),
    "response.create": fixed({"response": responses}),
    "response.cancel": fixed({"response_id": st.just("resp_1_7")}),
}
kinds = st.sampled_from(list(requests))
often = st.sampled_from([*requests, *["input_audio_buffer.append", "response.create"] * 3])
sensible = often.flatmap(lambda kind: st.tuples(st.just(kind), requests[kind]))
steps = st.tuples(
    sensible,
    st.sampled_from([0.0, 0.05, 0.5, 5.0]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=25), st.sampled_from([0.0, 4.0]))
def test_no_sequence_of_client_events_makes_it_raise_or_answer_invalidly(
    sequence: list[tuple[tuple[str, dict[str, Any]], float]], pace: float
) -> None:
    client = Client(f"[knobs]\npace = {pace}\nsession_s = 90.0")
    client.say("conversation.item.create", item=message("a"))
    events = client.respond(max_output_tokens=10)
    assert only(events, "response.output_item.done")["item"]["id"] == "item_1_9"
    for (kind, given_fields), seconds in sequence:
        events += client.say(kind, **given_fields)
        events += client.wait(seconds)
    events += client.wait(90)
    assert client.hangup is not None, "it always ends by its age"
    begun = types(events).count("response.created")
    ended = types(events).count("response.done")
    assert begun - ended in (0, 1), "a response ends, unless the session does before"


def message(item_id: str) -> dict[str, Any]:
    content = [input_text("what time is it")]
    return {"type": "message", "role": "user", "id": item_id, "content": content}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40) | json_values.map(repr))
def test_no_frame_makes_it_raise(frame: str | bytes) -> None:
    events = Client().frame(frame)
    assert types(events) == ["error"]


@settings(max_examples=100, deadline=None)
@given(kinds, st.dictionaries(st.text(max_size=10), json_values, max_size=3))
def test_no_fields_make_it_raise(kind: str, extra: dict[str, Any]) -> None:
    events = Client().say(kind, **{k: v for k, v in extra.items() if k != "kind"})
    assert all(event["type"] for event in events)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=12), st.data())
def test_frame_sizes_do_not_change_what_is_heard(
    stretches: list[tuple[bool, int]], data: st.DataObject
) -> None:
    sound = b"".join((tone if loud else silence)(n * 0.05) for loud, n in stretches)
    detection = {"type": "server_vad", "create_response": False, "silence_duration_ms": 300}
    heard = []
    for size in (len(sound) or 1, data.draw(st.integers(480, 9600))):
        client = Client()
        client.configure(audio={"input": {"turn_detection": detection}})
        events = client.hear(sound, size)
        heard.append([(e["type"], e.get("audio_start_ms"), e.get("audio_end_ms")) for e in events])
    assert heard[0] == heard[1]
