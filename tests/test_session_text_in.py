"""What the user types: InjectUserMessage, and the one response each of them gets."""

from typing import Any

import pytest

from tests.expected import ANY, Captured, Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    answering,
    assistant,
    cancelled,
    committed,
    ends,
    history,
    message,
    ready,
    response_created,
    response_done,
    settings,
    speech_started,
    speech_stopped,
    types,
    user,
    user_item,
    warning,
)


def typed(text: str) -> Wire:
    """The item that goes upstream."""
    content = [{"type": "input_text", "text": text}]
    return like(
        "conversation.item.create",
        item={"type": "message", "role": "user", "content": content, "id": ANY},
    )


def waiting(text: str = "Hi.", book: Playbook | None = None, **opening: Any) -> Playbook:
    """The user typed; the item is not acknowledged yet."""
    return (
        (book or ready(**opening))
        .client(types(text))
        .to_client(user(text))
        .to_upstream(typed(text))
    )


def asked(text: str = "Hi.", book: Playbook | None = None, **opening: Any) -> Playbook:
    """The user typed, and our response.create is under way."""
    return waiting(text, book, **opening).acks().to_upstream("response.create")


@pytest.mark.conformance("C-087", "C-088")
def test_a_typed_message_becomes_one_item_and_is_echoed() -> None:
    ready().client(types("Hi.")).to_client(user("Hi.")).to_upstream(typed("Hi.")).nothing()


@pytest.mark.conformance("C-143")
def test_a_typed_message_is_recorded() -> None:
    (
        ready(settings(history=True))
        .client(types("Hi."))
        .to_client(user("Hi."), history("user", "Hi."))
        .to_upstream(typed("Hi."))
    )


@pytest.mark.conformance("C-089", "C-090")
def test_one_response_is_asked_for_once_the_item_is_acknowledged() -> None:
    (
        waiting()
        .passes(5)
        .nothing()
        .acks()
        .to_upstream(like("response.create", event_id=ANY, response={"metadata": {"relay": ANY}}))
        .nothing()
    )


