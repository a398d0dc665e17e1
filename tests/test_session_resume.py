"""A client that comes back, one detail at a time (whole conversations are in test_resume)."""

import math
from typing import Any

import msgspec
import pytest

from relay import voice_agent
from relay.session import Admission, Session, SessionOptions, snapshot
from relay.session.facts import UpstreamTraits
from relay.settings import Endpoint, MappingOptions, Passthrough
from relay.settings.options import Tracing
from tests import scenes
from tests.expected import Wire, like
from tests.playbook import Playbook
from tests.returning import Returning
from tests.scenes import answer, calls, created, request, response_created, settings
from tests.test_pair import SETTINGS, SPEECH, answer_calls, assert_settled
from tests.test_resume import KEEP_ALIVE, STORY, ready, replayed, says

BAD = SETTINGS | {"audio": {"input": {"encoding": "flac", "sample_rate": 16000}}}
TELEPHONE = SETTINGS | {
    "audio": {
        "input": {"encoding": "mulaw", "sample_rate": 8000},
        "output": {"encoding": "mulaw", "sample_rate": 8000, "container": "none"},
    }
}


def appended(pair: Returning) -> int:
    """How many frames of audio any upstream was sent."""
    return len(pair.sent("input_audio_buffer.append"))


def with_context(*entries: dict[str, Any]) -> dict[str, Any]:
    context = {"messages": [{"type": "History"} | entry for entry in entries]}
    return SETTINGS | {"agent": SETTINGS["agent"] | {"context": context}}


# Settings on the way back.


@pytest.mark.conformance("C-254")
@pytest.mark.parametrize("applied", [False, True], ids=["never applied", "applied before"])
def test_settings_that_cannot_be_are_the_end_of_a_conversation_too(applied: bool) -> None:
    pair = Returning().client(SETTINGS).passes(1.0 if applied else 0.0)
    pair.lost().away(1).back(BAD)
    assert [e["code"] for e in pair.of("Error")] == ["INVALID_SETTINGS"]
    assert pair.closed is not None
    assert pair.closed.code == 1000
    assert len(pair.dialled) == 1


@pytest.mark.conformance("C-254")
def test_so_they_are_behind_other_messages() -> None:
    pair = ready().lost().away(1).back(KEEP_ALIVE).client(BAD)
    assert [e["code"] for e in pair.of("Error")] == ["INVALID_SETTINGS"]
    assert pair.closed is not None
    assert len(pair.dialled) == 2


@pytest.mark.conformance("C-254")
def test_settings_that_come_between_two_attempts_are_part_of_the_next() -> None:
    """Which is made at once."""
    pair = ready().lost()
    pair.unreachable = 1
    pair.away(1).back(KEEP_ALIVE).passes(0.1)
    kind = SETTINGS["agent"]["think"] | {"prompt": "Be kind."}
    pair.client(SETTINGS | {"agent": {"think": kind}}).until("SettingsApplied", within=0.3)
    assert pair.sent("session.update")[-1]["session"]["instructions"] == "Be kind."
    assert len(pair.dialled) == 3
    assert_settled(pair.passes(10))


@pytest.mark.conformance("C-254")
def test_an_upstream_that_is_being_prepared_for_other_settings_is_hung_up() -> None:
    pair = ready().lost().away(1).back(KEEP_ALIVE).passes(0.03).client(SETTINGS)
    assert (pair.hung_up, len(pair.dialled)) == ([1, 2], 3)
    pair.until("SettingsApplied").passes(20)
    assert list(pair.upstreams) == [3]


