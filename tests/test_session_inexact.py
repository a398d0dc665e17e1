"""Upstreams that are compatible but not exact: what they leave out is inferred, nothing hangs."""

from typing import Any

import pytest

from relay.session import Session
from relay.session.facts import Loss
from relay.settings import MappingOptions, TurnOptions
from tests.expected import Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    answer,
    answering,
    assistant,
    begins,
    calls,
    configuring,
    created,
    ends,
    heard,
    message_added,
    message_done,
    pcm,
    ready,
    request,
    response_created,
    response_done,
    settings,
    speech,
    speech_started,
    spoken,
    transcribed,
    transcript_done,
    types,
    user,
    voice,
    warning,
)


def asked(**opening: Any) -> Playbook:
    """The user has said something."""
    book = ready(**opening).upstream(*speech(), transcribed("item_u1", "Hi."))
    return book.to_client("UserStartedSpeaking", user("Hi."))


def without(event: Wire, *fields: str) -> dict[str, Any]:
    """The event as a server sends it that leaves these fields out."""
    left = {key: value for key, value in event.items() if key not in fields}
    if isinstance(left.get("delta"), bytes):
        left["delta"] = "AQAB" if left["delta"] else ""  # 3 bytes: whole samples come of two
    return left


@pytest.mark.conformance("C-230")
def test_where_responses_are_never_ended_the_end_of_all_items_is_the_end() -> None:
    (
        asked(ends_responses=False)
        .upstream(*begins(), voice("resp_1", "item_a1", pcm(100)))
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .upstream(*message_added("resp_1", "item_a2", 1))
        .upstream(*message_done("resp_1", "item_a1", "One."))
        .to_client(assistant("One."))
        .passes(3)
        .nothing()
        .upstream(*message_done("resp_1", "item_a2", "Two.", 1))
        .to_client(assistant("Two."))
        .passes(3)
        .to_client("AgentAudioDone", "LatencyReport")
        .client(types("And?"))
        .to_client(user("And?"))
        .to_upstream("conversation.item.create")
        .acks()
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-230")
def test_a_round_of_calls_ends_there_as_well() -> None:
    (
        ready(settings(functions=("f",)), ends_responses=False)
        .upstream(response_created(), *calls("resp_1", "call_1"))
        .to_client("AgentThinking", request("call_1"))
        .passes(3)
        .client(answer("call_1"))
        .to_upstream("conversation.item.create", "response.create")
    )


@pytest.mark.conformance("C-230", "C-222")
def test_a_response_done_that_comes_after_all_is_ignored() -> None:
    (
        asked(ends_responses=False)
        .upstream(*begins(), voice("resp_1", "item_a1", pcm(100)))
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .upstream(*message_done("resp_1", "item_a1", "One."))
        .to_client(assistant("One."))
        .passes(3)
        .to_client("AgentAudioDone", "LatencyReport")
        .upstream(response_done("resp_1"))
        .nothing()
    )


@pytest.mark.conformance("C-230")
def test_output_without_response_created_opens_a_response() -> None:
    (
        asked()
        .upstream(*message_added("resp_1", "item_a1"), heard("resp_1", "item_a1", "Hel"))
        .to_client("AgentThinking")
        .upstream(voice("resp_1", "item_a1", pcm(100)))
        .to_client("AgentStartedSpeaking")
        .audio_to_client()
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-092")
def test_output_without_response_created_answers_our_request() -> None:
    book = ready().client(types("Hi.")).to_client(user("Hi."))
    book.to_upstream("conversation.item.create").acks().to_upstream("response.create")
    book.upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(100)))
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
    book.upstream(*ends()).to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    book.passes(30).nothing()


@pytest.mark.conformance("C-222")
def test_late_output_of_an_ended_response_opens_none() -> None:
    book = answering().upstream(*ends())
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    book.upstream(voice("resp_1", "item_a1", pcm(100))).passes(5).nothing()


@pytest.mark.conformance("C-149", "C-222")
def test_audio_without_ids_is_told_and_cut_like_any_other() -> None:
    """The item's id is unknown, so nothing can be truncated; the rest of barge-in holds."""
    (
        asked()
        .upstream(response_created())
        .to_client("AgentThinking")
        .upstream_text(without(voice("", "", b"\1"), "response_id", "item_id", "output_index"))
        .to_client("AgentStartedSpeaking")
        .audio_to_client()
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .upstream_text(without(voice("", "", b"\1"), "response_id", "item_id", "output_index"))
        .nothing()
    )


