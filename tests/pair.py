"""pair: a session and a simulated upstream, two real ends on a link that is not real.

Only the link and the clock are made up: what either side sends arrives `latency_s` later, in order,
encoded and decoded on the way, and time jumps from one thing that is due to the next. The client is
whoever calls `client` and reads `transcript`. Every frame in either direction goes through the
strict oracle.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Self

import msgspec

from relay import realtime, voice_agent
from relay.session import Admission, ClientGone, Session, SessionOptions, UpstreamGone
from relay.session.actions import (
    Action,
    AudioToClient,
    AudioToUpstream,
    CallEndpoint,
    Close,
    Dial,
    Hangup,
    Note,
    Redeliver,
    Target,
    ToClient,
    ToUpstream,
)
from relay.session.facts import Dialect, Loss, UpstreamTraits
from relay.settings import MappingOptions
from relay.simulator import conversation as simulated
from relay.simulator.script import Script
from tests import oracle

START = 500.0
"""The clock when the client connects; not zero, so that a forgotten clock shows."""
WALL = 1_800_000_000.0
STEPS = 200_000
"""More than any test needs: what takes longer does not end."""


class Line(msgspec.Struct):
    """One frame at one of the session's two sides."""

    at: float
    """Seconds since the client connected."""
    side: Literal["client", "upstream"]
    way: Literal["<", ">"]
    """The client stands left of the session, the upstream right: `>` is from the client, or to the
    upstream."""
    what: str
    """The message's or event's type, or "audio" for the client's binary frames."""
    message: Any
    """The frame as a dict, or the number of milliseconds of audio."""


