"""continuity: conversations that outlive their connections, for all connections of a daemon.

It stands between who may come back to what (`relay.parking`), where it waits (`relay.store`) and
the connections: asks the one, moves the other, and has those closed that are superseded. What a
conversation is made of it does not know; how long anything waits, the lot knows.

    Books        what a connection may ask; `Continuity` answers in the same process, and where
                 there are several (`relay.workers`), `relay.worker` passes it on
    Guest        a connection as the books see it
    Visit        a connection as `relay.bridge` sees it: a guest of the same process
"""

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

import msgspec
import structlog
import trio

from relay import store, voice_agent
from relay.config import Config
from relay.logs import name_of
from relay.parking import (
    Claim,
    Deposit,
    Doubt,
    End,
    Forget,
    Lot,
    Order,
    Spoil,
    Supersede,
    Trust,
    Watch,
)
from relay.session import Session
from relay.session import snapshot as snapshots
from relay.store import Store

Snapshot: TypeAlias = Callable[[], bytes | None]
"""Takes it when it is wanted; None: there is nothing worth keeping, by now."""

log = structlog.get_logger()


class Waiting(msgspec.Struct):
    """What the store holds of a conversation."""

    deposit: Deposit
    snapshot: bytes


class Resumed(msgspec.Struct, frozen=True):
    """What a claim has come to."""

    first: str
    """The id of the first Welcome of the conversation."""
    from_connection: bool
    """It went on elsewhere."""
    snapshot: bytes
    lost_wall: float
    """When the process was killed that had it, at the latest."""
    repeated: bool
    """The claim was made by Settings that are the same as before."""


class Returned(NamedTuple):
    """The conversation that a client has come back to."""

    snapshot: bytes
    lost_wall: float
    """When a process was killed that left it, at the latest."""
    settings: voice_agent.Settings | None
    """What the client sent to come back with, if those were Settings..."""
    repeated: bool
    """...the same as before."""
    was_connected: bool
    """It went on on another connection."""


class Guest(Protocol):
    """A connection, as the books see it."""

    def watch(self) -> None:
        """Say `came` as soon as anything comes."""

    def supersede(self) -> None:
        """Close the connection, without a word."""

    async def left(self) -> bytes | None:
        """After that: the snapshot of its conversation, if there is one."""


class Books(Protocol):
    """Who has which conversation. Connections are named by the ids of their Welcomes."""

    @property
    def durable(self) -> bool:
        """Whether a later process finds what is kept."""

    @property
    def parked(self) -> int:
        """How many conversations wait for their client, as far as this process keeps them."""

    @property
    def compares_settings(self) -> bool:
        """Whether `decided` wants a digest that tells Settings apart."""

    def visit(self, request_id: str, claim: Claim) -> "Visit":
        """A connection was accepted; it gets a Welcome with this id."""

    def came(self, connection: str) -> None:
        """Something came of one that is watched."""

    async def decided(self, connection: str, settings: bytes | None) -> Resumed | None:
        """The first message came: Settings with this digest, or anything else. None: it begins a
        new conversation."""

    def changed(self, connection: str, snapshot: Snapshot) -> None:
        """A crash should not undo what has happened."""

    async def written(self) -> None:
        """Waits until no crash can."""

    def ended(self, connection: str, how: End, encoded: bytes | None) -> None:
        """The connection is no more, and left this snapshot if there is something to come back
        to."""


@contextlib.asynccontextmanager
async def opened(
    configured: Config, *, wall: Callable[[], float] = time.time
) -> "AsyncIterator[Continuity]":
    """What the configuration says of all this, for as long as the block lasts. Raises
    `ConfigError`."""
    session = configured.session
    lot = Lot(
        window_s=session.resume_window_s,
        max_parked=session.max_parked,
        max_parked_bytes=session.max_parked_bytes,
        by_header=session.resume_by_header,
    )
    async with store.opened(configured.store) as kept:
        compares = session.resume_by_header == "equal"
        continuity = Continuity(lot, kept, compares_settings=compares, wall=wall)
        await continuity.restore()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(continuity.forget_in_time)
            yield continuity
            nursery.cancel_scope.cancel()


class Move(NamedTuple):
    """A conversation on its way to who has claimed it."""

    deposit: Deposit
    holder: Guest | None
    """Who had it; None: it waits in the store."""
    repeated: bool
    before: trio.Event | None
    """The end of an earlier move of the same conversation."""
    done: trio.Event


