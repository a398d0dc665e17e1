"""Loop lag: what a loop that is kept busy shows, and when it is forgotten.

Time is virtual: whoever blocks the loop moves the clock without letting anybody run.
"""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.lag import INTERVAL_S, WINDOW, Lag

LATE_S = 0.8


async def test_a_loop_with_time_to_spare_has_none(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    lag = Lag()
    nursery.start_soon(lag.watch)
    await trio.sleep(10)
    assert lag.mean_s == lag.worst_s == 0.0


async def test_it_is_seen_at_once_and_forgotten_after_a_while(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    seen: list[float] = []
    lag = Lag(seen.append)
    nursery.start_soon(lag.watch)
    await trio.sleep(10 * INTERVAL_S + 0.1)
    autojump_clock.jump(LATE_S)  # a task that does not let go
    overdue = LATE_S + 0.1 - INTERVAL_S
    assert lag.worst_s == pytest.approx(overdue)  # before anybody else ran
    assert lag.mean_s == pytest.approx(overdue / (WINDOW + 1))
    await trio.sleep(0.01)
    assert seen[-1] == pytest.approx(overdue)
    assert lag.worst_s == pytest.approx(overdue)
    assert lag.mean_s == pytest.approx(overdue / WINDOW)
    await trio.sleep(WINDOW * INTERVAL_S)
    assert lag.worst_s == lag.mean_s == 0.0


async def test_the_first_hiccup_is_not_the_load_of_two_seconds(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    lag = Lag()
    nursery.start_soon(lag.watch)
    await wait_all_tasks_blocked()
    autojump_clock.jump(INTERVAL_S + LATE_S)
    await trio.sleep(0.01)
    assert lag.worst_s == pytest.approx(LATE_S)
    assert lag.mean_s == pytest.approx(LATE_S / WINDOW)


async def test_a_loop_that_is_late_all_the_time_has_it_as_its_mean(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    lag = Lag()
    nursery.start_soon(lag.watch)
    for _ in range(WINDOW):
        await wait_all_tasks_blocked()
        autojump_clock.jump(INTERVAL_S + LATE_S)
        await trio.sleep(0.001)
    assert LATE_S <= lag.mean_s < LATE_S + 0.002


async def test_nobody_measures_none(autojump_clock: MockClock) -> None:
    lag = Lag()
    await trio.sleep(10)
    assert lag.mean_s == lag.worst_s == 0.0
