"""What a session asks the shell to do.

Every method of `Session` that is told of something answers with a list of these. They are performed
in order, with no checkpoint in between; performing one never fails (a socket that is gone swallows
what was posted to it and is reported through `client_gone` or `upstream_gone`).
"""

import re
from typing import Literal, TypeAlias

import msgspec

from relay import realtime, voice_agent
from relay.audio.formats import Format
from relay.settings.think import Endpoint


class Target(msgspec.Struct, frozen=True):
    """Where an upstream leg goes. The shell knows the addresses and the keys."""

    upstream: int
    """Index into the configured upstreams, in order of preference."""
    model: str


class ToClient(msgspec.Struct, frozen=True, tag=True):
    """Post one message to the client, behind everything posted before it."""

    message: voice_agent.ServerMessage


class AudioToClient(msgspec.Struct, frozen=True, tag=True):
    """Post agent audio, in the upstream's output format; the mouth turns it into the client's."""

    audio: bytes


class AudioEnds(msgspec.Struct, frozen=True, tag=True):
    """No more audio of this response: flush the mouth's tail, before whatever is posted next."""


class AudioDropped(msgspec.Struct, frozen=True, tag=True):
    """Take audio that was posted and not yet written out of the outbox, and forget the mouth's
    state. JSON stays, in order. The session has already taken `client_backlog` off its books."""


class ToUpstream(msgspec.Struct, frozen=True, tag=True):
    """Post one event to an upstream leg."""

    leg: int
    event: realtime.ClientEvent


class AudioToUpstream(msgspec.Struct, frozen=True, tag=True):
    """Post `input_audio_buffer.append` with this audio (upstream's input format) to a leg."""

    leg: int
    audio: bytes


class Dial(msgspec.Struct, frozen=True, tag=True):
    """Open upstream leg number `leg`. The answer is `upstream_opened` or `upstream_gone`."""

    leg: int
    target: Target


class Hangup(msgspec.Struct, frozen=True, tag=True):
    """Close an upstream leg, or stop dialling it. Nothing more is reported about it."""

    leg: int


class SetFormats(msgspec.Struct, frozen=True, tag=True):
    """Make ears and a mouth anew for these formats. Comes before any audio is asked for."""

    client_input: Format
    upstream_input: Format
    upstream_output: Format
    client_output: Format
    wav_header: bool


class Redeliver(msgspec.Struct, frozen=True, tag=True):
    """Frames that came before Settings, in order of arrival: treat each as if it came just now,
    after all other actions of the list are performed (the ears know the format by then)."""

    frames: list[voice_agent.ClientMessage | bytes]


class CallEndpoint(msgspec.Struct, frozen=True, tag=True):
    """Call a server-side function over HTTP. The answer is `endpoint_answered`."""

    call: str
    name: str
    arguments: str
    endpoint: Endpoint


class CancelEndpoint(msgspec.Struct, frozen=True, tag=True):
    """Give up an endpoint call. Nothing more is reported about it."""

    call: str


class Close(msgspec.Struct, frozen=True, tag=True):
    """End the connection: write what is posted, send this close frame to the client, hang up every
    upstream leg. Always the last action of its list, and of the session."""

    code: int
    reason: str


class Note(msgspec.Struct, frozen=True, tag=True):
    """One log line. Fields hold types, ids and sizes; never a key, prompt, transcript or audio."""

    level: Literal["debug", "info", "warning"]
    event: str
    fields: dict[str, str | int | float | bool | None] = {}


def word(said: str | None) -> str | None:
    """A code, a type or an id as a peer wrote it, for a Note. What is no single word may be a
    sentence, and that may be what somebody said: it is `?`."""
    return said if said is None or _WORD.fullmatch(said) else "?"


_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


Action: TypeAlias = (
    ToClient
    | AudioToClient
    | AudioEnds
    | AudioDropped
    | ToUpstream
    | AudioToUpstream
    | Dial
    | Hangup
    | SetFormats
    | Redeliver
    | CallEndpoint
    | CancelEndpoint
    | Close
    | Note
)
