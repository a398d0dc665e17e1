"""worker: one of several processes that serve the same sockets. `relay.workers` starts it.

It serves as a relay on its own does (`relay.server`), but who has which conversation, and how much
everybody uses, it asks its parent (`relay.hub`). It ends when it is told to, on SIGTERM, and when
its parent is no more.
"""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Generic, TypeVar

import structlog
import trio
from trio_util import AsyncValue

from relay import config, heap, link, logs, server
from relay.causes import causes
from relay.config import Config, ConfigError
from relay.continuity import Resumed, Snapshot, Visit
from relay.limits import Reached, Rules, Spent
from relay.link import WorkersEnd
from relay.metering import NO_CLAIM, Metering, Seat
from relay.parking import Claim, End
from relay.served import build
from relay.session.usage import Used

T = TypeVar("T")

log = structlog.get_logger()


def main(descriptor: int) -> int:
    """Serve what the parent at the other end of this socket says; the exit code: 0 drained, 1 cut
    short, 2 the configuration cannot be served."""
    # To the terminal's Ctrl-C and hang-up the parent listens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        return trio.run(work, socket.socket(fileno=descriptor), os.environ)
    except Exception as error:
        log.error("stopped by a failure", exc_info=error)
        return 1


async def work(parent: socket.socket, environment: Mapping[str, str]) -> int:
    """See `main`."""
    async with trio.SocketStream(trio.socket.from_stdlib_socket(parent)) as stream:
        end = link.workers_end(stream)
        begin = await end.hear()
        if not isinstance(begin, link.Begin):
            return 1  # the parent is gone
        configured = config.decoded(begin.configuration)
        logs.set_up(configured.log.level, configured.log.format)
        structlog.contextvars.bind_contextvars(worker=begin.number)
        worker, code, serving = Worker(end, begin, environment), 1, trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.write)
            nursery.start_soon(worker.obey, serving)
            with serving:
                code = await worker.serve(configured)
            await end.flush()
            nursery.cancel_scope.cancel()
        return code


class Worker:
    """What the parent says, and what becomes of it."""

    def __init__(self, end: WorkersEnd, begin: link.Begin, environment: Mapping[str, str]) -> None:
        self._end = end
        self._begin = begin
        self._environment = environment
        self._books = RemoteBooks(end, begin)
        self._metering = RemoteMetering(end)
        self._relay: AsyncValue[server.Relay | None] = AsyncValue(None)
        self._told_to_drain = trio.Event()
        self._told_to_stop = trio.Event()
        self._socket_stays = True

    async def serve(self, configured: Config) -> int:
        """Until it is told to drain, and to the end of that; see `main`."""
        unfit: str | None = None
        drained = False
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            try:
                served = build(configured, self._environment)
                self._metering.rules, self._metering.prices = served.rules, configured.prices
                listeners = [_listener(each) for each in self._begin.sockets]
                shared = server.Shared(self._books, self._metering)
                running = server.running(served, self._environment, listeners, shared=shared)
                async with running as relay, trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear_signals, signals)
                    self._relay.value = relay
                    heap.settle()
                    self._end.post(link.Ready())
                    await self._told_to_drain.wait()
                    relay.socket_stays = self._socket_stays
                    drained = await self._drained(relay)
                    nursery.cancel_scope.cancel()
            except* ConfigError as faults:
                unfit = str(next(causes(faults)))
        if unfit is not None:
            self._end.post(link.Unfit(unfit))
            return 2
        log.info("drained" if drained else "stopped", left=relay.live.value)
        return 0 if drained else 1

    async def obey(self, serving: trio.CancelScope) -> None:
        """Do what the parent says, and end when it has ended."""
        async with trio.open_nursery() as nursery:
            while (message := await self._end.hear()) is not None:
                match message:
                    case link.Ping(with_figures):
                        self._end.post(self._pong(with_figures=with_figures))
                    case link.Change():
                        nursery.start_soon(self._change, message)
                    case link.Drain(socket_stays):
                        self._socket_stays = socket_stays
                        self._told_to_drain.set()
                    case link.Stop():
                        self._told_to_drain.set()
                        self._told_to_stop.set()
                    case _:
                        self._books.hear(message)
                        self._metering.hear(message)
            log.error("the parent is gone")
            serving.cancel()
            nursery.cancel_scope.cancel()

    def _pong(self, *, with_figures: bool) -> link.Pong:
        relay = self._relay.value
        if relay is None or not with_figures:
            return link.Pong([], [])
        return link.Pong(relay.snapshot(), relay.watch.live())

    async def _change(self, change: link.Change) -> None:
        relay = await self._relay.wait_value(lambda relay: relay is not None)
        assert relay is not None
        configured = config.decoded(change.configuration)
        fault = None
        try:
            new = await trio.to_thread.run_sync(build, configured, self._environment)
            await relay.change(new)
        except ConfigError as error:
            fault = str(error)
        self._end.post(link.Changed(change.number, fault))

    async def _hear_signals(self, signals: AsyncIterator[int]) -> None:
        """Who ends this process alone is heard, too: another one takes its place."""
        await anext(signals)
        self._end.post(link.Leaving())
        self._told_to_drain.set()
        await anext(signals)
        self._told_to_stop.set()

    async def _drained(self, relay: server.Relay) -> bool:
        drained = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_on_stop, nursery.cancel_scope)
            drained = await relay.drain()
            nursery.cancel_scope.cancel()
        return drained

    async def _cancel_on_stop(self, scope: trio.CancelScope) -> None:
        await self._told_to_stop.wait()
        scope.cancel()


