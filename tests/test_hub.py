"""The books and the limits of several workers. Both ends are the real ones; only the processes and
the sockets between them are not."""

import contextlib
import struct
from collections.abc import AsyncIterator

import msgspec
import trio
from hypothesis import given
from hypothesis import strategies as some
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from relay import link
from relay.continuity import Continuity, Visit
from relay.hub import Desk
from relay.limits import ClientLimits, Reached, Rules, Spent
from relay.metering import Metering, Seat
from relay.parking import Claim, End, Lot
from relay.session.usage import Used
from relay.store import MemoryStore
from relay.voice_agent import KeepAlive
from relay.worker import RemoteBooks, RemoteMetering

HEAR = KeepAlive()
"""A first message that is no Settings."""


class DurableStore(MemoryStore):
    """As if a later process could read it."""

    durable = True


class Site:
    """A worker's side of its link. What it says is under way until `delivers`."""

    def __init__(self, end: link.WorkersEnd, durable: bool) -> None:
        begin = link.Begin(1, b"", [], durable, False)
        self.books = RemoteBooks(end, begin)
        self.metering = RemoteMetering(end)
        self.delivers = trio.Event()
        self.dies = trio.Event()
        self._end = end

    def visit(self, name: str, resume: str | None = None, left: bytes | None = None) -> Visit:
        visit = self.books.visit(name, Claim(resume=resume))
        visit.superseded = lambda: left
        return visit

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            while (message := await self._end.hear()) is not None:
                self.books.hear(message)
                self.metering.hear(message)

    async def _write(self) -> None:
        await self.delivers.wait()
        await self._end.write()


@contextlib.asynccontextmanager
async def sites(
    *, durable: bool = False, limits: ClientLimits | None = None, slow: int | None = None
) -> AsyncIterator[list[Site]]:
    """Two workers and their parent. What the one with the index `slow` says takes its time."""
    books = Continuity(Lot(), DurableStore() if durable else MemoryStore())
    metering = Metering(Rules(key=limits or ClientLimits()))
    found: list[Site] = []

    async def attend(desk: Desk, end: link.ParentsEnd, site: Site) -> None:
        async with trio.open_nursery() as hearing:
            hearing.start_soon(end.write)
            hearing.start_soon(cancel_on, site.dies, hearing.cancel_scope)
            while (message := await end.hear()) is not None:
                desk.hear(message)
        desk.close()

    async with trio.open_nursery() as nursery:
        for index in range(2):
            theirs, ours = memory_stream_pair()
            end = link.parents_end(ours)
            site = Site(link.workers_end(theirs), durable)
            if index != slow:
                site.delivers.set()
            desk = Desk(books, metering, end, nursery)
            nursery.start_soon(attend, desk, end, site)
            nursery.start_soon(site.run)
            found.append(site)
        yield found
        nursery.cancel_scope.cancel()


# A worker that is broken: what it says may be anything.

BODIES = [
    msgspec.msgpack.encode(each)
    for each in (
        link.Ready(),
        link.Arrived("a", Claim()),
        link.Running("a", b"snapshot"),
        link.Enter(1, "alice", "a", Claim()),
        link.Pong([], []),
    )
]
CONNECTIONS = some.sampled_from(["a", "b"])
SEATS = some.integers(1, 3)
LEFT = some.none() | some.just(b"left")
TYPED = some.one_of(
    some.builds(link.Arrived, CONNECTIONS, some.builds(Claim, resume=some.none() | CONNECTIONS)),
    some.builds(link.Came, CONNECTIONS),
    some.builds(link.Decided, CONNECTIONS, some.none() | some.just(b"digest")),
    some.builds(link.Running, CONNECTIONS, some.just(b"running")),
    some.builds(link.Write, SEATS),
    some.builds(link.Ended, CONNECTIONS, some.sampled_from(End), LEFT),
    some.builds(link.Left, CONNECTIONS, LEFT),
    some.builds(
        link.Enter,
        SEATS,
        some.just("alice"),
        CONNECTIONS,
        some.builds(Claim, resume=some.none() | CONNECTIONS),
    ),
    some.builds(link.Spend, SEATS, some.just(Spent(1, 1, 1.0, 1))),
    some.builds(link.Vacate, SEATS),
    some.builds(link.Settle, SEATS),
)


def framed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def changed(body: bytes, at: int, byte: int) -> bytes:
    return body[: at % len(body)] + bytes([byte]) + body[at % len(body) + 1 :]


GARBAGE = some.one_of(
    some.binary(max_size=40),
    some.binary(max_size=40).map(framed),
    some.builds(
        changed, some.sampled_from(BODIES), some.integers(0, 99), some.integers(0, 255)
    ).map(framed),
)


