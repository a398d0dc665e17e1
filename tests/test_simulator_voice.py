"""The simulator's voice: how long, how loud, and always the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.simulator.configuration import ServerVad
from relay.simulator.ear import Ear, Started
from relay.simulator.voice import duration_s, pieces, say


@given(st.text(max_size=200))
def test_pieces_are_the_text_and_none_is_long(text: str) -> None:
    cut = pieces(text)
    assert "".join(cut) == text
    assert all(0 < len(piece) <= 38 for piece in cut)


@settings(max_examples=30, deadline=None)
@given(
    st.text(min_size=1, max_size=12),
    st.sampled_from(["alloy", "marin"]),
    st.sampled_from([0.25, 1.0, 1.5]),
    st.sampled_from([8000, 24000]),
)
def test_any_text_sounds_for_as_long_as_it_takes_to_say(
    text: str, voice: str, speed: float, rate: int
) -> None:
    samples = say(text, voice, speed, rate)
    assert len(samples) == pytest.approx(duration_s(text, speed) * rate, abs=1)
    assert samples.dtype == np.int16


def test_the_same_words_sound_the_same_and_another_voice_sounds_different() -> None:
    first = say("hello", "alloy", 1.0, 24000).copy()
    say.cache_clear()
    assert np.array_equal(first, say("hello", "alloy", 1.0, 24000))
    assert not np.array_equal(first, say("hello", "cedar", 1.0, 24000))


def test_words_sound_and_punctuation_is_silent() -> None:
    loud = np.sqrt(np.mean(np.square(say("banana", "alloy", 1.0, 24000), dtype=np.float64)))
    assert -30 < 20 * np.log10(loud / 32768) < -10
    assert not say("... !", "alloy", 1.0, 24000).any()


def test_a_sentence_is_speech_to_the_simulators_own_ear() -> None:
    ear = Ear()
    for piece in pieces("Hello there, how are you?"):
        ear.append(say(piece, "alloy", 1.0, 24000).astype("<i2").tobytes())
    assert isinstance(ear.listen(ServerVad()), Started)
