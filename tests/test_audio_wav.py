"""The header of a WAV stream."""

import io
import wave

from relay.audio.formats import PCM24K, PCMA8K, PCMU8K, Encoding, Format
from relay.audio.wav import streaming_header


def test_the_standard_library_reads_what_follows_the_header() -> None:
    with wave.open(io.BytesIO(streaming_header(PCM24K) + b"\1\2" * 5), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24000)
        assert file.readframes(100) == b"\1\2" * 5


def test_every_header_is_44_bytes_and_says_its_format() -> None:
    header = streaming_header(PCMU8K)
    assert header.hex(" ", 4) == (
        "52494646 ffffffff 57415645 666d7420 10000000 07000100 "
        "401f0000 401f0000 01000800 64617461 ffffffff"
    )
    assert streaming_header(PCMA8K)[20] == 6
    floats = streaming_header(Format(Encoding.LINEAR32, 16000))
    assert (floats[20], int.from_bytes(floats[28:32], "little"), floats[34]) == (3, 64000, 32)
    assert {len(streaming_header(Format(kind, 24000))) for kind in Encoding} == {44}
