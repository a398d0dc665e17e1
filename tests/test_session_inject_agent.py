"""What the application has the agent say: InjectAgentMessage and the greeting."""

from typing import Any

import pytest

from tests.expected import ABSENT, ANY, Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    answer,
    answering,
    assistant,
    calls,
    cancelled,
    committed,
    configuring,
    ends,
    error,
    heard,
    history,
    message_added,
    message_done,
    pcm,
    ready,
    request,
    response_created,
    response_done,
    says,
    settings,
    speech,
    speech_started,
    speech_stopped,
    types,
    user,
    user_item,
    voice,
    warning,
)

TEXT_SESSION = {"outputModalities": ["text"]}
"""Part of `agent.think`."""


def verbatim(text: str, why: str = "inject") -> Wire:
    """The response.create that has the model say `text`."""
    return like(
        "response.create",
        event_id=ANY,
        response={
            "conversation": "auto",
            "input": [],
            "instructions": ANY,
            "tool_choice": "none",
            "output_modalities": ["audio"],
            "metadata": {"relay": why, "n": ANY},
        },
    )


def injecting(text: str = "One moment.", **opening: Any) -> Playbook:
    """Asked to say `text`; nothing of the response has come."""
    return ready(**opening).client(says(text)).to_upstream(verbatim(text))


def speaking(text: str = "One moment.", ms: int = 1000, **opening: Any) -> Playbook:
    """`text` is being said, with `ms` of audio so far."""
    return (
        injecting(text, **opening)
        .begins("resp_1")
        .upstream(*message_added("resp_1", "item_a1"), heard("resp_1", "item_a1", "One, uh,"))
        .nothing()
        .upstream(voice("resp_1", "item_a1", pcm(ms)))
        .to_client(assistant(text), "AgentStartedSpeaking")
        .audio_to_client(pcm(ms))
    )


def greeting(**opening: Any) -> Playbook:
    """The greeting is asked for."""
    book = configuring(settings(greeting="Welcome!"), **opening).updated()
    return book.to_client("SettingsApplied").to_upstream(verbatim("Welcome!", "greeting"))


# Said when idle.


@pytest.mark.parametrize("field", ["message", "content"])
@pytest.mark.conformance("C-097", "C-102")
def test_one_response_without_tools_is_asked_for(field: str) -> None:
    book = ready().client({"type": "InjectAgentMessage", field: "One moment."})
    book.to_upstream(verbatim("One moment.")).nothing()
    assert "One moment." in book.last("response.create")["response"]["instructions"]


@pytest.mark.conformance("C-097")
def test_message_wins_over_content() -> None:
    book = ready().client(like("InjectAgentMessage", message="This.", content="That."))
    book.to_upstream("response.create")
    instructions = book.last("response.create")["response"]["instructions"]
    assert "This." in instructions
    assert "That." not in instructions


@pytest.mark.conformance("C-103", "C-104", "C-128", "C-129")
def test_the_text_is_told_verbatim_right_before_the_audio_and_once() -> None:
    (
        speaking()
        .upstream(*ends(text="One moment, please."))
        .to_client("AgentAudioDone")
        .passes(5)
        .nothing()
    )


@pytest.mark.conformance("C-143", "C-103")
def test_what_was_injected_is_recorded() -> None:
    (
        ready(settings(history=True))
        .client(says("One moment."))
        .to_upstream("response.create")
        .begins("resp_1")
        .upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(100)))
        .to_client(
            assistant("One moment."), history("assistant", "One moment."), "AgentStartedSpeaking"
        )
        .audio_to_client()
        .upstream(*ends())
        .to_client("AgentAudioDone")
    )


@pytest.mark.conformance("C-104", "C-137")
def test_the_component_hears_agent_done_before_it() -> None:
    speaking(component=True).upstream(*ends()).to_client("AgentDone", "AgentAudioDone")


@pytest.mark.conformance("C-129")
def test_its_latencies_count_from_the_request() -> None:
    book = injecting().passes(0.25).begins("resp_1").passes(0.25)
    book.upstream(*message_added("resp_1", "item_a1"), heard("resp_1", "item_a1", "One"))
    book.passes(0.25).upstream(voice("resp_1", "item_a1", pcm(100)))
    latencies = {"ttt_latency": 0.5, "tts_latency": 0.25, "total_latency": 0.75}
    book.to_client(assistant("One moment."), like("AgentStartedSpeaking", **latencies))
    book.audio_to_client()


