"""The user speaks while the agent does: what is cut, what is kept, what is told in which order."""

from typing import Any

import pytest

from relay.settings import MappingOptions, TurnOptions
from tests.expected import Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    answering,
    assistant,
    begins,
    calls,
    cancelled,
    committed,
    ends,
    heard,
    history,
    message_added,
    message_done,
    pcm,
    ready,
    reply,
    settings,
    speech,
    speech_started,
    speech_stopped,
    transcribed,
    types,
    user,
    user_item,
    voice,
)

HISTORY = settings(history=True)
OURS = MappingOptions(turns=TurnOptions(interrupt_response=False))
"""The relay cancels, not the server."""


def cut(item: str, ms: int) -> Wire:
    return like("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=ms)


def interrupted(after: float = 0.4, ms: int = 1000, **opening: Any) -> Playbook:
    """Cut after so many seconds of a reply of which `ms` were sent; all that follows is listed."""
    book = answering(ms=ms, **opening).passes(after).upstream(speech_started("item_u2"))
    book.audio_dropped().to_client(assistant("Hello."), "UserStartedSpeaking")
    return book.to_upstream(cut("item_a1", round(after * 1000)))


@pytest.mark.conformance("C-149", "C-151", "C-154", "C-156", "C-157", "C-119")
def test_a_reply_is_cut_where_it_was_heard_and_the_next_begins_afresh() -> None:
    (
        answering(ms=1000)
        .passes(0.4)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
        .to_upstream(cut("item_a1", 400))
        .upstream(voice("resp_1", "item_a1", pcm(500)), heard("resp_1", "item_a1", " More"))
        .upstream(*message_done("resp_1", "item_a1", "Hello. More", status="incomplete"))
        .upstream(cancelled("resp_1"))
        .nothing()
        .upstream(speech_stopped("item_u2"), committed("item_u2"), *user_item("item_u2"))
        .upstream(transcribed("item_u2", "Wait."), *reply("resp_2", "item_a2", "Yes?"))
        .to_client(user("Wait."), "AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .to_client(assistant("Yes?"), "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-149")
def test_late_audio_of_any_item_of_the_interrupted_response_is_dropped() -> None:
    (
        interrupted()
        .upstream(voice("resp_1", "item_a1", pcm(100)))
        .upstream(*message_added("resp_1", "item_a9", 1), voice("resp_1", "item_a9", pcm(100), 1))
        .upstream(cancelled("resp_1"), voice("resp_1", "item_a1", pcm(100)))
        .nothing()
    )


@pytest.mark.conformance("C-222", "C-149")
def test_deltas_of_a_truncated_item_are_dropped_even_without_their_response() -> None:
    """Some servers send audio deltas without the response's id."""
    (
        interrupted()
        .upstream(cancelled("resp_1"))
        .upstream_text({**voice("", "item_a1", b""), "delta": "AAAA", "event_id": "e"})
        .nothing()
    )


@pytest.mark.conformance("C-143", "C-156")
def test_the_partial_text_is_recorded() -> None:
    book = ready(HISTORY).upstream(*speech(), transcribed("item_u1", "Hi."), *begins())
    book.to_client("UserStartedSpeaking", user("Hi."), history("user", "Hi."), "AgentThinking")
    book.upstream(heard("resp_1", "item_a1", " Once upon"), voice("resp_1", "item_a1", pcm(1000)))
    book.to_client("AgentStartedSpeaking").audio_to_client().passes(0.1)
    book.upstream(speech_started("item_u2")).audio_dropped()
    book.to_client(assistant("Once upon"), history("assistant", "Once upon"), "UserStartedSpeaking")
    book.to_upstream(cut("item_a1", 100))


@pytest.mark.conformance("C-156", "C-151")
def test_nothing_heard_gives_no_text_and_is_truncated_to_0() -> None:
    (
        answering(ms=1000)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .to_upstream(cut("item_a1", 0))
        .upstream(cancelled("resp_1"))
        .passes(3)
        .nothing()
    )


@pytest.mark.conformance("C-156")
def test_a_response_without_audio_yet_gives_no_text_and_no_truncate() -> None:
    (
        ready()
        .upstream(*speech(), transcribed("item_u1", "Hi."), *begins())
        .to_client("UserStartedSpeaking", user("Hi."), "AgentThinking")
        .upstream(heard("resp_1", "item_a1", "Hel"), speech_started("item_u2"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .upstream(cancelled("resp_1"))
        .passes(3)
        .nothing()
    )


@pytest.mark.conformance("C-151", "C-130")
def test_audio_that_was_never_written_out_does_not_count_as_heard() -> None:
    """1 s was posted, 700 ms of it are still in the outbox after 0.4 s: 300 ms were sent."""
    (
        answering(ms=1000)
        .passes(0.4)
        .backlog(700)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
        .to_upstream(cut("item_a1", 300))
    )


@pytest.mark.conformance("C-152")
def test_what_was_played_out_is_not_truncated() -> None:
    (
        ready()
        .upstream(*speech(), transcribed("item_u1", "Hi."), *reply(audio=pcm(1000)))
        .to_client("UserStartedSpeaking", user("Hi."), "AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .passes(1.01)
        .upstream(speech_started("item_u2"))
        .to_client("UserStartedSpeaking")
        .nothing()
    )


@pytest.mark.conformance("C-151", "C-152", "C-154")
def test_a_response_that_is_over_is_truncated_while_it_still_plays() -> None:
    (
        ready()
        .upstream(*speech(), transcribed("item_u1", "Hi."), *reply(audio=pcm(1000)))
        .to_client("UserStartedSpeaking", user("Hi."), "AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .passes(0.25)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .to_upstream(cut("item_a1", 250))
        .passes(5)
        .nothing()
    )


@pytest.mark.conformance("C-151", "C-152", "C-155")
def test_each_item_is_measured_from_its_own_start() -> None:
    """1 s each: the first was heard, the second half, the third not at all."""
    book = answering(ms=1000).upstream(*message_done("resp_1", "item_a1", "Hello."))
    book.to_client(assistant("Hello."))
    for n in (2, 3):
        item = f"item_a{n}"
        book.upstream(*message_added("resp_1", item, n - 1), heard("resp_1", item, f"{n}", n - 1))
        book.upstream(voice("resp_1", item, pcm(1000), n - 1)).audio_to_client(pcm(1000))
    book.passes(1.5).upstream(speech_started("item_u2")).audio_dropped()
    book.to_client(assistant("2"), "UserStartedSpeaking")
    book.to_upstream(cut("item_a2", 500), cut("item_a3", 0))


@pytest.mark.conformance("C-155", "C-151")
def test_items_of_two_responses_share_one_play_clock() -> None:
    (
        answering(ms=1000)
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .client(types("And?"))
        .to_client(user("And?"))
        .to_upstream("conversation.item.create")
        .acks()
        .to_upstream("response.create")
        .passes(0.2)
        .begins("resp_2")
        .to_client("AgentThinking")
        .upstream(*message_added("resp_2", "item_a2"), heard("resp_2", "item_a2", "Yes."))
        .upstream(voice("resp_2", "item_a2", pcm(1000)))
        .to_client("AgentStartedSpeaking")
        .audio_to_client()
        .passes(0.4)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .to_upstream(cut("item_a1", 600), cut("item_a2", 0))
    )


@pytest.mark.conformance("C-155")
def test_the_clock_starts_again_after_silence() -> None:
    (
        answering(ms=1000)
        .passes(5)
        .upstream(voice("resp_1", "item_a1", pcm(1000)))
        .audio_to_client()
        .passes(0.3)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
        .to_upstream(cut("item_a1", 1300))
    )


@pytest.mark.conformance("C-151")
def test_a_margin_is_taken_off_what_was_heard() -> None:
    (
        answering(ms=1000, truncate_margin_ms=85.0)
        .passes(0.4)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
        .to_upstream(cut("item_a1", 315))
    )


@pytest.mark.conformance("C-151")
def test_g711_is_measured_by_its_own_rate() -> None:
    given = settings(audio={"output": {"encoding": "mulaw", "sample_rate": 8000}})
    book = ready(given).upstream(*speech(), transcribed("item_u1", "Hi."), *begins())
    book.to_client("UserStartedSpeaking", user("Hi."), "AgentThinking")
    book.upstream(heard("resp_1", "item_a1", "Hello."), voice("resp_1", "item_a1", bytes(8000)))
    book.to_client("AgentStartedSpeaking").audio_to_client(bytes(8000)).passes(0.999)
    book.upstream(speech_started("item_u2")).audio_dropped()
    book.to_client(assistant("Hello."), "UserStartedSpeaking").to_upstream(cut("item_a1", 999))


@pytest.mark.conformance("C-153", "C-179")
def test_a_refused_truncate_stays_here() -> None:
    interrupted().refuses("conversation.item.truncate").passes(3).nothing()


@pytest.mark.conformance("C-150")
def test_the_server_cancels_its_own_response() -> None:
    interrupted().passes(3).nothing()


@pytest.mark.conformance("C-150")
def test_when_the_server_does_not_the_relay_cancels_once() -> None:
    (
        answering(ms=1000, mapping=OURS)
        .passes(0.4)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
        .to_upstream(like("response.cancel", response_id="resp_1"), cut("item_a1", 400))
        .refuses("response.cancel", "response_cancel_not_active")
        .nothing()
    )


@pytest.mark.conformance("C-150")
def test_when_nothing_is_live_nothing_is_cancelled() -> None:
    book = ready(mapping=OURS).upstream(speech_started()).to_client("UserStartedSpeaking")
    book.passes(3).nothing()


@pytest.mark.conformance("C-150", "C-119")
def test_speech_again_while_the_cancelled_response_has_not_ended() -> None:
    (
        interrupted()
        .upstream(speech_stopped("item_u2"), speech_started("item_u3"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .upstream(cancelled("resp_1"))
        .nothing()
    )


@pytest.mark.conformance("C-154", "C-137")
def test_the_component_hears_no_end_of_the_interrupted_response() -> None:
    (
        ready(component=True)
        .upstream(*speech(), transcribed("item_u1", "Hi."), *begins())
        .to_client("UserStartedSpeaking", "UtteranceEnd", user("Hi."), "Transcript")
        .to_client("AgentThinking")
        .upstream(heard("resp_1", "item_a1", "Hello."), voice("resp_1", "item_a1", pcm(1000)))
        .to_client("AgentStartedSpeaking")
        .audio_to_client()
        .passes(0.4)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(assistant("Hello."), "UserStartedSpeaking")
        .to_upstream(cut("item_a1", 400))
        .upstream(*message_done("resp_1", "item_a1", "Hello."), cancelled("resp_1"))
        .passes(3)
        .nothing()
    )


@pytest.mark.conformance("C-204", "C-203", "C-156")
def test_what_is_held_goes_first_then_the_partial_text_then_the_barge_in() -> None:
    (
        ready(HISTORY)
        .upstream(*speech(), *begins(), voice("resp_1", "item_a1", pcm(200)))
        .to_client("UserStartedSpeaking", "AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .upstream(*message_done("resp_1", "item_a1", "One."))
        .upstream(*message_added("resp_1", "item_a2", 1), heard("resp_1", "item_a2", "Tw", 1))
        .upstream(voice("resp_1", "item_a2", pcm(1000), 1))
        .audio_to_client()
        .passes(0.5)
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client(
            assistant("One."),
            history("assistant", "One."),
            assistant("Tw"),
            history("assistant", "Tw"),
            "UserStartedSpeaking",
        )
        .to_upstream(cut("item_a2", 300))
        .upstream(transcribed("item_u1", "Hi."))
        .to_client(user("Hi."), history("user", "Hi."))
    )


@pytest.mark.conformance("C-154", "C-142")
def test_an_interrupted_turn_has_no_latency_report() -> None:
    interrupted().upstream(cancelled("resp_1")).passes(3).nothing()


@pytest.mark.conformance("C-159", "C-154")
def test_calls_of_the_interrupted_response_are_not_announced() -> None:
    (
        interrupted(given=settings(functions=("f",)))
        .upstream(*calls("resp_1", "call_1", index=1, status="incomplete"), cancelled("resp_1"))
        .passes(3)
        .nothing()
    )


@pytest.mark.conformance("C-149")
def test_speech_before_response_created_does_not_silence_the_next_response() -> None:
    """The commit of the first turn may be answered after the second has begun (a late created)."""
    (
        ready()
        .upstream(*speech(), transcribed("item_u1", "Hi."))
        .to_client("UserStartedSpeaking", user("Hi."))
        .upstream(*speech("item_u2"), transcribed("item_u2", "There."))
        .to_client("UserStartedSpeaking", user("There."))
        .upstream(*reply())
        .to_client("AgentThinking", "AgentStartedSpeaking")
        .audio_to_client()
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    )
