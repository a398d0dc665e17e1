"""The G.711 tables, sample for sample."""

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from relay.audio import g711

# SHA-256 of what the standard library's audioop gave (Python 3.11 and 3.12; it is gone in 3.13) for
# all 65,536 samples in the order 0, 1, ... 32767, -32768, ... -1, and for all 256 codes:
# audioop.lin2ulaw(struct.pack("<65536H", *range(65536)), 2), audioop.ulaw2lin(bytes(range(256)), 2)
# and the same for alaw. audioop descends from the ITU's reference code.
AUDIOOP = {
    "lin2ulaw": "617fa4850d68d3906597e949f7625fb2fc46db479e29707f33159b3d131721cb",
    "lin2alaw": "f77c76aa923ee25617453f87514828a12896227f82ff383bf3bb53d6ac7c2a0f",
    "ulaw2lin": "3dab54339e520bb2c924826e3b72a917a2b612e9fd12fc867500f1d983a75827",
    "alaw2lin": "e04788d110e58ff8c70c93b8480190d973e3b67876b6119abbaec766cc75c174",
}

codecs = pytest.mark.parametrize(
    ("codes", "samples"),
    [
        pytest.param(g711.MULAW_CODES, g711.MULAW_SAMPLES, id="mulaw"),
        pytest.param(g711.ALAW_CODES, g711.ALAW_SAMPLES, id="alaw"),
    ],
)


@pytest.mark.parametrize(
    ("table", "reference"),
    [
        (g711.MULAW_CODES, "lin2ulaw"),
        (g711.ALAW_CODES, "lin2alaw"),
        (g711.MULAW_SAMPLES.astype("<i2"), "ulaw2lin"),
        (g711.ALAW_SAMPLES.astype("<i2"), "alaw2lin"),
    ],
)
def test_every_entry_is_that_of_the_reference(table: npt.NDArray[np.int16], reference: str) -> None:
    assert hashlib.sha256(table.tobytes()).hexdigest() == AUDIOOP[reference]


def test_known_values() -> None:
    """G.711 tables 1a and 2a: silence, full scale and the smallest steps."""
    assert [hex(g711.MULAW_CODES[sample]) for sample in (0, 32767, 0x8000)] == [
        "0xff",
        "0x80",
        "0x0",
    ]
    assert [hex(g711.ALAW_CODES[sample]) for sample in (0, 32767, 0x8000)] == [
        "0xd5",
        "0xaa",
        "0x2a",
    ]
    assert list(g711.MULAW_SAMPLES[[0xFF, 0x80, 0x00]]) == [0, 32124, -32124]
    assert list(g711.ALAW_SAMPLES[[0xD5, 0x55, 0xAA, 0x2A]]) == [8, -8, 32256, -32256]


@codecs
def test_coding_what_was_decoded_gives_the_same_sample(
    codes: npt.NDArray[np.uint8], samples: npt.NDArray[np.int16]
) -> None:
    assert (samples[codes[samples.view(np.uint16)]] == samples).all()


@codecs
def test_a_larger_sample_is_never_decoded_smaller(
    codes: npt.NDArray[np.uint8], samples: npt.NDArray[np.int16]
) -> None:
    ascending = np.arange(-32768, 32768).astype(np.int16)
    decoded = samples[codes[ascending.view(np.uint16)]].astype(int)
    assert (np.diff(decoded) >= 0).all()


@codecs
def test_the_tables_cannot_be_written_to(
    codes: npt.NDArray[np.uint8], samples: npt.NDArray[np.int16]
) -> None:
    for table in (codes, samples):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1
