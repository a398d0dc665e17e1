"""How long a message to the client may get. Knows that messages hold strings, not their meaning."""

from typing import Any

import msgspec

from relay import voice_agent

MAX_MESSAGE_BYTES = 1024 * 1024 - 1
"""The official SDKs take less than 1 MiB in one message (C-228)."""
SURELY_SHORT_CHARS = MAX_MESSAGE_BYTES // 8
"""In JSON a character takes at most 6 bytes, and what is around the strings is short."""


def bounded(message: voice_agent.ServerMessage) -> voice_agent.ServerMessage:
    """The message, its longest string cut if it would be too long for the client."""
    match message:
        case (
            voice_agent.ConversationText(content=str(text))
            | voice_agent.Warning(description=text)
            | voice_agent.Error(description=text)
        ) if len(text) < SURELY_SHORT_CHARS:
            return message
        case (
            voice_agent.ConversationText()
            | voice_agent.Warning()
            | voice_agent.Error()
            | voice_agent.History()
            | voice_agent.Transcript()
            | voice_agent.FunctionCallResponse()
        ):
            return _cut(message)
        case _:
            return message


def fits(message: voice_agent.ServerMessage) -> bool:
    """Whether the message may go out as it is: some cannot be cut and mean the same."""
    return _size(message) <= MAX_MESSAGE_BYTES


def _cut(message: voice_agent.ServerMessage) -> voice_agent.ServerMessage:
    excess = _size(message) - MAX_MESSAGE_BYTES
    if excess <= 0:
        return message
    tree = msgspec.to_builtins(message)
    while excess > 0:
        holder, key = max(_strings(tree), key=lambda place: len(place[0][place[1]]))
        text = holder[key]
        # Every character taken away is at least one byte and at most six, so this ends soon.
        holder[key] = text[: max(0, len(text) - max(1, excess // 6))]
        excess = _size(tree) - MAX_MESSAGE_BYTES
    return msgspec.convert(tree, type(message))


def _size(message: Any) -> int:
    return len(msgspec.json.encode(message))


def _strings(node: Any) -> list[tuple[Any, Any]]:
    """Every string in a tree of dicts and lists, as (its container, its key)."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    found: list[tuple[Any, Any]] = []
    for key, child in children:
        if isinstance(child, str) and key != "type":
            found.append((node, key))
        elif isinstance(child, dict | list):
            found += _strings(child)
    return found
