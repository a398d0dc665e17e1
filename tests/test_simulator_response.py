"""Responses of the simulator: their order, pace, interruption, failure, and what is refused."""

import pytest

from relay.audio.formats import PCM24K, PCMA8K, PCMU8K, Format
from tests.simulated import (
    Client,
    Event,
    audio,
    calls,
    code,
    input_text,
    only,
    said,
    silence,
    tone,
    tool,
    types,
)


def once(events: list[Event]) -> list[str]:
    """The types in order, runs of the same delta shown once."""
    kinds = types(events)
    return [k for n, k in enumerate(kinds) if not (k.endswith("delta") and k in kinds[:n])]


def test_a_spoken_response_comes_in_the_order_of_the_api() -> None:
    client = Client()
    events = client.ask("hello")
    assert once(events) == [
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    added, done = (e["item"] for e in events if e["type"].startswith("response.output_item"))
    assert (added["status"], added["content"]) == ("in_progress", [])  # L-42
    assert done["status"] == "completed"
    assert done["content"] == [{"type": "output_audio", "transcript": "You said: hello"}]
    deltas = (e["delta"] for e in events if e["type"].endswith("transcript.delta"))
    assert "".join(deltas) == "You said: hello"


def test_a_written_response_has_text_and_no_audio() -> None:
    events = Client().ask("hello", output_modalities=["text"])
    assert once(events)[4:10] == [
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
    ]
    assert said(events) == "You said: hello"
    assert audio(events) == b""


def test_several_calls_are_made_in_one_response() -> None:
    client = Client()
    client.configure(tools=[tool("get_time"), tool("get_weather"), tool("send_mail")])
    events = client.ask("What time is it, and how is the weather?")
    assert once(events) == [
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert calls(events) == [("get_time", {}), ("get_weather", {})]
    items = [e for e in events if e["type"] == "response.output_item.done"]
    assert [e["output_index"] for e in items] == [0, 1]
    assert len({e["item"]["call_id"] for e in items}) == 2


def test_results_are_used_in_the_answer() -> None:
    client = Client()
    client.configure(tools=[tool("get_time"), tool("get_weather")])
    events = client.ask("What time is it, and how is the weather?")
    outputs = ['{"time": "12:04"}', '{"sky": "clear", "degrees": 21}']
    for item, output in zip(
        only(events, "response.done")["response"]["output"], outputs, strict=True
    ):
        answer = {"type": "function_call_output", "call_id": item["call_id"], "output": output}
        assert types(client.say("conversation.item.create", item=answer)) == [
            "conversation.item.added",
            "conversation.item.done",
        ]
    assert client.wait(30) == [], "a result alone is not answered (L-11)"
    assert said(client.respond()) == "time: 12:04; weather: sky clear, degrees 21."


def test_tool_choice_none_calls_nothing() -> None:
    client = Client()
    client.configure(tools=[tool("get_time")])
    assert calls(client.ask("What time is it?", tool_choice="none")) == []


def test_required_and_forced_tools_are_called() -> None:
    client = Client()
    client.configure(tools=[tool("get_time"), tool("get_weather")])
    assert calls(client.ask("hello", tool_choice="required")) == [("get_time", {})]
    forced = {"type": "function", "name": "get_weather"}
    assert calls(client.ask("hello", tool_choice=forced)) == [("get_weather", {})]


def test_a_response_told_what_to_say_says_it_and_nothing_else() -> None:
    client = Client()
    client.configure(tools=[tool("get_time")])
    client.text("What time is it?")
    events = client.respond(
        instructions='Say exactly this: "Hello! He said "what time" to me."',
        tool_choice="none",
        input=[],
        metadata={"relay": "greeting"},
    )
    assert said(events) == 'Hello! He said "what time" to me.'
    assert only(events, "response.created")["response"]["metadata"] == {"relay": "greeting"}
    assert only(events, "response.done")["response"]["metadata"] == {"relay": "greeting"}


def test_a_response_with_its_own_input_does_not_know_the_conversation() -> None:
    client = Client()
    client.text("hello")
    assert said(client.respond(input=[])) == "I am listening."
    other = {"type": "message", "role": "user", "content": [input_text("other")]}
    assert said(client.respond(input=[other])) == "You said: other"
    first = client.held.items.order[0].id
    assert (
        said(client.respond(input=[{"type": "item_reference", "id": first}])) == "You said: hello"
    )


def test_usage_counts_text_and_audio() -> None:
    client = Client()
    client.configure(instructions="x" * 40)
    done = only(client.ask("hello"), "response.done")["response"]
    usage = done["usage"]
    assert usage["input_token_details"]["text_tokens"] == 10 + 2
    assert usage["output_token_details"] == {"text_tokens": 4, "audio_tokens": 20}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] == 12 + 24
    own = only(client.respond(instructions="x" * 400, input=[]), "response.done")["response"]
    assert own["usage"]["input_tokens"] == 100


@pytest.mark.parametrize(
    ("name", "audio_format"),
    [("audio/pcm", PCM24K), ("audio/pcmu", PCMU8K), ("audio/pcma", PCMA8K)],
)
def test_speech_lasts_as_long_as_its_text_in_every_format(name: str, audio_format: Format) -> None:
    client = Client()
    kind = {"type": name, "rate": 24000} if name == "audio/pcm" else {"type": name}
    client.configure(audio={"output": {"format": kind}})
    spoken = audio(client.ask("how long does this take"))
    expected_ms = len("You said: how long does this take") * 1000 / 15
    assert audio_format.ms(len(spoken)) == pytest.approx(expected_ms, abs=1)


@pytest.mark.parametrize("pace", [0.0, 1.0, 4.0])
def test_audio_is_paced_by_the_knob(pace: float) -> None:
    client = Client(f"[knobs]\npace = {pace}\nthink_s = 0.5")
    begin = client.now
    events = client.ask("how long does this take")
    plays_for = PCM24K.ms(len(audio(events))) / 1000
    expected = plays_for / pace if pace else 0.0
    assert client.now - begin == pytest.approx(0.5 + expected, abs=0.001)
    assert len(only(events[-1:], "response.done")["response"]["output"]) == 1


def test_deltas_are_as_long_as_the_knob_says_but_for_the_last() -> None:
    events = Client("[knobs]\ndelta_ms = 40").ask("hello")
    lengths = [len(audio([e])) for e in events if e["type"] == "response.output_audio.delta"]
    assert set(lengths[:-1]) == {PCM24K.nbytes(40)}
    assert 0 < lengths[-1] <= PCM24K.nbytes(40)


# Interruption ------------------------------------------------------------------------------------


def test_speech_interrupts_the_response_and_closes_what_is_open() -> None:
    client = Client()
    client.text("tell me a very long story that can be interrupted")
    client.say("response.create")
    sent = client.wait(0.5)
    interrupted = client.hear(tone(0.2))
    assert types(interrupted) == [
        "input_audio_buffer.speech_started",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    response = interrupted[-1]["response"]
    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    (item,) = response["output"]
    assert item["status"] == "incomplete"
    deltas = (e["delta"] for e in sent if e["type"].endswith("transcript.delta"))
    assert item["content"][0]["transcript"] == "".join(deltas)
    assert client.wait(30) == []


def test_without_interrupt_response_speech_does_not_interrupt_and_gets_no_second_response() -> None:
    client = Client()
    detection = {"type": "server_vad", "interrupt_response": False}
    client.configure(audio={"input": {"turn_detection": detection}})
    client.text("tell me a very long story that cannot be interrupted")
    client.say("response.create")
    heard = client.hear(tone(0.5) + silence(0.6))
    assert types(heard)[-1] == "conversation.item.done"
    assert only(client.until("response.done"), "response.done")["response"]["status"] == "completed"


def test_the_client_cancels_a_response_in_each_of_its_stages() -> None:
    stages = {
        "thinking": 0.0,
        "speaking": 0.5,
    }
    for wait in stages.values():
        client = Client()
        client.text("hello there, how are you today")
        (created, _) = client.say("response.create")
        client.wait(wait)
        *_, done = client.say("response.cancel", response_id=created["response"]["id"])
        assert done["response"]["status_details"]["reason"] == "client_cancelled"
        assert client.wait(30) == []
        assert code(client.say("response.cancel")) == "response_cancel_not_active"


def test_a_call_that_is_cancelled_has_partial_arguments_and_is_incomplete() -> None:
    long = {"text": "x" * 200}
    client = Client(
        f'[[turn]]\ncall = [{{ name = "f", arguments = {{ text = "{long["text"]}" }} }}]'
    )
    client.say("response.create")
    client.until("response.function_call_arguments.delta")
    events = client.say("response.cancel")
    assert types(events) == [
        "response.function_call_arguments.done",  # L-41
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert events[0]["arguments"].startswith('{"text":"x')
    assert len(events[0]["arguments"]) < 200
    assert events[2]["item"]["status"] == "incomplete"


def test_only_one_response_writes_to_the_conversation() -> None:
    client = Client()
    created, _ = client.say("response.create")
    (error,) = client.say("response.create", event_id="second")
    assert error["error"]["code"] == "conversation_already_has_active_response"
    assert created["response"]["id"] in error["error"]["message"]
    assert error["error"]["event_id"] == "second"
    client.until("response.done")
    assert client.say("response.create")[0]["type"] == "response.created"


def test_a_response_out_of_band_runs_beside_and_leaves_no_items() -> None:
    client = Client()
    client.text("hello")
    client.say("response.create")
    created, _ = client.say("response.create", response={"conversation": "none"})
    assert created["response"].get("conversation_id") is None
    events = client.until("response.done")
    if len([e for e in events if e["type"] == "response.done"]) < 2:
        events += client.until("response.done")
    added = [e for e in events if e["type"] == "conversation.item.added"]
    assert len(added) == 1
    assert len([e for e in events if e["type"] == "response.output_item.added"]) == 2
    assert len(client.held.items.order) == 2


def test_speech_does_not_interrupt_a_response_out_of_band_but_the_client_can() -> None:
    client = Client()
    created, _ = client.say("response.create", response={"conversation": "none"})
    assert types(client.hear(tone(0.2))) == ["input_audio_buffer.speech_started"]
    assert code(client.say("response.cancel")) == "response_cancel_not_active"
    *_, done = client.say("response.cancel", response_id=created["response"]["id"])
    assert done["response"]["status"] == "cancelled"


# Ends other than good ----------------------------------------------------------------------------


def test_a_limit_of_tokens_ends_the_response_incomplete() -> None:
    events = Client().ask("this is far too long an answer", max_output_tokens=20)
    response = only(events, "response.done")["response"]
    assert response["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] <= 20 + 3
    assert "You said: this is far too long an answer".startswith(said(events))


def test_a_scripted_end_is_incomplete() -> None:
    client = Client('[[turn]]\nsay = "one two three four"\nincomplete = "content_filter"')
    events = client.ask("hello")
    response = only(events, "response.done")["response"]
    assert response["status"] == "incomplete"
    assert response["status_details"]["reason"] == "content_filter"
    assert said(events) == "one two "


def test_a_scripted_failure_ends_the_response_failed() -> None:
    script = '[[turn]]\ntimes = 1\nfail = { code = "rate_limit_exceeded", message = "Slow down." }'
    client = Client(script)
    events = client.ask("hello")
    response = only(events, "response.done")["response"]
    assert types(events) == ["response.created", "rate_limits.updated", "response.done"]
    assert response["status"] == "failed"
    assert response["status_details"]["error"] == {
        "type": "server_error",
        "code": "rate_limit_exceeded",
        "message": "Slow down.",
    }
    assert said(client.respond()) == "You said: hello"


def test_deleting_what_is_being_said_does_not_stop_the_response() -> None:
    client = Client()
    client.text("hello")
    client.say("response.create")
    added = only(client.until("conversation.item.added"), "conversation.item.added")
    client.say("conversation.item.delete", item_id=added["item"]["id"])
    events = client.until("response.done")
    assert "conversation.item.done" not in types(events)
    assert only(events, "response.done")["response"]["status"] == "completed"


def test_a_scripted_delay_takes_the_place_of_the_time_to_think() -> None:
    client = Client('[[turn]]\nsay = "late"\ndelay_s = 7.5\n[knobs]\nthink_s = 0.1')
    client.say("response.create")
    assert client.wait(7.4) == []
    assert client.wait(0.2)[0]["type"] == "response.output_item.added"
