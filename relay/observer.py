"""observer: sees what happens on the connections of a process, and counts it.

A bridge tells its `Observer` of each step: what the client said, what the session asked for, what
became of an upstream. What that means in figures is decided here and nowhere else. It has no clock
(`now` is an argument), opens nothing, changes nothing, and keeps no word of anybody's.

Audio passes unseen: a leg counts its own frames and bytes, and these are read when somebody looks
and when the leg ends.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from relay import realtime, voice_agent
from relay.correlation import Correlation
from relay.frames import Unknown, Unparsable
from relay.metrics import ERRORS, OTHER, WARNINGS, Metrics, Snapshot
from relay.session.actions import Action, AudioDropped, Close, Note, ToClient, ToUpstream

MOST_PENDING: Final = 256
"""Function calls of one session that are followed."""


class Counted(Protocol):
    """What a `wire.Leg` counts of itself."""

    frames_in: int
    frames_out: int
    unsent_audio_ms: float
    shed_audio_ms: float

    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def unsent_frames(self) -> int: ...


class Follower(Protocol):
    """Somebody else who is told, and makes something else of it than figures."""

    @property
    def headers(self) -> dict[str, str]:
        """What an upstream is dialled with, if it is to follow, too."""

    def client_message(self, message: voice_agent.ClientMessage | Unknown | Unparsable) -> None: ...
    def upstream_event(self, event: realtime.ServerEvent | Unknown | Unparsable) -> None: ...
    def performs(self, actions: Iterable[Action]) -> None: ...
    def over(self, end: str) -> None: ...


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A connection, for those who look."""

    session: str = ""
    """Its id in the log."""
    key: str | None = None
    dialect: str = ""
    peer: str = ""
    said: Correlation = Correlation()


class Live(msgspec.Struct, kw_only=True):
    """A connection as it is now, without a word of what is said."""

    session: str
    key: str | None
    dialect: str
    peer: str
    age_s: float
    settings_applied: bool
    upstreams: int
    """Open connections to upstreams."""
    client_bytes_in: int
    client_bytes_out: int
    unsent_audio_ms: float
    turns: int
    barge_ins: int