@given(some.lists(GARBAGE, max_size=5), some.integers(1, 50))
def test_whatever_comes_from_a_worker_is_a_message_or_the_end(
    said: list[bytes], piece: int
) -> None:
    async def hear() -> None:
        theirs, ours = memory_stream_pair()
        end = link.parents_end(ours)
        data = b"".join(said)
        for at in range(0, len(data), piece):
            await theirs.send_all(data[at : at + piece])
        await theirs.aclose()
        while (message := await end.hear()) is not None:
            assert isinstance(message, link.FromWorker)

    trio.run(hear)


async def test_a_message_that_would_never_end_is_none() -> None:
    theirs, ours = memory_stream_pair()
    end = link.parents_end(ours)
    await theirs.send_all(struct.pack("!I", link.MOST_BYTES + 1))
    assert await end.hear() is None
    assert end.fault == f"a message of {link.MOST_BYTES + 1} bytes"


@given(some.lists(TYPED, max_size=12), some.booleans())
def test_a_worker_that_makes_no_sense_harms_no_other(
    said: list[link.FromWorker], durable: bool
) -> None:
    async def attend() -> None:
        books = Continuity(Lot(), DurableStore() if durable else MemoryStore())
        metering = Metering(Rules(key=ClientLimits(sessions=3)))
        async with trio.open_nursery() as nursery:
            ends = [link.parents_end(memory_stream_pair()[0]) for _ in range(2)]
            broken, sound = (Desk(books, metering, end, nursery) for end in ends)
            sound.hear(link.Arrived("c", Claim()))
            sound.hear(link.Decided("c", None))
            sound.hear(link.Enter(1, "alice", "c", Claim()))
            with contextlib.suppress(link.Garbled):
                for message in said:
                    broken.hear(message)
            broken.close()
            await wait_all_tasks_blocked()
            assert metering.ledger.total.sessions == 1
            sound.hear(link.Ended("c", End.LOST, b"left"))
            sound.hear(link.Vacate(1))
            assert books.parked >= 1
            sound.close()
            await wait_all_tasks_blocked()
            assert metering.ledger.total.sessions == 0
            nursery.cancel_scope.cancel()

    trio.run(attend)


async def cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def begins(visit: Visit) -> None:
    assert await visit.decided(HEAR) is None


async def comes_back(visit: Visit, found: list[bytes | None]) -> None:
    returned = await visit.decided(HEAR)
    found.append(None if returned is None else returned.snapshot)
    visit.superseded = lambda: found[-1]


async def test_what_a_lost_connection_leaves_is_found_at_the_other_worker() -> None:
    async with sites() as (one, two):
        visit = one.visit("a")
        await begins(visit)
        visit.ended(End.LOST, b"left")
        await wait_all_tasks_blocked()
        returned = await two.visit("b", "a").decided(HEAR)
        assert returned is not None
        assert (returned.snapshot, returned.was_connected) == (b"left", False)
        assert await one.visit("c", "x").decided(HEAR) is None


async def test_a_connection_that_was_lost_while_another_claimed_hands_over_what_it_left() -> None:
    found: list[bytes | None] = []
    async with sites(slow=0) as (one, two), trio.open_nursery() as nursery:
        one.delivers.set()
        visit = one.visit("a", left=b"too late")
        await begins(visit)
        await wait_all_tasks_blocked()
        nursery.start_soon(comes_back, two.visit("b", "a"), found)
        visit.ended(End.LOST, b"left")  # before it hears that it is superseded
        await wait_all_tasks_blocked()
        assert found == [b"left"]


async def test_of_three_claims_in_a_row_the_last_one_gets_it() -> None:
    found: list[bytes | None] = []
    async with sites() as (one, two), trio.open_nursery() as nursery:
        await begins(one.visit("a", left=b"live"))
        second = two.visit("b", "a")
        await wait_all_tasks_blocked()
        third = one.visit("c", "a")
        nursery.start_soon(comes_back, second, [])
        nursery.start_soon(comes_back, third, found)
        await wait_all_tasks_blocked()
        assert found == [b"live"]


async def test_with_a_store_a_killed_worker_leaves_what_it_had_said_last() -> None:
    for durable, expected in ((True, b"running"), (False, None)):
        async with sites(durable=durable) as (one, two):
            await begins(one.visit("a"))
            one.books.changed("a", lambda: b"running")
            await wait_all_tasks_blocked()
            one.dies.set()
            await wait_all_tasks_blocked()
            returned = await two.visit("b", "a").decided(HEAR)
            assert (returned and returned.snapshot) == expected


async def test_what_a_killed_worker_leaves_counts_with_its_size() -> None:
    lot = Lot()
    books = Continuity(lot, DurableStore())
    async with trio.open_nursery() as nursery:
        _theirs, ours = memory_stream_pair()
        end = link.parents_end(ours)
        nursery.start_soon(end.write)
        for connection, resume in (("a", None), ("b", "a")):
            desk = Desk(books, Metering(Rules()), end, nursery)
            desk.hear(link.Arrived(connection, Claim(resume=resume)))
            desk.hear(link.Decided(connection, b"digest"))
            if resume is None:
                desk.hear(link.Running(connection, b"." * 700))
                await books.written()
            await wait_all_tasks_blocked()
            desk.close()
            assert (lot.parked, lot.parked_bytes) == (1, 700)  # and 700 as well where it went
        nursery.cancel_scope.cancel()


