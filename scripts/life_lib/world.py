"""world: a relay, its upstreams and one person, on virtual time.

The relay is the real one from the bridge inwards, with its store in a file; the upstreams are the
simulator's conversations. Made up are the lines between them (`link`), the clock, and the person:
who asks one question after the other, plays the answers, answers calls, and comes back when the
line is dead. Things break at moments chosen in advance.
"""

import contextlib
import enum
import itertools
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import structlog
import trio
from link import End, link

from relay import bridge, realtime, store, upkeep, wire
from relay.continuity import Continuity
from relay.parking import Claim, Lot
from relay.session import Admission, Session, SessionOptions
from relay.session.actions import Target
from relay.session.facts import Dialect, UpstreamTraits
from relay.settings import MappingOptions
from relay.simulator import conversation as simulated
from relay.simulator.script import Script, parse

WALL = 1_800_000_000.0
HANDSHAKE_S = 0.1
LINE_S = 0.02
"""One way, on either side of the relay."""
RESTART_S = 1.5
"""How long a supervisor takes to start the relay again."""
UPSTREAMS = 2
DOWN_S = 300.0
"""How long an upstream that is down stays down."""
QUIET_S = 8.0
"""So long the person waits for more before saying something else."""
PATIENCE_S = 45.0
"""...and so long for an answer."""
CLIENT_AWAY_S = (1.0, 4.0)

_T = TypeVar("_T")

TOPICS = {
    "lighthouse": "The keeper lit the lamp at dusk, and all night it told the ships the same thing,"
    " which was the only thing they wanted to hear.",
    "bridge": "It has two ends, like a conversation, and is only of use while both of them hold.",
    "train": "It leaves at nine minutes past the hour, and if it does not, then it leaves later.",
    "bread": "Flour, water, salt, and a night of patience. The patience is most of it.",
    "river": "It begins as a drop that could not stay where it was, and it has not stayed since.",
    "clock": "It is right twice a day when it stands, and never quite when it goes.",
    "mountain": "You go up for the view, and you come down for the soup. Both are worth the way.",
}


class Fault(enum.Enum):
    """What breaks."""

    UPSTREAM = "upstream crash"
    DOWN = "upstream down, failover"
    CLIENT = "client drop, resumed by its header"
    CLIENT_SETTINGS = "client drop, resumed by ?resume= and Settings"
    KILLED = "relay killed, restarted from the store"


class Moment(enum.Enum):
    """What is going on when it does."""

    IDLE = "while nobody speaks"
    THINKING = "while the model thinks"
    SPEAKING = "in the middle of an answer"
    CALLING = "while a function runs"


class Due(msgspec.Struct):
    """Something that is to break at the first such moment after a time."""

    at: float
    fault: Fault
    moment: Moment


class Turn(msgspec.Struct):
    """A question, and what was heard of the answer."""

    text: str
    asked: float
    result: str = ""
    """Of the function that the question is about."""
    answer: str = ""
    heard: list[tuple[float, float]] = []
    """When the agent was heard, from and to."""
    faults: list[Fault] = []
    rolled: bool = False
    """It was asked in the moment of a planned switch."""

    @property
    def silence_s(self) -> float:
        """The longest time in which nothing was heard, from the question to the answer's end."""
        edges = [(self.asked, self.asked), *self.heard]
        return max((b[0] - a[1] for a, b in itertools.pairwise(edges)), default=0.0)


class InlineStore(store.SqliteStore):
    """Works where it is called: while a thread does, virtual time would run away."""

    dead = False

    async def _in_lane(self, work: Callable[[], _T]) -> _T:
        await trio.lowlevel.checkpoint()
        return work()

    def _write_all(self, *what: Any) -> None:
        if not self.dead:  # the process was killed
            super()._write_all(*what)


