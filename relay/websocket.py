"""websocket: the frames of RFC 6455, once the opening handshake is done.

It knows how a message becomes a frame and how a stream of bytes becomes messages again, whatever
pieces it comes in. It has no sockets, no clock and no randomness (masking keys are arguments), and
knows nothing of what a message says. No extension is ever in use.

What the peer does wrong is data: the `End` that says how to close. Nothing here raises.
"""

import codecs
import dataclasses
import enum
import struct
from typing import Final

import numpy as np

NO_CODE: Final = 1005
"""What stands for the code of a close frame that has none; never sent."""

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F


class Opcode(enum.IntEnum):
    """What a frame is (RFC 6455, 11.8)."""

    CONTINUATION = 0x0
    """The next part of the message that has begun."""
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    """From here on control frames: short, whole, and allowed between the parts of a message."""
    PING = 0x9
    PONG = 0xA


_OPCODES: Final = frozenset(map(int, Opcode))
# Plain numbers, because each frame is compared with them.
_WHOLE_TEXT: Final = _FIN | int(Opcode.TEXT)
_WHOLE_BINARY: Final = _FIN | int(Opcode.BINARY)
_CONTROL_BYTES: Final = 125
_FRAGMENT_BYTES: Final = 64
"""There are at most as many fragments as a message of the allowed size has with so many bytes in
each: one of empty ones would never be too big, and each of them is work."""
_CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
"""What a close frame may say (RFC 6455, 7.4, and IANA's registry): 1004 to 1006 and 1015 may not be
sent, and nobody has defined the rest."""
_WORD: Final = np.dtype("<u4")


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The last thing to be understood of a stream."""

    code: int
    """Of the peer's close frame (`NO_CODE`: it had none), or the answer to a refused frame."""
    reason: str
    """The peer's words, or what is wrong with the frame."""
    refused: bool
    """The peer has not closed: it broke the protocol, or a bound."""


