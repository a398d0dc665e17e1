"""test_real_clients: the official clients hold a whole conversation with the relay.

Each client talks once, through a tap, to a relay whose upstream is the simulator, through another
tap. The tests read what the client's SDK reported and what passed both taps.
"""

import base64
from typing import Any

import msgspec
import pytest
import trio

from relay.simulator.script import Faults, Script
from tests import oracle
from tests.clients.house import House, open_house
from tests.clients.scenario import (
    BYTES_PER_SECOND,
    HELLO,
    LONG,
    QUESTION,
    RESULTS,
    SCRIPT,
    SETTINGS,
    Ears,
    Scene,
    conversation,
    utterance,
)
from tests.clients.talkers import Dial, Heard, javascript, python_async, python_sync
from tests.clients.tap import Record

TIMEOUT_S = 40
"""A run takes about ten seconds, most of it speech in real time."""


class Run(msgspec.Struct):
    """A whole conversation: what the SDK reported, and the frames on both sides of the relay."""

    scenes: dict[Scene, list[Heard]]
    client: Record
    upstream: Record

    def types(self, scene: Scene) -> list[str]:
        """What came in a scene; a run of audio frames counts once."""
        names = ["audio" if isinstance(h, bytes) else h["type"] for h in self.scenes[scene]]
        pairs = zip(["", *names], names, strict=False)
        return [name for before, name in pairs if (before, name) != ("audio", "audio")]

    def reasons(self) -> list[str]:
        """Why the relay asked for responses; for a spoken turn it asks for none."""
        return [
            e["response"]["metadata"]["relay"] for e in self.events("response.create", sent=True)
        ]

    def messages(self, scene: Scene, kind: str) -> list[dict[str, Any]]:
        return [h for h in self.scenes[scene] if isinstance(h, dict) and h["type"] == kind]

    def said(self, scene: Scene, role: str) -> list[str]:
        texts = self.messages(scene, "ConversationText")
        return [text["content"] for text in texts if text["role"] == role]

    @property
    def sent(self) -> list[str]:
        """The types of all events that the relay sent upstream."""
        return [msgspec.json.decode(frame)["type"] for frame in self.upstream.sent]

    def events(self, *types: str, sent: bool) -> list[dict[str, Any]]:
        """Upstream events of these types: those that the relay sent, or those it was sent."""
        frames = self.upstream.sent if sent else self.upstream.answered
        decoded = [msgspec.json.decode(frame) for frame in frames]
        return [event for event in decoded if event["type"] in types]


async def converse(dial: Dial) -> Run:
    ears = Ears()
    with trio.fail_after(TIMEOUT_S):
        async with open_house(SCRIPT) as house, dial(house.client.url, ears.hear) as talker:
            await conversation(talker, ears)
    return Run(ears.scenes, house.client.records[0], house.upstream.records[0])


CLIENTS = [python_sync, python_async, javascript]


@pytest.fixture(scope="module")
def runs() -> dict[Dial, Run]:
    """What became of each client's conversation. They are all under way at once, each with a relay
    of its own: it takes as long as one of them."""
    found: dict[Dial, Run] = {}

    async def keep(dial: Dial) -> None:
        found[dial] = await converse(dial)

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for dial in CLIENTS:
                nursery.start_soon(keep, dial)

    trio.run(all_of_them)
    return found


@pytest.fixture(params=CLIENTS)
def run(request: pytest.FixtureRequest, runs: dict[Dial, Run]) -> Run:
    return runs[request.param]


@pytest.mark.conformance("C-001", "C-015", "C-018", "C-019", "C-021", "C-262")
def test_it_is_welcomed_once_and_its_settings_are_applied_once(run: Run) -> None:
    assert run.types(Scene.OPENING) == ["Welcome", "SettingsApplied"]
    assert run.sent[0] == "session.update"
    assert run.sent.count("session.update") == 1


@pytest.mark.conformance("C-087", "C-088", "C-090", "C-127", "C-128", "C-136", "C-143", "C-200")
def test_a_text_is_answered_in_voice_and_text(run: Run) -> None:
    assert run.types(Scene.TEXT) == [
        "ConversationText",
        "History",
        "AgentThinking",
        "AgentStartedSpeaking",
        "audio",
        "ConversationText",
        "History",
        "AgentAudioDone",
        "LatencyReport",
    ]
    assert run.said(Scene.TEXT, "user") == [HELLO]
    assert len(run.said(Scene.TEXT, "assistant")) == 1


@pytest.mark.conformance("C-158", "C-161", "C-165", "C-174")
def test_two_functions_are_called_and_one_answer_uses_both_results(run: Run) -> None:
    requests = run.messages(Scene.TOOLS, "FunctionCallRequest")
    calls = [call for request in requests for call in request["functions"]]
    assert [call["name"] for call in calls] == ["get_time", "get_weather"]
    assert all(call["client_side"] for call in calls)
    assert run.said(Scene.TOOLS, "user") == [QUESTION]
    (answer,) = run.said(Scene.TOOLS, "assistant")
    assert "12:30" in answer
    assert "fog" in answer
    (record,) = [h for h in run.messages(Scene.TOOLS, "History") if "function_calls" in h]
    assert [call["response"] for call in record["function_calls"]] == list(RESULTS.values())
    assert run.reasons().count("round_done") == 1


