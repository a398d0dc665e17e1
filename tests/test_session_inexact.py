"""Upstreams that are compatible but not exact: what they leave out is inferred, nothing hangs."""

from typing import Any

import pytest

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
