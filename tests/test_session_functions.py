"""Function calls: announced, answered, and the one response that follows a round of them."""

from typing import Any

import msgspec
import pytest

from relay.settings import MappingOptions
from tests.expected import ABSENT, ANY, Wire, like
from tests.playbook import Playbook
from tests.scenes import (
    answer,
    calls,
    cancelled,
    committed,
    configuring,
    ready,
    request,
    response_created,
    response_done,
    settings,
    speech,
    speech_started,
    speech_stopped,
    transcribed,
    user,
    user_item,
    warning,
)

FUNCTIONS = settings(functions=("f", "g"))


def output(call: str, value: Any = "42") -> Wire:
    item = {"type": "function_call_output", "call_id": call, "output": value, "id": ANY}
    return like("conversation.item.create", item=item)


def failed(call: str) -> Wire:
    """An error for the model."""
    item = {"type": "function_call_output", "call_id": call, "output": ANY}
    return like("conversation.item.create", item=item)


def calling(given: Wire = FUNCTIONS, resp: str = "resp_1", **opening: Any) -> Playbook:
    """A response that is about to call."""
    return ready(given, **opening).upstream(response_created(resp)).to_client("AgentThinking")


def called(*ids: str, given: Wire = FUNCTIONS, **opening: Any) -> Playbook:
    """These calls of `f` are announced, and their response is over."""
    book = calling(given, **opening)
    for index, call in enumerate(ids):
        book.upstream(*calls("resp_1", call, index=index)).to_client(request(call))
    book.upstream(response_done())
    return book.to_client("AgentDone", "AgentAudioDone") if book.component else book


# Announced.


@pytest.mark.conformance("C-158")
def test_a_completed_call_is_announced_at_once() -> None:
    (
        calling()
        .upstream(*calls("resp_1", "call_1", "g", '{"a": 1}'))
        .to_client(request("call_1", "g", '{"a": 1}'))
        .upstream(response_done())
        .passes(20)
        .nothing()
    )


@pytest.mark.conformance("C-159")
def test_arguments_alone_are_not_a_call_yet() -> None:
    whole = calls("resp_1", "call_1")
    calling().upstream(*whole[:-1]).nothing().upstream(whole[-1]).to_client(request("call_1"))


@pytest.mark.parametrize("status", ["incomplete", "in_progress"])
@pytest.mark.conformance("C-159")
def test_a_call_that_was_not_completed_is_not_announced(status: str) -> None:
    book = calling().upstream(*calls("resp_1", "call_1", status=status), cancelled("resp_1"))
    book.passes(5).nothing()


@pytest.mark.conformance("C-160")
def test_no_arguments_are_an_empty_object() -> None:
    calling().upstream(*calls("resp_1", "call_1", arguments="")).to_client(request("call_1"))


@pytest.mark.conformance("C-224")
def test_a_call_id_that_comes_again_is_ignored() -> None:
    book = called("call_1").client(answer("call_1")).to_upstream(output("call_1"))
    book.to_upstream("response.create").begins("resp_2").to_client("AgentThinking")
    book.upstream(*calls("resp_2", "call_1"), response_done("resp_2"))
    book.to_client("LatencyReport").passes(50).nothing()


@pytest.mark.conformance("C-158")
def test_calls_may_be_announced_in_one_message() -> None:
    functions = [
        {"id": call, "name": "f", "arguments": "{}", "client_side": True}
        for call in ("call_1", "call_2")
    ]
    (
        calling(batch_function_calls=True)
        .upstream(*calls("resp_1", "call_1"), *calls("resp_1", "call_2", index=1))
        .nothing()
        .upstream(response_done())
        .to_client(like("FunctionCallRequest", functions=functions))
        .client(answer("call_2"), answer("call_1"))
        .to_upstream(output("call_2"), output("call_1"), "response.create")
    )


