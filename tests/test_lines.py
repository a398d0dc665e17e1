"""lines, over real sockets: each is a stream, and sends at once what can be sent at once."""

import contextlib
import functools
import ssl
import struct
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
import trustme

from relay.lines import Line, LineListener, SocketLine, StreamLine, TlsLine, line_over

BIG = bytes(range(256)) * (1 << 15)
"""8 MiB: more than the kernel takes at once."""
QUICK = 1.0
KINDS = pytest.mark.parametrize("kind", ["socket", "stream", "tls"])


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and that of a client who trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ours = await trio.open_tcp_stream(*listener.socket.getsockname())
        theirs = await listener.accept()
    try:
        yield ours, theirs
    finally:
        await trio.aclose_forcefully(ours)
        await trio.aclose_forcefully(theirs)


@contextlib.asynccontextmanager
async def lined(kind: str) -> AsyncIterator[tuple[Line, trio.abc.Stream]]:
    """A line, and a stream of trio's at the other end."""
    async with connected() as (ours, theirs):
        peer: trio.abc.Stream = theirs
        line: Line
        if kind == "tls":
            peer = trio.SSLStream(theirs, contexts()[0], server_side=True, https_compatible=True)
            line = TlsLine(ours, contexts()[1], "127.0.0.1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.do_handshake)
                await line.handshake()
        else:
            line = line_over(ours) if kind == "socket" else StreamLine(ours)
        try:
            yield line, peer
        finally:
            await trio.aclose_forcefully(line)


async def read(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := await stream.receive_some()):
        data += more
    return data


def test_a_socket_is_driven_directly_and_any_other_stream_through_itself() -> None:
    async def check() -> None:
        async with connected() as (ours, _):
            line = line_over(ours)
            assert type(line) is SocketLine
            assert line_over(line) is line
            await line.aclose()
        memory, _ = trio.testing.memory_stream_pair()
        assert type(line_over(memory)) is StreamLine

    trio.run(check)


async def test_a_listener_accepts_lines_and_tls_may_take_one_over() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with LineListener(listener) as lines:
        ours = await trio.open_tcp_stream(*listener.socket.getsockname())
        accepted = await lines.accept()
    async with ours, TlsLine(accepted, contexts()[0]) as secure:
        await accepted.aclose()  # of no meaning any more, whoever has it
        client = trio.SSLStream(ours, contexts()[1], server_hostname="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            await secure.handshake()


@KINDS
async def test_what_is_sent_arrives_and_what_comes_is_received(kind: str) -> None:
    async with lined(kind) as (line, peer):
        for data in (b"x", bytes(1330), bytes(range(256)) * 200):
            await line.send_all(data)
            assert await read(peer, len(data)) == data
            await peer.send_all(data)
            assert await read(line, len(data)) == data
        assert line.bytes_in >= 52_531
        assert line.bytes_out >= 52_531


@KINDS
async def test_what_cannot_be_sent_at_once_is_left_and_follows_in_order(kind: str) -> None:
    async with lined(kind) as (line, peer), trio.open_nursery() as nursery:
        rest = line.begin(BIG)
        assert rest

        async def go_on() -> None:
            await line.finish(rest)
            await line.send_all(b"and on")

        nursery.start_soon(go_on)
        assert await read(peer, len(BIG) + 6) == BIG + b"and on"


@KINDS
async def test_the_peers_end_is_an_end_and_so_is_ours(kind: str) -> None:
    async with lined(kind) as (line, peer):
        await line.send_eof()
        assert await peer.receive_some() == b""
        await peer.aclose()
        assert await line.receive_some() == b""


async def test_under_tls_nothing_waits_behind_what_is_taken() -> None:
    async with lined("tls") as (line, peer):
        assert isinstance(peer, trio.SSLStream)
        for record in (b"three ", b"records "):
            peer._ssl_object.write(record)  # to be sent with the next
        await peer.send_all(b"at once")
        assert await line.receive_some() == b"three records at once"


async def test_under_tls_an_end_without_a_goodbye_is_one_too() -> None:
    async with lined("tls") as (line, peer):
        await peer.send_all(b"last words")
        assert isinstance(peer, trio.SSLStream)
        await peer.transport_stream.aclose()
        assert await read(line, 99) == b"last words"


@KINDS
async def test_a_reset_breaks_it_both_ways(kind: str) -> None:
    async with lined(kind) as (line, peer):
        socket = peer.transport_stream if isinstance(peer, trio.SSLStream) else peer
        assert isinstance(socket, trio.SocketStream)
        socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        await socket.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await line.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await line.send_all(BIG)


@KINDS
async def test_closing_wakes_who_receives_and_nothing_touches_the_socket_again(kind: str) -> None:
    async with lined(kind) as (line, _):

        async def receives() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await line.receive_some()

        with trio.fail_after(QUICK):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receives)
                await trio.testing.wait_all_tasks_blocked()
                await line.aclose()
        for _ in range(2):
            with pytest.raises(trio.ClosedResourceError):
                await line.receive_some()
            with pytest.raises(trio.ClosedResourceError):
                await line.send_all(b"?")
            await line.aclose()


@KINDS
async def test_a_cancelled_receive_loses_nothing(kind: str) -> None:
    async with lined(kind) as (line, peer):
        with trio.move_on_after(0):
            await line.receive_some()
        await peer.send_all(b"still here")
        assert await read(line, 10) == b"still here"


async def test_a_server_that_hangs_up_in_the_tls_handshake_is_noticed() -> None:
    async with connected() as (ours, theirs):
        line = TlsLine(ours, contexts()[1], "127.0.0.1")
        await theirs.aclose()
        with trio.fail_after(QUICK), pytest.raises(trio.BrokenResourceError):
            await line.handshake()
        await line.aclose()


async def test_a_name_that_the_certificate_does_not_have_breaks_the_handshake() -> None:
    async with connected() as (ours, theirs):
        line = TlsLine(ours, contexts()[1], "example.com")
        server = trio.SSLStream(theirs, contexts()[0], server_side=True)

        async def is_told() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await server.do_handshake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(is_told)
            with pytest.raises(trio.BrokenResourceError) as broken:
                await line.handshake()
        assert isinstance(broken.value.__cause__, ssl.SSLCertVerificationError)
        await line.aclose()
