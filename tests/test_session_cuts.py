"""What the client hears keeps its order, whenever the upstream is cut and whatever goes on then."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.session import SessionOptions
from relay.simulator.script import parse
from tests.pair import Pair
from tests.test_pair import SETTINGS, answer_calls, silence, tone

GREETED = SETTINGS | {"agent": SETTINGS["agent"] | {"greeting": "Good morning to you."}}
SENTENCE = tone(0.6) + silence(0.8)
SCRIPTS = [
    "",
    '[[turn]]\nuser = "story"\nsay = "' + "One two three four. " * 8 + '"\n',
    "[knobs]\nsession_s = 150\n",
    "[knobs]\ntranscription_s = 1.2\n",
    "[knobs]\ntranscription_s = 1.2\nthink_s = 0.01\n",
    "[knobs]\ntranscription_s = 4.0\nthink_s = 0.01\n",
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"continue_after_loss": False},
    {"batch_function_calls": True},
    {"inject_user_interrupts": True},
]
steps = st.one_of(
    st.sampled_from(["cut", "unreachable", "answers", "speaks", "speaks", "begins to speak"]),
    st.sampled_from(["Hello", "A story", "what time is it", "time and weather please"]).map(
        lambda text: {"type": "InjectUserMessage", "content": text}
    ),
    st.sampled_from(["default", "queue", "interrupt"]).map(
        lambda how: {"type": "InjectAgentMessage", "message": "Hold on, please.", "behavior": how}
    ),
    st.sampled_from(["marin", "shimmer"]).map(
        lambda voice: {
            "type": "UpdateSpeak",
            "speak": {"provider": {"type": "open_ai", "voice": voice}},
        }
    ),
    st.just({"type": "ForceEndTurn"}),
    st.floats(0.0, 5000.0),
)
pauses = st.sampled_from([0.0, 0.005, 0.03, 0.1, 0.3, 0.7, 1.5, 4.0, 12.0])


def take(pair: Pair, step: Any, answered: int) -> int:
    """One step; a number is the audio that is not written out, in milliseconds. Returns how many of
    the calls were answered."""
    match step:
        case dict():
            pair.client(step)
        case float():
            pair.session.client_backlog(step)
        case "cut":
            pair.loses_upstream()
        case "unreachable":
            pair.unreachable = 1
        case "speaks":
            pair.speaks(SENTENCE, frame_ms=100)
        case "begins to speak":
            pair.speaks(SENTENCE[:19200], frame_ms=100)
        case "answers":
            calls = pair.of("FunctionCallRequest")
            answer_calls(pair, calls[answered:])
            return len(calls)
    return answered


def out_of_order(pair: Pair) -> str | None:
    """What the client was told of speech that was not so (C-128, C-136, C-154, C-157)."""
    speaks = False
    for line in pair.transcript:
        match line.what:
            case "AgentStartedSpeaking":
                speaks = True
            case "UserStartedSpeaking":
                speaks = False
            case "AgentAudioDone" | "audio" if not speaks:
                return f"{line.what} at {line.at} without AgentStartedSpeaking"
            case "AgentAudioDone":
                speaks = False
    return None


@settings(max_examples=60, deadline=None)
@given(
    script=st.sampled_from(SCRIPTS),
    options=st.sampled_from(OPTIONS),
    latency_s=st.sampled_from([0.001, 0.02, 0.2]),
    course=st.lists(st.tuples(steps, pauses), min_size=3, max_size=20),
)
@pytest.mark.conformance("C-128", "C-136", "C-154", "C-157")
def test_the_agents_speech_begins_before_it_ends_however_often_the_upstream_is_cut(
    script: str, options: dict[str, Any], latency_s: float, course: list[tuple[Any, float]]
) -> None:
    how = SessionOptions(client_idle_s=9000.0, **options)
    pair = Pair(parse(script) if script else None, options=how, latency_s=latency_s)
    pair.client(GREETED).passes(0.5)
    answered = 0
    for step, pause in course:
        if pair.closed is not None:
            break
        answered = take(pair, step, answered)
        pair.passes(pause)
    assert out_of_order(pair) is None, pair
