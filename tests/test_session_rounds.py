"""Rounds of calls that do not go by the book (the rest is in test_session_functions)."""

from typing import Any

import pytest

from tests.expected import ANY, Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    answer,
    calls,
    cancelled,
    committed,
    created,
    function_call,
    item_done,
    ready,
    request,
    response_created,
    response_done,
    settings,
    speech_started,
    speech_stopped,
    transcribed,
    types,
    user,
    user_item,
    warning,
)

FUNCTIONS = settings(functions=("f", "g"))


def output(call: str, value: Any = "42") -> Wire:
    item = {"type": "function_call_output", "call_id": call, "output": value, "id": ANY}
    return like("conversation.item.create", item=item)


def calling(*ids: str, given: Wire = FUNCTIONS, **opening: Any) -> Playbook:
    """A response is calling `f`, once for each id."""
    book = ready(given, **opening).upstream(response_created()).to_client("AgentThinking")
    for index, call in enumerate(ids):
        book.upstream(*calls("resp_1", call, index=index)).to_client(request(call))
    return book


@pytest.mark.conformance("C-224")
def test_a_call_that_comes_again_as_another_item_is_ignored() -> None:
    """While it is open, and when its round is over."""
    again = {**function_call("call_1"), "id": "item_other"}
    book = calling("call_1").upstream(*item_done("resp_1", again, 1)).nothing()
    book.upstream(response_done()).client(answer("call_1")).to_upstream(output("call_1"))
    book.to_upstream("response.create").begins("resp_2").to_client("AgentThinking")
    book.upstream(*item_done("resp_2", {**again, "id": "item_third"})).nothing()
    book.upstream(response_done("resp_2")).to_client("LatencyReport").passes(50).nothing()


@pytest.mark.conformance("C-175", "C-158")
def test_a_batch_without_a_call_for_the_client_is_not_announced() -> None:
    book = calling(batch_function_calls=True).upstream(*calls("resp_1", "call_1", "unknown"))
    book.to_upstream(output("call_1", ANY)).upstream(response_done())
    book.to_upstream("response.create").nothing()


@pytest.mark.conformance("C-228")
def test_more_calls_than_may_be_open_are_answered_with_an_error_and_forgotten() -> None:
    """The model is asked once more when the round is over, and the next has room again."""
    refused = output("call_3", '{"error":"too many calls are open"}')
    book = calling("call_1", "call_2", max_open_calls=2)
    book.upstream(*calls("resp_1", "call_3", index=2)).to_upstream(refused)
    book.notes("call_rejected", call="call_3", reason="too many calls are open")
    book.upstream(*item_done("resp_1", function_call("call_3"), 2)).nothing()
    book.upstream(response_done()).client(answer("call_1"), answer("call_3"))
    book.to_upstream(output("call_1")).client(answer("call_2")).to_upstream(output("call_2"))
    book.to_upstream("response.create").begins("resp_2").to_client("AgentThinking")
    book.upstream(*calls("resp_2", "call_4")).to_client(request("call_4"))
    book.upstream_gone().to_client(warning("THINK_REQUEST_FAILED")).dials().upstream_opens()
    book.upstream(created()).to_upstream("session.update").updated()
    told = [f"call_{n}" for n in (1, 2, 1, 2, 4)]
    book.to_upstream(*(like("conversation.item.create", item={"call_id": n}) for n in told))


@pytest.mark.conformance("C-228", "C-165")
def test_a_response_that_may_call_nothing_more_is_followed_by_another() -> None:
    book = calling("call_1", max_open_calls=1).upstream(response_done()).client(types("Hi."))
    book.to_client(user("Hi.")).to_upstream("conversation.item.create").acks()
    book.to_upstream("response.create").begins("resp_2").to_client("AgentThinking")
    book.upstream(*calls("resp_2", "call_2")).to_upstream(output("call_2", ANY))
    book.upstream(response_done("resp_2")).to_upstream("response.create")


@pytest.mark.conformance("C-228", "C-174")
def test_calls_that_were_not_kept_are_not_recorded() -> None:
    given = settings(functions=("f",), history=True)
    book = ready(given, max_open_calls=0).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).to_upstream(output("call_1", ANY))
    book.upstream(response_done()).to_upstream("response.create")


