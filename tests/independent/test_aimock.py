"""The relay before npm `@copilotkit/aimock` 1.43.0, a whole conversation at a time.

aimock answers from fixtures; it makes no audio and hears none. What it does otherwise than the
exact API:

| the exact API                               | here                                               |
|---------------------------------------------|----------------------------------------------------|
| output_audio and its transcript             | text only, whatever the session asks for           |
| conversation.item.added, then .done         | .added for ours, .done for the model's             |
| response.created returns our metadata       | without metadata                                   |
| one response at a time, cancelled by        | everything in turn: a cancel is heard when the     |
| response.cancel, which is not acknowledged  | response is over, and answered response.cancelled  |
| voice activity ends a turn                  | no voice activity: audio is ignored                |
| input_audio_buffer.committed names the item | names none; no item is added, none is transcribed  |
| conversation.item.truncated                 | truncate is ignored                                |
| function_call_arguments.done has the name   | without it; output_item.done has it                |
| response.content_part: text, audio          | output_text                                        |
| item.phase, session.modalities, temperature | present; the API has them no more                  |
| a failed response: created in progress      | created with status failed, then response.done     |

It renames no items, creates and ends every response, and announces every item.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests import oracle
from tests.independent.house import Client, Held, aimock, conversing
from tests.speech import babble

RATE = 24_000
TALE = "Once upon a time there was a relay that stood between two worlds."
AGENT: dict[str, Any] = {
    "think": {
        "functions": [{"name": "time", "parameters": {"type": "object", "properties": {}}}],
    },
}
FIXTURES: list[dict[str, Any]] = [
    {
        "match": {"userMessage": "time", "hasToolResult": False},
        "response": {
            "toolCalls": [
                {"name": "time", "arguments": '{"zone": "here"}'},
                {"name": "time", "arguments": '{"zone": "there"}'},
            ]
        },
    },
    {
        "match": {"userMessage": "time", "toolResultContains": "noon"},
        "response": {"content": "It is noon."},
    },
    {
        "match": {"userMessage": "busy", "sequenceIndex": 0},
        "response": {
            "error": {"message": "Slow down.", "type": "error", "code": "rate_limit_exceeded"},
            "status": 429,
        },
    },
    {"match": {"userMessage": "busy"}, "response": {"content": "Now."}},
    {
        "match": {"userMessage": "tale", "sequenceIndex": 0},
        "response": {"content": TALE},
        "chunkSize": 8,
        "truncateAfterChunks": 3,
    },
    {"match": {"userMessage": "tale"}, "response": {"content": TALE}},
    {
        "match": {"userMessage": "slowly"},
        "response": {"content": TALE},
        "chunkSize": 8,
        "latency": 50,
    },
    {"match": {"userMessage": "Hello"}, "response": {"content": "Hi there."}},
    {"match": {"systemMessage": "prompt"}, "response": {"content": "I have read it."}},
]
"""The first that matches answers."""
TURN = ["AgentThinking", "ConversationText", "History", "LatencyReport"]
TYPED = ["ConversationText", "History", *TURN]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with aimock(FIXTURES) as address:
        yield address


async def ask(client: Client, text: str) -> None:
    """Type something, and read the answer."""
    client.say("InjectUserMessage", content=text)
    await client.until("LatencyReport")


def check_frames(held: Held) -> None:
    """What the relay sent is exact."""
    for event in held.events():
        oracle.check_client_event(event)


@pytest.mark.parametrize("ends_responses", [True, False])
@pytest.mark.conformance("C-087", "C-089", "C-133", "C-230")
async def test_a_typed_turn_is_answered_in_text(server: str, ends_responses: bool) -> None:
    async with conversing(server, upstream__ends_responses=ends_responses) as held:
        held.client.forget()
        await ask(held.client, "Hello.")
        assert held.client.types() == TYPED
        assert held.client.said("assistant") == ["Hi there."]
        await ask(held.client, "Hello again.")
        assert held.client.types() == TYPED * 2
    assert held.upstream.closed_by_dialler == 1000
    check_frames(held)


@pytest.mark.conformance("C-093")
async def test_two_typed_turns_at_once_are_both_answered(server: str) -> None:
    async with conversing(server) as held:
        held.client.say("InjectUserMessage", content="Hello.")
        held.client.say("InjectUserMessage", content="Hello?")
        await held.client.until("LatencyReport")
        await held.client.until("LatencyReport")
        assert held.client.said("assistant") == ["Hi there."] * 2
    check_frames(held)


@pytest.mark.parametrize("ends_responses", [True, False])
@pytest.mark.conformance("C-158", "C-161", "C-165", "C-230")
async def test_two_calls_are_made_and_answered(server: str, ends_responses: bool) -> None:
    async with conversing(server, AGENT, upstream__ends_responses=ends_responses) as held:
        held.client.say("InjectUserMessage", content="What time is it?")
        for zone in ("here", "there"):
            request = await held.client.until("FunctionCallRequest")
            (call,) = request["functions"]
            assert call["arguments"] == f'{{"zone": "{zone}"}}'
            held.client.say("FunctionCallResponse", id=call["id"], name="time", content="noon")
        await held.client.until("LatencyReport")
        assert held.client.said("assistant") == ["It is noon."]
    assert held.sent().count("response.create") == 2
    check_frames(held)


@pytest.mark.conformance("C-147")
async def test_a_failed_response_is_asked_for_again(server: str) -> None:
    async with conversing(server, session__response_backoff_s=(0.05,)) as held:
        held.client.forget()
        await ask(held.client, "Are you busy?")
        (warning,) = held.client.of("Warning")
        assert warning["code"] == "THINK_REQUEST_FAILED"
        assert warning["description"] == "Slow down."
        assert held.client.said("assistant") == ["Now."]
    check_frames(held)


@pytest.mark.conformance("C-214")
async def test_a_greeting_that_no_voice_speaks_is_a_warning(server: str) -> None:
    agent = {"greeting": "Welcome.", "think": {"prompt": "This is the prompt."}}
    async with conversing(server, agent) as held:
        warning = await held.client.until("Warning")
        assert warning["code"] == "SPEAK_REQUEST_FAILED"
        await ask(held.client, "Hello.")
        assert held.client.said("assistant") == ["Hi there."]
    check_frames(held)


@pytest.mark.conformance("C-068", "C-069")
async def test_a_new_prompt_reaches_the_model(server: str) -> None:
    async with conversing(server) as held:
        held.client.say("UpdatePrompt", prompt="A new prompt.")
        await held.client.until("PromptUpdated")
        await ask(held.client, "Which fixture is this?")
        assert held.client.said("assistant") == ["I have read it."]
    check_frames(held)


@pytest.mark.conformance("C-117", "C-205")
async def test_turns_that_only_the_client_ends_are_all_answered(server: str) -> None:
    """The server acknowledges each commit, and names no item; nor is any transcribed."""
    async with conversing(server, turns__kind="off", upstream__transcription_model="") as held:
        await ask(held.client, "Hello.")
        for _ in range(3):
            held.client.forget()
            held.client.speak(babble.speech(0.2, RATE))
            held.client.say("ForceEndTurn")
            await held.client.until("LatencyReport")
            assert held.client.types() == TURN
            assert held.client.said("assistant") == ["Hi there."]
    commits = held.answered("input_audio_buffer.committed")
    assert [commit.get("item_id") for commit in commits] == [None] * 3
    check_frames(held)


@pytest.mark.conformance("C-101", "C-181", "C-222")
async def test_a_cancel_that_comes_to_nothing_holds_up_nothing(server: str) -> None:
    """The answer that was interrupted is written to its end; the client sees no more of it."""
    async with conversing(server, session__cancel_wait_s=0.05) as held:
        held.client.say("InjectUserMessage", content="Speak slowly.")
        await held.client.until("AgentThinking")
        held.client.say("InjectAgentMessage", message="One moment.", behavior="interrupt")
        await held.client.until("Warning")  # there is no voice to say it
        await ask(held.client, "Hello.")
        assert held.client.said("assistant") == ["Hi there."]
    assert held.answered("response.cancelled")
    assert TALE in [done["text"] for done in held.answered("response.output_text.done")]
    check_frames(held)


async def test_audio_that_it_ignores_does_no_harm(server: str) -> None:
    async with conversing(server) as held:
        held.client.forget()
        held.client.speak(babble.speech(1.0, RATE) + babble.silence(1.0, RATE))
        await ask(held.client, "Hello.")
        assert held.client.types() == TYPED
    assert "input_audio_buffer.append" in held.sent()
    check_frames(held)


@pytest.mark.conformance("C-186", "C-191")
async def test_an_answer_that_the_server_breaks_off_is_given_by_the_next_leg(server: str) -> None:
    """It drops the connection amid its answer. The relay dials again, and tells the new session
    what was said."""
    async with conversing(server, session__redial_backoff_s=(0.05,)) as held:
        await ask(held.client, "Hello.")
        held.client.say("InjectUserMessage", content="Tell me a tale.")
        await held.client.until("LatencyReport")
        await ask(held.client, "Hello once more.")
        assert held.client.said("assistant") == ["Hi there.", TALE, "Hi there."]
        assert "Error" not in held.client.types()
    assert held.upstream.closed_by_far_end == 1006
