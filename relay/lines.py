"""lines: bytes to and from a peer, with as little between us and the kernel as there can be.

It knows sockets and TLS, and not what the bytes mean. A `Line` is a trio stream with one more way
to send: `begin` hands over what is taken at once, without waiting, and `finish` waits for the rest.
One task may receive; one may send at a time, and what was begun is finished before the next begins.

Trio's own streams spend more on each frame than the kernel does: a lock, several checkpoints, and
for TLS a state machine that is awaited. Here it is one `wait_readable` and one receive.
"""

import abc
import contextlib
import socket
import ssl

import trio
from trio.lowlevel import wait_readable, wait_writable

RECEIVE_BYTES = 16 * 1024
"""At most so much in one receive: what it brings is understood without awaiting anything, and may
be thousands of empty pieces."""
_RECORD_BYTES = 16 * 1024
"""The most that a record of TLS holds; a shorter one is read whole."""
ALERT_S = 1.0
"""Time to tell the other end why a TLS handshake failed."""


class Line(trio.abc.HalfCloseableStream):
    """A connection to a peer. Failures are trio's: BrokenResourceError when it broke,
    ClosedResourceError when we closed it."""

    __slots__ = ("bytes_in", "bytes_out")

    immediate = True
    """Whether `begin` ever takes anything."""
    descriptor: int | None = None
    """Where it can be seen that something has come, and `take` will have it; None: only by waiting
    for it."""

    def __init__(self) -> None:
        self.bytes_in = 0
        """Received so far; under TLS, encrypted."""
        self.bytes_out = 0

    @abc.abstractmethod
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, when something has, at most RECEIVE_BYTES; b"" at the end. `max_bytes` is
        not needed."""

    def take(self) -> bytes | None:
        """What has come, as `receive_some` would return it; None: nothing that makes sense yet."""
        raise NotImplementedError("nothing comes by itself")

    @abc.abstractmethod
    async def send_eof(self) -> None:
        """Say that nothing more will come, where the stream has a way to."""

    @abc.abstractmethod
    def begin(self, data: bytes) -> bytes:
        """Send what can be sent at once; returns what is left for `finish`."""

    @abc.abstractmethod
    async def finish(self, rest: bytes) -> None:
        """Send what `begin` has left."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if rest := self.begin(bytes(data)):
            await self.finish(rest)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()


def line_over(stream: trio.abc.Stream) -> Line:
    """The line of a stream that is open; the stream is not to be used any more."""
    if isinstance(stream, Line):
        return stream
    if isinstance(stream, trio.SocketStream):
        return SocketLine(stream)
    return StreamLine(stream)


class LineListener(trio.abc.Listener["SocketLine"]):
    """Accepts lines: a stream of trio's would stay, of no use any more, with whoever serves it."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener

    async def accept(self) -> "SocketLine":
        return SocketLine(await self._listener.accept())

    async def aclose(self) -> None:
        await self._listener.aclose()


class StreamLine(Line):
    """Over a stream of trio's, whatever it is: the slow way."""

    immediate = False

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__()
        self._stream = stream

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        self.bytes_in += len(data)
        return data

    def begin(self, data: bytes) -> bytes:
        return data

    async def finish(self, rest: bytes) -> None:
        await self._stream.send_all(rest)
        self.bytes_out += len(rest)

    async def aclose(self) -> None:
        await self._stream.aclose()