class Continuity:
    """The lot and the store, and who is connected."""

    def __init__(
        self,
        lot: Lot,
        kept: Store,
        *,
        compares_settings: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.compares_settings = compares_settings
        self.store = kept
        self._lot = lot
        self._store = kept
        self._wall = wall
        self._began_wall = wall()
        self._lost_wall: dict[str, float] = {}  # of the conversations of killed processes
        self._guests: dict[str, Guest] = {}
        self._moves: dict[str, trio.Event] = {}  # the end of the latest, by conversation
        self._alarm = trio.CancelScope()

    @property
    def durable(self) -> bool:
        return self._store.durable

    @property
    def parked(self) -> int:
        """How many conversations wait for their client."""
        return self._lot.parked

    def holder(self, claim: Claim) -> str | None:
        """The connection whose conversation this claim is certain to take over."""
        return self._lot.holder(claim)

    async def restore(self) -> None:
        """Take over what an earlier process left."""
        found = await self._store.found()
        for label in found.marks:
            self._lot.spoilt(label)
        for body in found.bodies:
            try:
                waiting = msgspec.msgpack.decode(body, type=Waiting)
                snapshots.read(waiting.snapshot)
            except msgspec.DecodeError as error:
                log.warning("snapshot of another version left alone", reason=str(error))
            else:
                now = trio.current_time()
                self._obey(self._lot.restored(waiting.deposit, now, len(body)))
        if self._lot.parked:
            log.info("conversations restored", parked=self._lot.parked)

    async def forget_in_time(self) -> None:
        """Forget what nobody comes back for. Runs for ever."""
        while True:
            with trio.CancelScope(deadline=self._lot.next_deadline()) as self._alarm:
                await trio.sleep_forever()
            self._obey(self._lot.time_passed(trio.current_time()))

    # -- the books --------------------------------------------------------------------------------

    def visit(self, request_id: str, claim: Claim) -> "Visit":
        visit = Visit(self, request_id)
        self.arrived(request_id, claim, visit)
        return visit

    def arrived(self, connection: str, claim: Claim, guest: Guest) -> None:
        """A connection was accepted."""
        self._guests[connection] = guest
        self._obey(self._lot.arrived(connection, claim, trio.current_time()))

    def came(self, connection: str) -> None:
        self._obey(self._lot.came(connection))

    async def decided(self, connection: str, settings: bytes | None) -> Resumed | None:
        move = self.claimed(connection, settings)
        return None if move is None else await self.moved(move)

    def claimed(self, connection: str, settings: bytes | None) -> Move | None:
        """The first half of `decided`, which waits for nothing. None: it is a new conversation."""
        if connection not in self._guests:
            return None  # superseded before its first message could be told
        decision = self._lot.decided(connection, settings)
        superseded = self._obey(decision.orders)
        deposit = self._lot.deposit(connection)
        if decision.key is None or deposit is None:
            return None
        before, done = self._moves.get(decision.key), trio.Event()
        self._moves[decision.key] = done
        holder = superseded.get(decision.holder or "")
        return Move(deposit, holder, decision.repeated, before, done)

    async def moved(self, move: Move) -> Resumed | None:
        """The second half: fetch it from who had it, or from the store."""
        key = move.deposit.key
        try:
            if move.before is not None:
                await move.before.wait()
            encoded = None if move.holder is None else await move.holder.left()
            if encoded is None:
                encoded = await self._stored(key)
            if encoded is None:
                log.error("snapshot missing")
                return None
            is_last = self._moves[key] is move.done  # else another waits for it, and not in vain
            if self._lot.knows(key) and (self._store.durable or not is_last):
                self._keep(move.deposit, encoded)
            lost_wall = self._lost_wall.pop(key, self._began_wall)
            return Resumed(key, move.holder is not None, encoded, lost_wall, move.repeated)
        finally:
            move.done.set()
            if self._moves.get(key) is move.done:
                del self._moves[key]

    def changed(self, connection: str, snapshot: Snapshot) -> None:
        deposit = self._lot.deposit(connection)
        if self._store.durable and deposit is not None:
            self._store.write(deposit.key, partial(self._running, connection, snapshot))

    async def written(self) -> None:
        await self._store.written()

    def ended(self, connection: str, how: End, encoded: bytes | None) -> None:
        deposit = self._lot.deposit(connection)
        nbytes = 0 if encoded is None or deposit is None else self._keep(deposit, encoded)
        self._ended(connection, how, nbytes)

    def killed(self, connection: str, kept_bytes: int | None) -> None:
        """The process of this connection was killed. `kept_bytes`: the size of what it had said
        should outlive that; None: it had not."""
        deposit = self._lot.deposit(connection)
        waits = self.durable and kept_bytes is not None and deposit is not None
        if waits and deposit is not None:
            self._lost_wall[deposit.key] = self._wall()
        self._ended(connection, End.LOST if waits else End.BROKEN, kept_bytes or 0)

    # -- inside -----------------------------------------------------------------------------------

    def _ended(self, connection: str, how: End, nbytes: int) -> None:
        self._guests.pop(connection, None)
        self._obey(self._lot.ended(connection, how, trio.current_time(), nbytes))

    def _keep(self, deposit: Deposit, encoded: bytes) -> int:
        """Put a conversation into the store. Returns its size in bytes."""
        body = msgspec.msgpack.encode(Waiting(deposit, encoded))
        self._store.write(deposit.key, lambda: body)
        return len(body)

    async def _stored(self, key: str) -> bytes | None:
        body = await self._store.read(key)
        if body is None:
            return None
        if not self._store.durable:
            self._store.erase(key)  # what goes on takes no room beside itself
        return msgspec.msgpack.decode(body, type=Waiting).snapshot

    def _running(self, connection: str, snapshot: Snapshot) -> bytes | None:
        """The state of a conversation that goes on; None if it does not, by now."""
        deposit = self._lot.deposit(connection)
        encoded = None if deposit is None else snapshot()
        if deposit is None or encoded is None:
            return None
        return msgspec.msgpack.encode(Waiting(deposit, encoded))

    def _obey(self, orders: list[Order]) -> dict[str, Guest]:
        """Do what the lot says. Returns the superseded connections."""
        superseded: dict[str, Guest] = {}
        for order in orders:
            match order:
                case Forget(key):
                    self._lost_wall.pop(key, None)
                    self._store.erase(key)
                case Spoil(label) | Doubt(label):
                    self._store.mark(label)
                case Trust(label):
                    self._store.unmark(label)
                case Supersede(connection):
                    superseded[connection] = guest = self._guests.pop(connection)
                    guest.supersede()
                case Watch(connection):
                    self._guests[connection].watch()
        self._alarm.deadline = self._lot.next_deadline()
        return superseded


class Visit:
    """One connection, as far as its conversation may outlive it."""

    # fmt: off
    __slots__ = (
        "_books", "_connection", "_left", "_over", "_wall", "superseded", "undecided", "watched",
    )
    # fmt: on

    def __init__(
        self, books: Books, connection: str, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._books = books
        self._connection = connection
        self._wall = wall
        self._over = False
        self._left: bytes | None = None
        self.undecided = True
        """Its first message has not come."""
        self.watched = False
        """`came` wants to know if anything comes."""
        self.superseded: Callable[[], bytes | None] = lambda: None
        """Closes the connection, without a word; what is left of its conversation."""

    @property
    def durable(self) -> bool:
        return self._books.durable

    def came(self) -> None:
        self.watched = False  # nothing more depends on it
        self._books.came(self._connection)

    async def decided(self, first: voice_agent.ClientMessage | bytes) -> Returned | None:
        """The first message came. What the client has come back to; None: it is new here."""
        self.undecided = False
        settings = first if isinstance(first, voice_agent.Settings) else None
        digest = None if settings is None else self._digest(settings)
        found = await self._books.decided(self._connection, digest)
        if found is None:
            return None
        log.info("resumed", first=name_of(found.first), from_connection=found.from_connection)
        return Returned(
            found.snapshot, found.lost_wall, settings, found.repeated, found.from_connection
        )

    def changed(self, session: Session) -> None:
        """A crash should not undo this. Costs nothing here; what is written is what the session
        is when the store comes to it."""
        self._books.changed(self._connection, partial(self._running, session))

    async def written(self) -> None:
        """Waits until no crash can undo what `changed` said."""
        await self._books.written()

    def ended(self, how: End, encoded: bytes | None = None) -> None:
        """It is over, with this snapshot if there is something to come back to. Only the first call
        counts."""
        if not self._over:
            self._over = True
            self._books.ended(self._connection, how, encoded)

    # -- a guest ----------------------------------------------------------------------------------

    def watch(self) -> None:
        self.watched = True

    def supersede(self) -> None:
        self._left = self.superseded()

    async def left(self) -> bytes | None:
        return self._left

    # -- inside -----------------------------------------------------------------------------------

    def _running(self, session: Session) -> bytes | None:
        return session.snapshot(self._wall()) if session.worth_keeping else None

    def _digest(self, settings: voice_agent.Settings) -> bytes:
        if not self._books.compares_settings:
            return b""
        return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).digest()
