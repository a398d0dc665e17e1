"""The switchboard over real sockets: who is called when, in whose name, and how that ends."""

import contextlib
import contextvars
import functools
import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from relay import switchboard
from relay.switchboard import PAUSE_S, TOGETHER, TURN, Switchboard, pause_s

QUICK = 1.0


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, which does not block, and theirs."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def taking(ours: socket.socket, into: list[bytes], end: bytes = b"end") -> Callable[[], bool]:
    """Reads on until it is told to stop."""

    def readable() -> bool:
        into.append(ours.recv(100))
        return into[-1] != end

    return readable


async def attach(switched: Switchboard, fd: int, readable: Callable[[], bool]) -> None:
    attached = switched.attach(fd, readable)
    try:
        await attached.end()
    finally:
        if attached.fault is not None:
            raise attached.fault


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(QUICK):
        while not true():
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("served", "elapsed_s", "pause"),
    [
        (0, 1.0, 0.0),  # it woke in vain
        (1, 0.02, 0.0),  # one call, one frame each 20 ms
        (1, 0.0005, PAUSE_S),  # the frame before was 0.5 ms ago
        (1, 0.0006, 0.0),
        (3, 0.0016, 0.0),  # behind a pause: fewer than three in it
        (4, 0.0016, PAUSE_S),
        (40, 0.0201, 0.0),  # all calls at once, each 20 ms: gathered already
        (TURN - 1, 0.0015, PAUSE_S),
        (TURN, 0.0015, 0.0),  # there may be more
    ],
)
def test_frames_are_gathered_where_they_are_many(
    served: int, elapsed_s: float, pause: float
) -> None:
    assert pause_s(served, elapsed_s) == pause


async def test_what_comes_is_read_until_that_is_enough() -> None:
    heard: list[bytes] = []
    with pair() as (ours, theirs):
        async with switchboard.opened() as switched, trio.open_nursery() as nursery:
            nursery.start_soon(attach, switched, ours.fileno(), taking(ours, heard))
            for said in (b"one", b"two", b"end", b"unheard"):
                theirs.send(said)
                await until(lambda said=said: heard[-1:] == [said] or b"end" in heard)  # type: ignore[misc]
            assert not switched.attends(ours.fileno())
        assert ours.recv(100) == b"unheard"
    assert heard == [b"one", b"two", b"end"]


async def test_the_peers_end_is_something_to_read() -> None:
    heard: list[bytes] = []
    with pair() as (ours, theirs):
        async with switchboard.opened() as switched:
            theirs.close()
            with trio.fail_after(QUICK):
                await attach(switched, ours.fileno(), taking(ours, heard, end=b""))
    assert heard == [b""]


async def test_it_is_called_in_the_name_of_the_task_that_waits() -> None:
    name = contextvars.ContextVar("name", default="nobody")
    names: list[str] = []

    async def attached(mine: str, switched: Switchboard, ours: socket.socket) -> None:
        name.set(mine)

        def readable() -> bool:
            names.append(name.get())
            ours.recv(100)
            return False

        await attach(switched, ours.fileno(), readable)

    with pair() as (one, to_one), pair() as (two, to_two):
        async with switchboard.opened() as switched, trio.open_nursery() as nursery:
            nursery.start_soon(attached, "one", switched, one)
            nursery.start_soon(attached, "two", switched, two)
            to_one.send(b"!")
            to_two.send(b"!")
    assert sorted(names) == ["one", "two"]


async def test_what_it_raises_is_raised_where_it_was_attached_and_nowhere_else() -> None:
    heard: list[bytes] = []

    def stumbles() -> bool:
        raise ZeroDivisionError

    with pair() as (ours, theirs), pair() as (other, to_other):
        async with switchboard.opened() as switched, trio.open_nursery() as nursery:
            nursery.start_soon(attach, switched, other.fileno(), taking(other, heard))
            theirs.send(b"!")
            with pytest.raises(ZeroDivisionError):
                await attach(switched, ours.fileno(), stumbles)
            to_other.send(b"end")
    assert heard == [b"end"]


async def test_who_is_cancelled_is_not_called_any_more_not_even_in_the_same_turn() -> None:
    called: list[int] = []
    scopes = [trio.CancelScope(), trio.CancelScope()]

    async def attached(me: int, switched: Switchboard, ours: socket.socket) -> None:
        def readable() -> bool:
            called.append(me)
            scopes[1 - me].cancel()
            ours.recv(100)
            return True

        with scopes[me]:
            await attach(switched, ours.fileno(), readable)

    with pair() as (one, to_one), pair() as (two, to_two):
        to_one.send(b"!")
        to_two.send(b"!")
        async with switchboard.opened() as switched, trio.open_nursery() as nursery:
            nursery.start_soon(attached, 0, switched, one)
            nursery.start_soon(attached, 1, switched, two)
            await until(lambda: bool(called))
            await trio.testing.wait_all_tasks_blocked()
            survivor = called[0]
            assert not switched.attends((two, one)[survivor].fileno())
            nursery.cancel_scope.cancel()
    assert len(called) == 1


