"""Why the relay resamples as it does: its own transcoder beside soxr's qualities.

    uv run python scripts/compare_resamplers.py

prints one table. All columns but the last are the same on every machine:

ratio       source and target rate in Hz, linear16
behind      the longest that audio is held back, in ms, over 20 ms frames
ripple      largest deviation from 0 dB of a tone, up to 5/6 of what the lower rate can carry
images      loudest line besides the tone itself, for the same tones, in dB under it
aliases     loudest line that a tone leaves which the target cannot carry (7/6 of its half, or more)
same bits   whether other frames give the same bytes
us          microseconds for a frame of 20 ms, the best of many: run it when nothing else runs
"""

import itertools
import timeit
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import soxr  # type: ignore[import-untyped] # it has no py.typed

from relay.audio.formats import Encoding, Format
from relay.audio.transcode import transcoder

PAIRS = [
    (8000, 24000),
    (16000, 24000),
    (22050, 24000),
    (32000, 24000),
    (44100, 24000),
    (48000, 24000),
    (24000, 8000),
    (24000, 16000),
    (24000, 44100),
    (24000, 48000),
]
PEAK = 16000

Samples = npt.NDArray[np.int16]
Feed = Callable[[Samples, bool], Samples]
"""Takes samples and whether they are the last, gives samples."""
New = Callable[[int, int], Feed]


def relay(source: int, target: int) -> Feed:
    stream = transcoder(Format(Encoding.LINEAR16, source), Format(Encoding.LINEAR16, target))

    def feed(samples: Samples, last: bool) -> Samples:
        audio = stream.feed(samples.tobytes())
        return np.frombuffer(audio + stream.flush() if last else audio, "<i2")

    return feed


def linear(source: int, target: int) -> Feed:
    """Straight lines between samples, for comparison (one frame only: it keeps no state)."""

    def feed(samples: Samples, last: bool) -> Samples:
        times = np.arange(len(samples) * target // source) * (source / target)
        return whole(np.interp(times, np.arange(len(samples)), samples))

    return feed


def soxr_quality(quality: str) -> New:
    def new(source: int, target: int) -> Feed:
        stream = soxr.ResampleStream(source, target, 1, dtype="int16", quality=quality)
        return lambda samples, last: stream.resample_chunk(samples, last=last)

    return new


KINDS: dict[str, New] = {
    "relay": relay,
    "soxr QQ": soxr_quality("QQ"),
    "soxr LQ": soxr_quality("LQ"),
    "soxr HQ": soxr_quality("HQ"),
    "linear": linear,
}


def tone(hertz: int, rate: int) -> Samples:
    return whole(PEAK * np.sin(2 * np.pi * hertz * np.arange(3 * rate) / rate))


def whole(numbers: npt.NDArray[np.float64]) -> Samples:
    return np.asarray(np.rint(numbers), dtype=np.int16)


def spectrum(new: New, source: int, target: int, hertz: int) -> npt.NDArray[np.float64]:
    """dB at each whole hertz, of one second from the middle of three."""
    heard = new(source, target)(tone(hertz, source), True)
    level = np.abs(np.fft.rfft(heard[target : 2 * target])) / (target / 2) / PEAK
    return 20 * np.log10(np.maximum(level, 1e-9))


def passed(new: New, source: int, target: int) -> tuple[float, float]:
    """Ripple and images."""
    ripple, images = 0.0, -np.inf
    for part in np.linspace(0.02, 5 / 6, 12):
        hertz = int(part * min(source, target) / 2)
        levels = spectrum(new, source, target, hertz)
        ripple = max(ripple, abs(levels[hertz]))
        levels[hertz] = -np.inf
        images = max(images, levels.max())
    return ripple, images


def aliases(new: New, source: int, target: int) -> float | None:
    beyond = range(int(target / 2 * 7 / 6), source // 2, 500)
    return max((spectrum(new, source, target, hertz).max() for hertz in beyond), default=None)


def behind_ms(new: New, source: int, target: int) -> float:
    feed, frame = new(source, target), np.zeros(source // 50, np.int16)
    taken = given = worst = 0.0
    for _ in range(200):
        given += len(feed(frame, False)) / target
        taken += len(frame) / source
        worst = max(worst, taken - given)
    return worst * 1000


def same_bits(new: New, source: int, target: int) -> bool:
    noise = np.random.default_rng(0).integers(-20000, 20000, source).astype(np.int16)
    once, cut = new(source, target), new(source, target)
    edges = [0, *sorted(np.random.default_rng(1).integers(0, source, 40)), source]
    parts = [noise[start:end] for start, end in itertools.pairwise(edges)]
    heard = [cut(part, number == len(parts) - 1) for number, part in enumerate(parts)]
    return bool(np.array_equal(np.concatenate(heard), once(noise, True)))


def frame_us(new: New, source: int, target: int) -> float:
    feed = new(source, target)
    frame = np.random.default_rng(0).integers(-20000, 20000, source // 50).astype(np.int16)
    return min(timeit.repeat(lambda: feed(frame, False), number=500, repeat=20)) / 500 * 1e6


def main() -> None:
    print("| ratio | kind | behind | ripple | images | aliases | same bits | us |")
    print("|---|---|---|---|---|---|---|---|")
    for source, target in PAIRS:
        for kind, new in KINDS.items():
            ripple, images = passed(new, source, target)
            beyond = aliases(new, source, target)
            cells = [
                f"{source} -> {target}",
                kind,
                f"{behind_ms(new, source, target):.1f}",
                f"{ripple:.2f}",
                f"{images:.0f}",
                "-" if beyond is None else f"{beyond:.0f}",
                "yes" if same_bits(new, source, target) else "no",
                f"{frame_us(new, source, target):.1f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
