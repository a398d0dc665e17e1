"""speak: whose voice the agent has, and how fast it talks.

It knows `agent.speak`, the component's `sessionAudioOutput`, and the upstream's `audio.output`.
Providers' endpoints are not read here, so their headers go no further (C-066).
"""

from typing import Any

import msgspec

from relay import realtime, voice_agent
from relay.settings.findings import Findings
from relay.settings.options import MappingOptions

VOICES = frozenset(
    ("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar")
)
"""The API's own (PROTOCOL.md 2.1)."""
MIN_SPEED, MAX_SPEED = 0.25, 1.5
"""The API's bounds."""


class Speak(msgspec.Struct, frozen=True):
    voice: str | realtime.Voice
    """A voice of the upstream by its name, or a custom one by its id."""
    speed: float
    """1.0 is the voice's own pace."""


def speak(settings: voice_agent.Speak | None, options: MappingOptions, findings: Findings) -> Speak:
    settings = settings or voice_agent.Speak()
    provider = settings.provider or voice_agent.SpeakProvider()
    findings.ignore("speak.endpoint", settings.endpoint)
    speed = 1.0 if provider.speed is None else min(max(provider.speed, MIN_SPEED), MAX_SPEED)
    return Speak(_voice(provider, options), speed)


def overridden(speak: Speak, output: Any, findings: Findings) -> Speak:
    """The component's `sessionAudioOutput` wins, where it is valid (C-055)."""
    if not isinstance(output, dict):
        findings.ignore("sessionAudioOutput", output)
        return speak
    voice, speed = speak.voice, speak.speed
    match output.get("voice"):
        case str(name) if name.strip():
            voice = name.strip()
        case {"id": str(name)} if name.strip():
            voice = realtime.Voice(name.strip())
        case other:
            findings.ignore("sessionAudioOutput.voice", other)
    match output.get("speed"):
        case bool() as other:
            findings.ignore("sessionAudioOutput.speed", other)
        case int() | float() as number if MIN_SPEED <= number <= MAX_SPEED:
            speed = float(number)
        case other:
            findings.ignore("sessionAudioOutput.speed", other)
    return Speak(voice, speed)


def _voice(provider: voice_agent.SpeakProvider, options: MappingOptions) -> str | realtime.Voice:
    """The table, else the API's own voices as they are, else the configured one."""
    voice = provider.voice
    called = voice.id if isinstance(voice, voice_agent.CartesiaVoice) else voice
    names = [name for name in (called, provider.model, provider.model_id) if name]
    mapped = (options.voices[name] for name in names if name in options.voices)
    own = (name for name in names if name in VOICES)
    name = next(mapped, None) or next(own, None) or options.voice
    return realtime.Voice(name) if name.startswith("voice_") else name
