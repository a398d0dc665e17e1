"""Everything a conversation knows, as data: one struct that prints, encodes and decodes.

The machines (`text`, `rounds`, `responses`, `turns`, `updates`, `phases`, `faults`) are functions
over it; `Session` in `conversation` is the same struct with the methods the shell calls. All times
here are the session's own: seconds since `origin`, so that a snapshot taken in one process goes on
in another after one field has changed.
"""

import enum
import math
import re
from typing import Literal

import msgspec

from relay import realtime, voice_agent
from relay.audio.formats import Format
from relay.audio.playback import Playback
from relay.session.actions import (
    Action,
    AudioToUpstream,
    Close,
    Note,
    Target,
    ToClient,
    ToUpstream,
)
from relay.session.facts import Admission, UpstreamTraits
from relay.session.limits import bounded
from relay.session.options import SessionOptions
from relay.session.usage import Usage
from relay.settings import Change, Dialect, Endpoint, MappingOptions, Plan, Update

REMEMBERED = 32
"""How many ended responses are remembered, to ignore their latecomers (3.4.1)."""

UNACKNOWLEDGED = 64
"""How many items may wait to be shown by an upstream that may never do it."""

_OURS = re.compile(r"u\d+_[a-z]+_\d+")


class Phase(enum.Enum):
    """Where the conversation stands (4.1). Derived, never stored."""

    OPEN = "open"
    """No Settings yet."""
    CONNECTING = "connecting"
    """Settings are known; no upstream leg is live. Input is held."""
    READY = "ready"
    """A leg is live."""
    CLOSED = "closed"
    """`Close` was asked for, or the client is gone. Nothing happens any more."""


class LegPhase(enum.Enum):
    """How far an upstream leg has come."""

    DIALLING = "dialling"
    """The shell is connecting."""
    OPEN = "open"
    """Connected; session.created has not come."""
    WARM = "warm"
    """session.created has come; Settings have not."""
    CONFIGURING = "configuring"
    """session.update was sent; session.updated has not come."""
    STANDBY = "standby"
    """Configured; takes over when the conversation pauses."""
    LIVE = "live"
    """The conversation runs on it."""


class Timer(enum.Enum):
    """What may fall due (4.7). One sentence for each."""

    SETTINGS = "settings"
    """The client has sent no Settings."""
    CLIENT_IDLE = "client_idle"
    """The client has sent nothing for long."""
    UPSTREAM_READY = "upstream_ready"
    """All attempts to reach the upstream together took too long."""
    UPSTREAM_STEP = "upstream_step"
    """One step of an attempt took too long."""
    REDIAL = "redial"
    """The pause before the next attempt is over."""
    TURN = "turn"
    """The user's turn was committed and nothing came of it."""
    ITEM = "item"
    """An item that a response waits for was not acknowledged."""
    REQUEST = "request"
    """A response.create was neither followed nor refused."""
    RETRY = "retry"
    """The pause before a failed response is asked for again is over."""
    INFERRED_END = "inferred_end"
    """All that a response began is done, and its upstream never says that responses end."""
    SLOW_THINK = "slow_think"
    """A response has begun and brings nothing."""
    CANCELLED = "cancelled"
    """A response that the relay cancelled has not ended."""
    UNASKED = "unasked"
    """The turn that began by cancelling a response was not answered by the upstream."""
    CALLS = "calls"
    """A function call was not answered."""
    USER_TEXT = "user_text"
    """The assistant's text has waited long enough for the user's."""
    UPDATE = "update"
    """A session.update was neither accepted nor refused."""
    PREPARE = "prepare"
    """The upstream's session ends before long: prepare the next."""
    SWITCH = "switch"
    """The upstream's session is about to end: switch now."""
    WORDS = "words"
    """The upstream before has had the time to write down what it heard."""
    PAUSE = "pause"
    """The agent's audio has been played and the user's words were waited for: a planned switch may
    be possible."""
    NEARLY_OVER = "nearly_over"
    """The session's maximum length comes near."""
    OVER = "over"
    """The session has reached its maximum length."""
    APPEND = "append"
    """Gathered audio has waited long enough."""