@pytest.mark.conformance("C-104", "C-154")
def test_interrupted_it_gets_no_audio_done() -> None:
    (
        speaking()
        .passes(0.5)
        .upstream(speech_started())
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .to_upstream(like("conversation.item.truncate", item_id="item_a1", audio_end_ms=500))
        .upstream(cancelled("resp_1"))
        .passes(5)
        .nothing()
    )


# Said when not idle: default.


@pytest.mark.conformance("C-098")
def test_default_is_refused_while_the_agent_is_heard() -> None:
    refused = like("InjectionRefused", message=ANY)
    book = answering(ms=1000).client(says("No.")).to_client(refused)
    book.upstream(*ends()).to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    book.passes(0.9).client(says("No.", "default")).to_client(refused).nothing()
    book.passes(0.1).client(says("Now.")).to_upstream(verbatim("Now."))


@pytest.mark.conformance("C-098")
def test_default_is_accepted_while_the_agent_thinks_and_said_next() -> None:
    (
        ready()
        .upstream(*speech(), response_created("resp_1"))
        .to_client("UserStartedSpeaking", "AgentThinking")
        .client(says("Next."))
        .nothing()
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .to_upstream(verbatim("Next."))
    )


@pytest.mark.conformance("C-098", "C-100")
def test_default_is_said_at_once_in_an_open_function_round() -> None:
    (
        ready(settings(functions=("f",)))
        .upstream(response_created("resp_1"), *calls("resp_1", "call_1"), response_done("resp_1"))
        .to_client("AgentThinking", request("call_1"))
        .client(says("One moment."))
        .to_upstream(verbatim("One moment."))
    )


@pytest.mark.conformance("C-098")
def test_default_in_the_same_instant_as_a_function_answer_is_accepted() -> None:
    """A public demo does that, and waits for the exact text."""
    (
        ready(settings(functions=("f",)))
        .upstream(response_created("resp_1"), *calls("resp_1", "call_1"), response_done("resp_1"))
        .to_client("AgentThinking", request("call_1"))
        .client(answer("call_1"), says("Goodbye."))
        .to_upstream("conversation.item.create", "response.create")
        .begins("resp_2")
        .to_client("AgentThinking")
        .upstream(response_done("resp_2"))
        .to_client("LatencyReport")
        .to_upstream(verbatim("Goodbye."))
    )


@pytest.mark.parametrize("behavior", [None, "default", "queue"])
@pytest.mark.conformance("C-099", "C-100")
def test_it_is_refused_while_the_user_speaks(behavior: str | None) -> None:
    (
        ready()
        .upstream(speech_started())
        .to_client("UserStartedSpeaking")
        .client(says("No.", behavior))
        .to_client(like("InjectionRefused", message=ANY))
        .upstream(speech_stopped(), committed(), *user_item())
        .passes(20)
        .nothing()
    )


# Queue.


@pytest.mark.conformance("C-100")
def test_queue_is_the_next_response_of_the_relay() -> None:
    (
        answering()
        .client(types("And?"))
        .to_client(user("And?"))
        .to_upstream("conversation.item.create")
        .acks()
        .client(says("First.", "queue"), says("Second.", "queue"))
        .nothing()
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .to_upstream(verbatim("First."))
        .begins("resp_2")
        .upstream(*message_added("resp_2", "item_a2"), voice("resp_2", "item_a2", pcm(100)))
        .to_client(assistant("First."), "AgentStartedSpeaking")
        .audio_to_client(pcm(100))
        .upstream(*ends("resp_2", "item_a2"))
        .to_client("AgentAudioDone")
        .to_upstream(verbatim("Second."))
        .begins("resp_3")
        .upstream(response_done("resp_3", "failed", code="server_error"))
        .to_client(warning("SPEAK_REQUEST_FAILED"))
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-100")
def test_queue_when_idle_is_said_at_once() -> None:
    ready().client(says("Now.", "queue")).to_upstream(verbatim("Now."))


@pytest.mark.conformance("C-211", "C-204")
def test_speech_refuses_each_queued_message_that_has_not_begun() -> None:
    refused = like("InjectionRefused", message=ANY)
    (
        answering(ms=1000)
        .client(says("First.", "queue"), says("Second.", "queue"))
        .passes(1)
        .upstream(speech_started("item_u2"))
        .to_client(refused, refused)
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
    )


@pytest.mark.conformance("C-211")
def test_speech_refuses_one_that_was_asked_for_and_has_not_begun() -> None:
    book = injecting().upstream(speech_started())
    book.to_client(like("InjectionRefused", message=ANY), "UserStartedSpeaking")
    book.begins("resp_1").to_upstream(like("response.cancel", response_id="resp_1"))
    book.upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(100)))
    book.nothing().upstream(cancelled("resp_1", "client_cancelled")).nothing()


