"""context: the conversation that the client remembers, made the upstream's (PROTOCOL.md 3.2.1)."""

import re
from collections.abc import Iterable, Iterator

from relay import realtime, voice_agent
from relay.settings.findings import Findings

HEADING = "Previous conversation:"


def messages(agent: voice_agent.Agent) -> list[voice_agent.ContextMessage] | None:
    """The history in any of its three places; None if there is none."""
    context = agent.context
    if isinstance(context, list):
        return context
    if context is not None and context.messages is not None:
        return context.messages
    return agent.messages


def items(
    messages: Iterable[voice_agent.ContextMessage], findings: Findings
) -> list[realtime.Item]:
    """Conversation items in order, without ids (C-037, C-038). History cannot be refused, so an
    entry that says nothing is left out."""
    made: list[realtime.Item] = []
    for i, message in enumerate(messages):
        entry = list(_entry(message, i))
        if not entry:
            findings.ignore("context.messages", message)
        made += entry
    return made


def transcript(items: Iterable[realtime.Item]) -> str:
    """The same history as a block of text for the instructions (C-040)."""
    return "\n".join([HEADING, *map(_line, items)])


def _entry(message: voice_agent.ContextMessage, index: int) -> Iterator[realtime.Item]:
    if message.content and message.content.strip():
        match message.role:
            case "assistant":
                yield _said("assistant", "output_text", message.content)
            case "user" | "system" as role:
                yield _said(role, "input_text", message.content)
    for n, call in enumerate(message.function_calls or []):
        call_id = call.id or f"ctx_{index}_{n}"
        yield realtime.Item(
            type="function_call",
            call_id=call_id,
            name=_function_name(call.name or ""),
            arguments=call.arguments or "{}",
        )
        yield realtime.Item(
            type="function_call_output", call_id=call_id, output=call.response or ""
        )


def _said(role: str, kind: str, text: str) -> realtime.Item:
    return realtime.Item(
        type="message", role=role, content=[realtime.ContentPart(type=kind, text=text)]
    )


def _function_name(name: str) -> str:
    """What the API's pattern takes (C-225)."""
    return re.sub("[^A-Za-z0-9_-]", "_", name)[:64] or "unnamed"


def _line(item: realtime.Item) -> str:
    match item.type:
        case "function_call":
            return f"[called {item.name} with {item.arguments}]"
        case "function_call_output":
            return f"[result: {item.output}]"
        case _:
            parts = item.content or []
            return f"{item.role}: {' '.join(part.text or '' for part in parts)}"
