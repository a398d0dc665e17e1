"""Several workers from outside: real processes, which are killed, stopped and replaced."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import trio

from relay import config, logs, voice_agent, wire
from tests.test_cli import ANY_PORT, RELAY, Running, message, process, settings_applied
from tests.test_server import AGENT, close_code, fetch, refusal

TWO = (*ANY_PORT, "--workers", "2", "--upstream", "simulator")


class Client(msgspec.Struct):
    """A connection that has its Welcome, and the number of its worker."""

    leg: wire.Leg
    id: str
    worker: int


@contextlib.asynccontextmanager
async def connected(relay: Running, query: str = "", **headers: str) -> AsyncIterator[Client]:
    async with wire.dial(relay.url + AGENT + query, headers=headers) as leg:
        welcome = await message(leg, voice_agent.Welcome)
        line = await relay.until("connected")
        assert line["session"] == logs.name_of(welcome.request_id)
        yield Client(leg, welcome.request_id, line["worker"])


@contextlib.asynccontextmanager
async def connected_to(
    relay: Running, worker: int, query: str = "", **headers: str
) -> AsyncIterator[Client]:
    """The same at this worker: the others are stopped while it accepts. Who accepts first if all do
    is up to the machine, and on a busy one it is always the same."""
    others = [pid for number, pid in pids(relay).items() if number != worker]
    async with contextlib.AsyncExitStack() as stack:
        with stopped(others):
            client = await stack.enter_async_context(connected(relay, query, **headers))
        assert client.worker == worker
        yield client


@contextlib.contextmanager
def stopped(processes: list[int]) -> Iterator[None]:
    try:
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        while not all(state(pid) == "T" for pid in processes):
            os.sched_yield()
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


def state(pid: int) -> str:
    """As proc(5) has it: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def asks(leg: wire.Leg, text: str) -> None:
    """A whole turn."""
    leg.post(msgspec.json.encode({"type": "InjectUserMessage", "content": text}).decode())
    await message(leg, voice_agent.LatencyReport)


def serves(relay: Running) -> list[dict[str, Any]]:
    """The lines of those that have begun to serve."""
    return [line for line in relay.lines if line["event"] == "worker serves"]


def pids(relay: Running) -> dict[int, int]:
    """Of the workers, by their numbers; the newest."""
    return {line["worker"]: line["pid"] for line in serves(relay)}


def test_what_a_worker_is_configured_with_is_what_its_parent_has_read() -> None:
    configured = config.convert(
        {
            "listen": {"workers": 3, "tls_cert": "/cert", "tls_key": "/key"},
            "auth": {"query_token": ["deepgram"], "origins": ["https://a.example"]},
            "upstreams": [{"url": "wss://b.example", "api_key_file": "/key"}],
            "agents": {"a": {"greeting": "Hello", "think": {"prompt": "Be brief."}}},
            "models": {"x": "y"},
            "simulator": {"transcripts": ["One"]},
        }
    )
    assert config.decoded(config.encoded(configured)) == configured


