"""bridge: one connection. It carries frames between two sockets and a session, and performs what
the session asks for.

It knows trio, the clock and both codecs, and decides nothing: what a message means is the session's
affair, how a socket behaves is the wire's. One nursery owns everything of a connection: a pump for
the client, one task for each upstream leg (dial, then pump), endpoint calls; the task that opens it
sleeps until the conversation is over. Who looks at the clock does so for all connections. Pumps
only post, so none of them waits for the other side, and between hearing of something and having
posted all that follows from it there is no checkpoint: no two steps of a session mix.

At the client's edge are the ears and the mouth: the session knows the upstream's formats only.
"""

import contextlib
import contextvars
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Protocol, TypeAlias, assert_never

import msgspec
import structlog
import trio

from relay import realtime, voice_agent
from relay.audio.transcode import transcoder
from relay.audio.wav import streaming_header
from relay.continuity import Visit
from relay.frames import Unknown, Unparsable
from relay.limits import Reached
from relay.metering import Seat
from relay.observer import About, Observer, Overview
from relay.parking import End
from relay.session import ClientGone, Loss, Session, UpstreamGone
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
    Target,
    ToClient,
    ToUpstream,
)
from relay.upkeep import Round, Upkeep
from relay.wire import DialFailed, Frame, Leg, LegGone, Then

Dialler: TypeAlias = Callable[[Target], contextlib.AbstractAsyncContextManager[Leg]]
"""Opens an upstream leg for as long as the block lasts, and says goodbye to it however that ends;
raises DialFailed on entry. See `relay.wire.dial`."""

log = structlog.get_logger()


class Functions(Protocol):
    """Calls server-side functions over HTTP."""

    async def __call__(self, call: CallEndpoint) -> tuple[str, bool]:
        """The output, and whether it is one: False makes it the description of a failure. Failures
        of the endpoint are answers; what this raises is a mistake of ours."""


async def no_functions(call: CallEndpoint) -> tuple[str, bool]:
    """The feature is off: every call fails, and the model is told so."""
    return "Functions on the server are not enabled.", False


def run(
    client: Leg,
    session: Session,
    dial: Dialler,
    going_away: "GoingAway",
    kept_up: Upkeep,
    *,
    functions: Functions = no_functions,
    visit: Visit | None = None,
    observer: Observer | None = None,
    seat: Seat | None = None,
    wall: Callable[[], float] = time.time,
) -> Awaitable[None]:
    """To be awaited: holds one conversation to its end; returns when nothing of it is left.

    The client's leg is the caller's, but when this returns its goodbye has been said. `going_away`
    says that the daemon stops (C-192); `kept_up` looks at the clock. `visit`: the conversation may
    be another's of before, and may outlive the connection. `observer` is told of every step.
    `seat`: what is used is held against limits, and it is left when the conversation is over. A
    mistake of ours is logged with its traceback and ends this conversation, in the protocol's
    words, and no other.
    """
    if observer is None:
        observer = Overview().observer(client, About(), trio.current_time())
    bridge = _Bridge(client, session, dial, kept_up, functions, visit, observer, seat, wall)
    return bridge.run(going_away)


class Conversation(Protocol):
    """What may have to leave."""

    def leave(self) -> None:
        """The daemon goes away. May not raise."""


class GoingAway:
    """Whether the daemon stops. Each conversation is told, also one that begins later."""

    def __init__(self) -> None:
        self._announced = False
        self._told: set[Conversation] = set()

    def announce(self) -> None:
        """Harmless to repeat."""
        self._announced = True
        for each in list(self._told):
            each.leave()

    def tell(self, conversation: Conversation) -> None:
        """When it happens, until `forget`; at once if it has."""
        self._told.add(conversation)
        if self._announced:
            conversation.leave()

    def forget(self, conversation: Conversation) -> None:
        self._told.remove(conversation)


