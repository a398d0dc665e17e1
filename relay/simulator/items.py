"""items: what was said and called, in order.

It knows the conversation's items, their audio, and which new items the API refuses. It does not
know who asks, nor when an item is complete.
"""

import msgspec

from relay import realtime
from relay.audio.formats import Format
from relay.simulator.ids import Ids
from relay.simulator.requests import (
    AnyNewItem,
    Content,
    NewFunctionCall,
    NewFunctionCallOutput,
    NewMessage,
    Refusal,
)
from relay.simulator.responder import Line, transcript

_CONTENT = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio", "input_image"),
    "assistant": ("output_text",),
}
"""What a client may put into a message of each role. Assistant audio is the model's alone."""
_AUDIO_KEPT = 32 * 1024 * 1024
"""Bytes of audio that can still be retrieved; of older items only the length is known."""


class Stored(msgspec.Struct):
    """An item, with what the API does not show of it."""

    face: realtime.Item
    """Without audio bytes; `shown` copies it."""
    format: Format | None = None
    """Of `audio`."""
    audio: bytearray = msgspec.field(default_factory=bytearray)
    audio_bytes: int = 0
    """Length of the audio, also after the bytes are forgotten."""
    heard: str | None = None
    """What was said in a user's audio, which the model knows before it is transcribed."""
    truncated: bool = False

    @property
    def id(self) -> str:
        return self.face.id or ""

    @property
    def audio_ms(self) -> float:
        return 0.0 if self.format is None else self.format.ms(self.audio_bytes)

    def shown(self, *, audio: bool = False) -> realtime.Item:
        """The item as an event carries it; `audio` with its bytes, as only retrieval does."""
        item = msgspec.structs.replace(self.face)
        if self.face.content is not None:
            item.content = [msgspec.structs.replace(part) for part in self.face.content]
        if audio and item.content and self.audio:
            item.content[0].audio = bytes(self.audio)
        return item

    def adds(self, audio: bytes) -> None:
        """More of the model's speech. Nothing is added behind a truncation."""
        if not self.truncated:
            self.audio += audio
            self.audio_bytes += len(audio)

    def truncate(self, audio_end_ms: int) -> None:
        """Cut the audio, and remove the transcript, which may hold text that nobody heard."""
        assert self.format is not None
        self.truncated = True
        self.audio_bytes = min(self.audio_bytes, self.format.nbytes(audio_end_ms))
        del self.audio[self.audio_bytes :]
        for part in self.face.content or ():
            part.transcript = None


class Items(msgspec.Struct):
    """The default conversation."""

    order: list[Stored] = []

    def find(self, item_id: str) -> Stored | None:
        return next((stored for stored in self.order if stored.id == item_id), None)

    def last_id(self) -> str | None:
        return self.order[-1].id if self.order else None

    def before(self, stored: Stored) -> str | None:
        """The id of the item in front of this one."""
        index = self.order.index(stored)
        return self.order[index - 1].id if index else None

    def place(self, stored: Stored, after: str | None = None) -> None:
        """At the end, behind the item `after`, or ("root") in front of all."""
        match after:
            case None:
                self.order.append(stored)
            case "root":
                self.order.insert(0, stored)
            case _:
                index = [other.id for other in self.order].index(after)
                self.order.insert(index + 1, stored)
        self._forget_audio()

    def delete(self, stored: Stored) -> None:
        self.order.remove(stored)

    def refuses(self, item: AnyNewItem, after: str | None) -> Refusal | None:
        """Why the API would not create this item here."""
        if after not in (None, "root") and self.find(after or "") is None:
            text = f"Error adding item: the previous item with id '{after}' does not exist."
            return Refusal("invalid_value", text, "previous_item_id")
        if item.id is not None and self.find(item.id) is not None:
            text = f"Error adding item: an item with id '{item.id}' already exists."
            return Refusal("invalid_value", text, "item.id")
        if isinstance(item, NewFunctionCallOutput) and not self._called(item.call_id):
            text = f"Tool call ID '{item.call_id}' not found in conversation."
            return Refusal("invalid_tool_call_id", text)
        return wrong_content(item)

    def _called(self, call_id: str) -> bool:
        return any(
            stored.face.type == "function_call" and stored.face.call_id == call_id
            for stored in self.order
        )

    def _forget_audio(self) -> None:
        kept = 0
        for stored in reversed(self.order):
            kept += len(stored.audio)
            if kept > _AUDIO_KEPT:
                stored.audio.clear()


def wrong_content(item: AnyNewItem, path: str = "item") -> Refusal | None:
    """Why a message cannot hold what it holds."""
    if not isinstance(item, NewMessage):
        return None
    allowed = _CONTENT[item.role]
    for index, part in enumerate(item.content):
        param = f"{path}.content[{index}]"
        if part.type not in allowed:
            wanted = " and ".join(f"'{kind}'" for kind in allowed)
            text = f"Invalid value: '{part.type}'. Supported values are: {wanted}."
            return Refusal("invalid_value", text, f"{param}.type")
        field = {"input_audio": "audio", "input_image": "image_url"}.get(part.type, "text")
        if getattr(part, field) is None:
            text = f"Missing required parameter: '{param}.{field}'."
            return Refusal("missing_required_parameter", text, f"{param}.{field}")
    return None


def created(item: AnyNewItem, ids: Ids, audio_format: Format) -> Stored:
    """A client's item as it is stored; `audio_format` is that of the audio in it."""
    face = realtime.Item(
        type="message",
        id=item.id or ids.new("item"),
        object="realtime.item",
        status=item.status or "completed",
    )
    match item:
        case NewMessage():
            face.role = item.role
            face.content = [_part(part) for part in item.content]
            if audio := b"".join(part.audio or b"" for part in item.content):
                heard = None if _text(face) else transcript(audio_format.ms(len(audio)) / 1000)
                return Stored(face, audio_format, bytearray(audio), len(audio), heard)
        case NewFunctionCall():
            face.type = "function_call"
            face.name, face.arguments = item.name, item.arguments
            face.call_id = item.call_id or ids.new("call")
        case NewFunctionCallOutput():
            face.type = "function_call_output"
            face.call_id, face.output = item.call_id, item.output
    return Stored(face)


def lines(stored: list[Stored]) -> list[Line]:
    """What the items say, for the responder."""
    names = {one.face.call_id: one.face.name or "" for one in stored if one.face.name}
    return [_line(one, names) for one in stored]


def _line(stored: Stored, names: dict[str | None, str]) -> Line:
    face = stored.face
    if face.type == "function_call":
        return Line("call", face.arguments or "", face.name or "")
    if face.type == "function_call_output":
        return Line("result", face.output or "", names.get(face.call_id, "result"))
    said = _text(face) if stored.heard is None else stored.heard
    match face.role:
        case "assistant":
            return Line("assistant", said)
        case "system":
            return Line("system", said)
        case _:
            return Line("user", said)


def _text(face: realtime.Item) -> str:
    texts = [part.text or part.transcript or "" for part in face.content or ()]
    return " ".join(filter(None, texts))


def _part(content: Content) -> realtime.ContentPart:
    return realtime.ContentPart(
        type=content.type,
        text=content.text,
        transcript=content.transcript,
        image_url=content.image_url,
        detail=content.detail,
    )
