"""A stream in one format becomes the same in another: whole, in time, clean, however it is cut."""

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.audio import g711
from relay.audio.formats import PCM24K, PCMA8K, PCMU8K, Encoding, Format
from relay.audio.resample import SAMPLE_BITS, WEIGHT_BITS, bank_for, resamplable
from relay.audio.transcode import Transcoder, transcodable, transcoder

RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000]
"""The rates of PROTOCOL.md 5.1 and 5.3, and one more that browsers have."""
PAIRS = [(rate, 24000) for rate in RATES] + [(24000, rate) for rate in RATES]

each_pair = pytest.mark.parametrize(
    ("source", "target"), [pytest.param(*pair, id="{}-{}".format(*pair)) for pair in PAIRS]
)
pairs = st.sampled_from(PAIRS)
cuts = st.lists(st.integers(0, 3000), max_size=12)


def linear16(rate: int) -> Format:
    return Format(Encoding.LINEAR16, rate)


def pcm(samples: npt.NDArray[np.float64]) -> bytes:
    return np.rint(samples).astype("<i2").tobytes()


def numbers(audio: bytes) -> npt.NDArray[np.float64]:
    return np.frombuffer(audio, "<i2").astype(np.float64)


def noise(samples: int, seed: int = 0, peak: int = 32767) -> bytes:
    return np.random.default_rng(seed).integers(-peak, peak + 1, samples).astype("<i2").tobytes()


def tone(hertz: int, rate: int, seconds: float = 1.5, peak: float = 16000) -> bytes:
    return pcm(peak * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate))


def whole(source: Format, target: Format, audio: bytes) -> bytes:
    """One frame, and the end."""
    stream = transcoder(source, target)
    return stream.feed(audio) + stream.flush()


def pieces(audio: bytes, places: list[int]) -> Iterator[bytes]:
    """`audio` cut at these places."""
    edges = [0, *sorted(min(place, len(audio)) for place in places), len(audio)]
    for start, end in itertools.pairwise(edges):
        yield audio[start:end]


def in_pieces(stream: Transcoder, audio: bytes, places: list[int]) -> bytes:
    return b"".join(stream.feed(piece) for piece in pieces(audio, places))


