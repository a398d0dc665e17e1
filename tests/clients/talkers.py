"""talkers: three real clients behind one interface.

It knows how to point the official Deepgram SDKs at an address on this machine, how to send a
message through the SDK's own typed method, and how to play audio in real time as a microphone
does. What is said, and what must come back, it does not know (`tests.clients.scenario`).
"""

import asyncio
import base64
import functools
import importlib
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec
import trio

with warnings.catch_warnings():
    # The SDK asks for what is old in websockets, and would do so at the first connection only.
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("deepgram.agent.v1.client")
    from deepgram import AsyncDeepgramClient, DeepgramClient
    from deepgram.agent.v1.socket_client import AsyncV1SocketClient, V1SocketClient
    from deepgram.agent.v1.types import (
        AgentV1CustomToThinkProvider,
        AgentV1ForceEndTurn,
        AgentV1InjectAgentMessage,
        AgentV1InjectUserMessage,
        AgentV1KeepAlive,
        AgentV1SendFunctionCallResponse,
        AgentV1Settings,
        AgentV1UpdateListen,
        AgentV1UpdatePrompt,
        AgentV1UpdateSpeak,
        AgentV1UpdateThink,
        AgentV1UpdateThinkLive,
    )
    from deepgram.core.events import EventType
    from deepgram.environment import DeepgramClientEnvironment

JS = Path(__file__).parents[1] / "js"
FRAME_S = 0.02
"""A microphone's usual frame."""

Heard: TypeAlias = dict[str, Any] | bytes
"""One thing that the client was told by its SDK: a message or agent audio."""
Hear: TypeAlias = Callable[[Heard], None]


class Talker(Protocol):
    """A connected client. Leaving its context closes the connection as an application would."""

    async def send(self, message: dict[str, Any]) -> None: ...

    async def stream(self, audio: bytes, bytes_per_second: int) -> None:
        """Play `audio` in real time; returns when the last frame is sent."""


Dial: TypeAlias = Callable[[str, Hear], AbstractAsyncContextManager[Talker]]
"""Connects to `ws://host:port`; everything that comes is given to the `Hear`, in order."""


@asynccontextmanager
async def python_sync(address: str, hear: Hear) -> AsyncIterator[Talker]:
    """PyPI `deepgram-sdk`, the blocking client, in threads."""
    client = DeepgramClient(api_key="k", environment=_environment(address))
    connecting = client.agent.v1.connect()
    connection = await trio.to_thread.run_sync(connecting.__enter__)

    def on_message(message: Any) -> None:
        trio.from_thread.run_sync(hear, _plain(message))

    connection.on(EventType.MESSAGE, on_message)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, connection.start_listening)
        try:
            yield _SyncTalker(connection)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(connecting.__exit__, None, None, None)


class _SyncTalker:
    def __init__(self, connection: V1SocketClient) -> None:
        self._connection = connection

    async def send(self, message: dict[str, Any]) -> None:
        method, model = _typed(message)
        await trio.to_thread.run_sync(getattr(self._connection, method), model)

    async def stream(self, audio: bytes, bytes_per_second: int) -> None:
        def play() -> None:
            start = time.monotonic()
            for due_s, frame in _frames(audio, bytes_per_second):
                time.sleep(max(0.0, start + due_s - time.monotonic()))
                self._connection.send_media(frame)

        await trio.to_thread.run_sync(play)


@asynccontextmanager
async def python_async(address: str, hear: Hear) -> AsyncIterator[Talker]:
    """PyPI `deepgram-sdk`, the asyncio client, on a loop of its own in a thread."""
    client = AsyncDeepgramClient(api_key="k", environment=_environment(address))
    async with _asyncio_loop() as run, trio.open_nursery() as nursery:
        connecting = client.agent.v1.connect()
        connection = await run(connecting.__aenter__)

        def on_message(message: Any) -> None:
            trio.from_thread.run_sync(hear, _plain(message), trio_token=token)

        token = trio.lowlevel.current_trio_token()
        connection.on(EventType.MESSAGE, on_message)
        nursery.start_soon(run, connection.start_listening)
        try:
            yield _AsyncTalker(connection, run)
        finally:
            with trio.CancelScope(shield=True):
                await run(functools.partial(connecting.__aexit__, None, None, None))


class _AsyncTalker:
    def __init__(self, connection: AsyncV1SocketClient, run: "_Run") -> None:
        self._connection = connection
        self._run = run

    async def send(self, message: dict[str, Any]) -> None:
        method, model = _typed(message)
        await self._run(functools.partial(getattr(self._connection, method), model))

    async def stream(self, audio: bytes, bytes_per_second: int) -> None:
        async def play() -> None:
            start = time.monotonic()
            for due_s, frame in _frames(audio, bytes_per_second):
                await asyncio.sleep(max(0.0, start + due_s - time.monotonic()))
                await self._connection.send_media(frame)

        await self._run(play)


