"""Upstreams that come and go in the middle of something, one event at a time (the rest is in
test_rollover)."""

import base64
from typing import Any

import pytest

from relay.session.facts import Loss
from relay.settings import MappingOptions, TurnOptions
from tests.expected import Captured, Wire, like
from tests.playbook import WALL, Playbook
from tests.scenes import (
    answer,
    answering,
    assistant,
    calls,
    committed,
    configuring,
    created,
    error,
    failure,
    heard,
    message_added,
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
    types,
    untranscribed,
    user,
    user_item,
    voice,
    warning,
)

LOST = warning("THINK_REQUEST_FAILED")
MODEL: dict[str, Any] = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}}


def prompt(text: str) -> Any:
    return like("UpdatePrompt", prompt=text)


def think(**of: Any) -> Any:
    return like("UpdateThink", think=MODEL | of)


def lasting(seconds: int, **opening: Any) -> Playbook:
    """Ready, on an upstream whose session lasts so long; the client does not go idle."""
    book = opened(client_idle_s=9000.0, **opening).client(settings()).formats().dials()
    book.upstream_opens().upstream(created(int(WALL) + seconds)).to_upstream("session.update")
    return book.updated().to_client("SettingsApplied")


def configured(book: Playbook, leg: int) -> Playbook:
    """The leg is opened and takes our configuration."""
    book.upstream_opens(leg).upstream(created(), leg=leg).to_upstream("session.update", leg=leg)
    return book.updated(leg=leg)


def asked(book: Playbook, leg: int = 1) -> Playbook:
    """The user wrote something, and its answer has begun."""
    book.client(types("Hi.")).to_client(user("Hi."))
    book.to_upstream("conversation.item.create", leg=leg).acks(leg=leg)
    book.to_upstream("response.create", leg=leg).begins("resp_1", leg=leg)
    return book.to_client("AgentThinking")


# The upstream's session grows old.


@pytest.mark.conformance("C-185")
def test_at_an_idle_point_the_prepared_upstream_takes_over_in_silence() -> None:
    book = lasting(300).passes(179).nothing().passes(2).dials()
    configured(book, 2).hangs_up(1).passes(100).nothing()


@pytest.mark.conformance("C-185")
def test_a_conversation_that_does_not_pause_is_switched_before_the_session_ends() -> None:
    book = asked(lasting(300, slow_think_s=0.0).passes(180).dials())
    configured(book, 2).passes(109).nothing().passes(2).hangs_up(1)
    book.to_upstream("conversation.item.create", "response.create", leg=2)


@pytest.mark.conformance("C-185")
def test_without_a_prepared_upstream_the_end_of_the_session_is_a_loss() -> None:
    book = lasting(300).passes(180).dials().passes(10).hangs_up(2)
    for leg in (3, 4):
        book.passes(2).dials().upstream_gone(Loss.UNREACHABLE, leg=leg)
    book.passes(80).nothing()
    book.passes(20).hangs_up(1).to_client(LOST).dials()
    configured(book, 5).passes(1).nothing()


@pytest.mark.conformance("C-185", "C-241")
def test_what_is_prepared_is_dropped_when_it_is_not_wanted_any_more() -> None:
    book = lasting(300).passes(180).dials().client(prompt("Be kind.")).to_upstream("session.update")
    book.updated(leg=1).to_client("PromptUpdated").hangs_up(2).dials()
    configured(book, 3).hangs_up(1)
    assert book.sent[3][0]["session"]["instructions"] == "Be brief.\n\nBe kind."


@pytest.mark.conformance("C-185", "C-241")
def test_an_upstream_that_is_being_prepared_for_a_change_serves_for_age_too() -> None:
    book = lasting(300).passes(175).client(think()).dials(model="gpt-realtime-mini")
    book.passes(8).nothing()
    configured(book, 2).hangs_up(1).to_client("ThinkUpdated").passes(100).nothing()


@pytest.mark.conformance("C-185", "C-241")
def test_a_change_that_is_tried_again_when_age_comes_is_dialled_once() -> None:
    book = lasting(300).passes(179.8).client(think()).dials().upstream_gone(Loss.UNREACHABLE, leg=2)
    book.passes(0.3).dials(model="gpt-realtime-mini").passes(5).nothing()
    configured(book, 3).hangs_up(1).to_client("ThinkUpdated")


# The upstream is lost.


@pytest.mark.conformance("C-184")
def test_without_rollover_an_expired_session_is_the_end() -> None:
    book = ready(rollover=False).upstream(failure("session_expired"))
    book.to_client(error("MAXIMUM_SESSION_LENGTH_REACHED")).closes(1000)


@pytest.mark.parametrize(
    ("code", "reason", "expected", "closing"),
    [
        (1001, "Session hit the maximum duration.", "MAXIMUM_SESSION_LENGTH_REACHED", 1000),
        (1001, "Going away.", "INTERNAL_SERVER_ERROR", 1011),
        (1000, "Session hit the maximum duration.", "INTERNAL_SERVER_ERROR", 1011),
    ],
)
@pytest.mark.conformance("C-184", "C-191")
def test_without_rollover_a_closed_session_is_the_end(
    code: int, reason: str, expected: str, closing: int
) -> None:
    book = ready(rollover=False).upstream_gone(Loss.CLOSED, code=code, reason=reason)
    book.to_client(error(expected)).closes(closing)


@pytest.mark.conformance("C-184")
def test_with_rollover_an_expired_session_is_followed_by_another() -> None:
    ready().upstream(failure("session_expired")).hangs_up(1).to_client(LOST).dials()


