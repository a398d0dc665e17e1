"""What comes first, what is tried again and when, and what is remembered until then.

One conversation each, where the statements' own tests leave two orders or two moments open.
"""

from typing import Any

import pytest

from relay import voice_agent
from relay.session.actions import CallEndpoint
from relay.session.facts import Loss
from relay.settings import Endpoint, MappingOptions, TurnOptions
from tests.expected import ANY, About, Captured, Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    MODEL,
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
    message_done,
    opened,
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
    transcribed,
    types,
    user,
    user_item,
    voice,
    warning,
)

FUNCTIONS = settings(functions=("f",))
LATER: dict[str, Any] = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}}
LOST = warning("THINK_REQUEST_FAILED")


def create(**metadata: Any) -> Wire:
    return like("response.create", response={"metadata": metadata})


def writes(book: Playbook, *texts: str) -> Playbook:
    """The user writes these, and the items are acknowledged."""
    for text in texts:
        book.client(types(text)).to_client(user(text)).to_upstream("conversation.item.create")
    return book


def two_questions(**opening: Any) -> tuple[Playbook, Captured]:
    """The first of two questions is asked for; its number."""
    first = Captured()
    book = writes(ready(**opening), "One?", "Two?").acks(1).to_upstream(create(relay=ANY, n=first))
    return book.acks(1), first


# Whose turn it is.


@pytest.mark.conformance("C-093")
def test_a_question_that_was_not_answered_is_asked_again_before_the_next() -> None:
    book, first = two_questions()
    book.passes(10.1).to_upstream(create(relay=ANY, n=first))


@pytest.mark.conformance("C-093", "C-095")
def test_a_question_that_was_in_the_way_of_a_response_is_asked_again_before_the_next() -> None:
    book, first = two_questions()
    book.upstream(response_created("resp_own", metadata={"relay": "x", "n": "0"}))
    book.to_client("AgentThinking")
    book.refuses("response.create", "conversation_already_has_active_response").nothing()
    book.upstream(response_done("resp_own")).to_client("LatencyReport")
    book.to_upstream(create(relay=ANY, n=first))


@pytest.mark.conformance("C-095")
def test_a_question_in_the_way_of_a_response_that_nobody_knows_waits_half_a_second() -> None:
    book, first = two_questions()
    book.refuses("response.create", "conversation_already_has_active_response").passes(0.49)
    book.nothing().passes(0.02).to_upstream(create(relay=ANY, n=first))


@pytest.mark.conformance("C-214")
def test_a_recital_without_its_input_is_asked_for_before_the_next() -> None:
    first = Captured()
    book = ready().client(says("One.")).to_upstream(create(relay="inject", n=first))
    book.client(says("Two."))
    book.refuses("response.create", param="response.input").to_upstream(create(relay=ANY, n=first))


@pytest.mark.conformance("C-101")
def test_an_interrupting_message_comes_before_what_was_written() -> None:
    book, _ = two_questions()
    book.begins("resp_1").to_client("AgentThinking").client(says("Stop.", "interrupt"))
    book.audio_dropped().to_upstream("response.cancel").upstream(
        cancelled(reason="client_cancelled")
    )
    book.to_upstream(create(relay="inject"))


@pytest.mark.conformance("C-223")
def test_the_turn_that_the_upstream_left_unanswered_is_asked_for_first_and_once() -> None:
    turns = TurnOptions(interrupt_response=False)
    book = answering(mapping=MappingOptions(turns=turns)).passes(0.5)
    book.upstream(speech_started("item_u2")).audio_dropped().to_client(
        assistant("Hello."), "UserStartedSpeaking"
    )
    book.to_upstream("response.cancel", "conversation.item.truncate")
    book.upstream(cancelled(reason="client_cancelled"), speech_stopped("item_u2"))
    writes(book, "And this?").acks(1)
    book.upstream(committed("item_u2"), *user_item("item_u2")).passes(1.1)
    book.to_upstream(create(relay="turn")).begins("resp_2").to_client("AgentThinking")
    book.upstream(response_done("resp_2")).to_client("LatencyReport")
    book.to_upstream(create(relay="inject_user")).begins("resp_3").to_client("AgentThinking")
    book.upstream(response_done("resp_3")).to_client("LatencyReport")
    book.upstream(*speech("item_u3")).to_client("UserStartedSpeaking").passes(5).nothing()


# An item that is not acknowledged.


@pytest.mark.conformance("C-089")
def test_an_acknowledgement_that_comes_too_late_harms_nobody() -> None:
    book = writes(ready(), "Hi.").passes(5).upstream(speech_started())
    book.to_client("UserStartedSpeaking").passes(6).nothing().acks().nothing()
    book.upstream(speech_stopped()).passes(10.1).to_upstream("response.create")


# A response that fails.


@pytest.mark.parametrize(
    ("error", "again"),
    [
        ({"type": "x", "code": "rate_limit_exceeded"}, True),
        ({"type": "x", "code": "server_error"}, True),
        ({"type": "rate_limit_exceeded", "code": "x"}, True),
        ({"type": "server_error"}, True),
        ({"type": "x", "code": "x"}, False),
        ({}, False),
    ],
)
@pytest.mark.conformance("C-147")
def test_a_failure_that_may_pass_is_tried_again_by_code_or_type(
    error: dict[str, str], again: bool
) -> None:
    book = writes(ready(), "Hi.").acks().to_upstream("response.create").begins("resp_1")
    details = {"type": "failed", "error": error}
    done = {"id": "resp_1", "status": "failed", "status_details": details}
    book.to_client("AgentThinking").upstream_text({"type": "response.done", "response": done})
    book.to_client(LOST).passes(0.49).nothing().passes(0.02)
    if again:
        book.to_upstream("response.create")


