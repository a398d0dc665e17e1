"""The relay before PyPI `speech-to-speech` 1.1.0, a whole conversation at a time.

The package's server is its own; its models are made of arithmetic (`speech_server`). Every frame of
it is valid to the strict oracle. What it does otherwise than the exact API:

| the exact API                              | here                                                |
|--------------------------------------------|-----------------------------------------------------|
| conversation.item.added, then .done        | conversation.item.created; none for the model's     |
| an item is acknowledged at once            | while a response runs, only after its response.done |
| input_audio_buffer.commit ends the turn    | it flushes; the turn ends where silence is heard    |
| speech_stopped when the user stops         | with committed and the item, once an answer is due  |
| error.code                                 | null: the code is in error.type                     |
| barge-in: speech_started, then the end of  | first every done event of the response, its         |
| the response                               | transcript as if all of it had been said, then      |
|                                            | speech_started                                      |
| conversation.item.truncated                | truncate is taken without a word                    |
| a call is announced in its turn            | before the audio of the words that precede it       |
| response.create while a call is open       | error function_call_output_pending                  |
| a failed response: response.done           | an error that names no event, then response.done    |
| a session for everyone, 60 minutes         | so many slots; full: error session_limit_reached    |
|                                            | instead of session.created, then close 1008         |
| audio/pcmu, audio/pcma                     | confirmed in session.updated, but not spoken: all   |
|                                            | audio is linear16, so G.711 clients hear noise      |

It renames no items, creates and ends every response, and announces every item: the rules for
servers that do not are proven in tests/test_session_inexact.py only.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tests import oracle
from tests.independent.house import Client, Held, conversing, speech_to_speech
from tests.speech import babble

RATE = 24_000
SLOTS = 2
AGENT: dict[str, Any] = {
    "think": {
        "functions": [{"name": "time", "parameters": {"type": "object", "properties": {}}}],
    },
}
TURN = ["AgentThinking", "AgentStartedSpeaking", "audio", "ConversationText", "History"]
END = ["AgentAudioDone", "LatencyReport"]
TYPED = ["ConversationText", "History", *TURN, *END]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with speech_to_speech(SLOTS) as address:
        yield address


def speech() -> bytes:
    return babble.speech(1.0, RATE)


def silence() -> bytes:
    """Longer than the server's pause."""
    return babble.silence(1.0, RATE)


async def ask(client: Client, text: str) -> None:
    """Type something, and hear the answer."""
    client.say("InjectUserMessage", content=text)
    await client.until("LatencyReport")


def check_frames(held: Held) -> None:
    """What the relay sent is exact, and so is every frame of the server by itself."""
    for event in held.events():
        oracle.check_client_event(event)
    for event in held.answered():
        oracle.check_server_event(event)


@pytest.mark.parametrize("ends_responses", [True, False])
@pytest.mark.conformance("C-087", "C-089", "C-091", "C-230")
async def test_a_typed_turn_is_answered(server: str, ends_responses: bool) -> None:
    async with conversing(server, upstream__ends_responses=ends_responses) as held:
        held.client.forget()
        await ask(held.client, "Good morning.")
        assert held.client.types() == TYPED
        assert held.client.said("assistant") == ["You said: Good morning."]
        assert held.client.seconds() == pytest.approx(4 * 0.2, abs=0.01)
        await ask(held.client, "And now?")
        assert held.client.types() == TYPED * 2
    assert held.kinds("conversation.item.created") == ["conversation.item.created"] * 2
    assert held.kinds("conversation.item.added", "conversation.item.done") == []
    check_frames(held)


@pytest.mark.conformance("C-115", "C-119", "C-121")
async def test_a_spoken_turn_is_answered(server: str) -> None:
    async with conversing(server) as held:
        held.client.forget()
        held.client.speak(speech() + silence())
        await held.client.until("LatencyReport")
        types = held.client.types()
        assert types == ["UserStartedSpeaking", *TYPED]
        assert held.client.said("user") == ["Speech of 1.0 seconds."]
        assert held.client.said("assistant") == ["You said: Speech of 1.0 seconds."]
    assert "response.create" not in held.sent()
    check_frames(held)


