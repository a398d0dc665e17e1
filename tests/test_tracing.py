"""Spans of sessions and turns, as OpenTelemetry's own exporters get them."""

import signal
from typing import Any

import msgspec
import pytest
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from relay import config, correlation, realtime, voice_agent, wire
from relay.config import ConfigError
from relay.observer import About, Observer, Overview
from relay.session.actions import Action, Close, Note, ToClient
from relay.tracing import Tracing
from tests.fakes import FakeLeg
from tests.http_endpoint import Exchange
from tests.http_endpoint import serving as endpoint
from tests.test_cli import ANY_PORT, message, process, settings_applied
from tests.test_correlation import PARENT, PARENT_ID, TRACE_ID
from tests.test_observer import SPEECH, call, result
from tests.test_server import AGENT

SETTINGS = {"type": "Settings", "audio": {}, "agent": {"think": {"prompt": "planted prompt"}}}
STOPPED = realtime.InputAudioBufferSpeechStopped(event_id="e", item_id="i", audio_end_ms=900)


class Recorded:
    """A session that is followed, and its spans."""

    def __init__(self, **headers: str) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        overview = Overview()
        overview.followed = Tracing(provider)
        about = About(session="s1", dialect="deepgram", said=correlation.read(headers))
        self.observer: Observer = overview.observer(FakeLeg(), about, 0.0)

    def tells(self, *messages: voice_agent.ServerMessage) -> None:
        self.observer.performs(list(map(ToClient, messages)), 0.0)

    def performs(self, *actions: Action) -> None:
        self.observer.performs(list(actions), 0.0)

    def over(self) -> list[ReadableSpan]:
        """All spans, in the order of their ends: the session is the last."""
        self.observer.over(1.0)
        return list(self._exporter.get_finished_spans())


@pytest.fixture
async def recorded() -> Recorded:
    return Recorded()


