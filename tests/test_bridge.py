"""The bridge in virtual time: fake legs with latency around it, a scripted session inside; at the
end real legs over memory streams, with peers that stall."""

import base64
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import structlog
import trio
import trio.testing
from trio.testing import MockClock

from relay import bridge, realtime, upkeep, voice_agent, wire
from relay.audio.formats import PCM24K, Encoding, Format
from relay.audio.wav import streaming_header
from relay.frames import Unknown, Unparsable
from relay.metering import Seat
from relay.session import Admission, ClientGone, Loss, Session, SessionOptions, UpstreamGone
from relay.session.actions import (
    AudioDropped,
    AudioEnds,
    AudioToClient,
    AudioToUpstream,
    CallEndpoint,
    CancelEndpoint,
    Close,
    Dial,
    Hangup,
    Note,
    Redeliver,
    SetFormats,
    Target,
    ToClient,
    ToUpstream,
)
from relay.settings import Endpoint, MappingOptions
from relay.wire import DialFailed, LegGone
from tests.fakes import FakeLeg, FakeSession, FakeUpstreams
from tests.test_wire import Peer, nothing_left

TARGET = Target(upstream=0, model="m")
PLAIN = SetFormats(PCM24K, PCM24K, PCM24K, PCM24K, wav_header=False)
PCM16K = Format(Encoding.LINEAR16, 16000)
WELCOME = voice_agent.Welcome(request_id="1")
KEEP_ALIVE = '{"type":"KeepAlive"}'
WALL = 1_800_000_000.0


def said(text: str) -> ToClient:
    return ToClient(voice_agent.ConversationText(role="assistant", content=text))


def texts(leg: FakeLeg) -> list[str]:
    """The content of each ConversationText that was heard; `type` of anything else."""
    told = [msgspec.json.decode(frame) for frame in leg.heard if isinstance(frame, str)]
    return [message.get("content", message["type"]) for message in told]


def types(leg: FakeLeg) -> list[str]:
    return [
        msgspec.json.decode(frame)["type"] if isinstance(frame, str) else "audio"
        for frame in leg.heard
    ]


def delta(audio: bytes, item: str = "i") -> str:
    return realtime.encode(
        realtime.ResponseOutputAudioDelta(
            event_id="e", response_id="r", item_id=item, output_index=0, content_index=0,
            delta=audio,
        )
    )  # fmt: skip


CLEAR = realtime.InputAudioBufferClear()
CLEARED = realtime.encode(realtime.InputAudioBufferCleared(event_id="e"))


class Bridged:
    """A bridge at work, and all that it touches."""

    def __init__(self, session: FakeSession, client: FakeLeg, upstreams: FakeUpstreams) -> None:
        self.session = session
        self.client = client
        self.upstreams = upstreams
        self.going_away = bridge.GoingAway()
        self.ended_at: float | None = None
        self.scope = trio.CancelScope()
        self.seat: Seat | None = None
        self.began = trio.current_time()

    @property
    def upstream(self) -> FakeLeg:
        return self.upstreams.legs[-1]

    def since(self, at: float) -> float:
        return round(at - self.began, 6)

    async def run(self, **options: Any) -> None:
        async with upkeep.opened() as kept_up:
            with self.scope, structlog.contextvars.bound_contextvars(session="this one"):
                await bridge.run(
                    cast(wire.Leg, self.client),
                    cast(Session, self.session),
                    self.upstreams,
                    self.going_away,
                    kept_up,
                    wall=lambda: WALL,
                    **options,
                )
                self.ended_at = self.since(trio.current_time())


@contextlib.asynccontextmanager
async def bridged(
    session: FakeSession,
    client: FakeLeg | None = None,
    upstreams: FakeUpstreams | None = None,
    **options: Any,
) -> AsyncIterator[Bridged]:
    """Runs until the client leaves, at the end of the block at the latest; leaves nothing."""
    at_work = Bridged(session, client or FakeLeg(), upstreams or FakeUpstreams())
    with trio.fail_after(1000):
        async with nothing_left(), trio.open_nursery() as nursery:
            nursery.start_soon(lambda: at_work.run(**options))
            yield at_work
            at_work.client.leaves()


async def settle(seconds: float = 1.0) -> None:
    """Let virtual time pass: everything under way arrives."""
    await trio.sleep(seconds)


# -- what the client says -----------------------------------------------------------------------


async def test_the_session_is_opened_before_the_client_is_heard(autojump_clock: MockClock) -> None:
    session = FakeSession(opened=[ToClient(WELCOME)])
    client = FakeLeg(latency_s=0)
    client.says(KEEP_ALIVE)
    async with bridged(session, client):
        await settle()
        assert session.told == [("opened", WALL), ("client_message", voice_agent.KeepAlive())]
        assert types(client) == ["Welcome"]


async def test_text_frames_are_decoded_and_what_is_no_message_is_told_as_such(
    autojump_clock: MockClock,
) -> None:
    session = FakeSession()
    async with bridged(session) as at_work:
        at_work.client.says('{"type":"InjectUserMessage","content":"hi"}', '{"type":"New"}', "no")
        await settle()
        heard = [args[0] for name, *args in session.told if name == "client_message"]
        assert heard[0] == voice_agent.InjectUserMessage(content="hi")
        assert isinstance(heard[1], Unknown)
        assert isinstance(heard[2], Unparsable)


