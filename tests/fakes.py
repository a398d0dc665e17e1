"""fakes: stand-ins for what a bridge touches, with latency and in virtual time.

`FakeLeg` is a `wire.Leg` without a socket, both ends in one object; `test_bridge` holds it to the
real one. `FakeUpstreams` dials such legs, or fails to. `FakeSession` says what it was told and
answers from a script.
"""

import contextlib
import math
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import trio

from relay.session import SessionOptions
from relay.session.actions import Action, Target
from relay.wire import DialFailed, Frame, LegGone, Then


class FakeLeg:
    """What is posted is heard at once unless the peer is `stalled`; what the peer says arrives
    `latency_s` later."""

    def __init__(self, *, latency_s: float = 0.05, stalled: bool = False) -> None:
        self.heard: list[Frame] = []
        """What the peer has read."""
        self.farewell: tuple[float, int, str] | None = None
        """When the peer got our close frame, and what it said."""
        self.unsent_audio_ms = 0.0
        self.shed_audio_ms = 0.0
        self.behind = False
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = 0
        self._latency_s = latency_s
        self._stalled = stalled
        self._outbox: list[tuple[Frame, float]] = []
        self._gone: LegGone | None = None
        self._says, self._incoming = trio.open_memory_channel[tuple[float, Frame | LegGone]](
            math.inf
        )

    # -- as a leg ---------------------------------------------------------------------------------

    @property
    def unsent_frames(self) -> int:
        return len(self._outbox)

    async def receive(self) -> Frame:
        if self._gone is None:
            at, frame = await self._incoming.receive()
            if at > trio.current_time():  # else as a real leg: what has come is not cancelled away
                await trio.sleep_until(at)
            if not isinstance(frame, LegGone):
                self.frames_in += 1
                self.bytes_in += len(frame)
                return frame
            self._gone = frame
        raise self._gone

    async def hear(self, heard: Callable[[Frame], Then]) -> NoReturn:
        while True:
            if (then := heard(await self.receive())) is not None:
                await then()

    def post(self, frame: Frame, audio_ms: float = 0.0) -> None:
        if self._gone is None and self.farewell is None:
            self._outbox.append((frame, audio_ms))
            self.frames_out += 1
            self.bytes_out += len(frame)
            self._count()
            if not self._stalled:
                self.reads()

    async def caught_up(self) -> None:
        await trio.lowlevel.checkpoint()

    def drop_audio(self) -> float:
        dropped = sum(ms for _, ms in self._outbox)
        self._outbox = [entry for entry in self._outbox if not entry[1]]
        self._count()
        return dropped

    async def goodbye(self, code: int = 1000, reason: str = "", *, flush_s: float = 5.0) -> None:
        with trio.CancelScope(shield=True):
            if self._gone is None and self.farewell is None:
                if self._stalled:
                    await trio.sleep(flush_s)
                    self._gone = LegGone(None, "goodbye not written in time")
                    return
                self.farewell = trio.current_time(), code, reason
                await trio.sleep(2 * self._latency_s)
                self._says.send_nowait((trio.current_time(), LegGone(code, reason)))

    # -- as the peer ------------------------------------------------------------------------------

    def says(self, *frames: Frame) -> None:
        for frame in frames:
            self._says.send_nowait((trio.current_time() + self._latency_s, frame))

    def leaves(self, code: int | None = 1000, reason: str = "") -> None:
        gone = LegGone(code, reason)
        self._says.send_nowait((trio.current_time() + self._latency_s, gone))

    def reads(self) -> None:
        """Take what has been posted, and go on reading."""
        self._stalled = False
        self.heard += [frame for frame, _ in self._outbox]
        self._outbox.clear()
        self._count()

    def stalls(self) -> None:
        self._stalled = True

    def _count(self) -> None:
        self.unsent_audio_ms = sum(ms for _, ms in self._outbox)


