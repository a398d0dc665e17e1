"""think: what the agent is told, which model it is, and what it can call.

It knows `agent.think` and the upstream's model, instructions, tools and limits. Providers'
endpoints are not read here, so their headers go no further (C-066).
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from relay import realtime, voice_agent
from relay.settings.endpoints import METHODS, is_listed
from relay.settings.findings import Findings
from relay.settings.options import MappingOptions

REALTIME_MODELS = ("gpt-realtime", "gpt-4o-realtime", "gpt-4o-mini-realtime")
"""Families of the API's own models (PROTOCOL.md 3.2)."""
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What the API accepts as the name of a tool."""
UNHEARD_OF = (
    "defer_until_eot",
    "initial_agent_filler",
    "agent_filler_max_count",
    "agent_filler_interval_ms",
)
"""Fields of a function that the upstream has no counterpart for (C-049)."""
MAX_OUTPUT_TOKENS = 4096
CHARS_PER_TOKEN = 4


class Endpoint(msgspec.Struct, frozen=True):
    """Where the relay calls a function."""

    url: str
    method: str
    headers: dict[str, str]
    """May hold credentials: never logged, sent to `url` only."""

    def __repr__(self) -> str:
        return f"Endpoint({self.method}, headers={len(self.headers)})"


class Function(msgspec.Struct, frozen=True):
    """Something the model may call."""

    name: str
    description: str | None
    parameters: dict[str, Any]
    """A JSON schema."""
    endpoint: Endpoint | None = None
    """Set: the relay calls it; unset: the client is asked."""

    @property
    def server_side(self) -> bool:
        return self.endpoint is not None

    def tool(self) -> realtime.Tool:
        """What the upstream is told of it (C-048, C-049)."""
        return realtime.Tool(
            name=self.name,
            description=msgspec.UNSET if self.description is None else self.description,
            parameters=self.parameters,
        )


class Think(msgspec.Struct, frozen=True):
    model: str
    """The upstream's; it stands in the URL and never in a session.update (C-042)."""
    prompt: str | None
    """None: the client gave none, so the upstream keeps its own default."""
    functions: tuple[Function, ...]
    tool_choice: str | realtime.ToolChoice | None
    output_modalities: list[str] | None
    max_output_tokens: int | None
    managed_prompt: realtime.Prompt | None
    effort: str | None
    truncation: str | realtime.Truncation | None
    reasoning: bool
    """The model takes `reasoning` and `parallel_tool_calls`."""


def think(
    settings: voice_agent.Think | None,
    options: MappingOptions,
    findings: Findings,
    *,
    strict: bool,
    otherwise: str,
) -> Think:
    """`otherwise` is the model when `settings` names none. Raises `Unusable`."""
    settings = settings or voice_agent.Think()
    provider = settings.provider or voice_agent.ThinkProvider()
    model = _model(provider.model, options, findings, strict=strict) or otherwise
    reasoning = _is_reasoning(model, options)
    functions = _functions(settings.functions or [], options, findings)
    findings.ignore("think.provider.temperature", provider.temperature)
    findings.ignore("think.endpoint", settings.endpoint)
    if provider.type not in (None, "open_ai"):
        findings.ignore("think.provider.type", provider.type)
    return Think(
        model=model,
        prompt=None
        if settings.prompt is None
        else limited(settings.prompt, options, findings, "think.prompt"),
        functions=tuple(functions),
        tool_choice=_tool_choice(settings.tool_choice, functions, findings),
        output_modalities=_output_modalities(settings.output_modalities, findings),
        max_output_tokens=_max_output_tokens(settings.max_output_tokens, findings),
        managed_prompt=_managed_prompt(settings.managed_prompt, findings),
        effort=_effort(provider.reasoning_mode, findings) if reasoning else None,
        truncation=_truncation(settings.context_length, options, findings),
        reasoning=reasoning,
    )


def limited(prompt: str, options: MappingOptions, findings: Findings, path: str) -> str:
    """The prompt, cut to what is accepted, with a Warning if that was needed (C-045)."""
    limit = options.prompt_limit_chars
    if len(prompt) <= limit:
        return prompt
    findings.warn(
        "PROMPT_TOO_LONG", path, f"{len(prompt)} characters, of which the first {limit} are used"
    )
    return prompt[:limit]


def is_function_name(name: str) -> bool:
    return FUNCTION_NAME.fullmatch(name) is not None


def _model(
    name: str | None, options: MappingOptions, findings: Findings, *, strict: bool
) -> str | None:
    """The table, else a Realtime model as it is, else the configured one (C-043); None if the
    client names none."""
    if not name:
        return None
    if name in options.models:
        return options.models[name]
    if name.startswith(REALTIME_MODELS) or name == options.model:
        return name
    if strict:
        raise findings.unusable("think.provider.model", "no Realtime model is configured for it")
    return options.model