@pytest.mark.conformance("C-114")
async def test_a_frame_above_the_limit_is_not_decoded_and_its_size_is_told_in_bytes(
    autojump_clock: MockClock,
) -> None:
    limit = SessionOptions().max_client_frame_bytes
    session = FakeSession()
    async with bridged(session) as at_work:
        at_work.client.says("x" * limit, bytes(limit), "é" * (limit // 2))
        at_work.client.says("x" * (limit + 1), bytes(limit + 1), "é" * (limit // 2 + 1))
        await settle()
        assert session.names()[1:] == [
            *("client_message", "client_media", "client_message"),
            *["client_too_big"] * 3,
        ]
        assert [args for name, *args in session.told if name == "client_too_big"] == [
            [limit + 1],
            [limit + 1],
            [limit + 2],
        ]


# -- audio in -----------------------------------------------------------------------------------


async def test_audio_before_the_formats_are_known_is_told_as_it_came(
    autojump_clock: MockClock,
) -> None:
    session = FakeSession()
    async with bridged(session) as at_work:
        at_work.client.says(b"\x01", b'{"type":"Settings"}')
        await settle()
        assert session.told[1:] == [
            ("client_media", b"\x01"),
            ("client_media", b'{"type":"Settings"}'),
        ]


def live_session(formats: SetFormats = PLAIN, **script: Any) -> FakeSession:
    """Has its formats and one live leg, number 1; takes all audio."""
    return FakeSession(
        **{
            "opened": [formats, Dial(1, TARGET)],
            "client_audio": lambda chunk: chunk,
            "upstream_audio": lambda leg, event: event.delta,
            **script,
        }
    )


async def test_audio_goes_through_the_ears_onto_the_live_leg(autojump_clock: MockClock) -> None:
    session = live_session(SetFormats(PCM16K, PCM24K, PCM24K, PCM24K, wav_header=False))
    async with bridged(session) as at_work:
        await settle()
        session.live_on(1)
        for _ in range(5):
            at_work.client.says(bytes(640))  # 20 ms at 16 kHz
        await settle()
        chunks = [args[0] for name, *args in session.told if name == "client_audio"]
        assert sum(map(len, chunks)) == pytest.approx(5 * 960, abs=120)  # the ears hold back 2 ms
        at_work.upstream.stalls()
        at_work.client.says(bytes(640))
        await settle()
        assert at_work.upstream.unsent_audio_ms == 20.0
        at_work.upstream.reads()
        chunks = [args[0] for name, *args in session.told if name == "client_audio"]
        events = [realtime.decode_client(frame) for frame in at_work.upstream.heard]
        assert events == [realtime.InputAudioBufferAppend(audio=chunk) for chunk in chunks]


async def test_audio_that_is_not_the_plain_case_is_told_to_the_session(
    autojump_clock: MockClock,
) -> None:
    session = live_session(
        client_audio=lambda chunk: None,
        client_media=lambda chunk: [AudioToUpstream(1, chunk * 2), ToUpstream(1, CLEAR)],
    )
    async with bridged(session) as at_work:
        await settle()
        at_work.client.says(b"\x01\x02")
        await settle()
        assert [realtime.decode_client(frame) for frame in at_work.upstream.heard] == [
            realtime.InputAudioBufferAppend(audio=b"\x01\x02\x01\x02"),
            CLEAR,
        ]


async def test_frames_from_before_settings_are_delivered_again_behind_all_other_actions(
    autojump_clock: MockClock,
) -> None:
    early: list[voice_agent.ClientMessage | bytes] = [b"\1\2\3", voice_agent.KeepAlive(), b"\4"]
    session = FakeSession(
        opened=[Redeliver(early), PLAIN, ToClient(WELCOME)],
        client_audio=lambda chunk: None,
        client_media=lambda chunk: [said(f"audio {chunk.hex()}")],
        client_message=lambda message: [said("message")],
    )
    async with bridged(session) as at_work:
        await settle()
        # Through the ears: the odd byte waits for its other half.
        assert texts(at_work.client) == ["Welcome", "audio 0102", "message", "audio 0304"]


# -- audio out ----------------------------------------------------------------------------------


async def test_agent_audio_goes_through_the_mouth_in_frames_that_every_client_takes(
    autojump_clock: MockClock,
) -> None:
    wide = Format(Encoding.LINEAR32, 48000)
    session = live_session(SetFormats(PCM24K, PCM24K, PCM24K, wide, wav_header=False))
    async with bridged(session, client := FakeLeg(stalled=True)) as at_work:
        await settle()
        at_work.upstream.says(delta(bytes(48000)))  # 1 s
        await settle()
        assert 990 < client.unsent_audio_ms <= 1000
        client.reads()
        assert all(isinstance(frame, bytes) for frame in client.heard)
        assert {len(frame) % 4 for frame in client.heard} == {0}
        assert 0 < min(map(len, client.heard)) <= max(map(len, client.heard)) <= 32 * 1024


async def test_an_audio_delta_that_is_not_the_plain_case_is_an_event_like_any_other(
    autojump_clock: MockClock,
) -> None:
    session = live_session(
        upstream_audio=lambda leg, event: None,
        upstream_event=lambda leg, event: [AudioToClient(event.delta), said("spoken")],
    )
    async with bridged(session) as at_work:
        await settle()
        at_work.upstream.says(delta(b"\1\2"))
        await settle()
        assert at_work.client.heard[0] == b"\1\2"
        assert texts(at_work.client) == ["spoken"]


@pytest.mark.conformance("C-122")
async def test_the_tail_of_an_utterance_comes_before_what_is_posted_next(
    autojump_clock: MockClock,
) -> None:
    rough = SetFormats(PCM24K, PCM24K, PCM24K, PCM16K, wav_header=False)
    done = [AudioEnds(), ToClient(voice_agent.AgentAudioDone())]
    session = live_session(rough, upstream_event=lambda leg, event: done)
    async with bridged(session) as at_work:
        await settle()
        at_work.upstream.says(delta(bytes(960)), CLEARED)
        await settle()
        assert types(at_work.client) == ["audio", "audio", "AgentAudioDone"]
        audio = [frame for frame in at_work.client.heard if isinstance(frame, bytes)]
        assert sum(map(len, audio)) == 640


async def test_each_utterance_begins_with_a_wav_header_if_that_is_asked_for(
    autojump_clock: MockClock,
) -> None:
    session = live_session(
        msgspec.structs.replace(PLAIN, wav_header=True),
        upstream_event=lambda leg, event: [AudioEnds()],
        client_message=lambda message: [AudioDropped()],
    )
    header = streaming_header(PCM24K)
    async with bridged(session) as at_work:
        await settle()
        at_work.upstream.says(delta(b"\1\1"), delta(b"\2\2"), CLEARED, CLEARED, delta(b"\3\3"))
        await settle()
        at_work.client.says(KEEP_ALIVE)
        await settle()
        at_work.upstream.says(delta(b"\4\4"))
        await settle()
        assert at_work.client.heard == [
            header + b"\1\1",
            b"\2\2",
            header + b"\3\3",
            header + b"\4\4",
        ]


async def test_what_is_dropped_is_not_heard_in_what_follows(autojump_clock: MockClock) -> None:
    rough = SetFormats(PCM24K, PCM24K, PCM24K, PCM16K, wav_header=False)
    session = live_session(rough, upstream_event=lambda leg, event: [AudioDropped()])
    async with bridged(session) as at_work:
        await settle()
        at_work.upstream.says(delta(b"\xff\x7f" * 480), CLEARED, delta(bytes(960)))
        await settle()
        loud, silent = at_work.client.heard
        assert isinstance(loud, bytes)
        assert isinstance(silent, bytes)
        assert any(loud)
        assert not any(silent)
        assert len(silent) == len(loud)


async def test_a_wav_header_does_not_count_as_audio(autojump_clock: MockClock) -> None:
    session = live_session(msgspec.structs.replace(PLAIN, wav_header=True))
    async with bridged(session, client := FakeLeg(stalled=True)) as at_work:
        await settle()
        at_work.upstream.says(delta(bytes(960)), delta(bytes(960)))
        await settle()
        assert client.unsent_audio_ms == 40.0


async def test_dropped_audio_is_taken_out_of_the_outbox_and_text_stays(
    autojump_clock: MockClock,
) -> None:
    session = live_session(
        upstream_event=lambda leg, event: [AudioDropped(), said("interrupted")],
        client_message=lambda message: [said("kept")],
    )
    async with bridged(session, client := FakeLeg(stalled=True)) as at_work:
        await settle()
        at_work.upstream.says(delta(bytes(960)), delta(bytes(960)))
        await settle()
        client.says(KEEP_ALIVE)
        await settle()
        at_work.upstream.says(CLEARED, CLEARED)
        await settle()
        client.reads()
        assert texts(client) == ["kept", "interrupted", "interrupted"]
        assert types(client) == ["ConversationText"] * 3
    backlog = [args[0] for name, *args in session.told if name == "client_backlog"]
    # Before each message or event while there is some, and once when there is none any more.
    assert backlog == [40.0, 40.0]
    assert session.names().index("client_backlog") == session.names().index("client_message") - 1


async def test_the_session_hears_once_that_the_backlog_is_gone(autojump_clock: MockClock) -> None:
    session = live_session()
    async with bridged(session, client := FakeLeg(stalled=True)) as at_work:
        await settle()
        at_work.upstream.says(delta(bytes(960)))
        await settle()
        client.says(KEEP_ALIVE)
        await settle()
        client.reads()
        client.says(KEEP_ALIVE, KEEP_ALIVE)
        await settle()
    backlog = [args[0] for name, *args in session.told if name == "client_backlog"]
    assert backlog == [20.0, 0.0]


# -- upstream legs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (DialFailed(401, "no key"), UpstreamGone(Loss.REFUSED, 401, None, "no key")),
        (DialFailed(None, "no route"), UpstreamGone(Loss.UNREACHABLE, None, None, "no route")),
    ],
)  # fmt: skip
async def test_a_dial_that_fails_is_told_with_its_cause(
    failure: DialFailed, told: UpstreamGone, autojump_clock: MockClock
) -> None:
    session = live_session()
    async with bridged(session, upstreams=FakeUpstreams(failure)) as at_work:
        await settle()
        assert session.told[-1] == ("upstream_gone", 1, told)
        assert at_work.since(session.told_at[-1]) == 0.1


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (1001, UpstreamGone(Loss.CLOSED, None, 1001, "why")),
        (None, UpstreamGone(Loss.LOST, None, None, "why")),
    ],
)
async def test_a_leg_that_ends_is_told_once_and_another_may_be_dialled(
    code: int | None, told: UpstreamGone, autojump_clock: MockClock
) -> None:
    session = live_session(upstream_gone=lambda leg, gone: [Dial(2, TARGET)])
    async with bridged(session) as at_work:
        await settle()
        at_work.upstream.leaves(code, "why")
        await settle()
        assert session.told[-2:] == [("upstream_gone", 1, told), ("upstream_opened", 2, WALL)]
        assert len(at_work.upstreams.legs) == 2


