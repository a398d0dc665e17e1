"""`websockets` on asyncio as its documentation shows it; with --uvloop on uvloop."""

import asyncio
import sys

import translation as tr
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve


async def main(port: int, upstream_url: str) -> None:
    async def converse(client: ServerConnection) -> None:
        await client.send(tr.WELCOME)
        async with connect(upstream_url) as upstream:
            settings = await client.recv()
            await upstream.recv()  # session.created
            await upstream.send(tr.session_update(settings), text=True)
            pumps = [
                asyncio.create_task(from_client(client, upstream)),
                asyncio.create_task(from_upstream(client, upstream)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async with serve(converse, "127.0.0.1", port) as server:
        await server.serve_forever()


async def from_client(client: ServerConnection, upstream: ClientConnection) -> None:
    async for message in client:
        if isinstance(message, bytes):
            await upstream.send(tr.append(message), text=True)


async def from_upstream(client: ServerConnection, upstream: ClientConnection) -> None:
    async for message in upstream:
        match tr.event(message):
            case tr.Delta(delta=audio):
                await client.send(audio)
            case tr.Updated():
                await client.send(tr.SETTINGS_APPLIED)


if "--uvloop" in sys.argv:
    import uvloop

    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
else:
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
