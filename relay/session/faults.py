"""What the upstream complains about, and what that means for the client (3.4.16).

To a Deepgram client `Error` means that the session is over; to OpenAI it mostly does not. So what
can be lived with becomes a Warning or nothing. Judged by event id, code, then type; never by the
words of a message (C-180, L-25).
"""

from relay import realtime
from relay.session import responses, rollover, rounds, turns, updates
from relay.session.actions import word
from relay.session.state import Leg, LegPhase, Response, State, Want

EXPIRED = "session_expired"
INVISIBLE = (
    "response_cancel_not_active",
    "input_audio_buffer_commit_empty",
    "conversation_already_has_active_response",
    "item_retrieve_invalid_item_id",
    "item_delete_invalid_item_id",
    "item_truncate_invalid_item_id",
)
"""Races that harm nobody (C-179)."""
UNKNOWN_TYPES = 64
"""How many unknown event types are counted one by one..."""
OTHERS = "*"
"""...and the rest together."""


def configuring(s: State, error: realtime.ErrorDetail, leg: Leg) -> None:
    """An error before the leg is live: about our session.update, or none of our business
    (C-026)."""
    if leg.phase is LegPhase.CONFIGURING and error.event_id == leg.configured_by:
        where = f" ({error.param})" if error.param else ""
        s.fail("INVALID_SETTINGS", f"{error.message or error.code}{where}", 1000)
    elif error.kind in responses.FATAL:
        s.fail("FAILED_TO_THINK", error.message, 1000)
    else:
        s.note("warning", "upstream_error", code=word(error.code), type=word(error.type))


def live(s: State, error: realtime.ErrorDetail) -> None:
    """An error on the live leg."""
    s.note(
        "info",
        "upstream_error",
        code=word(error.code),
        type=word(error.type),
        about=word(error.event_id),
    )
    if error.kind == EXPIRED:
        rollover.expired(s)
    elif s.updating is not None and error.event_id == s.updating.event_id:
        updates.refused(s, s.updating, error)
    elif s.requested is not None and _about_request(s.requested, error):
        responses.refused(s, s.requested, error)
    elif s.response is not None and (asked := _asked_for(s.response, error)) is not None:
        responses.mistaken(s, s.response, asked, error)
    elif error.event_id is not None and _about_ours(s, error, error.event_id):
        pass
    else:
        _unaddressed(s, error)


def unknown_event(s: State, kind: str, size: int) -> None:
    """Logged for the first of a type, then counted; the client hears nothing (C-181, L-27)."""
    if kind not in s.unknown and len(s.unknown) >= UNKNOWN_TYPES:
        kind = OTHERS
    s.unknown[kind] = s.unknown.get(kind, 0) + 1
    if s.unknown[kind] == 1:
        s.note(
            "warning",
            "unknown_upstream_event",
            type=kind if kind == OTHERS else word(kind),
            size=size,
        )


def _about_request(asked: Want, error: realtime.ErrorDetail) -> bool:
    if error.event_id is not None:
        return error.event_id == asked.event_id
    return error.kind == "conversation_already_has_active_response"


def _asked_for(response: Response, error: realtime.ErrorDetail) -> Want | None:
    """What the response was taken to answer, if the error is about that."""
    asked = response.want
    return asked if asked is not None and error.event_id == asked.event_id else None


def _about_ours(s: State, error: realtime.ErrorDetail, event_id: str) -> bool:
    """Whether this is about an event that the relay sent; its id says of which kind."""
    s.unacknowledged = tuple(i for i in s.unacknowledged if i.id != event_id)
    match event_id.split("_"):
        case [_, "usr", _]:
            turns.inject_refused(s, event_id, error.message)
        case [_, "out", _]:
            rounds.output_refused(s, event_id, error.message)
        case [_, "cmt", _]:
            turns.nothing_to_commit(s)
        case [_, "ctx" | "was" | "say" | "trn" | "cnl" | "rsp" | "upd", _]:
            pass  # C-153; one entry of the history less; answered already
        case _:
            return False
    return True


def _unaddressed(s: State, error: realtime.ErrorDetail) -> None:
    if error.kind in INVISIBLE:
        if error.kind == "input_audio_buffer_commit_empty":
            turns.nothing_to_commit(s)
    elif error.kind in responses.FATAL:
        s.fail("FAILED_TO_THINK", error.message, 1000)  # C-233
    elif error.type == "invalid_request_error" and error.param == "audio":
        s.fail("USER_AUDIO_FORMAT", "The upstream could not decode the audio.", 1000)
    elif s.component and error.code:
        s.warn(error.code, error.message)
    else:
        code = f" ({error.code})" if error.code else ""
        s.warn("THINK_REQUEST_FAILED", f"{error.message or error.type or 'error'}{code}")
