"""What the log says of a connection, by which names, and what of that goes on to the upstream."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import structlog
import trio
from structlog.testing import capture_logs

from relay import config, logs, served, server, wire
from tests.test_correlation import PARENT, TRACE_ID
from tests.test_server import AGENT, close_code, fetch, serving

SAID = {"X-Request-Id": "req-7", "traceparent": PARENT, "tracestate": "a=1"}
FOUND = {"request_id": "req-7", "trace_id": TRACE_ID}


@contextlib.contextmanager
def lines() -> Any:
    """What is logged, with what is bound to the connection."""
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as found:
        yield found


def of(found: list[Any], event: str) -> dict[str, Any]:
    (line,) = [line for line in found if line["event"] == event]
    return dict(line)


async def answer_to_upgrade(address: str, **headers: str) -> bytes:
    """The head of the response."""
    host, _, port = address.rpartition(":")
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(
            (
                f"GET {AGENT} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
            ).encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        return head.partition(b"\r\n\r\n")[0].lower()


async def test_a_connection_has_a_line_at_its_end_and_its_names_in_each() -> None:
    with lines() as found:
        async with serving() as (relay, address):
            async with wire.dial(f"ws://{address}{AGENT}", headers=SAID) as leg:
                said = await leg.receive()
            await close_code(leg)
            await relay.live.wait_value(0)
    session = logs.name_of(str(said).split()[0])
    for event in ("connected", "disconnected"):
        line = of(found, event)
        assert (line["session"], line["log_level"]) == (session, "info")
        assert line == line | FOUND
    line = of(found, "disconnected")
    assert line["end"] == "cut_off"  # the conversation here is a fake that tells nobody
    assert line["lasted_s"] >= 0
    assert (line["turns"], line["errors"], line["frames_out"]) == (0, 0, 1)
    assert line["bytes_out"] > 0


async def test_the_id_with_which_one_can_come_back_is_in_no_line() -> None:
    with lines() as found:
        async with serving() as (relay, address):
            async with wire.dial(f"ws://{address}{AGENT}") as leg:
                said = await leg.receive()
            await relay.live.wait_value(0)
    assert str(said).split()[0] not in str(found)
    assert len(str(said).split()[0]) == 36


async def test_a_name_is_that_of_one_id_and_can_be_found_by_who_has_it() -> None:
    # printf %s 3fa85f64-5717-4562-b3fc-2c963f66afa6 | sha256sum | cut -c1-16
    assert logs.name_of("3fa85f64-5717-4562-b3fc-2c963f66afa6") == "c7aa09cd25da8b6a"


async def test_the_clients_own_id_is_given_back_if_it_is_one() -> None:
    async with serving() as (_, address):
        assert b"\r\nx-request-id: req-7" in await answer_to_upgrade(address, **SAID)
        head = await answer_to_upgrade(address, **{"X-Request-Id": "two words"})
        assert b"x-request-id" not in head
        assert b"101 " in head


async def test_a_refusal_bears_the_names_too() -> None:
    with lines() as found:
        async with serving() as (_, address):
            assert (await fetch(address, "/nowhere", **SAID))[0] == 404
    line = of(found, "refused")
    assert line == line | FOUND


# On to the upstream.


class Dialled:
    """Who dialled first."""

    def __init__(self) -> None:
        self.has = trio.Event()
        self.with_: Mapping[str, str] = {}

    def __call__(self, request: wire.Request) -> wire.Response:
        if not self.has.is_set():
            self.with_ = request.headers
            self.has.set()
        return wire.Response(403)


@contextlib.asynccontextmanager
async def upstream(dialled: Dialled) -> AsyncIterator[str]:
    """One that writes down who dials, and refuses."""

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        connection = partial(wire.serve_connection, route=dialled, report=lambda faults: None)
        await nursery.start(trio.serve_listeners, connection, [listener])
        yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def dialled_with(**assignments: Any) -> Mapping[str, str]:
    """The headers that the upstream is dialled with, for a client that says all that."""
    dialled = Dialled()
    async with upstream(dialled) as url:
        options = {"upstream.url": url, "upstream.warm": "on_connect", **assignments}
        what = served.build(config.load(None, {}, [], options), {})
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with (
            server.running(what, {}, listeners) as relay,
            wire.dial(relay.urls[0] + AGENT, headers=SAID),
        ):
            with trio.fail_after(10):
                await dialled.has.wait()
    return dialled.with_


async def test_an_upstream_is_told_of_the_trace_if_it_should_be() -> None:
    headers = await dialled_with(**{"upstream.trace_context": True})
    assert headers["traceparent"] == PARENT
    assert headers["tracestate"] == "a=1"


async def test_by_itself_an_upstream_is_told_nothing_of_the_client() -> None:
    assert not {"traceparent", "tracestate", "x-request-id"} & set(await dialled_with())
