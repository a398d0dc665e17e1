"""Whole conversations between the session and the simulator, on virtual time.

What either side alone cannot show: that they get on, that nothing is left waiting, and that the
upstream never has to complain.
"""

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pair import Pair

SETTINGS: dict[str, Any] = {
    "type": "Settings",
    "audio": {},
    "agent": {
        "think": {
            "provider": {"type": "open_ai", "model": "gpt-4o-mini"},
            "prompt": "Be brief.",
            "functions": [{"name": "get_time"}, {"name": "get_weather"}],
        }
    },
}
HARMLESS = {
    "input_audio_buffer_commit_empty",
    "response_cancel_not_active",
    "conversation_already_has_active_response",
}
"""Errors that races on the way to the upstream make unavoidable."""


def tone(seconds: float) -> bytes:
    """Loud enough for the upstream's voice activity detection; 24 kHz linear16."""
    samples = (int(12000 * math.sin(n * 0.05)) for n in range(int(24000 * seconds)))
    return b"".join(struct.pack("<h", sample) for sample in samples)


def silence(seconds: float) -> bytes:
    return bytes(2 * int(24000 * seconds))


SPEECH = tone(1.0)


def ready(**agent: Any) -> Pair:
    pair = Pair()
    pair.client(SETTINGS | {"agent": SETTINGS["agent"] | agent})
    return pair.until("SettingsApplied")


def answer_calls(pair: Pair, calls: list[dict[str, Any]]) -> None:
    for request in calls:
        for call in request["functions"]:
            pair.client(
                {
                    "type": "FunctionCallResponse",
                    "id": call["id"],
                    "name": call["name"],
                    "content": "fine",
                }
            )


def assert_settled(pair: Pair) -> None:
    """Nothing waits for anything, and the upstream had nothing to complain about."""
    session = pair.session
    assert session.wants == []
    assert session.requested is None
    assert session.response is None
    assert session.rounds == ()
    assert session.lane == ()
    assert [c for c in pair.complaints() if c.get("code") not in HARMLESS] == []


@pytest.mark.conformance("C-144", "C-202")
def test_a_greeting_is_said_before_it_is_heard() -> None:
    pair = ready(greeting="Good morning.").until("AgentAudioDone").passes(10)
    assert pair.types() == [
        "Welcome",
        "SettingsApplied",
        "ConversationText",
        "History",
        "AgentStartedSpeaking",
        "audio",
        "AgentAudioDone",
    ]
    assert pair.said() == [("assistant", "Good morning.")]
    assert_settled(pair)


@pytest.mark.conformance("C-088", "C-143", "C-202")
def test_a_text_turn_in_its_canonical_order() -> None:
    pair = ready().client({"type": "InjectUserMessage", "content": "Hello"}).until("LatencyReport")
    assert pair.types() == [
        "Welcome",
        "SettingsApplied",
        "ConversationText",
        "History",
        "AgentThinking",
        "AgentStartedSpeaking",
        "audio",
        "ConversationText",
        "History",
        "AgentAudioDone",
        "LatencyReport",
    ]
    assert_settled(pair)


@pytest.mark.conformance("C-165", "C-166", "C-174", "C-221")
def test_two_calls_of_one_round_give_one_more_response() -> None:
    pair = ready()
    pair.client({"type": "InjectUserMessage", "content": "time and weather please"})
    pair.until("FunctionCallRequest", "FunctionCallRequest").passes(1)
    asked = pair.of("FunctionCallRequest")
    assert [call["name"] for request in asked for call in request["functions"]] == [
        "get_time",
        "get_weather",
    ]
    answer_calls(pair, asked)
    pair.until("AgentThinking", "AgentStartedSpeaking", "AgentAudioDone", "LatencyReport")
    assert len(pair.sent("response.create")) == 2
    assert len(pair.of("LatencyReport")) == 1
    assert_settled(pair.passes(10))


