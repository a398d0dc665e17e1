"""dialogue: a person's half of a conversation, as `relay talk` holds it.

It knows what to say next, what to print and when the conversation is over. It has no clock, no
socket and no terminal: messages, sizes and the time go in, steps come out, as in `relay.session`.
"""

import enum
import math
import statistics
from typing import TypeAlias, assert_never

import msgspec

from relay import voice_agent
from relay.audio.formats import Format
from relay.frames import Unknown, Unparsable

ANSWER_S = 30.0
"""An answer that does not move for so long is not coming."""
SETTLE_S = 1.0
"""An answer that looks complete is so when nothing more came for so long. Only for servers without
LatencyReport: with it, the end of a turn is known at once."""
QUIET_S = 3.0
"""After the last spoken turn: longer than the silence that ends a turn and a slow first word."""


class Voice(enum.Enum):
    """Who speaks in a printed line."""

    SESSION = "session"
    YOU = "you"
    AGENT = "agent"
    TOOL = "tool"
    TIMING = ""
    WARNING = "warning"
    ERROR = "error"


class Stage(enum.Enum):
    """Where the conversation stands."""

    OPENING = "Settings are sent, SettingsApplied is due."
    FREE = "Nobody owes an answer."
    AWAITING = "The agent owes an answer."
    CALLING = "A function was called; the agent owes the answer that uses its result."
    SPEAKING = "The agent's audio is coming in."
    SETTLING = "The answer looks complete; a LatencyReport or a moment of silence confirms it."
    OVER = "Nothing follows."


class Microphone(enum.Enum):
    """What becomes of `--audio`."""

    NONE = "There is none."
    WAITING = "It opens after the last text turn."
    OPEN = "The recording is being played into it."
    FINISHED = "The recording is over; silence goes on."


class Print(msgspec.Struct, frozen=True):
    voice: Voice
    text: str


class Send(msgspec.Struct, frozen=True):
    message: voice_agent.ClientMessage


class Call(msgspec.Struct, frozen=True):
    """Run a demonstration function and report through `called`."""

    call: voice_agent.FunctionCall


class OpenMicrophone(msgspec.Struct, frozen=True):
    """Start playing the recording, in real time, and silence after it; report its end through
    `recording_over`."""


class StopPlayback(msgspec.Struct, frozen=True):
    """The user interrupts: what was received and not yet heard is thrown away."""

    unheard_ms: float


class Over(msgspec.Struct, frozen=True):
    """The conversation has ended; always the last step."""

    status: int
    """0, or 1 after an error."""


Step: TypeAlias = Print | Send | Call | OpenMicrophone | StopPlayback | Over


class Tally(msgspec.Struct):
    """What the summary counts."""

    turns: int = 0
    """Texts sent, and utterances that the relay heard."""
    answers: int = 0
    """Statements of the agent, the greeting included."""
    barge_ins: int = 0
    """Utterances that cut off an answer."""
    calls: int = 0
    waits_s: list[float] = []
    """From a text to the first sound of its answer, or the first word of a silent one, by our
    clock."""
    totals_s: list[float] = []
    """`total_latency` as the relay reports it."""

    def __str__(self) -> str:
        counts = ", ".join(
            f"{number} {noun}{'' if number == 1 else 's'}"
            for number, noun in (
                (self.turns, "turn"),
                (self.answers, "answer"),
                (self.barge_ins, "barge-in"),
                (self.calls, "tool call"),
            )
        )
        waits = _median("median wait for an answer", self.waits_s)
        totals = _median("median latency by the relay's report", self.totals_s)
        return counts + waits + totals


