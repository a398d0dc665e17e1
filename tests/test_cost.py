"""What a frame costs in calls, which no load on the machine changes: the hot path must not grow
unseen. A bound is a little above what was counted when it was set: lower it when you can, raise it
only with the reason in the commit.
"""

import cProfile
import pstats
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
import trio

from relay import bridge, realtime, websocket
from relay.audio.formats import PCM24K
from relay.observer import About, Overview
from relay.session import Session
from relay.session.actions import SetFormats
from relay.wire import Leg
from tests.fakes import FakeUpstreams
from tests.scenes import answering, pcm, voice

FRAMES = 100
KEY = 0x12345678
CHUNK = bytes(range(240)) * 4
"""20 ms."""
DELTA = pcm(100, 7)
PLAIN = SetFormats(PCM24K, PCM24K, PCM24K, PCM24K, wav_header=False)
RESAMPLED = SetFormats(
    msgspec.structs.replace(PCM24K, rate=16000), PCM24K, PCM24K,
    msgspec.structs.replace(PCM24K, rate=16000), wav_header=False,
)  # fmt: skip


class Wired:
    """A leg that makes frames of what is posted, and sends them nowhere."""

    unsent_audio_ms = shed_audio_ms = 0.0

    def __init__(self, key: int | None) -> None:
        self.sent: list[bytes] = []
        self._key = key

    def post(self, frame: str | bytes, audio_ms: float = 0.0) -> None:
        self.sent.append(websocket.message(frame, self._key))


class Path:
    """All that happens to a frame between one socket and the other, in a conversation in which the
    agent is speaking."""

    def __init__(self, formats: SetFormats) -> None:
        self.client, self.upstream = Wired(None), Wired(KEY)
        session = cast("Session", answering().session)
        self._bridge = bridge._Bridge(
            cast("Leg", self.client),
            session,
            FakeUpstreams(),
            functions=bridge.no_functions,
            visit=None,
            observer=Overview().observer(cast("Leg", self.client), About(), 0.0),
            seat=None,
            wall=lambda: 0.0,
        )
        self._bridge._ears_and_mouth = bridge._EarsAndMouth(formats)
        self._bridge._upstreams[1] = leg = bridge._Upstream()
        leg.leg = cast("Leg", self.upstream)
        self._from_client = websocket.Incoming(masked=True, max_message=1 << 20)
        self._from_upstream = websocket.Incoming(masked=False, max_message=1 << 20)

    def up(self, data: bytes) -> None:
        self._from_client.feed(data)
        self._bridge._client_frame(self._from_client.messages.popleft())

    def down(self, data: bytes) -> None:
        self._from_upstream.feed(data)
        frame = self._from_upstream.messages.popleft()
        self._bridge._upstream_event(1, realtime.decode_server(frame))


def calls(step: Callable[[bytes], None], data: bytes) -> float:
    """Function calls for each frame, ours and those into C."""
    step(data)  # what happens once only is over
    profile = cProfile.Profile()
    with profile:
        for _ in range(FRAMES):
            step(data)
    counted: Any = pstats.Stats(profile)
    return float(counted.total_calls) / FRAMES


@pytest.mark.parametrize(("formats", "bound"), [(PLAIN, 54), (RESAMPLED, 75)])
async def test_a_frame_of_the_users_audio(formats: SetFormats, bound: float) -> None:
    path = Path(formats)
    count = calls(path.up, websocket.message(CHUNK, KEY))
    assert count <= bound
    assert len(path.upstream.sent) == FRAMES + 1
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("formats", "bound"), [(PLAIN, 63), (RESAMPLED, 84)])
async def test_a_delta_of_the_agents_audio(formats: SetFormats, bound: float) -> None:
    path = Path(formats)
    event = realtime.decode_server(msgspec.json.encode(voice("resp_1", "item_a1", DELTA)))
    assert isinstance(event, realtime.ResponseOutputAudioDelta)
    count = calls(path.down, websocket.message(realtime.encode(event), None))
    assert count <= bound
    assert len(path.client.sent) == FRAMES + 1
    await trio.lowlevel.checkpoint()
