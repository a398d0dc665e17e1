"""scenario: one conversation that every client must be able to hold.

It knows what is said, and what must come back before the next thing is said. It does not know which
client says it (`tests.clients.talkers`), and judges nothing: the tests read what was heard.
"""

import enum
import math
from typing import Any

import trio

from relay.simulator.script import Script, Turn
from tests.clients.talkers import Heard, Talker
from tests.speech import babble

RATE = 16000
BYTES_PER_SECOND = 2 * RATE
SPEECH_S = 1.0
SILENCE_S = 0.8
"""Long enough for the upstream's detector to call the turn over (it waits 0.5 s)."""

FUNCTIONS = [
    {
        "name": "get_time",
        "description": "The time where the user is.",
        "parameters": {"type": "object", "properties": {}},
    },
    {
        "name": "get_weather",
        "description": "The weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}},
            "required": ["town"],
        },
    },
]
RESULTS = {"get_time": '{"time": "12:30"}', "get_weather": '{"weather": "fog"}'}

SETTINGS: dict[str, Any] = {
    "type": "Settings",
    "audio": {
        "input": {"encoding": "linear16", "sample_rate": RATE},
        "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
    },
    "agent": {
        "language": "en",
        "listen": {"provider": {"type": "deepgram", "version": "v1", "model": "nova-3"}},
        "think": {
            "provider": {"type": "open_ai", "model": "gpt-4o-mini"},
            "prompt": "You are brief.",
            "functions": FUNCTIONS,
        },
        "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
    },
}

HELLO = "Good morning."
QUESTION = "What time is it, and how is the weather in Bremen?"
LONG = "Now tell me everything that can be told about fog. " * 6
"""The simulator repeats what it does not understand: this is twenty seconds of voice."""
YES = "Yes."
SCRIPT = Script(turn=(Turn(nth=1, say=YES), Turn(nth=3, say=YES)))
"""Short answers to what is spoken: a client that plays them is done with one scene when the next
begins, so that only the barge-in interrupts anything. The rest the simulator makes up."""


class Scene(enum.Enum):
    """In this order."""

    OPENING = "Settings, until they are applied."
    VOICE = "A spoken turn and its answer."
    BARGE_IN = "A long answer, talked over, and the answer to that."
    TOOLS = "A question for two functions, and the answer made of both."
    TEXT = "A text and its answer."


class Ears:
    """Collects what the client is told, scene by scene, and waits for what must come."""

    def __init__(self) -> None:
        self.scenes: dict[Scene, list[Heard]] = {}
        self._scene: list[Heard] = []
        self._incoming, self._new = trio.open_memory_channel[Heard](math.inf)

    def hear(self, heard: Heard) -> None:
        self._incoming.send_nowait(heard)

    def scene(self, scene: Scene) -> None:
        self._scene = self.scenes[scene] = []

    async def until(self, *types: str) -> dict[str, Any]:
        """The next message of one of these types; audio is of type `audio`."""
        while True:
            heard = await self._new.receive()
            self._scene.append(heard)
            if isinstance(heard, bytes):
                heard = {"type": "audio", "bytes": len(heard)}
            if heard["type"] in types:
                return heard


async def conversation(talker: Talker, ears: Ears) -> None:
    ears.scene(Scene.OPENING)
    await talker.send(SETTINGS)
    await ears.until("SettingsApplied")

    ears.scene(Scene.VOICE)
    await talker.stream(utterance(), BYTES_PER_SECOND)
    await ears.until("LatencyReport")

    ears.scene(Scene.BARGE_IN)
    await talker.send({"type": "InjectUserMessage", "content": LONG})
    await ears.until("audio")
    await talker.stream(utterance(), BYTES_PER_SECOND)
    await ears.until("LatencyReport")

    ears.scene(Scene.TOOLS)
    await talker.send({"type": "InjectUserMessage", "content": QUESTION})
    unanswered = set(RESULTS)
    while unanswered:
        request = await ears.until("FunctionCallRequest")
        for call in request["functions"]:
            unanswered.remove(call["name"])
            await talker.send(
                {
                    "type": "FunctionCallResponse",
                    "id": call["id"],
                    "name": call["name"],
                    "content": RESULTS[call["name"]],
                }
            )
    await ears.until("LatencyReport")

    ears.scene(Scene.TEXT)
    await talker.send({"type": "InjectUserMessage", "content": HELLO})
    await ears.until("LatencyReport")


def utterance() -> bytes:
    """What a microphone hears of one spoken turn."""
    return babble.speech(SPEECH_S, RATE) + babble.silence(SILENCE_S, RATE)