def _is_reasoning(model: str, options: MappingOptions) -> bool:
    families = options.reasoning_models
    return any(model == f or model.startswith((f"{f}.", f"{f}-")) for f in families)


def _functions(
    entries: list[voice_agent.Function], options: MappingOptions, findings: Findings
) -> list[Function]:
    functions: dict[str, Function] = {}
    asked_instead = []
    for i, entry in enumerate(entries):
        path, name = f"think.functions[{i}].name", entry.name
        if not name:
            raise findings.unusable(path, "missing")
        if not is_function_name(name):
            raise findings.unusable(path, "1 to 64 of A-Z, a-z, 0-9, _ and -")
        if name in functions:
            raise findings.unusable(path, f"{name} stands in the list twice")
        for field in UNHEARD_OF:
            findings.ignore(f"think.functions.{field}", getattr(entry, field))
        endpoint = _endpoint(entry.endpoint, options)
        if entry.endpoint is not None and endpoint is None:
            asked_instead.append(name)
        functions[name] = Function(
            name=name,
            description=entry.description,
            parameters=entry.parameters or {"type": "object", "properties": {}},
            endpoint=endpoint,
        )
    if asked_instead:
        findings.warn(
            "FUNCTION_CALL_FAILED",
            "think.functions",
            "endpoints are not called from here, the client is asked "
            f"instead: {', '.join(asked_instead)}",
        )
    return list(functions.values())


def _endpoint(
    endpoint: voice_agent.FunctionEndpoint | None, options: MappingOptions
) -> Endpoint | None:
    if endpoint is None or not endpoint.url:
        return None
    method = (endpoint.method or "POST").upper()
    if method not in METHODS or not is_listed(endpoint.url, options.function_endpoints):
        return None
    return Endpoint(endpoint.url, method, endpoint.headers or {})


def _tool_choice(
    choice: Any, functions: Iterable[Function], findings: Findings
) -> str | realtime.ToolChoice | None:
    """Only what the API takes; the function must exist (C-051)."""
    match choice:
        case "auto" | "none" | "required" as mode:
            return str(mode)
        case {"type": "function", "name": str(name)} if name in (f.name for f in functions):
            return realtime.ToolChoice(type="function", name=name)
    findings.ignore("think.toolChoice", choice)
    return None


def _output_modalities(modalities: Any, findings: Findings) -> list[str] | None:
    """The API takes one value, so audio wins over text (C-052)."""
    named = modalities if isinstance(modalities, list) else []
    for modality in ("audio", "text"):
        if modality in named:
            return [modality]
    findings.ignore("think.outputModalities", modalities)
    return None


def _max_output_tokens(tokens: Any, findings: Findings) -> int | None:
    """Clamped to what the API takes; anything but an integer is dropped (C-053)."""
    if isinstance(tokens, int) and not isinstance(tokens, bool):
        return min(max(tokens, 1), MAX_OUTPUT_TOKENS)
    findings.ignore("think.maxOutputTokens", tokens)
    return None


def _managed_prompt(prompt: Any, findings: Findings) -> realtime.Prompt | None:
    """A prompt template kept at the upstream (C-054)."""
    match prompt:
        case {"id": str(name)} if name.strip():
            managed = realtime.Prompt(id=name.strip())
            if isinstance(version := prompt.get("version"), str) and version.strip():
                managed.version = version.strip()
            if isinstance(variables := prompt.get("variables"), dict):
                managed.variables = {k: v for k, v in variables.items() if _is_variable(v)}
            return managed
    findings.ignore("think.managedPrompt", prompt)
    return None


def _is_variable(value: Any) -> bool:
    """Text, or the typed content that the API puts in its place (PROTOCOL.md A.2)."""
    if isinstance(value, str):
        return True
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        return False
    match value:
        case {"type": "input_text", "text": _, **others}:
            return not others
        case {"type": "input_image", "detail": "low" | "high" | "auto", **others}:
            return others.keys() <= {"image_url", "file_id"}
        case {"type": "input_file", **others}:
            return others.keys() <= {"file_id", "file_data", "file_url", "filename"}
    return False


def _effort(mode: str | None, findings: Findings) -> str | None:
    if mode in ("minimal", "low", "medium", "high"):
        return mode
    if mode != "none":
        findings.ignore("think.provider.reasoning_mode", mode)
    return None


def _truncation(
    length: Any, options: MappingOptions, findings: Findings
) -> str | realtime.Truncation | None:
    """`context_length` counts characters, the API tokens."""
    match length:
        case "max":
            return "auto"
        case int() | float() if options.retention_ratio and length >= CHARS_PER_TOKEN:
            tokens = int(min(length, 10_000_000)) // CHARS_PER_TOKEN
            return realtime.Truncation(
                retention_ratio=options.retention_ratio,
                token_limits=realtime.TokenLimits(post_instructions=tokens),
            )
    findings.ignore("think.context_length", length)
    return None
