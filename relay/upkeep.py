"""upkeep: what is done for many legs and conversations by few tasks.

A leg has something to wait for only while its peer is slow, and something to look at every few
seconds; a conversation has deadlines. A task for each would be most of what an idle session takes.
So one task looks at the clock for all of them, and whoever must wait has a task for as long as that
lasts. This knows trio and the clock, and not what is done.
"""

import contextlib
import heapq
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

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
        # A heap, the next one first. A round may stand in it for times that do not count any more.
        self._due: list[tuple[float, int, Round]] = []
        self._prune_at = _FEW
        self._number = itertools.count()
        self._alarm = trio.CancelScope()

    def start(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run this to its end, in the caller's context. It may not raise, or all is over; and
        whoever starts it shields it from the end of the process, and waits for it."""
        self._nursery.start_soon(task)

    def watch(self, look: Callable[[], float]) -> "Round":
        """Call `look`, which may not raise, at the time that it returned last; the first time is
        now. Never again once `Round.end` was called."""
        began = Round(look)
        self._put(began, look())
        return began

    def sooner(self, watched: "Round", at: float) -> None:
        """Look at it then, unless that is done before anyway."""
        if at < watched.at:
            self._put(watched, at)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            due = self._due[0][0] if self._due else math.inf
            with trio.CancelScope(deadline=due) as self._alarm:
                await trio.sleep_forever()
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        due: list[Round] = []
        while self._due and self._due[0][0] <= now:
            at, _, each = heapq.heappop(self._due)
            if at == each.at:
                due.append(each)
                each.at = -math.inf  # it is going to say anew, at the end of its look
        for each in due:
            if each.look is not None:  # nor has one before it ended it
                self._put(each, each.look())

    def _put(self, watched: "Round", at: float) -> None:
        watched.at = at
        if at == math.inf:
            return
        heapq.heappush(self._due, (at, next(self._number), watched))
        if at < self._alarm.deadline:
            self._alarm.deadline = at
        if len(self._due) > self._prune_at:
            self._due = [entry for entry in self._due if entry[0] == entry[2].at]
            heapq.heapify(self._due)
            self._prune_at = 2 * len(self._due) + _FEW


_FEW: Final = 64
"""Below so many nothing is thrown away: it would be looked through too often."""


class Round:
    """Something that is looked at now and then."""

    __slots__ = ("at", "look")

    def __init__(self, look: Callable[[], float]) -> None:
        self.at = -math.inf
        """When it is looked at next; -inf: it is looked at now, or has ended."""
        self.look: Callable[[], float] | None = look

    def end(self) -> None:
        """Harmless to repeat."""
        self.at, self.look = -math.inf, None
