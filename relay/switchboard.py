"""switchboard: one task that waits for many descriptors.

It knows epoll and trio, and neither what is read nor by whom. Trio waits for each descriptor anew:
for every frame a system call to arm it, a task to wake, and a walk through the coroutines of that
task. Here a task stays `attached`: what it wants done is called for as long as it waits, and only
the end of that wakes it.

Where frames are many they are gathered (`pause_s`), as a network card does with its interrupts:
going to sleep and being woken costs as much as a frame itself. The same is true of those to whom
they go: what is sent in a turn is sent together (`postpone`).
"""

import contextlib
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import trio
from trio.lowlevel import Abort, wait_readable

from relay import upkeep
from relay.upkeep import Upkeep

PAUSE_S: Final = 0.0015
"""How long frames are gathered where they are many. The kernel is asked to wake us after whole
milliseconds, rounded up, so that it adds 2 ms at the most to the latency of one: short beside a
frame's 20 ms and any network's jitter, and long enough that with a frame each 0.2 ms ten share the
cost of waking up. docs/BENCHMARK.md has it beside more and less."""
MANY: Final = 3
"""Descriptors in `PAUSE_S`, from which on gathering saves a wake-up."""
TURN: Final = 64
"""Descriptors that are served before other tasks have their turn."""
TOGETHER: Final = 8
"""So many sends are done together: the first of them waits a quarter of a millisecond for the
others. More save nothing more, and make all wait longer where sessions are many."""


def pause_s(served: int, elapsed_s: float) -> float:
    """How long after the beginning of a turn the next one begins; 0: as soon as there is something
    to read. `served`: the descriptors that were ready in this turn, but not in the last one: who is
    ready again at once sends in bulk, which gathering would only slow down. `elapsed_s`: from the
    beginning of the last turn to that of this one."""
    return PAUSE_S if served * PAUSE_S >= MANY * elapsed_s and served < TURN else 0.0


@contextlib.asynccontextmanager
async def opened() -> "AsyncIterator[Switchboard]":
    """A switchboard, for as long as the block lasts. Tasks that attach must have ended by then."""
    with contextlib.closing(select.epoll()) as epoll:
        async with upkeep.opened() as kept_up, trio.open_nursery() as nursery:
            switchboard = Switchboard(epoll, kept_up)
            nursery.start_soon(switchboard.run)
            yield switchboard
            nursery.cancel_scope.cancel()


class Switchboard:
    """Made by `opened`."""

    def __init__(self, epoll: select.epoll, kept_up: Upkeep) -> None:
        self.upkeep = kept_up
        """For those who attach: what waits for something else than reading."""
        self._epoll = epoll
        self._attached: dict[int, Attached] = {}
        self._turns = 0
        self._serves = False
        self._postponed: list[Callable[[], None]] = []

    def attach(self, fd: int, readable: Callable[[], bool]) -> "Attached":
        """Call `readable` whenever there is something to read, for as long as it says True. This
        task must await the `end` of that at once; it may also come by `release`.

        It is called in this task's context, by another task: it may not await. What it raises is
        the `fault`. It is not called any more once this task is cancelled. The descriptor must be
        released before it is closed: its number may be another's soon."""
        self._epoll.register(fd, select.EPOLLIN)
        attached = self._attached[fd] = Attached(self, fd, readable)
        return attached

    def release(self, fd: int) -> None:
        """Let go whoever is attached to it, if anybody is."""
        if fd in self._attached:
            trio.lowlevel.reschedule(self.detach(fd).task)

    def attends(self, fd: int) -> bool:
        """Whether a task is attached to it."""
        return fd in self._attached

    def postpone(self, send: Callable[[], None]) -> bool:
        """Call it when this turn is over, or when enough is postponed; False if there is no turn
        now: then it will not be called. It may not raise.

        A send wakes the task at the other end, unless that is awake: between sends that follow each
        other at once it does not go to sleep, between others it does."""
        if self._serves:
            self._postponed.append(send)
        return self._serves

    async def run(self) -> None:
        """Serve for ever."""
        fd = self._epoll.fileno()
        began, pause = trio.current_time(), 0.0
        while True:
            if pause:
                await trio.sleep_until(began + pause)
            else:
                await wait_readable(fd)
            last, began = began, trio.current_time()
            pause = pause_s(self._turn(), began - last)

    def _turn(self) -> int:
        """Serve what is ready. How many that were, without those of the last turn."""
        self._turns += 1
        served = 0
        self._serves = True
        for fd, _ in self._epoll.poll(0, TURN):
            attached = self._attached.get(fd)
            if attached is None:
                continue  # what was called before has released it, or cancelled its task
            served += attached.served < self._turns - 1
            attached.served = self._turns
            try:
                stays = attached.task.context.run(attached.readable)
            except Exception as fault:
                attached.fault, stays = fault, False
            if not stays and self._attached.get(fd) is attached:
                self.release(fd)
            if len(self._postponed) >= TOGETHER:
                self._send()
        self._serves = False
        self._send()
        return served

    def _send(self) -> None:
        postponed, self._postponed = self._postponed, []
        for send in postponed:
            send()

    def detach(self, fd: int) -> "Attached":
        """Whoever lets it go on has it no longer called."""
        self._epoll.unregister(fd)
        return self._attached.pop(fd)


class Attached:
    """A task, and what is called while it waits."""

    __slots__ = ("_fd", "_switchboard", "fault", "readable", "served", "task")

    def __init__(self, switchboard: Switchboard, fd: int, readable: Callable[[], bool]) -> None:
        self.task = trio.lowlevel.current_task()
        self.readable = readable
        self.served = 0  # the number of the last turn
        self.fault: Exception | None = None
        """What was raised. To be raised again by the task, also if it is cancelled."""
        self._switchboard = switchboard
        self._fd = fd

    def end(self) -> Awaitable[object]:
        """To be awaited."""
        # Not awaited here: a coroutine for this alone would take 200 bytes of each idle leg.
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105

    def _abort(self, _: object) -> Abort:
        self._switchboard.detach(self._fd)
        return Abort.SUCCEEDED
