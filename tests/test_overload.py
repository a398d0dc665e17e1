"""overload: who is refused when, told times and lags; and what a refused client and a load balancer
hear of it."""

import time

import pytest
import trio

from relay.config import Config
from relay.overload import Overload, OverloadTable
from tests.test_server import fetch, refusal, serving

MAX_S, CALM_S = 0.2, 3.0


def overload() -> Overload:
    return Overload(OverloadTable(max_lag_ms=MAX_S * 1000, calm_s=CALM_S))


def test_a_loop_in_time_refuses_nobody() -> None:
    state = overload()
    assert not any(state.sheds(MAX_S, now) for now in (5.0, 5.0, 6.0, 100.0))


def test_a_late_loop_refuses_until_it_was_calm_for_a_while() -> None:
    state = overload()
    assert state.sheds(MAX_S + 0.001, 10.0)
    assert state.sheds(0.0, 10.0 + CALM_S - 0.001)
    assert not state.sheds(0.0, 10.0 + CALM_S)


def test_to_go_on_it_takes_half_of_what_it_takes_to_begin() -> None:
    state = overload()
    assert not state.sheds(MAX_S * 0.6, 0.0)
    assert state.sheds(MAX_S * 1.1, 1.0)
    for now in (3.0, 5.0, 7.0):
        assert state.sheds(MAX_S * 0.6, now)
    assert state.sheds(MAX_S * 0.5, 9.0)
    assert not state.sheds(MAX_S * 0.6, 7.0 + CALM_S)


def test_asking_often_prolongs_nothing() -> None:
    state = overload()
    assert state.sheds(1.0, 0.0)
    assert all(state.sheds(0.0, now / 100) for now in range(int(100 * CALM_S)))
    assert not state.sheds(0.0, CALM_S)


@pytest.mark.parametrize("lag_s", [0.0, 1.0, 100.0])
def test_it_can_be_turned_off(lag_s: float) -> None:
    assert not Overload(OverloadTable(max_lag_ms=0)).sheds(lag_s, 0.0)


def test_the_bound_may_change_meanwhile() -> None:
    state = overload()
    assert state.sheds(1.0, 0.0)
    state.table = OverloadTable(max_lag_ms=0)
    assert not state.sheds(1.0, 1.0)


async def test_an_overloaded_relay_refuses_newcomers_and_says_that_it_is_not_ready() -> None:
    table = OverloadTable(max_lag_ms=20, calm_s=0.1)
    async with serving(Config(overload=table)) as (relay, address), trio.open_nursery() as nursery:
        nursery.start_soon(relay.watch.lag.watch)
        await trio.lowlevel.checkpoint()
        assert (await fetch(address, "/readyz"))[0] == 200
        time.sleep(0.5)  # noqa: ASYNC251 - a loop that is kept from its work is what this is about
        status, headers, body = await fetch(address, "/readyz")
        assert (status, body, headers["retry-after"]) == (503, b"overloaded\n", "1")
        assert await refusal(address) == 503
        assert await refusal(address, "/elsewhere") == 404
        assert (await fetch(address, "/healthz"))[0] == 200
        nursery.cancel_scope.cancel()
