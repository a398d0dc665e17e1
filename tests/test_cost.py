"""What a frame costs in calls, which no load on the machine changes: the hot path must not grow
unseen. A bound is a little above what was counted when it was set: lower it when you can, raise it
only with the reason in the commit.
"""

import contextlib
import cProfile
import pstats
import select
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing

from relay import bridge, realtime, upkeep, websocket, wire
from relay.audio.formats import PCM24K
from relay.lines import line_over
from relay.observer import About, Overview
from relay.session import Session
from relay.session.actions import SetFormats
from relay.switchboard import Switchboard
from relay.wire import Leg
from tests.fakes import FakeUpstreams
from tests.scenes import answering, pcm, voice

FRAMES = 100
KEY = b"\x12\x34\x56\x78"
CHUNK = bytes(range(240)) * 4
"""20 ms."""
DELTA = pcm(100, 7)
PLAIN = SetFormats(PCM24K, PCM24K, PCM24K, PCM24K, wav_header=False)
RESAMPLED = SetFormats(
    msgspec.structs.replace(PCM24K, rate=16000), PCM24K, PCM24K,
    msgspec.structs.replace(PCM24K, rate=16000), wav_header=False,
)  # fmt: skip


class Path:
    """All that happens to a frame between one socket and the other, in a conversation in which the
    agent is speaking: from the turn of the switchboard in which it is read to its being sent."""

    def __init__(
        self,
        switched: Switchboard,
        sockets: tuple[socket.socket, socket.socket],
        client: Leg,
        upstream: Leg,
        formats: SetFormats,
    ) -> None:
        self.client, self.upstream = sockets
        self._switched = switched
        session = cast("Session", answering().session)
        self._bridge = bridge._Bridge(
            client,
            session,
            FakeUpstreams(),
            switched.upkeep,
            functions=bridge.no_functions,
            visit=None,
            observer=Overview().observer(client, About(), 0.0),
            seat=None,
            wall=lambda: 0.0,
        )
        self._bridge._ears_and_mouth = bridge._EarsAndMouth(formats)
        self._bridge._upstreams[1] = leg = bridge._Upstream(self._bridge, 1)
        leg.leg = upstream

    async def hear(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._bridge._hear_client)
            upstream = self._bridge._upstreams[1]
            assert upstream.leg is not None
            nursery.start_soon(upstream.leg.hear, upstream.heard)

    def up(self, data: bytes) -> None:
        self.client.send(data)
        self._switched._turn()
        assert len(self.upstream.recv(1 << 16)) > len(CHUNK)

    def down(self, data: bytes) -> None:
        self.upstream.send(data)
        self._switched._turn()
        assert self.client.recv(1 << 16)


@contextlib.asynccontextmanager
async def path(formats: SetFormats) -> AsyncIterator[Path]:
    async with contextlib.AsyncExitStack() as stack:
        kept_up = await stack.enter_async_context(upkeep.opened())
        switched = Switchboard(stack.enter_context(contextlib.closing(select.epoll())), kept_up)
        legs, ends = [], []
        for client in (False, True):
            ours, theirs = socket.socketpair()
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            opened = wire._Opened(None, b"")
            line = line_over(stream)
            leg = Leg(line, wire.CLIENT_LEG, kept_up, switched, client=client, opened=opened)
            await stack.enter_async_context(leg)
            ends.append(stack.enter_context(theirs))
            legs.append(leg)
        nursery = await stack.enter_async_context(trio.open_nursery())
        between = Path(switched, (ends[0], ends[1]), legs[0], legs[1], formats)
        nursery.start_soon(between.hear)
        await trio.testing.wait_all_tasks_blocked()
        yield between
        for leg in legs:
            leg.drop()
        nursery.cancel_scope.cancel()


def calls(step: Callable[[bytes], None], data: bytes) -> float:
    """Function calls for each frame, ours and those into C; some six are of the test itself."""
    step(data)  # what happens once only is over
    profile = cProfile.Profile()
    with profile:
        for _ in range(FRAMES):
            step(data)
    counted: Any = pstats.Stats(profile)
    return float(counted.total_calls) / FRAMES


@pytest.mark.parametrize(("formats", "bound"), [(PLAIN, 73), (RESAMPLED, 89)])
async def test_a_frame_of_the_users_audio(formats: SetFormats, bound: float) -> None:
    async with path(formats) as between:
        assert calls(between.up, websocket.message(CHUNK, KEY)) <= bound


@pytest.mark.parametrize(("formats", "bound"), [(PLAIN, 80), (RESAMPLED, 96)])
async def test_a_delta_of_the_agents_audio(formats: SetFormats, bound: float) -> None:
    event = realtime.decode_server(msgspec.json.encode(voice("resp_1", "item_a1", DELTA)))
    assert isinstance(event, realtime.ResponseOutputAudioDelta)
    async with path(formats) as between:
        assert calls(between.down, websocket.message(realtime.encode(event), None)) <= bound
