"""What must hold of any bytes whatever: one function for each place where they come in.

Each takes bytes and raises if a promise is broken. `scripts/fuzz` looks for such bytes, guided by
what of the relay they reach; what it found worth keeping is in tests/corpus, and test_fuzzing runs
through it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import h11
import msgspec
import trio
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from relay import admission, realtime, voice_agent, wire
from relay.config import Auth, Listen
from relay.frames import Unknown, Unparsable
from relay.settings import Dialect, MappingOptions, Plan, Refusal, plan
from tests import test_session_properties, test_websocket
from tests.oracle import check_client_event

KEYS = {b"\0" * 32: "nobody"}


def head(data: bytes) -> None:
    """The head of a request: it is refused with a status, or admission can judge it."""
    whole, cut = _request([data]), _request([data[at : at + 7] for at in range(0, len(data), 7)])
    assert whole == cut
    if isinstance(whole, wire.Response):
        assert 400 <= whole.status < 500 or whole.status == 501  # transfer codings
    if not isinstance(whole, wire.Request):
        return
    assert repr(whole) == repr(dataclasses.replace(whole, query="", headers={}))
    for auth in (Auth(), Auth(mode="keys", query_token=tuple(Dialect), origins=("http://h",))):
        listen = Listen(deepgram_paths=("/a",), component_paths=("/b",))
        outcome = admission.admit(whole, listen, auth, KEYS)
        if isinstance(outcome, admission.Admitted):
            admission.claim(whole, outcome)
            refusal = wire._upgrade_fault(whole)
            assert refusal is None or refusal.status in (400, 405, 426)
            if refusal is None:
                accepted = wire.Accept(_nobody, outcome.subprotocol)
                upgrade = wire._Upgrade(accepted, wire._key(whole), b"")
                clean = _request([wire._clean_head(upgrade)])
                assert isinstance(clean, wire.Request)
                assert clean.wants_websocket


async def _nobody(_leg: wire.Leg) -> None:
    raise AssertionError("no conversation is held here")


class _Pieces(trio.abc.ReceiveStream):
    """A stream that waits for nothing."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def aclose(self) -> None:
        raise AssertionError("whoever reads a head does not close")


def _request(pieces: list[bytes]) -> wire.Request | wire.Response | None:
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=wire.HEAD_BYTES)
    reading: Any = wire._read_head(_Pieces(pieces), http)  # type: ignore[arg-type] # it only reads
    try:
        reading.send(None)
    except StopIteration as done:
        read: wire.Request | wire.Response | None = done.value
        return read
    raise AssertionError("it waits for something")


def frames(data: bytes) -> None:
    """A stream behind the handshake: it means what it means to wsproto, in any pieces."""
    client, data = bool(data[:1] and data[0] & 1), data[1:]
    test_websocket.assert_agreement(data, client=client)
    step = 1 + len(data) % 5
    whole = test_websocket.ours(data, [], client=client)
    cut = test_websocket.ours(data, list(range(0, len(data), step)), client=client)
    assert (test_websocket.heard(whole), whole.end) == (test_websocket.heard(cut), cut.end)
    assert whole.under_way == cut.under_way


def client_messages(data: bytes) -> None:
    """A text frame of a client: a message, or why not; and a message is the same when encoded."""
    _round_trip(data, voice_agent.decode_client, voice_agent.encode)
    _round_trip(data, voice_agent.decode_server, voice_agent.encode)


def upstream_events(data: bytes) -> None:
    """A text frame of an upstream."""
    _round_trip(data, realtime.decode_server, realtime.encode)
    _round_trip(data, realtime.decode_client, realtime.encode)


def _round_trip(data: bytes, decode: Callable[[Any], Any], encode: Callable[[Any], str]) -> None:
    read = decode(data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if text:
        assert _said(decode(text)) == _said(read)
    if isinstance(read, Unknown | Unparsable):
        return
    assert _said(decode(encode(read))) == _said(read)


def _said(read: Any) -> Any:
    """For comparing: what raw JSON says, not how it is written."""
    return msgspec.json.decode(msgspec.json.encode(read))


def settings(data: bytes) -> None:
    """Settings: a plan that can be stored and is valid for the upstream, or a refusal in words."""
    strict, data = bool(data[:1] and data[0] & 1), data[1:]
    message = voice_agent.decode_client(b'{"type":"Settings",' + data)
    if not isinstance(message, voice_agent.Settings):
        return
    for dialect in Dialect:
        made = plan(message, MappingOptions(), dialect, strict=strict)
        if isinstance(made, Refusal):
            assert made.code
            assert made.description
            continue
        stored = msgspec.msgpack.encode(made)
        assert msgspec.msgpack.encode(msgspec.msgpack.decode(stored, type=Plan)) == stored
        for item in made.context:
            check_client_event(realtime.encode(realtime.ConversationItemCreate(item=item)))


@given(test_session_properties.beginnings, test_session_properties.courses)
@hypothesis_settings(database=None)
def _conversations(beginning: str, course: Any) -> None:
    test_session_properties.run(beginning, course)


def session(data: bytes) -> None:
    """A whole conversation, of which the bytes choose the beginning and each step. What holds of it
    is in test_session_properties; the playbook encodes and validates every action."""
    conversations: Any = _conversations  # hypothesis adds what is used here
    conversations.hypothesis.fuzz_one_input(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "head": head,
    "frames": frames,
    "client_messages": client_messages,
    "upstream_events": upstream_events,
    "settings": settings,
    "session": session,
}