@pytest.mark.conformance("C-147")
def test_the_last_pause_before_a_try_is_repeated() -> None:
    book = writes(ready(response_tries=4, response_backoff_s=(0.1, 0.2)), "Hi.").acks()
    for n, pause in enumerate((0.1, 0.2, 0.2, 0.2)):
        book.to_upstream("response.create").begins(f"resp_{n}").to_client("AgentThinking")
        book.upstream(response_done(f"resp_{n}", "failed", code="rate_limit_exceeded"))
        book.to_client(LOST).passes(pause - 0.01).nothing().passes(0.02)
    book.to_upstream("response.create").begins("resp_9").to_client("AgentThinking")
    book.upstream(response_done("resp_9", "failed", code="rate_limit_exceeded"))
    book.to_client(LOST, "Error").closes(1011)


@pytest.mark.conformance("C-147", "C-156")
def test_what_was_heard_of_a_failed_response_is_said() -> None:
    book = answering("Hel").passes(0.5)
    book.upstream(response_done(status="failed", code="x"))
    book.to_client(LOST, assistant("Hel"), "AgentAudioDone")


@pytest.mark.conformance("C-154", "C-156")
def test_what_was_heard_of_a_response_that_the_upstream_cancelled_is_said() -> None:
    book = answering("Hel").passes(0.5).upstream(cancelled(reason="client_cancelled"))
    book.to_client(assistant("Hel")).passes(2).nothing()


@pytest.mark.conformance("C-173")
def test_the_calls_of_a_cancelled_response_that_does_not_end_are_void() -> None:
    book = ready(FUNCTIONS).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).to_client(request("call_1"))
    book.client(says("Stop.", "interrupt")).audio_dropped().to_upstream("response.cancel")
    book.passes(1.1).to_client("FunctionCallCancelled").to_upstream("conversation.item.create")
    book.to_upstream(create(relay="inject"))


# The upstream comes and goes.


def replaced(book: Playbook) -> Playbook:
    """The next upstream is told the history."""
    book.upstream_gone().to_client(LOST).dials().upstream_opens().upstream(created())
    return book.to_upstream("session.update").updated()


@pytest.mark.conformance("C-245")
def test_a_turn_is_asked_again_after_one_loss_and_not_after_two() -> None:
    book = ready(proved_after_s=0.0).upstream(*speech(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi.")).upstream(response_created())
    replaced(book.to_client("AgentThinking")).to_upstream("conversation.item.create")
    book.to_upstream(create(relay="turn")).begins("resp_2").to_client("AgentThinking")
    replaced(book).to_upstream("conversation.item.create", create(relay="turn"))
    book.begins("resp_3").to_client("AgentThinking").upstream_gone()
    lost = like("Warning", description="The last turn was lost with the connection.")
    book.to_client(LOST, lost).dials()


@pytest.mark.conformance("C-245")
def test_an_answer_that_goes_on_has_a_number_of_its_own() -> None:
    number = Captured()
    book = answering().upstream_gone().to_client(LOST, assistant("Hello."), "AgentAudioDone")
    book.dials().upstream_opens().upstream(created()).to_upstream("session.update").updated()
    book.to_upstream(*["conversation.item.create"] * 2, create(relay="continue", n=number))
    assert number.value.isdigit()


@pytest.mark.conformance("C-228")
def test_unreadable_frames_are_counted_anew_for_the_next_upstream() -> None:
    book = ready().upstream_text("{", "{", "{").hangs_up(1).to_client(LOST).dials()
    book.upstream_opens().upstream(created()).to_upstream("session.update").updated()
    book.upstream_text("{", "{").nothing()
    book.upstream_text("{").hangs_up(2).to_client(LOST)


@pytest.mark.conformance("C-228", "C-185")
def test_so_they_are_for_one_that_was_ready_before() -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.client(like("UpdateThink", think=LATER)).dials().upstream_opens(2)
    book.upstream(created(), leg=2)
    book.to_upstream("session.update", leg=2).updated(leg=2).upstream_text("{", "{", leg=1)
    book.upstream_gone(leg=1).to_client(LOST, "ThinkUpdated").upstream_text("{", "{", leg=2)
    book.nothing().upstream_text("{", leg=2).hangs_up(2).to_client(LOST)


@pytest.mark.conformance("C-185")
def test_a_planned_switch_waits_for_an_open_round() -> None:
    think = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}}
    book = ready(FUNCTIONS).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).to_client(request("call_1"))
    book.upstream(response_done()).client(like("UpdateThink", think=think)).dials()
    book.upstream_opens(2).upstream(created(), leg=2).to_upstream("session.update", leg=2)
    book.updated(leg=2).passes(20).nothing().client(answer("call_1"))
    book.to_upstream("conversation.item.create", leg=1).hangs_up(1).to_client("ThinkUpdated")
    book.to_upstream(*["conversation.item.create"] * 2, create(relay="round_done"), leg=2)


@pytest.mark.conformance("C-185")
def test_a_planned_switch_waits_for_what_is_tried_again() -> None:
    think = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}}
    book = writes(ready(response_backoff_s=(5.0,)), "Hi.").acks().to_upstream("response.create")
    book.begins("resp_1").to_client("AgentThinking").client(like("UpdateThink", think=think))
    book.dials().upstream_opens(2).upstream(created(), leg=2).to_upstream("session.update", leg=2)
    book.updated(leg=2).upstream(response_done(status="failed", code="server_error"), leg=1)
    book.to_client(LOST).passes(4.9).nothing().passes(0.2).hangs_up(1).to_client("ThinkUpdated")
    book.to_upstream("conversation.item.create", create(relay="inject_user"), leg=2)


@pytest.mark.conformance("C-024")
def test_the_trouble_is_the_kind_of_loss_where_the_upstream_gave_no_reason() -> None:
    book = opened().client(settings()).formats().dials().upstream_gone(Loss.REFUSED, status=404)
    words = "The upstream refused the connection: refused."
    book.to_client(like("Error", description=words)).closes(1000)