class _Bridge:
    """The tasks of one connection and what they share."""

    # fmt: off
    __slots__ = (
        "_backlog_ms", "_calls", "_client", "_clock", "_close", "_context", "_dial",
        "_ears_and_mouth", "_functions", "_handed_on", "_kept_up", "_nursery", "_observer",
        "_over", "_revision", "_round", "_seat", "_session", "_sleeper", "_upstreams", "_visit",
        "_wall",
    )
    # fmt: on

    def __init__(
        self,
        client: Leg,
        session: Session,
        dial: Dialler,
        kept_up: Upkeep,
        functions: Functions,
        visit: Visit | None,
        observer: Observer,
        seat: Seat | None,
        wall: Callable[[], float],
    ) -> None:
        self._client = client
        self._session = session
        self._dial = dial
        self._functions = functions
        self._visit = visit
        self._observer = observer
        self._revision = 0  # of the session, as far as the visit was told
        self._seat = seat
        self._handed_on = False  # the conversation may go on elsewhere
        self._wall = wall
        self._clock = trio.lowlevel.current_clock()  # trio's own way to it goes through three more
        self._upstreams: dict[int, _Upstream] = {}  # those not hung up
        self._calls: dict[str, trio.CancelScope] = {}
        self._ears_and_mouth: _EarsAndMouth | None = None
        self._backlog_ms = 0.0  # what the session was last told of it
        self._kept_up = kept_up
        self._round: Round | None = None  # of its looks at the clock
        self._over = False
        self._sleeper: trio.lowlevel.Task | None = None  # who waits for that
        self._context = contextvars.copy_context()  # in which others' tasks do what is ours
        self._close: Close | None = None

    async def run(self, going_away: GoingAway) -> None:
        if self._visit is not None:
            self._visit.superseded = self._superseded
        if self._seat is not None:
            self._seat.metered(self._meter)
        try:
            async with trio.open_nursery() as self._nursery:
                self._tell(lambda now: self._session.opened(now, self._wall()))
                self._nursery.start_soon(self._hear_client)
                self._round = self._kept_up.watch(self._look)
                going_away.tell(self)
                try:
                    if not self._over:
                        self._sleeper = trio.lowlevel.current_task()
                        await trio.lowlevel.wait_task_rescheduled(self._cancelled)
                finally:
                    going_away.forget(self)
                    self._round.end()
                await self._say_goodbye()
                self._nursery.cancel_scope.cancel()
        finally:
            self._ended(End.KEPT)  # unless it has ended otherwise before we were cancelled
            self._leave_seat()

    async def _say_goodbye(self) -> None:
        seat = self._seat
        self._leave_seat()
        for leg in list(self._upstreams):
            self._hang_up(leg)  # their goodbyes are said while ours is
        if seat is not None:
            await seat.free()  # who has our goodbye may come again at once
        if self._close is not None:
            log.info("closing", code=self._close.code, reason=self._close.reason)
            await self._client.goodbye(self._close.code, self._close.reason)

    # -- the client -------------------------------------------------------------------------------

    async def _hear_client(self) -> None:
        try:
            try:
                await self._client.hear(self._heard_client)
            except LegGone as gone:
                self._client_gone(ClientGone(gone.code, gone.reason))
        except Exception:
            self._failed()

    def _client_gone(self, end: ClientGone) -> None:
        if self._over:
            return
        # Behind a code are the client's own words, which may be anything (C-197).
        log.info("client gone", code=end.code, reason="" if end.code else end.reason)
        self._observer.client_gone(end.code)
        self._ended(_END.get(end.code, End.CLOSED))
        self._tell(lambda now: self._session.client_gone(end, now))
        self._finish()

    def _heard_client(self, frame: Frame) -> Then:
        visit = self._visit
        if visit is not None:
            if visit.watched:
                visit.came()
            if visit.undecided:
                return partial(self._first_frame, visit, frame)
        self._client_frame(frame)
        return None

    async def _first_frame(self, visit: Visit, frame: Frame) -> None:
        if not await self._resumes(visit, frame):
            self._client_frame(frame)

    def _client_frame(self, frame: Frame) -> None:
        limit = self._session.options.max_client_frame_bytes
        if isinstance(frame, bytes) and len(frame) <= limit:
            self._client_audio(frame)
        elif self._is_too_big(frame):
            size = len(frame.encode()) if isinstance(frame, str) else len(frame)
            self._tell(lambda now: self._session.client_too_big(size, now))
        else:
            message = voice_agent.decode_client(frame)
            self._observer.client_message(message, trio.current_time())
            self._tell(lambda now: self._session.client_message(message, now))

    def _is_too_big(self, frame: Frame) -> bool:
        limit = self._session.options.max_client_frame_bytes
        return len(frame) > limit or (isinstance(frame, str) and not _fits(frame, limit))

    def _client_audio(self, frame: bytes) -> None:
        # The hot path: nothing is allocated here but what the frame itself becomes.
        if self._over:
            return
        session, edge = self._session, self._ears_and_mouth
        chunk = edge.ears.feed(frame) if edge else None
        if chunk is not None:
            audio = session.client_audio(chunk, self._clock.current_time())
            if audio is not None and session.live is not None:
                self._append(session.live.number, audio)
                return
        heard = frame if chunk is None else chunk
        self._tell(lambda now: self._session.client_media(heard, now))

    def _say(self, frames: Iterator[tuple[bytes, float]]) -> None:
        for frame, audio_ms in frames:
            self._client.post(frame, audio_ms)

    # -- upstream legs ----------------------------------------------------------------------------

    async def _hold_upstream(self, number: int, upstream: "_Upstream", target: Target) -> None:
        try:
            self._observer.dialling(number, trio.current_time())
            with upstream.scope:
                async with self._dial(target) as leg:
                    upstream.leg = leg
                    self._observer.opened(number, leg, trio.current_time())
                    if self._holds(number):  # else a late success (C-236)
                        self._upstream_opened(number)
                        try:
                            await leg.hear(upstream.heard)
                        except LegGone as gone:  # before its goodbye, which takes time
                            self._upstream_lost(number, gone)
        except DialFailed as failed:
            self._not_opened(number, failed)
        except Exception:
            self._failed()
        finally:
            self._observer.upstream_over(number)

    def _upstream_opened(self, number: int) -> None:
        self._tell(lambda now: self._session.upstream_opened(number, now, self._wall()))

    def _not_opened(self, number: int, failed: DialFailed) -> None:
        how = Loss.UNREACHABLE if failed.status is None else Loss.REFUSED
        self._observer.not_opened(number, refused=how is Loss.REFUSED)
        self._upstream_gone(number, UpstreamGone(how, failed.status, reason=failed.reason))

    def _upstream_lost(self, number: int, gone: LegGone) -> None:
        how = Loss.LOST if gone.code is None else Loss.CLOSED
        why = _KEY.sub("[key]", gone.reason)
        log.debug("upstream closed", leg=number, code=gone.code, reason=why)
        self._upstream_gone(number, UpstreamGone(how, code=gone.code, reason=why))

    def upstream_frame(self, number: int, frame: Frame) -> Then:
        """A frame of this upstream leg has come."""
        if not self._holds(number):
            return None  # it is hung up, and this was under way
        event = realtime.decode_server(frame)
        if len(frame) > _LONG_EVENT and isinstance(event, realtime.ResponseOutputAudioDelta):
            return partial(self._hear_at_length, number, event)
        self._upstream_event(number, event)
        # It is owed much audio, and would be lost with more: neither its fault nor the upstream's,
        # who may send faster than real time. If it does not read, it is lost by the age of what is
        # unsent.
        return self._client.caught_up if self._client.behind else None

    async def _hear_at_length(self, number: int, event: realtime.ResponseOutputAudioDelta) -> None:
        """One event may hold more audio than a client may be owed; it comes in parts, as it would
        from an upstream that sends a little at a time."""
        audio = memoryview(event.delta)
        part = (
            _PART_S * self._formatted.spoken_bytes_per_second
            if self._ears_and_mouth
            else len(audio)
        )
        for at in range(0, len(audio), part):
            await trio.lowlevel.checkpoint()
            await self._client.caught_up()
            if not self._holds(number):
                return
            some = bytes(audio[at : at + part])
            self._upstream_event(number, msgspec.structs.replace(event, delta=some))
        await self._client.caught_up()

    def _upstream_event(
        self, number: int, event: realtime.ServerEvent | Unknown | Unparsable
    ) -> None:
        if isinstance(event, realtime.ResponseOutputAudioDelta) and self._ears_and_mouth:
            audio = self._session.upstream_audio(number, event, self._clock.current_time())
            if audio is not None:
                self._say(self._ears_and_mouth.spoken(audio))
                return
        self._observer.upstream_event(event)
        self._tell(lambda now: self._session.upstream_event(number, event, now))

    def _upstream_gone(self, number: int, gone: UpstreamGone) -> None:
        if self._holds(number):
            del self._upstreams[number]
            self._tell(lambda now: self._session.upstream_gone(number, gone, now))

    def _append(self, number: int, audio: bytes) -> None:
        upstream, edge = self._upstreams.get(number), self._ears_and_mouth
        if upstream is not None and (leg := upstream.leg) is not None and edge is not None:
            leg.post(realtime.encode_append(audio), edge.appended_ms(len(audio)))
            if leg.shed_audio_ms and not upstream.shedding:
                upstream.shedding = True
                log.info("upstream does not keep up, oldest audio dropped", leg=number)

    def _holds(self, number: int) -> bool:
        return number in self._upstreams and not self._over

    def _hang_up(self, number: int) -> None:
        upstream = self._upstreams.pop(number, None)
        if upstream is not None:
            upstream.scope.cancel()

    # -- time, endpoints, and the daemon's end ----------------------------------------------------

    def _look(self) -> float:
        """See to what has fallen due. Returns when to look again."""
        if trio.current_time() >= self._session.next_deadline():
            self._context.run(self._tell, self._session.deadline_passed)
        return math.inf if self._over else self._session.next_deadline()

    def leave(self) -> None:
        """The daemon goes away."""
        self._context.run(self._leave)

    def _leave(self) -> None:
        self._ended(End.KEPT)
        self._tell(self._session.going_away)

    def _cancelled(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _finish(self) -> None:
        """The conversation is over: nothing is told to the session any more, and we leave."""
        self._over = True
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            trio.lowlevel.reschedule(sleeper)

    async def _call(self, call: CallEndpoint, scope: trio.CancelScope) -> None:
        try:
            with scope:
                if self._visit is not None:
                    await self._visit.written()  # else a crash would have it called again (C-259)
                output, ok = await self._functions(call)
                if self._calls.get(call.call) is scope:
                    del self._calls[call.call]
                    answer = partial(self._session.endpoint_answered, call.call, output, ok)
                    self._tell(answer)
        except Exception:
            self._failed()

    # -- what is used -----------------------------------------------------------------------------

    def _meter(self) -> None:
        """Called every second or so."""
        if self._seat is not None and not self._over:
            self._context.run(self._count, self._seat)

    def _count(self, seat: Seat) -> None:
        try:
            reached = self._spend(seat)
            if reached is not None:
                seat.stopped_by(reached)
                self._tell(partial(self._limit_reached, reached))
        except Exception:
            self._failed()

    def _limit_reached(self, reached: Reached, now: float) -> list[Action]:
        return self._session.limit_reached(reached.text, now, rate=reached.is_rate)

    def _spend(self, seat: Seat) -> Reached | None:
        """Have what was used counted. That may be enough."""
        client = self._client
        return seat.spend(client.frames_in, client.bytes_in, self._session.spent())

    def _leave_seat(self) -> None:
        """What was used is written down, and the seat is free before the sockets are."""
        seat, self._seat = self._seat, None
        if seat is not None:
            self._spend(seat)
            seat.record(self._session.bill(), ended=not self._handed_on)
            seat.leave()

    # -- what outlives the connection -------------------------------------------------------------

    async def _resumes(self, visit: Visit, frame: Frame) -> bool:
        """Whether this frame was the client's way to say that it is back, and no more than that."""
        if self._over or self._is_too_big(frame):
            return False
        first = _first_message(frame)
        if first is None:
            return False
        returned = await visit.decided(first)
        if returned is None or self._over:
            return False
        self._observer.resumed(was_connected=returned.was_connected)
        newcomer = self._session
        for leg in list(self._upstreams):
            self._hang_up(leg)  # dialled on a guess
        self._session = session = Session.restored(
            returned.snapshot,
            options=newcomer.options,
            mapping=newcomer.mapping,
            upstreams=newcomer.upstreams,
            lost_wall=returned.lost_wall,
        )
        self._tell(
            lambda now: session.resumed(
                newcomer.admission, now, self._wall(), returned.settings, repeated=returned.repeated
            )
        )
        return returned.settings is not None

    def _superseded(self) -> bytes | None:
        """Another connection has the conversation (C-256): not a word more here."""
        if self._over:
            return None
        self._session.client_backlog(self._client.unsent_audio_ms)
        left = self._parked()
        self._close = Close(1000, "superseded")
        self._observer.superseded()
        self._finish()
        return left

    def _ended(self, how: End) -> None:
        """Say at once what becomes of the conversation; what is said later does not count."""
        if self._visit is None or self._over:
            return
        if how is End.KEPT and not self._visit.durable:
            how = End.BROKEN
        left = self._parked() if how in (End.LOST, End.KEPT) else None
        if how is End.LOST and left is None:
            how = End.BROKEN
        self._visit.ended(how, left)

    def _parked(self) -> bytes | None:
        if not self._session.worth_keeping:
            return None
        self._handed_on = True
        if self._seat is not None:
            self._spend(self._seat)  # else it is counted again where the conversation goes on
        return self._session.parked(trio.current_time(), self._wall())

    # -- one step ---------------------------------------------------------------------------------

    def _tell(self, what_happened: Callable[[float], list[Action]]) -> None:
        """Tell the session of something, unless it is over, and do what it answers."""
        if self._over:
            return
        try:
            unsent = self._client.unsent_audio_ms
            if unsent or self._backlog_ms:
                self._session.client_backlog(unsent)
                self._backlog_ms = unsent
            now = trio.current_time()
            actions = what_happened(now)
            self._observer.performs(actions, now)
            self._perform(actions)
            if self._visit is not None and self._session.revision != self._revision:
                self._revision = self._session.revision
                self._visit.changed(self._session)
        except Exception:
            self._failed()

    def _perform(self, actions: list[Action]) -> None:
        redelivered: list[voice_agent.ClientMessage | bytes] = []
        for action in actions:
            match action:
                case AudioToClient(audio=audio):
                    self._say(self._formatted.spoken(audio))
                case AudioToUpstream(leg=leg, audio=audio):
                    self._append(leg, audio)
                case ToClient(message=message):
                    self._client.post(voice_agent.encode(message))
                case ToUpstream(leg=leg, event=event):
                    self._post_upstream(leg, event)
                case AudioEnds():
                    self._say(self._formatted.ending())
                case AudioDropped():
                    self._client.drop_audio()
                    self._backlog_ms = 0.0
                    self._formatted.fall_silent()
                case SetFormats():
                    self._ears_and_mouth = _EarsAndMouth(action)
                case Redeliver(frames=frames):
                    redelivered += frames
                case Dial(leg=leg, target=target):
                    self._upstreams[leg] = upstream = _Upstream(self, leg)
                    self._nursery.start_soon(self._hold_upstream, leg, upstream, target)
                case Hangup(leg=leg):
                    self._hang_up(leg)
                case CallEndpoint():
                    self._calls[action.call] = scope = trio.CancelScope()
                    self._nursery.start_soon(self._call, action, scope)
                case CancelEndpoint(call=call):
                    self._calls.pop(call, trio.CancelScope()).cancel()
                case Note():
                    _write(action)
                case Close():
                    self._ended(End.CLOSED if action.code == 1000 else End.BROKEN)
                    self._close = action
                    self._finish()
                case _:
                    assert_never(action)
        self._set_alarm()
        for frame in redelivered:
            if isinstance(frame, bytes):
                self._client_audio(frame)
            else:
                self._redeliver(frame)

    def _redeliver(self, message: voice_agent.ClientMessage) -> None:
        self._tell(lambda now: self._session.client_message(message, now))

    def _post_upstream(self, number: int, event: realtime.ClientEvent) -> None:
        upstream = self._upstreams.get(number)
        if upstream is not None and upstream.leg is not None:
            upstream.leg.post(realtime.encode(event))

    @property
    def _formatted(self) -> "_EarsAndMouth":
        if self._ears_and_mouth is None:
            raise RuntimeError("audio before SetFormats")
        return self._ears_and_mouth

    def _set_alarm(self) -> None:
        # Only ever earlier: a deadline that was put off is noticed when the alarm rings in vain.
        if self._round is not None:
            self._kept_up.sooner(self._round, self._session.next_deadline())

    def _failed(self) -> None:
        """To be called where an exception is caught: what a session or codec raises is a bug, and
        ends this connection, in words (C-177)."""
        log.exception("conversation failed")
        self._observer.failed()
        code = "INTERNAL_SERVER_ERROR"
        error = voice_agent.Error(description="The relay failed.", code=code)
        self._client.post(voice_agent.encode(error))
        self._ended(End.BROKEN)
        self._close = Close(1011, code)
        self._finish()


class _Upstream:
    """An upstream leg from its Dial to its Hangup."""

    __slots__ = ("_bridge", "_number", "leg", "scope", "shedding")

    def __init__(self, bridge: _Bridge, number: int) -> None:
        self._bridge = bridge
        self._number = number
        self.scope = trio.CancelScope()
        """Cancelled to stop the dialling, or the listening; the leg's goodbye follows from it."""
        self.leg: Leg | None = None
        self.shedding = False

    def heard(self, frame: Frame) -> Then:
        return self._bridge.upstream_frame(self._number, frame)


class _EarsAndMouth:
    """The client's edge: its formats outside, the upstream's inside."""

    # fmt: off
    __slots__ = (
        "_begun", "_header", "_input_bytes_per_second", "_mouth", "_output", "ears",
        "spoken_bytes_per_second",
    )
    # fmt: on

    def __init__(self, formats: SetFormats) -> None:
        self._input_bytes_per_second = formats.upstream_input.bytes_per_second
        self.spoken_bytes_per_second = formats.upstream_output.bytes_per_second
        self.ears = transcoder(formats.client_input, formats.upstream_input)
        self._mouth = transcoder(formats.upstream_output, formats.client_output)
        self._output = formats.client_output
        self._header = streaming_header(formats.client_output) if formats.wav_header else b""
        self._begun = False

    def appended_ms(self, nbytes: int) -> float:
        """How long audio for the upstream lasts."""
        return nbytes * 1000 / self._input_bytes_per_second

    def spoken(self, audio: bytes) -> Iterator[tuple[bytes, float]]:
        """Binary frames for the client, and how many milliseconds each lasts."""
        return self._framed(self._mouth.feed(audio))

    def ending(self) -> Iterator[tuple[bytes, float]]:
        """The last frames of an utterance."""
        tail = self._mouth.flush()
        yield from self._framed(tail)
        self._begun = False

    def fall_silent(self) -> None:
        """Forget the utterance."""
        self._mouth.reset()
        self._begun = False

    def _framed(self, audio: bytes) -> Iterator[tuple[bytes, float]]:
        if not audio:
            return
        header = b"" if self._begun else self._header
        self._begun = True
        for frame in self._output.frames(header + audio):
            yield frame, self._output.ms(len(frame) - len(header))
            header = b""


_LONG_EVENT = 64 * 1024
"""Characters; a second of PCM, in base64. Shorter ones are heard in one step."""
_PART_S = 5
"""Longer ones in steps of so much audio: little beside the 60 s that a client may be owed."""
_KEY = re.compile(r"\b(sk|ek)[-_][\w*-]+")
"""A key as OpenAI writes them, or masks them when it says that one is wrong."""


_END = {None: End.LOST, 1002: End.BROKEN, 1007: End.BROKEN, 1009: End.BROKEN}
"""What becomes of the conversation, by the code with which the client's leg ended; CLOSED by any
other, which the client sent."""


def _first_message(frame: Frame) -> voice_agent.ClientMessage | bytes | None:
    """What decides whether the client is back; None: nothing that makes sense."""
    if isinstance(frame, str) or frame.startswith(b"{"):
        message = voice_agent.decode_client(frame)
        if isinstance(message, voice_agent.Settings):
            return message
        if isinstance(frame, str):
            return None if isinstance(message, Unknown | Unparsable) else message
    return frame


def _fits(text: str, limit: int) -> bool:
    """Whether text has at most `limit` bytes."""
    return len(text) * 4 <= limit or text.isascii() or len(text.encode()) <= limit


def _write(note: Note) -> None:
    match note.level:
        case "debug":
            log.debug(note.event, **note.fields)
        case "info":
            log.info(note.event, **note.fields)
        case "warning":
            log.warning(note.event, **note.fields)
        case _:
            assert_never(note.level)
