"""What the agent says: audio, texts, latencies, and the order in which the client hears of them."""

from typing import Any

import pytest

from relay.settings import MappingOptions
from tests.expected import ABSENT, About, Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    answering,
    assistant,
    begins,
    calls,
    committed,
    ends,
    error,
    heard,
    history,
    item_done,
    message_added,
    message_done,
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
    spoken,
    transcribed,
    transcript_done,
    types,
    untranscribed,
    user,
    user_item,
    voice,
    warning,
    written,
)

TEXT_SESSION = {"outputModalities": ["text"]}
"""Part of `agent.think`."""


def asked(**opening: Any) -> Playbook:
    """The user has said something; its transcription has not come."""
    return ready(**opening).upstream(*speech()).to_client("UserStartedSpeaking")


def held(text: str = "Hello.", **opening: Any) -> Playbook:
    """The whole reply is there, and its text waits for the user's."""
    return (
        asked(**opening)
        .upstream(*reply(text=text))
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .nothing()
    )


# A whole turn.


@pytest.mark.conformance("C-202", "C-127", "C-128", "C-136", "C-142")
def test_a_voice_turn_in_its_canonical_order() -> None:
    (
        ready(settings(history=True))
        .upstream(*speech())
        .to_client("UserStartedSpeaking")
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."), history("user", "Hi."))
        .upstream(response_created())
        .to_client(like("AgentThinking", content=""))
        .upstream(*message_added("resp_1", "item_a1"), heard("resp_1", "item_a1", "Hello."))
        .nothing()
        .upstream(voice("resp_1", "item_a1", pcm(100)))
        .to_client("AgentStartedSpeaking")
        .audio_to_client(pcm(100))
        .upstream(*message_done("resp_1", "item_a1", "Hello."))
        .to_client(assistant("Hello."), history("assistant", "Hello."))
        .upstream(response_done())
        .to_client("AgentAudioDone", "LatencyReport")
        .passes(20)
        .nothing()
    )


