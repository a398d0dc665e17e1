"""resample: from one rate to another, frame by frame.

It knows a stream of samples at one rate and gives it at another. It knows no encodings.

Theory. To go from rate A to rate B = A * up / down (in lowest terms), put up - 1 zeros between
samples, let a low-pass filter fill them in, and keep every down-th sample of the result. Most of
that is multiplied by zero or thrown away. What remains: output k lies at the time k * down / up,
counted in input samples, and is the weighted sum of the inputs around it, with one of only `up`
sets of weights, since k and k + up fall equally between their neighbours. Each set is a windowed
sinc.

A *block* of `down` inputs (or a small multiple) yields `up` outputs (or that multiple), with the
same weights in each block. So the weights of a block stand in one matrix, with zeros where an
output does not reach; the inputs of all blocks stand below each other, overlapping; and one matrix
product does the work in the BLAS.

Exactness. Frames come in any size, and the result must not depend on it, bit for bit (C-109). A
BLAS adds in whatever order suits the shape of its matrices, so the order must not matter: all
numbers are integers in disguise. Samples are multiples of 2**-8, weights of 2**-24, and every
partial sum stays below 2**17: 49 bits, which a float64 holds without rounding. What is exact is
the same in any order.

Delay. An output is given as soon as the last input that it reaches is there, half the filter's
length after its own time: 16 samples of the lower of the two rates (2 ms at 8 kHz, 1 ms at 16 kHz,
0.7 ms at 24 kHz). Nothing shifts: output 0 lies at the time of input 0.

The filter was chosen by measurement (scripts/compare_resamplers.py).
"""

import functools
import math
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float64]
Raw: TypeAlias = bytes | memoryview
"""Samples as they lie in memory."""

ZERO_CROSSINGS = 16
"""On each side of the sinc, at the lower rate. With the window below: pass band up to 0.86 of the
lower rate's half, stop band from 1.14 of it. 48 -> 24 kHz: 10.3 and 13.7 kHz (C-110)."""
KAISER_BETA = 7.0
"""Shape of the Kaiser window: 72 dB in the stop band."""
WEIGHT_BITS = 24
"""Weights are multiples of 2**-24."""
SAMPLE_BITS = 8
"""Samples are multiples of 2**-8 of the least significant bit of 16."""

LOWEST_RATE = 4000
HIGHEST_RATE = 192000
LARGEST_BANK = 1 << 20
"""Weights in a matrix (8 MB). All pairs of usual rates are below, 11025 <-> 32000 is the largest;
two rates that hardly share a divisor are not: 23999 and 24000 would need 580 million."""

_BLOCK = 16
"""About so many samples at the lower rate make a block, or what the ratio needs if that is more:
smaller matrices leave the BLAS idle, larger ones are mostly zeros."""


class Bank(msgspec.Struct, frozen=True):
    """The weights of one pair of rates."""

    up: int
    """Outputs of a block."""
    down: int
    """Inputs of a block, not counting what it shares with its neighbours."""
    half: int
    """Inputs that an output reaches on each side of it."""
    weights: Samples
    """One row for each input that a block reaches, one column for each of its outputs."""


def resamplable(source_rate: int, target_rate: int) -> bool:
    """Whether `Resampler(source_rate, target_rate)` can be had."""
    if not all(LOWEST_RATE <= rate <= HIGHEST_RATE for rate in (source_rate, target_rate)):
        return False
    up, _, _, reach = _shape(source_rate, target_rate)
    return up * reach <= LARGEST_BANK