@pytest.mark.conformance("C-115", "C-119", "C-121", "C-128", "C-136")
def test_a_spoken_turn_is_heard_and_answered(run: Run) -> None:
    types = run.types(Scene.VOICE)
    assert types[0] == "UserStartedSpeaking"
    assert types.count("UserStartedSpeaking") == 1
    assert types[-2:] == ["AgentAudioDone", "LatencyReport"]
    assert "audio" in types
    (heard,) = run.said(Scene.VOICE, "user")
    assert heard.startswith("[speech, 1")
    assert run.reasons() == ["inject_user", "inject_user", "round_done", "inject_user"]


@pytest.mark.conformance("C-149", "C-154", "C-157")
def test_speech_over_the_agents_voice_silences_it_and_is_answered(run: Run) -> None:
    types = run.types(Scene.BARGE_IN)
    interruption = types.index("UserStartedSpeaking")
    assert "AgentAudioDone" not in types[:interruption]
    assert types.count("UserStartedSpeaking") == 1
    after = types[interruption:]
    assert "audio" not in after[: after.index("AgentStartedSpeaking")]
    assert after[-2:] == ["AgentAudioDone", "LatencyReport"]


@pytest.mark.conformance("C-150", "C-151", "C-156")
def test_the_upstream_learns_how_little_of_the_interrupted_answer_was_heard(run: Run) -> None:
    assert "response.cancel" not in run.sent
    (truncate,) = run.events("conversation.item.truncate", sent=True)
    statuses = [done["response"] for done in run.events("response.done", sent=False)]
    (cancelled,) = [response for response in statuses if response["status"] == "cancelled"]
    assert truncate["item_id"] in [item["id"] for item in cancelled["output"]]
    assert 0 < truncate["audio_end_ms"] < 3000
    (partial, _) = run.said(Scene.BARGE_IN, "assistant")
    assert 0 < len(partial) < len(LONG)


@pytest.mark.conformance("C-142")
def test_only_spoken_turns_report_how_long_the_transcription_took(run: Run) -> None:
    for scene, spoken in ((Scene.VOICE, True), (Scene.TOOLS, False), (Scene.TEXT, False)):
        (report,) = run.messages(scene, "LatencyReport")
        assert ("stt_latency" in report) == spoken


@pytest.mark.conformance("C-107", "C-109")
def test_the_whole_recording_reaches_the_upstream_at_its_rate(run: Run) -> None:
    appends = run.events("input_audio_buffer.append", sent=True)
    seconds = sum(len(base64.b64decode(append["audio"])) for append in appends) / 48000
    assert seconds == pytest.approx(2 * len(utterance()) / BYTES_PER_SECOND, abs=0.02)


def test_both_connections_are_closed_from_the_client_s_end(run: Run) -> None:
    assert run.client.closed_by_dialler == 1000
    assert run.upstream.closed_by_dialler == 1000


@pytest.mark.conformance("C-124", "C-131", "C-132")
def test_every_message_to_the_client_is_exactly_the_protocol_s(run: Run) -> None:
    for frame in run.client.answered:
        if isinstance(frame, str):
            oracle.check_server_message(frame)
        else:
            assert 0 < len(frame) <= 32 * 1024
            assert len(frame) % 2 == 0


def test_every_event_on_the_upstream_leg_is_exactly_the_protocol_s(run: Run) -> None:
    for frame in run.upstream.sent:
        assert isinstance(frame, str)
        oracle.check_client_event(frame)
    for frame in run.upstream.answered:
        assert isinstance(frame, str)
        oracle.check_server_event(frame)


@pytest.mark.conformance("C-064")
@pytest.mark.parametrize("dial", CLIENTS)
async def test_what_cannot_be_served_is_an_error_and_the_end(dial: Dial) -> None:
    mp3 = {**SETTINGS, "audio": {"output": {"encoding": "mp3"}}}
    async with open_house() as house:
        error, record = await failed(dial, house, mp3)
    assert error["code"] == "INVALID_SETTINGS"
    assert record.closed_by_far_end == 1000


@pytest.mark.parametrize("dial", CLIENTS)
async def test_an_upstream_that_is_lost_for_good_is_an_error_and_the_end(dial: Dial) -> None:
    dies = Script(faults=Faults(close_after_events=2, drop=True))
    async with open_house(dies, session__rollover=False) as house:
        error, record = await failed(dial, house, SETTINGS)
    assert error["code"] == "INTERNAL_SERVER_ERROR"
    assert record.closed_by_far_end == 1011


async def failed(
    dial: Dial, house: House, settings: dict[str, Any]
) -> tuple[dict[str, Any], Record]:
    """The Error that a client is told of, and what became of its connection."""
    ears = Ears()
    ears.scene(Scene.OPENING)
    with trio.fail_after(TIMEOUT_S):
        async with dial(house.client.url, ears.hear) as talker:
            await talker.send(settings)
            error = await ears.until("Error")
            (record, *_) = house.client.records
            await record.ended.wait()  # not the client has closed it, but the relay
    assert error["description"]
    return error, record
