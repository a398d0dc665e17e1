"""link: what a worker and its parent tell each other, and how it is carried.

It knows the messages, and frames them over one stream between two processes of the same program:
four bytes of length, then MessagePack. What a message means is the affair of who sends it
(`relay.worker`, `relay.workers`, `relay.hub`). A link ends when either process does, which is how
each learns that the other is no more.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import Generic, TypeAlias, TypeVar

import msgspec
import trio
from trio_util import AsyncValue

from relay.continuity import Resumed
from relay.limits import Reached, Spent
from relay.metrics import Snapshot
from relay.observer import Live
from relay.parking import Claim, End

CHUNK = 65536
MOST_BYTES = 256 * 1024 * 1024
"""Of one message. A worker's snapshots and figures take a fraction of it; a length above it is
none."""

_HEAD = struct.Struct("!I")


class Garbled(Exception):
    """What a worker says makes no sense: it is broken, and nothing it says can be relied on."""


class _Message(msgspec.Struct, tag=True, array_like=True, frozen=True):
    pass


# -- what a worker is told ----------------------------------------------------------------------


class Begin(_Message, frozen=True):
    """Serve. Always the first message."""

    number: int
    """Of the worker, from 1; its successor has the same."""
    configuration: bytes
    """As `config.encoded` writes it."""
    sockets: list[int]
    """Descriptors of the listening sockets."""
    durable: bool
    """Of the books."""
    compares_settings: bool
    """Of the books."""


class Ping(_Message, frozen=True):
    """Answer with `Pong`."""

    with_figures: bool


class Change(_Message, frozen=True):
    """Serve this from now on; answer with `Changed`."""

    number: int
    configuration: bytes


class Drain(_Message, frozen=True):
    """Admit nobody any more, and end when the conversations have. `socket_stays`: who connects now
    is another process's."""

    socket_stays: bool


class Stop(_Message, frozen=True):
    """End at once."""


class Watch(_Message, frozen=True):
    connection: str


class Leave(_Message, frozen=True):
    """This connection is superseded; answer with `Left`."""

    connection: str


class Decision(_Message, frozen=True):
    """The answer to `Decided`."""

    connection: str
    resumed: Resumed | None


class Written(_Message, frozen=True):
    """The answer to `Write`."""

    number: int


class Entered(_Message, frozen=True):
    """The answer to `Enter`. None: the seat is taken."""

    seat: int
    reached: Reached | None


class Exceeded(_Message, frozen=True):
    """The session in this seat is to be ended."""

    seat: int
    reached: Reached


class Settled(_Message, frozen=True):
    """The answer to `Settle`."""

    number: int


ToWorker: TypeAlias = (
    Begin
    | Ping
    | Change
    | Drain
    | Stop
    | Watch
    | Leave
    | Decision
    | Written
    | Entered
    | Exceeded
    | Settled
)

# -- what a worker tells ------------------------------------------------------------------------


class Ready(_Message, frozen=True):
    """It accepts connections."""


class Unfit(_Message, frozen=True):
    """The configuration cannot be served; it ends."""

    fault: str


class Pong(_Message, frozen=True):
    """It is well."""

    figures: Snapshot
    """Empty where nobody asked for them."""
    live: list[Live]
    """The sessions that are going on; empty where nobody asked."""


class Leaving(_Message, frozen=True):
    """It drains, and ends then, though it was not told to."""


class Changed(_Message, frozen=True):
    """What has become of a `Change`."""

    number: int
    fault: str | None
    """None: it is served."""


class Arrived(_Message, frozen=True):
    connection: str
    claim: Claim


class Came(_Message, frozen=True):
    connection: str


class Decided(_Message, frozen=True):
    connection: str
    settings: bytes | None


class Running(_Message, frozen=True):
    """What should be left of this conversation if the worker is killed."""

    connection: str
    snapshot: bytes


class Write(_Message, frozen=True):
    """Say when all that was told so far can survive a crash."""

    number: int


class Ended(_Message, frozen=True):
    connection: str
    how: End
    snapshot: bytes | None


class Left(_Message, frozen=True):
    """A superseded connection is closed, and this is left of its conversation."""

    connection: str
    snapshot: bytes | None


