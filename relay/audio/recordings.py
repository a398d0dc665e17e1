"""recordings: WAV files, as `relay talk` reads and keeps them.

It knows how to get mono linear16 out of a file's bytes and back into one. It opens no file.
"""

import io
import wave

import numpy as np

from relay.audio.formats import Encoding, Format


class RecordingError(ValueError):
    """These bytes are no recording that we can play; the text says why, for whoever chose it."""


def decode(data: bytes) -> tuple[bytes, Format]:
    """The recording in a 16-bit PCM file; several channels are mixed into one."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            samples = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise RecordingError(f"no PCM WAV file: {str(error) or 'it ends too early'}") from None
    if width != 2:
        raise RecordingError(f"{8 * width}-bit samples; only 16-bit ones are understood")
    if rate <= 0:
        raise RecordingError("no sample rate")
    whole = len(samples) // (2 * channels) * (2 * channels)
    frames = np.frombuffer(samples[:whole], "<i2").reshape(-1, channels)
    mono = samples[:whole] if channels == 1 else frames.mean(axis=1).astype("<i2").tobytes()
    return mono, Format(Encoding.LINEAR16, rate)


def encode(audio: bytes, rate: int) -> bytes:
    """A file with this mono linear16 audio."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(audio)
    return data.getvalue()
