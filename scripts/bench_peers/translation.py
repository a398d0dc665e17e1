"""translation: what the Python contestants have in common, so that they differ in their transport.

Deepgram's messages and OpenAI's events, as far as the benchmark needs them, as msgspec structs: the
quickest codec for them in Python (3.9 µs for a delta, against 17 to 19 with json and base64), so
that no contestant is slow because of its JSON.
"""

from typing import TypeAlias

import msgspec


class Think(msgspec.Struct):
    prompt: str


class Agent(msgspec.Struct):
    think: Think


class Settings(msgspec.Struct, tag="Settings"):
    agent: Agent


class Session(msgspec.Struct):
    instructions: str
    type: str = "realtime"


class SessionUpdate(msgspec.Struct, tag="session.update"):
    session: Session


class Append(msgspec.Struct, tag="input_audio_buffer.append"):
    audio: bytes | memoryview


class Delta(msgspec.Struct, tag="response.output_audio.delta"):
    delta: bytes


class Created(msgspec.Struct, tag="session.created"):
    pass


class Updated(msgspec.Struct, tag="session.updated"):
    pass


Event: TypeAlias = Delta | Created | Updated

WELCOME = '{"type":"Welcome","request_id":"bench"}'
SETTINGS_APPLIED = '{"type":"SettingsApplied"}'

_encode = msgspec.json.Encoder().encode
_settings = msgspec.json.Decoder(Settings)
_event = msgspec.json.Decoder(Event)


def session_update(settings: str | bytes | memoryview) -> bytes:
    """Settings -> session.update."""
    return _encode(SessionUpdate(Session(_settings.decode(settings).agent.think.prompt)))


def append(audio: bytes | memoryview) -> bytes:
    """A binary frame -> input_audio_buffer.append."""
    return _encode(Append(audio))


def event(text: str | bytes | memoryview) -> Event | None:
    """What the upstream says, or None if it is not for the client."""
    try:
        return _event.decode(text)
    except msgspec.ValidationError:  # another event's tag
        return None
