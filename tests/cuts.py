"""cuts: conversations whose links break at chosen moments, and what must hold of them at the end.

It knows the person at the client's end, who goes on with what they wanted to say whatever happens:
waits for an answer, answers calls, comes back when the line is dead. It knows where to cut (the
session's actions are counted), and compares the end of a conversation with that of one that was
never cut. How the session survives is none of its business.
"""

import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Self, TypeAlias

import msgspec

from relay import realtime
from relay.session import Loss, UpstreamGone
from relay.session import history as history_of
from relay.session.actions import Action, Dial, Hangup
from relay.session.state import Timer, TurnPhase
from relay.simulator.items import Stored
from relay.simulator.script import Script, parse
from tests.returning import Returning
from tests.test_pair import HARMLESS, SETTINGS, silence, tone

AWAY_S = 3.0
"""How long a client that was lost is away."""
ANSWER_S = 0.3
"""How long the application takes to answer a call."""
FRAME_S = 0.1
"""How much of the user's voice is in a frame."""
PATIENCE_S = 90.0
"""How long a person waits at most before saying the next thing."""
FIRST = 3
"""Before Settings, which are the second frame, there is nothing to come back to."""
STORY = "Once upon a time there was a relay, and it stood between two towns."
SPEECH = "[speech"
"""So begins what the simulator writes down of speech."""
INJECTED = "One more thing to say."
SCRIPT = parse(
    f"""
[knobs]
delta_ms = 400
[[turn]]
user = "story"
say = "{STORY}"
[[turn]]
user = "hungry"
say = "There is bread."
"""
)


class Cut(enum.Enum):
    """What breaks, and how it is mended."""

    UPSTREAM = "upstream"
    """The upstream's connections."""
    CLIENT = "client"
    """The client's; it comes back with a bare message."""
    CLIENT_SETTINGS = "client, Settings"
    """The same, and it sends its Settings again."""
    KILLED = "killed"
    """The relay's process; the next one has what was written."""
    AGE = "age"
    """Nothing; but the upstream's session has grown old, and another is prepared."""