class RemoteBooks:
    """The books, which the parent keeps. What asks waits for the parent; what tells does not."""

    def __init__(self, end: WorkersEnd, begin: link.Begin) -> None:
        self.durable = begin.durable
        self.compares_settings = begin.compares_settings
        self._end = end
        self._visits: dict[str, Visit] = {}
        self._decisions: dict[str, _Answer[Resumed]] = {}
        self._writes: dict[int, trio.Event] = {}
        self._count = 0

    def hear(self, message: link.ToWorker) -> None:
        """Messages that are none of the books' do nothing."""
        match message:
            case link.Watch(connection) if connection in self._visits:
                self._visits[connection].watch()
            case link.Leave(connection):
                self._end.withdraw(connection)
                self._end.post(link.Left(connection, self._left(connection)))
            case link.Decision(connection, resumed) if connection in self._decisions:
                self._decisions[connection].give(resumed)
            case link.Written(number) if number in self._writes:
                self._writes.pop(number).set()
            case _:
                pass

    def _left(self, connection: str) -> bytes | None:
        """Close a connection. What is left of its conversation may have come with a decision that
        nobody has taken yet."""
        visit = self._visits.pop(connection, None)
        left = None if visit is None else visit.superseded()
        if left is None and connection in self._decisions:
            untaken = self._decisions[connection].value
            left = None if untaken is None else untaken.snapshot
        return left

    @property
    def parked(self) -> int:
        return 0  # here

    def visit(self, request_id: str, claim: Claim) -> Visit:
        self._visits[request_id] = visit = Visit(self, request_id)
        self._end.post(link.Arrived(request_id, claim))
        return visit

    def came(self, connection: str) -> None:
        self._end.post(link.Came(connection))

    async def decided(self, connection: str, settings: bytes | None) -> Resumed | None:
        answer: _Answer[Resumed] = _Answer()
        self._decisions[connection] = answer
        self._end.post(link.Decided(connection, settings))
        try:
            return await answer.wait()
        finally:
            del self._decisions[connection]

    def changed(self, connection: str, snapshot: Snapshot) -> None:
        if self.durable:
            self._end.post_latest(connection, partial(_running, connection, snapshot))

    async def written(self) -> None:
        self._count += 1
        self._writes[self._count] = written = trio.Event()
        self._end.post(link.Write(self._count))
        await written.wait()

    def ended(self, connection: str, how: End, encoded: bytes | None) -> None:
        if self._visits.pop(connection, None) is not None:
            self._end.withdraw(connection)
            self._end.post(link.Ended(connection, how, encoded))


class RemoteMetering(Metering):
    """Counts and limits that the parent keeps. Prices, what was used and whom a limit has stopped
    are this process's."""

    def __init__(self, end: WorkersEnd) -> None:
        super().__init__(Rules())
        self._end = end
        self._count = 0
        self._numbers: dict[Seat, int] = {}
        self._exceeded: dict[int, Reached | None] = {}  # of all seats that are taken
        self._entering: dict[int, _Answer[Reached]] = {}
        self._settling: dict[int, trio.Event] = {}

    def hear(self, message: link.ToWorker) -> None:
        """Messages about other things do nothing."""
        match message:
            case link.Entered(number, reached) if number in self._entering:
                self._entering[number].give(reached)
            case link.Exceeded(number, reached) if number in self._exceeded:
                self._exceeded[number] = reached
            case link.Settled(number) if number in self._settling:
                self._settling[number].set()
            case _:
                pass

    async def enter(
        self, client: str, connection: str = "", claim: Claim = NO_CLAIM
    ) -> Seat | Reached:
        self._count += 1
        number = self._count
        answer: _Answer[Reached] = _Answer()
        self._entering[number] = answer
        self._end.post(link.Enter(number, client, connection, claim))
        try:
            reached = await answer.wait()
        except BaseException:
            self._end.post(link.Vacate(number))
            raise
        finally:
            del self._entering[number]
        if reached is not None:
            return reached
        seat = Seat(self, client)
        self._numbers[seat], self._exceeded[number] = number, None
        return seat

    def spend(self, seat: Seat, spent: Spent, used: Used) -> Reached | None:
        """What was reached by what was told before: a limit is noticed a second later."""
        self.used.add(used)
        number = self._numbers[seat]
        self._end.post(link.Spend(number, spent))
        return self._exceeded[number]

    def release(self, seat: Seat) -> None:
        number = self._numbers.pop(seat)
        del self._exceeded[number]
        self._end.post(link.Vacate(number))

    async def settled(self) -> None:
        self._count += 1
        number = self._count
        self._settling[number] = settled = trio.Event()
        self._end.post(link.Settle(number))
        try:
            await settled.wait()
        finally:
            del self._settling[number]


class _Answer(Generic[T]):
    """To a question that was posted."""

    def __init__(self) -> None:
        self.value: T | None = None
        """None until it is given, and perhaps then."""
        self._given = trio.Event()

    def give(self, value: T | None) -> None:
        self.value = value
        self._given.set()

    async def wait(self) -> T | None:
        await self._given.wait()
        return self.value


def _listener(descriptor: int) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))


def _running(connection: str, snapshot: Snapshot) -> link.Running | None:
    encoded = snapshot()
    return None if encoded is None else link.Running(connection, encoded)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
