"""picows on uvloop: callbacks, and no task for a frame."""

import asyncio
import sys

import translation as tr
import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_connect,
    ws_create_server,
)

dials: set[asyncio.Task[None]] = set()


class Client(WSListener):  # type: ignore[misc]  # picows is compiled and has no types
    def __init__(self, upstream_url: str) -> None:
        super().__init__()
        self._upstream_url = upstream_url
        self._upstream: Upstream | None = None
        self._settings = b""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        transport.send(WSMsgType.TEXT, tr.WELCOME.encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY and self._upstream:
            audio = tr.append(frame.get_payload_as_memoryview())
            self._upstream.transport.send(WSMsgType.TEXT, audio)
        elif frame.msg_type == WSMsgType.TEXT:
            self._settings = frame.get_payload_as_bytes()
            dials.add(task := asyncio.create_task(self._dial()))
            task.add_done_callback(dials.discard)
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._upstream:
            self._upstream.transport.send_close(1000)
            self._upstream.transport.disconnect()

    async def _dial(self) -> None:
        update = tr.session_update(self._settings)
        _, self._upstream = await ws_connect(lambda: Upstream(self, update), self._upstream_url)


class Upstream(WSListener):  # type: ignore[misc]  # as above
    def __init__(self, client: Client, update: bytes) -> None:
        super().__init__()
        self._client = client
        self._update = update

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            match tr.event(frame.get_payload_as_memoryview()):
                case tr.Delta(delta=audio):
                    self._client.transport.send(WSMsgType.BINARY, audio)
                case tr.Created():
                    transport.send(WSMsgType.TEXT, self._update)
                case tr.Updated():
                    self._client.transport.send(WSMsgType.TEXT, tr.SETTINGS_APPLIED.encode())
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._client.transport.disconnect()


async def main(port: int, upstream_url: str) -> None:
    def accept(request: WSUpgradeRequest) -> Client:
        return Client(upstream_url)

    server = await ws_create_server(accept, "127.0.0.1", port)
    await server.serve_forever()


uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
