"""conversation: one session of the simulated API.

It knows what each client event leads to and what the passing of time does. It has no clock, no
socket and no randomness: the time is an argument (monotonic seconds), ids come from a counter, and
every method answers with what is to be sent, in order. The machines it conducts are `ear` (what is
heard), `items` (what was said), `response` (what is being said) and `responder` (what to say).

Nothing a client sends raises. What the API refuses is answered with an error event, and the session
stays open.
"""

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias, assert_never

import msgspec

from relay import realtime
from relay.simulator import items as item_rules
from relay.simulator import voice
from relay.simulator.configuration import Configuration, ServerVad, audio_format, changed
from relay.simulator.ear import Ear, Heard, Started, Stopped
from relay.simulator.ids import Ids
from relay.simulator.items import Items, Stored
from relay.simulator.requests import (
    AnyRequest,
    ConversationItemCreate,
    ConversationItemDelete,
    ConversationItemRetrieve,
    ConversationItemTruncate,
    CustomVoice,
    InputAudioBufferAppend,
    InputAudioBufferClear,
    InputAudioBufferCommit,
    ItemReference,
    OutputAudioBufferClear,
    Refusal,
    ResponseCancel,
    ResponseCreate,
    ResponseParams,
    SessionUpdate,
    read,
)
from relay.simulator.responder import Question, Responder, transcript
from relay.simulator.response import Manner, Reason, Response
from relay.simulator.script import Script, Unheard

MS_PER_USER_AUDIO_TOKEN = 100
"""PROTOCOL.md 2.1."""


class Hangup(msgspec.Struct, frozen=True):
    """Close the WebSocket, after what was sent before. Always the last."""

    code: int
    reason: str


Output: TypeAlias = realtime.ServerEvent | Hangup


class Transcribing(msgspec.Struct):
    """Speech whose text is not sent yet."""

    due: float
    item_id: str
    outcome: str | Unheard
    seconds: float