class Overview:
    """All that goes on in this process."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.followed: Callable[[About], Follower] | None = None
        """Who follows each session."""
        self._observers: dict[int, Observer] = {}
        self._number = 0

    def observer(self, client: Counted, about: About, now: float) -> "Observer":
        """A connection was accepted and becomes a session; `Observer.over` ends that."""
        self._number += 1
        follower = self.followed(about) if self.followed else None
        self._observers[self._number] = Observer(self, self._number, client, about, now, follower)
        return self._observers[self._number]

    def live(self, now: float) -> list[Live]:
        """The sessions that are going on, the oldest first."""
        return [observer.live(now) for observer in self._observers.values()]

    def snapshot(self) -> Snapshot:
        """All figures, those of open connections included."""
        metrics = self.metrics
        metrics.sessions.put(len(self._observers))
        observers = self._observers.values()
        for observer in observers:
            observer.count_traffic()
        for side, legs in (
            ("client", [observer.client for observer in observers]),
            ("upstream", [leg for observer in observers for leg in observer.upstreams]),
        ):
            waiting = [leg.unsent_audio_ms / 1000 for leg in legs]
            metrics.outbox_frames.put(sum(leg.unsent_frames for leg in legs), side)
            metrics.outbox_audio.put(sum(waiting), side)
            metrics.outbox_worst.put(max(waiting, default=0.0), side)
        return metrics.snapshot()

    def ended(self, number: int) -> None:
        """For observers."""
        del self._observers[number]


class Observer:
    """One connection. What it is told it is told in the order in which it happened."""

    # fmt: off
    __slots__ = (
        "_barge_ins", "_began", "_calls", "_client", "_end", "_errors", "_follower", "_metrics",
        "_number", "_opened", "_overview", "_round_at", "_settings_applied", "_settings_at",
        "_switch", "_turns", "_upstreams", "_user_speaks", "_warnings", "about", "client",
    )
    # fmt: on

    def __init__(
        self,
        overview: Overview,
        number: int,
        client: Counted,
        about: About,
        now: float,
        follower: Follower | None = None,
    ) -> None:
        self.client = client
        self.about = about
        self._overview = overview
        self._follower = follower
        self._metrics = overview.metrics
        self._number = number
        self._began = now
        self._end: str | None = None
        self._client = _Seen(client)
        self._upstreams: dict[int, _Seen] = {}  # those being dialled included
        self._settings_at: float | None = None
        self._settings_applied = False
        self._user_speaks = False
        self._switch = "planned"  # why the next switch will be
        self._calls: dict[str, str] = {}  # who makes those that have no result
        self._round_at = 0.0
        self._turns = self._barge_ins = self._errors = self._warnings = self._opened = 0

    def live(self, now: float) -> Live:
        about = self.about
        return Live(
            session=about.session,
            key=about.key,
            dialect=about.dialect,
            peer=about.peer,
            age_s=round(now - self._began, 3),
            settings_applied=self._settings_applied,
            upstreams=len(self.upstreams),
            client_bytes_in=self.client.bytes_in,
            client_bytes_out=self.client.bytes_out,
            unsent_audio_ms=self.client.unsent_audio_ms,
            turns=self._turns,
            barge_ins=self._barge_ins,
        )

    @property
    def upstreams(self) -> list[Counted]:
        """Those that are open."""
        return [seen.line for seen in self._upstreams.values() if seen.line is not None]

    @property
    def trace_headers(self) -> dict[str, str]:
        """Of the trace that the session is a part of."""
        if self._follower is not None:
            return self._follower.headers
        return self.about.said.trace.headers if self.about.said.trace else {}

    def life(self, now: float) -> dict[str, str | float]:
        """The connection in figures, for one line at its end."""
        return {
            "end": self.end,
            "lasted_s": round(now - self._began, 3),
            "turns": self._turns,
            "barge_ins": self._barge_ins,
            "errors": self._errors,
            "warnings": self._warnings,
            "upstreams": self._opened,
            "frames_in": self.client.frames_in,
            "frames_out": self.client.frames_out,
            "bytes_in": self.client.bytes_in,
            "bytes_out": self.client.bytes_out,
        }

    @property
    def end(self) -> str:
        """How it ended, one of `metrics.ENDS`; one of which nobody said anything was cut off."""
        return self._end or "cut_off"

    # -- upstream legs ----------------------------------------------------------------------------

    def dialling(self, leg: int, now: float) -> None:
        self._upstreams[leg] = _Seen(None, now)

    def opened(self, leg: int, line: Counted, now: float) -> None:
        self._metrics.dials.add(1, "opened")
        seen = self._upstreams[leg]
        seen.line = line
        self._metrics.dial.observe(now - seen.dialled)
        self._opened += 1

    def not_opened(self, leg: int, *, refused: bool) -> None:
        """`refused`: by an HTTP status."""
        del self._upstreams[leg]
        self._metrics.dials.add(1, "refused" if refused else "unreachable")

    def upstream_over(self, leg: int) -> None:
        """Nothing of it is left: it was open, or was hung up before."""
        seen = self._upstreams.pop(leg, None)
        if seen is None:
            return
        if seen.line is None:
            self._metrics.dials.add(1, "abandoned")
        self._count(seen, "upstream")

    # -- what is said -----------------------------------------------------------------------------

    def client_message(
        self, message: voice_agent.ClientMessage | Unknown | Unparsable, now: float
    ) -> None:
        if self._follower is not None:
            self._follower.client_message(message)
        self._metrics.messages.add(1, "in", _type(message))
        if isinstance(message, voice_agent.Settings):
            self._settings_at = now

    def upstream_event(self, event: realtime.ServerEvent | Unknown | Unparsable) -> None:
        """Of any type; of audio only the first of a response."""
        if self._follower is not None:
            self._follower.upstream_event(event)
        self._metrics.events.add(1, "in", _type(event))
        if isinstance(event, realtime.InputAudioBufferSpeechStarted):
            self._user_speaks = True

    def performs(self, actions: Iterable[Action], now: float) -> None:
        """What the session answered, in one step, to what was told last."""
        if self._follower is not None:
            self._follower.performs(actions)
        for action in actions:
            match action:
                case ToClient(message=message):
                    self._metrics.messages.add(1, "out", _type(message))
                    self._told(message, now)
                case ToUpstream(event=event):
                    self._metrics.events.add(1, "out", _type(event))
                    if isinstance(event, realtime.ConversationItemCreate):
                        self._created(event.item, now)
                case AudioDropped() if self._user_speaks:
                    self._barge_ins += 1
                    self._metrics.barge_ins.add(1)
                case Note():
                    self._noted(action)
                case Close(code=code):
                    self._ends(
                        "going_away" if code == 1001 else "error" if self._errors else "finished"
                    )
                case _:
                    pass
        self._user_speaks = False

    # -- the connection's life --------------------------------------------------------------------

    def resumed(self, *, was_connected: bool) -> None:
        """The client came back to a conversation."""
        self._switch = "resume"
        self._metrics.resumes.add(1, "connected" if was_connected else "parked")

    def client_gone(self, code: int | None) -> None:
        """It left with this close code; None: it vanished. 1002, 1007, 1009: what it sent was
        refused."""
        refused = code in (1002, 1007, 1009)
        lost = "client_lost" if code is None else "client_closed"
        self._ends("client_refused" if refused else lost)

    def superseded(self) -> None:
        self._ends("superseded")

    def failed(self) -> None:
        """A mistake of ours."""
        self._errors += 1
        self._metrics.failures.add(1)
        self._metrics.errors.add(1, "INTERNAL_SERVER_ERROR")
        self._ends("error")

    def over(self, now: float) -> None:
        """Nothing of the connection is left."""
        self.count_traffic()
        for leg, seen in list(self._upstreams.items()):
            if seen.line is None:
                self.upstream_over(leg)
        self._metrics.sessions_ended.add(1, self.end)
        self._metrics.session_duration.observe(now - self._began)
        self._overview.ended(self._number)
        if self._follower is not None:
            self._follower.over(self.end)

    def count_traffic(self) -> None:
        """Take in what the open legs have counted."""
        self._count(self._client, "client")
        for seen in self._upstreams.values():
            self._count(seen, "upstream")

    # -- inside -----------------------------------------------------------------------------------

    def _ends(self, how: str) -> None:
        if self._end is None:
            self._end = how

    def _count(self, seen: "_Seen", side: str) -> None:
        if (line := seen.line) is None:
            return
        now = (
            line.frames_in,
            line.frames_out,
            line.bytes_in,
            line.bytes_out,
            line.shed_audio_ms / 1000,
        )
        frames_in, frames_out, bytes_in, bytes_out, shed = (
            after - so_far for after, so_far in zip(now, seen.counted, strict=True)
        )
        seen.counted = now
        self._metrics.frames.add(frames_in, side, "in")
        self._metrics.frames.add(frames_out, side, "out")
        self._metrics.bytes.add(bytes_in, side, "in")
        self._metrics.bytes.add(bytes_out, side, "out")
        self._metrics.shed_audio.add(shed)

    def _told(self, message: voice_agent.ServerMessage, now: float) -> None:
        metrics = self._metrics
        match message:
            case voice_agent.LatencyReport():
                self._turns += 1
                for histogram, seconds in (
                    (metrics.transcription, message.stt_latency),
                    (metrics.first_token, message.ttt_token_latency),
                    (metrics.first_audio, message.total_latency),
                ):
                    if seconds is not None:
                        histogram.observe(seconds)
            case voice_agent.SettingsApplied():
                self._settings_applied = True
                if self._settings_at is not None:
                    metrics.settings_applied.observe(now - self._settings_at)
                    self._settings_at = None
            case voice_agent.FunctionCallRequest(functions=functions):
                for call in functions:
                    self._called(call.id, "client" if call.client_side else "relay", now)
            case voice_agent.FunctionCallCancelled(functions=cancelled):
                for each in cancelled:
                    self._call_over(each.id, "cancelled", now)
            case voice_agent.Error(code=code):
                self._errors += 1
                metrics.errors.add(1, code if code in ERRORS else OTHER)
            case voice_agent.Warning(code=code):
                self._warnings += 1
                metrics.warnings.add(1, code if code in WARNINGS else OTHER)
            case _:
                pass

    def _created(self, item: realtime.Item, now: float) -> None:
        if item.type == "function_call_output":
            self._call_over(item.call_id or "", "answered", now)

    def _called(self, call: str, by: str, now: float) -> None:
        if not self._calls:
            self._round_at = now
        if len(self._calls) < MOST_PENDING:
            self._calls.setdefault(call, by)

    def _call_over(self, call: str, outcome: str, now: float) -> None:
        by = self._calls.pop(call, None)
        if by is None:
            return  # known already: cancelled, or its result is sent again
        self._metrics.function_calls.add(1, by, outcome)
        if not self._calls:
            self._metrics.function_round.observe(now - self._round_at)

    def _noted(self, note: Note) -> None:
        self._metrics.notes.add(1, note.event)
        if note.event == "upstream_lost":
            self._metrics.losses.add(1, str(note.fields["how"]))
            self._switch = "loss"
        elif note.event == "upstream_switched":
            self._metrics.switches.add(1, self._switch)
            self._switch = "planned"


class _Seen:
    """A leg, and how much of it is counted."""

    __slots__ = ("counted", "dialled", "line")

    def __init__(self, line: Counted | None, dialled: float = 0.0) -> None:
        self.line = line  # None: it is being dialled
        self.dialled = dialled  # when
        self.counted: tuple[float, ...] = _NOTHING


_NOTHING: Final = (0.0,) * 5


def _type(said: msgspec.Struct) -> str:
    """Of a message or event; all that no protocol knows is one."""
    if isinstance(said, Unknown):
        return "unknown"
    if isinstance(said, Unparsable):
        return "unparsable"
    return str(said.__struct_config__.tag)
