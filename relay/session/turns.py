"""Who has the floor: the user's turn, barge-in, injected messages, and the user's audio.

Barge-in is one step (4.6): when speech starts, what the user has not heard is dropped, said and
truncated before anything else happens, in one list of actions.
"""

import math

from relay import realtime, voice_agent
from relay.session import history, responses, rounds, text
from relay.session.actions import AudioDropped
from relay.session.state import Leg, Reason, State, Timer, TurnPhase, UserItem, Want

COMMIT_MIN_MS = 100.0
"""The upstream refuses to commit less (2.2)."""
PREROLL_MS = 800.0
"""300 ms from before the speech (4.8), and the time it takes to be noticed."""
BEGAN_TO_SPEAK = "The user began to speak."
REPLACED = "Another message took its place."


# -- the user's voice ------------------------------------------------------------------------------


def speech_started(s: State, event: realtime.InputAudioBufferSpeechStarted, leg: Leg) -> None:
    """The user speaks: everything that was going on gives way (C-119, C-204)."""
    text.user_item(s, event.item_id).started_ms = event.audio_start_ms
    s.turn, s.turn_item = TurnPhase.SPEAKING, event.item_id
    s.said_until = -math.inf
    s.disarm(Timer.TURN, Timer.RETRY)
    s.retrying = None
    _forget_recitals(s)
    _silence(s, leg, flush=True)
    rounds.barged_in(s)


def speech_stopped(s: State, event: realtime.InputAudioBufferSpeechStopped) -> None:
    """The user pauses; whether the turn is over, the commit says."""
    text.user_item(s, event.item_id).ended_ms = event.audio_end_ms
    if s.component:
        s.tell(voice_agent.UtteranceEnd(last_word_end=event.audio_end_ms / 1000))  # C-120
    if s.turn is TurnPhase.SPEAKING and s.turn_item == event.item_id:
        s.turn = TurnPhase.WAITING
        s.turn_since = s.now
        s.arm(Timer.TURN, s.options.committed_wait_s)


def committed(s: State, event: realtime.InputAudioBufferCommitted) -> None:
    """The user's turn is fixed (4.3)."""
    known = s.user_items.get(event.item_id)
    if known is not None and known.committed_at is not None:
        if event.item_id:
            return  # C-224
        del s.user_items[""]  # from a server that does not name its items: another turn
        s.inexact("item_unnamed")
    user = said(s, event.item_id)
    user.committed_at = s.now
    s.commits += 1
    text.release(s)  # C-218: a text that was held is overtaken now
    if s.turn_item != event.item_id or s.turn is not TurnPhase.WAITING:
        s.turn_since = s.now
    s.turn, s.turn_item = TurnPhase.WAITING, event.item_id
    s.arm(Timer.TURN, s.options.committed_wait_s)
    for want in s.wants:
        want.waits_for_commit = False
    if s.cancelled_for_speech and s.applied.create_response:
        s.arm(Timer.UNASKED, s.options.cancel_wait_s)  # C-223
    if not user.pending and not s.applied.create_response:
        text.end_turn(s)


def said(s: State, item: str) -> UserItem:
    """A turn is complete, in whatever words: how it sounded is remembered until those are known."""
    history.spoke(s, item)
    user = text.user_item(s, item)
    audio = _taken(s, user)
    wordless = user.pending or not (s.applied.transcribed or user.silent)
    if audio and item and wordless and s.options.rollover:
        s.unwritten[item] = audio
        while sum(map(len, s.unwritten.values())) > s.held_bytes:
            del s.unwritten[next(iter(s.unwritten))]
    return user


def timeout_triggered(s: State, event: realtime.InputAudioBufferTimeoutTriggered) -> None:
    """The upstream commits silence to speak by itself; nobody said that (C-126)."""
    user = text.user_item(s, event.item_id)
    user.pending, user.silent = False, True


def unasked(s: State) -> None:
    """Our cancel may have kept the upstream from answering the turn: ask (C-223)."""
    s.cancelled_for_speech = False
    s.wants.insert(
        0,
        Want(
            reason=Reason.TURN,
            serial=s.number(),
            since=s.turn_since if s.turn_since is not None else s.now,
        ),
    )


# -- the user's text -------------------------------------------------------------------------------