class SocketLine(Line):
    """Over a TCP socket, which it takes from its stream."""

    __slots__ = ("_fd", "_socket", "descriptor")

    def __init__(self, stream: "trio.SocketStream | SocketLine") -> None:
        super().__init__()
        self._socket = _taken(stream)
        self._fd = self._socket.fileno()
        self.descriptor = self._fd

    @property
    def tcp(self) -> socket.socket:
        """To ask it things; it stays the line's."""
        return self._socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            if self._fd < 0:
                raise trio.ClosedResourceError
            await wait_readable(self._fd)
            if (data := self.take()) is not None:
                return data

    def take(self) -> bytes | None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None  # the kernel may change its mind (select(2), "Bugs")
        except OSError as error:
            raise self._failure() from error
        self.bytes_in += len(data)
        return data

    def begin(self, data: bytes) -> bytes:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return data
        except OSError as error:
            raise self._failure() from error
        self.bytes_out += sent
        return b"" if sent == len(data) else data[sent:]

    async def finish(self, rest: bytes) -> None:
        with memoryview(rest) as left:
            sent = 0
            while sent < len(rest):
                if self._fd < 0:
                    raise trio.ClosedResourceError
                await wait_writable(self._fd)
                try:
                    taken = self._socket.send(left[sent:])
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise self._failure() from error
                sent += taken
                self.bytes_out += taken

    async def send_eof(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._failure() from error
        await trio.lowlevel.checkpoint()

    def detach(self) -> socket.socket:
        """The socket, which is not this line's any more."""
        self._fd, self.descriptor = -1, None
        return self._socket

    def _failure(self) -> trio.BrokenResourceError | trio.ClosedResourceError:
        return trio.ClosedResourceError() if self._fd < 0 else trio.BrokenResourceError()

    async def aclose(self) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._fd, self.descriptor = -1, None
            self._socket.close()
        await trio.lowlevel.checkpoint()


def _taken(stream: trio.SocketStream | SocketLine) -> socket.socket:
    if isinstance(stream, SocketLine):
        return stream.detach()
    family, kind = stream.socket.family, stream.socket.type
    taken = socket.socket(family, kind, fileno=stream.socket.detach())
    taken.setblocking(False)
    return taken


class TlsLine(SocketLine):
    """TLS over a TCP socket. Await `handshake` first."""

    def __init__(
        self,
        stream: trio.SocketStream | SocketLine,
        context: ssl.SSLContext,
        hostname: str | None = None,
    ) -> None:
        """As the client of `hostname`; without one, as the server."""
        super().__init__(stream)
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._received,
            self._to_send,
            server_side=hostname is None,
            server_hostname=hostname,
        )

    async def handshake(self) -> None:
        """Raises BrokenResourceError, whose cause says what is wrong with the other end."""
        failure: ssl.SSLError | None = None
        while failure is None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                while (data := super().take()) is None:
                    await wait_readable(self._fd)
                self._encrypted(data)
            except ssl.SSLError as error:  # that of a certificate is one, too
                failure = error
            else:
                await self._flush()
                return
        with (
            trio.move_on_after(ALERT_S, shield=True),
            contextlib.suppress(trio.BrokenResourceError),
        ):
            await self._flush()  # the alert that says why
        raise trio.BrokenResourceError from failure

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._received.pending or self._received.eof:  # it came with the end of the handshake
            await trio.lowlevel.checkpoint()
            if (data := self._decrypted()) is not None:
                return data
        return await super().receive_some()

    def take(self) -> bytes | None:
        data = SocketLine.take(self)  # where each frame passes, `super()` costs more than it says
        if data is None:
            return None
        self._encrypted(data)
        return self._decrypted()

    def _decrypted(self) -> bytes | None:
        """All of it, so that nothing waits here while the socket is watched. What this leaves to be
        sent (the answer to a key update) goes out with the next send, for which it is meant."""
        data = b""
        try:
            while record := self._tls.read(_RECORD_BYTES):
                data = data + record if data else record
                if len(record) < _RECORD_BYTES and not self._received.pending:
                    return data  # to be told so by an exception takes a third of it all
        except ssl.SSLWantReadError:
            return data or None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # As with https, an end without a goodbye is one; and the socket need not say anything
            # more for it to be known.
            self._received.write_eof()
            self.descriptor = None
        except ssl.SSLError as error:
            raise self._failure() from error
        return data

    def begin(self, data: bytes) -> bytes:
        try:
            written = self._tls.write(data)
            while written < len(data):
                written += self._tls.write(data[written : written + _RECORD_BYTES])
        except ssl.SSLError as error:
            raise self._failure() from error
        return SocketLine.begin(self, self._to_send.read())

    async def send_eof(self) -> None:
        self._close_notify()
        await super().send_eof()

    async def aclose(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(trio.BrokenResourceError):
                self._close_notify()
        await super().aclose()

    def _close_notify(self) -> None:
        """If there is room for it; the peer's is not waited for."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        super().begin(self._to_send.read())

    def _encrypted(self, data: bytes) -> None:
        if data:
            self._received.write(data)
        else:
            self._received.write_eof()

    async def _flush(self) -> None:
        if (data := self._to_send.read()) and (rest := super().begin(data)):
            await super().finish(rest)
