"""A conversation full of secrets with a relay of its own, and what that writes about it."""

import hashlib
import signal
from pathlib import Path

import msgspec
import pytest

from relay import voice_agent, wire
from tests.test_cli import ANY_PORT, message, process
from tests.test_server import AGENT, fetch, refusal

SECRET = "planted-secret"
KEY = f"{SECRET}-key"
SETTINGS = {
    "type": "Settings",
    "flags": {"history": True},
    "audio": {},
    "agent": {
        "greeting": f"{SECRET}-greeting",
        "think": {
            "provider": {"type": "open_ai", "model": "gpt-4o-mini", "temperature": 0.5},
            "prompt": f"{SECRET}-prompt",
            "functions": [
                {
                    "name": "look_up",
                    "description": f"{SECRET}-description",
                    "parameters": {"type": "object", "title": f"{SECRET}-schema"},
                }
            ],
        },
        "context": {
            "messages": [
                {"type": "History", "role": "user", "content": f"{SECRET}-context"},
            ]
        },
    },
}


@pytest.mark.conformance("C-007", "C-197")
async def test_no_key_and_no_word_is_in_the_log_of_a_relay(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"laptop:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    options = ("--upstream", "simulator", "--set", f"auth.keys_file={keys}")
    async with process(
        *ANY_PORT, *options, RELAY_AUTH__MODE="keys", OPENAI_API_KEY=f"{SECRET}-upstream-key"
    ) as relay:
        wrong = {"Authorization": f"Token {SECRET}-wrong-key"}
        assert await refusal(relay.address, **wrong) == 401
        assert await refusal(relay.address, f"{AGENT}?token={SECRET}-in-the-query") == 401
        assert (await fetch(relay.address, f"/{SECRET}-path?q={SECRET}-query", **wrong))[0] == 404
        headers = {"Authorization": f"Token {KEY}", "X-Request-Id": "req-7"}
        async with wire.dial(f"{relay.url}{AGENT}", headers=headers) as leg:
            leg.post(msgspec.json.encode(SETTINGS).decode())
            await message(leg, voice_agent.SettingsApplied)
            for sent in (
                {"type": "InjectUserMessage", "content": f"{SECRET}-question"},
                {"type": "UpdatePrompt", "prompt": f"{SECRET}-more"},
                {"type": "FunctionCallResponse", "id": f"{SECRET}-id", "name": f"{SECRET}-name",
                 "content": f"{SECRET}-result"},
            ):  # fmt: skip
                leg.post(msgspec.json.encode(sent).decode())
            await message(leg, voice_agent.LatencyReport)
            leg.post(f'{{"type": "{SECRET}-type", "content": "{SECRET}-content"}}')
            await message(leg, voice_agent.Error)
        async with wire.dial(f"{relay.url}{AGENT}", headers=headers) as leg:
            leg.post(msgspec.json.encode(SETTINGS).decode())
            await message(leg, voice_agent.SettingsApplied)
            await leg.goodbye(4000, f"{SECRET}-farewell")
        for _ in range(2):
            await relay.until("disconnected")
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
    log = str(relay.lines)
    assert "req-7" in log
    assert "laptop" in log
    assert SECRET not in log
