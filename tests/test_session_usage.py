"""What a conversation has used: counted once, in what the upstream bills, wherever it goes on."""

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import realtime
from relay.audio.formats import PCM24K, PCMU8K
from relay.session import SessionOptions
from relay.session.facts import Admission, Dialect
from relay.session.usage import MOST_TOKENS, Bill, Tokens, Usage, Used
from relay.simulator.script import parse
from tests.pair import START, Pair
from tests.returning import Returning
from tests.test_pair import SETTINGS, SPEECH, answer_calls, ready, silence
from tests.test_rollover import says


def used(pair: Pair) -> Used:
    """Everything so far."""
    pair.session.spent()
    return pair.session.bill().used


def events(pair: Pair, way: str, kind: str) -> list[dict[str, Any]]:
    lines = [line for line in pair.lines if (line.side, line.way) == ("upstream", way)]
    return [line.message for line in lines if line.what == kind]


def told_tokens(pair: Pair) -> int:
    """What the upstream says, in and out."""
    done = events(pair, "<", "response.done")
    return sum(event["response"]["usage"]["total_tokens"] for event in done)


def sent_ms(pair: Pair) -> float:
    """Audio that went to the upstream, as it went."""
    sent = events(pair, ">", "input_audio_buffer.append")
    return PCM24K.ms(sum(len(base64.b64decode(event["audio"])) for event in sent))


def said_ms(pair: Pair) -> float:
    deltas = events(pair, "<", "response.output_audio.delta")
    return PCM24K.ms(sum(len(base64.b64decode(event["delta"])) for event in deltas))


# What is counted.


def test_a_voice_turn_is_counted_as_the_upstream_bills_it() -> None:
    pair = ready().speaks(SPEECH + silence(1.0)).until("AgentAudioDone", "LatencyReport").passes(5)
    found = used(pair)
    assert found.input_ms == sent_ms(pair) == 2000
    assert found.output_ms == said_ms(pair) > 0
    assert found.responses == 1
    texts = dict(pair.said())
    assert (found.user_chars, found.agent_chars) == (len(texts["user"]), len(texts["assistant"]))
    (tokens,) = found.tokens.values()
    assert list(found.tokens) == [pair.dialled[0].model]
    assert tokens.total == told_tokens(pair)
    assert tokens.output_audio > 0
    assert found.transcribed_s == {"gpt-transcribe": pytest.approx(1.5, abs=0.6)}


def test_what_is_interrupted_is_counted_and_what_is_short_too() -> None:
    long = parse('[[turn]]\nuser = "story"\nsay = "' + "One two three four. " * 20 + '"\n')
    pair = Pair(long).client(SETTINGS).until("SettingsApplied")
    pair.client(says("A story")).until("AgentStartedSpeaking").passes(0.5)
    pair.speaks(SPEECH + silence(1.0), frame_ms=7.0).until("AgentAudioDone").passes(5)
    found = used(pair)
    assert found.output_ms == said_ms(pair)
    assert found.input_ms == pytest.approx(sent_ms(pair))
    assert found.responses == 2
    assert found.total_tokens == told_tokens(pair)


def test_function_calls_are_counted_once_each() -> None:
    script = parse(
        '[[turn]]\nuser = "time"\ncall = [{ name = "get_time" }, { name = "get_weather" }]'
    )
    pair = Pair(script).client(SETTINGS).until("SettingsApplied")
    pair.client(says("What time is it?")).until("FunctionCallRequest", "FunctionCallRequest")
    answer_calls(pair, pair.of("FunctionCallRequest"))
    pair.until("LatencyReport").passes(5)
    found = used(pair)
    assert (found.function_calls, found.responses) == (2, 2)
    assert found.total_tokens == told_tokens(pair)


def test_the_texts_of_both_sides_add_up() -> None:
    pair = ready().client(says("One")).until("LatencyReport").passes(5)
    pair.client(says("Two")).until("LatencyReport").passes(5)
    chars = {who: sum(len(text) for by, text in pair.said() if by == who) for who, _ in pair.said()}
    assert (used(pair).user_chars, used(pair).agent_chars) == (chars["user"], chars["assistant"])


