"""playbook: a conversation with a session, as one transcript.

    (
        opened()
        .to_client("Welcome")
        .client(SETTINGS)
        .formats()
        .dials(model="gpt-realtime-2.1")
        .upstream_opens()
        .upstream(session_created())
        .to_upstream(like("session.update", session={"instructions": "Be brief."}))
        .passes(0.250)
        .updated()
        .to_client("SettingsApplied")
    )

The left-hand side is what happens to the session: `client`, `client_audio`, `upstream`, `passes`...
The right-hand side is what it must have done by then: `to_client`, `to_upstream`, `dials`,
`closes`... Everything it does must be listed, in the order in which each peer sees it; what is not
is a mismatch, and so is what is left over when the test ends. Only log notes may go unlisted, and
`AudioEnds`, which has a place of its own to be in.

The playbook stands in for the bridge: it knows the session's doors, plays time, and holds each step
to what must always be true (`_stands`): every message and event encodes and is valid for its
vendor, nothing follows Close, an Error is followed by Close, a leg is written to only while it is
open, early alarms do nothing. After each step it encodes the session, and goes on with the copy.
It knows no wording of the protocol: builders of events and whole situations are in `scenes`,
matchers in `expected`.
"""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TypeAlias

import msgspec

from relay import realtime, voice_agent
from relay.session.actions import (
    Action,
    AudioDropped,
    AudioEnds,
    AudioToClient,
    AudioToUpstream,
    CallEndpoint,
    CancelEndpoint,
    Close,
    Dial,
    Hangup,
    Note,
    Redeliver,
    SetFormats,
    ToClient,
    ToUpstream,
)
from relay.session.facts import ClientGone, Loss, UpstreamGone
from tests import oracle
from tests.expected import ANY, Absent, Anything, Expected, Wire, brief, difference, like, told

START = 1000.0
"""The session's clock when it opens; not zero, so that a forgotten clock shows."""
WALL = 1_800_000_000.0
"""Unix time when it opens."""

CLIENT_IN, CLIENT_OUT = "client >>", "client <<"


def leg_in(leg: int) -> str:
    return f"{'':12}<< leg {leg}"


def leg_out(leg: int) -> str:
    return f"{'':12}>> leg {leg}"


class Line(msgspec.Struct):
    """One line of the transcript."""

    at: float
    side: str
    text: str
    mark: str = " "
    """+ done but not listed, - listed but not done."""

    def __str__(self) -> str:
        return f"{self.mark} {self.at:9.3f}  {self.side:22} {self.text}".rstrip()


class Mismatch(AssertionError):
    """The session did something else than was listed. The text is the transcript so far."""


# The session, as the playbook sees it.

ClientFrame: TypeAlias = voice_agent.ClientMessage | voice_agent.Unknown | voice_agent.Unparsable
UpstreamFrame: TypeAlias = realtime.ServerEvent | realtime.Unknown | realtime.Unparsable


class Session(Protocol):
    """The doors of `relay.session.Session` (which is a msgspec struct)."""

    def opened(self, now: float, wall: float) -> list[Action]: ...
    def client_message(self, message: ClientFrame, now: float) -> list[Action]: ...
    def client_audio(self, chunk: bytes, now: float) -> bytes | None: ...
    def client_media(self, chunk: bytes, now: float) -> list[Action]: ...
    def client_too_big(self, size: int, now: float) -> list[Action]: ...
    def client_gone(self, gone: ClientGone, now: float) -> list[Action]: ...
    def client_backlog(self, ms: float) -> None: ...
    def upstream_opened(self, leg: int, now: float, wall: float) -> list[Action]: ...
    def upstream_event(self, leg: int, event: UpstreamFrame, now: float) -> list[Action]: ...
    def upstream_audio(
        self, leg: int, delta: realtime.ResponseOutputAudioDelta, now: float
    ) -> bytes | None: ...
    def upstream_gone(self, leg: int, gone: UpstreamGone, now: float) -> list[Action]: ...
    def endpoint_answered(self, call: str, output: str, ok: bool, now: float) -> list[Action]: ...
    def going_away(self, now: float) -> list[Action]: ...
    def next_deadline(self) -> float: ...
    def deadline_passed(self, now: float) -> list[Action]: ...
    def rebased(self, now: float) -> None: ...


# The playbook.


class Done(msgspec.Struct, eq=False):
    """An action that was not listed yet, and where it stands in the transcript."""

    action: Action
    peer: str
    """Who sees it: actions for one peer have an order, those for two have none."""
    line: Line


