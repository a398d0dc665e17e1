"""Responses that do not go by the book: refused, replaced, given up, never ended."""

import math
from typing import Any

import pytest

from relay.session import Session
from relay.session.limits import MAX_MESSAGE_BYTES
from tests.expected import like
from tests.playbook import Playbook
from tests.scenes import (
    assistant,
    begins,
    calls,
    cancelled,
    configuring,
    created,
    error,
    heard,
    message_added,
    message_done,
    opened,
    pcm,
    ready,
    reply,
    request,
    response_created,
    response_done,
    settings,
    speech,
    speech_started,
    speech_stopped,
    transcribed,
    transcribing,
    transcript_done,
    types,
    user,
    voice,
    warning,
)


def asks(book: Playbook, text: str = "Hi.") -> Playbook:
    """The user writes something, and the relay asks for its answer."""
    book.client(types(text)).to_client(user(text)).to_upstream("conversation.item.create")
    return book.acks().to_upstream("response.create")


def unwanted(**opening: Any) -> Playbook:
    """A greeting was asked for when the user began to speak."""
    book = configuring(settings(greeting="Welcome!"), **opening).updated()
    book.to_client("SettingsApplied").to_upstream("response.create")
    return book.upstream(speech_started()).to_client("UserStartedSpeaking")


@pytest.mark.parametrize("code", ["insufficient_quota", "invalid_api_key", "model_not_found"])
@pytest.mark.conformance("C-233")
def test_a_refusal_that_no_try_will_mend_is_the_end(code: str) -> None:
    book = asks(ready()).refuses("response.create", code)
    book.to_client(error("FAILED_TO_THINK")).closes(1000)


@pytest.mark.conformance("C-178")
def test_another_refusal_is_a_warning_and_the_next_question_is_asked() -> None:
    book = asks(ready()).refuses("response.create", message="Too odd.")
    book.to_client(like("Warning", code="THINK_REQUEST_FAILED", description="Too odd."))
    asks(book.passes(30).nothing(), "And now?")


@pytest.mark.conformance("C-212")
def test_the_refusal_of_what_nobody_wants_any_more_is_nobodys_business() -> None:
    unwanted().refuses("response.create").passes(5).nothing()


@pytest.mark.conformance("C-212")
def test_what_nobody_wants_any_more_is_cancelled_and_given_up_if_it_does_not_end() -> None:
    book = unwanted().begins("resp_1").to_upstream(like("response.cancel", response_id="resp_1"))
    book.upstream(speech_stopped()).passes(1.1).notes("cancelled_response_did_not_end")
    book.passes(9)
    asks(book).begins("resp_2").to_client("AgentThinking")


@pytest.mark.conformance("C-230")
def test_the_end_inferred_for_a_response_is_not_the_end_of_the_next() -> None:
    (
        ready(ends_responses=False)
        .upstream(*speech(), transcribed("item_u1", "Hi."))
        .to_client("UserStartedSpeaking", user("Hi."))
        .upstream(*begins(), *message_done("resp_1", "item_a1", "One."))
        .to_client("AgentThinking", assistant("One."))
        .passes(0.1)
        .upstream(response_created("resp_2"))
        .to_client("AgentThinking")
        .passes(1)
        .nothing()
        .upstream(*message_added("resp_2", "item_a2"))
        .upstream(*message_done("resp_2", "item_a2", "Two."))
        .to_client(assistant("Two."))
        .passes(1)
        .to_client("LatencyReport")
    )


@pytest.mark.conformance("C-147")
def test_a_response_that_fails_while_the_user_speaks_is_not_tried_again() -> None:
    """What the user says now is the question."""
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.upstream(response_created(), response_done(status="failed", code="rate_limit_exceeded"))
    book.to_client("AgentThinking", warning("THINK_REQUEST_FAILED"))
    book.upstream(speech_stopped()).passes(20).nothing()


@pytest.mark.conformance("C-177", "C-233")
def test_after_the_end_nothing_falls_due_though_a_call_is_open() -> None:
    whole = [response_created(), *calls("resp_1", "call_1"), response_done()]
    book = ready(settings(functions=("f",))).upstream(*whole)
    book.to_client("AgentThinking", request("call_1"))
    book.upstream(response_created("resp_2")).to_client("AgentThinking")
    book.upstream(response_done("resp_2", "failed", code="insufficient_quota"))
    book.to_client(error("FAILED_TO_THINK")).closes(1000)
    assert book.session.next_deadline() == math.inf