@asynccontextmanager
async def javascript(address: str, hear: Hear) -> AsyncIterator[Talker]:
    """npm `@deepgram/sdk` on Node, led by `tests/js/talker.mjs`."""
    assert (JS / "node_modules").is_dir(), "run `npm ci` in tests/js, as scripts/test does"
    async with trio.open_nursery() as nursery:
        node: trio.Process = await nursery.start(
            functools.partial(
                trio.run_process,
                ["node", "talker.mjs", address],
                cwd=JS,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        talker = _NodeTalker(node)
        try:
            nursery.start_soon(talker.listen, hear)
            await talker.opened.wait()
            yield talker
        finally:
            assert node.stdin is not None
            await node.stdin.aclose()


class _NodeTalker:
    def __init__(self, node: trio.Process) -> None:
        self.opened = trio.Event()
        self._node = node
        self._streamed = trio.Event()

    async def command(self, command: dict[str, Any]) -> None:
        assert self._node.stdin is not None
        await self._node.stdin.send_all(msgspec.json.encode(command) + b"\n")

    async def send(self, message: dict[str, Any]) -> None:
        await self.command({"send": message})

    async def stream(self, audio: bytes, bytes_per_second: int) -> None:
        self._streamed = trio.Event()
        await self.command(
            {
                "stream": base64.b64encode(audio).decode(),
                "bytes": _frame_bytes(bytes_per_second),
                "every": FRAME_S,
            }
        )
        await self._streamed.wait()

    async def listen(self, hear: Hear) -> None:
        """Read the driver's lines until it ends."""
        assert self._node.stdout is not None
        rest = b""
        async for some in self._node.stdout:
            *lines, rest = (rest + some).split(b"\n")
            for line in lines:
                match msgspec.json.decode(line):
                    case {"opened": True}:
                        self.opened.set()
                    case {"message": message}:
                        hear(message)
                    case {"audio": audio}:
                        hear(base64.b64decode(audio))
                    case {"streamed": True}:
                        self._streamed.set()
                    case {"closed": int()}:
                        pass
                    case other:
                        raise AssertionError(f"the JavaScript client says {other}")


def _environment(address: str) -> DeepgramClientEnvironment:
    http = address.replace("ws", "http", 1)
    return DeepgramClientEnvironment(base=http, production=address, agent=address, agent_rest=http)


_METHODS: dict[str, tuple[str, Any]] = {
    "Settings": ("send_settings", AgentV1Settings),
    "UpdateListen": ("send_update_listen", AgentV1UpdateListen),
    "UpdateThink": ("send_update_think", AgentV1UpdateThink),
    "UpdateThink_Live": ("send_update_think_live", AgentV1UpdateThinkLive),
    "UpdateSpeak": ("send_update_speak", AgentV1UpdateSpeak),
    "UpdatePrompt": ("send_update_prompt", AgentV1UpdatePrompt),
    "InjectUserMessage": ("send_inject_user_message", AgentV1InjectUserMessage),
    "InjectAgentMessage": ("send_inject_agent_message", AgentV1InjectAgentMessage),
    "ForceEndTurn": ("send_force_end_turn", AgentV1ForceEndTurn),
    "KeepAlive": ("send_keep_alive", AgentV1KeepAlive),
    "__customToThinkProvider": ("send_custom_to_think_provider", AgentV1CustomToThinkProvider),
    "FunctionCallResponse": ("send_function_call_response", AgentV1SendFunctionCallResponse),
}


def _typed(message: dict[str, Any]) -> tuple[str, Any]:
    """The SDK's method for a message, and the message as its type: what an application writes."""
    method, model = _METHODS[message["type"]]
    return method, model.model_validate(message)


def _plain(message: Any) -> Heard:
    """What a handler of the SDK was given, as a dict; a type that it does not know fails here."""
    if isinstance(message, bytes):
        return message
    plain: dict[str, Any] = message.model_dump(exclude_none=True)
    return plain


def _frame_bytes(bytes_per_second: int) -> int:
    return round(bytes_per_second * FRAME_S)


def _frames(audio: bytes, bytes_per_second: int) -> list[tuple[float, bytes]]:
    """Frames of a microphone, each with the second at which it is due."""
    size = _frame_bytes(bytes_per_second)
    starts = range(0, len(audio), size)
    return [(start / bytes_per_second, audio[start : start + size]) for start in starts]


_Run: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


@asynccontextmanager
async def _asyncio_loop() -> AsyncIterator[_Run]:
    """An asyncio loop in a thread; what is yielded runs an async function on it."""
    loop = asyncio.new_event_loop()

    async def run(function: Callable[[], Awaitable[Any]]) -> Any:
        async def call() -> Any:
            return await function()

        return await trio.to_thread.run_sync(
            lambda: asyncio.run_coroutine_threadsafe(call(), loop).result()
        )

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, loop.run_forever)
            try:
                yield run
            finally:
                loop.call_soon_threadsafe(loop.stop)
    finally:
        loop.close()
