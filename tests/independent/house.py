"""house: the relay in front of a server that is not ours, and a client that talks to it.

It knows how to start all three on this machine, with a tap between relay and server. It does not
know what anybody says.
"""

import json
import select
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from relay import config, served, server, wire
from tests import oracle
from tests.clients.tap import Record, tapped

HERE = Path(__file__).parent
SPEECH_TO_SPEECH = HERE / ".venv" / "bin" / "python"
JS = HERE.parent / "js"
TIMEOUT_S = 20
"""A conversation needs about a second."""
START_S = 60
STOP_S = 10


@contextmanager
def speech_to_speech(slots: int) -> Iterator[str]:
    """PyPI `speech-to-speech`'s server, its models replaced, for so many conversations at a time;
    yields ws://host:port."""
    assert SPEECH_TO_SPEECH.exists(), "run scripts/test, which makes its environment"
    command = [str(SPEECH_TO_SPEECH), str(HERE / "speech_server.py"), str(slots)]
    with _running(command) as address:
        yield address


@contextmanager
def aimock(fixtures: list[dict[str, Any]]) -> Iterator[str]:
    """npm `@copilotkit/aimock` with these fixtures; yields ws://host:port."""
    assert (JS / "node_modules").is_dir(), "run `npm ci` in tests/js, as scripts/test does"
    command = ["node", str(JS / "mock_upstream.mjs"), json.dumps(fixtures)]
    with _running(command) as address:
        yield address


@contextmanager
def _running(command: list[str]) -> Iterator[str]:
    """A server that prints its port when it listens, and ends when its standard input does."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said, _, _ = select.select([process.stdout], [], [], START_S)
            assert said, "the server does not start"
            port = process.stdout.readline()
            assert port, "the server ended before it listened"
            yield f"ws://127.0.0.1:{int(port)}"
        finally:
            process.stdin.close()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


class Client:
    """A Deepgram client that hears everything, and holds every message against the protocol."""

    def __init__(self, leg: wire.Leg) -> None:
        self._leg = leg
        self.heard: list[dict[str, Any] | bytes] = []

    def say(self, kind: str, **fields: Any) -> None:
        self._leg.post(json.dumps({"type": kind, **fields}))

    def speak(self, audio: bytes, frame_bytes: int = 960) -> None:
        """As fast as it goes."""
        for start in range(0, len(audio), frame_bytes):
            self._leg.post(audio[start : start + frame_bytes])

    async def until(self, kind: str) -> dict[str, Any]:
        """The next message of this type; audio is of type `audio`."""
        while True:
            frame = await self._leg.receive()
            if isinstance(frame, bytes):
                self.heard.append(frame)
                message: dict[str, Any] = {"type": "audio"}
            else:
                oracle.check_server_message(frame)
                message = json.loads(frame)
                self.heard.append(message)
            if message["type"] == kind:
                return message

    def types(self) -> list[str]:
        """What was heard, in order; a run of audio frames counts once."""
        names = ["audio" if isinstance(h, bytes) else h["type"] for h in self.heard]
        pairs = zip(["", *names], names, strict=False)
        return [name for before, name in pairs if (before, name) != ("audio", "audio")]

    def said(self, role: str) -> list[str]:
        return [m["content"] for m in self.of("ConversationText") if m["role"] == role]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a type."""
        return [m for m in self.heard if not isinstance(m, bytes) and m["type"] == kind]

    def seconds(self) -> float:
        """How much agent audio was heard, at 24 kHz."""
        return sum(len(heard) for heard in self.heard if isinstance(heard, bytes)) / 48_000

    def forget(self) -> None:
        """Begin a new scene."""
        self.heard = []


class Held(msgspec.Struct):
    """A conversation under way."""

    client: Client
    upstream: Record
    """What passed between relay and server."""

    def events(self) -> list[dict[str, Any]]:
        """The relay's events."""
        return [msgspec.json.decode(frame) for frame in self.upstream.sent]

    def sent(self) -> list[str]:
        """Their types."""
        return [event["type"] for event in self.events()]

    def answered(self, *kinds: str) -> list[dict[str, Any]]:
        """The server's events, of these types if any are named."""
        events = [msgspec.json.decode(frame) for frame in self.upstream.answered]
        return [event for event in events if not kinds or event["type"] in kinds]

    def kinds(self, *kinds: str) -> list[str]:
        """Types of the server's events, of these if any are named."""
        return [event["type"] for event in self.answered(*kinds)]


@asynccontextmanager
async def conversing(
    address: str, agent: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Held]:
    """A client whose Settings a relay before `address` has applied. `options` are configuration
    keys with `__` for the dot."""
    with trio.fail_after(TIMEOUT_S):
        async with tapped(address) as tap:
            keys = {
                "listen__port": 0,
                "upstream__url": f"{tap.url}/v1/realtime",
                **options,
            }
            configured = config.load(
                None, {}, options={key.replace("__", "."): keys[key] for key in keys}
            )
            listeners = await server.open_listeners(configured, {})
            async with server.running(served.build(configured, {}), {}, listeners) as relay:
                async with wire.dial(f"{relay.urls[0]}/v1/agent/converse") as leg:
                    client = Client(leg)
                    client.say("Settings", audio={}, agent=agent or {})
                    await client.until("SettingsApplied")
                    held = Held(client, tap.records[-1])
                    yield held
                await held.upstream.ended.wait()
