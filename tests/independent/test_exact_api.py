"""The other side of the rules for servers that are not exact: the exact API never needs one.

Whole conversations with the simulator, which is as exact as the vendor's types can tell, on virtual
time. Each rule that reads more into an event than it says leaves a mark on its leg (`deviations`)
and a line in the log; that they do is shown in tests/test_session_inexact.py.
"""

from collections.abc import Callable

import pytest

from relay.simulator.script import Script
from tests.pair import Pair
from tests.test_pair import SETTINGS, SPEECH, answer_calls, silence

LONG = "Tell me everything that can be told about fog. " * 6


def ready(script: Script | None = None, **agent: object) -> Pair:
    pair = Pair(script).client(SETTINGS | {"agent": SETTINGS["agent"] | agent})
    return pair.until("SettingsApplied")


def text(pair: Pair, content: str) -> Pair:
    return pair.client({"type": "InjectUserMessage", "content": content})


def greeting_and_context() -> Pair:
    context = {"messages": [{"type": "History", "role": "user", "content": "Hello."}]}
    pair = ready(greeting="Good morning.", context=context).until("AgentAudioDone")
    return text(pair, "Hello.").until("LatencyReport")


def the_same_text_twice() -> Pair:
    """Two unacknowledged items of the same content: an id must tell them apart."""
    return text(text(ready(), "Hello."), "Hello.").until("LatencyReport", "LatencyReport")


def spoken_turns() -> Pair:
    pair = ready().speaks(SPEECH + silence(1)).until("LatencyReport")
    return pair.speaks(SPEECH + silence(1)).until("LatencyReport")


def barge_in() -> Pair:
    pair = text(ready(), LONG).until("AgentStartedSpeaking").passes(1)
    return pair.speaks(SPEECH + silence(1)).until("LatencyReport")


def interruption() -> Pair:
    pair = text(ready(), LONG).until("AgentStartedSpeaking").passes(1)
    pair.client({"type": "InjectAgentMessage", "message": "Stop.", "behavior": "interrupt"})
    return text(pair.until("AgentAudioDone"), "Go on.").until("LatencyReport")


def calls() -> Pair:
    pair = text(ready(), "time and weather please")
    pair.until("FunctionCallRequest", "FunctionCallRequest")
    answer_calls(pair, pair.of("FunctionCallRequest"))
    return pair.until("LatencyReport")


def turn_ended_by_the_client() -> Pair:
    pair = ready().speaks(SPEECH).client({"type": "ForceEndTurn"})
    return pair.until("LatencyReport")


def updates() -> Pair:
    pair = ready().client({"type": "UpdatePrompt", "prompt": "Be kind."})
    return text(pair.until("PromptUpdated"), "Hello.").until("LatencyReport")


def loss_of_the_upstream() -> Pair:
    """What was said is told to the next leg, item by item."""
    pair = text(ready(), "Hello.").until("LatencyReport")
    text(pair, LONG).until("AgentStartedSpeaking").passes(1).loses_upstream()
    return pair.until("LatencyReport")


CONVERSATIONS = [
    greeting_and_context,
    the_same_text_twice,
    spoken_turns,
    barge_in,
    interruption,
    calls,
    turn_ended_by_the_client,
    updates,
    loss_of_the_upstream,
]


@pytest.mark.parametrize("hold", CONVERSATIONS)
@pytest.mark.conformance("C-091", "C-230")
def test_the_exact_api_needs_no_rule_for_others(hold: Callable[[], Pair]) -> None:
    pair = hold().passes(30)
    leg = pair.session.live
    assert leg is not None
    assert leg.creates_responses
    assert not leg.infers_ends
    assert leg.deviations == ()
    assert [note for note in pair.notes if note.event == "inexact_upstream"] == []
    assert pair.session.unacknowledged == ()
