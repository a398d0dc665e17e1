"""hostile: does what `attacks` lists to a running relay and looks at it after each: whether it
serves, what it holds, what it wrote. Prints a table; exits 1 on a breach.

A breach is: a wrong answer; a normal conversation that fails afterwards; /healthz slower than the
attack may make it, at any time; a descriptor or task more than before; more than `LEFT_MIB` more
memory in use, twice in a row; a peak above what the attack is allowed; a traceback, an error or a
planted secret in the log.
"""

import argparse
import contextlib
import hashlib
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import attacks
import daemon
import trio
from attacks import CASES, CLIENT_KEY, SECRETS, UPSTREAM_KEY, Case, Target, conversation
from peer import Breach, Ended
from upstreams import Upstream

LEFT_MIB = 3.0
"""What an attack may leave in use when it is repeated."""
SETTLED_S = 40.0
"""For all that an attack left to be gone: a goodbye takes up to 9 s, and megabytes of frames of one
byte, which the system had taken already, longer."""
RESUME_WINDOW_S = 1.0
"""For so long the relay keeps conversations whose clients were lost."""
CONFIGURATION = """
[auth]
mode = "keys"
keys_file = "{keys}"

[session]
upstream_step_s = {step_s}
upstream_ready_s = {ready_s}
redial_backoff_s = [0.1]
resume_window_s = {window_s}

[overload]
max_lag_ms = 0
"""
WARM_UP = 3


@dataclass
class Row:
    case: Case
    breaches: list[str] = field(default_factory=list)
    page_ms: float = 0.0
    left_mib: float = 0.0
    peak_mib: float = 0.0
    seconds: float = 0.0


async def main(arguments: argparse.Namespace) -> int:
    chosen = [
        each
        for each in CASES
        if arguments.only in each.name and not (arguments.quick and each.slow)
    ]
    if arguments.quick:
        attacks.CONNECTIONS, attacks.HASTE = 1000, 0.2
    with tempfile.TemporaryDirectory() as directory:
        rows = await _attacked(Path(directory), chosen)
    broken = sum(bool(row.breaches) for row in rows)
    print(f"{len(rows)} attacks, {broken} breaches")
    return 1 if broken or not chosen else 0


async def _attacked(directory: Path, chosen: list[Case]) -> list[Row]:
    haste = max(attacks.HASTE, 0.3)
    keys, configuration = directory / "keys", directory / "relay.toml"
    keys.write_text(f"tester:{hashlib.sha256(CLIENT_KEY.encode()).hexdigest()}\n")
    configuration.write_text(
        CONFIGURATION.format(
            keys=keys, step_s=0.7 * haste, ready_s=2.0 * haste, window_s=RESUME_WINDOW_S
        )
    )
    fast = ("--listen", "127.0.0.1:0", "--set", "simulator.knobs.pace=0")
    async with contextlib.AsyncExitStack() as stack:
        simulated = daemon.running(directory / "simulator", "simulate", *fast)
        simulator = await stack.enter_async_context(simulated)
        nursery = await stack.enter_async_context(trio.open_nursery())
        upstream = Upstream(simulator.port)
        port = await nursery.start(upstream.serve)
        options = (
            *("serve", "--listen", "127.0.0.1:0", "--config", str(configuration)),
            *("--upstream", f"ws://127.0.0.1:{port}/v1/realtime"),
        )
        environment = {"OPENAI_API_KEY": UPSTREAM_KEY}
        serving = daemon.running(directory / "relay", *options, environment=environment)
        relay = await stack.enter_async_context(serving)
        serving = daemon.running(
            directory / "starved", *options, environment=environment, descriptors=64
        )
        starved = await stack.enter_async_context(serving)
        lag = ("--set", f"overload.max_lag_ms={attacks.MAX_LAG_MS}")
        serving = daemon.running(directory / "overloaded", *options, *lag, environment=environment)
        overloaded = await stack.enter_async_context(serving)
        relay.secrets = starved.secrets = overloaded.secrets = SECRETS
        target = Target(relay.port, upstream)
        for _ in range(WARM_UP):
            await conversation(target)
        print(f"{'':62} {'s':>5} {'page':>7} {'peak':>8} {'left':>8}")
        rows = []
        others = {attacks.STARVED: starved, attacks.OVERLOADED: overloaded}
        for each in chosen:
            if each.name in others:
                other = others[each.name]
                rows.append(await _repeated(each, other, Target(other.port, upstream)))
            else:
                rows.append(await _repeated(each, relay, target))
            _show(rows[-1])
        rows.append(Row(Case("SIGTERM in the end", conversation, 0, False)))
        rows[-1].breaches = [f"exit code {code}"] if (code := await relay.stopped()) else []
        rows[-1].breaches += relay.complaints()
        _show(rows[-1])
        nursery.cancel_scope.cancel()
    return rows


