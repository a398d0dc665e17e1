"""formats: what a stretch of audio bytes means.

It knows encodings, rates, and how bytes and milliseconds turn into each other. It does not know who
may use which format (`relay.settings`), and touches no audio (`relay.audio.transcode`).

All audio in this program is mono and little-endian.
"""

import enum
from collections.abc import Iterator

import msgspec

FRAME_BYTES = 32 * 1024
"""The largest binary frame for a client (C-132); the official SDKs take up to 1 MiB."""


_SAMPLE_BYTES = {"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}


class Encoding(enum.Enum):
    """How one sample is written. The values are Deepgram's names."""

    LINEAR16 = "linear16"
    """Signed 16-bit integers."""
    LINEAR32 = "linear32"
    """32-bit IEEE floats, full scale at -1.0 and 1.0."""
    MULAW = "mulaw"
    """G.711 mu-law, 8 bits."""
    ALAW = "alaw"
    """G.711 A-law, 8 bits."""

    def __init__(self, name: str) -> None:
        self.sample_bytes = _SAMPLE_BYTES[name]


_SILENT_SAMPLE = {
    Encoding.LINEAR16: bytes(2),
    Encoding.LINEAR32: bytes(4),
    Encoding.MULAW: b"\xff",
    Encoding.ALAW: b"\xd5",
}


class Format(msgspec.Struct, frozen=True):
    """An encoding at a rate: enough to know how long a number of bytes lasts."""

    encoding: Encoding
    rate: int
    """Samples a second."""

    @property
    def sample_bytes(self) -> int:
        return self.encoding.sample_bytes

    @property
    def bytes_per_second(self) -> int:
        return self.rate * self.encoding.sample_bytes

    def ms(self, nbytes: int) -> float:
        """How long `nbytes` of this audio last, in milliseconds."""
        return nbytes * 1000 / self.bytes_per_second

    def nbytes(self, ms: float) -> int:
        """The bytes of the whole samples that fit into `ms` milliseconds.

        `nbytes(ms(n)) == n` for whole samples: a millionth of a sample makes up for the division.
        """
        return int(ms * self.rate / 1000 + 1e-6) * self.sample_bytes

    def silence(self, nbytes: int) -> bytes:
        """`nbytes` of whole samples in which nothing is heard."""
        return _SILENT_SAMPLE[self.encoding] * (nbytes // self.sample_bytes)

    def frames(self, audio: bytes, max_bytes: int = FRAME_BYTES) -> Iterator[bytes]:
        """Cut audio into binary frames: whole samples, none empty, none above `max_bytes` (C-132).

        Raises ValueError if `audio` ends within a sample; what a transcoder gives never does.
        """
        if len(audio) % self.sample_bytes:
            raise ValueError(f"{len(audio)} bytes are no whole samples of {self.encoding.value}")
        if 0 < len(audio) <= max_bytes:
            yield audio
            return
        step = max_bytes - max_bytes % self.sample_bytes
        for start in range(0, len(audio), step):
            yield audio[start : start + step]


PCM24K = Format(Encoding.LINEAR16, 24000)
"""The upstream's `audio/pcm`, which has no other rate."""
PCMU8K = Format(Encoding.MULAW, 8000)
"""The upstream's `audio/pcmu`."""
PCMA8K = Format(Encoding.ALAW, 8000)
"""The upstream's `audio/pcma`."""

UPSTREAM_FORMATS = (PCM24K, PCMU8K, PCMA8K)
"""All that the upstream takes and gives; audio in one of these is passed through bit for bit."""
