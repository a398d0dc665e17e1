"""trio-websocket as its documentation shows it: two pumps, each awaits the other side's send."""

import sys

import translation as tr
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)


async def main(port: int, upstream_url: str) -> None:
    async def converse(request: WebSocketRequest) -> None:
        client = await request.accept()
        await client.send_message(tr.WELCOME)
        async with open_websocket_url(upstream_url) as upstream:
            settings = await client.get_message()
            await upstream.get_message()  # session.created
            await upstream.send_message(tr.session_update(settings).decode())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(from_client, client, upstream, nursery.cancel_scope)
                nursery.start_soon(from_upstream, client, upstream, nursery.cancel_scope)

    await serve_websocket(converse, "127.0.0.1", port, ssl_context=None)


async def from_client(
    client: WebSocketConnection, upstream: WebSocketConnection, scope: trio.CancelScope
) -> None:
    try:
        while True:
            message = await client.get_message()
            if isinstance(message, bytes):
                await upstream.send_message(tr.append(message).decode())
    except ConnectionClosed:
        scope.cancel()


async def from_upstream(
    client: WebSocketConnection, upstream: WebSocketConnection, scope: trio.CancelScope
) -> None:
    try:
        while True:
            match tr.event(await upstream.get_message()):
                case tr.Delta(delta=audio):
                    await client.send_message(audio)
                case tr.Updated():
                    await client.send_message(tr.SETTINGS_APPLIED)
    except ConnectionClosed:
        scope.cancel()


trio.run(main, int(sys.argv[1]), sys.argv[2])
