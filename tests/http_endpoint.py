"""http_endpoint: a real HTTP server on loopback for functions to be called at. It knows no test.

What it answers is a coroutine of the test's; what it saw can be waited for.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeAlias

import h11
import trio
from trio_util import AsyncValue

Headers: TypeAlias = list[tuple[str, str]]


class Exchange:
    """One request, and what answers it."""

    def __init__(self, stream: trio.abc.Stream, http: h11.Connection, head: h11.Request) -> None:
        self._stream = stream
        self._http = http
        self.method = head.method.decode()
        self.target = head.target.decode()
        self.headers: Headers = [(n.decode(), v.decode()) for n, v in head.headers]
        self.body = b""

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    async def reply(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        """The whole answer; `content_type="text/plain"` is a header."""
        await self.begin(status, content_length=str(len(body)), **headers)
        await self.go_on(body)
        await self._send(h11.EndOfMessage())

    async def begin(self, status: int = 200, **headers: str) -> None:
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        await self._send(h11.Response(status_code=status, headers=fields))

    async def go_on(self, body: bytes) -> None:
        await self._send(h11.Data(data=body))

    async def raw(self, data: bytes) -> None:
        """Bytes as they are, whatever HTTP says; the connection is of no more use."""
        await self._stream.send_all(data)

    async def hang_up(self) -> None:
        await self._stream.aclose()

    async def gone(self) -> None:
        """Wait until the caller has closed the connection."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self._stream.receive_some():
                pass

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        assert data is not None
        await self._stream.send_all(data)


Answering: TypeAlias = Callable[[Exchange], Awaitable[None]]


class Server:
    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Exchange] = []
        self.connections = 0
        self.at_once: AsyncValue[int] = AsyncValue(0)
        """Requests being answered."""
        self.most_at_once = 0


@contextlib.asynccontextmanager
async def serving(answer: Answering, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server at 127.0.0.1 while the block lasts; what goes wrong in `answer` fails the test."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    server = Server(f"{'https' if tls else 'http'}://127.0.0.1:{port}")
    async with trio.open_nursery() as nursery:
        handler = partial(_serve, server, answer)
        if tls is None:
            nursery.start_soon(trio.serve_listeners, handler, [listener])
        else:
            secure = trio.SSLListener(listener, tls, https_compatible=True)
            nursery.start_soon(trio.serve_listeners, handler, [secure])
        yield server
        nursery.cancel_scope.cancel()


async def _serve(server: Server, answer: Answering, stream: trio.abc.Stream) -> None:
    server.connections += 1
    # Callers that break off are what many tests are about.
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with stream:
            http = h11.Connection(h11.SERVER)
            while exchange := await _request(stream, http):
                server.seen.append(exchange)
                server.at_once.value += 1
                server.most_at_once = max(server.most_at_once, server.at_once.value)
                try:
                    await answer(exchange)
                finally:
                    server.at_once.value -= 1
                if http.our_state is not h11.DONE:
                    return
                http.start_next_cycle()


async def _request(stream: trio.abc.Stream, http: h11.Connection) -> Exchange | None:
    exchange = None
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(65536)))
            case h11.Request() as head:
                exchange = Exchange(stream, http, head)
            case h11.Data(data=data) if exchange is not None:
                exchange.body += bytes(data)
            case h11.EndOfMessage():
                return exchange
            case h11.ConnectionClosed():
                return None
            case other:
                raise AssertionError(other)