@pytest.mark.conformance("C-249", "C-254")
def test_settings_behind_other_messages_are_the_first_where_none_were_applied() -> None:
    """And nothing is asked of the client again once they are."""
    pair = Returning().client(SETTINGS).passes(0.05).lost().away(1).back(KEEP_ALIVE).passes(0.05)
    kind = SETTINGS["agent"]["think"] | {"prompt": "Be kind."}
    pair.client(SETTINGS | {"agent": {"think": kind, "greeting": "Hello."}})
    pair.client(says("what time is it")).until("SettingsApplied", "FunctionCallRequest").passes(1)
    assert pair.connections[1][:2] == ["Welcome", "SettingsApplied"]
    assert ("assistant", "Hello.") in pair.said()
    assert pair.sent("session.update")[-1]["session"]["instructions"] == "Be kind."
    pair.loses_upstream().passes(5)
    assert len(pair.of("FunctionCallRequest")) == 1
    pair.client(SETTINGS)
    assert [e["code"] for e in pair.of("Error")] == ["SETTINGS_ALREADY_APPLIED"]


@pytest.mark.conformance("C-249")
def test_a_client_that_brings_none_is_told_once_of_those_from_before() -> None:
    pair = Returning().client(SETTINGS).passes(0.05).lost().away(1).back(KEEP_ALIVE)
    pair.client(says("what time is it")).until("SettingsApplied", "FunctionCallRequest").passes(1)
    pair.loses_upstream().passes(5)
    assert len(pair.of("FunctionCallRequest")) == 1
    assert pair.types().count("SettingsApplied") == 1


@pytest.mark.conformance("C-254")
@pytest.mark.parametrize("bad", [False, True])
def test_they_may_be_refused_there_too(bad: bool) -> None:
    pair = Returning().client(SETTINGS).lost().away(1).back(KEEP_ALIVE)
    pair.client(BAD if bad else SETTINGS).passes(5)
    assert bool(pair.of("Error")) == bad


@pytest.mark.conformance("C-254", "C-244")
def test_a_context_replaces_the_history_but_for_the_calls_that_are_open() -> None:
    """The one that is answered and waits for the other goes with its result."""
    pair = ready().client(says("what time is it")).until("FunctionCallRequest")
    answer_calls(pair, pair.of("FunctionCallRequest"))
    pair.until("LatencyReport").passes(5)
    pair.client(says("time and weather please")).until("FunctionCallRequest", "FunctionCallRequest")
    answered, waiting = pair.of("FunctionCallRequest")[1:]
    answer_calls(pair, [answered])
    pair.passes(1).lost().away(3).back(with_context({"role": "user", "content": "I am new."}))
    pair.until("SettingsApplied", "FunctionCallRequest").passes(1)
    assert replayed(pair) == [
        ("user", "I am new."),
        ("function_call", ""),
        ("function_call", ""),
        ("function_call_output", "fine"),
    ]
    assert pair.of("FunctionCallRequest")[3:] == [waiting]
    answer_calls(pair, [waiting])
    assert_settled(pair.until("LatencyReport").passes(5))


@pytest.mark.conformance("C-254", "C-244")
def test_an_open_call_that_the_context_tells_of_is_told_of_once() -> None:
    pair = ready().client(says("what time is it")).until("FunctionCallRequest").passes(1)
    (call,) = pair.of("FunctionCallRequest")[0]["functions"]
    pair.lost().away(3).back(with_context({"function_calls": [call | {"response": "noon"}]}))
    pair.until("SettingsApplied").passes(1)
    assert replayed(pair) == [("function_call", ""), ("function_call_output", "noon")]


@pytest.mark.conformance("C-254")
def test_audio_in_a_format_that_is_no_longer_agreed_is_not_sent() -> None:
    """Neither what was said before the loss nor what came before these Settings."""
    pair = ready().passes(1).speaks(SPEECH)
    before = appended(pair)
    pair.lost().away(1).back(KEEP_ALIVE).client_audio(SPEECH).client(TELEPHONE).passes(5)
    assert pair.connections[1] == ["Welcome", "SettingsApplied"]
    assert appended(pair) == before
    pair.client_audio(b"\xff" * 800).passes(1)
    assert appended(pair) == before + 1
    assert pair.complaints() == []