@pytest.mark.conformance("C-175")
def test_a_call_of_an_undeclared_function_is_answered_here() -> None:
    (
        calling()
        .upstream(*calls("resp_1", "call_1", "h"))
        .to_upstream(failed("call_1"))
        .upstream(response_done())
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-228")
def test_a_call_with_more_than_a_mebibyte_of_arguments_is_answered_here() -> None:
    arguments = '{"a": "' + "x" * 2**20 + '"}'
    (
        calling()
        .upstream(*calls("resp_1", "call_1", arguments=arguments))
        .to_upstream(failed("call_1"))
        .upstream(response_done())
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-228", "C-158")
def test_calls_that_are_too_long_for_one_message_are_announced_one_by_one() -> None:
    long = '{"a": "' + "x" * 2**19 + '"}'
    (
        calling(batch_function_calls=True)
        .upstream(*calls("resp_1", "call_1", arguments=long))
        .upstream(*calls("resp_1", "call_2", arguments=long, index=1))
        .nothing()
        .upstream(response_done())
        .to_client(request("call_1", arguments=long), request("call_2", arguments=long))
        .client(answer("call_2"), answer("call_1"))
        .to_upstream(output("call_2"), output("call_1"), "response.create")
    )


@pytest.mark.conformance("C-228")
def test_whatever_makes_an_announcement_too_long_it_is_never_cut() -> None:
    """A limit above what the SDKs take does not help."""
    long = '{"a": "' + "x" * 2**20 + '"}'
    book = calling(max_call_arguments_bytes=2**21)
    book.upstream(*calls("resp_1", "call_1", arguments=long)).to_upstream(failed("call_1"))
    book.upstream(response_done()).to_upstream("response.create")


# Answered.


@pytest.mark.conformance("C-161", "C-166", "C-167")
def test_an_answer_becomes_an_output_and_a_response_is_asked_for_at_once() -> None:
    (
        called("call_1")
        .client(answer("call_1", "rain"))
        .to_upstream(output("call_1", "rain"), "response.create")
        .begins("resp_2")
        .to_client("AgentThinking")
        .upstream(response_done("resp_2"))
        .to_client("LatencyReport")
        .passes(50)
        .nothing()
    )


@pytest.mark.conformance("C-167")
def test_the_response_needs_no_acknowledgement_of_the_output() -> None:
    book = called("call_1").client(answer("call_1")).to_upstream(output("call_1"))
    book.to_upstream("response.create").acks().passes(5).nothing()


@pytest.mark.conformance("C-166")
def test_while_the_calling_response_is_active_the_next_waits() -> None:
    (
        calling()
        .upstream(*calls("resp_1", "call_1"))
        .to_client(request("call_1"))
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .passes(3)
        .nothing()
        .upstream(response_done())
        .to_upstream("response.create")
    )


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"content": "text"}, "text"),
        ({"output": "older"}, "older"),
        ({"content": "text", "output": "older"}, "text"),
        ({"content": {"a": [1, None]}}, {"a": [1, None]}),
        ({"content": [1]}, [1]),
        ({"content": 5}, 5),
        ({"content": False}, False),
        ({"result": "done"}, "done"),
        ({"result": {"a": 1}}, {"a": 1}),
        ({"error": "no such city"}, {"error": "no such city"}),
        ({"content": None, "result": "done"}, "done"),
        ({"content": "", "error": "broken"}, {"error": "broken"}),
        ({"error": "broken", "result": "done"}, {"error": "broken"}),
    ],
)
@pytest.mark.conformance("C-162", "C-265", "C-208")
def test_answers_of_every_shape_become_strings(fields: dict[str, Any], value: Any) -> None:
    book = called("call_1").client({"type": "FunctionCallResponse", "id": "call_1", **fields})
    book.to_upstream(output("call_1", ANY), "response.create")
    told = book.last("conversation.item.create")["item"]["output"]
    assert (told if isinstance(value, str) else msgspec.json.decode(told)) == value


@pytest.mark.conformance("C-162")
def test_an_answer_without_anything_in_it_still_closes_the_call() -> None:
    book = called("call_1").client(like("FunctionCallResponse", id="call_1", name="f"))
    book.to_upstream(output("call_1", ANY), "response.create")


@pytest.mark.conformance("C-265", "C-161")
def test_the_older_spelling_of_the_id_is_understood() -> None:
    older = like("FunctionCallResponse", function_call_id="call_1", output="42")
    called("call_1").client(older).to_upstream(output("call_1"), "response.create")


@pytest.mark.parametrize("none", [{}, {"id": None}])
@pytest.mark.conformance("C-163", "C-208")
def test_without_an_id_the_oldest_call_of_that_name_is_meant(none: dict[str, None]) -> None:
    book = calling()
    for index, (call, name) in enumerate((("call_1", "g"), ("call_2", "f"), ("call_3", "f"))):
        book.upstream(*calls("resp_1", call, name, index=index)).to_client(request(call, name))
    book.upstream(response_done())
    nameless = {"type": "FunctionCallResponse", "name": "f", "content": "42", **none}
    book.client(nameless).to_upstream(output("call_2"))
    book.client(nameless).to_upstream(output("call_3"))
    book.client(nameless).nothing()
    book.client({**nameless, "name": "g"}).to_upstream(output("call_1"), "response.create")


