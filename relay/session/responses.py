"""Responses: wanted, asked for one at a time, followed from created to done (4.3, 4.4, 3.4).

At most one response.create is under way or one response live: the upstream allows no more, and
what it refuses is asked again (L-10, L-66, L-67). Whether one may be sent is a question about the
state now, never about an event to come (L-11).
"""

from relay import realtime, voice_agent
from relay.session import history, limits, rounds, text
from relay.session.actions import AudioEnds, AudioToClient, word
from relay.session.state import (
    REMEMBERED,
    AgentItem,
    Leg,
    Measured,
    Reason,
    Response,
    State,
    Timer,
    TurnPhase,
    Want,
)
from relay.settings import Plan

RETRIED = ("rate_limit_exceeded", "server_error")
"""Failures of a response that another try may mend (3.4.9)."""
FATAL = ("insufficient_quota", "invalid_api_key", "model_not_found")
"""Failures that no try will mend (C-233)."""
GO_ON = (
    "A technical fault cut off your last answer. Go on exactly where it ended, and repeat nothing"
    " of what you have said."
)
"""What a new upstream is told, beside its instructions, to end an answer that was half heard."""


# -- wanting ---------------------------------------------------------------------------------------


def speak_next(s: State, want: Want) -> None:
    """Queue a verbatim response: behind other verbatim ones, ahead of everything else (C-100)."""
    ahead = next((n for n, other in enumerate(s.wants) if not other.verbatim), len(s.wants))
    s.wants.insert(ahead, want)


def placed(s: State, item: realtime.Item) -> None:
    """An item is in the conversation, told in whichever event came first (L-08, C-090): one of
    ours, or, from a server that renames items, what can only be our oldest (C-091)."""
    ours = next((sent for sent in s.unacknowledged if sent.id == item.id), None)
    if ours is None and s.unacknowledged and _is_strange(s, item.id or ""):
        oldest = s.unacknowledged[0]
        if _same(oldest, item):
            ours = oldest
            s.inexact("item_renamed")
    if ours is not None:
        s.unacknowledged = tuple(item for item in s.unacknowledged if item is not ours)
        _acknowledged(s, ours.id or "")


def _is_strange(s: State, item_id: str) -> bool:
    """Neither an id of ours, for the item may be shown twice, nor one that the upstream has used
    for the user's speech or the agent's."""
    written = s.response.items if s.response is not None else {}
    return not (
        s.chose(item_id) or item_id in s.user_items or item_id in written or item_id in s.past_items
    )


def _same(sent: realtime.Item, shown: realtime.Item) -> bool:
    return (
        sent.type == shown.type
        and sent.role == shown.role
        and sent.call_id == shown.call_id
        and history.text_of(sent) == history.text_of(shown)
    )


def _acknowledged(s: State, item: str) -> None:
    rounds.output_acknowledged(s, item)
    for waiting in s.wants:
        if item in waiting.waits_for:
            waiting.waits_for.remove(item)
    if not any(waiting.waits_for for waiting in s.wants):
        s.disarm(Timer.ITEM)


def item_unacknowledged(s: State) -> None:
    """No acknowledgement came. Better asked without than never."""
    s.unacknowledged = ()
    for waiting in s.wants:
        if waiting.waits_for:
            s.note("warning", "item_unacknowledged", items=len(waiting.waits_for))
            waiting.waits_for = []


def pump(s: State) -> None:
    """Ask for the next wanted response, if there is one and it may be asked for now."""
    if s.live is None or s.requested or s.response or s.retrying or not s.wants:
        return
    head = s.wants[0]
    if not _eligible(s, head):
        return
    s.wants.pop(0)
    _request(s, head)


def request_unanswered(s: State) -> None:
    """A response.create brought nothing: once more, then give it up."""
    asked, s.requested = s.requested, None
    assert asked is not None
    s.note("warning", "response_unanswered", reason=asked.reason.value)
    if not asked.asked_again and not asked.dropped:
        asked.asked_again = True
        s.wants.insert(0, asked)


