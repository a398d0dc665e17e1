"""From the open connection to a live upstream, and to the end (4.1).

Each attempt to reach the upstream is a new numbered leg: dialled, answered with session.created,
configured with one session.update, live at session.updated. Nothing else is sent before that (L-05,
L-06).
"""

import msgspec

from relay import realtime, settings, voice_agent
from relay.session import history, responses, turns
from relay.session.actions import Dial, Hangup, Redeliver, SetFormats, Target
from relay.session.facts import Loss, UpstreamGone
from relay.session.state import Leg, LegPhase, State, Timer

REFUSED_FOR_GOOD = (401, 403, 404)
"""HTTP statuses of the upstream's handshake that another attempt does not mend (C-024)."""


def welcome(s: State) -> None:
    """The first message, before anything else happens (C-015, C-017)."""
    s.tell(voice_agent.Welcome(request_id=s.admission.request_id))
    s.dialect = s.admission.dialect
    s.arm(Timer.SETTINGS, s.options.settings_deadline_s)
    s.arm(Timer.OVER, s.options.max_session_s)
    s.arm(Timer.NEARLY_OVER, s.options.max_session_s - s.options.session_warning_s)
    if s.admission.warm:
        _dial(s, _target(s, 0, s.mapping.model), None)


def settings_came(s: State, message: voice_agent.Settings) -> None:
    """The client says what it wants: agree on a plan, and dial."""
    if not agreed(s, message):
        return
    connect(s)
    early, s.early = s.early, []
    if early:
        s.act(Redeliver(early))


def agreed(s: State, message: voice_agent.Settings) -> bool:
    """What the client wants is understood and can be had; else the session is over."""
    plan = settings.plan(
        message,
        s.mapping,
        s.admission.dialect,
        strict=s.options.strict,
        context_mode=s.options.context_mode,
        wav_header=s.options.wav_header,
    )
    if isinstance(plan, settings.Refusal):
        s.fail(plan.code, plan.description, 1000)
        return False
    if s.plan is not None:
        s.usage.settled(s.plan.formats.upstream_input, s.plan.formats.upstream_output)
    s.plan, s.dialect = plan, plan.dialect
    s.revision += 1
    heard = plan.formats.upstream_input
    s.append_bytes = max(1, heard.nbytes(s.options.append_min_ms))
    s.held_bytes = heard.nbytes(s.options.held_audio_s * 1000)
    s.preroll_bytes = s.held_bytes if plan.manual else heard.nbytes(turns.PREROLL_MS)
    if plan.ignored:
        s.note("info", "settings_ignored", paths=", ".join(plan.ignored))
    return True


def connect(s: State) -> None:
    """The first attempt of a conversation that has not begun."""
    s.disarm(Timer.SETTINGS)
    s.arm(Timer.UPSTREAM_READY, s.options.upstream_ready_s)
    s.arm(Timer.CLIENT_IDLE, s.options.client_idle_s)
    set_formats(s)
    _warm_or_dial(s, s.applied)


def set_formats(s: State) -> None:
    """Have ears and a mouth made for what was agreed."""
    formats = s.applied.formats
    s.act(
        SetFormats(
            formats.client_input,
            formats.upstream_input,
            formats.upstream_output,
            formats.client_output,
            formats.wav_header,
        )
    )


def settings_again(s: State) -> None:
    """Once per connection; the component repeats them when it renders again (C-028, L-30)."""
    if s.component:
        s.tell(voice_agent.SettingsApplied())  # C-029
    else:
        s.fail("SETTINGS_ALREADY_APPLIED", "Settings were applied already.", 1000)


def dial(s: State, plan: settings.Plan) -> None:
    """Begin an attempt. After a failure the next upstream has its turn."""
    known = len(s.upstreams)
    in_turn = ((s.attempts + n) % known for n in range(known))
    upstream = next((n for n in in_turn if n not in s.refusing), 0)
    _dial(s, _target(s, upstream, plan.model), plan)


def _warm_or_dial(s: State, plan: settings.Plan) -> None:
    """The leg that was dialled on a guess, if the guess was right."""
    leg = s.next
    if leg is not None and leg.target == _target(s, 0, plan.model):
        leg.plan = plan
        if leg.phase is LegPhase.WARM:
            _configure(s, leg)
        return
    if leg is not None:
        s.act(Hangup(leg.number))
    dial(s, plan)


def _target(s: State, upstream: int, model: str) -> Target:
    return Target(upstream=upstream, model=s.upstreams[upstream].model or model)


def _dial(s: State, target: Target, plan: settings.Plan | None) -> None:
    s.legs += 1
    infers_ends = not s.upstreams[target.upstream].ends_responses
    s.next = Leg(number=s.legs, target=target, plan=plan, infers_ends=infers_ends)
    s.disarm(Timer.REDIAL)
    s.arm(Timer.UPSTREAM_STEP, s.options.upstream_step_s)
    s.act(Dial(s.legs, target))


def start_over(s: State) -> None:
    """What earlier attempts met counts no more: begin with the preferred upstream."""
    s.attempts = 0
    s.refusing = ()


def redial(s: State) -> None:
    """Another attempt after a pause, which grows."""
    pauses = s.options.redial_backoff_s
    s.arm(Timer.REDIAL, pauses[min(s.attempts, len(pauses)) - 1])


def opened(s: State, leg: Leg, wall: float) -> None:
    leg.phase = LegPhase.OPEN
    leg.opened_at, leg.opened_wall = s.now, wall
    s.arm(Timer.UPSTREAM_STEP, s.options.upstream_step_s)