def test_nothing_is_told_twice() -> None:
    pair = ready().client(says("One")).until("LatencyReport").passes(5)
    first = pair.session.spent()
    assert pair.session.spent() == Used()
    pair.client(says("Two")).until("LatencyReport").passes(5)
    second = pair.session.spent()
    assert first.total_tokens + second.total_tokens == told_tokens(pair)
    assert pair.session.bill().used.total_tokens == told_tokens(pair)
    assert first.responses == second.responses == 1


# Wherever it goes on.


def test_another_model_has_its_tokens_apart() -> None:
    pair = ready().client(says("One")).until("LatencyReport").passes(5)
    think = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}, "prompt": "Brief."}
    pair.client({"type": "UpdateThink", "think": think}).until("ThinkUpdated")
    pair.client(says("Two")).until("LatencyReport").passes(5)
    found = used(pair)
    assert list(found.tokens) == [target.model for target in pair.dialled]
    assert len(found.tokens) == 2
    assert all(tokens.total > 0 for tokens in found.tokens.values())
    assert found.total_tokens == told_tokens(pair)


def test_what_is_said_again_to_a_new_upstream_is_sent_again() -> None:
    pair = ready().speaks(SPEECH).loses_upstream().passes(3)
    pair.speaks(SPEECH + silence(1.0)).until("AgentAudioDone").passes(5)
    found = used(pair)
    assert sent_ms(pair) > 3000
    assert found.input_ms == pytest.approx(sent_ms(pair))


@pytest.mark.parametrize("how", ["lost", "killed"])
def test_a_resumed_conversation_goes_on_counting(how: str) -> None:
    pair = Returning().client(SETTINGS).until("SettingsApplied")
    pair.client(says("One")).until("LatencyReport").passes(5)
    before = pair.session.spent() if how == "lost" else Used()
    if how == "lost":
        pair.lost()
    else:
        pair.killed()
    pair.away(10).back(says("Two")).until("LatencyReport").passes(5)
    after = pair.session.spent()
    bill = pair.session.bill()
    assert before.total_tokens + after.total_tokens == bill.used.total_tokens == told_tokens(pair)
    assert (bill.session, bill.connections) == ("request-1", 2)
    assert bill.used.responses == 2
    assert 0 < bill.lasted_s <= pair.now - START - 10  # without the time away


def test_other_formats_after_a_resume_are_counted_in_their_own_time() -> None:
    pair = Returning().client(SETTINGS).until("SettingsApplied").client_audio(silence(1.0))
    g711 = {"encoding": "mulaw", "sample_rate": 8000}
    pair.lost().away(1).back(SETTINGS | {"audio": {"input": g711, "output": g711}})
    pair.until("SettingsApplied").client_audio(bytes([255]) * 8000)
    assert pair.session.applied.formats.upstream_input == PCMU8K
    assert used(pair).input_ms == 2000


