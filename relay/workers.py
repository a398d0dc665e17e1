"""workers: several processes serve the same sockets, and their parent looks after them.

The parent holds the sockets, so that nobody who connects is lost while a worker is replaced; starts
the workers (`relay.worker`); listens to signals, to systemd and for changed files, and serves the
admin pages, for all of them; and keeps the books that they share (`relay.hub`). It accepts no
connection of a client, holds no conversation and reads no byte of one. When to start, ask or kill
whom is decided in `relay.supervision`.

All workers accept from the same sockets: who has nothing else to do is there first, which spreads
conversations as evenly as SO_REUSEPORT does, and nobody waits in the queue of a worker that has
died or does not answer.
"""

import enum
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import structlog
import trio
from trio_util import AsyncValue

import relay
from relay import admin, config, continuity, link, logs, server, systemd
from relay.config import Config, ConfigError
from relay.continuity import Continuity
from relay.hub import Desk
from relay.link import ParentsEnd
from relay.metering import Metering
from relay.metrics import Snapshot, lasting, merged
from relay.observer import Live
from relay.ready import write_ready_file
from relay.reload import Reloader, Reloads
from relay.served import Served, Sources
from relay.supervision import ASK_EVERY_S, Ask, Crew, Kill, Start
from relay.watch import Watch

GRACE_S = 2.0
"""Time for a worker to end that has nothing more to say."""
RENEW_S = 1.0
"""Time for the figures of all workers to come together."""
NOT_THE_WORKERS = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
)
"""What systemd says to its own child alone."""

log = structlog.get_logger()


async def serve(
    load: Callable[[], Config],
    environment: Mapping[str, str],
    ready_file: Path | None = None,
    file: Path | None = None,
) -> int:
    """As `server.serve`, with `listen.workers` processes; the exit code is also 1 when no worker
    lives."""
    sources = Sources(file, load, environment)
    with (
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
        trio.open_signal_receiver(signal.SIGHUP) as hangups,
    ):
        served = sources.read()
        logs.set_up(served.config.log.level, served.config.log.format)
        bound = await server.bind(served.config, environment)
        if bound is None:
            return 1
        listeners, pages = bound
        address = served.destinations[0].address
        server.announce(address, environment)
        metering = Metering(served.rules)
        async with (
            continuity.opened(served.config) as books,
            metering.kept_in(books.store),
            trio.open_nursery() as nursery,
        ):
            parent = Parent(served, environment, listeners, books, metering, nursery)
            parent.shows = bool(pages)
            nursery.start_soon(parent.supervise)
            nursery.start_soon(parent.feed_watchdog)
            nursery.start_soon(parent.stop_on, signals)
            stage = await parent.stage.wait_value(lambda stage: stage is not Stage.STARTING)
            async with admin.serving(pages, served.config.admin, parent.shown):
                if stage is Stage.SERVING:
                    if ready_file:
                        write_ready_file(ready_file, parent.urls)
                    for url in parent.urls:
                        workers = served.config.listen.processes
                        log.info("listening", url=url, upstream=address.shown, workers=workers)
                    systemd.notify(environment, READY=1, STATUS=parent.status)
                    async with trio.open_nursery() as reloading:
                        reloading.start_soon(Reloader(sources, parent, environment).run, hangups)
                        await parent.stage.wait_value(lambda stage: stage is not Stage.SERVING)
                        reloading.cancel_scope.cancel()
                nursery.start_soon(server.ignore, hangups)
                await parent.stage.wait_value(Stage.OVER)
            nursery.cancel_scope.cancel()
    log.info("drained" if parent.code == 0 else "stopped")
    return parent.code


class Stage(enum.Enum):
    """Of the daemon."""

    STARTING = "starting"
    """Not all workers have served yet."""
    SERVING = "serving"
    """They have, once; from now on one that cannot is tried again."""
    DRAINING = "draining"
    """They were told to end."""
    OVER = "over"
    """There are no workers any more, nor will there be."""


