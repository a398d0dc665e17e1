"""tap: a WebSocket that only listens. It stands between two real programs and writes down every
frame that passes, in the order in which it passed.

It is made of another library than the relay, so a fault of the relay's cannot hide in it. It knows
no message.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import ClientConnection, connect
from websockets.trio.server import Server, ServerConnection, serve

PASSED_ON = ("authorization", "openai-beta", "x-deepgram-session-id")
"""Headers of the upgrade that mean something to the far end."""


class Record(msgspec.Struct):
    """One connection through the tap: what the dialling side sent, what the far end answered, and
    the close code of whoever closed first (1005: a close frame without one, 1006: none)."""

    sent: list[str | bytes] = []
    answered: list[str | bytes] = []
    closed_by_dialler: int | None = None
    closed_by_far_end: int | None = None
    ended: trio.Event = msgspec.field(default_factory=trio.Event)


class Tap(msgspec.Struct):
    url: str
    """Dial this instead of the far end; paths and queries are passed on."""
    records: list[Record] = []


@asynccontextmanager
async def tapped(far_end: str) -> AsyncIterator[Tap]:
    """A tap in front of `far_end` (ws://host:port, without a path). Its context ends when every
    connection through it has ended."""
    tap = Tap(url="")

    async def pass_on(near: ServerConnection) -> None:
        record = Record()
        tap.records.append(record)
        request = near.request
        assert request is not None
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        async with (
            connect(
                far_end + request.path,
                additional_headers=headers,
                compression=None,
                proxy=None,
                max_size=None,
                ping_interval=None,
            ) as far,
            trio.open_nursery() as nursery,
        ):

            async def upwards() -> None:
                code = await _copy(near, far, record.sent)
                if record.closed_by_far_end is None:
                    record.closed_by_dialler = code

            async def downwards() -> None:
                code = await _copy(far, near, record.answered)
                if record.closed_by_dialler is None:
                    record.closed_by_far_end = code

            nursery.start_soon(upwards)
            nursery.start_soon(downwards)
        record.ended.set()

    async with trio.open_nursery() as nursery:
        listening = partial(
            serve,
            pass_on,
            0,
            host="127.0.0.1",
            compression=None,
            max_size=None,
            ping_interval=None,
        )
        server: Server = await nursery.start(listening)
        port = server.listeners[0].socket.getsockname()[1]
        tap.url = f"ws://127.0.0.1:{port}"
        yield tap
        await server.aclose(close_connections=False)


async def _copy(
    source: ClientConnection | ServerConnection,
    sink: ClientConnection | ServerConnection,
    frames: list[str | bytes],
) -> int:
    """Copy until either side ends, then end the other likewise; returns the close code."""
    try:
        while True:
            frame = await source.recv()
            frames.append(frame)
            await sink.send(frame)
    except ConnectionClosed as closed:
        end = closed.rcvd
    if end is None:
        await trio.aclose_forcefully(sink.stream)
        return 1006
    await sink.aclose(1000 if end.code == 1005 else end.code, end.reason)
    return end.code