async def test_a_hung_up_dial_is_cancelled_and_nothing_is_told_of_it(
    autojump_clock: MockClock,
) -> None:
    session = live_session(client_message=[Hangup(1), Hangup(1), Hangup(7)])
    async with bridged(session, upstreams=FakeUpstreams(delay_s=5)) as at_work:
        at_work.client.says(KEEP_ALIVE)
        await settle(10)
        assert session.names() == ["opened", "client_message"]
        assert at_work.upstreams.legs == []


@pytest.mark.conformance("C-236")
async def test_a_late_success_is_hung_up_and_nothing_of_it_is_told(
    autojump_clock: MockClock,
) -> None:
    session = live_session(client_message=[Hangup(1), Dial(2, TARGET)])
    stubborn = FakeUpstreams(late := FakeLeg(), delay_s=5, stubborn=True)
    late.says(CLEARED)
    async with bridged(session, upstreams=stubborn) as at_work:
        at_work.client.says(KEEP_ALIVE)
        await settle(10)
        assert session.names() == ["opened", "client_message", "upstream_opened"]
        assert late.heard == []
        assert late.farewell is not None
        assert at_work.since(late.farewell[0]) == 5.0


@pytest.mark.conformance("C-242")
async def test_events_of_a_leg_that_was_hung_up_are_not_delivered(
    autojump_clock: MockClock,
) -> None:
    session = live_session(upstream_event=[Hangup(1), ToUpstream(1, CLEAR)])
    async with bridged(session) as at_work:
        await settle()
        leg = at_work.upstream
        leg.says(CLEARED, CLEARED, CLEARED)
        await settle()
        assert session.names().count("upstream_event") == 1
        assert leg.heard == []
        assert leg.farewell is not None
        assert leg.farewell[1] == 1000


