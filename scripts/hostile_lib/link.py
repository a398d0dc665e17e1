"""link: a bad network between two ends of TCP, as far as a program can be one.

It listens, and passes on what comes, later, with pauses, not at all, or not any more. It knows
nothing of what it carries. Packets it cannot lose, for that is below TCP, which repeats them: what
is seen above of a lost one is that everything behind it waits for the repetition, and that it does.
"""

import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

PIECE = 1448
"""Bytes of a segment of Ethernet's size."""
REPEATED_S = 0.2
"""Linux's shortest wait before it repeats a segment; another round trip comes on top."""
HELD = 64
"""Pieces under way; whoever sends more has to wait."""


@dataclass
class Weather:
    """How the network is. May be changed at any time."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """At most so much more or less, and never out of order."""
    lost: float = 0.0
    """The share of segments that has to be repeated."""
    cut: bool = False
    """Nothing arrives, in either direction; what was sent waits."""


class Link:
    def __init__(self, port: int, weather: Weather, seed: int = 0) -> None:
        """To this port of the loopback."""
        self.weather = weather
        self.port = 0
        self._to = port
        self._random = random.Random(seed)
        self._ends: set[trio.SocketStream] = set()
        self._mended = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._connection, listeners)

    def cut(self) -> None:
        self.weather.cut = True
        self._mended = trio.Event()

    def mend(self) -> None:
        self.weather.cut = False
        self._mended.set()

    def reset(self) -> None:
        """Every connection ends with RST, on both sides."""
        for end in list(self._ends):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            trio.lowlevel.notify_closing(end.socket)
            end.socket.close()

    async def _connection(self, near: trio.SocketStream) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            far = await trio.open_tcp_stream("127.0.0.1", self._to)
            async with self._held(near, far), trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, near, far, nursery.cancel_scope)
                nursery.start_soon(self._carry, far, near, nursery.cancel_scope)

    @contextlib.asynccontextmanager
    async def _held(self, *ends: trio.SocketStream) -> AsyncIterator[None]:
        self._ends.update(ends)
        try:
            yield
        finally:
            self._ends.difference_update(ends)
            for end in ends:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(end)

    async def _carry(
        self, source: trio.SocketStream, sink: trio.SocketStream, end: trio.CancelScope
    ) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes]](HELD)
        broken = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

        async def arrive() -> None:
            async for due, data in receive:
                await trio.sleep_until(due)
                while self.weather.cut:
                    await self._mended.wait()
                await sink.send_all(data)

        with contextlib.suppress(*broken):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(arrive)
                    due = 0.0
                    async with send:
                        while data := bytes(await source.receive_some(PIECE)):
                            due = max(due, trio.current_time() + self._takes_s())
                            await send.send((due, data))
            except* broken:
                pass
        end.cancel()

    def _takes_s(self) -> float:
        weather = self.weather
        takes_s = weather.delay_s + self._random.uniform(-1, 1) * weather.jitter_s
        if self._random.random() < weather.lost:
            takes_s += REPEATED_S + 2 * weather.delay_s
        return max(0.0, takes_s)
