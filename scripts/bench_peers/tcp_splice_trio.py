"""Bytes from one TCP stream to the other, in trio: no WebSocket, no translation, nothing parsed."""

import sys
from urllib.parse import urlsplit

import trio


async def main(port: int, upstream_url: str) -> None:
    upstream_port = urlsplit(upstream_url).port
    if upstream_port is None:
        raise SystemExit("the upstream's URL needs a port")

    async def converse(client: trio.SocketStream) -> None:
        upstream = await trio.open_tcp_stream("127.0.0.1", upstream_port)
        async with upstream, trio.open_nursery() as nursery:
            nursery.start_soon(splice, client, upstream, nursery.cancel_scope)
            nursery.start_soon(splice, upstream, client, nursery.cancel_scope)

    await trio.serve_tcp(converse, port, host="127.0.0.1")


async def splice(
    source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
) -> None:
    try:
        async for chunk in source:
            await sink.send_all(chunk)
    except trio.BrokenResourceError:
        pass
    scope.cancel()


trio.run(main, int(sys.argv[1]), sys.argv[2])
