"""UpdatePrompt, UpdateThink, UpdateSpeak, UpdateListen: one session.update at a time, in order.

Each is worked out on the configuration that its predecessors left, when its turn comes; so a
refused one leaves no trace in those behind it (C-078), and acks keep the order of the requests.
"""

from typing import assert_never

from relay import realtime, settings, voice_agent
from relay.session.state import State, Timer, Updating


def pump(s: State) -> None:
    """Send the next update, if there is one and it may be sent now (C-079)."""
    while s.updates and s.live is not None and not (s.updating or s.changing):
        message = s.updates[0]
        change = worked_out(s, s.applied, message)
        if isinstance(change, settings.Refusal):
            s.updates = s.updates[1:]
            s.warn(change.code, change.description)
            continue
        if change.speed_only and (s.response or s.requested):
            return  # the API takes a new speed between turns only (C-216)
        s.updates = s.updates[1:]
        _send(s, message, change)


def worked_out(
    s: State, plan: settings.Plan, message: settings.Update
) -> settings.Change | settings.Refusal:
    """What an update would make of a plan."""
    return settings.change(
        plan,
        message,
        s.mapping,
        strict=s.options.strict,
        update_prompt=s.options.update_prompt,
    )


def _send(s: State, message: settings.Update, change: settings.Change) -> None:
    assert s.live is not None
    updating = Updating(message=message, change=change)
    if change.model_changed or (change.voice_changed and s.live.voiced):
        _needs_new_leg(s, updating)
    elif change.session is None:
        acknowledge(s, updating)
    else:
        updating.event_id = s.new_id("upd")
        s.updating = updating
        s.arm(Timer.UPDATE, s.options.upstream_step_s)
        s.ask(realtime.SessionUpdate(event_id=updating.event_id, session=change.session))


def accepted(s: State) -> None:
    """session.updated has come: it answers the one under way, or nothing (C-081)."""
    updating, s.updating = s.updating, None
    s.disarm(Timer.UPDATE)
    if updating is not None:
        acknowledge(s, updating)


def refused(s: State, updating: Updating, error: realtime.ErrorDetail) -> None:
    """The upstream refused the update under way: the old configuration stays (C-076, C-078)."""
    s.updating = None
    s.disarm(Timer.UPDATE)
    if error.kind == "cannot_update_voice":
        _needs_new_leg(s, updating)
    else:
        _refuse(s, updating.message, error.message or error.code or "the upstream refused it")


def unanswered(s: State) -> None:
    """No session.updated, no error: the requests behind it must not wait for ever."""
    updating, s.updating = s.updating, None
    assert updating is not None
    _refuse(s, updating.message, "the upstream did not answer")


def give_up_change(s: State) -> None:
    """No leg could be had for the change that needs one: the old configuration stays (C-241)."""
    changing, s.changing = s.changing, None
    if changing is not None:
        _refuse(s, changing.message, f"No new upstream session: {s.trouble}.")


def acknowledge(s: State, updating: Updating) -> None:
    """The update is in force."""
    s.plan = updating.change.plan
    s.revision += 1
    for warning in updating.change.warnings:
        s.tell(warning)
    s.tell(_ack(updating.message))


def _needs_new_leg(s: State, updating: Updating) -> None:
    """The model is in the URL, and a voice that has spoken stays (C-073, C-075, L-46, L-47)."""
    if s.options.rollover:
        s.changing = updating  # see rollover.proceed
    else:
        _refuse(s, updating.message, "That needs a new upstream session, and rollover is off.")


def _refuse(s: State, message: settings.Update, description: str) -> None:
    speaks = isinstance(message, voice_agent.UpdateSpeak)
    s.warn("SPEAK_REQUEST_FAILED" if speaks else "THINK_REQUEST_FAILED", description)


def _ack(message: settings.Update) -> voice_agent.ServerMessage:
    match message:
        case voice_agent.UpdatePrompt():
            return voice_agent.PromptUpdated()
        case voice_agent.UpdateThink():
            return voice_agent.ThinkUpdated()
        case voice_agent.UpdateSpeak():
            return voice_agent.SpeakUpdated()
        case voice_agent.UpdateListen():
            return voice_agent.ListenUpdated()
        case _:
            assert_never(message)