class Leg(msgspec.Struct, kw_only=True):
    """One upstream connection. Its number is part of every id chosen for it (4.4)."""

    number: int
    target: Target
    plan: Plan | None = None
    """What it is, or will be, configured with; None: dialled before Settings."""
    phase: LegPhase = LegPhase.DIALLING
    folded: tuple["Updating", ...] = ()
    """Updates that are part of its plan, to be acknowledged when it is live."""
    opened_wall: float = 0.0
    """Unix time when it was connected..."""
    opened_at: float = 0.0
    """...and ours."""
    expires_at: float = math.inf
    """When its session ends, on our clock."""
    configured_by: str = ""
    """Event id of its first session.update."""
    live_at: float = 0.0
    """When it became the live one."""
    proved: bool = False
    """A response was completed on it, or it was the session's first."""
    voiced: bool = False
    """Assistant audio has come over it: its voice is fixed now."""
    creates_responses: bool = False
    """It has sent response.created."""
    infers_ends: bool = False
    """Its responses end when all they began is done, because it may never say so (4.4)."""
    deviations: tuple[str, ...] = ()
    """In which ways it was seen to deviate from the API."""

    @property
    def agreed(self) -> Plan:
        """The plan, where there must be one."""
        assert self.plan is not None
        return self.plan


class Leaving(msgspec.Struct, kw_only=True):
    """The leg before the live one, which works, and still writes down what it heard."""

    number: int
    names: dict[str, str]
    """Its items of which it owes the words, and what they are called in the log now."""


class TurnPhase(enum.Enum):
    """What the user is doing (4.3)."""

    IDLE = "idle"
    """Nothing."""
    SPEAKING = "speaking"
    """speech_started, not yet stopped nor committed."""
    WAITING = "waiting"
    """Said their turn; no response has begun."""


class UserItem(msgspec.Struct, kw_only=True):
    """A turn of the user's that came as audio, from speech_started to its transcription."""

    started_ms: int | None = None
    ended_ms: int | None = None
    """In the upstream's input timeline."""
    committed_at: float | None = None
    stt: float | None = None
    """How long its transcription took, in seconds."""
    pending: bool = True
    """Its text may yet come."""
    silent: bool = False
    """The upstream committed it though nobody spoke."""
    heard: dict[int, str] = {}
    """Interim transcript by content index."""


class Reason(enum.Enum):
    """Why the relay asks for a response; the metadata of the response.create carries it."""

    GREETING = "greeting"
    """`agent.greeting` is to be spoken."""
    INJECT_AGENT = "inject"
    """InjectAgentMessage is to be spoken."""
    INJECT_USER = "inject_user"
    """InjectUserMessage is to be answered."""
    ROUND_DONE = "round_done"
    """All calls of a response were answered."""
    FORCE_END_TURN = "force_end_turn"
    """The client ended the user's turn."""
    TURN = "turn"
    """A turn whose response failed or was lost, or that the upstream left unanswered."""
    CONTINUE = "continue"
    """An answer that a lost upstream cut off is to go on."""


class Want(msgspec.Struct, kw_only=True):
    """A response that the relay wants, waiting its turn or asked for."""

    reason: Reason
    serial: int
    since: float
    text: str = ""
    """To be said word for word (GREETING, INJECT_AGENT)."""
    waits_for: list[str] = []
    """Items to be acknowledged first."""
    waits_for_commit: bool = False
    interrupts: bool = False
    """Speaks also while the user does."""
    tries: int = 0
    """How often its response failed."""
    rebuilt: bool = False
    """The upstream was rebuilt because it failed each time."""
    taken_along: bool = False
    """It was asked for on an upstream that was lost."""
    asked_again: bool = False
    """Sent a second time, after the first had no answer."""
    with_input: bool = True
    """Send `input: []`; some servers refuse it."""
    after_loss: bool = False
    """It waits for another upstream, which is told all that was said before it is asked."""
    dropped: bool = False
    """No longer wanted, but already asked for: cancelled as soon as it begins."""
    event_id: str = ""

    @property
    def verbatim(self) -> bool:
        """The response says `text` and nothing else; it is no part of the turn."""
        return self.reason in (Reason.GREETING, Reason.INJECT_AGENT)


