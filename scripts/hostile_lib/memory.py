"""memory: what sessions cost a relay at most, with clients and upstreams that make them costly.

For each way of being costly it starts a relay, fills it with sessions, and holds the growth of its
resident size to the bound that README.md and docs/THREATS.md state: so much for each session, and
so much for all of them together. Prints a table; exits 1 on a breach.
"""

import argparse
import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attacks
import daemon
import trio
import upstreams
from attacks import AUTHORIZATION, SAYING, SETTINGS
from peer import BINARY, Breach, Ended, Peer, connected, framed, upgrade
from upstreams import Behaviour, Upstream, event, heard, session

MIB = 1 << 20
SESSION_MIB = 16.0
"""The bound for one session, whatever it does."""
UNREAD_MIB = 8.0
"""C-194: the bound for a client that never reads."""
SHARED_MIB = 400.0
"""What all sessions together may take beside: four messages of 16 MiB and four of 32, while each is
also being read (`relay.wire.BIG_AT_ONCE`)."""
KEPT_MIB = 30.0
"""What may be left of all, however few: what was loaded on the way, and the holes of the heap. 500
idle ones leave 23."""
LEFT_MIB = 0.1
"""What may be left of each besides: memory that Python keeps for the next one. (Whether it grows
with every next one is what scripts/soak looks at.)"""
FILL_S = 25.0
"""Nobody floods for longer."""
SMALL = 16 * 1024
"""Of the system's buffers at the other ends: what is in them is not the relay's, and takes time."""

