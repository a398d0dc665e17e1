"""wire: sockets. It carries `str | bytes` over WebSockets and answers plain HTTP on the same port.

It knows neither protocol: which paths exist, who may connect and what a frame means are told to it
or left to whoever holds the leg. It is the one place that names the WebSocket library, and it uses
that for the opening handshake, for parsing what comes in, and for answering pings and closes. What
goes out is queued and written here, because of how the library behaves when a send is slow,
cancelled, or overtaken by a close; "trap N" counts these ways, and tests/test_wire.py has them all.

    Leg      one open WebSocket: `receive`, `post`, `drop_audio`, `goodbye`, `drop`
    dial     be the client of one
    serve_connection
             be the server of whatever comes over an accepted stream

A leg lives exactly as long as the block or handler that it is given to. However that ends, the leg
says goodbye if it still can, and when it has ended no task and no socket is left.
"""

import base64
import binascii
import contextlib
import dataclasses
import functools
import math
import os
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Final, TypeAlias, cast
from urllib.parse import urlsplit

import h11
import trio
import trio_websocket
from wsproto.frame_protocol import FrameProtocol

Frame: TypeAlias = str | bytes
"""One WebSocket message: text or binary, told apart by opcode only."""

MIB: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a leg puts up with. `CLIENT_LEG` and `UPSTREAM_LEG` are the two sets in use."""

    max_message: int = 16 * MIB
    """Largest incoming message, in bytes (binary) or characters (text); above: close 1009."""
    send_s: float = 30.0
    """The leg is lost when its oldest unsent frame is older than this."""
    unsent_audio_ms: float = 60_000.0
    """Audio that may wait in the outbox."""
    unsent_text: float = 4 * MIB
    """Other frames that may wait in the outbox, in characters; above: the leg is lost."""
    sheds_audio: bool = False
    """Beyond `unsent_audio_ms`: True drops the oldest waiting audio, False loses the leg. With
    True the age of a frame counts from when its sending began: a burst is not a fault."""
    ping_s: float = 20.0
    pong_s: float = 20.0
    """A ping this often; the leg is lost when its pong takes longer than this."""


CLIENT_LEG: Final = Limits()
"""PROTOCOL.md 4.2, "outbound to client"."""
UPSTREAM_LEG: Final = Limits(max_message=32 * MIB, unsent_text=math.inf, sheds_audio=True)
"""PROTOCOL.md 4.2, "outbound to upstream"; C-199 asks for 16 MiB at least."""

HEAD_BYTES: Final = 16 * 1024
"""Largest request head; above: 431. h11's own default, and what the library parses with."""
HEAD_S: Final = 10.0
"""Time for a request head to arrive; then 408."""
FLUSH_S: Final = 5.0
"""Time a goodbye gives to what was posted before it."""
PEER_CLOSE_S: Final = 2.0
"""Time a goodbye waits for the peer's close frame."""


