"""soak: an hour's conversations of 100 clients, as fast as they can be held, and what it leaves.

Clients come, talk, type, interrupt, answer function calls, listen to the end, are lost and resume,
and go; others take their places. An answer names its question, so a turn counts as answered only by
its own answer, however often its upstream broke meanwhile. The upstream is the simulator, which
speaks at once, and whose sessions end after seconds instead of an hour, or are cut off in the
middle of something before, so that every conversation moves to a new one again and again, as
planned and after losses. A client of an hour has a turn every twenty seconds: 100 of them have
18,000.

The relay's memory in use and its descriptors are looked at all the time. Once it has had as much as
a third of the turns, it must not grow: the medians of the second and of the last third differ by at
most 3 %. Prints a table; exits 1 on a breach.
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import attacks
import daemon
import trio
from attacks import AUTHORIZATION, SETTINGS
from peer import BINARY, CLOSE, Breach, Ended, Peer, connected, framed, upgrade

CLIENTS = 100
TURNS = 18_000
MOST_S = 360.0
"""It ends then, however many turns there were."""
SESSION_S = 10.0
"""Of the upstream's session; an hour, compressed."""
PREPARE_S, SWITCH_S = 6.0, 1.0
"""So long before that the next one is prepared, and taken whatever goes on."""
CUT_AFTER = 400
"""After so many of the upstream's events, which are a few turns, its connection breaks."""
LISTENS, PATIENCE_S = 0.1, 6.0
"""So many answers are listened to, if that takes no longer: then is the time for a planned move."""
LOOK_S = 2.0
GROWTH = 0.03
"""What goes on in the moment makes a difference of one or two in a hundred, up and down."""
FREE_DESCRIPTORS = 8
"""By so many the number of descriptors may be off: clients come and go."""
ANSWER_S = 30.0
WEATHER = {"name": "get_weather", "description": "d", "parameters": {"type": "object"}}
SCRIPT = f"""
[[turn]]
user = "weather"
call = [{{ name = "get_weather", arguments = {{ city = "Paris" }} }}]
[[turn]]
say = "You said: {{user}}. This is what there is to say about it, in a sentence or two."
[knobs]
pace = 0
think_s = 0.01
transcription_s = 0.02
session_s = {SESSION_S}
[faults]
close_after_events = {CUT_AFTER}
drop = true
"""
LOUD = b"".join(((-1) ** (n // 40) * 6000).to_bytes(2, "little", signed=True) for n in range(4800))
"""200 ms of a tone, which is speech to the simulator."""
SPOKEN = "[speech"
"""So begins what the simulator understands of that."""
SPEECH = [LOUD] * 4 + [bytes(9600)] * 4


@dataclass
class Tally:
    turns: int = 0
    wanted: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    heard: int = 0
    said: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        return self.turns >= self.wanted


class Client:
    """One after another, to the end."""

    def __init__(self, port: int, tally: Tally, seed: int) -> None:
        self._port = port
        self._tally = tally
        self._random = random.Random(seed)
        self._peer: Peer
        self._id = ""
        self._doing = self._awaited = ""
        self._questions = 0
        self._told = ""
        """What the agent has said since the last question, in words."""
        self._plays_until = 0.0

    async def live(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            self.types,
            self.talks,
            self.interrupts,
            self.has_a_function_called,
            self.is_lost_and_resumes,
        ]
        while not self._tally.over:
            try:
                await self.comes()
                for _ in range(self._random.randint(3, 30)):
                    if self._tally.over:
                        break
                    kind = self._random.choices(kinds, (4, 4, 3, 3, 1))[0]
                    self._doing = kind.__name__
                    await kind()
                    if self._random.random() < LISTENS:
                        with trio.move_on_after(PATIENCE_S):
                            await trio.sleep_until(self._plays_until)
                    self._tally.kinds[kind.__name__] += 1
                    self._tally.turns += 1
                await self.goes()
            except (Breach, Ended, trio.TooSlowError, OSError, trio.ClosedResourceError) as fault:
                what = f"{type(fault).__name__} {fault}, awaiting {self._awaited}"
                self._tally.faults[f"{self._doing}: {what}"[:150]] += 1
            finally:
                self._peer.drop()

    async def comes(self) -> None:
        self._doing = "comes"
        await self._connected("")
        think = {**SETTINGS["agent"]["think"], "functions": [WEATHER]}
        await self._peer.message({**SETTINGS, "agent": {**SETTINGS["agent"], "think": think}})
        await self._until("SettingsApplied")

    async def goes(self) -> None:
        await self._peer.send(framed(b"\x03\xe8", CLOSE))
        await self._peer.end(within_s=ANSWER_S)

    async def types(self) -> None:
        await self._answered(await self._asks("And what of"))

    async def talks(self) -> None:
        await self._speech()
        await self._answered(SPOKEN)

    async def interrupts(self) -> None:
        await self._asks("Go on with")
        await self._until("AgentStartedSpeaking")
        await self.talks()

    async def has_a_function_called(self) -> None:
        question = await self._asks("And the weather of")
        asked = await self._until("FunctionCallRequest")
        (call,) = asked["functions"]
        output = {"type": "FunctionCallResponse", "id": call["id"], "name": call["name"]}
        await self._peer.message({**output, "content": '{"celsius": 21}'})
        await self._answered(question)

    async def is_lost_and_resumes(self) -> None:
        self._peer.reset()
        await self._connected(f"?resume={self._id}")
        await self.types()

    async def _asks(self, words: str) -> str:
        """The word by which the answer is known."""
        self._questions += 1
        self._told = ""
        question = f"number{self._questions}"
        await self._peer.message({"type": "InjectUserMessage", "content": f"{words} {question}?"})
        return question

    async def _connected(self, query: str) -> None:
        self._peer = await connected(self._port)
        self._peer.polite = True
        await self._peer.send(upgrade(attacks.AGENT + query, AUTHORIZATION))
        status, _ = await self._peer.head()
        if status != 101:
            raise Breach(f"refused with {status}")
        self._id = (await self._until("Welcome"))["request_id"]

    async def _speech(self) -> None:
        for chunk in SPEECH:
            await self._peer.send(framed(chunk, BINARY))
            self._tally.said += len(chunk)
        await self._until("UserStartedSpeaking")
        self._told, self._plays_until = "", 0.0

    async def _answered(self, question: str) -> None:
        """The end of what may be the end of an earlier answer, of which the rest was said after a
        loss."""
        with trio.fail_after(ANSWER_S):
            while question not in self._told:
                await self._until("AgentAudioDone")

    async def _until(self, kind: str) -> dict[str, object]:
        self._awaited = kind
        with trio.fail_after(ANSWER_S):
            while True:
                received = await self._peer.receive()
                if isinstance(received, bytes):
                    self._hears(received)
                    continue
                message: dict[str, object] = json.loads(received)
                if message["type"] == "Error":
                    raise Breach(str(message.get("code")))
                if message["type"] == "ConversationText" and message["role"] == "assistant":
                    self._told += f" {message['content']}"
                if message["type"] == kind:
                    return message

    def _hears(self, audio: bytes) -> None:
        self._tally.heard += len(audio)
        begins = max(self._plays_until, trio.current_time())
        self._plays_until = begins + len(audio) / 48_000


@dataclass
class Look:
    turns: int
    rss_mib: float
    descriptors: int
    seconds: float


async def main(arguments: argparse.Namespace) -> int:
    tally, looks = Tally(wanted=arguments.turns), []
    with tempfile.TemporaryDirectory() as directory:
        async with contextlib.AsyncExitStack() as stack:
            script = Path(directory) / "script.toml"
            script.write_text(SCRIPT)
            simulated = daemon.running(
                Path(directory) / "simulator",
                *("simulate", "--listen", "127.0.0.1:0", "--script", str(script)),
            )
            simulator = await stack.enter_async_context(simulated)
            serving = daemon.running(
                Path(directory) / "relay",
                *("serve", "--listen", "127.0.0.1:0", "--upstream", simulator.url),
                *("--set", "session.resume_window_s=5", "--set", "overload.max_lag_ms=0"),
                *("--set", f"session.prepare_before_s={PREPARE_S}"),
                *("--set", f"session.switch_before_s={SWITCH_S}"),
                *("--set", f"store.url=sqlite:///{directory}/store"),
            )
            relay = await stack.enter_async_context(serving)
            empty = await relay.state()
            began = trio.current_time()
            with trio.move_on_after(MOST_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_look, relay, tally, looks, began)
                    async with trio.open_nursery() as clients:
                        for seed in range(CLIENTS):
                            clients.start_soon(Client(relay.port, tally, seed).live)
                    nursery.cancel_scope.cancel()
            seconds = trio.current_time() - began
            left = await _left(relay, empty)
            moves = _moves(relay.log.read_text(errors="replace"))
            complaints = relay.complaints()
    return _judged(tally, looks, left, moves, seconds, complaints, empty)


async def _look(relay: daemon.Process, tally: Tally, looks: list[Look], began: float) -> None:
    while True:
        state = await relay.state()
        seconds = trio.current_time() - began
        looks.append(Look(tally.turns, state.rss_mib, state.descriptors, seconds))
        await trio.sleep(LOOK_S)


async def _left(relay: daemon.Process, empty: daemon.State) -> daemon.State:
    """When everybody has gone, and nobody can come back any more."""
    with trio.move_on_after(60):
        while (await relay.state()).tasks > empty.tasks:  # noqa: ASYNC110 - another process
            await trio.sleep(0.5)
    return await relay.state()


def _moves(log: str) -> Counter[str]:
    """To another session of the upstream's, by what was the cause."""
    found: Counter[str] = Counter()
    causes: dict[str, str] = {}
    for line in log.splitlines():
        entry = json.loads(line)
        match entry["event"]:
            case "upstream_lost" | "resumed" as cause:
                causes[entry["session"]] = cause
            case "upstream_switched":
                found[causes.pop(entry["session"], "planned")] += 1
    return found


def _judged(
    tally: Tally,
    looks: list[Look],
    left: daemon.State,
    moves: Counter[str],
    seconds: float,
    complaints: list[str],
    empty: daemon.State,
) -> int:
    parts = [_part(looks, tally.turns, third) for third in range(3)]
    hours = tally.said / 48_000 / 3600, tally.heard / 48_000 / 3600
    print(f"{tally.turns} turns of {CLIENTS} clients in {seconds:.0f} s: {dict(tally.kinds)}")
    print(f"audio: {hours[0]:.1f} h said, {hours[1]:.1f} h heard")
    print(
        f"moves to another upstream session: {moves['planned']} planned, "
        f"{moves['upstream_lost']} after a loss, {moves['resumed']} of clients that were lost"
    )
    print(f"{'':14} {'RSS MiB':>8} {'descriptors':>12}")
    names = ("empty", "first third", "second third", "last third", "afterwards")
    ends = [(empty.rss_mib, float(empty.descriptors)), (left.rss_mib, float(left.descriptors))]
    for name, (rss, descriptors) in zip(names, [ends[0], *parts, ends[1]], strict=True):
        print(f"{name:14} {rss:8.1f} {descriptors:12.0f}")
    growth = parts[2][0] / parts[1][0] - 1
    print(f"growth of RSS from the second third to the last: {growth:+.2%}")
    breaches = [*(f"{count} times {fault}" for fault, count in tally.faults.items()), *complaints]
    if growth > GROWTH:
        breaches.append(f"RSS grew by {growth:.1%}, allowed {GROWTH:.0%}")
    if parts[2][1] > parts[1][1] + FREE_DESCRIPTORS:
        breaches.append("descriptors grew")
    if left.descriptors > empty.descriptors or left.tasks > empty.tasks:
        breaches.append(f"left behind: {empty} became {left}")
    if not moves["planned"] or not moves["upstream_lost"] or tally.turns < tally.wanted / 3:
        breaches.append("too little happened")
    for breach in breaches:
        print(f"BREACH: {breach}")
    return 1 if breaches else 0


def _part(looks: list[Look], turns: int, third: int) -> tuple[float, float]:
    """Medians of a third of the turns."""
    within = [look for look in looks if turns * third <= 3 * look.turns <= turns * (third + 1)]
    within = within or looks[-1:]  # a short run may have had none
    return (
        statistics.median(look.rss_mib for look in within),
        statistics.median(look.descriptors for look in within),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of all clients ({TURNS})")
    sys.exit(trio.run(main, parser.parse_args()))
