"""Bytes, milliseconds and frames of each format."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.audio.formats import PCM24K, PCMU8K, Encoding, Format

RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000]
formats = st.builds(Format, st.sampled_from(Encoding), st.sampled_from(RATES))


def test_sizes_are_those_of_the_contract() -> None:
    """PROTOCOL.md 5.4."""
    assert [PCM24K.bytes_per_second, PCM24K.nbytes(20), PCM24K.nbytes(100)] == [48000, 960, 4800]
    pcm16k, pcm48k = Format(Encoding.LINEAR16, 16000), Format(Encoding.LINEAR16, 48000)
    assert [pcm16k.bytes_per_second, pcm16k.nbytes(20), pcm16k.nbytes(100)] == [32000, 640, 3200]
    assert [pcm48k.bytes_per_second, pcm48k.nbytes(20), pcm48k.nbytes(100)] == [96000, 1920, 9600]
    assert [PCMU8K.bytes_per_second, PCMU8K.nbytes(20), PCMU8K.nbytes(100)] == [8000, 160, 800]
    assert Format(Encoding.LINEAR32, 24000).nbytes(20) == 1920


@given(formats, st.integers(0, 10**7))
def test_milliseconds_give_back_the_bytes_they_came_from(kind: Format, samples: int) -> None:
    nbytes = samples * kind.sample_bytes
    assert kind.nbytes(kind.ms(nbytes)) == nbytes


@given(formats, st.integers(0, 400), st.integers(4, 100))
@pytest.mark.conformance("C-132")
def test_frames_are_whole_samples_within_the_bound_and_never_empty(
    kind: Format, samples: int, max_bytes: int
) -> None:
    audio = bytes(number % 251 for number in range(samples * kind.sample_bytes))
    frames = list(kind.frames(audio, max_bytes))
    assert b"".join(frames) == audio
    for frame in frames:
        assert 0 < len(frame) <= max_bytes
        assert len(frame) % kind.sample_bytes == 0


@pytest.mark.conformance("C-132")
def test_a_frame_is_at_most_32_kib() -> None:
    assert [len(frame) for frame in PCM24K.frames(bytes(70_000))] == [32768, 32768, 4464]
    assert list(PCM24K.frames(b"\1\2" * 480)) == [b"\1\2" * 480]
    assert list(PCM24K.frames(b"")) == []


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="no whole samples"):
        list(PCM24K.frames(b"\0\0\0"))


def test_what_the_session_imports_does_not_bring_numpy() -> None:
    code = "import sys, relay.audio.formats, relay.audio.playback; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
