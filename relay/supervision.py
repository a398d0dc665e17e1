"""supervision: which worker is to be started, asked or killed, and when it is better to give up.

It knows when each worker was started, was last heard of and died. It holds no process and has no
clock (`now` is an argument, in seconds); what is to be done it answers as a list of orders.

    WAITING    no process, and a time at which there will be one
    STARTING   a process that has not said that it serves
    SERVING    it has; from now on it is asked how it is
    KILLED     a process that did not answer, and has not ended yet
    LEAVING    a process that is about to end, because it was told to or wants to

A worker that has served a while and dies is replaced at once. One that dies young is replaced after
a pause that grows, because what killed it is probably still there; when nobody else serves either,
that is given up after a few deaths. While others serve it is tried for ever: their conversations
have done nothing to deserve an end.
"""

import enum
import math
from typing import TypeAlias

import msgspec

YOUNG_S = 10.0
"""Who dies younger died of its start. systemd's `StartLimitIntervalSec`."""
LIVES = 5
"""Young deaths in a row of one worker that nobody outlives. systemd's `StartLimitBurst`."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
ASK_EVERY_S = 2.0
ANSWER_S = 5.0
"""An answer that takes longer is worth a doubt. More than `ASK_EVERY_S`."""
PATIENCE_S = 20.0
"""Who has not answered for so long is killed: what it does not answer to us it does not do for its
clients either. Less than `WatchdogSec` of the unit, so that the others live on."""
START_S = 60.0
"""Who does not serve by then is killed."""


class Start(msgspec.Struct, frozen=True):
    worker: int


class Ask(msgspec.Struct, frozen=True):
    """Ask it for a sign of life; the answer is `heard`."""

    worker: int


class Kill(msgspec.Struct, frozen=True):
    worker: int
    silent_s: float


Order: TypeAlias = Start | Ask | Kill


class Phase(enum.Enum):
    WAITING = "waiting"
    STARTING = "starting"
    SERVING = "serving"
    KILLED = "killed"
    LEAVING = "leaving"


class Worker(msgspec.Struct):
    """One of the crew; the process may be its first or a successor."""

    number: int
    due: float
    """When something is to be done about it."""
    phase: Phase = Phase.WAITING
    started_at: float = 0.0
    heard_at: float = 0.0
    young_deaths: int = 0
    """In a row."""


class Crew:
    """All workers of a daemon, by their numbers from 1."""

    def __init__(self, count: int, now: float) -> None:
        self._workers = {number: Worker(number, now) for number in range(1, count + 1)}
        self._dismissed = False

    # -- what happens -----------------------------------------------------------------------------

    def ready(self, worker: int, now: float) -> None:
        """It serves."""
        known = self._workers[worker]
        if known.phase is Phase.STARTING:
            known.phase, known.heard_at, known.due = Phase.SERVING, now, now + ASK_EVERY_S

    def heard(self, worker: int, now: float) -> None:
        """It gave a sign of life."""
        self._workers[worker].heard_at = now

    def leaving(self, worker: int) -> None:
        """It will end by itself, and is not asked any more."""
        known = self._workers[worker]
        known.phase, known.due = Phase.LEAVING, math.inf

    def dismissed(self) -> None:
        """All are told to end; nobody is replaced."""
        self._dismissed = True
        for worker in self._workers:
            self.leaving(worker)

    def died(self, worker: int, now: float) -> float:
        """Its process has ended, whyever. Returns after how long there will be another; inf:
        never."""
        known = self._workers[worker]
        is_young = now < known.started_at + YOUNG_S and known.phase is not Phase.LEAVING
        known.young_deaths = known.young_deaths + 1 if is_young else 0
        known.phase = Phase.WAITING
        pause_s = 0.0
        if self._dismissed:
            pause_s = math.inf
        elif known.young_deaths:
            pause_s = min(FIRST_PAUSE_S * 2 ** (known.young_deaths - 1), LONGEST_PAUSE_S)
        known.due = now + pause_s
        return pause_s

    def time_passed(self, now: float) -> list[Order]:
        """What is to be done now. Early calls return nothing."""
        self._forgive(now - self.next_deadline())
        orders: list[Order] = []
        for worker in self._workers.values():
            if worker.due > now:
                continue
            patience_ends = worker.heard_at + PATIENCE_S
            match worker.phase:
                case Phase.WAITING:
                    worker.phase = Phase.STARTING
                    worker.started_at = worker.heard_at = now
                    worker.due = now + START_S
                    orders.append(Start(worker.number))
                case Phase.SERVING if now < patience_ends:
                    worker.due = min(now + ASK_EVERY_S, patience_ends)
                    orders.append(Ask(worker.number))
                case Phase.STARTING | Phase.SERVING:
                    worker.phase, worker.due = Phase.KILLED, math.inf
                    orders.append(Kill(worker.number, now - worker.heard_at))
                case Phase.KILLED | Phase.LEAVING:
                    worker.due = math.inf
        return orders

    def _forgive(self, late_s: float) -> None:
        """Who is late itself (it was stopped, or the machine was) has not heard of anybody."""
        if late_s > ASK_EVERY_S:
            for worker in self._workers.values():
                worker.heard_at += late_s
                if worker.phase is Phase.STARTING:
                    worker.due += late_s

    def next_deadline(self) -> float:
        """When `time_passed` is to be called."""
        return min(worker.due for worker in self._workers.values())

    # -- what is known ----------------------------------------------------------------------------

    @property
    def is_dismissed(self) -> bool:
        return self._dismissed

    @property
    def serving(self) -> int:
        """How many accept connections."""
        return sum(worker.phase is Phase.SERVING for worker in self._workers.values())

    @property
    def complete(self) -> bool:
        """Everybody serves."""
        return self.serving == len(self._workers)

    @property
    def hopeless(self) -> bool:
        """Nobody serves, and one has died young too often."""
        deaths = max(worker.young_deaths for worker in self._workers.values())
        return not self._dismissed and not self.serving and deaths >= LIVES

    def answering(self, now: float) -> bool:
        """Everybody who is asked how it is has answered lately."""
        return all(
            now - worker.heard_at < ANSWER_S
            for worker in self._workers.values()
            if worker.phase in (Phase.SERVING, Phase.KILLED)
        )