# The user's audio.


@pytest.mark.conformance("C-187")
def test_of_the_users_audio_the_last_800_ms_are_kept_for_the_next_upstream() -> None:
    book = ready()
    for n in range(1, 11):
        book.client_audio(pcm(100, n)).audio_to_upstream(pcm(100, n)).passes(0.11)
    book.upstream(speech_started()).to_client("UserStartedSpeaking")
    replaced(book).audio_to_upstream(b"".join(pcm(100, n) for n in range(3, 11)))


@pytest.mark.conformance("C-187")
def test_all_that_the_user_is_saying_is_kept_for_the_next_upstream() -> None:
    book = ready().client_audio(pcm(100, 1)).audio_to_upstream(pcm(100, 1))
    book.upstream(speech_started()).to_client("UserStartedSpeaking")
    for n in range(2, 22):
        book.client_audio(pcm(100, n)).audio_to_upstream(pcm(100, n))
    replaced(book).audio_to_upstream(b"".join(pcm(100, n) for n in range(1, 22)))


@pytest.mark.conformance("C-036", "C-107")
def test_short_frames_are_gathered_and_wait_a_tenth_of_a_second_at_most() -> None:
    book = ready().client_audio(pcm(5, 1)).nothing().passes(0.099).nothing()
    book.passes(0.0011).audio_to_upstream(pcm(5, 1)).passes(1).nothing()
    book.client_audio(pcm(10, 2), pcm(10, 3)).audio_to_upstream(pcm(10, 2) + pcm(10, 3))
    book.passes(1).nothing()


MANUAL = MappingOptions(turns=TurnOptions(kind="off"))


@pytest.mark.parametrize(
    ("ms", "padding"), [([60, 30], 10), ([5], 95), ([50, 49.5], 0.5), ([60, 40], 0), ([60, 60], 0)]
)
@pytest.mark.conformance("C-116")
def test_a_turn_is_padded_to_a_tenth_of_a_second(ms: list[float], padding: float) -> None:
    book = ready(mapping=MANUAL).client_audio(*map(pcm, ms))
    book.unlisted = []
    book.client("ForceEndTurn")
    if padding:
        sent = bytes(len(pcm(padding)))
        book.audio_to_upstream((pcm(ms[0]) if ms == [5] else b"") + sent)
    book.to_upstream("input_audio_buffer.commit")


@pytest.mark.conformance("C-116", "C-179")
def test_a_commit_without_audio_is_forgotten_and_what_was_written_is_not() -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.client("ForceEndTurn").to_upstream("input_audio_buffer.commit")
    writes(book, "Hi.").acks().refuses(
        "input_audio_buffer.commit", "input_audio_buffer_commit_empty"
    )
    book.upstream(speech_stopped()).passes(10.1).to_upstream(create(relay="inject_user"))


# What is kept before the upstream is there.


@pytest.mark.conformance("C-035", "C-036")
def test_audio_does_not_count_as_messages() -> None:
    early = opened(early_messages=2).client_audio(b"a" * 9, b"b" * 9, b"c" * 9)
    early.client(types("1"), types("2")).nothing().client(types("3"))
    early.to_client("Error").closes(1000)
    held = configuring(held_messages=2).client_audio(pcm(100), pcm(100), pcm(100))
    held.client(types("1"), types("2")).nothing().client(types("3"))
    held.to_client("Error").closes(1011)


@pytest.mark.conformance("C-036")
def test_no_more_audio_is_dropped_than_needed() -> None:
    book = configuring(held_audio_s=0.35).client_audio(*(pcm(100, n) for n in range(1, 6)))
    book.client_audio(pcm(300, 6)).updated().to_client("SettingsApplied")
    book.audio_to_upstream(pcm(300, 6))


# The user's text.


@pytest.mark.conformance("C-126")
def test_nobody_said_what_the_upstream_committed_by_itself() -> None:
    """And nothing waits for its words."""
    timeout = like(
        "input_audio_buffer.timeout_triggered", audio_start_ms=0, audio_end_ms=1, item_id="item_u1"
    )
    book = ready().upstream(timeout, committed(), *user_item())
    book.upstream(*begins(), heard("resp_1", "item_a1", "Hello?"))
    book.to_client("AgentThinking").upstream(voice("resp_1", "item_a1", pcm(100)))
    book.to_client("AgentStartedSpeaking").audio_to_client()
    book.upstream(*message_done("resp_1", "item_a1", "Hello?")).to_client(assistant("Hello?"))
    book.upstream(transcribed("item_u1", "Mhm.")).nothing()


# What an error of the upstream is about.


@pytest.mark.conformance("C-095", "C-180")
def test_an_unaddressed_refusal_is_about_the_request_if_its_code_says_so() -> None:
    book, first = two_questions()
    book.upstream(like("error", error=unaddressed("conversation_already_has_active_response")))
    book.passes(0.51).to_upstream(create(relay=ANY, n=first))


@pytest.mark.conformance("C-178", "C-180")
def test_another_unaddressed_error_is_not_about_the_request_nor_the_response() -> None:
    book = writes(ready(), "Hi.").acks().to_upstream("response.create")
    words = like("Warning", description="Odd. (odd_thing)")
    book.upstream(like("error", error=unaddressed("odd_thing"))).to_client(words)
    book.begins("resp_1").to_client("AgentThinking")
    book.upstream(like("error", error=unaddressed("odd_thing"))).to_client(words)
    book.upstream(response_done()).to_client("LatencyReport")


def unaddressed(code: str) -> dict[str, Any]:
    return {"type": "x", "code": code, "message": "Odd.", "param": None, "event_id": None}


CONTEXT = {"messages": [{"role": "user", "content": "Hi."}]}