def refused(s: State, asked: Want, error: realtime.ErrorDetail) -> None:
    """Our response.create was answered with an error (4.3)."""
    s.requested = None
    s.disarm(Timer.REQUEST)
    if asked.dropped:
        return
    if error.kind == "conversation_already_has_active_response":
        if s.response is None:  # one that we do not know of: ask again a little later
            s.retrying = asked
            s.arm(Timer.RETRY, s.options.response_backoff_s[0])
        elif not _answered_by_live(s, asked):
            s.wants.insert(0, asked)  # C-095
    elif asked.verbatim and asked.with_input and error.param == "response.input":
        asked.with_input = False
        s.wants.insert(0, asked)  # C-214, U-10
    elif asked.verbatim:
        s.warn("SPEAK_REQUEST_FAILED", error.message)
    elif error.kind in FATAL:
        s.fail("FAILED_TO_THINK", error.message, 1000)
    else:
        s.warn("THINK_REQUEST_FAILED", error.message)


def mistaken(s: State, response: Response, asked: Want, error: realtime.ErrorDetail) -> None:
    """The live response, which bore no metadata, was not the one we asked for after all."""
    response.want = None
    refused(s, asked, error)


def retry(s: State) -> None:
    """The pause after a failure is over."""
    if s.retrying is not None:
        s.wants.insert(0, s.retrying)
        s.retrying = None


# -- a response from created to done ---------------------------------------------------------------


def created(s: State, event: realtime.ResponseCreated, leg: Leg) -> None:
    """A response has begun: one we asked for, or one of the upstream's own."""
    if event.response.id in s.ended or (s.response and s.response.id == event.response.id):
        return  # C-222, C-224
    leg.creates_responses = True
    _begin(s, event.response)


def slow(s: State) -> None:
    """The live response brings nothing."""
    assert s.response is not None
    waited = round(s.now - s.response.created_at)
    s.warn("SLOW_THINK_REQUEST", f"No output for {waited} s; still waiting.")
    s.arm(Timer.SLOW_THINK, s.options.slow_think_s)


def item_added(s: State, event: realtime.ResponseOutputItemAdded) -> None:
    """An output item begins; a model's message has no content yet (L-42)."""
    response = _live(s, event.response_id, event.item.id or "")
    if response is not None and event.item.id:
        item = _item(response, event.item.id, event.output_index)
        item.is_message = event.item.type == "message"
        item.announced = True
        s.disarm(Timer.INFERRED_END)


def text_delta(
    s: State,
    event: realtime.ResponseOutputAudioTranscriptDelta | realtime.ResponseOutputTextDelta,
) -> None:
    response = _live(s, event.response_id, event.item_id)
    if response is None:
        return
    _began(s, response)
    if response.first_text_at is None:
        response.first_text_at = s.now
    item_id = _item_id(s, response, event.item_id, event.output_index)
    item = _item(response, item_id, event.output_index)
    if len(item.partial) < limits.MAX_MESSAGE_BYTES:  # more could not be told
        item.partial += event.delta[: limits.MAX_MESSAGE_BYTES]
    s.disarm(Timer.INFERRED_END)


def arguments_delta(s: State, event: realtime.ResponseFunctionCallArgumentsDelta) -> None:
    response = _live(s, event.response_id, event.item_id)
    if response is None:
        return
    _began(s, response)
    if response.first_tool_at is None:
        response.first_tool_at = s.now


def arguments_done(s: State, event: realtime.ResponseFunctionCallArgumentsDone) -> None:
    """The exact API says more in the item's done (L-41); here only where no item was announced."""
    response = _live(s, event.response_id, event.item_id)
    if response is None or ((known := response.items.get(event.item_id)) and known.announced):
        return
    s.inexact("call_without_item")
    _began(s, response)
    item = _item(response, event.item_id or event.call_id, event.output_index)
    item.is_message, item.done = False, True
    call = realtime.Item(
        type="function_call", call_id=event.call_id, name=event.name, arguments=event.arguments
    )
    rounds.called(s, response.id, call)
    _perhaps_over(s, response)


def text_done(s: State, response_id: str, item_id: str, index: int, content: str) -> None:
    """The text of a message item is complete, by whichever event says so first (L-14, C-133)."""
    response = _live(s, response_id, item_id)
    if response is None:
        return
    item = _item(response, _item_id(s, response, item_id, index), index)
    if item.text is None:
        item.text = content
        _say_complete(s, response)
    item.done = item.done or not item.announced
    _perhaps_over(s, response)


