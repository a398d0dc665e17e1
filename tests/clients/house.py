"""house: the relay and the simulator as they really run, on this machine, with a tap at each door.

It knows how to start them. It does not know what anybody says.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import trio

from relay import config, served, server
from relay.simulator.script import Script
from relay.simulator.server import Options, serve_simulator
from tests.clients.tap import Tap, tapped


class House(msgspec.Struct, frozen=True):
    relay: str
    """The relay's own address, past the tap."""
    client: Tap
    """Between clients and the relay: dial its `url`."""
    upstream: Tap
    """Between the relay and the simulator."""
    daemon: server.Relay


@asynccontextmanager
async def open_house(script: Script | None = None, **options: Any) -> AsyncIterator[House]:
    """`options` are configuration keys with `__` for the dot."""
    async with trio.open_nursery() as nursery:
        simulator = await nursery.start(serve_simulator, Options(script=script or Script()))
        parts = urlsplit(simulator.url)
        async with tapped(f"ws://{parts.netloc}") as upstream:
            url = urlunsplit(parts._replace(netloc=urlsplit(upstream.url).netloc))
            calm = {"overload__max_lag_ms": 0}  # the machine may be busy with other tests
            keys = {"listen__port": 0, "upstream__url": url, **calm, **options}
            configured = config.load(
                None, {}, options={key.replace("__", "."): keys[key] for key in keys}
            )
            listeners = await server.open_listeners(configured, {})
            async with (
                server.running(served.build(configured, {}), {}, listeners) as relay,
                tapped(relay.urls[0]) as client,
            ):
                yield House(relay.urls[0], client, upstream, relay)
        nursery.cancel_scope.cancel()