class Pair:
    """A client's view of a conversation between a session and the simulator."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        options: SessionOptions | None = None,
        mapping: MappingOptions | None = None,
        dialect: Dialect = Dialect.DEEPGRAM,
        admission: Admission | None = None,
        upstreams: tuple[UpstreamTraits, ...] = (UpstreamTraits(),),
        latency_s: float = 0.02,
    ) -> None:
        self.now = START
        self.latency_s = latency_s
        self.script = script or Script()
        self.session = Session(
            options=options or SessionOptions(),
            mapping=mapping or MappingOptions(),
            upstreams=upstreams,
            admission=admission or Admission("request-1", dialect),
        )
        self.upstreams: dict[int, simulated.Conversation] = {}
        self.lines: list[Line] = []
        """Everything that passed, in order."""
        self.notes: list[Note] = []
        self.dialled: list[Target] = []
        self.hung_up: list[int] = []
        """Legs that the session gave up."""
        self.unreachable = 0
        """So many of the next dials fail."""
        self.refused = 0
        """So many of the next dials are answered with 401."""
        self.called: list[CallEndpoint] = []
        """Endpoint calls, which are never answered."""
        self.closed: Close | None = None
        self._audio_checked: set[str] = set()
        self._arrivals: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._perform(self.session.opened(self.now, WALL))

    # -- what the client does ---------------------------------------------------------------------

    def client(self, message: dict[str, Any] | voice_agent.ClientMessage) -> Self:
        """Send a message now."""
        frame = (
            msgspec.json.encode(message).decode()
            if isinstance(message, dict)
            else voice_agent.encode(message)
        )
        shown = msgspec.json.decode(frame)
        self._line("client", ">", shown["type"], shown)
        self._perform(self.session.client_message(voice_agent.decode_client(frame), self.now))
        return self

    def client_audio(self, audio: bytes) -> Self:
        """Send audio (in the upstream's format) now."""
        self._audio_in(audio)
        return self

    def speaks(self, audio: bytes, frame_ms: float = 20.0) -> Self:
        """Send audio in real time."""
        form = self.session.applied.formats.upstream_input
        step = form.nbytes(frame_ms)
        for start in range(0, len(audio), step):
            self._audio_in(audio[start : start + step])
            self.passes(frame_ms / 1000)
        return self

    def loses_upstream(self) -> Self:
        """Every upstream connection there is breaks now, without a word."""
        for leg in list(self.upstreams):
            del self.upstreams[leg]
            gone = UpstreamGone(Loss.LOST, reason="cut")
            self._upstream_gone(leg, gone)
        return self

    def hangs_up(self) -> Self:
        self._perform(self.session.client_gone(ClientGone(1000), self.now))
        return self

    # -- time -------------------------------------------------------------------------------------

    def passes(self, seconds: float) -> Self:
        """Let time pass; whatever falls due happens in order."""
        return self._run(self.now + seconds, lambda: False)

    def until(self, *types: str, within: float = 60.0) -> Self:
        """Let time pass until the client has got messages of these types, in this order."""
        seen = len(self.lines)
        wanted = list(types)

        def all_came() -> bool:
            nonlocal seen
            while seen < len(self.lines) and wanted:
                line = self.lines[seen]
                if (line.side, line.way, line.what) == ("client", "<", wanted[0]):
                    wanted.pop(0)
                seen += 1
            return not wanted

        self._run(self.now + within, all_came)
        assert not wanted, f"never came: {wanted}\n{self}"
        return self

    # -- what the client saw ----------------------------------------------------------------------

    @property
    def transcript(self) -> list[Line]:
        """What the client got."""
        return [line for line in self.lines if line.side == "client" and line.way == "<"]

    def types(self) -> list[str]:
        """The types in order, runs of audio as one."""
        whats = [line.what for line in self.transcript]
        return [what for what, _ in itertools.groupby(whats)]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line.message for line in self.transcript if line.what == kind]

    def said(self) -> list[tuple[str, str]]:
        return [(m["role"], m["content"]) for m in self.of("ConversationText")]

    def sent(self, kind: str) -> list[dict[str, Any]]:
        """Events of a type that the session sent upstream."""
        return [
            line.message
            for line in self.lines
            if line.side == "upstream" and line.way == ">" and line.what == kind
        ]

    def complaints(self) -> list[dict[str, Any]]:
        """The upstream's errors."""
        return [
            line.message["error"]
            for line in self.lines
            if line.side == "upstream" and line.what == "error"
        ]

    def __str__(self) -> str:
        return "\n".join(f"{line.at:8.3f} {line.what} {line.message}" for line in self.transcript)

    # -- the link ---------------------------------------------------------------------------------

    def _run(self, end: float, enough: Callable[[], bool]) -> Self:
        for _ in range(STEPS):
            if enough():
                return self
            due = min(
                self._arrivals[0][0] if self._arrivals else math.inf,
                self.session.next_deadline(),
                *(upstream.next_deadline() for upstream in self.upstreams.values()),
                math.inf,
            )
            if due > end:
                self.now = max(self.now, end)
                return self
            self.now = max(self.now, due)
            self._step()
        raise AssertionError(f"time does not pass\n{self}")

    def _step(self) -> None:
        if self._arrivals and self._arrivals[0][0] <= self.now:
            heapq.heappop(self._arrivals)[2]()
        elif self.session.next_deadline() <= self.now:
            self._perform(self.session.deadline_passed(self.now))
        else:
            for leg, upstream in list(self.upstreams.items()):
                if upstream.next_deadline() <= self.now:
                    self._from_upstream(leg, upstream.deadline_passed(self.now))

    def _later(self, happens: Callable[[], None]) -> None:
        heapq.heappush(self._arrivals, (self.now + self.latency_s, next(self._order), happens))

    def _audio_in(self, audio: bytes) -> None:
        self._line(
            "client", ">", "audio", self.session.applied.formats.upstream_input.ms(len(audio))
        )
        plain = self.session.client_audio(audio, self.now)
        if plain is None:
            self._perform(self.session.client_media(audio, self.now))
        else:
            assert self.session.live is not None
            self._to_upstream(self.session.live.number, realtime.encode_append(plain))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            assert self.closed is None, f"{action} after Close"
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case ToClient(message):
                self._to_client(message)
            case AudioToClient(audio):
                self._audio_out(audio)
            case ToUpstream(leg, event):
                self._to_upstream(leg, realtime.encode(event))
            case AudioToUpstream(leg, audio):
                self._to_upstream(leg, realtime.encode_append(audio))
            case Dial(leg, target):
                self.dialled.append(target)
                held = simulated.conversation(self.script, leg, target.model)
                self._later(partial(self._connect, leg, held))
            case Hangup(leg):
                self.hung_up.append(leg)
                self.upstreams.pop(leg, None)
            case Redeliver(frames):
                for frame in frames:
                    if isinstance(frame, bytes):
                        self._audio_in(frame)
                    else:
                        self._perform(self.session.client_message(frame, self.now))
            case Close():
                self.closed = action
                self.upstreams.clear()
            case CallEndpoint():
                self.called.append(action)
            case Note():
                self.notes.append(action)

    def _to_client(self, message: voice_agent.ServerMessage) -> None:
        frame = voice_agent.encode(message)
        oracle.check_server_message(frame, component=self.session.component)
        shown = msgspec.json.decode(frame)
        self._line("client", "<", shown["type"], shown)

    def _audio_out(self, audio: bytes) -> None:
        self._line("client", "<", "audio", self.session.upstream_output.ms(len(audio)))

    def _line(
        self, side: Literal["client", "upstream"], way: Literal["<", ">"], what: str, message: Any
    ) -> None:
        self.lines.append(Line(round(self.now - START, 6), side, way, what, message))

    def _to_upstream(self, leg: int, frame: str) -> None:
        event = msgspec.json.decode(frame)
        if self._is_new(event):
            oracle.check_client_event(frame)
        self._line("upstream", ">", event["type"], event)

        def arrives() -> None:
            if leg in self.upstreams:
                self._from_upstream(leg, self.upstreams[leg].received(frame, self.now))

        self._later(arrives)

    def _is_new(self, event: dict[str, Any]) -> bool:
        kind = event["type"]
        if kind not in ("input_audio_buffer.append", "response.output_audio.delta"):
            return True
        new = kind not in self._audio_checked
        self._audio_checked.add(kind)
        return new

    def _connect(self, leg: int, held: simulated.Conversation) -> None:
        if self.unreachable:
            self.unreachable -= 1
            gone = UpstreamGone(Loss.UNREACHABLE, reason="nobody there")
            self._upstream_gone(leg, gone)
            return
        if self.refused:
            self.refused -= 1
            gone = UpstreamGone(Loss.REFUSED, status=401, reason="HTTP status 401")
            self._upstream_gone(leg, gone)
            return
        self.upstreams[leg] = held
        self._perform(self.session.upstream_opened(leg, self.now, WALL))
        self._from_upstream(leg, held.opened(self.now, WALL))

    def _from_upstream(self, leg: int, outputs: list[simulated.Output]) -> None:
        for output in outputs:
            if isinstance(output, simulated.Hangup):
                gone = UpstreamGone(Loss.CLOSED, code=output.code, reason=output.reason)
                self._later(partial(self._upstream_gone, leg, gone))
            else:
                frame = realtime.encode(output)
                if self._is_new(msgspec.json.decode(frame)):
                    oracle.check_server_event(frame)
                self._later(partial(self._hears, leg, frame))

    def _upstream_gone(self, leg: int, gone: UpstreamGone) -> None:
        self._perform(self.session.upstream_gone(leg, gone, self.now))

    def _hears(self, leg: int, frame: str) -> None:
        if leg not in self.upstreams or self.closed:
            return
        event = realtime.decode_server(frame)
        shown = msgspec.json.decode(frame)
        self._line("upstream", "<", shown["type"], shown)
        if isinstance(event, realtime.ResponseOutputAudioDelta):
            audio = self.session.upstream_audio(leg, event, self.now)
            if audio is not None:
                self._audio_out(audio)
                return
        self._perform(self.session.upstream_event(leg, event, self.now))
