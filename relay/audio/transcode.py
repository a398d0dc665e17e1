"""transcode: a stream of audio in one format becomes the same in another.

It knows sample alignment, how each encoding writes a number, and when nothing needs doing. It does
not know who talks to whom: ears and mouth (`relay.bridge`) own one transcoder for each direction.

Between decoding and encoding a sample is a number on the 16-bit scale, -32768 to 32767. A float
sample is that divided by 32768; floats beyond full scale are clamped, and NaN is silence. Whatever
overshoots the scale after resampling saturates, never wraps. There is no dither: speech carries its
own noise, and the same bytes in must give the same bytes out.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from relay.audio import g711
from relay.audio.formats import Encoding, Format
from relay.audio.resample import Raw, Resampler, Samples, quantised, resamplable

Decode: TypeAlias = Callable[[bytes], Raw]
"""Whole samples as numbers on the 16-bit scale, of the type that goes with it."""
Encode: TypeAlias = Callable[[npt.NDArray[Any]], bytes]

_INT16 = np.dtype("<i2")
_FLOAT64 = np.dtype("<f8")
# Arrays of no dimension: numpy would make them of the plain numbers each time, for half a
# microsecond a frame.
_LOWEST = np.array(-32768.0)
_HIGHEST = np.array(32767.0)


def transcodable(source: Format, target: Format) -> bool:
    """Whether there is a `transcoder(source, target)`: for every pair of usual rates there is."""
    return source.rate == target.rate or resamplable(source.rate, target.rate)


def transcoder(source: Format, target: Format) -> "Transcoder":
    """A new stream from `source` to `target`. Raises ValueError if they are not `transcodable`."""
    return Transcoder(source, target)


class Transcoder:
    """One stream. Feed it frames of any size, flush it at the end of an utterance."""

    __slots__ = (
        "_decode",
        "_encode",
        "_partial",
        "_resampler",
        "_sample",
        "_sample_bytes",
        "_verbatim",
    )

    def __init__(self, source: Format, target: Format) -> None:
        self._sample_bytes = source.sample_bytes
        self._partial = b""
        self._verbatim = source == target  # C-108, C-111
        self._decode, self._sample = _decoder(source.encoding)
        self._encode = _encoder(target.encoding)
        self._resampler = (
            None
            if source.rate == target.rate
            else Resampler(source.rate, target.rate, self._sample)
        )

    def feed(self, data: bytes) -> bytes:
        """What can be said of the target's samples by now; whole ones only, possibly none.

        A sample cut in two waits for its other half (C-112, L-60). Up to 2 ms wait for what follows
        if the rate changes (see `relay.audio.resample`), nothing waits otherwise.
        """
        if self._partial or len(data) % self._sample_bytes:
            data = self._aligned(data)
        if self._verbatim or not data:
            return data
        samples = self._decode(data)
        if self._resampler:
            return self._encode(self._resampler.feed(samples))
        return self._encode(np.frombuffer(samples, self._sample))

    def flush(self) -> bytes:
        """The end of an utterance: what was held back, as if silence followed. Half a sample is
        dropped (C-227). What is fed next is a new stream."""
        self._partial = b""
        return self._encode(self._resampler.flush()) if self._resampler else b""

    def reset(self) -> None:
        """Forget the stream and what was held back of it."""
        self._partial = b""
        if self._resampler:
            self._resampler.reset()

    def _aligned(self, data: bytes) -> bytes:
        data = self._partial + data
        excess = len(data) % self._sample_bytes
        if not excess:
            self._partial = b""
            return data
        self._partial = data[-excess:]
        return data[:-excess]


def _decoder(encoding: Encoding) -> tuple[Decode, np.dtype[Any]]:
    match encoding:
        case Encoding.LINEAR16:
            return _from_int16, _INT16
        case Encoding.LINEAR32:
            return _from_float, _FLOAT64
        case Encoding.MULAW:
            return _from_mulaw, _INT16
        case Encoding.ALAW:
            return _from_alaw, _INT16
        case _:
            assert_never(encoding)


def _encoder(encoding: Encoding) -> Encode:
    match encoding:
        case Encoding.LINEAR16:
            return _as_int16
        case Encoding.LINEAR32:
            return _as_float
        case Encoding.MULAW:
            return _as_mulaw
        case Encoding.ALAW:
            return _as_alaw
        case _:
            assert_never(encoding)


def _from_int16(data: bytes) -> Raw:
    return data


def _from_mulaw(data: bytes) -> Raw:
    return g711.MULAW_SAMPLES.take(np.frombuffer(data, np.uint8)).data


def _from_alaw(data: bytes) -> Raw:
    return g711.ALAW_SAMPLES.take(np.frombuffer(data, np.uint8)).data


def _from_float(data: bytes) -> Raw:
    floats = np.frombuffer(data, "<f4")
    numbers = np.where(np.isnan(floats), np.float32(0), floats)
    return quantised(_saturated(numbers * np.float64(32768))).data


def _as_int16(samples: npt.NDArray[Any]) -> bytes:
    return _to_int16(samples).tobytes()


def _as_mulaw(samples: npt.NDArray[Any]) -> bytes:
    return g711.MULAW_CODES.take(_to_int16(samples).view(np.uint16)).tobytes()


def _as_alaw(samples: npt.NDArray[Any]) -> bytes:
    return g711.ALAW_CODES.take(_to_int16(samples).view(np.uint16)).tobytes()


def _as_float(samples: npt.NDArray[Any]) -> bytes:
    return (_saturated(samples) / 32768).astype("<f4").tobytes()


def _to_int16(samples: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    if samples.dtype == _INT16:
        return samples
    within = samples.clip(_LOWEST, _HIGHEST, out=samples)  # ours, and nobody's any more
    whole: npt.NDArray[np.int16] = np.rint(within, out=within).astype(_INT16)
    return whole


def _saturated(samples: npt.NDArray[Any]) -> Samples:
    within: Samples = samples.clip(_LOWEST, _HIGHEST)
    return within
