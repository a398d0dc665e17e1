"""wire: WebSockets over sockets. It carries `str | bytes` and answers plain HTTP on the same port.

It knows neither protocol: which paths exist, who may connect and what a frame means are told to it
or left to whoever holds the leg. It is the one place that names the WebSocket library, which makes
the opening handshake. From there on frames are ours (`relay.websocket`, `relay.lines`): per frame
one wake-up, one receive and one send, where the library has channels, locks and a task between.
"trap N" counts the ways in which the library surprises, and tests/test_wire.py has them all.

    Leg      one open WebSocket: `receive` or `hear`, `post`, `drop_audio`, `goodbye`, `drop`
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
import select
import socket
import ssl
import struct
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeAlias, cast
from urllib.parse import urlsplit

import h11
import trio
import trio_websocket

from relay import upkeep, websocket
from relay.causes import in_words
from relay.lines import Line, SocketLine, TlsLine, line_over
from relay.switchboard import Switchboard
from relay.upkeep import Upkeep
from relay.websocket import Opcode

Frame: TypeAlias = str | bytes
"""One WebSocket message: text or binary, told apart by opcode only."""

Then: TypeAlias = Callable[[], Awaitable[None]] | None
"""What is to be awaited because of a message; see `Leg.hear`."""

MIB: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a leg puts up with. `CLIENT_LEG` and `UPSTREAM_LEG` are the two sets in use."""

    max_message: int = 16 * MIB
    """Largest incoming message, in bytes; above: close 1009."""
    send_s: float = 30.0
    """The leg is lost when its oldest unsent frame is older than this."""
    unsent_audio_ms: float = 60_000.0
    """Audio that may wait in the outbox."""
    unsent_bytes: float = 4 * MIB
    """Memory that the outbox may take, audio and all: a frame of one byte takes 160."""
    sheds_audio: bool = False
    """Beyond these two: True drops the oldest waiting audio while there is any, False loses the
    leg. With True the age of a frame counts from when its sending began: a burst is not a fault."""
    big_messages: trio.CapacityLimiter = dataclasses.field(
        default_factory=lambda: trio.CapacityLimiter(BIG_AT_ONCE), compare=False, repr=False
    )
    """Who may take in a message above `BIG_MESSAGE`. Legs with the same limits share it, and those
    for which there is no place wait, unread."""
    ping_s: float = 20.0
    pong_s: float = 20.0
    """A ping this often; the leg is lost when its pong takes longer than this."""


BIG_MESSAGE: Final = 1 * MIB
"""Incoming bytes of one message that any leg may hold..."""
BIG_AT_ONCE: Final = 4
"""...and how many legs may hold more at a time. All sessions together so hold no more than four of
the largest messages, however many there are."""
BIG_S: Final = 10.0
"""Who holds such a place for longer, with its message still incomplete, is lost if others wait for
one: else a few that send a byte now and then would keep everybody else's big messages out."""

CLIENT_LEG: Final = Limits()
"""PROTOCOL.md 4.2, "outbound to client"."""
UPSTREAM_LEG: Final = Limits(max_message=32 * MIB, unsent_bytes=5 * MIB, sheds_audio=True)
"""PROTOCOL.md 4.2, "outbound to upstream": 60 s of what OpenAI hears are 4.4 MiB. C-199 asks for
16 MiB at least."""

HEAD_BYTES: Final = 16 * 1024
"""Largest request head; above: 431. h11's own default, and what the library parses with."""
HEAD_S: Final = 10.0
"""Time for a request head to arrive; then 408."""
FLUSH_S: Final = 5.0
"""Time a goodbye gives to what was posted before it."""
PEER_CLOSE_S: Final = 2.0
"""Time a goodbye waits for the peer's close frame."""
GOODBYE_S: Final = 15.0
"""More than a goodbye takes, which bounds itself."""


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


