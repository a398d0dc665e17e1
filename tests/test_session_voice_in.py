"""What the user says: audio in, turns as the upstream finds them, transcripts, ForceEndTurn."""

import math
from typing import Any

import pytest

from relay.settings import MappingOptions, Passthrough, TurnOptions
from tests.expected import About, Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    TRANSCRIPTION,
    answering,
    assistant,
    cancelled,
    committed,
    configuring,
    error,
    history,
    pcm,
    ready,
    reply,
    response_created,
    response_done,
    settings,
    speech,
    speech_started,
    speech_stopped,
    transcribed,
    transcribing,
    types,
    untranscribed,
    user,
    user_item,
    warning,
)

END_TURN = "ForceEndTurn"
COMMIT = "input_audio_buffer.commit"

PATIENT = settings(
    listen={"provider": {"type": "deepgram", "model": "flux-general-en", "eot_threshold": 1.0}}
)
"""Only ForceEndTurn has the agent answer."""


def manual(**opening: Any) -> Playbook:
    """Ready, without turn detection."""
    return ready(mapping=MappingOptions(turns=TurnOptions(kind="off")), **opening)


def listening(**opening: Any) -> Playbook:
    """The user has begun to speak."""
    return ready(**opening).upstream(speech_started()).to_client("UserStartedSpeaking")


# Audio.


@pytest.mark.conformance("C-107", "C-108", "C-130")
def test_audio_goes_upstream_bit_for_bit_and_at_once() -> None:
    chunks = [pcm(20, value) for value in (-32768, -1, 0, 1, 32767)]
    book = ready()
    for chunk in chunks:
        book.client_audio(chunk).audio_to_upstream(chunk)


@pytest.mark.conformance("C-107")
def test_small_frames_are_gathered_and_wait_no_longer_than_100_ms() -> None:
    book = ready().client_audio(*[pcm(5, value) for value in (1, 2, 3)]).passes(0.09).nothing()
    book.passes(0.011).audio_to_upstream(pcm(5, 1) + pcm(5, 2) + pcm(5, 3))
    book.passes(1).nothing()
    book.client_audio(*[pcm(5, value) for value in (1, 2, 3, 4)])
    book.audio_to_upstream(b"".join(pcm(5, value) for value in (1, 2, 3, 4)))


@pytest.mark.conformance("C-107")
def test_gathered_audio_keeps_its_place_before_a_large_frame() -> None:
    book = ready().client_audio(pcm(5, 1), pcm(500, 2))
    book.audio_to_upstream(pcm(5, 1) + pcm(500, 2))
    book.passes(1).nothing()


@pytest.mark.conformance("C-113")
def test_empty_frames_are_ignored() -> None:
    ready().client_audio(b"", b"").passes(1).nothing()
    configuring().client_audio(b"").updated().to_client("SettingsApplied").passes(1).nothing()


@pytest.mark.conformance("C-114")
def test_a_frame_above_a_mebibyte_ends_the_session() -> None:
    code = "UNPARSABLE_CLIENT_MESSAGE"
    ready().client_too_big(2**20 + 1).to_client(error(code)).closes(1000, code)
    ready(component=True).client_too_big(2**20 + 1).to_client(error(code)).closes(1000, code)