def text_greeting() -> Playbook:
    book = configuring(settings(greeting="Hi."), greeting_mode="text").updated()
    return book.to_client("SettingsApplied", assistant("Hi.")).to_upstream(ITEM)


def with_context() -> Playbook:
    book = configuring(settings(context=CONTEXT)).updated()
    return book.to_client("SettingsApplied").to_upstream(ITEM)


def interrupted() -> Playbook:
    book = answering().client(says("Stop.", "interrupt")).audio_dropped()
    return book.to_upstream("response.cancel", "conversation.item.truncate")


ITEM = "conversation.item.create"


@pytest.mark.parametrize(
    ("scene", "event"),
    [
        (text_greeting, ITEM),
        (with_context, ITEM),
        (interrupted, "response.cancel"),
        (interrupted, "conversation.item.truncate"),
        (ready, "session.update"),
    ],
)
@pytest.mark.conformance("C-153", "C-178")
def test_the_refusal_of_what_the_client_does_not_know_of_stays_here(scene: Any, event: str) -> None:
    scene().refuses(event).nothing()


@pytest.mark.conformance("C-178")
def test_the_refusal_of_a_request_that_was_answered_already_stays_here() -> None:
    book = writes(ready(), "Hi.").acks().to_upstream("response.create").begins("resp_1")
    book.to_client("AgentThinking").upstream(response_done()).to_client("LatencyReport")
    book.refuses("response.create").nothing()


@pytest.mark.conformance("C-175")
def test_the_model_reads_why_its_call_came_to_nothing() -> None:
    item = {"output": '{"error":"there is no such function"}'}
    book = ready(FUNCTIONS).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1", "unknown")).to_upstream(like(ITEM, item=item))


@pytest.mark.conformance("C-076")
def test_a_voice_that_the_upstream_will_not_change_is_had_from_another() -> None:
    speak = like("UpdateSpeak", speak={"provider": {"voice": "coral"}})
    book = ready().client(speak).to_upstream("session.update")
    book.refuses("session.update", "cannot_update_voice").dials().upstream_opens(2)
    book.upstream(created(), leg=2).to_upstream("session.update", leg=2).updated(leg=2)
    book.hangs_up(1).to_client("SpeakUpdated")


@pytest.mark.conformance("C-078")
def test_an_unanswered_update_fails_in_the_name_of_what_it_was_about() -> None:
    speak = like("UpdateSpeak", speak={"provider": {"voice": "coral"}})
    book = ready().client(speak).to_upstream("session.update").passes(10.1)
    book.to_client(warning("SPEAK_REQUEST_FAILED"))


@pytest.mark.conformance("C-106")
def test_a_dynamic_injection_without_text_is_a_warning_and_refused() -> None:
    book = ready().client(like("InjectAgentMessage", is_dynamic=True))
    book.to_client(warning("UNPARSABLE_CLIENT_MESSAGE"), "InjectionRefused")


# Turns that only the client ends.


@pytest.mark.conformance("C-117", "C-116")
def test_a_turn_of_short_frames_is_committed_too() -> None:
    book = ready(mapping=MANUAL).client_audio(pcm(5)).passes(0.11).audio_to_upstream(pcm(5))
    book.client_audio(pcm(5)).client("ForceEndTurn").audio_to_upstream(pcm(5) + bytes(90 * 48))
    book.to_upstream("input_audio_buffer.commit")


@pytest.mark.conformance("C-116", "C-179")
def test_a_turn_is_padded_once_though_it_is_ended_twice() -> None:
    book = ready(mapping=MANUAL).client_audio(pcm(50)).audio_to_upstream(pcm(50))
    book.client("ForceEndTurn").audio_to_upstream(bytes(50 * 48))
    book.to_upstream("input_audio_buffer.commit")
    book.refuses("input_audio_buffer.commit", "input_audio_buffer_commit_empty")
    book.client("ForceEndTurn").to_upstream("input_audio_buffer.commit")


@pytest.mark.conformance("C-245")
def test_the_loss_of_an_answer_to_nobody_is_told() -> None:
    """The upstream had begun to speak by itself, and the user has said nothing."""
    book = ready().upstream(response_created()).to_client("AgentThinking").upstream_gone()
    book.to_client(LOST, warning("THINK_REQUEST_FAILED")).dials()


@pytest.mark.conformance("C-223", "C-140")
def test_the_wait_for_a_turn_that_had_to_be_asked_for_counts_from_its_end() -> None:
    turns = TurnOptions(interrupt_response=False)
    book = answering(mapping=MappingOptions(turns=turns)).passes(0.5)
    book.upstream(speech_started("item_u2")).audio_dropped()
    book.to_client(assistant("Hello."), "UserStartedSpeaking")
    book.to_upstream("response.cancel", "conversation.item.truncate")
    book.upstream(cancelled(reason="client_cancelled"), speech_stopped("item_u2"))
    book.passes(0.25).upstream(committed("item_u2"), *user_item("item_u2")).passes(1)
    book.to_upstream(create(relay="turn")).begins("resp_2").to_client("AgentThinking")
    book.passes(0.5).upstream(voice("resp_2", "item_a2", pcm(100)))
    book.to_client(like("AgentStartedSpeaking", total_latency=About(1.75))).audio_to_client()


# What the first passes of scripts/mutate could still change.


@pytest.mark.conformance("C-116", "C-179")
def test_a_commit_that_is_refused_for_whatever_reason_is_forgotten() -> None:
    book = ready(mapping=MANUAL).client_audio(pcm(100)).audio_to_upstream(pcm(100))
    book.client("ForceEndTurn").to_upstream("input_audio_buffer.commit")
    book.refuses("input_audio_buffer.commit", "odd_thing").nothing()
    book.client("ForceEndTurn").to_upstream("input_audio_buffer.commit")