def audio_delta(s: State, event: realtime.ResponseOutputAudioDelta, leg: Leg) -> None:
    """Audio that is not the plain case: the first of a response or item, or odd, or empty."""
    response = _live(s, event.response_id, event.item_id)
    if response is None:
        return  # C-149, C-222
    s.bad_audio = 0
    s.disarm(Timer.INFERRED_END)
    item_id = _item_id(s, response, event.item_id, event.output_index)
    if item_id != response.voice_item:
        audio_done(s, response)
        response.voice_item = item_id
    width = s.upstream_output.sample_bytes
    data = response.carry + event.delta
    whole = len(data) - len(data) % width
    response.carry = data[whole:]  # C-227
    if not whole:
        return
    _began(s, response)
    leg.voiced = True
    _item(response, item_id, event.output_index)
    if response.first_audio_at is None:
        response.first_audio_at = s.now
        _starts_speaking(s, response, item_id)
    s.playback.sent(
        item_id,
        s.upstream_output.ms(whole),
        s.now,
        leg=leg.number,
        content_index=event.content_index,
    )
    s.act(AudioToClient(data[:whole]))


def audio_done(s: State, response: Response) -> None:
    """The audio of an item is over; half a sample at its end is no sample."""
    response.carry = b""
    if response.voice_item is not None:
        response.voice_item = None
        s.act(AudioEnds())


def item_audio_done(s: State, event: realtime.ResponseOutputAudioDone) -> None:
    response = _live(s, event.response_id, event.item_id)
    if response is None:
        return
    item_id = _item_id(s, response, event.item_id, event.output_index)
    if response.voice_item == item_id:
        audio_done(s, response)
    item = _item(response, item_id, event.output_index)
    item.done = item.done or not item.announced
    _perhaps_over(s, response)


def item_done(s: State, event: realtime.ResponseOutputItemDone) -> None:
    """An output item is final: a call to announce, or text that came no other way."""
    response = _live(s, event.response_id, event.item.id or "")
    if response is None or not event.item.id:
        return
    item = _item(response, event.item.id, event.output_index)
    item.is_message = event.item.type == "message"
    if event.item.type == "function_call":
        _began(s, response)
        if event.item.status == "completed":  # C-159, L-41
            rounds.called(s, response.id, event.item)
    elif item.text is None and (content := history.text_of(event.item)):
        text_done(s, response.id, event.item.id, event.output_index, content)
    item.done = True
    _perhaps_over(s, response)


def done(s: State, event: realtime.ResponseDone) -> None:
    """The only end of a response (L-13)."""
    response = s.response
    if response is None or event.response.id not in ("", response.id):
        return
    _retire(s, response)
    audio_done(s, response)
    status = event.response.status
    if response.interrupted or status == "cancelled":
        _cancelled(s, response)
    elif status == "failed":
        _failed(s, response, event.response)
    else:
        _finished(s, response, event.response)
    rounds.response_over(
        s, response.id, cancelled=response.interrupted or status in ("cancelled", "failed")
    )
    s.revision += 1


def inferred_end(s: State) -> None:
    """Everything the response began is done, and nothing more came: it is over (C-230)."""
    done(s, realtime.ResponseDone(response=realtime.Response()))


def interrupt(s: State) -> None:
    """The live response is cut: nothing more of it reaches the client (C-149). What was heard of
    its text is said (C-156)."""
    response = s.response
    if response is None or response.interrupted:
        return
    response.interrupted = True
    response.carry, response.voice_item = b"", None  # the mouth was told to forget
    s.disarm(Timer.SLOW_THINK)
    _say_heard(s, response)


def abandon(s: State, response: Response) -> None:
    """Nothing more comes of it: its upstream is gone, or writes another. What was sent of it will
    be heard, so it was said."""
    audio_done(s, response)
    _retire(s, response)
    if not response.interrupted and response.first_audio_at is not None:
        _say_heard(s, response, will_be=True)
        _say_done(s, spoke=True)
    rounds.response_over(s, response.id, cancelled=False)


def give_up_cancelled(s: State) -> None:
    """A response that we cancelled does not end; go on without it."""
    response = s.response
    assert response is not None
    s.note("warning", "cancelled_response_did_not_end")
    _retire(s, response)
    rounds.response_over(s, response.id, cancelled=True)


# -- inside ----------------------------------------------------------------------------------------


