"""simulated: a client of the simulator's conversation, without sockets and on virtual time.

Every event that the conversation sends is held to the vendor's types. It knows no test.
"""

import base64
import json
from typing import Any, TypeAlias

import numpy as np

from relay import realtime
from relay.simulator.conversation import Conversation, Hangup, Output, conversation
from relay.simulator.script import Script, parse
from tests.oracle import check_server_event

Event: TypeAlias = dict[str, Any]

WALL = 1_790_000_000.0


class Client:
    """Says things, lets time pass, and answers with the events that came of it, in order."""

    def __init__(self, script: Script | str = "", model: str = "gpt-realtime-2") -> None:
        self.now = 100.0
        self.hangup: Hangup | None = None
        self.held: Conversation = conversation(
            parse(script) if isinstance(script, str) else script, connection=1, model=model
        )
        (self.created,) = self._taken(self.held.opened(self.now, WALL))

    def say(self, kind: str, **fields: Any) -> list[Event]:
        """Send one client event, and no time passes."""
        return self.frame(json.dumps({"type": kind, **fields}))

    def frame(self, data: str | bytes) -> list[Event]:
        return self._taken(self.held.received(data, self.now))

    def wait(self, seconds: float) -> list[Event]:
        """Let time pass, waking the conversation exactly when it asks to be woken."""
        events: list[Event] = []
        end = self.now + seconds
        while (due := self.held.next_deadline()) <= end:
            self.now = max(self.now, due)
            events += self._taken(self.held.deadline_passed(self.now))
        self.now = end
        return events

    def until(self, kind: str, within: float = 60.0) -> list[Event]:
        """Let time pass until such an event comes."""
        events: list[Event] = []
        end = self.now + within
        while kind not in types(events):
            due = self.held.next_deadline()
            assert due <= end, f"no {kind} within {within} s, only {types(events)}"
            self.now = max(self.now, due)
            events += self._taken(self.held.deadline_passed(self.now))
        return events

    def configure(self, **session: Any) -> Event:
        (updated,) = self.say("session.update", session={"type": "realtime", **session})
        assert updated["type"] == "session.updated", updated
        session_now: Event = updated["session"]
        return session_now

    def text(self, text: str) -> list[Event]:
        """A user's message."""
        item = {"type": "message", "role": "user", "content": [input_text(text)]}
        return self.say("conversation.item.create", item=item)

    def ask(self, text: str, **response: Any) -> list[Event]:
        """A user's message and the whole response to it."""
        self.text(text)
        return self.respond(**response)

    def respond(self, **response: Any) -> list[Event]:
        """A whole response."""
        begun = self.say("response.create", response=response)
        assert begun[0]["type"] == "response.created", begun
        ended = [] if begun[-1]["type"] == "response.done" else self.until("response.done")
        return begun + ended

    def hear(self, audio: bytes, frame: int = 4800) -> list[Event]:
        """Input audio, in frames, as fast as it can be sent."""
        events: list[Event] = []
        for start in range(0, len(audio), frame):
            chunk = base64.b64encode(audio[start : start + frame]).decode()
            events += self.say("input_audio_buffer.append", audio=chunk)
        return events

    def _taken(self, outputs: list[Output]) -> list[Event]:
        events = []
        for output in outputs:
            assert self.hangup is None, "nothing is sent after a hangup"
            if isinstance(output, Hangup):
                self.hangup = output
                continue
            frame = realtime.encode(output)
            check_server_event(frame)
            events.append(json.loads(frame))
        return events


def types(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def only(events: list[Event], kind: str) -> Event:
    """The one event of a type."""
    (event,) = [event for event in events if event["type"] == kind]
    return event


def code(events: list[Event]) -> str:
    """The code of the one error that was the whole answer."""
    (event,) = events
    assert event["type"] == "error", event
    value: str = event["error"]["code"]
    return value


def input_text(text: str) -> Event:
    return {"type": "input_text", "text": text}


def tone(seconds: float, rate: int = 24000, level: float = 0.2) -> bytes:
    """Loud enough to be speech: -17 dBFS."""
    t = np.arange(round(seconds * rate)) / rate
    return (level * 32767 * np.sin(2 * np.pi * 200 * t)).astype("<i2").tobytes()


def silence(seconds: float, rate: int = 24000) -> bytes:
    return bytes(2 * round(seconds * rate))


def tool(name: str, parameters: Any = None) -> Event:
    return {
        "type": "function",
        "name": name,
        "description": f"It does {name}.",
        "parameters": parameters or {"type": "object", "properties": {}},
    }


def said(events: list[Event]) -> str:
    """What the model said or wrote in a response."""
    done = only(events, "response.done")
    parts = [part for item in done["response"]["output"] for part in item.get("content", [])]
    return "".join(part.get("text") or part.get("transcript") or "" for part in parts)


def calls(events: list[Event]) -> list[tuple[str, Any]]:
    """The functions a response called, with their arguments."""
    output = only(events, "response.done")["response"]["output"]
    return [
        (item["name"], json.loads(item["arguments"]))
        for item in output
        if item["type"] == "function_call"
    ]


def audio(events: list[Event]) -> bytes:
    """All audio that was sent."""
    deltas = (e["delta"] for e in events if e["type"] == "response.output_audio.delta")
    return b"".join(map(base64.b64decode, deltas))
