"""Every message type that an official client can send, through the client's own method for it."""

from typing import Any

import pytest
import trio

from tests.clients.house import open_house
from tests.clients.scenario import SETTINGS, Ears, Scene
from tests.clients.talkers import Dial, javascript, python_async, python_sync
from tests.clients.test_real_clients import TIMEOUT_S

ANSWERED: list[tuple[dict[str, Any], str]] = [
    ({"type": "UpdatePrompt", "prompt": "Speak plainly."}, "PromptUpdated"),
    (
        {
            "type": "UpdateThink",
            "think": {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "prompt": "New."},
        },
        "ThinkUpdated",
    ),
    (
        {
            "type": "UpdateSpeak",
            "speak": {"provider": {"type": "open_ai", "model": "tts-1", "voice": "shimmer"}},
        },
        "SpeakUpdated",
    ),
    (
        {
            "type": "UpdateListen",
            "listen": {"provider": {"type": "deepgram", "version": "v1", "language": "de"}},
        },
        "ListenUpdated",
    ),
    ({"type": "InjectAgentMessage", "message": "One moment."}, "AgentAudioDone"),
    ({"type": "InjectUserMessage", "content": "Good morning."}, "LatencyReport"),
]
UNANSWERED: list[dict[str, Any]] = [{"type": "KeepAlive"}, {"type": "ForceEndTurn"}]
EARLY_ACCESS: list[tuple[dict[str, Any], str]] = [
    (
        {
            "type": "UpdateThink_Live",
            "think_live": {"provider": {"type": "deepgram", "version": "v1"}},
        },
        "Warning",
    ),
    ({"type": "__customToThinkProvider", "content": {"any": "thing"}}, "Warning"),
]
"""The JavaScript client has no methods for these."""


@pytest.mark.conformance("C-068", "C-071", "C-074", "C-077", "C-082", "C-097", "C-118")
@pytest.mark.parametrize("dial", [python_sync, python_async, javascript])
async def test_each_message_is_understood_and_answered_as_the_protocol_says(dial: Dial) -> None:
    ears = Ears()
    ears.scene(Scene.OPENING)
    early = [] if dial is javascript else EARLY_ACCESS
    with trio.fail_after(TIMEOUT_S):
        async with (
            open_house() as house,
            dial(house.client.url, ears.hear) as talker,
        ):
            await talker.send(SETTINGS)
            await ears.until("SettingsApplied")
            for message in UNANSWERED:
                await talker.send(message)
            for message, answer in [*ANSWERED, *early]:
                await talker.send(message)
                await ears.until(answer)
    heard = [h["type"] for h in ears.scenes[Scene.OPENING] if isinstance(h, dict)]
    assert "Error" not in heard
    assert heard.count("Warning") == len(early)