class AgentItem(msgspec.Struct, kw_only=True):
    """One output item of a response."""

    index: int
    is_message: bool = True
    partial: str = ""
    """The transcript or text so far."""
    text: str | None = None
    """The whole of it, once known."""
    announced: bool = False
    """response.output_item.added named it, so its done will follow."""
    done: bool = False
    said: bool = False
    """Its ConversationText was posted (or held)."""


class Response(msgspec.Struct, kw_only=True):
    """The live response."""

    id: str
    want: Want | None
    """None: the upstream began it by itself."""
    since: float
    """What its latencies are counted from (3.4.7)."""
    items: dict[str, AgentItem] = {}
    interrupted: bool = False
    began: bool = False
    """A first delta has come."""
    first_token_at: float | None = None
    first_text_at: float | None = None
    first_tool_at: float | None = None
    first_audio_at: float | None = None
    voice_item: str | None = None
    """The item whose audio is flowing; None between items."""
    carry: bytes = b""
    """Half a sample that waits for its other half."""
    created_at: float = 0.0
    after_commit: int = 0
    """How many turns had been committed when it began."""

    @property
    def verbatim(self) -> bool:
        return self.want is not None and self.want.verbatim


class Call(msgspec.Struct, kw_only=True):
    """One function call."""

    id: str
    name: str
    arguments: str
    endpoint: Endpoint | None = None
    """Where the relay calls it; None: the client is asked."""
    announced: bool = False
    """The client was told of it."""
    expires_at: float = math.inf
    output: str | None = None
    output_item: str = ""
    acknowledged: bool = False
    """The upstream has the output."""
    cancelled: bool = False
    resend: bool = False
    """Its output was refused while the calling response ran: send it again after that."""
    resent: bool = False

    @property
    def server_side(self) -> bool:
        return self.endpoint is not None


class Round(msgspec.Struct, kw_only=True):
    """The calls of one response, until all are answered (4.5)."""

    response: str | None
    """None: one of an upstream that is gone."""
    calls: dict[str, Call] = {}
    final: bool = False
    """The response is over: no more calls will come."""
    refused: bool = False
    """There were more of them than may be open."""


class Measured(msgspec.Struct, kw_only=True):
    """What was measured of the turn, in seconds, for its LatencyReport."""

    item: str = ""
    """The user's spoken item that the turn answers."""
    stt: float | None = None
    token: float | None = None
    text: float | None = None
    tool: float | None = None
    tts: float | None = None
    total: float | None = None


class Updating(msgspec.Struct, kw_only=True):
    """A session.update on its way, and what it will have changed."""

    message: Update
    change: Change
    event_id: str = ""