@pytest.mark.conformance("C-254", "C-210")
def test_warnings_about_them_follow_settings_applied() -> None:
    pair = ready(mapping=MappingOptions(prompt_limit_chars=20)).lost().away(1)
    long = SETTINGS["agent"]["think"] | {"prompt": "Be brief, and be it often."}
    pair.back(SETTINGS | {"agent": {"think": long}}).passes(5)
    assert pair.connections[1] == ["Welcome", "SettingsApplied", "Warning"]
    assert [w["code"] for w in pair.of("Warning")] == ["PROMPT_TOO_LONG"]


# Time.


@pytest.mark.conformance("C-189")
def test_a_client_that_was_warned_of_the_end_is_not_warned_again() -> None:
    options = SessionOptions(max_session_s=100, session_warning_s=60)
    pair = ready(options=options).passes(45).client(KEEP_ALIVE).lost().away(10)
    pair.back(KEEP_ALIVE).passes(40)
    assert len(pair.of("Warning")) == 1
    pair.passes(10)
    assert pair.closed is not None
    assert pair.closed.reason == "MAXIMUM_SESSION_LENGTH_REACHED"


@pytest.mark.conformance("C-189", "C-260")
def test_a_session_whose_end_came_while_it_was_parked_ends_on_the_way_back() -> None:
    options = SessionOptions(max_session_s=100, session_warning_s=60)
    pair = ready(options=options).passes(30).lost().away(20).back(KEEP_ALIVE).passes(0.5)
    assert [w["code"] for w in pair.of("Warning")] == ["MAXIMUM_SESSION_LENGTH_APPROACHING"]
    pair.lost().away(60).back(KEEP_ALIVE).passes(0.5)
    assert pair.closed is not None
    assert pair.closed.reason == "MAXIMUM_SESSION_LENGTH_REACHED"


def test_a_client_that_says_nothing_but_settings_is_idle_from_then_on() -> None:
    pair = ready().lost().away(50).back(SETTINGS).passes(59)
    assert "Error" not in pair.types()
    pair.passes(2)
    assert pair.closed is not None
    assert pair.closed.reason == "CLIENT_MESSAGE_TIMEOUT"


# What was heard.


@pytest.mark.conformance("C-261", "C-245")
def test_an_answer_of_which_nothing_was_heard_is_asked_for_as_it_was() -> None:
    pair = ready(STORY).client(says("A story, please")).until("AgentStartedSpeaking").passes(1.0)
    pair.session.client_backlog(1e6)
    pair.lost().away(10).back(KEEP_ALIVE).passes(5)
    reasons = [e["response"]["metadata"]["relay"] for e in pair.sent("response.create")]
    assert reasons == ["inject_user", "inject_user"]


@pytest.mark.conformance("C-260", "C-261")
def test_until_a_process_is_replaced_its_client_hears_what_it_was_sent() -> None:
    heard = []
    for away_s in (0.0, 0.3, 0.6):
        pair = ready(STORY).client(says("A story, please")).until("LatencyReport")
        pair.killed().away(away_s).back(KEEP_ALIVE).passes(3)
        heard.append(len(replayed(pair)[1][1]))
    assert 0 < heard[0] < heard[1] < heard[2]


# The upstream.


@pytest.mark.conformance("C-188")
def test_the_next_upstream_in_turn_takes_over_on_the_way_back_too() -> None:
    pair = ready(upstreams=(UpstreamTraits(), UpstreamTraits(model="other-model"))).lost()
    pair.unreachable = 1
    pair.away(1).back(KEEP_ALIVE).passes(5)
    assert [target.upstream for target in pair.dialled] == [0, 0, 1]
    assert pair.session.live is not None


def test_what_happens_after_the_return_is_told_at_once() -> None:
    pair = ready().lost().away(1).back(SETTINGS).until("SettingsApplied").passes(1)
    pair.loses_upstream()
    assert [w["code"] for w in pair.of("Warning")] == ["THINK_REQUEST_FAILED"]


