"""g711: the two telephone codes, as tables.

It knows ITU-T G.711 mu-law and A-law, sample exact, and nothing else.

Both codes are floating-point numbers of eight bits: a sign, a segment (exponent, 3 bits) and an
interval in it (mantissa, 4 bits). A coder finds the interval that a sample is in; a decoder gives
the middle of that interval. On the line mu-law inverts all bits and A-law every second one, so that
silence is not a row of zeros.

mu-law counts in quarters of the 16-bit scale (14 bits) and adds 33 to each magnitude, which makes
the eight segments [32, 64), [64, 128)... and lets segment 0 look like the others. A-law counts in
eighths (13 bits), adds nothing, and its segments 0 and 1 have intervals of the same width.

Right shifts round towards minus infinity, as in the ITU's own reference (G.191) and its
descendants, so small negative samples are coded as the standard's tables say and not as a closed
formula would. The tables are computed once at import (3 ms) and must not be written to.
"""

import numpy as np
import numpy.typing as npt

_BIAS = 33
"""G.711 table 2a: mu-law decision values are powers of two minus this."""
_MULAW_LARGEST = 8158
"""Just under mu-law's last (virtual) decision value, 8159: whatever is larger is coded as this."""


def _mulaw_codes(samples: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    quarters = samples >> 2
    magnitude = np.minimum(np.abs(quarters), _MULAW_LARGEST) + _BIAS
    segment = np.searchsorted(64 << np.arange(7), magnitude, side="right")
    interval = (magnitude >> (segment + 1)) & 0xF
    sign = np.where(quarters < 0, 0x80, 0)
    return np.asarray(0xFF ^ (sign | segment << 4 | interval), dtype=np.uint8)


def _alaw_codes(samples: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    eighths = samples >> 3
    magnitude = np.where(eighths < 0, ~eighths, eighths)
    segment = np.searchsorted(32 << np.arange(7), magnitude, side="right")
    interval = (magnitude >> np.maximum(segment, 1)) & 0xF
    sign = np.where(eighths < 0, 0, 0x80)
    return np.asarray(0x55 ^ (sign | segment << 4 | interval), dtype=np.uint8)


def _mulaw_samples(codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
    bits = 0xFF ^ codes
    segment, interval = bits >> 4 & 7, bits & 0xF
    magnitude = ((2 * interval + 1 + 32) << segment) - _BIAS
    return np.asarray(4 * np.where(bits & 0x80, -magnitude, magnitude), dtype=np.int16)


def _alaw_samples(codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
    bits = 0x55 ^ codes
    segment, interval = bits >> 4 & 7, bits & 0xF
    leading = np.where(segment > 0, 32, 0)
    magnitude = (2 * interval + 1 + leading) << np.maximum(segment, 1) - 1
    return np.asarray(8 * np.where(bits & 0x80, magnitude, -magnitude), dtype=np.int16)


_EVERY_SAMPLE = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32)
_EVERY_CODE = np.arange(1 << 8, dtype=np.int32)

MULAW_CODES = _mulaw_codes(_EVERY_SAMPLE)
"""65,536 uint8: the code of each 16-bit sample, indexed by the sample as an unsigned number."""
ALAW_CODES = _alaw_codes(_EVERY_SAMPLE)
"""The same for A-law."""
MULAW_SAMPLES = _mulaw_samples(_EVERY_CODE)
"""256 int16: the sample of each code."""
ALAW_SAMPLES = _alaw_samples(_EVERY_CODE)
"""The same for A-law."""

for _table in (MULAW_CODES, ALAW_CODES, MULAW_SAMPLES, ALAW_SAMPLES):
    _table.flags.writeable = False
