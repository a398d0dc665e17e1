"""metering: what all connections of a daemon use, held against the limits.

It stands between the counts (`relay.limits`, which decide) and the connections (`relay.bridge`): a
`Seat` is one admitted connection's place, from before its upgrade to its end. It has a clock,
sums up each session's usage at its end and has the store keep the counts; sockets and messages it
does not know.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
import structlog
import trio

from relay import logs
from relay.limits import Ledger, Reached, Rules, Spent
from relay.parking import Claim
from relay.prices import Price, cost
from relay.session.usage import Bill, Used
from relay.store import Store

KEEP_EVERY_S = 60.0
"""How much of the counts a killed process may lose."""
METER_S = 1.0
"""How often what a conversation uses is held against the limits. In between nothing is counted that
would not be anyway."""
PARTS = 10
"""Of that time; in each of them a part of the conversations has its turn: no frame waits for all of
them."""
PAGE = "ledger"
"""Where the counts are in the store."""

NO_CLAIM = Claim()

log = structlog.get_logger()


class Metering:
    """The counts, limits and prices of a daemon. All of it may be looked at from anywhere."""

    def __init__(
        self,
        rules: Rules,
        prices: Mapping[str, Price] | None = None,
        ledger: Ledger | None = None,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.rules = rules
        """May be replaced at any time; the counts stay."""
        self.prices = prices or {}
        """May be replaced at any time, too."""
        self.ledger = ledger or Ledger()
        """Who is in, what they used lately, how often each limit was in the way."""
        self.used = Used()
        """By all sessions since the start, those that go on included, up to a second ago."""
        self.holder: Callable[[Claim], str | None] = lambda claim: None
        """The connection whose conversation a claim is certain to take over."""
        self._taken: dict[str, Seat] = {}  # by connection
        self._wall = wall
        self._page = b""  # what was kept last
        self._meters: list[dict[Seat, Callable[[], None]]] = [{} for _ in range(PARTS)]

    @property
    def cost(self) -> dict[str, float]:
        """Of what was `used`, by currency."""
        return cost(self.used, self.prices)[0]

    def seat(
        self, client: str, connection: str = "", holder: str | None = None
    ) -> "Seat | Reached":
        """A place for one more connection of this client's (`limits.client_of`), or why not.
        `holder`: the connection whose conversation it is about to take over, and that may be lost
        already: while both are there they have one place together. No more than two ever do."""
        older = self._taken.get(holder or "")
        shares = older is not None and older.client == client and older.beside is None
        reached = self.ledger.admit(client, self.rules, self._wall(), takes_over=shares)
        if reached is not None:
            return reached
        seat = Seat(self, client, connection)
        if older is not None and shares:
            older.beside, seat.beside = seat, older
        if connection:
            self._taken[connection] = seat
        return seat

    async def enter(
        self, client: str, connection: str = "", claim: Claim = NO_CLAIM
    ) -> "Seat | Reached":
        """The same, where it may have to be asked elsewhere. What it claims may be held."""
        return self.seat(client, connection, self.holder(claim))

    async def watch(self) -> None:
        """For ever, have each session tell what it uses: one task for all. Whoever holds the
        meter runs it."""
        while True:
            for part in self._meters:
                await trio.sleep(METER_S / PARTS)
                for meter in list(part.values()):
                    meter()

    def metered(self, seat: "Seat", meter: Callable[[], None]) -> None:
        """Call it for as long as the seat is taken."""
        min(self._meters, key=len)[seat] = meter

    def spend(self, seat: "Seat", spent: Spent, used: Used) -> Reached | None:
        self.used.add(used)
        return self.ledger.spend(seat.client, spent, self.rules, self._wall())

    def left(self, seat: "Seat") -> None:
        for part in self._meters:
            part.pop(seat, None)
        self.release(seat)

    def release(self, seat: "Seat") -> None:
        self._taken.pop(seat.connection, None)
        other, seat.beside = seat.beside, None
        if other is not None:
            other.beside = None  # which has the place alone
            return
        self.ledger.release(seat.client, self.rules, self._wall())

    async def settled(self) -> None:
        """Waits until all that was told so far counts, wherever somebody asks for a seat."""

    def stopped(self, seat: "Seat", reached: Reached) -> None:
        log.info("limit reached", client=seat.client, limit=reached.key)
        self.ledger.stopped(reached)

    def usage(self, bill: Bill, *, ended: bool) -> dict[str, Any]:
        """What a conversation has used, for the log."""
        sums, unpriced = cost(bill.used, self.prices)
        rounded = {currency: round(amount, 6) for currency, amount in sums.items()}
        return {
            "conversation": logs.name_of(bill.session),
            "client": bill.client,
            **bill.fields(),
            "cost": rounded,
            "unpriced": unpriced,
            "ended": ended,
        }

    @contextlib.asynccontextmanager
    async def kept_in(self, store: Store) -> AsyncIterator[None]:
        """While the block lasts, clients are forgotten in time, and the store has what is counted.
        It goes on with what an earlier process has counted."""
        found = await store.page(PAGE)
        if found is not None:
            try:
                self.ledger = msgspec.msgpack.decode(found, type=Ledger).carried_over()
            except msgspec.DecodeError as error:
                log.warning("counts of another version left alone", reason=str(error))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_in_time, store)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._keep(store)

    async def _keep_in_time(self, store: Store) -> None:
        while True:
            await trio.sleep(KEEP_EVERY_S)
            self.ledger.tick(self.rules, self._wall())
            self._keep(store)

    def _keep(self, store: Store) -> None:
        page = msgspec.msgpack.encode(self.ledger)
        if page != self._page:  # where nothing happens no disk is woken
            self._page = page
            store.keep(PAGE, lambda: page)


class Seat:
    """One connection's place."""

    # fmt: off
    __slots__ = (
        "_bytes", "_frames", "_left", "_metering", "beside", "client", "connection", "usage",
    )
    # fmt: on

    def __init__(self, metering: Metering, client: str, connection: str = "") -> None:
        self._metering = metering
        self.client = client
        self.connection = connection
        self.beside: Seat | None = None
        """Whose place this is, too."""
        self.usage: dict[str, Any] | None = None
        """What the session has used, once that is known."""
        self._frames = 0
        self._bytes = 0
        self._left = False

    def metered(self, meter: Callable[[], None]) -> None:
        """From now on call this every `METER_S`, until `leave`: it says what was used, with
        `spend`. It may not raise."""
        self._metering.metered(self, meter)

    def spend(self, frames: int, nbytes: int, used: Used) -> Reached | None:
        """How many frames and bytes have come from the client by now, and what its session has used
        since the last time. The limit that is reached, if one is: the session is to be ended."""
        if self._left:
            return None
        spent = Spent(
            frames - self._frames,
            nbytes - self._bytes,
            (used.input_ms + used.output_ms) / 1000,
            used.total_tokens,
        )
        self._frames, self._bytes = frames, nbytes
        return self._metering.spend(self, spent, used)

    def stopped_by(self, reached: Reached) -> None:
        """The session is ended because of this."""
        self._metering.stopped(self, reached)

    def record(self, bill: Bill, *, ended: bool) -> None:
        """Write down what the session has used from its beginning. Not `ended`: it may go on, on
        another connection."""
        self.usage = self._metering.usage(bill, ended=ended)

    def leave(self) -> None:
        """It is free for another. Harmless to repeat."""
        if not self._left:
            self._left = True
            self._metering.left(self)

    async def free(self) -> None:
        """After `leave`: waits until whoever comes, wherever it is, finds it free."""
        await self._metering.settled()