def inject_user(s: State, message: voice_agent.InjectUserMessage) -> None:
    """As if the user had said it (C-087 to C-096)."""
    content = message.content.strip()
    if not content:
        s.note("info", "empty_inject_ignored")
        return
    waiting = sum(want.reason is Reason.INJECT_USER for want in s.wants)
    if waiting >= s.options.max_waiting_injects:
        s.warn("THINK_REQUEST_FAILED", "Too many user messages wait for their answers.")  # C-215
        return
    if s.options.inject_user_interrupts:
        _cut_speech(s)
    s.wants = [want for want in s.wants if not want.after_loss]  # one answer to both (4.8)
    item = s.new_id("usr")
    s.wants.append(
        Want(reason=Reason.INJECT_USER, serial=s.number(), since=s.now, waits_for=[item])
    )
    s.arm(Timer.ITEM, s.options.response_requested_s)
    written = realtime.Item(
        type="message",
        id=item,
        role="user",
        content=[realtime.ContentPart(type="input_text", text=message.content)],
    )
    s.place(written)
    history.wrote(s, written)
    text.user_wrote(s, message.content)


def inject_refused(s: State, item: str, description: str | None) -> None:
    """The upstream did not take a user message: nothing will answer it (C-094)."""
    s.wants = [want for want in s.wants if item not in want.waits_for]
    s.warn("THINK_REQUEST_FAILED", f"The message was refused: {description}")


# -- the agent's injected text ---------------------------------------------------------------------


def inject_agent(s: State, message: voice_agent.InjectAgentMessage) -> None:
    """Have the agent say something (1.6, 3.3.1)."""
    given = (message.message, message.content)
    content = next((text for text in given if text and text.strip()), "")
    behavior = message.behavior or "default"
    if behavior not in ("default", "queue", "interrupt"):
        if s.options.strict:
            s.fail("UNPARSABLE_CLIENT_MESSAGE", "Unknown behavior of InjectAgentMessage.", 1000)
            return
        behavior = "default"  # C-105
    if not content:
        _nothing_to_say(s, message)
        return
    user_speaks = s.turn is TurnPhase.SPEAKING
    if user_speaks and behavior != "interrupt":
        s.tell(voice_agent.InjectionRefused(message="The user is speaking."))  # C-099, C-100
    elif behavior == "default" and s.agent_audible:
        s.tell(voice_agent.InjectionRefused(message="The agent is speaking."))  # C-098
    else:
        if behavior == "interrupt":
            _cut_speech(s)
        if s.applied.text_only:
            say_as_text(s, content)
        else:
            _recite(s, Reason.INJECT_AGENT, content, interrupts=behavior == "interrupt")


def greet(s: State) -> None:
    """`agent.greeting`, right after SettingsApplied (3.4.3)."""
    greeting = s.applied.greeting
    if not greeting or s.options.greeting_mode == "off":
        return
    if s.options.greeting_mode == "text" or s.applied.text_only:
        say_as_text(s, greeting)
    else:
        _recite(s, Reason.GREETING, greeting)


def say_as_text(s: State, content: str) -> None:
    """No voice here: the words for the client, and for the model's memory (C-146, C-213)."""
    written = realtime.Item(
        type="message",
        id=s.new_id("say"),
        role="assistant",
        content=[realtime.ContentPart(type="output_text", text=content)],
    )
    s.place(written)
    history.wrote(s, written)
    text.assistant_said(s, content)


# -- the client ends the turn ----------------------------------------------------------------------


def force_end_turn(s: State) -> None:
    """The client knows that the user has finished (C-117, C-118, C-205)."""
    if s.options.force_end_turn_strict and not s.applied.flux:
        s.warn("FORCE_END_TURN_UNSUPPORTED", "ForceEndTurn needs a Flux listen model.")
        return
    buffered = _uncommitted(s) + len(s.gathered)
    if s.turn is TurnPhase.SPEAKING or (s.applied.manual and buffered):
        if any(want.waits_for_commit for want in s.wants):
            return  # asked already
        flush_audio(s)
        commit(s)
        s.wants.append(
            Want(
                reason=Reason.FORCE_END_TURN, serial=s.number(), since=s.now, waits_for_commit=True
            )
        )
    elif _unanswered(s) and not _end_already_forced(s):
        s.wants.append(Want(reason=Reason.FORCE_END_TURN, serial=s.number(), since=s.now))