WHATEVER = st.lists(
    st.sampled_from(
        [
            {"type": "InjectUserMessage", "content": "Hello"},
            {"type": "InjectUserMessage", "content": "time and weather"},
            {"type": "InjectAgentMessage", "message": "Stop.", "behavior": "interrupt"},
            {"type": "ForceEndTurn"},
            *("speaks", "answers", "loses upstream", "is lost", "is asked"),
            *(0.05, 0.3, 1.1),
        ]
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=WHATEVER)
def test_whatever_happens_nothing_is_lost_and_nothing_counted_twice(steps: list[Any]) -> None:
    pair = Returning().client(SETTINGS).until("SettingsApplied")
    told = Used()
    for step in steps:
        if step == "speaks":
            pair.speaks(SPEECH[: len(SPEECH) // 2] + silence(0.3), frame_ms=7)
        elif step == "answers":
            answer_calls(pair, pair.of("FunctionCallRequest")[-1:])
        elif step == "loses upstream":
            pair.loses_upstream()
        elif step == "is lost":
            pair.lost().away(1).back({"type": "KeepAlive"})
        elif step == "is asked":
            told.add(pair.session.spent())
        elif isinstance(step, float):
            pair.passes(step)
        else:
            pair.client(step)
    pair.passes(5)
    told.add(pair.session.spent())
    found = pair.session.bill().used
    assert told == found
    assert found.input_ms == pytest.approx(sent_ms(pair))
    assert found.output_ms == pytest.approx(said_ms(pair))
    assert found.total_tokens == told_tokens(pair)


# What upstreams say.


def response(**usage: Any) -> realtime.Response:
    told = msgspec.convert(usage, realtime.Usage)
    return realtime.Response(id="r", usage=told)


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ({"input_tokens": 5, "output_tokens": 7}, Tokens(input_text=5, output_text=7)),
        ({"input_tokens": None, "output_token_details": {"audio_tokens": 3}},
         Tokens(output_audio=3)),
        ({"output_token_details": {"text_tokens": 4, "audio_tokens": 3}},
         Tokens(output_text=4, output_audio=3)),
        (
            {
                "input_tokens": 100, "output_tokens": 30,
                "input_token_details": {
                    "text_tokens": 40, "audio_tokens": 60, "cached_tokens": 50,
                    "cached_tokens_details": {"text_tokens": 20, "audio_tokens": 30},
                },
                "output_token_details": {"text_tokens": 10, "audio_tokens": 20},
            },
            Tokens(20, 30, 50, 10, 20),
        ),
        (
            {
                "input_tokens": 100,
                "input_token_details": {
                    "text_tokens": 40, "audio_tokens": 60, "cached_tokens": 50
                },
            },
            Tokens(0, 50, 50),
        ),
        (
            {
                "input_tokens": 25,
                "input_token_details": {
                    "text_tokens": 20, "audio_tokens": 5, "cached_tokens": 10,
                    "cached_tokens_details": {"audio_tokens": 4},
                },
            },
            Tokens(14, 1, 10),
        ),
        ({"input_tokens": 9, "input_token_details": {"image_tokens": 9}}, Tokens(9)),
        ({"input_tokens": -5, "output_tokens": 2**62}, Tokens(output_text=MOST_TOKENS)),
        ({"input_tokens": 1, "input_token_details": {"cached_tokens": 9}}, Tokens(0, 0, 1)),
    ],
)  # fmt: skip
def test_tokens_are_counted_by_kind_and_none_is_lost(told: Any, counted: Tokens) -> None:
    usage = Usage()
    usage.responded("m", response(**told))
    assert usage.taken().tokens == {"m": counted}


def test_a_response_without_usage_or_told_again_adds_nothing() -> None:
    usage = Usage()
    usage.responded("m", realtime.Response(id="r"))
    usage.responded("m", response(input_tokens=1))
    usage.responded("m", response(input_tokens=1))
    assert usage.taken().tokens == {"m": Tokens(1)}


def test_transcriptions_are_counted_in_tokens_or_in_seconds() -> None:
    usage = Usage()
    by_tokens = {"type": "tokens", "input_tokens": 9, "output_tokens": 2,
                 "input_token_details": {"audio_tokens": 9}}  # fmt: skip
    usage.transcribed("a", msgspec.convert(by_tokens, realtime.TranscriptionUsage))
    for seconds in (1.5, -3.0, 2.0, 1e300):
        usage.transcribed("b", realtime.TranscriptionUsage(type="duration", seconds=seconds))
    found = usage.taken()
    assert found.tokens == {"a": Tokens(input_audio=9, output_text=2)}
    assert found.transcribed_s == {"b": 3.5 + 86_400}


def test_a_bill_is_written_to_the_thousandth() -> None:
    used = Used(
        input_ms=1234.5678,
        output_ms=2345.6789,
        user_chars=1,
        agent_chars=2,
        responses=3,
        function_calls=4,
        tokens={"m": Tokens(5, 0, 6)},
        transcribed_s={"t": 7.12345},
    )
    assert Bill("id", "laptop", 8, 9.87654, used).fields() == {
        "connections": 8,
        "lasted_s": 9.877,
        "input_audio_s": 1.235,
        "output_audio_s": 2.346,
        "user_chars": 1,
        "agent_chars": 2,
        "responses": 3,
        "function_calls": 4,
        "tokens": {"m": {"input_text": 5, "input_cached": 6}},
        "transcribed_s": {"t": 7.123},
    }


# When it is enough.


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    ("rate", "code"), [(False, "FAILED_TO_THINK"), (True, "UNPARSABLE_CLIENT_MESSAGE")]
)
def test_a_limit_ends_the_conversation_in_the_clients_words(
    rate: bool, code: str, dialect: Dialect
) -> None:
    pair = Pair(dialect=dialect).client(SETTINGS).until("SettingsApplied")
    pair._perform(pair.session.limit_reached("Too many tokens within a day.", pair.now, rate=rate))
    (error,) = pair.of("Error")
    assert (error["code"], error["description"]) == (code, "Too many tokens within a day.")
    assert pair.closed is not None
    assert (pair.closed.code, pair.closed.reason) == (1013, code)


