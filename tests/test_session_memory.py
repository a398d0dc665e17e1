"""What a session may hold, whatever its client and its upstream say (4.2): `scripts/memory` weighs
whole processes, this is about each bound."""

from typing import Any

import pytest

from relay import voice_agent
from relay.frames import MAX_VALUES, Unparsable
from tests.expected import like
from tests.playbook import Playbook
from tests.scenes import calls, configuring, opened, ready, response_created, settings

BIG = "x" * 900_000


def messages(book: Playbook) -> Playbook:
    """Answers to nothing, 0.9 MB each: four are 3.4 MiB."""
    for _ in range(4):
        book.client(like("FunctionCallResponse", id="c", name="f", content=BIG))
    return book


@pytest.mark.conformance("C-232")
def test_messages_held_before_ready_are_bounded_by_what_they_take_too() -> None:
    messages(configuring()).client(
        like("FunctionCallResponse", id="c", name="f", content=BIG)
    ).to_client(
        like(
            "Error",
            code="INTERNAL_SERVER_ERROR",
            description="Too many messages before the upstream.",
        )
    ).closes(1011)


@pytest.mark.conformance("C-030")
def test_so_are_those_before_settings() -> None:
    messages(opened()).client(
        like("FunctionCallResponse", id="c", name="f", content=BIG)
    ).to_client(like("Error", code="NON_SETTINGS_MESSAGE_BEFORE_SETTINGS")).closes(1000)


def test_updates_that_the_upstream_does_not_take_are_bounded() -> None:
    update = like(
        "UpdateThink", think={"prompt": "x", "functions": [{"name": "f", "description": BIG}]}
    )
    book = ready().client(update)
    book.unlisted = []
    for _ in range(4):
        book.client(update)
    book.client(update).to_client(
        like("Error", code="INTERNAL_SERVER_ERROR", description="Too many updates at once.")
    ).closes(1011)


@pytest.mark.conformance("C-228")
def test_calls_that_are_too_long_together_are_answered_with_an_error_and_forgotten() -> None:
    book = ready(settings(functions=("f",))).upstream(response_created()).to_client("AgentThinking")
    arguments = '{"a":"' + BIG + '"}'
    book.upstream(*calls("resp_1", "call_1", arguments=arguments)).to_client("FunctionCallRequest")
    book.upstream(*calls("resp_1", "call_2", arguments=arguments)).to_client("FunctionCallRequest")
    book.upstream(*calls("resp_1", "call_3", arguments=arguments))
    book.to_upstream(
        like("conversation.item.create", item={"type": "function_call_output", "call_id": "call_3"})
    )
    session: Any = book.session
    (kept,) = session.rounds
    assert kept.calls["call_3"].arguments == "{}"
    assert sum(len(item.arguments or "") for item in session.log) < 2_000_000


@pytest.mark.parametrize("value", [{}, [], 0, {"a": [1]}])
def test_a_message_of_very_many_values_is_refused(value: Any) -> None:
    many = [value] * (MAX_VALUES + 1)
    content = voice_agent.encode(voice_agent.FunctionCallResponse(name="f", content=many))
    refused = voice_agent.decode_client(content)
    assert refused == Unparsable("FunctionCallResponse", f"more than {MAX_VALUES} values")
    prose = voice_agent.FunctionCallResponse(name="f", content="," * 2 * MAX_VALUES)
    assert voice_agent.decode_client(voice_agent.encode(prose)) == prose


def test_what_a_message_takes_is_rather_overestimated() -> None:
    nodes = voice_agent.FunctionCallResponse(name="f", content=[{}] * 1000)
    assert 128_000 < voice_agent.memory(nodes) < 140_000
