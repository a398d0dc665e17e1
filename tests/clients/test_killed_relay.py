"""The relay is killed in the middle of conversations with the official JavaScript client, which
reconnects by itself and never repeats its Settings. The applications do nothing about it.

The listening socket stays, as systemd keeps it: this client gives up when an attempt is refused."""

import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.clients.talkers import JS
from tests.test_cli import Running
from tests.test_restart import activated, listener

__all__ = ["listener"]

SETTINGS: dict[str, Any] = {
    "type": "Settings",
    "audio": {},
    "agent": {"think": {"provider": {"type": "open_ai", "model": "m"}, "prompt": "Be brief."}},
}
TIMEOUT_S = 40


class Crowd:
    """The connections of one program, by number, and what each was told."""

    def __init__(self, node: trio.Process, size: int) -> None:
        self._node = node
        self.told: list[list[dict[str, Any]]] = [[] for _ in range(size)]
        self.opened = [0] * size
        self._news = trio.Event()

    async def say(self, who: int, message: dict[str, Any]) -> None:
        assert self._node.stdin is not None
        await self._node.stdin.send_all(msgspec.json.encode({"who": who, "send": message}) + b"\n")

    async def says(self, who: int, text: str) -> None:
        await self.say(who, {"type": "InjectUserMessage", "content": text})

    async def leave(self) -> None:
        """All connections are closed, behind what was said on them."""
        assert self._node.stdin is not None
        await self._node.stdin.aclose()

    def heard(self, who: int, kind: str) -> int:
        return sum(message["type"] == kind for message in self.told[who])

    def texts(self, who: int) -> list[str]:
        return [m["content"] for m in self.told[who] if m["type"] == "ConversationText"]

    async def all(self, condition: Any) -> None:
        """Wait until it holds of every connection."""
        while not all(condition(who) for who in range(len(self.told))):
            self._news = trio.Event()
            await self._news.wait()

    async def listen(self) -> None:
        assert self._node.stdout is not None
        rest = b""
        async for some in self._node.stdout:
            *lines, rest = (rest + some).split(b"\n")
            for line in lines:
                news = msgspec.json.decode(line)
                who = news["who"]
                self.opened[who] += "opened" in news
                if "message" in news:
                    self.told[who].append(news["message"])
            self._news.set()


@asynccontextmanager
async def crowd(relay: Running, objects: int, each: int) -> AsyncIterator[Crowd]:
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            ["node", "crowd.mjs", f"ws://{relay.address}", str(objects), str(each)],
            cwd=JS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        node: trio.Process = await nursery.start(start)
        people = Crowd(node, objects * each)
        nursery.start_soon(people.listen)
        await people.all(lambda who: people.opened[who] == 1)
        for who in range(len(people.told)):
            await people.say(who, SETTINGS)
        await people.all(lambda who: people.heard(who, "SettingsApplied") == 1)
        yield people
        await people.leave()


def relay(path: Path, listener: socket.socket) -> AbstractAsyncContextManager[Running]:
    settings = [f"store.url=sqlite:///{path}/store", "simulator.knobs.pace=0"]
    return activated(listener, *(f"--set={each}" for each in settings))


@pytest.mark.conformance("C-251", "C-257", "C-260")
async def test_five_conversations_go_on_after_the_relay_was_killed(
    tmp_path: Path, listener: socket.socket
) -> None:
    with trio.fail_after(TIMEOUT_S):
        async with relay(tmp_path, listener) as first, crowd(first, objects=5, each=1) as people:
            for who in range(5):
                await people.says(who, f"I am number {who}")
            await people.all(lambda who: people.heard(who, "LatencyReport") == 1)
            for who in range(5):
                await people.says(who, "Are you there?")
            await people.all(lambda who: people.heard(who, "AgentThinking") == 2)
            first.signal(signal.SIGKILL)
            await first.ended()
            async with relay(tmp_path, listener) as second:
                told = [(await second.until("upstream_switched"))["items"] for _ in range(5)]
                assert all(items >= 2 for items in told)
                for who in range(5):
                    await people.says(who, f"Still number {who}")
                await people.all(lambda who: f"You said: Still number {who}" in people.texts(who))
            for who in range(5):
                assert people.heard(who, "Welcome") >= 2
                assert people.heard(who, "SettingsApplied") == 1
                assert people.heard(who, "Error") == 0
                texts = people.texts(who)
                assert texts.count("Are you there?") == 1
                assert texts.count("You said: Are you there?") <= 2
                others = [f"number {other}" for other in range(5) if other != who]
                assert not [text for text in texts for other in others if other in text]
            # What was said in the last milliseconds may not have reached the disk; what did is
            # asked again, unless the answer was out already.
            answered = sum("You said: Are you there?" in people.texts(who) for who in range(5))
            assert answered >= sum(items >= 3 for items in told)


@pytest.mark.conformance("C-252")
async def test_two_people_of_one_client_object_are_never_mixed(
    tmp_path: Path, listener: socket.socket
) -> None:
    """Better nothing than another's: neither conversation is resumed."""
    with trio.fail_after(TIMEOUT_S):
        async with relay(tmp_path, listener) as first, crowd(first, objects=1, each=2) as people:
            for turn in range(2):
                for who, name in enumerate(("Anna", "Bert")):
                    await people.says(who, f"{name} {turn}")
                    await people.all(
                        lambda each, who=who, turn=turn: (
                            each != who or people.heard(each, "LatencyReport") == turn + 1
                        )
                    )
            first.signal(signal.SIGKILL)
            await first.ended()
            async with relay(tmp_path, listener) as second:
                await people.all(lambda who: people.heard(who, "Welcome") >= 2)
                for who in range(2):
                    await people.says(who, "Who am I?")
                await people.leave()
                for _ in range(2):
                    await second.until("disconnected")  # so it has read all that was said
                assert not {"resumed", "upstream_switched"} & {
                    each["event"] for each in second.lines
                }
            for who, other in enumerate(("Bert", "Anna")):
                assert other.encode() not in msgspec.json.encode(people.told[who])
                assert people.texts(who).count(f"You said: {('Anna', 'Bert')[who]} 1") == 1
                assert "You said: Who am I?" not in people.texts(who)
