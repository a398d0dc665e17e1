"""Turns that do not go by the book: without an answer of their own, or told of too late."""

from typing import Any

import pytest

from relay.session import Session
from relay.settings import MappingOptions
from tests.expected import ABSENT, About, like
from tests.playbook import Playbook
from tests.scenes import (
    MODEL,
    answering,
    assistant,
    begins,
    cancelled,
    committed,
    configuring,
    error,
    message_added,
    opened,
    pcm,
    ready,
    reply,
    response_created,
    response_done,
    says,
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
)

FORCED = {"provider": {"type": "deepgram", "model": "flux-general-en", "eot_threshold": 1.0}}
"""Only ForceEndTurn asks for a response."""
LATER: dict[str, Any] = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}}


def unanswered(*, transcribes: bool = True) -> Playbook:
    """The upstream does not answer turns by itself; another one is ready to take over when the
    user has finished."""
    mapping = MappingOptions() if transcribes else MappingOptions(transcription_model="")
    book = (
        ready(settings(listen=FORCED), mapping=mapping)
        .upstream(speech_started())
        .to_client("UserStartedSpeaking")
    )
    book.client(like("UpdateThink", think=LATER)).dials().upstream_opens(2)
    book.upstream(like("session.created", session={"type": "realtime", "model": "m"}), leg=2)
    return book.to_upstream("session.update", leg=2).updated(leg=2).nothing()


@pytest.mark.conformance("C-185", "C-205")
def test_a_turn_that_the_upstream_leaves_alone_is_over_when_it_is_transcribed() -> None:
    book = unanswered().upstream(speech_stopped(), committed(), leg=1).nothing()
    book.upstream(transcribed("item_u1", "Hi."), leg=1).to_client(user("Hi."), "ThinkUpdated")
    book.hangs_up(1).to_upstream("conversation.item.create", leg=2)


@pytest.mark.conformance("C-185", "C-205")
def test_without_transcription_it_is_over_when_it_is_committed() -> None:
    book = unanswered(transcribes=False).upstream(speech_stopped(), leg=1).nothing()
    book.upstream(committed(), leg=1).to_client("ThinkUpdated").hangs_up(1)


@pytest.mark.conformance("C-206", "C-185")
def test_a_turn_of_which_nothing_comes_is_over_after_a_while() -> None:
    book = unanswered().upstream(speech_stopped(), committed(), leg=1).passes(9.9).nothing()
    book.passes(0.2).hangs_up(1).to_client("ThinkUpdated")


@pytest.mark.conformance("C-121", "C-218")
def test_a_transcription_that_comes_a_hundred_turns_late_is_still_told() -> None:
    book = ready()
    for n in range(100):
        book.upstream(*speech(f"item_u{n}")).to_client("UserStartedSpeaking")
    book.upstream(transcribed("item_u0", "First."), transcribed("item_u99", "Last."))
    book.to_client(user("First."), user("Last."))
    assert isinstance(book.session, Session)
    assert len(book.session.user_items) == 64


@pytest.mark.conformance("C-113", "C-030")
def test_an_empty_frame_before_settings_is_nothing() -> None:
    book = opened(early_audio_bytes=0).client_audio(b"").nothing().client(settings())
    book.formats().dials()
    assert not any(note.event == "held_audio_dropped" for note in book.logged)


@pytest.mark.conformance("C-138", "C-218")
def test_the_assistants_text_waits_for_all_that_the_user_said_before() -> None:
    book = ready().upstream(*speech("item_u1")).to_client("UserStartedSpeaking")
    book.upstream(*speech("item_u2")).to_client("UserStartedSpeaking")
    book.upstream(*reply()).to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
    book.upstream(transcribed("item_u2", "Two.")).to_client(user("Two."))
    book.upstream(transcribed("item_u1", "One."))
    book.to_client(user("One."), assistant("Hello."), "AgentAudioDone", "LatencyReport")


def speaks_again_while_text_is_held(book: Playbook) -> None:
    """The agent has answered what nobody has written down yet, and now what is typed."""
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client().passes(1)
    book.client(types("And?")).to_client(user("And?")).to_upstream("conversation.item.create")
    book.acks().to_upstream("response.create").begins("resp_2").to_client("AgentThinking")
    book.upstream(*message_added("resp_2", "item_a2"), transcript_done("resp_2", "item_a2", "Yes."))
    book.nothing().upstream(voice("resp_2", "item_a2", pcm(100)))


@pytest.mark.conformance("C-136", "C-138")
def test_the_end_of_what_the_agent_said_is_told_before_it_begins_to_speak_again() -> None:
    """Though the text before it is held; what is said now waits for the user's text still."""
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking").upstream(*reply())
    speaks_again_while_text_is_held(book)
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport", "AgentStartedSpeaking")
    book.audio_to_client().passes(0.4).nothing().upstream(transcribed("item_u1", "Hi."))
    book.to_client(user("Hi."), assistant("Yes."))


