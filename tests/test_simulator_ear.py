"""What the simulator hears: voice activity, turns, commits and transcriptions."""

import base64
from typing import Any

import numpy as np
import pytest

from relay.audio.formats import PCM24K, PCMA8K, PCMU8K, Format
from relay.audio.g711 import ALAW_CODES, MULAW_CODES
from tests.simulated import Client, Event, code, only, silence, tone, types

COMMITTED = [
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]


def vad(**fields: Any) -> Event:
    return {"input": {"turn_detection": {"type": "server_vad", **fields}}}


def as_format(pcm: bytes, audio_format: Format) -> bytes:
    """16-bit samples at the format's rate, as that format."""
    if audio_format == PCM24K:
        return pcm
    codes = ALAW_CODES if audio_format == PCMA8K else MULAW_CODES
    return codes[np.frombuffer(pcm, np.uint16)].tobytes()


def test_a_spoken_turn_is_detected_committed_and_answered() -> None:
    client = Client()
    heard = client.hear(silence(1) + tone(1.5) + silence(0.6))
    assert types(heard) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        *COMMITTED,
        "response.created",
        "rate_limits.updated",
    ]
    started, stopped, committed, added, done = heard[:5]
    assert started["audio_start_ms"] == 700  # 1000 less the prefix padding
    assert stopped["audio_end_ms"] == 3000  # 2500 and the silence
    ids = {started["item_id"], stopped["item_id"], committed["item_id"], added["item"]["id"]}
    assert len(ids) == 1
    assert done["item"]["content"] == [{"type": "input_audio"}]
    assert done["item"]["role"] == "user"


@pytest.mark.parametrize(
    ("name", "audio_format"),
    [("audio/pcm", PCM24K), ("audio/pcmu", PCMU8K), ("audio/pcma", PCMA8K)],
)
@pytest.mark.parametrize("frame_ms", [3, 20, 100, 5000])
def test_turns_are_the_same_in_every_format_and_frame_size(
    name: str, audio_format: Format, frame_ms: int
) -> None:
    client = Client()
    kind = {"type": name, "rate": 24000} if name == "audio/pcm" else {"type": name}
    client.configure(audio={"input": {"format": kind}})
    rate = audio_format.rate
    pcm = (
        silence(0.5, rate) + tone(1, rate) + silence(0.7, rate) + tone(1, rate) + silence(0.7, rate)
    )
    heard = client.hear(as_format(pcm, audio_format), audio_format.nbytes(frame_ms))
    starts = [e["audio_start_ms"] for e in heard if e["type"].endswith("speech_started")]
    stops = [e["audio_end_ms"] for e in heard if e["type"].endswith("speech_stopped")]
    assert starts == [200, 2000]  # 500 and 2200 less 300, the second not before the first's end
    assert stops == [2000, 3700]


def test_the_audio_of_a_turn_is_what_was_between_its_two_times() -> None:
    client = Client()
    pcm = silence(1) + tone(0.5) + silence(0.6)
    started, *_ = client.hear(pcm)
    (retrieved,) = client.say("conversation.item.retrieve", item_id=started["item_id"])
    (part,) = retrieved["item"]["content"]
    first, last = PCM24K.nbytes(700), PCM24K.nbytes(2000)
    assert base64.b64decode(part["audio"]) == pcm[first:last]


@pytest.mark.parametrize(
    ("level", "threshold", "heard"),
    [(0.2, 0.5, True), (0.005, 0.5, False), (0.005, 0.1, True), (0.05, 0.9, False)],
)
def test_the_threshold_decides_what_is_loud_enough(
    level: float, threshold: float, heard: bool
) -> None:
    client = Client()
    client.configure(audio=vad(threshold=threshold))
    events = client.hear(silence(0.3) + tone(1, level=level) + silence(0.6))
    assert ("input_audio_buffer.speech_started" in types(events)) is heard


def test_a_click_is_no_speech() -> None:
    assert Client().hear(silence(0.5) + tone(0.04, level=0.9) + silence(1)) == []


def test_a_pause_shorter_than_the_silence_does_not_end_the_turn() -> None:
    client = Client()
    client.configure(audio=vad(silence_duration_ms=400))
    heard = client.hear(tone(0.5) + silence(0.38) + tone(0.5) + silence(0.4))
    assert only(heard, "input_audio_buffer.speech_stopped")["audio_end_ms"] == 1780