@pytest.mark.conformance("C-188")
def test_a_prepared_upstream_takes_over_from_a_lost_one_at_once() -> None:
    book = asked(ready()).client(think()).dials()
    configured(book, 2).nothing().upstream_gone(leg=1).to_client(LOST, "ThinkUpdated")
    book.to_upstream("conversation.item.create", "response.create")


@pytest.mark.conformance("C-188", "C-080")
def test_an_upstream_that_is_being_prepared_takes_over_from_a_lost_one_when_it_is_ready() -> None:
    """With what was asked for in the meantime, and the acks in the order of the requests."""
    book = asked(ready()).client(think(prompt="New.")).dials().client(prompt("Be kind."))
    book.upstream_gone(leg=1).to_client(LOST)
    configured(book, 2).to_client("ThinkUpdated", "PromptUpdated")
    book.to_upstream("conversation.item.create", "response.create")
    assert book.sent[2][0]["session"]["instructions"] == "New.\n\nBe kind."
    book.client(prompt("Be wise."))
    wise = {"instructions": "New.\n\nBe kind.\n\nBe wise."}
    book.to_upstream(like("session.update", session=wise)).updated().to_client("PromptUpdated")


@pytest.mark.conformance("C-188", "C-024")
def test_a_refusal_for_good_while_rebuilding_is_the_end() -> None:
    book = ready().upstream_gone().to_client(LOST).dials()
    book.upstream_gone(Loss.REFUSED, status=401).to_client(error("FAILED_TO_THINK")).closes(1000)


@pytest.mark.conformance("C-080", "C-078")
def test_an_update_that_cannot_be_is_refused_while_rebuilding_too() -> None:
    book = ready().upstream_gone().to_client(LOST).dials()
    bad = [{"name": "no spaces allowed"}]
    book.client(think(functions=bad), prompt("Be kind.")).upstream_opens().upstream(created())
    book.to_client(warning("THINK_REQUEST_FAILED")).to_upstream("session.update")
    book.updated().to_client("PromptUpdated")


@pytest.mark.conformance("C-188", "C-080")
def test_updates_of_a_failed_attempt_are_part_of_the_next() -> None:
    book = ready().upstream_gone().to_client(LOST).dials().client(prompt("Be kind."))
    book.upstream_opens().upstream(created()).to_upstream("session.update").upstream_gone()
    book.client(prompt("Be wise.")).passes(0.5).dials().upstream_opens().upstream(created())
    instructions = "Be brief.\n\nBe kind.\n\nBe wise."
    book.to_upstream(like("session.update", session={"instructions": instructions}))
    book.updated().to_client("PromptUpdated", "PromptUpdated")


def rebuilt(book: Playbook) -> Playbook:
    """The live upstream is lost, and the next one is ready to be told the history."""
    book.upstream_gone().to_client(LOST).dials().upstream_opens().upstream(created())
    return book.to_upstream("session.update").updated()