# Calls.


def returned(book: Playbook, message: Wire | None = None) -> Playbook:
    """The client was lost and is back, with these Settings or none."""
    left = book.session
    assert isinstance(left, Session)
    lost = left.parked(book.clock, book.wall)
    back = Session.restored(lost, options=left.options, mapping=left.mapping, lost_wall=book.wall)
    again = Playbook(back)
    sent = None if message is None else msgspec.convert(message, voice_agent.Settings)
    again._perform(back.resumed(Admission("request-2"), again.clock, again.wall, sent))
    return again


def rebuilt(book: Playbook, leg: int = 2) -> Playbook:
    """The upstream is there again, and is to be told what was said."""
    book.dials().upstream_opens(leg).upstream(created(), leg=leg)
    return book.to_upstream("session.update", leg=leg).updated(leg=leg)


@pytest.mark.conformance("C-258")
def test_only_the_calls_that_are_open_are_announced_again() -> None:
    pair = ready().client(says("time and weather please"))
    pair.until("FunctionCallRequest", "FunctionCallRequest").passes(1)
    first, second = pair.of("FunctionCallRequest")
    answer_calls(pair, [first])
    pair.passes(1).lost().away(5).back(KEEP_ALIVE).passes(2)
    assert pair.of("FunctionCallRequest")[2:] == [second]
    answer_calls(pair, [second])
    pair.until("LatencyReport").passes(5)
    assert_settled(pair)


@pytest.mark.conformance("C-258", "C-158")
def test_a_batch_that_was_not_complete_is_announced_once() -> None:
    given = settings(functions=("f", "g"))
    book = scenes.ready(given, batch_function_calls=True).upstream(response_created())
    book.to_client("AgentThinking").upstream(*calls("resp_1", "call_1")).nothing()
    again = rebuilt(returned(book).formats())
    again.to_client(request("call_1")).to_upstream("conversation.item.create", leg=2)
    again.client(answer("call_1")).to_upstream(*["conversation.item.create", "response.create"])


# What a crash does not undo.


@pytest.mark.conformance("C-260")
def test_an_update_that_was_acknowledged_is_in_force_after_a_crash() -> None:
    pair = ready().passes(1)
    for prompt in ("Be kind.", "Be wise."):
        before = pair.session.revision
        pair.client({"type": "UpdatePrompt", "prompt": prompt}).until("PromptUpdated")
        assert pair.session.revision > before
    pair.killed().away(1).back(KEEP_ALIVE).passes(2)
    told = pair.sent("session.update")[-1]["session"]["instructions"]
    assert told == "Be brief.\n\nBe kind.\n\nBe wise."


@pytest.mark.conformance("C-260")
def test_how_much_was_heard_is_known_after_a_crash() -> None:
    pair = ready(STORY).client(says("A story, please")).until("LatencyReport").passes(0.5)
    before = pair.session.revision
    pair.speaks(SPEECH[:24000], frame_ms=100)
    assert "UserStartedSpeaking" in pair.types()
    assert pair.session.revision > before


@pytest.mark.conformance("C-260")
def test_what_the_client_has_said_while_there_was_no_upstream_is_obeyed_after_a_crash() -> None:
    pair = ready().loses_upstream().client(says("Hello?")).client_audio(SPEECH)
    pair.killed().away(1).back(KEEP_ALIVE).until("LatencyReport")
    assert pair.said() == [("user", "Hello?"), ("assistant", "You said: Hello?")]


@pytest.mark.conformance("C-260")
def test_a_call_that_was_announced_is_open_after_a_crash() -> None:
    pair = ready().client(says("what time is it")).until("FunctionCallRequest")
    pair.killed().away(1).back(KEEP_ALIVE).passes(2)
    first, again = pair.of("FunctionCallRequest")
    assert first == again