@pytest.mark.conformance("C-242")
def test_unreadable_frames_of_one_attempt_do_not_count_for_the_next() -> None:
    book = configuring().upstream_text("{", "{", "{").hangs_up(1).passes(0.5).dials()
    book.upstream_opens().upstream_text("{", "{").nothing().upstream_text("{").hangs_up(2)


@pytest.mark.conformance("C-171")
def test_an_endpoint_that_answers_what_nobody_asked_is_not_heard() -> None:
    ready(FUNCTIONS).endpoint_answers("call_x", "42").nothing()


@pytest.mark.conformance("C-124", "C-219")
def test_interim_texts_of_two_parts_are_kept_apart() -> None:
    book = ready(component=True).upstream(speech_started()).to_client("UserStartedSpeaking")
    for index, delta, so_far in ((0, "a", "a"), (1, "b", "b"), (0, "c", "ac"), (1, "d", "bd")):
        kind = "conversation.item.input_audio_transcription.delta"
        book.upstream(like(kind, item_id="item_u1", content_index=index, delta=delta))
        book.to_client(like("Transcript", transcript=so_far))
    book.upstream_text({"type": kind, "event_id": "e", "item_id": "item_u1", "delta": "e"})
    book.to_client(like("Transcript", transcript="ace"))


@pytest.mark.conformance("C-223")
def test_a_turn_that_nobody_answers_is_asked_for_once() -> None:
    turns = TurnOptions(interrupt_response=False)
    book = answering(mapping=MappingOptions(turns=turns)).passes(2)
    book.upstream(speech_started("item_u2")).audio_dropped()
    book.to_client(assistant("Hello."), "UserStartedSpeaking")
    book.to_upstream("response.cancel").upstream(cancelled(reason="client_cancelled"))
    book.upstream(*speech("item_u2")[1:]).passes(1.1).to_upstream(create(relay="turn"))
    book.passes(10).to_upstream(create(relay="turn")).passes(10.1)
    book.upstream(*speech("item_u3")).to_client("UserStartedSpeaking").passes(5).nothing()


@pytest.mark.parametrize("behavior", [None, "default", "queue"])
@pytest.mark.conformance("C-105")
def test_the_behaviours_that_there_are_are_known_in_strict_mode(behavior: str | None) -> None:
    exact = settings(think={"provider": {"type": "open_ai", "model": MODEL}})
    book = ready(exact, strict=True).client(says("Hi.", behavior))
    book.to_upstream(create(relay="inject"))


@pytest.mark.conformance("C-107")
def test_each_gathering_of_short_frames_has_its_own_tenth_of_a_second() -> None:
    book = ready().client_audio(pcm(5)).passes(0.05).client_audio(pcm(20))
    book.audio_to_upstream(pcm(25)).client_audio(pcm(5)).passes(0.09995).nothing()
    book.passes(0.0001).audio_to_upstream(pcm(5))


@pytest.mark.conformance("C-245")
def test_a_recital_that_is_lost_twice_is_told_of() -> None:
    book = ready(proved_after_s=0.0).client(says("Hi.")).to_upstream(create(relay="inject"))
    replaced(book.begins("resp_1")).to_upstream(create(relay="inject")).begins("resp_2")
    words = "The text was lost with the connection."
    book.upstream_gone().to_client(LOST, like("Warning", description=words)).dials()


def functions(**more: Any) -> Wire:
    return settings(functions=("f",), **more)


def called(given: Wire = FUNCTIONS, **opening: Any) -> Playbook:
    """The client is asked for `f`, and the calling response is over."""
    book = ready(given, **opening).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).to_client(request("call_1"))
    return book.upstream(response_done())


@pytest.mark.conformance("C-170")
def test_a_call_may_time_out_in_half_a_second() -> None:
    book = called(call_timeout_s=0.5).passes(0.51).to_client(warning("FUNCTION_CALL_FAILED"))
    book.to_upstream(ITEM, "response.create")


@pytest.mark.parametrize(
    ("content", "output", "cut"),
    [
        ("x" * 20, "x" * 20, False),
        ("x" * 21, "x" * 8 + " [truncated]", True),
        ("xü" * 7, "xüxüx [truncated]", True),
        ("ü" * 11, "üüüü [truncated]", True),
    ],
)
@pytest.mark.conformance("C-228")
def test_a_result_is_cut_between_characters(content: str, output: str, cut: bool) -> None:
    book = called(max_call_output_bytes=20).client(answer("call_1", content))
    if cut:
        book.to_client(warning("FUNCTION_CALL_FAILED"))
    book.to_upstream(like(ITEM, item={"output": output}), "response.create")


@pytest.mark.conformance("C-162", "C-174")
def test_no_result_is_an_empty_one() -> None:
    nothing = like("FunctionCallResponse", id="call_1", name="f")
    book = called(functions(history=True)).client(nothing)
    record = {"id": "call_1", "name": "f", "client_side": True, "arguments": "{}", "response": ""}
    book.to_client(like("History", function_calls=[record]))
    book.to_upstream(like(ITEM, item={"output": ""}), "response.create")


@pytest.mark.conformance("C-171")
def test_the_shell_is_told_where_and_how_to_call() -> None:
    endpoint = {"url": "https://fns.test/f", "method": "put", "headers": {"x-key": "1"}}
    think = {"functions": [{"name": "f", "endpoint": endpoint}]}
    mapping = MappingOptions(function_endpoints=("https://fns.test",))
    book = ready(settings(think=think), mapping=mapping).upstream(response_created())
    book.to_client("AgentThinking").upstream(*calls("resp_1", "call_1", arguments='{"a":1}'))
    (asked,) = [d.action for d in book.unlisted if isinstance(d.action, CallEndpoint)]
    there = Endpoint("https://fns.test/f", "PUT", {"x-key": "1"})
    assert asked == CallEndpoint("call_1", "f", '{"a":1}', there)
    book.calls_endpoint("f").to_client("FunctionCallRequest")