def told(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


SPOKE = voice_agent.AgentStartedSpeaking(total_latency=0.5, tts_latency=0.1, ttt_latency=0.4)
REPORT = voice_agent.LatencyReport(stt_latency=0.2, ttt_token_latency=0.4, total_latency=0.5)


async def test_a_turn_is_a_span_within_its_session(recorded: Recorded) -> None:
    recorded.observer.client_message(msgspec.convert(SETTINGS, voice_agent.Settings), 0.0)
    recorded.tells(voice_agent.SettingsApplied())
    recorded.observer.upstream_event(SPEECH)
    recorded.observer.upstream_event(STOPPED)
    recorded.tells(SPOKE)
    recorded.tells(voice_agent.ConversationText(role="assistant", content="planted answer"))
    recorded.tells(REPORT)
    recorded.observer.client_message(voice_agent.InjectUserMessage("planted question"), 0.0)
    recorded.observer.client_gone(1000)
    spoken, typed, session = spans = recorded.over()
    assert [span.name for span in spans] == ["turn", "turn", "session"]
    assert told(spoken) == ["speech ended", "first audio"]
    assert attributes(spoken) == {
        "relay.by": "voice",
        "relay.turn": 1,
        "relay.transcription_s": 0.2,
        "relay.first_token_s": 0.4,
        "relay.first_audio_s": 0.5,
    }
    assert attributes(typed) == {"relay.by": "text", "relay.turn": 2}
    assert told(session) == ["settings", "settings applied"]
    assert attributes(session) == {
        "relay.session": "s1",
        "relay.dialect": "deepgram",
        "relay.end": "client_closed",
        "relay.turns": 2,
    }
    for turn in (spoken, typed):
        assert turn.parent == session.get_span_context()
    assert session.parent is None
    assert "planted" not in str([span.to_json() for span in spans])


async def test_calls_are_events_of_the_turn_that_they_are_made_in(recorded: Recorded) -> None:
    recorded.observer.client_message(voice_agent.InjectUserMessage("x"), 0.0)
    recorded.tells(voice_agent.FunctionCallRequest(functions=[call(1), call(2, client_side=False)]))
    recorded.performs(result(1), result(1), result(3))
    recorded.tells(SPOKE, REPORT)
    turn, _ = recorded.over()
    assert told(turn) == ["function called"] * 2 + ["function answered", "first audio"]
    assert [dict(event.attributes or {}) for event in turn.events[:2]] == [
        {"name": "f", "by": "client"},
        {"name": "f", "by": "relay"},
    ]


async def test_a_user_who_speaks_again_ends_the_turn(recorded: Recorded) -> None:
    recorded.observer.upstream_event(SPEECH)
    recorded.tells(SPOKE)
    recorded.observer.upstream_event(SPEECH)
    first, second, _ = recorded.over()
    assert told(first) == ["first audio", "interrupted"]
    assert told(second) == []


async def test_a_greeting_is_no_turn(recorded: Recorded) -> None:
    recorded.tells(SPOKE, REPORT)
    recorded.observer.upstream_event(STOPPED)
    (session,) = recorded.over()
    assert told(session) == ["first audio"]


async def test_what_goes_wrong_is_seen_on_the_session(recorded: Recorded) -> None:
    recorded.performs(
        Note("warning", "upstream_lost", {"how": "lost"}),
        Note("debug", "early_upstream_event"),
        ToClient(voice_agent.Error(code="FAILED_TO_THINK", description="planted words")),
        Close(1011, "FAILED_TO_THINK"),
    )
    (session,) = recorded.over()
    assert told(session) == ["upstream_lost", "error"]
    assert session.status.status_code is StatusCode.ERROR
    assert "planted" not in session.to_json()


async def test_a_session_is_a_part_of_its_clients_trace_and_the_upstream_of_it() -> None:
    headers = {"traceparent": PARENT, "tracestate": "a=1", "x-request-id": "req-7"}
    recorded = Recorded(**headers)
    passed_on = recorded.observer.trace_headers
    (session,) = recorded.over()
    context = session.get_span_context()
    assert context is not None
    assert session.parent is not None
    assert format_trace_id(context.trace_id) == TRACE_ID
    assert format_span_id(session.parent.span_id) == PARENT_ID
    assert session.parent.is_remote
    assert attributes(session)["relay.request_id"] == "req-7"
    assert passed_on == {
        "traceparent": f"00-{TRACE_ID}-{format_span_id(context.span_id)}-01",
        "tracestate": "a=1",
    }


async def test_what_the_client_does_not_record_is_not_recorded() -> None:
    assert Recorded(traceparent=PARENT[:-2] + "00").over() == []


@pytest.mark.parametrize("url", ["collector:4318", "ftp://h/v1/traces", "http://", "", "simulator"])
def test_a_collector_has_a_url(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^tracing.otlp_url: "):
        config.load(None, {}, [], {"tracing.otlp_url": url})


async def test_a_relay_sends_its_spans_to_the_collector_before_it_ends() -> None:
    sent: list[ExportTraceServiceRequest] = []

    async def collect(exchange: Exchange) -> None:
        sent.append(ExportTraceServiceRequest.FromString(exchange.body))
        await exchange.reply(200, content_type="application/x-protobuf")

    async with endpoint(collect) as collector:
        options = ("--set", f"tracing.otlp_url={collector.url}/v1/traces")
        async with process(*ANY_PORT, *options) as relay:
            async with wire.dial(relay.url + AGENT, headers={"traceparent": PARENT}) as leg:
                await settings_applied(leg)
                leg.post('{"type":"InjectUserMessage","content":"Hello"}')
                await message(leg, voice_agent.LatencyReport)
            await relay.until("disconnected")
            relay.signal(signal.SIGTERM)
            assert await relay.ended() == 0
    resources = [each for request in sent for each in request.resource_spans]
    names = {kv.key: kv.value.string_value for kv in resources[0].resource.attributes}
    assert names["service.name"] == "relay"
    spans = [s for each in resources for scope in each.scope_spans for s in scope.spans]
    assert sorted(span.name for span in spans) == ["session", "turn"]
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}


async def test_a_collector_that_is_gone_costs_a_moment_at_the_end_and_nothing_before() -> None:
    (nobody,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = nobody.socket.getsockname()[1]
    await nobody.aclose()
    options = ("--set", f"tracing.otlp_url=http://127.0.0.1:{port}/v1/traces")
    async with process(*ANY_PORT, *options) as relay:
        async with wire.dial(relay.url + AGENT) as leg:
            await settings_applied(leg)
        await relay.until("disconnected")
        relay.signal(signal.SIGTERM)
        with trio.fail_after(15):
            await relay.until("drained")
