"""audio: which formats the four ends of a conversation speak (PROTOCOL.md 5.1, 5.3).

It knows what is accepted and what the upstream should be asked for, so that as little as possible
is transcoded. It touches no audio.
"""

from typing import Any

import msgspec

from relay import realtime, voice_agent
from relay.audio.formats import PCM24K, PCMA8K, PCMU8K, UPSTREAM_FORMATS, Encoding, Format
from relay.audio.transcode import transcodable
from relay.settings.findings import Findings, Unusable

INPUT_ENCODINGS = (Encoding.LINEAR16, Encoding.LINEAR32, Encoding.MULAW, Encoding.ALAW)
OUTPUT_ENCODINGS = (Encoding.LINEAR16, Encoding.MULAW, Encoding.ALAW)
CONTAINERS = ("none", "wav")

_NAMES = {"audio/pcm": PCM24K, "audio/pcmu": PCMU8K, "audio/pcma": PCMA8K}


class Formats(msgspec.Struct, frozen=True):
    """What the ears and the mouth turn into what."""

    client_input: Format
    upstream_input: Format
    upstream_output: Format
    client_output: Format
    wav_header: bool
    """Start each utterance with a WAV header."""


def formats(audio: voice_agent.Audio, *, g711: bool, wav_header: bool) -> Formats:
    """`g711`: whether the upstream can be asked for it. Raises `Unusable` for what cannot be read
    or written (C-063, C-064)."""
    heard, spoken = audio.input, audio.output
    client_input = client_output = PCM24K  # C-065
    container = "none"
    if heard is not None:
        client_input = _format("audio.input", heard.encoding, heard.sample_rate, INPUT_ENCODINGS)
    if spoken is not None:
        client_output = _format(
            "audio.output", spoken.encoding, spoken.sample_rate, OUTPUT_ENCODINGS
        )
        container = spoken.container or "none"
    if container not in CONTAINERS:
        raise Unusable("audio.output.container", f"supported are {', '.join(CONTAINERS)}")
    return Formats(
        client_input=client_input,
        upstream_input=_nearest(client_input) if g711 else PCM24K,
        upstream_output=_nearest(client_output) if g711 else PCM24K,
        client_output=client_output,
        wav_header=wav_header and container == "wav",
    )


def overridden(formats: Formats, output: Any, findings: Findings) -> Formats:
    """With the component's `sessionAudioOutput.format` its binary frames are in that format too;
    one that the API does not have is dropped (C-055)."""
    if not isinstance(output, dict):
        return formats
    match output.get("format"):
        case {"type": str(name), **others} if name in _NAMES:
            known = _NAMES[name] if others.get("rate") in (None, _NAMES[name].rate) else None
        case _:
            known = None
    if known is None:
        findings.ignore("sessionAudioOutput.format", output.get("format"))
        return formats
    return msgspec.structs.replace(
        formats, upstream_output=known, client_output=known, wav_header=False
    )


def named(upstream: Format) -> realtime.AudioFormat:
    """The API's name for one of its formats."""
    name = next(name for name, known in _NAMES.items() if known == upstream)
    if upstream == PCM24K:
        return realtime.AudioFormat(type=name, rate=upstream.rate)
    return realtime.AudioFormat(type=name)  # G.711 has no other rate and the API no field for it


def _format(
    path: str, encoding: str | None, rate: int | None, supported: tuple[Encoding, ...]
) -> Format:
    known = {e.value: e for e in supported}
    chosen = known.get(encoding or Encoding.LINEAR16.value)
    if chosen is None:
        raise Unusable(f"{path}.encoding", f"supported are {', '.join(known)}")
    if rate is None:
        rate = 8_000 if chosen in (Encoding.MULAW, Encoding.ALAW) else 24_000
    asked = Format(chosen, rate)
    if not transcodable(asked, PCM24K):
        raise Unusable(f"{path}.sample_rate", "not supported; usual are 8000 to 48000")
    return next((usual for usual in UPSTREAM_FORMATS if usual == asked), asked)  # the one of all


def _nearest(client: Format) -> Format:
    return client if client in UPSTREAM_FORMATS else PCM24K