@pytest.mark.conformance("C-078")
def test_in_strict_mode_an_update_to_a_model_that_is_none_is_refused() -> None:
    think = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}}
    exact = settings(think={"provider": {"type": "open_ai", "model": MODEL}})
    book = ready(exact, strict=True).client(like("UpdateThink", think=think))
    book.to_client(warning("THINK_REQUEST_FAILED"))


@pytest.mark.conformance("C-069", "C-078")
def test_an_update_is_answered_once() -> None:
    book = ready().client(like("UpdatePrompt", prompt="New.")).to_upstream("session.update")
    book.updated().to_client("PromptUpdated").refuses("session.update").passes(15).nothing()


@pytest.mark.conformance("C-084")
def test_a_client_is_idle_to_the_second() -> None:
    book = ready().passes(0.5).client("KeepAlive").passes(59.9).nothing().passes(0.2)
    book.to_client("Error").closes(1000)


# What is left of a lost upstream.


def slow_to_rebuild(**opening: Any) -> dict[str, Any]:
    """Nothing of the next upstream falls due meanwhile."""
    return {"upstream_step_s": 1000.0, "client_idle_s": 5000.0, **opening}


def requested() -> Playbook:
    return writes(ready(**slow_to_rebuild()), "Hi.").acks().to_upstream("response.create")


def begun() -> Playbook:
    return requested().begins("resp_1").to_client("AgentThinking")


def cancelling() -> Playbook:
    book = begun().client(says("Stop.", "interrupt")).audio_dropped()
    return book.to_upstream("response.cancel")


def updating() -> Playbook:
    book = ready(**slow_to_rebuild()).client(like("UpdatePrompt", prompt="A"))
    return book.to_upstream(UPDATE).passes(10)


def unasked() -> Playbook:
    """A turn that began by cancelling a response was not answered yet."""
    turns = MappingOptions(turns=TurnOptions(interrupt_response=False))
    book = answering(mapping=turns, **slow_to_rebuild()).passes(2)
    book.upstream(speech_started("item_u2")).audio_dropped()
    book.to_client(assistant("Hello."), "UserStartedSpeaking").to_upstream("response.cancel")
    return book.upstream(cancelled(), *speech("item_u2")[1:])


def near_its_end() -> Playbook:
    book = ready(**slow_to_rebuild(upstream_session_s=150.0)).passes(30).dials()
    return book.upstream_gone(Loss.UNREACHABLE, leg=2)


UPDATE = "session.update"


@pytest.mark.parametrize("scene", [requested, begun, cancelling, updating, unasked, near_its_end])
@pytest.mark.conformance("C-186")
def test_nothing_that_was_asked_of_a_lost_upstream_falls_due(scene: Any) -> None:
    book = scene().upstream_gone(leg=1)
    book.unlisted = []
    wants = len(book.session.wants)
    book.passes(995).nothing()
    assert len(book.session.wants) == wants


@pytest.mark.conformance("C-187", "C-107")
def test_audio_that_was_gathered_for_a_lost_upstream_is_for_the_next() -> None:
    book = ready().client_audio(pcm(5, 1)).upstream_gone().to_client(LOST).dials()
    book.client_audio(pcm(5, 2)).upstream_opens().upstream(created()).to_upstream(UPDATE)
    book.client_audio(pcm(15, 3)).updated()
    book.audio_to_upstream(pcm(5, 1) + pcm(5, 2) + pcm(15, 3)).passes(1).nothing()


@pytest.mark.conformance("C-245", "C-093")
def test_what_was_asked_for_is_asked_on_the_next_upstream_before_what_waits() -> None:
    book, first = two_questions()
    replaced(book).to_upstream(ITEM, ITEM, create(relay=ANY, n=first))


@pytest.mark.conformance("C-138")
def test_nothing_waits_for_words_that_a_lost_upstream_owed() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking").upstream_gone()
    book.to_client(LOST, warning("THINK_REQUEST_FAILED")).dials().upstream_opens()
    book.upstream(created()).to_upstream(UPDATE).updated()
    writes(book, "Hi.").acks().to_upstream("response.create").begins("resp_1")
    book.to_client("AgentThinking").upstream(*begins("resp_1", "item_a1")[1:])
    book.upstream(*message_done("resp_1", "item_a1", "Hello.")).to_client(assistant("Hello."))


@pytest.mark.conformance("C-080")
def test_an_update_that_was_under_way_comes_before_those_that_waited() -> None:
    book = ready().client(like("UpdatePrompt", prompt="A")).to_upstream(UPDATE)
    book.client(like("UpdatePrompt", prompt="B")).upstream_gone().to_client(LOST).dials()
    book.upstream_opens().upstream(created())
    book.to_upstream(like(UPDATE, session={"instructions": "Be brief.\n\nA\n\nB"}))
    book.updated().to_client("PromptUpdated", "PromptUpdated")


@pytest.mark.conformance("C-223")
def test_a_cancel_on_a_lost_upstream_has_no_turn_asked_for_on_the_next() -> None:
    turns = TurnOptions(interrupt_response=False)
    book = answering(mapping=MappingOptions(turns=turns)).passes(2)
    book.upstream(speech_started("item_u2")).audio_dropped()
    book.to_client(assistant("Hello."), "UserStartedSpeaking").to_upstream("response.cancel")
    replaced(book).to_upstream(ITEM, ITEM)
    book.upstream(*speech("item_u3")).to_client("UserStartedSpeaking").passes(5).nothing()


@pytest.mark.conformance("C-188")
def test_an_upstream_that_is_lost_as_soon_as_it_is_live_counts_as_a_failed_attempt() -> None:
    book = replaced(ready().passes(20)).passes(1).upstream_gone().to_client(LOST)
    book.passes(0.4).nothing().passes(0.2).dials()