Costly = Callable[[Peer], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    name: str
    client: Costly
    upstream: Behaviour | None
    applied: bool = True
    """The client waits for SettingsApplied before it begins."""
    share: float = 1.0
    """Of the sessions asked for: where filling each takes thousands of steps."""
    bound_mib: float = SESSION_MIB


async def idle(peer: Peer) -> None:
    await trio.sleep(1)


async def silent(peer: Peer) -> None:
    await peer.message(SAYING)
    await trio.sleep(FILL_S)


def flooding(data: bytes, limit: int) -> Costly:
    """Sends this again and again, `limit` bytes of it."""

    async def flood(peer: Peer) -> None:
        for _ in range(-(-limit // len(data))):
            await peer.send(data)

    return flood


def talking(message: dict[str, Any], limit: int) -> Costly:
    return flooding(framed(json.dumps(message).encode()), limit)


# Upstreams. Those that do not read have told the system to keep little for them.


def deaf(peer: Peer) -> None:
    peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)


async def hears_nothing_more(peer: Peer) -> None:
    deaf(peer)
    await upstreams.configured(peer)
    await trio.sleep_forever()


async def never_ready(peer: Peer) -> None:
    deaf(peer)
    await peer.message(event("session.created", session=session()))
    await trio.sleep_forever()


async def _speaks(peer: Peer, audio: bytes, times: int) -> None:
    await upstreams.responding(peer)
    text = json.dumps(upstreams.delta(audio)).encode()
    frames = framed(text, masked=False) * max(1, 200_000 // len(text))
    for _ in range(times):
        await peer.send(frames)
    await upstreams.drained(peer)


async def speaks_without_end(peer: Peer) -> None:
    await _speaks(peer, bytes(48_000), 200)


async def speaks_in_samples(peer: Peer) -> None:
    await _speaks(peer, bytes(2), 200)


async def sends_15_mib(peer: Peer) -> None:
    await upstreams.responding(peer)
    await peer.message(json.dumps(upstreams.delta(bytes(11 * MIB))).encode())
    await peer.message(event("unheard.of", filler="x" * (15 * MIB)))
    await upstreams.drained(peer)


async def asks_for_calls(peer: Peer) -> None:
    await upstreams.responding(peer)
    for number in range(40):
        ids = {"response_id": "resp_1", "item_id": f"f{number}", "output_index": number + 1}
        call = {"call_id": f"c{number}", "name": "lookup", "arguments": '"' + "a" * 900_000 + '"'}
        await peer.message(event("response.function_call_arguments.done", **ids, **call))
    await upstreams.drained(peer)


async def writes_without_end(peer: Peer) -> None:
    await upstreams.responding(peer)
    where = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
    text = event("response.output_audio_transcript.delta", **where, delta="x" * 200_000)
    for _ in range(150):
        await peer.message(text)
    await upstreams.drained(peer)


async def acknowledges_everything(peer: Peer) -> None:
    await upstreams.configured(peer)
    with contextlib.suppress(Ended):
        while True:
            await heard(peer, "session.update")
            await peer.message(event("session.updated", session=session()))


def _settings(**think: Any) -> dict[str, Any]:
    agent = {**SETTINGS["agent"], "think": {**SETTINGS["agent"]["think"], **think}}
    return {**SETTINGS, "agent": agent}


NODES = [{} for _ in range(250_000)]
"""Empty objects are the dearest JSON: three bytes of it are 72 in Python."""
BOMB = _settings(functions=[{"name": "f", "parameters": {"x": NODES}}])
ANSWER = {"type": "FunctionCallResponse", "id": "c", "name": "f", "content": NODES}
UNFINISHED = framed(bytes(15 * MIB), BINARY, fin=False)

CASES = [
    Case("idle", idle, acknowledges_everything),
    Case("client never reads, audio", silent, speaks_without_end, bound_mib=UNREAD_MIB),
    Case(
        "client never reads, audio by the sample",
        silent,
        speaks_in_samples,
        share=0.04,
        bound_mib=UNREAD_MIB,
    ),
    Case(
        "client never reads its answers",
        talking({"type": "UpdatePrompt", "prompt": "x"}, 4 * MIB),
        acknowledges_everything,
        share=0.1,
    ),
    Case(
        "upstream never reads, audio",
        flooding(framed(bytes(9600), BINARY) * 20, 10 * MIB),
        hears_nothing_more,
    ),
    Case(
        "upstream never reads, audio by the sample",
        flooding(framed(bytes(2), BINARY) * 2000, MIB),
        hears_nothing_more,
        share=0.1,
    ),
    Case(
        "upstream never reads, messages",
        talking({"type": "InjectUserMessage", "content": "x" * 100_000}, 40 * MIB),
        hears_nothing_more,
        share=0.4,
    ),
    Case(
        "upstream never reads, updates",
        talking({"type": "UpdateThink", **_settings(prompt="p" * 900_000)["agent"]}, 40 * MIB),
        hears_nothing_more,
        share=0.2,
    ),
    Case("before Settings", talking(ANSWER, 64 * MIB), None, applied=False, share=0.1),
    Case("upstream never ready", talking(ANSWER, 64 * MIB), never_ready, applied=False, share=0.1),
    Case(
        "upstream never ready, texts",
        talking({"type": "InjectUserMessage", "content": "é" * 400_000}, 64 * MIB),
        never_ready,
        applied=False,
        share=0.2,
    ),
    Case("Settings of a million brackets", idle, acknowledges_everything, share=0.4),
    Case("messages of 15 MiB, unfinished", flooding(UNFINISHED, 1), acknowledges_everything),
    Case("upstream sends 15 MiB events", silent, sends_15_mib, share=0.2),
    Case("upstream asks for calls of 0.9 MB", silent, asks_for_calls, share=0.2),
    Case("upstream writes without end", silent, writes_without_end, share=0.2),
]


@dataclass
class Row:
    name: str
    sessions: int
    before: float
    peak: float
    after: float
    bound_mib: float

    @property
    def each(self) -> float:
        """MiB of a session, with its share of what all have."""
        return (self.peak - self.before) / self.sessions

    @property
    def breaches(self) -> list[str]:
        most = self.before + SHARED_MIB + self.bound_mib * self.sessions
        found = []
        if self.peak > most:
            found.append(f"{self.peak:.0f} MiB, where {most:.0f} are the most")
        if self.after - self.before > KEPT_MIB + LEFT_MIB * self.sessions:
            found.append(f"{self.after - self.before:.0f} MiB are left")
        return found

    def __str__(self) -> str:
        verdict = "BREACH" if self.breaches else "ok"
        return (
            f"{self.name:42} {self.sessions:8} {self.before:6.0f} {self.peak:7.0f}"
            f" {self.after:6.0f} {self.each:8.2f} {self.bound_mib:6.0f}  {verdict}"
        )


async def measured(case: Case, sessions: int, directory: Path) -> Row:
    count = max(4, round(sessions * case.share))
    async with contextlib.AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        upstream = Upstream(0)
        upstream.behaviour = acknowledges_everything
        port = await nursery.start(upstream.serve)
        options = (
            *("serve", "--listen", "127.0.0.1:0", "--set", "session.resume_window_s=0.5"),
            *("--upstream", f"ws://127.0.0.1:{port}/v1/realtime", "--set", "overload.max_lag_ms=0"),
        )
        running = daemon.running(directory / case.name.replace(" ", "-"), *options)
        relay = await stack.enter_async_context(running)
        peers: list[Peer] = []
        await _one(CASES[0], relay.port, peers)  # what is imported and cached once is nobody's
        peers.pop().drop()
        upstream.behaviour = case.upstream
        before = await _settled(relay)
        relay.forget_peak()
        with trio.move_on_after(FILL_S):
            async with trio.open_nursery() as clients:
                for _ in range(count):
                    clients.start_soon(_one, case, relay.port, peers)
        peak = relay.peak_mib
        for peer in peers:
            peer.drop()
        after = await _settled(relay)
        nursery.cancel_scope.cancel()
    return Row(case.name, count, before, peak, after, case.bound_mib)


async def _one(case: Case, port: int, peers: list[Peer]) -> None:
    peer = await connected(port, buffer=SMALL)
    peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    peers.append(peer)
    settings = BOMB if "brackets" in case.name else SETTINGS
    with contextlib.suppress(Ended, Breach, OSError, trio.ClosedResourceError):
        await peer.send(upgrade(attacks.AGENT, AUTHORIZATION))
        await peer.head()
        if "before Settings" not in case.name:
            await peer.message(settings)
        if case.applied:
            await peer.until("SettingsApplied", within_s=FILL_S)
        await case.client(peer)


async def _settled(relay: daemon.Process) -> float:
    """Its resident size when the last session is gone."""
    size = (await relay.state()).rss_mib
    for _ in range(40):
        await trio.sleep(0.5)
        last, size = size, (await relay.state()).rss_mib
        if abs(last - size) < 0.1 and len(os.listdir(f"/proc/{relay.child.pid}/fd")) < 20:
            break
    return size


async def main(arguments: argparse.Namespace) -> int:
    broken = 0
    chosen = [case for case in CASES if arguments.only in case.name]
    columns = f"{'sessions':>8} {'before':>6} {'peak':>7} {'after':>6} {'each':>8} {'bound':>6}"
    print(f"{'':42} {columns}  MiB")
    with tempfile.TemporaryDirectory() as directory:
        for case in chosen:
            row = await measured(case, arguments.sessions, Path(directory))
            broken += bool(row.breaches)
            print(row, flush=True)
            for breach in row.breaches:
                print(f"    {breach}", flush=True)
    print(
        f"{len(chosen)} ways, {broken} breaches; the bound is of a session, and {SHARED_MIB:.0f} "
        "MiB more of all together"
    )
    return 1 if broken or not chosen else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/memory", description=__doc__)
    parser.add_argument("--sessions", type=int, default=500, help="at most (500)")
    parser.add_argument("--only", default="", metavar="WORD", help="ways with this in the name")
    sys.exit(trio.run(main, parser.parse_args()))