async def test_what_is_raised_is_raised_although_the_task_was_cancelled_meanwhile() -> None:
    scope = trio.CancelScope()

    def cancels_and_stumbles() -> bool:
        scope.cancel()
        raise ZeroDivisionError

    with pair() as (ours, theirs):
        theirs.send(b"!")
        async with switchboard.opened() as switched:
            with pytest.raises(ZeroDivisionError), scope:
                await attach(switched, ours.fileno(), cancels_and_stumbles)
            assert not switched.attends(ours.fileno())


async def test_a_number_that_was_released_may_be_anothers() -> None:
    heard: list[bytes] = []
    async with switchboard.opened() as switched, trio.open_nursery() as nursery:
        with pair() as (ours, theirs):
            number = ours.fileno()
            nursery.start_soon(attach, switched, number, taking(ours, heard))
            await trio.testing.wait_all_tasks_blocked()
            theirs.send(b"to nobody")
            switched.release(number)
            switched.release(number)  # harmless
        with pair() as (ours, theirs):
            assert ours.fileno() == number
            theirs.send(b"end")
            with trio.fail_after(QUICK):
                await attach(switched, number, taking(ours, heard))
    assert heard == [b"end"]


async def test_one_turn_is_bounded_and_then_others_have_theirs() -> None:
    with ExitStack() as stack:
        pairs = [stack.enter_context(pair()) for _ in range(3 * TURN)]
        called = [0]

        def readable(ours: socket.socket) -> bool:
            called[0] += 1
            return True  # and reads nothing: it is ready for ever

        seen: list[int] = []
        async with switchboard.opened() as switched, trio.open_nursery() as nursery:
            for ours, theirs in pairs:
                theirs.send(b"!")
                nursery.start_soon(
                    attach, switched, ours.fileno(), functools.partial(readable, ours)
                )
            with trio.fail_after(QUICK):
                while called[0] < 10 * TURN:
                    seen.append(called[0])
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        # Two turns, where ours comes late in one round of trio's and early in the next.
        assert max(after - before for before, after in itertools.pairwise(seen)) <= 2 * TURN


async def test_frames_that_come_close_together_wait_for_each_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at: list[float] = []

    def noted(ours: socket.socket) -> bool:
        at.append(trio.current_time())
        ours.recv(100)
        return True

    with ExitStack() as stack:
        pairs = [stack.enter_context(pair()) for _ in range(4)]
        async with switchboard.opened() as switched, trio.open_nursery() as nursery:
            for ours, _ in pairs:
                nursery.start_soon(attach, switched, ours.fileno(), functools.partial(noted, ours))
            await trio.sleep(1)
            for _, theirs in pairs[:2]:
                theirs.send(b"!")  # together, after a long time: served at once
            await trio.sleep(0.0005)
            pairs[2][1].send(b"!")  # soon after: served at once, and many are expected
            await trio.sleep(0.0001)
            pairs[3][1].send(b"!")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert [round(time - 1, 6) for time in at] == [0, 0, 0.0005, 0.0005 + PAUSE_S]


async def test_what_is_postponed_in_a_turn_is_done_behind_what_is_read_in_it() -> None:
    done: list[str] = []

    def answers(ours: socket.socket, switched: Switchboard) -> bool:
        ours.recv(100)
        done.append("heard")
        assert switched.postpone(lambda: done.append("answered"))
        return True

    async with switchboard.opened() as switched, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            for _ in range(TOGETHER + 2):
                ours, theirs = stack.enter_context(pair())
                answering = functools.partial(answers, ours, switched)
                nursery.start_soon(attach, switched, ours.fileno(), answering)
                theirs.send(b"!")
            await until(lambda: done.count("answered") == TOGETHER + 2)
            nursery.cancel_scope.cancel()
    together = ["heard"] * TOGETHER + ["answered"] * TOGETHER
    assert done == [*together, "heard", "heard", "answered", "answered"]


async def test_outside_of_a_turn_nothing_is_postponed() -> None:
    def never() -> None:
        raise AssertionError

    async with switchboard.opened() as switched:
        assert not switched.postpone(never)