@pytest.mark.conformance("C-262")
def test_warnings_wait_for_settings_to_be_applied() -> None:
    (
        configuring(component=True)
        .client_text('{"type": "Odd"}')
        .nothing()
        .updated()
        .to_client("SettingsApplied", warning("UNPARSABLE_CLIENT_MESSAGE"))
    )


@pytest.mark.parametrize("ends_in_s", [-60, 0, 100])
def test_a_session_that_is_over_too_soon_is_a_wrong_wall_clock(ends_in_s: int) -> None:
    """Then the session lasts as long as sessions do."""
    book = configuring_until(1_800_000_000 + ends_in_s).updated().to_client("SettingsApplied")
    book.passes(3479).nothing()
    book.passes(2).dials()


def configuring_until(expires_at: int) -> Playbook:
    book = opened(client_idle_s=9000.0).client(settings()).formats().dials().upstream_opens()
    return book.upstream(created(expires_at)).to_upstream("session.update")


@pytest.mark.conformance("C-089")
def test_an_item_that_is_not_acknowledged_is_given_up_and_the_others_are_not_counted() -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.client(types("One.")).to_client(user("One.")).to_upstream("conversation.item.create")
    book.acks().client(types("Two.")).to_client(user("Two."))
    book.to_upstream("conversation.item.create").passes(10.1)
    book.notes("item_unacknowledged", items=1)
    assert not any(note.event == "item_unacknowledged" for note in book.logged)


@pytest.mark.conformance("C-177", "C-192")
def test_after_the_end_nothing_is_said_whatever_comes() -> None:
    book = ready().going_away().to_client(error("SERVER_GOING_AWAY")).closes(1001)
    book.going_away().client_too_big(2**21).client_audio(bytes(960)).client("KeepAlive")
    book.endpoint_answers("call_1", "42").passes(10_000).nothing()


LATE: list[Any] = [
    heard("resp_1", "item_a1", "More."),
    voice("resp_1", "item_a1", pcm(100)),
    transcript_done("resp_1", "item_a1", "More."),
    *message_added("resp_1", "item_a9", 1),
    *message_done("resp_1", "item_a9", "More.", 1),
    *calls("resp_1", "call_1"),
    response_created("resp_1"),
    response_done("resp_1"),
]


@pytest.mark.parametrize("late", LATE, ids=lambda event: event["type"])
@pytest.mark.parametrize("answering", [False, True], ids=["alone", "amid the next"])
@pytest.mark.conformance("C-222", "C-224")
def test_what_comes_of_a_response_that_has_ended_is_nothing(late: Any, answering: bool) -> None:
    book = ready(settings(functions=("f",))).upstream(*reply("resp_1", "item_a1"))
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    if answering:
        book.upstream(response_created("resp_2")).to_client("AgentThinking")
    book.upstream(late).passes(1).nothing()
    if answering:
        book.upstream(response_done("resp_2")).to_client("LatencyReport")
    assert not any(note.event == "inexact_upstream" for note in book.logged)


@pytest.mark.conformance("C-223", "C-212")
def test_a_turn_that_an_unwanted_response_was_in_the_way_of_is_asked_for() -> None:
    book = unwanted().upstream(speech_stopped()).begins("resp_1").to_upstream("response.cancel")
    book.upstream(cancelled("resp_1")).nothing().passes(1.1)
    book.to_upstream(like("response.create", response={"metadata": {"relay": "turn"}}))


@pytest.mark.conformance("C-228")
def test_more_of_a_text_than_could_be_told_is_not_remembered() -> None:
    book = ready().upstream(*begins()).to_client("AgentThinking")
    for delta in ("x" * 2 * MAX_MESSAGE_BYTES, "y"):
        book.upstream(heard("resp_1", "item_a1", delta))
    assert isinstance(book.session, Session)
    assert book.session.response is not None
    assert book.session.response.items["item_a1"].partial == "x" * MAX_MESSAGE_BYTES
    book = ready(component=True).upstream(speech_started()).to_client("UserStartedSpeaking")
    for delta in ("x" * 2 * MAX_MESSAGE_BYTES, "y"):
        book.upstream(transcribing("item_u1", delta)).to_client("Transcript")
    assert isinstance(book.session, Session)
    assert book.session.user_items["item_u1"].heard == {0: "x" * MAX_MESSAGE_BYTES}