@pytest.mark.conformance("C-242")
async def test_nor_are_those_that_had_arrived_when_the_leg_was_hung_up(
    autojump_clock: MockClock,
) -> None:
    orders = set()
    for _ in range(30):  # two tasks wake at the same moment, in any order
        session = live_session(client_message=[Hangup(1)])
        upstreams = FakeUpstreams(FakeLeg(latency_s=0))
        async with bridged(session, FakeLeg(latency_s=0), upstreams) as at_work:
            await settle()
            at_work.client.says(KEEP_ALIVE)
            at_work.upstream.says(CLEARED)
            await settle()
            orders.add(tuple(session.names()[2:]))
    assert orders == {("client_message",), ("upstream_event", "client_message")}


async def test_a_dial_that_fails_after_it_was_hung_up_is_not_told(
    autojump_clock: MockClock,
) -> None:
    session = live_session(client_message=[Hangup(1)])
    stubborn = FakeUpstreams(DialFailed(None, "too late"), delay_s=5, stubborn=True)
    async with bridged(session, upstreams=stubborn) as at_work:
        at_work.client.says(KEEP_ALIVE)
        await settle(10)
        assert session.names() == ["opened", "client_message"]


async def test_an_upstream_that_sheds_audio_is_logged_once(autojump_clock: MockClock) -> None:
    session = live_session()
    with structlog.testing.capture_logs() as lines:
        async with bridged(session) as at_work:
            await settle()
            session.live_on(1)
            at_work.upstream.shed_audio_ms = 20.0
            at_work.client.says(bytes(960), bytes(960))
            await settle()
    shed = [line for line in lines if "does not keep up" in line["event"]]
    assert [(line["log_level"], line["leg"]) for line in shed] == [("info", 1)]


# -- order --------------------------------------------------------------------------------------


async def test_steps_of_the_two_pumps_never_mix(autojump_clock: MockClock) -> None:
    def step(name: str) -> Callable[..., list[Any]]:
        numbers = iter(range(1000))

        def actions(*told: Any) -> list[Any]:
            number = next(numbers)
            return [
                said(f"{name} {number} begins"),
                ToUpstream(1, CLEAR),
                said(f"{name} {number} ends"),
            ]

        return actions

    session = live_session(client_message=step("message"), upstream_event=step("event"))
    async with bridged(session) as at_work:
        await settle()
        for _ in range(50):  # both at the same moments, again and again
            at_work.client.says(KEEP_ALIVE)
            at_work.upstream.says(CLEARED)
            await settle(0.01)
        await settle()
        heard = texts(at_work.client)
        assert len(heard) == 200
        for begins, ends in zip(heard[::2], heard[1::2], strict=True):
            assert ends == begins.replace("begins", "ends")
        for name in ("message", "event"):
            mine = [text for text in heard if text.startswith(name)]
            assert mine == [f"{name} {n} {what}" for n in range(50) for what in ("begins", "ends")]


# -- time ---------------------------------------------------------------------------------------


