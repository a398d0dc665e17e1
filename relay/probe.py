"""probe: dials an upstream once, to see whether it creates a session.

It knows the first event of the protocol and nothing of what comes after it.
"""

import msgspec
import trio

from relay import realtime, wire
from relay.served import Destination

ANSWER_S = 10.0
"""For the connection, and again for session.created: `session.upstream_step_s` as it comes."""


class Probe(msgspec.Struct, frozen=True):
    """How one dial went."""

    fault: str | None
    """What failed and why, in a few words without secrets; None: the upstream created a session."""
    seconds: float


async def probe(destination: Destination, model: str) -> Probe:
    """Dial, wait for session.created and hang up. Never raises for what the upstream does."""
    began = trio.current_time()
    try:
        fault = await _fault(destination, model)
    except wire.DialFailed as failure:
        fault = failure.reason
    except wire.LegGone as gone:
        fault = f"closed with {gone.code} before session.created: {gone.reason!r}"
    return Probe(fault, trio.current_time() - began)


async def _fault(destination: Destination, model: str) -> str | None:
    url, headers = destination.address.url_for(model), destination.address.headers
    dialled = wire.dial(url, headers=headers, deadline_s=ANSWER_S, ssl_context=destination.trust)
    async with dialled as leg:
        with trio.move_on_after(ANSWER_S):
            while True:
                match realtime.decode_server(await leg.receive()):
                    case realtime.SessionCreated():
                        return None
                    case realtime.Error(error=error):
                        return f"error {error.code or error.type}: {error.message!r}"
                    case _:
                        pass
        return f"no session.created within {ANSWER_S:g} s of the connection"