@pytest.mark.conformance("C-188")
def test_an_upstream_that_has_lasted_is_rebuilt_at_once() -> None:
    replaced(ready().passes(20)).passes(10).upstream_gone().to_client(LOST).dials()


@pytest.mark.conformance("C-228")
def test_arguments_up_to_the_limit_are_announced() -> None:
    """As JSON text: the quotes count."""
    called(max_call_arguments_bytes=4).nothing()


@pytest.mark.conformance("C-230", "C-158")
def test_a_call_without_an_item_has_the_arguments_that_it_came_with() -> None:
    """From a server that never sends output items, nor the end of a response."""
    book = ready(FUNCTIONS, ends_responses=False).upstream(response_created())
    done = calls("resp_1", "call_1", arguments='{"a":1}')[-3]
    assert done["type"] == "response.function_call_arguments.done"
    book.to_client("AgentThinking").upstream(done).to_client(request("call_1", "f", '{"a":1}'))
    book.client(answer("call_1")).to_upstream(ITEM).passes(0.3).to_upstream("response.create")


@pytest.mark.parametrize(
    ("code", "again"),
    [("input_audio_buffer_commit_empty", True), ("response_cancel_not_active", False)],
)
@pytest.mark.conformance("C-179", "C-117")
def test_an_unaddressed_error_is_about_the_commit_if_its_code_says_so(
    code: str, again: bool
) -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.client("ForceEndTurn").to_upstream("input_audio_buffer.commit")
    book.upstream(like("error", error=unaddressed(code))).client("ForceEndTurn")
    if again:
        book.to_upstream("input_audio_buffer.commit")


@pytest.mark.conformance("C-212", "C-153")
def test_the_refusal_of_a_cancel_of_what_nobody_wants_stays_here() -> None:
    book = configuring(settings(greeting="Welcome!")).updated().to_client("SettingsApplied")
    book.to_upstream("response.create").upstream(speech_started()).to_client("UserStartedSpeaking")
    book.begins("resp_1").to_upstream("response.cancel").refuses("response.cancel").nothing()


# What is wanted when an upstream is lost.


@pytest.mark.conformance("C-245", "C-165")
def test_two_questions_that_a_lost_upstream_left_have_one_answer() -> None:
    """The next one is told both before it is asked."""
    book, _ = two_questions()
    replaced(book).to_upstream(ITEM, ITEM, "response.create").begins("resp_2")
    book.to_client("AgentThinking").upstream(response_done("resp_2")).to_client("LatencyReport")
    book.passes(30).nothing()


@pytest.mark.conformance("C-245", "C-095")
def test_an_answer_of_the_next_upstream_s_own_is_one_to_what_the_lost_one_left() -> None:
    book, _ = two_questions()
    replaced(book).to_upstream(ITEM, ITEM, "response.create")
    book.upstream(response_created("resp_own", metadata={"relay": "x", "n": "0"}))
    book.to_client("AgentThinking")
    book.refuses("response.create", "conversation_already_has_active_response")
    book.upstream(response_done("resp_own")).to_client("LatencyReport").passes(30).nothing()


@pytest.mark.conformance("C-245", "C-100")
def test_all_that_was_to_be_recited_is_recited_on_the_next_upstream() -> None:
    book = answering().client(says("One.", "queue"), says("Two.", "queue")).nothing()
    book.upstream_gone().to_client(LOST, assistant("Hello."), "AgentAudioDone").dials()
    book.upstream_opens().upstream(created()).to_upstream(UPDATE).updated().to_upstream(ITEM, ITEM)
    book.to_upstream(create(relay="continue")).begins("resp_2").to_client("AgentThinking")
    book.upstream(response_done("resp_2")).to_client("LatencyReport")
    for n, text in enumerate(("One.", "Two.")):
        book.to_upstream(create(relay="inject")).begins(f"resp_i{n}")
        book.upstream(voice(f"resp_i{n}", f"item_i{n}", pcm(100)))
        book.to_client(assistant(text), "AgentStartedSpeaking").audio_to_client()
        book.upstream(response_done(f"resp_i{n}")).to_client("AgentAudioDone")


@pytest.mark.conformance("C-245")
def test_an_answer_that_was_whole_is_not_continued() -> None:
    """Only its end was not told."""
    book = answering().upstream(*message_done("resp_1", "item_a1", "Hello."))
    book.to_client(assistant("Hello.")).upstream_gone().to_client(LOST, "AgentAudioDone").dials()
    book.upstream_opens().upstream(created()).to_upstream(UPDATE).updated()
    book.to_upstream(ITEM, ITEM).nothing()


def ending_a_turn() -> Playbook:
    """The client has ended the turn of a user who speaks; the commit is on its way."""
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.client_audio(pcm(600)).audio_to_upstream(pcm(600)).client("ForceEndTurn")
    return book.to_upstream("input_audio_buffer.commit")


@pytest.mark.conformance("C-118", "C-187")
def test_a_turn_that_was_to_be_ended_is_answered_when_the_next_upstream_has_heard_it() -> None:
    """And what was written in the meantime has an answer of its own."""
    book = writes(ending_a_turn(), "And?")
    replaced(book).to_upstream(ITEM).audio_to_upstream(pcm(600))
    book.to_upstream("input_audio_buffer.commit").acks()
    book.upstream(*speech()).to_client("UserStartedSpeaking").to_upstream(
        create(relay="force_end_turn")
    )
    book.begins("resp_1").to_client("AgentThinking").upstream(response_done())
    book.to_client("LatencyReport").to_upstream(create(relay="inject_user"))