async def test_a_deadline_is_told_when_it_is_due_and_an_earlier_one_set_later_counts(
    autojump_clock: MockClock,
) -> None:
    session = FakeSession()

    def passed() -> list[Any]:
        session.due = math.inf
        return [said("late")]

    def sooner(message: Any) -> list[Any]:
        session.due = start + 3.0
        return []

    start = trio.current_time()
    session.script = {"deadline_passed": passed, "client_message": sooner}
    session.due = start + 100.0
    async with bridged(session) as at_work:
        await settle()
        at_work.client.says(KEEP_ALIVE)
        await settle(10)
        assert session.names() == ["opened", "client_message", "deadline_passed"]
        assert at_work.since(session.told_at[-1]) == 3.0
        assert texts(at_work.client) == ["late"]


async def test_a_deadline_that_was_put_off_is_told_of_when_it_passes(
    autojump_clock: MockClock,
) -> None:
    session = FakeSession()
    start = trio.current_time()
    rang: list[float] = []

    def passed() -> list[Any]:
        rang.append(round(trio.current_time() - start, 6))
        if trio.current_time() >= session.due:
            session.due = math.inf
        return []

    def later(message: Any) -> list[Any]:
        session.due = start + 20.0
        return []

    session.script = {"deadline_passed": passed, "client_message": later}
    session.due = start + 5.0
    async with bridged(session) as at_work:
        at_work.client.says(KEEP_ALIVE)
        await settle(50)
    assert rang == [20.0]


# -- endpoints ----------------------------------------------------------------------------------

ENDPOINT = Endpoint(url="https://e/", method="post", headers={})


def asks(call: str) -> CallEndpoint:
    return CallEndpoint(call, "f", "{}", ENDPOINT)


async def test_without_functions_every_endpoint_call_fails_in_words(
    autojump_clock: MockClock,
) -> None:
    session = FakeSession(opened=[asks("c1")])
    async with bridged(session):
        await settle()
        (answer,) = (args for name, *args in session.told if name == "endpoint_answered")
        assert answer == ["c1", "Functions on the server are not enabled.", False]


async def test_endpoint_answers_are_told_unless_the_call_was_given_up(
    autojump_clock: MockClock,
) -> None:
    async def slowly(call: CallEndpoint) -> tuple[str, bool]:
        with trio.CancelScope(shield=call.call == "stubborn"):
            await trio.sleep(5)
        return f"{call.name} of {call.call}", True

    session = FakeSession(
        opened=[asks("c1"), asks("c2"), asks("stubborn")],
        client_message=[CancelEndpoint("c2"), CancelEndpoint("stubborn"), CancelEndpoint("none")],
    )
    async with bridged(session, functions=slowly) as at_work:
        at_work.client.says(KEEP_ALIVE)
        await settle(10)
        assert [told for told in session.told if told[0] == "endpoint_answered"] == [
            ("endpoint_answered", "c1", "f of c1", True)
        ]
        assert at_work.ended_at is None


# -- ends ---------------------------------------------------------------------------------------


async def test_close_comes_behind_what_was_posted_and_hangs_up_upstream_meanwhile(
    autojump_clock: MockClock,
) -> None:
    session = live_session(
        client_message=[said("last words"), ToUpstream(1, CLEAR), Close(1011, "CODE")]
    )
    with structlog.testing.capture_logs() as lines:
        async with bridged(session) as at_work:
            await settle()
            session.due = trio.current_time() + 0.06  # would fall due during the goodbye
            upstream = at_work.upstream
            at_work.client.says(KEEP_ALIVE, KEEP_ALIVE, bytes(960))
            upstream.says(CLEARED)
            await settle(5)
            assert texts(at_work.client) == ["last words"]
            assert at_work.client.farewell is not None
            assert at_work.client.farewell[1:] == (1011, "CODE")
            assert types(upstream) == ["input_audio_buffer.clear"]
            assert upstream.farewell is not None
            assert upstream.farewell[0] == at_work.client.farewell[0]
            assert at_work.ended_at == 1.15
            # After Close the session is told nothing.
            assert session.names()[session.names().index("client_message") + 1 :] == []
    assert [line["event"] for line in lines] == ["closing"]


async def test_close_to_a_client_that_does_not_read_still_ends_soon_and_upstream_at_once(
    autojump_clock: MockClock,
) -> None:
    session = live_session(client_message=[Close(1000, "BYE")])
    async with bridged(session, client := FakeLeg(stalled=True)) as at_work:
        await settle()
        client.says(KEEP_ALIVE)
        await settle(20)
        assert at_work.ended_at is not None
        assert at_work.ended_at <= 1.05 + wire.FLUSH_S
        assert at_work.upstream.farewell is not None
        assert at_work.since(at_work.upstream.farewell[0]) == 1.05


@pytest.mark.conformance("C-190")
@pytest.mark.parametrize("code", [1000, 1005, 1009, None])
async def test_a_client_that_leaves_ends_it_all_within_a_second(
    code: int | None, autojump_clock: MockClock
) -> None:
    session = live_session()
    async with bridged(session, client := FakeLeg()) as at_work:
        await settle()
        session.live_on(1)
        client.says(bytes(960))
        client.leaves(code, "so long")
        await settle(5)
        assert session.told[-1] == ("client_gone", ClientGone(code, "so long"))
        assert at_work.ended_at is not None
        assert at_work.ended_at < 2.0
        upstream = at_work.upstream
        assert upstream.farewell is not None
        assert at_work.since(upstream.farewell[0]) == 1.05
        assert types(upstream) == ["input_audio_buffer.append"]