class Resampler:
    """One stream of samples at another rate.

    `feed` takes numbers of one type on the 16-bit scale, in multiples of 2**-8 (see `quantised`),
    and gives float64 of the same kind before rounding: it may overshoot the scale.
    """

    def __init__(self, source_rate: int, target_rate: int, sample: npt.DTypeLike) -> None:
        """`sample`: the type of what is fed. Raises ValueError for rates that are not
        `resamplable`."""
        if not resamplable(source_rate, target_rate):
            raise ValueError(f"cannot resample from {source_rate} Hz to {target_rate} Hz")
        self._bank = bank_for(source_rate, target_rate)
        self._sample = np.dtype(sample)
        self.reset()

    def reset(self) -> None:
        """Forget the stream; the next sample is the first."""
        self._line = bytes((self._bank.half - 1) * self._sample.itemsize)
        self._given = 0

    def feed(self, samples: Raw) -> Samples:
        """The outputs that reach no further than these samples, and were not given before."""
        # Once for each frame: what counts is how often numpy is called, hardly what it does.
        bank, given, width = self._bank, self._given, self._sample.itemsize
        line = b"".join((self._line, samples))
        held = len(line) // width
        ready = max(0, -((2 * bank.half - 1 - held) * bank.up // bank.down))
        blocks = -(-ready // bank.up)
        missing = (blocks - 1) * bank.down + len(bank.weights) - held
        if missing > 0:  # the last block is incomplete; it is done again when it is not
            line += bytes(missing * width)
        windows: npt.NDArray[Any] = np.ndarray(
            (blocks, len(bank.weights)), self._sample, line, 0, (bank.down * width, width)
        )
        whole = ready // bank.up
        self._line = line[whole * bank.down * width : held * width]
        self._given = ready - whole * bank.up
        outputs: Samples = windows.dot(bank.weights).ravel()
        return outputs[given:ready] if given or self._given else outputs

    def flush(self) -> Samples:
        """The rest of the stream, as if silence followed; after it the stream is a new one.

        With it, n samples have become n * target_rate / source_rate, rounded.
        """
        bank = self._bank
        width = self._sample.itemsize
        taken = len(self._line) // width - (bank.half - 1)
        owed = (2 * taken * bank.up + bank.down) // (2 * bank.down) - self._given
        tail = self.feed(bytes(bank.half * width))[:owed]
        self.reset()
        return tail


def quantised(samples: Samples) -> Samples:
    """Rounded to the grid on which resampling is exact."""
    scale = float(1 << SAMPLE_BITS)
    grid: Samples = np.rint(samples * scale) / scale
    return grid


def _shape(source_rate: int, target_rate: int) -> tuple[int, int, int, int]:
    """Outputs and inputs of a block, reach of an output, and reach of a block."""
    divisor = math.gcd(source_rate, target_rate)
    up, down = target_rate // divisor, source_rate // divisor
    multiple = max(1, _BLOCK // min(up, down))
    up, down = multiple * up, multiple * down
    half = _ceil_div(ZERO_CROSSINGS * max(up, down), up)
    return up, down, half, (up - 1) * down // up + 2 * half


@functools.lru_cache(maxsize=32)
def bank_for(source_rate: int, target_rate: int) -> Bank:
    up, down, half, reach = _shape(source_rate, target_rate)
    outputs = np.arange(up)
    first = outputs * down // up
    taps = np.arange(2 * half)
    # The tap half - 1 is the input at, or next before, the output's own time.
    distance = taps - (half - 1) - (outputs * down % up / up)[:, np.newaxis]
    lower = min(1.0, up / down)
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (distance / half) ** 2)))
    kernel = np.sinc(lower * distance) * window
    weights = np.zeros((reach, up))
    weights[first[:, np.newaxis] + taps, outputs[:, np.newaxis]] = _whole(kernel)
    weights.flags.writeable = False
    return Bank(up, down, half, weights)


def _whole(kernel: Samples) -> Samples:
    """Each row scaled to the sum 1, in multiples of 2**-24: a constant stays the same constant."""
    one = float(1 << WEIGHT_BITS)
    rounded: Samples = np.rint(kernel * (one / kernel.sum(axis=1, keepdims=True)))
    rows = np.arange(len(rounded))
    rounded[rows, rounded.argmax(axis=1)] += one - rounded.sum(axis=1)
    return rounded / one


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)
