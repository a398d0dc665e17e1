"""From the open connection to a live upstream, and to the end (4.1).

Each attempt to reach the upstream is a new numbered leg: dialled, answered with session.created,
configured with one session.update, live at session.updated. Nothing else is sent before that (L-05,
L-06).
"""

from relay import realtime, settings, voice_agent
from relay.session import responses, turns
from relay.session.actions import Dial, Hangup, Redeliver, SetFormats, Target
from relay.session.facts import Loss, UpstreamGone
from relay.session.state import Leg, LegPhase, State, Timer

REFUSED_FOR_GOOD = (401, 403, 404)
"""HTTP statuses of the upstream's handshake that another attempt does not mend (C-024)."""
EXPIRED = "session_expired"
MAX_DURATION = "maximum duration"
"""In the reason of close 1001, which is all that tells it from any other (2.1)."""


def welcome(s: State) -> None:
    """The first message, before anything else happens (C-015, C-017)."""
    s.tell(voice_agent.Welcome(request_id=s.admission.request_id))
    s.dialect = s.admission.dialect
    s.arm(Timer.SETTINGS, s.options.settings_deadline_s)


def settings_came(s: State, message: voice_agent.Settings) -> None:
    """The client says what it wants: agree on a plan, and dial."""
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
        return
    s.plan, s.dialect = plan, plan.dialect
    s.append_bytes = max(1, plan.formats.upstream_input.nbytes(s.options.append_min_ms))
    if plan.ignored:
        s.note("info", "settings_ignored", paths=", ".join(plan.ignored))
    s.disarm(Timer.SETTINGS)
    s.arm(Timer.UPSTREAM_READY, s.options.upstream_ready_s)
    s.arm(Timer.CLIENT_IDLE, s.options.client_idle_s)
    formats = plan.formats
    s.act(
        SetFormats(
            formats.client_input,
            formats.upstream_input,
            formats.upstream_output,
            formats.client_output,
            formats.wav_header,
        )
    )
    dial(s)
    early, s.early = s.early, []
    if early:
        s.act(Redeliver(early))


def settings_again(s: State) -> None:
    """Once per connection; the component repeats them when it renders again (C-028, L-30)."""
    if s.component:
        s.tell(voice_agent.SettingsApplied())  # C-029
    else:
        s.fail("SETTINGS_ALREADY_APPLIED", "Settings were applied already.", 1000)


def dial(s: State) -> None:
    """Begin the next attempt."""
    s.legs += 1
    target = Target(upstream=0, model=s.applied.model)
    infers_ends = not s.upstreams[target.upstream].ends_responses
    s.next = Leg(number=s.legs, target=target, infers_ends=infers_ends)
    s.arm(Timer.UPSTREAM_STEP, s.options.upstream_step_s)
    s.act(Dial(s.legs, target))


def opened(s: State, leg: Leg) -> None:
    leg.phase = LegPhase.OPEN
    s.arm(Timer.UPSTREAM_STEP, s.options.upstream_step_s)


def session_created(s: State, leg: Leg) -> None:
    """The upstream is there, with its defaults; now ours (C-019, C-020)."""
    if leg.phase is not LegPhase.OPEN:
        return
    leg.phase = LegPhase.CONFIGURING
    leg.configured_by = s.new_id("upd", leg)
    s.arm(Timer.UPSTREAM_STEP, s.options.upstream_step_s)
    s.ask(realtime.SessionUpdate(event_id=leg.configured_by, session=s.applied.session()), leg)


def configured(s: State, leg: Leg) -> None:
    """The upstream has our configuration: the conversation runs from here (C-021, C-212)."""
    leg.phase = LegPhase.LIVE
    s.live, s.next = leg, None
    s.attempts = 0
    s.disarm(Timer.UPSTREAM_STEP, Timer.UPSTREAM_READY)
    for item in s.applied.context:
        item_id = s.new_id("ctx")
        s.place(_identified(item, item_id))  # C-037
    s.tell(voice_agent.SettingsApplied())
    s.settings_applied = True
    warnings, s.warnings = [*s.applied.warnings, *s.warnings], []
    for warning in warnings:
        s.tell(warning)  # C-210
    turns.greet(s)
    responses.pump(s)  # the greeting comes before any queued input (C-212)


def attempt_failed(s: State, leg: Leg, gone: UpstreamGone) -> None:
    """A leg ended before it was live: the next attempt, or the end (C-024, C-025)."""
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
        reason=gone.reason,
    )
    if gone.how is Loss.REFUSED and gone.status in REFUSED_FOR_GOOD:
        s.fail(
            "FAILED_TO_THINK", f"The upstream refused the connection (HTTP {gone.status}).", 1000
        )
        return
    pauses = s.options.redial_backoff_s
    s.arm(Timer.REDIAL, pauses[min(s.attempts, len(pauses) - 1)])
    s.attempts += 1


def step_timed_out(s: State) -> None:
    """One step of the attempt took too long: hang up, try again."""
    leg = s.next
    if leg is not None:
        s.act(Hangup(leg.number))
        attempt_failed(s, leg, UpstreamGone(Loss.UNREACHABLE, reason=f"{leg.phase.value} too long"))


def not_ready(s: State) -> None:
    """No attempt made it in time (C-027)."""
    why = f" Last: {s.trouble}." if s.trouble else ""
    s.fail(
        "upstream_closed_before_session_ready" if s.component else "FAILED_TO_THINK",
        f"The upstream was not ready within {s.options.upstream_ready_s:g} s.{why}",
        1011,
    )


def live_lost(s: State, gone: UpstreamGone) -> None:
    """The conversation's upstream is gone, and with it the conversation."""
    s.note("warning", "upstream_lost", how=gone.how.value, code=gone.code, reason=gone.reason)
    s.live = None
    if gone.code == 1001 and MAX_DURATION in gone.reason:
        expired(s)
    else:
        s.fail("INTERNAL_SERVER_ERROR", "The connection to the upstream was lost.", 1011)


def unreadable(s: State) -> None:
    """An upstream that talks nonsense is a lost one (3.4.1)."""
    leg = s.live or s.next
    if leg is None:
        return
    s.act(Hangup(leg.number))
    gone = UpstreamGone(Loss.LOST, reason="unreadable events")
    if leg is s.live:
        live_lost(s, gone)
    else:
        attempt_failed(s, leg, gone)


def expired(s: State) -> None:
    """The upstream's session reached its maximum length (C-184)."""
    code = "session_max_duration" if s.component else "MAXIMUM_SESSION_LENGTH_REACHED"
    s.fail(code, "The upstream session reached its maximum duration.", 1000)


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


def _identified(item: realtime.Item, item_id: str) -> realtime.Item:
    """A copy with an id of ours: echoes are recognised by it, never shown (C-039)."""
    return realtime.Item(
        type=item.type,
        id=item_id,
        role=item.role,
        content=item.content,
        name=item.name,
        call_id=item.call_id,
        arguments=item.arguments,
        output=item.output,
    )
