"""listen: how the user's speech is divided into turns and written down.

It knows `agent.listen` and the upstream's `transcription` and `turn_detection`.
"""

import re
from collections.abc import Iterable

import msgspec

from relay import realtime, voice_agent
from relay.settings.findings import Findings
from relay.settings.options import MappingOptions, TurnOptions

DEFAULT_EOT_THRESHOLD = 0.7
"""Deepgram's default for Flux."""
MIN_EOT_THRESHOLD, MAX_EOT_THRESHOLD = 0.5, 1.0
MIN_EAGER_THRESHOLD, MAX_EAGER_THRESHOLD = 0.3, 0.9
"""Deepgram's bounds (PROTOCOL.md 1.4)."""

OPENAI_MODEL = re.compile("gpt-.*(transcribe|whisper)")


class Listen(msgspec.Struct, frozen=True):
    transcription: realtime.Transcription | None
    """None: the user's speech is not written down."""
    turn_detection: realtime.TurnDetection | None
    """None: manual mode (PROTOCOL.md 5.2)."""
    flux: bool
    """A Flux model was asked for, so ForceEndTurn is Deepgram's too."""


def listen(
    settings: voice_agent.Listen | None,
    language: str | None,
    options: MappingOptions,
    findings: Findings,
    *,
    manual: bool,
) -> Listen:
    """`language` is the deprecated `agent.language`. Raises `Unusable`."""
    provider = (settings and settings.provider) or voice_agent.ListenProvider()
    flux = _is_flux(provider)
    return Listen(
        transcription=_transcription(provider, language, options, findings),
        turn_detection=None if manual else _turn_detection(provider, flux, options.turns, findings),
        flux=flux,
    )


def _is_flux(provider: voice_agent.ListenProvider) -> bool:
    """The model decides: the SDKs send `version` v2 for nova and v1 for flux (C-239)."""
    if provider.model:
        return provider.model.lower().startswith("flux")
    return provider.version == "v2"


def _turn_detection(
    provider: voice_agent.ListenProvider, flux: bool, options: TurnOptions, findings: Findings
) -> realtime.TurnDetection | None:
    threshold, eager = DEFAULT_EOT_THRESHOLD, False
    if flux:
        _judge(provider, findings)
        threshold = provider.eot_threshold or DEFAULT_EOT_THRESHOLD
        eager = provider.eager_eot_threshold is not None
    kind = options.kind
    if kind == "auto":
        kind = "semantic_vad" if flux else "server_vad"
    if kind == "off":
        return None
    if kind == "semantic_vad":
        return realtime.TurnDetection(
            type=kind,
            eagerness=_eagerness(threshold, eager),
            create_response=threshold < 1,  # 1.0: only ForceEndTurn asks for a response
            interrupt_response=options.interrupt_response,
        )
    return realtime.TurnDetection(
        type=kind,
        threshold=options.threshold,
        prefix_padding_ms=options.prefix_padding_ms,
        silence_duration_ms=options.silence_duration_ms,
        idle_timeout_ms=options.idle_timeout_ms or msgspec.UNSET,
        create_response=threshold < 1,
        interrupt_response=options.interrupt_response,
    )


def _judge(provider: voice_agent.ListenProvider, findings: Findings) -> None:
    threshold, eager = provider.eot_threshold, provider.eager_eot_threshold
    if threshold is not None and not MIN_EOT_THRESHOLD <= threshold <= MAX_EOT_THRESHOLD:
        raise findings.unusable(
            "listen.provider.eot_threshold", f"from {MIN_EOT_THRESHOLD} to {MAX_EOT_THRESHOLD}"
        )
    if eager is not None and not MIN_EAGER_THRESHOLD <= eager <= MAX_EAGER_THRESHOLD:
        raise findings.unusable(
            "listen.provider.eager_eot_threshold",
            f"from {MIN_EAGER_THRESHOLD} to {MAX_EAGER_THRESHOLD}",
        )
    findings.ignore("listen.provider.eot_timeout_ms", provider.eot_timeout_ms)


def _eagerness(threshold: float, eager: bool) -> str:
    if eager or threshold < 0.6:
        return "high"
    return "auto" if threshold <= 0.8 else "low"


def _transcription(
    provider: voice_agent.ListenProvider,
    agent_language: str | None,
    options: MappingOptions,
    findings: Findings,
) -> realtime.Transcription | None:
    model = _model(provider.model, options)
    if not model:
        return None
    takes_lists = model.startswith(("gpt-transcribe", "gpt-live-transcribe"))
    hints = provider.language_hints or provider.language_hint or []
    languages = _languages([hints] if isinstance(hints, str) else hints)
    spoken = provider.language or (None if languages else agent_language)  # C-059
    language = _subtag(spoken)
    if languages and not takes_lists:
        if language is None and len(languages) == 1:
            language = languages[0]
        else:
            findings.ignore("listen.provider.language_hints", languages)
        languages = []
    keyterms = [term for term in provider.keyterms or [] if term.strip()]
    takes_prompt = model.startswith(("gpt-4o", "whisper-1")) and "diarize" not in model
    if not takes_lists and not takes_prompt:
        findings.ignore("listen.provider.keyterms", keyterms)
    return realtime.Transcription(
        model=model,
        language=language or msgspec.UNSET,
        languages=languages or msgspec.UNSET,
        keywords=keyterms if keyterms and takes_lists else msgspec.UNSET,  # C-060
        prompt=", ".join(keyterms) if keyterms and takes_prompt else msgspec.UNSET,
    )


def _model(name: str | None, options: MappingOptions) -> str:
    """The table, else OpenAI's own names as they are, else the default."""
    name = name or ""
    if name in options.transcription_models:
        return options.transcription_models[name]
    # whisper-large and the like are Deepgram's.
    return name if name == "whisper-1" or OPENAI_MODEL.match(name) else options.transcription_model


def _languages(tags: Iterable[str]) -> list[str]:
    subtags = (_subtag(tag) for tag in tags)
    return list(dict.fromkeys(subtag for subtag in subtags if subtag))


def _subtag(tag: str | None) -> str | None:
    """`en-US` -> `en`; `multi` and what is no language -> None (C-058)."""
    primary = re.split("[-_]", (tag or "").strip().lower())[0]
    return primary if re.fullmatch("[a-z]{2,3}", primary) else None