@pytest.mark.conformance("C-266", "C-114")
def test_a_burst_of_one_and_a_half_megabytes_arrives_complete_and_in_order() -> None:
    frames = [pcm(1000 * 8192 / 48000, n % 30000) for n in range(1_500_000 // 8192)]
    ready().client_audio(*frames).audio_to_upstream(b"".join(frames))


@pytest.mark.conformance("C-237")
def test_in_a_text_session_audio_is_appended_as_usual() -> None:
    book = ready(settings(think={"outputModalities": ["text"]}))
    book.client_audio(pcm(100)).audio_to_upstream(pcm(100))


# Turns.


@pytest.mark.conformance("C-115", "C-119")
def test_a_voice_turn_needs_neither_commit_nor_request_of_ours() -> None:
    (
        ready()
        .client_audio(pcm(500))
        .audio_to_upstream(pcm(500))
        .upstream(*speech())
        .to_client("UserStartedSpeaking")
        .upstream(response_created("resp_1"))
        .to_client("AgentThinking")
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-115")
def test_a_turn_that_gets_no_response_is_not_asked_for() -> None:
    listening().upstream(speech_stopped(), committed(), *user_item()).passes(30).nothing()


@pytest.mark.conformance("C-119")
def test_every_speech_started_gives_one_user_started_speaking() -> None:
    book = ready()
    for n in range(3):
        book.upstream(*speech(f"item_u{n}")).to_client("UserStartedSpeaking")


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-120", "C-124")
def test_speech_stopped_is_an_utterance_end_for_the_component_only(component: bool) -> None:
    book = listening(component=component).upstream(speech_stopped(at_ms=1234))
    if component:
        book.to_client(like("UtteranceEnd", channel=[0, 1], last_word_end=1.234))


@pytest.mark.conformance("C-121", "C-138")
def test_a_transcript_becomes_the_users_text_trimmed() -> None:
    (
        ready()
        .upstream(*speech())
        .to_client("UserStartedSpeaking")
        .upstream(transcribed("item_u1", " Hi there.\n"))
        .to_client(user("Hi there."))
    )


@pytest.mark.parametrize("text", ["", "  ", "\n"])
@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-121")
def test_an_empty_transcript_gives_no_text(text: str, component: bool) -> None:
    book = ready(component=component).upstream(speech_started(), committed(), *user_item())
    book.to_client("UserStartedSpeaking").upstream(transcribed("item_u1", text)).passes(20)


@pytest.mark.conformance("C-122", "C-143")
def test_the_component_hears_the_final_transcript_right_behind_it() -> None:
    (
        ready(settings(history=True), component=True)
        .upstream(speech_started(at_ms=500), speech_stopped(at_ms=1750), committed(), *user_item())
        .to_client("UserStartedSpeaking", "UtteranceEnd")
        .upstream(transcribed("item_u1", " Hi. "))
        .to_client(
            user("Hi."),
            like(
                "Transcript",
                transcript="Hi.",
                is_final=True,
                speech_final=True,
                channel=0,
                channel_index=[0],
                start=0.5,
                duration=1.25,
                alternatives=[{"transcript": "Hi.", "confidence": 1, "words": []}],
            ),
            history("user", "Hi."),
        )
    )


@pytest.mark.conformance("C-122")
def test_without_speech_events_the_duration_is_0() -> None:
    book = ready(component=True).upstream(committed(), *user_item(), transcribed("item_u1", "Hi."))
    book.to_client(user("Hi."), like("Transcript", start=0, duration=0))


@pytest.mark.conformance("C-122")
def test_the_confidence_is_made_of_log_probabilities() -> None:
    chances = [
        {"token": "Hi", "bytes": [72, 105], "logprob": -0.1},
        {"token": ".", "bytes": [46], "logprob": -0.3},
    ]
    book = ready(component=True, mapping=MappingOptions(passthrough=Passthrough(logprobs=True)))
    book.upstream(committed(), *user_item())
    book.upstream({**transcribed("item_u1", "Hi."), "logprobs": chances})
    heard = {"transcript": "Hi.", "confidence": About(math.exp(-0.2)), "words": []}
    book.to_client(user("Hi."), like("Transcript", alternatives=[heard]))


@pytest.mark.conformance("C-143")
def test_deepgram_hears_the_history_right_behind_the_text() -> None:
    (
        ready(settings(history=True))
        .upstream(*speech(), transcribed("item_u1", "Hi."))
        .to_client("UserStartedSpeaking", user("Hi."), history("user", "Hi."))
    )


def interim(text: str) -> Wire:
    return like("Transcript", transcript=text, is_final=False, speech_final=False)


@pytest.mark.conformance("C-123", "C-219")
def test_the_component_hears_interim_transcripts_that_accumulate() -> None:
    unnamed = like(f"{TRANSCRIPTION}.delta", item_id="item_u1", delta="!")
    (
        ready(component=True)
        .upstream(*speech())
        .to_client("UserStartedSpeaking", "UtteranceEnd")
        .upstream(transcribing("item_u1", "Hi"), transcribing("item_u1", " there"))
        .to_client(interim("Hi"), interim("Hi there"))
        .upstream(unnamed)
        .to_client(interim("Hi there!"))
        .upstream(transcribing("item_u2", "Other"))
        .to_client(interim("Other"))
        .upstream(transcribed("item_u1", "Hi there!"))
        .to_client(user("Hi there!"), like("Transcript", is_final=True))
    )


@pytest.mark.conformance("C-219")
def test_a_transcription_delta_without_text_breaks_nothing() -> None:
    """Whether the component hears the same text again is nobody's concern."""
    book = ready(component=True).upstream(*speech(), transcribing("item_u1", "Hi"))
    book.to_client("UserStartedSpeaking", "UtteranceEnd", interim("Hi"))
    book.upstream(like(f"{TRANSCRIPTION}.delta", item_id="item_u1"))
    if book.unlisted:
        book.to_client(interim("Hi"))
    book.upstream(transcribing("item_u1", "!")).to_client(interim("Hi!"))


@pytest.mark.parametrize(
    "over", [transcribed("item_u1", ""), untranscribed("item_u1")], ids=["completed", "failed"]
)
@pytest.mark.conformance("C-123")
def test_an_interim_transcript_begins_anew_after_it_was_completed(over: Wire) -> None:
    (
        ready(component=True)
        .upstream(*speech(), transcribing("item_u1", "Hi"), over)
        .to_client("UserStartedSpeaking", "UtteranceEnd", interim("Hi"))
        .upstream(transcribing("item_u1", "New"))
        .to_client(interim("New"))
    )


@pytest.mark.conformance("C-124")
def test_deepgram_hears_no_interim_transcripts() -> None:
    (
        ready()
        .upstream(*speech(), transcribing("item_u1", "Hi"), transcribed("item_u1", "Hi"))
        .to_client("UserStartedSpeaking", user("Hi"))
    )


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-125", "C-178")
def test_a_failed_transcription_is_no_error(component: bool) -> None:
    book = ready(component=component).upstream(speech_started(), committed(), *user_item())
    book.to_client("UserStartedSpeaking").upstream(untranscribed("item_u1")).passes(1).nothing()


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-126", "C-238")
def test_an_idle_timeout_gives_no_user_text_and_a_response_like_any_other(component: bool) -> None:
    timeout = like(
        "input_audio_buffer.timeout_triggered", item_id="item_u1", audio_start_ms=0, audio_end_ms=9
    )
    done = ["AgentDone"] if component else []
    (
        ready(settings(history=True), component=component)
        .upstream(timeout, committed(), *user_item(), transcribed("item_u1", "you"))
        .nothing()
        .upstream(*reply())
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .to_client(assistant("Hello."), history("assistant", "Hello."), *done)
        .to_client("AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-207")
def test_a_speech_stopped_after_the_commit_does_not_change_the_turn() -> None:
    """Otherwise the typed message would wait for an answer to a turn that was answered."""
    (
        listening()
        .upstream(committed(), *user_item(), response_created("resp_1"))
        .to_client("AgentThinking")
        .upstream(speech_stopped(), response_done("resp_1"))
        .to_client("LatencyReport")
        .upstream(speech_stopped())
        .client(types("And?"))
        .to_client(user("And?"))
        .to_upstream("conversation.item.create")
        .acks()
        .to_upstream("response.create")
    )


# ForceEndTurn.


@pytest.mark.conformance("C-117", "C-115")
def test_force_end_turn_commits_once_and_asks_for_one_response() -> None:
    (
        listening()
        .client(END_TURN)
        .to_upstream(COMMIT)
        .nothing()
        .upstream(committed(), *user_item())
        .to_upstream("response.create")
        .begins("resp_1")
        .to_client("AgentThinking")
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-117")
def test_force_end_turn_twice_commits_once() -> None:
    (
        listening()
        .client(END_TURN, END_TURN)
        .to_upstream(COMMIT)
        .upstream(committed(), *user_item())
        .to_upstream("response.create")
        .begins("resp_1")
        .to_client("AgentThinking")
        .client(END_TURN)
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-117")
def test_a_response_that_the_server_made_for_the_item_satisfies_the_request() -> None:
    (
        listening()
        .client(END_TURN)
        .to_upstream(COMMIT)
        .upstream(committed(), *user_item())
        .to_upstream("response.create")
        .upstream(response_created("resp_1"))
        .to_client("AgentThinking")
        .refuses("response.create", "conversation_already_has_active_response")
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-117")
def test_audio_still_gathered_goes_before_the_commit() -> None:
    listening().client_audio(pcm(5)).client(END_TURN).audio_to_upstream(pcm(5)).to_upstream(COMMIT)


@pytest.mark.conformance("C-117", "C-179")
def test_a_commit_of_nothing_is_swallowed_and_withdraws_the_request() -> None:
    (
        listening()
        .client(END_TURN)
        .to_upstream(COMMIT)
        .refuses(COMMIT, "input_audio_buffer_commit_empty")
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-118")
def test_force_end_turn_without_a_turn_is_ignored() -> None:
    ready().client(END_TURN).passes(1).nothing()
    (
        ready()
        .upstream(*speech(), *reply())
        .to_client("UserStartedSpeaking", "AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."), assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .client(END_TURN)
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-118")
def test_strict_force_end_turn_needs_flux() -> None:
    unsupported = warning("FORCE_END_TURN_UNSUPPORTED")
    listening(force_end_turn_strict=True).client(END_TURN).to_client(unsupported)
    flux = settings(listen={"provider": {"type": "deepgram", "model": "flux-general-en"}})
    book = ready(flux, force_end_turn_strict=True).upstream(speech_started())
    book.to_client("UserStartedSpeaking").client(END_TURN).to_upstream(COMMIT)


@pytest.mark.conformance("C-205")
def test_eot_1_commits_cause_no_response() -> None:
    book = configuring(PATIENT)
    detection = book.last("session.update")["session"]["audio"]["input"]["turn_detection"]
    assert detection["create_response"] is False
    (
        book.updated()
        .to_client("SettingsApplied")
        .upstream(*speech("item_u1"), *speech("item_u2"))
        .to_client("UserStartedSpeaking", "UserStartedSpeaking")
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-205")
def test_eot_1_force_end_turn_asks_once_for_all_that_was_said() -> None:
    (
        ready(PATIENT)
        .upstream(*speech("item_u1"), *speech("item_u2"))
        .to_client("UserStartedSpeaking", "UserStartedSpeaking")
        .client(END_TURN)
        .to_upstream("response.create")
        .client(END_TURN)
        .begins("resp_1")
        .to_client("AgentThinking")
        .client(END_TURN)
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .client(END_TURN)
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-205")
def test_eot_1_force_end_turn_in_mid_speech_commits_first() -> None:
    (
        ready(PATIENT)
        .upstream(*speech("item_u1"), speech_started("item_u2"))
        .to_client("UserStartedSpeaking", "UserStartedSpeaking")
        .client(END_TURN)
        .to_upstream(COMMIT)
        .upstream(committed("item_u2"), *user_item("item_u2"))
        .to_upstream("response.create")
    )


# Manual mode.


@pytest.mark.conformance("C-116", "C-117")
def test_manual_force_end_turn_commits_what_was_said() -> None:
    (
        manual()
        .client_audio(pcm(100))
        .audio_to_upstream(pcm(100))
        .passes(5)
        .nothing()
        .client(END_TURN)
        .to_upstream(COMMIT)
        .upstream(committed(), *user_item())
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-116")
def test_manual_without_audio_force_end_turn_is_ignored() -> None:
    manual().client(END_TURN).passes(30).nothing()


@pytest.mark.conformance("C-116")
def test_manual_less_than_100_ms_is_never_committed_as_it_is() -> None:
    """It is padded with silence to 100 ms, or cleared."""
    book = manual().client_audio(pcm(60)).audio_to_upstream(pcm(60)).client(END_TURN)
    if book.sent[1][-1]["type"] == COMMIT:
        book.audio_to_upstream(bytes(len(pcm(40)))).to_upstream(COMMIT)
    else:
        book.to_upstream("input_audio_buffer.clear")


@pytest.mark.conformance("C-116")
def test_manual_the_100_ms_count_from_the_last_commit() -> None:
    (
        manual()
        .client_audio(pcm(500))
        .audio_to_upstream()
        .client(END_TURN)
        .to_upstream(COMMIT)
        .upstream(committed(), *user_item())
        .to_upstream("response.create")
        .begins("resp_1")
        .to_client("AgentThinking")
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .client(END_TURN)
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-116")
def test_manual_g711_counts_in_its_own_bytes() -> None:
    given = settings(audio={"input": {"encoding": "mulaw", "sample_rate": 8000}})
    book = ready(given, mapping=MappingOptions(turns=TurnOptions(kind="off")))
    book.client_audio(bytes(800)).audio_to_upstream(bytes(800)).client(END_TURN)
    book.to_upstream(COMMIT)


@pytest.mark.conformance("C-116")
def test_manual_g711_is_padded_by_one_byte_where_one_is_missing() -> None:
    given = settings(audio={"input": {"encoding": "mulaw", "sample_rate": 8000}})
    book = ready(given, mapping=MappingOptions(turns=TurnOptions(kind="off")))
    book.client_audio(bytes(799)).audio_to_upstream(bytes(799)).client(END_TURN)
    book.audio_to_upstream(b"\xff").to_upstream(COMMIT)


# The server does not cut its own responses.


@pytest.mark.conformance("C-223", "C-150", "C-115")
def test_after_our_own_cancel_a_missing_response_is_asked_for() -> None:
    mapping = MappingOptions(turns=TurnOptions(interrupt_response=False))
    (
        answering(ms=1000, mapping=mapping)
        .passes(0.5)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
        .to_upstream(
            like("response.cancel", response_id="resp_1"),
            like("conversation.item.truncate", item_id="item_a1"),
        )
        .upstream(cancelled("resp_1", "client_cancelled"))
        .upstream(speech_stopped("item_u2"), committed("item_u2"), *user_item("item_u2"))
        .passes(0.9)
        .nothing()
        .passes(0.2)
        .to_upstream("response.create")
        .begins("resp_2")
        .to_client("AgentThinking")
        .upstream(response_done("resp_2"))
        .to_client("LatencyReport")
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-223", "C-150")
def test_after_our_own_cancel_a_response_that_comes_is_enough() -> None:
    mapping = MappingOptions(turns=TurnOptions(interrupt_response=False))
    (
        answering(ms=1000, mapping=mapping)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .to_upstream("response.cancel", "conversation.item.truncate")
        .upstream(cancelled("resp_1", "client_cancelled"))
        .upstream(speech_stopped("item_u2"), committed("item_u2"), *user_item("item_u2"))
        .passes(0.5)
        .upstream(response_created("resp_2"))
        .to_client("AgentThinking")
        .upstream(response_done("resp_2"))
        .to_client("LatencyReport")
        .passes(30)
        .nothing()
    )
