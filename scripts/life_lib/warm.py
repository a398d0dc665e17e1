"""warm: how long a client waits from its Settings to SettingsApplied, beside a direct connection.

Real processes and sockets: a simulator that answers a new connection after 100 ms, and two relays
before it, one of which dials before Settings come (`upstream.warm = "on_connect"`). All ways are
measured in turn, so that what else the machine does meets all alike.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import trio

from relay import wire

HANDSHAKE_S = 0.1
LATER_S = 0.25
"""So long after connecting a client with something to do first sends its Settings."""
READY_S = 20.0
SETTINGS = '{"type":"Settings","audio":{},"agent":{"think":{"prompt":"Be brief."}}}'
UPDATE = '{"type":"session.update","session":{"type":"realtime","instructions":"Be brief."}}'

Way = Callable[[], Awaitable[float]]


def measured(rounds: int) -> dict[str, list[float]]:
    """Milliseconds by way, of so many rounds."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "script.toml"
        script.write_text(f"[faults]\ncreated_delay_s = {HANDSHAKE_S}\n")
        simulator = stack.enter_context(_running(folder, "simulate", "--script", str(script)))
        serve = ("serve", "--upstream", simulator, "--set")
        cold = stack.enter_context(_running(folder, *serve, "upstream.warm=off"))
        warm = stack.enter_context(_running(folder, *serve, "upstream.warm=on_connect"))
        ways: dict[str, Way] = {
            "direct, from dialling to `session.updated`": partial(_direct, simulator),
            '`upstream.warm = "off"`': partial(_relayed, cold, 0.0),
            '`"on_connect"`, Settings at once': partial(_relayed, warm, 0.0),
            '`"on_connect"`, Settings 250 ms after connecting': partial(_relayed, warm, LATER_S),
        }
        return trio.run(_measured, ways, rounds)


async def _measured(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            took_s = await way()
            if number:  # the first one warms the processes up
                found[name].append(took_s * 1000)
    return found


def table(found: dict[str, list[float]]) -> str:
    rows = ["| way | median | range |", "|---|---|---|"]
    for name, times in found.items():
        low, high = min(times), max(times)
        rows.append(f"| {name} | {statistics.median(times):.1f} ms | {low:.1f} - {high:.1f} ms |")
    return "\n".join(rows)


@contextlib.contextmanager
def _running(folder: Path, *command: str) -> Iterator[str]:
    """A process of ours that listens somewhere; its address."""
    ready = folder / f"ready-{len(list(folder.iterdir()))}"
    whole = [sys.executable, "-m", "relay", command[0], "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*whole, "--ready-file", str(ready), *command[1:]], stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + READY_S
        while not ready.exists() and time.monotonic() < end:
            time.sleep(0.05)
        yield ready.read_text().split()[0]
    finally:
        process.terminate()
        process.wait()


async def _direct(simulator: str) -> float:
    began = trio.current_time()
    async with wire.dial(f"{simulator}?model=m") as leg:
        await _until(leg, "session.created")
        leg.post(UPDATE)
        await _until(leg, "session.updated")
        return trio.current_time() - began


async def _relayed(relay: str, after_s: float) -> float:
    async with wire.dial(f"{relay}/v1/agent/converse") as leg:
        await _until(leg, "Welcome")
        await trio.sleep(after_s)
        began = trio.current_time()
        leg.post(SETTINGS)
        await _until(leg, "SettingsApplied")
        return trio.current_time() - began


async def _until(leg: wire.Leg, kind: str) -> None:
    while msgspec.json.decode(await leg.receive())["type"] != kind:
        pass
