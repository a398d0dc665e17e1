"""A response's output to the letter: the short way of audio, items by name and by place, the end
that is inferred, and the times that are reported."""

from typing import Any

import msgspec
import pytest

from relay import realtime
from tests.expected import ABSENT, About, Captured, Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    answer,
    answering,
    assistant,
    begins,
    calls,
    cancelled,
    committed,
    configuring,
    created,
    heard,
    item_done,
    message_added,
    message_done,
    pcm,
    ready,
    reply,
    request,
    response_created,
    response_done,
    says,
    settings,
    speech,
    speech_started,
    speech_stopped,
    spoken,
    transcribed,
    transcript_done,
    types,
    user,
    user_item,
    voice,
    warning,
)

FUNCTIONS = settings(functions=("f",))
ITEM = "conversation.item.create"


def begun(**opening: Any) -> Playbook:
    """The upstream answers what the user has said."""
    book = ready(**opening).upstream(*speech(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi.")).upstream(response_created())
    return book.to_client("AgentThinking")


def delta(wire: Wire) -> realtime.ResponseOutputAudioDelta:
    event = realtime.decode_server(msgspec.json.encode({"event_id": "e", **wire}))
    assert isinstance(event, realtime.ResponseOutputAudioDelta)
    return event


# The short way of audio --------------------------------------------------------------------------


def test_audio_that_goes_on_takes_the_short_way() -> None:
    book = answering()
    audio = delta(voice("resp_1", "item_a1", pcm(20)))
    assert book.session.upstream_audio(1, audio, book.clock) == pcm(20)


@pytest.mark.parametrize(
    ("leg", "wire"),
    [
        (2, voice("resp_1", "item_a1", pcm(20))),
        (1, voice("resp_2", "item_a1", pcm(20))),
        (1, voice("resp_1", "item_a2", pcm(20))),
        (1, voice("resp_1", "item_a1", b"")),
        (1, voice("resp_1", "item_a1", b"\1")),
    ],
)
def test_other_audio_does_not(leg: int, wire: Wire) -> None:
    book = answering()
    assert book.session.upstream_audio(leg, delta(wire), book.clock) is None


def interrupted() -> Playbook:
    book = answering().upstream(speech_started("item_u2"))
    book.unlisted = []
    return book


def half_a_sample() -> Playbook:
    return answering().upstream(voice("resp_1", "item_a1", b"\1"))


def inferring() -> Playbook:
    return answering(ends_responses=False)


@pytest.mark.parametrize("scene", [begun, interrupted, half_a_sample, inferring])
def test_nor_does_audio_at_another_moment(scene: Any) -> None:
    book = scene()
    audio = delta(voice("resp_1", "item_a1", pcm(20)))
    assert book.session.upstream_audio(1, audio, book.clock) is None


@pytest.mark.conformance("C-227")
def test_audio_that_can_be_read_ends_a_row_of_what_cannot() -> None:
    bad = {**voice("resp_1", "item_a1", b""), "delta": "=", "event_id": "e"}
    book = answering().upstream_text(bad, bad).upstream(voice("resp_1", "item_a1", pcm(20)))
    book.audio_to_client(pcm(20)).upstream_text(bad, bad).nothing()


@pytest.mark.conformance("C-151")
def test_the_truncated_part_is_the_one_that_had_the_audio() -> None:
    book = begun().upstream(*message_added("resp_1", "item_a1"))
    for _ in range(2):
        book.upstream({**voice("resp_1", "item_a1", pcm(500)), "content_index": 1})
        book.unlisted = []
    book.passes(0.5).upstream(speech_started("item_u2")).audio_dropped()
    book.to_client("UserStartedSpeaking")
    book.to_upstream(like("conversation.item.truncate", content_index=1, audio_end_ms=500))


def test_the_mouth_is_told_when_an_items_audio_ends() -> None:
    book = answering().upstream(message_done("resp_1", "item_a1", "Hello.")[0])
    assert [line.text for line in book.lines[-1:]] == ["(audio ends)"]


# Items by name and by place ----------------------------------------------------------------------


def inexact(book: Playbook) -> list[Any]:
    return [note.fields["way"] for note in book.logged if note.event == "inexact_upstream"]


@pytest.mark.conformance("C-230")
def test_an_upstream_that_keeps_to_the_api_is_not_called_inexact() -> None:
    book = begun().upstream(*reply()[1:])
    book.unlisted = []
    silent = begun().upstream(*item_done("resp_1", spoken("item_a1", "Hello.")))
    silent.to_client(assistant("Hello."))
    assert inexact(book) == inexact(silent) == []


def unnamed(wire: Wire) -> Wire:
    return {**wire, "item_id": ""}


@pytest.mark.conformance("C-230", "C-220")
def test_items_without_names_are_told_apart_by_their_place() -> None:
    book = begun()
    for index, item in ((0, "item_a1"), (1, "item_a2")):
        book.upstream(*message_added("resp_1", item, index))
    for index, words in ((1, "Two."), (0, "One.")):
        book.upstream_text(unnamed({**heard("resp_1", "", words, index), "event_id": "e"}))
    for index, words in ((1, "Two."), (0, "One.")):
        done = {**transcript_done("resp_1", "", words, index), "event_id": "e"}
        book.upstream_text(unnamed(done))
    book.to_client(assistant("One."), assistant("Two."))


@pytest.mark.conformance("C-220", "C-230")
def test_texts_of_items_that_were_not_announced_come_in_their_place() -> None:
    book = begun().upstream(heard("resp_1", "item_a", "Two.", 1), heard("resp_1", "item_b", "One."))
    book.upstream(response_done())
    book.to_client(assistant("One."), assistant("Two."), "LatencyReport")


@pytest.mark.conformance("C-134", "C-220")
def test_a_text_that_comes_at_the_very_end_comes_last() -> None:
    book = begun().upstream(heard("resp_1", "item_b", "One."))
    book.upstream(response_done(output=[spoken("item_a", "Two.")]))
    book.to_client(assistant("One."), assistant("Two."), "LatencyReport")


# The end that is inferred ------------------------------------------------------------------------


@pytest.mark.conformance("C-230")
def test_an_announced_item_is_done_when_the_upstream_says_so() -> None:
    book = begun(ends_responses=False).upstream(*message_added("resp_1", "item_a1"))
    whole = message_done("resp_1", "item_a1", "Hello.")
    book.upstream(*whole[:3]).to_client(assistant("Hello.")).passes(3).nothing()
    book.upstream(*whole[3:]).passes(0.24).nothing().passes(0.02).to_client("LatencyReport")


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.conformance("C-230")
def test_another_item_is_done_with_its_text_or_audio(last: int) -> None:
    book = begun(ends_responses=False)
    book.upstream(message_done("resp_1", "item_a1", "Hello.")[last])
    book.unlisted = []
    book.passes(0.24).nothing().passes(0.02).to_client("LatencyReport")


@pytest.mark.parametrize(
    "more",
    [
        heard("resp_1", "item_a2", "And", 1),
        voice("resp_1", "item_a2", pcm(20), 1),
        message_added("resp_1", "item_a2", 1)[0],
    ],
    ids=lambda wire: str(wire["type"]),
)
@pytest.mark.conformance("C-230")
def test_whatever_comes_in_time_puts_the_end_off(more: Wire) -> None:
    book = begun(ends_responses=False).upstream(transcript_done("resp_1", "item_a1", "Hello."))
    book.to_client(assistant("Hello.")).passes(0.2).upstream(more)
    book.unlisted = []
    book.passes(3).nothing()


# What is reported --------------------------------------------------------------------------------


@pytest.mark.conformance("C-141", "C-142")
def test_the_latencies_are_those_of_the_first_of_each() -> None:
    book = ready(slow_think_s=0.0).upstream(*speech(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi.")).upstream(*begins())
    book.to_client("AgentThinking").passes(0.25)
    for words in ("Hel", "lo."):
        book.upstream(heard("resp_1", "item_a1", words)).passes(0.25)
    book.upstream(voice("resp_1", "item_a1", pcm(100))).to_client(
        like("AgentStartedSpeaking", total_latency=0.75, ttt_latency=0.25, tts_latency=0.5)
    )
    book.audio_to_client().passes(0.25).upstream(voice("resp_1", "item_a1", pcm(100)))
    book.audio_to_client().upstream(*message_done("resp_1", "item_a1", "Hello."), response_done())
    book.to_client(assistant("Hello."), "AgentAudioDone")
    measured = {"ttt_token_latency": 0.25, "ttt_text_latency": 0.25, "tts_latency": 0.5}
    report = {**measured, "total_latency": 0.75, "ttt_tool_latency": ABSENT}
    book.to_client(like("LatencyReport", **report))


# What the upstream is asked for ------------------------------------------------------------------


@pytest.mark.conformance("C-102")
def test_a_recital_is_asked_for_in_these_words() -> None:
    words = (
        "Say exactly the text between the quotation marks, word for word, in its own language,"
        ' and nothing else: "Hello."'
    )
    book = ready().client(says("Hello."))
    book.to_upstream(like("response.create", response={"instructions": words}))


@pytest.mark.conformance("C-245")
def test_without_instructions_an_answer_goes_on_with_none_before() -> None:
    words = Captured()
    book = ready(settings(think={"prompt": None})).upstream(*begins())
    book.to_client("AgentThinking").upstream(heard("resp_1", "item_a1", "Hello."))
    book.upstream(voice("resp_1", "item_a1", pcm(100))).to_client("AgentStartedSpeaking")
    book.audio_to_client().upstream_gone()
    book.unlisted = []
    book.upstream_opens().upstream(created()).to_upstream("session.update").updated()
    book.to_upstream(ITEM, like("response.create", response={"instructions": words}))
    assert words.value.startswith("A technical fault")


# Rounds and acknowledgements ---------------------------------------------------------------------


@pytest.mark.conformance("C-173")
def test_the_open_calls_of_a_failed_response_are_void() -> None:
    book = ready(FUNCTIONS).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).to_client(request("call_1"))
    book.upstream(response_done(status="failed", code="x"))
    book.to_client(warning("THINK_REQUEST_FAILED"), "FunctionCallCancelled").to_upstream(ITEM)


@pytest.mark.parametrize("acknowledged", [True, False])
@pytest.mark.conformance("C-165")
def test_a_turns_answer_uses_a_round_whose_results_had_arrived(acknowledged: bool) -> None:
    book = ready(FUNCTIONS).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).to_client(request("call_1"))
    book.client(answer("call_1")).to_upstream(ITEM)
    if acknowledged:
        book.acks()
    book.upstream(speech_started()).audio_dropped().to_client("UserStartedSpeaking")
    book.upstream(cancelled(), speech_stopped(), committed(), *user_item())
    book.upstream(transcribed("item_u1", "Hi.")).to_client(user("Hi."))
    book.upstream(response_created("resp_2")).to_client("AgentThinking")
    book.upstream(response_done("resp_2")).to_client("LatencyReport")
    if not acknowledged:
        book.to_upstream("response.create")


@pytest.mark.conformance("C-089", "C-090")
def test_one_items_acknowledgement_is_not_anothers() -> None:
    book = ready()
    for text in ("One?", "Two?"):
        book.client(types(text)).to_client(user(text)).to_upstream(ITEM)
    book.acks(1).to_upstream("response.create").begins("resp_1").to_client("AgentThinking")
    book.upstream(response_done()).to_client("LatencyReport").passes(9.9).nothing()
    book.passes(0.2).to_upstream("response.create")


@pytest.mark.conformance("C-246", "C-103")
def test_of_a_recital_that_was_cut_the_next_upstream_is_told_what_was_heard() -> None:
    book = configuring(settings(greeting="One two three four.")).updated()
    book.to_client("SettingsApplied").to_upstream("response.create").begins("resp_1")
    book.upstream(*message_added("resp_1", "item_a1"), voice("resp_1", "item_a1", pcm(1000)))
    book.unlisted = []
    book.passes(0.52).upstream(speech_started())
    book.unlisted = []
    book.upstream(cancelled(), speech_stopped()).passes(10.1).upstream_gone()
    book.unlisted = []
    book.upstream_opens().upstream(created()).to_upstream("session.update").updated()
    content = [{"type": "output_text", "text": "One two"}]
    book.to_upstream(like(ITEM, item={"role": "assistant", "content": content}))


@pytest.mark.conformance("C-140")
def test_a_recital_is_measured_from_when_it_is_asked_for() -> None:
    book = configuring(settings(greeting="Hi.")).passes(2).updated().to_client("SettingsApplied")
    book.to_upstream("response.create").passes(0.5).begins("resp_1").passes(0.5)
    book.upstream(voice("resp_1", "item_a1", pcm(100))).to_client(assistant("Hi."))
    book.to_client(like("AgentStartedSpeaking", total_latency=About(1.0))).audio_to_client()


@pytest.mark.conformance("C-142")
def test_the_transcriptions_time_is_reported_with_the_turn_that_was_spoken() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking").passes(0.5)
    book.upstream(transcribed("item_u1", "Hi.")).to_client(user("Hi."))
    book.upstream(response_created()).to_client("AgentThinking").upstream(response_done())
    book.to_client(like("LatencyReport", stt_latency=0.5)).client(types("And?"))
    book.to_client(user("And?")).to_upstream(ITEM).acks().to_upstream("response.create")
    book.begins("resp_2").to_client("AgentThinking").upstream(response_done("resp_2"))
    book.to_client(like("LatencyReport", stt_latency=ABSENT))


@pytest.mark.conformance("C-230")
def test_the_end_is_inferred_only_of_an_upstream_that_has_never_begun_a_response() -> None:
    whole = message_done("resp_x", "item_x", "Hello.")
    book = begun().upstream(response_done()).to_client("LatencyReport")
    book.upstream(*whole).to_client("AgentThinking", assistant("Hello.")).passes(3).nothing()
    book = ready().upstream(*whole).to_client("AgentThinking", assistant("Hello."))
    book.passes(3).to_client("LatencyReport")


@pytest.mark.conformance("C-165")
def test_a_round_does_not_wait_for_another() -> None:
    book = ready(FUNCTIONS)
    for n in (1, 2):
        book.upstream(response_created(f"resp_{n}")).to_client("AgentThinking")
        book.upstream(*calls(f"resp_{n}", f"call_{n}")).to_client(request(f"call_{n}"))
        book.upstream(response_done(f"resp_{n}"))
    book.client(answer("call_2")).to_upstream(ITEM, "response.create")


@pytest.mark.conformance("C-229")
def test_a_result_that_is_refused_twice_is_told_and_not_sent_again() -> None:
    book = ready(FUNCTIONS).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).to_client(request("call_1"))
    book.client(answer("call_1")).to_upstream(ITEM).refuses(ITEM).nothing()
    book.upstream(response_done()).to_upstream(ITEM, "response.create").refuses(ITEM)
    book.to_client(warning("THINK_REQUEST_FAILED")).passes(5).nothing()