@pytest.mark.conformance("C-197")
@pytest.mark.parametrize(("code", "shown"), [(4000, ""), (None, "so long")])
async def test_the_words_of_a_clients_goodbye_are_not_logged(
    code: int | None, shown: str, autojump_clock: MockClock
) -> None:
    # The client's own words may be anything; without a close frame the words are the wire's.
    with structlog.testing.capture_logs() as lines:
        async with bridged(FakeSession(), client := FakeLeg()):
            client.leaves(code, "so long")
            await settle(5)
    (line,) = [line for line in lines if line["event"] == "client gone"]
    assert (line["code"], line["reason"]) == (code, shown)


@pytest.mark.conformance("C-197")
async def test_a_key_in_an_upstreams_goodbye_is_not_told(autojump_clock: MockClock) -> None:
    session = live_session()
    async with bridged(session) as at_work:
        await settle()
        at_work.upstream.leaves(3000, "wrong key: sk-proj-aB3_*** or ek_12345, try again")
        await settle()
        why = "wrong key: [key] or [key], try again"
        assert session.told[-1] == ("upstream_gone", 1, UpstreamGone(Loss.CLOSED, None, 3000, why))


async def test_a_client_that_leaves_during_the_dial_ends_the_dial(
    autojump_clock: MockClock,
) -> None:
    session = live_session()
    async with bridged(session, upstreams=FakeUpstreams(delay_s=9)) as at_work:
        at_work.client.leaves(None)
        await settle()
        assert at_work.ended_at == 0.05
        assert at_work.upstreams.legs == []


@pytest.mark.conformance("C-192")
async def test_a_daemon_that_stops_is_told_to_the_session(autojump_clock: MockClock) -> None:
    session = FakeSession(going_away=[said("closing"), Close(1001, "SERVER_GOING_AWAY")])
    async with bridged(session) as at_work:
        await settle()
        at_work.going_away.announce()
        await settle()
        assert session.names() == ["opened", "going_away"]
        assert at_work.client.farewell is not None
        assert at_work.client.farewell[1:] == (1001, "SERVER_GOING_AWAY")


@pytest.mark.conformance("C-192")
async def test_a_conversation_that_begins_meanwhile_is_told_as_well(
    autojump_clock: MockClock,
) -> None:
    session = FakeSession(going_away=[said("closing"), Close(1001, "SERVER_GOING_AWAY")])
    at_work = Bridged(session, FakeLeg(), FakeUpstreams())
    at_work.going_away.announce()
    with trio.fail_after(1):
        await at_work.run()
    assert session.names() == ["opened", "going_away"]


@pytest.mark.parametrize("who", ["deadline_passed", "going_away"])
async def test_what_another_task_tells_is_logged_in_the_conversations_name(
    who: str, autojump_clock: MockClock
) -> None:
    def noted() -> list[Any]:
        session.due = math.inf
        return [Note("info", "noted", {})]

    session = FakeSession(**{who: noted})
    if who == "deadline_passed":
        session.due = trio.current_time() + 1
    merged = structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars])
    with merged as lines:
        async with bridged(session) as at_work:
            await settle(2)
            at_work.going_away.announce()
    assert [each["session"] for each in lines if each["event"] == "noted"] == ["this one"]


BUGS: dict[str, Callable[[Bridged], None]] = {
    "opened": lambda at_work: None,
    "client_message": lambda at_work: at_work.client.says(KEEP_ALIVE),
    "client_audio": lambda at_work: at_work.client.says(bytes(2)),
    "client_media": lambda at_work: at_work.client.says(bytes(2)),
    "client_too_big": lambda at_work: at_work.client.says(bytes(1 << 21)),
    "client_gone": lambda at_work: at_work.client.leaves(),
    "upstream_opened": lambda at_work: None,
    "upstream_event": lambda at_work: at_work.upstream.says(CLEARED),
    "upstream_audio": lambda at_work: at_work.upstream.says(delta(bytes(2))),
    "upstream_gone": lambda at_work: at_work.upstream.leaves(),
    "endpoint_answered": lambda at_work: None,
    "deadline_passed": lambda at_work: None,
    "going_away": lambda at_work: at_work.going_away.announce(),
}


@pytest.mark.parametrize("method", BUGS)
async def test_a_bug_ends_its_conversation_in_words_and_raises_nowhere(
    method: str, autojump_clock: MockClock
) -> None:
    def bug(*told: Any) -> Any:
        raise ZeroDivisionError

    script: dict[str, Any] = {
        "opened": [PLAIN, Dial(1, TARGET), asks("c")],
        "client_audio": lambda chunk: None,
        method: bug,
    }
    session = FakeSession(**script)
    if method == "deadline_passed":
        session.due = trio.current_time() + 1
    with structlog.testing.capture_logs() as lines:
        async with bridged(session) as at_work:
            if method != "opened":
                await settle(0.5)
                BUGS[method](at_work)
            await settle(5)
            assert session.names().count(method) == 1
            assert session.names()[-1] == method
            assert at_work.ended_at is not None
            client = at_work.client
            if method == "client_gone":  # nobody is left to tell
                assert client.heard == []
            else:
                (error,) = map(msgspec.json.decode, client.heard)
                assert (error["type"], error["code"]) == ("Error", "INTERNAL_SERVER_ERROR")
                assert error["description"]
                assert client.farewell is not None
                assert client.farewell[1:] == (1011, "INTERNAL_SERVER_ERROR")
    (line,) = (line for line in lines if line["log_level"] == "error")
    assert line["exc_info"]


