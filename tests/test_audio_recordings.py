"""test_audio_recordings: recordings are read as mono linear16, whatever their rate and channels."""

import array
import io
import struct
import wave

import pytest

from relay.audio import recordings
from relay.audio.formats import Encoding, Format


def file(samples: list[int], channels: int = 1, width: int = 2, rate: int = 16000) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(b"".join(n.to_bytes(width, "little", signed=width > 1) for n in samples))
    return data.getvalue()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_mono_is_taken_as_it_is(rate: int) -> None:
    audio, form = recordings.decode(file([1, -2, 32767, -32768], rate=rate))
    assert array.array("h", audio).tolist() == [1, -2, 32767, -32768]
    assert form == Format(Encoding.LINEAR16, rate)


def test_channels_are_mixed_without_overflow() -> None:
    audio, _ = recordings.decode(file([100, 300, -32768, -32768, 32767, 32767], channels=2))
    assert array.array("h", audio).tolist() == [200, -32768, 32767]


def test_what_is_written_is_read_back() -> None:
    audio = struct.pack("<4h", 1, 2, -3, 4)
    assert recordings.decode(recordings.encode(audio, 24000)) == (
        audio,
        Format(Encoding.LINEAR16, 24000),
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no PCM WAV file: it ends too early"),
        (b"ID3 and so on, a song of some kind that is long enough", "no PCM WAV file: "),
        (file([1, 2], width=1), "8-bit samples"),
        (file([1, 2], width=3), "24-bit samples"),
        (file([1, 2]).replace(struct.pack("<I", 16000), bytes(4)), "no sample rate"),
    ],
)
def test_anything_else_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(recordings.RecordingError, match=reason):
        recordings.decode(data)


def test_a_file_that_ends_early_is_played_as_far_as_it_goes() -> None:
    whole = file([1, 2, 3, 4], channels=2)
    audio, _ = recordings.decode(whole[:-3])
    assert array.array("h", audio).tolist() == [1]