class Incoming:
    """What comes in. Feed it bytes; take what they meant out of `messages` and `controls`."""

    # fmt: off
    __slots__ = (
        "_held", "_key_bytes", "_mask_bit", "_max_message", "_message", "_missing", "controls",
        "end", "messages",
    )
    # fmt: on

    def __init__(self, *, masked: bool, max_message: int) -> None:
        """`masked`: the peer is a client. `max_message`: bytes; above, the end is 1009."""
        self.messages: list[str | bytes] = []
        self.controls: list[tuple[Opcode, bytes]] = []
        """Pings and pongs, in the order in which they came."""
        self.end: End | None = None
        """Nothing is understood after this."""
        self._mask_bit = _MASKED if masked else 0
        self._key_bytes = 4 if masked else 0
        self._max_message = max_message
        self._held = bytearray()  # a frame of which a part is missing...
        self._missing = 0  # ...of at least so many bytes
        self._message: _Fragments | None = None

    def forget_messages(self) -> list[str | bytes]:
        """From here on they are understood and not kept. Returns what will always be empty."""
        self.messages = _Forgotten()
        return self.messages

    @property
    def under_way(self) -> int:
        """Bytes of the message of which a part is missing, as far as they have been announced."""
        announced = len(self._held) + self._missing if self._held else 0
        return announced if self._message is None else announced + len(self._message)

    def feed(self, data: bytes) -> bool:
        """What came; in any pieces, it means the same. Whether it was more than whole messages and
        parts of something: there are `controls`, or this is the `end`."""
        if self._whole(data):
            return bool(self.controls)
        if self._held:
            self._held += data
            self._missing -= len(data)
            if self._missing > 0:
                return False
            data = bytes(self._held)
            self._held = bytearray()
        at, size = 0, len(data)
        wanted = 2
        while size - at >= wanted and self.end is None:
            first, second = data[at], data[at + 1]
            if (first != _WHOLE_BINARY and first != _WHOLE_TEXT) or self._message is not None:
                self._check(first, second)
            if second & _MASKED != self._mask_bit:
                self._refuse(1002, "a frame is masked that must not be, or not that must")
            start, length = at + 2, second & _LENGTH
            if length > _CONTROL_BYTES:
                start += 2 if length == 126 else 8
                if size < start:
                    wanted = start - at
                    break
                length = int.from_bytes(data[at + 2 : start], "big")
                self._check_length(length, start - at)
            if length > self._max_message:
                self._refuse(1009, "a message is too big")
            start += self._key_bytes
            wanted = start + length - at
            if size - at < wanted or self.end is not None:
                break
            end = at + wanted
            payload = _unmasked(data, start, end) if self._mask_bit else data[start:end]
            if first == _WHOLE_BINARY:
                self.messages.append(payload)
            elif first == _WHOLE_TEXT:
                try:
                    self.messages.append(payload.decode())
                except UnicodeDecodeError:
                    self._refuse(1007, "a text is not UTF-8")
            else:
                self._unusual(first, payload)
            at, wanted = end, 2
        if self.end is not None:
            return True
        if at < size:
            self._held += data[at:]
            self._missing = wanted - (size - at)
        return bool(self.controls)

    def _whole(self, data: bytes) -> bool:
        """The usual, and the shortest way through it: one message has come, whole and alone, with a
        length of two bytes. Whether it was that; else nothing has been done."""
        length = len(data) - 4 - self._key_bytes
        if (
            length <= _CONTROL_BYTES
            or data[1] != self._mask_bit | 126
            or (data[2] << 8 | data[3]) != length
            or length > self._max_message
            or self._held
            or self._message is not None
            or self.end is not None
        ):
            return False
        payload = _unmasked(data, 8, len(data)) if self._mask_bit else data[4:]
        if data[0] == _WHOLE_BINARY:
            self.messages.append(payload)
            return True
        if data[0] != _WHOLE_TEXT:
            return False
        try:
            self.messages.append(payload.decode())
        except UnicodeDecodeError:
            return False
        return True

    def _check(self, first: int, second: int) -> None:
        """The rules for the first two bytes of any frame, in any state."""
        opcode = first & _OPCODE
        if first & _RESERVED:
            self._refuse(1002, "a reserved bit is set")
        elif opcode not in _OPCODES:
            self._refuse(1002, "an opcode is unknown")
        elif opcode >= Opcode.CLOSE:
            if not first & _FIN:
                self._refuse(1002, "a control frame is fragmented")
            elif second & _LENGTH > _CONTROL_BYTES:
                self._refuse(1002, "a control frame is too long")
        elif opcode == Opcode.CONTINUATION and self._message is None:
            self._refuse(1002, "there is nothing to continue")
        elif opcode != Opcode.CONTINUATION and self._message is not None:
            self._refuse(1002, "a message begins within another")

    def _check_length(self, length: int, header: int) -> None:
        """A length is written in as few bytes as it needs, and fits 63 bits."""
        if length <= (_CONTROL_BYTES if header == 4 else 0xFFFF) or length >> 63:
            self._refuse(1002, "a length is written in a wrong way")

    def _unusual(self, first: int, payload: bytes) -> None:
        match first & _OPCODE:
            case Opcode.PING:
                self.controls.append((Opcode.PING, payload))
            case Opcode.PONG:
                self.controls.append((Opcode.PONG, payload))
            case Opcode.CLOSE:
                self._closed(payload)
            case opcode:
                self._fragment(opcode, payload, final=bool(first & _FIN))

    def _fragment(self, opcode: int, payload: bytes, *, final: bool) -> None:
        message = _Fragments(text=opcode == Opcode.TEXT) if self._message is None else self._message
        if len(message) + len(payload) > self._max_message:
            self._refuse(1009, "a message is too big")
            return
        if message.fragments * _FRAGMENT_BYTES > self._max_message:
            self._refuse(1009, "a message has too many fragments")
            return
        try:
            message.add(payload, final=final)
        except UnicodeDecodeError:
            self._refuse(1007, "a text is not UTF-8")
            return
        self._message = None if final else message
        if final:
            self.messages.append(message.whole())

    def _closed(self, payload: bytes) -> None:
        if not payload:
            self.end = End(NO_CODE, "", refused=False)
            return
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or code not in _CLOSE_CODES:
            self._refuse(1002, "a close frame has no valid code")
            return
        try:
            self.end = End(code, payload[2:].decode(), refused=False)
        except UnicodeDecodeError:
            self._refuse(1007, "the reason of a close frame is not UTF-8")

    def _refuse(self, code: int, reason: str) -> None:
        if self.end is None:
            self.end = End(code, reason, refused=True)