class Faulty(Returning):
    """A pair whose links break right after these frames and dials, counted from 1. What is on the
    way in that moment is lost, and both ends learn of it a little later."""

    def __init__(self, cuts: Mapping[int, Cut], script: Script = SCRIPT, **more: Any) -> None:
        self.cuts = cuts
        self.moments = 0
        self.online = True
        """The client has a connection that works."""
        self.settings: dict[str, Any] = SETTINGS
        self.settings_sent: list[int] = [0]
        """How often, by connection."""
        self.seen: list[list[dict[str, Any]]] = [[]]
        """What reached the client, by connection; audio as its type alone."""
        self.may_shorten = sum(cut not in (Cut.UPSTREAM, Cut.AGE) for cut in cuts.values())
        """So many answers may have been heard in part, or not have been given: the client was
        gone."""
        self.words_lost = False
        """The user's speech was lost with the only one who had heard it."""
        self._spoken = 0
        self._unheard: list[bytes] = []
        """What the user said while there was no line: the client keeps it."""
        super().__init__(script, **more)

    # -- cutting ----------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        super()._do(action)
        if isinstance(action, Dial | Hangup):
            self._moment()

    def _moment(self) -> None:
        self.moments += 1
        if (cut := self.cuts.get(self.moments)) is not None:
            self._break(cut)

    def _break(self, cut: Cut) -> None:
        if cut is Cut.UPSTREAM:
            legs = list(self.upstreams)
            self.upstreams.clear()
            for leg in legs:
                self._later(partial(self._upstream_is_gone, leg))
        elif cut is Cut.AGE:
            self.session.arm(Timer.PREPARE, 0.0)
        elif self.online:
            self.online = False
            self._later(lambda: self._line_is_dead(cut))

    def _upstream_is_gone(self, leg: int) -> None:
        if self.closed is None:
            gone = UpstreamGone(Loss.LOST, reason="cut")
            self._perform(self.session.upstream_gone(leg, gone, self.now))

    def _line_is_dead(self, cut: Cut) -> None:
        if self.closed is not None:
            return
        if cut is Cut.KILLED:
            self.words_lost |= self._spoken > self._written  # there are no recordings on a disk
            self.killed()
        else:
            self.lost()
        self._later_by(AWAY_S, lambda: self._comes_back(cut))

    def _comes_back(self, cut: Cut) -> None:
        self.seen.append([])
        self.settings_sent.append(0)
        self.online = True
        if cut is Cut.CLIENT_SETTINGS:
            self.settings_sent[-1] += 1
            self.back(self.settings)
        else:
            self.back({"type": "KeepAlive"})
        self._catches_up(len(self.seen))

    def _catches_up(self, connection: int) -> None:
        """In real time, as it was said."""
        if self._unheard and self.online and connection == len(self.seen):
            self._audio_in(self._unheard.pop(0))
            self._later_by(FRAME_S, partial(self._catches_up, connection))

    # -- the person -------------------------------------------------------------------------------

    def begins(self, **agent: Any) -> Self:
        self.settings = SETTINGS | {"agent": SETTINGS["agent"] | agent}
        self.settings_sent[-1] += 1
        return self.client(self.settings).settles()

    def writes(self, text: str) -> Self:
        return self.sends({"type": "InjectUserMessage", "content": text})

    def sends(self, message: dict[str, Any]) -> Self:
        """As soon as there is a line."""
        self._run(self.now + PATIENCE_S, lambda: self.online)
        return self.client(message)

    def says(self, seconds: float) -> Self:
        """With the voice; what is said while there is no line is sent when there is one."""
        audio = _speech(seconds)
        self._spoken += 1
        step = int(48000 * FRAME_S)
        for start in range(0, len(audio), step):
            chunk = audio[start : start + step]
            if self.online and not self._unheard:
                self._audio_in(chunk)
            else:
                self._unheard.append(chunk)
            self.passes(FRAME_S)
        return self

    def plays(self, seconds: float) -> Self:
        """A recording of the voice, in no time."""
        audio = _speech(seconds)
        self._spoken += 1
        step = int(48000 * FRAME_S)
        chunks = [audio[start : start + step] for start in range(0, len(audio), step)]
        while chunks:
            if self.online and not self._unheard:
                self._audio_in(chunks.pop(0))
            else:
                self._unheard.append(chunks.pop(0))
        return self

    def waits_for(self, kind: str, within: float) -> Self:
        """For a message that may never come."""
        known = self._count(kind)
        return self._run(self.now + within, lambda: self._count(kind) > known)

    def settles(self) -> Self:
        """Until nothing is owed and everything said was heard, for more than a moment."""
        end = self.now + PATIENCE_S
        quiet = 0
        while quiet < 3 and self.now < end and self.closed is None:
            self.passes(0.5)
            quiet = quiet + 1 if self.is_quiet else 0
        return self

    @property
    def is_quiet(self) -> bool:
        s = self.session
        owed = s.response or s.requested or s.retrying or s.wants or s.rounds or s.lane or s.held
        heard = s.playback.finished(self.now - s.origin)
        idle = s.turn is TurnPhase.IDLE and s.settings_applied
        connected = self.online and not self._unheard and s.live is not None
        return connected and idle and heard and not owed

    def _count(self, kind: str) -> int:
        return sum(message["type"] == kind for seen in self.seen for message in seen)

    @property
    def _written(self) -> int:
        """How much of what the user has spoken is there in words."""
        return sum(
            who == "user" and what.startswith(SPEECH) for who, what in history(self.session.log)
        )

    # -- inside -----------------------------------------------------------------------------------

    def _later_by(self, seconds: float, happens: Callable[[], None]) -> None:
        latency, self.latency_s = self.latency_s, seconds
        self._later(happens)
        self.latency_s = latency

    def _line(self, side: Any, way: Any, what: str, message: Any) -> None:
        super()._line(side, way, what, message)
        if (side, way) == ("client", "<") and self.online:
            self._client_hears(what, message)
        self._moment()

    def _client_hears(self, what: str, message: Any) -> None:
        self.seen[-1].append({"type": "audio"} if what == "audio" else message)
        if what == "FunctionCallRequest":
            for call in message["functions"]:
                self._later_by(ANSWER_S, partial(self._answers, call, len(self.seen)))

    def _answers(self, call: dict[str, Any], connection: int) -> None:
        if self.online and len(self.seen) == connection and self.closed is None:
            answer = {"id": call["id"], "name": call["name"], "content": f"{call['name']} is fine"}
            self.client({"type": "FunctionCallResponse", **answer})


@cache
def _speech(seconds: float) -> bytes:
    return tone(seconds) + silence(1.2)


# -- conversations --------------------------------------------------------------------------------


