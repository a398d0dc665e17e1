"""wav: the header of a RIFF/WAVE stream whose length nobody knows yet.

It knows those 44 bytes. Reading files is the standard library's `wave`; whether a header is sent at
all is the session's business (`session.wav_header`).
"""

import struct

from relay.audio.formats import Encoding, Format

UNKNOWN_LENGTH = 0xFFFFFFFF
"""What streaming encoders write; players then read until the end of the stream."""

_FORMAT_TAGS = {
    Encoding.LINEAR16: 0x0001,  # WAVE_FORMAT_PCM
    Encoding.LINEAR32: 0x0003,  # WAVE_FORMAT_IEEE_FLOAT
    Encoding.ALAW: 0x0006,  # WAVE_FORMAT_ALAW
    Encoding.MULAW: 0x0007,  # WAVE_FORMAT_MULAW
}


def streaming_header(audio: Format) -> bytes:
    """44 bytes: RIFF, `fmt ` (16 bytes, mono) and the beginning of `data`, both of unknown length.

    The format chunk is the short one for all encodings, which keeps the header at the 44 bytes that
    clients skip blindly; strict readers would like 18 bytes and a `fact` chunk for other than PCM.
    """
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        UNKNOWN_LENGTH,
        b"WAVE",
        b"fmt ",
        16,
        _FORMAT_TAGS[audio.encoding],
        1,
        audio.rate,
        audio.bytes_per_second,
        audio.sample_bytes,
        audio.sample_bytes * 8,
        b"data",
        UNKNOWN_LENGTH,
    )
