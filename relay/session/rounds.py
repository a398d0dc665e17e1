"""Function calls: announced, answered, and the round they form (4.5).

A round is the calls of one response. It is over when the response is, and every call of it has an
output; then the relay wants one more response. Nothing here waits for an acknowledgement: none is
promised (C-167, L-11).
"""

import math

import msgspec

from relay import realtime, voice_agent
from relay.session import history, text
from relay.session.actions import CallEndpoint, CancelEndpoint, word
from relay.session.limits import fits
from relay.session.state import REMEMBERED, Call, Reason, Round, State, Timer, Want

CUT = " [truncated]"
"""Ends a function output that was too long (C-228)."""
PAST_CALLS = 4 * REMEMBERED
"""So many ids are remembered of calls that are over."""
TOO_MANY = "too many calls are open"


def called(s: State, response: str, item: realtime.Item) -> None:
    """A function_call item of a response is complete (C-158)."""
    call = Call(
        id=item.call_id or "",
        name=item.name or "",
        arguments=item.arguments or "{}",  # C-160
    )
    if call.id in s.past_calls or _find(s, call.id) is not None:
        s.note("info", "call_repeated", call=word(call.id))  # C-224
        return
    round_ = next((r for r in s.rounds if r.response == response), None)
    if round_ is None:
        round_ = Round(response=response)
        s.rounds += (round_,)
    if sum(len(each.calls) for each in s.rounds) >= s.options.max_open_calls:
        round_.refused = True
        s.past_calls = (*s.past_calls, call.id)[-PAST_CALLS:]
        _turn_away(s, call)  # C-228
        return
    known = sum(len(each.arguments) for other in s.rounds for each in other.calls.values())
    most = 2 * s.options.max_call_arguments_bytes
    is_too_long = _too_long(s, call) or known + len(call.arguments) > most
    if is_too_long:  # nobody will ask for them
        call.arguments = "{}"
        item = msgspec.structs.replace(item, arguments="{}")
    round_.calls[call.id] = call
    s.usage.counting().function_calls += 1
    history.called(s, item)
    function = next((f for f in s.applied.functions if f.name == call.name), None)
    if function is None:
        _reject(s, call, "there is no such function")  # C-175
    elif is_too_long:
        _reject(s, call, "the arguments are too long")  # C-228
    else:
        call.endpoint = function.endpoint
        if not s.options.batch_function_calls:
            _announce(s, [call])


def response_over(s: State, response: str, *, cancelled: bool) -> None:
    """The calling response has ended: no more calls will come, refused outputs may go again."""
    for round_ in s.rounds:
        if round_.response != response:
            continue
        round_.final = True
        if s.options.batch_function_calls and not cancelled:
            waiting = [call for call in round_.calls.values() if call.output is None]
            if waiting:
                _announce(s, waiting)
        for call in round_.calls.values():
            if call.resend:
                call.resend, call.resent = False, True
                _send_output(s, call)
        if cancelled:
            _void(s, round_)
    close_finished(s)


def answered(s: State, message: voice_agent.FunctionCallResponse) -> None:
    """The client has the result of a call (C-161 to C-164)."""
    if s.component:
        s.tell(voice_agent.AgentThinking(content=""))  # C-169, L-35
    call = _addressed(s, message)
    if call is None or call.output is not None or call.server_side:
        s.note("info", "call_response_dropped", known=call is not None)
        return
    _output(s, call, _as_text(message))
    close_finished(s)


def endpoint_answered(s: State, call_id: str, output: str, *, ok: bool) -> None:
    """A server-side function was called (C-171)."""
    call = _find(s, call_id)
    if call is None or call.output is not None:
        return
    if not ok:
        s.warn("FUNCTION_CALL_FAILED", f"The endpoint of function {call.name} failed.")
    _output(s, call, output)
    s.tell(voice_agent.FunctionCallResponse(id=call.id, name=call.name, content=call.output))
    close_finished(s)


def timed_out(s: State) -> None:
    """Some calls have waited too long (C-170)."""
    for round_ in s.rounds:
        for call in round_.calls.values():
            if call.output is None and call.expires_at <= s.now:
                s.warn("FUNCTION_CALL_FAILED", f"Function {call.name} was not answered in time.")
                _output(s, call, _error("timeout"))
    _arm(s)
    close_finished(s)


def barged_in(s: State) -> None:
    """The user speaks during open rounds. Current models carry on with pending calls, so by
    default nothing happens (3.4.12)."""
    if s.options.cancel_calls_on_barge_in:
        for round_ in s.rounds:
            _void(s, round_)
        close_finished(s)


def output_acknowledged(s: State, item: str) -> None:
    """The upstream has this output: a response that begins from now on uses it."""
    for round_ in s.rounds:
        for call in round_.calls.values():
            if call.output_item == item:
                call.acknowledged = True


def output_refused(s: State, item: str, description: str | None) -> None:
    """The upstream refused a function output: perhaps only because the calling response was still
    running; then once more after it (C-229, U-19)."""
    for round_ in s.rounds:
        for call in round_.calls.values():
            if call.output_item == item and not round_.final and not call.resent:
                call.resend = True
                return
    for want in s.wants:
        if item in want.waits_for:
            want.waits_for.remove(item)
    s.warn("THINK_REQUEST_FAILED", f"A function result was refused: {description}")


def announce_again(s: State) -> None:
    """The client is back; perhaps it does not know any more what it was asked (C-258)."""
    for round_ in s.rounds:
        for call in round_.calls.values():
            if call.announced and call.output is None:
                _request(s, [call])