class Enter(_Message, frozen=True):
    """A seat for one more connection of this client's. The worker numbers them."""

    seat: int
    client: str
    connection: str
    claim: Claim
    """What it claims may be held: then the place may be, too."""


class Spend(_Message, frozen=True):
    seat: int
    spent: Spent


class Vacate(_Message, frozen=True):
    """The seat is free, if it was taken."""

    seat: int


class Settle(_Message, frozen=True):
    """Say when all that was told so far counts, whoever asks."""

    number: int


FromWorker: TypeAlias = (
    Ready
    | Unfit
    | Pong
    | Leaving
    | Changed
    | Arrived
    | Came
    | Decided
    | Running
    | Write
    | Ended
    | Left
    | Enter
    | Spend
    | Vacate
    | Settle
)

# -- how it is carried --------------------------------------------------------------------------

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Link(Generic[_In, _Out]):
    """One end. Anyone may post, which never waits; one task hears, and one writes."""

    def __init__(self, stream: trio.abc.Stream, incoming: msgspec.msgpack.Decoder[_In]) -> None:
        self._stream = stream
        self._decoder = incoming
        self._encoder = msgspec.msgpack.Encoder()
        self._outbox: list[_Out] = []
        self._latest: dict[str, Callable[[], _Out | None]] = {}
        self._unsent: AsyncValue[bool] = AsyncValue(False)
        self._unread = bytearray()
        self.fault: str | None = None
        """What was wrong with what was heard last."""

    def post(self, message: _Out) -> None:
        """Send this soon. What is posted when the other end is gone is lost."""
        self._outbox.append(message)
        self._unsent.value = True

    def post_latest(self, name: str, make: Callable[[], _Out | None]) -> None:
        """Send what `make` returns when its turn comes, ahead of whatever was not sent yet. Of
        several under one name only the last is made."""
        self._latest[name] = make
        self._unsent.value = True

    def withdraw(self, name: str) -> None:
        """It needs not be sent any more."""
        self._latest.pop(name, None)

    async def write(self) -> None:
        """Send what is posted, for ever."""
        while True:
            await self._unsent.wait_value(True)
            # One who is gone is noticed by who hears; nobody should wait for what cannot be sent.
            with contextlib.suppress(trio.BrokenResourceError):
                await self._stream.send_all(b"".join(self._taken()))
            self._unsent.value = bool(self._outbox or self._latest)

    async def flush(self) -> None:
        """Wait until all that was posted is sent, or cannot be."""
        await self._unsent.wait_value(False)

    async def hear(self) -> _In | None:
        """The next message; None: there will be none, because the other process has ended, or says
        what cannot be understood (then `fault` says why): nothing that follows can be either."""
        try:
            while (message := self._parsed()) is None:
                data: bytes | bytearray = b""
                with contextlib.suppress(trio.BrokenResourceError):
                    data = await self._stream.receive_some(CHUNK)
                if not data:
                    return None
                self._unread += data
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.fault = str(error)
            return None
        return message

    def _taken(self) -> Iterator[bytes]:
        latest, self._latest = self._latest, {}
        outbox, self._outbox = self._outbox, []
        for make in latest.values():
            message = make()
            if message is not None:
                yield self._framed(message)
        for message in outbox:
            yield self._framed(message)

    def _framed(self, message: _Out) -> bytes:
        body = self._encoder.encode(message)
        return _HEAD.pack(len(body)) + body

    def _parsed(self) -> _In | None:
        if len(self._unread) < _HEAD.size:
            return None
        size = _HEAD.unpack_from(self._unread)[0]
        if size > MOST_BYTES:
            raise msgspec.DecodeError(f"a message of {size} bytes")
        end = _HEAD.size + size
        if len(self._unread) < end:
            return None
        body = bytes(self._unread[_HEAD.size : end])
        del self._unread[:end]
        return self._decoder.decode(body)


WorkersEnd: TypeAlias = Link[ToWorker, FromWorker]
ParentsEnd: TypeAlias = Link[FromWorker, ToWorker]


def workers_end(stream: trio.abc.Stream) -> WorkersEnd:
    return Link(stream, msgspec.msgpack.Decoder(ToWorker))


def parents_end(stream: trio.abc.Stream) -> ParentsEnd:
    return Link(stream, msgspec.msgpack.Decoder(FromWorker))