class World:
    """Everything there is, for one conversation."""

    def __init__(
        self,
        *,
        seed: int,
        minutes: float,
        dues: list[Due],
        upstream_minutes: float = 60.0,
        tell: Callable[[float, str, str], None] | None = None,
    ) -> None:
        self._random = random.Random(seed)
        self._minutes = minutes
        self._dues = sorted(dues, key=lambda due: due.at)
        self._tell_at = tell
        self._script = _script(upstream_minutes)
        self._options = SessionOptions()
        self._upstreams: dict[End, simulated.Conversation] = {}
        self._down_until = [0.0] * UPSTREAMS
        self._sdk = f"sdk-{seed}"
        self._connections = 0
        self._line: End | None = None
        self._welcome = ""
        self._applied = trio.Event()
        self._ended = trio.Event()
        self._back = trio.Event()
        self._rolled = trio.Event()
        self._speaking = 0  # frames of the answer so far
        self._play_end = 0.0
        self._last_news = 0.0
        self._lost = False  # the upstream or the client was, since the last switch
        self.turns: list[Turn] = []
        self.injected: list[tuple[float, Fault, Moment]] = []
        self.rollovers = 0
        self.errors: list[str] = []
        self.mistakes: list[str] = []
        self.known: list[realtime.Item] = []
        """What the last upstream knew."""

    async def live(self) -> None:
        """From the first connection to the last goodbye."""
        structlog.configure(processors=[self._logged])
        self._began = trio.current_time()
        with tempfile.TemporaryDirectory() as folder:
            self._path = Path(folder) / "store"
            async with trio.open_nursery() as self._nursery:
                await self._start_relay()
                self._connect()
                await self._converse()
                if self._line is not None:
                    self.known = [
                        s.face for held in self._live_upstreams() for s in held.items.order
                    ]
                    self._line.close(1000)
                self._nursery.cancel_scope.cancel()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return trio.current_time() - self._began

    def tell(self, who: str, what: str) -> None:
        if self._tell_at is not None:
            self._tell_at(self.now, who, what)

    def _wall(self) -> float:
        return WALL + self.now

    # -- the relay --------------------------------------------------------------------------------

    async def _start_relay(self) -> None:
        self._relay = await self._nursery.start(self._run_relay)

    async def _run_relay(self, *, task_status: trio.TaskStatus["Relay"]) -> None:
        async with store.sqlite_store(self._path, wall=self._wall, kind=InlineStore) as kept:
            continuity = Continuity(Lot(), kept, wall=self._wall)
            await continuity.restore()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(continuity.forget_in_time)
                task_status.started(Relay(continuity, cast(InlineStore, kept), nursery))
                await trio.sleep_forever()

    async def _hold(self, far: End, admission: Admission, claim: Claim) -> None:
        session = Session(
            options=self._options,
            mapping=MappingOptions(),
            admission=admission,
            upstreams=(UpstreamTraits(),) * UPSTREAMS,
        )
        visit = self._relay.continuity.visit(admission.request_id, claim)
        async with upkeep.opened() as kept_up:
            await bridge.run(
                cast(wire.Leg, far),
                session,
                self._dial,
                bridge.GoingAway(),
                kept_up,
                visit=visit,
                wall=self._wall,
            )

    # -- upstreams --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _dial(self, target: Target) -> AsyncIterator[wire.Leg]:
        await trio.sleep(HANDSHAKE_S)
        if self.now < self._down_until[target.upstream]:
            raise wire.DialFailed(None, "connection refused")
        near, far = link(LINE_S)
        held = simulated.conversation(self._script, len(self._upstreams) + 1, target.model)
        self._upstreams[near] = held
        self._nursery.start_soon(self._run_upstream, far, held)
        try:
            yield cast(wire.Leg, near)
        finally:
            near.close()

    async def _run_upstream(self, far: End, held: simulated.Conversation) -> None:
        alarm = trio.CancelScope()

        def perform(outputs: list[simulated.Output]) -> None:
            for output in outputs:
                if isinstance(output, simulated.Hangup):
                    far.close(output.code, output.reason)
                else:
                    far.post(realtime.encode(output))
            alarm.deadline = held.next_deadline()

        async def keep_time() -> None:
            nonlocal alarm
            while True:
                with trio.CancelScope(deadline=held.next_deadline()) as alarm:
                    await trio.sleep_forever()
                perform(held.deadline_passed(trio.current_time()))

        perform(held.opened(trio.current_time(), self._wall()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_time)
            with contextlib.suppress(wire.LegGone):
                while True:
                    perform(held.received(await far.receive(), trio.current_time()))
            nursery.cancel_scope.cancel()

    def _live_upstreams(self) -> list[simulated.Conversation]:
        return [held for near, held in self._upstreams.items() if near.is_open][-1:]

    # -- what breaks ------------------------------------------------------------------------------

    def _perhaps_break(self, moment: Moment) -> None:
        """Whether the time has come for something that was to break at such a moment."""
        due = next((d for d in self._dues if d.moment is moment and d.at <= self.now), None)
        if due is None or self._line is None:
            return
        self._dues.remove(due)
        self.injected.append((self.now, due.fault, moment))
        if self.turns:
            self.turns[-1].faults.append(due.fault)
        self.tell("!", f"{due.fault.value}, {moment.value}")
        self._lost = True
        match due.fault:
            case Fault.UPSTREAM | Fault.DOWN:
                if due.fault is Fault.DOWN:
                    self._down_until[0] = self.now + DOWN_S
                for near in self._upstreams:
                    near.drop()
            case Fault.CLIENT | Fault.CLIENT_SETTINGS:
                self._break_line()
                away_s = self._random.uniform(*CLIENT_AWAY_S)
                self._nursery.start_soon(self._come_back, due.fault, away_s)
            case Fault.KILLED:
                self._break_line()
                self._relay.kill()
                self._nursery.start_soon(self._restart)

    def _break_line(self) -> None:
        if self._line is not None:
            self._line.drop()
            self._line, self._back = None, trio.Event()

    async def _restart(self) -> None:
        await trio.sleep(RESTART_S)
        await self._start_relay()
        self._connect()
        self._say({"type": "KeepAlive"})

    async def _come_back(self, fault: Fault, away_s: float) -> None:
        await trio.sleep(away_s)
        self._connect(resume=fault is Fault.CLIENT_SETTINGS)
        self._say(_settings() if fault is Fault.CLIENT_SETTINGS else {"type": "KeepAlive"})
        self.tell("client", f"back after {away_s:.1f} s")

    # -- the person -------------------------------------------------------------------------------

    def _connect(self, *, resume: bool = False) -> None:
        self._connections += 1
        near, far = link(LINE_S)
        admission = Admission(f"request-{self._connections}", Dialect.DEEPGRAM)
        claim = Claim("key:me", resume=self._welcome if resume else None, label=self._sdk)
        self._relay.nursery.start_soon(self._hold, far, admission, claim)
        self._line = near
        self._back.set()
        self._nursery.start_soon(self._listen, near)

    def _say(self, message: dict[str, Any]) -> None:
        if self._line is not None:
            self._line.post(msgspec.json.encode(message).decode())

    async def _converse(self) -> None:
        self._nursery.start_soon(self._keep_alive)
        self._say(_settings())
        with trio.move_on_after(PATIENCE_S):
            await self._applied.wait()
            self.tell("client", "connected, and Settings are applied")
        end = self._minutes * 60 - 90
        while self.now < end and not self._ended.is_set():
            await self._online()
            self._ask()
            await self._answered()
            self._perhaps_break(Moment.IDLE)
            await self._rests(self._random.uniform(20, 90))
        await self._online()
        await trio.sleep(15)

    async def _rests(self, seconds: float) -> None:
        """So long, or until the upstream is switched: then is the time at which to ask whether
        anybody notices. Nobody can tell the person, of course."""
        self._rolled = trio.Event()
        with trio.move_on_after(seconds):
            await self._rolled.wait()

    async def _online(self) -> None:
        if self._line is None:
            await self._back.wait()

    def _ask(self) -> None:
        number = len(self.turns) + 1
        if number % 4 == 0:
            text, result = f"Question {number}: what time is it?", f"{number} past noon"
        else:
            topic = self._random.choice(sorted(TOPICS))
            text, result = f"Question {number}: tell me about the {topic}.", ""
        self.turns.append(Turn(text, self.now, result, rolled=self._rolled.is_set()))
        self._speaking = 0
        self.tell("user", text)
        self._last_news = self.now
        self._say({"type": "InjectUserMessage", "content": text})

    async def _answered(self) -> None:
        """Until the answer was heard, or nothing comes any more."""
        turn = self.turns[-1]
        while not self._ended.is_set():
            patience = QUIET_S if turn.heard else PATIENCE_S
            left = max(self._last_news, self._play_end) + patience - self.now
            if left <= 0:
                break
            await trio.sleep(min(left + 0.001, QUIET_S))
        self.tell("agent", turn.answer or "(nothing)")

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(20)
            self._say({"type": "KeepAlive"})

    async def _listen(self, near: End) -> None:
        try:
            while True:
                frame = await near.receive()
                if near is not self._line:
                    return
                if isinstance(frame, bytes):
                    self._hears(frame)
                else:
                    self._told(msgspec.json.decode(frame))
        except wire.LegGone as gone:
            if near is self._line and gone.code is not None:
                self.errors.append(f"closed {gone.code} {gone.reason}")
                self._ended.set()

    def _hears(self, audio: bytes) -> None:
        begin = max(self._play_end, self.now)
        self._play_end = begin + len(audio) / 48000
        self._last_news = self.now
        if self.turns:
            heard = self.turns[-1].heard
            if heard and begin - heard[-1][1] < 1e-6:
                heard[-1] = (heard[-1][0], self._play_end)
            else:
                heard.append((begin, self._play_end))
        self._speaking += 1
        if self._speaking == 3:
            self._perhaps_break(Moment.SPEAKING)

    def _told(self, message: dict[str, Any]) -> None:
        self._last_news = self.now
        match message:
            case {"type": "Welcome", "request_id": str(request_id)}:
                self._welcome = request_id
            case {"type": "SettingsApplied"}:
                self._applied.set()
            case {"type": "ConversationText", "role": "assistant", "content": str(content)}:
                if self.turns:
                    turn = self.turns[-1]
                    turn.answer = f"{turn.answer} {content}".strip()
            case {"type": "AgentThinking"}:
                self._speaking = 0
                self._perhaps_break(Moment.THINKING)
            case {"type": "FunctionCallRequest", "functions": functions}:
                self._nursery.start_soon(self._call, functions)
                self._perhaps_break(Moment.CALLING)
            case {"type": "Warning", "code": str(code)}:
                if code != "THINK_REQUEST_FAILED":
                    self.tell("relay", f"Warning {code}")
            case {"type": "Error", "code": str(code)}:
                self.errors.append(code)
                self.tell("relay", f"Error {code}")
            case _:
                pass

    async def _call(self, functions: list[dict[str, Any]]) -> None:
        await trio.sleep(0.5)
        for function in functions:
            content = self.turns[-1].result
            answer = {"id": function["id"], "name": function["name"], "content": content}
            self._say({"type": "FunctionCallResponse", **answer})

    # -- what the relay says of it ----------------------------------------------------------------

    def _logged(self, _: Any, level: str, event: dict[str, Any]) -> Any:
        match event:
            case {"event": "upstream_switched", "items": items}:
                if self._lost:
                    self.tell("relay", f"another upstream session, told {items} items of history")
                else:
                    self.rollovers += 1
                    self._rolled.set()
                    self.tell("relay", f"planned rollover: told {items} items, nobody noticed")
                self._lost = False
            case {"event": "upstream_attempt_failed", "reason": reason}:
                self.tell("relay", f"upstream: {reason}")
            case {"event": "conversations restored", "parked": parked}:
                self.tell("relay", f"started again, {parked} conversation in the store")
            case {"event": what} if level in ("error", "exception"):
                self.mistakes.append(f"{what}: {sys.exc_info()[1]!r}")
            case _:
                pass
        raise structlog.DropEvent


class Relay:
    """A process, as far as it can be told from another."""

    def __init__(self, continuity: Continuity, kept: InlineStore, nursery: trio.Nursery) -> None:
        self.continuity = continuity
        self.nursery = nursery
        self._kept = kept

    def kill(self) -> None:
        self._kept.dead = True
        self.nursery.cancel_scope.cancel()


def _settings() -> dict[str, Any]:
    think = {
        "provider": {"type": "open_ai", "model": "gpt-4o-mini"},
        "prompt": "Be brief.",
        "functions": [{"name": "get_time"}],
    }
    return {"type": "Settings", "audio": {}, "agent": {"think": think}}


def _script(upstream_minutes: float) -> Script:
    turns = [f'[[turn]]\nuser = "{topic}"\nsay = "{text}"' for topic, text in TOPICS.items()]
    knobs = f"[knobs]\ndelta_ms = 400\nsession_s = {upstream_minutes * 60}"
    return parse("\n".join([knobs, *turns]))