@pytest.mark.parametrize("what", ["added", "created", "done"])
@pytest.mark.conformance("C-089", "C-090")
def test_any_one_kind_of_acknowledgement_will_do(what: str) -> None:
    book = waiting()
    item = book.last("conversation.item.create")["item"]
    placed = like(f"conversation.item.{what}", item=item)
    book.upstream(placed).to_upstream("response.create").upstream(placed).nothing()


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.conformance("C-091")
def test_the_acknowledgement_of_another_item_does_not_count(role: str) -> None:
    part = {"type": "input_text" if role == "user" else "output_text", "text": "Else."}
    other = message("item_x", role, [part])
    (
        waiting()
        .upstream(like("conversation.item.added", item=other))
        .upstream(like("conversation.item.done", item=other))
        .nothing()
        .acks()
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-091")
def test_the_late_acknowledgement_of_an_older_item_does_not_count() -> None:
    older, newer = Captured("older"), Captured("newer")
    book = ready().client(types("One."), types("Two.")).to_client(user("One."), user("Two."))
    book.to_upstream(like("conversation.item.create", item={"id": older}))
    book.to_upstream(like("conversation.item.create", item={"id": newer}))
    assert older.value != newer.value
    book.upstream(like("conversation.item.added", item=book.sent[1][1]["item"]))
    book.to_upstream("response.create").begins("resp_1").to_client("AgentThinking")
    book.upstream(like("conversation.item.done", item=book.sent[1][1]["item"])).nothing()
    book.upstream(response_done("resp_1")).to_client("LatencyReport").nothing()


@pytest.mark.conformance("C-091")
def test_an_unknown_id_counts_if_the_item_is_ours_in_all_but_its_id() -> None:
    """A server that renames items (4.4)."""
    renamed = message("item_x", "user", [{"type": "input_text", "text": "Hi."}])
    (
        waiting()
        .upstream(like("conversation.item.added", item=renamed))
        .to_upstream("response.create")
        .upstream(like("conversation.item.done", item=renamed))
        .nothing()
    )


@pytest.mark.conformance("C-092")
def test_while_a_response_is_live_the_next_one_waits() -> None:
    (
        answering()
        .client(types("And?"))
        .to_client(user("And?"))
        .to_upstream(typed("And?"))
        .acks()
        .nothing()
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-092")
def test_a_typed_message_does_not_cut_the_agents_speech() -> None:
    waiting("And?", answering()).acks().passes(0.5).nothing()


@pytest.mark.conformance("C-092", "C-151")
def test_a_typed_message_may_cut_the_agents_speech() -> None:
    (
        answering(ms=1000, inject_user_interrupts=True)
        .passes(0.4)
        .client(types("And?"))
        .audio_dropped()
        .to_client(assistant("Hello."), user("And?"))
        .to_upstream(
            like("response.cancel", response_id="resp_1"),
            like("conversation.item.truncate", item_id="item_a1", audio_end_ms=400),
            typed("And?"),
        )
        .acks()
        .nothing()
        .upstream(cancelled("resp_1", "client_cancelled"))
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-093")
def test_two_messages_get_two_responses_in_order() -> None:
    book = ready().client(types("One."), types("Two."))
    book.to_client(user("One."), user("Two.")).to_upstream(typed("One."), typed("Two."))
    book.acks().to_upstream("response.create").nothing()
    book.begins("resp_1").to_client("AgentThinking").nothing()
    book.upstream(response_done("resp_1")).to_client("LatencyReport")
    book.to_upstream("response.create").begins("resp_2").to_client("AgentThinking")
    book.upstream(response_done("resp_2")).to_client("LatencyReport").passes(20).nothing()


@pytest.mark.conformance("C-094", "C-178")
def test_a_refused_item_is_warned_of_and_gets_no_response() -> None:
    (
        waiting()
        .refuses("conversation.item.create")
        .to_client(warning("THINK_REQUEST_FAILED"))
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-094")
def test_a_refused_item_does_not_hold_up_the_next() -> None:
    book = ready().client(types("One.")).to_client(user("One.")).to_upstream(typed("One."))
    book.refuses("conversation.item.create").to_client(warning("THINK_REQUEST_FAILED"))
    book.client(types("Two.")).to_client(user("Two.")).to_upstream(typed("Two."))
    book.upstream(
        like("conversation.item.done", item=book.last("conversation.item.create")["item"])
    )
    book.to_upstream("response.create")


@pytest.mark.conformance("C-091", "C-094")
def test_a_refused_item_is_not_acknowledged_by_its_likeness() -> None:
    """The renamed item is the second one's, so that is the one that gets its response."""
    renamed = message("item_x", "user", [{"type": "input_text", "text": "Hi."}])
    book = waiting("Hi.").refuses("conversation.item.create")
    waiting("Hi.", book.to_client(warning("THINK_REQUEST_FAILED")))
    book.upstream(like("conversation.item.added", item=renamed)).to_upstream("response.create")


@pytest.mark.conformance("C-095", "C-179")
def test_a_response_of_the_servers_own_wins_and_ours_is_asked_for_again() -> None:
    (
        asked()
        .upstream(response_created("resp_1"))
        .to_client("AgentThinking")
        .refuses("response.create", "conversation_already_has_active_response")
        .nothing()
        .passes(1)
        .nothing()
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .to_upstream("response.create")
        .begins("resp_2")
        .to_client("AgentThinking")
        .upstream(response_done("resp_2"))
        .to_client("LatencyReport")
        .passes(20)
        .nothing()
    )


@pytest.mark.conformance("C-095")
def test_the_refusal_may_come_before_the_other_responses_created() -> None:
    (
        asked()
        .refuses("response.create", "conversation_already_has_active_response")
        .nothing()
        .upstream(response_created("resp_1"))
        .to_client("AgentThinking")
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .to_upstream("response.create")
    )


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
@pytest.mark.conformance("C-096")
def test_an_empty_message_is_dropped(text: str) -> None:
    waiting("Hi.", ready().client(types(text)).nothing())


@pytest.mark.conformance("C-088")
def test_a_message_keeps_its_own_words() -> None:
    text = 'Zürich "naïve" \u2028 \U0001f600 \\ {}'
    ready().client(types(text)).to_client(user(text)).to_upstream(typed(text))


@pytest.mark.conformance("C-092")
def test_a_response_that_never_comes_is_asked_for_once_more() -> None:
    (
        asked()
        .passes(9.9)
        .nothing()
        .passes(0.2)
        .to_upstream("response.create")
        .passes(9.9)
        .nothing()
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-092")
def test_a_response_that_never_came_does_not_block_the_next() -> None:
    book = asked().passes(10.1).to_upstream("response.create").passes(10.1)
    asked("And?", book)


# While the user speaks.


@pytest.mark.conformance("C-215")
def test_typed_during_speech_item_and_echo_go_at_once_and_the_vads_response_answers_it() -> None:
    (
        waiting("Hi.", ready().upstream(speech_started()).to_client("UserStartedSpeaking"))
        .acks()
        .nothing()
        .upstream(speech_stopped(), committed(), *user_item(), response_created("resp_1"))
        .to_client("AgentThinking")
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .passes(30)
        .nothing()
    )


@pytest.mark.conformance("C-215")
def test_a_vad_response_created_before_the_ack_does_not_answer_it() -> None:
    (
        waiting("Hi.", ready().upstream(speech_started()).to_client("UserStartedSpeaking"))
        .upstream(speech_stopped(), committed(), *user_item(), response_created("resp_1"))
        .to_client("AgentThinking")
        .acks()
        .nothing()
        .upstream(response_done("resp_1"))
        .to_client("LatencyReport")
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-206", "C-215")
def test_after_speech_that_gets_no_response_the_typed_message_gets_its_own() -> None:
    (
        waiting("Hi.", ready().upstream(speech_started()).to_client("UserStartedSpeaking"))
        .acks()
        .upstream(speech_stopped(), committed(), *user_item())
        .passes(9.9)
        .nothing()
        .passes(0.2)
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-206")
def test_a_commit_without_speech_stopped_ends_the_turn_as_well() -> None:
    (
        waiting("Hi.", ready().upstream(speech_started()).to_client("UserStartedSpeaking"))
        .acks()
        .upstream(committed(), *user_item())
        .passes(10.1)
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-215")
def test_the_33rd_waiting_message_is_dropped_with_a_warning() -> None:
    book = ready().upstream(speech_started()).to_client("UserStartedSpeaking")
    for n in range(32):
        book.client(types(f"{n}")).to_client(user(f"{n}")).to_upstream(typed(f"{n}"))
    book.client(types("32")).to_client(warning("THINK_REQUEST_FAILED")).nothing()


@pytest.mark.conformance("C-215")
def test_a_response_interrupted_by_speech_leaves_the_next_message_its_own() -> None:
    """The answer to one typed message is cut; another one typed meanwhile is still answered."""
    book = asked("One.").begins("resp_1").to_client("AgentThinking")
    book.upstream(speech_started()).audio_dropped().to_client("UserStartedSpeaking")
    book.upstream(cancelled("resp_1"))
    waiting("Two.", book).acks()
    book.upstream(speech_stopped(), committed(), *user_item()).passes(10.1)
    book.to_upstream("response.create")