async def test_two_workers_are_one_relay_and_drain_together(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    drain = ("--set", "session.drain_s=0.1", "--ready-file", str(ready))
    async with process(*TWO, *drain) as relay:
        assert relay.lines[0]["event"] == "the embedded simulator is the upstream"
        assert relay.lines[-1]["workers"] == 2
        assert ready.read_text() == f"{relay.url}\n"
        assert (await fetch(relay.address, "/readyz"))[0] == 200
        async with connected_to(relay, 1) as one, connected_to(relay, 2) as two:
            for client in (one, two):
                await settings_applied(client.leg)
                await asks(client.leg, "Hello")
            relay.signal(signal.SIGTERM)
            for client in (one, two):
                error = await message(client.leg, voice_agent.Error)
                assert error.code == "SERVER_GOING_AWAY"
                assert await close_code(client.leg) == 1001
        assert await relay.ended() == 0
    events = [line["event"] for line in relay.lines]
    assert events.count("listening") == 1
    assert events.count("the embedded simulator is the upstream") == 1
    assert events[-1] == "drained"


async def test_a_second_signal_ends_all_at_once_and_is_no_success() -> None:
    async with process(*TWO) as relay, connected(relay) as client:
        await settings_applied(client.leg)
        relay.signal(signal.SIGINT)
        await relay.until("draining")
        relay.signal(signal.SIGINT)
        assert await close_code(client.leg) == 1001
        assert await relay.ended() == 1


async def test_a_killed_worker_is_replaced_and_its_clients_go_on(tmp_path: Path) -> None:
    store = ("--set", f"store.url=sqlite:///{tmp_path / 'store'}")
    async with process(*TWO, *store) as relay, connected_to(relay, 2) as unhurt:
        await settings_applied(unhurt.leg)
        async with connected_to(relay, 1) as hurt:
            await settings_applied(hurt.leg)
            await asks(hurt.leg, "One")
            await asks(unhurt.leg, "One")
            killed = pids(relay)[1]
            os.kill(killed, signal.SIGKILL)
            assert await close_code(hurt.leg) is None
        assert (await relay.until("worker died"))["worker"] == 1
        await asks(unhurt.leg, "Two")
        async with connected(relay, f"?resume={hurt.id}") as back:
            await asks(back.leg, "Two")
            resumed = await relay.until("resumed")
            assert (resumed["first"], resumed["from_connection"]) == (logs.name_of(hurt.id), False)
        while pids(relay)[1] == killed:
            await relay.until("worker serves")
        async with connected_to(relay, 1) as newcomer:
            await settings_applied(newcomer.leg)


async def test_a_client_finds_its_conversation_at_another_worker() -> None:
    async with process(*TWO) as relay:
        async with connected_to(relay, 1) as lost:
            await settings_applied(lost.leg)
            await asks(lost.leg, "One")
            lost.leg.drop()
        async with connected_to(relay, 2, f"?resume={lost.id}") as second:
            await asks(second.leg, "Two")
            resumed = await relay.until("resumed")
            assert (resumed["worker"], resumed["first"]) == (2, logs.name_of(lost.id))
            async with connected_to(relay, 1, f"?resume={second.id}") as third:  # the last one wins
                await asks(third.leg, "Three")
                resumed = await relay.until("resumed")
                assert (resumed["worker"], resumed["first"]) == (1, logs.name_of(lost.id))
                assert resumed["from_connection"]
                assert await close_code(second.leg) == 1000
                async with connected_to(relay, 2, f"?resume={lost.id}") as fourth:
                    await asks(fourth.leg, "Four")
                    assert await close_code(third.leg) == 1000


async def test_a_worker_that_is_told_to_end_drains_and_is_replaced() -> None:
    async with process(*TWO) as relay:
        async with connected_to(relay, 1) as client:
            await settings_applied(client.leg)
            os.kill(pids(relay)[1], signal.SIGTERM)
            await relay.until("draining")
            async with connected(relay) as newcomer:
                assert newcomer.worker == 2
            await asks(client.leg, "Hello")
        assert (await relay.until("worker serves"))["worker"] == 1
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0


async def test_limits_and_figures_are_those_of_all_workers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        admin = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--set", "limits.key.sessions=2", "--set", f"admin.port={admin.partition(':')[2]}")
    async with process(*TWO, *options) as relay:
        async with connected_to(relay, 1) as one, connected_to(relay, 2):
            await settings_applied(one.leg)
            assert await refusal(relay.address) == 429
            assert await figures(admin, "relay_processes", "relay_sessions") == [2, 2]
            shown = msgspec.json.decode((await fetch(admin, "/sessions"))[2])
            assert logs.name_of(one.id) in [session["session"] for session in shown]
            os.kill(pids(relay)[1], signal.SIGKILL)
            assert await close_code(one.leg) is None
            await relay.until("worker died")
            # Its place is free; without a store its conversation has ended.
            async with connected(relay, f"?resume={one.id}") as back:
                await settings_applied(back.leg)
                assert await refusal(relay.address) == 429
        refused = 'relay_limit_refusals_total{limit="limits.key.sessions"}'
        while len(serves(relay)) < 3:
            await relay.until("worker serves")
        assert await figures(admin, "relay_processes", refused) == [2, 2]
        assert (await fetch(admin, "/readyz"))[0] == 200
    assert "resumed" not in [line["event"] for line in relay.lines]


async def figures(admin: str, *names: str) -> list[float]:
    text = (await fetch(admin, "/metrics"))[2].decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return [float(lines[name]) for name in names]


async def test_who_has_used_enough_at_one_worker_is_let_in_by_none() -> None:
    async with (
        process(*TWO, "--set", "limits.key.tokens_per_day=10") as relay,
        connected_to(relay, 1) as client,
    ):
        await settings_applied(client.leg)
        await asks(client.leg, "Hello")
        assert await close_code(client.leg) == 1013
        limited = await relay.until("limit reached")
        assert (limited["worker"], limited["limit"]) == (1, "limits.key.tokens_per_day")
        for _ in range(8):  # at whichever worker
            assert await refusal(relay.address) == 429


async def test_a_reload_reaches_all_workers_or_none(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{hashlib.sha256(b'k-alice').hexdigest()}\n")
    options = ("--set", "auth.mode=keys", "--set", f"auth.keys_file={keys}")
    bob = {"Authorization": "Token k-bob"}
    async with process(*TWO, *options, "--set", "reload.watch_s=0") as relay:
        assert await refusal(relay.address, **bob) == 401
        with keys.open("a") as more:
            more.write(f"bob:{hashlib.sha256(b'k-bob').hexdigest()}\n")
        relay.signal(signal.SIGHUP)
        await relay.until("reloaded")
        async with connected_to(relay, 1, **bob), connected_to(relay, 2, **bob):
            pass
        keys.write_text("nonsense\n")
        relay.signal(signal.SIGHUP)
        while "reload refused" not in (await relay._line() or {})["event"]:
            pass
        async with wire.dial(relay.url + AGENT, headers=bob) as leg:
            await message(leg, voice_agent.Welcome)


async def test_when_the_parent_is_killed_the_workers_end() -> None:
    async with process(*TWO) as relay, connected(relay) as client:
        await settings_applied(client.leg)
        relay.signal(signal.SIGKILL)
        assert await close_code(client.leg) == 1001
        while (line := await relay._line()) is not None:  # until nobody has the log open
            assert line["event"] != "listening"


def test_a_configuration_that_no_worker_can_serve_is_one_line() -> None:
    keys = ("--set", "auth.mode=keys", "--set", "auth.keys_file=/nonexistent")
    ended = subprocess.run([*RELAY, *TWO, *keys], capture_output=True, timeout=30, check=False)
    assert ended.returncode == 2
    lines = ended.stderr.decode().splitlines()
    assert lines[-1].startswith("relay: auth.keys_file: cannot read /nonexistent")
    assert sum("keys_file" in line for line in lines) == 1


async def test_systemd_is_told_once_and_hands_its_socket_to_all(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        activation = f"exec 3<&{listener.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1"
        async with process(
            *("--workers", "2", "--upstream", "simulator"),
            prefix=activation,
            pass_fds=(listener.fileno(),),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="30000000",
        ) as relay:
            assert relay.url == f"ws://127.0.0.1:{listener.getsockname()[1]}"
            told = set()
            while f"READY=1\nSTATUS=Serving {relay.url}".encode() not in told:
                told.add(await trio.to_thread.run_sync(manager.recv, 1000))
            assert told <= {b"WATCHDOG=1", f"READY=1\nSTATUS=Serving {relay.url}".encode()}
            async with connected_to(relay, 1), connected_to(relay, 2):
                pass
            relay.signal(signal.SIGTERM)
            assert await relay.ended() == 0