@pytest.mark.conformance("C-118", "C-245")
def test_a_turn_that_was_over_is_asked_again_and_not_ended_again() -> None:
    book = ending_a_turn().upstream(speech_stopped())
    replaced(book).to_upstream(ITEM, create(relay="turn")).begins("resp_1")
    book.to_client("AgentThinking").upstream(response_done()).to_client("LatencyReport")
    book.upstream(*speech("item_u2")).to_client("UserStartedSpeaking").passes(5).nothing()


# The user's audio, over two losses.


def lost_again(book: Playbook) -> Playbook:
    """The upstream that has just taken over is lost as well: the next attempt is after a pause."""
    book.upstream_gone().to_client(LOST).passes(1).dials().upstream_opens().upstream(created())
    return book.to_upstream(UPDATE).updated()


@pytest.mark.conformance("C-187")
def test_what_the_user_says_is_kept_until_an_upstream_has_noticed_it() -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    first, second = [pcm(100, n) for n in range(1, 21)], [pcm(100, n) for n in range(21, 26)]
    for chunk in first:
        book.client_audio(chunk).audio_to_upstream(chunk)
    replaced(book).audio_to_upstream(b"".join(first))
    for chunk in second:
        book.client_audio(chunk).audio_to_upstream(chunk)
    lost_again(book).audio_to_upstream(b"".join(first + second))


@pytest.mark.conformance("C-187")
def test_so_is_what_they_said_without_an_upstream() -> None:
    book = ready().upstream_gone().to_client(LOST).dials().client_audio(pcm(1500, 1))
    book.upstream_opens().upstream(created()).to_upstream(UPDATE).updated()
    book.audio_to_upstream(pcm(1500, 1))
    lost_again(book).audio_to_upstream(pcm(1500, 1))


@pytest.mark.parametrize(("after_s", "all_of_it"), [(4.9, True), (5.1, False)])
@pytest.mark.conformance("C-187")
def test_what_no_upstream_has_noticed_for_five_seconds_was_no_speech(
    after_s: float, all_of_it: bool
) -> None:
    book = ready().upstream_gone().to_client(LOST).dials().client_audio(pcm(1500, 1))
    book.upstream_opens().upstream(created()).to_upstream(UPDATE).updated()
    book.audio_to_upstream(pcm(1500, 1)).passes(after_s)
    book.client_audio(pcm(100, 2)).audio_to_upstream(pcm(100, 2))
    lost_again(book).audio_to_upstream(all_of_it * pcm(1500, 1) + pcm(100, 2))


@pytest.mark.conformance("C-187")
def test_an_upstream_that_was_told_nothing_has_nothing_to_notice() -> None:
    book = replaced(ready())
    for n in range(1, 21):
        book.client_audio(pcm(100, n)).audio_to_upstream(pcm(100, n)).passes(0.125)
    lost_again(book).audio_to_upstream(b"".join(pcm(100, n) for n in range(13, 21)))


@pytest.mark.conformance("C-187", "C-121")
def test_how_a_turn_sounded_is_forgotten_for_its_own_words_only() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking")
    book.upstream(speech_started("item_u2")).to_client("UserStartedSpeaking")
    book.client_audio(pcm(600, 7)).audio_to_upstream(pcm(600, 7))
    book.upstream(*speech("item_u2")[1:], transcribed("item_u1", "One.")).to_client(user("One."))
    replaced(book).to_upstream(ITEM, ITEM, "response.create")
    parts = [e["item"]["content"][0] for e in book.sent[2] if e["type"] == ITEM]
    assert [part["type"] for part in parts] == ["input_text", "input_audio"]


# Requests, and responses that are not theirs.


@pytest.mark.conformance("C-093", "C-092")
def test_a_response_of_the_upstream_s_own_leaves_the_request_open() -> None:
    book, first = two_questions()
    book.upstream(response_created("resp_own", metadata={"relay": "x", "n": "0"}))
    book.to_client("AgentThinking").upstream(response_done("resp_own")).to_client("LatencyReport")
    book.passes(10.1).to_upstream(create(relay=ANY, n=first))


@pytest.mark.conformance("C-223", "C-212")
def test_a_greeting_that_is_cancelled_while_the_user_speaks_has_their_turn_asked_for() -> None:
    book = configuring(settings(greeting="Welcome!")).updated().to_client("SettingsApplied")
    book.to_upstream("response.create").upstream(speech_started()).to_client("UserStartedSpeaking")
    book.begins("resp_1").to_upstream("response.cancel")
    book.upstream(cancelled(reason="client_cancelled"), *speech()[1:]).passes(0.9).nothing()
    book.passes(0.2).to_upstream(create(relay="turn"))


@pytest.mark.conformance("C-232")
def test_messages_that_are_exactly_as_much_as_may_be_held_are_held() -> None:
    one = voice_agent.InjectUserMessage(content="Hi.")
    book = configuring(held_message_bytes=voice_agent.memory(one)).client(types("Hi.")).nothing()
    book.client(types("Hi.")).to_client("Error").closes(1011)


@pytest.mark.conformance("C-228")
def test_calls_that_are_together_as_long_as_they_may_be_are_announced() -> None:
    """Twice the arguments of one; the quotes do not count."""
    book = ready(FUNCTIONS, max_call_arguments_bytes=4).upstream(response_created())
    book.to_client("AgentThinking")
    for n in range(4):
        book.upstream(*calls("resp_1", f"call_{n}", index=n)).to_client(request(f"call_{n}"))
    refusal = like(ITEM, item={"output": '{"error":"the arguments are too long"}'})
    book.upstream(*calls("resp_1", "call_4", index=4)).to_upstream(refusal)


def test_a_response_may_be_slow_after_less_than_a_second() -> None:
    book = ready(slow_think_s=0.5).upstream(response_created()).to_client("AgentThinking")
    book.passes(0.4).nothing().passes(0.2).to_client(warning("SLOW_THINK_REQUEST"))