@pytest.mark.conformance("C-164")
def test_unknown_and_duplicate_answers_are_dropped() -> None:
    book = called("call_1").client(answer("call_9")).nothing()
    book.client(answer("call_1")).to_upstream(output("call_1"), "response.create")
    book.client(answer("call_1", "again"), answer("call_9")).nothing()
    ready().client(answer("call_9")).passes(5).nothing()


@pytest.mark.conformance("C-164", "C-169")
def test_of_a_dropped_answer_the_component_hears_agent_thinking_only() -> None:
    book = called("call_1", component=True).client(answer("call_9")).to_client("AgentThinking")
    book.client(answer("call_1")).to_client("AgentThinking")
    book.to_upstream(output("call_1"), "response.create")
    book.client(answer("call_1", "again")).to_client("AgentThinking")


@pytest.mark.conformance("C-169")
def test_the_component_hears_agent_thinking_for_each_answer() -> None:
    (
        called("call_1", "call_2", component=True)
        .client(answer("call_1"))
        .to_client(like("AgentThinking", content=""))
        .to_upstream(output("call_1"))
        .client(answer("call_2"))
        .to_client(like("AgentThinking", content=""))
        .to_upstream(output("call_2"), "response.create")
    )


@pytest.mark.conformance("C-228")
def test_a_long_output_is_cut_and_marked() -> None:
    book = called("call_1").client(answer("call_1", "ä" * 200_000))
    book.to_client(warning("FUNCTION_CALL_FAILED"))
    book.to_upstream(output("call_1", ANY), "response.create")
    told = book.last("conversation.item.create")["item"]["output"]
    assert len(told.encode()) <= 256 * 1024
    assert told.startswith("ä" * 1000)
    assert not told.endswith("ä")


# Rounds.


@pytest.mark.conformance("C-165", "C-166")
def test_parallel_calls_get_one_response_after_all_outputs() -> None:
    (
        called("call_1", "call_2", "call_3")
        .client(answer("call_3"))
        .to_upstream(output("call_3"))
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .passes(5)
        .nothing()
        .client(answer("call_2"))
        .to_upstream(output("call_2"), "response.create")
        .begins("resp_2")
        .to_client("AgentThinking")
        .upstream(response_done("resp_2"))
        .to_client("LatencyReport")
        .passes(50)
        .nothing()
    )


@pytest.mark.conformance("C-165")
def test_a_call_answered_before_the_next_is_announced_does_not_close_the_round() -> None:
    (
        calling()
        .upstream(*calls("resp_1", "call_1"))
        .to_client(request("call_1"))
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .upstream(*calls("resp_1", "call_2", index=1))
        .to_client(request("call_2"))
        .upstream(response_done())
        .nothing()
        .client(answer("call_2"))
        .to_upstream(output("call_2"), "response.create")
    )


@pytest.mark.conformance("C-168", "C-127")
def test_the_answer_to_a_round_may_be_another_round() -> None:
    book = called("call_1")
    for n in range(2, 5):
        book.client(answer(f"call_{n - 1}")).to_upstream(output(f"call_{n - 1}"), "response.create")
        book.begins(f"resp_{n}").to_client("AgentThinking")
        book.upstream(*calls(f"resp_{n}", f"call_{n}"), response_done(f"resp_{n}"))
        book.to_client(request(f"call_{n}"))


@pytest.mark.conformance("C-174", "C-143")
def test_a_closed_round_is_recorded_once() -> None:
    records = [
        {"id": call, "name": "f", "client_side": True, "arguments": "{}", "response": response}
        for call, response in (("call_1", "one"), ("call_2", "two"))
    ]
    (
        called("call_1", "call_2", given=settings(functions=("f",), history=True))
        .client(answer("call_2", "two"))
        .to_upstream(output("call_2", "two"))
        .client(answer("call_1", "one"))
        .to_client(like("History", function_calls=records, role=ABSENT, content=ABSENT))
        .to_upstream(output("call_1", "one"), "response.create")
    )


@pytest.mark.conformance("C-170")
def test_a_call_that_is_not_answered_fails_after_60_s() -> None:
    book = called("call_1", "call_2").passes(30).client("KeepAlive")
    book.client(answer("call_1")).to_upstream(output("call_1")).passes(29.9).nothing().passes(0.2)
    book.to_client(warning("FUNCTION_CALL_FAILED")).to_upstream(failed("call_2"), "response.create")
    book.client(answer("call_2")).nothing()


