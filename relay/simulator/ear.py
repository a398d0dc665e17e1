"""ear: the input audio buffer, and when somebody speaks in it.

It knows audio, its level, and the positions of both in the session's input, in milliseconds since
its start. It does not know items, ids or responses: `conversation` asks it what happened next and
decides what that leads to.

Voice activity is energy only: speech begins when the level, put on the scale of `threshold` by
`_QUIETEST_DBFS` and `_LOUDEST_DBFS`, reaches the threshold, and pauses when the level falls below
it, or far below the speaker's own (else the hum of a room would keep a turn open). The vendor's
detector is a model; what the two share is the order of events and the meaning of the three times.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from relay.audio.formats import PCM24K, PCMA8K, Format
from relay.audio.g711 import ALAW_SAMPLES, MULAW_SAMPLES
from relay.simulator.configuration import SemanticVad, ServerVad, TurnDetection
from relay.simulator.requests import Refusal

SHORTEST_COMMIT_MS = 100
"""The API commits no less (PROTOCOL.md 2.2)."""
_STEP_MS = 20
_ONSET_MS = 60
"""Speech must last this long before it counts, so that a click does not."""
_QUIETEST_DBFS, _LOUDEST_DBFS = -60.0, -20.0
"""Levels that count as 0 and as 1; the default threshold of 0.5 lies at -40 dBFS."""
_PAUSE = 0.25
"""So far below the speaker's recent peak, on the same scale (10 dB), is a pause, however noisy."""
_PEAK_FADES = 0.05
"""How much of the scale the recent peak loses in a second: somebody else may be quieter."""
_IDLE_KEPT_MS = 10_000
"""How much of what is not speech stays in the buffer while turns are detected."""
_EAGERNESS_MS = {"low": 1600, "medium": 800, "auto": 800, "high": 400}
"""Silence that ends a turn in semantic_vad. The vendor waits for up to 8, 4 and 2 seconds, but it
listens to the words; a simulator that cannot must not make its user wait that long."""


class Started(msgspec.Struct, frozen=True):
    """Somebody speaks."""

    audio_start_ms: int
    """Where the item's audio will begin: the onset less the prefix padding."""


class Stopped(msgspec.Struct, frozen=True):
    """It has been quiet for long enough."""

    audio_end_ms: int
    """Where the item's audio ends: after the silence."""


class Heard(msgspec.Struct, frozen=True):
    """What a commit takes out of the buffer."""

    audio: bytes
    seconds: float
    """How long the speech in it lasted; without turn detection, how long the audio lasts."""


