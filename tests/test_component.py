"""A session as the browser component holds it: its Settings, its dialect, its reconnect."""

from typing import Any

import pytest

from relay.session.facts import Dialect
from tests.pair import Pair
from tests.test_pair import assert_settled

SETTINGS: dict[str, Any] = {
    "type": "Settings",
    "audio": {
        "input": {"encoding": "linear16", "sample_rate": 16000},
        "output": {"encoding": "linear16", "sample_rate": 24000},
    },
    "agent": {
        "idleTimeoutMs": 10000,
        "language": "en",
        "listen": {"provider": {"type": "deepgram", "model": "nova-3"}},
        "think": {
            "provider": {"type": "open_ai", "model": "gpt-4o-mini"},
            "prompt": "You are brief.",
            "functions": [{"name": "get_time", "description": "The time."}],
        },
        "speak": {"provider": {"type": "deepgram", "model": "aura-asteria-en"}},
    },
}
GREETING = "Hello, how can I help?"


def connected(dialect: Dialect, **agent: Any) -> Pair:
    message = SETTINGS | {"agent": SETTINGS["agent"] | agent}
    return Pair(dialect=dialect).client(message).until("SettingsApplied")


@pytest.mark.conformance("C-201", "C-137", "C-145", "C-169", "C-039")
@pytest.mark.parametrize("dialect", list(Dialect))  # the path's; its Settings show it too
def test_a_session_of_the_component_and_its_reconnect_with_context(dialect: Dialect) -> None:
    first = connected(dialect, greeting=GREETING).until("AgentAudioDone")
    assert first.session.component
    first.client({"type": "InjectUserMessage", "content": "what time is it"})
    first.until("FunctionCallRequest", "AgentDone", "AgentAudioDone")
    call = first.of("FunctionCallRequest")[0]["functions"][0]
    answered = len(first.transcript)
    first.client({"type": "FunctionCallResponse", "id": call["id"], "name": call["name"]})
    assert next(line.what for line in first.transcript[answered:]) == "AgentThinking"
    first.until("AgentStartedSpeaking", "ConversationText", "AgentDone", "AgentAudioDone")
    assert_settled(first.passes(20))
    said = first.said()
    assert said[0] == ("assistant", GREETING)
    first.hangs_up()

    messages = [{"type": "History", "role": role, "content": content} for role, content in said]
    second = connected(dialect, greeting=GREETING, context={"messages": messages}).passes(5)
    assert second.types() == ["Welcome", "SettingsApplied"]
    second.client({"type": "InjectUserMessage", "content": "Hello again"})
    second.until("AgentStartedSpeaking", "ConversationText", "AgentDone", "AgentAudioDone")
    assert second.said() == [
        ("user", "Hello again"),
        ("assistant", "You said: Hello again"),
    ]
    assert_settled(second.passes(20))