class Parent:
    """The workers of a daemon, and what they have in common."""

    def __init__(
        self,
        served: Served,
        environment: Mapping[str, str],
        listeners: server.Listeners,
        books: Continuity,
        metering: Metering,
        nursery: trio.Nursery,
    ) -> None:
        self._served = served
        self._environment = environment
        self._places = server.Places(listeners)
        self._descriptors = [listener.socket.fileno() for listener in listeners]
        self._books = books
        self._nursery = nursery
        self._crew = Crew(served.config.listen.processes, trio.current_time())
        self._alarm = trio.CancelScope()
        self._hands: dict[int, _Hand] = {}
        self._lives = 0
        self._last_word: link.Drain | link.Stop | None = None  # all workers are told
        self._past: Snapshot = []  # what those have counted that are no more
        self._watch = Watch(is_serving=False)
        self._metering = metering
        self.reloads = Reloads()
        self.shows = False
        """Somebody may look at the figures."""
        self.code = 0
        """What the daemon ends with."""
        self.stage: AsyncValue[Stage] = AsyncValue(Stage.STARTING)

    # -- what is served ---------------------------------------------------------------------------

    @property
    def served(self) -> Served:
        return self._served

    @property
    def urls(self) -> list[str]:
        """Where clients connect, without path."""
        return self._places.urls(self._served)

    @property
    def status(self) -> str:
        """For a person, in a line."""
        return self._places.status(self._served)

    async def change(self, new: Served) -> None:
        """Have all workers serve this from now on. Raises `ConfigError` for what cannot be served
        here, and goes on as before."""
        self._places.demand_keys(new)
        faults = await self._changed(new)
        if faults:
            await self._changed(self._served)
            raise ConfigError(faults[0])
        if new.config.log != self._served.config.log:
            logs.set_up(new.config.log.level, new.config.log.format)
        self._metering.rules = new.rules
        self._served = new
        for hand in self._hands.values():
            if hand.served is not new:  # it began meanwhile
                self._nursery.start_soon(hand.change, new)

    async def _changed(self, new: Served) -> list[str]:
        """Why workers refuse this."""
        faults: list[str] = []

        async def tell(hand: _Hand) -> None:
            fault = await hand.change(new)
            if fault is not None:
                faults.append(fault)

        async with trio.open_nursery() as nursery:
            for hand in self._hands.values():
                nursery.start_soon(tell, hand)
        return faults

    # -- what the admin pages show ----------------------------------------------------------------

    @property
    def shown(self) -> admin.Sources:
        """The sum of what the workers say."""
        return admin.Sources(
            self._figures, self._live, not_ready=self._not_ready, renew=self._renew
        )

    async def _renew(self) -> None:
        """Ask the workers; of one that does not answer soon, what it said last counts."""
        with trio.move_on_after(RENEW_S):
            async with trio.open_nursery() as nursery:
                for hand in self._hands.values():
                    nursery.start_soon(hand.renew)

    def _not_ready(self) -> str | None:
        if self._crew.is_dismissed:
            return "draining"
        return None if self._crew.serving else "no worker serves"

    def _figures(self) -> Snapshot:
        metrics = self._watch.metrics
        metrics.parked.put(self._books.parked)
        self._watch.reloaded(self.reloads)
        self._watch.metered(self._metering, self._served.config.upstream_models)
        own = self._watch.snapshot()
        return merged([own, self._past, *(hand.figures for hand in self._hands.values())])

    def _live(self) -> list[Live]:
        return [session for hand in self._hands.values() for session in hand.live]

    # -- the workers ------------------------------------------------------------------------------

    async def supervise(self) -> None:
        """Start the workers, and look after them for ever."""
        while True:
            for order in self._crew.time_passed(trio.current_time()):
                match order:
                    case Start(number):
                        self._lives += 1
                        self._nursery.start_soon(self._life, number)
                    case Ask(number):
                        self._hands[number].end.post(link.Ping(self.shows))
                    case Kill(number, silent_s):
                        log.error("worker does not answer", worker=number, silent_s=silent_s)
                        self._hands[number].process.kill()
            with trio.CancelScope(deadline=self._crew.next_deadline()) as self._alarm:
                await trio.sleep_forever()

    async def feed_watchdog(self) -> None:
        """Tell systemd that all is well for as long as all workers answer."""
        await systemd.watchdog(
            self._environment,
            lambda: self._crew.answering(trio.current_time()),
            longest_s=ASK_EVERY_S,
        )

    async def stop_on(self, signals: AsyncIterator[int]) -> None:
        """The first signal drains, the second stops."""
        await anext(signals)
        systemd.notify(self._environment, STOPPING=1, STATUS="Draining")
        log.info("draining", workers=self._lives)
        self.stage.value = Stage.DRAINING
        self._crew.dismissed()
        self._end_if_alone()
        self._tell(link.Drain(systemd.is_activated(self._environment)))
        await anext(signals)
        log.warning("stopping at once")
        self.code = 1
        self._tell(link.Stop())
        await trio.sleep(server.GOODBYE_S)
        for hand in self._hands.values():
            hand.process.kill()

    def _tell(self, last_word: link.Drain | link.Stop) -> None:
        self._last_word = last_word
        for hand in self._hands.values():
            hand.end.post(last_word)

    async def _life(self, number: int) -> None:
        """A worker from its start to its end."""
        began = trio.current_time()
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with stream:
            with theirs:
                process = await self._started(theirs)
            end = link.parents_end(stream)
            self._hands[number] = hand = _Hand(process, end, self._served)
            try:
                hand.end.post(self._begin(number))
                if self._last_word is not None:
                    hand.end.post(self._last_word)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(hand.end.write)
                    fault = await self._attend(number, hand)
                    if fault is not None:
                        log.error("worker makes no sense", worker=number, reason=fault)
                        process.kill()
                    nursery.cancel_scope.cancel()
                with trio.move_on_after(GRACE_S):
                    await process.wait()
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    code = await process.wait()
                del self._hands[number]
            # In the same step: until it has died the crew may ask it.
            self._past = merged([self._past, lasting(hand.figures)])
            self._died(number, code, trio.current_time() - began)

    async def _started(self, link_end: socket.socket) -> trio.Process:
        # The same program, wherever this process has found it, and nothing that lies around in the
        # current directory. A process group of its own keeps Ctrl-C for the parent.
        place = str(Path(relay.__file__).parent.parent)
        environment = {k: v for k, v in self._environment.items() if k not in NOT_THE_WORKERS}
        paths = [place, *filter(None, [environment.get("PYTHONPATH")])]
        return await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "relay.worker", str(link_end.fileno())],
            stdin=subprocess.DEVNULL,
            env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
            pass_fds=(link_end.fileno(), *self._descriptors),
            process_group=0,
        )

    def _begin(self, number: int) -> link.Begin:
        return link.Begin(
            number,
            config.encoded(self._served.config),
            self._descriptors,
            self._books.durable,
            self._books.compares_settings,
        )

    async def _attend(self, number: int, hand: "_Hand") -> str | None:
        """Hear what a worker says until it has nothing more to say, or, which is returned, what
        makes no sense."""
        desk = Desk(self._books, self._metering, hand.end, self._nursery)
        try:
            while (message := await hand.end.hear()) is not None:
                match message:
                    case link.Ready():
                        self._ready(number, hand)
                    case link.Pong(figures, live):
                        self._crew.heard(number, trio.current_time())
                        hand.says(figures, live)
                    case link.Changed(change, fault):
                        hand.changed(change, fault)
                    case link.Leaving():
                        self._crew.leaving(number)
                    case link.Unfit(fault):
                        self._unfit(number, fault)
                    case _:
                        desk.hear(message)
        except link.Garbled as garbled:
            return str(garbled)
        finally:
            hand.is_gone()
            desk.close()
        return hand.end.fault

    def _ready(self, number: int, hand: "_Hand") -> None:
        self._crew.ready(number, trio.current_time())
        log.info("worker serves", worker=number, pid=hand.process.pid)
        self._look_again()
        if self._crew.complete and self.stage.value is Stage.STARTING:
            self.stage.value = Stage.SERVING

    def _unfit(self, number: int, fault: str) -> None:
        if self.stage.value is Stage.STARTING:
            raise ConfigError(fault)
        log.error("worker cannot serve", worker=number, reason=fault)

    def _died(self, number: int, code: int, lasted_s: float) -> None:
        self._lives -= 1
        again_in_s = self._crew.died(number, trio.current_time())
        lasted_s = round(lasted_s, 3)
        if math.isinf(again_in_s) or not code:
            log.info("worker ended", worker=number, code=code, lasted_s=lasted_s)
        else:
            log.error(
                "worker died", worker=number, code=code, lasted_s=lasted_s, again_in_s=again_in_s
            )
        if self._crew.hopeless:
            log.error("giving up: no worker lives")
            self.code = 1
            self.stage.value = Stage.OVER
        if code and self._crew.is_dismissed:
            self.code = 1
        self._look_again()
        self._end_if_alone()

    def _end_if_alone(self) -> None:
        if self._crew.is_dismissed and not self._lives:
            self.stage.value = Stage.OVER

    def _look_again(self) -> None:
        self._alarm.deadline = self._crew.next_deadline()


