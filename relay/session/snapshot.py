"""snapshot: a conversation as bytes, and back.

What is encoded is the conversation alone. The configuration is handed in again when it is decoded,
so a snapshot holds none of its secrets: neither the options and tables nor the headers of function
endpoints that a configured agent brought. Upstream legs are not in it either; they end with the
connection, and what they owed follows from the rest.
"""

import math
from typing import Any

import msgspec

from relay.session.state import Call, Kept, Round, State
from relay.settings import Endpoint, Function, MappingOptions, Passthrough, Plan, Update


class Snapshot(Kept, kw_only=True):
    """The state at one moment of a conversation that has begun (`Session.worth_keeping`)."""

    plan: Plan
    wall: float
    """Unix time of that moment."""
    lost: bool
    """The client was lost just then. Else the conversation went on, nobody knows for how long."""
    withheld: list[str]
    """Functions whose endpoints have headers of the configuration's."""


def taken(s: State, wall: float, *, lost: bool) -> bytes:
    """The state as bytes. Between steps only; takes about 1 us for each 1000 characters said."""
    fields: dict[str, Any] = {name: getattr(s, name) for name in Kept.__struct_fields__}
    for name in ("live", "next", "leaving", "updating", "changing"):
        fields[name] = None
    fields["updates"] = _unacknowledged(s)
    fields["rounds"] = [_without_headers(round_) for round_ in s.rounds]
    withheld = _configured(s.applied, s.mapping)
    fields["plan"] = _blank(s.applied, withheld)
    if not lost:  # what the user is saying goes on without us, and nobody asked for recordings
        fields.update(kept=[], kept_bytes=0, said_until=-math.inf, gathered=b"", unwritten={})
    return msgspec.msgpack.encode(Snapshot(**fields, wall=wall, lost=lost, withheld=withheld))


def read(encoded: bytes) -> Snapshot:
    """Raises `msgspec.DecodeError` if these bytes are no snapshot of this version's."""
    return msgspec.msgpack.decode(encoded, type=Snapshot)


def fields(snapshot: Snapshot, mapping: MappingOptions, lost_wall: float) -> dict[str, Any]:
    """What a session is made of again, with the configuration of today. A client of whom nobody
    knows when it was lost heard what it had until `lost_wall`."""
    known = {name: getattr(snapshot, name) for name in Kept.__struct_fields__}
    known["plan"] = _refilled(snapshot.plan, snapshot.withheld, mapping)
    if not snapshot.lost:
        for stretch in snapshot.playback.timeline:
            stretch.start -= max(0.0, lost_wall - snapshot.wall)
    return known


def _unacknowledged(s: State) -> list[Update]:
    """The updates that are under way count as not begun."""
    begun = [*filter(None, [s.changing, s.updating]), *(s.next.folded if s.next else [])]
    return [*(updating.message for updating in begun), *s.updates]


def _without_headers(round_: Round) -> Round:
    calls = {name: _call_without_headers(call) for name, call in round_.calls.items()}
    return msgspec.structs.replace(round_, calls=calls)


def _call_without_headers(call: Call) -> Call:
    """That the relay itself was to make it is all that is needed: it is not made again (C-259)."""
    if call.endpoint is None:
        return call
    return msgspec.structs.replace(call, endpoint=Endpoint("", "", {}))


def _configured(plan: Plan, mapping: MappingOptions) -> list[str]:
    """Functions with the very headers of a configured agent's. A client that knows them loses
    nothing by it."""
    ours = _endpoints(mapping)
    return [
        function.name
        for function in plan.functions
        if function.endpoint is not None
        and function.endpoint.headers
        and function.endpoint in ours.get(function.name, [])
    ]


def _endpoints(mapping: MappingOptions) -> dict[str, list[Endpoint]]:
    """The endpoints of all configured agents, by function."""
    found: dict[str, list[Endpoint]] = {}
    for agent in mapping.agents.values():
        entries = agent.think if isinstance(agent.think, list) else [agent.think]
        for think in filter(None, entries):
            for function in think.functions or []:
                if function.name and function.endpoint and function.endpoint.url:
                    there = function.endpoint
                    method = (there.method or "POST").upper()
                    endpoint = Endpoint(there.url or "", method, there.headers or {})
                    found.setdefault(function.name, []).append(endpoint)
    return found


def _blank(plan: Plan, withheld: list[str]) -> Plan:
    plan = msgspec.structs.replace(plan, passthrough=Passthrough())
    return _with_endpoints(plan, dict.fromkeys(withheld))


def _refilled(plan: Plan, withheld: list[str], mapping: MappingOptions) -> Plan:
    """A function whose endpoint is configured no longer is left to the client."""
    plan = msgspec.structs.replace(plan, passthrough=mapping.passthrough)
    ours = _endpoints(mapping)
    return _with_endpoints(plan, {name: ours.get(name, []) for name in withheld})


def _with_endpoints(plan: Plan, candidates: dict[str, list[Endpoint] | None]) -> Plan:
    """The plan with the headers of these functions' endpoints taken away (None), or put back from
    the candidate with the same URL."""

    def changed(function: Function) -> Function:
        there = function.endpoint
        if there is None or function.name not in candidates:
            return function
        among = candidates[function.name]
        if among is None:
            endpoint: Endpoint | None = msgspec.structs.replace(there, headers={})
        else:
            endpoint = next(
                (e for e in among if (e.url, e.method) == (there.url, there.method)), None
            )
        return msgspec.structs.replace(function, endpoint=endpoint)

    if not candidates:
        return plan
    think = msgspec.structs.replace(plan.think, functions=[changed(f) for f in plan.functions])
    return msgspec.structs.replace(plan, think=think)
