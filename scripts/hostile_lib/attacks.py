"""attacks: what is done to a relay, one function for each kind, in the order of the table.

Each is given the `Target` and raises `Breach` if the relay answers as it must not. Whether anything
is left behind, and whether the relay still serves, is looked at elsewhere, after each of them.
"""

import contextlib
import json
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
import upstreams
from peer import BINARY, CLOSE, PING, PONG, Breach, Ended, Peer, connected, framed, upgrade
from upstreams import BAD_JSON, Behaviour, Upstream

MIB = 1 << 20
CONNECTIONS = 10_000
HASTE = 1.0
"""Floods last this much of their time, with --quick."""
AGENT = "/v1/agent/converse"
CLIENT_KEY = "sk-planted-client"
UPSTREAM_KEY = "sk-planted-upstream"
PROMPT = "planted-prompt"
WORDS = "planted-words"
SECRETS = (CLIENT_KEY, UPSTREAM_KEY, PROMPT, WORDS)
AUTHORIZATION = f"Authorization: Token {CLIENT_KEY}"
SETTINGS: dict[str, Any] = {
    "type": "Settings",
    "audio": {
        "input": {"encoding": "linear16", "sample_rate": 24000},
        "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
    },
    "agent": {
        "listen": {"provider": {"type": "deepgram", "model": "nova-3"}},
        "think": {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "prompt": PROMPT},
        "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
    },
}
SAYING = {"type": "InjectUserMessage", "content": f"Hello, {WORDS}."}


@dataclass
class Target:
    """The relay, and the upstream that it was told to dial."""

    port: int
    upstream: Upstream
    peers: list[Peer] = field(default_factory=list)

    async def peer(self, *, buffer: int | None = None) -> Peer:
        self.peers.append(await connected(self.port, buffer=buffer))
        return self.peers[-1]

    def leave(self) -> None:
        """Drop whatever an attack left open."""
        for peer in self.peers:
            peer.drop()
        self.peers.clear()

    async def client(self, *, buffer: int | None = None) -> Peer:
        """Connected, authenticated and welcomed."""
        peer = await self.peer(buffer=buffer)
        await peer.send(upgrade(AGENT, AUTHORIZATION))
        status, _ = await peer.head()
        if status != 101:
            raise Breach(f"the upgrade was answered with {status}")
        await peer.until("Welcome")
        return peer

    async def applied(self, *, buffer: int | None = None) -> Peer:
        """A client in the middle of a conversation."""
        peer = await self.client(buffer=buffer)
        await peer.message(SETTINGS)
        await peer.until("SettingsApplied")
        return peer


async def conversation(target: Target) -> None:
    """What a normal client does: settings, a question, an answer in words and sound, goodbye."""
    peer = await target.applied()
    await peer.message(SAYING)
    audio = 0
    with trio.move_on_after(10):
        while True:
            received = await peer.receive()
            if isinstance(received, bytes):
                audio += len(received)
            elif json.loads(received)["type"] == "AgentAudioDone":
                break
    if not audio:
        raise Breach("the agent was not heard")
    await peer.send(framed(struct.pack("!H", 1000), CLOSE))
    if (await peer.end()).code != 1000:
        raise Breach("the goodbye was not answered")
    peer.drop()


