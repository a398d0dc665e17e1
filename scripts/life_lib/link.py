"""link: a WebSocket without a socket, on virtual time.

What is posted at one end arrives at the other a little later, in order, until either end says
goodbye or the line is cut. Nothing is ever unsent: how slow peers are borne is no matter of lives.
"""

import math
from collections.abc import Callable
from typing import NoReturn

import trio

from relay.wire import Frame, LegGone, Then


class End:
    """One end, with the doors of a `wire.Leg`."""

    unsent_audio_ms = shed_audio_ms = 0.0
    unsent_frames = 0
    behind = False

    def __init__(self, latency_s: float) -> None:
        self.peer: End
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = 0
        self._latency_s = latency_s
        self._gone: LegGone | None = None
        self._sends, self._arrives = trio.open_memory_channel[tuple[float, Frame | LegGone]](
            math.inf
        )

    @property
    def is_open(self) -> bool:
        return self._gone is None

    async def receive(self) -> Frame:
        while self._gone is None:
            at, frame = await self._arrives.receive()
            if at > trio.current_time():
                await trio.sleep_until(at)
            if isinstance(frame, LegGone):
                self._gone = self._gone or frame
            elif self._gone is None:
                self.frames_in += 1
                self.bytes_in += len(frame)
                return frame
        await trio.lowlevel.checkpoint()
        raise self._gone

    async def hear(self, heard: Callable[[Frame], Then]) -> NoReturn:
        while True:
            if (then := heard(await self.receive())) is not None:
                await then()

    def post(self, frame: Frame, audio_ms: float = 0.0) -> None:
        if self._gone is None:
            self.frames_out += 1
            self.bytes_out += len(frame)
            self.peer._comes(frame)

    def drop_audio(self) -> float:
        return 0.0

    async def caught_up(self) -> None:
        await trio.lowlevel.checkpoint()

    async def goodbye(self, code: int = 1000, reason: str = "", *, flush_s: float = 5.0) -> None:
        self.close(code, reason)
        await trio.lowlevel.checkpoint()

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self._gone is None:
            self._gone = LegGone(code, reason)
            self.peer._comes(self._gone)

    def drop(self) -> None:
        """The line is cut: what is on the way is lost, and both ends notice."""
        for end in (self, self.peer):
            if end._gone is None:
                end._gone = LegGone(None, "cut")
                end._comes(end._gone)

    def _comes(self, frame: Frame | LegGone) -> None:
        self._sends.send_nowait((trio.current_time() + self._latency_s, frame))


def link(latency_s: float) -> tuple[End, End]:
    """Both ends of a line."""
    one, other = End(latency_s), End(latency_s)
    one.peer, other.peer = other, one
    return one, other