@pytest.mark.conformance("C-189")
def test_shorter_sessions_are_warned_of_their_end_too() -> None:
    options = SessionOptions(max_session_s=60.0, session_warning_s=30.0)
    pair = Pair(options=options).client(SETTINGS).until("SettingsApplied").passes(40)
    assert [w["code"] for w in pair.of("Warning")] == ["MAXIMUM_SESSION_LENGTH_APPROACHING"]
    pair.client({"type": "KeepAlive"}).passes(30)
    assert pair.closed is not None
    assert (pair.closed.code, pair.closed.reason) == (1000, "MAXIMUM_SESSION_LENGTH_REACHED")


def test_responses_without_an_id_are_counted_each() -> None:
    usage = Usage()
    usage.responded("m", realtime.Response(id="", usage=realtime.Usage(input_tokens=3)))
    usage.responded("m", realtime.Response(id="", usage=realtime.Usage(input_tokens=4)))
    assert usage.taken().total_tokens == 7


@pytest.mark.conformance("C-242")
def test_a_response_of_the_next_upstream_is_another_though_its_id_is_the_same() -> None:
    pair = ready().client(says("One")).until("LatencyReport").passes(5)
    first = pair.session.usage.billed[-1]
    pair.loses_upstream().passes(5)
    assert pair.session.live is not None
    again = realtime.Response(id=first, usage=realtime.Usage(input_tokens=1_000_000))
    pair.session.upstream_event(2, realtime.ResponseDone(response=again), pair.now)
    assert pair.session.spent().total_tokens > 1_000_000


def test_who_has_asked_for_nothing_has_used_nothing() -> None:
    pair = Pair()
    assert pair.session.spent() == Used()
    assert pair.session.bill().fields() == {
        "connections": 1,
        "lasted_s": 0.0,
        "input_audio_s": 0.0,
        "output_audio_s": 0.0,
        "user_chars": 0,
        "agent_chars": 0,
        "responses": 0,
        "function_calls": 0,
        "tokens": {},
        "transcribed_s": {},
    }


def test_sums_are_sums() -> None:
    one = Used(1.0, 2.0, 3, 4, 5, 6, {"m": Tokens(1, 2, 3, 4, 5)}, {"t": 1.0})
    other = Used(
        10.0, 20.0, 30, 40, 50, 60, {"m": Tokens(10, 20, 30, 40, 50)}, {"t": 2.0, "u": 4.0}
    )
    one.add(other)
    total = {"m": Tokens(11, 22, 33, 44, 55)}
    assert one == Used(11.0, 22.0, 33, 44, 55, 66, total, {"t": 3.0, "u": 4.0})
    usage = Usage(input_bytes=480, output_bytes=960)
    usage.settled(PCM24K, PCM24K)
    usage.input_bytes = usage.output_bytes = 480
    usage.settled(PCM24K, PCM24K)
    assert usage.taken() == Used(20.0, 30.0)


def test_a_bill_is_in_milliseconds_and_says_whose_it_is() -> None:
    used = Used(1234.567, 2345.678, 1, 2, 3, 4, {"m": Tokens(1, 0, 0, 2)}, {"t": 0.12345})
    assert Bill("s", "key", 2, 9.87654, used).fields() == {
        "connections": 2,
        "lasted_s": 9.877,
        "input_audio_s": 1.235,
        "output_audio_s": 2.346,
        "user_chars": 1,
        "agent_chars": 2,
        "responses": 3,
        "function_calls": 4,
        "tokens": {"m": {"input_text": 1, "output_text": 2}},
        "transcribed_s": {"t": 0.123},
    }
    pair = Pair(admission=Admission("request-1", client="key"))
    assert (pair.session.bill().session, pair.session.bill().client) == ("request-1", "key")
