"""scenes: situations of a conversation, and the events that a real upstream tells of them.

It knows the shapes of OpenAI's events and the usual course of a session, so that a test begins
where its statement does: `ready()`, then `speech()`, then what the statement is about. The playbook
checks every event made here against the vendor's types. It knows nothing of how the relay works.

Unless a test says otherwise, History is off: it would double every text.
"""

from typing import Any

from relay.session import Session
from relay.session.facts import Admission, Dialect, UpstreamTraits
from relay.session.options import SessionOptions
from relay.settings import MappingOptions
from tests.expected import Wire, like
from tests.playbook import Playbook

MODEL = "gpt-realtime-2.1"
"""What the default configuration dials."""

# The client.


def settings(
    *,
    history: bool = False,
    functions: tuple[str, ...] = (),
    audio: dict[str, Any] | None = None,
    **agent: Any,
) -> Wire:
    """Settings with a prompt, these functions by name, and these other parts of `agent`."""
    think: dict[str, Any] = {
        "provider": {"type": "open_ai", "model": "gpt-4o-mini"},
        "prompt": "Be brief.",
    }
    if functions:
        think["functions"] = [{"name": name, "description": name} for name in functions]
    think.update(agent.pop("think", {}))
    return {
        "type": "Settings",
        "flags": {"history": history},
        "audio": audio or {},
        "agent": {"think": think, **agent},
    }


def types(text: str) -> Wire:
    """The user types."""
    return like("InjectUserMessage", content=text)


def says(text: str, behavior: str | None = None) -> Wire:
    """The application has the agent say something."""
    extra = {"behavior": behavior} if behavior else {}
    return like("InjectAgentMessage", message=text, **extra)


def answer(call: str, content: Any = "42", name: str = "f") -> Wire:
    return like("FunctionCallResponse", id=call, name=name, content=content)


# What the client hears.


def user(text: str) -> Wire:
    return like("ConversationText", role="user", content=text)


def assistant(text: str) -> Wire:
    return like("ConversationText", role="assistant", content=text)


def history(role: str, content: str) -> Wire:
    return like("History", role=role, content=content)


def warning(code: str) -> Wire:
    return like("Warning", code=code)


def error(code: str) -> Wire:
    return like("Error", code=code)


def request(call: str, name: str = "f", arguments: str = "{}") -> Wire:
    """The client is asked to run a function."""
    function = {"id": call, "name": name, "arguments": arguments, "client_side": True}
    return like("FunctionCallRequest", functions=[function])


# Situations.


def opened(
    *,
    component: bool = False,
    mapping: MappingOptions | None = None,
    ends_responses: bool = True,
    playbook: type[Playbook] = Playbook,
    **options: Any,
) -> Playbook:
    """Connected and welcomed, with these session options."""
    dialect = Dialect.COMPONENT if component else Dialect.DEEPGRAM
    session = Session(
        options=SessionOptions(**options),
        mapping=mapping or MappingOptions(),
        admission=Admission("request-1", dialect),
        upstreams=(UpstreamTraits(ends_responses),),
    )
    return playbook(session, component).opens().to_client(like("Welcome", request_id="request-1"))


def configuring(given: Wire | None = None, **opening: Any) -> Playbook:
    """Settings sent, upstream leg 1 open, our session.update sent."""
    return (
        opened(**opening)
        .client(given or settings())
        .formats()
        .dials()
        .upstream_opens()
        .upstream(created())
        .to_upstream("session.update")
    )


def ready(given: Wire | None = None, **opening: Any) -> Playbook:
    """Settings applied; nothing said yet."""
    return configuring(given, **opening).updated().to_client("SettingsApplied")


def answering(text: str = "Hello.", ms: int = 1000, **opening: Any) -> Playbook:
    """The user has asked something by voice, and the agent's first `ms` of audio are out."""
    return (
        ready(**opening)
        .upstream(*speech("item_u1"), transcribed("item_u1", "Hi."))
        .to_client("UserStartedSpeaking", user("Hi."))
        .upstream(*begins("resp_1", "item_a1"))
        .to_client("AgentThinking")
        .upstream(heard("resp_1", "item_a1", text), voice("resp_1", "item_a1", pcm(ms)))
        .to_client("AgentStartedSpeaking")
        .audio_to_client(pcm(ms))
    )