def commit(s: State) -> None:
    """Ask the upstream to end the turn with what it was told."""
    if s.applied.manual:
        _pad_to_commit(s)
    s.commit_bytes = s.told_bytes
    s.ask(realtime.InputAudioBufferCommit(event_id=s.new_id("cmt")))


def nothing_to_commit(s: State) -> None:
    """Our commit found no audio: there was no turn to end (C-179)."""
    s.wants = [want for want in s.wants if not want.waits_for_commit]
    s.commit_bytes = None


# -- the user's audio ------------------------------------------------------------------------------


def hear(s: State, chunk: bytes) -> None:
    """Audio of the client in the upstream's format, gathered to a length worth an event."""
    s.gathered += chunk
    if len(s.gathered) >= s.applied.formats.upstream_input.nbytes(s.options.append_min_ms):
        flush_audio(s)
    elif Timer.APPEND not in s.deadlines:
        s.arm(Timer.APPEND, s.options.append_max_wait_ms / 1000)


def flush_audio(s: State) -> None:
    """Send what was gathered."""
    s.disarm(Timer.APPEND)
    if s.gathered and s.live is not None:
        audio, s.gathered = s.gathered, b""
        s.told_bytes += len(audio)
        keep(s, audio)
        s.append(audio, s.live)


def keep(s: State, audio: bytes) -> None:
    """Remember what the user may be saying, in case its upstream is replaced (4.8): a turn whole,
    and before one what came last, which may be much if it comes faster than it is spoken."""
    s.kept.append((s.now, audio))
    s.kept_bytes += len(audio)
    noticed = -math.inf if is_saying(s) else s.now - PREROLL_MS / 1000
    while s.kept_bytes > s.held_bytes or (
        s.kept_bytes > s.preroll_bytes and s.kept[0][0] <= noticed
    ):
        s.kept_bytes -= len(s.kept.pop(0)[1])
    if not s.kept and (end := newest(s, audio)):
        s.kept, s.kept_bytes = [(s.now, end)], len(end)


def newest(s: State, audio: bytes) -> bytes:
    """What may be kept of a frame of the user's that is longer than all that may be."""
    return audio[max(0, len(audio) - s.held_bytes) :]


def is_saying(s: State) -> bool:
    """The user may be in the middle of a turn, which then is to be heard whole by the next
    upstream."""
    return s.turn is TurnPhase.SPEAKING or s.now < s.said_until


# -- inside ----------------------------------------------------------------------------------------


def _taken(s: State, user: UserItem) -> bytes:
    """What is kept of the turn that is complete. What came behind it stays: it may be the beginning
    of the next, and much of it if audio comes faster than it is spoken."""
    behind = s.told_bytes - _end_of(s, user)
    if not 0 < behind < s.kept_bytes:  # or its upstream counts in another way
        behind = 0
    s.committed_bytes, s.commit_bytes = s.told_bytes - behind, None
    audio = b"".join(audio for _, audio in s.kept)
    end = len(audio) - behind
    s.kept, s.kept_bytes = [(s.now, audio[end:])] if behind else [], behind
    if not behind:
        s.said_until = -math.inf
    return audio[:end]


def _end_of(s: State, user: UserItem) -> int:
    """Where the turn ends in what the upstream was told: where it says, or else where it was asked
    to end it."""
    if user.ended_ms is not None:
        return s.applied.formats.upstream_input.nbytes(user.ended_ms)
    return s.told_bytes if s.commit_bytes is None else s.commit_bytes


def _uncommitted(s: State) -> int:
    return s.told_bytes - s.committed_bytes