async def _repeated(each: Case, relay: daemon.Process, target: Target) -> Row:
    """Once; again if something is left in memory. The first time, the process grows to a size that
    it keeps; a leak comes again."""
    row = await _one(each, relay, target)
    if row.left_mib > LEFT_MIB:
        first, row = row, await _one(each, relay, target)
        row.breaches = first.breaches + row.breaches
        if row.left_mib > LEFT_MIB:
            row.breaches.append(f"{first.left_mib:.1f} and {row.left_mib:.1f} MiB more in use")
    return row


async def _one(each: Case, relay: daemon.Process, target: Target) -> Row:
    row = Row(each)
    before = await relay.state()
    relay.forget_peak()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        if each.name != attacks.STARVED:
            await nursery.start(_watch, relay.port, row)
        row.breaches += await _tried(each.attack, target)
        nursery.cancel_scope.cancel()
    target.leave()
    row.seconds = trio.current_time() - began
    row.peak_mib = relay.peak_mib - before.rss_mib
    if row.peak_mib > each.peak_mib:
        row.breaches.append(f"needed {row.peak_mib:.0f} MiB, allowed {each.peak_mib:.0f}")
    target.upstream.behaviour = None
    after = await _settled(relay, before)
    if after.descriptors > before.descriptors or after.tasks > before.tasks:
        row.breaches.append(f"left behind: {before} became {after}")
    row.breaches += await _tried(conversation, target)
    after = await _settled(relay, before)
    row.left_mib = after.rss_mib - before.rss_mib
    row.breaches += relay.complaints()
    return row


async def _tried(attack: object, target: Target) -> list[str]:
    try:
        await attack(target)  # type: ignore[operator] # an Attack
    except Exception as error:
        leaves = _leaves(error)
        if not all(isinstance(leaf, Breach | Ended) for leaf in leaves):
            traceback.print_exception(error)
        return [repr(leaf) for leaf in leaves]
    return []


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def _settled(relay: daemon.Process, before: daemon.State) -> daemon.State:
    began = trio.current_time()
    while True:
        state = await relay.state()
        waited = trio.current_time() - began
        free = state.descriptors <= before.descriptors and state.tasks <= before.tasks
        small = state.rss_mib <= before.rss_mib + LEFT_MIB or waited > 2 * RESUME_WINDOW_S
        if (free and small) or waited > SETTLED_S:
            return state
        await trio.sleep(0.1)


async def _watch(port: int, row: Row, *, task_status: trio.TaskStatus[None]) -> None:
    """Have /healthz asked for all the time; from its first answer on."""
    command = [sys.executable, str(Path(__file__).with_name("pages.py")), str(port)]
    asking = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert asking.stdout is not None
    unread = b""
    async with asking.stdout:
        try:
            async for data in asking.stdout:
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    status, took_ms = line.split()
                    row.page_ms = max(row.page_ms, float(took_ms))
                    late = float(took_ms) > row.case.page_s * 1000
                    if (status != b"200" or late) and len(row.breaches) < 3:
                        row.breaches.append(
                            f"/healthz: status {status.decode()} after {float(took_ms):.0f} ms"
                        )
        finally:
            asking.kill()
            with trio.CancelScope(shield=True):
                await asking.wait()


def _show(row: Row) -> None:
    print(
        f"{row.case.name[:62]:62} {row.seconds:5.1f} {row.page_ms:4.0f} ms"
        f" {row.peak_mib:4.0f} MiB {row.left_mib:4.1f} MiB"
        f" {'BREACH' if row.breaches else 'ok'}",
        flush=True,
    )
    for breach in row.breaches:
        print(f"    {breach}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/hostile", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without what waits for deadlines")
    parser.add_argument("--only", default="", metavar="WORD", help="attacks with this in the name")
    sys.exit(trio.run(main, parser.parse_args()))
