"""hub: the books of several workers, in the process that is their parent.

A client that was lost on one worker may come back to another, and a limit is one of all workers
together. So who has which conversation (`relay.continuity`) and how much everybody uses
(`relay.metering`) is written down in one place. The hub answers what workers ask of it, and tells
them what to do about it. It holds no conversation and reads no byte of a client: snapshots pass
through it as they are.
"""

import trio

from relay import link
from relay.continuity import Continuity, Move
from relay.limits import Reached
from relay.link import ParentsEnd
from relay.metering import Metering, Seat
from relay.session.usage import Used


class Desk:
    """Where one worker's connections are attended to. What it hears must be told in order."""

    def __init__(
        self, books: Continuity, metering: Metering, end: ParentsEnd, nursery: trio.Nursery
    ) -> None:
        """`nursery` holds what has to be waited for; it outlasts the worker, whose conversations
        may be on their way to another one."""
        self._books = books
        self._metering = metering
        self._end = end
        self._nursery = nursery
        self._guests: dict[str, _Remote] = {}
        self._seats: dict[int, Seat] = {}

    def hear(self, message: link.FromWorker) -> None:
        """Messages that are none of the books' do nothing. Raises `Garbled`: the worker means a
        connection or a seat that it does not have."""
        try:
            self._hear(message)
        except KeyError as error:
            raise link.Garbled(f"{type(message).__name__} of {error}") from error

    def _hear(self, message: link.FromWorker) -> None:
        seat: Seat | Reached | None
        match message:
            case link.Arrived(connection, claim):
                if connection in self._guests:
                    raise KeyError(connection)
                self._guests[connection] = guest = _Remote(connection, self._end)
                self._books.arrived(connection, claim, guest)
            case link.Came(connection):
                self._books.came(connection)
            case link.Decided(connection, settings):
                move = self._books.claimed(connection, settings)
                if move is None:
                    self._end.post(link.Decision(connection, None))
                else:
                    self._guests[connection].kept_bytes = 0  # until it has come
                    self._nursery.start_soon(self._move, connection, move)
            case link.Running(connection, snapshot):
                if (known := self._guests.get(connection)) is not None:
                    known.kept_bytes = len(snapshot)
                    self._books.changed(connection, lambda: snapshot)
            case link.Write(number):
                self._nursery.start_soon(self._write, number)
            case link.Ended(connection, how, encoded):
                guest = self._guests[connection]
                if guest.superseded:
                    guest.leaves(encoded)  # it ended before it heard of that
                else:
                    del self._guests[connection]
                    self._books.ended(connection, how, encoded)
            case link.Left(connection, encoded):
                self._guests.pop(connection).leaves(encoded)
            case link.Enter(number, client, connection, claim):
                if number in self._seats:
                    raise KeyError(number)
                seat = self._metering.seat(client, connection, self._books.holder(claim))
                if isinstance(seat, Seat):
                    self._seats[number] = seat
                self._end.post(link.Entered(number, seat if isinstance(seat, Reached) else None))
            case link.Spend(number, spent):
                reached = self._metering.spend(self._seats[number], spent, Used())
                if reached is not None:
                    self._end.post(link.Exceeded(number, reached))
            case link.Vacate(number):
                if (seat := self._seats.pop(number, None)) is not None:
                    seat.leave()
            case link.Settle(number):
                self._end.post(link.Settled(number))
            case _:
                pass

    def close(self) -> None:
        """The worker is no more, and it did not end its conversations."""
        for connection, guest in self._guests.items():
            if guest.superseded:
                guest.leaves(None)
            else:
                self._books.killed(connection, guest.kept_bytes)
        self._guests.clear()
        for seat in self._seats.values():
            seat.leave()
        self._seats.clear()

    async def _move(self, connection: str, move: Move) -> None:
        resumed = await self._books.moved(move)
        if resumed is not None and (guest := self._guests.get(connection)) is not None:
            guest.kept_bytes = len(resumed.snapshot)
        self._end.post(link.Decision(connection, resumed))

    async def _write(self, number: int) -> None:
        await self._books.written()
        self._end.post(link.Written(number))


class _Remote:
    """A connection at a worker, as a guest of the books."""

    def __init__(self, connection: str, end: ParentsEnd) -> None:
        self._connection = connection
        self._end = end
        self._has_left = trio.Event()
        self._left: bytes | None = None
        self.kept_bytes: int | None = None
        """So much of its conversation is in the store; None: nothing is."""
        self.superseded = False

    def watch(self) -> None:
        self._end.post(link.Watch(self._connection))

    def supersede(self) -> None:
        self.superseded = True
        self._end.post(link.Leave(self._connection))

    async def left(self) -> bytes | None:
        await self._has_left.wait()
        return self._left

    def leaves(self, encoded: bytes | None) -> None:
        """Only the first call counts."""
        if not self._has_left.is_set():
            self._left = encoded
            self._has_left.set()