class HandshakeFailed(Exception):
    """A client and we did not come to speak TLS with each other. `reason` is the cause in a few
    words, `peer` the client's address."""

    def __init__(self, reason: str, peer: str) -> None:
        super().__init__(reason, peer)
        self.reason = reason
        self.peer = peer


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
    over: Callable[[], None] = lambda: None
    """Called at the end of the connection, also if there was no WebSocket after all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """Somebody has to be asked first. Cancelled with the connection."""

    answer: "Callable[[], Awaitable[Accept | Response]]"


_Report: TypeAlias = Callable[[ExceptionGroup[Exception]], None]

Route: TypeAlias = Callable[[Request], Accept | Response | Pending]
"""Decides about a request. `Accept` for what is no valid upgrade becomes 400, 405 or 426."""


def serve_connection(
    stream: trio.abc.Stream,
    route: Route,
    report: _Report,
    *,
    head_s: float = HEAD_S,
    switchboard: Switchboard | None = None,
) -> Awaitable[None]:
    """To be awaited: serves one accepted connection to its end, and closes `stream`.

    Nothing that the peer does raises out of here; what `route` or a conversation raises goes to
    `report`, and cancellation passes. Made for `trio.serve_listeners`:
    `partial(serve_connection, route=..., report=...)`. For TLS, give it what `secured` returns.
    """
    if switchboard is None:
        return _serve_alone(stream, route, report, head_s)
    return _serve(stream, route, report, head_s, switchboard.upkeep, switchboard)


async def _serve_alone(
    stream: trio.abc.Stream, route: Route, report: _Report, head_s: float
) -> None:
    async with upkeep.opened() as own:
        await _serve(stream, route, report, head_s, own, None)


async def _serve(
    stream: trio.abc.Stream,
    route: Route,
    report: _Report,
    head_s: float,
    kept_up: Upkeep,
    switchboard: Switchboard | None,
) -> None:
    try:
        upgrade = await _answered(stream, route, head_s)
        if upgrade is not None:
            over = upgrade.accept.over
            try:
                leg = await _upgraded(stream, upgrade, kept_up, switchboard)
                if leg is not None:
                    conversation = upgrade.accept.conversation(leg)
                    del upgrade  # nothing of a request is kept: a connection lasts long
                    async with leg:
                        await conversation
            finally:
                over()
    except* LegGone:
        pass  # The peer left, and the conversation let it show.
    except* Exception as faults:
        report(faults)
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def secured(
    stream: trio.SocketStream | SocketLine, tls: ssl.SSLContext, *, handshake_s: float = HEAD_S
) -> trio.abc.Stream:
    """What to give to `serve_connection` of a client that speaks TLS. Raises HandshakeFailed, when
    `stream` is closed."""
    line = TlsLine(stream, tls)
    peer, agreed = _peer(line), False
    fault = f"no TLS handshake within {handshake_s:g} s"
    try:
        with trio.move_on_after(handshake_s):
            await line.handshake()
            agreed = True
    except trio.BrokenResourceError as error:
        fault = in_words(error)
    finally:
        if not agreed:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(line)
    if not agreed:
        raise HandshakeFailed(fault, peer)
    return line


def dial(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    deadline_s: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits = UPSTREAM_LEG,
    subprotocols: Iterable[str] = (),
    switchboard: Switchboard | None = None,
) -> "AbstractAsyncContextManager[Leg]":
    """Open a WebSocket to `url` (`ws:` or `wss:`), for as long as the block lasts.

    Raises DialFailed on entry, at once where the cause is known at once, else after `deadline_s`;
    ValueError if `url` is none. The default `ssl_context` verifies the server's certificate.
    """
    address = _Address.of(url)

    async def connect(kept_up: Upkeep) -> Leg:
        stream: trio.abc.Stream | None = None
        with trio.move_on_after(deadline_s):
            stream = await _connected(address, ssl_context)
            opened = await _asked(stream, address, headers, subprotocols)
            line = line_over(stream)
            return Leg(line, limits, kept_up, switchboard, client=True, opened=opened)
        raise DialFailed(None, _LATE if stream else f"no connection within {deadline_s:g} s")

    return _dialled(connect, switchboard)


def dial_over(
    stream: trio.abc.Stream,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    deadline_s: float = 10.0,
    limits: Limits = UPSTREAM_LEG,
) -> "AbstractAsyncContextManager[Leg]":
    """The rest of `dial`, over a stream that is connected; closes it."""
    address = _Address.of(url)

    async def connect(kept_up: Upkeep) -> Leg:
        with trio.move_on_after(deadline_s):
            opened = await _asked(stream, address, headers, ())
            return Leg(line_over(stream), limits, kept_up, None, client=True, opened=opened)
        raise DialFailed(None, _LATE)

    return _dialled(connect, None)


_LATE: Final = "no answer to the upgrade in time"
_Connect: TypeAlias = "Callable[[Upkeep], Awaitable[Leg]]"


def _dialled(
    connect: _Connect, switchboard: Switchboard | None
) -> "AbstractAsyncContextManager[Leg]":
    return _alone(connect) if switchboard is None else _Dialled(connect, switchboard.upkeep)


class _Dialled(AbstractAsyncContextManager["Leg"]):
    """What `dial` returns. A generator would hold all that was needed to connect for as long as the
    leg lives."""

    __slots__ = ("_connect", "_leg", "_upkeep")

    def __init__(self, connect: _Connect, kept_up: Upkeep) -> None:
        self._connect: _Connect | None = connect
        self._upkeep = kept_up

    async def __aenter__(self) -> "Leg":
        assert self._connect is not None, "one dial is for one block"
        connect, self._connect = self._connect, None
        self._leg = await connect(self._upkeep)
        return await self._leg.__aenter__()

    def __aexit__(self, end: type[BaseException] | None, *_: object) -> Coroutine[Any, Any, None]:
        return self._leg.__aexit__(end)


@contextlib.asynccontextmanager
async def _alone(connect: _Connect) -> "AsyncIterator[Leg]":
    """The same for a leg that has an upkeep of its own."""
    with _ungrouped():
        async with upkeep.opened() as own, await connect(own) as leg:
            yield leg


async def _asked(
    stream: trio.abc.Stream,
    address: "_Address",
    headers: Mapping[str, str] | None,
    subprotocols: Iterable[str],
) -> "_Opened":
    """Ask for the upgrade; closes `stream` if there is none."""

    async def opening(
        nursery: trio.Nursery, stream: trio.abc.Stream
    ) -> trio_websocket.WebSocketConnection:
        return await trio_websocket.wrap_client_stream(
            nursery,
            # The annotation is narrower than the code, which wants any Stream.
            cast("trio.SocketStream", stream),
            address.host_header,
            address.resource,
            subprotocols=subprotocols,
            extra_headers=_encoded((headers or {}).items()),
        )

    try:
        try:
            return await _open(stream, opening)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            raise
    except _NotOpened as failure:
        raise _why_not(failure) from failure.__cause__


class Leg:
    """One open WebSocket. Made by `dial` and `serve_connection` only.

    It is the context of the block for which it lives. One task may `receive`, and must be quick to
    do so again: pings are answered on the way. Or it may `hear`, which costs far less where there
    is a switchboard. Anyone may `post`, which never waits: a frame is sent at once if the peer
    takes it, else it goes into an outbox that one writer drains in order. A leg that cannot keep up
    is lost (see `Limits`), and a leg that is gone swallows what is posted; `receive` is where one
    learns of it.
    """

    # A dictionary of so many would take six times the memory, for each of two legs of a session.
    # fmt: off
    __slots__ = (
        "_attached", "_being_read", "_big", "_changes", "_clear", "_client", "_close_sent",
        "_control", "_ended", "_farewell", "_fault", "_gone", "_heard", "_held",
        "_incoming", "_limits", "_line", "_messages", "_outbox", "_ping_at",
        "_pinged", "_pong_due", "_rest", "_round", "_scope", "_sending", "_switchboard", "_then",
        "_unsent_bytes", "_upkeep", "_waits", "_written", "behind", "frames_in", "frames_out",
        "shed_audio_ms", "subprotocol", "unsent_audio_ms",
    )
    # fmt: on

    def __init__(
        self,
        line: Line,
        limits: Limits,
        kept_up: Upkeep,
        switchboard: Switchboard | None,
        *,
        client: bool,
        opened: "_Opened",
    ) -> None:
        self._line = line
        self._limits = limits
        self._upkeep = kept_up
        self._switchboard = switchboard
        self._attached: int | None = None  # the descriptor, while the switchboard reads
        self._heard: Callable[[Frame], Then] | None = None  # who is told meanwhile
        self._then: Then = None  # what that wants to be awaited
        self._client = client
        self._incoming = websocket.Incoming(masked=not client, max_message=limits.max_message)
        self._messages = self._incoming.messages
        self._clear = line.immediate  # nothing waits: what is posted may be sent at once
        self._held = b""  # until the switchboard's turn is over
        self._rest = b""  # what the line has not taken of what was begun
        self._control = b""  # frames, whole ones
        self._outbox: list[_Entry] = []  # not a deque: an empty one takes ten times the memory
        self._unsent_bytes = 0
        self._sending = math.inf  # the stamp of what the writer is sending; inf: nothing
        self._farewell: bytes | None = None
        self._close_sent = False
        self._pinged = b""  # the ping that was not answered yet
        self._pong_due = math.inf
        self._ping_at = trio.current_time() + limits.ping_s
        self._gone: LegGone | None = None
        self._being_read = False
        self._changes: trio.lowlevel.ParkingLot | None = None  # see `_change`
        self._big: upkeep.Round | None = None  # it has a place among `big_messages`
        self._waits = False  # for one
        self._scope: trio.CancelScope | None = None  # of the leg's task, while it has one
        self._fault: Exception | None = None  # a mistake of ours
        self._written = False  # all that will ever be
        self._ended = False
        self.subprotocol = opened.subprotocol
        self.unsent_audio_ms = 0.0
        """Audio in the outbox: what `drop_audio` would drop now."""
        self.shed_audio_ms = 0.0
        """Audio dropped so far because the peer did not keep up (`Limits.sheds_audio`)."""
        self.behind = False
        """The outbox is near a bound; who can wait with more should await `caught_up`."""
        self.frames_in = 0
        self.frames_out = 0
        if opened.early:
            line.bytes_in += len(opened.early)
            self._understand(opened.early)

    @property
    def bytes_in(self) -> int:
        """Bytes received, framing included."""
        return self._line.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes handed to the kernel, framing included."""
        return self._line.bytes_out

    @property
    def unsent_frames(self) -> int:
        """Messages in the outbox."""
        return len(self._outbox)

    async def receive(self) -> Frame:
        """The next message; at once if it has come already. Raises LegGone when there will be none;
        messages that came before the end are delivered first. Safe to cancel."""
        if self.frames_in % _CRUMBS == _CRUMBS - 1:
            await trio.lowlevel.checkpoint()
        if self._big:
            self._leave_place()  # whoever took it in has done with it
        while not self._messages:
            if not self._open:
                raise self._goneness()
            await self._read()
        self.frames_in += 1
        return self._messages.pop(0)

    async def hear(self, heard: Callable[[Frame], Then]) -> NoReturn:
        """Give `heard` each message, in order, as soon as it has come. What it returns is awaited
        before the next one. Raises what `heard` raises, and LegGone as `receive` does. Safe to
        cancel: then `heard` is not called any more.

        With a switchboard, `heard` is called in this task's context but not by this task."""
        while True:
            if self._big:
                self._leave_place()
            then: Then = None
            switchboard, fd = self._switchboard, self._line.descriptor
            idle = self._open and not self._messages and not self._being_read
            if idle and switchboard is not None and fd is not None:
                # The switchboard reads, until something has to be awaited: what `heard` returns,
                # or, if that is nothing, what only `receive` does.
                attached = switchboard.attach(fd, self._readable)
                self._being_read, self._attached, self._heard = True, fd, heard
                try:
                    await attached.end()
                finally:
                    self._attached = self._heard = None
                    self._is_read()
                    if attached.fault is not None:
                        raise attached.fault
                then, self._then = self._then, None
            if then is None:
                await trio.lowlevel.checkpoint_if_cancelled()
                then = heard(await self.receive())
            if then is not None:
                await then()
                del then  # what it holds may be big

    def post(self, frame: Frame, audio_ms: float = 0.0) -> None:
        """Send one frame, or append it to the outbox. `audio_ms` > 0 says that it is audio, and how
        much: while it waits, `drop_audio` may take it out again, and other bounds apply to it."""
        if self._clear:
            self.frames_out += 1
            key = next(_masking_keys) if self._client else None
            self._begin(websocket.message(frame, key))
            return
        if self._deaf:
            return
        self._outbox.append((frame, audio_ms, trio.current_time()))
        self.unsent_audio_ms += audio_ms
        self._unsent_bytes += _memory(frame)
        if self._is_filled(_BEHIND):
            self.behind = True
            if self._is_filled(1):
                self._too_much()
        self._wake()

    def drop_audio(self) -> float:
        """Take unsent audio out of the outbox, leaving the rest in order; how much, in ms. A frame
        of which a part may be on the wire counts as sent."""
        dropped = self.unsent_audio_ms
        self._outbox = [entry for entry in self._outbox if not entry[1]]
        self.unsent_audio_ms = 0.0
        self._unsent_bytes = sum(_memory(frame) for frame, _, _ in self._outbox)
        self._less_waits()
        return dropped

    async def caught_up(self) -> None:
        """Wait until the peer has taken so much that the leg is no longer `behind`, or the leg is
        gone. Safe to cancel."""
        while self.behind:
            await self._change()

    async def goodbye(
        self, code: int = 1000, reason: str = "", *, flush_s: float = FLUSH_S
    ) -> None:
        """Write what is posted, send a close frame, wait for the peer's, close the stream.

        Takes `flush_s` + 2 s at most, cannot be cancelled, never raises, and does nothing but wait
        if another goodbye is under way. Where the peer has closed, this answers it; where it broke
        the protocol, the code is the one that says so (1002, 1007, 1009). From here on `post` is
        deaf and `receive` finds nothing.
        """
        with trio.CancelScope(shield=True):
            if self._farewell is None:
                self._farewell = self._close_frame(code, reason)
                self._messages = self._incoming.forget_messages()
                self._wake()
                with trio.move_on_after(flush_s):
                    while not self._written:
                        await self._change()
                if not self._written:
                    self._lose("goodbye not written in time")
            while not self._ended:
                await self._change()

    def drop(self) -> None:
        """End the leg at once: nothing more is written, the stream is closed."""
        self._lose("dropped")

    async def __aenter__(self) -> "Leg":
        """Without a goodbye before, the end of the block says 1000; of an accepted leg also whether
        it was an exception (1011) or a cancellation (1001)."""
        self._round = self._upkeep.watch(self._look)
        return self

    async def __aexit__(self, end: type[BaseException] | None, *_: object) -> None:
        code = 1000
        if end is not None and not self._client:
            code = 1011 if issubclass(end, Exception) else 1001
        with trio.move_on_after(GOODBYE_S, shield=True):
            await self.goodbye(code, flush_s=1.0)  # unless it was said already
        self._round.end()
        if self._big:
            self._leave_place()
        if self._fault is not None:
            raise self._fault

    # What follows is the leg's inner life. Whoever posts or reads does what can be done at once.
    # What has to be waited for is done by a task, which is there for as long as that takes: to
    # write to a peer that is slow, and to close.

    def _wake(self) -> None:
        """There is something to wait for."""
        self._clear = False
        if self._scope is None and not self._ended:
            # Shielded: the holder's end is the leg's end, and until then a goodbye needs the
            # writer, also when everything around is being cancelled (trap 7: else the peer sees a
            # bare EOF).
            self._scope = trio.CancelScope(shield=True)
            self._upkeep.start(self._run)

    async def _run(self) -> None:
        assert self._scope is not None
        try:
            with self._scope:
                await self._write()
                if self._close_sent:
                    with trio.move_on_after(PEER_CLOSE_S):
                        await self._peer_close()
        except Exception as fault:
            self._failed(fault)
        if self._close_sent or self._gone is not None:
            await self._close()
        else:
            self._scope = None
            self._clear = self._line.immediate and not self._deaf

    async def _close(self) -> None:
        if self._switchboard is not None and self._attached is not None:
            self._switchboard.release(self._attached)
        try:
            with trio.move_on_after(1.0, shield=True) as patience:
                if self._gone is not None:
                    patience.cancel()
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._line.aclose()
        except Exception as fault:
            self._failed(fault)
        self._written = self._ended = True
        self._less_waits()
        self._changed()

    def _failed(self, fault: Exception) -> None:
        """A mistake of ours, which ends this leg and no other, and is raised where it ends."""
        self._fault = fault
        self._lose("a fault of the relay's")

    async def _change(self) -> None:
        """Wait until something has changed that may be waited for: look again then."""
        if self._changes is None:
            self._changes = trio.lowlevel.ParkingLot()
        await self._changes.park()

    def _changed(self) -> None:
        if self._changes:
            self._changes.unpark_all()

    def _look(self) -> float:
        """Pings, and the age of what is unsent: one look at the clock in several seconds, instead
        of a scope around each send. Returns when to look again."""
        try:
            at = self._seen()
        except Exception as fault:
            self._failed(fault)
        return math.inf if self._gone is not None or self._ended else at

    def _seen(self) -> float:
        # Nothing is missed: what is posted until then is not due before it.
        limits, now = self._limits, trio.current_time()
        unsent_due = self._oldest_unsent + limits.send_s
        if now >= unsent_due:
            self._lose(f"a frame unsent for {limits.send_s:g} s")
        if not self._pinged:
            self._pong_due = math.inf
        elif self._waits:
            self._pong_due = now + limits.pong_s  # it may have come, and we do not look
        elif now >= self._pong_due:
            self._lose(f"no pong within {limits.pong_s:g} s")
        if now >= self._ping_at and not self._pinged:
            self._pinged = os.urandom(4)
            self._say(websocket.ping(self._pinged, self._key()))
            self._ping_at, self._pong_due = now + limits.ping_s, now + limits.pong_s
        due = self._pong_due if self._pinged else self._ping_at
        return min(due, unsent_due, now + limits.send_s)

    @property
    def _oldest_unsent(self) -> float:
        if self._outbox and not self._limits.sheds_audio:
            return min(self._sending, self._outbox[0][2])
        return self._sending

    # Receiving. Whoever wants a message reads; a goodbye reads on, to hear the peer's.

    async def _read(self) -> None:
        """Take in what comes next; a second reader just waits for the first."""
        if self._being_read:
            await self._change()
            return
        self._being_read = True
        try:
            while len(self._control) > _CONTROL_BYTES and not self._ended:
                await self._change()
            if self._incoming.under_way > BIG_MESSAGE and not self._big:
                await self._wait_for_a_place()
            data = await self._line.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self._lose(in_words(broken))
        else:
            if data:
                self._understand(data)
            else:
                self._lose("end of stream")
        finally:
            self._is_read()

    async def _wait_for_a_place(self) -> None:
        self._waits = True
        try:
            await self._limits.big_messages.acquire_on_behalf_of(self)
            self._big = self._upkeep.watch(
                functools.partial(self._hinders, trio.current_time() + BIG_S)
            )
        finally:
            self._waits = False

    def _hinders(self, due: float) -> float:
        """Look whether its place is kept too long. Returns when to look again."""
        now, wanted = trio.current_time(), self._limits.big_messages.statistics().tasks_waiting
        if now >= due and wanted and self._incoming.under_way > BIG_MESSAGE:
            self._lose(f"a big message incomplete after {BIG_S:g} s")
        return max(due, now + _BIG_LOOK_S)

    def _leave_place(self) -> None:
        if self._big is not None:
            self._big.end()
            self._big = None
            self._limits.big_messages.release_on_behalf_of(self)

    def _is_read(self) -> None:
        self._being_read = False
        self._changed()

    def _readable(self) -> bool:
        """Called by the switchboard; whether it is to be called again."""
        line, incoming, heard = self._line, self._incoming, self._heard
        assert heard is not None
        try:
            data = line.take()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self._lose(in_words(broken))
            return False
        if data is None:
            return True
        if not data:
            self._lose("end of stream")
            return False
        if incoming.feed(data):
            self._understood()
            return False
        messages = self._messages
        if len(messages) == 1:  # the usual
            self.frames_in += 1
            self._then = heard(messages.pop())
        elif len(messages) > _CRUMBS or incoming.under_way > BIG_MESSAGE:
            return False
        while messages and self._then is None and self._is_attached:
            self.frames_in += 1
            self._then = heard(messages.pop(0))
        return self._then is None and line.descriptor is not None

    @property
    def _is_attached(self) -> bool:
        """Whether who hears is still to be told: it may have been cancelled by what it heard."""
        switchboard, fd = self._switchboard, self._attached
        return switchboard is not None and fd is not None and switchboard.attends(fd)

    def _understand(self, data: bytes) -> None:
        if self._incoming.feed(data):
            self._understood()

    def _understood(self) -> None:
        """Do what is to be done about what came besides messages."""
        incoming = self._incoming
        pongs: list[bytes] = []
        for opcode, payload in incoming.controls:
            if opcode is Opcode.PING:
                pongs.append(websocket.pong(payload, self._key()))
            elif payload == self._pinged:
                self._pinged = b""
        incoming.controls.clear()
        if pongs:
            self._say(b"".join(pongs))  # there may be thousands
        if self._is_closed_by_peer:
            # Nobody reads what is unsent. The answer is the holder's goodbye: a peer that has it
            # knows that everything is over here, and may come again at once.
            self._clear = False
            self._forget_unsent()
            self._less_waits()

    async def _peer_close(self) -> None:
        """Read on to the peer's close frame. Closing with unread input would reset the connection,
        and the peer may lose our close frame before it reads it; so what a peer goes on sending
        that was refused is read and forgotten."""
        end = self._incoming.end
        if end is not None and end.refused:
            await _end_and_drain(self._line)
        while self._incoming.end is None:
            await self._read()

    # Sending. Only the leg's task waits for the line. It is never cancelled in a send unless the
    # leg is lost (trap 2: half a frame stays on the wire and the peer reads garbage).

    def _begin(self, data: bytes) -> None:
        """The fast lane: nothing is before it but what is held."""
        switchboard = self._switchboard
        if self._held:
            self._held += data
            if len(self._held) > _HELD_BYTES:
                self._send_held()
        elif switchboard is not None and switchboard.postpone(self._send_held):
            self._held = data
        else:
            self._send(data)

    def _send_held(self) -> None:
        held, self._held = self._held, b""
        if not held or self._gone is not None:
            return
        try:
            self._send(held)
        except Exception as fault:
            self._failed(fault)

    def _send(self, data: bytes) -> None:
        try:
            self._rest = self._line.begin(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self._lose(in_words(broken))
            return
        if self._rest:
            self._sending = trio.current_time()
            self._wake()

    def _say(self, control: bytes) -> None:
        """Send control frames, before anything else that waits."""
        if self._clear:
            self._begin(control)
        elif not self._close_sent:
            self._control += control
            self._wake()

    async def _write(self) -> None:
        """All that waits, as the peer takes it."""
        line = self._line
        try:
            while self._gone is None:
                rest, self._rest = self._rest, b""
                if not rest:
                    data = self._next_bytes()
                    if not data:
                        break
                    rest = line.begin(data)
                if rest:
                    await line.finish(rest)
                self._sending = math.inf
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self._lose(in_words(broken))
        self._sending = math.inf
        self._written = self._close_sent
        self._changed()

    def _next_bytes(self) -> bytes:
        """Control frames first; then what was posted, in order; then the farewell."""
        if self._control:
            self._sending = trio.current_time()
            data, self._control = self._control, b""
            self._changed()
            return data
        if self._close_sent:
            return b""
        if self._outbox:
            frame, audio_ms, posted = self._outbox.pop(0)
            self.unsent_audio_ms -= audio_ms
            self._unsent_bytes -= _memory(frame)
            if not self._outbox:
                self.unsent_audio_ms = 0.0  # sums of floats drift
            if self.behind:
                self._less_waits()
            self._sending = trio.current_time() if self._limits.sheds_audio else posted
            self.frames_out += 1
            return websocket.message(frame, self._key())
        if self._farewell is not None:
            self._sending = trio.current_time()
            self._close_sent = True
            return self._farewell
        return b""

    def _close_frame(self, code: int, reason: str) -> bytes:
        end = self._incoming.end
        if end is not None:
            code, reason = end.code, "" if end.refused else end.reason
        return websocket.close(code, reason, self._key())

    def _key(self) -> bytes | None:
        return next(_masking_keys) if self._client else None

    # The end.

    @property
    def _open(self) -> bool:
        """Whether messages may still come."""
        return self._gone is None and self._incoming.end is None and not self._ended

    @property
    def _deaf(self) -> bool:
        over = self._close_sent or self._farewell is not None or self._gone is not None
        return over or self._is_closed_by_peer

    @property
    def _is_closed_by_peer(self) -> bool:
        end = self._incoming.end
        return end is not None and not end.refused

    def _goneness(self) -> LegGone:
        end = self._incoming.end
        if end is not None:
            return LegGone(end.code, end.reason)
        if self._gone is not None:
            return LegGone(self._gone.code, self._gone.reason)
        return LegGone(None, "no answer to the goodbye")

    def _lose(self, reason: str) -> None:
        if self._gone is None:
            self._gone = LegGone(None, reason)
            self._clear = False
            self._forget_unsent()
            self._wake()  # somebody has to close the line
            if self._scope is not None:
                self._scope.cancel()

    def _forget_unsent(self) -> None:
        self._outbox.clear()
        self.unsent_audio_ms = 0.0
        self._unsent_bytes = 0

    # The outbox's bounds.

    def _is_filled(self, part: float) -> bool:
        """Beyond this part of what it may hold."""
        return (
            self.unsent_audio_ms > self._limits.unsent_audio_ms * part
            or self._unsent_bytes > self._limits.unsent_bytes * part
        )

    def _too_much(self) -> None:
        while self._limits.sheds_audio and self.unsent_audio_ms and self._is_filled(1):
            at, frame, audio_ms = next(
                (at, frame, ms) for at, (frame, ms, _) in enumerate(self._outbox) if ms
            )
            del self._outbox[at]
            self.unsent_audio_ms -= audio_ms
            self._unsent_bytes -= _memory(frame)
            self.shed_audio_ms += audio_ms
        if self._is_filled(1):
            self._lose("too much unsent")

    def _less_waits(self) -> None:
        if self.behind and not self._is_filled(_CAUGHT_UP):
            self.behind = False
            self._changed()


def _memory(frame: Frame) -> int:
    """What a frame in the outbox takes, its place there included."""
    return sys.getsizeof(frame) + _ENTRY_BYTES


_ENTRY_BYTES: Final = 128
"""A tuple, two floats and a place in a deque."""
_BIG_LOOK_S: Final = 1.0
"""How often a leg that holds a place for too long looks whether others want it."""
_BEHIND: Final = 0.75
_CAUGHT_UP: Final = 0.5


_Entry: TypeAlias = tuple[Frame, float, float]
"""A posted frame, its milliseconds of audio (0: none), and when it was posted."""

_HELD_BYTES: Final = 16 * 1024
"""More than this of what one turn has for a leg is sent before the turn is over: what is held can
no longer be dropped, and counts as sent."""
_CRUMBS: Final = 64
"""So many messages at once are one holder's turn: a peer that sends empty ones, thousands in one
receive, does not keep the others waiting."""
_CONTROL_BYTES: Final = 64 * 1024
"""Unsent pongs beyond which we stop reading: a peer that pings and never reads costs no more."""


def _unforeseeable() -> Iterator[bytes]:
    """Masking keys (RFC 6455, 5.3), from the system's randomness by the handful."""
    while True:
        yield from struct.unpack("4s" * 256, os.urandom(1024))


_masking_keys: Final = _unforeseeable()


# The opening handshake: the library's.


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """What a handshake leaves."""

    subprotocol: str | None
    early: bytes
    """What the peer has sent behind it."""


_Opening: TypeAlias = Callable[
    [trio.Nursery, trio.abc.Stream], Awaitable[trio_websocket.WebSocketConnection]
]


async def _open(
    stream: trio.abc.Stream,
    opening: _Opening,
    head: bytes = b"",
    early: bytes = b"",
) -> _Opened:
    """Shake hands over `stream`, which stays open. Raises _NotOpened."""
    hands = _Hands(stream, head, early)
    fault: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            connection = await opening(nursery, hands)
            subprotocol = connection.subprotocol
            # The library's reader is not needed any more; and from here on a cancellation finds a
            # leg that can say goodbye.
            nursery.cancel_scope.shield = True
            nursery.cancel_scope.cancel()
        return _Opened(subprotocol, hands.early)
    except* Exception as faults:
        fault = _leaf(faults)
    raise _NotOpened from fault


class _Hands(trio.abc.Stream):
    """What the library takes for its stream, for the time of the handshake.

    A server's library hears the request that was read before; a client's hears the answer up to the
    end of its head. What is behind is `early`, and belongs to the leg. Two things are noticed of
    which the library would say nothing (trap 4) or only when the body is complete: the peer leaves
    before the handshake is done, and it refuses.
    """

    def __init__(self, stream: trio.abc.Stream, head: bytes, early: bytes) -> None:
        self._stream = stream
        self._request = head
        self._is_server = bool(head)
        self._answer = b""
        self._complete = False
        self.early = early

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._request:
            head, self._request = self._request, b""
            return head
        if self._is_server or self._complete:
            await trio.sleep_forever()
        return await self._answered()

    async def _answered(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            raise _Vanished(in_words(broken)) from broken
        if not data:
            raise _Vanished("connection closed before the answer")
        heard = len(self._answer)
        self._answer += data
        status = _status(self._answer)
        if status is not None and status >= HTTPStatus.OK:
            raise _Refused(status)
        end = self._answer.find(b"\r\n\r\n") + 4
        if status == HTTPStatus.SWITCHING_PROTOCOLS and end >= 4:
            self._complete = True
            self.early = self._answer[end:]
            return self._answer[heard:end]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            raise _Vanished(in_words(broken)) from broken

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _NotOpened(Exception):
    """The handshake did not succeed; the cause is chained."""


class _Vanished(Exception):
    """The peer left during the handshake."""


class _Refused(Exception):
    """The server answered the upgrade with this HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclasses.dataclass(slots=True)
class _Upgrade:
    """What is left of a request that is to be granted: no header of it is kept longer."""

    accept: Accept
    key: str
    early: bytes
    """What the client has sent behind its request."""


async def _answered(stream: trio.abc.Stream, route: Route, head_s: float) -> _Upgrade | None:
    """Hear a request, and answer it, unless it is to be upgraded: whoever has that `Accept` says
    when it is over."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    with trio.move_on_after(head_s) as patience:
        request = await _read_head(stream, http)
    if patience.cancelled_caught:
        await _answer(stream, http, Response(HTTPStatus.REQUEST_TIMEOUT))
        return None
    match request:
        case Request():
            return await _routed(stream, http, request, route)
        case Response() as refusal:
            await _answer(stream, http, refusal)
        case None:
            pass  # The peer left before its request was complete.
    return None


async def _routed(
    stream: trio.abc.Stream, http: h11.Connection, request: Request, route: Route
) -> _Upgrade | None:
    if request.wants_websocket and _has_left(stream):
        return None  # A storm of those would cost a conversation each.
    fault: Exception | None = None
    try:
        # No route may grant a CONNECT: behind a 2xx there would be a tunnel, and we have none.
        routed = _READ_ONLY if request.method == "CONNECT" else route(request)
        answer = await routed.answer() if isinstance(routed, Pending) else routed
    except Exception as raised:
        fault, answer = raised, Response(HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(answer, Accept):
        refusal = _upgrade_fault(request)
        if refusal is None:
            return _Upgrade(answer, _key(request), bytes(http.trailing_data[0]))
        answer.over()
        answer = refusal
    await _answer(stream, http, answer, request)
    if fault is not None:
        raise fault
    return None


async def _upgraded(
    stream: trio.abc.Stream, upgrade: _Upgrade, kept_up: Upkeep, switchboard: Switchboard | None
) -> Leg | None:
    """None: the peer left meanwhile."""
    accept = upgrade.accept

    async def opening(
        nursery: trio.Nursery, stream: trio.abc.Stream
    ) -> trio_websocket.WebSocketConnection:
        asked = await trio_websocket.wrap_server_stream(nursery, stream)
        return await asked.accept(
            subprotocol=accept.subprotocol, extra_headers=_encoded(accept.headers)
        )

    try:
        with trio.move_on_after(HEAD_S):
            opened = await _open(stream, opening, _clean_head(upgrade), upgrade.early)
            line = line_over(stream)
            return Leg(line, accept.limits, kept_up, switchboard, client=False, opened=opened)
    except _NotOpened as failure:
        if not isinstance(failure.__cause__, _Vanished):
            raise
    return None


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _clean_head(upgrade: _Upgrade) -> bytes:
    """A request head for the library, which it cannot fail on: it decodes some header values that
    we do not need, and raises if they are not ASCII."""
    chosen = upgrade.accept.subprotocol
    offered = f"Sec-WebSocket-Protocol: {chosen}\r\n" if chosen else ""
    return (
        "GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {upgrade.key}\r\n{offered}\r\n"
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
    @functools.lru_cache(maxsize=64)
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


async def _connected(address: _Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    try:
        tcp = await trio.open_tcp_stream(address.host, address.port)
    except (OSError, UnicodeError) as error:  # the latter for a name that is none in IDNA
        raise DialFailed(None, in_words(error)) from error
    if not address.tls:
        return line_over(tcp)  # which is cheaper for the handshake, too
    tls = TlsLine(tcp, ssl_context or _verifying(), address.host)
    try:
        await tls.handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(tls)
        raise DialFailed(None, in_words(error)) from error
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(tls)
        raise
    return tls


@functools.cache
def _verifying() -> ssl.SSLContext:
    # Cached because loading the certificates takes tens of milliseconds, during which no audio
    # flows.
    return ssl.create_default_context()


def _why_not(failure: _NotOpened) -> DialFailed:
    match failure.__cause__:
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


def _has_left(stream: trio.abc.Stream) -> bool:
    """Whether the peer will send nothing more, beyond what may still be unread."""
    if (tcp := _tcp(stream)) is None:
        return False
    poll = select.poll()
    poll.register(tcp.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def _peer(stream: trio.abc.Stream) -> str:
    if (tcp := _tcp(stream)) is None:
        return ""
    try:
        return str(tcp.getpeername()[0])
    except OSError:
        return ""  # It is gone already; reading will say so.


def _tcp(stream: trio.abc.Stream) -> "socket.socket | trio.socket.SocketType | None":
    if isinstance(stream, SocketLine):
        return stream.tcp
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def _leaf(error: BaseException) -> BaseException:
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
