"""peer: the other end of a relay's socket, which sends any bytes. It knows the framing of RFC 6455
and how to break it, and nothing of the messages inside."""

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
from typing import Any

import trio
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode, ParseFailed

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Breach(Exception):
    """The relay did what it must not."""


class Ended(Exception):
    """The relay ended the connection; `code` is that of its close frame, None: it sent none."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def framed(
    payload: bytes,
    opcode: int = TEXT,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """One frame. `length` is what its header claims, if not the truth."""
    size = len(payload) if length is None else length
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    mask = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload  # a key of zeros masks nothing


class Peer:
    """A connection to or from the relay."""

    def __init__(self, stream: trio.SocketStream, *, client: bool = True) -> None:
        self.stream = stream
        self._client = client
        self._frames = FrameProtocol(client, [])
        self.polite = False
        """Answers the pings that it comes across in `receive`."""

    # Sending.

    async def send(self, data: bytes) -> None:
        """Any bytes. A relay that has gone is noticed by reading."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.stream.send_all(data)

    async def message(self, payload: bytes | str | dict[str, Any], opcode: int = TEXT) -> None:
        if isinstance(payload, dict):
            payload = json.dumps(payload)
        data = payload.encode() if isinstance(payload, str) else payload
        await self.send(framed(data, opcode, masked=self._client))

    # Receiving.

    async def head(self) -> tuple[int, str]:
        """Status and text of a response's head; raises Ended."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = await self._some()
            if not more:
                raise Ended(None)
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        self._frames.receive_bytes(rest)
        return int(head.split()[1]), head.decode("latin-1")

    async def receive(self) -> str | bytes:
        """The next message; raises Ended."""
        parts: list[Any] = []
        while True:
            frame = await self._frame()
            if frame.opcode is Opcode.CLOSE:
                raise _ended(frame)
            if frame.opcode is Opcode.PING and self.polite:
                await self._pong(frame)
            if frame.opcode in (Opcode.PING, Opcode.PONG):
                continue
            parts.append(frame.payload)
            if frame.message_finished:
                whole: str | bytes = type(parts[0])().join(parts)
                return whole

    async def json(self) -> dict[str, Any]:
        """The next text message; audio is skipped."""
        while True:
            received = await self.receive()
            if isinstance(received, str):
                message: dict[str, Any] = json.loads(received)
                return message

    async def until(self, kind: str, within_s: float = 10.0) -> dict[str, Any]:
        """Read on to a message of this type."""
        seen = []
        with trio.move_on_after(within_s):
            while True:
                message = await self.json()
                seen.append(message["type"])
                if seen[-1] == kind:
                    return message
        raise Breach(f"no {kind} within {within_s:g} s, only {seen[-8:]}")

    async def end(self, within_s: float = 10.0) -> Ended:
        """Read on to the end."""
        with trio.move_on_after(within_s):
            try:
                while True:
                    await self.receive()
            except Ended as ended:
                return ended
        raise Breach(f"the connection is open {within_s:g} s later")

    async def answered(self, payload: bytes = b"still there?", within_s: float = 1.0) -> None:
        """Ping, and read on to the pong (C-193)."""
        await self.send(framed(payload, PING, masked=self._client))
        await self.hears_pong(payload, within_s)

    async def answers_pings(self) -> None:
        """For as long as it is let; raises Ended."""
        while True:
            frame = await self._frame()
            if frame.opcode is Opcode.PING:
                await self._pong(frame)
            elif frame.opcode is Opcode.CLOSE:
                raise _ended(frame)

    async def _pong(self, ping: Frame) -> None:
        payload = bytes(ping.payload)  # type: ignore[arg-type] # it is bytes
        await self.send(framed(payload, PONG, masked=self._client))

    async def hears_pong(self, payload: bytes, within_s: float = 1.0) -> None:
        """Read on to this pong; raises Ended."""
        with trio.move_on_after(within_s):
            while True:
                frame = await self._frame()
                if frame.opcode is Opcode.PONG and bytes(frame.payload) == payload:
                    return
                if frame.opcode is Opcode.CLOSE:
                    raise _ended(frame)
        raise Breach(f"no pong within {within_s:g} s")

    async def _frame(self) -> Frame:
        while True:
            try:
                for frame in self._frames.received_frames():
                    return frame
            except ParseFailed as failure:
                raise Ended(None, str(failure)) from None
            data = await self._some()
            if not data:
                raise Ended(None)
            self._frames.receive_bytes(data)

    async def _some(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(1 << 18))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    # Ending.

    def reset(self) -> None:
        """End the connection with RST."""
        if self.stream.socket.fileno() >= 0:
            option = struct.pack("ii", 1, 0)
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.drop()

    def drop(self) -> None:
        """End the connection without a word above TCP."""
        if self.stream.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.stream.socket)
            self.stream.socket.close()


def _ended(frame: Frame) -> Ended:
    assert isinstance(frame.payload, tuple)
    return Ended(int(frame.payload[0]), frame.payload[1] or "")


async def connected(port: int, *, buffer: int | None = None) -> Peer:
    """To a local port. `buffer` is the size of the system's receive buffer in bytes."""
    sock = trio.socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await sock.connect(("127.0.0.1", port))
    return Peer(trio.SocketStream(sock))


def upgrade(path: str, *headers: str, host: str = "Host: 127.0.0.1", version: str = "1.1") -> bytes:
    """A request head; an empty `host` leaves that line out."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/{version}",
        *([host] if host else []),
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def acceptance(head: bytes, *headers: str) -> bytes:
    """The answer to an upgrade."""
    (key,) = (
        line.partition(b":")[2].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    token = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {token}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")
