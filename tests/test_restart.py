"""Restart by socket activation: whoever connects is heard, by one process or by the next.

The test is the service manager: it holds the listening socket and hands it to one relay after the
other, in real processes.
"""

import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from relay import voice_agent, wire
from tests.test_cli import Running, message, process
from tests.test_server import AGENT

UPGRADE = (
    f"GET {AGENT} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as held:
        yield held


def activated(listener: socket.socket, *arguments: str) -> AbstractAsyncContextManager[Running]:
    """A relay as systemd would start it; systemd passes the socket as descriptor 3."""
    passed = listener.fileno()
    prefix = f"exec 3<&{passed}; export LISTEN_PID=$$ LISTEN_FDS=1"
    return process("--upstream", "simulator", *arguments, prefix=prefix, pass_fds=(passed,))


def connected(listener: socket.socket) -> AbstractAsyncContextManager[wire.Leg]:
    port = listener.getsockname()[1]
    return wire.dial(f"ws://127.0.0.1:{port}{AGENT}", deadline_s=20)


async def welcomed(stream: trio.SocketStream) -> None:
    """The upgrade was accepted and the conversation has begun."""
    head = b""
    with trio.fail_after(20):
        while b'"Welcome"' not in head:
            received = await stream.receive_some()
            assert received, head
            head += received
    assert head.startswith(b"HTTP/1.1 101 ")


async def test_who_connects_between_two_processes_is_heard_by_the_second(
    listener: socket.socket,
) -> None:
    address = listener.getsockname()
    async with activated(listener) as first:
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
    waiting = [await trio.open_tcp_stream(*address) for _ in range(20)]
    for stream in waiting:
        await stream.send_all(UPGRADE)
    async with activated(listener) as second:
        for stream in waiting:
            await welcomed(stream)
            await stream.aclose()
        second.signal(signal.SIGTERM)
        assert await second.ended() == 0


async def test_who_connects_while_the_first_still_drains_waits_for_the_second(
    listener: socket.socket,
) -> None:
    address = listener.getsockname()
    async with activated(listener) as first:
        async with connected(listener) as leg:
            await message(leg, voice_agent.Welcome)
            accepted = await trio.open_tcp_stream(*address)
            async with connected(listener) as behind:  # so the one before it has been accepted
                await message(behind, voice_agent.Welcome)
                first.signal(signal.SIGTERM)
                await first.until("draining")
                waiting = await trio.open_tcp_stream(*address)
                await waiting.send_all(UPGRADE)
            await accepted.send_all(UPGRADE)
            await welcomed(accepted)  # by the first, which is the one that has it
            await accepted.aclose()
        assert await first.ended() == 0
        assert first.lines[-1]["event"] == "drained"
    async with activated(listener):
        await welcomed(waiting)
        await waiting.aclose()


async def test_clients_that_come_all_the_time_notice_nothing_of_three_restarts(
    listener: socket.socket,
) -> None:
    heard = 0
    restarted = False
    all_heard = trio.Event()

    async def client() -> None:
        nonlocal heard
        while not restarted:
            async with connected(listener) as leg:
                await message(leg, voice_agent.Welcome)
                heard += 1

    async def clients() -> None:
        async with trio.open_nursery() as crowd:
            for _ in range(8):
                crowd.start_soon(client)
        all_heard.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(clients)
        for _ in range(3):
            async with activated(listener) as relay:
                for _ in range(10):
                    await relay.until("connected")
                relay.signal(signal.SIGTERM)
                assert await relay.ended() == 0
        restarted = True
        async with activated(listener):  # for those who wait by now
            await all_heard.wait()
    assert heard >= 30