class Playbook:
    """A session, the time, and what was said so far."""

    jump = 0.0
    """How much further ahead the clock of each decoded copy is."""

    def __init__(self, session: Session, component: bool = False) -> None:
        """`component`: messages to the client may be those of the component's dialect."""
        self.session = session
        self.component = component
        self.now = START
        self.ahead = 0.0
        """How much the session's clock is ahead of ours."""
        self.lines: list[Line] = []
        self.unlisted: list[Done] = []
        self.logged: list[Note] = []
        self.legs: dict[int, str] = {}
        """dialled, open or over."""
        self.sent: dict[int, list[Wire]] = {}
        """Events posted to each leg, in order."""
        self.acknowledged: set[str] = set()
        self.closed = False
        self.tail = False
        """The mouth may hold back the end of what was posted."""
        _running.append(self)

    # -- what happens: the client ----------------------------------------------------------------

    def opens(self) -> Self:
        """The connection was admitted."""
        return self._happens(
            CLIENT_IN, "(connects)", lambda: self.session.opened(self.clock, self.wall)
        )

    def client(self, *messages: Expected) -> Self:
        """The client sends these messages, one after another: wire objects, structs or types."""
        self.all_listed()
        for message in messages:
            self._text(msgspec.json.encode(_wire(message)).decode())
        return self

    def client_text(self, frame: str) -> Self:
        """The client sends a text frame, which may be anything."""
        self.all_listed()
        return self._text(frame)

    def client_audio(self, *chunks: bytes) -> Self:
        """The client sends audio, one binary frame after another, in the upstream's format (the
        bridge's ears have translated it already)."""
        self.all_listed()
        for chunk in chunks:
            self._write(CLIENT_IN, brief(chunk))
            self._audio(chunk)
        return self

    def client_too_big(self, size: int) -> Self:
        """The client sends a frame above the limit."""
        return self._happens(
            CLIENT_IN, f"<{size} bytes>", lambda: self.session.client_too_big(size, self.clock)
        )

    def client_closes(self, code: int = 1000, reason: str = "") -> Self:
        """The client sends a close frame."""
        return self._client_gone(ClientGone(code, reason))

    def client_lost(self) -> Self:
        """The client is gone without a close frame."""
        return self._client_gone(ClientGone())

    def backlog(self, ms: float) -> Self:
        """So much of the audio posted to the client has not been written out."""
        self._write(CLIENT_IN, f"({ms} ms are not written out yet)")
        self.session.client_backlog(ms)
        return self

    # -- what happens: the upstream --------------------------------------------------------------

    def upstream_opens(self, leg: int | None = None) -> Self:
        """The dial succeeded (the last one, unless a leg is named)."""
        number = leg or max(n for n, state in self.legs.items() if state == "dialled")
        self.legs[number] = "open"
        return self._happens(
            leg_in(number),
            "(open)",
            lambda: self.session.upstream_opened(number, self.clock, self.wall),
        )

    def upstream(self, *events: Expected, leg: int | None = None) -> Self:
        """The upstream sends these events, one after another, all of them valid."""
        self.all_listed()
        for event in events:
            wire = {"event_id": f"event_{len(self.lines)}", **_wire(event)}
            frame = msgspec.json.encode(wire)
            self._valid(oracle.check_server_event, msgspec.json.decode(frame))
            self._event(self.leg(leg), frame, told(wire))
        return self

    def upstream_text(self, *frames: str | Wire, leg: int | None = None) -> Self:
        """The upstream sends text frames which may be anything."""
        self.all_listed()
        for frame in frames:
            text = frame.encode() if isinstance(frame, str) else msgspec.json.encode(frame)
            self._event(self.leg(leg), text, _shown(text))
        return self

    def upstream_gone(
        self,
        how: Loss = Loss.LOST,
        *,
        status: int | None = None,
        code: int | None = None,
        reason: str = "",
        leg: int | None = None,
    ) -> Self:
        """The dial failed, or the leg ended by itself."""
        number = self.leg(leg)
        self.legs[number] = "over"
        gone = UpstreamGone(how, status, code, reason)
        return self._happens(
            leg_in(number),
            f"(gone: {how.value} {status or code or ''} {reason})",
            lambda: self.session.upstream_gone(number, gone, self.clock),
        )

    def updated(self, *, leg: int | None = None, **changes: Any) -> Self:
        """session.updated, with the session as the leg was told to have it, but for `changes`
        (`ABSENT` leaves a field out)."""
        number = self.leg(leg)
        session: dict[str, Any] = {}
        for event in self.sent.get(number, []):
            if event["type"] == "session.update":
                _merge(session, event["session"])
        _merge(session, changes)
        return self.upstream({"type": "session.updated", "session": session}, leg=number)

    def acks(self, count: int | None = None, *, leg: int | None = None) -> Self:
        """conversation.item.added and .done for the items not yet acknowledged, the oldest
        first; at most `count` of them."""
        number = self.leg(leg)
        items = [
            event["item"]
            for event in self.sent.get(number, [])
            if event["type"] == "conversation.item.create"
            and event["item"]["id"] not in self.acknowledged
        ][:count]
        if not items:
            raise LookupError("there is no item to acknowledge")
        self.acknowledged.update(item["id"] for item in items)
        events = [
            like(f"conversation.item.{what}", item={"object": "realtime.item", **item})
            for item in items
            for what in ("added", "done")
        ]
        return self.upstream(*events, leg=number)

    def begins(self, resp: str = "resp_1", *, leg: int | None = None) -> Self:
        """response.created, for our last response.create."""
        number = self.leg(leg)
        metadata = self.last("response.create", leg=number).get("response", {}).get("metadata")
        response = {"id": resp, "object": "realtime.response", "status": "in_progress"}
        made = {**response, "output": [], "metadata": metadata}
        return self.upstream(like("response.created", response=made), leg=number)

    def refuses(
        self,
        event: str,
        code: str | None = "invalid_value",
        *,
        message: str = "No.",
        error: str = "invalid_request_error",
        param: str | None = None,
        leg: int | None = None,
    ) -> Self:
        """An error event about the last event of this type."""
        number = self.leg(leg)
        about = self.last(event, leg=number)["event_id"]
        detail = {"type": error, "code": code, "message": message, "param": param}
        return self.upstream(like("error", error={**detail, "event_id": about}), leg=number)

    def last(self, event: str, *, leg: int | None = None) -> Wire:
        """The last event of this type that was posted to the leg."""
        return next(e for e in reversed(self.sent[self.leg(leg)]) if e["type"] == event)

    def next_to_client(self) -> Wire:
        """The next message for the client. It remains to be listed."""
        messages = (done.action for done in self.unlisted if isinstance(done.action, ToClient))
        return _message_wire(next(messages).message)

    # -- what happens: the rest ------------------------------------------------------------------

    def passes(self, seconds: float) -> Self:
        """Time goes by; what falls due on the way does so at its own time."""
        self.all_listed()
        end = self.now + seconds
        self._alarms(until=end)
        self.now = end
        return self

    def endpoint_answers(self, call: str, output: str, ok: bool = True) -> Self:
        """The HTTP call for a server-side function is over."""
        return self._happens(
            "endpoint >>",
            f"{call} {brief(output)} {'' if ok else '(failed)'}",
            lambda: self.session.endpoint_answered(call, output, ok, self.clock),
        )

    def going_away(self) -> Self:
        """The daemon shuts down."""
        return self._happens(
            "daemon >>", "(going away)", lambda: self.session.going_away(self.clock)
        )

    # -- what it must have done ------------------------------------------------------------------

    def to_client(self, *messages: Expected) -> Self:
        """These messages, in this order, next for the client."""
        for message in messages:
            self._listed("client", ToClient, _wire(message), lambda a: _message_wire(a.message))
        return self

    def audio_to_client(self, audio: bytes | Anything = ANY) -> Self:
        """Audio next for the client, all that comes before something else."""
        return self._listed_audio("client", audio)

    def audio_dropped(self) -> Self:
        """Audio not yet written to the client is taken back."""
        return self._listed("client", AudioDropped)

    def closes(self, code: int | Anything, reason: str | Anything = ANY) -> Self:
        """The connection is ended."""
        wanted = {"code": code, "reason": reason}
        return self._listed("client", Close, wanted, lambda a: {"code": a.code, "reason": a.reason})

    def to_upstream(self, *events: Expected, leg: int | None = None) -> Self:
        """These events, in this order, next for the leg."""
        number = self.leg(leg)
        for event in events:
            self._listed(f"leg {number}", ToUpstream, _wire(event), lambda a: _event_wire(a.event))
        return self

    def audio_to_upstream(self, audio: bytes | Anything = ANY, *, leg: int | None = None) -> Self:
        """Audio next for the leg, all that comes before something else."""
        return self._listed_audio(f"leg {self.leg(leg)}", audio)

    def dials(self, *, model: Any = ANY, upstream: Any = ANY) -> Self:
        """A new leg is dialled. From then on it is the one that is meant, if no other is open."""
        number = max(self.legs, default=0)
        wanted = {"model": model, "upstream": upstream}
        return self._listed(f"leg {number}", Dial, wanted, lambda a: msgspec.to_builtins(a.target))

    def hangs_up(self, leg: int) -> Self:
        """A leg is given up."""
        return self._listed(f"leg {leg}", Hangup)

    def formats(self, **formats: Any) -> Self:
        """Ears and mouth are made, for these formats (as builtins, partial)."""
        return self._listed("edge", SetFormats, formats, msgspec.to_builtins)

    def calls_endpoint(self, name: Any = ANY, arguments: Any = ANY, call: Any = ANY) -> Self:
        """A server-side function is called."""
        wanted = {"name": name, "arguments": arguments, "call": call}
        return self._listed("endpoint", CallEndpoint, wanted, msgspec.to_builtins)

    def cancels_endpoint(self, call: Any = ANY) -> Self:
        """An endpoint call is given up."""
        return self._listed("endpoint", CancelEndpoint, {"call": call}, msgspec.to_builtins)

    def notes(self, event: str, **fields: Any) -> Self:
        """A log line was written since the last one that was listed."""
        __tracebackhide__ = True
        while self.logged:
            note = self.logged.pop(0)
            if note.event == event and not difference(fields, note.fields):
                return self
        raise self._mismatch(
            Line(self.now - START, "log <<", f"{event} {brief(fields)}"), "no such note"
        )

    def nothing(self) -> Self:
        """It did nothing that is not listed. The next step says so too; this says it aloud."""
        return self.all_listed()

    # -- the machinery ---------------------------------------------------------------------------

    @property
    def clock(self) -> float:
        """What the session is told the time is."""
        return self.now + self.ahead

    @property
    def wall(self) -> float:
        return WALL + self.now - START

    def leg(self, leg: int | None = None) -> int:
        """The leg that is meant: the one named, else the oldest that is not over."""
        return leg or next((n for n, state in self.legs.items() if state != "over"), 0)

    def all_listed(self) -> Self:
        """Whatever was done so far is listed; raises Mismatch if not."""
        __tracebackhide__ = True
        if self.unlisted:
            raise self._mismatch(None, "it did more than is listed")
        return self

    def _happens(self, side: str, text: str, call: Callable[[], list[Action]]) -> Self:
        __tracebackhide__ = True
        self.all_listed()
        self._write(side, text)
        self._step(call)
        return self

    def _text(self, frame: str) -> Self:
        message = voice_agent.decode_client(frame)
        self._write(CLIENT_IN, _shown(frame))
        self._step(lambda: self.session.client_message(message, self.clock))
        return self

    def _client_gone(self, gone: ClientGone) -> Self:
        code = gone.code or "without a close frame"
        return self._happens(
            CLIENT_IN,
            f"(gone: {code} {gone.reason})",
            lambda: self.session.client_gone(gone, self.clock),
        )

    def _audio(self, chunk: bytes) -> None:
        def call() -> list[Action]:
            ready = self.session.client_audio(chunk, self.clock)
            if ready is None:
                return self.session.client_media(chunk, self.clock)
            return [AudioToUpstream(self.leg(), ready)]

        self._step(call)

    def _event(self, leg: int, frame: bytes, shown: str) -> None:
        self._write(leg_in(leg), shown)
        event = realtime.decode_server(frame)

        def call() -> list[Action]:
            if isinstance(event, realtime.ResponseOutputAudioDelta):
                ready = self.session.upstream_audio(leg, event, self.clock)
                if ready is not None:
                    return [AudioToClient(ready)]
            return self.session.upstream_event(leg, event, self.clock)

        self._step(call)

    def _step(self, call: Callable[[], list[Action]]) -> None:
        """One call of the session, and everything that follows from it at once."""
        __tracebackhide__ = True
        self._perform(call())
        self._survive()
        self._alarms(until=self.now)

    def _perform(self, actions: list[Action]) -> None:
        __tracebackhide__ = True
        for action in actions:
            self._note_down(action)
        errors = [
            a
            for a in actions
            if isinstance(a, ToClient) and isinstance(a.message, voice_agent.Error)
        ]
        self._must(not errors or self.closed, "an Error is followed by Close at once")  # C-177
        for action in actions:
            if isinstance(action, Redeliver):
                for frame in action.frames:
                    self._again(frame)

    def _again(self, frame: ClientFrame | bytes) -> None:
        if isinstance(frame, bytes):
            self._audio(frame)
        else:
            self._step(lambda: self.session.client_message(frame, self.clock))

    def _note_down(self, action: Action) -> None:
        """Write an action into the transcript and keep it until it is listed."""
        __tracebackhide__ = True
        self._must(not self.closed, f"nothing comes after Close: {action}")
        match action:
            case ToClient(message):
                wire = _message_wire(message)
                heard = functools.partial(oracle.check_server_message, component=self.component)
                self._valid(heard, wire)
                done = isinstance(message, voice_agent.AgentAudioDone)
                self._must(not (done and self.tail), "AudioEnds comes before AgentAudioDone")
                self._unlisted(action, "client", CLIENT_OUT, told(wire))
            case AudioToClient(audio):
                self._must(bool(audio), "an empty frame to the client")
                self.tail = True
                self._unlisted(action, "client", CLIENT_OUT, brief(audio))
            case AudioEnds():
                self._write(CLIENT_OUT, "(audio ends)")
                self.tail = False
            case AudioDropped():
                self._unlisted(action, "client", CLIENT_OUT, "(audio dropped)")
                self.tail = False
            case Close(code, reason):
                self._must(len(reason.encode()) <= 123, "a close reason has at most 123 bytes")
                self._unlisted(action, "client", CLIENT_OUT, f"(close {code} {reason})")
                self.closed = True
                self.legs = dict.fromkeys(self.legs, "over")
            case ToUpstream(leg, event):
                self._must(self.legs.get(leg) == "open", f"leg {leg} is not open")
                wire = _event_wire(event)
                self._valid(oracle.check_client_event, wire)
                self.sent.setdefault(leg, []).append(wire)
                self._unlisted(action, f"leg {leg}", leg_out(leg), told(wire))
            case AudioToUpstream(leg, audio):
                self._must(self.legs.get(leg) == "open", f"leg {leg} is not open")
                self._must(bool(audio), "an empty append")
                self._unlisted(action, f"leg {leg}", leg_out(leg), brief(audio))
            case Dial(leg, target):
                self._must(leg not in self.legs, f"leg {leg} was dialled before")
                self.legs[leg] = "dialled"
                self._unlisted(action, f"leg {leg}", leg_out(leg), f"(dial {target.model})")
            case Hangup(leg):
                self._must(self.legs.get(leg) in ("dialled", "open"), f"leg {leg} is over already")
                self.legs[leg] = "over"
                self._unlisted(action, f"leg {leg}", leg_out(leg), "(hang up)")
            case SetFormats():
                self._unlisted(action, "edge", "edge", brief(msgspec.to_builtins(action), 200))
            case Redeliver(frames):
                self._write("edge", f"({len(frames)} early frames again)")
            case CallEndpoint(call, name, arguments):
                self._unlisted(
                    action, "endpoint", "endpoint <<", f"{name} {call} {brief(arguments)}"
                )
            case CancelEndpoint(call):
                self._unlisted(action, "endpoint", "endpoint <<", f"(cancel {call})")
            case Note(level, event, fields):
                self.logged.append(action)
                self._write("log <<", f"{level} {event} {brief(fields)}")

    def _survive(self) -> None:
        """Go on with a copy that was encoded and decoded."""
        __tracebackhide__ = True
        encoded = msgspec.msgpack.encode(self.session)
        decoded = msgspec.msgpack.decode(encoded, type=type(self.session))
        same = msgspec.msgpack.encode(decoded) == encoded
        self._must(same, "a decoded session encodes differently")
        due = self.session.next_deadline() - self.ahead
        self.ahead += self.jump
        decoded.rebased(self.clock)
        same = math.isclose(decoded.next_deadline() - self.ahead, due, abs_tol=1e-6)
        self._must(same, "a decoded session has other deadlines")
        if due > self.now:
            self._must(decoded.deadline_passed(self.clock) == [], "an early alarm did something")
        self.session = decoded

    def _alarms(self, until: float) -> None:
        """Ring for everything that falls due."""
        __tracebackhide__ = True
        rung_at = 0
        while (due := self.session.next_deadline()) - self.ahead <= until:
            rung_at = rung_at + 1 if due <= self.clock else 0
            self._must(rung_at < 20, "deadlines spin")
            self.now = max(self.now, due - self.ahead)
            self._write("alarm", "")
            self._perform(self.session.deadline_passed(max(due, self.clock)))
            self._survive()

    def _must(self, truth: bool, why: str) -> None:
        """What is true of every step of every session."""
        __tracebackhide__ = True
        if not truth:
            raise self._mismatch(None, why)

    def _valid(self, check: Callable[[Wire], None], wire: Wire) -> None:
        """By the vendor's types."""
        __tracebackhide__ = True
        try:
            check(wire)
        except AssertionError as defect:
            raise self._mismatch(None, f"not valid: {defect}") from None

    def _write(self, side: str, text: str) -> Line:
        line = Line(self.now - START, side, text)
        self.lines.append(line)
        return line

    def _unlisted(self, action: Action, peer: str, side: str, text: str) -> None:
        self.unlisted.append(Done(action, peer, self._write(side, text)))

    def _listed(
        self,
        peer: str,
        kind: type[Any],
        wanted: Wire | None = None,
        wire: Callable[[Any], Wire] | None = None,
    ) -> Self:
        """Take the next action for a peer off the list; it must be of this kind and look so."""
        __tracebackhide__ = True
        line = self._expected(peer, _wanted(kind, wanted))
        done = next((done for done in self.unlisted if done.peer == peer), None)
        if done is None:
            raise self._mismatch(line, "it did nothing of the kind")
        if not isinstance(done.action, kind):
            raise self._mismatch(line, f"it did something else: {done.line.text}")
        found = difference(wanted, wire(done.action)) if wire is not None else None
        if found is not None:
            raise self._mismatch(line, found)
        self.unlisted.remove(done)
        return self

    def _listed_audio(self, peer: str, audio: bytes | Anything) -> Self:
        """Take all audio off the list that comes next for a peer."""
        __tracebackhide__ = True
        line = self._expected(peer, brief(audio))
        took: list[Done] = []
        whole = b""
        for done in [done for done in self.unlisted if done.peer == peer]:
            if not isinstance(done.action, AudioToClient | AudioToUpstream):
                break
            took.append(done)
            whole += done.action.audio
        if not took:
            raise self._mismatch(line, "no audio comes next")
        if not isinstance(audio, Anything) and whole != audio:
            raise self._mismatch(line, _unequal(audio, whole))
        self.unlisted = [done for done in self.unlisted if done not in took]
        return self

    def _expected(self, peer: str, text: str) -> Line:
        side = {"client": CLIENT_OUT, "edge": "edge", "endpoint": "endpoint <<"}
        return Line(self.now - START, side.get(peer) or f"{'':12}>> {peer}", text)

    def _mismatch(self, expected: Line | None, why: str) -> Mismatch:
        for done in self.unlisted:
            done.line.mark = "+"
        lines = [str(line) for line in self.lines]
        if expected is not None:
            expected.mark = "-"
            lines.append(str(expected))
        return Mismatch("\n".join([why, *lines]))