class Ear(msgspec.Struct):
    """One input audio buffer. Append, then ask `listen` until it answers None."""

    format: Format = PCM24K
    buffer: bytearray = msgspec.field(default_factory=bytearray)
    begins_ms: float = 0.0
    """Position of the buffer's first byte."""
    judged_ms: float = 0.0
    """Position up to which the level was looked at."""
    loud_since_ms: float | None = None
    loud_until_ms: float = 0.0
    speech_start_ms: float | None = None
    """While somebody speaks: where the item's audio begins."""
    onset_ms: float = 0.0
    peak: float = 0.0
    """The recent loudest step of the speech."""

    @property
    def ends_ms(self) -> float:
        return self.begins_ms + self.format.ms(len(self.buffer))

    @property
    def speaking(self) -> bool:
        return self.speech_start_ms is not None

    def append(self, audio: bytes) -> None:
        self.buffer += audio

    def listen(self, detection: TurnDetection | None) -> Started | Stopped | None:
        """The next thing that happens in what was appended and not judged yet.

        After `Stopped`, commit before asking again.
        """
        if detection is None:
            self._rest()
            self.judged_ms = self.ends_ms
            return None
        threshold = detection.threshold if isinstance(detection, ServerVad) else 0.5
        while self.judged_ms + _STEP_MS <= self.ends_ms:
            self._judge(self._level(self.judged_ms), max(threshold, 1e-6))
            if self.speech_start_ms is None:
                if self._onset():
                    return self._start(detection)
            elif self.judged_ms - self.loud_until_ms >= _silence_ms(detection):
                return Stopped(round(self.judged_ms))
        self._forget_idle()
        return None

    def commit(self, *, until_judged: bool = False) -> Heard | Refusal:
        """Take the turn out of the buffer: from where the speech began, if there is any, else all.

        `until_judged` leaves what came after the last thing that `listen` told.
        """
        begin = self.begins_ms if self.speech_start_ms is None else self.speech_start_ms
        end = self.judged_ms if until_judged else self.ends_ms
        first, last = self._offset(begin), self._offset(end)
        duration_ms = self.format.ms(last - first)
        if duration_ms < SHORTEST_COMMIT_MS:
            return Refusal(
                "input_audio_buffer_commit_empty",
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of "
                f"audio, but buffer only has {duration_ms:.2f}ms of audio.",
            )
        spoken_ms = self.loud_until_ms - self.onset_ms if self.speaking else duration_ms
        heard = Heard(bytes(self.buffer[first:last]), spoken_ms / 1000)
        self._cut(last)
        self._rest()
        return heard

    def clear(self) -> None:
        """Forget everything; positions go on counting."""
        self._cut(len(self.buffer))
        self._rest()

    def change_format(self, audio_format: Format) -> None:
        """What is in the buffer cannot be told apart from what comes, and is dropped."""
        if audio_format != self.format:
            self.clear()
            self.format = audio_format

    def _level(self, position_ms: float) -> float:
        """Of one step of audio, on the scale of the threshold."""
        first = self._offset(position_ms)
        step = bytes(self.buffer[first : first + self.format.nbytes(_STEP_MS)])
        loudness = np.sqrt(np.mean(np.square(samples(step, self.format), dtype=np.float64)))
        dbfs = 20 * np.log10(max(float(loudness), 1e-3) / 32768)
        return max(0.0, float(dbfs - _QUIETEST_DBFS) / (_LOUDEST_DBFS - _QUIETEST_DBFS))

    def _judge(self, level: float, threshold: float) -> None:
        self.peak = max(level, self.peak - _PEAK_FADES * _STEP_MS / 1000)
        loud = level >= (max(threshold, self.peak - _PAUSE) if self.speaking else threshold)
        if not loud:
            self.loud_since_ms = None
        elif self.loud_since_ms is None:
            self.loud_since_ms = self.judged_ms
        self.judged_ms += _STEP_MS
        if loud:
            self.loud_until_ms = self.judged_ms

    def _onset(self) -> bool:
        return self.loud_since_ms is not None and self.judged_ms - self.loud_since_ms >= _ONSET_MS

    def _start(self, detection: TurnDetection) -> Started:
        assert self.loud_since_ms is not None
        padding = detection.prefix_padding_ms if isinstance(detection, ServerVad) else 300
        self.onset_ms = self.loud_since_ms
        self.peak = 0.0
        self.speech_start_ms = max(self.onset_ms - padding, self.begins_ms)
        return Started(round(self.speech_start_ms))

    def _forget_idle(self) -> None:
        if not self.speaking and self.ends_ms - self.begins_ms > 2 * _IDLE_KEPT_MS:
            self._cut(self._offset(self.ends_ms - _IDLE_KEPT_MS))

    def _offset(self, position_ms: float) -> int:
        """The byte of a position, at a whole sample."""
        return min(
            self.format.nbytes(max(position_ms - self.begins_ms, 0) + 1e-3),
            len(self.buffer) // self.format.sample_bytes * self.format.sample_bytes,
        )

    def _cut(self, offset: int) -> None:
        self.begins_ms += self.format.ms(offset)
        del self.buffer[:offset]
        self.judged_ms = max(self.judged_ms, self.begins_ms)

    def _rest(self) -> None:
        self.speech_start_ms = None
        self.loud_since_ms = None


def samples(audio: bytes, audio_format: Format) -> npt.NDArray[np.int16]:
    """16-bit samples of audio in one of the upstream's three formats; half a sample is left out."""
    if audio_format == PCM24K:
        return np.frombuffer(audio, "<i2", count=len(audio) // 2)
    table = ALAW_SAMPLES if audio_format == PCMA8K else MULAW_SAMPLES
    return table[np.frombuffer(audio, np.uint8)]


def _silence_ms(detection: TurnDetection) -> int:
    kind: ServerVad | SemanticVad = detection
    match kind:
        case ServerVad():
            return max(kind.silence_duration_ms, _STEP_MS)
        case SemanticVad():
            return _EAGERNESS_MS[kind.eagerness]