@pytest.mark.conformance("C-144", "C-037")
async def test_a_greeting_is_spoken_and_the_context_known(server: str) -> None:
    context = {"messages": [{"type": "History", "role": "user", "content": "I am Ada."}]}
    async with conversing(server, {"greeting": "Welcome.", "context": context}) as held:
        await held.client.until("AgentAudioDone")
        assert held.client.said("assistant") == ["Welcome."]
        assert held.client.seconds() == pytest.approx(0.2, abs=0.01)
        assert "Warning" not in held.client.types()
    (created,) = held.answered("conversation.item.created")
    assert created["item"]["content"][0]["text"] == "I am Ada."
    check_frames(held)


@pytest.mark.parametrize("ends_responses", [True, False])
@pytest.mark.conformance("C-158", "C-161", "C-165")
async def test_a_function_is_called_and_its_result_told(server: str, ends_responses: bool) -> None:
    async with conversing(server, AGENT, upstream__ends_responses=ends_responses) as held:
        held.client.forget()
        held.client.say("InjectUserMessage", content="What time is it?")
        request = await held.client.until("FunctionCallRequest")
        (call,) = request["functions"]
        assert (call["name"], call["arguments"]) == ("time", "{}")
        held.client.say("FunctionCallResponse", id=call["id"], name="time", content="noon")
        await held.client.until("LatencyReport")
        assert held.client.said("assistant") == ["Let me look.", "The function says noon."]
        assert held.client.types().count("FunctionCallRequest") == 1
        assert "Warning" not in held.client.types()
        await ask(held.client, "Thank you.")
        assert held.client.said("assistant")[2:] == ["You said: Thank you."]
    kinds = held.kinds()
    assert kinds.index("response.function_call_arguments.done") < kinds.index(
        "response.output_audio.delta"
    )
    check_frames(held)


@pytest.mark.conformance("C-149", "C-151", "C-154", "C-222")
async def test_speech_over_the_agent_s_voice_silences_it_and_is_answered(server: str) -> None:
    async with conversing(server) as held:
        held.client.say("InjectUserMessage", content="endless")
        await held.client.until("audio")
        held.client.speak(speech() + silence())
        await held.client.until("UserStartedSpeaking")
        assert "AgentAudioDone" not in held.client.types()
        held.client.forget()
        await held.client.until("LatencyReport")
        assert held.client.types() == TYPED
        assert held.client.said("assistant") == ["You said: Speech of 1.0 seconds."]
    assert "response.cancel" not in held.sent()
    assert "conversation.item.truncate" in held.sent()
    (cancelled, _) = held.answered("response.done")
    assert cancelled["response"]["status_details"]["reason"] == "turn_detected"
    kinds = held.kinds()
    assert kinds.index("response.done") < kinds.index("input_audio_buffer.speech_started")
    assert held.kinds("conversation.item.truncated") == []
    check_frames(held)


@pytest.mark.conformance("C-101")
async def test_an_injected_message_takes_the_floor(server: str) -> None:
    async with conversing(server) as held:
        held.client.say("InjectUserMessage", content="endless")
        await held.client.until("audio")
        held.client.say("InjectAgentMessage", message="One moment.", behavior="interrupt")
        await held.client.until("AgentAudioDone")
        assert held.client.said("assistant")[-1] == "One moment."
        await ask(held.client, "Yes?")
        assert held.client.said("assistant")[-1] == "You said: Yes?"
    assert held.sent().count("response.cancel") == 1
    statuses = [done["response"]["status"] for done in held.answered("response.done")]
    assert statuses == ["cancelled", "completed", "completed"]
    check_frames(held)