@pytest.mark.conformance("C-080")
def test_an_update_that_was_to_be_part_of_the_next_session_is_part_of_the_one_after() -> None:
    pair = ready().loses_upstream().client({"type": "UpdatePrompt", "prompt": "Be kind."})
    pair.passes(0.05).lost().away(1).back(KEEP_ALIVE).until("PromptUpdated")
    told = pair.sent("session.update")[-1]["session"]["instructions"]
    assert told == "Be brief.\n\nBe kind."


def test_what_the_user_was_saying_is_gone_after_a_crash() -> None:
    """And what is said from then on is remembered as it should be."""
    pair = ready().passes(1).speaks(SPEECH).client_audio(bytes(200))
    pair.client({"type": "UpdatePrompt", "prompt": "Be kind."}).until("PromptUpdated")
    before = appended(pair)
    pair.client_audio(bytes(200))
    assert pair.session.gathered
    pair.client({"type": "UpdatePrompt", "prompt": "Be wise."})
    pair.written = pair.session.snapshot(pair.wall)
    pair.killed().back(KEEP_ALIVE).passes(2)
    assert appended(pair) == before
    assert pair.session.kept_bytes == len(pair.session.kept) == 0


# What a snapshot leaves out.


@pytest.mark.parametrize("several", [False, True], ids=["think", "list of think"])
def test_the_headers_of_configured_endpoints_are_kept_back_and_the_clients_own_are_not(
    several: bool,
) -> None:
    theirs = {"url": "https://tools.example/theirs", "headers": {"authorization": "known"}}
    ours = {"url": "https://tools.example/ours", "headers": {"authorization": "planted-secret"}}
    think = {"functions": [{"name": "get_time", "endpoint": ours}]}
    agents = {
        "clock": msgspec.convert({"think": [think, think] if several else think}, voice_agent.Agent)
    }
    mapping = MappingOptions(agents=agents, function_endpoints=("https://tools.example/",))
    for agent, headers in (
        ("clock", ours["headers"]),
        ({"think": {"functions": [{"name": "get_time", "endpoint": theirs}]}}, theirs["headers"]),
        (
            {"think": {"functions": [{"name": "get_weather", "endpoint": theirs}]}},
            theirs["headers"],
        ),
    ):
        pair = Returning(mapping=mapping).client({"type": "Settings", "audio": {}, "agent": agent})
        pair.until("SettingsApplied").lost()
        assert b"planted" not in pair.left
        pair.back(KEEP_ALIVE)
        (function,) = pair.session.applied.functions
        assert function.endpoint is not None
        assert function.endpoint.headers == headers


def test_what_is_passed_through_is_todays() -> None:
    def traced(name: str) -> MappingOptions:
        return MappingOptions(passthrough=Passthrough(tracing=Tracing(workflow_name=name)))

    pair = ready(mapping=traced("planted")).lost()
    assert b"planted" not in pair.left
    pair.session.mapping = traced("today")
    pair.back(KEEP_ALIVE).passes(1)
    assert pair.sent("session.update")[-1]["session"]["tracing"] == {"workflow_name": "today"}


def test_a_configured_function_without_an_endpoint_stays_the_clients() -> None:
    functions = [
        {"name": "get_time", "endpoint": {"url": "https://tools.example/", "headers": {"a": "b"}}},
        {"name": "get_weather"},
        {"name": "get_news", "endpoint": {"url": "https://tools.example/news"}},
    ]
    agent = msgspec.convert({"think": {"functions": functions}}, voice_agent.Agent)
    pair = Returning(
        mapping=MappingOptions(
            agents={"clock": agent}, function_endpoints=("https://tools.example/",)
        )
    )
    pair.client({"type": "Settings", "audio": {}, "agent": "clock"}).until("SettingsApplied")
    pair.lost().back(KEEP_ALIVE)
    time, weather, news = pair.session.applied.functions
    assert time.endpoint is not None
    assert time.endpoint.headers == {"a": "b"}
    assert news.endpoint == Endpoint("https://tools.example/news", "POST", {})
    assert weather.endpoint is None


