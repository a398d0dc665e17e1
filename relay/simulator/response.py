"""response: one response being made, from response.created to response.done.

It knows the order of a response's events and their pace. It does not know what to say
(`responder`), how it sounds (`voice`), nor when a response is asked for or cancelled
(`conversation`).

    idle -> [thinking] -> message: deltas ... -> call: deltas ... -> ended
                 \\------------------ cancel -----------------/
"""

import math
from typing import Literal, TypeAlias, TypedDict

import msgspec
import numpy as np

from relay import realtime
from relay.audio.formats import PCM24K, PCMA8K, Format
from relay.audio.g711 import ALAW_CODES, MULAW_CODES
from relay.simulator import voice
from relay.simulator.ids import Ids
from relay.simulator.items import Items, Stored
from relay.simulator.responder import Answer, Call
from relay.simulator.script import Failure, Knobs

MOST_TOKENS = 4096
"""Output tokens of a response without a limit of its own (PROTOCOL.md 2.1)."""
MS_PER_AUDIO_TOKEN = 50
CHARACTERS_PER_TOKEN = 4
_WRITING = 10
"""Text comes this much faster than it would be spoken."""

Reason: TypeAlias = Literal["turn_detected", "client_cancelled"]
Cut: TypeAlias = Literal["max_output_tokens", "content_filter"]


class _InOutput(TypedDict):
    """Where in a response something belongs."""

    response_id: str
    item_id: str
    output_index: int


class _InContent(_InOutput):
    content_index: int


class Manner(msgspec.Struct, frozen=True):
    """How a response is given: the session's settings under those of response.create."""

    modality: Literal["text", "audio"]
    voice: str
    speed: float
    format: Format
    wire_format: realtime.AudioFormat
    max_output_tokens: int | Literal["inf"]
    metadata: dict[str, str] | None


class Message(msgspec.Struct):
    """The message being said."""

    item: Stored
    rest: list[str]
    """Pieces of the text still to be said, the next one last."""
    said: str = ""
    unsent: bytearray = msgspec.field(default_factory=bytearray)
    """Audio of what is said so far that is not in a delta yet."""


class Calling(msgspec.Struct):
    """The function call being made."""

    item: Stored
    rest: str
    """Arguments still to be sent."""