@pytest.mark.conformance("C-136", "C-139")
def test_nothing_is_held_for_the_time_that_was_left_when_the_agent_spoke_again() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking").upstream(*reply())
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client().passes(1.4)
    book.client(says("Wait.", "queue")).to_upstream("response.create").nothing()
    book.begins("resp_2").upstream(voice("resp_2", "item_a2", pcm(100)))
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport", "AgentStartedSpeaking")
    book.audio_to_client().passes(1.4).nothing().passes(0.2).to_client(assistant("Wait."))


@pytest.mark.conformance("C-138")
def test_a_text_that_is_complete_before_its_voice_begins_is_held_all_the_same() -> None:
    book = ready().upstream(*speech(), *begins()).to_client("UserStartedSpeaking", "AgentThinking")
    book.upstream(
        transcript_done("resp_1", "item_a1", "Hello."), voice("resp_1", "item_a1", pcm(100))
    )
    book.to_client("AgentStartedSpeaking").audio_to_client().passes(1).nothing()
    book.upstream(transcribed("item_u1", "Hi.")).to_client(user("Hi."), assistant("Hello."))


@pytest.mark.conformance("C-105", "C-177")
def test_after_a_held_message_that_is_the_end_the_next_one_is_not_obeyed() -> None:
    """Also of what was sent while the upstream was dialled."""
    exact = settings(think={"provider": {"type": "open_ai", "model": MODEL}, "prompt": "Hi."})
    book = configuring(exact, strict=True).client(says("No.", "shout"), types("Hi.")).updated()
    book.to_client("SettingsApplied", error("UNPARSABLE_CLIENT_MESSAGE")).closes(1000)


@pytest.mark.conformance("C-206", "C-099")
def test_a_user_who_goes_on_after_a_pause_still_speaks_when_the_pause_would_have_ended() -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.upstream(speech_stopped()).passes(1).upstream(speech_started())
    book.to_client("UserStartedSpeaking").passes(15).client(says("Now."))
    book.to_client("InjectionRefused")


