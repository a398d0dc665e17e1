"""upstreams: one address at which the upstream behaves as it is told: badly, or like the simulator,
to which the bytes are passed on.

A behaviour is an async function that is given a `Peer` after the upgrade, or, if it is in `RAW`,
before anything was read.
"""

import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from peer import BINARY, CLOSE, PING, Ended, Peer, acceptance, framed

MIB = 1 << 20
Behaviour = Callable[[Peer], Awaitable[None]]
RAW: set[Behaviour] = set()


class Upstream:
    """Listens, and does to each connection what `behaviour` says; None: passes it to the
    simulator."""

    def __init__(self, simulator_port: int) -> None:
        self.behaviour: Behaviour | None = None
        self.dialled = 0
        self._simulator = simulator_port

    async def serve(self, *, task_status: trio.TaskStatus[int]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self._connection, listeners)

    async def _connection(self, stream: trio.SocketStream) -> None:
        self.dialled += 1
        behave = self.behaviour
        errors = (trio.BrokenResourceError, trio.ClosedResourceError, Ended, OSError)
        with contextlib.suppress(*errors):
            if behave is None:
                await _spliced(stream, self._simulator)
            elif behave in RAW:
                await behave(Peer(stream, client=False))
            else:
                await stream.send_all(acceptance(await _head(stream)))
                await behave(Peer(stream, client=False))
        await trio.aclose_forcefully(stream)


