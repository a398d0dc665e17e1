"""resume: the client was lost, and is back on another connection (4.9).

Nothing ran in between. The client's own buffer is gone, so what it had heard is all that was said,
and the next move is mostly the user's. The upstream is rebuilt as after any loss (`rollover`); what
the client must be told waits until it is there, because nothing may come before SettingsApplied.
"""

import msgspec

from relay import settings, voice_agent
from relay.session import history, phases, responses, rollover, rounds
from relay.session.actions import AudioEnds, Hangup, ToClient
from relay.session.facts import Admission
from relay.session.state import Reason, State, Timer

NOT_KNOWN = "The connection was lost while the function ran; whether it has run is not known."


def back(
    s: State,
    admission: Admission,
    wall: float,
    message: voice_agent.Settings | None,
    *,
    repeated: bool,
) -> None:
    """The client has been welcomed on another connection. `message`: it has sent Settings there;
    `repeated`: the same as before, so that nothing changes."""
    s.admission = admission
    s.live = s.next = s.leaving = None
    s.disarm(Timer.WORDS)
    s.poisoned = False
    phases.start_over(s)
    _take_leave(s)
    _set_clocks(s, wall)
    new = None if repeated else message
    s.settings_pending = s.settings_applied and message is not None
    if not s.settings_applied:
        s.returned = message is None
        if new is None or phases.agreed(s, new):
            phases.connect(s)
        return
    if new is not None and not _applied_on_top(s, new):
        return
    s.returned = True
    phases.set_formats(s)
    rollover.redial(s)


def takes_settings(s: State) -> bool:
    """The client is back and has sent no Settings on this connection: they are still its first, if
    its SDK sent on the way what the application had queued while there was no connection."""
    return s.returned and not s.settings_pending


def settings_came(s: State, message: voice_agent.Settings) -> None:
    """Settings behind other messages, while the upstream is being rebuilt."""
    if s.next is not None:
        s.act(Hangup(s.next.number))
        s.next = None
    phases.start_over(s)
    if not s.settings_applied:
        s.returned = False
        if phases.agreed(s, message):
            phases.connect(s)
        return
    s.settings_pending = True
    if _applied_on_top(s, message):
        phases.set_formats(s)
        rollover.redial(s)


def _take_leave(s: State) -> None:
    """Of the client that was lost and of the upstream that ended with it. What the client was to be
    told, and what it has missed, waits in the lane."""
    _cut_speech(s)
    for round_ in s.rounds:
        for call in list(round_.calls.values()):
            if call.server_side and call.announced and call.output is None:
                rounds.endpoint_answered(s, call.id, NOT_KNOWN, ok=False)  # C-259
    rollover.settle(s)
    s.wants = [want for want in s.wants if want.reason is not Reason.CONTINUE]  # C-245
    done, s.out = s.out, []
    told = [action.message for action in done if isinstance(action, ToClient)]
    # What is asked of the client is asked of it anew (`rounds.announce_again`).
    s.lane = tuple(m for m in told if not isinstance(m, voice_agent.FunctionCallRequest))
    s.out = [action for action in done if not isinstance(action, ToClient | AudioEnds)]


def _cut_speech(s: State) -> None:
    """The agent was heard up to the drop and no further (C-261)."""
    s.playback.dropped(s.backlog_ms)
    s.backlog_ms = 0.0
    unheard = s.playback.unheard(s.now)
    shares = {
        item.item: s.playback.heard_ms(item.item, s.now) / s.playback.sent_ms(item.item)
        for item in unheard
    }
    response = s.response
    if response is not None and not response.interrupted:
        heard_ms = sum(s.playback.heard_ms(item, s.now) for item in response.items)
        if heard_ms > 0:
            responses.interrupt(s)  # so it is neither asked for again nor continued (C-245)
        else:
            response.first_audio_at = None  # nothing of it was heard: it is asked for again
    for item_id, share in shares.items():
        history.heard(s, item_id, share)
    s.playback.cut(s.now)


def _set_clocks(s: State, wall: float) -> None:
    """Deadlines move by the time that nothing ran, except the length of the session (C-189)."""
    s.client_active_at = s.now
    s.arm(Timer.CLIENT_IDLE, s.options.client_idle_s)
    left = s.began_wall + s.options.max_session_s - wall
    s.arm(Timer.OVER, max(0.0, left))
    if Timer.NEARLY_OVER in s.deadlines:
        s.arm(Timer.NEARLY_OVER, max(0.0, left - s.options.session_warning_s))


def _applied_on_top(s: State, message: voice_agent.Settings) -> bool:
    """Settings of a conversation that has a history: it stays, unless they bring their own, and
    nobody is greeted again (C-254). False: they were refused."""
    before = s.applied
    if not phases.agreed(s, message):
        return False
    if s.applied.formats.upstream_input != before.formats.upstream_input:
        s.held = [frame for frame in s.held if not isinstance(frame, bytes)]
        s.kept, s.kept_bytes = [], 0
        s.unwritten = {}
    s.updates = ()
    s.held = [frame for frame in s.held if not isinstance(frame, settings.Update)]
    s.wants = [want for want in s.wants if want.reason is not Reason.GREETING]
    s.warnings += s.applied.warnings
    if s.applied.context or s.applied.transcript:
        _replace_history(s)
    else:
        s.plan = msgspec.structs.replace(s.applied, transcript=before.transcript)
    return True


def _replace_history(s: State) -> None:
    """With the context of the Settings; calls that wait for their answers stay."""
    given = s.applied.context
    known = {item.call_id for item in given}
    waiting = {call.id for round_ in s.rounds for call in round_.calls.values()} - known
    calls = [i for i in s.log if i.type == "function_call" and i.call_id in waiting]
    results = [i for i in s.log if i.type == "function_call_output" and i.call_id in waiting]
    s.log = [*given, *calls, *results]
