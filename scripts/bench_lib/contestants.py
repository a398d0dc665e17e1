"""contestants: what is measured, and how each is started."""

import sys
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).parent.parent / "bench_peers"
BUILT = Path(".bench")
RELAY = (sys.executable, "-m", "relay", "serve")


@dataclass(frozen=True)
class Contestant:
    name: str
    title: str
    program: tuple[str, ...]
    """The command, behind which port and upstream URL are put."""
    options: tuple[str, ...] = ()
    translates: bool = True
    """False: bytes go through unread, and the clients talk to the upstream themselves."""
    goal: float | None = None
    """At most this share of its CPU per frame may be ours."""
    rate: int = 24000
    """The clients' sample rate; the upstream's is 24000."""
    tls: bool = False
    """The upstream is wss."""
    adds: tuple[str, float] | None = None
    """What is measured by the difference to relay itself, and the most µs that it may be."""
    workers: int = 1
    """Processes that share the work; each has as many sessions as the others' one has."""

    def command(self, port: int, upstream_url: str, relay_options: list[str]) -> list[str]:
        if self.program == RELAY:
            address = ["--listen", f"127.0.0.1:{port}", "--upstream", upstream_url]
            workers = ["--workers", str(self.workers)] if self.workers > 1 else []
            return [*self.program, *address, *workers, *relay_options]
        return [*self.program, str(port), upstream_url, *self.options]


def _python(name: str) -> tuple[str, str]:
    return sys.executable, str(PEERS / f"{name}.py")


CONTESTANTS = {
    each.name: each
    for each in (
        Contestant("relay", "relay", RELAY),
        Contestant(
            "trio-websocket",
            "trio-websocket, straightforward",
            _python("trio_websocket_plain"),
            goal=0.50,
        ),
        Contestant(
            "websockets", "`websockets` on asyncio", _python("websockets_asyncio"), goal=0.80
        ),
        Contestant(
            "websockets-uvloop",
            "`websockets` on uvloop",
            _python("websockets_asyncio"),
            ("--uvloop",),
            goal=0.95,
        ),
        Contestant("node-ws", "Node `ws`", ("node", str(PEERS / "ws_node.js")), goal=1.0),
        Contestant(
            "tcp-splice",
            "TCP splice in trio, no WebSocket",
            _python("tcp_splice_trio"),
            translates=False,
            goal=0.90,
        ),
        Contestant("picows", "picows on uvloop", _python("picows_uvloop"), goal=1.6),
        Contestant("c-floor", "C with epoll, the floor", (str(BUILT / "epoll_relay"),), goal=2.2),
        Contestant(
            "relay-16k",
            "relay, clients at 16 kHz",
            RELAY,
            rate=16000,
            adds=("resampling adds, µs per frame", 8.0),
        ),
        Contestant(
            "relay-tls",
            "relay, upstream over TLS",
            RELAY,
            tls=True,
            adds=("TLS upstream adds, µs per frame", 5.0),
        ),
        Contestant("relay-2-workers", "relay, 2 workers", RELAY, workers=2),
        Contestant("relay-4-workers", "relay, 4 workers", RELAY, workers=4),
    )
}