def greeting(pair: Faulty) -> Faulty:
    """The agent speaks first, then answers."""
    return pair.begins(greeting="Good morning to you.").writes("Hello").settles()


def two_texts(pair: Faulty) -> Faulty:
    """Two written questions and their spoken answers."""
    return pair.begins().writes("Hello").settles().writes("And now?").settles()


def two_at_once(pair: Faulty) -> Faulty:
    """The second question comes while the first is answered."""
    pair.may_shorten += len(pair.cuts)  # what is asked again has one answer
    pair.begins().writes("I am hungry").passes(0.15)
    return pair.writes("Hello?").settles()


def function_round(pair: Faulty) -> Faulty:
    """Two functions are called in one response; another uses both results."""
    pair.begins().writes("Time and weather, please").settles()
    return pair.writes("Thank you").settles()


def voice(pair: Faulty) -> Faulty:
    """A spoken question, and a written one behind it."""
    return pair.begins().says(1.0).settles().writes("Thank you").settles()


def recording(pair: Faulty) -> Faulty:
    """Spoken questions that come faster than they were spoken."""
    return pair.begins().plays(1.0).settles().plays(1.0).settles()


def burst(pair: Faulty) -> Faulty:
    """Two recordings at once: what is said to the second interrupts the answer to the first."""
    pair.may_shorten += 1 + len(pair.cuts)
    return pair.begins().plays(1.0).plays(1.0).settles()


def barge_in(pair: Faulty) -> Faulty:
    """The user speaks while the agent does."""
    pair.begins().writes("Tell me a story").waits_for("AgentStartedSpeaking", 15).passes(1.5)
    return pair.says(0.6).settles()


def injected(pair: Faulty) -> Faulty:
    """The application has the agent say something, at once or behind what it says."""
    pair.begins().writes("Hello").waits_for("AgentStartedSpeaking", 15)
    queued = {"message": INJECTED, "behavior": "queue"}
    return pair.sends({"type": "InjectAgentMessage", **queued}).settles()


def updated(pair: Faulty) -> Faulty:
    """The prompt grows, the voice changes after the agent has spoken: another leg."""
    pair.begins().writes("Hello").settles()
    pair.sends({"type": "UpdatePrompt", "prompt": "Speak like a pirate."})
    speak = {"provider": {"type": "open_ai", "voice": "shimmer"}}
    pair.sends({"type": "UpdateSpeak", "speak": speak}).settles()
    return pair.writes("And now?").settles()


Conversation: TypeAlias = Callable[[Faulty], Faulty]
CONVERSATIONS: tuple[Conversation, ...] = (
    greeting,
    two_texts,
    two_at_once,
    function_round,
    voice,
    recording,
    burst,
    barge_in,
    injected,
    updated,
)


@cache
def uncut(conversation: Conversation) -> Faulty:
    return conversation(Faulty({}))


def cut(conversation: Conversation, cuts: Mapping[int, Cut]) -> Faulty:
    return conversation(Faulty(cuts))


# -- what must be true at the end -----------------------------------------------------------------


def history(log: Iterable[realtime.Item]) -> list[tuple[str, str]]:
    """What was said and done as (who, what). How long speech was is left out: it depends on where
    it was cut."""
    told: list[tuple[str, str]] = []
    names: dict[str | None, str] = {}
    for item in log:
        if item.type == "function_call":
            names[item.call_id] = item.name or ""
            told.append(("call", item.name or ""))
        elif item.type == "function_call_output":
            told.append(("result", f"{names[item.call_id]}: {item.output}"))
        else:
            words = "".join(map(_words, item.content or []))
            told.append((item.role or "", re.sub(r"\d+\.\d", "some", words.strip())))
    return [entry for entry in told if entry[1] and entry[0] != "system"]


def _words(part: realtime.ContentPart) -> str:
    return f"{SPEECH}, 0.0 s]" if part.audio else part.transcript or part.text or ""


class Turn(msgspec.Struct):
    """What the user said, and what followed."""

    user: str = ""
    calls: list[str] = []
    results: list[str] = []
    said: list[str] = []


def turns(told: list[tuple[str, str]]) -> list[Turn]:
    found = [Turn()]
    for who, what in told:
        match who:
            case "user":
                found.append(Turn(user=what))
            case "call":
                found[-1].calls.append(what)
            case "result":
                found[-1].results.append(what)
            case _:
                found[-1].said.append(what)
    return found


