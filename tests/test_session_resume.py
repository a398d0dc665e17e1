"""A client that comes back, one detail at a time (whole conversations are in test_resume)."""

import msgspec
import pytest

from relay import voice_agent
from relay.session import SessionOptions
from relay.settings import MappingOptions
from tests.returning import Returning
from tests.test_pair import SETTINGS, SPEECH, answer_calls, assert_settled
from tests.test_resume import KEEP_ALIVE, ready, says

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


# Calls.


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


# What a snapshot leaves out.


def test_a_configured_function_without_an_endpoint_stays_the_clients() -> None:
    functions = [
        {"name": "get_time", "endpoint": {"url": "https://tools.example/", "headers": {"a": "b"}}},
        {"name": "get_weather"},
    ]
    agent = msgspec.convert({"think": {"functions": functions}}, voice_agent.Agent)
    pair = Returning(
        mapping=MappingOptions(
            agents={"clock": agent}, function_endpoints=("https://tools.example/",)
        )
    )
    pair.client({"type": "Settings", "audio": {}, "agent": "clock"}).until("SettingsApplied")
    pair.lost().back(KEEP_ALIVE)
    time, weather = pair.session.applied.functions
    assert time.endpoint is not None
    assert time.endpoint.headers == {"a": "b"}
    assert weather.endpoint is None