class LegGone(Exception):
    """The leg has ended. `code` is that of the close frame (1005: it had none; 1002, 1007, 1009:
    we refused what came), or None: lost without one. `reason` names the cause, for the log."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class DialFailed(Exception):
    """There is no leg. `status` is the HTTP status of the refusal, or None: there was no answer
    to the upgrade at all. `reason` is the cause in a few words, without URL, headers or body."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request head. Its repr is safe to log: where credentials may be, it shows nothing."""

    method: str
    path: str
    """Without query, not unquoted."""
    query: str = dataclasses.field(repr=False)
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    """By lower-case name; the values of a repeated one are joined with `, `."""
    peer: str
    """Address of the other end, or "" where the stream has none."""
    version: str = "1.1"
    """Of HTTP."""

    @property
    def host(self) -> str:
        """The `Host` header with port, or ""."""
        return self.headers.get("host", "")

    @property
    def origin(self) -> str | None:
        """The `Origin` header; only browsers send one."""
        return self.headers.get("origin")

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """What the client offers, in its order."""
        return _tokens(self.headers.get("sec-websocket-protocol", ""))

    @property
    def wants_websocket(self) -> bool:
        """Whether this asks for an upgrade; it may still be a malformed one."""
        return "websocket" in map(str.lower, _tokens(self.headers.get("upgrade", "")))


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """A plain HTTP answer; the connection is closed behind it."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Accept:
    """Open the WebSocket and hand the leg to `conversation`."""

    conversation: "Callable[[Leg], Awaitable[None]]"
    """Ends the connection when it ends: close 1000, or 1011 if it raises, or 1001 if it is
    cancelled, unless it has said goodbye itself."""
    subprotocol: str | None = None
    """One of `Request.subprotocols`; browsers drop the connection if they offered some and none
    is selected."""
    headers: tuple[tuple[str, str], ...] = ()
    limits: Limits = CLIENT_LEG


Route: TypeAlias = Callable[[Request], Accept | Response]
"""Decides about a request. `Accept` for what is no valid upgrade becomes 400, 405 or 426."""


async def serve_connection(
    stream: trio.abc.Stream,
    route: Route,
    report: Callable[[ExceptionGroup[Exception]], None],
    *,
    head_s: float = HEAD_S,
) -> None:
    """Serve one accepted connection to its end, and close `stream`.

    Nothing that the peer does raises out of here; what `route` or a conversation raises goes to
    `report`, and cancellation passes. Made for `trio.serve_listeners`:
    `partial(serve_connection, route=..., report=...)`. TLS is the listener's affair: give it
    `trio.SSLListener(..., https_compatible=True)`.
    """
    try:
        await _serve(stream, route, head_s)
    except* LegGone:
        pass  # The peer left, and the conversation let it show.
    except* Exception as faults:
        report(faults)
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


@contextlib.asynccontextmanager
async def dial(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    deadline_s: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits = UPSTREAM_LEG,
    subprotocols: Iterable[str] = (),
) -> "AsyncIterator[Leg]":
    """Open a WebSocket to `url` (`ws:` or `wss:`), for as long as the block lasts.

    Raises DialFailed on entry, at once where the cause is known at once, else after `deadline_s`;
    ValueError if `url` is none. The default `ssl_context` verifies the server's certificate.
    """
    address = _Address.of(url)
    deadline = trio.current_time() + deadline_s
    stream = await _connected(address, ssl_context, deadline, deadline_s)
    opened = dial_over(
        stream,
        url,
        headers=headers,
        deadline_s=deadline - trio.current_time(),
        limits=limits,
        subprotocols=subprotocols,
    )
    async with opened as leg:
        yield leg


@contextlib.asynccontextmanager
async def dial_over(
    stream: trio.abc.Stream,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    deadline_s: float = 10.0,
    limits: Limits = UPSTREAM_LEG,
    subprotocols: Iterable[str] = (),
) -> "AsyncIterator[Leg]":
    """The rest of `dial`, over a stream that is connected; closes it."""
    deadline = trio.current_time() + deadline_s
    address = _Address.of(url)
    leg = Leg(stream, limits, client=True)

    async def opening(nursery: trio.Nursery, line: _Line) -> trio_websocket.WebSocketConnection:
        return await trio_websocket.wrap_client_stream(
            nursery,
            # The annotation is narrower than the code, which wants any Stream.
            cast("trio.SocketStream", line),
            address.host_header,
            address.resource,
            subprotocols=subprotocols,
            extra_headers=_encoded((headers or {}).items()),
            message_queue_size=_QUEUED_MESSAGES,
            max_message_size=limits.max_message,
            receive_buffer_size=_READ_BYTES,
        )

    try:
        async with leg._alive(opening, deadline):
            yield leg
    except _NotOpened as failure:
        raise _why_not(failure) from failure.__cause__


class Leg:
    """One open WebSocket. Made by `dial` and `serve_connection` only.

    One task may `receive`; anyone may `post`. Posting never waits: frames go into an outbox that
    one writer drains in order. A leg that cannot keep up is lost (see `Limits`), and a leg that is
    gone swallows what is posted; `receive` is where one learns of it.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        limits: Limits,
        *,
        client: bool,
        head: bytes = b"",
        early: bytes = b"",
    ) -> None:
        self._line = _Line(stream, head, early)
        self._limits = limits
        self._frames = FrameProtocol(client, [])
        self._outbox: deque[_Entry] = deque()
        self._unsent_text = 0
        self._sending = math.inf  # the stamp of what the writer is sending; inf: nothing
        self._farewell: bytes | None = None
        self._last_word = 1000  # the close code, if the holder leaves without a goodbye
        self._gone: LegGone | None = None
        self._fault: BaseException | None = None
        self._scope = trio.CancelScope(shield=True)
        self._reading = trio.CancelScope()
        self._settled = trio.Event()
        self._written = trio.Event()
        self._ended = trio.Event()
        self.subprotocol: str | None = None
        self.unsent_audio_ms = 0.0
        """Audio in the outbox: what `drop_audio` would drop now."""
        self.shed_audio_ms = 0.0
        """Audio dropped so far because the peer did not keep up (`Limits.sheds_audio`)."""
        self.frames_in = 0
        self.frames_out = 0

    @property
    def bytes_in(self) -> int:
        """Bytes read from the stream, framing included."""
        return self._line.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes handed to the stream, framing included."""
        return self._line.bytes_out

    async def receive(self) -> Frame:
        """The next message. Raises LegGone when there will be none; messages that came before the
        end are delivered first. Safe to cancel."""
        while True:
            try:
                frame = await self._ws.get_message()
            except trio_websocket.ConnectionClosed as closed:
                raise self._goneness(closed.reason) from None
            if self._farewell is None:
                self.frames_in += 1
                return frame

    def post(self, frame: Frame, audio_ms: float = 0.0) -> None:
        """Append one encoded frame to the outbox. `audio_ms` > 0 says that it is audio, and how
        much: `drop_audio` may take it out again, and other bounds apply to it."""
        # The place for a fast lane: with the writer asleep and a plain socket below, one
        # non-blocking send could be tried here before anything is queued.
        if self._deaf:
            return
        self._outbox.append((frame, audio_ms, trio.current_time()))
        if audio_ms:
            self.unsent_audio_ms += audio_ms
            if self.unsent_audio_ms > self._limits.unsent_audio_ms:
                self._too_much_audio()
        else:
            self._unsent_text += len(frame)
            if self._unsent_text > self._limits.unsent_text:
                self._lose("too much text unsent")
        self._line.work.unpark()

    def drop_audio(self) -> float:
        """Take unsent audio out of the outbox, leaving the rest in order; how much, in ms. A frame
        of which a part may be on the wire counts as sent."""
        dropped = self.unsent_audio_ms
        self._outbox = deque(entry for entry in self._outbox if not entry[1])
        self.unsent_audio_ms = 0.0
        return dropped

    async def goodbye(
        self, code: int = 1000, reason: str = "", *, flush_s: float = FLUSH_S
    ) -> None:
        """Write what is posted, send a close frame, wait for the peer's, close the stream.

        Takes `flush_s` + 2 s at most, cannot be cancelled, never raises, and does nothing but wait
        if another goodbye is under way. Where the peer broke the protocol, the code is the one
        that says so (1002, 1007, 1009). From here on `post` is deaf and `receive` finds nothing.
        """
        with trio.CancelScope(shield=True):
            if self._farewell is None:
                self._farewell = self._close_frame(code, reason)
                self._line.work.unpark()
                with trio.move_on_after(flush_s):
                    await self._written.wait()
                if not self._written.is_set():
                    self._lose("goodbye not written in time")
                with trio.move_on_after(PEER_CLOSE_S):
                    await self._peer_close()
                self._reading.cancel()
            await self._ended.wait()

    def drop(self) -> None:
        """End the leg at once: nothing more is written, the stream is closed."""
        self._lose("dropped")

    # What follows is the leg's inner life: one nursery for the writer, within it one for reading.

    @contextlib.asynccontextmanager
    async def _alive(self, opening: "_Opening", deadline: float) -> AsyncIterator[None]:
        """Run the leg while the block lasts. Raises _NotOpened if it never opens."""
        with _ungrouped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, opening)
                try:
                    with trio.CancelScope(deadline=deadline):
                        await self._settled.wait()
                    if not self._line.opened.is_set():
                        raise _NotOpened from self._fault
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self._end()

    async def _end(self) -> None:
        if self._line.opened.is_set():
            await self.goodbye(self._last_word, flush_s=1.0)
        else:
            self._scope.cancel()

    async def _run(self, opening: "_Opening") -> None:
        # Shielded: the holder's end is the leg's end, and until then a goodbye needs the writer,
        # also when everything around is being cancelled (trap 7: else the peer sees a bare EOF).
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read(opening)
                    if self._line.opened.is_set():
                        await self._linger()
                    nursery.cancel_scope.cancel()
        finally:
            self._settled.set()
            self._written.set()
            with trio.move_on_after(1.0, shield=True) as patience:
                if self._gone is not None:
                    patience.cancel()
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._line.stream.aclose()
            self._ended.set()

    async def _read(self, opening: "_Opening") -> None:
        try:
            with self._reading:
                async with trio.open_nursery() as nursery:
                    self._ws = await opening(nursery, self._line)
                    self.subprotocol = self._ws.subprotocol
                    self._line.opened.set()
                    self._settled.set()
                    nursery.start_soon(self._keep_alive)
                    nursery.start_soon(self._watch_age)
        except* Exception as faults:
            # The library's reader died of what the peer sent; that ends the leg, not the process.
            self._fault = _leaf(faults)
            self._settled.set()

    async def _keep_alive(self) -> None:
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while True:
                await trio.sleep(self._limits.ping_s)
                # Trap 5: without a deadline `ping` waits for ever for a peer that vanished.
                with trio.move_on_after(self._limits.pong_s) as patience:
                    await self._ws.ping()
                if patience.cancelled_caught:
                    self._lose(f"no pong within {self._limits.pong_s:g} s")

    async def _watch_age(self) -> None:
        # One look at the clock per leg and half minute, instead of a scope around each send.
        # Nothing is missed: what is posted during a sleep is not due before its end.
        limit = self._limits.send_s
        while True:
            now = trio.current_time()
            due = self._oldest_unsent + limit
            if now >= due:
                self._lose(f"a frame unsent for {limit:g} s")
            await trio.sleep_until(min(due, now + limit))

    @property
    def _oldest_unsent(self) -> float:
        if self._outbox and not self._limits.sheds_audio:
            return min(self._sending, self._outbox[0][2])
        return self._sending

    async def _write(self) -> None:
        # The only task that writes to the stream. It is never cancelled in a send unless the leg
        # is lost (trap 2: half a frame stays on the wire and the peer reads garbage).
        line = self._line
        try:
            while True:
                data = self._next_bytes()
                if data:
                    await line.stream.send_all(data)
                    line.bytes_out += len(data)
                elif line.close_sent:
                    break
                else:
                    self._sending = math.inf
                    await line.work.park()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            line.fault = line.fault or _cause(broken)
            self._lose(line.fault)
        self._sending = math.inf
        self._written.set()

    def _next_bytes(self) -> bytes | bytearray:
        """Control frames first; then what was posted, in order; then the farewell."""
        if self._line.control:
            self._sending = trio.current_time()
            return self._line.take_control()
        if self._line.close_sent:
            return b""
        if self._outbox:
            frame, audio_ms, posted = self._outbox.popleft()
            if audio_ms:
                self.unsent_audio_ms -= audio_ms
            else:
                self._unsent_text -= len(frame)
            if not self._outbox:
                self.unsent_audio_ms = 0.0  # sums of floats drift
            self._sending = trio.current_time() if self._limits.sheds_audio else posted
            self.frames_out += 1
            return self._frames.send_data(frame)
        if self._farewell is not None:
            self._sending = trio.current_time()
            self._line.close_sent = True
            return self._farewell
        return b""

    def _close_frame(self, code: int, reason: str) -> bytes:
        # The library sends no close frame when a message breaks the protocol; its verdict is
        # the code to send then. It never closes for us (traps 1 and 6): as long as it believes
        # the connection open, a Ping that arrives now is no error, and its Pong goes nowhere.
        if self._verdict in _REFUSALS:
            code, reason = self._verdict, ""
        return bytes(self._frames.close(code, reason))

    async def _peer_close(self) -> None:
        while True:
            try:
                await self._ws.get_message()
            except trio_websocket.ConnectionClosed:
                return

    async def _linger(self) -> None:
        # Closing with unread input resets the connection, and the peer may lose our close frame
        # before it reads it. After a refusal the library has stopped reading; the peer has not
        # stopped sending.
        if self._verdict in _REFUSALS and not self._line.handshaken and self._gone is None:
            with trio.move_on_after(FLUSH_S):
                await self._written.wait()
            await _end_and_drain(self._line.stream)

    @property
    def _verdict(self) -> int:
        """The close code that the library has recorded; 0: none yet."""
        return 0 if self._ws.closed is None else int(self._ws.closed.code)

    @property
    def _deaf(self) -> bool:
        return self._line.close_sent or self._farewell is not None or self._gone is not None

    def _goneness(self, verdict: trio_websocket.CloseReason | None) -> LegGone:
        if self._gone is not None:
            return self._gone
        if verdict is not None and verdict.code != _ABNORMAL:
            return LegGone(int(verdict.code), verdict.reason or "")
        if self._fault is not None:
            return LegGone(None, f"protocol failure ({type(self._fault).__name__})")
        return LegGone(None, self._line.fault or "end of stream")

    def _lose(self, reason: str) -> None:
        if self._gone is None:
            self._gone = LegGone(None, reason)
            self._outbox.clear()
            self.unsent_audio_ms = 0.0
            self._scope.cancel()

    def _too_much_audio(self) -> None:
        if not self._limits.sheds_audio:
            self._lose("too much audio unsent")
        while self.unsent_audio_ms > self._limits.unsent_audio_ms:
            at, audio_ms = next((at, ms) for at, (_, ms, _) in enumerate(self._outbox) if ms)
            del self._outbox[at]
            self.unsent_audio_ms -= audio_ms
            self.shed_audio_ms += audio_ms


_Entry: TypeAlias = tuple[Frame, float, float]
"""A posted frame, its milliseconds of audio (0: none), and when it was posted."""

_Opening: TypeAlias = (
    "Callable[[trio.Nursery, _Line], Awaitable[trio_websocket.WebSocketConnection]]"
)

_QUEUED_MESSAGES: Final = 16
"""Received messages the library may hold. Its reader answers no pings while this is full (trap 3),
so whoever receives must not wait for anything else."""
_READ_BYTES: Final = 16 * 1024
"""Read at once. The library awaits nothing between the pieces of a message, and takes 35 us for
each: 64 KiB of empty ones (2 bytes from a server, 6 from a client) would stop everyone for a
second."""
_CONTROL_BYTES: Final = 64 * 1024
"""Unsent pongs beyond which we stop reading: a peer that pings and never reads costs no more."""
_ABNORMAL: Final = 1006
_REFUSALS: Final = frozenset({1002, 1007, 1009})
_CLOSE_OPCODE: Final = 0x88
"""First byte of a close frame: FIN and opcode 8."""


class _Line(trio.abc.Stream):
    """What the library takes for its stream.

    Sends of the library are control frames and the handshake; they are queued here for the leg's
    writer, so that a pong never waits behind a frame that the peer does not read, and a cancelled
    send is either queued whole or not at all. After a close frame nothing more is let through.
    Closing is the leg's affair. Receiving passes through, behind `head`. Two things are noticed on
    the way of which the library would say nothing (trap 4) or only when the body is complete: the
    peer leaves before the handshake is done, and it refuses.
    """

    def __init__(self, stream: trio.abc.Stream, head: bytes, early: bytes) -> None:
        self.stream = stream
        self._replay = head
        self._early = early
        self._holding = bool(head)
        self.opened = trio.Event()
        self.control: list[bytes] = []
        self._control_bytes = 0
        self.work = trio.lowlevel.ParkingLot()  # where the writer sleeps
        self._room = trio.lowlevel.ParkingLot()
        self.close_sent = False
        self.handshaken = False
        self._head = b""  # the first bytes of the answer
        self.fault = ""
        self.bytes_in = 0
        self.bytes_out = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._holding:
            if self._replay:
                data, self._replay = self._replay, b""
                return data
            # Frames sent along with the request: the library would lose them before it accepts.
            await self.opened.wait()
            self._holding = False
        if self._early:
            data, self._early = self._early, b""
        else:
            data = await self._received(max_bytes)
        self.bytes_in += len(data)
        return data

    async def _received(self, max_bytes: int | None) -> bytes:
        try:
            data = bytes(await self.stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self.fault = _cause(broken)
            if not self.opened.is_set():
                raise _Vanished(self.fault) from broken
            raise
        if not self.opened.is_set():
            self._head = (self._head + data)[:_STATUS_BYTES]
            status = _status(self._head)
            if status is not None and status >= HTTPStatus.OK:
                raise _Refused(status)
            if status is None and not data:
                raise _Vanished("connection closed before the answer")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.close_sent:
            return
        self.control.append(bytes(data))
        self._control_bytes += len(data)
        self.close_sent = data[0] == _CLOSE_OPCODE
        self.work.unpark()
        while self._control_bytes > _CONTROL_BYTES:
            await self._room.park()

    def take_control(self) -> bytes:
        data = b"".join(self.control)
        self.control.clear()
        self._control_bytes = 0
        self._room.unpark_all()
        return data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        # A server's library does this when the close handshake is over, or when a message broke
        # the protocol, and then it has sent no close frame.
        self.handshaken = self.close_sent
        await trio.lowlevel.checkpoint()


class _NotOpened(Exception):
    """The handshake did not succeed; the cause is chained, none means time."""


class _Vanished(Exception):
    """The peer left during the handshake."""


class _Refused(Exception):
    """The server answered the upgrade with this HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def _serve(stream: trio.abc.Stream, route: Route, head_s: float) -> None:
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    with trio.move_on_after(head_s) as patience:
        request = await _read_head(stream, http)
    if patience.cancelled_caught:
        await _answer(stream, http, Response(HTTPStatus.REQUEST_TIMEOUT))
        return
    match request:
        case Request():
            await _serve_request(stream, http, request, route)
        case Response() as refusal:
            await _answer(stream, http, refusal)
        case None:
            pass  # The peer left before its request was complete.


