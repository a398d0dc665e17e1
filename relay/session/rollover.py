"""rollover: upstream legs come and go, and the conversation goes on (4.8).

One mechanism for every reason: a new leg is dialled and configured, told the history, and made the
live one. After a loss there is no live leg meanwhile, and the client's input is held. A planned
change (the upstream's session grows old, another model, another voice) leaves the old leg in
service until the new one stands by and the conversation pauses.
"""

import math
from typing import TypeAlias

import msgspec

from relay import realtime, settings, voice_agent
from relay.frames import Unknown, Unparsable
from relay.session import history, phases, responses, rounds, text, turns, updates
from relay.session.actions import Hangup
from relay.session.facts import Loss, UpstreamGone
from relay.session.state import (
    Leaving,
    Leg,
    LegPhase,
    Reason,
    Response,
    State,
    Timer,
    TurnPhase,
    Updating,
    UserItem,
    Want,
)

Wordless: TypeAlias = dict[str, tuple[str, UserItem]]
"""The user's turns of which a leg owes the words, by its name for them: that in the log, and what
is known of them."""

MAX_DURATION = "maximum duration"
"""In the reason of close 1001, which is all that tells it from any other (2.1)."""

NOTICED_S = 5.0
"""More than an upstream takes to notice speech that it is told."""
WRITTEN_DOWN_S = 5.0
"""So long after a commit a planned switch waits for the words of the turn: whoever has not heard it
cannot tell them."""


# -- what happens to legs --------------------------------------------------------------------------


def session_created(s: State, leg: Leg, session: realtime.Session) -> None:
    """A leg answers. What was asked for while there was no live one is part of its configuration
    (C-080)."""
    if s.settings_applied and s.live is None and leg.phase is LegPhase.OPEN:
        _fold(s, leg)
    phases.session_created(s, leg, session)


def configured(s: State, leg: Leg) -> None:
    """A leg has our configuration: it takes over now, or when the conversation pauses."""
    if not s.settings_applied:
        phases.configured(s, leg)
        return
    leg.phase = LegPhase.STANDBY
    s.disarm(Timer.UPSTREAM_STEP)
    if s.live is None:
        _switch(s, leg)


def leg_gone(s: State, number: int, gone: UpstreamGone) -> None:
    """A leg ended by itself, or could not be opened."""
    if s.live is not None and s.live.number == number:
        s.trouble = gone.reason or gone.how.value
        s.note("warning", "upstream_lost", how=gone.how.value, code=gone.code, reason=gone.cause)
        if s.options.rollover:
            _lost(s)
        elif gone.code == 1001 and MAX_DURATION in gone.reason:
            phases.over(s)
        else:
            s.fail("INTERNAL_SERVER_ERROR", "The connection to the upstream was lost.", 1011)
    elif s.next is not None and s.next.number == number:
        _attempt_failed(s, s.next, gone)
    elif s.leaving is not None and s.leaving.number == number:
        _forget(s, s.leaving)


def step_timed_out(s: State) -> None:
    """One step of an attempt took too long: hang up, try again."""
    assert s.next is not None
    _hang_up(s, s.next, f"{s.next.phase.value} too long")


def unreadable(s: State, leg: Leg) -> None:
    """An upstream that talks nonsense is a lost one (3.4.1)."""
    s.bad_audio = s.bad_frames = 0
    _hang_up(s, leg, "unreadable events")


def expired(s: State) -> None:
    """The upstream says that its session is over (C-184)."""
    if s.options.rollover and s.live is not None:
        _hang_up(s, s.live, "session expired")
    else:
        phases.over(s)


def prepare(s: State) -> None:
    """The live leg's session will end before long: have another one ready."""
    if s.next is None and s.live is not None:
        phases.start_over(s)
        phases.dial(s, _wanted(s))


def overdue(s: State) -> None:
    """The live leg's session is about to end: switch whatever is going on (C-185)."""
    assert s.live is not None
    if s.next is not None and s.next.phase is LegPhase.STANDBY:
        _switch(s, s.next)
    else:
        _hang_up(s, s.live, "session about to end")