@pytest.mark.conformance("C-170")
def test_a_call_may_be_given_for_ever() -> None:
    called("call_1", call_timeout_s=0.0, client_idle_s=1000.0).passes(900).nothing()


# The user speaks meanwhile.


@pytest.mark.conformance("C-165", "C-173")
def test_speech_leaves_the_round_open() -> None:
    """The VAD's response runs; the round's own follows when its outputs came after that began."""
    (
        called("call_1")
        .upstream(*speech("item_u2"), transcribed("item_u2", "Well?"))
        .to_client("UserStartedSpeaking", user("Well?"))
        .upstream(response_created("resp_2"))
        .to_client("AgentThinking")
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .nothing()
        .upstream(response_done("resp_2"))
        .to_client("LatencyReport")
        .to_upstream("response.create")
    )


@pytest.mark.conformance("C-165")
def test_a_response_created_after_the_last_output_consumes_it() -> None:
    (
        called("call_1")
        .upstream(speech_started("item_u2"))
        .to_client("UserStartedSpeaking")
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .acks()
        .upstream(speech_stopped("item_u2"), committed("item_u2"), *user_item("item_u2"))
        .nothing()
        .upstream(response_created("resp_2"), transcribed("item_u2", "Well?"))
        .to_client("AgentThinking", user("Well?"))
        .upstream(response_done("resp_2"))
        .to_client("LatencyReport")
        .passes(50)
        .nothing()
    )


@pytest.mark.conformance("C-166")
def test_while_the_user_speaks_the_rounds_response_waits() -> None:
    (
        called("call_1")
        .upstream(speech_started("item_u2"))
        .to_client("UserStartedSpeaking")
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .passes(2)
        .nothing()
        .upstream(speech_stopped("item_u2"), committed("item_u2"), *user_item("item_u2"))
        .passes(10.1)
        .to_upstream("response.create")
    )


VOID = like("FunctionCallCancelled", functions=[{"id": "call_1", "name": "f"}])


@pytest.mark.conformance("C-173")
def test_calls_of_a_cancelled_response_are_void() -> None:
    (
        calling()
        .upstream(*calls("resp_1", "call_1"))
        .to_client(request("call_1"))
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .upstream(cancelled("resp_1"))
        .to_client(VOID)
        .to_upstream(failed("call_1"))
        .client(answer("call_1"))
        .nothing()
        .passes(50)
        .nothing()
    )


@pytest.mark.conformance("C-173")
def test_barge_in_may_void_the_open_round() -> None:
    (
        called("call_1", cancel_calls_on_barge_in=True)
        .upstream(speech_started("item_u2"))
        .to_client("UserStartedSpeaking", VOID)
        .to_upstream(failed("call_1"))
        .client(answer("call_1"))
        .nothing()
    )


# Refused outputs.


@pytest.mark.conformance("C-229")
def test_an_output_refused_while_the_caller_is_active_is_sent_again_after_it() -> None:
    (
        calling()
        .upstream(*calls("resp_1", "call_1"))
        .to_client(request("call_1"))
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .refuses("conversation.item.create")
        .nothing()
        .upstream(response_done())
        .to_upstream(output("call_1"), "response.create")
    )


@pytest.mark.conformance("C-229", "C-178")
def test_an_output_refused_a_second_time_is_warned_of_and_the_round_goes_on() -> None:
    (
        calling()
        .upstream(*calls("resp_1", "call_1"))
        .to_client(request("call_1"))
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .refuses("conversation.item.create")
        .upstream(response_done())
        .to_upstream(output("call_1"), "response.create")
        .refuses("conversation.item.create")
        .to_client(warning("THINK_REQUEST_FAILED"))
        .passes(5)
        .nothing()
    )


@pytest.mark.conformance("C-229", "C-178")
def test_an_output_refused_after_the_caller_is_warned_of_and_the_round_goes_on() -> None:
    (
        called("call_1", "call_2")
        .client(answer("call_1"))
        .to_upstream(output("call_1"))
        .refuses("conversation.item.create")
        .to_client(warning("THINK_REQUEST_FAILED"))
        .client(answer("call_2"))
        .to_upstream(output("call_2"), "response.create")
    )


# Functions that the relay runs.

URL = "https://api.example.com/f"
SERVER_SIDE = settings(
    think={
        "functions": [
            {"name": "f", "endpoint": {"url": URL, "method": "post", "headers": {"x-key": "k"}}},
            {"name": "g"},
        ]
    }
)
ALLOWED = MappingOptions(function_endpoints=("https://api.example.com/",))