class Conversation(msgspec.Struct, kw_only=True):
    """One session. Call `opened` once, then `received` and `deadline_passed` as things happen."""

    script: Script
    ids: Ids
    responder: Responder
    configuration: Configuration
    id: str
    default: str
    """Id of the default conversation."""
    expires: float = math.inf
    """When the session ends, on the clock of `now`."""
    expires_at: int = 0
    """The same in unix seconds, as the client is told."""
    ear: Ear = msgspec.field(default_factory=Ear)
    items: Items = msgspec.field(default_factory=Items)
    responses: list[Response] = []
    """Those that have not ended; at most one of them in the default conversation."""
    transcribing: list[Transcribing] = []
    speech_item: str | None = None
    """Id of the item that the speech being heard will become."""
    spoken_turns: int = 0
    """Commits so far: the place in the script's transcripts."""
    has_spoken: bool = False
    plays_until: float = 0.0
    """When a client that plays at once will have heard all audio sent so far."""
    idle_at: float = math.inf
    """When the user will have been silent for `idle_timeout_ms`."""
    idle_since_ms: float = 0.0
    over: bool = False

    # The doors ------------------------------------------------------------------------------------

    def opened(self, now: float, wall: float) -> list[Output]:
        """A client connected. `wall` is unix seconds, for `expires_at`."""
        self.expires = now + self.script.knobs.session_s
        self.expires_at = int(wall + self.script.knobs.session_s)
        return self._sent([realtime.SessionCreated(session=self._session())])

    def received(self, data: str | bytes, now: float) -> list[Output]:
        """A frame of the client."""
        if self.over:
            return []
        earlier = self.deadline_passed(now)
        if earlier and isinstance(earlier[-1], Hangup):
            return earlier
        request, event_id = read(data)
        result = request if isinstance(request, Refusal) else self._obey(request, now)
        if isinstance(result, Refusal):
            result = [_error(result, event_id)]
        return [*earlier, *self._sent(result), *self.deadline_passed(now)]

    def next_deadline(self) -> float:
        """When `deadline_passed` has something to do; infinity if never."""
        if self.over:
            return math.inf
        return min(
            self.expires,
            self.idle_at,
            *(response.due for response in self.responses),
            *(waiting.due for waiting in self.transcribing),
        )

    def deadline_passed(self, now: float) -> list[Output]:
        """Everything due by now, in order of its time. Calls that are early are harmless."""
        outputs: list[Output] = []
        while (due := self.next_deadline()) <= now:
            outputs += self._sent(self._due(due))
        return outputs

    # Requests -------------------------------------------------------------------------------------

    def _obey(self, request: AnyRequest, now: float) -> list[Output] | Refusal:
        match request:
            case InputAudioBufferAppend():
                self.ear.append(request.audio)
                return self._listen(now)
            case InputAudioBufferCommit():
                heard = self.ear.commit()
                return heard if isinstance(heard, Refusal) else self._commit(heard, now)
            case InputAudioBufferClear():
                self.ear.clear()
                self.speech_item = None
                return [realtime.InputAudioBufferCleared()]
            case OutputAudioBufferClear():
                text = "output_audio_buffer.clear is for WebRTC and SIP only."
                return Refusal("invalid_value", text, "type")
            case SessionUpdate():
                return self._update(request)
            case ConversationItemCreate():
                return self._create_item(request)
            case ConversationItemRetrieve():
                stored = self.items.find(request.item_id)
                if stored is None:
                    return _no_item("retrieve", request.item_id)
                return [realtime.ConversationItemRetrieved(item=stored.shown(audio=True))]
            case ConversationItemDelete():
                stored = self.items.find(request.item_id)
                if stored is None:
                    return _no_item("delete", request.item_id)
                self.items.delete(stored)
                return [realtime.ConversationItemDeleted(item_id=stored.id)]
            case ConversationItemTruncate():
                return self._truncate(request)
            case ResponseCreate():
                return self._create_response(request.response or ResponseParams(), now)
            case ResponseCancel():
                return self._cancel(request.response_id, now)
            case _:
                assert_never(request)

    def _update(self, request: SessionUpdate) -> list[Output] | Refusal:
        now = changed(
            self.configuration,
            request.session,
            has_spoken=self.has_spoken,
            responding=self._active() is not None,
        )
        if isinstance(now, Refusal):
            return now
        self.configuration = now
        self.ear.change_format(audio_format(now.audio.input.format))
        if now.audio.input.turn_detection is None:
            self.ear.listen(None)
        if not self.ear.speaking:
            self.speech_item = None
        if self._idle_timeout_s() is None:
            self.idle_at = math.inf
        return [realtime.SessionUpdated(session=self._session())]

    def _create_item(self, request: ConversationItemCreate) -> list[Output] | Refusal:
        after = request.previous_item_id
        if refusal := self.items.refuses(request.item, after):
            return refusal
        stored = item_rules.created(request.item, self.ids, self.ear.format)
        self.items.place(stored, after)
        return self._announce(stored)

    def _truncate(self, request: ConversationItemTruncate) -> list[Output] | Refusal:
        stored = self.items.find(request.item_id)
        if stored is None:
            return _no_item("truncate", request.item_id)
        if stored.face.role != "assistant" or stored.format is None:
            text = "Only model output audio messages can be truncated"
            return Refusal("invalid_value", text, "item_id")
        if request.content_index != 0:
            text = f"Content index {request.content_index} does not exist."
            return Refusal("invalid_value", text, "content_index")
        if request.audio_end_ms > math.ceil(stored.audio_ms):
            text = (
                f"Audio content of {round(stored.audio_ms)}ms is already shorter than "
                f"{request.audio_end_ms}ms"
            )
            return Refusal("invalid_value", text, "audio_end_ms")
        stored.truncate(request.audio_end_ms)
        return [
            realtime.ConversationItemTruncated(
                item_id=stored.id, content_index=0, audio_end_ms=request.audio_end_ms
            )
        ]

    def _cancel(self, response_id: str | None, now: float) -> list[Output] | Refusal:
        for response in self.responses:
            if response.id == response_id or (response_id is None and response.items is not None):
                return self._cancelled(response, "client_cancelled", now)
        return Refusal(
            "response_cancel_not_active", "Cancellation failed: no active response found"
        )

    # What is heard --------------------------------------------------------------------------------

    def _listen(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        detection = self.configuration.audio.input.turn_detection
        while happened := self.ear.listen(detection):
            match happened:
                case Started():
                    outputs += self._speech_started(happened, now)
                case Stopped():
                    outputs += self._speech_stopped(happened, now)
                case _:
                    assert_never(happened)
        return outputs

    def _speech_started(self, started: Started, now: float) -> list[Output]:
        self.speech_item = self.ids.new("item")
        outputs: list[Output] = [
            realtime.InputAudioBufferSpeechStarted(
                item_id=self.speech_item, audio_start_ms=started.audio_start_ms
            )
        ]
        detection = self.configuration.audio.input.turn_detection
        active = self._active()
        if active is not None and detection is not None and detection.interrupt_response:
            outputs += self._cancelled(active, "turn_detected", now)
        self.idle_at = math.inf
        return outputs

    def _speech_stopped(self, stopped: Stopped, now: float) -> list[Output]:
        outputs: list[Output] = [
            realtime.InputAudioBufferSpeechStopped(
                item_id=self.speech_item or "", audio_end_ms=stopped.audio_end_ms
            )
        ]
        heard = self.ear.commit(until_judged=True)
        if isinstance(heard, Refusal):  # Without padding and silence it may be under 100 ms.
            self.ear.clear()
            self.speech_item = None
            return outputs
        outputs += self._commit(heard, now)
        detection = self.configuration.audio.input.turn_detection
        if detection is not None and detection.create_response and self._active() is None:
            # "May fail to create a response if the model is already responding."
            outputs += self._respond(ResponseParams(), now)
        return outputs

    def _commit(self, heard: Heard, now: float) -> list[Output]:
        item_id = self.speech_item or self.ids.new("item")
        self.speech_item = None
        outcome = self._transcript(heard.seconds)
        stored = Stored(
            realtime.Item(
                type="message",
                id=item_id,
                object="realtime.item",
                status="completed",
                role="user",
                content=[realtime.ContentPart(type="input_audio")],
            ),
            self.ear.format,
            bytearray(heard.audio),
            len(heard.audio),
            heard=outcome if isinstance(outcome, str) else transcript(heard.seconds),
        )
        outputs = self._committed(stored)
        if self.configuration.audio.input.transcription is not None:
            due = now + self.script.knobs.transcription_s
            self.transcribing = [
                *self.transcribing,
                Transcribing(due, item_id, outcome, heard.seconds),
            ]
        return outputs

    def _transcript(self, seconds: float) -> str | Unheard:
        self.spoken_turns += 1
        script = self.script.transcripts
        if self.spoken_turns <= len(script):
            return script[self.spoken_turns - 1]
        return transcript(seconds)

    def _committed(self, stored: Stored) -> list[Output]:
        previous = self.items.last_id()
        self.items.place(stored)
        return [
            realtime.InputAudioBufferCommitted(item_id=stored.id, previous_item_id=previous),
            *self._announce(stored),
        ]

    def _announce(self, stored: Stored) -> list[Output]:
        before = self.items.before(stored)
        return [
            realtime.ConversationItemAdded(item=stored.shown(), previous_item_id=before),
            realtime.ConversationItemDone(item=stored.shown(), previous_item_id=before),
        ]

    # Responses ------------------------------------------------------------------------------------

    def _active(self) -> Response | None:
        """The response that is writing to the default conversation."""
        return next((one for one in self.responses if one.items is not None), None)

    def _create_response(self, params: ResponseParams, now: float) -> list[Output] | Refusal:
        active = self._active()
        if params.conversation != "none" and active is not None:
            return Refusal(
                "conversation_already_has_active_response",
                f"Conversation already has an active response in progress: {active.id}. Wait until "
                "the response is finished before creating a new one.",
            )
        output = params.audio.output if params.audio else None
        sounds = self.configuration.audio.output.voice
        if self.has_spoken and output and output.voice not in (None, sounds):
            return Refusal(
                "cannot_update_voice",
                "Cannot update a conversation's voice if assistant audio is present.",
                "response.audio.output.voice",
            )
        for index, item in enumerate(params.input or ()):
            path = f"response.input[{index}]"
            if isinstance(item, ItemReference):
                if self.items.find(item.id) is None:
                    text = f"Item with id '{item.id}' not found."
                    return Refusal("invalid_value", text, f"{path}.id")
            elif refusal := item_rules.wrong_content(item, path):
                return refusal
        return self._respond(params, now)

    def _respond(self, params: ResponseParams, now: float) -> list[Output]:
        in_band = params.conversation != "none"
        known = self._context(params)
        tools = self.configuration.tools if params.tools is None else params.tools
        question = Question(
            lines=item_rules.lines(known),
            instructions=params.instructions,
            tools=tools,
            tool_choice=params.tool_choice or self.configuration.tool_choice,
        )
        response = Response(
            id=self.ids.new("resp"),
            manner=self._manner(params),
            answer=self.responder.answer(question),
            items=self.items if in_band else None,
            conversation_id=self.default if in_band else None,
            knobs=self.script.knobs,
            ids=self.ids,
            input_usage=self._input_usage(known, question),
        )
        if in_band:
            self.idle_at = math.inf
        self.responses = [*self.responses, response]
        return [*response.begin(now)]

    def _context(self, params: ResponseParams) -> list[Stored]:
        """The items the model goes by: the conversation, unless the response brings its own."""
        if params.input is None:
            return list(self.items.order)
        known: list[Stored] = []
        for item in params.input:
            if isinstance(item, ItemReference):
                known += filter(None, [self.items.find(item.id)])
            else:
                known.append(item_rules.created(item, self.ids, self.ear.format))
        return known

    def _manner(self, params: ResponseParams) -> Manner:
        session = self.configuration
        output = params.audio.output if params.audio else None
        wire = (output and output.format) or session.audio.output.format
        sounds = (output and output.voice) or session.audio.output.voice
        return Manner(
            modality=(params.output_modalities or session.output_modalities)[0],
            voice=sounds.id if isinstance(sounds, CustomVoice) else sounds,
            speed=session.audio.output.speed,
            format=audio_format(wire),
            wire_format=msgspec.convert(msgspec.to_builtins(wire), realtime.AudioFormat),
            max_output_tokens=params.max_output_tokens or session.max_output_tokens,
            metadata=params.metadata,
        )

    def _input_usage(self, known: list[Stored], question: Question) -> realtime.TokenDetails:
        instructions = question.instructions or self.configuration.instructions
        texts = [instructions, *(line.text for line in question.lines)]
        user_ms = sum(one.audio_ms for one in known)
        return realtime.TokenDetails(
            text_tokens=sum(math.ceil(len(text) / 4) for text in texts),
            audio_tokens=math.ceil(user_ms / MS_PER_USER_AUDIO_TOKEN),
            image_tokens=0,
            cached_tokens=0,
        )

    def _cancelled(self, response: Response, reason: Reason, now: float) -> list[Output]:
        outputs: list[Output] = [*response.cancel(reason)]
        self._ended(response, now)
        return outputs

    def _ended(self, response: Response, now: float) -> None:
        self.responses = [other for other in self.responses if other is not response]
        timeout_s = self._idle_timeout_s()
        if response.items is not None and timeout_s is not None and not self.ear.speaking:
            self.idle_at = max(now, self.plays_until) + timeout_s
            self.idle_since_ms = self.ear.ends_ms

    # Time -----------------------------------------------------------------------------------------

    def _due(self, due: float) -> Iterable[Output]:
        if due == self.expires:
            return self._expired()
        if due == self.idle_at:
            return self._idle(due)
        for waiting in self.transcribing:
            if waiting.due == due:
                return self._transcribed(waiting)
        for response in self.responses:
            if response.due == due:
                return self._advance(response, due)
        raise AssertionError("nothing is due")

    def _advance(self, response: Response, now: float) -> list[Output]:
        outputs: list[Output] = [*response.advance()]
        for output in outputs:
            if isinstance(output, realtime.ResponseOutputAudioDelta):
                self.has_spoken = True
                duration_s = response.manner.format.ms(len(output.delta)) / 1000
                self.plays_until = max(self.plays_until, now) + duration_s
        if response.ended:
            self._ended(response, now)
        return outputs

    def _transcribed(self, waiting: Transcribing) -> list[Output]:
        self.transcribing = [other for other in self.transcribing if other is not waiting]
        stored = self.items.find(waiting.item_id)
        if stored is None:  # Deleted before its text was known.
            return []
        if isinstance(waiting.outcome, Unheard):
            error = realtime.ErrorDetail(
                type="transcription_error",
                code=waiting.outcome.fail,
                message="The simulator was told to fail here.",
            )
            return [
                realtime.ConversationItemInputAudioTranscriptionFailed(
                    item_id=waiting.item_id, content_index=0, error=error
                )
            ]
        for part in stored.face.content or ():
            part.transcript = waiting.outcome
        return [
            *(
                realtime.ConversationItemInputAudioTranscriptionDelta(
                    item_id=waiting.item_id, content_index=0, delta=piece
                )
                for piece in voice.pieces(waiting.outcome)
            ),
            realtime.ConversationItemInputAudioTranscriptionCompleted(
                item_id=waiting.item_id,
                content_index=0,
                transcript=waiting.outcome,
                usage=realtime.TranscriptionUsage(type="duration", seconds=waiting.seconds),
            ),
        ]

    def _idle(self, now: float) -> list[Output]:
        """Nobody spoke for so long: the model speaks on its own (L-23)."""
        self.idle_at = math.inf
        end_ms = self.ear.ends_ms
        self.ear.clear()
        stored = Stored(
            realtime.Item(
                type="message",
                id=self.ids.new("item"),
                object="realtime.item",
                status="completed",
                role="user",
                content=[realtime.ContentPart(type="input_audio")],
            ),
            heard="",
        )
        return [
            realtime.InputAudioBufferTimeoutTriggered(
                item_id=stored.id,
                audio_start_ms=min(round(self.idle_since_ms), round(end_ms)),
                audio_end_ms=round(end_ms),
            ),
            *self._committed(stored),
            *self._respond(ResponseParams(), now),
        ]

    def _idle_timeout_s(self) -> float | None:
        detection = self.configuration.audio.input.turn_detection
        if not isinstance(detection, ServerVad) or detection.idle_timeout_ms is None:
            return None
        return detection.idle_timeout_ms / 1000

    def _expired(self) -> list[Output]:
        minutes = round(self.script.knobs.session_s / 60)
        text = f"Your session hit the maximum duration of {minutes} minutes."
        return [_error(Refusal("session_expired", text), None), Hangup(1001, text)]

    # What is sent ---------------------------------------------------------------------------------

    def _sent(self, outputs: Iterable[Output]) -> list[Output]:
        """The outputs, each event with an id."""
        sent = list(outputs)
        for output in sent:
            if isinstance(output, Hangup):
                self.over = True
            else:
                output.event_id = self.ids.new("event")
        return sent

    def _session(self) -> realtime.Session:
        """The whole effective configuration."""
        session = msgspec.convert(msgspec.to_builtins(self.configuration), realtime.Session)
        session.id = self.id
        session.object = "realtime.session"
        session.expires_at = self.expires_at
        return session


def conversation(script: Script, connection: int, model: str | None = None) -> Conversation:
    """A new session on the `connection`-th connection, with the API's defaults."""
    ids = Ids(connection)
    return Conversation(
        script=script,
        ids=ids,
        responder=Responder(script),
        configuration=Configuration(type="realtime", model=model or "gpt-realtime"),
        id=ids.new("sess"),
        default=ids.new("conv"),
    )


def _error(refusal: Refusal, event_id: str | None) -> realtime.Error:
    return realtime.Error(
        error=realtime.ErrorDetail(
            type="invalid_request_error",
            code=refusal.code,
            message=refusal.message,
            param=refusal.param,
            event_id=event_id,
        )
    )


def _no_item(verb: Literal["retrieve", "delete", "truncate"], item_id: str) -> Refusal:
    doing = {"retrieve": "retrieving", "delete": "deleting", "truncate": "truncating"}[verb]
    text = f"Error {doing} item: the item with id '{item_id}' does not exist."
    return Refusal(f"item_{verb}_invalid_item_id", text, "item_id")