def leaving_tells(
    s: State, leg: Leaving, event: realtime.ServerEvent | Unknown | Unparsable
) -> None:
    """All that the leg before is listened to for: what the user said (C-121)."""
    names = leg.names
    match event:
        case realtime.ConversationItemInputAudioTranscriptionDelta(item_id=item) if item in names:
            text.transcribing(s, msgspec.structs.replace(event, item_id=names[item]))
        case realtime.ConversationItemInputAudioTranscriptionCompleted(item_id=item) if (
            item in names
        ):
            text.transcribed(s, msgspec.structs.replace(event, item_id=names.pop(item)))
        case realtime.ConversationItemInputAudioTranscriptionFailed(item_id=item) if item in names:
            text.not_transcribed(s, msgspec.structs.replace(event, item_id=names.pop(item)))
        case _:
            pass  # the next one answers
    if not names:
        _dismiss(s, leg)


def words_overdue(s: State) -> None:
    """The leg before did not write down all that it heard."""
    assert s.leaving is not None
    _dismiss(s, s.leaving)


def redial(s: State) -> None:
    """The pause after a failed attempt is over."""
    phases.dial(s, _wanted(s))


def proceed(s: State) -> None:
    """Do what has become possible: prepare the leg that is wanted, switch at an idle point
    (C-185)."""
    if s.live is None:
        return
    if s.poisoned:
        s.poisoned = False
        _hang_up(s, s.live, "it fails whatever it is asked")
        return
    _prepare_wanted(s)
    if s.next is not None and s.next.phase is LegPhase.STANDBY and _is_idle(s):
        pause_at = max(s.playback.play_end, _written_down_by(s.user_items))
        if s.now >= pause_at:
            _switch(s, s.next)
        else:
            s.arm_at(Timer.PAUSE, pause_at)


# -- inside ----------------------------------------------------------------------------------------


def _lost(s: State) -> None:
    """The live leg is gone. What it owed is wanted again on the next one, but for the words of a
    turn that were not written down: the client is never told them. An upstream writes down what is
    committed in its input buffer, not what it is told as an item, as the turn is told to the next
    one (`history.replay`). To have it there, the turn would have to be said again: the upstream
    would look for its end anew, may find another, and answers what perhaps was answered already."""
    s.warn("THINK_REQUEST_FAILED", "The connection to the upstream was lost and is rebuilt.")
    gone, _ = _leave(s)
    if s.next is not None and s.next.phase is LegPhase.STANDBY:
        _switch(s, s.next)
    elif s.next is None:
        if gone is not None and (gone.proved or s.now - gone.live_at >= s.options.proved_after_s):
            phases.start_over(s)
            redial(s)
        else:
            _try_again(s)  # an upstream that only picks up and hangs up is not there either


def _hang_up(s: State, leg: Leg, why: str) -> None:
    s.act(Hangup(leg.number))
    leg_gone(s, leg.number, UpstreamGone(Loss.LOST, reason=why))


def _attempt_failed(s: State, leg: Leg, gone: UpstreamGone) -> None:
    for_good = phases.attempt_failed(s, leg, gone)
    if s.plan is None:
        return  # it was dialled on a guess; Settings will dial in earnest
    if not s.settings_applied:
        phases.first_attempt_failed(s, for_good=for_good)
        return
    s.updates = (*(folded.message for folded in leg.folded), *s.updates)
    _try_again(s, for_good=for_good)


def _try_again(s: State, *, for_good: bool = False) -> None:
    s.attempts += 1
    if not for_good and s.attempts < max(1, s.options.rebuild_attempts) * len(s.upstreams):
        phases.redial(s)
    elif s.live is not None:
        updates.give_up_change(s)  # C-241
    elif for_good:
        s.fail("FAILED_TO_THINK", f"The upstream refused the connection: {s.trouble}.", 1000)
    else:
        s.fail("INTERNAL_SERVER_ERROR", f"The upstream was not rebuilt: {s.trouble}.", 1011)


def _fold(s: State, leg: Leg) -> None:
    """Make waiting updates part of a leg's plan; they are acknowledged when it is live."""
    held = [frame for frame in s.held if isinstance(frame, settings.Update)]
    s.held = [frame for frame in s.held if not isinstance(frame, settings.Update)]
    for message in [*s.updates, *held]:
        change = updates.worked_out(s, leg.agreed, message)
        if isinstance(change, settings.Refusal):
            s.warn(change.code, change.description)
        else:
            leg.plan = change.plan
            leg.folded = (*leg.folded, Updating(message=message, change=change))
    s.updates = ()