async def _serve_request(
    stream: trio.abc.Stream, http: h11.Connection, request: Request, route: Route
) -> None:
    fault: Exception | None = None
    try:
        # No route may grant a CONNECT: behind a 2xx there would be a tunnel, and we have none.
        answer = _READ_ONLY if request.method == "CONNECT" else route(request)
    except Exception as raised:
        fault, answer = raised, Response(HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(answer, Accept):
        refusal = _upgrade_fault(request)
        if refusal is None:
            await _converse(stream, request, answer, bytes(http.trailing_data[0]))
            return
        answer = refusal
    await _answer(stream, http, answer, request)
    if fault is not None:
        raise fault


async def _converse(
    stream: trio.abc.Stream, request: Request, accept: Accept, early: bytes
) -> None:
    leg = Leg(stream, accept.limits, client=False, head=_clean_head(request, accept), early=early)

    async def opening(nursery: trio.Nursery, line: _Line) -> trio_websocket.WebSocketConnection:
        asked = await trio_websocket.wrap_server_stream(
            nursery,
            line,
            message_queue_size=_QUEUED_MESSAGES,
            max_message_size=accept.limits.max_message,
            receive_buffer_size=_READ_BYTES,
        )
        return await asked.accept(
            subprotocol=accept.subprotocol, extra_headers=_encoded(accept.headers)
        )

    try:
        async with leg._alive(opening, trio.current_time() + HEAD_S):
            try:
                await accept.conversation(leg)
            except BaseException as end:
                leg._last_word = 1011 if isinstance(end, Exception) else 1001
                raise
    except _NotOpened as failure:
        if not isinstance(failure.__cause__, _Vanished | None):
            raise


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _clean_head(request: Request, accept: Accept) -> bytes:
    """A request head for the library, which it cannot fail on: it decodes some header values that
    we do not need, and raises if they are not ASCII."""
    offered = f"Sec-WebSocket-Protocol: {accept.subprotocol}\r\n" if accept.subprotocol else ""
    return (
        "GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_key(request)}\r\n{offered}\r\n"
    ).encode("ascii")


async def _read_head(stream: trio.abc.Stream, http: h11.Connection) -> Request | Response | None:
    """The request, or why not; None: the peer left."""
    received = 0
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as error:
            return Response(error.error_status_hint)
        if isinstance(event, h11.Request):
            if received - len(http.trailing_data[0]) > HEAD_BYTES:
                return Response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return _request(event, _peer(stream))
        if event is not h11.NEED_DATA:
            return None
        try:
            data = bytes(await stream.receive_some(HEAD_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        received += len(data)
        http.receive_data(data)


def _request(event: h11.Request, peer: str) -> Request:
    target = event.target.decode("latin-1")
    path, _, query = target.partition("?")
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    version = event.http_version.decode("ascii")
    return Request(event.method.decode("ascii"), path, query, headers, peer, version)


_READ_ONLY: Final = Response(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("Allow", "GET"),))


def _upgrade_fault(request: Request) -> Response | None:
    """Why this request cannot be upgraded (RFC 6455, 4.2.1), or None."""
    if request.method != "GET":
        return _READ_ONLY
    if _has_body(request):
        # What follows would be frames to us, and a body to a proxy between us and the client.
        return Response(HTTPStatus.BAD_REQUEST)
    connection = map(str.lower, _tokens(request.headers.get("connection", "")))
    current = request.version != "1.0"
    if not current or not request.wants_websocket or "upgrade" not in connection:
        return Response(HTTPStatus.UPGRADE_REQUIRED, headers=(("Upgrade", "websocket"),))
    if request.headers.get("sec-websocket-version") != "13":
        return Response(HTTPStatus.UPGRADE_REQUIRED, headers=(("Sec-WebSocket-Version", "13"),))
    try:
        valid = len(base64.b64decode(_key(request), validate=True)) == 16
    except (binascii.Error, ValueError):
        valid = False
    return None if valid else Response(HTTPStatus.BAD_REQUEST)


def _has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return "transfer-encoding" in request.headers or length != "0"


def _key(request: Request) -> str:
    return request.headers.get("sec-websocket-key", "")


async def _answer(
    stream: trio.abc.Stream,
    http: h11.Connection,
    response: Response,
    request: Request | None = None,
) -> None:
    headers = [
        *response.headers,
        ("Content-Length", str(len(response.body))),
        ("Connection", "close"),
    ]
    body = b"" if request is not None and request.method == "HEAD" else response.body
    status = HTTPStatus(response.status)
    events = [
        h11.Response(status_code=status, headers=headers, reason=status.phrase.encode("ascii")),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]
    data = b"".join(http.send(event) or b"" for event in events)
    with (
        trio.move_on_after(FLUSH_S),
        contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
    ):
        await stream.send_all(data)
        await _end_and_drain(stream)


async def _end_and_drain(stream: trio.abc.Stream) -> None:
    """Say that nothing more will come, then read and forget until the peer has closed, for a
    moment: closing with unread input would reset the connection under what was sent last."""
    with (
        trio.move_on_after(PEER_CLOSE_S),
        contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
    ):
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        while await stream.receive_some(64 * 1024):
            pass


@dataclasses.dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    tls: bool
    resource: str

    @classmethod
    def of(cls, url: str) -> "_Address":
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError("a WebSocket URL is ws://HOST... or wss://HOST...")
        tls = parts.scheme == "wss"
        resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, resource)

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


async def _connected(
    address: _Address, ssl_context: ssl.SSLContext | None, deadline: float, deadline_s: float
) -> trio.abc.Stream:
    with trio.CancelScope(deadline=deadline):
        try:
            tcp = await trio.open_tcp_stream(address.host, address.port)
        except (OSError, UnicodeError) as error:  # the latter for a name that is none in IDNA
            raise DialFailed(None, _cause(error)) from error
        if not address.tls:
            return tcp
        context = ssl_context or _verifying()
        tls = trio.SSLStream(tcp, context, server_hostname=address.host, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(tcp)
            raise DialFailed(None, _cause(error)) from error
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(tcp)
            raise
        return tls
    raise DialFailed(None, f"no connection within {deadline_s:g} s")


@functools.cache
def _verifying() -> ssl.SSLContext:
    # Cached because loading the certificates takes tens of milliseconds, during which no audio
    # flows.
    return ssl.create_default_context()


def _why_not(failure: _NotOpened) -> DialFailed:
    match failure.__cause__:
        case None:
            return DialFailed(None, "no answer to the upgrade in time")
        case _Refused(status=status):
            return DialFailed(status, f"HTTP status {status}")
        case _Vanished() as vanished:
            return DialFailed(None, str(vanished))
        case other:
            return DialFailed(None, f"no WebSocket handshake ({type(other).__name__})")


_STATUS_BYTES: Final = 16


def _status(head: bytes) -> int | None:
    found = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    return int(found[1]) if found else None


def _tokens(value: str) -> tuple[str, ...]:
    return tuple(token for part in value.split(",") if (token := part.strip()))


def _peer(stream: trio.abc.Stream) -> str:
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""  # It is gone already; reading will say so.


def _cause(error: BaseException) -> str:
    """The innermost cause in a few words. Trio wraps what the socket or TLS said."""
    while True:
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if inner is None:
            break
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # getaddrinfo numbers its errors below zero
    return str(error) or type(error).__name__


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def _ungrouped() -> Iterator[None]:
    """A nursery wraps what leaves its block; a leg's own tasks raise nothing, so a group of one is
    the holder's exception and is passed on as it was."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        alone = group.exceptions[0]
    else:
        return
    raise alone  # outside the handler, which would chain it to the group that holds it