@pytest.mark.conformance("C-092", "C-093")
async def test_what_is_typed_while_the_agent_talks_is_answered_after_that(server: str) -> None:
    """The server keeps the item back until its response is over."""
    async with conversing(server) as held:
        held.client.say("InjectUserMessage", content="endless")
        await held.client.until("audio")
        held.client.say("InjectUserMessage", content="Are you there?")
        held.client.say("InjectAgentMessage", message="Yes.", behavior="interrupt")
        await held.client.until("LatencyReport")
        assert held.client.said("assistant")[-2:] == ["Yes.", "You said: Are you there?"]
    kinds = held.kinds("conversation.item.created", "response.done")
    assert kinds[:3] == [
        "conversation.item.created",
        "response.done",
        "conversation.item.created",
    ]
    check_frames(held)


@pytest.mark.conformance("C-095", "C-117", "C-180")
async def test_a_turn_that_the_client_ends_is_answered_once_without_a_warning(server: str) -> None:
    """The server answers by itself, and refuses to do so twice in an error without code."""
    async with conversing(server) as held:
        held.client.forget()
        held.client.speak(speech())
        await held.client.until("UserStartedSpeaking")
        held.client.say("ForceEndTurn")
        held.client.speak(silence())
        await held.client.until("LatencyReport")
        assert held.client.types() == ["UserStartedSpeaking", *TYPED]
        await ask(held.client, "Good.")
        assert held.client.said("assistant")[1:] == ["You said: Good."]
    for error in held.answered("error"):  # none, if the answer was over by then
        assert error["error"]["type"] == "conversation_already_has_active_response"
        assert error["error"]["code"] is None
    check_frames(held)


@pytest.mark.conformance("C-147", "C-178", "C-180")
async def test_a_failing_model_is_a_warning_and_the_conversation_goes_on(server: str) -> None:
    async with conversing(server) as held:
        held.client.say("InjectUserMessage", content="Fail.")
        warning = await held.client.until("Warning")
        assert warning["code"] == "THINK_REQUEST_FAILED"
        assert warning["description"] == "The model is out of order."
        await ask(held.client, "Again.")
        assert held.client.said("assistant") == ["You said: Again."]
        assert "Error" not in held.client.types()
    check_frames(held)


@pytest.mark.conformance("C-178", "C-180")
async def test_a_question_amid_a_call_is_a_warning_and_answered_with_the_call(server: str) -> None:
    async with conversing(server, AGENT) as held:
        held.client.say("InjectUserMessage", content="What time is it?")
        request = await held.client.until("FunctionCallRequest")
        await held.client.until("AgentAudioDone")
        held.client.say("InjectUserMessage", content="Quickly!")
        warning = await held.client.until("Warning")
        assert warning["code"] == "THINK_REQUEST_FAILED"
        (call,) = request["functions"]
        held.client.say("FunctionCallResponse", id=call["id"], name="time", content="noon")
        await held.client.until("LatencyReport")
        assert held.client.said("assistant")[1:] == ["The function says noon."]
    (error,) = held.answered("error")
    assert error["error"]["type"] == "function_call_output_pending"
    check_frames(held)


@pytest.mark.conformance("C-190")
async def test_closing_frees_the_slot(server: str) -> None:
    async with conversing(server) as held:
        await ask(held.client, "Hello.")
    assert held.upstream.closed_by_dialler == 1000
    assert held.upstream.closed_by_far_end is None


@pytest.mark.conformance("C-024")
async def test_a_client_waits_for_a_slot(server: str) -> None:
    """The server is full when the third comes, and refuses it. The relay tries again."""
    answered = trio.Event()

    async def come() -> None:
        async with conversing(server, session__redial_backoff_s=(0.05,)) as held:
            await ask(held.client, "At last.")
            assert held.client.said("assistant") == ["You said: At last."]
            answered.set()

    async with trio.open_nursery() as nursery, conversing(server):
        async with conversing(server) as second:
            nursery.start_soon(come)
            await ask(second.client, "Hello.")
            assert not answered.is_set()
        await answered.wait()