class _Hand:
    """A worker, as its parent holds it."""

    def __init__(self, process: trio.Process, end: ParentsEnd, served: Served) -> None:
        self.process = process
        self.end = end
        self.served = served
        """What it was last told to serve."""
        self.figures: Snapshot = []
        """As it last said."""
        self.live: list[Live] = []
        """As it last said."""
        self._said: AsyncValue[int] = AsyncValue(0)
        self._numbers = itertools.count(1)
        self._changing: dict[int, trio.Event] = {}
        self._faults: dict[int, str | None] = {}

    def says(self, figures: Snapshot, live: list[Live]) -> None:
        self.figures, self.live = figures, live
        self._said.value += 1

    async def renew(self) -> None:
        """Ask for the figures of now."""
        before = self._said.value
        self.end.post(link.Ping(with_figures=True))
        await self._said.wait_value(lambda said: said > before)

    async def change(self, new: Served) -> str | None:
        """Have it serve this; why it refuses, if it does. One that dies does not."""
        self.served = new
        number = next(self._numbers)
        self._changing[number] = answered = trio.Event()
        self.end.post(link.Change(number, config.encoded(new.config)))
        await answered.wait()
        return self._faults.pop(number, None)

    def changed(self, number: int, fault: str | None) -> None:
        if (asked := self._changing.pop(number, None)) is None:
            raise link.Garbled(f"an answer to {number}")
        self._faults[number] = fault
        asked.set()

    def is_gone(self) -> None:
        for answered in self._changing.values():
            answered.set()
