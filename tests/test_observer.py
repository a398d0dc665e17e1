"""What happens on a connection, and the figures that come of it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from relay import realtime, voice_agent
from relay.frames import Unknown, Unparsable
from relay.metrics import ENDS, ERRORS, OTHER, WARNINGS
from relay.observer import MOST_PENDING, About, Observer, Overview
from relay.session.actions import Action, AudioDropped, Close, Dial, Note, ToClient, ToUpstream
from relay.wire import DialFailed
from tests.fakes import FakeLeg, FakeSession, FakeUpstreams
from tests.test_bridge import CLEAR, CLEARED, KEEP_ALIVE, TARGET, WELCOME, bridged, said, settle
from tests.test_metrics import parsed


class Seen:
    """An observer of one connection, and what has come of it."""

    def __init__(self) -> None:
        self.overview = Overview()
        self.client = FakeLeg()
        about = About(session="s1", key="laptop", dialect="deepgram", peer="127.0.0.1")
        self.observer = self.overview.observer(self.client, about, 0.0)

    def performs(self, *actions: Action, at: float = 0.0) -> None:
        self.observer.performs(actions, at)

    def tells(self, *messages: voice_agent.ServerMessage, at: float = 0.0) -> None:
        self.performs(*map(ToClient, messages), at=at)

    @property
    def figures(self) -> dict[str, float]:
        return parsed(self.overview.snapshot())

    def changes(self) -> dict[str, float]:
        """The figures that are not 0, without buckets and without those of messages."""
        return {
            name.removeprefix("relay_"): value
            for name, value in self.figures.items()
            if value and "_bucket" not in name and "_messages_" not in name
            and "_events_" not in name and name != "relay_sessions"
        }  # fmt: skip


@pytest.fixture
async def seen() -> Seen:
    return Seen()


def call(number: int, *, client_side: bool = True) -> voice_agent.FunctionCall:
    return voice_agent.FunctionCall(
        id=f"call_{number}", name="f", arguments="{}", client_side=client_side
    )


def result(number: int) -> Action:
    item = realtime.Item(type="function_call_output", call_id=f"call_{number}", output="{}")
    return ToUpstream(1, realtime.ConversationItemCreate(item=item))


SPEECH = realtime.InputAudioBufferSpeechStarted(event_id="e", item_id="i", audio_start_ms=0)


async def test_settings_take_as_long_as_until_the_client_is_told(seen: Seen) -> None:
    given = msgspec.convert({"type": "Settings", "audio": {}, "agent": {}}, voice_agent.Settings)
    seen.observer.client_message(given, 1.0)
    seen.tells(WELCOME, at=1.5)
    assert seen.overview.live(2.0)[0].settings_applied is False
    seen.tells(voice_agent.SettingsApplied(), at=1.75)
    seen.tells(voice_agent.SettingsApplied(), at=9.0)  # on another connection's Settings
    assert seen.changes() == {
        "settings_applied_seconds_count": 1,
        "settings_applied_seconds_sum": 0.75,
    }
    assert seen.overview.live(2.0)[0].settings_applied is True


async def test_the_latencies_of_a_turn_are_those_that_the_client_is_told(seen: Seen) -> None:
    seen.tells(
        voice_agent.LatencyReport(
            stt_latency=0.25, ttt_token_latency=0.5, tts_latency=0.125, total_latency=0.625
        )
    )
    seen.tells(voice_agent.LatencyReport(ttt_token_latency=0.25))
    assert seen.changes() == {
        "transcription_seconds_count": 1,
        "transcription_seconds_sum": 0.25,
        "first_token_seconds_count": 2,
        "first_token_seconds_sum": 0.75,
        "first_audio_seconds_count": 1,
        "first_audio_seconds_sum": 0.625,
    }
    assert seen.overview.live(0.0)[0].turns == 2


async def test_a_round_of_calls_lasts_from_the_first_to_the_last_result(seen: Seen) -> None:
    seen.tells(voice_agent.FunctionCallRequest(functions=[call(1)]), at=10.0)
    seen.tells(voice_agent.FunctionCallRequest(functions=[call(2, client_side=False)]), at=11.0)
    seen.performs(result(1), at=12.0)
    seen.performs(result(1), at=12.5)  # sent again
    assert "relay_function_round_seconds_sum" not in seen.changes()
    seen.performs(result(2), at=13.0)
    seen.performs(result(7), at=14.0)  # of a call that was never announced
    assert seen.changes() == {
        "function_calls_total by=client outcome=answered": 1,
        "function_calls_total by=relay outcome=answered": 1,
        "function_round_seconds_count": 1,
        "function_round_seconds_sum": 3.0,
    }


async def test_a_cancelled_call_is_closed_upstream_and_counts_once(seen: Seen) -> None:
    seen.tells(voice_agent.FunctionCallRequest(functions=[call(1)]))
    gone = voice_agent.CancelledFunction(id="call_1", name="f")
    seen.performs(ToClient(voice_agent.FunctionCallCancelled(functions=[gone])), result(1), at=2.0)
    assert seen.changes() == {
        "function_calls_total by=client outcome=cancelled": 1,
        "function_round_seconds_count": 1,
        "function_round_seconds_sum": 2.0,
    }


async def test_calls_without_end_cost_no_memory(seen: Seen) -> None:
    many = range(MOST_PENDING + 50)
    seen.tells(voice_agent.FunctionCallRequest(functions=[call(n) for n in many]))
    seen.performs(*(result(n) for n in many))
    answered = seen.changes()["function_calls_total by=client outcome=answered"]
    assert answered == MOST_PENDING


async def test_speech_that_cuts_the_agent_off_is_a_barge_in(seen: Seen) -> None:
    seen.performs(
        AudioDropped(), ToClient(voice_agent.UserStartedSpeaking())
    )  # interrupted by text
    seen.observer.upstream_event(SPEECH)
    seen.performs(ToClient(voice_agent.UserStartedSpeaking()))  # into silence
    seen.performs(AudioDropped())
    assert seen.changes() == {}
    seen.observer.upstream_event(SPEECH)
    seen.performs(AudioDropped(), ToClient(voice_agent.UserStartedSpeaking()))
    assert seen.changes() == {"barge_ins_total": 1}
    assert seen.overview.live(0.0)[0].barge_ins == 1


async def test_an_upstream_is_exchanged_for_a_reason(seen: Seen) -> None:
    switched = Note("info", "upstream_switched", {"leg": 2, "items": 3})
    seen.performs(switched)
    seen.performs(Note("warning", "upstream_lost", {"how": "lost", "code": None}))
    seen.performs(switched)
    seen.performs(switched)
    seen.observer.resumed(was_connected=False)
    seen.performs(switched)
    seen.observer.resumed(was_connected=True)
    assert seen.changes() == {
        "upstream_switches_total why=planned": 2,
        "upstream_switches_total why=loss": 1,
        "upstream_switches_total why=resume": 1,
        "upstream_losses_total how=lost": 1,
        "resumes_total where=parked": 1,
        "resumes_total where=connected": 1,
        "notes_total event=upstream_switched": 4,
        "notes_total event=upstream_lost": 1,
    }


async def test_codes_are_the_protocols_and_an_upstreams_words_are_not(seen: Seen) -> None:
    for code in ("SLOW_THINK_REQUEST", "say something nice", "THINK_REQUEST_FAILED"):
        seen.tells(voice_agent.Warning(code=code, description="x"))
    seen.tells(voice_agent.Error(code="Please", description="x"))
    assert seen.changes() == {
        "warnings_total code=SLOW_THINK_REQUEST": 1,
        f"warnings_total code={OTHER}": 1,
        "warnings_total code=THINK_REQUEST_FAILED": 1,
        f"errors_total code={OTHER}": 1,
    }


async def test_messages_and_events_are_counted_by_type_and_what_is_none_as_one(seen: Seen) -> None:
    seen.observer.client_message(voice_agent.KeepAlive(), 0.0)
    seen.observer.client_message(Unknown("Ignore all that was said", 30), 0.0)
    seen.observer.client_message(Unparsable("Settings", "at $.agent"), 0.0)
    seen.observer.upstream_event(Unknown("a.new.event", 30))
    seen.performs(ToUpstream(1, CLEAR), ToClient(WELCOME))
    counted = {name: n for name, n in seen.figures.items() if n and "type=" in name}
    assert counted == {
        "relay_client_messages_total direction=in type=KeepAlive": 1,
        "relay_client_messages_total direction=in type=unknown": 1,
        "relay_client_messages_total direction=in type=unparsable": 1,
        "relay_client_messages_total direction=out type=Welcome": 1,
        "relay_upstream_events_total direction=in type=unknown": 1,
        "relay_upstream_events_total direction=out type=input_audio_buffer.clear": 1,
    }


def closes(code: int, *, error: str | None = None) -> list[Action]:
    told = [ToClient(voice_agent.Error(code=error, description="x"))] if error else []
    return [*told, Close(code, error or "")]


@pytest.mark.parametrize(
    ("end", "happens"),
    [
        ("client_closed", lambda seen: seen.observer.client_gone(1000)),
        ("client_closed", lambda seen: seen.observer.client_gone(1005)),
        ("client_lost", lambda seen: seen.observer.client_gone(None)),
        ("client_refused", lambda seen: seen.observer.client_gone(1009)),
        ("finished", lambda seen: seen.performs(*closes(1000))),
        ("error", lambda seen: seen.performs(*closes(1000, error="FAILED_TO_THINK"))),
        ("error", lambda seen: seen.performs(*closes(1011, error="FAILED_TO_THINK"))),
        ("error", lambda seen: seen.observer.failed()),
        ("going_away", lambda seen: seen.performs(*closes(1001, error="SERVER_GOING_AWAY"))),
        ("superseded", lambda seen: seen.observer.superseded()),
    ],
)
async def test_how_a_session_ends(seen: Seen, end: str, happens: Any) -> None:
    assert end in ENDS
    happens(seen)
    seen.observer.client_gone(1000)  # what comes after does not count
    seen.observer.over(12.0)
    assert seen.observer.end == end
    assert seen.overview.live(12.0) == []
    ended = {n: v for n, v in seen.figures.items() if n.startswith("relay_sessions_ended") and v}
    assert list(ended.values()) == [1]
    assert seen.figures["relay_session_duration_seconds_sum"] == 12.0
    assert seen.figures["relay_sessions"] == 0


async def test_who_says_nothing_is_cut_off(seen: Seen) -> None:
    seen.observer.over(1.0)
    assert seen.figures["relay_sessions_ended_total end=cut_off"] == 1


async def test_a_mistake_of_ours_is_an_error_that_clients_were_told(seen: Seen) -> None:
    seen.observer.failed()
    assert seen.changes() == {"failures_total": 1, "errors_total code=INTERNAL_SERVER_ERROR": 1}


async def test_traffic_is_read_off_the_legs_while_they_live_and_once_when_they_end(
    seen: Seen,
) -> None:
    client, upstream = seen.client, FakeLeg()
    seen.observer.dialling(1, 1.0)
    seen.observer.opened(1, upstream, 1.25)
    client.frames_in, client.bytes_in = 3, 300
    upstream.frames_out, upstream.bytes_out, upstream.shed_audio_ms = 2, 200, 500.0
    client.unsent_audio_ms = 1500.0
    for _ in range(2):
        assert seen.changes() == {
            "frames_total direction=in side=client": 3,
            "bytes_total direction=in side=client": 300,
            "frames_total direction=out side=upstream": 2,
            "bytes_total direction=out side=upstream": 200,
            "shed_audio_seconds_total": 0.5,
            "outbox_audio_seconds side=client": 1.5,
            "outbox_worst_audio_seconds side=client": 1.5,
            "upstream_dials_total outcome=opened": 1,
            "upstream_dial_seconds_count": 1,
            "upstream_dial_seconds_sum": 0.25,
        }
    upstream.bytes_out = 250
    seen.observer.upstream_over(1)
    upstream.bytes_out = 999  # nobody looks any more
    client.bytes_in = 400
    client.unsent_audio_ms = 0.0
    seen.observer.over(2.0)
    figures = seen.figures
    assert figures["relay_bytes_total direction=out side=upstream"] == 250
    assert figures["relay_bytes_total direction=in side=client"] == 400
    assert figures["relay_outbox_audio_seconds side=client"] == 0


async def test_a_dial_has_one_outcome(seen: Seen) -> None:
    observer = seen.observer
    observer.dialling(1, 0.0)
    observer.not_opened(1, refused=True)
    observer.upstream_over(1)
    observer.dialling(2, 0.0)
    observer.not_opened(2, refused=False)
    observer.upstream_over(2)
    observer.dialling(3, 0.0)
    observer.upstream_over(3)
    observer.dialling(4, 0.0)
    observer.over(1.0)  # cut off while it dials
    dials = {n: v for n, v in seen.figures.items() if "dials" in n and v}
    assert dials == {
        "relay_upstream_dials_total outcome=refused": 1,
        "relay_upstream_dials_total outcome=unreachable": 1,
        "relay_upstream_dials_total outcome=abandoned": 2,
    }


async def test_a_look_at_what_goes_on_has_no_word_of_it(seen: Seen) -> None:
    seen.client.bytes_in = 10
    seen.tells(voice_agent.ConversationText(role="user", content="planted"))
    seen.observer.client_message(Unknown("planted", 9), 0.0)
    shown = msgspec.json.encode(seen.overview.live(4.0)).decode()
    assert "planted" not in shown
    assert msgspec.json.decode(shown) == [
        {
            "session": "s1", "key": "laptop", "dialect": "deepgram", "peer": "127.0.0.1",
            "age_s": 4.0, "settings_applied": False, "upstreams": 0, "client_bytes_in": 10,
            "client_bytes_out": 0, "unsent_audio_ms": 0.0, "turns": 0, "barge_ins": 0,
        }
    ]  # fmt: skip


# As a bridge tells it.


async def test_a_bridge_tells_its_observer_all_of_it(autojump_clock: MockClock) -> None:
    overview, client = Overview(), FakeLeg()
    observer = overview.observer(client, About(), trio.current_time())
    session = FakeSession(
        opened=[ToClient(WELCOME), Dial(1, TARGET)],
        upstream_opened=[ToUpstream(1, CLEAR)],
        upstream_event=[said("Hello."), Note("info", "upstream_switched")],
    )
    async with bridged(session, client, observer=observer) as at_work:
        client.says(KEEP_ALIVE)
        await settle()
        at_work.upstream.says(CLEARED)
        await settle()
        assert parsed(overview.snapshot())["relay_frames_total direction=in side=client"] == 1
    observer.over(trio.current_time())
    found = {n: v for n, v in parsed(overview.snapshot()).items() if v and "_bucket" not in n}
    assert observer.end == "client_closed"
    assert found == found | {
        "relay_client_messages_total direction=in type=KeepAlive": 1,
        "relay_client_messages_total direction=out type=Welcome": 1,
        "relay_client_messages_total direction=out type=ConversationText": 1,
        "relay_upstream_events_total direction=in type=input_audio_buffer.cleared": 1,
        "relay_upstream_events_total direction=out type=input_audio_buffer.clear": 1,
        "relay_upstream_dials_total outcome=opened": 1,
        "relay_upstream_dial_seconds_sum": pytest.approx(0.1),
        "relay_frames_total direction=out side=client": 2,
        "relay_frames_total direction=in side=upstream": 1,
        "relay_sessions_ended_total end=client_closed": 1,
    }


async def test_a_bridge_tells_of_a_refused_dial_and_of_its_own_mistakes(
    autojump_clock: MockClock,
) -> None:
    overview, client = Overview(), FakeLeg()
    observer: Observer = overview.observer(client, About(), trio.current_time())
    session = FakeSession(opened=[Dial(1, TARGET)], client_message=RuntimeError("planted"))
    upstreams = FakeUpstreams(DialFailed(401, "HTTP status 401"))
    async with bridged(session, client, upstreams, observer=observer):
        await settle()
        client.says(KEEP_ALIVE)
        await settle()
    found = parsed(overview.snapshot())
    assert observer.end == "error"
    assert found["relay_upstream_dials_total outcome=refused"] == 1
    assert found["relay_failures_total"] == 1


def test_the_codes_are_those_of_the_contract() -> None:
    contract = (Path(__file__).parent.parent / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
    assert {code for code in (*ERRORS, *WARNINGS) if code not in contract} == set()
