"""voice: sound for a text.

It knows how long a text takes to say, and makes that much sound: a buzz shaped into vowels, hiss
for consonants, silence for punctuation. It says no words; it is there to be played, measured and
interrupted. The same text in the same voice at the same speed and rate always sounds the same, bit
for bit, and its length is exactly proportional to the text's.
"""

import functools
import re

import numpy as np
import numpy.typing as npt

CHARACTERS_PER_SECOND = 15.0
"""About the speed of natural English speech."""

_VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
    "y": (390, 1990, 2550),
}
"""Formants in Hz, after Peterson and Barney (1952), of the vowels that English letters suggest."""
_BANDWIDTH_HZ = 120.0
_LOUDNESS = 0.35
"""Peak of a vowel, of full scale: about -14 dBFS, as loud as people are on a telephone."""
_FADE_S = 0.008

Samples = npt.NDArray[np.int16]


def pieces(text: str) -> list[str]:
    """The text cut behind each word, and very long words cut too: what is said in one go."""
    return re.findall(r"\S{1,30}\s{0,8}|\s{1,8}", text)


def duration_s(text: str, speed: float = 1.0) -> float:
    """How long the text takes to say."""
    return len(text) / CHARACTERS_PER_SECOND / speed


@functools.lru_cache(maxsize=512)
def say(piece: str, voice: str, speed: float, rate: int) -> Samples:
    """One piece as 16-bit samples at `rate` a second. The array is shared: do not write to it."""
    per_character = rate / CHARACTERS_PER_SECOND / speed
    edges = [round(n * per_character) for n in range(len(piece) + 1)]
    sound = np.zeros(edges[-1])
    for syllable in re.finditer(r"([^\W_]+?[aeiouy]+|[^\W_]+)", piece.lower()):
        begin, end = edges[syllable.start()], edges[syllable.end()]
        sound[begin:end] = _syllable(syllable[0], end - begin, _pitch_hz(voice), rate)
    samples = (sound * (_LOUDNESS * 32767)).astype(np.int16)
    samples.flags.writeable = False
    return samples


def _syllable(letters: str, length: int, pitch_hz: float, rate: int) -> npt.NDArray[np.float64]:
    t = np.arange(length) / rate
    formants = next((_VOWELS[letter] for letter in letters if letter in _VOWELS), (500, 1500, 2500))
    # A fall of pitch over the syllable, by which a listener hears where the next one begins.
    phase = 2 * np.pi * pitch_hz * (t - 0.15 * t * t / max(t[-1] if length else 1.0, 1e-3))
    sound = np.zeros(length)
    for harmonic in range(1, int(min(3500.0, 0.45 * rate) / pitch_hz)):
        gain = sum(_resonance(harmonic * pitch_hz, formant) for formant in formants) / harmonic**0.5
        sound += gain * np.sin(harmonic * phase)
    if letters[0] not in _VOWELS:
        hiss = np.random.default_rng(sum(map(ord, letters))).uniform(-0.5, 0.5, length)
        onset = min(length, int(0.03 * rate))
        peak = np.max(np.abs(sound), initial=1e-9)
        sound[:onset] = 0.3 * sound[:onset] + peak * hiss[:onset]
    fade = np.minimum(1.0, np.minimum(t, t[::-1]) / _FADE_S)
    shaped: npt.NDArray[np.float64] = sound * fade / np.max(np.abs(sound), initial=1e-9)
    return shaped


def _resonance(frequency: float, formant: float) -> float:
    return float(1.0 / (1.0 + ((frequency - formant) / _BANDWIDTH_HZ) ** 2))


def _pitch_hz(voice: str) -> float:
    """Between 95 and 215 Hz, another for each voice's name."""
    return 95.0 + sum(map(ord, voice)) * 17 % 121
