"""The session: what every message and event means, in one place.

Methods are named for what happened and answer with what is to be done. It has no clock, no sockets
and no logger; no method awaits, so each call is one whole step, whichever pump makes it. Between
calls it is plain data (`state`), and encodes.
"""

import math
from collections.abc import Sequence
from typing import assert_never

import msgspec

from relay import realtime, voice_agent
from relay.audio.formats import Format
from relay.frames import Unknown, Unparsable
from relay.session import (
    faults,
    phases,
    responses,
    resume,
    rollover,
    rounds,
    snapshot,
    text,
    turns,
    updates,
)
from relay.session.actions import Action, Hangup
from relay.session.facts import Admission, ClientGone, UpstreamGone, UpstreamTraits
from relay.session.options import SessionOptions
from relay.session.state import Leg, LegPhase, Phase, State, Timer
from relay.session.usage import Bill, Used
from relay.settings import MappingOptions
from relay.settings.audio import named

UNREADABLE_IN_A_ROW = 3
"""So many unreadable frames from the upstream, and it counts as lost."""


class Session(State, kw_only=True):
    """One conversation. Every method that returns a list must be followed by performing it."""

    # -- the client -------------------------------------------------------------------------------

    def opened(self, now: float, wall: float) -> list[Action]:
        """The client was let in. `wall`: unix seconds."""
        self.origin, self.began_wall = now, wall
        self.usage.session, self.usage.connections = self.admission.request_id, 1
        phases.welcome(self)
        return self._settled()

    def resumed(
        self,
        admission: Admission,
        now: float,
        wall: float,
        settings: voice_agent.Settings | None = None,
        *,
        repeated: bool = False,
    ) -> list[Action]:
        """The client is back. To be told of a session fresh from `restored`, before anything else;
        the connection has welcomed the client already. `settings`, if those were its first message
        there, are not told again; `repeated` ones are the same as before and change nothing."""
        self.rebased(now)
        self._at(now)
        self.usage.connections += 1
        resume.back(self, admission, wall, settings, repeated=repeated)
        return self._settled()

    def client_message(
        self, message: voice_agent.ClientMessage | Unknown | Unparsable, now: float
    ) -> list[Action]:
        """A text frame came."""
        if self.closed:
            return []
        self._client_active(now)
        if isinstance(message, Unknown | Unparsable):
            self._not_understood(message)
        elif isinstance(message, voice_agent.Settings) and self.plan is None:
            phases.settings_came(self, message)
        elif isinstance(message, voice_agent.Settings) and resume.takes_settings(self):
            resume.settings_came(self, message)
        elif isinstance(message, voice_agent.Settings) and not self.component:
            phases.settings_again(self)
        elif self.phase is Phase.READY:
            self._obey(message)
        elif isinstance(message, voice_agent.KeepAlive) and not (
            self.phase is Phase.OPEN and self.options.strict
        ):
            pass  # nothing to keep: its coming is all it says
        elif self.phase is Phase.OPEN:
            self._early(message)
        else:
            self._hold(message)
        return self._settled()

    def client_audio(self, chunk: bytes, now: float) -> bytes | None:
        """The hot path of a binary frame, in the upstream's input format: what to append to the
        live leg, or None if this is not the plain case and `client_media` must be told."""
        nbytes = len(chunk)
        if self.live is None or self.gathered or nbytes < self.append_bytes:
            return None
        self.now = self.client_active_at = now - self.origin
        self.told_bytes += nbytes
        self.usage.input_bytes += nbytes
        turns.keep(self, chunk)
        return chunk

    def client_media(self, chunk: bytes, now: float) -> list[Action]:
        """A binary frame came: audio in the upstream's format, or, before `SetFormats` was
        performed, whatever the client sent."""
        if self.closed:
            return []
        self._client_active(now)
        if self.phase is Phase.OPEN:
            first = voice_agent.decode_client(chunk) if chunk.startswith(b"{") else None
            if isinstance(first, voice_agent.Settings):  # C-031, L-03
                self.note("info", "settings_in_binary_frame")
                return self.client_message(first, now)
            self._early(chunk)
        elif self.phase is Phase.READY:
            turns.hear(self, chunk)
        elif chunk:
            self._hold(chunk)
        return self._settled()

    def client_too_big(self, size: int, now: float) -> list[Action]:
        """A frame above `max_client_frame_bytes` came, and was not decoded (C-114)."""
        self._client_active(now)
        limit = self.options.max_client_frame_bytes
        self.fail(
            "UNPARSABLE_CLIENT_MESSAGE", f"A frame of {size} bytes; the limit is {limit}.", 1000
        )
        return self._settled()

    def client_backlog(self, unsent_ms: float) -> None:
        """How much agent audio was posted and is not yet written. To be told before anything that
        may stop the agent; costs nothing."""
        self.backlog_ms = unsent_ms

    def client_gone(self, gone: ClientGone, now: float) -> list[Action]:
        """The client closed or was lost: nobody is left to answer (C-190, L-50)."""
        self._at(now)
        for leg in (self.live, self.next, self.leaving):
            if leg is not None:
                self.act(Hangup(leg.number))
        self.end()
        return self._settled()

    def going_away(self, now: float) -> list[Action]:
        """The daemon stops (C-192)."""
        self._at(now)
        self.fail("SERVER_GOING_AWAY", "The server is shutting down.", 1001)
        return self._settled()

    def limit_reached(self, description: str, now: float, *, rate: bool) -> list[Action]:
        """The daemon's counts say that it is enough: of a `rate`, or of anything else."""
        self._at(now)
        if rate:
            phases.too_fast(self, description)
        else:
            phases.used_up(self, description)
        return self._settled()

    # -- what is used ----------------------------------------------------------------------------

    def spent(self) -> Used:
        """What was used since this was asked last. To be asked before `snapshot` and `parked`, else
        it is told again where those go on."""
        if self.plan is not None:
            self.usage.settled(self.plan.formats.upstream_input, self.upstream_output)
        return self.usage.taken()

    def bill(self) -> Bill:
        """All that was `spent`."""
        usage = self.usage
        return Bill(usage.session, self.admission.client, usage.connections, self.now, usage.used)

    # -- what outlives the connection -------------------------------------------------------------

    @property
    def worth_keeping(self) -> bool:
        """There is something to come back to (4.9)."""
        return self.plan is not None and not self.closed

    def snapshot(self, wall: float) -> bytes:
        """The conversation as bytes, while it goes on. To be told of nothing by it."""
        return snapshot.taken(self, wall, lost=False)

    def parked(self, now: float, wall: float) -> bytes:
        """The same at the moment at which the client is lost, before that is told."""
        self._at(now)
        return snapshot.taken(self, wall, lost=True)

    @classmethod
    def restored(
        cls,
        encoded: bytes,
        *,
        options: SessionOptions,
        mapping: MappingOptions,
        upstreams: tuple[UpstreamTraits, ...] = (UpstreamTraits(),),
        lost_wall: float,
    ) -> "Session":
        """The session of a snapshot, to be told that it is `resumed`. `lost_wall`: when the client
        of one that was going on was lost, at the latest. Raises `msgspec.DecodeError`."""
        known = snapshot.fields(snapshot.read(encoded), mapping, lost_wall)
        return cls(**known, options=options, mapping=mapping, upstreams=upstreams)

    # -- the upstream -----------------------------------------------------------------------------

    def upstream_opened(self, leg: int, now: float, wall: float) -> list[Action]:
        """A dialled leg is connected."""
        self._at(now)
        if self.next is not None and self.next.number == leg:
            phases.opened(self, self.next, wall)
        else:
            self.act(Hangup(leg))  # C-236
        return self._settled()

    def upstream_event(
        self, leg: int, event: realtime.ServerEvent | Unknown | Unparsable, now: float
    ) -> list[Action]:
        """A frame of an upstream leg. Any other leg than the live, the next and the leaving one is
        history (C-242)."""
        self._at(now)
        known = next((k for k in (self.live, self.next) if k is not None and k.number == leg), None)
        if known is None:
            if self.leaving is not None and self.leaving.number == leg:
                rollover.leaving_tells(self, self.leaving, event)
            return self._settled()
        if isinstance(event, Unparsable):
            self._unreadable(event, known)
            return self._settled()
        self.bad_frames = 0
        if isinstance(event, Unknown):
            faults.unknown_event(self, event.type, event.size)
        elif known is self.live:
            self._happened(event, known)
        else:
            self._preparing(event, known)
        return self._settled()

    def upstream_audio(
        self, leg: int, event: realtime.ResponseOutputAudioDelta, now: float
    ) -> bytes | None:
        """The hot path of an audio delta: what to give to the mouth, or None if this is not the
        plain case and `upstream_event` must be told."""
        response, live, audio = self.response, self.live, event.delta
        if (
            response is None
            or live is None
            or live.number != leg
            or live.infers_ends
            or response.interrupted
            or response.first_audio_at is None
            or response.voice_item != event.item_id
            or response.id != event.response_id
            or response.carry
            or not audio
            or (nbytes := len(audio)) % self.upstream_output.sample_bytes
        ):
            return None
        self.now = now - self.origin
        self.usage.output_bytes += nbytes
        self.bad_audio = self.bad_frames = 0
        self.playback.sent(
            event.item_id,
            self.upstream_output.ms(nbytes),
            self.now,
            leg=leg,
            content_index=event.content_index,
        )
        return audio

    def upstream_gone(self, leg: int, gone: UpstreamGone, now: float) -> list[Action]:
        """A leg ended by itself, or could not be opened."""
        self._at(now)
        rollover.leg_gone(self, leg, gone)
        return self._settled()

    def endpoint_answered(self, call: str, output: str, ok: bool, now: float) -> list[Action]:
        """A `CallEndpoint` was performed."""
        self._at(now)
        rounds.endpoint_answered(self, call, output, ok=ok)
        return self._settled()

    # -- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When `deadline_passed` is to be called; inf when there is no need."""
        return self.origin + min(self.deadlines.values(), default=math.inf)

    def deadline_passed(self, now: float) -> list[Action]:
        """Time has passed. Early or repeated calls do nothing."""
        self._at(now)
        while self.deadlines:
            timer = min(self.deadlines, key=lambda timer: self.deadlines[timer])
            due = self.deadlines[timer]
            if self.origin + due > now:  # the sum that `next_deadline` gave out, to the last bit
                break
            del self.deadlines[timer]
            self.now = max(self.now, due)
            self._fell_due(timer)
        return self._settled()

    def rebased(self, now: float) -> None:
        """The clock is another one, as after decoding: what it shows now is the moment at which
        the session was last told of anything."""
        self.origin = now - self.now

    # -- one step ---------------------------------------------------------------------------------

    def _at(self, now: float) -> None:
        self.now = now - self.origin

    def _client_active(self, now: float) -> None:
        self._at(now)
        self.client_active_at = self.now

    def _settled(self) -> list[Action]:
        """The end of every step: what has become possible happens, until nothing more does."""
        done = -1
        while done < len(self.out) and not self.closed:
            done = len(self.out)
            self._deliver_held()
            updates.pump(self)
            rollover.proceed(self)
            responses.pump(self)
        out, self.out = self.out, []
        return out

    def _deliver_held(self) -> None:
        while self.held and self.phase is Phase.READY:
            frame = self.held.pop(0)
            if isinstance(frame, bytes):
                turns.hear(self, frame)
            else:
                self._obey(frame)

    def _early(self, frame: voice_agent.ClientMessage | bytes) -> None:
        """Something before Settings (C-030)."""
        if self.options.strict:
            self.fail("NON_SETTINGS_MESSAGE_BEFORE_SETTINGS", "Settings must come first.", 1000)
            return
        if frame:
            _kept(self.early, frame)
        audio = [chunk for chunk in self.early if isinstance(chunk, bytes)]
        if self._are_too_many(self.early, self.options.early_messages):
            self.fail("NON_SETTINGS_MESSAGE_BEFORE_SETTINGS", "Settings must come first.", 1000)
        self._drop_oldest(self.early, audio, self.options.early_audio_bytes)

    def _hold(self, frame: voice_agent.ClientMessage | bytes) -> None:
        """Something while no leg is live (4.2)."""
        dropped = 0
        if isinstance(frame, bytes):
            whole, frame = len(frame), turns.newest(self, frame)
            dropped = whole - len(frame)
        else:
            self.revision += 1
        if frame:
            _kept(self.held, frame)
        audio = [chunk for chunk in self.held if isinstance(chunk, bytes)]
        if self._are_too_many(self.held, self.options.held_messages):
            self.fail("INTERNAL_SERVER_ERROR", "Too many messages before the upstream.", 1011)
        self._drop_oldest(self.held, audio, self.held_bytes, dropped)

    def _are_too_many(self, queue: Sequence[voice_agent.ClientMessage | bytes], most: int) -> bool:
        messages = [frame for frame in queue if not isinstance(frame, bytes)]
        size = sum(map(voice_agent.memory, messages))  # they are few, or this was true before
        return len(messages) > most or size > self.options.held_message_bytes

    def _drop_oldest(
        self,
        queue: list[voice_agent.ClientMessage | bytes],
        audio: list[bytes],
        limit: int,
        dropped: int = 0,
    ) -> None:
        """Keep at most `limit` bytes of audio; JSON is never dropped (C-036). `dropped`: so many
        were already."""
        excess = sum(map(len, audio)) + dropped - limit
        while excess > dropped:
            oldest = next(n for n, frame in enumerate(queue) if isinstance(frame, bytes))
            dropped += len(queue.pop(oldest))  # type: ignore[arg-type]  # bytes, as found
        if dropped:
            self.note("info", "held_audio_dropped", bytes=dropped)

    def _not_understood(self, message: Unknown | Unparsable) -> None:
        """A text frame that is no message (C-033, C-034, C-086, C-209)."""
        if isinstance(message, Unknown):
            if self.component and message.type == "CloseStream":
                return  # meant for another of the component's sockets (3.3)
            description = f"Unknown message type {message.type!r}."
            lenient = self.component
        else:
            description = message.reason
            lenient = self.component and message.type not in (None, "Settings")
        if lenient:
            self.warn("UNPARSABLE_CLIENT_MESSAGE", description)
        else:
            self.fail("UNPARSABLE_CLIENT_MESSAGE", description, 1000)

    def _obey(self, message: voice_agent.ClientMessage) -> None:
        """A message of the client's, with a live upstream."""
        match message:
            case voice_agent.InjectUserMessage():
                turns.inject_user(self, message)
            case voice_agent.FunctionCallResponse():
                rounds.answered(self, message)
            case voice_agent.InjectAgentMessage():
                turns.inject_agent(self, message)
            case (
                voice_agent.UpdatePrompt()
                | voice_agent.UpdateThink()
                | voice_agent.UpdateSpeak()
                | voice_agent.UpdateListen()
            ):
                self.updates += (message,)
                if self._are_too_many(self.updates, self.options.held_messages):
                    self.fail("INTERNAL_SERVER_ERROR", "Too many updates at once.", 1011)
            case voice_agent.ForceEndTurn():
                turns.force_end_turn(self)
            case voice_agent.UpdateThinkLive() | voice_agent.CustomToThinkProvider():
                self._unsupported(message)
            case voice_agent.Settings():
                phases.settings_again(self)
            case voice_agent.KeepAlive():
                pass  # its coming is all it says (C-082)
            case _:
                assert_never(message)

    def _unsupported(self, message: msgspec.Struct) -> None:
        description = f"{message.__struct_config__.tag} has no counterpart upstream."
        if self.options.strict:
            self.fail("UNPARSABLE_CLIENT_MESSAGE", description, 1000)
        else:
            self.warn("UNPARSABLE_CLIENT_MESSAGE", description)

    def _preparing(self, event: realtime.ServerEvent, leg: Leg) -> None:
        """An event of a leg that is not live yet."""
        match event:
            case realtime.SessionCreated():
                rollover.session_created(self, leg, event.session)
            case realtime.SessionUpdated() if leg.phase is LegPhase.CONFIGURING:
                if code := self._formats_differ(event.session):
                    self.fail(code, "The upstream uses another audio format than asked.", 1000)
                else:
                    rollover.configured(self, leg)
            case realtime.Error():
                faults.configuring(self, event.error, leg)
            case _:
                self.note("debug", "early_upstream_event", type=_type(event))

    def _happened(self, event: realtime.ServerEvent, leg: Leg) -> None:
        """An event of the live leg: every one of the protocol's has its line here (C-182)."""
        match event:
            case realtime.ResponseOutputAudioDelta():
                self.usage.output_bytes += len(event.delta)
                responses.audio_delta(self, event, leg)
            case realtime.ResponseOutputAudioTranscriptDelta() | realtime.ResponseOutputTextDelta():
                responses.text_delta(self, event)
            case realtime.ResponseFunctionCallArgumentsDelta():
                responses.arguments_delta(self, event)
            case realtime.ResponseFunctionCallArgumentsDone():
                responses.arguments_done(self, event)
            case realtime.ResponseCreated():
                responses.created(self, event, leg)
            case realtime.ResponseOutputItemAdded():
                responses.item_added(self, event)
            case realtime.ResponseOutputAudioDone():
                responses.item_audio_done(self, event)
            case realtime.ResponseOutputAudioTranscriptDone():
                responses.text_done(
                    self, event.response_id, event.item_id, event.output_index, event.transcript
                )
            case realtime.ResponseOutputTextDone():
                responses.text_done(
                    self, event.response_id, event.item_id, event.output_index, event.text
                )
            case realtime.ResponseOutputItemDone():
                responses.item_done(self, event)
            case realtime.ResponseDone():
                self.usage.responded(leg.target.model, event.response)
                responses.done(self, event)
            case realtime.InputAudioBufferSpeechStarted():
                turns.speech_started(self, event, leg)
            case realtime.InputAudioBufferSpeechStopped():
                turns.speech_stopped(self, event)
            case realtime.InputAudioBufferCommitted():
                turns.committed(self, event)
            case realtime.InputAudioBufferTimeoutTriggered():
                turns.timeout_triggered(self, event)
            case realtime.ConversationItemInputAudioTranscriptionDelta():
                text.transcribing(self, event)
            case realtime.ConversationItemInputAudioTranscriptionCompleted():
                text.transcribed(self, event)
            case realtime.ConversationItemInputAudioTranscriptionFailed():
                text.not_transcribed(self, event)
            case (
                realtime.ConversationItemAdded()
                | realtime.ConversationItemCreated()
                | realtime.ConversationItemDone()
            ):
                responses.placed(self, event.item)
            case realtime.SessionUpdated():
                if not (code := self._formats_differ(event.session)):
                    updates.accepted(self)
                elif self.options.rollover:
                    self.poisoned = True  # a new one may do as it is told
                else:
                    self.fail(code, "The upstream uses another audio format than asked.", 1000)
            case realtime.Error():
                faults.live(self, event.error)
            case realtime.SessionCreated():
                self.note("warning", "session_created_again")
            case (
                realtime.ConversationCreated()
                | realtime.ConversationItemRetrieved()
                | realtime.ConversationItemDeleted()
                | realtime.ConversationItemTruncated()
                | realtime.ConversationItemInputAudioTranscriptionSegment()
                | realtime.InputAudioBufferCleared()
                | realtime.InputAudioBufferDtmfEventReceived()
                | realtime.OutputAudioBufferStarted()
                | realtime.OutputAudioBufferStopped()
                | realtime.OutputAudioBufferCleared()
                | realtime.ResponseContentPartAdded()
                | realtime.ResponseContentPartDone()
                | realtime.ResponseMcpCallArgumentsDelta()
                | realtime.ResponseMcpCallArgumentsDone()
                | realtime.ResponseMcpCallInProgress()
                | realtime.ResponseMcpCallCompleted()
                | realtime.ResponseMcpCallFailed()
                | realtime.McpListToolsInProgress()
                | realtime.McpListToolsCompleted()
                | realtime.McpListToolsFailed()
                | realtime.RateLimitsUpdated()
            ):
                pass  # the client's protocol has no words for these (3.4.1)
            case _:
                assert_never(event)

    def _unreadable(self, event: Unparsable, leg: Leg) -> None:
        self.note("warning", "unreadable_upstream_event", type=event.type, reason=event.reason)
        if event.bad_audio:
            self.bad_audio += 1  # C-227
        else:
            self.bad_frames += 1
        if max(self.bad_audio, self.bad_frames) >= UNREADABLE_IN_A_ROW:
            rollover.unreadable(self, leg)

    def _formats_differ(self, session: realtime.Session) -> str | None:
        """The Error for an upstream with other audio formats than asked: audio of one is never
        passed on as another (C-226)."""
        audio, formats = session.audio, self.applied.formats
        if isinstance(audio, realtime.SessionAudio):
            if _differs(audio.output, formats.upstream_output):
                return "FAILED_TO_SPEAK"
            if _differs(audio.input, formats.upstream_input):
                return "USER_AUDIO_FORMAT"
        return None

    def _fell_due(self, timer: Timer) -> None:
        match timer:
            case Timer.SETTINGS:
                self.fail("CLIENT_MESSAGE_TIMEOUT", "No Settings came in time.", 1000)  # C-023
            case Timer.CLIENT_IDLE:
                phases.client_idle(self)
            case Timer.UPSTREAM_READY:
                phases.not_ready(self)
            case Timer.UPSTREAM_STEP:
                rollover.step_timed_out(self)
            case Timer.REDIAL:
                rollover.redial(self)
            case Timer.TURN:
                text.end_turn(self)  # C-206
            case Timer.ITEM:
                responses.item_unacknowledged(self)
            case Timer.REQUEST:
                responses.request_unanswered(self)
            case Timer.RETRY:
                responses.retry(self)
            case Timer.INFERRED_END:
                responses.inferred_end(self)
            case Timer.SLOW_THINK:
                responses.slow(self)
            case Timer.CANCELLED:
                responses.give_up_cancelled(self)
            case Timer.UNASKED:
                turns.unasked(self)
            case Timer.CALLS:
                rounds.timed_out(self)
            case Timer.USER_TEXT:
                text.release(self)
            case Timer.UPDATE:
                updates.unanswered(self)
            case Timer.PREPARE:
                rollover.prepare(self)
            case Timer.SWITCH:
                rollover.overdue(self)
            case Timer.WORDS:
                rollover.words_overdue(self)
            case Timer.PAUSE:
                pass  # see rollover.proceed
            case Timer.NEARLY_OVER:
                minutes = self.options.session_warning_s / 60
                self.warn(
                    "MAXIMUM_SESSION_LENGTH_APPROACHING",
                    f"The session ends in {minutes:g} minutes.",
                )
            case Timer.OVER:
                phases.over(self)
            case Timer.APPEND:
                turns.flush_audio(self)
            case _:
                assert_never(timer)


def _differs(half: object, asked: Format) -> bool:
    """Whether a half of `session.audio` names another format; an absent one is as asked."""
    if not isinstance(half, realtime.AudioInput | realtime.AudioOutput):
        return False
    shown, wanted = half.format, named(asked)
    if not isinstance(shown, realtime.AudioFormat):
        return False
    rates_differ = isinstance(shown.rate, int) and shown.rate != asked.rate
    return shown.type != wanted.type or rates_differ


def _type(event: realtime.ServerEvent) -> str:
    return str(event.__struct_config__.tag)


_GATHERED_BYTES = 4096


def _kept(
    queue: list[voice_agent.ClientMessage | bytes], frame: voice_agent.ClientMessage | bytes
) -> None:
    """Append it. Short audio becomes part of what is before it: a megabyte in samples would be half
    a million objects."""
    last = queue[-1] if queue else None
    if isinstance(frame, bytes) and isinstance(last, bytes) and len(last) < _GATHERED_BYTES:
        queue[-1] = last + frame
    else:
        queue.append(frame)
