"""continuity: conversations that outlive their connections, for all connections of a daemon.

It stands between who may come back to what (`relay.parking`), where it waits (`relay.store`) and
the connections (`relay.bridge`): asks the one, moves the other, and has those closed that are
superseded. What a conversation is made of it does not know; how long anything waits, the lot knows.
"""

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple

import msgspec
import structlog
import trio

from relay import store, voice_agent
from relay.config import Config
from relay.parking import (
    Claim,
    Connection,
    Deposit,
    Doubt,
    End,
    Forget,
    Lot,
    Order,
    Spoil,
    Supersede,
    Trust,
)
from relay.session import Session, snapshot
from relay.store import Store

log = structlog.get_logger()


class Waiting(msgspec.Struct):
    """What the store holds of a conversation."""

    deposit: Deposit
    snapshot: bytes


class Returned(NamedTuple):
    """The conversation that a client has come back to."""

    snapshot: bytes
    lost_wall: float
    """When a process was killed that left it, at the latest."""
    settings: voice_agent.Settings | None
    """What the client sent to come back with, if those were Settings..."""
    repeated: bool
    """...the same as before."""


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
        continuity = Continuity(lot, kept, hashes=session.resume_by_header == "equal", wall=wall)
        await continuity.restore()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(continuity.forget_in_time)
            yield continuity
            nursery.cancel_scope.cancel()


class Continuity:
    """The lot and the store, and who is connected."""

    def __init__(
        self, lot: Lot, kept: Store, *, hashes: bool = False, wall: Callable[[], float] = time.time
    ) -> None:
        """`hashes`: Settings are compared."""
        self._lot = lot
        self._store = kept
        self._hashes = hashes
        self._wall = wall
        self._began_wall = wall()
        self._visits: dict[str, Visit] = {}
        self._alarm = trio.CancelScope()

    @property
    def durable(self) -> bool:
        """Whether a later process finds what is kept."""
        return self._store.durable

    async def restore(self) -> None:
        """Take over what an earlier process left."""
        found = await self._store.found()
        for label in found.marks:
            self._lot.spoilt(label)
        for body in found.bodies:
            try:
                waiting = msgspec.msgpack.decode(body, type=Waiting)
                snapshot.read(waiting.snapshot)
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

    def visit(self, request_id: str, claim: Claim) -> "Visit":
        """A connection was accepted; it gets a Welcome with this id."""
        connection, orders = self._lot.arrived(request_id, claim, trio.current_time())
        self._visits[request_id] = visit = Visit(self, connection)
        self._obey(orders)
        return visit

    # -- for visits -------------------------------------------------------------------------------

    def came(self, connection: Connection) -> None:
        self._obey(self._lot.came(connection.id))

    async def decided(
        self, connection: Connection, settings: voice_agent.Settings | None
    ) -> Returned | None:
        digest = None if settings is None else self._digest(settings)
        decision = self._lot.decided(connection.id, digest)
        left = self._obey(decision.orders)
        if decision.key is None:
            return None
        encoded = left.get(decision.holder or "")
        if encoded is not None:
            if self._store.durable:
                self._keep(connection, encoded)
        else:
            body = await self._store.read(decision.key)
            if body is None:
                log.error("snapshot missing")
                return None
            encoded = msgspec.msgpack.decode(body, type=Waiting).snapshot
            if not self._store.durable:
                self._store.erase(decision.key)  # what goes on takes no room beside itself
        log.info("resumed", first=decision.key, from_connection=decision.holder is not None)
        return Returned(encoded, self._began_wall, settings, decision.repeated)

    def changed(self, connection: Connection, session: Session) -> None:
        deposit = self._lot.deposit(connection.id)
        if self._store.durable and deposit is not None:
            self._store.write(deposit.key, partial(self._running, connection, session))

    async def written(self) -> None:
        await self._store.written()

    def ended(self, connection: Connection, how: End, encoded: bytes | None) -> None:
        self._visits.pop(connection.id, None)
        nbytes = 0 if encoded is None else self._keep(connection, encoded)
        self._obey(self._lot.ended(connection.id, how, trio.current_time(), nbytes))

    # -- inside -----------------------------------------------------------------------------------

    def _keep(self, connection: Connection, encoded: bytes) -> int:
        """Put the conversation of a connection into the store. Returns its size in bytes."""
        deposit = self._lot.deposit(connection.id)
        if deposit is None:
            return 0
        body = msgspec.msgpack.encode(Waiting(deposit, encoded))
        self._store.write(deposit.key, lambda: body)
        return len(body)

    def _running(self, connection: Connection, session: Session) -> bytes | None:
        """The state of a conversation that goes on; None if it does not, by now."""
        deposit = self._lot.deposit(connection.id)
        if deposit is None or not session.worth_keeping:
            return None
        return msgspec.msgpack.encode(Waiting(deposit, session.snapshot(self._wall())))

    def _obey(self, orders: list[Order]) -> dict[str, bytes]:
        """Do what the lot says. Returns what superseded connections leave."""
        left: dict[str, bytes] = {}
        for order in orders:
            match order:
                case Forget(key):
                    self._store.erase(key)
                case Spoil(label) | Doubt(label):
                    self._store.mark(label)
                case Trust(label):
                    self._store.unmark(label)
                case Supersede(connection):
                    visit = self._visits.pop(connection, None)
                    encoded = visit.superseded() if visit is not None else None
                    if encoded is not None:
                        left[connection] = encoded
        self._alarm.deadline = self._lot.next_deadline()
        return left

    def _digest(self, settings: voice_agent.Settings) -> bytes:
        if not self._hashes:
            return b""
        return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).digest()


class Visit:
    """One connection, as far as its conversation may outlive it."""

    def __init__(self, continuity: Continuity, connection: Connection) -> None:
        self._continuity = continuity
        self._connection = connection
        self._over = False
        self.undecided = True
        """Its first message has not come."""
        self.superseded: Callable[[], bytes | None] = lambda: None
        """Closes the connection, without a word; what is left of its conversation."""

    @property
    def watched(self) -> bool:
        """`came` wants to know if anything comes."""
        return self._connection.watched

    @property
    def durable(self) -> bool:
        return self._continuity.durable

    def came(self) -> None:
        self._continuity.came(self._connection)

    async def decided(self, first: voice_agent.ClientMessage | bytes) -> Returned | None:
        """The first message came. What the client has come back to; None: it is new here."""
        self.undecided = False
        settings = first if isinstance(first, voice_agent.Settings) else None
        return await self._continuity.decided(self._connection, settings)

    def changed(self, session: Session) -> None:
        """A crash should not undo this. Costs nothing here; what is written is what the session
        is when the store comes to it."""
        self._continuity.changed(self._connection, session)

    async def written(self) -> None:
        """Waits until no crash can undo what `changed` said."""
        await self._continuity.written()

    def ended(self, how: End, encoded: bytes | None = None) -> None:
        """It is over, with this snapshot if there is something to come back to. Only the first call
        counts."""
        if not self._over:
            self._over = True
            self._continuity.ended(self._connection, how, encoded)
