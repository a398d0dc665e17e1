"""The upkeep, in virtual time: when it looks, and how that ends."""

import math
from collections.abc import Callable

import trio
import trio.lowlevel
from trio.testing import MockClock

from relay import upkeep


class Watched:
    """Notes when it was looked at, on a clock that begins with it."""

    def __init__(self, every_s: float) -> None:
        self._began = trio.current_time()
        self._every_s = every_s
        self.seen: list[float] = []
        self.then: Callable[[], None] = lambda: None

    def look(self) -> float:
        self.seen.append(round(trio.current_time() - self._began, 3))
        self.then()
        return trio.current_time() + self._every_s


async def test_each_is_looked_at_when_it_said(autojump_clock: MockClock) -> None:
    slow, fast = Watched(20.0), Watched(7.0)
    async with upkeep.opened() as kept_up:
        await trio.lowlevel.checkpoint()  # it sleeps
        for each in (slow, fast):
            kept_up.watch(each.look)
        await trio.sleep(30)
    assert slow.seen == [0.0, 20.0]
    assert fast.seen == [0.0, 7.0, 14.0, 21.0, 28.0]


async def test_what_has_ended_is_not_looked_at(autojump_clock: MockClock) -> None:
    one, other = Watched(10.0), Watched(10.0)
    async with upkeep.opened() as kept_up:
        rounds = [kept_up.watch(each.look) for each in (one, other)]
        one.then = rounds[1].end
        await trio.sleep(15)
        rounds[0].end()
        rounds[0].end()  # harmless
        await trio.sleep(math.pi * 10)
    assert one.seen == [0.0, 10.0]
    assert other.seen == [0.0]


async def test_it_looks_sooner_if_told_to_and_never_later(autojump_clock: MockClock) -> None:
    watched = Watched(20.0)
    async with upkeep.opened() as kept_up:
        seen = kept_up.watch(watched.look)
        for after_s in (5.0, 8.0, 3.0):
            kept_up.sooner(seen, trio.current_time() + after_s)
        await trio.sleep(30)
    assert watched.seen == [0.0, 3.0, 23.0]


async def test_times_that_count_no_more_take_no_room(autojump_clock: MockClock) -> None:
    async with upkeep.opened() as kept_up:
        busy = kept_up.watch(Watched(3600.0).look)
        for step in range(10_000):
            kept_up.sooner(busy, trio.current_time() + 3000 - step / 10)
            kept_up.watch(Watched(3600.0).look).end()
        assert len(kept_up._due) < 200


async def test_what_is_always_due_leaves_others_their_turn(autojump_clock: MockClock) -> None:
    hasty = Watched(0.0)
    async with upkeep.opened() as kept_up:
        kept_up.watch(hasty.look)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
    assert 1 < len(hasty.seen) <= 6


async def test_who_must_wait_has_a_task_for_as_long_as_that_lasts(
    autojump_clock: MockClock,
) -> None:
    async def waits() -> None:
        await trio.sleep(5)

    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    async with upkeep.opened() as kept_up:
        before = tasks()
        kept_up.start(waits)
        await trio.sleep(4)
        assert tasks() == before + 1
        await trio.sleep(2)
        assert tasks() == before