@pytest.mark.conformance("C-186")
def test_answers_without_ids_are_told_to_the_next_leg() -> None:
    book = asked()
    for resp, said in (("resp_1", "One."), ("resp_2", "Two.")):
        spoken = (voice("", "", b"\1"), transcript_done("", "", said))
        book.upstream(response_created(resp)).to_client("AgentThinking")
        book.upstream_text(*(without(e, "response_id", "item_id", "output_index") for e in spoken))
        book.to_client("AgentStartedSpeaking").audio_to_client().to_client(assistant(said))
        book.upstream(response_done(resp)).to_client("AgentAudioDone", "LatencyReport")
    book.upstream_gone(Loss.LOST).to_client(warning("THINK_REQUEST_FAILED")).dials()
    book.upstream_opens().upstream(created())
    book.to_upstream("session.update").updated()
    book.to_upstream(*["conversation.item.create"] * 3)
    assert book.last("conversation.item.create")["item"]["content"][0]["text"] == "Two."


@pytest.mark.conformance("C-158", "C-160")
def test_a_call_without_output_items_is_announced_from_its_arguments() -> None:
    done = like(
        "response.function_call_arguments.done",
        response_id="resp_1",
        item_id="item_call_1",
        output_index=0,
        call_id="call_1",
        name="f",
        arguments="",
    )
    (
        ready(settings(functions=("f",)))
        .upstream(response_created(), done, response_done())
        .to_client("AgentThinking", request("call_1"))
        .client(answer("call_1"))
        .to_upstream("conversation.item.create", "response.create")
    )


@pytest.mark.conformance("C-134")
def test_a_text_without_deltas_or_items_is_told() -> None:
    done = like(
        "response.output_text.done",
        response_id="resp_1",
        item_id="item_a1",
        output_index=0,
        content_index=0,
        text="Hello.",
    )
    book = asked().upstream(response_created(), done, response_done())
    book.to_client("AgentThinking", assistant("Hello."), "LatencyReport")