def _silence(s: State, leg: Leg, *, flush: bool) -> None:
    """Stop the agent: drop what is unsent, say what is held and what was heard, tell the client to
    drop its buffer (`flush`), cancel where the upstream does not, and truncate what was not heard.
    """
    response = s.response
    running = response is not None and not response.interrupted
    unheard = s.playback.unheard(s.now, s.backlog_ms)
    sent_ms = {item.item: s.playback.sent_ms(item.item) for item in unheard}
    if response is not None or unheard:
        s.act(AudioDropped())
        s.playback.dropped(s.backlog_ms)
        s.backlog_ms = 0.0
    text.release(s)
    responses.interrupt(s)
    for item_id, ms in sent_ms.items():
        history.heard(s, item_id, s.playback.heard_ms(item_id, s.now) / ms)
    if flush:
        s.tell(voice_agent.UserStartedSpeaking())
    if response is not None and running and (not flush or not s.upstream_interrupts):
        s.ask(realtime.ResponseCancel(event_id=s.new_id("cnl"), response_id=response.id))  # C-150
        s.arm(Timer.CANCELLED, s.options.cancel_wait_s)
        s.cancelled_for_speech = flush
    for item in unheard:
        if item.leg == leg.number and item.item:
            s.ask(
                realtime.ConversationItemTruncate(
                    event_id=s.new_id("trn"),
                    item_id=item.item,
                    content_index=item.content_index,
                    audio_end_ms=s.playback.audio_end_ms(
                        item.item, s.now, s.options.truncate_margin_ms
                    ),
                )
            )  # C-151, L-44, L-45
    s.playback.cut(s.now)


def _cut_speech(s: State) -> None:
    """An injected message takes the floor (3.3.1, C-101)."""
    assert s.live is not None
    replaced = [want for want in s.wants if want.interrupts]
    s.wants = [want for want in s.wants if not want.interrupts]
    for _ in replaced:
        s.tell(voice_agent.InjectionRefused(message=REPLACED))
    _drop_requested(s, REPLACED)
    _silence(s, s.live, flush=False)
    if s.options.interrupt_flush == "user_started_speaking":
        s.tell(voice_agent.UserStartedSpeaking())


def _forget_recitals(s: State) -> None:
    """What was to be recited, or to be ended after a fault, is not said any more (C-211, C-212)."""
    for want in s.wants:
        if want.reason is Reason.INJECT_AGENT:
            s.tell(voice_agent.InjectionRefused(message=BEGAN_TO_SPEAK))
    s.wants = [want for want in s.wants if not _gives_way(want)]
    asked = s.requested
    # The upstream's own answer to this turn is one to all that was asked before.
    gives_way = asked is not None and (_gives_way(asked) or s.applied.create_response)
    if asked is not None and gives_way and not asked.interrupts:
        _drop_requested(s, BEGAN_TO_SPEAK)


def _gives_way(want: Want) -> bool:
    return want.verbatim or want.reason is Reason.CONTINUE


def _drop_requested(s: State, why: str) -> None:
    """What was asked for and has not begun is cancelled as soon as it begins."""
    asked = s.requested
    if asked is not None and not asked.dropped:
        asked.dropped = True
        if asked.reason is Reason.INJECT_AGENT:
            s.tell(voice_agent.InjectionRefused(message=why))


def _recite(s: State, reason: Reason, content: str, *, interrupts: bool = False) -> None:
    want = Want(reason=reason, serial=s.number(), since=s.now, text=content, interrupts=interrupts)
    if interrupts:
        s.wants.insert(0, want)
    else:
        responses.speak_next(s, want)


def _nothing_to_say(s: State, message: voice_agent.InjectAgentMessage) -> None:
    if message.is_dynamic and not s.options.strict:
        s.warn("UNPARSABLE_CLIENT_MESSAGE", "Dynamic injection (Think Live) is not supported.")
        s.tell(voice_agent.InjectionRefused(message="There is no text to say."))  # C-106
    elif s.component and not s.options.strict:
        s.warn("UNPARSABLE_CLIENT_MESSAGE", "InjectAgentMessage has no message.")
    else:
        s.fail("UNPARSABLE_CLIENT_MESSAGE", "InjectAgentMessage has no message.", 1000)


def _unanswered(s: State) -> bool:
    """Committed turns wait for an answer that only the client can ask for (C-205)."""
    return not s.applied.create_response and s.commits > s.answered_commits


def _end_already_forced(s: State) -> bool:
    wanted: list[Want] = [*s.wants, *([s.requested] if s.requested else [])]
    return any(want.reason is Reason.FORCE_END_TURN for want in wanted)


def _pad_to_commit(s: State) -> None:
    """Silence up to the shortest turn that the upstream takes (C-116)."""
    assert s.live is not None
    form = s.applied.formats.upstream_input
    missing = form.nbytes(COMMIT_MIN_MS) - _uncommitted(s)
    if missing > 0:
        s.told_bytes += missing
        s.append(form.silence(missing), s.live)