@pytest.mark.conformance("C-224", "C-205")
def test_a_commit_that_comes_again_is_no_other_turn() -> None:
    book = ready(settings(listen=FORCED)).upstream(*speech(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi.")).client("ForceEndTurn")
    book.to_upstream("response.create").begins("resp_1").to_client("AgentThinking")
    book.upstream(*reply()[-1:]).to_client(assistant("Hello."), "LatencyReport")
    book.upstream(committed()).client("ForceEndTurn").nothing()


@pytest.mark.conformance("C-123", "C-121")
def test_a_transcript_lasts_no_time_before_its_end_is_known() -> None:
    def transcript(start: float, duration: float, **more: Any) -> Any:
        return like("Transcript", start=start, duration=duration, **more)

    book = ready(component=True).upstream(speech_started(at_ms=1500))
    book.to_client("UserStartedSpeaking").upstream(transcribing("item_u1", "He"))
    book.to_client(transcript(1.5, 0.0)).upstream(speech_stopped(at_ms=2700))
    book.to_client(like("UtteranceEnd", last_word_end=2.7))
    book.upstream(transcribing("item_u1", "y."), transcribed("item_u1", "Hey."))
    book.to_client(transcript(1.5, 1.2, transcript="Hey.", is_final=False))
    book.to_client(user("Hey."), transcript(1.5, 1.2, transcript="Hey.", is_final=True))
    book.upstream(speech_stopped("item_u2", 900)).to_client("UtteranceEnd")
    book.upstream(transcribing("item_u2", "Well")).to_client(transcript(0.0, 0.0))


@pytest.mark.conformance("C-136", "C-138")
def test_the_component_is_told_all_of_an_end_before_the_agent_speaks_again() -> None:
    """And what is said now waits for the user's text for as long as was left."""
    book = ready(component=True).upstream(*speech())
    book.to_client("UserStartedSpeaking", "UtteranceEnd").upstream(*reply())
    speaks_again_while_text_is_held(book)
    book.to_client(assistant("Hello."), "AgentDone", "AgentAudioDone", "LatencyReport")
    book.to_client("AgentStartedSpeaking").audio_to_client().passes(0.4).nothing().passes(0.2)
    book.to_client(assistant("Yes."))


@pytest.mark.conformance("C-136", "C-138")
def test_the_time_that_was_left_for_another_text_does_not_end_the_wait_for_this_one() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking").upstream(*reply())
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client().passes(1.4)
    book.client(types("And?")).to_client(user("And?")).to_upstream("conversation.item.create")
    book.acks().to_upstream("response.create").begins("resp_2").to_client("AgentThinking")
    book.upstream(*message_added("resp_2", "item_a2"), voice("resp_2", "item_a2", pcm(100)))
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport", "AgentStartedSpeaking")
    book.audio_to_client().passes(0.2).upstream(transcript_done("resp_2", "item_a2", "Yes."))
    book.nothing().upstream(transcribed("item_u1", "Hi.")).to_client(user("Hi."), assistant("Yes."))


@pytest.mark.conformance("C-140", "C-138")
def test_a_report_that_is_held_tells_how_long_the_text_has_taken_that_it_waits_for() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking").upstream(*reply())
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client().passes(0.5)
    book.upstream(transcribed("item_u1", "Hi.")).to_client(user("Hi."), assistant("Hello."))
    book.to_client("AgentAudioDone", like("LatencyReport", stt_latency=About(0.5)))


@pytest.mark.conformance("C-140", "C-142")
def test_how_long_another_turn_took_to_write_down_is_in_no_report() -> None:
    """The user began to speak before the answer to something written did."""
    book = ready().client(types("And?")).to_client(user("And?"))
    book.to_upstream("conversation.item.create").acks().to_upstream("response.create")
    book.upstream(speech_started()).to_client("UserStartedSpeaking")
    book.upstream(response_created("resp_own", metadata={"relay": "x", "n": "0"}))
    book.to_client("AgentThinking").upstream(*speech()[1:]).passes(0.5)
    book.upstream(transcribed("item_u1", "Hi.")).to_client(user("Hi."))
    book.upstream(response_done("resp_own"))
    book.to_client(like("LatencyReport", stt_latency=ABSENT))


@pytest.mark.conformance("C-211")
def test_what_was_to_be_said_when_the_user_began_to_speak_is_not_said_afterwards() -> None:
    book = answering().client(says("More.", "queue")).nothing().upstream(speech_started("item_u2"))
    book.to_client("InjectionRefused").audio_dropped().to_client("UserStartedSpeaking")
    book.to_upstream("conversation.item.truncate")
    book.upstream(cancelled(), speech_stopped("item_u2")).passes(10.1).nothing()


@pytest.mark.conformance("C-138")
def test_a_wait_that_is_over_does_not_end_the_next_one() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking").upstream(*reply())
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client().passes(0.5)
    book.upstream(transcribed("item_u1", "Hi.")).to_client(user("Hi."), assistant("Hello."))
    book.to_client("AgentAudioDone", "LatencyReport").upstream(*speech("item_u2"))
    book.to_client("UserStartedSpeaking").upstream(*begins("resp_2", "item_a2"))
    book.to_client("AgentThinking").passes(1.1)
    book.upstream(transcript_done("resp_2", "item_a2", "Yes.")).nothing()
    book.upstream(transcribed("item_u2", "And?")).to_client(user("And?"), assistant("Yes."))


@pytest.mark.conformance("C-205", "C-118")
def test_each_turn_that_the_client_ends_is_answered() -> None:
    book = ready(settings(listen=FORCED))
    for n in (1, 2, 3):
        book.upstream(*speech(f"item_u{n}"), transcribed(f"item_u{n}", "Hi."))
        book.to_client("UserStartedSpeaking", user("Hi.")).client("ForceEndTurn")
        book.to_upstream("response.create").begins(f"resp_{n}").to_client("AgentThinking")
        book.upstream(response_done(f"resp_{n}")).to_client("LatencyReport")


@pytest.mark.conformance("C-204")
def test_a_question_that_was_asked_for_is_answered_with_the_turn_that_comes_over_it() -> None:
    book = ready().client(types("Hi.")).to_client(user("Hi."))
    book.to_upstream("conversation.item.create").acks().to_upstream("response.create")
    book.upstream(speech_started()).to_client("UserStartedSpeaking")
    book.begins("resp_1").to_upstream("response.cancel")


@pytest.mark.conformance("C-101")
def test_what_interrupts_is_said_though_the_user_speaks() -> None:
    book = ready().client(says("Stop.", "interrupt")).to_upstream("response.create")
    book.upstream(speech_started()).to_client("UserStartedSpeaking").begins("resp_1")
    book.upstream(voice("resp_1", "item_a1", pcm(100)))
    book.to_client(assistant("Stop."), "AgentStartedSpeaking").audio_to_client()


@pytest.mark.conformance("C-151")
def test_what_was_not_written_out_was_not_heard_though_its_time_is_over() -> None:
    book = answering(ms=1000).passes(1).backlog(500).upstream(speech_started("item_u2"))
    book.audio_dropped().to_client(assistant("Hello."), "UserStartedSpeaking")
    book.to_upstream("conversation.item.truncate")


@pytest.mark.conformance("C-204")
def test_an_end_of_speech_that_comes_late_is_not_that_of_the_turn_under_way() -> None:
    book = ready().upstream(speech_started(), speech_started("item_u2"))
    book.to_client("UserStartedSpeaking", "UserStartedSpeaking")
    book.upstream(speech_stopped("item_u1")).client(says("Now.")).to_client("InjectionRefused")


def test_a_response_that_was_cut_is_not_slow() -> None:
    book = ready(slow_think_s=5.0).upstream(*speech(), response_created())
    book.to_client("UserStartedSpeaking", "AgentThinking").upstream(speech_started("item_u2"))
    book.audio_dropped().to_client("UserStartedSpeaking").passes(6).nothing()
