"""The conversation outlives its upstream: rollovers and losses on virtual time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.session import SessionOptions
from relay.session.facts import Dialect, UpstreamTraits
from relay.session.state import Timer
from relay.settings import MappingOptions, TurnOptions
from relay.simulator.script import parse
from tests.pair import Pair
from tests.test_pair import SETTINGS, SPEECH, answer_calls, assert_settled, ready, silence


def says(text: str) -> dict[str, Any]:
    return {"type": "InjectUserMessage", "content": text}


def replayed(pair: Pair, leg: int) -> list[tuple[str, str]]:
    """What a leg was told of the conversation before it, as (who, what)."""
    told = []
    for line in pair.lines:
        item = line.message.get("item", {}) if isinstance(line.message, dict) else {}
        if line.way == ">" and str(item.get("id", "")).startswith(f"u{leg}_ctx"):
            words = "".join(part["text"] for part in item.get("content", []))
            told.append((item.get("role") or item["type"], words or item.get("output", "")))
    return told


@pytest.mark.conformance("C-184", "C-185", "C-186", "C-240", "C-189")
def test_two_hours_of_conversation_over_sessions_of_ten_minutes() -> None:
    pair = Pair(parse("[knobs]\nsession_s = 600\n")).client(SETTINGS).until("SettingsApplied")
    for turn in range(23):
        pair.client(says(f"Turn {turn}")).until("LatencyReport")
        for _ in range(6):
            pair.passes(50).client({"type": "KeepAlive"})
    legs = len(pair.dialled)
    assert legs > 10
    assert [text for role, text in pair.said() if role == "user"] == [
        f"Turn {turn}" for turn in range(23)
    ]
    assert len(pair.said()) == 46
    assert pair.types().count("Welcome") == pair.types().count("SettingsApplied") == 1
    assert [w["code"] for w in pair.of("Warning")] == ["MAXIMUM_SESSION_LENGTH_APPROACHING"]
    assert replayed(pair, legs)[:2] == [("user", "Turn 0"), ("assistant", "You said: Turn 0")]
    assert_settled(pair)
    for _ in range(6):
        pair.passes(50)
        if pair.closed is None:
            pair.client({"type": "KeepAlive"})
    assert pair.closed is not None
    assert (pair.closed.code, pair.closed.reason) == (1000, "MAXIMUM_SESSION_LENGTH_REACHED")


@pytest.mark.conformance("C-191", "C-245", "C-186")
@pytest.mark.parametrize("after_s", [round(n * 0.09, 2) for n in range(20)])
def test_a_turn_is_answered_once_whenever_the_upstream_is_lost(after_s: float) -> None:
    pair = ready().client(says("Hello, is anybody there?")).passes(after_s)
    pair.loses_upstream().passes(20)
    assert [w["code"] for w in pair.of("Warning")] == ["THINK_REQUEST_FAILED"]
    assert pair.said()[0] == ("user", "Hello, is anybody there?")
    assert 1 <= len([role for role, _ in pair.said() if role == "assistant"]) <= 2
    assert len(pair.of("AgentAudioDone")) >= 1
    assert pair.closed is None
    assert_settled(pair)


@pytest.mark.conformance("C-191")
def test_with_rollover_off_a_loss_ends_the_conversation() -> None:
    pair = Pair(options=SessionOptions(rollover=False)).client(SETTINGS).until("SettingsApplied")
    pair.loses_upstream()
    assert [e["code"] for e in pair.of("Error")] == ["INTERNAL_SERVER_ERROR"]
    assert pair.closed is not None
    assert pair.closed.code == 1011


@pytest.mark.conformance("C-184")
@pytest.mark.parametrize(
    ("dialect", "code"),
    [
        (Dialect.DEEPGRAM, "MAXIMUM_SESSION_LENGTH_REACHED"),
        (Dialect.COMPONENT, "session_max_duration"),
    ],
)
def test_with_rollover_off_an_expired_session_is_over(dialect: Dialect, code: str) -> None:
    options = SessionOptions(rollover=False, client_idle_s=1000)
    pair = Pair(parse("[knobs]\nsession_s = 300\n"), options=options, dialect=dialect)
    pair.client(SETTINGS).passes(400)
    assert [e["code"] for e in pair.of("Error")] == [code]
    assert pair.closed is not None
    assert pair.closed.code == 1000


@pytest.mark.conformance("C-188")
def test_three_failures_to_rebuild_end_the_conversation() -> None:
    pair = ready()
    pair.unreachable = 3
    pair.loses_upstream().passes(10)
    assert [e["code"] for e in pair.of("Error")] == ["INTERNAL_SERVER_ERROR"]
    assert pair.closed is not None
    assert pair.closed.code == 1011
    assert len(pair.dialled) == 4


def test_two_failures_to_rebuild_are_only_a_pause() -> None:
    pair = ready()
    pair.unreachable = 2
    pair.loses_upstream().client(says("Still there?")).until("LatencyReport").passes(10)
    assert pair.said() == [("user", "Still there?"), ("assistant", "You said: Still there?")]
    assert_settled(pair)


@pytest.mark.conformance("C-244")
def test_an_open_call_survives_and_its_late_answer_fits() -> None:
    pair = ready().client(says("what time is it")).until("FunctionCallRequest").passes(1)
    pair.loses_upstream().passes(2)
    answer_calls(pair, pair.of("FunctionCallRequest"))
    pair.until("LatencyReport").passes(10)
    assert pair.of("FunctionCallCancelled") == []
    assert pair.said()[-1] == ("assistant", "time: fine.")
    assert_settled(pair)


@pytest.mark.conformance("C-187")
def test_a_sentence_cut_by_the_loss_is_heard_whole() -> None:
    pair = ready().passes(1).speaks(SPEECH)
    pair.loses_upstream().speaks(SPEECH + silence(1)).passes(10)
    assert pair.said()[0] == ("user", "[speech, 2.0 s]")
    assert len(pair.of("LatencyReport")) == 1
    assert_settled(pair)


@pytest.mark.conformance("C-187", "C-240")
@pytest.mark.parametrize("frame_ms", [20, 100, 1000])
def test_a_sentence_is_heard_whole_whenever_a_planned_switch_is(frame_ms: int) -> None:
    """Also while the upstream that is left behind has not noticed it yet."""
    for after_ms in range(0, 160, 8):
        pair = ready().passes(1)
        pair.session.arm(Timer.PREPARE, 0.0)
        pair.passes(after_ms / 1000).speaks(SPEECH + silence(1), frame_ms).passes(15)
        assert pair.said()[0] == ("user", "[speech, 1.0 s]"), after_ms
        assert pair.types().count("UserStartedSpeaking") == 1
        assert len(pair.of("LatencyReport")) == 1
        assert pair.of("Warning") == []
        assert len(pair.dialled) == 2
        assert_settled(pair)


@pytest.mark.conformance("C-246")
def test_a_new_upstream_knows_only_what_was_heard() -> None:
    script = parse('[[turn]]\nuser = "story"\nsay = "' + "One two three four. " * 8 + '"\n')
    pair = Pair(script).client(SETTINGS).until("SettingsApplied")
    pair.client(says("A story, please")).until("AgentStartedSpeaking").passes(2.0)
    pair.speaks(SPEECH + silence(1)).passes(20).loses_upstream().passes(5)
    told = replayed(pair, 2)
    assert told[0] == ("user", "A story, please")
    story = told[1][1]
    assert story.startswith("One two three")
    assert len(story) < 60


@pytest.mark.conformance("C-245")
def test_an_answer_that_was_half_heard_goes_on() -> None:
    script = parse('[[turn]]\nnth = 1\nsay = "' + "One two three four. " * 8 + '"\n')
    pair = Pair(script).client(SETTINGS).until("SettingsApplied")
    pair.client(says("A story, please")).until("AgentStartedSpeaking").passes(0.8)
    pair.loses_upstream().passes(10)
    asked = pair.sent("response.create")
    assert [create["response"]["metadata"]["relay"] for create in asked] == [
        "inject_user",
        "continue",
    ]
    assert asked[1]["response"]["instructions"].startswith("Be brief.\n\n")
    assert_settled(pair)


@pytest.mark.conformance("C-073", "C-186")
def test_another_model_is_another_upstream() -> None:
    pair = ready().client(says("Hello")).until("LatencyReport")
    think = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}, "prompt": "New."}
    pair.client({"type": "UpdateThink", "think": think}).client(says("And now?"))
    pair.until("ThinkUpdated", within=30).passes(20)
    assert [target.model for target in pair.dialled] == ["gpt-realtime-2.1", "gpt-realtime-mini"]
    assert pair.of("Warning") == []
    assert pair.said()[-2:] == [("user", "And now?"), ("assistant", "You said: And now?")]
    assert_settled(pair)


@pytest.mark.conformance("C-075", "C-241")
@pytest.mark.parametrize("reachable", [True, False])
def test_another_voice_after_the_agent_has_spoken(reachable: bool) -> None:
    pair = ready().client(says("Hello")).until("LatencyReport")
    pair.unreachable = 0 if reachable else 3
    speak = {"provider": {"type": "open_ai", "voice": "shimmer"}}
    pair.client({"type": "UpdateSpeak", "speak": speak}).passes(20)
    voices = [
        update["session"].get("audio", {}).get("output", {}).get("voice")
        for update in pair.sent("session.update")
    ]
    if reachable:
        assert voices == ["marin", "shimmer"]
        assert len(pair.of("SpeakUpdated")) == 1
        assert pair.of("Warning") == []
    else:
        assert voices == ["marin"]
        assert pair.of("SpeakUpdated") == []
        assert [w["code"] for w in pair.of("Warning")] == ["SPEAK_REQUEST_FAILED"]
    pair.client(says("Still there?")).until("LatencyReport").passes(10)
    assert_settled(pair)


@pytest.mark.conformance("C-080", "C-248")
def test_updates_during_a_rebuild_are_part_of_the_new_session() -> None:
    pair = ready().loses_upstream()
    pair.client({"type": "UpdatePrompt", "prompt": "Be kind."})
    pair.client({"type": "UpdatePrompt", "prompt": "Be wise."}).passes(5)
    updates = pair.sent("session.update")
    assert updates[1]["session"]["instructions"] == "Be brief.\n\nBe kind.\n\nBe wise."
    assert len(updates) == 2
    assert len(pair.of("PromptUpdated")) == 2


@pytest.mark.conformance("C-247")
def test_a_session_that_only_fails_is_replaced_once() -> None:
    failing = '[[turn]]\nfail = { code = "server_error", message = "Sorry." }\n'
    pair = Pair(parse(failing)).client(SETTINGS).until("SettingsApplied")
    pair.client(says("Hello")).passes(60)
    assert len(pair.dialled) == 2
    assert [e["code"] for e in pair.of("Error")] == ["FAILED_TO_THINK"]
    assert pair.closed is not None
    assert pair.closed.code == 1011


CUTS = st.lists(st.floats(0.01, 3.0), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(cuts=CUTS, spoken=st.booleans())
def test_however_often_the_upstream_is_lost_nothing_is_lost_or_doubled(
    cuts: list[float], spoken: bool
) -> None:
    """What the user wrote is in the history once, calls keep their one result, and the
    conversation goes on as if nothing had been."""
    pair = ready()
    for turn, cut in enumerate(cuts):
        pair.client(says(f"Question {turn}: what time is it"))
        if spoken:
            pair.speaks(SPEECH[:24000], frame_ms=100)
        pair.passes(cut).loses_upstream().passes(0.3)
        answer_calls(pair, pair.of("FunctionCallRequest"))
        pair.speaks(silence(1.0), frame_ms=100).passes(15)
        answer_calls(pair, pair.of("FunctionCallRequest"))
        pair.passes(15).client({"type": "KeepAlive"})
    assert pair.closed is None, pair
    assert_settled(pair)
    log = pair.session.log
    written = [item for item in log if item.role == "user" and (item.id or "").find("_usr_") > 0]
    assert len(written) == len(cuts)
    calls = [item.call_id or "" for item in log if item.type == "function_call"]
    results = [item.call_id or "" for item in log if item.type == "function_call_output"]
    assert sorted(calls) == sorted(results)
    assert len(set(calls)) == len(calls)
    pair.client(says("The end")).until("LatencyReport")
    assert pair.said()[-1] == ("assistant", "You said: The end")


def test_the_next_upstream_takes_over_in_mid_conversation() -> None:
    pair = Pair(upstreams=(UpstreamTraits(), UpstreamTraits(model="other-model")))
    pair.client(SETTINGS).until("SettingsApplied").client(says("Hello")).until("LatencyReport")
    pair.unreachable = 1
    pair.loses_upstream().client(says("Still there?")).until("LatencyReport").passes(10)
    assert [(target.upstream, target.model) for target in pair.dialled] == [
        (0, "gpt-realtime-2.1"),
        (0, "gpt-realtime-2.1"),
        (1, "other-model"),
    ]
    assert pair.said()[-1] == ("assistant", "You said: Still there?")
    assert_settled(pair)


@pytest.mark.conformance("C-188")
@pytest.mark.parametrize("failures", [5, 6])
def test_each_upstream_is_tried_three_times(failures: int) -> None:
    pair = Pair(upstreams=(UpstreamTraits(), UpstreamTraits()))
    pair.client(SETTINGS).until("SettingsApplied").unreachable = failures
    pair.loses_upstream().passes(20)
    assert [target.upstream for target in pair.dialled] == [0, *[0, 1] * 3]
    given_up = ["INTERNAL_SERVER_ERROR"] if failures == 6 else []
    assert [e["code"] for e in pair.of("Error")] == given_up


def test_an_upstream_that_refuses_for_good_is_not_asked_again() -> None:
    pair = Pair(upstreams=(UpstreamTraits(), UpstreamTraits()))
    pair.refused = 1
    pair.client(SETTINGS).until("SettingsApplied")
    assert [target.upstream for target in pair.dialled] == [0, 1]
    assert pair.of("Error") == []


@pytest.mark.conformance("C-024")
def test_when_every_upstream_refuses_for_good_that_is_the_end() -> None:
    pair = Pair(upstreams=(UpstreamTraits(), UpstreamTraits()))
    pair.refused = 2
    pair.client(SETTINGS).passes(10)
    assert [e["code"] for e in pair.of("Error")] == ["FAILED_TO_THINK"]
    assert pair.closed is not None
    assert pair.closed.code == 1000
    assert len(pair.dialled) == 2


def test_an_upstream_that_hangs_up_again_and_again_is_given_up() -> None:
    pair = ready().client(says("Hello"))
    for _ in range(4):
        pair.loses_upstream()
        while pair.session.live is None and pair.closed is None:
            pair.passes(0.01)
    assert [e["code"] for e in pair.of("Error")] == ["INTERNAL_SERVER_ERROR"]
    assert pair.closed is not None
    assert len(pair.dialled) == 4
    asked = [line for line in pair.lines if line.way == ">" and line.what == "response.create"]
    assert len(asked) <= 4


def test_an_upstream_that_has_proved_itself_may_be_lost_any_number_of_times() -> None:
    pair = ready()
    for turn in range(6):
        pair.client(says(f"Turn {turn}")).until("LatencyReport").loses_upstream().passes(1)
    assert pair.closed is None
    assert len(pair.dialled) == 7


def test_a_commit_that_was_lost_with_the_upstream_holds_up_nothing() -> None:
    mapping = MappingOptions(turns=TurnOptions(kind="off"))
    pair = Pair(mapping=mapping).client(SETTINGS).until("SettingsApplied")
    pair.speaks(SPEECH, frame_ms=100).client({"type": "ForceEndTurn"})
    pair.loses_upstream().passes(2).client(says("Hello")).until("LatencyReport").passes(5)
    assert pair.said()[-1] == ("assistant", "You said: Hello")
    assert_settled(pair)
