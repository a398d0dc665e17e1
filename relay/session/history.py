"""history: what the conversation has come to, as the items that would tell a new upstream of it.

It is what both sides said and did, in order: the client's context, written and spoken user texts,
what was heard of the agent's, calls and their results. From it an upstream is rebuilt (4.8).
"""

from collections.abc import Iterable

import msgspec

from relay import realtime
from relay.session.state import State


def wrote(s: State, item: realtime.Item) -> None:
    """An item of ours: context, a user's written text, text that the agent did not speak, a
    function's result."""
    _add(s, item)


def spoke(s: State, item_id: str) -> None:
    """The user has said something; its text comes later (`transcribed`), or came already. Without
    an id it is another turn each time."""
    if not item_id or _find(s, item_id, "user") is None:
        _add(s, realtime.Item(type="message", id=item_id, role="user"))


def transcribed(s: State, item_id: str, content: str) -> None:
    """What the user has said."""
    part = realtime.ContentPart(type="input_text", text=content)
    entry = _find(s, item_id, "user")
    if entry is None:
        _add(s, realtime.Item(type="message", id=item_id, role="user", content=[part]))
    else:
        entry.content = [part]
        s.revision += 1


def answered(s: State, item_id: str, content: str) -> None:
    """What the agent says."""
    part = realtime.ContentPart(type="output_text", text=content)
    _add(s, realtime.Item(type="message", id=item_id, role="assistant", content=[part]))


def heard(s: State, item_id: str, share: float) -> None:
    """Only this share of an answer was heard: the rest was never said (C-246)."""
    entry = _find(s, item_id, "assistant")
    if entry is None:
        return
    content = text_of(entry)
    kept = content[: round(len(content) * share)]
    if len(kept) < len(content):
        kept = kept.rpartition(" ")[0] or kept
    entry.content = [realtime.ContentPart(type="output_text", text=kept)]
    s.revision += 1


def called(s: State, item: realtime.Item) -> None:
    """The model calls a function."""
    _add(
        s,
        realtime.Item(
            type="function_call",
            name=item.name,
            call_id=item.call_id,
            arguments=item.arguments or "{}",
        ),
    )


def left(s: State) -> dict[str, str]:
    """The upstream that chose the ids is gone, and the next one may choose the same for others.
    Returns what they are called now."""
    names: dict[str, str] = {}
    for entry in s.log:
        if entry.id is not None and not s.chose(entry.id):
            names[entry.id] = entry.id = s.new_id("was")
    s.unwritten = {names.get(item, item): audio for item, audio in s.unwritten.items()}
    s.playback.renamed(names)
    return names


def replay(s: State) -> list[realtime.Item]:
    """The items to tell a new upstream, oldest first: what says nothing is left out. A turn whose
    words were lost before they were written down is told as it was heard, under its name in the
    log: should the upstream write it down, it is known what that is about."""
    told: list[realtime.Item] = []
    for entry in s.log:
        if is_audio(s, entry):
            told.append(_as_audio(s, entry))
        elif entry.type != "message" or entry.content:
            told.append(msgspec.structs.replace(entry, id=s.new_id("ctx")))
    return told


def is_audio(s: State, item: realtime.Item) -> bool:
    """Whether all that is known of a turn of the user's is how it sounded."""
    return not text_of(item) and item.id in s.unwritten


def text_of(item: realtime.Item) -> str:
    """The words of an item: what its audio says, or its text."""
    parts = (part.transcript or part.text or "" for part in item.content or [])
    return "".join(parts)


def _as_audio(s: State, item: realtime.Item) -> realtime.Item:
    part = realtime.ContentPart(type="input_audio", audio=s.unwritten[item.id or ""])
    return msgspec.structs.replace(item, content=[part])


def _add(s: State, item: realtime.Item) -> None:
    s.log.append(item)
    s.revision += 1
    s.user_turns += item.role == "user"
    if len(s.log) > s.options.history_items or _chars(s.log) > s.options.history_chars:
        s.log = _bounded(s)


def _bounded(s: State) -> list[realtime.Item]:
    """The newest part of the log that is within the bounds, begun at a user's turn, so that no call
    is parted from its result; open rounds stay whatever their age (C-243)."""
    first = max(1, len(s.log) - s.options.history_items)
    if not any(entry.role == "user" for entry in s.log[first:]):
        return s.log
    log = list(enumerate(s.log))
    called_at = {entry.call_id: at for at, entry in reversed(log) if entry.type == "function_call"}
    begin, chars, earliest = 0, 0, len(log)  # the call of a result that is kept
    for at, entry in reversed(log[first:]):
        chars += _chars([entry])
        if chars > s.options.history_chars:
            break
        if entry.type == "function_call_output":
            earliest = min(earliest, called_at.get(entry.call_id, earliest))
        elif entry.role == "user" and at <= earliest:
            begin = at
    open_calls = {call.id for round_ in s.rounds for call in round_.calls.values()}
    kept = [item for item in s.log[:begin] if item.call_id in open_calls]
    return [*kept, *s.log[begin:]]


def _chars(items: Iterable[realtime.Item]) -> int:
    return sum(
        len(text_of(item)) + len(item.arguments or "") + len(item.output or "") for item in items
    )


def _find(s: State, item_id: str, role: str) -> realtime.Item | None:
    """Mostly the newest."""
    return next((i for i in reversed(s.log) if i.id == item_id and i.role == role), None)