async def test_a_bug_in_the_functions_is_one_of_ours_too(autojump_clock: MockClock) -> None:
    async def broken(call: CallEndpoint) -> tuple[str, bool]:
        raise ZeroDivisionError

    session = FakeSession(opened=[asks("c1")])
    async with bridged(session, functions=broken) as at_work:
        await settle()
        assert types(at_work.client) == ["Error"]


async def test_notes_are_log_lines_of_their_level(autojump_clock: MockClock) -> None:
    notes = [Note("debug", "d", {"n": 1}), Note("info", "i"), Note("warning", "w", {"s": "x"})]
    session = FakeSession(opened=list(notes))
    with structlog.testing.capture_logs() as lines:
        async with bridged(session):
            await settle()
    assert lines[:3] == [
        {"log_level": "debug", "event": "d", "n": 1},
        {"log_level": "info", "event": "i"},
        {"log_level": "warning", "event": "w", "s": "x"},
    ]


@pytest.mark.conformance("C-195")
@pytest.mark.parametrize("after_ms", range(0, 500, 7))
async def test_cut_off_at_any_moment_nothing_is_left(
    after_ms: int, autojump_clock: MockClock
) -> None:
    session = live_session(
        opened=[PLAIN, ToClient(WELCOME), Dial(1, TARGET), Dial(2, TARGET), asks("c")],
        client_message=[ToUpstream(1, CLEAR), Hangup(2), CancelEndpoint("c")],
        upstream_event=[said("word"), AudioToClient(bytes(960))],
        upstream_gone=[Close(1011, "LOST")],
    )

    async def function(call: CallEndpoint) -> tuple[str, bool]:
        await trio.sleep(0.2)
        return "", True

    session.due = trio.current_time() + 0.33

    def passed() -> None:
        session.due = math.inf

    session.script["deadline_passed"] = passed
    async with bridged(session, functions=function) as at_work:
        at_work.scope.deadline = trio.current_time() + after_ms / 1000
        await settle(0.15)
        session.live_on(1)
        for leg in at_work.upstreams.legs:
            leg.says(CLEARED, delta(bytes(960)))
        at_work.client.says(bytes(960), KEEP_ALIVE)
        await settle(0.15)
        for leg in at_work.upstreams.legs:
            leg.leaves(None)
        await settle(5)
    assert all(leg.farewell or leg._gone for leg in at_work.upstreams.legs)


# -- real legs, over memory streams -------------------------------------------------------------


@pytest.mark.parametrize("real", [False, True])
async def test_the_fake_leg_is_a_leg(real: bool, autojump_clock: MockClock) -> None:
    """What the bridge relies on, of the fake and of the real one."""

    async def exercise(leg: wire.Leg) -> None:
        assert await leg.receive() == "hello"
        leg.post("first")
        await trio.sleep(1)
        leg.post(b"\1", 10.0)
        leg.post("second")
        leg.post(b"\2", 20.0)
        assert leg.unsent_audio_ms == 30.0
        assert leg.drop_audio() == 30.0
        assert leg.unsent_audio_ms == 0.0
        leg.post(b"\3", 5.0)
        with pytest.raises(LegGone) as gone:
            await leg.receive()
        assert (gone.value.code, gone.value.reason) == (4000, "bye")
        leg.post("to nobody")
        await leg.goodbye(1000)
        ended.append(trio.current_time())

    ended: list[float] = []
    if real:
        ours, theirs = trio.testing.lockstep_stream_pair()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                wire.serve_connection, ours, lambda request: wire.Accept(exercise), _raise
            )
            peer = Peer(theirs)
            await peer.upgraded()
            await peer.send("hello")
            await trio.sleep(5)
            heard = [await peer.message() for _ in range(3)]
            await peer.stream.send_all(bytes(peer.make.close(4000, "bye")))
            assert await peer.close_code() == 4000
            await theirs.aclose()
    else:
        fake = FakeLeg(stalled=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exercise, cast(wire.Leg, fake))
            fake.says("hello")
            await trio.sleep(5)
            fake.reads()
            fake.leaves(4000, "bye")
        heard = fake.heard
    assert heard == ["first", "second", b"\3"]
    assert ended


def _raise(group: ExceptionGroup[Exception]) -> None:
    raise group


class House:
    """The real session between real legs: a raw client, a raw upstream, both in memory. Streams
    are of the lockstep kind: nothing is taken that the peer does not read."""

    client: Peer
    upstream: Peer


@contextlib.asynccontextmanager
async def house(limits: wire.Limits = wire.CLIENT_LEG) -> AsyncIterator[House]:
    """From the first byte to a live upstream."""
    stands = House()
    client_side, client_stream = trio.testing.lockstep_stream_pair()
    upstream_side, upstream_stream = trio.testing.lockstep_stream_pair()
    stands.client = Peer(client_stream)
    stands.upstream = Peer(upstream_stream, client=False)

    def dial(target: Target) -> contextlib.AbstractAsyncContextManager[wire.Leg]:
        return wire.dial_over(upstream_side, "ws://upstream/", limits=wire.UPSTREAM_LEG)

    async def converse(leg: wire.Leg) -> None:
        session = Session(
            options=SessionOptions(), mapping=MappingOptions(), admission=Admission("r")
        )
        async with upkeep.opened() as kept_up:
            await bridge.run(leg, session, dial, bridge.GoingAway(), kept_up)

    async with nothing_left(), trio.open_nursery() as nursery:
        accept = wire.Accept(converse, limits=limits)
        nursery.start_soon(wire.serve_connection, client_side, lambda request: accept, _raise)
        await stands.client.upgraded()
        assert (await told(stands.client))["type"] == "Welcome"
        await stands.client.send(SETTINGS)
        await stands.upstream.accepted()
        await stands.upstream.send(SESSION_CREATED)
        configured = await told(stands.upstream)
        assert configured["type"] == "session.update"
        await stands.upstream.send(
            msgspec.json.encode(
                {"type": "session.updated", "event_id": "e2", "session": configured["session"]}
            ).decode()
        )
        assert (await told(stands.client))["type"] == "SettingsApplied"
        yield stands
        await client_stream.aclose()
        await upstream_stream.aclose()