def _prepare_wanted(s: State) -> None:
    """Dial for a change that needs a new leg (C-073, C-075), and anew if what is being prepared is
    not what is wanted any more."""
    wanted = _wanted(s)
    if s.next is not None and s.next.plan != wanted:
        s.act(Hangup(s.next.number))
        s.next = None
        s.disarm(Timer.UPSTREAM_STEP)
        phases.dial(s, wanted)
    elif s.changing is not None and s.next is None and Timer.REDIAL not in s.deadlines:
        phases.start_over(s)
        phases.dial(s, wanted)


def _wanted(s: State) -> settings.Plan:
    """What the next leg is to be configured with."""
    return s.changing.change.plan if s.changing else s.applied


def _is_idle(s: State) -> bool:
    """Nobody speaks, and nothing is owed."""
    owed = s.response or s.requested or s.retrying or s.rounds
    return not owed and s.turn is TurnPhase.IDLE


def _written_down_by(users: dict[str, UserItem]) -> float:
    """The client has been told by then what the user said, or is not told it any more."""
    committed = [
        user.committed_at
        for user in users.values()
        if user.pending and user.committed_at is not None
    ]
    return max(committed, default=-math.inf) + WRITTEN_DOWN_S


def _switch(s: State, leg: Leg) -> None:
    """The leg becomes the live one and is told what was said (C-186)."""
    cut = s.response
    old, wordless = _leave(s)
    if old is not None:
        _let_go(s, old, wordless, cut)
    s.next = None
    phases.go_live(s, leg)
    s.plan = leg.plan
    items = history.replay(s)
    s.note("info", "upstream_switched", leg=leg.number, items=len(items))
    for item in items:
        s.place(item)
    if s.returned:
        _catch_up(s)
    if s.changing is not None:
        changing, s.changing = s.changing, None
        updates.acknowledge(s, changing)
    for folded in leg.folded:
        updates.acknowledge(s, folded)
    told = s.kept or any(isinstance(frame, bytes) for frame in s.held)
    s.said_until = s.now + NOTICED_S if told else -math.inf
    if s.kept:
        s.append(b"".join(audio for _, audio in s.kept), leg)
        s.told_bytes = s.kept_bytes
        if any(want.waits_for_commit for want in s.wants):
            turns.commit(s)
    if s.wants and s.wants[0].reason is Reason.CONTINUE:
        responses.pump(s)  # before it is told of anything newer that it could answer instead


def _catch_up(s: State) -> None:
    """The client is back, and the conversation can go on: what it has missed, and what is asked of
    it still (C-257, C-258)."""
    s.returned = False
    if s.settings_pending:
        s.settings_pending = False
        s.tell(voice_agent.SettingsApplied())
        warnings, s.warnings = s.warnings, ()
        for warning in warnings:
            s.tell(warning)
    text.release(s)
    rounds.announce_again(s)


def _let_go(s: State, leg: Leg, wordless: Wordless, cut: Response | None) -> None:
    """Hang up a leg that works. If it has not told the words of a turn yet, it is listened to for a
    while: nobody else can."""
    users = dict(wordless.values())
    until = _written_down_by(users)
    if until <= s.now:
        s.act(Hangup(leg.number))
        return
    if s.leaving is not None:
        _dismiss(s, s.leaving)
    if cut is not None:
        event_id = s.new_id("cnl", leg)
        s.ask(realtime.ResponseCancel(event_id=event_id, response_id=cut.id), leg)
    s.leaving = Leaving(number=leg.number, names={item: wordless[item][0] for item in wordless})
    s.user_items = users
    s.arm_at(Timer.WORDS, until)


def _dismiss(s: State, leg: Leaving) -> None:
    s.act(Hangup(leg.number))
    _forget(s, leg)


def _forget(s: State, leg: Leaving) -> None:
    s.leaving = None
    s.disarm(Timer.WORDS)
    for item in leg.names.values():
        text.not_told(s, item)


def _leave(s: State) -> tuple[Leg | None, Wordless]:
    """Nothing goes to the live leg any more, and nothing comes from it. Returns the leg, if there
    was one, and the user's turns of which it owed the words."""
    leg, s.live = s.live, None
    return (leg, settle(s)) if leg is not None else (None, {})