async def _spliced(stream: trio.SocketStream, port: int) -> None:
    other = await trio.open_tcp_stream("127.0.0.1", port)
    async with other, trio.open_nursery() as nursery:

        async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            errors = (trio.BrokenResourceError, trio.ClosedResourceError)
            with contextlib.suppress(*errors):
                async for data in source:
                    await sink.send_all(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(pump, stream, other)
        nursery.start_soon(pump, other, stream)


async def _head(stream: trio.SocketStream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = bytes(await stream.receive_some())
        if not more:
            raise Ended(None)
        data += more
    return data


def raw(behave: Behaviour) -> Behaviour:
    RAW.add(behave)
    return behave


# What a well-behaved one says, as far as the bad ones need it.

_count = 0


def event(kind: str, **fields: Any) -> dict[str, Any]:
    global _count
    _count += 1
    return {"type": kind, "event_id": f"event_{_count}", **fields}


def session() -> dict[str, Any]:
    return {"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": "m"}


async def configured(peer: Peer) -> None:
    """The start of a session, to session.updated."""
    await peer.message(event("session.created", session=session()))
    await heard(peer, "session.update")
    await peer.message(event("session.updated", session=session()))


async def heard(peer: Peer, kind: str) -> dict[str, Any]:
    """Read on to an event of this type; items on the way are acknowledged."""
    while (message := await peer.json())["type"] != kind:
        if message["type"] == "conversation.item.create":
            item = {**message["item"], "object": "realtime.item", "status": "completed"}
            await peer.message(event("conversation.item.added", item=item, previous_item_id=None))
    return message


async def responding(peer: Peer) -> None:
    """The start of a session, and of a response."""
    await configured(peer)
    asked = await heard(peer, "response.create")
    metadata = asked.get("response", {}).get("metadata")
    response = {"id": "resp_1", "object": "realtime.response", "status": "in_progress"}
    await peer.message(event("response.created", response={**response, "metadata": metadata}))
    item = {"id": "item_1", "type": "message", "role": "assistant", "content": []}
    where = {"response_id": "resp_1", "output_index": 0}
    await peer.message(event("response.output_item.added", **where, item=item))
    part = {"type": "audio", "transcript": ""}
    await peer.message(
        event("response.content_part.added", **where, item_id="item_1", content_index=0, part=part)
    )


def delta(audio: bytes) -> dict[str, Any]:
    return event(
        "response.output_audio.delta",
        response_id="resp_1",
        item_id="item_1",
        output_index=0,
        content_index=0,
        delta=base64.b64encode(audio).decode(),
    )


async def drained(peer: Peer) -> None:
    """Read and forget, to the end."""
    with contextlib.suppress(Ended):
        while True:
            await peer.receive()


# The bad ones.


@raw
async def hangs_up_at_once(peer: Peer) -> None:
    pass


@raw
async def resets_at_once(peer: Peer) -> None:
    peer.reset()


@raw
async def says_nothing(peer: Peer) -> None:
    await trio.sleep(30)


@raw
async def answers_garbage(peer: Peer) -> None:
    await peer.send(bytes(range(256)) * 256)
    await peer.end()


@raw
async def answers_401_with_a_secret_and_an_endless_body(peer: Peer) -> None:
    await _head(peer.stream)
    await peer.send(b"HTTP/1.1 401 sk-planted-upstream\r\nContent-Length: 99999999999\r\n\r\n")
    for _ in range(200):
        await peer.send(b"sk-planted-upstream" * 5000)


@raw
async def redirects(peer: Peer) -> None:
    await _head(peer.stream)
    await peer.send(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\n\r\n")


@raw
async def answers_an_endless_head(peer: Peer) -> None:
    await _head(peer.stream)
    await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")
    for number in range(20_000):
        await peer.send(b"X-%d: %s\r\n" % (number, b"y" * 500))


@raw
async def accepts_with_a_wrong_key(peer: Peer) -> None:
    head = await _head(peer.stream)
    await peer.send(acceptance(head).replace(b"Accept: ", b"Accept: x"))
    await drained(peer)


@raw
async def compresses(peer: Peer) -> None:
    head = await _head(peer.stream)
    await peer.send(acceptance(head, "Sec-WebSocket-Extensions: permessage-deflate"))
    await peer.send(framed(b"\xaaV*\xa9,H\x05\x00", reserved=4, masked=False))
    await drained(peer)


async def sends_garbage_frames(peer: Peer) -> None:
    await peer.send(bytes(range(128, 256)) * 100)
    await drained(peer)


async def masks_its_frames(peer: Peer) -> None:
    await peer.send(framed(json.dumps(event("session.created", session=session())).encode()))
    await drained(peer)


async def closes_before_created(peer: Peer) -> None:
    await peer.send(framed(b"\x03\xf3sk-planted-upstream", CLOSE, masked=False))
    await drained(peer)


async def closes_after_created(peer: Peer) -> None:
    await peer.message(event("session.created", session=session()))


async def closes_after_updated(peer: Peer) -> None:
    await configured(peer)


async def closes_in_a_response(peer: Peer) -> None:
    await responding(peer)
    await peer.message(delta(bytes(4800)))


async def resets_in_a_response(peer: Peer) -> None:
    await responding(peer)
    await peer.message(delta(bytes(4800)))
    peer.reset()


async def sends_after_its_close(peer: Peer) -> None:
    await responding(peer)
    await peer.send(framed(b"\x03\xe9", CLOSE, masked=False))
    for _ in range(200):
        await peer.message(delta(bytes(4800)))
    await drained(peer)


async def never_sends_created(peer: Peer) -> None:
    await drained(peer)


async def drips(peer: Peer) -> None:
    for byte in framed(json.dumps(event("session.created")).encode(), masked=False):
        await peer.send(bytes([byte]))
        await trio.sleep(0.1)


async def sends_what_is_no_event(peer: Peer) -> None:
    await configured(peer)
    for text in [*BAD_JSON, '{"type": "response.done"}', '{"type": "error", "error": null}']:
        await peer.message(text)
    await peer.message(b"\x00" * 100_000, BINARY)
    await drained(peer)


async def sends_no_utf_8(peer: Peer) -> None:
    await configured(peer)
    await peer.message(b'{"type": "\xff"}')
    await drained(peer)


async def sends_15_mib_events(peer: Peer) -> None:
    await responding(peer)
    filler = "x" * (15 * MIB)
    await peer.message(event("unheard.of", filler=filler))
    await peer.message(event("rate_limits.updated", rate_limits=[], filler=filler))
    await peer.message(event("error", error={"type": "server_error", "message": filler}))
    where = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
    await peer.message(event("response.output_audio_transcript.delta", **where, delta=filler))
    await peer.message(event("response.output_audio_transcript.done", **where, transcript=filler))
    await drained(peer)


async def sends_11_mib_of_audio_in_one_event(peer: Peer) -> None:
    await responding(peer)
    await peer.message(delta(bytes(11 * MIB)))
    await drained(peer)


async def sends_33_mib(peer: Peer) -> None:
    await configured(peer)
    await peer.message("x" * (33 * MIB))
    await drained(peer)


async def floods_with_unknown_events(peer: Peer) -> None:
    await configured(peer)
    for number in range(5000):
        await peer.message(event(f"unheard.of.{number}"))
    await drained(peer)


async def floods_with_audio(peer: Peer) -> None:
    await responding(peer)
    for _ in range(1500):
        await peer.message(delta(bytes(48_000)))
    await drained(peer)


async def floods_with_responses_and_items(peer: Peer) -> None:
    await responding(peer)
    for number in range(2000):
        item = {"id": f"i{number}", "type": "message", "role": "user", "content": []}
        await peer.message(event("conversation.item.added", item=item, previous_item_id=None))
        response = {"id": f"r{number}", "object": "realtime.response", "status": "in_progress"}
        await peer.message(event("response.created", response=response))
        await peer.message(
            event("input_audio_buffer.speech_started", audio_start_ms=number, item_id=f"s{number}")
        )
    await drained(peer)


async def floods_with_calls(peer: Peer) -> None:
    await responding(peer)
    for number in range(2000):
        ids = {"response_id": "resp_1", "item_id": f"f{number}", "output_index": number + 1}
        call = {"call_id": f"c{number}", "name": "lookup", "arguments": '{"a": "'}
        await peer.message(event("response.function_call_arguments.done", **ids, **call))
    await drained(peer)


async def floods_with_pings(peer: Peer) -> None:
    await configured(peer)
    for _ in range(50):
        await peer.send(framed(b"p" * 125, PING, masked=False) * 400)
    await drained(peer)


async def floods_with_fragments(peer: Peer) -> None:
    await configured(peer)
    await peer.send(framed(b"{", fin=False, masked=False))
    for _ in range(100):
        await peer.send(framed(b"", 0, fin=False, masked=False) * 1000)
    await drained(peer)


async def never_reads(peer: Peer) -> None:
    await peer.message(event("session.created", session=session()))
    await trio.sleep(8)


BAD_JSON = [
    "",
    "nonsense",
    "[]",
    "null",
    "3",
    '"text"',
    "{}",
    '{"type": null}',
    '{"type": {}}',
    '{"type": "%s"}' % ("t" * 100_000),
    '{"type": "Settings"',
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"type": "Settings", "audio": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"type": "Settings", "agent": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
    '{"type": "KeepAlive", "x": ' + "9" * 100_000 + "}",
    '{"type": "KeepAlive", "x": 1e999999999}',
    '{"type": "KeepAlive", "x": -1E+999, "y": NaN}',
    '{"type": "InjectUserMessage", "content": "\\ud800"}',
    '{"type": "InjectUserMessage", "content": 5}',
    '{"type": "InjectUserMessage", "content": "\\u0000"}',
    '{"type": "FunctionCallResponse", "id": "x", "content": ' + "[1]," * 3 + "2}",
    '{"type": "UpdateThink", "think": {"provider": ' + "[" * 90 + "]" * 90 + "}}",
    '{"type": "error", "error": {"message": ' + "[" * 5000 + "]" * 5000 + "}}",
    '{"type": "response.done", "response": {"id": 1e400}}',
    "\ufeff{}",
]