def session_created(s: State, leg: Leg, session: realtime.Session) -> None:
    """The upstream is there, with its defaults; now ours (C-019, C-020)."""
    if leg.phase is not LegPhase.OPEN:
        return
    leg.expires_at = leg.opened_at + s.options.upstream_session_s  # U-17
    if isinstance(session.expires_at, int):
        lasts = session.expires_at - leg.opened_wall
        if lasts > s.options.prepare_before_s:  # else somebody's wall clock is wrong
            leg.expires_at = leg.opened_at + lasts
    if leg.plan is None:
        leg.phase = LegPhase.WARM
        s.disarm(Timer.UPSTREAM_STEP)
    else:
        _configure(s, leg)


def _configure(s: State, leg: Leg) -> None:
    leg.phase = LegPhase.CONFIGURING
    leg.configured_by = s.new_id("upd", leg)
    s.arm(Timer.UPSTREAM_STEP, s.options.upstream_step_s)
    s.ask(realtime.SessionUpdate(event_id=leg.configured_by, session=leg.agreed.session()), leg)


def configured(s: State, leg: Leg) -> None:
    """The upstream has our configuration: the conversation runs from here (C-021, C-212)."""
    s.next = None
    go_live(s, leg)
    leg.proved = True
    s.disarm(Timer.UPSTREAM_READY)
    for item in s.applied.context:
        ours = identified(item, s.new_id("ctx"))
        s.place(ours)  # C-037
        history.wrote(s, ours)
    s.tell(voice_agent.SettingsApplied())
    s.settings_applied, s.returned = True, False
    s.revision += 1
    warnings, s.warnings = (*s.applied.warnings, *s.warnings), ()
    for warning in warnings:
        s.tell(warning)  # C-210
    turns.greet(s)
    responses.pump(s)  # the greeting comes before any queued input (C-212)


def go_live(s: State, leg: Leg) -> None:
    """The conversation runs on this leg from here, for as long as its session lasts."""
    leg.phase = LegPhase.LIVE
    s.live, leg.live_at = leg, s.now
    s.disarm(Timer.UPSTREAM_STEP)
    if s.options.rollover:
        remaining = leg.expires_at - s.now
        s.arm(Timer.PREPARE, max(0.0, remaining - s.options.prepare_before_s))
        s.arm(Timer.SWITCH, max(0.0, remaining - s.options.switch_before_s))


def attempt_failed(s: State, leg: Leg, gone: UpstreamGone) -> bool:
    """A leg ended before it was live. Returns whether there is no use in another attempt: every
    upstream has refused for good."""
    s.trouble = gone.reason or gone.how.value
    s.next = None
    s.disarm(Timer.UPSTREAM_STEP)
    s.note(
        "warning",
        "upstream_attempt_failed",
        leg=leg.number,
        how=gone.how.value,
        status=gone.status,
        code=gone.code,
        reason=gone.cause,
    )
    if gone.how is Loss.REFUSED and gone.status in REFUSED_FOR_GOOD and leg.plan is not None:
        s.refusing += (leg.target.upstream,)
    return len(s.refusing) == len(s.upstreams)


def first_attempt_failed(s: State, *, for_good: bool) -> None:
    """The conversation has not begun: the next attempt, or the end (C-024, C-025)."""
    if for_good:
        s.fail("FAILED_TO_THINK", f"The upstream refused the connection: {s.trouble}.", 1000)
    else:
        s.attempts += 1
        redial(s)


def not_ready(s: State) -> None:
    """No attempt made it in time (C-027)."""
    why = f" Last: {s.trouble}." if s.trouble else ""
    s.fail(
        "upstream_closed_before_session_ready" if s.component else "FAILED_TO_THINK",
        f"The upstream was not ready within {s.options.upstream_ready_s:g} s.{why}",
        1011,
    )


def over(s: State) -> None:
    """The session, or with rollover off the upstream's, reached its maximum length (C-184,
    C-189)."""
    code = "session_max_duration" if s.component else "MAXIMUM_SESSION_LENGTH_REACHED"
    s.fail(code, "The session reached its maximum length.", 1000)


def used_up(s: State, description: str) -> None:
    """The client, or all together, have used what they may. The same to the client as when the
    upstream's quota is used up (C-233), but it will be less in the way later (1.1)."""
    s.fail("FAILED_TO_THINK", description, 1013)


def too_fast(s: State, description: str) -> None:
    """The client sends more than it may: no frame of it can be meant to be understood."""
    s.fail("UNPARSABLE_CLIENT_MESSAGE", description, 1013)


def client_idle(s: State) -> None:
    """The client may have been silent too long (C-084); the agent's speech and open rounds are no
    silence of the client's (C-085)."""
    limit = s.options.client_idle_s
    if s.rounds:
        s.arm(Timer.CLIENT_IDLE, limit)
        return
    since = max(s.client_active_at, s.playback.play_end, s.round_closed_at)
    remaining = since + limit - s.now
    if remaining > 0:
        s.arm(Timer.CLIENT_IDLE, remaining)
        return
    s.fail(
        "idle_timeout" if s.component else "CLIENT_MESSAGE_TIMEOUT",
        f"The client sent nothing for {limit:g} s.",
        1000,
    )


def identified(item: realtime.Item, item_id: str) -> realtime.Item:
    """A copy with an id of ours: echoes are recognised by it, never shown (C-039)."""
    return msgspec.structs.replace(item, id=item_id)