class Response(msgspec.Struct):
    """One response. `begin` it, then `advance` it whenever it is `due`, until it is `ended`."""

    id: str
    manner: Manner
    answer: Answer
    items: Items | None
    """Where its items go; None when it is out of band."""
    conversation_id: str | None
    knobs: Knobs
    ids: Ids
    input_usage: realtime.TokenDetails
    due: float = 0.0
    ended: bool = False
    output: list[Stored] = []
    current: Message | Calling | None = None
    message_made: bool = False
    calls_made: int = 0
    tokens: int = 0

    def begin(self, now: float) -> list[realtime.ServerEvent]:
        """response.created, and how much of the quota is left."""
        think_s = self.knobs.think_s if self.answer.delay_s is None else self.answer.delay_s
        self.due = now + think_s
        return [
            realtime.ResponseCreated(response=self._shown("in_progress")),
            realtime.RateLimitsUpdated(
                rate_limits=[
                    realtime.RateLimit(
                        name="requests", limit=5000, remaining=4999, reset_seconds=0.012
                    ),
                    realtime.RateLimit(
                        name="tokens", limit=400_000, remaining=399_000, reset_seconds=0.15
                    ),
                ]
            ),
        ]

    def advance(self) -> list[realtime.ServerEvent]:
        """What is due now; moves `due` on, or ends the response."""
        match self.current:
            case Message():
                return self._say(self.current)
            case Calling():
                return self._call(self.current)
            case None:
                return self._next()

    def cancel(self, reason: Reason) -> list[realtime.ServerEvent]:
        """End it here: every `done` event of what is open, then response.done."""
        return self._close("incomplete") + self._end("cancelled", reason)

    def _next(self) -> list[realtime.ServerEvent]:
        answer = self.answer
        if answer.say and not self.message_made:
            self.message_made = True
            return self._open_message(voice.pieces(answer.say))
        if self.calls_made < len(answer.calls):
            self.calls_made += 1
            return self._open_call(answer.calls[self.calls_made - 1])
        if answer.fail is not None:
            return self._end("failed", error=answer.fail)
        if answer.incomplete is not None:
            return self._end("incomplete", answer.incomplete)
        return self._end("completed")

    # A message -----------------------------------------------------------------------------------

    def _open_message(self, pieces: list[str]) -> list[realtime.ServerEvent]:
        if self.answer.incomplete is not None and not self.answer.calls:
            pieces = pieces[: math.ceil(len(pieces) / 2)]
        face = realtime.Item(
            type="message",
            id=self.ids.new("item"),
            object="realtime.item",
            status="in_progress",
            role="assistant",
            content=[],
        )
        item = Stored(face, None if self.manner.modality == "text" else self.manner.format)
        self.current = Message(item, pieces[::-1])
        opened = self._open(item)
        part = self._part("")
        return [*opened, realtime.ResponseContentPartAdded(**self._where_content(item), part=part)]

    def _say(self, message: Message) -> list[realtime.ServerEvent]:
        if not message.rest and not message.unsent:
            cut = self.answer.incomplete is not None and not self.answer.calls
            return self._close("incomplete" if cut else "completed")
        if self._spent(message) >= self._budget():
            self.answer = msgspec.structs.replace(
                self.answer, calls=(), fail=None, incomplete="max_output_tokens"
            )
            return self._close("incomplete")
        return self._write(message) if self.manner.modality == "text" else self._speak(message)

    def _write(self, message: Message) -> list[realtime.ServerEvent]:
        piece = message.rest.pop()
        message.said += piece
        self._wait(voice.duration_s(piece) / _WRITING)
        where = self._where_content(message.item)
        return [realtime.ResponseOutputTextDelta(**where, delta=piece)]

    def _speak(self, message: Message) -> list[realtime.ServerEvent]:
        events: list[realtime.ServerEvent] = []
        where = self._where_content(message.item)
        wanted = self.manner.format.nbytes(self.knobs.delta_ms)
        while len(message.unsent) < wanted and message.rest:
            piece = message.rest.pop()
            message.said += piece
            message.unsent += spoken(piece, self.manner)
            events.append(realtime.ResponseOutputAudioTranscriptDelta(**where, delta=piece))
        audio = bytes(message.unsent[:wanted])
        del message.unsent[:wanted]
        if audio:
            message.item.adds(audio)
            self._wait(self.manner.format.ms(len(audio)) / 1000)
            events.append(realtime.ResponseOutputAudioDelta(**where, delta=audio))
        return events

    def _close_message(self, message: Message) -> list[realtime.ServerEvent]:
        item, said = message.item, message.said
        where = self._where_content(item)
        self.tokens += _text_tokens(said) + math.ceil(item.audio_ms / MS_PER_AUDIO_TOKEN)
        part: realtime.ServerEvent = realtime.ResponseContentPartDone(
            **where, part=self._part(said)
        )
        if self.manner.modality == "text":
            item.face.content = [realtime.ContentPart(type="output_text", text=said)]
            return [realtime.ResponseOutputTextDone(**where, text=said), part]
        transcript = None if item.truncated else said
        item.face.content = [realtime.ContentPart(type="output_audio", transcript=transcript)]
        return [
            realtime.ResponseOutputAudioDone(**where),
            realtime.ResponseOutputAudioTranscriptDone(**where, transcript=said),
            part,
        ]

    def _part(self, said: str) -> realtime.ContentPart:
        if self.manner.modality == "text":
            return realtime.ContentPart(type="text", text=said)
        return realtime.ContentPart(type="audio", transcript=said)

    # A function call -----------------------------------------------------------------------------

    def _open_call(self, call: Call) -> list[realtime.ServerEvent]:
        face = realtime.Item(
            type="function_call",
            id=self.ids.new("item"),
            object="realtime.item",
            status="in_progress",
            name=call.name,
            call_id=self.ids.new("call"),
            arguments="",
        )
        item = Stored(face)
        self.current = Calling(item, call.arguments)
        return self._open(item)

    def _call(self, calling: Calling) -> list[realtime.ServerEvent]:
        if not calling.rest:
            return self._close("completed")
        delta, calling.rest = calling.rest[:16], calling.rest[16:]
        face = calling.item.face
        face.arguments = (face.arguments or "") + delta
        self._wait(voice.duration_s(delta) / _WRITING)
        where = self._where_output(calling.item)
        return [
            realtime.ResponseFunctionCallArgumentsDelta(
                **where, call_id=face.call_id or "", delta=delta
            )
        ]

    def _close_call(self, calling: Calling) -> list[realtime.ServerEvent]:
        face = calling.item.face
        self.tokens += _text_tokens(face.arguments or "")
        return [
            realtime.ResponseFunctionCallArgumentsDone(
                **self._where_output(calling.item),
                call_id=face.call_id or "",
                name=face.name or "",
                arguments=face.arguments or "",
            )
        ]

    # Any item, and the end -----------------------------------------------------------------------

    def _open(self, item: Stored) -> list[realtime.ServerEvent]:
        self.output = [*self.output, item]
        events: list[realtime.ServerEvent] = [
            realtime.ResponseOutputItemAdded(
                response_id=self.id, output_index=len(self.output) - 1, item=item.shown()
            )
        ]
        if self.items is not None:
            previous = self.items.last_id()
            self.items.place(item)
            events.append(
                realtime.ConversationItemAdded(item=item.shown(), previous_item_id=previous)
            )
        return events

    def _close(self, status: Literal["completed", "incomplete"]) -> list[realtime.ServerEvent]:
        match self.current:
            case Message():
                events = self._close_message(self.current)
            case Calling():
                events = self._close_call(self.current)
            case None:
                return []
        item = self.current.item
        item.face.status = status
        self.current = None
        if self.items is not None and self.items.find(item.id) is not None:
            before = self.items.before(item)
            events.append(realtime.ConversationItemDone(item=item.shown(), previous_item_id=before))
        done = realtime.ResponseOutputItemDone(
            response_id=self.id, output_index=len(self.output) - 1, item=item.shown()
        )
        return [*events, done]

    def _end(
        self,
        status: Literal["completed", "cancelled", "incomplete", "failed"],
        reason: Reason | Cut | None = None,
        error: Failure | None = None,
    ) -> list[realtime.ServerEvent]:
        self.ended = True
        details = realtime.StatusDetails(type=status, reason=reason)
        if error is not None:
            details.error = realtime.ErrorDetail(
                type=error.type, code=error.code, message=error.message
            )
        shown = self._shown(status)
        shown.status_details = details
        shown.usage = self._usage()
        return [realtime.ResponseDone(response=shown)]

    def _shown(self, status: str) -> realtime.Response:
        audio = realtime.SessionAudio(
            output=realtime.AudioOutput(format=self.manner.wire_format, voice=self.manner.voice)
        )
        return realtime.Response(
            id=self.id,
            object="realtime.response",
            status=status,
            conversation_id=self.conversation_id,
            output=[item.shown() for item in self.output],
            output_modalities=[self.manner.modality],
            audio=audio,
            max_output_tokens=self.manner.max_output_tokens,
            metadata=self.manner.metadata,
        )

    def _usage(self) -> realtime.Usage:
        audio = sum(math.ceil(item.audio_ms / MS_PER_AUDIO_TOKEN) for item in self.output)
        given = (self.input_usage.text_tokens or 0) + (self.input_usage.audio_tokens or 0)
        return realtime.Usage(
            total_tokens=given + self.tokens,
            input_tokens=given,
            output_tokens=self.tokens,
            input_token_details=self.input_usage,
            output_token_details=realtime.TokenDetails(
                text_tokens=max(self.tokens - audio, 0), audio_tokens=audio
            ),
        )

    def _spent(self, message: Message) -> int:
        """Tokens so far, the message being said included."""
        audio = math.ceil(message.item.audio_ms / MS_PER_AUDIO_TOKEN)
        return self.tokens + _text_tokens(message.said) + audio

    def _budget(self) -> int:
        limit = self.manner.max_output_tokens
        return MOST_TOKENS if limit == "inf" else limit

    def _wait(self, duration_s: float) -> None:
        if self.knobs.pace > 0:
            self.due += duration_s / self.knobs.pace

    def _where_output(self, item: Stored) -> _InOutput:
        return _InOutput(response_id=self.id, item_id=item.id, output_index=len(self.output) - 1)

    def _where_content(self, item: Stored) -> _InContent:
        return _InContent(
            response_id=self.id,
            item_id=item.id,
            output_index=len(self.output) - 1,
            content_index=0,
        )


def spoken(piece: str, manner: Manner) -> bytes:
    """The sound of one piece in the response's format."""
    samples = voice.say(piece, manner.voice, manner.speed, manner.format.rate)
    if manner.format == PCM24K:
        return samples.astype("<i2").tobytes()
    codes = ALAW_CODES if manner.format == PCMA8K else MULAW_CODES
    return codes[samples.view(np.uint16)].tobytes()


def _text_tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