def test_a_turn_too_short_to_be_committed_leaves_no_item() -> None:
    client = Client()
    client.configure(audio=vad(prefix_padding_ms=0, silence_duration_ms=0))
    heard = client.hear(tone(0.06) + silence(0.02))
    assert types(heard) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
    ]
    again = client.hear(tone(0.5) + silence(0.02))
    assert types(again)[2:5] == COMMITTED
    assert again[2]["item_id"] == again[0]["item_id"] != heard[0]["item_id"]


def test_the_hum_of_a_room_does_not_keep_a_turn_open() -> None:
    client = Client()
    hum = tone(0.6, level=0.02)
    assert types(client.hear(hum))[:1] == ["input_audio_buffer.speech_started"], "loud by itself"
    client.say("input_audio_buffer.clear")
    heard = client.hear(tone(1) + hum)
    assert only(heard, "input_audio_buffer.speech_stopped")["audio_end_ms"] == 600 + 1500


def test_a_loud_click_before_quiet_speech_does_not_make_it_a_pause() -> None:
    quiet = tone(1.5, level=0.02)
    heard = Client().hear(
        silence(0.3) + tone(0.04, level=0.9) + silence(0.2) + quiet + silence(0.6)
    )
    assert only(heard, "input_audio_buffer.speech_stopped")["audio_end_ms"] == 540 + 1500 + 500


@pytest.mark.parametrize(("eagerness", "ms"), [("high", 400), ("auto", 800), ("low", 1600)])
def test_semantic_vad_waits_by_eagerness(eagerness: str, ms: int) -> None:
    client = Client()
    detection = {"type": "semantic_vad", "eagerness": eagerness}
    client.configure(audio={"input": {"turn_detection": detection}})
    heard = client.hear(tone(1) + silence(2))
    assert only(heard, "input_audio_buffer.speech_stopped")["audio_end_ms"] == 1000 + ms


def test_without_create_response_a_turn_is_only_committed() -> None:
    client = Client()
    client.configure(audio=vad(create_response=False))
    assert types(client.hear(tone(1) + silence(0.6)))[-3:] == COMMITTED
    assert client.wait(10) == []


def test_without_turn_detection_the_client_commits() -> None:
    client = Client()
    client.configure(audio={"input": {"turn_detection": None}})
    assert client.hear(tone(2) + silence(2)) == []
    assert types(client.say("input_audio_buffer.commit")) == COMMITTED
    assert client.wait(10) == []


@pytest.mark.parametrize(("nbytes", "accepted"), [(0, False), (4798, False), (4800, True)])
def test_a_commit_needs_100_ms(nbytes: int, accepted: bool) -> None:
    client = Client()
    client.configure(audio={"input": {"turn_detection": None}})
    client.hear(bytes(nbytes))
    answer = client.say("input_audio_buffer.commit")
    if accepted:
        assert types(answer) == COMMITTED
        assert code(client.say("input_audio_buffer.commit")) == "input_audio_buffer_commit_empty"
    else:
        assert code(answer) == "input_audio_buffer_commit_empty"
        assert f"only has {nbytes / 48:.2f}ms" in answer[0]["error"]["message"]


def test_an_append_of_more_than_15_mib_is_refused() -> None:
    client = Client()
    client.configure(audio={"input": {"turn_detection": None}})
    limit = 15 * 1024 * 1024
    assert client.hear(bytes(limit), limit) == []
    assert code(client.hear(bytes(limit + 2), limit + 2)) == "invalid_value"


def test_a_commit_in_mid_speech_takes_the_turn_and_the_rest_is_a_new_one() -> None:
    client = Client()
    (started,) = client.hear(tone(1))
    committed, *_ = client.say("input_audio_buffer.commit")
    assert committed["item_id"] == started["item_id"]
    again, *_ = client.hear(tone(0.5))
    assert again["type"] == "input_audio_buffer.speech_started"
    assert again["item_id"] != started["item_id"]
    assert again["audio_start_ms"] == 1000