class _Forgotten(list[str | bytes]):
    def append(self, message: str | bytes) -> None:
        pass


class _Fragments:
    """A message of which the last frame has not come."""

    def __init__(self, *, text: bool) -> None:
        self._whole = bytearray()
        self.fragments = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")() if text else None

    def __len__(self) -> int:
        return len(self._whole)

    def add(self, payload: bytes, *, final: bool) -> None:
        """Raises UnicodeDecodeError as early as can be told."""
        if self._decoder is not None:
            self._decoder.decode(payload, final)
        self._whole += payload
        self.fragments += 1

    def whole(self) -> str | bytes:
        return bytes(self._whole) if self._decoder is None else self._whole.decode()


def message(frame: str | bytes, key: bytes | None) -> bytes:
    """A message in one frame. `key`: of a client, 4 bytes that nobody can foretell; else None."""
    if isinstance(frame, bytes):
        return _frame(_WHOLE_BINARY, frame, key)
    return _frame(_WHOLE_TEXT, frame.encode(), key)


def ping(payload: bytes, key: bytes | None) -> bytes:
    """At most 125 bytes."""
    return _frame(_FIN | Opcode.PING, payload, key)


def pong(payload: bytes, key: bytes | None) -> bytes:
    """The answer to a ping says the same."""
    return _frame(_FIN | Opcode.PONG, payload, key)


def close(code: int, reason: str, key: bytes | None) -> bytes:
    """A close frame. A code that may not be sent becomes none; a reason too long is cut between two
    characters."""
    if code not in _CLOSE_CODES:
        return _frame(_FIN | Opcode.CLOSE, b"", key)
    words = reason.encode()[: _CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return _frame(_FIN | Opcode.CLOSE, code.to_bytes(2, "big") + words, key)


def _frame(first: int, payload: bytes, key: bytes | None) -> bytes:
    length = len(payload)
    mask_bit = 0 if key is None else _MASKED
    if length <= _CONTROL_BYTES:
        head = bytes((first, mask_bit | length))
    elif length <= 0xFFFF:
        head = _MEDIUM(first, mask_bit | 126, length)
    else:
        head = _LONG(first, mask_bit | 127, length)
    if key is None:
        return head + payload
    return head + masked(_NOTHING + payload, key)  # which is the key, and the masked payload


_NOTHING: Final = bytes(4)
_MEDIUM: Final = struct.Struct("!BBH").pack
_LONG: Final = struct.Struct("!BBQ").pack


def masked(payload: bytes, key: bytes) -> bytes:
    """The payload under a masking key, or from under it (RFC 6455, 5.3)."""
    words, odd = divmod(len(payload), 4)
    if odd:
        return masked(payload + bytes(4 - odd), key)[: len(payload)]
    result: bytes = (np.ndarray((words,), _WORD, payload) ^ np.ndarray((), _WORD, key)).tobytes()
    return result


def _unmasked(data: bytes, start: int, end: int) -> bytes:
    """A payload from between others, its key before it: without copying either, which takes as long
    as the arithmetic."""
    words, odd = divmod(end - start, 4)
    if odd:
        return masked(data[start:end], data[start - 4 : start])
    payload, key = np.ndarray((words,), _WORD, data, start), np.ndarray((), _WORD, data, start - 4)
    result: bytes = (payload ^ key).tobytes()
    return result
