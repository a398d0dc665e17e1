"""correlation: what a request says of itself, so that its lines are found again elsewhere.

It reads two headers, `X-Request-Id` and `traceparent` (W3C Trace Context, Recommendation of 2021),
and forgives nothing: what is not exactly of their form was not said. Both come from a stranger and
end in the log, so they are short and of few characters.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

REQUEST_ID: Final = "x-request-id"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
TRACESTATE_CHARS: Final = 512
"""What everybody has to pass on (3.3.1.5); we pass on no more."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e]+")


class Trace(msgspec.Struct, frozen=True):
    """Of which trace the request is a part."""

    trace_id: str
    """32 hexadecimal digits."""
    parent_id: str
    """16 of them: the caller's span."""
    flags: int
    state: str | None = None
    """`tracestate`, as it came."""

    @property
    def sampled(self) -> bool:
        """The caller records it."""
        return bool(self.flags & 1)

    @property
    def headers(self) -> dict[str, str]:
        """What makes the next one a part of it. Of flags only those that we know (3.2.2.5)."""
        passed_on = {TRACEPARENT: f"00-{self.trace_id}-{self.parent_id}-{self.flags & 1:02x}"}
        if self.state is not None:
            passed_on[TRACESTATE] = self.state
        return passed_on


class Correlation(msgspec.Struct, frozen=True):
    """What a request says of itself; None where it says nothing, or nothing that is valid."""

    request_id: str | None = None
    trace: Trace | None = None

    @property
    def fields(self) -> dict[str, str]:
        """For the log."""
        found = {"request_id": self.request_id} if self.request_id else {}
        return found | ({"trace_id": self.trace.trace_id} if self.trace else {})


def read(headers: Mapping[str, str]) -> Correlation:
    """From headers by lower-case name."""
    request_id = headers.get(REQUEST_ID, "")
    return Correlation(
        request_id if _REQUEST_ID.fullmatch(request_id) else None,
        _trace(headers.get(TRACEPARENT, ""), headers.get(TRACESTATE)),
    )


def _trace(parent: str, state: str | None) -> Trace | None:
    found = _TRACEPARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    # Version ff is forbidden, and version 00 ends here; what later ones add, nobody knows yet.
    if version == "ff" or (version == "00" and more):
        return None
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    if state is not None and (len(state) > TRACESTATE_CHARS or not _TRACESTATE.fullmatch(state)):
        state = None
    return Trace(trace_id, parent_id, int(flags, 16), state)