# Interrupt.


@pytest.mark.conformance("C-101")
def test_interrupt_cancels_drops_and_then_speaks() -> None:
    (
        answering(ms=1000)
        .passes(0.4)
        .client(says("Stop.", "interrupt"))
        .audio_dropped()
        .to_client(assistant("Hello."))
        .to_upstream(
            like("response.cancel", response_id="resp_1"),
            like("conversation.item.truncate", item_id="item_a1", audio_end_ms=400),
        )
        .upstream(voice("resp_1", "item_a1", pcm(100)))
        .nothing()
        .upstream(cancelled("resp_1", "client_cancelled"))
        .to_upstream(verbatim("Stop."))
    )


@pytest.mark.conformance("C-101")
def test_interrupt_replaces_a_response_that_was_only_asked_for() -> None:
    (
        ready()
        .client(types("Hi."))
        .to_client(user("Hi."))
        .to_upstream("conversation.item.create")
        .acks()
        .to_upstream("response.create")
        .client(says("Stop.", "interrupt"))
        .nothing()
        .begins("resp_1")
        .to_upstream(like("response.cancel", response_id="resp_1"))
        .upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(100)))
        .nothing()
        .upstream(cancelled("resp_1", "client_cancelled"))
        .to_upstream(verbatim("Stop."))
    )


@pytest.mark.conformance("C-101")
def test_interrupt_waits_at_most_a_second_for_the_cancelled_response() -> None:
    (
        answering(ms=1000)
        .client(says("Stop.", "interrupt"))
        .audio_dropped()
        .to_upstream("response.cancel", "conversation.item.truncate")
        .passes(0.9)
        .nothing()
        .passes(0.2)
        .to_upstream(verbatim("Stop."))
    )


@pytest.mark.conformance("C-101")
def test_interrupt_cancels_a_response_that_was_only_asked_for() -> None:
    (
        ready()
        .client(types("Hi."))
        .to_client(user("Hi."))
        .to_upstream("conversation.item.create")
        .acks()
        .to_upstream("response.create")
        .client(says("Stop.", "interrupt"))
        .nothing()
        .begins("resp_1")
        .to_upstream(like("response.cancel", response_id="resp_1"))
        .upstream(cancelled("resp_1", "client_cancelled"))
        .to_upstream(verbatim("Stop."))
    )


@pytest.mark.conformance("C-101")
def test_of_two_interrupts_the_second_takes_the_place_of_the_first() -> None:
    refused = like("InjectionRefused", message=ANY)
    (
        answering(ms=1000)
        .client(says("One.", "interrupt"))
        .audio_dropped()
        .to_upstream("response.cancel", "conversation.item.truncate")
        .client(says("Two.", "interrupt"))
        .to_client(refused)
        .audio_dropped()
        .upstream(cancelled("resp_1", "client_cancelled"))
        .to_upstream(verbatim("Two."))
        .client(says("Three.", "interrupt"))
        .to_client(refused)
        .begins("resp_2")
        .to_upstream(like("response.cancel", response_id="resp_2"))
        .upstream(cancelled("resp_2", "client_cancelled"))
        .to_upstream(verbatim("Three."))
    )


@pytest.mark.conformance("C-101")
def test_interrupt_speaks_even_while_the_user_does() -> None:
    (
        ready()
        .upstream(speech_started())
        .to_client("UserStartedSpeaking")
        .client(says("Stop.", "interrupt"))
        .to_upstream(verbatim("Stop."))
    )


@pytest.mark.conformance("C-101")
def test_interrupt_when_idle_is_said_at_once() -> None:
    ready().client(says("Now.", "interrupt")).to_upstream(verbatim("Now."))


@pytest.mark.conformance("C-101")
def test_interrupt_may_tell_the_client_to_drop_its_buffer() -> None:
    (
        answering(ms=1000, interrupt_flush="user_started_speaking")
        .passes(0.4)
        .client(says("Stop.", "interrupt"))
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
        .to_upstream("response.cancel", "conversation.item.truncate")
    )


@pytest.mark.conformance("C-101")
def test_interrupt_after_the_response_is_done_cuts_what_is_still_playing() -> None:
    (
        answering(ms=1000)
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .passes(0.4)
        .client(says("Stop.", "interrupt"))
        .audio_dropped()
        .to_upstream(
            like("conversation.item.truncate", item_id="item_a1", audio_end_ms=400),
            verbatim("Stop."),
        )
    )