# One step at a time.


@pytest.mark.conformance("C-254", "C-249")
def test_settings_behind_other_messages_are_told_as_applied_once() -> None:
    book = returned(scenes.ready()).formats().dials().client("KeepAlive", settings())
    rebuilt(book.hangs_up(2).formats(), 3).to_client("SettingsApplied").client(settings())
    book.to_client(scenes.error("SETTINGS_ALREADY_APPLIED")).closes(1000)


@pytest.mark.conformance("C-254", "C-028")
def test_so_are_those_of_a_client_that_was_never_told() -> None:
    book = returned(scenes.configuring()).formats().dials().client("KeepAlive", settings())
    book.hangs_up(2).formats().dials().client(settings())
    book.to_client(scenes.error("SETTINGS_ALREADY_APPLIED")).closes(1000)


@pytest.mark.conformance("C-254")
def test_settings_that_came_first_are_those_that_count_from_then_on() -> None:
    book = returned(scenes.ready(), settings(think={"prompt": "Be kind."})).formats().dials()
    book.upstream_opens(2).upstream(created(), leg=2)
    book.to_upstream(like("session.update", session={"instructions": "Be kind."}), leg=2)


@pytest.mark.conformance("C-254", "C-187")
def test_of_what_is_said_in_another_format_the_last_800_ms_are_kept() -> None:
    telephone = settings(audio=TELEPHONE["audio"])
    book = scenes.ready().client_audio(scenes.pcm(100)).audio_to_upstream()
    book = rebuilt(returned(book, telephone).formats()).to_client("SettingsApplied")
    frames = [bytes([n]) * 800 for n in range(1, 9)]
    for frame in frames:
        book.client_audio(frame).audio_to_upstream(frame)
    book.upstream(scenes.speech_started()).to_client("UserStartedSpeaking").upstream_gone()
    book.to_client(scenes.warning("THINK_REQUEST_FAILED"))
    book.passes(1)
    rebuilt(book, 3).audio_to_upstream(b"".join(frames))


# What is in a snapshot.


def test_how_the_user_sounds_is_in_no_snapshot_of_a_running_session() -> None:
    book = scenes.ready().upstream(*scenes.speech()).to_client("UserStartedSpeaking")
    session = book.session
    assert isinstance(session, Session)
    session.kept, session.kept_bytes, session.said_until = [(0.0, b"1")], 1, 2000.0
    session.gathered, session.unwritten = b"2", {"item_u1": b"3"}
    known = snapshot.read(session.snapshot(book.wall))
    assert (known.kept, known.kept_bytes, known.said_until) == ([], 0, -math.inf)
    assert (known.gathered, known.unwritten) == (b"", {})


def test_where_an_open_call_is_made_is_in_no_snapshot() -> None:
    endpoint = {"url": "https://tools.example/", "headers": {"authorization": "planted-secret"}}
    mapping = MappingOptions(function_endpoints=("https://tools.example/",))
    given = settings(think={"functions": [{"name": "f", "endpoint": endpoint}]})
    book = scenes.ready(given, mapping=mapping).upstream(response_created())
    book.to_client("AgentThinking").upstream(*calls("resp_1", "call_1")).calls_endpoint()
    book.to_client("FunctionCallRequest")
    session = book.session
    assert isinstance(session, Session)
    (round_,) = snapshot.read(session.snapshot(book.wall)).rounds
    assert round_.calls["call_1"].endpoint == Endpoint("", "", {})


@pytest.mark.conformance("C-261")
def test_audio_that_was_dropped_with_the_client_does_not_wait_to_be_written() -> None:
    book = scenes.answering().backlog(500)
    again = returned(book)
    assert isinstance(again.session, Session)
    assert again.session.backlog_ms == 0
    again.unlisted = []
