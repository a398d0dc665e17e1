"""upkeep: what is done for many legs by few tasks.

A leg has something to wait for only while its peer is slow, and something to look at every few
seconds. A task for each would be most of what an idle session takes. So one task looks at the clock
for all of them, and whoever must wait has a task for as long as that lasts. This knows trio and the
clock, and not what is done.
"""

import contextlib
import heapq
import math
from collections.abc import AsyncIterator, Awaitable, Callable

import trio


@contextlib.asynccontextmanager
async def opened() -> "AsyncIterator[Upkeep]":
    """An upkeep, for as long as the block lasts. What was started and what is watched must have
    ended by then."""
    async with trio.open_nursery() as nursery:
        upkeep = Upkeep(nursery)
        nursery.start_soon(upkeep.run)
        yield upkeep
        nursery.cancel_scope.cancel()


class Upkeep:
    """Made by `opened`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._rounds: list[Round] = []  # a heap: the next one first
        self._alarm = trio.CancelScope()

    def start(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run this to its end, in the caller's context. It may not raise, or all is over; and
        whoever starts it shields it from the end of the process, and waits for it."""
        self._nursery.start_soon(task)

    def watch(self, look: Callable[[], float]) -> "Round":
        """Call `look`, which may not raise, at the time that it returned last; the first time is
        now. Never again once `Round.end` was called."""
        began = Round(look(), look)
        heapq.heappush(self._rounds, began)
        if began.at < self._alarm.deadline:
            self._alarm.deadline = began.at
        return began

    async def run(self) -> None:
        """Look for ever."""
        while True:
            due = self._rounds[0].at if self._rounds else math.inf
            with trio.CancelScope(deadline=due) as self._alarm:
                await trio.sleep_forever()
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        due: list[Round] = []
        while self._rounds and self._rounds[0].at <= now:
            due.append(heapq.heappop(self._rounds))
        for each in due:
            if each.look is not None:  # nor has one before it ended it
                each.at = each.look()
                heapq.heappush(self._rounds, each)


class Round:
    """Something that is looked at now and then."""

    __slots__ = ("at", "look")

    def __init__(self, at: float, look: Callable[[], float]) -> None:
        self.at = at
        """When it is looked at next."""
        self.look: Callable[[], float] | None = look

    def __lt__(self, other: "Round") -> bool:
        return self.at < other.at

    def end(self) -> None:
        """Harmless to repeat."""
        self.look = None