def _wire(expected: Expected) -> dict[str, Any]:
    match expected:
        case str():
            return {"type": expected}
        case Mapping():
            return dict(expected)
        case _:
            wire: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(expected))
            return wire


def _message_wire(message: voice_agent.ServerMessage) -> Wire:
    wire: Wire = msgspec.json.decode(voice_agent.encode(message))
    return wire


def _event_wire(event: realtime.ClientEvent) -> Wire:
    wire: Wire = msgspec.json.decode(realtime.encode(event))
    return wire


def _wanted(kind: type[Any], wanted: Wire | None) -> str:
    if wanted is None:
        return kind.__name__
    return told(wanted) if "type" in wanted else f"{kind.__name__} {brief(wanted, 200)}"


def _shown(frame: str | bytes) -> str:
    """A text frame in one line."""
    try:
        wire = msgspec.json.decode(frame)
    except (msgspec.DecodeError, RecursionError):
        return brief(frame)
    return told(wire) if isinstance(wire, dict) else brief(wire)


def _unequal(expected: bytes, actual: bytes) -> str:
    pairs = zip(expected, actual, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return f"{len(actual)} bytes instead of {len(expected)}, the first {same} of them as expected"


WHOLE = ("turn_detection", "transcription", "format")
"""Objects of a session that an update replaces, instead of changing what is in them."""


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Absent):
            into.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(into.get(key), dict) and key not in WHOLE:
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


_running: list[Playbook] = []


def all_over() -> None:
    """All that happened in playbooks since the last call is listed; raises Mismatch if not."""
    __tracebackhide__ = True
    try:
        for playbook in _running:
            playbook.all_listed()
    finally:
        forget()


def forget() -> None:
    """Leave the playbooks that are under way."""
    _running.clear()