@functools.cache
def spectrum(hertz: int, source: int, target: int) -> npt.NDArray[np.float64]:
    """Level of each whole hertz in dB, after a tone of that many hertz went through.

    One second is cut out of the middle. Whole hertz fit into it, so no line leaks into others.
    """
    heard = numbers(whole(linear16(source), linear16(target), tone(hertz, source)))
    second = heard[target // 4 : target // 4 + target]
    level = np.abs(np.fft.rfft(second)) / (target / 2) / 16000
    return 20 * np.log10(np.maximum(level, 1e-9))


def spoken_band(source: int, target: int) -> list[int]:
    """Tones up to 5/6 of what the lower rate can carry: 3.3 kHz of 8 kHz, 10 kHz of 24 kHz."""
    return [int(part * min(source, target) / 2) for part in (0.02, 0.1, 0.3, 0.5, 0.7, 5 / 6)]


# Bit exact


@given(st.binary(max_size=3000), cuts)
@pytest.mark.conformance("C-108", "C-112", "C-113")
def test_linear16_at_24_khz_passes_bit_for_bit(audio: bytes, places: list[int]) -> None:
    heard = in_pieces(transcoder(PCM24K, PCM24K), audio, places)
    assert heard == audio[: len(audio) - len(audio) % 2]


@given(st.binary(max_size=3000), cuts, st.sampled_from([PCMU8K, PCMA8K]))
@pytest.mark.conformance("C-111", "C-113")
def test_g711_at_8_khz_passes_bit_for_bit(audio: bytes, places: list[int], kind: Format) -> None:
    assert in_pieces(transcoder(kind, kind), audio, places) == audio


@pytest.mark.parametrize(
    ("kind", "codes", "samples"),
    [
        (Encoding.MULAW, g711.MULAW_CODES, g711.MULAW_SAMPLES),
        (Encoding.ALAW, g711.ALAW_CODES, g711.ALAW_SAMPLES),
    ],
)
def test_g711_at_the_same_rate_is_coded_by_the_tables(
    kind: Encoding, codes: npt.NDArray[np.uint8], samples: npt.NDArray[np.int16]
) -> None:
    every_sample = np.arange(65536).astype(np.uint16)
    coded = whole(linear16(8000), Format(kind, 8000), every_sample.astype("<u2").tobytes())
    assert coded == codes.tobytes()
    decoded = whole(Format(kind, 8000), linear16(8000), bytes(range(256)))
    assert decoded == samples.astype("<i2").tobytes()


def test_16_bit_samples_survive_floats_bit_for_bit() -> None:
    audio = np.arange(-32768, 32768).astype("<i2").tobytes()
    floats = whole(PCM24K, Format(Encoding.LINEAR32, 24000), audio)
    assert whole(Format(Encoding.LINEAR32, 24000), PCM24K, floats) == audio


# However it is cut


@pytest.mark.conformance("C-112")
def test_a_sample_that_comes_in_two_frames_is_one_sample() -> None:
    cut = transcoder(PCM24K, PCM24K)
    assert [cut.feed(b"\1"), cut.feed(b"\2\3"), cut.feed(b"\4")] == [b"", b"\1\2", b"\3\4"]


@given(pairs, st.integers(0, 1500), st.integers(0, 2**32), cuts)
@pytest.mark.conformance("C-109", "C-112", "C-141")
def test_frames_of_any_size_give_the_same_bits(
    pair: tuple[int, int], samples: int, seed: int, places: list[int]
) -> None:
    source, target = linear16(pair[0]), linear16(pair[1])
    audio = noise(samples, seed)
    at_once, cut = transcoder(source, target), transcoder(source, target)
    assert in_pieces(cut, audio, places) == at_once.feed(audio)
    assert cut.flush() == at_once.flush()


@given(st.sampled_from(Encoding), st.sampled_from(Encoding), pairs, st.integers(0, 99), cuts)
@pytest.mark.conformance("C-112", "C-141")
def test_frames_of_any_size_give_the_same_bits_in_every_encoding(
    encoding: Encoding, other: Encoding, pair: tuple[int, int], seed: int, places: list[int]
) -> None:
    source, target = Format(encoding, pair[0]), Format(other, pair[1])
    audio = whole(linear16(source.rate), source, noise(600, seed))
    cut = transcoder(source, target)
    assert in_pieces(cut, audio, places) + cut.flush() == whole(source, target, audio)


@given(st.binary(max_size=2000), cuts)
@pytest.mark.conformance("C-112")
def test_floats_of_any_bits_give_the_same_in_any_frames(audio: bytes, places: list[int]) -> None:
    """Infinities, NaN of both kinds, and numbers too small for any scale among them."""
    source = Format(Encoding.LINEAR32, 48000)
    cut = transcoder(source, PCM24K)
    assert in_pieces(cut, audio, places) + cut.flush() == whole(source, PCM24K, audio)


@given(st.lists(st.integers(0, 700), max_size=30))
@pytest.mark.conformance("C-109")
def test_16_khz_is_never_more_than_5_ms_behind(frames: list[int]) -> None:
    stream = transcoder(linear16(16000), PCM24K)
    taken = given_back = 0
    for samples in frames:
        given_back += len(stream.feed(noise(samples))) // 2
        taken += samples
        assert 1.5 * taken - 120 <= given_back <= 1.5 * taken


@each_pair
def test_no_pair_of_rates_is_more_than_3_ms_behind(source: int, target: int) -> None:
    stream = transcoder(linear16(source), linear16(target))
    taken = given_back = 0
    for samples in [1, 7, source // 50, source // 50, 3, source // 10] * 3:
        given_back += len(stream.feed(noise(samples))) // 2
        taken += samples
        behind = taken / source - given_back / target
        assert -1 / target <= behind <= 0.003


def test_the_arithmetic_is_exact() -> None:
    """The premise of bit identity: 2**-8 times 2**-24 times the sum of all weights fit 53 bits."""
    for source, target in PAIRS:
        weights = bank_for(source, target).weights
        assert (weights * 2**WEIGHT_BITS % 1 == 0).all()
        assert 32768 * np.abs(weights).sum(axis=0).max() < 2**17
        assert (weights.sum(axis=0) == 1).all()
    floats = np.random.default_rng(0).normal(size=1000).astype("<f4").tobytes()
    decoded = transcoder(Format(Encoding.LINEAR32, 48000), PCM24K)._decode(floats)
    assert (np.frombuffer(decoded) * 2**SAMPLE_BITS % 1 == 0).all()


# Clean


@each_pair
@pytest.mark.conformance("C-141")
def test_speech_passes_unchanged_and_alone(source: int, target: int) -> None:
    for hertz in spoken_band(source, target):
        levels = spectrum(hertz, source, target).copy()
        assert abs(levels[hertz]) < 0.05
        levels[hertz] = -math.inf
        assert levels.max() < -60


@pytest.mark.parametrize(
    ("source", "target"), [pair for pair in PAIRS if pair[0] > pair[1]], ids=str
)
def test_what_the_target_cannot_carry_does_not_come_back_as_something_else(
    source: int, target: int
) -> None:
    for hertz in range(int(target / 2 * 7 / 6), source // 2, 400):
        assert spectrum(hertz, source, target).max() < -60


@pytest.mark.conformance("C-110")
def test_48_khz_keeps_10_khz_and_removes_14() -> None:
    assert abs(spectrum(10_000, 48000, 24000)[10_000]) < 1
    assert spectrum(14_000, 48000, 24000).max() < -60


@each_pair
def test_silence_stays_silence(source: int, target: int) -> None:
    heard = whole(linear16(source), linear16(target), bytes(2 * source // 10))
    assert heard == bytes(len(heard))
    assert len(heard) == 2 * math.floor(source // 10 * target / source + 0.5)


@each_pair
def test_a_constant_stays_that_constant(source: int, target: int) -> None:
    heard = numbers(whole(linear16(source), linear16(target), pcm(np.full(source, 12345.0))))
    assert (heard[target // 100 : -target // 100] == 12345).all()


@each_pair
def test_noise_gets_no_direct_current(source: int, target: int) -> None:
    audio = numbers(noise(source, seed=7, peak=20000)) * np.hanning(source)
    heard = numbers(whole(linear16(source), linear16(target), pcm(audio)))
    assert np.abs(heard).max() < 32767
    assert heard.mean() == pytest.approx(audio.mean(), abs=0.05)


@each_pair
def test_full_scale_saturates_and_does_not_wrap(source: int, target: int) -> None:
    swing = 32767 * np.sign(np.sin(2 * np.pi * 200 * (np.arange(source) + 0.5) / source))
    heard = numbers(whole(linear16(source), linear16(target), pcm(swing)))
    wave = np.sin(2 * np.pi * 200 * (np.arange(target) / target + 0.5 / source))
    far_from_the_edges = np.abs(wave) > 0.7
    assert (np.sign(heard) == np.sign(wave))[far_from_the_edges].all()
    assert np.abs(heard[far_from_the_edges]).min() > 25000


@pytest.mark.parametrize("encoding", [Encoding.MULAW, Encoding.ALAW])
@pytest.mark.parametrize("rate", [16000, 24000, 48000])
@pytest.mark.conformance("C-141")
def test_g711_at_other_rates_is_the_same_tone(encoding: Encoding, rate: int) -> None:
    coded = whole(PCM24K, Format(encoding, rate), tone(1000, 24000))
    assert len(coded) == int(1.5 * rate)
    heard = numbers(whole(Format(encoding, rate), PCM24K, coded))
    error = heard - numbers(tone(1000, 24000))
    inside = slice(1200, -1200)
    assert 20 * math.log10(error[inside].std() / heard[inside].std()) < -35


def test_floats_are_clamped_and_nan_is_silence() -> None:
    floats = [0.5, -0.5, 1.0, -1.0, 7.0, -7.0, math.inf, -math.inf, math.nan, 1e-40]
    heard = numbers(
        whole(Format(Encoding.LINEAR32, 24000), PCM24K, np.array(floats, "<f4").tobytes())
    )
    top, bottom = 32767, -32768
    assert list(heard) == [16384, -16384, top, bottom, top, bottom, top, bottom, 0, 0]


def test_a_signalling_nan_is_silence_too() -> None:
    audio = bytes.fromhex("0100a07f 0100a0ff 0000003f")
    assert list(numbers(whole(Format(Encoding.LINEAR32, 24000), PCM24K, audio))) == [0, 0, 16384]


def test_a_nan_does_not_silence_its_neighbours() -> None:
    samples = np.full(480, 0.5, "<f4")
    samples[240] = math.nan
    heard = numbers(whole(Format(Encoding.LINEAR32, 48000), PCM24K, samples.tobytes()))
    assert heard[60] == 16384
    assert heard[180] == 16384


# The end of an utterance


@given(st.sampled_from(Encoding), pairs, st.integers(0, 3000))
def test_after_the_end_nothing_is_missing(
    encoding: Encoding, pair: tuple[int, int], samples: int
) -> None:
    source, target = linear16(pair[0]), Format(encoding, pair[1])
    heard = whole(source, target, noise(samples))
    assert len(heard) == target.sample_bytes * math.floor(samples * target.rate / source.rate + 0.5)


@each_pair
def test_the_end_is_that_of_a_stream_followed_by_silence(source: int, target: int) -> None:
    audio = noise(source // 7)
    heard = whole(linear16(source), linear16(target), audio)
    longer = whole(linear16(source), linear16(target), audio + bytes(source))
    assert longer[: len(heard)] == heard


@each_pair
def test_a_sound_that_fades_out_ends_without_a_click(source: int, target: int) -> None:
    fading = numbers(tone(440, source, 0.2))
    fading *= np.cos(np.linspace(0, np.pi / 2, fading.size)) ** 2
    heard = numbers(whole(linear16(source), linear16(target), pcm(fading)))
    assert np.abs(heard[-target // 200 :]).max() < 100
    assert np.abs(np.diff(heard)).max() < 1.1 * np.abs(np.diff(fading)).max() * max(
        1, source / target
    )


@each_pair
def test_a_tone_is_as_if_it_had_been_sampled_at_the_other_rate(source: int, target: int) -> None:
    """Nothing is shifted: a delay of a microsecond would make a difference of 100."""
    heard = numbers(whole(linear16(source), linear16(target), tone(1000, source, 1)))
    ideal = numbers(tone(1000, target, 1))
    inside = slice(target // 100, -target // 100)
    assert np.abs(heard - ideal)[inside].max() < 10


@given(pairs, st.sampled_from(Encoding), st.binary(max_size=999))
def test_after_the_end_the_stream_is_a_new_one(
    pair: tuple[int, int], encoding: Encoding, before: bytes
) -> None:
    source, target = Format(encoding, pair[0]), linear16(pair[1])
    audio = whole(linear16(source.rate), source, noise(300))
    flushed, reset = transcoder(source, target), transcoder(source, target)
    flushed.feed(before)
    flushed.flush()
    reset.feed(before)
    reset.reset()
    fresh = whole(source, target, audio)
    assert flushed.feed(audio) + flushed.flush() == fresh
    assert reset.feed(audio) + reset.flush() == fresh


@pytest.mark.parametrize("target", [PCM24K, PCMU8K, linear16(48000)], ids=str)
def test_a_stream_that_was_reset_has_forgotten_half_a_sample(target: Format) -> None:
    stream = transcoder(PCM24K, target)
    stream.feed(b"\x7b")
    stream.reset()
    assert stream.feed(noise(240)) + stream.flush() == whole(PCM24K, target, noise(240))


@pytest.mark.conformance("C-227")
@pytest.mark.parametrize("target", [PCM24K, PCMU8K, linear16(48000)], ids=str)
def test_half_a_sample_is_dropped_at_the_end(target: Format) -> None:
    audio = noise(240)
    assert whole(PCM24K, target, audio + b"\x7b") == whole(PCM24K, target, audio)


def test_the_end_of_nothing_is_nothing() -> None:
    for source, target in PAIRS:
        stream = transcoder(linear16(source), linear16(target))
        assert stream.flush() == b""
        assert stream.feed(b"") == b""
        assert stream.feed(b"\1") == b""
        assert stream.flush() == b""


# Which rates


def test_every_pair_of_usual_rates_can_be_had() -> None:
    for source, target in itertools.product([*RATES, 24000, 12000, 96000], repeat=2):
        assert transcodable(linear16(source), linear16(target))


@pytest.mark.parametrize("rate", [-8000, 0, 1, 3999, 23999, 192001, 10**9])
def test_other_rates_are_refused(rate: int) -> None:
    assert not resamplable(rate, 24000)
    assert not transcodable(linear16(rate), PCM24K)
    with pytest.raises(ValueError, match="cannot resample"):
        transcoder(linear16(rate), PCM24K)