def _begin(s: State, begun: realtime.Response) -> None:
    if s.response is not None:
        abandon(s, s.response)  # it was never said to be over
    asked = s.requested if _is_ours(s, begun) else None
    if asked is not None:
        s.requested = None
        s.disarm(Timer.REQUEST)
    since = asked.since if asked else s.turn_since if s.turn_since is not None else s.now
    s.usage.counting().responses += 1
    s.response = Response(id=begun.id, want=asked, since=since, created_at=s.now)
    s.disarm(Timer.UNASKED)
    s.cancelled_for_speech = False
    if asked is not None and asked.dropped:
        s.response.interrupted = True
        s.ask(realtime.ResponseCancel(event_id=s.new_id("cnl"), response_id=begun.id))
        s.arm(Timer.CANCELLED, s.options.cancel_wait_s)
        if s.turn is not TurnPhase.IDLE and s.applied.create_response:
            s.cancelled_for_speech = True
            if s.turn is TurnPhase.WAITING:
                s.arm(Timer.UNASKED, s.options.cancel_wait_s)  # C-223
        return
    if not s.response.verbatim:
        _takes_the_turn(s, s.response)
        s.tell(voice_agent.AgentThinking(content=""))  # C-127
    if s.options.slow_think_s > 0:
        s.arm(Timer.SLOW_THINK, s.options.slow_think_s)


def _retire(s: State, ended: Response) -> None:
    """It is not the live one any more; latecomers are known by its ids."""
    s.response = None
    s.disarm(Timer.SLOW_THINK, Timer.CANCELLED, Timer.INFERRED_END)
    s.past_items = (*s.past_items, *filter(None, ended.items))[-4 * REMEMBERED :]
    if ended.id:
        s.ended = (*s.ended, ended.id)[-REMEMBERED:]


def _eligible(s: State, head: Want) -> bool:
    if head.waits_for_commit or (head.waits_for and head.reason is not Reason.ROUND_DONE):
        return False  # C-089
    if s.turn is TurnPhase.SPEAKING:
        return head.interrupts
    if s.turn is TurnPhase.WAITING and s.applied.create_response:
        # The upstream is about to answer the turn by itself.
        return head.interrupts or head.reason in (Reason.FORCE_END_TURN, Reason.TURN)
    return True


def _request(s: State, head: Want) -> None:
    if head.verbatim:
        head.since = s.now  # 3.4.7
    head.event_id = s.new_id("rsp")
    s.requested = head
    s.arm(Timer.REQUEST, s.options.response_requested_s)
    s.ask(realtime.ResponseCreate(event_id=head.event_id, response=_params(s.applied, head)))


def _params(plan: Plan, head: Want) -> realtime.ResponseParams:
    metadata = {"relay": head.reason.value, "n": str(head.serial)}
    if head.reason is Reason.CONTINUE:
        told = [plan.instructions, GO_ON] if plan.instructions else [GO_ON]
        return realtime.ResponseParams(metadata=metadata, instructions="\n\n".join(told))
    if not head.verbatim:
        return realtime.ResponseParams(metadata=metadata)
    params = realtime.ResponseParams(
        conversation="auto",
        instructions=(
            "Say exactly the text between the quotation marks, word for word, in its own"
            f' language, and nothing else: "{head.text}"'
        ),
        tool_choice="none",
        output_modalities=["audio"],
        metadata=metadata,
    )
    if head.with_input:
        params.input = []
    return params


def _is_ours(s: State, begun: realtime.Response) -> bool:
    """Whether this is the response we asked for: by its metadata, where the upstream returns it."""
    asked = s.requested
    if asked is None:
        return False
    metadata = begun.metadata or {}
    if "relay" in metadata:
        return metadata.get("n") == str(asked.serial)
    return not (s.turn is TurnPhase.WAITING and s.applied.create_response)


def _answered_by_live(s: State, asked: Want) -> bool:
    """Whether the response that was in our way answers what we asked for (3.3, ForceEndTurn)."""
    live = s.response
    return (
        live is not None
        and live.want is None
        and (
            # It was begun with all that was said before in its sight (4.8).
            (asked.after_loss and not asked.verbatim)
            or (
                asked.reason in (Reason.FORCE_END_TURN, Reason.TURN)
                and live.after_commit == s.commits
            )
        )
    )


