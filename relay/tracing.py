"""tracing: a span for each session and for each turn of it, in OpenTelemetry.

It knows what of a conversation is a turn, and OpenTelemetry, which is an extra: this file is
imported where a configuration names a collector. Spans hold types, names, times and counts, and
nothing that was said. Recording one is a few calls; a thread of the library's sends them.

    session    from the Welcome to the end; a part of the client's trace, if it sent `traceparent`
    turn       from when the user begins to speak or types, to the end of the answer, with events:
               `speech ended`, `first audio`, `function called`, `function answered`, `interrupted`
"""

import contextlib
from collections.abc import AsyncIterator, Iterable

import trio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanContext, StatusCode, TraceFlags, TraceState

from relay import realtime, voice_agent
from relay.config import Tracing as Options
from relay.correlation import Trace as Parent
from relay.frames import Unknown, Unparsable
from relay.observer import About
from relay.session.actions import Action, Note, ToClient, ToUpstream

SHUTDOWN_S = 5.0
"""Time to send what was not sent, at the end."""


@contextlib.asynccontextmanager
async def opened(options: Options) -> "AsyncIterator[Tracing]":
    """Spans go to the collector while the block lasts."""
    provider = TracerProvider(
        resource=Resource.create({"service.name": options.service_name}),
        sampler=ParentBased(TraceIdRatioBased(options.sample_ratio)),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(options.otlp_url)))
    try:
        yield Tracing(provider)
    finally:
        with trio.move_on_after(SHUTDOWN_S, shield=True):
            # It waits for the collector, which may be gone.
            await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)


class Tracing:
    """Makes spans for the sessions of a process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("relay")

    def __call__(self, about: About) -> "Traced":
        """A session begins."""
        return Traced(self._tracer, about)


class Traced:
    """One session and its turns, as an observer tells of them."""

    def __init__(self, tracer: trace.Tracer, about: About) -> None:
        self._tracer = tracer
        self._parent_state = about.said.trace.state if about.said.trace else None
        self._session = tracer.start_span(
            "session",
            context=_context(about.said.trace),
            kind=trace.SpanKind.SERVER,
            attributes={"relay.session": about.session, "relay.dialect": about.dialect},
        )
        if about.said.request_id:
            self._session.set_attribute("relay.request_id", about.said.request_id)
        self._inside = trace.set_span_in_context(self._session)
        self._turn: Span | None = None
        self._turns = 0
        self._calls: set[str] = set()

    @property
    def headers(self) -> dict[str, str]:
        """What makes an upstream's spans children of the session's."""
        context = self._session.get_span_context()
        made = Parent(
            trace.format_trace_id(context.trace_id),
            trace.format_span_id(context.span_id),
            int(context.trace_flags),
            self._parent_state,
        )
        return made.headers

    def client_message(self, message: voice_agent.ClientMessage | Unknown | Unparsable) -> None:
        match message:
            case voice_agent.InjectUserMessage():
                self._begin("text")
            case voice_agent.Settings():
                self._session.add_event("settings")
            case _:
                pass

    def upstream_event(self, event: realtime.ServerEvent | Unknown | Unparsable) -> None:
        match event:
            case realtime.InputAudioBufferSpeechStarted():
                if self._turn is not None:
                    self._turn.add_event("interrupted")
                self._begin("voice")
            case realtime.InputAudioBufferSpeechStopped() if self._turn is not None:
                self._turn.add_event("speech ended")
            case _:
                pass

    def performs(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case ToClient(message=message):
                    self._told(message)
                case ToUpstream(event=realtime.ConversationItemCreate(item=item)):
                    if item.type == "function_call_output" and item.call_id in self._calls:
                        self._calls.discard(item.call_id)
                        self._happened("function answered")
                case Note(level="warning" | "info", event=event):
                    self._session.add_event(event)
                case _:
                    pass

    def over(self, end: str) -> None:
        self._end_turn()
        self._session.set_attribute("relay.end", end)
        self._session.set_attribute("relay.turns", self._turns)
        if end == "error":
            self._session.set_status(StatusCode.ERROR)
        self._session.end()

    # -- inside -----------------------------------------------------------------------------------

    def _told(self, message: voice_agent.ServerMessage) -> None:
        match message:
            case voice_agent.SettingsApplied():
                self._session.add_event("settings applied")
            case voice_agent.AgentStartedSpeaking():
                self._happened("first audio")
            case voice_agent.FunctionCallRequest(functions=functions):
                for call in functions:
                    self._calls.add(call.id)
                    by = "client" if call.client_side else "relay"
                    self._happened("function called", name=call.name, by=by)
            case voice_agent.Error(code=code):
                self._session.add_event("error", {"code": code})
            case voice_agent.LatencyReport():
                self._measured(message)
            case _:
                pass

    def _measured(self, report: voice_agent.LatencyReport) -> None:
        """The turn's answer is complete."""
        if self._turn is None:
            return
        for name, seconds in (
            ("transcription", report.stt_latency),
            ("first_token", report.ttt_token_latency),
            ("first_audio", report.total_latency),
        ):
            if seconds is not None:
                self._turn.set_attribute(f"relay.{name}_s", seconds)
        self._end_turn()

    def _begin(self, by: str) -> None:
        self._end_turn()
        self._turns += 1
        self._turn = self._tracer.start_span(
            "turn", context=self._inside, attributes={"relay.by": by, "relay.turn": self._turns}
        )

    def _happened(self, event: str, **attributes: str) -> None:
        """In the turn; between two, in the session: a greeting has no turn."""
        (self._turn or self._session).add_event(event, attributes)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.end()
            self._turn = None


def _context(parent: Parent | None) -> Context | None:
    """Of the client's span; None: the session begins a trace."""
    if parent is None:
        return None
    state = TraceState.from_header([parent.state]) if parent.state else None
    remote = SpanContext(
        int(parent.trace_id, 16),
        int(parent.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags & 1),
        trace_state=state,
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote))