def shortened(said: str, whole: Sequence[str]) -> int | None:
    """How many of these texts must have been cut short if `said` is what was said of them, in their
    order; None: it is not."""
    if not whole:
        return None if said else 0
    first, rest = whole[0], whole[1:]
    lengths = [n for n in range(len(first), -1, -1) if said.startswith(first[:n])]
    found = [
        (n < len(first)) + more
        for n in lengths
        if (more := shortened(said[n:].strip(), rest)) is not None
    ]
    return min(found, default=None)


def check(pair: Faulty, reference: Faulty) -> None:
    """Nothing was lost or doubled, and the client was told no nonsense. An upstream that fails
    three times in one rebuild is given up, as it should be (4.8)."""
    if list(pair.cuts.values()).count(Cut.UPSTREAM) >= 3 and pair.closed is not None:
        assert pair.closed.reason == "INTERNAL_SERVER_ERROR"
        return
    assert pair.closed is None, (pair.closed, pair.of("Error"))
    assert pair.is_quiet, f"something is still owed\n{pair}"
    check_history(pair, reference)
    check_upstream(pair)
    check_order(pair)
    if set(pair.cuts.values()) == {Cut.AGE}:
        check_silence(pair, reference)


def check_silence(pair: Faulty, reference: Faulty) -> None:
    """Of a planned switch the client is told nothing (C-240)."""
    (told,), (whole,) = pair.seen, reference.seen
    assert [m["type"] for m in told] == [m["type"] for m in whole]


def check_history(pair: Faulty, reference: Faulty) -> None:
    """What the user wrote and what functions returned is there, once; what the agent said is there,
    but for what the user cannot have heard."""
    told, whole = (history(history_of.replay(each.session)) for each in (pair, reference))
    if pair.words_lost:  # spoken words that nobody had written down
        told, whole = ([e for e in t if not e[1].startswith(SPEECH)] for t in (told, whole))
    became, was = turns(told), turns(whole)
    difference = f"{told} instead of {whole}"
    assert [turn.user for turn in became] == [turn.user for turn in was], difference
    cut_short = 0
    for now, before in zip(became, was, strict=True):
        assert len(now.results) == len(now.calls), difference
        assert set(now.results) <= set(before.results), difference
        if now.calls != before.calls:  # the model was cut off before it had called all of them
            assert set(now.calls) < set(before.calls), difference
            continue
        if pair.words_lost or not before.said:  # more of it may be heard before the next question
            continue
        said = [STORY if STORY.startswith(text) else text for text in before.said]
        # What the application has the agent say does not wait for an answer that is asked again.
        spoken = sorted(now.said, key=INJECTED.startswith)
        missing = shortened(" ".join(spoken), said)
        assert missing is not None, difference
        cut_short += bool(missing) and said == before.said
    assert cut_short <= pair.may_shorten, difference


def check_upstream(pair: Faulty) -> None:
    """The upstream that the conversation ended on knows what the history says."""
    (held,) = pair.upstreams.values()
    known = [_written(stored) for stored in held.items.order]
    theirs = [e for e in history(known) if e[0] != "assistant"]
    ours = [e for e in history(history_of.replay(pair.session)) if e[0] != "assistant"]
    assert theirs == ours, f"{theirs} instead of {ours}"
    assert [c for c in pair.complaints() if c.get("code") not in HARMLESS] == []


def _written(stored: Stored) -> realtime.Item:
    """With the words of what the upstream was told as audio."""
    if stored.heard is None or stored.face.role != "user":
        return stored.face
    part = realtime.ContentPart(type="input_audio", transcript=stored.heard)
    return msgspec.structs.replace(stored.face, content=[part])


def check_order(pair: Faulty) -> None:
    applied = 0
    for number, seen in enumerate(pair.seen):
        types = [message["type"] for message in seen]
        assert "Error" not in types
        if not types:
            continue
        assert types[0] == "Welcome"
        assert types.count("Welcome") == 1
        caused = pair.settings_sent[number] or not applied
        assert types.count("SettingsApplied") <= caused
        applied += types.count("SettingsApplied")
        if "SettingsApplied" in types:
            assert types.index("SettingsApplied") == 1, types
        speaking = False
        for kind in types:
            if kind == "AgentStartedSpeaking":
                speaking = True
            elif kind == "AgentAudioDone":
                assert speaking, f"AgentAudioDone of nothing on connection {number}: {types}"
                speaking = False
            elif kind == "audio":
                assert speaking, f"audio of nothing on connection {number}: {types}"
