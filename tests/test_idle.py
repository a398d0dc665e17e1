"""What a session takes that does nothing: tasks, and bytes of Python's. Counted in the relay as it
is served, with the peers here; no load on the machine changes it.
"""

import contextlib
import gc
import os
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator

import msgspec
import trio
import trio.lowlevel
import trio.testing
from wsproto.utilities import generate_accept_token

from relay import served, server, websocket
from relay.config import Config, Listen, Upstream
from relay.overload import OverloadTable

SESSIONS = 30
TASKS = 3
"""Who holds the connection and keeps its time, and two pumps."""
MOST_BYTES = 19_500
"""A little above what was counted when this was set. Lower it when you can, raise it only with the
reason in the commit."""

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SETTINGS = {
    "type": "Settings",
    "audio": {
        "input": {"encoding": "linear16", "sample_rate": 24000},
        "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
    },
    "agent": {
        "listen": {"provider": {"type": "deepgram", "model": "nova-3"}},
        "think": {"provider": {"type": "open_ai", "model": "gpt-realtime"}, "prompt": "Be kind."},
        "speak": {"provider": {"type": "open_ai", "model": "gpt-4o-mini-tts", "voice": "marin"}},
    },
}
CREATED = b'{"type":"session.created","event_id":"e","session":{"type":"realtime"}}'
UPDATED = b'{"type":"session.updated","event_id":"e","session":{"type":"realtime"}}'


class Relayed:
    """A relay at work, and the sockets of its peers, who have no task."""

    def __init__(self, address: tuple[str, int], upstream: socket.socket) -> None:
        self._address = address
        self._upstream = upstream
        self._ends: list[int] = []  # descriptors only, since what is here is counted as well

    async def session(self) -> None:
        """One more, with its Settings applied."""
        client = socket.create_connection(self._address)
        client.sendall(
            b"GET /v1/agent/converse HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: " + KEY.encode() + b"\r\n\r\n"
        )
        await heard(client, b"Welcome")
        client.sendall(websocket.message(msgspec.json.encode(SETTINGS).decode(), bytes(4)))
        await trio.lowlevel.wait_readable(self._upstream)
        upstream, _ = self._upstream.accept()
        head = await heard(upstream, b"\r\n\r\n")
        (key,) = re.findall(rb"Sec-WebSocket-Key: (\S+)", head)
        upstream.sendall(
            b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + generate_accept_token(key) + b"\r\n\r\n"
            + websocket.message(CREATED.decode(), None)
        )  # fmt: skip
        await trio.lowlevel.wait_readable(upstream)
        assert upstream.recv(1 << 16)  # session.update
        upstream.sendall(websocket.message(UPDATED.decode(), None))
        await heard(client, b"SettingsApplied")
        self._ends += client.detach(), upstream.detach()

    def leave(self) -> None:
        for end in self._ends:
            os.close(end)


async def heard(peer: socket.socket, what: bytes) -> bytes:
    data = b""
    while what not in data:
        await trio.lowlevel.wait_readable(peer)
        data += (some := peer.recv(1 << 16))
        assert some, data
    return data


@contextlib.asynccontextmanager
async def relayed() -> AsyncIterator[Relayed]:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        url = f"ws://127.0.0.1:{upstream.getsockname()[1]}"
        configured = Config(
            listen=Listen(port=0),
            upstream=Upstream(url=url),
            overload=OverloadTable(max_lag_ms=0),  # the machine may be
        )
        listeners = await server.open_listeners(configured, {})
        address = listeners[0].socket.getsockname()
        async with server.running(served.build(configured, {}), {}, listeners):
            relay = Relayed(address, upstream)
            # Until what is made once only is there; and Python lays out the instances of a class
            # for 30 attributes at first, and each next one for one less, down to what is used.
            for _ in range(SESSIONS):
                await relay.session()
            yield relay
            relay.leave()


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_an_idle_session_has_three_tasks() -> None:
    async with relayed() as relay:
        before = tasks()
        for _ in range(SESSIONS):
            await relay.session()
        await trio.testing.wait_all_tasks_blocked()
        assert tasks() - before == SESSIONS * TASKS


async def test_an_idle_session_takes_little_memory() -> None:
    def taken() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        async with relayed() as relay:
            before = taken()
            for _ in range(SESSIONS):
                await relay.session()
            per_session = (taken() - before) / SESSIONS
    finally:
        tracemalloc.stop()
    assert MOST_BYTES / 2 < per_session < MOST_BYTES