def settle(s: State) -> Wordless:
    """What a leg that is gone owed becomes a want; what it was told stays in the history. Returns
    the user's turns of which it owed the words."""
    spoken = s.user_items.get(s.turn_item)
    if s.turn is TurnPhase.WAITING and spoken is not None and spoken.committed_at is None:
        turns.said(s, s.turn_item).committed_at = s.now  # its commit was on the way
        for want in s.wants:
            want.waits_for_commit = False
    again = _owed(s)
    if s.response is not None:
        responses.abandon(s, s.response)
    s.requested = s.retrying = None
    if not s.kept:  # the next upstream is told nothing that it could commit
        s.wants = [want for want in s.wants if not want.waits_for_commit]
    for want in s.wants:
        want.waits_for = []
    if again is not None:
        s.wants.insert(0, again)
    s.wants = _merged(s.wants)
    text.release(s)
    text.end_turn(s)
    if s.updating is not None:
        s.updates = (s.updating.message, *s.updates)
        s.updating = None
    if s.gathered:
        s.held.insert(0, s.gathered)
        s.gathered = b""
    wordless = _forget_names(s)
    s.unacknowledged = ()
    s.told_bytes = s.committed_bytes = s.bad_audio = s.bad_frames = 0
    s.commit_bytes = None
    s.cancelled_for_speech = False
    s.disarm(
        Timer.ITEM,
        Timer.REQUEST,
        Timer.RETRY,
        Timer.UNASKED,
        Timer.UPDATE,
        Timer.APPEND,
        Timer.PREPARE,
        Timer.SWITCH,
        Timer.PAUSE,
    )
    return wordless


def _forget_names(s: State) -> Wordless:
    """An upstream may choose the ids that the one before it chose for something else (C-242)."""
    names, users = history.left(s), s.user_items
    s.user_items = {}
    s.ended, s.past_items, s.past_calls, s.usage.billed = (), (), (), ()
    s.measured.item = ""
    for round_ in s.rounds:
        round_.response = None
    return {
        item: (names[item], user)
        for item, user in users.items()
        if item in names and user.pending and user.committed_at is not None
    }


def _merged(wants: list[Want]) -> list[Want]:
    """The next leg is told everything before it is asked anything, so that its first answer is one
    to all that was asked; more of them would say the same again."""
    merged: list[Want] = []
    for want in wants:
        if want.verbatim or want.waits_for_commit or want.reason is Reason.CONTINUE:
            merged.append(want)
        elif not any(other.after_loss for other in merged):
            want.after_loss = True
            merged.append(want)
    return merged


def _owed(s: State) -> Want | None:
    """The response that the next leg is to be asked for first, if any (C-245)."""
    waiting = s.requested or s.retrying
    if waiting is not None and not waiting.dropped:
        return waiting
    if s.response is not None and not s.response.interrupted:
        return _rest_of(s, s.response)
    if s.turn is TurnPhase.WAITING and s.applied.create_response:
        return _question(s)
    return None


def _rest_of(s: State, response: Response) -> Want | None:
    """A response was cut off: again if nothing of it was heard, else from where it ended. A recital
    is not taken up in the middle, and an open call is an answer."""
    if any(round_.response == response.id for round_ in s.rounds):
        return None
    if response.first_audio_at is None:
        asked = response.want
        if asked is None or (asked.taken_along and not asked.verbatim):
            return _question(s)
        if asked.taken_along:
            s.warn("SPEAK_REQUEST_FAILED", "The text was lost with the connection.")
            return None
        asked.taken_along = True
        return asked
    if response.verbatim or not s.options.continue_after_loss or _is_whole(s, response):
        return None
    return Want(reason=Reason.CONTINUE, serial=s.number(), since=s.now)


def _is_whole(s: State, response: Response) -> bool:
    """All that was begun is complete, and no call could have followed."""
    begun = [item for item in response.items.values() if item.is_message]
    return not s.applied.functions and all(item.text is not None for item in begun)


def _question(s: State) -> Want | None:
    """The user's last turn, asked again: once, and only if it is known what it was."""
    last = next((item for item in reversed(s.log) if item.role == "user"), None)
    known = last is not None and (history.text_of(last) or history.is_audio(s, last))
    if last is None or not known or s.asked_again == s.user_turns:
        s.warn("THINK_REQUEST_FAILED", "The last turn was lost with the connection.")
        return None
    s.asked_again = s.user_turns
    return Want(reason=Reason.TURN, serial=s.number(), since=s.now)