PAGE_S = 1.5
"""As long as a pong may take (C-193), and a half for two processes that share their cores."""
Attack = Callable[[Target], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    name: str
    attack: Attack
    peak_mib: float
    """What the relay may need for it, at most, above what it had."""
    slow: bool
    """Left out by --quick."""
    page_s: float = PAGE_S
    """How long /healthz may take at any time."""


CASES: list[Case] = []


def case(
    name: str, *, peak_mib: float = 32, slow: bool = False, page_s: float = PAGE_S
) -> Callable[[Attack], Attack]:
    def added(attack: Attack) -> Attack:
        CASES.append(Case(name, attack, peak_mib, slow, page_s))
        return attack

    return added


# Heads.


async def status_of(target: Target, data: bytes, *, within_s: float = 5.0) -> int | None:
    """Send this; the status of the one answer, None: none came. The end must follow it."""
    peer = await target.peer()
    status: int | None = None
    with trio.move_on_after(within_s) as patience:
        await peer.send(data)
        with contextlib.suppress(Ended):
            status, _ = await peer.head()
            if status != 101 and b"HTTP/1.1" in await rest(peer):
                raise Breach("one connection, two answers")
    peer.drop()
    if patience.cancelled_caught:
        raise Breach(f"{data[:60]!r} is neither answered nor closed within {within_s:g} s")
    return status


async def rest(peer: Peer) -> bytes:
    data = b""
    while more := await peer._some():
        data += more
    return data


async def expect(target: Target, heads: Iterable[tuple[bytes, set[int | None]]]) -> None:
    for head, allowed in heads:
        status = await status_of(target, head)
        if status not in allowed:
            raise Breach(f"{head[:80]!r} was answered with {status}, not {allowed}")


@case("heads: garbage")
async def _(target: Target) -> None:
    await expect(
        target,
        [
            (bytes(range(256)) * 4, {400, None}),
            (b"\x00" * 20_000, {400, 431, None}),
            (b"\r\n" * 10_000 + b"x", {400, 431, None}),
            (b"GET\r\n\r\n", {400}),
            (b"GET / HTTP/1.1\r\n: x\r\nHost: h\r\n\r\n", {400}),
            (b"GET / HTTP/1.1\r\nHost: h\r\nA\x00B: x\r\n\r\n", {400}),
            (b"GET / HTTP/1.1\r\nHost: h\r\nA: x\x00y\r\n\r\n", {400}),
            (b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n", {400, 404}),
            (b"GET " + b"/" * 15_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", {404, 414}),
            (b"\x80\x8f\x00\x00\r\n\r\n", {400}),
        ],
    )


@case("heads: 70 kB")
async def _(target: Target) -> None:
    big = b"X-Big: " + b"y" * 70_000
    many = b"\r\n".join(b"X-%d: y" % number for number in range(8000))
    for lines in (big, many):
        status = await status_of(target, b"GET / HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n\r\n")
        if status != 431:
            raise Breach(f"a head of {len(lines)} bytes was answered with {status}")


@case("heads: versions, methods, Host")
async def _(target: Target) -> None:
    plain = "{} {} HTTP/{}\r\nHost: h\r\n\r\n"
    methods = ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "BREW", "get"]
    paths = ["/healthz", "/readyz", AGENT, "/", "*", "h:80"]
    heads: list[tuple[bytes, set[int | None]]] = []
    for method in methods:
        for path in paths:
            head = plain.format(method, path, "1.1").encode()
            heads.append((head, {400, 401, 404, 405, 426}))
    for version in ("0.9", "2.0", "1.2", "3.0", "9.9"):
        head = plain.format("GET", "/healthz", version).encode()
        heads.append((head, {200, 400, 505}))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    heads += [
        (preface, {400, 404, 405, 505}),
        (upgrade(AGENT, AUTHORIZATION, host=""), {400}),
        (upgrade(AGENT, AUTHORIZATION, "Host: b"), {400}),
        (upgrade(AGENT, AUTHORIZATION, version="1.0"), {400, 426, 505}),
        (b"HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n", {200}),
        (b"GET /healthz HTTP/1.0\r\n\r\n", {200}),
    ]
    await expect(target, heads)


@case("heads: smuggling")
async def _(target: Target) -> None:
    second = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    length = b"Content-Length: %d\r\n" % len(second)
    chunked = b"Transfer-Encoding: chunked\r\n"
    first = b"POST / HTTP/1.1\r\nHost: h\r\n"
    refused: set[int | None] = {400, 401, 404, 405, 426, 501}
    asked = upgrade(AGENT, AUTHORIZATION)
    await expect(
        target,
        [
            (first + length + chunked + b"\r\n0\r\n\r\n" + second, refused),
            (first + length + b"Content-Length: 0\r\n\r\n" + second, refused),
            (first + b"Content-Length: -1\r\n\r\n" + second, refused),
            (first + b"Content-Length: 99999999999999999999\r\n\r\n" + second, refused),
            (first + chunked + b"\r\nffffffffffffffffffff\r\n" + second, refused),
            (first + b"Transfer-Encoding: xchunked\r\n\r\n" + second, refused),
            (first + b"Transfer-Encoding : chunked\r\n\r\n" + second, refused),
            (first + b" folded: x\r\n" + chunked + b"\r\n" + second, refused),
            (second + second, {200}),
            (asked.replace(b"\r\n\r\n", b"\r\n" + length + b"\r\n") + second, refused),
            (asked.replace(b"\r\n\r\n", b"\r\n" + chunked + b"\r\n0\r\n\r\n"), refused),
        ],
    )


@case("heads: upgrades that are none, sub-protocols, compression")
async def _(target: Target) -> None:
    def asked(*headers: str) -> bytes:
        return upgrade(AGENT, *headers)

    protocols = "Sec-WebSocket-Protocol: "
    many = ",".join(["token", "x"] * 3000)
    known = asked(AUTHORIZATION)
    await expect(
        target,
        [
            (asked(), {401}),
            (asked(protocols + "token"), {401}),
            (asked(protocols + "token, wrong"), {401}),
            (asked(protocols + ", ,,token,,"), {401}),
            (asked(protocols + many[:15_000]), {401}),
            (asked(protocols + "\xff\xfe, \xff"), {401, 400}),
            (asked("Authorization: Token \xff\xfe"), {401, 400}),
            (asked("Authorization: Token"), {401}),
            (asked(AUTHORIZATION, "Sec-WebSocket-Key: x"), {400}),
            (known.replace(b"Version: 13", b"Version: 12"), {426, 400}),
            (known.replace(b"Version: 13", b"Version: \xff"), {426, 400}),
            (known.replace(b"Key: ", b"Key: \xff"), {400}),
            (known.replace(b"Upgrade: websocket", b"Upgrade: h2c"), {426, 400}),
            (known.replace(b"Connection: Upgrade", b"Connection: close"), {426, 400}),
            (known.replace(b"GET", b"POST"), {405, 400}),
        ],
    )
    for offered in (f"token, {CLIENT_KEY}", f"x, y, bearer, {CLIENT_KEY}"):
        peer = await target.peer()
        await peer.send(asked(protocols + offered, "Sec-WebSocket-Extensions: permessage-deflate"))
        status, head = await peer.head()
        if status != 101 or "xtensions" in head or CLIENT_KEY in head:
            raise Breach(f"the upgrade was answered with {head!r}")
        peer.drop()


@case("heads: TLS to the plain port")
async def _(target: Target) -> None:
    context = ssl.create_default_context()
    stream = await trio.open_tcp_stream("127.0.0.1", target.port)
    tls = trio.SSLStream(stream, context, server_hostname="h")
    with trio.fail_after(5):
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            return
        finally:
            await trio.aclose_forcefully(stream)
    raise Breach("a plain port took part in a TLS handshake")


@case("heads: 500 half-open and half-closed, left after a moment")
async def _(target: Target) -> None:
    pieces = [b"", b"G", b"GET / HTTP/1.1\r\nHost: h\r\n", upgrade(AGENT, AUTHORIZATION)]
    peers = [await target.peer() for _ in range(500)]
    for number, peer in enumerate(peers):
        await peer.send(pieces[number % len(pieces)])
        if number % 3 == 0:
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.stream.send_eof()
    await trio.sleep(0.5)
    for number, peer in enumerate(peers):
        peer.reset() if number % 2 else peer.drop()


@case("heads: silent and slow, to the deadline", slow=True)
async def _(target: Target) -> None:
    async def expired(peer: Peer) -> None:
        with trio.move_on_after(15):
            if (await peer.head())[0] != 408:
                raise Breach("no 408 at the deadline")
            await rest(peer)
            peer.drop()
            return
        raise Breach("open after 15 s without a request")

    async def slow(peer: Peer) -> None:
        for byte in b"GET / HTTP/1.1\r\nHost: hhhhhhhhhhhhhhhhhhhhh":
            await peer.send(bytes([byte]))
            await trio.sleep(0.4)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            peer = await target.peer()
            nursery.start_soon(expired, peer)
            if number % 2:
                nursery.start_soon(slow, peer)


# Frames.


@case("frames: against RFC 6455")
async def _(target: Target) -> None:
    bad: list[tuple[bytes, int]] = [
        (framed(b"{}", masked=False), 1002),
        (framed(b"{}", reserved=4), 1002),
        (framed(b"{}", reserved=3), 1002),
        (framed(b"", 3), 1002),
        (framed(b"", 15), 1002),
        (framed(b"", 0), 1002),
        (framed(b"a", fin=False) + framed(b"b"), 1002),
        (framed(b"a", PING, fin=False), 1002),
        (framed(b"a" * 126, PING), 1002),
        (framed(b"x", CLOSE), 1002),
        (framed(struct.pack("!H", 999), CLOSE), 1002),
        (framed(struct.pack("!H", 1005), CLOSE), 1002),
        (framed(struct.pack("!H", 1000) + b"\xff", CLOSE), 1007),
        (framed(b"\xff\xfe"), 1007),
        (framed(b"\xf0\x9f", fin=False) + framed(b"\x98", 0), 1007),
        (framed(b"", BINARY, length=1 << 63), 1002),
        (framed(bytes(1000), BINARY, length=(1 << 62) + 1000), 0),
    ]
    for data, code in bad:
        peer = await target.client()
        await peer.send(data)
        if not code:  # a claim alone is no offence
            await peer.message(b"", PONG)
            peer.drop()
            continue
        ended = await peer.end()
        if ended.code != code:
            raise Breach(f"{data[:20]!r} was closed with {ended.code}, not {code}")
        peer.drop()


@case("frames: 2 MiB", peak_mib=48)
async def _(target: Target) -> None:
    for opcode, payload in ((1, b"x" * (2 * MIB)), (1, "é".encode() * MIB), (2, bytes(2 * MIB))):
        for peer in (await target.client(), await target.applied()):
            await peer.message(payload, opcode)
            error = await peer.until("Error")
            if not error.get("code") or not error.get("description"):
                raise Breach(f"an Error without words: {error}")
            ended = await peer.end()
            if ended.code is None:
                raise Breach("no close frame behind the Error")
            peer.drop()


@case("frames: 17 MiB, whole and in pieces", peak_mib=160)
async def _(target: Target) -> None:
    for opcode in (1, 2):
        peer = await target.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.message, b"x" * (17 * MIB), opcode)
            if (await peer.end()).code != 1009:
                raise Breach("17 MiB were not closed with 1009")
        peer.drop()
    peer = await target.client()
    piece = bytes(MIB)
    await peer.send(framed(piece, BINARY, fin=False))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, framed(piece, 0, fin=False) * 16)
        if (await peer.end()).code != 1009:
            raise Breach("17 pieces of 1 MiB were not closed with 1009")
    peer.drop()


