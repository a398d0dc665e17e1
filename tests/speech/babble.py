"""babble: speech-like sound, made in code.

It knows how to shape syllables so that a detector of voice activity takes them for speech: a
buzzing voice with a wandering pitch, three formants that change with every syllable, loud vowels
and soft onsets. It says no words, and the same arguments give the same sound.
"""

import numpy as np
from numpy.typing import NDArray

# First three formants in Hz of the vowels in "father", "see", "boot", "bed", "law" for a low voice,
# the textbook averages of Peterson and Barney (1952).
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)
FORMANT_WIDTHS = (90, 110, 160)
FORMANT_LEVELS = (1.0, 0.5, 0.25)
SYLLABLE_S = 0.19
GAP_S = 0.05
"""Between syllables: far below the silence that ends a turn."""
PITCH_HZ = 118
PEAK = 0.4
"""Of full scale: an ordinary microphone level, about -20 dB RMS within a syllable."""


def speech(seconds: float, rate: int = 16000) -> bytes:
    """One utterance without a pause, as mono linear16; it lasts `seconds` to within a sample."""
    samples = round(seconds * rate)
    sound = np.zeros(samples)
    step = SYLLABLE_S + GAP_S
    for number in range(int(np.ceil(seconds / step))):
        start = round(number * step * rate)
        syllable = _syllable(number, rate)[: samples - start]
        sound[start : start + len(syllable)] = syllable
    return _linear16(sound)


def silence(seconds: float, rate: int = 16000) -> bytes:
    """A quiet room: zeros."""
    return bytes(2 * round(seconds * rate))


def _syllable(number: int, rate: int) -> NDArray[np.float64]:
    """A vowel that swells and fades, on a pitch that falls a little, as at the end of a word."""
    t = np.arange(round(SYLLABLE_S * rate)) / rate
    pitch = PITCH_HZ * (1 + 0.12 * np.sin(1.7 * number)) * (1 - 0.15 * t / SYLLABLE_S)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = np.zeros_like(t)
    for harmonic in range(1, int(min(3600, rate / 2.2) // PITCH_HZ)):
        level = _formant_level(harmonic * PITCH_HZ, VOWELS[number % len(VOWELS)])
        sound += level * np.sin(harmonic * phase)
    envelope = np.sin(np.pi * t / SYLLABLE_S) ** 0.6
    loudness = 0.75 + 0.25 * np.cos(2.3 * number)
    return np.asarray(PEAK * loudness * envelope * sound / np.abs(sound).max())


def _formant_level(hertz: float, vowel: tuple[int, int, int]) -> float:
    resonances = zip(vowel, FORMANT_WIDTHS, FORMANT_LEVELS, strict=True)
    return sum(level / (1 + ((hertz - centre) / width) ** 2) for centre, width, level in resonances)


def _linear16(sound: NDArray[np.float64]) -> bytes:
    return np.round(sound * 32767).astype("<i2").tobytes()