@pytest.mark.conformance("C-095", "C-180")
def test_a_code_may_stand_in_the_place_of_the_type() -> None:
    book = ready().client(types("Hi.")).to_client(user("Hi."))
    book.to_upstream("conversation.item.create").acks().to_upstream("response.create")
    (
        book.upstream(response_created())
        .to_client("AgentThinking")
        .refuses("response.create", None, error="conversation_already_has_active_response")
        .nothing()
        .upstream(response_done())
        .to_client("LatencyReport")
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-205", "C-224")
def test_turns_whose_commits_name_no_item_are_all_answered() -> None:
    commit = without(like("input_audio_buffer.committed"), "item_id", "previous_item_id")
    turns = TurnOptions(kind="off")
    book = ready(mapping=MappingOptions(turns=turns, transcription_model=""))
    for resp in ("resp_1", "resp_2", "resp_3"):
        book.client_audio(pcm(100)).audio_to_upstream(pcm(100)).client("ForceEndTurn")
        book.to_upstream("input_audio_buffer.commit").upstream_text(commit)
        book.to_upstream("response.create").begins(resp).to_client("AgentThinking")
        book.upstream(response_done(resp)).to_client("LatencyReport")


@pytest.mark.conformance("C-091", "C-230")
def test_each_way_of_deviating_is_logged_once() -> None:
    """What the exact API never does (tests/independent/test_exact_api.py)."""
    book = ready().client(types("Hi."), types("Hi.")).to_client(user("Hi."), user("Hi."))
    book.to_upstream("conversation.item.create", "conversation.item.create")
    renamed = {**book.last("conversation.item.create")["item"], "id": "item_x"}
    book.upstream(like("conversation.item.created", item=renamed))
    book.to_upstream("response.create")
    book.upstream(like("conversation.item.created", item={**renamed, "id": "item_y"}))
    book.upstream_text(without(voice("", "", b"\1"), "response_id", "item_id", "output_index"))
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
    ways = [n.fields["way"] for n in book.logged if n.event == "inexact_upstream"]
    assert ways == ["item_renamed", "response_not_created", "item_unnamed"]


@pytest.mark.conformance("C-230")
def test_responses_without_ids_follow_one_another() -> None:
    """Whatever names neither its response nor its item belongs to the live one."""
    book = asked(ends_responses=False)
    for n, text in enumerate(("One.", "Two.")):
        delta = without(heard("", "", text), "response_id", "item_id")
        done = without(transcript_done("", "", text), "response_id", "item_id")
        book.upstream_text(delta, done).to_client("AgentThinking", assistant(text))
        book.passes(0.3).to_client("LatencyReport").passes(n).nothing()


def ways(book: Playbook) -> list[object]:
    """In which ways the upstream was seen to deviate."""
    return [note.fields["way"] for note in book.logged if note.event == "inexact_upstream"]


@pytest.mark.conformance("C-091", "C-090")
def test_our_own_item_that_is_shown_twice_is_not_the_next_one_renamed() -> None:
    book = ready().client(types("Yes."), types("Yes.")).to_client(user("Yes."), user("Yes."))
    book.to_upstream(*["conversation.item.create"] * 2).acks(1).to_upstream("response.create")
    book.begins("resp_1").to_client("AgentThinking").upstream(response_done("resp_1"))
    book.to_client("LatencyReport").nothing().acks(1).to_upstream("response.create")
    assert ways(book) == []


@pytest.mark.conformance("C-091")
def test_what_the_user_has_said_is_not_what_was_written_renamed() -> None:
    book = asked().client(types("Hi.")).to_client(user("Hi."))
    book.to_upstream("conversation.item.create")
    said = {"type": "message", "id": "item_u1", "role": "user"}
    part = {"type": "input_audio", "transcript": "Hi."}
    book.upstream(like("conversation.item.done", item={**said, "content": [part]}))
    assert ways(book) == []


@pytest.mark.conformance("C-091", "C-213")
def test_what_the_agent_says_is_not_what_was_written_for_it_renamed() -> None:
    book = configuring(settings(greeting="Hello."), greeting_mode="text").updated()
    book.to_client("SettingsApplied", assistant("Hello."))
    book.to_upstream("conversation.item.create").upstream(*speech(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi."))
    book.upstream(*begins(), voice("resp_1", "item_a1", pcm(100)))
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
    book.upstream(*message_done("resp_1", "item_a1", "Hello.")).to_client(assistant("Hello."))
    assert ways(book) == []


LATE = [
    heard("", "item_a1", "Late."),
    voice("", "item_a1", b"\1"),
    transcript_done("", "item_a1", "Late."),
    like("response.output_audio.done", item_id="item_a1", output_index=0),
    like("response.output_item.added", output_index=0, item=spoken("item_a1", "Late.")),
    like("response.output_item.done", output_index=0, item=spoken("item_a1", "Late.")),
    like("response.function_call_arguments.delta", item_id="item_a1", call_id="c", delta="{"),
    like(
        "response.function_call_arguments.done",
        item_id="item_a1",
        output_index=0,
        call_id="c",
        name="f",
        arguments="{}",
    ),
]


@pytest.mark.parametrize("late", LATE, ids=lambda late: late["type"])
@pytest.mark.conformance("C-224")
def test_late_output_that_names_its_item_only_is_none_of_the_next_response(late: Wire) -> None:
    book = answering().upstream(*ends())
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport").passes(2)
    book.upstream(response_created("resp_2")).to_client("AgentThinking")
    before = str(session_of(book).response)
    book.upstream_text(without(late, "response_id")).nothing()
    assert str(session_of(book).response) == before


@pytest.mark.parametrize(("text", "audio"), [(True, False), (False, True), (True, True)])
@pytest.mark.conformance("C-156")
def test_output_that_names_its_place_only_is_of_the_item_in_that_place(
    text: bool, audio: bool
) -> None:
    book = asked().upstream(response_created(), *message_added("resp_1", "item_a1", 1))
    book.to_client("AgentThinking")
    for delta, unnamed in (
        (heard("resp_1", "item_a1", "Hel", 1), text),
        (voice("resp_1", "item_a1", pcm(100), 1), audio),
    ):
        book.upstream_text(without(delta, *["item_id"] * unnamed))
    book.to_client("AgentStartedSpeaking").audio_to_client().passes(1)
    book.upstream(speech_started("item_u2")).audio_dropped()
    book.to_client(assistant("Hel"), "UserStartedSpeaking")


@pytest.mark.conformance("C-149")
def test_the_end_of_an_items_audio_may_name_its_place_only() -> None:
    """It is told once."""
    book = answering()
    done = like("response.output_audio.done", response_id="resp_1", output_index=0)
    book.upstream_text(done).nothing()
    assert not book.tail
    book.upstream(*ends()).to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    assert sum(line.text == "(audio ends)" for line in book.lines) == 1


@pytest.mark.conformance("C-220", "C-158")
def test_a_call_without_an_item_holds_up_no_text_behind_it() -> None:
    done = calls("resp_1", "call_1")[-3]
    assert done["type"] == "response.function_call_arguments.done"
    book = ready(settings(functions=("f",))).upstream(response_created(), done)
    book.to_client("AgentThinking", request("call_1"))
    book.upstream(transcript_done("resp_1", "item_a1", "Hello.", 1)).to_client(assistant("Hello."))


@pytest.mark.conformance("C-134")
def test_a_message_without_a_name_at_the_end_is_one_that_was_told() -> None:
    book = asked().upstream(response_created(), transcript_done("resp_1", "item_a1", "Hello."))
    book.to_client("AgentThinking", assistant("Hello."))
    nameless = without(spoken("item_a1", "Hello."), "id")
    book.upstream_text(response_done(output=[nameless])).to_client("LatencyReport")


@pytest.mark.conformance("C-134", "C-220")
def test_deltas_without_a_name_are_of_the_item_in_their_place() -> None:
    book = asked().upstream(*begins(), *message_added("resp_1", "item_a2", 1))
    book.to_client("AgentThinking")
    for index, delta in ((1, "Three, "), (0, "One, "), (1, "four."), (0, "two.")):
        named = heard("resp_1", f"item_a{index + 1}", delta, index)
        book.upstream_text(without(named, "item_id"))
    book.upstream(response_done()).to_client(assistant("One, two."), assistant("Three, four."))
    book.to_client("LatencyReport")
    assert ways(book) == ["item_unnamed"]


@pytest.mark.conformance("C-134", "C-220")
def test_texts_of_items_that_were_not_announced_come_in_their_order() -> None:
    book = asked().upstream(response_created()).to_client("AgentThinking")
    book.upstream(heard("resp_1", "item_a2", "Two.", 1), heard("resp_1", "item_a1", "One.", 0))
    book.upstream(response_done()).to_client(assistant("One."), assistant("Two."))
    book.to_client("LatencyReport")


@pytest.mark.conformance("C-142", "C-242")
def test_an_open_call_of_a_lost_upstream_is_none_of_a_response_without_an_id() -> None:
    book = ready(settings(functions=("f",)), ends_responses=False).upstream(response_created())
    book.to_client("AgentThinking").upstream(*calls("resp_1", "call_1"))
    book.to_client(request("call_1")).upstream_gone().to_client(warning("THINK_REQUEST_FAILED"))
    book.dials().upstream_opens().upstream(created()).to_upstream("session.update").updated()
    book.to_upstream("conversation.item.create")
    book.upstream_text(without(transcript_done("", "", "Well."), "response_id", "item_id"))
    book.to_client("AgentThinking", assistant("Well.")).passes(0.3).to_client("LatencyReport")


@pytest.mark.conformance("C-175", "C-160")
def test_a_call_without_a_name_is_of_no_function() -> None:
    call = {"type": "function_call", "id": "item_c", "status": "completed"}
    done = like("response.output_item.done", response_id="resp_1", output_index=0, item=call)
    book = ready(settings(functions=("f",), history=True)).upstream(response_created())
    book.to_client("AgentThinking").upstream_text(done)
    refusal = {"call_id": "", "output": '{"error":"there is no such function"}'}
    book.to_upstream(like("conversation.item.create", item=refusal)).upstream(response_done())
    record = {"id": "", "name": "", "arguments": "{}", "client_side": True}
    record["response"] = refusal["output"]
    book.to_client(like("History", function_calls=[record])).to_upstream("response.create")


def session_of(book: Playbook) -> Session:
    assert isinstance(book.session, Session)
    return book.session


@pytest.mark.conformance("C-134", "C-135")
@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([{"type": "output_audio"}], ""),
        ([{"type": "output_text", "text": "One. "}, {"type": "output_text", "text": "Two."}],
         "One. Two."),
    ],
)  # fmt: skip
def test_a_text_that_comes_with_its_item_only_is_that_of_all_its_parts(
    parts: list[dict[str, Any]], text: str
) -> None:
    item = {"type": "message", "id": "item_a1", "role": "assistant", "content": parts}
    done = like("response.output_item.done", response_id="resp_1", output_index=0, item=item)
    book = asked().upstream(*begins()).to_client("AgentThinking").upstream_text(done)
    book.to_client(*[assistant(text)] * bool(text)).upstream(response_done())
    book.to_client("LatencyReport")


def test_a_turn_without_a_name_is_a_way_of_deviating() -> None:
    book = ready()
    for _ in range(2):
        book.upstream_text(*(without(event, "item_id") for event in speech()[:3]))
        book.to_client("UserStartedSpeaking")
    assert ways(book) == ["item_unnamed"]
