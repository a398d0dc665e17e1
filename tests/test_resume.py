"""The conversation outlives its client's connection and the relay's process, on virtual time."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import voice_agent
from relay.session import Admission, Session, SessionOptions
from relay.session import snapshot as snapshots
from relay.session.state import Kept
from relay.settings import MappingOptions
from relay.simulator.script import Script, parse
from tests.pair import START, WALL
from tests.returning import Returning
from tests.test_pair import SETTINGS, SPEECH, answer_calls, assert_settled, silence

KEEP_ALIVE = {"type": "KeepAlive"}
STORY = parse('[[turn]]\nuser = "story"\nsay = "' + "One two three four. " * 8 + '"\n')


def says(text: str) -> dict[str, Any]:
    return {"type": "InjectUserMessage", "content": text}


def ready(script: Script | None = None, **how: Any) -> Returning:
    pair = Returning(script, **how)
    pair.client(SETTINGS).until("SettingsApplied")
    return pair


def replayed(pair: Returning) -> list[tuple[str, str]]:
    """What the newest upstream was told of the conversation before it, as (who, what)."""
    leg = max(pair.upstreams)
    told = []
    for line in pair.lines:
        item = line.message.get("item", {}) if isinstance(line.message, dict) else {}
        if line.way == ">" and str(item.get("id", "")).startswith(f"u{leg}_ctx"):
            words = "".join(part["text"] for part in item.get("content", []))
            told.append((item.get("role") or item["type"], words or item.get("output", "")))
    return told


@pytest.mark.conformance("C-257", "C-249")
def test_a_client_that_is_back_without_settings_is_welcomed_and_goes_on() -> None:
    pair = ready().client(says("Hello")).until("LatencyReport").passes(5)
    pair.lost()
    assert pair.upstreams == {}
    pair.away(20).back(says("Still there?")).until("LatencyReport").passes(5)
    assert pair.connections[1][0] == "Welcome"
    assert "SettingsApplied" not in pair.connections[1]
    assert pair.of("Welcome")[-1]["request_id"] == "request-2"
    assert replayed(pair) == [("user", "Hello"), ("assistant", "You said: Hello")]
    assert pair.said()[-2:] == [("user", "Still there?"), ("assistant", "You said: Still there?")]
    assert pair.of("Warning") == []
    assert_settled(pair)


@pytest.mark.conformance("C-254")
def test_settings_on_resume_are_applied_on_top() -> None:
    first = SETTINGS | {"agent": SETTINGS["agent"] | {"greeting": "Good morning."}}
    pair = Returning()
    pair.client(first).until("AgentAudioDone").client(says("Hello")).until("LatencyReport")
    pair.passes(5)
    pair.lost().away(3)
    think = SETTINGS["agent"]["think"] | {"prompt": "Be kind."}
    pair.back(first | {"agent": {"think": think, "greeting": "Good evening."}})
    pair.until("SettingsApplied").passes(5)
    assert pair.connections[1] == ["Welcome", "SettingsApplied"]
    assert pair.sent("session.update")[-1]["session"]["instructions"] == "Be kind."
    assert replayed(pair) == [
        ("assistant", "Good morning."),
        ("user", "Hello"),
        ("assistant", "You said: Hello"),
    ]
    pair.client(says("And now?")).until("LatencyReport").passes(5)
    assert_settled(pair)


@pytest.mark.conformance("C-254")
def test_a_context_in_these_settings_replaces_the_history() -> None:
    pair = ready().client(says("Hello")).until("LatencyReport").passes(5)
    pair.lost().away(3)
    context = {"messages": [{"type": "History", "role": "user", "content": "I am new."}]}
    pair.back(SETTINGS | {"agent": SETTINGS["agent"] | {"context": context}})
    pair.until("SettingsApplied").passes(2)
    assert replayed(pair) == [("user", "I am new.")]
    assert_settled(pair)


@pytest.mark.conformance("C-253")
def test_repeated_settings_change_nothing_and_are_acknowledged() -> None:
    context = {"messages": [{"type": "History", "role": "user", "content": "I am new."}]}
    given = SETTINGS | {
        "agent": SETTINGS["agent"] | {"context": context, "greeting": "Good morning."}
    }
    pair = Returning()
    pair.client(given).until("AgentAudioDone")
    pair.client({"type": "UpdatePrompt", "prompt": "Be kind."}).until("PromptUpdated").passes(5)
    pair.lost().away(3).back(given, repeated=True).until("SettingsApplied").passes(3)
    assert pair.connections[1] == ["Welcome", "SettingsApplied"]
    assert replayed(pair) == [("user", "I am new."), ("assistant", "Good morning.")]
    assert pair.sent("session.update")[-1]["session"]["instructions"] == "Be brief.\n\nBe kind."


@pytest.mark.conformance("C-254")
def test_settings_behind_what_an_sdk_had_queued_are_still_the_connections_first() -> None:
    pair = ready().client(says("Hello")).until("LatencyReport").passes(5)
    pair.lost().away(3).back(KEEP_ALIVE).client(says("And?")).client(SETTINGS)
    pair.until("SettingsApplied", "LatencyReport").passes(5)
    assert pair.connections[1][:2] == ["Welcome", "SettingsApplied"]
    assert pair.said()[-1] == ("assistant", "You said: And?")
    assert_settled(pair)


def test_settings_once_the_conversation_goes_on_are_applied_already() -> None:
    pair = ready().lost().back(KEEP_ALIVE).passes(3).client(SETTINGS)
    assert [e["code"] for e in pair.of("Error")] == ["SETTINGS_ALREADY_APPLIED"]


@pytest.mark.conformance("C-254")
def test_what_the_relay_has_to_say_waits_for_settings_applied() -> None:
    pair = ready().client(says("what time is it")).until("FunctionCallRequest").passes(1)
    pair.lost().away(2).back(SETTINGS).passes(3)
    assert pair.connections[1] == ["Welcome", "SettingsApplied", "FunctionCallRequest"]


@pytest.mark.conformance("C-258", "C-244")
def test_an_open_call_is_announced_again_and_answered_once() -> None:
    pair = ready().client(says("what time is it")).until("FunctionCallRequest").passes(1)
    pair.lost().away(10).back(KEEP_ALIVE).until("FunctionCallRequest").passes(1)
    first, again = pair.of("FunctionCallRequest")
    assert first == again
    answer_calls(pair, [first, again])
    pair.until("LatencyReport").passes(5)
    outputs = [
        event["item"]
        for event in pair.sent("conversation.item.create")
        if event["item"]["type"] == "function_call_output"
    ]
    assert [item["call_id"] for item in outputs] == [first["functions"][0]["id"]]
    assert pair.said()[-1] == ("assistant", "time: fine.")
    assert pair.of("FunctionCallCancelled") == []
    assert_settled(pair)


@pytest.mark.conformance("C-258")
def test_the_time_to_answer_a_call_moves_by_the_time_away() -> None:
    pair = ready().client(says("what time is it")).until("FunctionCallRequest").passes(50)
    pair.lost().away(25).back(KEEP_ALIVE).passes(9)
    assert pair.of("Warning") == []
    pair.passes(3)
    assert [w["code"] for w in pair.of("Warning")] == ["FUNCTION_CALL_FAILED"]


SERVER_SIDE = MappingOptions(function_endpoints=("https://tools.example/",))
WITH_ENDPOINT: dict[str, Any] = SETTINGS | {
    "agent": {
        "think": SETTINGS["agent"]["think"]
        | {
            "functions": [
                {"name": "get_time", "endpoint": {"url": "https://tools.example/time"}},
                {"name": "get_weather"},
            ]
        }
    }
}


@pytest.mark.conformance("C-259")
@pytest.mark.parametrize("killed", [False, True])
def test_an_endpoint_call_in_flight_comes_back_as_an_error_and_is_not_made_again(
    killed: bool,
) -> None:
    pair = Returning(mapping=SERVER_SIDE)
    pair.client(WITH_ENDPOINT).until("SettingsApplied")
    pair.client(says("what time is it")).until("FunctionCallRequest").passes(1)
    assert len(pair.called) == 1
    (pair.killed() if killed else pair.lost()).away(2).back(KEEP_ALIVE).passes(10)
    assert len(pair.called) == 1
    assert len(pair.of("FunctionCallRequest")) == 1
    assert [w["code"] for w in pair.of("Warning")] == ["FUNCTION_CALL_FAILED"]
    (result,) = [item for item in pair.session.log if item.type == "function_call_output"]
    assert "not known" in (result.output or "")
    assert pair.said()[-1][0] == "assistant"
    assert_settled(pair)


@pytest.mark.conformance("C-261", "C-245")
def test_speech_under_way_was_heard_up_to_the_drop() -> None:
    pair = ready(STORY).client(says("A story, please")).until("AgentStartedSpeaking").passes(2.0)
    pair.lost().away(10).back(KEEP_ALIVE).passes(10)
    (asked, story) = replayed(pair)
    assert asked == ("user", "A story, please")
    assert story[1].startswith("One two three")
    assert len(story[1]) < 60
    assert len(pair.sent("response.create")) == 1  # and it is not continued
    assert "audio" not in pair.connections[1]
    assert_settled(pair)


@pytest.mark.conformance("C-261")
def test_audio_that_never_left_the_relay_was_not_heard() -> None:
    pair = ready(STORY).client(says("A story, please")).until("AgentStartedSpeaking").passes(2.0)
    pair.session.client_backlog(1e6)
    pair.lost().away(10).back(KEEP_ALIVE).until("LatencyReport").passes(30)
    assert [said for said in pair.said() if said[0] == "user"] == [("user", "A story, please")]
    assert len(pair.sent("response.create")) == 2  # nothing of it was heard: once more
    assert replayed(pair) == [("user", "A story, please")]
    assert_settled(pair)


@pytest.mark.conformance("C-261")
def test_what_was_still_playing_at_the_drop_is_not_playing_afterwards() -> None:
    pair = ready(STORY).client(says("A story, please")).until("LatencyReport")
    pair.lost().away(0.1).back({"type": "InjectAgentMessage", "message": "Hello again."})
    pair.until("AgentAudioDone").passes(5)
    assert pair.of("InjectionRefused") == []
    assert pair.said()[-1] == ("assistant", "Hello again.")
    assert_settled(pair)


@pytest.mark.conformance("C-254")
def test_settings_on_resume_bring_no_greeting_not_even_one_that_was_due() -> None:
    greeted = SETTINGS | {"agent": SETTINGS["agent"] | {"greeting": "Good morning."}}
    pair = Returning()
    pair.client(greeted).until("SettingsApplied")
    pair.lost().away(1).back(greeted).until("SettingsApplied").passes(10)
    assert pair.said() == []
    assert_settled(pair)


@pytest.mark.conformance("C-257")
def test_a_greeting_that_was_due_is_spoken_to_a_client_that_is_back_without_settings() -> None:
    greeted = SETTINGS | {"agent": SETTINGS["agent"] | {"greeting": "Good morning."}}
    pair = Returning()
    pair.client(greeted).until("SettingsApplied")
    pair.lost().away(1).back(KEEP_ALIVE).until("AgentAudioDone").passes(5)
    assert pair.said() == [("assistant", "Good morning.")]
    assert_settled(pair)


@pytest.mark.conformance("C-254")
def test_a_context_in_the_instructions_is_part_of_the_history_that_stays() -> None:
    context = {"messages": [{"type": "History", "role": "user", "content": "I am new."}]}
    given = SETTINGS | {"agent": SETTINGS["agent"] | {"context": context}}
    pair = Returning(options=SessionOptions(context_mode="instructions"))
    pair.client(given).until("SettingsApplied")
    pair.lost().away(1).back(SETTINGS).until("SettingsApplied")
    assert "I am new." in pair.sent("session.update")[-1]["session"]["instructions"]


@pytest.mark.conformance("C-245", "C-249")
@pytest.mark.parametrize("after_s", [round(n * 0.09, 2) for n in range(16)])
def test_a_turn_is_answered_once_whenever_the_client_is_lost(after_s: float) -> None:
    pair = ready().client(says("Hello, is anybody there?")).passes(after_s)
    pair.lost().away(5).back(KEEP_ALIVE).passes(20)
    assert pair.said()[0] == ("user", "Hello, is anybody there?")
    assert 1 <= len([role for role, _ in pair.said() if role == "assistant"]) <= 2
    assert len(pair.sent("response.create")) <= 2
    assert pair.types().count("Error") == 0
    assert_settled(pair)


def test_a_sentence_cut_by_the_drop_is_heard_whole() -> None:
    pair = ready().passes(1)
    pair.speaks(SPEECH)
    pair.lost().away(1).back(KEEP_ALIVE).passes(1).speaks(SPEECH + silence(1)).passes(10)
    assert pair.said()[0] == ("user", "[speech, 2.0 s]")
    assert_settled(pair)


@pytest.mark.conformance("C-260", "C-189")
def test_deadlines_move_by_the_time_away_and_the_length_of_the_session_does_not() -> None:
    options = SessionOptions(max_session_s=1000, session_warning_s=300)
    pair = ready(options=options).passes(50).client(KEEP_ALIVE)
    pair.lost().away(640).back(KEEP_ALIVE).passes(30)
    assert [w["code"] for w in pair.of("Warning")] == ["MAXIMUM_SESSION_LENGTH_APPROACHING"]
    for _ in range(5):
        pair.client(KEEP_ALIVE).passes(50)
    assert "Error" not in pair.types()
    pair.client(KEEP_ALIVE).passes(50)
    assert pair.closed is not None
    assert pair.closed.reason == "MAXIMUM_SESSION_LENGTH_REACHED"
    assert pair.lines[-1].at == pytest.approx(1000, abs=0.1)


def test_a_client_is_idle_from_its_return_on() -> None:
    pair = ready().passes(59).lost().away(20).back(KEEP_ALIVE).passes(59)
    assert "Error" not in pair.types()
    pair.passes(2)
    assert pair.closed is not None
    assert pair.closed.reason == "CLIENT_MESSAGE_TIMEOUT"


@pytest.mark.conformance("C-249")
@pytest.mark.parametrize("with_settings", [False, True])
def test_a_client_that_is_lost_before_settings_applied_gets_it_later(with_settings: bool) -> None:
    greeted = SETTINGS | {"agent": SETTINGS["agent"] | {"greeting": "Good morning."}}
    pair = Returning().client(greeted).client(says("Hello")).passes(0.03)
    pair.lost().away(5).back(greeted if with_settings else KEEP_ALIVE)
    pair.until("SettingsApplied", "LatencyReport").passes(5)
    assert pair.said() == [
        ("user", "Hello"),
        ("assistant", "Good morning."),
        ("assistant", "You said: Hello"),
    ]
    assert_settled(pair)


@pytest.mark.conformance("C-260")
def test_a_killed_process_leaves_the_conversation() -> None:
    pair = ready().client(says("Hello")).until("LatencyReport").passes(10)
    pair.killed().away(3).back(says("And?")).until("LatencyReport").passes(5)
    assert replayed(pair) == [("user", "Hello"), ("assistant", "You said: Hello")]
    assert pair.said()[-1] == ("assistant", "You said: And?")
    assert_settled(pair)


def test_what_was_played_until_a_restart_was_heard() -> None:
    pair = ready(STORY).client(says("A story, please")).until("LatencyReport")
    pair.passes(1)
    pair.killed().away(1).back(KEEP_ALIVE).passes(3)
    spoken_s = 1.0 + 1.0
    (_, story) = replayed(pair)
    assert 0 < len(story[1]) < len("One two three four. " * 8) - 1
    assert spoken_s * 5 < len(story[1])


# -- snapshots ------------------------------------------------------------------------------------


def test_a_snapshot_holds_the_conversation_and_nothing_of_the_configuration() -> None:
    agent = msgspec.convert(
        {
            "think": {
                "provider": {"type": "open_ai", "model": "gpt-4o-mini"},
                "functions": [
                    {
                        "name": "get_time",
                        "endpoint": {
                            "url": "https://tools.example/time",
                            "headers": {"authorization": "planted-secret"},
                        },
                    }
                ],
            }
        },
        voice_agent.Agent,
    )
    mapping = MappingOptions(
        agents={"clock": agent},
        function_endpoints=("https://tools.example/",),
        models={"planted-name": "gpt-realtime"},
    )
    pair = Returning(mapping=mapping)
    pair.client({"type": "Settings", "audio": {}, "agent": "clock"}).until("SettingsApplied")
    pair.client(says("what time is it")).until("FunctionCallRequest")
    for encoded in (pair.written, pair.session.parked(pair.now, pair.wall)):
        assert b"what time is it" in encoded
        assert b"planted" not in encoded
    pair.killed().back(KEEP_ALIVE).passes(5)
    (function,) = pair.session.applied.functions
    assert function.endpoint is not None
    assert function.endpoint.headers == {"authorization": "planted-secret"}
    pair.session.mapping = MappingOptions()
    pair.killed().back(KEEP_ALIVE)
    assert pair.session.applied.functions[0].endpoint is None


def test_a_client_cannot_borrow_the_headers_of_a_configured_endpoint() -> None:
    agent = msgspec.convert(
        {
            "think": {
                "functions": [
                    {
                        "name": "get_time",
                        "endpoint": {
                            "url": "https://tools.example/time",
                            "headers": {"authorization": "planted-secret"},
                        },
                    }
                ]
            }
        },
        voice_agent.Agent,
    )
    pair = Returning(
        mapping=MappingOptions(
            agents={"clock": agent}, function_endpoints=("https://tools.example/",)
        )
    )
    pair.client(WITH_ENDPOINT).until("SettingsApplied").lost().back(KEEP_ALIVE)
    endpoint = pair.session.applied.functions[0].endpoint
    assert endpoint is not None
    assert endpoint.headers == {}


def test_a_snapshot_of_a_running_session_holds_no_audio() -> None:
    pair = ready()
    pair.speaks(SPEECH)
    assert pair.session.kept
    assert len(pair.session.snapshot(pair.wall)) < 4000 < len(pair.session.parked(pair.now, 0.0))


def test_every_field_of_the_state_is_kept_or_configured() -> None:
    configured = {"options", "mapping", "upstreams", "out"}
    assert set(Session.__struct_fields__) == {*Kept.__struct_fields__} | configured


def same(pair: Returning) -> None:
    """Decoding what was encoded changes nothing that does not end with the connection."""
    session = pair.session
    encoded = session.parked(pair.now, pair.wall)
    known = snapshots.fields(snapshots.read(encoded), session.mapping, pair.wall)
    for name in Kept.__struct_fields__:
        if name not in ("live", "next", "updating", "changing", "updates"):
            assert known[name] == getattr(session, name), name


# -- any moment -----------------------------------------------------------------------------------

Cut = tuple[float, bool]
"""So many seconds after a turn began; whether the process is killed, else the client lost."""
cuts = st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(cuts=cuts, spoken=st.booleans(), again=st.sampled_from(["bare", "settings", "repeated"]))
def test_however_often_the_client_is_lost_nothing_is_lost_or_doubled(
    cuts: list[Cut], spoken: bool, again: str
) -> None:
    """What the user wrote is in the history once, calls keep their one result, and the
    conversation goes on as if nothing had been."""
    pair = ready()
    for turn, (cut, killed) in enumerate(cuts):
        pair.client(says(f"Question {turn}: what time is it"))
        if spoken:
            pair.speaks(SPEECH[:24000], frame_ms=100)
        pair.passes(cut)
        same(pair)
        (pair.killed() if killed else pair.lost()).away(7)
        first = KEEP_ALIVE if again == "bare" else SETTINGS
        pair.back(first, repeated=again == "repeated").passes(0.3)
        answer_calls(pair, pair.of("FunctionCallRequest"))
        pair.speaks(silence(1.0), frame_ms=100).passes(15)
        answer_calls(pair, pair.of("FunctionCallRequest"))
        pair.passes(15).client(KEEP_ALIVE)
    assert pair.closed is None, pair
    assert_settled(pair)
    log = pair.session.log
    written = [item for item in log if item.role == "user" and (item.id or "").find("_usr_") > 0]
    assert len(written) == len(cuts)
    calls = [item.call_id for item in log if item.type == "function_call"]
    results = [item.call_id for item in log if item.type == "function_call_output"]
    assert sorted(calls, key=str) == sorted(results, key=str)
    assert len(set(calls)) == len(calls)
    for heard in pair.connections:
        assert heard.count("Welcome") == 1
        assert heard[0] == "Welcome"
        if heard is not pair.connections[0]:
            assert heard.count("SettingsApplied") == (again != "bare")
            assert again == "bare" or heard[1] == "SettingsApplied"
    pair.client(says("The end")).until("LatencyReport")
    assert pair.said()[-1] == ("assistant", "You said: The end")


def test_a_lost_client_may_be_lost_again_before_anything_came_of_its_return() -> None:
    pair = ready().client(says("what time is it")).passes(0.1)
    for _ in range(5):
        pair.lost().away(3).back(KEEP_ALIVE).passes(0.03)
    pair.until("FunctionCallRequest").passes(1)
    answer_calls(pair, pair.of("FunctionCallRequest"))
    pair.until("LatencyReport").passes(5)
    assert pair.said() == [("user", "what time is it"), ("assistant", "time: fine.")]
    assert_settled(pair)


def test_the_clock_of_another_process_may_show_anything() -> None:
    pair = ready().client(says("Hello")).until("LatencyReport").passes(5)
    session = Session.restored(
        pair.written, options=SessionOptions(), mapping=MappingOptions(), lost_wall=WALL
    )
    session.resumed(Admission("request-2"), 3.0, WALL + 100)
    assert session.next_deadline() > 3.0
    assert pair.now > START
    assert session.log[0].role == "user"
