"""metering: what all connections of a daemon use, held against the limits.

It stands between the counts (`relay.limits`, which decide) and the connections: a `Seat` is one
admitted connection's place, from before its upgrade to its end. The clock is its own; sockets and
messages it does not know.
"""

import time
from collections.abc import Callable

import trio

from relay.limits import Ledger, Reached, Rules

FORGET_EVERY_S = 60.0


class Metering:
    """The counts and the limits of a daemon, and whoever is in."""

    def __init__(
        self, rules: Rules, ledger: Ledger | None = None, *, wall: Callable[[], float] = time.time
    ) -> None:
        self.rules = rules
        """May be replaced at any time; the counts stay."""
        self.ledger = ledger or Ledger()
        """To be looked at: who is in, what was used, how often each limit was in the way."""
        self._wall = wall

    def seat(self, client: str) -> "Seat | Reached":
        """A place for one more connection of this client's (`limits.client_of`), or why not."""
        reached = self.ledger.admit(client, self.rules, self._wall())
        return Seat(self, client) if reached is None else reached

    def left(self, client: str) -> None:
        self.ledger.release(client, self.rules, self._wall())

    async def forget_in_time(self) -> None:
        """Forget clients that have not been there for long. Runs for ever."""
        while True:
            await trio.sleep(FORGET_EVERY_S)
            self.ledger.tick(self.rules, self._wall())


class Seat:
    """One connection's place."""

    def __init__(self, metering: Metering, client: str) -> None:
        self._metering = metering
        self._client = client
        self._left = False

    def leave(self) -> None:
        """It is free for another. Harmless to repeat."""
        if not self._left:
            self._left = True
            self._metering.left(self._client)