def _takes_the_turn(s: State, response: Response) -> None:
    """A response that is no recital answers whatever the conversation holds by now."""
    response.after_commit = s.commits
    s.answered_commits = s.commits
    s.turn_since = None
    if response.want is None or response.want.reason is not Reason.ROUND_DONE:
        spoken = s.turn_item if s.turn is TurnPhase.WAITING else ""
        known = s.user_items.get(spoken)
        s.measured = Measured(item=spoken, stt=known.stt if known else None)
    answers_turn = response.want is None and s.turn is TurnPhase.WAITING
    if s.turn is TurnPhase.WAITING:
        text.end_turn(s)
    text.await_user_text(s)
    s.disarm(Timer.RETRY)
    retry(s)
    s.wants = [w for w in s.wants if not _is_answered(w, answers_turn)]


def _is_answered(waiting: Want, answers_turn: bool) -> bool:
    """Whether a response that begins now answers this want too: any response uses what is in the
    conversation, but only the upstream's own answer to a spoken turn stands for what was written
    in the meantime (4.4, C-165, C-215)."""
    if waiting.verbatim or waiting.waits_for or waiting.waits_for_commit:
        return False
    return answers_turn or waiting.reason is Reason.ROUND_DONE


def _live(s: State, response_id: str, item_id: str) -> Response | None:
    """The live response, if the event is of it, it was not interrupted (C-222), and the item is no
    earlier one's (C-224). Output of a response that was never created, and never ended, creates it:
    some servers omit the event."""
    if item_id in s.past_items:
        return None
    if s.response is None and s.live is not None and response_id not in s.ended:
        s.inexact("response_not_created")
        s.live.infers_ends = s.live.infers_ends or not s.live.creates_responses
        _begin(s, realtime.Response(id=response_id))
    response = s.response
    if response is None or response.interrupted or response_id not in ("", response.id):
        return None
    return response


def _perhaps_over(s: State, response: Response) -> None:
    """From an upstream that does not say when a response ends: it may be now."""
    infers = s.live is not None and s.live.infers_ends
    if infers and all(item.done for item in response.items.values()):
        s.arm(Timer.INFERRED_END, s.options.inferred_end_s)


def _item_id(s: State, response: Response, item_id: str, index: int) -> str:
    """The item that an event is about; some servers name it by its index only."""
    if item_id:
        return item_id
    s.inexact("item_unnamed")
    return next((name for name, item in response.items.items() if item.index == index), "")


def _item(response: Response, item_id: str, index: int) -> AgentItem:
    if item_id not in response.items:
        response.items[item_id] = AgentItem(index=index)
    return response.items[item_id]


def _began(s: State, response: Response) -> None:
    if not response.began:
        response.began = True
        response.first_token_at = s.now
        s.disarm(Timer.SLOW_THINK)


def _starts_speaking(s: State, response: Response, item_id: str) -> None:
    """The first audio of a response is about to be posted (C-128, C-129)."""
    text.overtaken(s)  # C-136
    if response.want is not None and response.verbatim:
        history.answered(s, item_id, response.want.text)
        text.assistant_said(s, response.want.text)  # C-103, L-38
    assert response.first_token_at is not None
    total = _seconds(s.now - response.since)
    ttt = _seconds(response.first_token_at - response.since)
    s.tell(
        voice_agent.AgentStartedSpeaking(
            total_latency=total, tts_latency=_seconds(total - ttt), ttt_latency=ttt
        )
    )


def _say_complete(s: State, response: Response) -> None:
    """Say the texts that are complete, in the order of the output (C-220)."""
    if response.verbatim:
        return  # its text was given, not heard (C-103)
    for item_id, item in _in_order(response):
        if not item.is_message or item.said:
            continue
        if item.text is None:
            return
        item.said = True
        if content := item.text.strip():
            history.answered(s, item_id, content)
            text.assistant_said(s, content)


def _say_heard(s: State, response: Response, *, will_be: bool = False) -> None:
    """Say what was heard of the texts that are not complete (C-156), or `will_be`: of which audio
    is on its way."""
    if response.verbatim:
        return
    for item_id, item in _in_order(response):
        heard = s.playback.sent_ms(item_id) if will_be else s.playback.heard_ms(item_id, s.now)
        content = (item.text or item.partial).strip()
        if content and not item.said and heard > 0:
            item.said = True
            history.answered(s, item_id, content)
            text.assistant_said(s, content)


def _in_order(response: Response) -> list[tuple[str, AgentItem]]:
    return sorted(response.items.items(), key=lambda named: named[1].index)


