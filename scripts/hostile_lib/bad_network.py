"""bad_network: conversations with a bad network on one side of a relay, or on both.

Between real processes there are links that delay, stall as TCP does over a network that loses
packets, cut for seconds or for ever, and reset. What a conversation must come to stands in each
row; after each the relay must serve, and no descriptor, task or megabyte be left. Prints a table;
exits 1 on a breach.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import attacks
import daemon
import trio
from attacks import AUTHORIZATION, SAYING, SETTINGS
from link import Link, Weather
from peer import BINARY, CLOSE, Breach, Ended, Peer, connected, framed, upgrade
from soak import SPEECH

TALKERS = 10
LEFT_MIB = 3.0
ANSWER_S = 30.0
GONE_S = 45.0
"""A peer that answers no ping for 20 s is lost, and the next ping is 20 s away; and a goodbye."""


@dataclass
class Net:
    client: Link
    upstream: Link
    relay: daemon.Process

    async def applied(self) -> tuple[Peer, str]:
        """A client in the middle of a conversation, and the id to resume it by."""
        return await self.comes(), self.id

    async def comes(self, resume: str = "") -> Peer:
        peer = await connected(self.client.port)
        await peer.send(
            upgrade(attacks.AGENT + (f"?resume={resume}" if resume else ""), AUTHORIZATION)
        )
        status, _ = await peer.head()
        if status != 101:
            raise Breach(f"refused with {status}")
        self.id = (await peer.until("Welcome", within_s=ANSWER_S))["request_id"]
        if not resume:
            await peer.message(SETTINGS)
            await peer.until("SettingsApplied", within_s=ANSWER_S)
        return peer


Row = Callable[[Net], Awaitable[None]]


async def answered(peer: Peer) -> None:
    """Typed and spoken to, it answers with words and sound."""
    await peer.message(SAYING)
    await peer.until("AgentAudioDone", within_s=ANSWER_S)
    for chunk in SPEECH:
        await peer.message(chunk, BINARY)
    await peer.until("AgentAudioDone", within_s=ANSWER_S)


async def leaves(peer: Peer) -> None:
    await peer.send(framed(b"\x03\xe8", CLOSE))
    if (await peer.end(within_s=ANSWER_S)).code != 1000:
        raise Breach("the goodbye was not answered")
    peer.drop()


async def talks(net: Net) -> None:
    """A whole conversation; ten at once."""

    async def one() -> None:
        peer = await net.comes()
        for _ in range(3):
            await answered(peer)
        await leaves(peer)

    async with trio.open_nursery() as nursery:
        for _ in range(TALKERS):
            nursery.start_soon(one)


def cut_for(side: str, seconds: float) -> Row:
    """TCP repeats what was not received: nobody notices but by the pause."""

    async def cut(net: Net) -> None:
        peer = await net.comes()
        await answered(peer)
        await peer.message(SAYING)
        await peer.until("AgentStartedSpeaking", within_s=ANSWER_S)
        link: Link = getattr(net, side)
        link.cut()
        await trio.sleep(seconds)
        link.mend()
        await peer.until("AgentAudioDone", within_s=ANSWER_S)
        await answered(peer)
        await leaves(peer)

    return cut


async def client_gone_for_ever(net: Net) -> None:
    """Nothing is heard of it any more, and nothing says so but its silence."""
    before = await net.relay.state()
    peer = await net.comes()
    await answered(peer)
    net.client.cut()
    with trio.move_on_after(GONE_S) as patience:
        while (await net.relay.state()).tasks > before.tasks:  # noqa: ASYNC110 - another process
            await trio.sleep(0.5)
    net.client.mend()
    peer.drop()
    if patience.cancelled_caught:
        raise Breach(f"a client that is gone is held for more than {GONE_S:g} s")


async def upstream_gone_for_ever(net: Net) -> None:
    """The relay notices by the pings, dials again, and goes on where it was."""
    peer = await net.comes()
    await answered(peer)
    net.upstream.cut()
    with trio.move_on_after(GONE_S):
        await peer.answers_pings()
    net.upstream.mend()
    await answered(peer)
    await leaves(peer)


async def client_reset(net: Net) -> None:
    """It comes back by the id of its Welcome."""
    peer, resume = await net.applied()
    await answered(peer)
    net.client.reset()
    with contextlib.suppress(Ended):
        await peer.end()
    peer = await net.comes(resume)
    await answered(peer)
    await leaves(peer)


async def upstream_reset(net: Net) -> None:
    """The conversation goes on with a new one; also if that is in the middle of an answer."""
    peer = await net.comes()
    for _ in range(3):
        await answered(peer)
        await peer.message(SAYING)
        await peer.until("AgentStartedSpeaking", within_s=ANSWER_S)
        net.upstream.reset()
    await answered(peer)
    await leaves(peer)


FINE = Weather()
FAR = Weather(delay_s=0.1, jitter_s=0.03)
LOSSY = Weather(delay_s=0.05, jitter_s=0.01, lost=0.02)
ROWS: list[tuple[str, Row, Weather, Weather]] = [
    ("a good network", talks, FINE, FINE),
    ("100 ms, 30 ms of jitter, to the clients", talks, FAR, FINE),
    ("100 ms, 30 ms of jitter, to the upstream", talks, FINE, FAR),
    ("100 ms, 30 ms of jitter, on both sides", talks, FAR, FAR),
    ("2 % of segments repeated, to the clients", talks, LOSSY, FINE),
    ("2 % of segments repeated, to the upstream", talks, FINE, LOSSY),
    ("client cut off for 5 s", cut_for("client", 5), FINE, FINE),
    ("upstream cut off for 5 s", cut_for("upstream", 5), FINE, FINE),
    ("client cut off for ever", client_gone_for_ever, FINE, FINE),
    ("upstream cut off until it is given up", upstream_gone_for_ever, FINE, FINE),
    ("client reset, resumes", client_reset, FAR, FINE),
    ("upstream reset in its answers", upstream_reset, FINE, FAR),
]


async def main(arguments: argparse.Namespace) -> int:
    chosen = [row for row in ROWS if arguments.only in row[0]]
    broken = 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with contextlib.AsyncExitStack() as stack:
            simulated = daemon.running(
                directory / "simulator", "simulate", "--listen", "127.0.0.1:0"
            )
            simulator = await stack.enter_async_context(simulated)
            nursery = await stack.enter_async_context(trio.open_nursery())
            upstream = Link(simulator.port, FINE, seed=1)
            await nursery.start(upstream.serve)
            serving = daemon.running(
                directory / "relay",
                *("serve", "--listen", "127.0.0.1:0", "--set", "session.resume_window_s=5"),
                *("--upstream", f"ws://127.0.0.1:{upstream.port}/v1/realtime"),
            )
            relay = await stack.enter_async_context(serving)
            client = Link(relay.port, FINE, seed=2)
            await nursery.start(client.serve)
            net = Net(client, upstream, relay)
            empty = await relay.state()
            await talks(net)  # the process grows to a size that it keeps
            await _settled(relay, empty)
            print(f"{'':42} {'s':>6} {'descriptors':>12} {'tasks':>6} {'MiB':>6}")
            for title, row, to_clients, to_upstream in chosen:
                client.weather, upstream.weather = _copy(to_clients), _copy(to_upstream)
                broken += await _held(title, row, net)
            nursery.cancel_scope.cancel()
    print(f"{len(chosen)} networks, {broken} breaches")
    return 1 if broken or not chosen else 0


def _copy(weather: Weather) -> Weather:
    return Weather(weather.delay_s, weather.jitter_s, weather.lost)


async def _held(title: str, row: Row, net: Net) -> bool:
    """One row, and what is left of it; whether it is a breach."""
    before, began, breaches = await _settled(net.relay, None), trio.current_time(), []
    try:
        with trio.fail_after(150):
            await row(net)
    except* (Breach, Ended, trio.TooSlowError, OSError) as faults:
        breaches += [repr(fault) for fault in _leaves(faults)]
    seconds = trio.current_time() - began
    net.client.mend()
    net.upstream.mend()
    net.client.weather = net.upstream.weather = Weather()
    after = await _settled(net.relay, before)
    try:
        peer = await net.comes()
        await answered(peer)
        await leaves(peer)
    except (Breach, Ended, OSError) as fault:
        breaches.append(f"does not serve: {fault!r}")
    after = await _settled(net.relay, before)
    if after.descriptors > before.descriptors or after.tasks > before.tasks:
        breaches.append(f"left behind: {before} became {after}")
    if after.rss_mib > before.rss_mib + LEFT_MIB:
        breaches.append(f"{after.rss_mib - before.rss_mib:.1f} MiB more in use")
    breaches += net.relay.complaints()
    print(
        f"{title:42} {seconds:6.1f} {after.descriptors - before.descriptors:+12}"
        f" {after.tasks - before.tasks:+6} {after.rss_mib - before.rss_mib:+6.1f}"
        f" {'BREACH' if breaches else 'ok'}",
        flush=True,
    )
    for breach in breaches:
        print(f"    {breach}", flush=True)
    return bool(breaches)


async def _settled(relay: daemon.Process, before: daemon.State | None) -> daemon.State:
    """When what was is over: a lost conversation waits for 5 s."""
    state = await relay.state()
    with trio.move_on_after(GONE_S):
        while before and (state.tasks > before.tasks or state.descriptors > before.descriptors):
            await trio.sleep(0.5)
            state = await relay.state()
        if before and state.rss_mib > before.rss_mib + LEFT_MIB:
            await trio.sleep(6)
    return await relay.state()


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/bad-network", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORD", help="networks with this in the name")
    sys.exit(trio.run(main, parser.parse_args()))