# What cannot be said.


@pytest.mark.parametrize("nothing", [{}, {"message": ""}, {"content": ""}, {"message": " \n"}])
@pytest.mark.conformance("C-209")
def test_without_text_it_is_unparsable(nothing: dict[str, str]) -> None:
    code = "UNPARSABLE_CLIENT_MESSAGE"
    message = like("InjectAgentMessage", **nothing)
    ready().client(message).to_client(error(code)).closes(1000, code)
    ready(component=True).client(message).to_client(warning(code)).passes(1).nothing()


@pytest.mark.conformance("C-097", "C-103")
def test_a_field_without_words_leaves_it_to_the_other() -> None:
    book = ready().client(like("InjectAgentMessage", message=" ", content=" Hi. "))
    book.to_upstream(verbatim(" Hi. "))


@pytest.mark.conformance("C-106")
def test_the_dynamic_form_is_refused_and_the_session_stays_open() -> None:
    (
        ready()
        .client(like("InjectAgentMessage", is_dynamic=True, behavior="queue"))
        .to_client("Warning", like("InjectionRefused", message=ANY))
        .client(says("Hi."))
        .to_upstream(verbatim("Hi."))
    )


@pytest.mark.conformance("C-106")
def test_a_dynamic_form_with_text_is_said() -> None:
    book = ready().client(like("InjectAgentMessage", is_dynamic=True, message="Hi."))
    book.to_upstream(verbatim("Hi."))


@pytest.mark.conformance("C-105")
def test_an_unknown_behavior_is_default() -> None:
    ready().client(says("Hi.", "shout")).to_upstream(verbatim("Hi."))
    answering().client(says("Hi.", "shout")).to_client("InjectionRefused")


@pytest.mark.conformance("C-105")
def test_strict_an_unknown_behavior_is_unparsable() -> None:
    code = "UNPARSABLE_CLIENT_MESSAGE"
    given = settings(think={"provider": {"type": "open_ai", "model": "gpt-realtime"}})
    book = ready(given, strict=True).client(says("Hi.", "shout"))
    book.to_client(error(code)).closes(1000, code)


# Responses that fail.


@pytest.mark.parametrize("status", ["failed", "incomplete"])
@pytest.mark.conformance("C-214", "C-103")
def test_a_failed_response_is_warned_of_and_gives_no_text(status: str) -> None:
    code = "server_error" if status == "failed" else None
    reason = "max_output_tokens" if status == "incomplete" else None
    (
        injecting()
        .begins("resp_1")
        .upstream(response_done("resp_1", status, code=code, reason=reason))
        .to_client(warning("SPEAK_REQUEST_FAILED"))
        .passes(20)
        .nothing()
    )


@pytest.mark.conformance("C-214", "C-103")
def test_a_response_without_audio_gives_no_text() -> None:
    (
        injecting()
        .begins("resp_1")
        .upstream(response_done("resp_1"))
        .to_client(warning("SPEAK_REQUEST_FAILED"))
        .passes(20)
        .nothing()
    )


@pytest.mark.parametrize("code", ["invalid_value", "rate_limit_exceeded", None])
@pytest.mark.conformance("C-214")
def test_a_refused_request_is_warned_of_and_gives_no_text(code: str | None) -> None:
    (
        injecting()
        .refuses("response.create", code)
        .to_client(warning("SPEAK_REQUEST_FAILED"))
        .passes(20)
        .nothing()
    )


@pytest.mark.conformance("C-214")
def test_a_refusal_of_the_empty_input_is_answered_without_it_once() -> None:
    (
        injecting()
        .refuses("response.create", param="response.input")
        .to_upstream(like("response.create", response={"input": ABSENT, "tool_choice": "none"}))
        .refuses("response.create", param="response.input")
        .to_client(warning("SPEAK_REQUEST_FAILED"))
        .passes(20)
        .nothing()
    )


@pytest.mark.conformance("C-095", "C-214")
def test_an_active_response_elsewhere_only_delays_it() -> None:
    (
        injecting()
        .refuses("response.create", "conversation_already_has_active_response")
        .nothing()
        .upstream(response_created("resp_x"))
        .to_client("AgentThinking")
        .upstream(response_done("resp_x"))
        .to_client("LatencyReport")
        .to_upstream(verbatim("One moment."))
    )


# The greeting.