@case("frames: a message in pieces of nothing and of one byte", peak_mib=48)
async def _(target: Target) -> None:
    for piece in (b"", b"x"):
        for opcode in (1, 2):
            peer = await target.client()
            await peer.send(framed(b"x", opcode, fin=False))
            with trio.move_on_after(4 * HASTE):
                for _ in range(200):
                    await peer.send(framed(piece, 0, fin=False) * 1000)
            peer.reset()


@case("frames: 20 unfinished messages of 15 MiB, dropped", peak_mib=500, slow=True)
async def _(target: Target) -> None:
    peers = [await target.client() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(peer.send, framed(bytes(15 * MIB), BINARY, fin=False))
    await trio.sleep(0.3)
    for peer in peers:
        peer.reset()


@case("frames: floods of pings and pongs")
async def _(target: Target) -> None:
    deaf = await target.client(buffer=4096)
    with trio.move_on_after(2 * HASTE):
        while True:  # never reads its pongs
            await deaf.send(framed(b"p" * 125, PING) * 500)
    peer = await target.applied()
    for opcode in (PING, PONG):
        flood = framed(b"p" * 125, opcode) * 10_000 + framed(b"the last", PING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, flood)
            await peer.hears_pong(b"the last", within_s=10)
    peer.drop()
    deaf.reset()


# Messages.


async def still_there_or_refused(peer: Peer) -> None:
    try:
        await peer.answered()
    except Ended as ended:
        if ended.code is None:
            raise Breach("the relay hung up without a close frame") from None
    peer.drop()


@case("JSON: bombs and nonsense, before and after Settings")
async def _(target: Target) -> None:
    for text in BAD_JSON:
        for begin in (target.client, target.applied):
            peer = await begin()
            await peer.message(text)
            await still_there_or_refused(peer)


@case("JSON: odd Settings")
async def _(target: Target) -> None:
    think = SETTINGS["agent"]["think"]
    deep: Any = {}
    for _level in range(90):
        deep = {"type": "object", "properties": {"a": deep}}
    functions = [
        [{"name": "f" * 100_000, "parameters": {}}],
        [{"name": f"f{number}", "parameters": {}} for number in range(5000)],
        [{"name": "f", "parameters": deep}],
        [{"name": "f", "parameters": {"x": 10**400}}],
        [{"name": "\x00\u2028", "description": "\U0010ffff"}] * 3,
        [None, 3, "f"],
    ]
    odd: list[dict[str, Any]] = [
        {**SETTINGS, "agent": {**SETTINGS["agent"], "think": {**think, "functions": listed}}}
        for listed in functions
    ]
    odd += [
        {**SETTINGS, "audio": {"input": {"encoding": "linear16", "sample_rate": rate}}}
        for rate in (0, -1, 1, 10**12, 1e308, 24000.5, "24000", None, True)
    ]
    odd += [
        {**SETTINGS, "agent": {**SETTINGS["agent"], "greeting": "g" * 900_000}},
        {**SETTINGS, "agent": {**SETTINGS["agent"], "think": {**think, "prompt": "p" * 900_000}}},
        {"type": "Settings", "agent": None, "audio": None, "tags": ["t" * 1000] * 500},
    ]
    for settings in odd:
        peer = await target.client()
        await peer.message(json.dumps(settings))
        await still_there_or_refused(peer)


@case("floods: of JSON that is read, and that is not", peak_mib=48)
async def _(target: Target) -> None:
    texts = [
        {"type": "KeepAlive"},
        {"type": "nonsense"},
        {"type": "InjectUserMessage", "content": "x" * 50_000},
        {"type": "UpdatePrompt", "prompt": "x" * 50_000},
        {"type": "FunctionCallResponse", "id": "x", "name": "y", "content": "z"},
        SETTINGS,
    ]
    for buffer in (None, 4096):
        for text in texts:
            for begin in (target.client, target.applied):
                peer = await begin(buffer=buffer)
                flood = framed(json.dumps(text).encode())
                async with trio.open_nursery() as nursery:
                    if buffer is None:
                        nursery.start_soon(upstreams.drained, peer)
                    with trio.move_on_after(0.5 * HASTE):
                        for _ in range(200):
                            await peer.send(flood * max(1, 50_000 // len(flood)))
                    nursery.cancel_scope.cancel()
                peer.reset()


@case("floods: of audio, before and after Settings", peak_mib=48)
async def _(target: Target) -> None:
    for begin in (target.client, target.applied):
        for size in (0, 1, 960, 500_001):
            peer = await begin()
            flood = framed(bytes(size), BINARY) * max(1, 200_000 // (size + 1) // 10)
            with trio.move_on_after(0.7 * HASTE):
                for _ in range(100):
                    await peer.send(flood)
            await peer.send(framed(b"!", PING))
            peer.drop()


@case("floods: a client that never reads what it asked for", peak_mib=48)
async def _(target: Target) -> None:
    target.upstream.behaviour = upstreams.floods_with_audio
    peer = await target.applied(buffer=4096)
    await peer.message(SAYING)
    await trio.sleep(5 * HASTE)
    peer.reset()


# Connections.


@case("connections: each of a conversation's moments ends in RST", peak_mib=48)
async def _(target: Target) -> None:
    async def at(moment: int) -> None:
        peer = await target.peer()
        with contextlib.suppress(Ended):
            if moment > 0:
                await peer.send(upgrade(AGENT, AUTHORIZATION))
            if moment > 1:
                await peer.head()
            if moment > 2:
                await peer.message(SETTINGS)
            if moment > 3:
                await peer.until("SettingsApplied")
            if moment > 4:
                await peer.message(SAYING)
            if moment > 5:
                await peer.until("AgentStartedSpeaking")
        peer.reset()

    for moment in range(7):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(at, moment)


# The system hands connections over in their order, and /healthz is one among them. Each takes the
# relay 0.26 ms of CPU, so that the longest queue (net.core.somaxconn, 4,096) takes a second of a
# core; who finds it full tries again after one second, and after two more. The rest is for a
# machine whose cores have other work.
@case("connections: opened and dropped, 10,000 (--quick: 1,000)", peak_mib=64, page_s=15)
async def _(target: Target) -> None:
    asked = upgrade(AGENT, AUTHORIZATION)
    first = [b"", b"GET", asked[:80], asked, asked + framed(b"{}"), upgrade(AGENT)]

    async def some(start: int) -> None:
        for number in range(start, CONNECTIONS, 100):
            peer = await target.peer()
            await peer.send(first[number % len(first)])
            if number % 5 == 0:
                with contextlib.suppress(Ended):
                    with trio.move_on_after(0.5):
                        await peer.head()
            peer.drop() if number % 2 else peer.reset()

    async with trio.open_nursery() as nursery:
        for start in range(100):
            nursery.start_soon(some, start)


@case("connections: 100 conversations of 1 MB each, lost", peak_mib=500, slow=True)
async def _(target: Target) -> None:
    think = {**SETTINGS["agent"]["think"]}
    think["functions"] = [{"name": "f", "description": "d" * 950_000, "parameters": {}}]
    heavy = {**SETTINGS, "agent": {**SETTINGS["agent"], "think": think}}
    for _ in range(100):
        peer = await target.client()
        await peer.message(heavy)
        await peer.until("SettingsApplied")
        peer.reset()


STARVED = "connections: more than a relay with 64 descriptors can hold"


@case(STARVED)
async def _(target: Target) -> None:
    for _ in range(200):
        await target.peer()
    await trio.sleep(1)
    target.leave()


OVERLOADED = "connections: to a relay whose loop is late"
MAX_LAG_MS = 25.0


@case(OVERLOADED)
async def _(target: Target) -> None:
    asked = upgrade(AGENT, AUTHORIZATION)
    await _until_ready(target, 200)  # the machine may be busy without us
    talker = await target.applied()
    flood = framed(b"", BINARY) * 20_000
    async with trio.open_nursery() as nursery:

        async def load(peer: Peer) -> None:
            while True:
                await peer.send(flood)

        for peer in [await target.client() for _ in range(60)]:
            nursery.start_soon(load, peer)
        await _until_ready(target, 503)
        peer = await target.peer()
        await peer.send(asked)
        status, head = await peer.head()
        if status != 503 or "retry-after:" not in head.lower():
            raise Breach(f"an overloaded relay answered {head!r}")
        await talker.answered(within_s=PAGE_S)  # who is in stays in
        nursery.cancel_scope.cancel()
    target.leave()
    await _until_ready(target, 200)


async def _until_ready(target: Target, status: int) -> None:
    """Until /readyz answers this."""
    request = b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n"
    with trio.move_on_after(30) as patience:
        while await status_of(target, request) != status:  # noqa: ASYNC110 - another process
            await trio.sleep(0.2)
    if patience.cancelled_caught:
        raise Breach(f"/readyz does not come to {status}")


@case("connections: a client that answers no ping", slow=True)
async def _(target: Target) -> None:
    peer = await target.applied()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def stay() -> None:
            while True:
                await peer.message({"type": "KeepAlive"})
                await trio.sleep(5)

        nursery.start_soon(stay)
        await peer.end(within_s=45)
        nursery.cancel_scope.cancel()
    if not 35 < trio.current_time() - began < 45:
        raise Breach(f"lost after {trio.current_time() - began:.1f} s")
    peer.drop()


@case("connections: no Settings, to the deadline", slow=True)
async def _(target: Target) -> None:
    peer = await target.client()
    await peer.until("Error", within_s=20)
    await peer.end()
    peer.drop()


@case("goodbyes that carry secrets")
async def _(target: Target) -> None:
    peer = await target.applied()
    await peer.send(framed(struct.pack("!H", 4000) + f"{CLIENT_KEY} {WORDS}".encode(), CLOSE))
    await peer.end()
    peer.drop()


# Upstreams.

UPSTREAMS: list[tuple[Behaviour, float, bool]] = [
    (upstreams.hangs_up_at_once, 32, False),
    (upstreams.resets_at_once, 32, True),
    (upstreams.says_nothing, 32, False),
    (upstreams.answers_garbage, 32, False),
    (upstreams.answers_401_with_a_secret_and_an_endless_body, 32, False),
    (upstreams.redirects, 32, True),
    (upstreams.answers_an_endless_head, 32, False),
    (upstreams.accepts_with_a_wrong_key, 32, False),
    (upstreams.compresses, 32, False),
    (upstreams.sends_garbage_frames, 32, False),
    (upstreams.masks_its_frames, 32, True),
    (upstreams.closes_before_created, 32, False),
    (upstreams.closes_after_created, 32, False),
    (upstreams.closes_after_updated, 32, False),
    (upstreams.closes_in_a_response, 32, False),
    (upstreams.resets_in_a_response, 32, False),
    (upstreams.sends_after_its_close, 32, False),
    (upstreams.never_sends_created, 32, False),
    (upstreams.drips, 32, True),
    (upstreams.sends_what_is_no_event, 32, False),
    (upstreams.sends_no_utf_8, 32, False),
    (upstreams.sends_15_mib_events, 200, False),
    (upstreams.sends_11_mib_of_audio_in_one_event, 160, False),
    (upstreams.sends_33_mib, 250, False),
    (upstreams.floods_with_unknown_events, 32, False),
    (upstreams.floods_with_audio, 64, False),
    (upstreams.floods_with_responses_and_items, 48, False),
    (upstreams.floods_with_calls, 48, False),
    (upstreams.floods_with_pings, 32, False),
    (upstreams.floods_with_fragments, 32, False),
    (upstreams.never_reads, 96, False),
]
GIVEN_UP_S = 6.0
"""For a conversation with a bad upstream; more than `session.upstream_ready_s` is set to."""


async def with_bad_upstream(behave: Behaviour, target: Target) -> None:
    """A client that speaks and listens all the same; until the relay gives up, or it does. What the
    client is told has words, and its pings are answered to the end."""
    target.upstream.behaviour = behave
    peer = await target.client()
    await peer.message(SETTINGS)
    await peer.message(SAYING)
    sound = framed(bytes(9600), BINARY)

    async def speak() -> None:
        with contextlib.suppress(OSError, trio.ClosedResourceError):
            while True:
                await peer.send(sound * (40 if behave is upstreams.never_reads else 1))
                await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        goes_on_s = 4 * HASTE if behave in UNENDING else GIVEN_UP_S
        with trio.move_on_after(goes_on_s) as patience:
            try:
                while True:
                    received = await peer.receive()
                    if isinstance(received, str):
                        told(json.loads(received))
            except Ended as ended:
                if ended.code is None and behave not in TOO_MUCH:
                    raise Breach("the relay hung up without a close frame") from None
        nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        await peer.send(framed(b"still there?", PING))
        await peer.hears_pong(b"still there?", within_s=2)
        if behave not in UNENDING:
            raise Breach("neither an answer nor an end")
    peer.drop()


UNENDING = {
    upstreams.sends_what_is_no_event,
    upstreams.sends_15_mib_events,
    upstreams.sends_11_mib_of_audio_in_one_event,
    upstreams.floods_with_unknown_events,
    upstreams.floods_with_audio,
    upstreams.floods_with_responses_and_items,
    upstreams.floods_with_calls,
    upstreams.floods_with_pings,
    upstreams.floods_with_fragments,
    upstreams.sends_33_mib,
}
"""With these a conversation may go on."""
TOO_MUCH = {upstreams.sends_11_mib_of_audio_in_one_event, upstreams.floods_with_audio}
"""With these more audio may come than is kept for a client, which is then dropped (4.2)."""


def told(message: dict[str, Any]) -> None:
    complaint = message["type"] in ("Error", "Warning")
    if complaint and not (message.get("code") and message.get("description")):
        raise Breach(f"a complaint without words: {message}")


for behave, peak, slow in UPSTREAMS:
    name = f"upstream {behave.__name__.replace('_', ' ')}"
    CASES.append(Case(name, partial(with_bad_upstream, behave), peak, slow))


# The plain load, which is not hostile.

FRAME = 960
"""20 ms at 24 kHz."""


async def echoes(peer: Peer) -> None:
    """An upstream that says what it hears, in one endless response."""
    await upstreams.responding(peer)
    while True:
        message = await peer.json()
        if message["type"] == "input_audio_buffer.append":
            delta = upstreams.delta(b"")
            await peer.message({**delta, "delta": message["audio"]})


@case("50 conversations in real time, both ways", peak_mib=96, slow=True)
async def _(target: Target) -> None:
    target.upstream.behaviour = echoes
    seconds, worst = 10.0, [0.0]

    async def one() -> None:
        peer = await target.applied()
        await peer.message(SAYING)
        await trio.sleep(0.5)
        frames = round(seconds * 50)
        sent = b"".join(struct.pack("<H", n % 65536) * (FRAME // 2) for n in range(1, frames + 1))
        heard = bytearray()
        times: dict[int, float] = {}

        async def listen() -> None:
            while len(heard) < len(sent):
                received = await peer.receive()
                if isinstance(received, bytes):
                    heard.extend(received)
                    late = trio.current_time() - times[(len(heard) - 1) // FRAME]
                    worst[0] = max(worst[0], late)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            began = trio.current_time()
            for number in range(frames):
                times[number] = trio.current_time()
                await peer.message(sent[number * FRAME : (number + 1) * FRAME], BINARY)
                await trio.sleep_until(began + (number + 1) * 0.02)
        if heard != sent:
            raise Breach("audio was lost or reordered")
        peer.drop()

    with trio.move_on_after(
        seconds + 60
    ) as patience:  # this script's ends are slower than the relay
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
    if patience.cancelled_caught:
        raise Breach("audio was lost: not all of it came back")
    print(
        f"    the slowest frame came back after {worst[0] * 1000:.0f} ms, both ends here included"
    )