def close_finished(s: State) -> None:
    """End every round that is complete, and want the response that uses its outputs (C-165)."""
    for round_ in [r for r in s.rounds if r.final]:
        calls = list(round_.calls.values())
        if any(call.output is None or call.resend for call in calls):
            continue
        s.rounds = tuple(each for each in s.rounds if each is not round_)
        s.round_closed_at = s.now
        s.past_calls = (*s.past_calls, *(call.id for call in calls))[-PAST_CALLS:]
        _record(s, calls)
        used = [call for call in calls if not call.cancelled]
        if used or round_.refused:
            s.wants.append(
                Want(
                    reason=Reason.ROUND_DONE,
                    serial=s.number(),
                    since=s.now,
                    waits_for=[call.output_item for call in used if not call.acknowledged],
                )
            )
    _arm(s)


def _announce(s: State, calls: list[Call]) -> None:
    for call in calls:
        call.announced = True
        if call.endpoint is not None:
            s.act(CallEndpoint(call.id, call.name, call.arguments, call.endpoint))
        elif s.options.call_timeout_s > 0:
            call.expires_at = s.now + s.options.call_timeout_s
    _request(s, calls)
    _arm(s)
    s.revision += 1


def _too_long(s: State, call: Call) -> bool:
    arguments = len(msgspec.json.encode(call.arguments))
    return arguments > s.options.max_call_arguments_bytes or not fits(_requesting([call]))


def _request(s: State, calls: list[Call]) -> None:
    """In one message, if that is not too long; each of them alone is not (`_too_long`)."""
    together = _requesting(calls)
    if fits(together):
        s.tell(together)
    else:
        for call in calls:
            s.tell(_requesting([call]))


def _requesting(calls: list[Call]) -> voice_agent.FunctionCallRequest:
    return voice_agent.FunctionCallRequest(
        functions=[
            voice_agent.FunctionCall(
                id=call.id,
                name=call.name,
                arguments=call.arguments,
                client_side=not call.server_side,
            )
            for call in calls
        ]
    )


def _turn_away(s: State, call: Call) -> None:
    """Answer a call, and keep nothing of it: who calls so much might go on without end."""
    s.note("warning", "call_rejected", call=word(call.id), reason=TOO_MANY)
    item = s.new_id("out")
    output = _error(TOO_MANY)
    s.place(realtime.Item(type="function_call_output", id=item, call_id=call.id, output=output))


def _reject(s: State, call: Call, reason: str) -> None:
    """Answer a call that nobody can, so that the model recovers."""
    s.note("warning", "call_rejected", call=word(call.id), reason=reason)
    _output(s, call, _error(reason))


def _void(s: State, round_: Round) -> None:
    """Tell the client that its open calls are void, and close them upstream (C-173)."""
    round_.refused = False
    voided = [call for call in round_.calls.values() if call.output is None]
    if not voided:
        return
    announced = [call for call in voided if call.announced]
    if announced:
        s.tell(
            voice_agent.FunctionCallCancelled(
                functions=[
                    voice_agent.CancelledFunction(id=call.id, name=call.name) for call in announced
                ]
            )
        )
    for call in voided:
        call.cancelled = True
        if call.server_side:
            s.act(CancelEndpoint(call.id))
        _output(s, call, _error("cancelled"))


def _output(s: State, call: Call, output: str) -> None:
    limit = s.options.max_call_output_bytes
    encoded = output.encode()
    if len(encoded) > limit:
        output = encoded[: limit - len(CUT)].decode(errors="ignore") + CUT
        s.warn("FUNCTION_CALL_FAILED", f"The result of {call.name} was too long and is truncated.")
    call.output = output
    _send_output(s, call)


def _send_output(s: State, call: Call) -> None:
    call.output_item = s.new_id("out")
    item = realtime.Item(
        type="function_call_output",
        id=call.output_item,
        call_id=call.id,
        output=call.output or "",
    )
    s.place(item)
    if not call.resent:
        history.wrote(s, item)


def _record(s: State, calls: list[Call]) -> None:
    """History form B, once for the round (C-174)."""
    if not s.applied.history or not calls:
        return
    text.say(
        s,
        voice_agent.History(
            function_calls=[
                voice_agent.FunctionCallRecord(
                    id=call.id,
                    name=call.name,
                    client_side=not call.server_side,
                    arguments=call.arguments,
                    response=call.output or "",
                )
                for call in calls
            ]
        ),
    )


def _find(s: State, call_id: str) -> Call | None:
    return next((r.calls[call_id] for r in s.rounds if call_id in r.calls), None)


def _addressed(s: State, message: voice_agent.FunctionCallResponse) -> Call | None:
    """The call that a response answers: by id, else the oldest pending one of that name (C-163)."""
    call_id = message.id or message.function_call_id
    if call_id:
        return _find(s, call_id)
    pending = (
        call
        for round_ in s.rounds
        for call in round_.calls.values()
        if call.output is None and call.name == message.name
    )
    return next(pending, None)


def _as_text(message: voice_agent.FunctionCallResponse) -> str:
    """The output string: `content` (older clients: `output`), else `error`, else `result`
    (C-162, C-265)."""
    for content in (message.content, message.output):
        if content is not None and content != "":
            return content if isinstance(content, str) else _json(content)
    if message.error is not None:
        return _json({"error": message.error})
    if message.result is not None:
        return message.result if isinstance(message.result, str) else _json(message.result)
    return ""


def _error(reason: str) -> str:
    return _json({"error": reason})


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _arm(s: State) -> None:
    waiting = [
        call.expires_at
        for round_ in s.rounds
        for call in round_.calls.values()
        if call.output is None
    ]
    due = min(waiting, default=math.inf)
    if math.isinf(due):
        s.disarm(Timer.CALLS)
    else:
        s.arm_at(Timer.CALLS, due)