def ours(call: str) -> Wire:
    function = {"id": call, "name": "f", "arguments": "{}", "client_side": False}
    return like("FunctionCallRequest", functions=[function])


def executing(**opening: Any) -> Playbook:
    """The relay is calling the endpoint of `f`."""
    return (
        calling(SERVER_SIDE, mapping=ALLOWED, **opening)
        .upstream(*calls("resp_1", "call_1"))
        .to_client(ours("call_1"))
        .calls_endpoint("f", "{}", "call_1")
        .upstream(response_done())
    )


@pytest.mark.conformance("C-171", "C-172")
def test_an_endpoint_function_is_run_here_and_told_to_the_client() -> None:
    (
        executing()
        .endpoint_answers("call_1", "rain")
        .to_client(like("FunctionCallResponse", id="call_1", name="f", content="rain"))
        .to_upstream(output("call_1", "rain"), "response.create")
    )


@pytest.mark.conformance("C-085")
def test_a_client_may_be_silent_while_the_relay_runs_a_function() -> None:
    book = executing(call_timeout_s=500.0).passes(400).nothing()
    book.endpoint_answers("call_1", "rain").to_client("FunctionCallResponse")
    book.to_upstream(output("call_1", "rain"), "response.create")
    book.upstream(response_created("resp_2"), response_done("resp_2"))
    book.to_client("AgentThinking", "LatencyReport")
    book.passes(59.9).nothing().passes(0.2).to_client("Error").closes(1000)


@pytest.mark.conformance("C-171")
def test_the_clients_answer_for_it_is_ignored() -> None:
    (
        executing()
        .client(answer("call_1", "mine"), like("FunctionCallResponse", name="f", content="mine"))
        .nothing()
        .endpoint_answers("call_1", "rain")
        .to_client("FunctionCallResponse")
        .to_upstream(output("call_1", "rain"), "response.create")
    )


@pytest.mark.conformance("C-171")
def test_endpoint_and_client_calls_share_a_round() -> None:
    (
        calling(SERVER_SIDE, mapping=ALLOWED)
        .upstream(*calls("resp_1", "call_1"), *calls("resp_1", "call_2", "g", index=1))
        .to_client(ours("call_1"), request("call_2", "g"))
        .calls_endpoint("f")
        .upstream(response_done())
        .endpoint_answers("call_1", "rain")
        .to_client("FunctionCallResponse")
        .to_upstream(output("call_1", "rain"))
        .nothing()
        .client(answer("call_2", name="g"))
        .to_upstream(output("call_2"), "response.create")
    )


@pytest.mark.conformance("C-171", "C-170")
def test_a_failed_endpoint_is_an_error_output() -> None:
    book = executing().endpoint_answers("call_1", "HTTP 500", ok=False)
    book.to_client(warning("FUNCTION_CALL_FAILED"), "FunctionCallResponse")
    book.to_upstream(failed("call_1"), "response.create")


@pytest.mark.conformance("C-172")
def test_endpoints_are_off_by_default_and_their_calls_go_to_the_client() -> None:
    (
        configuring(SERVER_SIDE)
        .updated()
        .to_client("SettingsApplied", warning("FUNCTION_CALL_FAILED"))
        .upstream(response_created(), *calls("resp_1", "call_1"))
        .to_client("AgentThinking", request("call_1"))
    )


@pytest.mark.conformance("C-172")
def test_an_endpoint_off_the_list_is_not_called() -> None:
    mapping = MappingOptions(function_endpoints=("https://other.example.com/",))
    (
        configuring(SERVER_SIDE, mapping=mapping)
        .updated()
        .to_client("SettingsApplied", warning("FUNCTION_CALL_FAILED"))
        .upstream(response_created(), *calls("resp_1", "call_1"))
        .to_client("AgentThinking", request("call_1"))
    )


@pytest.mark.conformance("C-171", "C-173")
def test_a_void_endpoint_call_is_given_up() -> None:
    (
        calling(SERVER_SIDE, mapping=ALLOWED)
        .upstream(*calls("resp_1", "call_1"))
        .to_client(ours("call_1"))
        .calls_endpoint("f")
        .upstream(speech_started("item_u2"))
        .audio_dropped()
        .to_client("UserStartedSpeaking")
        .upstream(cancelled("resp_1"))
        .cancels_endpoint("call_1")
        .to_client(VOID)
        .to_upstream(failed("call_1"))
    )