@pytest.mark.conformance("C-228", "C-173")
def test_a_response_that_is_cancelled_is_not_followed_by_another() -> None:
    book = calling("call_1", max_open_calls=1)
    book.upstream(*calls("resp_1", "call_2")).to_upstream(output("call_2", ANY))
    book.upstream(cancelled()).to_client("FunctionCallCancelled")
    book.to_upstream(output("call_1", ANY)).passes(5).nothing()


@pytest.mark.conformance("C-173")
def test_calls_that_were_not_announced_are_cancelled_in_silence() -> None:
    book = calling(batch_function_calls=True).upstream(*calls("resp_1", "call_1"))
    book.upstream(cancelled()).to_upstream(output("call_1", '{"error":"cancelled"}'))
    book.passes(5).nothing()


@pytest.mark.conformance("C-173", "C-165")
def test_a_call_that_was_answered_before_its_response_was_cancelled_stays_answered() -> None:
    book = calling("call_1").client(answer("call_1")).to_upstream(output("call_1"))
    book.upstream(cancelled()).to_upstream("response.create").nothing()


@pytest.mark.conformance("C-229", "C-165")
def test_a_refused_result_is_not_waited_for_by_the_response_that_uses_the_round() -> None:
    """So the answer to what the user says next stands for it, and there is no second one."""
    book = calling("call_1").upstream(response_done(), speech_started())
    book.to_client("UserStartedSpeaking").client(answer("call_1")).to_upstream(output("call_1"))
    book.refuses("conversation.item.create").to_client(warning("THINK_REQUEST_FAILED"))
    book.upstream(speech_stopped(), committed(), *user_item(), transcribed("item_u1", "Hi."))
    book.to_client(user("Hi.")).upstream(response_created("resp_2")).to_client("AgentThinking")
    book.upstream(response_done("resp_2")).to_client("LatencyReport").passes(5).nothing()


@pytest.mark.conformance("C-229")
def test_whatever_else_is_waited_for_is_waited_for_after_a_refused_result() -> None:
    """Another result, and what the user has written, are on their way still."""
    book = calling("call_1", "call_2").upstream(response_done(), speech_started())
    book.to_client("UserStartedSpeaking").client(types("And?")).to_client(user("And?"))
    book.to_upstream("conversation.item.create").client(answer("call_1"))
    book.to_upstream(output("call_1")).client(answer("call_2")).to_upstream(output("call_2"))
    book.refuses("conversation.item.create").to_client(warning("THINK_REQUEST_FAILED"))
    book.upstream(speech_stopped(), committed(), *user_item(), transcribed("item_u1", "Hi."))
    book.to_client(user("Hi.")).upstream(response_created("resp_2")).to_client("AgentThinking")
    book.upstream(response_done("resp_2")).to_client("LatencyReport").nothing()
    asked = like("response.create", response={"metadata": {"relay": "inject_user"}})
    book.acks(1).to_upstream(asked)


@pytest.mark.conformance("C-244", "C-170")
def test_a_call_that_times_out_without_an_upstream_is_told_to_the_next() -> None:
    book = calling("call_1", call_timeout_s=5.0).upstream(response_done()).upstream_gone()
    book.to_client(warning("THINK_REQUEST_FAILED")).dials().passes(6)
    book.to_client(warning("FUNCTION_CALL_FAILED")).upstream_opens().upstream(created())
    book.to_upstream("session.update").updated().to_upstream(
        like("conversation.item.create", item={"type": "function_call", "call_id": "call_1"}),
        output("call_1", '{"error":"timeout"}'),
        like("response.create", response={"metadata": {"relay": "round_done"}}),
    )


@pytest.mark.conformance("C-165")
def test_a_round_that_is_complete_does_not_wait_for_an_older_one() -> None:
    book = calling("call_1").upstream(response_done(), speech_started())
    book.to_client("UserStartedSpeaking").upstream(speech_stopped(), committed(), *user_item())
    book.upstream(transcribed("item_u1", "Hi."), response_created("resp_2"))
    book.to_client(user("Hi."), "AgentThinking").upstream(*calls("resp_2", "call_2"))
    book.to_client(request("call_2")).client(answer("call_2")).to_upstream(output("call_2"))
    book.nothing().upstream(response_done("resp_2")).to_upstream("response.create")
