"""wire, held to account by peers that know no mercy: raw sockets that send what they like, and
memory streams whose time is virtual. Nothing here knows a protocol above WebSocket."""

import contextlib
import functools
import math
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing
import trustme
from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode
from wsproto.utilities import generate_accept_token

from relay import switchboard, wire
from relay.wire import Accept, DialFailed, Leg, LegGone, Limits, Request, Response, dial

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    b"Host: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY.encode() + b"\r\n"
)
ROOMY = Limits(max_message=32 * wire.MIB, unsent_bytes=math.inf)
"""For what is posted by the dozen megabytes."""
QUICK = 1.0
"""Seconds of real time within which what needs no waiting is done, on a busy machine too."""


@pytest.fixture(autouse=True, params=[False, True], ids=["each for itself", "switchboard"])
def switched(request: pytest.FixtureRequest) -> bool:
    """Whether legs over sockets have a switchboard. It makes no difference to anything below."""
    Server.switched = bool(request.param)
    return Server.switched


# The cast: a server, a raw peer, and an audit that nothing is left behind.


def sockets() -> list[str]:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(link for link in links if link.startswith("socket:"))


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    before = trio.lowlevel.current_statistics().tasks_living, sockets()
    yield
    await trio.lowlevel.checkpoint()
    assert (trio.lowlevel.current_statistics().tasks_living, sockets()) == before


class Server:
    switched = False

    def __init__(self, port: int, scheme: str) -> None:
        self.url = f"{scheme}://127.0.0.1:{port}/"
        self.port = port
        self.faults: list[Exception] = []
        self.faulty = trio.Event()
        self.streams: list[trio.SocketStream] = []

    def report(self, group: ExceptionGroup[Exception]) -> None:
        self.faults.extend(group.exceptions)
        self.faulty.set()

    async def fault(self) -> None:
        """Wait until something was reported."""
        with trio.fail_after(QUICK):
            await self.faulty.wait()

    async def connect(self) -> "Peer":
        self.streams.append(await trio.open_tcp_stream("127.0.0.1", self.port))
        return Peer(self.streams[-1])