class Kept(msgspec.Struct, kw_only=True):
    """The conversation, without what the daemon was configured with. Grouped by the machine that
    owns the fields."""

    admission: Admission
    """The connection it is held on."""

    # Time
    origin: float = 0.0
    now: float = 0.0
    began_wall: float = 0.0
    """Unix time of the first connection."""
    deadlines: dict[Timer, float] = {}
    serial: int = 0
    closed: bool = False

    # phases
    dialect: Dialect = Dialect.DEEPGRAM
    plan: Plan | None = None
    early: list[voice_agent.ClientMessage | bytes] = []
    """Frames before Settings; audio still in the client's format."""
    settings_applied: bool = False
    """The client was told so."""
    settings_pending: bool = False
    """It has sent Settings again, on a later connection, and was not told so there."""
    returned: bool = False
    """It is back on another connection, and what it has missed waits for a live leg."""
    warnings: tuple[voice_agent.Warning, ...] = ()
    """For the client, as soon as it was told that."""
    append_bytes: int = 0
    """Audio of at least so many bytes needs no gathering."""
    preroll_bytes: int = 0
    """So much of the user's audio is kept from before they are known to speak; where only the
    client knows, all that may be."""
    held_bytes: int = 0
    """So much of it is kept at most."""
    held: list[voice_agent.ClientMessage | bytes] = []
    """Frames while no leg is live; audio in the upstream's format."""
    client_active_at: float = 0.0
    legs: int = 0
    refusing: tuple[int, ...] = ()
    """Upstreams that have refused for good."""
    attempts: int = 0
    """Upstream legs tried since one was live."""
    trouble: str = ""
    """Why the last attempt failed."""
    live: Leg | None = None
    next: Leg | None = None
    leaving: Leaving | None = None

    # turns
    turn: TurnPhase = TurnPhase.IDLE
    turn_item: str = ""
    turn_since: float | None = None
    """When the user had finished: what a reply's latencies are counted from."""
    user_items: dict[str, UserItem] = {}
    commits: int = 0
    """How many turns were committed."""
    answered_commits: int = 0
    """How many of them some response has followed."""
    cancelled_for_speech: bool = False
    kept: list[tuple[float, bytes]] = []
    """The last of the user's audio and when it came, while it is in no committed turn."""
    kept_bytes: int = 0
    said_until: float = -math.inf
    """Until then some of that may be speech that a new upstream has been told and has not noticed
    yet."""
    unwritten: dict[str, bytes] = {}
    """Audio of committed turns of which nobody has written down what was said in them; of the
    newest, no more in all than may be `kept`."""
    gathered: bytes = b""
    """Audio shorter than an append."""
    told_bytes: int = 0
    """Audio that the live upstream was told..."""
    committed_bytes: int = 0
    """...and what of it is in a committed turn, or came before one..."""
    commit_bytes: int | None = None
    """...or will be, when a commit is confirmed that the relay has asked for."""

    # responses
    wants: list[Want] = []
    requested: Want | None = None
    retrying: Want | None = None
    unacknowledged: tuple[realtime.Item, ...] = ()
    """Items of ours that the upstream has not shown, oldest first."""
    response: Response | None = None
    ended: tuple[str, ...] = ()
    """Ids of the last responses that ended..."""
    past_items: tuple[str, ...] = ()
    """...and of their items."""
    backlog_ms: float = 0.0
    """Agent audio that was posted and is not yet written, as the shell last said."""
    playback: Playback = msgspec.field(default_factory=Playback)
    measured: Measured = msgspec.field(default_factory=Measured)
    bad_audio: int = 0
    """Unreadable audio deltas in a row."""
    bad_frames: int = 0
    """Unreadable upstream frames in a row."""

    # rounds
    rounds: tuple[Round, ...] = ()
    past_calls: tuple[str, ...] = ()
    round_closed_at: float = 0.0

    # history
    log: list[realtime.Item] = []
    """What was said and done, oldest first."""
    revision: int = 0
    """Rises when something has happened that a crash should not undo."""
    user_turns: int = 0
    """How many of it were the user's."""
    asked_again: int = 0
    """As many as there were when the last of them was asked again after a loss; once is enough."""

    # text
    awaited: tuple[str, ...] = ()
    """User items whose text should come before the assistant's."""
    lane: tuple[voice_agent.ServerMessage, ...] = ()
    """Held messages, in order."""

    # updates
    updates: tuple[Update, ...] = ()
    updating: Updating | None = None
    changing: Updating | None = None
    """A change that waits for a new leg."""

    # usage
    usage: Usage = msgspec.field(default_factory=Usage)

    # faults
    poisoned: bool = False
    """The live leg is of no use any more."""
    unknown: dict[str, int] = {}
    """Unknown upstream event types, counted."""