@pytest.mark.conformance("C-245", "C-244")
def test_a_response_that_had_called_a_function_is_not_asked_for_again() -> None:
    """The answer to the call will bring the next one."""
    book = ready(settings(functions=("f",))).upstream(*speech(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi.")).upstream(response_created())
    book.to_client("AgentThinking").upstream(*calls("resp_1", "call_1"))
    rebuilt(book.to_client(request("call_1")))
    book.to_upstream(*["conversation.item.create"] * 2).nothing()
    book.client(answer("call_1")).to_upstream("conversation.item.create", "response.create")


@pytest.mark.conformance("C-245")
def test_an_answer_that_was_not_heard_is_asked_for_again_once() -> None:
    book = ready().upstream(*speech(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi.")).upstream(response_created())
    rebuilt(book.to_client("AgentThinking")).to_upstream("conversation.item.create")
    book.to_upstream(like("response.create", response={"metadata": {"relay": "turn"}}))
    book.begins("resp_2").to_client("AgentThinking").upstream(response_done("resp_2"))
    rebuilt(book.to_client("LatencyReport")).to_upstream("conversation.item.create").nothing()


@pytest.mark.conformance("C-245")
@pytest.mark.parametrize("begun", [True, False])
def test_a_question_that_took_the_place_of_another_is_asked_again(begun: bool) -> None:
    """What is not wanted any more may still be asked for when the upstream is lost."""
    book = ready().client(types("Hi.")).to_client(user("Hi."))
    book.to_upstream("conversation.item.create").acks().to_upstream("response.create")
    book.upstream(*speech(), transcribed("item_u1", "Well?"))
    book.to_client("UserStartedSpeaking", user("Well?"))
    if begun:
        book.upstream(response_created()).to_client("AgentThinking")
    rebuilt(book).to_upstream(*["conversation.item.create"] * 2)
    book.to_upstream(like("response.create", response={"metadata": {"relay": "turn"}}))


@pytest.mark.conformance("C-245")
def test_an_answer_is_not_continued_where_that_is_off() -> None:
    book = answering(continue_after_loss=False)
    book.upstream_gone().to_client(
        LOST, like("ConversationText", role="assistant"), "AgentAudioDone"
    )
    book.dials().upstream_opens().upstream(created()).to_upstream("session.update").updated()
    book.to_upstream(*["conversation.item.create"] * 2).nothing()


@pytest.mark.conformance("C-245")
def test_an_answer_is_continued_before_what_is_written_in_the_meantime_is_told() -> None:
    """Or the upstream would go on with that, and answer it again when it is asked to."""
    book = (
        answering()
        .upstream_gone()
        .to_client(LOST, like("ConversationText", role="assistant"), "AgentAudioDone")
    )
    book.dials().client(types("And?")).upstream_opens().upstream(created())
    book.to_upstream("session.update").updated().to_client(user("And?"))
    book.to_upstream(*["conversation.item.create"] * 2)
    book.to_upstream(like("response.create", response={"metadata": {"relay": "continue"}}))
    book.to_upstream("conversation.item.create").acks().begins("resp_2").to_client("AgentThinking")
    book.upstream(response_done("resp_2")).to_client("LatencyReport")
    book.to_upstream(like("response.create", response={"metadata": {"relay": "inject_user"}}))


@pytest.mark.conformance("C-245")
def test_a_recital_is_not_taken_up_in_the_middle() -> None:
    greeting = settings(greeting="Welcome!")
    book = configuring(greeting).updated().to_client("SettingsApplied")
    book.to_upstream("response.create").begins("resp_1").upstream(voice("resp_1", "a", pcm(100)))
    book.to_client(like("ConversationText", content="Welcome!"), "AgentStartedSpeaking")
    book.audio_to_client().upstream_gone().to_client(LOST, "AgentAudioDone").dials()
    book.upstream_opens().upstream(created()).to_upstream("session.update").updated()
    book.to_upstream("conversation.item.create").nothing()


@pytest.mark.conformance("C-245")
def test_a_recital_of_which_nothing_was_heard_is_asked_for_again_once() -> None:
    book = configuring(settings(greeting="Welcome!")).updated().to_client("SettingsApplied")
    book.to_upstream("response.create").begins("resp_1")
    said = Captured()
    again = like("response.create", response={"instructions": said})
    rebuilt(book).to_upstream(again).begins("resp_2").upstream_gone()
    assert "Welcome!" in said.value
    book.to_client(LOST, warning("SPEAK_REQUEST_FAILED")).passes(1).dials()


@pytest.mark.conformance("C-245")
def test_a_lost_turn_whose_words_never_came_is_told() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking").upstream_gone()
    lost = like("Warning", description="The last turn was lost with the connection.")
    book.to_client(LOST, lost).dials()


@pytest.mark.conformance("C-188")
def test_what_was_asked_for_and_not_begun_is_asked_for_on_the_next_upstream() -> None:
    book = ready().client(types("Hi.")).to_client(user("Hi."))
    book.to_upstream("conversation.item.create").acks().to_upstream("response.create")
    rebuilt(book).to_upstream("conversation.item.create")
    book.to_upstream(like("response.create", response={"metadata": {"relay": "inject_user"}}))


@pytest.mark.conformance("C-212")
def test_what_nobody_wants_any_more_is_not_asked_for_on_the_next_upstream() -> None:
    book = configuring(settings(greeting="Welcome!")).updated().to_client("SettingsApplied")
    book.to_upstream("response.create").upstream(speech_started()).to_client("UserStartedSpeaking")
    rebuilt(book).passes(5).nothing()


# What the user has said, in no words yet.


def unwritten(book: Playbook, item: str = "item_u9", before_ms: int = 0) -> Playbook:
    """The user has said something that is not transcribed yet, `before_ms` after they were heard
    first."""
    book.upstream(speech_started(item)).to_client("UserStartedSpeaking")
    book.client_audio(pcm(600, 7), pcm(600, 8)).audio_to_upstream()
    book.upstream(speech_stopped(item, before_ms + 1200))
    return book.upstream(committed(item), *user_item(item)).nothing()


def as_heard(book: Playbook, leg: int) -> list[bytes]:
    items = (e["item"] for e in book.sent[leg] if e["type"] == "conversation.item.create")
    parts = [part for item in items for part in item.get("content", [])]
    return [base64.b64decode(part["audio"]) for part in parts if part["type"] == "input_audio"]


@pytest.mark.conformance("C-187", "C-245")
def test_a_turn_that_is_not_written_down_is_told_as_it_was_heard() -> None:
    book = rebuilt(unwritten(answered(ready()))).to_upstream(*["conversation.item.create"] * 3)
    book.to_upstream(like("response.create", response={"metadata": {"relay": "turn"}}))
    assert as_heard(book, 2) == [pcm(600, 7) + pcm(600, 8)]
    assert told(book, 2)[:2] == ["Hi.", "Hello."]


@pytest.mark.conformance("C-187", "C-245")
def test_so_it_is_told_to_the_upstream_after_the_next() -> None:
    book = rebuilt(unwritten(ready())).to_upstream("conversation.item.create", "response.create")
    book.upstream_gone().to_client(LOST).passes(1).dials().upstream_opens().upstream(created())
    book.to_upstream("session.update").updated()
    book.to_upstream("conversation.item.create", "response.create")
    assert as_heard(book, 3) == as_heard(book, 2) == [pcm(600, 7) + pcm(600, 8)]


@pytest.mark.conformance("C-187", "C-186")
def test_so_are_several_turns() -> None:
    book = unwritten(unwritten(ready()), "item_u10", 1200)
    book = rebuilt(book).to_upstream(*["conversation.item.create"] * 2, "response.create")
    assert as_heard(book, 2) == [pcm(600, 7) + pcm(600, 8)] * 2


@pytest.mark.conformance("C-187", "C-186")
def test_of_very_much_that_is_not_written_down_the_newest_is_told() -> None:
    book = unwritten(ready(held_audio_s=3.0))
    book = unwritten(unwritten(book, "item_u10", 1200), "item_u11", 2400)
    rebuilt(book).to_upstream(*["conversation.item.create"] * 2, "response.create")
    assert as_heard(book, 2) == [pcm(600, 7) + pcm(600, 8)] * 2


@pytest.mark.conformance("C-187", "C-245")
def test_a_turn_whose_commit_was_on_the_way_is_told_too() -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.client_audio(pcm(600, 7)).audio_to_upstream().upstream(speech_stopped())
    rebuilt(book).to_upstream("conversation.item.create", "response.create")
    assert as_heard(book, 2) == [pcm(600, 7)]


@pytest.mark.conformance("C-187", "C-186")
def test_a_turn_that_was_written_down_is_told_in_words() -> None:
    book = unwritten(ready()).upstream(transcribed("item_u9", "Well.")).to_client(user("Well."))
    rebuilt(book).to_upstream("conversation.item.create", "response.create")
    assert (told(book, 2), as_heard(book, 2)) == (["Well."], [])


@pytest.mark.conformance("C-187", "C-245")
def test_a_turn_that_nobody_is_to_write_down_is_told_as_it_was_heard() -> None:
    """With transcription off there are no words of any turn."""
    book = unwritten(ready(mapping=MappingOptions(transcription_model="")))
    book = rebuilt(book).to_upstream("conversation.item.create")
    book.to_upstream(like("response.create", response={"metadata": {"relay": "turn"}}))
    assert as_heard(book, 2) == [pcm(600, 7) + pcm(600, 8)]


@pytest.mark.conformance("C-187", "C-126")
def test_silence_that_the_upstream_commits_is_no_turn_to_be_told() -> None:
    book = ready(mapping=MappingOptions(transcription_model="")).client_audio(pcm(600, 0))
    timed_out = {"item_id": "item_u9", "audio_start_ms": 0, "audio_end_ms": 600}
    book.audio_to_upstream().upstream(like("input_audio_buffer.timeout_triggered", **timed_out))
    book.upstream(committed("item_u9"), *user_item("item_u9"), response_created())
    book.to_client("AgentThinking").upstream(response_done()).to_client("LatencyReport")
    rebuilt(book).nothing()


# Turns that follow each other closely, as in a recording that is sent at once.


def burst(*chunks: bytes) -> Playbook:
    """The user has said two things, a second each; the first is committed."""
    book = listening(ready(), *chunks or (pcm(1000, 7) + pcm(1000, 8),))
    book.upstream(speech_started("item_u8")).to_client("UserStartedSpeaking")
    return book.upstream(speech_stopped("item_u8", 1000), committed("item_u8"))


@pytest.mark.conformance("C-187")
@pytest.mark.parametrize("ms", [50, 400, 1000, 2000])
def test_what_came_behind_a_committed_turn_is_told_again(ms: int) -> None:
    audio = pcm(1000, 7) + pcm(1000, 8)
    chunks = [audio[at : at + 48 * ms] for at in range(0, len(audio), 48 * ms)]
    book = rebuilt(burst(*chunks)).to_upstream("conversation.item.create")
    book.audio_to_upstream(pcm(1000, 8)).to_upstream("response.create")
    assert as_heard(book, 2) == [pcm(1000, 7)]


@pytest.mark.conformance("C-187")
def test_so_it_is_when_the_commit_is_on_the_way() -> None:
    book = listening(ready(), pcm(1000, 7) + pcm(1000, 8)).upstream(speech_started("item_u8"))
    book.to_client("UserStartedSpeaking").upstream(speech_stopped("item_u8", 1000))
    book = rebuilt(book).to_upstream("conversation.item.create").audio_to_upstream(pcm(1000, 8))
    book.to_upstream("response.create")
    assert as_heard(book, 2) == [pcm(1000, 7)]


@pytest.mark.conformance("C-187")
def test_so_it_is_once_the_next_upstream_has_committed_the_first_turn() -> None:
    book = rebuilt(listening(ready(), pcm(1000, 7) + pcm(1000, 8)))
    book.audio_to_upstream(pcm(1000, 7) + pcm(1000, 8)).upstream(speech_started("item_u8"))
    book.to_client("UserStartedSpeaking").upstream(speech_stopped("item_u8", 1000))
    book = listening(book.passes(2).upstream(committed("item_u8")).passes(0.5), pcm(200, 9))
    book.upstream_gone().to_client(LOST).passes(1).dials().upstream_opens().upstream(created())
    book.to_upstream("session.update").updated().to_upstream("conversation.item.create")
    book.audio_to_upstream(pcm(1000, 8) + pcm(200, 9)).to_upstream("response.create")


@pytest.mark.conformance("C-187")
@pytest.mark.parametrize("ended_ms", [0, 1, 2000, 2500, 90_000])
def test_an_upstream_that_counts_in_another_way_has_committed_all(ended_ms: int) -> None:
    """Told twice would be worse than lost: nobody has said it twice."""
    book = answered(listening(ready(), pcm(1000, 6)))
    book = listening(book, pcm(1000, 7)).upstream(speech_started("item_u8"))
    book.to_client("UserStartedSpeaking").upstream(speech_stopped("item_u8", ended_ms))
    book = rebuilt(book.upstream(committed("item_u8")))
    book.to_upstream(*["conversation.item.create"] * 3, "response.create")
    assert as_heard(book, 2) == [pcm(1000, 7)]


# Ids that an upstream chose, and the next one chooses again.


def answered(book: Playbook, question: str = "Hi.", reply_text: str = "Hello.") -> Playbook:
    """A spoken turn and its spoken answer, of which all is heard; the same ids each time."""
    book.upstream(*speech(), transcribed("item_u1", question))
    book.to_client("UserStartedSpeaking", user(question))
    book.upstream(*reply(text=reply_text)).to_client("AgentThinking", "AgentStartedSpeaking")
    book.audio_to_client().to_client(assistant(reply_text), "AgentAudioDone", "LatencyReport")
    return book.passes(1)


def told(book: Playbook, leg: int) -> list[str]:
    """What an upstream was told of the conversation before it."""
    items = (e["item"] for e in book.sent[leg] if e["type"] == "conversation.item.create")
    return ["".join(part.get("text", "") for part in item.get("content", [])) for item in items]


@pytest.mark.conformance("C-242", "C-224")
def test_an_upstream_that_numbers_its_items_anew_is_understood() -> None:
    book = rebuilt(answered(ready(), "One?", "One.")).to_upstream(*["conversation.item.create"] * 2)
    book = rebuilt(answered(book, "Two?", "Two.")).to_upstream(*["conversation.item.create"] * 4)
    answered(book, "Three?", "Three.")
    assert told(book, 3) == ["One?", "One.", "Two?", "Two."]


@pytest.mark.conformance("C-242", "C-244")
def test_an_upstream_that_numbers_its_calls_anew_has_them_answered() -> None:
    """Also while a call of the upstream before it is open."""
    book = ready(settings(functions=("f", "g"))).upstream(response_created())
    book.to_client("AgentThinking").upstream(*calls("resp_1", "call_1"), response_done())
    rebuilt(book.to_client(request("call_1"))).to_upstream("conversation.item.create")
    book.upstream(response_created(), *calls("resp_1", "call_2")).to_client("AgentThinking")
    book.to_client(request("call_2")).client(answer("call_2"))
    book.to_upstream("conversation.item.create").client(answer("call_1"))
    book.to_upstream("conversation.item.create").acks().nothing()
    book.upstream(response_done()).to_upstream("response.create").begins("resp_2")
    book.to_client("AgentThinking").upstream(response_done("resp_2")).to_client("LatencyReport")
    rebuilt(book).to_upstream(*["conversation.item.create"] * 4)
    book.upstream(response_created(), *calls("resp_1", "call_2")).to_client("AgentThinking")
    book.to_client(request("call_2"))


@pytest.mark.conformance("C-242", "C-246")
def test_what_was_heard_of_two_items_with_one_id_is_told_of_each() -> None:
    book = answering("One two three four five.", ms=10_000).passes(2)
    book.upstream_gone().to_client(LOST, assistant("One two three four five."), "AgentAudioDone")
    book.dials().upstream_opens().upstream(created()).to_upstream("session.update").updated()
    book.to_upstream("conversation.item.create", "conversation.item.create", "response.create")
    book.begins("resp_1").to_client("AgentThinking").upstream(*message_added("resp_1", "item_a1"))
    book.upstream(heard("resp_1", "item_a1", "Six."), voice("resp_1", "item_a1", pcm(1000)))
    book.to_client("AgentStartedSpeaking").audio_to_client()
    book.passes(3).upstream(speech_started()).audio_dropped().to_client("UserStartedSpeaking")
    book.to_upstream(like("conversation.item.truncate", item_id="item_a1", audio_end_ms=0))
    book.upstream_gone().to_client(LOST).passes(1).dials().upstream_opens().upstream(created())
    book.to_upstream("session.update").updated().to_upstream(*["conversation.item.create"] * 2)
    assert told(book, 3) == ["Hi.", "One two"]


@pytest.mark.conformance("C-245", "C-242")
@pytest.mark.parametrize("item", ["item_u1", ""])
def test_each_turn_is_asked_again_once_whatever_its_item_is_called(item: str) -> None:
    again = like("response.create", response={"metadata": {"relay": "turn"}})
    book = ready()
    for turn in range(1, 4):
        book.upstream_text(*(nameless(event, item) for event in speech()))
        book.to_client("UserStartedSpeaking")
        book.upstream_text(nameless(transcribed("item_u1", f"Turn {turn}."), item))
        book.to_client(user(f"Turn {turn}."))
        rebuilt(book).to_upstream(*["conversation.item.create"] * turn, again)
        assert told(book, turn + 1) == [f"Turn {n}." for n in range(1, turn + 1)]
        book.begins("resp_1").to_client("AgentThinking")
        book.upstream(response_done()).to_client("LatencyReport")


@pytest.mark.conformance("C-186")
def test_turns_without_names_are_turns_of_their_own() -> None:
    book = ready()
    for question in ("One?", "Two?"):
        book.upstream_text(*(nameless(event, "") for event in speech()))
        book.to_client("UserStartedSpeaking")
        book.upstream_text(nameless(transcribed("item_u1", question), ""))
        book.to_client(user(question)).upstream(*reply(f"resp_{question}", f"item_{question}"))
        book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
        book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport").passes(1)
    rebuilt(book).to_upstream(*["conversation.item.create"] * 4)
    assert told(book, 2) == ["One?", "Hello.", "Two?", "Hello."]


def nameless(event: Wire, item: str) -> dict[str, Any]:
    """The event with another name for the user's item, or none."""
    named = {key: value for key, value in event.items() if key != "item_id"}
    if "item" in named:
        named["item"] = {**named["item"], "id": item}
    return named | ({"item_id": item} if item else {})


# What the user says, and no upstream has noticed yet.

ONSET = pcm(400, 7)


def listening(book: Playbook, *chunks: bytes) -> Playbook:
    """The user begins to speak; the live upstream is told, and has not noticed."""
    return book.client_audio(*chunks).audio_to_upstream(b"".join(chunks))


@pytest.mark.conformance("C-187", "C-240")
def test_who_begins_to_speak_just_before_a_planned_switch_is_heard_from_the_beginning() -> None:
    book = lasting(300).passes(180).dials()
    configured(listening(book, ONSET), 2).hangs_up(1).audio_to_upstream(ONSET)
    book.client_audio(pcm(400, 8)).audio_to_upstream(pcm(400, 8)).upstream(speech_started())
    book.to_client("UserStartedSpeaking")


@pytest.mark.conformance("C-187", "C-073")
def test_so_before_a_change_of_the_model() -> None:
    book = ready().client(think()).dials()
    book = configured(listening(book, ONSET), 2).hangs_up(1).to_client("ThinkUpdated")
    book.audio_to_upstream(ONSET)


@pytest.mark.conformance("C-187")
def test_who_begins_to_speak_just_before_a_loss_is_heard_from_the_beginning() -> None:
    rebuilt(listening(ready(), ONSET)).audio_to_upstream(ONSET)


@pytest.mark.conformance("C-187")
def test_what_comes_faster_than_it_is_spoken_is_heard_whole() -> None:
    """As when a recording is sent: no upstream can have noticed any of it."""
    burst = [pcm(200, n) for n in range(1, 9)]
    rebuilt(listening(ready(), *burst)).audio_to_upstream(b"".join(burst))
    book = listening(ready(), *burst).upstream(speech_started()).to_client("UserStartedSpeaking")
    rebuilt(book).audio_to_upstream(b"".join(burst))


@pytest.mark.conformance("C-187")
def test_a_frame_longer_than_the_preroll_is_kept() -> None:
    rebuilt(listening(ready(), pcm(1000, 7))).audio_to_upstream(pcm(1000, 7))


@pytest.mark.conformance("C-187")
def test_of_a_frame_longer_than_may_be_kept_the_end_is_kept() -> None:
    book = listening(ready(held_audio_s=1.0), pcm(600, 6), pcm(600, 7) + pcm(900, 8))
    rebuilt(book).audio_to_upstream(pcm(100, 7) + pcm(900, 8))


@pytest.mark.conformance("C-187", "C-036")
def test_so_it_is_while_no_upstream_is_live() -> None:
    book = ready(held_audio_s=1.0).upstream_gone().to_client(LOST).dials()
    book.client_audio(pcm(600, 6), pcm(600, 7) + pcm(900, 8))
    dropped = [n.fields["bytes"] for n in book.logged if n.event == "held_audio_dropped"]
    assert dropped == [48 * 1100]
    book.upstream_opens().upstream(created()).to_upstream("session.update").updated()
    book.audio_to_upstream(pcm(100, 7) + pcm(900, 8))


@pytest.mark.conformance("C-187")
def test_where_none_may_be_kept_none_is() -> None:
    book = listening(ready(held_audio_s=0.0), pcm(600)).upstream_gone().to_client(LOST).dials()
    book.client_audio(pcm(600)).upstream_opens().upstream(created())
    book.to_upstream("session.update").updated().passes(1).nothing()


@pytest.mark.conformance("C-187")
def test_of_what_has_long_been_heard_little_is_told_again() -> None:
    book = listening(ready(), *(pcm(200, n) for n in range(1, 9)))
    listening(book.passes(0.7), pcm(200, 9))
    listening(book.passes(0.2), pcm(200, 10))
    rebuilt(book).audio_to_upstream(b"".join(pcm(200, n) for n in range(7, 11)))


@pytest.mark.conformance("C-187")
def test_what_is_in_a_turn_already_is_not_told_again() -> None:
    """A new upstream would hear it as another turn."""
    book = lasting(300).passes(180).dials().client_audio(ONSET).audio_to_upstream()
    answered(book)
    configured(listening(book, pcm(100, 8)), 2).hangs_up(1)
    book.to_upstream(*["conversation.item.create"] * 2).audio_to_upstream(pcm(100, 8))


# Where the client says when a turn ends.

COMMIT = "input_audio_buffer.commit"
DICTATED = [pcm(500, n) for n in range(1, 7)]


def dictating(**opening: Any) -> Playbook:
    """Without turn detection; the user says something for three seconds."""
    book = ready(mapping=MappingOptions(turns=TurnOptions(kind="off")), **opening)
    for chunk in DICTATED:
        listening(book, chunk).passes(0.5)
    return book


@pytest.mark.conformance("C-187", "C-116")
def test_what_is_not_committed_yet_is_told_again() -> None:
    book = rebuilt(dictating()).audio_to_upstream(b"".join(DICTATED))
    book.client("ForceEndTurn").to_upstream(COMMIT).upstream(committed(), *user_item())
    book.to_upstream("response.create")


@pytest.mark.conformance("C-187", "C-116")
def test_so_it_is_at_a_planned_switch() -> None:
    book = dictating().client(think()).dials()
    book = configured(book, 2).hangs_up(1).to_client("ThinkUpdated")
    book.audio_to_upstream(b"".join(DICTATED))


@pytest.mark.conformance("C-187")
def test_of_a_long_turn_the_newest_is_told_again() -> None:
    rebuilt(dictating(held_audio_s=2.0)).audio_to_upstream(b"".join(DICTATED[2:]))


@pytest.mark.conformance("C-187", "C-117")
def test_a_commit_that_was_lost_is_made_again() -> None:
    book = dictating().client("ForceEndTurn").to_upstream(COMMIT)
    rebuilt(book).audio_to_upstream(b"".join(DICTATED)).to_upstream(COMMIT).passes(1).nothing()
    book.upstream(committed(), *user_item()).to_upstream("response.create")


@pytest.mark.conformance("C-187", "C-116")
def test_it_is_padded_again() -> None:
    book = ready(mapping=MappingOptions(turns=TurnOptions(kind="off")))
    listening(book, pcm(60)).client("ForceEndTurn").audio_to_upstream(pcm(40, 0))
    book.to_upstream(COMMIT)
    rebuilt(book).audio_to_upstream(pcm(60) + pcm(40, 0)).to_upstream(COMMIT)


@pytest.mark.conformance("C-187", "C-117")
def test_what_is_said_behind_a_commit_is_no_part_of_it() -> None:
    book = dictating().client("ForceEndTurn").to_upstream(COMMIT)
    book = listening(book, ONSET).upstream(committed(), *user_item())
    book = rebuilt(book.to_upstream("response.create")).to_upstream("conversation.item.create")
    book.audio_to_upstream(ONSET).to_upstream("response.create")
    assert as_heard(book, 2) == [b"".join(DICTATED)]
    book.begins("resp_1").to_client("AgentThinking").client("ForceEndTurn").to_upstream(COMMIT)


@pytest.mark.conformance("C-187", "C-117")
def test_a_turn_that_the_client_ended_is_ended_on_the_next_upstream_too() -> None:
    """With turn detection as well: no more audio may come that would let it notice the pause."""
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    listening(book, ONSET).client("ForceEndTurn").to_upstream(COMMIT)
    rebuilt(book).audio_to_upstream(ONSET).to_upstream(COMMIT).upstream(speech_started())
    book.to_client("UserStartedSpeaking").upstream(committed(), *user_item())
    book.to_upstream("response.create")


@pytest.mark.conformance("C-187", "C-179")
def test_a_commit_of_nothing_is_not_made_again() -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    book.client("ForceEndTurn").to_upstream(COMMIT)
    rebuilt(book).passes(30).nothing()


# Words that are still being written down.


def heard_out(book: Playbook) -> Playbook:
    """A spoken turn was answered, all of the answer was heard, and its words did not come yet."""
    book.upstream(*speech("item_u9")).to_client("UserStartedSpeaking")
    book.upstream(*reply(text="Hello.")).to_client("AgentThinking", "AgentStartedSpeaking")
    book.audio_to_client().passes(1.5)
    return book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")


@pytest.mark.conformance("C-185", "C-121")
def test_a_planned_switch_waits_for_the_users_words() -> None:
    """Only the upstream that heard them writes them down."""
    book = configured(heard_out(lasting(300).passes(180).dials()), 2).passes(2).nothing()
    book.upstream(transcribed("item_u9", "Late."), leg=1).to_client(user("Late.")).hangs_up(1)
    book.to_upstream(*["conversation.item.create"] * 2)
    assert told(book, 2) == ["Late.", "Hello."]


@pytest.mark.conformance("C-185", "C-125")
def test_words_that_will_not_come_are_not_waited_for() -> None:
    book = configured(heard_out(lasting(300).passes(180).dials()), 2).passes(2).nothing()
    book.upstream(untranscribed("item_u9"), leg=1).hangs_up(1)
    book.to_upstream("conversation.item.create")


@pytest.mark.conformance("C-185")
def test_words_that_do_not_come_are_waited_for_for_a_while() -> None:
    book = configured(heard_out(lasting(300).passes(180).dials()), 2).passes(3.4).nothing()
    book.passes(0.2).hangs_up(1).to_upstream("conversation.item.create")


def at_the_end(book: Playbook | None = None) -> Playbook:
    """The session is about to end, and the other upstream stands by; the user speaks for long."""
    book = (book or lasting(300)).passes(180).dials()
    book.upstream(speech_started("item_u9"), leg=1).to_client("UserStartedSpeaking")
    return configured(book, 2).passes(107)


ENDS = [speech_stopped("item_u9"), committed("item_u9"), *user_item("item_u9")]


def switched() -> Playbook:
    """...and then, two seconds after that was committed and answered, it is switched to."""
    book = at_the_end().passes(1).upstream(*ENDS, *reply(text="Hello."), leg=1)
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client().passes(1.9)
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport").nothing()
    return book.passes(0.2).to_upstream("conversation.item.create", leg=2)


@pytest.mark.conformance("C-185", "C-121")
def test_the_end_of_the_session_does_not_wait_for_words_but_they_are_told() -> None:
    book = switched().upstream(transcribed("item_u9", "Late."), leg=1).to_client(user("Late."))
    rebuilt(book.hangs_up(1).passes(30)).to_upstream(*["conversation.item.create"] * 2)
    assert told(book, 3) == ["Late.", "Hello."]


@pytest.mark.conformance("C-185", "C-121")
def test_so_are_those_of_two_turns() -> None:
    book = at_the_end().upstream(*ENDS, *speech("item_u8"), leg=1).to_client("UserStartedSpeaking")
    book.passes(4).to_client(warning("THINK_REQUEST_FAILED"))
    book.upstream(transcribed("item_u9", "Two."), leg=1).to_client(user("Two.")).nothing()
    book.upstream(transcribed("item_u9", "Two."), leg=1).nothing()
    book.upstream(transcribed("item_u8", "One."), leg=1).to_client(user("One.")).hangs_up(1)


@pytest.mark.conformance("C-185", "C-138")
def test_the_words_that_are_still_to_come_are_told_before_the_answer() -> None:
    book = at_the_end().client_audio(pcm(1000)).audio_to_upstream(leg=1)
    book.upstream(*ENDS, leg=1).passes(4)
    book.to_upstream("conversation.item.create", "response.create", leg=2).begins("resp_2", leg=2)
    book.to_client("AgentThinking").upstream(*reply("resp_2", text="Hello.")[1:], leg=2)
    book.to_client("AgentStartedSpeaking").audio_to_client()
    book.upstream(transcribed("item_u9", "Late."), leg=1).hangs_up(1)
    book.to_client(user("Late."), assistant("Hello."), "AgentAudioDone", "LatencyReport")


@pytest.mark.conformance("C-185", "C-123")
def test_so_are_interim_words() -> None:
    book = opened(client_idle_s=9000.0, component=True).client(settings()).formats().dials()
    book.upstream_opens().upstream(created(int(WALL) + 300)).to_upstream("session.update")
    book = at_the_end(book.updated().to_client("SettingsApplied"))
    book.upstream(*ENDS, leg=1).to_client("UtteranceEnd").passes(4)
    book.to_client(warning("THINK_REQUEST_FAILED"))
    book.upstream(transcribing("item_u9", "La"), leg=1)
    book.to_client(like("Transcript", is_final=False)).nothing()
    book.upstream(transcribed("item_u9", "Late."), leg=1).hangs_up(1)
    book.to_client(user("Late."), like("Transcript", is_final=True))


@pytest.mark.conformance("C-185", "C-125")
def test_the_upstream_before_is_hung_up_when_there_will_be_no_words() -> None:
    switched().upstream(untranscribed("item_u9"), leg=1).hangs_up(1)


@pytest.mark.conformance("C-185")
def test_words_of_the_upstream_before_are_waited_for_for_a_while() -> None:
    book = switched().passes(2.8).nothing().passes(0.2).hangs_up(1)
    book.upstream_text(transcribed("item_u9", "Late."), leg=1).nothing()


@pytest.mark.conformance("C-185")
def test_the_upstream_before_may_go_by_itself() -> None:
    """Whoever answers does not wait for its words any more."""
    book = switched().upstream_gone(leg=1).passes(0.1).nothing()
    book.upstream(*speech("item_u1"), transcribed("item_u1", "Hi."), leg=2)
    book.to_client("UserStartedSpeaking", user("Hi.")).upstream(*reply("resp_2", "a"), leg=2)
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport").passes(10).nothing()


@pytest.mark.conformance("C-185", "C-242")
def test_nothing_but_words_is_heard_of_the_upstream_before() -> None:
    book = switched().upstream(*speech("item_u7"), *reply("resp_7", "item_a7"), leg=1).nothing()
    book.upstream(transcribed("item_u7", "No."), failure("odd"), leg=1).nothing()
    book.upstream_text("nonsense", {"type": "odd"}, leg=1).nothing()


@pytest.mark.conformance("C-185")
def test_the_upstream_before_does_not_go_on_with_its_answer() -> None:
    book = at_the_end().client_audio(pcm(1000)).audio_to_upstream(leg=1)
    book.upstream(*ENDS, response_created("resp_9"), leg=1).to_client("AgentThinking").passes(4)
    cancel = like("response.cancel", response_id="resp_9")
    book.to_upstream(cancel, leg=1)
    book.to_upstream("conversation.item.create", "response.create", leg=2)


@pytest.mark.conformance("C-185")
def test_a_turn_whose_commit_is_on_the_way_gets_its_words_from_the_upstream_before() -> None:
    book = at_the_end().client_audio(pcm(1000)).audio_to_upstream(leg=1)
    book.passes(2.9).upstream(ENDS[0], leg=1).passes(0.2)
    book.to_upstream("conversation.item.create", "response.create", leg=2)
    book.upstream(*ENDS[1:], leg=1).nothing()
    book.upstream(transcribed("item_u9", "Late."), leg=1).to_client(user("Late.")).hangs_up(1)


@pytest.mark.conformance("C-185", "C-188")
def test_the_words_come_though_the_next_upstream_is_lost() -> None:
    book = switched().upstream_gone(leg=2).to_client(LOST).passes(0.6).dials()
    book.upstream(transcribed("item_u9", "Late."), leg=1).to_client(user("Late.")).hangs_up(1)
    configured(book, 3).to_upstream(*["conversation.item.create"] * 2)
    assert told(book, 3) == ["Late.", "Hello."]


@pytest.mark.conformance("C-185")
@pytest.mark.parametrize("says_more", [True, False])
def test_no_more_than_one_upstream_is_listened_to_for_words(says_more: bool) -> None:
    """The one whose session ends soon after it has taken over is the newest to have heard some."""
    book = lasting(300).passes(180).dials().upstream(speech_started("item_u9"), leg=1)
    book.to_client("UserStartedSpeaking").upstream_opens(2).passes(0.1)
    book.upstream(created(int(WALL) + 303), leg=2).to_upstream("session.update", leg=2)
    book.updated(leg=2).passes(108.9).upstream(*ENDS, leg=1).passes(2)
    book.to_client(warning("THINK_REQUEST_FAILED")).dials()
    configured(book, 3)
    if says_more:
        book.upstream(*speech("item_u1"), leg=2).to_client("UserStartedSpeaking").passes(2.1)
        book.to_client(warning("THINK_REQUEST_FAILED")).hangs_up(1)
        book.upstream(transcribed("item_u1", "Two."), leg=2).to_client(user("Two.")).hangs_up(2)
    else:
        book.upstream(speech_started("item_u1"), leg=2).to_client("UserStartedSpeaking").passes(2.1)
        book.hangs_up(2).upstream(transcribed("item_u9", "One."), leg=1)
        book.to_client(user("One.")).hangs_up(1)


@pytest.mark.conformance("C-190", "C-185")
def test_a_client_that_goes_leaves_no_upstream_behind() -> None:
    switched().client_lost().hangs_up(2).hangs_up(1)


@pytest.mark.conformance("C-187", "C-121")
def test_an_upstream_that_writes_down_what_it_is_told_is_understood() -> None:
    """The API does not, but others may."""
    book = rebuilt(unwritten(ready())).to_upstream("conversation.item.create", "response.create")
    item = book.last("conversation.item.create")["item"]["id"]
    book.upstream(transcribed(item, "Well.")).to_client(user("Well."))
    book.upstream_gone().to_client(LOST).passes(1).dials().upstream_opens().upstream(created())
    book.to_upstream("session.update").updated()
    book.to_upstream("conversation.item.create", "response.create")
    assert told(book, 3) == ["Well."]