def _finished(s: State, response: Response, outcome: realtime.Response) -> None:
    """Completed, or cut short by a limit: the turn finishes either way (C-148)."""
    assert s.live is not None
    s.live.proved = True
    for item in outcome.output or []:
        if item.type == "message" and item.id:
            ours = _item(response, item.id, len(response.items))
            if ours.text is None:
                ours.text = history.text_of(item) or None  # C-134
    for ours in response.items.values():
        if ours.text is None:
            ours.text = ours.partial
    _say_complete(s, response)
    reason = outcome.status_details.reason if outcome.status_details else None
    if outcome.status == "incomplete":
        s.note("info", "response_incomplete", reason=word(reason))
        if reason == "content_filter":
            s.warn("THINK_REQUEST_FAILED", "The answer was cut by the content filter.")
    spoke = response.first_audio_at is not None
    if response.verbatim and not spoke:
        s.warn("SPEAK_REQUEST_FAILED", "The upstream gave no audio for the text.")
    _say_done(s, spoke=spoke)
    if not response.verbatim:
        _measure(s, response)
        if not any(r.response == response.id for r in s.rounds):
            text.say(s, _report(s))  # C-221


def _say_done(s: State, *, spoke: bool) -> None:
    """The response is over. The component is told even if it was silent: it would go on showing
    that the agent thinks (C-136, C-137)."""
    if s.component:
        text.say(s, voice_agent.AgentDone())
    if spoke or s.component:
        text.say(s, voice_agent.AgentAudioDone())


def _cancelled(s: State, response: Response) -> None:
    """No AgentAudioDone for it (C-154)."""
    if not response.interrupted:
        _say_heard(s, response)
    asked = response.want
    if asked is not None and asked.verbatim and response.first_audio_at is None:
        s.note("info", "recital_cancelled", reason=asked.reason.value)


def _failed(s: State, response: Response, outcome: realtime.Response) -> None:
    """Never silent: a Warning and another try, or the end (C-147)."""
    error = outcome.status_details.error if outcome.status_details else None
    code = (error.code if error else None) or ""
    kind = (error.type if error else None) or ""
    message = (error.message if error else None) or code or kind or "the response failed"
    asked = response.want or Want(reason=Reason.TURN, serial=s.number(), since=response.since)
    if code in FATAL:
        s.fail("FAILED_TO_THINK", message, 1000)
        return
    if asked.verbatim:
        s.warn("SPEAK_REQUEST_FAILED", message)  # C-214
        return
    s.warn("THINK_REQUEST_FAILED", message)
    _say_heard(s, response)
    _say_done(s, spoke=response.first_audio_at is not None)
    if code not in RETRIED and kind not in RETRIED:
        return
    if s.turn is TurnPhase.SPEAKING:
        return  # what the user says now is the question
    if asked.tries >= s.options.response_tries:
        if "server_error" in (code, kind) and s.options.rollover and not asked.rebuilt:
            asked.rebuilt = s.poisoned = True  # C-247
            s.retrying = asked
        else:
            s.fail("FAILED_TO_THINK", message, 1011)
        return
    pauses = s.options.response_backoff_s
    s.arm(Timer.RETRY, pauses[min(asked.tries, len(pauses) - 1)])
    asked.tries += 1
    s.retrying = asked


def _measure(s: State, response: Response) -> None:
    measured = s.measured
    for name, at in (
        ("token", response.first_token_at),
        ("text", response.first_text_at),
        ("tool", response.first_tool_at),
        ("total", response.first_audio_at),
    ):
        if at is not None:
            setattr(measured, name, _seconds(at - response.since))
    if measured.total is not None and measured.token is not None:
        measured.tts = _seconds(measured.total - measured.token)


def _report(s: State) -> voice_agent.LatencyReport:
    """Only what was measured (C-142)."""
    names = {
        "stt_latency": s.measured.stt,
        "ttt_token_latency": s.measured.token,
        "ttt_text_latency": s.measured.text,
        "ttt_tool_latency": s.measured.tool,
        "tts_latency": s.measured.tts,
        "total_latency": s.measured.total,
    }
    return voice_agent.LatencyReport(**{k: v for k, v in names.items() if v is not None})


def _seconds(latency: float) -> float:
    """Never negative, and to the microsecond: what is behind that is noise of the clock."""
    return round(max(0.0, latency), 6)