class FakeUpstreams:
    """Dials: each answer is a leg or a failure, after `delay_s`; then fresh legs for ever."""

    def __init__(
        self, *answers: FakeLeg | DialFailed, delay_s: float = 0.1, stubborn: bool = False
    ) -> None:
        self.dialled: list[tuple[float, Target]] = []
        self.legs: list[FakeLeg] = []
        """Those that were opened."""
        self._answers = list(answers)
        self._delay_s = delay_s
        self._stubborn = stubborn  # succeeds although it was cancelled

    @contextlib.asynccontextmanager
    async def __call__(self, target: Target) -> AsyncIterator[Any]:
        self.dialled.append((trio.current_time(), target))
        answer = self._answers.pop(0) if self._answers else FakeLeg()
        with trio.CancelScope(shield=self._stubborn):
            await trio.sleep(self._delay_s)
        if isinstance(answer, DialFailed):
            raise answer
        self.legs.append(answer)
        try:
            yield answer
        finally:
            with trio.CancelScope(shield=True):
                await answer.goodbye(1000, flush_s=1.0)


class FakeSession:
    """A session of few words. `script` gives the answer to a method, by name: a list of actions,
    or a function of what it was told; where it says nothing, nothing is done."""

    def __init__(self, **script: Any) -> None:
        self.script = script
        self.options = SessionOptions()
        self.live: SimpleNamespace | None = None
        self.due = math.inf
        self.told: list[tuple[Any, ...]] = []
        """Each method called, with its arguments; the time is left out."""
        self.told_at: list[float] = []

    def live_on(self, leg: int) -> None:
        self.live = SimpleNamespace(number=leg)

    def _hear(self, name: str, now: float, *args: Any) -> Any:
        self.told.append((name, *args))
        self.told_at.append(now)
        answer = self.script.get(name)
        return answer(*args) if callable(answer) else answer

    def _does(self, name: str, now: float, *args: Any) -> list[Action]:
        return list(self._hear(name, now, *args) or [])

    def opened(self, now: float, wall: float) -> list[Action]:
        return self._does("opened", now, wall)

    def client_message(self, message: Any, now: float) -> list[Action]:
        return self._does("client_message", now, message)

    def client_audio(self, chunk: bytes, now: float) -> bytes | None:
        audio: bytes | None = self._hear("client_audio", now, chunk)
        return audio

    def client_media(self, chunk: bytes, now: float) -> list[Action]:
        return self._does("client_media", now, chunk)

    def client_too_big(self, size: int, now: float) -> list[Action]:
        return self._does("client_too_big", now, size)

    def client_backlog(self, unsent_ms: float) -> None:
        self._hear("client_backlog", trio.current_time(), unsent_ms)

    def client_gone(self, gone: Any, now: float) -> list[Action]:
        return self._does("client_gone", now, gone)

    def going_away(self, now: float) -> list[Action]:
        return self._does("going_away", now)

    def upstream_opened(self, leg: int, now: float, wall: float) -> list[Action]:
        return self._does("upstream_opened", now, leg, wall)

    def upstream_event(self, leg: int, event: Any, now: float) -> list[Action]:
        return self._does("upstream_event", now, leg, event)

    def upstream_audio(self, leg: int, delta: Any, now: float) -> bytes | None:
        audio: bytes | None = self._hear("upstream_audio", now, leg, delta)
        return audio

    def upstream_gone(self, leg: int, gone: Any, now: float) -> list[Action]:
        return self._does("upstream_gone", now, leg, gone)

    def endpoint_answered(self, call: str, output: str, ok: bool, now: float) -> list[Action]:
        return self._does("endpoint_answered", now, call, output, ok)

    def next_deadline(self) -> float:
        return self.due

    def deadline_passed(self, now: float) -> list[Action]:
        return self._does("deadline_passed", now)

    def names(self) -> list[str]:
        """What it was told, without the details."""
        return [name for name, *_ in self.told]