@pytest.mark.conformance("C-202", "C-137")
def test_a_voice_turn_of_the_component_in_its_canonical_order() -> None:
    (
        ready(component=True)
        .upstream(*speech(), transcribed("item_u1", "Hi."))
        .to_client("UserStartedSpeaking", "UtteranceEnd", user("Hi."), "Transcript")
        .upstream(*reply())
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .to_client(assistant("Hello."), "AgentDone", "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-202")
def test_a_typed_turn_in_its_canonical_order() -> None:
    (
        ready()
        .client(types("Hi."))
        .to_client(user("Hi."))
        .to_upstream("conversation.item.create")
        .acks()
        .to_upstream("response.create")
        .begins("resp_1")
        .to_client("AgentThinking")
        .upstream(*message_added("resp_1", "item_a1"), heard("resp_1", "item_a1", "Hello."))
        .upstream(voice("resp_1", "item_a1", pcm(100)), *ends())
        .to_client("AgentStartedSpeaking")
        .audio_to_client(pcm(100))
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    )


# Audio.


@pytest.mark.conformance("C-130", "C-108")
def test_audio_comes_out_as_it_went_in() -> None:
    deltas = [pcm(ms, n) for n, ms in enumerate((0.25, 1, 20, 700, 3))]
    book = asked().upstream(transcribed("item_u1", "Hi."), *begins())
    book.to_client(user("Hi."), "AgentThinking")
    book.upstream(*[voice("resp_1", "item_a1", delta) for delta in deltas])
    book.to_client("AgentStartedSpeaking").audio_to_client(b"".join(deltas))


@pytest.mark.conformance("C-227", "C-128")
def test_an_empty_delta_does_not_start_speech() -> None:
    (
        asked()
        .upstream(*begins(), voice("resp_1", "item_a1", b""))
        .to_client("AgentThinking")
        .nothing()
        .upstream(voice("resp_1", "item_a1", pcm(20)), voice("resp_1", "item_a1", b""))
        .to_client("AgentStartedSpeaking")
        .audio_to_client(pcm(20))
    )


@pytest.mark.conformance("C-227", "C-132")
def test_an_odd_byte_is_carried_within_its_item_and_dropped_at_its_end() -> None:
    (
        asked()
        .upstream(*begins(), voice("resp_1", "item_a1", b"\1"))
        .to_client("AgentThinking")
        .nothing()
        .upstream(voice("resp_1", "item_a1", b"\2\3"), voice("resp_1", "item_a1", b"\4\5\6"))
        .to_client("AgentStartedSpeaking")
        .audio_to_client(b"\1\2\3\4\5\6")
        .upstream(voice("resp_1", "item_a1", b"\7\7\7"))
        .audio_to_client(b"\7\7")
        .upstream(*message_done("resp_1", "item_a1", "Hello."))
        .nothing()
        .upstream(
            *message_added("resp_1", "item_a2", 1), voice("resp_1", "item_a2", b"\x08\x09", 1)
        )
        .audio_to_client(b"\x08\x09")
        .passes(2)
        .to_client(assistant("Hello."))
    )


@pytest.mark.conformance("C-227")
def test_unreadable_audio_is_dropped_and_three_in_a_row_are_a_loss() -> None:
    bad = {**voice("resp_1", "item_a1", b""), "delta": "%%%"}
    book = asked(rollover=False).upstream(*begins()).to_client("AgentThinking")
    book.upstream_text(bad, bad).nothing()
    book.upstream(voice("resp_1", "item_a1", pcm(20))).to_client("AgentStartedSpeaking")
    book.audio_to_client(pcm(20)).upstream_text(bad, bad).nothing().upstream_text(bad)
    book.hangs_up(1).to_client("Error").closes(1011)


@pytest.mark.conformance("C-136", "C-220")
def test_two_messages_in_one_response_have_two_texts_and_one_beginning_and_end() -> None:
    (
        asked()
        .upstream(transcribed("item_u1", "Hi."), *begins())
        .to_client(user("Hi."), "AgentThinking")
        .upstream(voice("resp_1", "item_a1", pcm(20)), *message_done("resp_1", "item_a1", "One."))
        .to_client("AgentStartedSpeaking")
        .audio_to_client(pcm(20))
        .to_client(assistant("One."))
        .upstream(*message_added("resp_1", "item_a2", 1))
        .upstream(voice("resp_1", "item_a2", pcm(20), 1))
        .audio_to_client(pcm(20))
        .upstream(*message_done("resp_1", "item_a2", "Two.", 1))
        .to_client(assistant("Two."))
        .upstream(response_done())
        .to_client("AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-220")
def test_texts_come_in_the_order_of_the_output_not_of_their_completion() -> None:
    (
        asked()
        .upstream(transcribed("item_u1", "Hi."), *begins(), *message_added("resp_1", "item_a2", 1))
        .to_client(user("Hi."), "AgentThinking")
        .upstream(transcript_done("resp_1", "item_a2", "Two.", 1))
        .nothing()
        .upstream(transcript_done("resp_1", "item_a1", "One."))
        .to_client(assistant("One."), assistant("Two."))
    )


# Texts.


@pytest.mark.conformance("C-133")
def test_a_text_that_comes_three_times_is_told_once() -> None:
    book = held().upstream(transcribed("item_u1", "Hi."))
    book.to_client(user("Hi."), assistant("Hello."), "AgentAudioDone", "LatencyReport")


@pytest.mark.conformance("C-134")
def test_a_text_that_only_the_item_carries_is_told() -> None:
    (
        asked()
        .upstream(transcribed("item_u1", "Hi."), *begins())
        .to_client(user("Hi."), "AgentThinking")
        .upstream(*item_done("resp_1", spoken("item_a1", "Hello.")))
        .to_client(assistant("Hello."))
        .upstream(response_done(output=[spoken("item_a1", "Hello.")]))
        .to_client("LatencyReport")
    )


@pytest.mark.conformance("C-134")
def test_a_text_that_only_the_response_carries_is_told() -> None:
    (
        asked()
        .upstream(transcribed("item_u1", "Hi."), *begins())
        .to_client(user("Hi."), "AgentThinking")
        .upstream(voice("resp_1", "item_a1", pcm(20)))
        .to_client("AgentStartedSpeaking")
        .audio_to_client()
        .upstream(response_done(output=[spoken("item_a1", "Hello.")]))
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-133", "C-224")
def test_equal_texts_of_two_items_are_both_told() -> None:
    (
        asked()
        .upstream(transcribed("item_u1", "Hi."), *begins())
        .to_client(user("Hi."), "AgentThinking")
        .upstream(*message_done("resp_1", "item_a1", "Hello."))
        .to_client(assistant("Hello."))
        .upstream(*message_added("resp_1", "item_a2", 1))
        .upstream(*message_done("resp_1", "item_a2", "Hello.", 1))
        .to_client(assistant("Hello."))
    )


@pytest.mark.parametrize("text", ["", "  \n"])
@pytest.mark.conformance("C-133")
def test_an_empty_text_is_not_told(text: str) -> None:
    book = asked().upstream(transcribed("item_u1", "Hi."), *reply(text=text))
    book.to_client(user("Hi."), "AgentThinking", "AgentStartedSpeaking").audio_to_client()
    book.to_client("AgentAudioDone", "LatencyReport")


@pytest.mark.conformance("C-133")
def test_a_text_is_trimmed() -> None:
    book = asked().upstream(transcribed("item_u1", "Hi."), *begins())
    book.to_client(user("Hi."), "AgentThinking")
    book.upstream(*message_done("resp_1", "item_a1", " Hello. \n")).to_client(assistant("Hello."))


@pytest.mark.conformance("C-224")
def test_an_item_that_comes_again_is_ignored() -> None:
    (
        asked()
        .upstream(transcribed("item_u1", "Hi."), *reply())
        .to_client(user("Hi."), "AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .upstream(response_created("resp_2"))
        .to_client("AgentThinking")
        .upstream(*message_added("resp_2", "item_a1"))
        .upstream(*message_done("resp_2", "item_a1", "Hello."))
        .nothing()
    )


@pytest.mark.conformance("C-135", "C-127")
def test_written_answers_are_told_without_speaking() -> None:
    (
        ready()
        .client(types("Hi."))
        .to_client(user("Hi."))
        .to_upstream("conversation.item.create")
        .acks()
        .to_upstream("response.create")
        .begins("resp_1")
        .to_client("AgentThinking")
        .upstream(*written("resp_1", "item_a1", "Hello."))
        .to_client(assistant("Hello."))
        .upstream(response_done())
        .to_client("LatencyReport")
    )


@pytest.mark.conformance("C-137", "C-135")
def test_in_a_text_session_the_component_hears_both_ends() -> None:
    (
        ready(settings(think=TEXT_SESSION), component=True)
        .upstream(response_created())
        .to_client("AgentThinking")
        .upstream(*written("resp_1", "item_a1", "Hello."), response_done())
        .to_client(assistant("Hello."), "AgentDone", "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-137")
def test_the_component_hears_both_ends_of_a_response_of_calls_only() -> None:
    (
        ready(settings(functions=("f",)), component=True)
        .upstream(response_created(), *calls("resp_1", "call_1"), response_done())
        .to_client("AgentThinking", request("call_1"), "AgentDone", "AgentAudioDone")
    )


@pytest.mark.conformance("C-136", "C-135")
def test_deepgram_hears_no_audio_done_for_a_response_of_calls_only() -> None:
    (
        ready(settings(functions=("f",)))
        .upstream(response_created(), *calls("resp_1", "call_1"), response_done())
        .to_client("AgentThinking", request("call_1"))
    )


# The hold: the user's text before the assistant's.


@pytest.mark.conformance("C-138", "C-140", "C-203")
def test_the_assistants_text_waits_for_the_users_and_audio_does_not() -> None:
    (
        held(given=settings(history=True))
        .passes(1)
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."), history("user", "Hi."))
        .to_client(assistant("Hello."), history("assistant", "Hello."))
        .to_client("AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-137", "C-203")
def test_agent_done_waits_as_well() -> None:
    (
        ready(component=True)
        .upstream(*speech())
        .to_client("UserStartedSpeaking", "UtteranceEnd")
        .upstream(*reply())
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .nothing()
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."), "Transcript", assistant("Hello."))
        .to_client("AgentDone", "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-139", "C-218")
def test_the_hold_ends_1_5_s_after_the_text_is_complete() -> None:
    (
        asked()
        .upstream(*begins(), voice("resp_1", "item_a1", pcm(20)))
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .passes(3)
        .upstream(transcript_done("resp_1", "item_a1", "Hello."))
        .passes(1.4)
        .nothing()
        .passes(0.2)
        .to_client(assistant("Hello."))
        .upstream(*ends())
        .to_client("AgentAudioDone", "LatencyReport")
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."))
    )


@pytest.mark.conformance("C-139")
def test_the_wait_is_an_option() -> None:
    held(user_text_wait_s=0.5).passes(0.4).nothing().passes(0.2).to_client(
        assistant("Hello."), "AgentAudioDone", "LatencyReport"
    )


@pytest.mark.parametrize(
    "over",
    [
        untranscribed("item_u1"),
        transcribed("item_u1", "  "),
        committed("item_u2"),
    ],
    ids=["failed", "empty", "overtaken"],
)
@pytest.mark.conformance("C-218")
def test_other_ends_of_the_hold(over: Wire) -> None:
    book = held().upstream(over)
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")


@pytest.mark.conformance("C-218")
def test_a_transcription_after_the_hold_is_still_told() -> None:
    (
        held()
        .passes(1.6)
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .passes(5)
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."))
    )


@pytest.mark.conformance("C-218")
def test_without_transcription_nothing_is_held() -> None:
    (
        asked(mapping=MappingOptions(transcription_model=""))
        .upstream(*reply())
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-218")
def test_a_turn_committed_after_the_response_began_holds_nothing() -> None:
    (
        answering()
        .upstream(committed("item_u2"), *user_item("item_u2"))
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-203")
def test_what_does_not_wait_behind_a_held_text() -> None:
    (
        held(given=settings(functions=("f",)))
        .upstream(response_created("resp_2"))
        .to_client("AgentThinking")
        .upstream(*calls("resp_2", "call_1"))
        .to_client(request("call_1"))
        .client(like("UpdatePrompt", prompt="More."))
        .to_upstream("session.update")
        .updated()
        .to_client("PromptUpdated")
        .client("KeepAlive")
        .upstream(like("error", error={"type": "server_error", "message": "No.", "code": None}))
        .to_client(warning("THINK_REQUEST_FAILED"))
        .client_text("{")
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport", "Error")
        .closes(1000)
    )


@pytest.mark.conformance("C-203", "C-220")
def test_further_texts_of_the_turn_wait_behind_the_first() -> None:
    (
        asked()
        .upstream(*begins(), *message_done("resp_1", "item_a1", "One."))
        .to_client("AgentThinking")
        .upstream(*message_added("resp_1", "item_a2", 1))
        .upstream(*message_done("resp_1", "item_a2", "Two.", 1))
        .nothing()
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."), assistant("One."), assistant("Two."))
    )


@pytest.mark.conformance("C-203", "C-204")
def test_an_audio_done_that_was_held_goes_out_before_user_started_speaking() -> None:
    (
        held()
        .passes(0.05)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport", "UserStartedSpeaking")
        .to_upstream(like("conversation.item.truncate", item_id="item_a1", audio_end_ms=50))
    )


# Latencies.


@pytest.mark.conformance("C-129", "C-142")
def test_the_latencies_of_a_voice_turn() -> None:
    (
        ready()
        .upstream(speech_started())
        .to_client("UserStartedSpeaking")
        .passes(2)
        .upstream(speech_stopped())
        .passes(0.1)
        .upstream(committed(), *user_item())
        .passes(0.2)
        .upstream(response_created(), *message_added("resp_1", "item_a1"))
        .to_client("AgentThinking")
        .passes(0.3)
        .upstream(heard("resp_1", "item_a1", "Hel"))
        .passes(0.4)
        .upstream(voice("resp_1", "item_a1", pcm(100)))
        .to_client(
            like(
                "AgentStartedSpeaking",
                ttt_latency=About(0.6),
                tts_latency=About(0.4),
                total_latency=About(1.0),
            )
        )
        .audio_to_client()
        .passes(0.5)
        .upstream(transcribed("item_u1", "Hi."), *ends())
        .to_client(user("Hi."), assistant("Hello."), "AgentAudioDone")
        .to_client(
            like(
                "LatencyReport",
                stt_latency=About(1.4),
                ttt_token_latency=About(0.6),
                tts_latency=About(0.4),
                total_latency=About(1.0),
                ttt_tool_latency=ABSENT,
                ttt_thinking_latency=ABSENT,
            )
        )
    )


@pytest.mark.conformance("C-129")
def test_without_speech_stopped_latencies_count_from_the_commit() -> None:
    (
        ready()
        .upstream(speech_started(), committed(), *user_item())
        .to_client("UserStartedSpeaking")
        .passes(0.5)
        .upstream(*begins(), voice("resp_1", "item_a1", pcm(100)))
        .to_client("AgentThinking")
        .to_client(
            like(
                "AgentStartedSpeaking",
                ttt_latency=About(0.5),
                tts_latency=About(0),
                total_latency=About(0.5),
            )
        )
        .audio_to_client()
    )


@pytest.mark.conformance("C-129", "C-142")
def test_the_latencies_of_a_typed_turn_count_from_the_message() -> None:
    book = ready().client(types("Hi.")).to_client(user("Hi."))
    book.to_upstream("conversation.item.create").passes(0.5).acks().to_upstream("response.create")
    book.passes(0.5).begins("resp_1").to_client("AgentThinking").passes(0.5)
    book.upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(100)))
    book.to_client(like("AgentStartedSpeaking", total_latency=About(1.5))).audio_to_client()
    book.upstream(*ends()).to_client(assistant("Hello."), "AgentAudioDone")
    book.to_client(like("LatencyReport", stt_latency=ABSENT, total_latency=About(1.5)))


@pytest.mark.conformance("C-142", "C-221")
def test_the_latency_report_comes_once_at_the_last_response_of_the_chain() -> None:
    (
        ready(settings(functions=("f",)))
        .upstream(*speech(), transcribed("item_u1", "Hi."))
        .to_client("UserStartedSpeaking", user("Hi."))
        .upstream(response_created("resp_1"))
        .to_client("AgentThinking")
        .passes(0.3)
        .upstream(*calls("resp_1", "call_1"), response_done("resp_1"))
        .to_client(request("call_1"))
        .client(like("FunctionCallResponse", id="call_1", name="f", content="42"))
        .to_upstream("conversation.item.create", "response.create")
        .begins("resp_2")
        .to_client("AgentThinking")
        .upstream(*message_added("resp_2", "item_a2"), voice("resp_2", "item_a2", pcm(100)))
        .to_client("AgentStartedSpeaking")
        .audio_to_client()
        .upstream(*ends("resp_2", "item_a2"))
        .to_client(assistant("Hello."), "AgentAudioDone")
        .to_client(like("LatencyReport", ttt_tool_latency=About(0.3)))
    )


# Message and calls in one response.


@pytest.mark.conformance("C-221", "C-203")
def test_calls_are_announced_while_the_text_before_them_is_held() -> None:
    (
        ready(settings(functions=("f",)))
        .upstream(*speech(), *begins(), voice("resp_1", "item_a1", pcm(100)))
        .to_client("UserStartedSpeaking", "AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .upstream(*message_done("resp_1", "item_a1", "Let me see."))
        .nothing()
        .upstream(*calls("resp_1", "call_1", index=1))
        .to_client(request("call_1"))
        .upstream(response_done())
        .nothing()
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."), assistant("Let me see."), "AgentAudioDone")
    )


# Ends other than completion.


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
@pytest.mark.conformance("C-148")
def test_an_incomplete_response_finishes_the_turn(reason: str) -> None:
    book = answering().upstream(*ends(status="incomplete", reason=reason))
    book.to_client(assistant("Hello."))
    if reason == "content_filter":
        book.to_client(warning("THINK_REQUEST_FAILED"))
    book.to_client("AgentAudioDone", "LatencyReport")


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "server_error"])
@pytest.mark.conformance("C-147", "C-233")
def test_a_failed_response_is_warned_of_tried_again_and_then_fatal(code: str) -> None:
    book = ready(rollover=False).upstream(
        *speech(), transcribed("item_u1", "Hi."), response_created("resp_0")
    )
    book.to_client("UserStartedSpeaking", user("Hi."), "AgentThinking")
    for attempt, pause in enumerate((0.5, 1, 2)):
        book.upstream(response_done(f"resp_{attempt}", "failed", code=code))
        book.to_client(warning("THINK_REQUEST_FAILED"))
        book.passes(pause - 0.01).nothing().passes(0.02).to_upstream("response.create")
        book.begins(f"resp_{attempt + 1}").to_client("AgentThinking")
    book.upstream(response_done("resp_3", "failed", code=code))
    while len(book.unlisted) > 2:
        book.to_client(warning("THINK_REQUEST_FAILED"))
    book.to_client(error("FAILED_TO_THINK")).closes(1011, "FAILED_TO_THINK")


@pytest.mark.parametrize("code", [None, "odd_thing"])
@pytest.mark.conformance("C-147", "C-176")
def test_a_response_that_failed_for_no_known_reason_is_warned_of(code: str | None) -> None:
    book = ready().upstream(*speech(), transcribed("item_u1", "Hi."), response_created("resp_1"))
    book.to_client("UserStartedSpeaking", user("Hi."), "AgentThinking")
    book.upstream(response_done("resp_1", "failed", code=code))
    book.to_client(warning("THINK_REQUEST_FAILED"))
    book.client("KeepAlive").nothing()


@pytest.mark.conformance("C-147")
def test_a_later_try_may_succeed() -> None:
    (
        ready()
        .upstream(*speech(), transcribed("item_u1", "Hi."), response_created("resp_1"))
        .to_client("UserStartedSpeaking", user("Hi."), "AgentThinking")
        .upstream(response_done("resp_1", "failed", code="server_error"))
        .to_client(warning("THINK_REQUEST_FAILED"))
        .passes(0.5)
        .to_upstream("response.create")
        .begins("resp_2")
        .to_client("AgentThinking")
        .upstream(*message_added("resp_2", "item_a2"), voice("resp_2", "item_a2", pcm(100)))
        .to_client("AgentStartedSpeaking")
        .audio_to_client()
        .upstream(*ends("resp_2", "item_a2"))
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .passes(20)
        .nothing()
    )


@pytest.mark.conformance("C-147")
def test_no_further_try_once_the_user_speaks() -> None:
    (
        ready()
        .upstream(*speech(), transcribed("item_u1", "Hi."), response_created("resp_1"))
        .to_client("UserStartedSpeaking", user("Hi."), "AgentThinking")
        .upstream(response_done("resp_1", "failed", code="server_error"))
        .to_client(warning("THINK_REQUEST_FAILED"))
        .upstream(*speech("item_u2"))
        .to_client("UserStartedSpeaking")
        .passes(5)
        .nothing()
    )


@pytest.mark.parametrize("code", ["insufficient_quota", "invalid_api_key", "model_not_found"])
@pytest.mark.conformance("C-233", "C-147")
def test_a_failure_for_good_is_fatal_at_once(code: str) -> None:
    (
        ready()
        .upstream(response_created("resp_1"))
        .to_client("AgentThinking")
        .upstream(response_done("resp_1", "failed", code=code))
        .to_client(error("FAILED_TO_THINK"))
        .closes(1000, "FAILED_TO_THINK")
    )


@pytest.mark.conformance("C-147")
def test_a_slow_response_is_warned_of_every_5_s() -> None:
    (
        ready()
        .upstream(response_created("resp_1"))
        .to_client("AgentThinking")
        .passes(4.9)
        .nothing()
        .passes(0.2)
        .to_client(warning("SLOW_THINK_REQUEST"))
        .passes(5)
        .to_client(warning("SLOW_THINK_REQUEST"))
        .upstream(*message_added("resp_1", "item_a1"), heard("resp_1", "item_a1", "Hi"))
        .passes(4.8)
        .nothing()
    )


@pytest.mark.conformance("C-147")
def test_the_slow_warning_can_be_switched_off() -> None:
    ready(slow_think_s=0.0).upstream(response_created()).to_client("AgentThinking").passes(30)


# Events out of place.


@pytest.mark.conformance("C-222")
def test_events_of_an_ended_response_are_dropped() -> None:
    (
        answering()
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .upstream(
            voice("resp_1", "item_a1", pcm(100)),
            heard("resp_1", "item_a1", "x"),
            *message_added("resp_1", "item_a9", 1),
            voice("resp_1", "item_a9", pcm(100)),
            *message_done("resp_1", "item_a9", "Late.", 1),
            *calls("resp_1", "call_9", index=2),
            response_done("resp_1"),
            response_created("resp_1"),
        )
        .nothing()
    )


@pytest.mark.conformance("C-222")
def test_a_done_of_another_response_does_not_end_the_live_one() -> None:
    (
        answering()
        .upstream(response_done("resp_9"))
        .upstream(voice("resp_1", "item_a1", pcm(100)))
        .audio_to_client(pcm(100))
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-230", "C-136")
def test_a_response_ends_at_response_done_only() -> None:
    """output_audio.done, the items' and everything else notwithstanding (L-13)."""
    (
        answering()
        .upstream(*message_done("resp_1", "item_a1", "Hello."))
        .to_client(assistant("Hello."))
        .client(types("And?"))
        .to_client(user("And?"))
        .to_upstream("conversation.item.create")
        .acks()
        .passes(3)
        .nothing()
        .upstream(response_done())
        .to_client("AgentAudioDone", "LatencyReport")
        .to_upstream("response.create")
    )


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-124", "C-182")
def test_events_that_mean_nothing_to_a_client(component: bool) -> None:
    of = {"response_id": "resp_1", "item_id": "item_a1", "output_index": 0, "content_index": 0}
    index = {"item_id": "item_m1", "output_index": 1}
    limit = {"name": "tokens", "limit": 100, "remaining": 1, "reset_seconds": 1.5}
    (
        ready(component=component)
        .upstream(
            like("conversation.created", conversation={"id": "conv_1"}),
            like("rate_limits.updated", rate_limits=[limit]),
            like("input_audio_buffer.cleared"),
            like("conversation.item.deleted", item_id="item_1"),
            like("conversation.item.retrieved", item=spoken("item_1", "Secret.")),
            like("conversation.item.truncated", item_id="item_1", content_index=0, audio_end_ms=9),
            like("mcp_list_tools.in_progress", item_id="item_m1"),
            like("mcp_list_tools.completed", item_id="item_m1"),
            like("mcp_list_tools.failed", item_id="item_m1"),
            like("response.mcp_call.in_progress", **index),
            like("response.mcp_call.completed", **index),
            like("response.mcp_call.failed", **index),
            like("output_audio_buffer.started", response_id="resp_0"),
            like("output_audio_buffer.stopped", response_id="resp_0"),
            like("output_audio_buffer.cleared", response_id="resp_0"),
        )
        .nothing()
        .upstream(response_created())
        .to_client("AgentThinking")
        .upstream(
            like("response.content_part.added", **of, part={"type": "audio", "transcript": ""}),
            like("response.content_part.done", **of, part={"type": "audio", "transcript": "Hi."}),
        )
        .nothing()
    )


@pytest.mark.conformance("C-127")
def test_every_response_of_the_servers_own_has_one_agent_thinking() -> None:
    book = ready()
    for n in range(3):
        book.upstream(response_created(f"resp_{n}")).to_client(like("AgentThinking", content=""))
        book.upstream(response_done(f"resp_{n}")).to_client("LatencyReport")
