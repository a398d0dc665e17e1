"""usage: what a conversation has used, in what its upstreams bill.

Counted as it happens, and part of the state, so that it goes on where the conversation does: behind
a rollover, another upstream, a resume. It knows no prices and no limits.
"""

from typing import Any, Self

import msgspec

from relay import realtime
from relay.audio.formats import Format

MOST_TOKENS = 10**9
"""Nobody uses more for one response; so no sum grows too long to encode, whatever is claimed."""
MOST_SECONDS = 86_400.0
REMEMBERED = 32


class Tokens(msgspec.Struct):
    """Tokens by kind. Each is of one kind only: what was cached is not in the text or audio."""

    input_text: int = 0
    input_audio: int = 0
    input_cached: int = 0
    output_text: int = 0
    output_audio: int = 0

    @property
    def total(self) -> int:
        return sum(msgspec.structs.astuple(self))

    def add(self, other: "Tokens") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Used(msgspec.Struct):
    """What adds up."""

    input_ms: float = 0.0
    """Audio that the upstream was sent..."""
    output_ms: float = 0.0
    """...and that it said, heard or not."""
    user_chars: int = 0
    agent_chars: int = 0
    """Text of both sides, as told in ConversationText."""
    responses: int = 0
    function_calls: int = 0
    tokens: dict[str, Tokens] = {}
    """By model; those that transcribe are among them."""
    transcribed_s: dict[str, float] = {}
    """Speech that was transcribed by models that count seconds, by model."""

    @property
    def total_tokens(self) -> int:
        return sum(tokens.total for tokens in self.tokens.values())

    def tokens_of(self, model: str) -> Tokens:
        return self.tokens.setdefault(model, Tokens())

    def add(self, other: Self) -> None:
        self.input_ms += other.input_ms
        self.output_ms += other.output_ms
        self.user_chars += other.user_chars
        self.agent_chars += other.agent_chars
        self.responses += other.responses
        self.function_calls += other.function_calls
        for model, tokens in other.tokens.items():
            self.tokens_of(model).add(tokens)
        for model, seconds in other.transcribed_s.items():
            self.transcribed_s[model] = self.transcribed_s.get(model, 0.0) + seconds


class Usage(msgspec.Struct):
    """A conversation's, from its beginning."""

    session: str = ""
    """Id of its first Welcome."""
    connections: int = 0
    used: Used = msgspec.field(default_factory=Used)
    """What was `taken` already..."""
    fresh: Used | None = None
    """...and what was not, if there is anything."""
    input_bytes: int = 0
    """Audio that is not `settled` yet, and neither of these."""
    output_bytes: int = 0
    billed: tuple[str, ...] = ()
    """The last responses of which the tokens were told."""

    def settled(self, heard: Format, spoken: Format) -> None:
        """The audio so far was in these formats."""
        if self.input_bytes or self.output_bytes:
            counting = self.counting()
            counting.input_ms += heard.ms(self.input_bytes)
            counting.output_ms += spoken.ms(self.output_bytes)
            self.input_bytes = self.output_bytes = 0

    def counting(self) -> Used:
        """To be added to."""
        if self.fresh is None:
            self.fresh = Used()
        return self.fresh

    def taken(self) -> Used:
        """What was used since the last time."""
        fresh, self.fresh = self.fresh, None
        if fresh is None:
            return Used()
        self.used.add(fresh)
        return fresh

    def responded(self, model: str, response: realtime.Response) -> None:
        """A response is over, and the upstream says what it took."""
        if response.usage is None or response.id in self.billed:
            return
        if response.id:
            self.billed = (*self.billed, response.id)[-REMEMBERED:]
        told = response.usage
        self.counting().tokens_of(model).add(_tokens(told, told.output_token_details))

    def transcribed(self, model: str, told: realtime.TranscriptionUsage) -> None:
        """A turn of the user's was written down, and the upstream says what that took."""
        if told.seconds is not None:
            seconds = min(max(0.0, told.seconds), MOST_SECONDS)
            transcribed_s = self.counting().transcribed_s
            transcribed_s[model] = transcribed_s.get(model, 0.0) + seconds
        else:
            self.counting().tokens_of(model).add(_tokens(told, None))


class Bill(msgspec.Struct, frozen=True):
    """What a conversation has used so far, for whoever writes it down."""

    session: str
    """Id of its first Welcome."""
    client: str
    connections: int
    lasted_s: float
    """Without the time that it was parked."""
    used: Used

    def fields(self) -> dict[str, Any]:
        """For the log: seconds and counts, nothing that was said and no id."""
        used = self.used
        return {
            "connections": self.connections,
            "lasted_s": round(self.lasted_s, 3),
            "input_audio_s": round(used.input_ms / 1000, 3),
            "output_audio_s": round(used.output_ms / 1000, 3),
            "user_chars": used.user_chars,
            "agent_chars": used.agent_chars,
            "responses": used.responses,
            "function_calls": used.function_calls,
            "tokens": {
                model: {kind: n for kind, n in msgspec.structs.asdict(tokens).items() if n}
                for model, tokens in used.tokens.items()
            },
            "transcribed_s": {model: round(s, 3) for model, s in used.transcribed_s.items()},
        }


def _tokens(
    told: realtime.Usage | realtime.TranscriptionUsage, given_out: realtime.TokenDetails | None
) -> Tokens:
    """By kind. What is of no kind counts as text, so that nothing is lost; what was cached, where
    that is not said, was text first."""
    taken_in = told.input_token_details
    text, audio = _parts(told.input_tokens, taken_in)
    cached_text, cached_audio = _cached(taken_in, text)
    written, spoken = _parts(told.output_tokens, given_out)
    return Tokens(
        input_text=max(0, text - cached_text),
        input_audio=max(0, audio - cached_audio),
        input_cached=min(text, cached_text) + min(audio, cached_audio),
        output_text=written,
        output_audio=spoken,
    )


def _parts(total: int | None, details: realtime.TokenDetails | None) -> tuple[int, int]:
    """Text and audio tokens."""
    audio = _count(details.audio_tokens if details else None)
    text = _count(details.text_tokens if details else None)
    return max(text, _count(total) - audio), audio


def _cached(details: realtime.TokenDetails | None, text: int) -> tuple[int, int]:
    if details is None:
        return 0, 0
    cached, exact = _count(details.cached_tokens), details.cached_tokens_details
    if exact is None:
        return min(cached, text), max(0, cached - text)
    return _parts(cached, exact)


def _count(told: int | None) -> int:
    return min(max(0, told or 0), MOST_TOKENS)