# Audio.


def pcm(ms: float, value: int = 1) -> bytes:
    """So many milliseconds of 24 kHz linear16, of one sample value."""
    return value.to_bytes(2, "little", signed=True) * int(ms * 24)


# Session and input events.


def created(expires_at: int | None = None) -> Wire:
    extra = {} if expires_at is None else {"expires_at": expires_at}
    session = {"type": "realtime", "id": "sess_1", "object": "realtime.session", "model": MODEL}
    return like("session.created", session={**session, **extra})


def speech_started(item: str = "item_u1", at_ms: int = 0) -> Wire:
    return like("input_audio_buffer.speech_started", item_id=item, audio_start_ms=at_ms)


def speech_stopped(item: str = "item_u1", at_ms: int = 1000) -> Wire:
    return like("input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=at_ms)


def committed(item: str = "item_u1") -> Wire:
    return like("input_audio_buffer.committed", item_id=item, previous_item_id=None)


def user_item(item: str = "item_u1") -> list[Wire]:
    """The item that a commit made."""
    content = [{"type": "input_audio", "transcript": None}]
    made = message(item, "user", content, "completed")
    return [
        like("conversation.item.added", item=made, previous_item_id=None),
        like("conversation.item.done", item=made, previous_item_id=None),
    ]


def speech(item: str = "item_u1") -> list[Wire]:
    """The user says something, up to and including the commit."""
    return [speech_started(item), speech_stopped(item), committed(item), *user_item(item)]


TRANSCRIPTION = "conversation.item.input_audio_transcription"


def transcribed(item: str, text: str) -> Wire:
    usage = {"type": "duration", "seconds": 1.0}
    return like(
        f"{TRANSCRIPTION}.completed", item_id=item, content_index=0, transcript=text, usage=usage
    )


def transcribing(item: str, delta: str) -> Wire:
    return like(f"{TRANSCRIPTION}.delta", item_id=item, content_index=0, delta=delta)


def untranscribed(item: str) -> Wire:
    return like(
        f"{TRANSCRIPTION}.failed",
        item_id=item,
        content_index=0,
        error={"type": "server_error", "code": "x", "message": "No."},
    )


def failure(
    code: str | None, message: str = "No.", *, of: str | None = None, kind: str | None = None
) -> Wire:
    """An error event; `of` is the event_id it is about."""
    detail = {"type": kind or "invalid_request_error", "code": code, "message": message}
    return like("error", error={**detail, "param": None, "event_id": of})


# Response events. `resp` and `item` are ids, `index` the place among the response's output.


def message(
    item: str, role: str, content: list[dict[str, Any]], status: str = "completed"
) -> dict[str, Any]:
    return {
        "type": "message",
        "id": item,
        "object": "realtime.item",
        "role": role,
        "status": status,
        "content": content,
    }


def response(resp: str, status: str = "in_progress", **more: Any) -> dict[str, Any]:
    return {"id": resp, "object": "realtime.response", "status": status, "output": [], **more}


def response_created(resp: str = "resp_1", **more: Any) -> Wire:
    return like("response.created", response=response(resp, **more))


def response_done(
    resp: str = "resp_1",
    status: str = "completed",
    *,
    reason: str | None = None,
    code: str | None = None,
    output: list[dict[str, Any]] | None = None,
) -> Wire:
    """`reason` of an incomplete or cancelled one, error `code` of a failed one."""
    details: dict[str, Any] = {"type": status}
    if reason:
        details["reason"] = reason
    if code:
        details["error"] = {"type": code, "code": code}
    more = {"status_details": details} if reason or code else {}
    return like("response.done", response=response(resp, status, **more) | {"output": output or []})


def cancelled(resp: str = "resp_1", reason: str = "turn_detected") -> Wire:
    return response_done(resp, "cancelled", reason=reason)


def item_added(resp: str, item: dict[str, Any], index: int = 0) -> list[Wire]:
    return [
        like("response.output_item.added", response_id=resp, output_index=index, item=item),
        like("conversation.item.added", item=item, previous_item_id=None),
    ]


def item_done(resp: str, item: dict[str, Any], index: int = 0) -> list[Wire]:
    return [
        like("conversation.item.done", item=item, previous_item_id=None),
        like("response.output_item.done", response_id=resp, output_index=index, item=item),
    ]


def message_added(resp: str, item: str, index: int = 0) -> list[Wire]:
    """The model begins a message: in progress, without content."""
    return item_added(resp, message(item, "assistant", [], "in_progress"), index)


def begins(resp: str = "resp_1", item: str = "item_a1") -> list[Wire]:
    """A response of the upstream's own begins, with a message."""
    return [response_created(resp), *message_added(resp, item)]


def _of(resp: str, item: str, index: int) -> dict[str, Any]:
    return {"response_id": resp, "item_id": item, "output_index": index, "content_index": 0}


def voice(resp: str, item: str, audio: bytes, index: int = 0) -> Wire:
    """A delta of audio."""
    return like("response.output_audio.delta", **_of(resp, item, index), delta=audio)


def heard(resp: str, item: str, delta: str, index: int = 0) -> Wire:
    """A delta of the transcript of the audio."""
    return like("response.output_audio_transcript.delta", **_of(resp, item, index), delta=delta)


def transcript_done(resp: str, item: str, text: str, index: int = 0) -> Wire:
    return like("response.output_audio_transcript.done", **_of(resp, item, index), transcript=text)


def spoken(item: str, text: str, status: str = "completed") -> dict[str, Any]:
    """A finished message of the model's."""
    return message(item, "assistant", [{"type": "output_audio", "transcript": text}], status)


def message_done(
    resp: str, item: str, text: str, index: int = 0, status: str = "completed"
) -> list[Wire]:
    """Everything that ends a spoken message."""
    of = _of(resp, item, index)
    part = {"type": "audio", "transcript": text}
    return [
        like("response.output_audio.done", **of),
        transcript_done(resp, item, text, index),
        like("response.content_part.done", **of, part=part),
        *item_done(resp, spoken(item, text, status), index),
    ]


def ends(
    resp: str = "resp_1", item: str = "item_a1", text: str = "Hello.", **done: Any
) -> list[Wire]:
    """A response with one message ends."""
    whole = [spoken(item, text)]
    return [*message_done(resp, item, text), response_done(resp, output=whole, **done)]


def reply(
    resp: str = "resp_1", item: str = "item_a1", text: str = "Hello.", audio: bytes = b"\1\0" * 2400
) -> list[Wire]:
    """A whole response of the upstream's own: one spoken message."""
    return [
        *begins(resp, item),
        heard(resp, item, text),
        voice(resp, item, audio),
        *ends(resp, item, text),
    ]


def written(resp: str, item: str, text: str, index: int = 0) -> list[Wire]:
    """A message of the model's in a text session."""
    done = message(item, "assistant", [{"type": "output_text", "text": text}])
    of = _of(resp, item, index)
    return [
        *message_added(resp, item, index),
        like("response.output_text.delta", **of, delta=text),
        like("response.output_text.done", **of, text=text),
        *item_done(resp, done, index),
    ]


def function_call(
    call: str, name: str = "f", arguments: str = "{}", status: str = "completed"
) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"item_{call}",
        "object": "realtime.item",
        "status": status,
        "call_id": call,
        "name": name,
        "arguments": arguments,
    }


def calls(
    resp: str,
    call: str,
    name: str = "f",
    arguments: str = "{}",
    index: int = 0,
    status: str = "completed",
) -> list[Wire]:
    """The model calls a function."""
    of = {"response_id": resp, "item_id": f"item_{call}", "output_index": index, "call_id": call}
    return [
        *item_added(resp, function_call(call, name, "", "in_progress"), index),
        like("response.function_call_arguments.delta", **of, delta=arguments),
        like("response.function_call_arguments.done", **of, name=name, arguments=arguments),
        *item_done(resp, function_call(call, name, arguments, status), index),
    ]