@pytest.mark.conformance("C-119", "C-121", "C-202")
def test_a_spoken_turn_is_answered_without_being_asked_for() -> None:
    pair = ready().speaks(SPEECH + silence(1)).until("LatencyReport")
    assert pair.types()[2:] == [
        "UserStartedSpeaking",
        "AgentThinking",
        "AgentStartedSpeaking",
        "audio",
        "ConversationText",
        "History",
        "audio",
        "ConversationText",
        "History",
        "AgentAudioDone",
        "LatencyReport",
    ]
    assert pair.said()[0] == ("user", "[speech, 1.0 s]")
    assert pair.sent("response.create") == []
    assert_settled(pair.passes(10))


@pytest.mark.conformance("C-149", "C-151", "C-152", "C-154", "C-157")
@pytest.mark.parametrize("after_s", [round(n * 0.17, 2) for n in range(24)])
def test_a_user_who_speaks_at_any_moment_silences_the_agent(after_s: float) -> None:
    pair = ready().client({"type": "InjectUserMessage", "content": "Tell me a long story, please"})
    pair.passes(after_s).speaks(SPEECH + silence(1.5), frame_ms=100).passes(20)
    whats = [line.what for line in pair.transcript]
    barged_in = whats.index("UserStartedSpeaking")
    answer = whats.index("AgentThinking", barged_in)
    assert "audio" not in whats[barged_in:answer]
    assert "AgentAudioDone" not in whats[barged_in:answer]
    assert whats.index("AgentStartedSpeaking", answer) < whats.index("audio", answer)
    heard = (pair.transcript[barged_in].at - 0.08) * 1000
    for cut in pair.sent("conversation.item.truncate"):
        assert 0 <= cut["audio_end_ms"] <= heard
    assert_settled(pair)


STEPS = st.lists(
    st.sampled_from(
        [
            {"type": "InjectUserMessage", "content": "Hello"},
            {"type": "InjectUserMessage", "content": "what time is it"},
            {"type": "InjectUserMessage", "content": "time and weather"},
            {"type": "InjectAgentMessage", "message": "One moment."},
            {"type": "InjectAgentMessage", "message": "Two moments.", "behavior": "queue"},
            {"type": "InjectAgentMessage", "message": "Stop.", "behavior": "interrupt"},
            {"type": "UpdatePrompt", "prompt": "Be kind."},
            {"type": "UpdateSpeak", "speak": {"provider": {"type": "open_ai", "speed": 1.2}}},
            {"type": "ForceEndTurn"},
            {"type": "KeepAlive"},
            "speaks",
            "answers",
            0.05,
            0.3,
            1.1,
        ]
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_whatever_a_client_does_ends_in_peace(steps: list[Any]) -> None:
    """No message is left unanswered, no response asked for twice, nothing waits for ever, and the
    exact upstream has nothing to complain about."""
    pair = ready()
    answered = 0
    for step in steps:
        if step == "speaks":
            pair.speaks(SPEECH[: len(SPEECH) // 2] + silence(0.3), frame_ms=100)
        elif step == "answers":
            calls = pair.of("FunctionCallRequest")
            answer_calls(pair, calls[answered:])
            answered = len(calls)
        elif isinstance(step, float):
            pair.passes(step)
        else:
            pair.client(step)
    pair.speaks(silence(1.0), frame_ms=100).passes(30)
    for _ in range(8):
        answer_calls(pair, pair.of("FunctionCallRequest")[answered:])
        answered = len(pair.of("FunctionCallRequest"))
        pair.passes(20).client({"type": "KeepAlive"})
    assert pair.closed is None, pair
    assert_settled(pair)
    acks = [line.what for line in pair.transcript if line.what in ("PromptUpdated", "SpeakUpdated")]
    asked = [
        step["type"].removeprefix("Update") + "Updated"
        for step in steps
        if isinstance(step, dict) and step["type"].startswith("Update")
    ]
    assert acks == asked