@pytest.mark.conformance("C-144", "C-127", "C-142")
def test_the_greeting_is_spoken_after_settings_applied() -> None:
    (
        greeting()
        .begins("resp_1")
        .upstream(*message_added("resp_1", "item_a1"), heard("resp_1", "item_a1", "Well"))
        .nothing()
        .upstream(voice("resp_1", "item_a1", pcm(100)))
        .to_client(assistant("Welcome!"), "AgentStartedSpeaking")
        .audio_to_client(pcm(100))
        .upstream(*ends(text="Welcome to you!"))
        .to_client("AgentAudioDone")
        .passes(5)
        .nothing()
    )


@pytest.mark.conformance("C-143", "C-144")
def test_the_greeting_is_recorded_as_the_assistants() -> None:
    (
        configuring(settings(greeting="Welcome!", history=True))
        .updated()
        .to_client("SettingsApplied")
        .to_upstream("response.create")
        .begins("resp_1")
        .upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(100)))
        .to_client(assistant("Welcome!"), history("assistant", "Welcome!"), "AgentStartedSpeaking")
        .audio_to_client()
        .upstream(*ends())
        .to_client("AgentAudioDone")
    )


@pytest.mark.conformance("C-212")
def test_speech_before_the_greeting_has_begun_drops_it() -> None:
    (
        greeting()
        .upstream(speech_started())
        .to_client("UserStartedSpeaking")
        .begins("resp_1")
        .to_upstream(like("response.cancel", response_id="resp_1"))
        .upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(100)))
        .nothing()
        .upstream(cancelled("resp_1", "client_cancelled"))
        .nothing()
    )


@pytest.mark.conformance("C-212")
def test_a_greeting_interrupted_before_its_audio_leaves_no_trace() -> None:
    (
        configuring(settings(greeting="Welcome!", history=True))
        .updated()
        .to_client("SettingsApplied")
        .to_upstream("response.create")
        .begins("resp_1")
        .upstream(*message_added("resp_1", "item_a1"), heard("resp_1", "item_a1", "Well"))
        .upstream(speech_started())
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .upstream(cancelled("resp_1"))
        .passes(5)
        .nothing()
    )


@pytest.mark.conformance("C-212", "C-154", "C-156")
def test_a_greeting_interrupted_later_keeps_its_text_and_gets_no_audio_done() -> None:
    (
        greeting()
        .begins("resp_1")
        .upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(1000)))
        .to_client(assistant("Welcome!"), "AgentStartedSpeaking")
        .audio_to_client()
        .passes(0.3)
        .upstream(speech_started())
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .to_upstream(like("conversation.item.truncate", audio_end_ms=300))
        .upstream(*message_done("resp_1", "item_a1", "Welcome!"), cancelled("resp_1"))
        .passes(5)
        .nothing()
    )


@pytest.mark.conformance("C-214")
def test_a_failed_greeting_is_warned_of() -> None:
    greeting().refuses("response.create").to_client(warning("SPEAK_REQUEST_FAILED")).passes(20)


@pytest.mark.conformance("C-146")
def test_the_greeting_may_be_text_only() -> None:
    part = {"type": "output_text", "text": "Welcome!"}
    book = configuring(settings(greeting="Welcome!", history=True), greeting_mode="text")
    (
        book.updated()
        .to_client("SettingsApplied", assistant("Welcome!"), history("assistant", "Welcome!"))
        .to_upstream(
            like("conversation.item.create", item={"role": "assistant", "content": [part]})
        )
        .acks()
        .passes(20)
        .nothing()
    )


# Text sessions.


@pytest.mark.conformance("C-213")
def test_in_a_text_session_the_greeting_is_an_item() -> None:
    part = {"type": "output_text", "text": "Welcome!"}
    (
        configuring(settings(greeting="Welcome!", think=TEXT_SESSION))
        .updated()
        .to_client("SettingsApplied", assistant("Welcome!"))
        .to_upstream(
            like("conversation.item.create", item={"role": "assistant", "content": [part]})
        )
        .acks()
        .passes(20)
        .nothing()
    )


@pytest.mark.conformance("C-213", "C-103")
def test_in_a_text_session_an_injected_message_is_an_item() -> None:
    part = {"type": "output_text", "text": "Hi."}
    (
        ready(settings(think=TEXT_SESSION, history=True))
        .client(says("Hi."))
        .to_client(assistant("Hi."), history("assistant", "Hi."))
        .to_upstream(
            like("conversation.item.create", item={"role": "assistant", "content": [part]})
        )
        .acks()
        .passes(20)
        .nothing()
    )