SETTINGS = msgspec.json.encode(
    {
        "type": "Settings",
        "audio": {"input": {"encoding": "linear16", "sample_rate": 24000}},
        "agent": {"think": {"provider": {"type": "open_ai", "model": "gpt-4o"}}},
    }
).decode()
SESSION_CREATED = (
    '{"type":"session.created","event_id":"e1","session":{"type":"realtime","model":"m"}}'
)


async def told(peer: Peer) -> dict[str, Any]:
    message = msgspec.json.decode(await peer.message())
    assert isinstance(message, dict)
    return message


def speech(item: str, ms: int) -> list[str]:
    """A response that speaks, up to its audio."""
    audio = base64.b64encode(np.zeros(24 * ms, "<i2").tobytes()).decode()
    common = {"event_id": "e", "response_id": "resp_1"}
    return [
        msgspec.json.encode(event).decode()
        for event in (
            {
                "type": "response.created",
                "event_id": "e",
                "response": {
                    "id": "resp_1",
                    "object": "realtime.response",
                    "status": "in_progress",
                },
            },
            {
                **common,
                "type": "response.output_item.added",
                "output_index": 0,
                "item": {"id": item, "type": "message", "role": "assistant", "content": []},
            },
            {
                **common,
                "type": "response.output_audio.delta",
                "item_id": item,
                "output_index": 0,
                "content_index": 0,
                "delta": audio,
            },
        )
    ]


@pytest.mark.conformance("C-193")
async def test_while_the_upstream_does_not_read_pings_are_answered_and_the_agent_is_heard(
    autojump_clock: MockClock,
) -> None:
    async with house() as stands:
        for _ in range(100):  # none of it is read upstream
            await stands.client.send(bytes(4800))
        with trio.fail_after(1):
            await stands.client.ping(b"there?")
            frame = await stands.client.frame()
            assert frame is not None
            assert frame.payload == b"there?"
            for event in speech("item_1", 100):
                await stands.upstream.send(event)
            kinds = []
            while "audio" not in kinds:
                message = await stands.client.message()
                kinds.append("audio" if isinstance(message, bytes) else message)


async def test_while_the_client_does_not_read_its_microphone_reaches_the_upstream(
    autojump_clock: MockClock,
) -> None:
    async with house() as stands:
        for event in speech("item_1", 2000):  # none of it is read by the client
            await stands.upstream.send(event)
        with trio.fail_after(1):
            for number in range(50):
                await stands.client.send(bytes([number, number]) * 2400)
                append = await told(stands.upstream)
                assert append["type"] == "input_audio_buffer.append"
                assert base64.b64decode(append["audio"])[:1] == bytes([number])


@pytest.mark.conformance("C-193")
async def test_a_ping_is_answered_while_10_seconds_of_audio_wait_for_this_client(
    autojump_clock: MockClock,
) -> None:
    async with house() as stands:
        for event in speech("item_1", 10_000):
            await stands.upstream.send(event)
        with trio.fail_after(1):
            await stands.client.ping(b"there?")
            while True:
                frame = await stands.client.frame()
                assert frame is not None
                if frame.payload == b"there?":
                    break


async def test_an_event_with_minutes_of_audio_is_heard_whole_by_a_client_that_reads(
    autojump_clock: MockClock,
) -> None:
    async with house() as stands:
        begun, item, delta = speech("item_1", 150_000)
        for event in (begun, item, delta):
            await stands.upstream.send(event)
        heard = 0
        while heard < 150_000 * 48:
            message = await stands.client.message()
            heard += len(message) if isinstance(message, bytes) else 0
        assert heard == 150_000 * 48


async def test_an_upstream_far_ahead_of_a_slow_client_is_not_read_until_that_has_caught_up(
    autojump_clock: MockClock,
) -> None:
    async with house() as stands:
        begun, item, delta = speech("item_1", 1000)
        for event in (begun, item):
            await stands.upstream.send(event)
        sent, heard = 0, 0.0

        async def read() -> None:
            nonlocal heard
            while heard < 100:
                message = await stands.client.message()
                if isinstance(message, bytes):
                    heard += len(message) / 48_000
                    await trio.sleep(len(message) / 48_000 / 8)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for _ in range(100):
                await stands.upstream.send(delta)
                sent += 1
                assert sent - heard < 48
        assert round(heard) == 100


@pytest.mark.conformance("C-194", "C-190")
async def test_a_client_that_never_reads_is_dropped_in_time_and_the_upstream_told(
    autojump_clock: MockClock,
) -> None:
    async with house() as stands:
        began = trio.current_time()
        for event in speech("item_1", 2000):
            await stands.upstream.send(event)
        assert await stands.upstream.close_code() == 1000
        assert trio.current_time() - began < 35