@contextlib.asynccontextmanager
async def listening(
    answer: Callable[[Leg], Awaitable[None]] | wire.Route,
    *,
    routes: bool = False,
    limits: Limits = wire.CLIENT_LEG,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """A listener for real. `answer` is a conversation, or with `routes` a route."""

    def route(request: Request) -> Accept | Response:
        return Accept(answer, limits=limits)  # type: ignore[arg-type] # see `routes`

    async with nothing_left(), switchboard.opened() as switched, trio.open_nursery() as nursery:
        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = tcp.socket.getsockname()[1]
        server = Server(port, "ws" if tls is None else "wss")

        async def handler(tcp: trio.SocketStream) -> None:
            stream = tcp if tls is None else await wire.secured(tcp, tls)
            decide = answer if routes else route
            await wire.serve_connection(
                stream,
                decide,  # type: ignore[arg-type] # see `routes`
                server.report,
                switchboard=switched if Server.switched else None,
            )

        await nursery.start(trio.serve_listeners, handler, [tcp])
        try:
            yield server
        finally:
            for stream in server.streams:
                trio.lowlevel.notify_closing(stream.socket)
                stream.socket.close()
            nursery.cancel_scope.cancel()


async def echo(leg: Leg) -> None:
    with contextlib.suppress(LegGone):
        await leg.hear(leg.post)


async def until_gone(leg: Leg) -> LegGone:
    try:
        await leg.hear(lambda _: None)
    except LegGone as gone:
        return gone


class Peer:
    """The other end, without a library: it sends any bytes and reads frame by frame."""

    def __init__(self, stream: trio.abc.Stream, *, client: bool = True) -> None:
        self.stream = stream
        self.make = FrameProtocol(client, [])
        self._parse = FrameProtocol(client, [])

    async def head(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, and what came behind them so far."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = bytes(await self.stream.receive_some())
            assert more, f"EOF in a response head: {data!r}"
            data += more
        raw, _, rest = data.partition(b"\r\n\r\n")
        lines = raw.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), {k.lower(): v for k, v in pairs}, rest

    async def http(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send this, read a response to the EOF behind it."""
        with contextlib.suppress(trio.BrokenResourceError):  # a refusal need not read everything
            await self.stream.send_all(data)
        status, headers, body = await self.head()
        with trio.fail_after(QUICK):
            async for chunk in self.stream:
                body += chunk
        await self.stream.aclose()
        return status, headers, body

    async def upgraded(self, extra: bytes = b"") -> dict[str, str]:
        await self.stream.send_all(b"GET / HTTP/1.1\r\n" + UPGRADE + extra + b"\r\n")
        status, headers, rest = await self.head()
        assert status == 101
        self._parse.receive_bytes(rest)
        return headers

    async def accepted(self) -> None:
        """As a server: read the upgrade, say 101."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += bytes(await self.stream.receive_some())
        (key,) = (
            line.partition(b": ")[2]
            for line in data.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        token = generate_accept_token(key)
        await self.stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n"
        )

    async def send(self, data: str | bytes) -> None:
        await self.stream.send_all(bytes(self.make.send_data(data)))

    async def ping(self, payload: bytes = b"?") -> None:
        await self.stream.send_all(bytes(self.make.ping(payload)))

    async def close(self, code: int = 1000) -> None:
        await self.stream.send_all(bytes(self.make.close(code)))

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        while True:
            for frame in self._parse.received_frames():
                return frame
            try:
                data = bytes(await self.stream.receive_some())
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._parse.receive_bytes(data)

    async def message(self) -> str | bytes:
        parts: list[str | bytes] = []
        while True:
            frame = await self.frame()
            assert frame is not None
            assert frame.opcode in (Opcode.TEXT, Opcode.BINARY), frame
            assert isinstance(frame.payload, str | bytes)
            parts.append(frame.payload)
            if frame.message_finished:
                first = parts[0]
                return first[:0].join(parts)  # type: ignore[arg-type] # all str or all bytes

    async def close_code(self) -> int | None:
        """Read on to the close frame; None if the stream ends without one."""
        while (frame := await self.frame()) is not None:
            if frame.opcode is Opcode.CLOSE:
                assert isinstance(frame.payload, tuple)
                return int(frame.payload[0])
        return None


@contextlib.asynccontextmanager
async def in_memory(
    conversation: Callable[[Leg], Awaitable[None]], *, limits: Limits = wire.CLIENT_LEG
) -> AsyncIterator[Peer]:
    """A client leg over a memory stream that holds back nothing, and its raw peer."""
    async with over(trio.testing.memory_stream_pair(), conversation, limits) as peer:
        await peer.upgraded()
        yield peer


@contextlib.asynccontextmanager
async def over(
    pair: tuple[trio.abc.Stream, trio.abc.Stream],
    conversation: Callable[[Leg], Awaitable[None]],
    limits: Limits = wire.CLIENT_LEG,
) -> AsyncIterator[Peer]:
    async with nothing_left(), one_of_many(pair, conversation, limits) as peer:
        yield peer


@contextlib.asynccontextmanager
async def one_of_many(
    pair: tuple[trio.abc.Stream, trio.abc.Stream],
    conversation: Callable[[Leg], Awaitable[None]],
    limits: Limits,
) -> AsyncIterator[Peer]:
    faults: list[ExceptionGroup[Exception]] = []
    ours, theirs = pair

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            wire.serve_connection,
            ours,
            lambda request: Accept(conversation, limits=limits),
            faults.append,
        )
        yield Peer(theirs)
        await theirs.aclose()
    assert not faults


# The ten traps of the library, each with the cure.


async def test_trap_1_a_ping_during_closing_neither_kills_the_daemon_nor_spoils_the_goodbye() -> (
    None
):
    async def turn_away(leg: Leg) -> None:
        await leg.goodbye(1011, "INTERNAL_SERVER_ERROR")

    async with listening(turn_away) as server:
        for _ in range(2):  # the second connection finds the daemon alive
            peer = await server.connect()
            await peer.upgraded()
            frame = await peer.frame()
            assert frame is not None
            assert frame.payload == (1011, "INTERNAL_SERVER_ERROR")
            await peer.ping()
            await peer.close(1011)
            with trio.fail_after(QUICK):  # the close handshake is completed, not waited out
                assert await peer.frame() is None  # and no pong behind our close
        assert server.faults == []


async def test_trap_1_a_conversation_that_raises_ends_its_own_connection_only() -> None:
    async def stumble(leg: Leg) -> None:
        if await leg.receive() == "stumble":
            raise ZeroDivisionError
        leg.post("still here")
        await until_gone(leg)

    async with listening(stumble) as server:
        bystander, victim = await server.connect(), await server.connect()
        await bystander.upgraded()
        await victim.upgraded()
        await victim.send("stumble")
        assert await victim.close_code() == 1011
        await victim.close(1011)
        assert await victim.frame() is None
        await bystander.send("and you?")
        assert await bystander.message() == "still here"
        await server.fault()
        assert [type(fault) for fault in server.faults] == [ZeroDivisionError]


async def test_trap_2_a_sender_cancelled_half_way_leaves_whole_frames_on_the_wire() -> None:
    big = os.urandom(1 << 23)  # more than the kernel takes at once

    async def cancelled_while_sending(leg: Leg) -> None:
        with trio.CancelScope() as scope:
            leg.post(big)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
        await leg.goodbye(1000)

    async with listening(cancelled_while_sending, limits=ROOMY) as server:
        peer = await server.connect()
        await peer.upgraded()
        assert await peer.message() == big
        assert await peer.close_code() == 1000


@pytest.mark.conformance("C-193")
async def test_trap_3_pings_are_answered_while_the_other_leg_is_stalled() -> None:
    async def never_reads(stream: trio.SocketStream) -> None:
        async with stream:
            await Peer(stream, client=False).accepted()
            await trio.sleep_forever()

    async def pass_on(leg: Leg) -> None:
        async with dial(deaf[0]) as upstream:
            with contextlib.suppress(LegGone):
                await leg.hear(lambda frame: upstream.post(frame, 20.0))
            upstream.drop()

    async with listening(pass_on) as server, raw_servers(never_reads) as deaf:
        peer = await server.connect()
        await peer.upgraded()
        for _ in range(64):  # 16 MiB: far more than both kernels hold
            await peer.send(bytes(1 << 18))
        await peer.ping(b"there?")
        with trio.fail_after(QUICK):
            frame = await peer.frame()
        assert frame is not None
        assert (frame.opcode, frame.payload) == (Opcode.PONG, b"there?")
        await peer.close()
        assert await peer.close_code() == 1000
        assert await peer.frame() is None


@pytest.mark.conformance("C-193")
async def test_trap_3_a_pong_overtakes_the_audio_that_waits_for_this_client() -> None:
    async def talk(leg: Leg) -> None:
        for _ in range(500):
            leg.post(bytes(960), 20.0)
        await until_gone(leg)

    # A link that passes on only what is asked for: all but the first frame waits in the outbox.
    async with over(trio.testing.lockstep_stream_pair(), talk) as peer:
        await peer.upgraded()
        await peer.ping()
        kinds: list[Opcode] = []
        while not kinds or kinds[-1] is not Opcode.PONG:
            frame = await peer.frame()
            assert frame is not None
            kinds.append(frame.opcode)
        assert len(kinds) < 20
        await peer.close()
        await peer.close_code()


@contextlib.asynccontextmanager
async def raw_servers(
    *behaviours: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[list[str]]:
    """Listeners without a library, one for each behaviour, and their URLs."""
    async with trio.open_nursery() as nursery:
        urls = []
        for behaviour in behaviours:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            await nursery.start(trio.serve_listeners, behaviour, [listener])
            urls.append(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/")
        yield urls
        nursery.cancel_scope.cancel()


async def test_trap_4_a_server_that_hangs_up_in_the_handshake_is_reported_at_once() -> None:
    async def hangs_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.aclose()

    async with nothing_left(), raw_servers(hangs_up) as (url,):
        with trio.fail_after(QUICK), pytest.raises(DialFailed) as failed:
            async with dial(url):
                raise AssertionError
        assert failed.value.status is None
        assert failed.value.reason == "connection closed before the answer"


async def test_trap_4_a_bad_certificate_is_reported_at_once_and_by_name() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with listening(echo, tls=context) as server:
        with trio.fail_after(QUICK), pytest.raises(DialFailed) as failed:
            async with dial(server.url):
                raise AssertionError
        assert "certificate verify failed" in failed.value.reason
        assert isinstance(failed.value.__cause__, trio.BrokenResourceError)


async def test_trap_4_what_else_can_go_wrong_with_a_dial_has_its_cause_too() -> None:
    async def answers(data: bytes, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(data)
            await trio.sleep_forever()

    cases = {
        # The status line is enough: a body that never ends does not hide it.
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\n": (401, "HTTP status 401"),
        b"HTTP/1.1 503 Nope\r\n\r\n": (503, "HTTP status 503"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": (200, "HTTP status 200"),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n": (None, "no WebSocket handshake"),
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n": (None, "no WebSocket handshake"),
    }
    servers = raw_servers(*(functools.partial(answers, data) for data in cases))
    async with nothing_left(), servers as urls:
        for url, (status, reason) in zip(urls, cases.values(), strict=True):
            with trio.fail_after(QUICK), pytest.raises(DialFailed, match=reason) as failed:
                async with dial(url):
                    raise AssertionError
            assert failed.value.status == status
    with pytest.raises(DialFailed, match="Connection refused"):
        async with dial(url):
            raise AssertionError
    for nonsense in ("http://127.0.0.1/", "ws:///path", "127.0.0.1:80"):
        with pytest.raises(ValueError, match="ws://HOST"):
            async with dial(nonsense):
                raise AssertionError


@pytest.mark.conformance("C-231")
async def test_trap_5_a_peer_that_answers_no_ping_is_lost_after_20_and_20_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gone: list[tuple[float, LegGone]] = []

    async def wait(leg: Leg) -> None:
        started = trio.current_time()
        end = await until_gone(leg)
        gone.append((trio.current_time() - started, end))

    async with in_memory(wait) as peer:
        with trio.fail_after(100):
            frame = await peer.frame()
            assert frame is not None
            assert frame.opcode is Opcode.PING
            assert await peer.frame() is None
    ((after, end),) = gone
    assert (round(after, 3), end.code, end.reason) == (40.0, None, "no pong within 20 s")


async def test_trap_5_a_peer_that_answers_every_ping_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with in_memory(echo) as peer:
        for _ in range(30):
            frame = await peer.frame()
            assert frame is not None
            assert frame.opcode is Opcode.PING
            assert isinstance(frame.payload, bytes)
            await peer.stream.send_all(bytes(peer.make.pong(frame.payload)))
        assert trio.current_time() > 590
        await peer.send("there?")
        assert await peer.message() == "there?"


async def test_trap_6_a_goodbye_ends_without_the_peers_close_after_2_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def leave(leg: Leg) -> None:
        started = trio.current_time()
        await leg.goodbye(1013, "busy")
        assert round(trio.current_time() - started, 3) == wire.PEER_CLOSE_S
        with pytest.raises(LegGone):
            await leg.receive()

    async with in_memory(leave) as peer:
        frame = await peer.frame()
        assert frame is not None
        assert frame.payload == (1013, "busy")
        assert await peer.frame() is None


async def test_trap_6_a_message_too_big_closes_1009_and_the_socket_too() -> None:
    async def shout(leg: Leg) -> None:
        leg.post("x" * 2000)
        assert (await until_gone(leg)).code == 1009

    async with (
        listening(shout) as server,
        dial(server.url, limits=Limits(max_message=1000)) as leg,
    ):
        with trio.fail_after(QUICK):
            assert (await until_gone(leg)).code == 1009
    # `listening` counts the sockets.


async def test_trap_7_a_cancelled_server_still_says_why_it_goes() -> None:
    async with listening(echo) as server, trio.open_nursery() as nursery:
        peer = await server.connect()
        await peer.upgraded()

        async def cancelled(stream: trio.abc.Stream) -> None:
            await wire.serve_connection(stream, lambda request: Accept(echo), server.faults.append)

        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(cancelled, ours)
        direct = Peer(theirs)
        await direct.upgraded()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await direct.close(1000)
            assert await direct.close_code() == 1001
            await theirs.aclose()


async def test_trap_7_a_holder_that_just_leaves_says_goodbye_all_the_same() -> None:
    ends: list[LegGone] = []

    async def note_the_end(leg: Leg) -> None:
        ends.append(await until_gone(leg))

    async with listening(note_the_end) as server:
        async with dial(server.url):
            pass
        with trio.CancelScope() as scope:
            async with dial(server.url):
                scope.cancel()
                await trio.sleep_forever()
        with pytest.raises(ZeroDivisionError):  # as it was raised, in no group
            async with dial(server.url):
                raise ZeroDivisionError
        await trio.testing.wait_all_tasks_blocked()
    assert [end.code for end in ends] == [1000] * 3


@pytest.mark.conformance("C-199", "C-193")
async def test_trap_8_an_upstream_may_send_16_mib_and_the_default_of_1_mib_does_not_bite() -> None:
    text = "é" * (16 * wire.MIB)  # characters are what the library counts

    async def shout(leg: Leg) -> None:
        leg.post(text)
        assert (await until_gone(leg)).code == 1000

    async with listening(shout, limits=ROOMY) as server, dial(server.url) as leg:
        assert await leg.receive() == text


@pytest.mark.conformance("C-006", "C-009", "C-011")
async def test_trap_9_a_route_sees_host_origin_and_subprotocols_and_answers_in_kind() -> None:
    seen: list[Request] = []

    def route(request: Request) -> Accept | Response:
        seen.append(request)
        if "token" in request.subprotocols:
            return Accept(echo, subprotocol="token", headers=(("dg-request-id", "42"),))
        return Response(401, b"who are you?\n", (("WWW-Authenticate", "Token"),))

    async with listening(route, routes=True) as server:
        peer = await server.connect()
        headers = await peer.upgraded(
            b"Sec-WebSocket-Protocol: token, s3cret\r\nOrigin: http://o\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        )
        assert (seen[0].host, seen[0].origin) == ("h", "http://o")
        assert seen[0].subprotocols == ("token", "s3cret")
        assert seen[0].headers["sec-websocket-extensions"] == "permessage-deflate"
        assert "s3cret" not in repr(seen[0])
        assert headers["sec-websocket-protocol"] == "token"
        assert headers["dg-request-id"] == "42"
        assert "sec-websocket-extensions" not in headers  # trap 10: never compressed

        refused = await server.connect()
        status, headers, body = await refused.http(b"GET /x?y HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        assert (status, body) == (401, b"who are you?\n")
        assert headers["www-authenticate"] == "Token"


@pytest.mark.conformance("C-198")
async def test_trap_10_our_own_upgrade_asks_for_nothing_but_what_it_is_told_to() -> None:
    asked: list[Request] = []

    def route(request: Request) -> Accept:
        asked.append(request)
        return Accept(echo, subprotocol="realtime")

    async with (
        listening(route, routes=True) as server,
        dial(
            server.url + "v1/realtime?model=m",
            headers={"Authorization": "Bearer k"},
            subprotocols=["realtime"],
        ) as leg,
    ):
        assert leg.subprotocol == "realtime"
    (request,) = asked
    assert (request.path, request.query, request.method) == ("/v1/realtime", "model=m", "GET")
    assert request.host == f"127.0.0.1:{server.port}"
    assert set(request.headers) == {
        *("host", "upgrade", "connection", "authorization"),
        *("sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"),
    }


# Heads: plain HTTP, and what no honest client sends.


def health(request: Request) -> Accept | Response:
    if request.path == "/healthz":
        return Response(200, b"ok\n", (("Content-Type", "text/plain"),))
    if request.path == "/boom":
        raise ZeroDivisionError
    if request.path == "/":
        return Accept(echo)
    return Response(404)


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 200, b"ok\n"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200, b"ok\n"),
        (b"HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 200, b""),
        (b"GET /elsewhere HTTP/1.1\r\n" + UPGRADE + b"\r\n", 404, b""),
        (b"POST / HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 3\r\n\r\nabc", 405, b""),
        (b"GET / HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 3\r\n\r\nabc", 400, b""),
        (b"GET / HTTP/1.1\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", 400, b""),
        (b"GET / HTTP/1.0\r\n" + UPGRADE + b"\r\n", 426, b""),
        (b"CONNECT /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 405, b""),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 426, b""),
        (b"GET / HTTP/1.1\r\n" + UPGRADE.replace(b": 13", b": 8") + b"\r\n", 426, b""),
        (b"GET / HTTP/1.1\r\n" + UPGRADE.replace(KEY.encode(), b"c2hvcnQ=") + b"\r\n", 400, b""),
        (b"GET / HTTP/1.1\r\n" + UPGRADE.replace(KEY.encode(), b"\xff") + b"\r\n", 400, b""),
        (b"GET / HTTP/1.1\r\n" + UPGRADE.replace(b"Host: h\r\n", b"") + b"\r\n", 400, b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9 + b"\r\n\r\n", 400, b""),
        (b"GET  / HTTP/1.1\r\n\r\n", 400, b""),
        (b"A" * 70_000, 431, b""),
        (b"GET / HTTP/1.1\r\n" + UPGRADE + b"X: " + b"x" * 70_000 + b"\r\n\r\n", 431, b""),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 12_000 + b"\r\n", 431, b""),
        (b"GET / HTTP/1.1\r\n" + UPGRADE + b"X: " + b"x" * 17_000 + b"\r\n\r\n", 431, b""),
    ],
)
async def test_every_request_gets_its_status_and_then_the_end(
    request_: bytes, status: int, body: bytes
) -> None:
    async with listening(health, routes=True) as server:
        peer = await server.connect()
        answer = await peer.http(request_)
        assert (answer[0], answer[2]) == (status, body)
        assert answer[1]["connection"] == "close"
        assert server.faults == []


async def test_a_refused_upload_is_taken_and_forgotten_so_that_the_answer_arrives() -> None:
    async with listening(health, routes=True) as server:
        peer = await server.connect()
        head = b"POST / HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 9999999\r\n\r\n"
        await peer.stream.send_all(head + bytes(9_999_999))
        assert (await peer.head())[0] == 405


async def test_an_acceptance_that_cannot_be_written_is_our_fault_and_reported() -> None:
    def route(request: Request) -> Accept:
        return Accept(echo, headers=(("no such header", "?"),))

    async with listening(route, routes=True) as server:
        peer = await server.connect()
        await peer.stream.send_all(b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        assert await peer.stream.receive_some() == b""
        await server.fault()


async def test_a_route_that_raises_answers_500_and_is_reported() -> None:
    async with listening(health, routes=True) as server:
        peer = await server.connect()
        assert (await peer.http(b"GET /boom HTTP/1.1\r\nHost: h\r\n\r\n"))[0] == 500
        await server.fault()
        assert [type(fault) for fault in server.faults] == [ZeroDivisionError]


@pytest.mark.parametrize("drip", [b"", b"G"])
async def test_a_silent_and_a_slow_client_get_408_at_the_deadline(
    drip: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def dribble() -> None:
        if not drip:
            await trio.sleep_forever()
        while True:
            await theirs.send_all(drip)
            await trio.sleep(1)

    async with nothing_left(), trio.open_nursery() as nursery:
        nursery.start_soon(wire.serve_connection, ours, health, print)
        nursery.start_soon(dribble)
        status, _, _ = await Peer(theirs).head()
        assert (status, round(trio.current_time() % 1000, 3)) == (408, wire.HEAD_S)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fragment", [b"", b"GET / HT", b"GET / HTTP/1.1\r\n" + UPGRADE])
async def test_a_client_that_leaves_before_its_request_is_complete_is_no_fault(
    fragment: bytes,
) -> None:
    async with listening(health, routes=True) as server:
        for reset in (False, True):
            peer = await server.connect()
            await peer.stream.send_all(fragment)
            if reset:
                assert isinstance(peer.stream, trio.SocketStream)
                peer.stream.setsockopt(
                    trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            await trio.testing.wait_all_tasks_blocked()
        assert server.faults == []


async def test_headers_the_library_cannot_decode_do_not_disturb_an_upgrade() -> None:
    async with listening(echo) as server:
        peer = await server.connect()
        await peer.upgraded(
            b"Sec-WebSocket-Extensions: \xff\r\nSec-WebSocket-Protocol: \xe9, token\r\nX: \xff\r\n"
        )
        await peer.send("hello")
        assert await peer.message() == "hello"
        odd = await server.connect()
        head = b"GET / HTTP/1.1\r\n" + UPGRADE.replace(b"Host: h", b"Host: \xff..") + b"\r\n"
        await odd.stream.send_all(head)
        assert (await odd.head())[0] == 101
        assert server.faults == []


async def test_frames_sent_along_with_the_upgrade_are_not_lost() -> None:
    async with listening(echo) as server:
        peer = await server.connect()
        early = bytes(peer.make.send_data("too eager"))
        await peer.stream.send_all(b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n" + early)
        status, _, rest = await peer.head()
        assert status == 101
        peer._parse.receive_bytes(rest)
        assert await peer.message() == "too eager"


# A leg's life.


async def test_text_stays_text_and_binary_stays_binary_and_all_is_counted() -> None:
    async with listening(echo) as server, dial(server.url) as leg:
        for frame in ("", "text", b"", b"\x00\xff", b'{"type":"Settings"}', "x" * 100_000):
            leg.post(frame)
            assert await leg.receive() == frame
        assert (leg.frames_in, leg.frames_out) == (6, 6)
        assert leg.bytes_in > 100_000
        assert leg.bytes_out > 100_000


async def test_what_a_hearer_returns_is_awaited_before_the_next_message() -> None:
    order: list[str] = []

    async def hear(leg: Leg) -> None:
        def heard(frame: wire.Frame) -> wire.Then:
            order.append(f"heard {frame!r}")
            return functools.partial(slowly, str(frame)) if frame != "quick" else None

        async def slowly(frame: str) -> None:
            await trio.testing.wait_all_tasks_blocked()
            order.append(f"did {frame!r}")
            leg.post(frame)

        with contextlib.suppress(LegGone):
            await leg.hear(heard)

    async with listening(hear) as server:
        peer = await server.connect()
        await peer.upgraded()
        await peer.send("quick")
        frames = [peer.make.send_data(text) for text in ("quick", "one", "quick", "two")]
        await peer.stream.send_all(b"".join(map(bytes, frames)))
        assert [await peer.message() for _ in range(2)] == ["one", "two"]
        await peer.send("three")
        assert await peer.message() == "three"
        await peer.close()
        assert await peer.close_code() == 1000
    assert order == [
        *("heard 'quick'", "heard 'quick'", "heard 'one'", "did 'one'"),
        *("heard 'quick'", "heard 'two'", "did 'two'", "heard 'three'", "did 'three'"),
    ]


async def test_a_hearer_that_is_cancelled_hears_no_more_and_nothing_is_lost() -> None:
    heard: list[wire.Frame] = []

    async def hear(leg: Leg) -> None:
        scope = trio.CancelScope()

        def once(frame: wire.Frame) -> None:
            heard.append(frame)
            scope.cancel()

        with scope:
            await leg.hear(once)
        leg.post(await leg.receive())
        assert await leg.receive() == "third"

    async with listening(hear) as server:
        peer = await server.connect()
        await peer.upgraded()
        frames = [bytes(peer.make.send_data(text)) for text in ("first", "second", "third")]
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.send_all(b"".join(frames))
        assert await peer.message() == "second"
        assert await peer.close_code() == 1000
        await peer.close()
        assert await peer.frame() is None
        assert server.faults == []
    assert heard == ["first"]


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and that of a client that trusts it."""
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    return context, trusting


async def test_tls_on_both_ends() -> None:
    context, trusting = certified()
    peers: list[str] = []

    def route(request: Request) -> Accept:
        peers.append(request.peer)
        return Accept(echo)

    async with (
        listening(route, routes=True, tls=context) as server,
        dial(server.url, ssl_context=trusting) as leg,
    ):
        leg.post("hello")
        assert await leg.receive() == "hello"
        await leg.goodbye(1000)
    assert peers == ["127.0.0.1"]


async def test_what_a_slow_peer_has_not_taken_is_encrypted_once() -> None:
    context, trusting = certified()
    frames = [f"{number} ".ljust(4096, ".") for number in range(4000)]

    async def talk(leg: Leg) -> None:
        await leg.receive()
        for frame in frames:
            leg.post(frame)
        assert leg.unsent_frames > 0
        await until_gone(leg)

    async with (
        listening(talk, tls=context, limits=ROOMY) as server,
        dial(server.url, ssl_context=trusting) as leg,
    ):
        leg.post("go on")
        assert [await leg.receive() for _ in frames] == frames


async def test_a_fault_of_ours_ends_one_leg_and_is_raised_where_that_ends() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    faults: list[Exception] = []

    async def stumbles() -> None:
        raise ZeroDivisionError

    async def talk(leg: Leg) -> None:
        ours.send_stream.send_all_hook = stumbles
        leg.post("{}")
        assert (await until_gone(leg)).code is None

    async with nothing_left(), trio.open_nursery() as nursery:
        nursery.start_soon(
            wire.serve_connection,
            ours,
            lambda request: Accept(talk),
            lambda group: faults.extend(group.exceptions),
        )
        peer = Peer(theirs)
        await peer.upgraded()
        assert await peer.message() == "{}"  # it was sent, before that went wrong
        assert await peer.frame() is None
        await theirs.aclose()
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


async def test_a_goodbye_comes_behind_all_that_was_posted() -> None:
    async def leave(leg: Leg) -> None:
        for number in range(1000):
            leg.post(str(number))
        await leg.goodbye(4001, "done")
        leg.post("after")  # swallowed

    async with listening(leave) as server, dial(server.url) as leg:
        assert [await leg.receive() for _ in range(1000)] == list(map(str, range(1000)))
        gone = await until_gone(leg)
        assert (gone.code, gone.reason) == (4001, "done")
        leg.post("to nobody")  # swallowed


async def test_how_a_leg_ended_is_told() -> None:
    ends: list[LegGone] = []

    async def note_the_end(leg: Leg) -> None:
        ends.append(await until_gone(leg))

    async with listening(note_the_end) as server:

        async def connected() -> Peer:
            peer = await server.connect()
            await peer.upgraded()
            return peer

        with_code, without_code, eof, reset, garbage = [await connected() for _ in range(5)]
        await with_code.stream.send_all(bytes(with_code.make.close(4321, "so long")))
        assert await with_code.close_code() == 4321
        await without_code.stream.send_all(bytes(without_code.make.close()))
        assert await without_code.close_code() == CloseReason.NO_STATUS_RCVD
        await eof.stream.aclose()
        while len(ends) < 3:
            await trio.testing.wait_all_tasks_blocked()
        assert isinstance(reset.stream, trio.SocketStream)
        reset.stream.setsockopt(
            trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        await reset.stream.aclose()
        while len(ends) < 4:
            await trio.testing.wait_all_tasks_blocked()
        await garbage.stream.send_all(b"\xff" * 99)
        assert await garbage.close_code() == 1002
    assert [(end.code, end.reason) for end in ends[:4]] == [
        (4321, "so long"),
        (1005, ""),
        (None, "end of stream"),
        (None, "Connection reset by peer"),
    ]
    assert ends[4].code == 1002


async def test_a_peers_goodbye_is_answered_when_all_is_over_here(
    autojump_clock: trio.testing.MockClock,
) -> None:
    over_at = 0.0

    async def clear_up(leg: Leg) -> None:
        nonlocal over_at
        assert (await until_gone(leg)).code == 4321
        leg.post("to one who has closed")
        await trio.sleep(3)
        over_at = trio.current_time()

    async with in_memory(clear_up) as peer:
        await peer.close(4321)
        frame = await peer.frame()
        assert frame is not None
        assert frame.payload == (4321, "")
        assert trio.current_time() == over_at > 0
        assert await peer.frame() is None


async def test_what_is_unsent_when_the_peer_closes_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        for _ in range(20):
            leg.post("." * 100_000)
        assert leg.unsent_frames
        assert (await until_gone(leg)).code == 1000
        assert not leg.unsent_frames

    ours, theirs = trio.testing.lockstep_stream_pair()
    async with over((ours, theirs), talk) as peer:
        await peer.upgraded()
        await peer.close()
        assert await peer.close_code() == 1000


@pytest.mark.conformance("C-234")
@pytest.mark.parametrize("behind", [b"", b"more and more" * 1_000_000])
async def test_text_that_is_no_utf_8_is_closed_with_1007(behind: bytes) -> None:
    ends: list[LegGone] = []

    async def note_the_end(leg: Leg) -> None:
        ends.append(await until_gone(leg))

    async with listening(note_the_end) as server:
        peer = await server.connect()
        await peer.upgraded()
        bad = bytearray(peer.make.send_data("caf?"))
        bad[-1] ^= ord("?") ^ 0xE9
        await peer.stream.send_all(bytes(bad) + behind)
        assert await peer.close_code() == 1007
    assert [end.code for end in ends] == [1007]


async def test_a_client_still_sending_its_17_mib_hears_1009_not_a_reset() -> None:
    async with listening(echo) as server, trio.open_nursery() as nursery:
        peer = await server.connect()
        await peer.upgraded()

        # All of it is taken, then forgotten: closing on unread input would reset the connection,
        # and on some systems take the close frame away with it.
        nursery.start_soon(peer.send, bytes(17 * wire.MIB))
        assert await peer.close_code() == 1009


async def test_a_read_does_not_bring_more_than_the_others_can_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing is awaited between the pieces of one message: 64 KiB of empty pieces, which is what a
    # socket gives if it may, would be a third of a second in which nobody else is served.
    ours, theirs = trio.testing.memory_stream_pair()
    receive_some, sizes = ours.receive_stream.receive_some, []

    async def noted(max_bytes: int | None = None) -> bytes | bytearray:
        data = await receive_some(max_bytes)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(ours.receive_stream, "receive_some", noted)
    async with over((ours, theirs), echo) as peer:
        await peer.upgraded()
        await peer.send(bytes(wire.MIB))
        assert await peer.message() == bytes(wire.MIB)
    assert max(sizes) == 16 * 1024


async def test_the_stream_ends_right_behind_a_refusal() -> None:
    # RFC 6455, 7.1.1: the server is the one to end the TCP connection.
    async with listening(echo) as server:
        peer = await server.connect()
        await peer.upgraded()
        await peer.stream.send_all(b"\xf1\x80\x00\x00\x00\x00")
        assert await peer.close_code() == 1002
        with trio.fail_after(QUICK):
            assert await peer.frame() is None


async def test_a_client_that_refuses_what_we_sent_is_not_waited_for() -> None:
    async with listening(echo) as server:
        peer = await server.connect()
        await peer.upgraded()
        await peer.close(1009)
        assert await peer.close_code() == 1009
        with trio.fail_after(QUICK):
            assert await peer.frame() is None


async def test_nothing_is_received_any_more_once_goodbye_is_being_said() -> None:
    heard: list[wire.Frame] = []

    async def leave(leg: Leg) -> None:
        async def listen() -> None:
            def hear(frame: wire.Frame) -> None:
                heard.append(frame)
                leg.post("heard")

            with contextlib.suppress(LegGone):
                await leg.hear(hear)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            while not heard:
                await trio.testing.wait_all_tasks_blocked()
            await leg.goodbye(1000)

    async with listening(leave) as server:
        peer = await server.connect()
        await peer.upgraded()
        await peer.send("in time")
        assert await peer.message() == "heard"
        assert await peer.close_code() == 1000
        for _ in range(100):
            await peer.send("too late")
        await peer.close()
        assert await peer.frame() is None
    assert heard == ["in time"]


async def test_200_clients_at_once_are_each_served_and_leave_nothing() -> None:
    async with listening(echo) as server, trio.open_nursery() as nursery:

        async def once(number: int) -> None:
            async with dial(server.url) as leg:
                leg.post(f"I am {number}")
                assert await leg.receive() == f"I am {number}"

        for number in range(200):
            nursery.start_soon(once, number)


# The outbox and its bounds (PROTOCOL.md 4.2), in virtual time over a link that never takes more
# than is read.


@contextlib.asynccontextmanager
async def stalled(
    conversation: Callable[[Leg], Awaitable[None]], limits: Limits = wire.CLIENT_LEG
) -> AsyncIterator[Peer]:
    """As soon as the upgrade is done the peer reads only when told to."""
    async with over(trio.testing.lockstep_stream_pair(), conversation, limits) as peer:
        await peer.upgraded()
        yield peer


@pytest.mark.conformance("C-194")
async def test_a_client_that_never_reads_is_dropped_after_30_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        await trio.sleep(7)
        leg.post("{}")
        end = await until_gone(leg)
        assert (end.code, end.reason) == (None, "a frame unsent for 30 s")
        assert round(trio.current_time() - started, 3) == 37.0

    async with stalled(talk, Limits(ping_s=1000)):
        started = trio.current_time()
        await trio.sleep(60)


async def test_the_age_that_counts_for_a_client_is_that_of_the_oldest_frame(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        for _ in range(100):
            leg.post(b"\0" * 960, 20.0)
        assert (await until_gone(leg)).reason == "a frame unsent for 30 s"

    # It reads, but at one frame a second: progress does not save it.
    async with stalled(talk, Limits(ping_s=1000)) as peer:
        heard = 0
        while (await peer.frame()) is not None:
            heard += 1
            await trio.sleep(1)
        assert 29 <= heard <= 32


async def test_the_age_that_counts_for_an_upstream_is_that_of_the_frame_being_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        for _ in range(100):
            leg.post("append", 20.0)
        assert (await until_gone(leg)).code == 1000

    async with stalled(talk, Limits(ping_s=1000, sheds_audio=True)) as peer:
        for _ in range(100):
            assert await peer.message() == "append"
            await trio.sleep(1)
        await peer.close()
        assert await peer.close_code() == 1000


async def test_60_seconds_of_unsent_audio_lose_a_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        await trio.testing.wait_all_tasks_blocked()
        leg.post(bytes(960), 20.0)  # this one is with the stream, it does not count
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3000):
            leg.post(bytes(960), 20.0)
        assert leg.unsent_audio_ms == 60_000
        leg.post(bytes(960), 20.0)
        assert (await until_gone(leg)).reason == "too much unsent"

    async with stalled(talk):
        await trio.sleep(1)


async def test_a_peer_that_goes_while_it_is_sent_to_is_gone_and_no_fault() -> None:
    over, ended = trio.open_memory_channel[LegGone](1)

    async def talk(leg: Leg) -> None:
        leg.post("x" * 8 * wire.MIB)  # more than the system takes
        over.send_nowait(await until_gone(leg))

    async with listening(talk, limits=ROOMY) as server:
        for _ in range(20):
            peer = await server.connect()
            await peer.upgraded()
            await trio.testing.wait_all_tasks_blocked()
            linger = struct.pack("ii", 1, 0)
            server.streams[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await peer.stream.aclose()  # with RST: reading and writing fail in one step
            assert (await ended.receive()).code is None
        assert not server.faults


@pytest.mark.parametrize(("limits", "mib"), [(wire.CLIENT_LEG, 4), (wire.UPSTREAM_LEG, 5)])
async def test_megabytes_of_unsent_text_lose_a_leg(
    limits: Limits, mib: int, autojump_clock: trio.testing.MockClock
) -> None:
    text = "x" * (wire.MIB - 500)

    async def talk(leg: Leg) -> None:
        for _ in range(mib):
            leg.post(text)
        assert leg.behind
        leg.post("{}")
        await trio.testing.wait_all_tasks_blocked()
        leg.post(text)
        leg.post(text)  # the first is with the stream
        assert (await until_gone(leg)).reason == "too much unsent"

    async with stalled(talk, limits):
        await trio.sleep(1)


@pytest.mark.conformance("C-194")
async def test_what_counts_of_unsent_frames_is_the_memory_that_they_take(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        for _ in range(50_000):
            leg.post(b"x", 0.001)  # 50 ms of audio, 50 kB
        assert (await until_gone(leg)).reason == "too much unsent"

    async with stalled(talk):
        await trio.sleep(1)


async def test_an_upstream_that_does_not_keep_up_is_owed_no_more_small_frames_than_memory_allows(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        leg.post("control 0")
        for number in range(40_000):
            leg.post(f"{number}", 0.1)
        leg.post("control 1")
        assert 25_000 < leg.unsent_audio_ms * 10 < 30_000
        assert round(leg.unsent_audio_ms + leg.shed_audio_ms) == 4000
        await leg.goodbye(1000)

    async with stalled(talk, wire.UPSTREAM_LEG) as peer:
        assert await peer.message() == "control 0"
        heard = [int(await peer.message()) for _ in range(10)]
        assert heard == list(range(heard[0], heard[0] + 10))
        assert heard[0] > 10_000


async def test_who_can_wait_learns_when_the_peer_has_caught_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        await leg.caught_up()
        for _ in range(46):
            leg.post(bytes(100), 1000.0)
        assert leg.behind
        await leg.caught_up()
        assert (leg.behind, leg.unsent_audio_ms) == (False, 30_000.0)
        for _ in range(20):
            leg.post(bytes(100), 1000.0)
        assert leg.behind
        leg.drop_audio()
        assert (leg.behind, leg.unsent_audio_ms) == (False, 0.0)
        await leg.caught_up()
        for _ in range(50):
            leg.post(bytes(100), 1000.0)
        leg.drop()
        await leg.caught_up()

    async with stalled(talk) as peer:
        while await peer.frame() is not None:
            pass


async def test_big_messages_are_taken_in_by_a_few_legs_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits()
    taken: list[Leg] = []
    go_on = trio.Event()

    async def talk(leg: Leg) -> None:
        assert len(await leg.receive()) == 2 * wire.MIB
        taken.append(leg)
        await go_on.wait()
        assert await leg.receive() == b"and now?"  # which gives the place to the next one
        assert (await until_gone(leg)).code == 1000

    async def speak() -> None:
        async with one_of_many(trio.testing.memory_stream_pair(), talk, limits) as peer:
            await peer.upgraded()
            await peer.send(bytes(2 * wire.MIB))
            await peer.send(b"and now?")
            await peer.close()
            assert await peer.close_code() == 1000

    async with trio.open_nursery() as nursery:
        for _ in range(3 * wire.BIG_AT_ONCE):
            nursery.start_soon(speak)
        await trio.sleep(10)
        assert len(taken) == wire.BIG_AT_ONCE
        go_on.set()
    assert len(taken) == 3 * wire.BIG_AT_ONCE
    assert limits.big_messages.borrowed_tokens == 0


async def test_who_stops_in_a_big_message_is_lost_and_who_waited_for_the_place_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits()
    heard: list[float] = []

    async def stopped(leg: Leg) -> None:
        assert (await until_gone(leg)).code is None

    async def stops() -> None:
        async with one_of_many(trio.testing.memory_stream_pair(), stopped, limits) as peer:
            await peer.upgraded()
            whole = bytes(peer.make.send_data(bytes(2 * wire.MIB)))
            await peer.stream.send_all(whole[: wire.MIB])
            await trio.sleep(100)

    async def waits(leg: Leg) -> None:
        assert len(await leg.receive()) == 2 * wire.MIB
        heard.append(trio.current_time() - began)
        assert (await until_gone(leg)).code == 1000

    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        for _ in range(5 * wire.BIG_AT_ONCE):
            nursery.start_soon(stops)
        await trio.testing.wait_all_tasks_blocked()
        async with one_of_many(trio.testing.memory_stream_pair(), waits, limits) as peer:
            await peer.upgraded()
            await peer.send(bytes(2 * wire.MIB))
            while not heard:
                with trio.move_on_after(1):
                    frame = await peer.frame()
                    assert frame is not None
                    assert frame.opcode is Opcode.PING
                    assert isinstance(frame.payload, bytes | bytearray)
                    await peer.stream.send_all(bytes(peer.make.pong(bytes(frame.payload))))
            await peer.close()
            assert await peer.close_code() == 1000
    assert [round(at) for at in heard] == [50]  # longer than a pong may take
    assert limits.big_messages.borrowed_tokens == 0


async def test_who_dribbles_a_big_message_keeps_no_others_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits()
    heard: list[float] = []
    lost: list[str] = []

    async def hears(leg: Leg) -> None:
        with contextlib.suppress(LegGone):
            assert len(await leg.receive()) == 2 * wire.MIB
            heard.append(trio.current_time() - began)
        lost.append((await until_gone(leg)).reason)

    async def dribbles(pieces: float) -> None:
        """A fragment each second, and a pong for each ping between them: it lives."""
        async with one_of_many(trio.testing.memory_stream_pair(), hears, limits) as peer:
            await peer.upgraded()
            await peer.stream.send_all(bytes(peer.make.send_data(bytes(wire.MIB), fin=False)))
            size = wire.MIB // 64
            with contextlib.suppress(trio.BrokenResourceError):
                while pieces > 0:
                    pieces -= 1
                    fin = pieces == 0
                    await peer.stream.send_all(bytes(peer.make.send_data(bytes(size), fin=fin)))
                    with trio.move_on_after(1):
                        if (frame := await peer.frame()) is None:
                            break
                        assert frame.opcode is Opcode.PING
                        assert isinstance(frame.payload, bytes | bytearray)
                        await peer.stream.send_all(bytes(peer.make.pong(bytes(frame.payload))))

    began = trio.current_time()
    await dribbles(64)
    assert heard == [60]  # nobody else wanted the place
    heard.clear()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(wire.BIG_AT_ONCE):
            nursery.start_soon(dribbles, math.inf)
        await trio.sleep(1)
        async with one_of_many(trio.testing.memory_stream_pair(), hears, limits) as peer:
            await peer.upgraded()
            await peer.send(bytes(2 * wire.MIB))
            await peer.close()
            assert await peer.close_code() == 1000
    assert heard == [wire.BIG_S]
    assert lost.count("a big message incomplete after 10 s") == wire.BIG_AT_ONCE
    assert limits.big_messages.borrowed_tokens == 0


async def test_an_upstream_that_does_not_keep_up_loses_the_oldest_audio_and_no_control(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        leg.post("control 0")
        for number in range(70):
            leg.post(f"audio {number}", 1000.0)
        leg.post("control 1")
        assert (leg.unsent_audio_ms, leg.shed_audio_ms) == (60_000, 10_000)
        assert (await until_gone(leg)).code == 1000

    async with stalled(talk, wire.UPSTREAM_LEG) as peer:
        heard = [await peer.message() for _ in range(62)]
        assert heard == ["control 0", *(f"audio {n}" for n in range(10, 70)), "control 1"]
        await peer.close()
        assert await peer.close_code() == 1000


async def test_dropping_audio_leaves_the_rest_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def talk(leg: Leg) -> None:
        leg.post("first")
        await trio.testing.wait_all_tasks_blocked()  # it is with the stream
        for number in range(3):
            leg.post(bytes(320), 20.0)
            leg.post(f"text {number}")
        assert leg.unsent_audio_ms == 60.0
        assert leg.drop_audio() == 60.0
        assert leg.unsent_audio_ms == 0.0
        assert leg.drop_audio() == 0.0
        leg.post(b"new", 1.0)
        await leg.goodbye(1000)

    async with stalled(talk) as peer:
        heard = [await peer.message() for _ in range(5)]
        assert heard == ["first", "text 0", "text 1", "text 2", b"new"]
        assert await peer.close_code() == 1000
        await peer.close()


async def test_what_the_peer_does_not_take_can_be_dropped_as_soon_as_it_is_posted() -> None:
    big = os.urandom(1 << 23)  # more than the kernel takes at once

    async def talk(leg: Leg) -> None:
        def answer(_: wire.Frame) -> None:
            leg.post("first")
            leg.post(big)
            leg.post(b"audio", 20.0)
            assert leg.drop_audio() == 20.0
            leg.post("last")

        with contextlib.suppress(LegGone):
            await leg.hear(answer)

    async with listening(talk, limits=ROOMY) as server, dial(server.url) as leg:
        leg.post("?")
        assert [await leg.receive() for _ in range(3)] == ["first", big, "last"]


async def test_what_is_posted_in_one_turn_is_sent_together() -> None:
    Server.switched = True
    async with listening(echo) as server:
        peer = await server.connect()
        await peer.upgraded()
        await trio.testing.wait_all_tasks_blocked()
        said = [str(number) for number in range(5)]
        await peer.stream.send_all(b"".join(bytes(peer.make.send_data(one)) for one in said))
        together = FrameProtocol(True, [])
        together.receive_bytes(bytes(await peer.stream.receive_some()))
        assert [frame.payload for frame in together.received_frames()] == said


async def test_what_is_left_of_unsent_audio_is_exactly_nothing_when_all_is_sent() -> None:
    async def talk(leg: Leg) -> None:
        for _ in range(1000):
            leg.post(b"x", 0.1)
        await leg.receive()
        assert leg.unsent_audio_ms == 0.0

    async with listening(talk) as server, dial(server.url) as leg:
        for _ in range(1000):
            await leg.receive()
        leg.post("all heard")
        assert (await until_gone(leg)).code == 1000


async def test_a_goodbye_to_a_client_that_does_not_read_is_bounded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def leave(leg: Leg) -> None:
        leg.post("you will never read this")
        started = trio.current_time()
        await leg.goodbye(1000)
        assert round(trio.current_time() - started, 3) == wire.FLUSH_S

    async with stalled(leave):
        await trio.sleep(20)


async def test_a_dropped_leg_writes_nothing_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def leave(leg: Leg) -> None:
        leg.post("unread")
        leg.drop()
        with pytest.raises(LegGone, match="dropped"):
            await leg.receive()
        started = trio.current_time()
        await leg.goodbye(1000)  # harmless
        assert trio.current_time() == started

    async with stalled(leave) as peer:
        assert await peer.frame() is None


async def test_a_peer_that_pings_and_never_reads_costs_no_more_than_its_bound(
    autojump_clock: trio.testing.MockClock,
) -> None:
    legs: list[Leg] = []

    async def listen(leg: Leg) -> None:
        legs.append(leg)
        assert (await until_gone(leg)).code is None

    async with stalled(listen, Limits(ping_s=1000)) as peer:
        ping = bytes(peer.make.ping(bytes(125)))
        with contextlib.suppress(trio.BrokenResourceError):  # after 30 s: it does not read
            for _ in range(10_000):
                await peer.stream.send_all(ping)
        (leg,) = legs
        assert 64 * 1024 < leg.bytes_in < 256 * 1024


async def test_two_goodbyes_are_one(autojump_clock: trio.testing.MockClock) -> None:
    async def leave(leg: Leg) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leg.goodbye, 1000)
            nursery.start_soon(leg.goodbye, 1011)

    async with in_memory(leave) as peer:
        assert await peer.close_code() in (1000, 1011)
        assert await peer.frame() is None


async def test_a_receive_may_be_cancelled_and_nothing_is_lost() -> None:
    async with listening(echo) as server, dial(server.url) as leg:
        with trio.move_on_after(0) as scope:
            await leg.receive()
        assert scope.cancelled_caught
        leg.post("one")
        assert await leg.receive() == "one"


async def test_a_dial_that_takes_too_long_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # A real listener that never answers; its time is virtual as nothing else happens.
    async with nothing_left():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
        with pytest.raises(DialFailed, match="no answer to the upgrade in time"):
            async with dial(url):
                raise AssertionError
        await listener.aclose()


async def test_a_cancelled_dial_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with nothing_left():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
        with trio.move_on_after(1):
            async with dial(url, deadline_s=math.inf):
                raise AssertionError
        await listener.aclose()