class Dialogue(msgspec.Struct, kw_only=True):
    """Tell it what happens, in order, and perform the steps of each answer, in order."""

    settings: voice_agent.Settings
    output: Format
    """Of the agent's voice, as the settings ask for it."""
    texts: list[str] = []
    """Turns to type, one after the other."""
    microphone: Microphone = Microphone.NONE
    stage: Stage = Stage.OPENING
    deadline: float = math.inf
    asked_at: float | None = None
    """When the text was sent whose answer has not begun."""
    play_end: float = 0.0
    """When a loudspeaker would be done with what was received."""
    tally: Tally = msgspec.field(default_factory=Tally)

    def opened(self, now: float) -> list[Step]:
        self._enter(Stage.OPENING, now)
        return [Send(self.settings)]

    def message(
        self, message: voice_agent.ServerMessage | Unknown | Unparsable, now: float
    ) -> list[Step]:
        if self.stage is Stage.OVER:
            return []
        if not isinstance(message, voice_agent.Warning):  # it may say that nothing moves
            self._moves(now)
        match message:
            case voice_agent.Welcome(request_id=request_id):
                return [Print(Voice.SESSION, request_id)]
            case voice_agent.SettingsApplied():
                return self._applied(now)
            case voice_agent.ConversationText(role="user", content=text):
                return [Print(Voice.YOU, text)]
            case voice_agent.ConversationText(content=text):
                return self._agent_said(text, now)
            case voice_agent.UserStartedSpeaking():
                return self._interrupts(now)
            case voice_agent.AgentThinking(content=content):
                self._enter(Stage.AWAITING, now)
                return [Print(Voice.AGENT, f"(thinks: {content})")] if content else []
            case voice_agent.AgentStartedSpeaking():
                return self._agent_speaks(message, now)
            case voice_agent.AgentAudioDone():
                if self.stage is Stage.SPEAKING:
                    self._enter(Stage.SETTLING, now)
                return []
            case voice_agent.LatencyReport():
                return [Print(Voice.TIMING, _report(message)), *self._turn_ends(now)]
            case voice_agent.FunctionCallRequest(functions=functions):
                return self._called_upon(functions, now)
            case voice_agent.FunctionCallResponse():
                return [Print(Voice.TOOL, f"{message.name} ran at the relay: {message.content}")]
            case voice_agent.FunctionCallCancelled(functions=calls):
                return [Print(Voice.TOOL, f"{call.name} is no longer wanted") for call in calls]
            case voice_agent.InjectionRefused(message=reason):
                return [Print(Voice.WARNING, reason)]
            case voice_agent.Warning():
                return [Print(Voice.WARNING, f"{message.code}: {message.description}")]
            case voice_agent.Error():
                return self._fails(f"{message.code}: {message.description}")
            case Unknown(type=name):
                return [Print(Voice.WARNING, f"unknown message {name}")]
            case Unparsable(reason=reason):
                return [Print(Voice.WARNING, f"unreadable message: {reason}")]
            case voice_agent.FrustrationDetected() | voice_agent.CustomFromThinkProvider():
                return [Print(Voice.SESSION, type(message).__name__)]
            case (
                voice_agent.History()
                | voice_agent.PromptUpdated()
                | voice_agent.SpeakUpdated()
                | voice_agent.ThinkUpdated()
                | voice_agent.ListenUpdated()
                | voice_agent.ThinkLiveUpdated()
                | voice_agent.AgentDone()
                | voice_agent.Transcript()
                | voice_agent.UtteranceEnd()
            ):
                return []  # repeats what other messages said, or acknowledges what we never ask
            case _:
                assert_never(message)

    def audio(self, nbytes: int, now: float) -> list[Step]:
        """Agent audio came in."""
        self._moves(now)
        self.play_end = max(self.play_end, now) + self.output.ms(nbytes) / 1000
        return []

    def called(self, call: voice_agent.FunctionCall, result: str, now: float) -> list[Step]:
        """A demonstration function has its result, a JSON text."""
        answer = voice_agent.FunctionCallResponse(id=call.id, name=call.name, content=result)
        self._moves(now)
        return [Print(Voice.TOOL, f"{call.name}({call.arguments}) -> {result}"), Send(answer)]

    def recording_over(self, now: float) -> list[Step]:
        self.microphone = Microphone.FINISHED
        if self.stage is Stage.FREE:
            self._enter(Stage.FREE, now)
        return [Print(Voice.SESSION, "the recording is over")]

    def gone(self, code: int | None, reason: str) -> list[Step]:
        """The relay's end of the connection is gone."""
        if self.stage is Stage.OVER:
            return []
        how = "the connection is lost" if code is None else f"the relay closes with {code}"
        return self._fails(f"{how} {reason}".rstrip())

    def next_deadline(self) -> float:
        """When to call `deadline_passed`; infinity when there is nothing to wait for."""
        return self.deadline

    def deadline_passed(self, now: float) -> list[Step]:
        """Harmless when early."""
        if now < self.deadline:
            return []
        match self.stage:
            case Stage.FREE:
                return self._ends(0)
            case Stage.SETTLING:
                return self._turn_ends(now)
            case Stage.OPENING | Stage.AWAITING | Stage.CALLING | Stage.SPEAKING:
                return self._fails(f"no answer within {ANSWER_S:g} s")
            case Stage.OVER:
                return []
            case _:
                assert_never(self.stage)

    def _applied(self, now: float) -> list[Step]:
        agent = self.settings.agent
        if isinstance(agent, voice_agent.Agent) and agent.greeting:
            self._enter(Stage.AWAITING, now)
            return []
        return self._next_turn(now)

    def _agent_said(self, text: str, now: float) -> list[Step]:
        self.tally.answers += 1
        if self.stage is Stage.AWAITING:
            self._enter(Stage.SETTLING, now)  # an answer without a voice, or one that follows
        wait_s = self._waited(now)
        timing = [] if wait_s is None else [Print(Voice.TIMING, f"answers after {wait_s:.2f} s")]
        return [*timing, Print(Voice.AGENT, text)]

    def _agent_speaks(self, message: voice_agent.AgentStartedSpeaking, now: float) -> list[Step]:
        self._enter(Stage.SPEAKING, now)
        self.tally.totals_s.append(message.total_latency)
        wait_s = self._waited(now)
        ours = "" if wait_s is None else f"; after {wait_s:.2f} s by our clock"
        reported = f"speaks after {message.total_latency:.2f} s, says the relay"
        return [Print(Voice.TIMING, reported + ours)]

    def _waited(self, now: float) -> float | None:
        """Since the text that has had no answer until now; None if nothing was asked."""
        if self.asked_at is None:
            return None
        wait_s = now - self.asked_at
        self.asked_at = None
        self.tally.waits_s.append(wait_s)
        return wait_s

    def _interrupts(self, now: float) -> list[Step]:
        """UserStartedSpeaking: a client stops playing and drops what it holds."""
        self.tally.turns += 1
        unheard_ms = max(0.0, self.play_end - now) * 1000
        cut_off = self.stage in (Stage.AWAITING, Stage.SPEAKING) or unheard_ms > 0
        self.play_end = min(self.play_end, now)
        if self.stage is not Stage.CALLING:  # the round stays open while the user speaks
            self._enter(Stage.FREE, now)
        if not cut_off:
            return [Print(Voice.YOU, "(speaks)")]
        self.tally.barge_ins += 1
        return [StopPlayback(unheard_ms), Print(Voice.YOU, "(interrupts)")]

    def _called_upon(self, functions: list[voice_agent.FunctionCall], now: float) -> list[Step]:
        self.tally.calls += len(functions)
        ours = [call for call in functions if call.client_side]
        self._enter(Stage.CALLING, now)
        return [Call(call) for call in ours]

    def _turn_ends(self, now: float) -> list[Step]:
        if self.stage not in (Stage.AWAITING, Stage.SETTLING):
            return []  # a report in the middle of a round of calls ends nothing
        return self._next_turn(now)

    def _next_turn(self, now: float) -> list[Step]:
        if self.texts:
            self.tally.turns += 1
            self.asked_at = now
            self._enter(Stage.AWAITING, now)
            return [Send(voice_agent.InjectUserMessage(content=self.texts.pop(0)))]
        match self.microphone:
            case Microphone.NONE:
                return self._ends(0)
            case Microphone.WAITING:
                self.microphone = Microphone.OPEN
                self._enter(Stage.FREE, now)
                return [OpenMicrophone()]
            case Microphone.OPEN | Microphone.FINISHED:
                self._enter(Stage.FREE, now)
                return []
            case _:
                assert_never(self.microphone)

    def _enter(self, stage: Stage, now: float) -> None:
        self.stage = stage
        self._moves(now)

    def _moves(self, now: float) -> None:
        """Something happened: every deadline counts from the last sign of life."""
        self.deadline = now + self._patience()

    def _patience(self) -> float:
        match self.stage:
            case Stage.FREE:
                return QUIET_S if self.microphone is Microphone.FINISHED else math.inf
            case Stage.SETTLING:
                return SETTLE_S
            case Stage.OPENING | Stage.AWAITING | Stage.CALLING | Stage.SPEAKING:
                return ANSWER_S
            case Stage.OVER:
                return math.inf
            case _:
                assert_never(self.stage)

    def _fails(self, reason: str) -> list[Step]:
        return [Print(Voice.ERROR, reason), *self._ends(1)]

    def _ends(self, status: int) -> list[Step]:
        self.stage = Stage.OVER
        self.deadline = math.inf
        return [Over(status)]


def _report(report: voice_agent.LatencyReport) -> str:
    measured = msgspec.to_builtins(report)
    parts = (
        f"{field.removesuffix('_latency')} {seconds:.2f} s"
        for field, seconds in measured.items()
        if field.endswith("_latency")
    )
    return f"latencies: {', '.join(parts)}"


def _median(what: str, seconds: list[float]) -> str:
    return f"; {what} {statistics.median(seconds):.2f} s (of {len(seconds)})" if seconds else ""