class State(Kept, kw_only=True):
    """The conversation, what it is held by, and the way out."""

    options: SessionOptions
    mapping: MappingOptions
    upstreams: tuple[UpstreamTraits, ...] = (UpstreamTraits(),)
    """What is known of the configured upstreams, in order of preference."""
    out: list[Action] = []
    """Actions of the call under way; empty between calls."""

    # -- derived ----------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        if self.closed:
            return Phase.CLOSED
        if self.plan is None:
            return Phase.OPEN
        return Phase.CONNECTING if self.live is None else Phase.READY

    @property
    def component(self) -> bool:
        return self.dialect is Dialect.COMPONENT

    @property
    def applied(self) -> Plan:
        """The plan, where there must be one."""
        assert self.plan is not None
        return self.plan

    @property
    def upstream_output(self) -> Format:
        return self.applied.formats.upstream_output

    @property
    def upstream_interrupts(self) -> bool:
        """The upstream itself cancels its response when the user speaks."""
        detection = self.applied.listen.turn_detection
        return detection is not None and detection.interrupt_response is not False

    @property
    def agent_audible(self) -> bool:
        """Audio of a live response was sent, or what was sent is still playing (3.3.1)."""
        speaking = self.response is not None and self.response.first_audio_at is not None
        return speaking or not self.playback.finished(self.now)

    # -- the way out ------------------------------------------------------------------------------

    def act(self, action: Action) -> None:
        """Have the shell do something; nothing comes after a `Close`."""
        if not self.closed:
            self.out.append(action)

    def note(
        self,
        level: Literal["debug", "info", "warning"],
        event: str,
        **fields: str | int | float | bool | None,
    ) -> None:
        self.act(Note(level, event, fields))

    def inexact(self, way: str) -> None:
        """The live upstream deviates from the API, and is understood all the same (4.4)."""
        if self.live is not None and way not in self.live.deviations:
            self.live.deviations += (way,)
            self.note("info", "inexact_upstream", leg=self.live.number, way=way)

    def tell(self, message: voice_agent.ServerMessage) -> None:
        """Post a message to the client."""
        self.act(ToClient(bounded(message)))

    def warn(self, code: str, description: str | None) -> None:
        """Post a Warning; before SettingsApplied it waits for that (C-262, L-71)."""
        warning = voice_agent.Warning(code=code, description=description or code)  # C-176
        if not self.settings_applied or self.settings_pending:
            self.warnings += (warning,)
        else:
            self.tell(warning)

    def ask(self, event: realtime.ClientEvent, leg: Leg | None = None) -> None:
        """Post an event to an upstream leg, the live one unless told otherwise."""
        to = leg or self.live
        if to is not None:
            self.act(ToUpstream(to.number, event))

    def append(self, audio: bytes, leg: Leg) -> None:
        """Have audio of the user's appended to an upstream leg."""
        self.usage.input_bytes += len(audio)
        self.act(AudioToUpstream(leg.number, audio))

    def place(self, item: realtime.Item) -> None:
        """Add an item to the upstream's conversation; a refusal names it (`faults`)."""
        self.unacknowledged = (*self.unacknowledged, item)[-UNACKNOWLEDGED:]
        self.ask(realtime.ConversationItemCreate(event_id=item.id or "", item=item))

    def new_id(self, kind: str, leg: Leg | None = None) -> str:
        """An id that names its leg and kind, as `u2_usr_17` (U-20: at most 30 of `[a-z0-9_]`)."""
        of = leg or self.live
        return f"u{of.number if of else 0}_{kind}_{self.number()}"

    def chose(self, an_id: str) -> bool:
        """Whether an id is one of `new_id`'s, be it long ago."""
        return _OURS.fullmatch(an_id) is not None

    def number(self) -> int:
        """The next of the conversation's serial numbers."""
        self.serial += 1
        return self.serial

    def arm(self, timer: Timer, after: float) -> None:
        """Have `timer` fall due `after` seconds from now, whatever it was set to."""
        self.arm_at(timer, self.now + after)

    def arm_at(self, timer: Timer, due: float) -> None:
        """The same, at a time on the session's clock."""
        if not self.closed:
            self.deadlines[timer] = due

    def disarm(self, *timers: Timer) -> None:
        for timer in timers:
            self.deadlines.pop(timer, None)

    def fail(self, code: str, description: str | None, close_code: int) -> None:
        """Say that the session is over, and end it (C-177); held text goes out first."""
        for message in self.lane:
            self.tell(message)
        self.lane = ()
        self.tell(voice_agent.Error(code=code, description=description or code))
        self.close(close_code, code)

    def close(self, code: int, reason: str) -> None:
        self.act(Close(code, reason))
        self.end()

    def end(self) -> None:
        """Nothing happens any more."""
        self.closed = True
        self.live = self.next = self.leaving = None
        self.deadlines.clear()