def test_clear_forgets_the_audio_and_the_speech() -> None:
    client = Client()
    client.hear(tone(1))
    assert types(client.say("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert client.hear(silence(1)) == []
    client.say("input_audio_buffer.clear")
    assert code(client.say("input_audio_buffer.commit")) == "input_audio_buffer_commit_empty"


def test_switching_turn_detection_off_leaves_the_audio_to_the_client() -> None:
    client = Client()
    client.hear(tone(1))
    client.configure(audio={"input": {"turn_detection": None}})
    assert client.hear(silence(2)) == []
    assert types(client.say("input_audio_buffer.commit")) == COMMITTED


def test_another_input_format_drops_what_was_buffered_in_the_old_one() -> None:
    client = Client()
    client.configure(audio={"input": {"turn_detection": None}})
    client.hear(tone(1))
    client.configure(audio={"input": {"format": {"type": "audio/pcmu"}}})
    assert code(client.say("input_audio_buffer.commit")) == "input_audio_buffer_commit_empty"


def test_hours_of_silence_are_not_kept() -> None:
    client = Client()
    for _ in range(10):
        client.hear(silence(10), 480_000)
    assert len(client.held.ear.buffer) <= PCM24K.nbytes(20_000)
    started, *_ = client.hear(tone(0.5))
    assert started["audio_start_ms"] == 99_700


# Transcriptions ----------------------------------------------------------------------------------


def listening(script: str = "") -> Client:
    client = Client(script)
    client.configure(audio={"input": {"transcription": {"model": "gpt-transcribe"}}})
    return client


def transcripts(events: list[Event]) -> list[str]:
    return [e["transcript"] for e in events if e["type"].endswith("transcription.completed")]


def test_speech_is_transcribed_by_script_in_order_and_else_by_its_length() -> None:
    client = listening('transcripts = ["hello there"]')
    events = client.hear(tone(1) + silence(0.6)) + client.until("response.done")
    events += client.hear(tone(1.8) + silence(0.6)) + client.until("response.done")
    assert transcripts(events) == ["hello there", "[speech, 1.8 s]"]


def test_the_model_hears_what_the_script_says_the_user_said() -> None:
    client = listening('transcripts = ["hello there"]')
    client.hear(tone(1) + silence(0.6))
    done = client.until("response.done")[-1]
    assert done["response"]["output"][0]["content"][0]["transcript"] == "You said: hello there"


def test_a_transcription_comes_as_deltas_and_completes_in_its_own_time() -> None:
    client = listening(
        'transcripts = ["hello there"]\n[knobs]\ntranscription_s = 2.5\nthink_s = 60'
    )
    client.hear(tone(1) + silence(0.6))
    assert client.wait(2.4) == []
    *deltas, completed = client.wait(0.2)
    assert [delta["delta"] for delta in deltas] == ["hello ", "there"]
    assert completed["transcript"] == "hello there"
    assert completed["usage"] == {"type": "duration", "seconds": 1.0}
    (retrieved,) = client.say("conversation.item.retrieve", item_id=completed["item_id"])
    assert retrieved["item"]["content"][0]["transcript"] == "hello there"


def test_a_transcription_can_come_after_the_reply() -> None:
    client = listening("[knobs]\ntranscription_s = 20.0")
    client.hear(tone(1) + silence(0.6))
    assert transcripts(client.until("response.done")) == []
    assert transcripts(client.wait(20)) == ["[speech, 1.0 s]"]


def test_a_transcription_fails_when_the_script_says_so() -> None:
    client = listening('transcripts = [{ fail = "audio_unintelligible" }]')
    client.hear(tone(1) + silence(0.6))
    failed = only(client.wait(5), "conversation.item.input_audio_transcription.failed")
    assert failed["error"]["code"] == "audio_unintelligible"


def test_without_transcription_in_the_session_there_is_none() -> None:
    client = Client('transcripts = ["hello there"]')
    client.hear(tone(1) + silence(0.6))
    assert not any("transcription" in kind for kind in types(client.wait(20)))


def test_a_deleted_item_is_not_transcribed_any_more() -> None:
    client = listening()
    started, *_ = client.hear(tone(1) + silence(0.6))
    client.say("conversation.item.delete", item_id=started["item_id"])
    assert transcripts(client.wait(20)) == []


# Idle --------------------------------------------------------------------------------------------


def test_a_silent_user_is_spoken_to_when_the_playback_and_the_idle_time_are_over() -> None:
    client = Client()
    client.configure(audio=vad(idle_timeout_ms=5000))
    assert client.wait(60) == [], "not before the first response"
    client.ask("tell me something that takes a while to be said")
    plays_for = client.held.plays_until - client.now
    assert plays_for > 1
    client.hear(silence(1))
    assert client.wait(plays_for + 4.9) == []
    triggered, *rest = client.wait(0.2)
    assert triggered["type"] == "input_audio_buffer.timeout_triggered"
    assert triggered["audio_start_ms"] <= triggered["audio_end_ms"] == 1000
    assert types(rest) == [*COMMITTED, "response.created", "rate_limits.updated", *types(rest)[5:]]
    assert rest[0]["item_id"] == triggered["item_id"]


def test_a_user_who_speaks_is_not_idle() -> None:
    client = Client()
    client.configure(audio=vad(idle_timeout_ms=5000))
    client.ask("hello")
    client.hear(tone(1))
    assert client.wait(60) == []