async def test_what_should_survive_a_crash_is_said_before_it_is_waited_for() -> None:
    async with sites(durable=True) as (one, two):
        await begins(one.visit("a"))
        for body in (b"1", b"2", b"3"):
            one.books.changed("a", lambda body=body: body)  # type: ignore[misc]
        await one.books.written()
        one.dies.set()
        await wait_all_tasks_blocked()
        returned = await two.visit("b", "a").decided(HEAR)
        assert returned is not None
        assert returned.snapshot == b"3"


async def test_who_claims_what_a_dying_worker_has_does_not_wait_for_ever(
    autojump_clock: MockClock,
) -> None:
    found: list[bytes | None] = []
    async with sites(durable=True, slow=0) as (one, two), trio.open_nursery() as nursery:
        one.delivers.set()
        await begins(one.visit("a", left=b"live"))
        one.books.changed("a", lambda: b"running")
        await one.books.written()
        one.books.hear = lambda message: None  # type: ignore[method-assign] # it hangs
        nursery.start_soon(comes_back, two.visit("b", "a"), found)
        await wait_all_tasks_blocked()
        assert found == []
        one.dies.set()
        await wait_all_tasks_blocked()
        assert found == [b"running"]


async def test_seats_are_counted_together_and_free_again_when_a_worker_dies() -> None:
    async with sites(limits=ClientLimits(sessions=2)) as (one, two):
        first, second = await one.metering.enter("alice"), await two.metering.enter("alice")
        assert isinstance(first, Seat)
        assert isinstance(second, Seat)
        assert isinstance(await two.metering.enter("alice"), Reached)
        assert isinstance(await two.metering.enter("bob"), Seat)
        second.leave()
        second.leave()
        await wait_all_tasks_blocked()
        third = await one.metering.enter("alice")
        assert isinstance(third, Seat)
        one.dies.set()
        await wait_all_tasks_blocked()
        for _ in range(2):
            assert isinstance(await two.metering.enter("alice"), Seat)
        assert isinstance(await two.metering.enter("alice"), Reached)


async def test_who_claims_what_a_lost_connection_holds_has_its_place_too() -> None:
    async with sites(limits=ClientLimits(sessions=1)) as (one, two):
        lost = await one.metering.enter("alice", "a")
        await begins(one.visit("a", left=b"live"))
        assert isinstance(await two.metering.enter("alice", "b", Claim(resume="x")), Reached)
        assert isinstance(await two.metering.enter("bob", "b", Claim(resume="a")), Seat)
        back = await two.metering.enter("alice", "c", Claim(resume="a"))
        assert isinstance(back, Seat)
        assert isinstance(await two.metering.enter("alice", "d", Claim(resume="a")), Reached)
        await comes_back(two.visit("c", "a"), [])
        assert isinstance(lost, Seat)
        lost.leave()
        await lost.free()
        assert isinstance(await one.metering.enter("alice", "d"), Reached)
        again = await one.metering.enter("alice", "d", Claim(resume="a"))
        assert isinstance(again, Seat)
        back.leave()
        again.leave()
        await again.free()
        await back.free()
        assert isinstance(await one.metering.enter("alice", "e"), Seat)


async def test_a_seat_is_free_at_all_workers_when_its_worker_says_so() -> None:
    async with sites(limits=ClientLimits(sessions=1), slow=0) as (one, two):
        one.delivers.set()
        seat = await one.metering.enter("alice")
        assert isinstance(seat, Seat)
        seat.leave()
        await seat.free()  # and nothing else is waited for
        assert isinstance(await two.metering.enter("alice"), Seat)


async def test_a_seat_that_nobody_waits_for_any_more_is_given_back() -> None:
    async with sites(limits=ClientLimits(sessions=1), slow=0) as (one, two):
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.metering.enter("alice")
        one.delivers.set()
        await wait_all_tasks_blocked()
        assert isinstance(await two.metering.enter("alice"), Seat)


async def test_what_is_used_at_one_worker_ends_sessions_at_the_other() -> None:
    async with sites(limits=ClientLimits(tokens_per_day=100)) as (one, two):
        here, there = await one.metering.enter("alice"), await two.metering.enter("alice")
        assert isinstance(here, Seat)
        assert isinstance(there, Seat)
        assert one.metering.spend(here, Spent(tokens=99), Used()) is None
        await wait_all_tasks_blocked()
        assert two.metering.spend(there, Spent(tokens=1), Used()) is None
        await wait_all_tasks_blocked()
        reached = two.metering.spend(there, Spent(), Used())
        assert reached is not None
        assert reached.key == "limits.key.tokens_per_day"
        assert isinstance(await one.metering.enter("alice"), Reached)
