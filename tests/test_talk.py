"""test_talk: `relay talk` says its turns in order, knows when the conversation is over, and keeps
time at the microphone. No socket here: see test_talk_end_to_end."""

import io
import math
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
import trio

from relay import voice_agent
from relay.audio.formats import PCM24K, Encoding, Format
from relay.dialogue import (
    ANSWER_S,
    QUIET_S,
    SETTLE_S,
    Call,
    Dialogue,
    Microphone,
    OpenMicrophone,
    Over,
    Print,
    Send,
    Step,
    StopPlayback,
    Tally,
    Voice,
)
from relay.frames import Unknown, Unparsable
from relay.talk import FRAME_MS, KEEP_ALIVE_S, Conversation, Recording, Terminal
from relay.voice_agent import (
    AgentAudioDone,
    AgentStartedSpeaking,
    AgentThinking,
    ConversationText,
    FunctionCall,
    FunctionCallRequest,
    FunctionCallResponse,
    InjectUserMessage,
    LatencyReport,
    SettingsApplied,
    UserStartedSpeaking,
)
from tests.fakes import FakeLeg

SETTINGS = voice_agent.Settings(agent=voice_agent.Agent())
GREETING = voice_agent.Settings(agent=voice_agent.Agent(greeting="Good morning."))
THINKS = AgentThinking(content="")
SPEAKS = AgentStartedSpeaking(total_latency=0.25, ttt_latency=0.2, tts_latency=0.05)
SAYS = ConversationText(role="assistant", content="Noon.")
DONE = AgentAudioDone()
REPORT = LatencyReport(total_latency=0.25)
ANSWER: list[voice_agent.ServerMessage] = [THINKS, SPEAKS, SAYS, DONE]
TIME = FunctionCall(id="1", name="get_time", arguments="{}", client_side=True)
DICE = FunctionCall(id="2", name="roll_dice", arguments="{}", client_side=True)


def typing(*texts: str, settings: voice_agent.Settings = SETTINGS) -> Dialogue:
    return Dialogue(settings=settings, output=PCM24K, texts=list(texts))


def recording() -> Dialogue:
    """A dialogue at time 0 whose microphone is open."""
    dialogue = Dialogue(settings=SETTINGS, output=PCM24K, microphone=Microphone.WAITING)
    dialogue.opened(0)
    assert hears(dialogue, SettingsApplied()) == [OpenMicrophone()]
    return dialogue


def hears(
    dialogue: Dialogue, *messages: voice_agent.ServerMessage | Unknown | Unparsable, now: float = 0
) -> list[Step]:
    """What the dialogue does besides printing when these messages come."""
    return deeds(step for message in messages for step in dialogue.message(message, now))


def deeds(steps: Iterable[Step]) -> list[Step]:
    return [step for step in steps if not isinstance(step, Print)]


def says(text: str) -> Send:
    return Send(InjectUserMessage(content=text))


def test_settings_go_first_and_a_text_waits_until_they_are_applied() -> None:
    dialogue = typing("Hello.")
    assert dialogue.opened(0) == [Send(SETTINGS)]
    assert hears(dialogue, voice_agent.Welcome(request_id="r")) == []
    assert hears(dialogue, SettingsApplied()) == [says("Hello.")]


def test_the_next_text_waits_for_the_whole_answer() -> None:
    dialogue = typing("One.", "Two.")
    assert hears(dialogue, SettingsApplied()) == [says("One.")]
    assert hears(dialogue, *ANSWER) == []
    assert hears(dialogue, REPORT) == [says("Two.")]
    assert hears(dialogue, *ANSWER) == []
    assert hears(dialogue, REPORT) == [Over(0)]


def test_an_answer_without_a_voice_ends_with_its_report() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied())
    assert hears(dialogue, THINKS, SAYS) == []
    assert hears(dialogue, REPORT) == [Over(0)]


def test_without_a_latency_report_a_moment_of_silence_ends_the_answer() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied())
    hears(dialogue, *ANSWER, now=5)
    assert dialogue.next_deadline() == 5 + SETTLE_S
    assert dialogue.deadline_passed(5.5) == []
    assert dialogue.deadline_passed(5 + SETTLE_S) == [Over(0)]


def test_an_answer_that_goes_on_after_a_pause_is_not_over() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied())
    hears(dialogue, *ANSWER)
    hears(dialogue, THINKS, now=0.9)
    assert dialogue.deadline_passed(SETTLE_S) == []


def test_the_greeting_is_heard_before_the_first_text() -> None:
    dialogue = typing("One.", settings=GREETING)
    assert hears(dialogue, SettingsApplied(), SAYS, SPEAKS, DONE) == []
    assert dialogue.deadline_passed(SETTLE_S) == [says("One.")]


def test_a_round_of_two_calls_is_answered_and_the_turn_ends_with_the_answer_that_uses_it() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied())
    assert hears(dialogue, THINKS, SPEAKS, FunctionCallRequest(functions=[TIME])) == [Call(TIME)]
    assert hears(dialogue, FunctionCallRequest(functions=[DICE])) == [Call(DICE)]
    assert hears(dialogue, SAYS, DONE) == []
    assert deeds(dialogue.called(TIME, '{"time": 12}', 1)) == [
        Send(FunctionCallResponse(id="1", name="get_time", content='{"time": 12}'))
    ]
    dialogue.called(DICE, "6", 1)
    assert dialogue.deadline_passed(1 + SETTLE_S) == []
    assert hears(dialogue, REPORT) == []
    assert hears(dialogue, *ANSWER) == []
    assert hears(dialogue, REPORT) == [Over(0)]
    assert dialogue.tally.calls == 2


def test_a_call_that_the_relay_answers_itself_is_left_to_it() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied())
    theirs = FunctionCall(id="3", name="look_up", arguments="{}", client_side=False)
    assert hears(dialogue, FunctionCallRequest(functions=[theirs])) == []


def test_an_error_is_printed_with_its_code_and_ends_with_status_1() -> None:
    steps = typing().message(voice_agent.Error(code="FAILED_TO_THINK", description="No."), 0)
    assert steps == [Print(Voice.ERROR, "FAILED_TO_THINK: No."), Over(1)]


def test_a_relay_that_goes_away_is_an_error() -> None:
    assert typing().gone(1011, "why") == [
        Print(Voice.ERROR, "the relay closes with 1011 why"),
        Over(1),
    ]
    assert typing().gone(None, "") == [Print(Voice.ERROR, "the connection is lost"), Over(1)]


def test_a_relay_that_goes_away_after_the_end_is_none() -> None:
    dialogue = typing()
    assert hears(dialogue, SettingsApplied()) == [Over(0)]
    assert dialogue.gone(1000, "") == []


@pytest.mark.parametrize("heard", [[], [SettingsApplied()], [SettingsApplied(), THINKS, SPEAKS]])
def test_an_answer_that_never_comes_is_an_error(heard: list[voice_agent.ServerMessage]) -> None:
    dialogue = typing("One.")
    dialogue.opened(0)
    hears(dialogue, *heard)
    assert dialogue.deadline_passed(ANSWER_S - 1) == []
    assert dialogue.deadline_passed(ANSWER_S)[-1] == Over(1)


def test_warnings_do_not_keep_an_answer_alive() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied(), THINKS)
    slow = voice_agent.Warning(code="SLOW_THINK_REQUEST", description="No output for 5 s.")
    assert hears(dialogue, slow, now=ANSWER_S - 1) == []
    assert dialogue.deadline_passed(ANSWER_S)[-1] == Over(1)


def test_audio_that_keeps_coming_keeps_the_answer_alive() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied(), THINKS, SPEAKS)
    dialogue.audio(960, ANSWER_S - 1)
    assert dialogue.deadline_passed(ANSWER_S) == []


def test_a_spoken_turn_over_the_agents_voice_is_a_barge_in_and_stops_what_is_not_heard() -> None:
    dialogue = recording()
    hears(dialogue, *ANSWER, REPORT, now=10)
    dialogue.audio(PCM24K.nbytes(2000), 10)
    assert hears(dialogue, UserStartedSpeaking(), now=10.5) == [StopPlayback(1500.0)]
    assert (dialogue.tally.turns, dialogue.tally.barge_ins) == (1, 1)


def test_a_spoken_turn_after_the_agents_voice_is_none() -> None:
    dialogue = recording()
    hears(dialogue, *ANSWER, REPORT, now=10)
    dialogue.audio(PCM24K.nbytes(2000), 10)
    assert hears(dialogue, UserStartedSpeaking(), now=12.5) == []
    assert (dialogue.tally.turns, dialogue.tally.barge_ins) == (1, 0)


def test_a_recording_is_over_when_it_has_been_played_and_all_is_quiet() -> None:
    dialogue = recording()
    assert dialogue.next_deadline() == math.inf
    dialogue.recording_over(20)
    hears(dialogue, UserStartedSpeaking(), now=21)
    assert dialogue.deadline_passed(20 + QUIET_S) == []
    hears(dialogue, *ANSWER, now=22)
    hears(dialogue, REPORT, now=23)
    assert dialogue.deadline_passed(22 + QUIET_S) == []
    assert dialogue.deadline_passed(23 + QUIET_S) == [Over(0)]


def test_texts_come_before_the_recording() -> None:
    dialogue = Dialogue(
        settings=SETTINGS, output=PCM24K, texts=["One."], microphone=Microphone.WAITING
    )
    assert hears(dialogue, SettingsApplied()) == [says("One.")]
    assert hears(dialogue, *ANSWER, REPORT) == [OpenMicrophone()]


@pytest.mark.parametrize(
    "message",
    [
        FunctionCallResponse(id="1", name="look_up", content="{}"),
        voice_agent.FunctionCallCancelled(
            functions=[voice_agent.CancelledFunction(id="1", name="get_time")]
        ),
        voice_agent.InjectionRefused(message="user speaking"),
        voice_agent.Warning(code="SLOW_THINK_REQUEST", description="still thinking"),
        AgentThinking(content="hm"),
        voice_agent.CustomFromThinkProvider(content=1),
        Unknown(type="NewInV2", size=20),
        Unparsable(None, "not JSON"),
    ],
)
def test_what_is_rare_is_printed(
    message: voice_agent.ServerMessage | Unknown | Unparsable,
) -> None:
    steps = typing("One.").message(message, 0)
    assert [type(step) for step in steps] == [Print]


@pytest.mark.parametrize(
    "message",
    [
        voice_agent.History(role="user", content="One."),
        voice_agent.PromptUpdated(),
        voice_agent.AgentDone(),
        voice_agent.UtteranceEnd(last_word_end=1.0),
    ],
)
def test_what_repeats_or_acknowledges_is_not(message: voice_agent.ServerMessage) -> None:
    assert typing("One.").message(message, 0) == []


def test_the_summary_counts_and_gives_medians() -> None:
    tally = Tally(turns=2, answers=1, calls=1, waits_s=[0.1, 0.3, 0.2], totals_s=[0.5])
    assert str(tally) == (
        "2 turns, 1 answer, 0 barge-ins, 1 tool call"
        "; median wait for an answer 0.20 s (of 3)"
        "; median latency by the relay's report 0.50 s (of 1)"
    )


def test_the_wait_is_measured_from_the_text_to_the_first_sign_of_its_answer() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied(), now=1)
    hears(dialogue, THINKS, now=1.2)
    hears(dialogue, SPEAKS, now=1.5)
    hears(dialogue, SAYS, now=3)
    assert dialogue.tally.waits_s == [0.5]


def test_nothing_happens_after_the_end() -> None:
    dialogue = typing()
    hears(dialogue, SettingsApplied())
    assert dialogue.message(SAYS, 1) == []
    dialogue.audio(960, 1)
    assert dialogue.next_deadline() == math.inf
    assert dialogue.deadline_passed(100) == []


def test_a_report_while_a_call_is_open_ends_nothing() -> None:
    dialogue = typing("One.")
    hears(dialogue, SettingsApplied(), FunctionCallRequest(functions=[TIME]), REPORT)
    assert hears(dialogue, UserStartedSpeaking(), REPORT) == []


class Held:
    """A conversation over a leg without a socket, in virtual time."""

    def __init__(self, dialogue: Dialogue, recording: Recording | None = None) -> None:
        self.leg = FakeLeg()
        self.screen = io.StringIO()
        self.conversation = Conversation(dialogue, recording, Terminal(self.screen, 0))
        self.status: int | None = None

    async def hold(self) -> None:
        leg: Any = self.leg  # test_bridge holds the fake to the real one
        self.status = await self.conversation.hold(leg)

    def says(self, *messages: voice_agent.ServerMessage) -> None:
        self.leg.says(*map(voice_agent.encode, messages))

    def sent(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(frame) for frame in self.leg.heard if isinstance(frame, str)]


async def test_a_recording_is_played_in_real_time_and_silence_follows_it(
    autojump_clock: trio.abc.Clock,
) -> None:
    mulaw = Format(Encoding.MULAW, 8000)
    recording = Recording(b"\x01" * mulaw.nbytes(1010), mulaw)
    held = Held(
        Dialogue(settings=SETTINGS, output=PCM24K, microphone=Microphone.WAITING), recording
    )
    held.says(SettingsApplied())
    began = trio.current_time()
    await held.hold()
    elapsed_s = trio.current_time() - began
    spoken = [frame for frame in held.leg.heard if isinstance(frame, bytes)]
    assert b"".join(spoken[:51]) == recording.audio
    assert set(spoken[51:]) == {b"\xff" * mulaw.nbytes(FRAME_MS)}
    assert elapsed_s == pytest.approx(51 * FRAME_MS / 1000 + QUIET_S, abs=0.2)
    assert len(spoken) == pytest.approx(elapsed_s / FRAME_MS * 1000, abs=10)
    assert held.status == 0


async def test_a_client_that_only_types_says_that_it_is_alive(
    autojump_clock: trio.abc.Clock,
) -> None:
    held = Held(typing("One."))
    held.says(SettingsApplied())
    await held.hold()
    alive = [message for message in held.sent() if message == {"type": "KeepAlive"}]
    assert len(alive) == ANSWER_S // KEEP_ALIVE_S
    assert held.status == 1


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (FunctionCall(id="1", name="no_such", arguments="{}", client_side=True), "no_such"),
        (FunctionCall(id="1", name="add_numbers", arguments="{}", client_side=True), "first"),
        (FunctionCall(id="1", name="get_time", arguments="{", client_side=True), "DecodeError"),
    ],
)
async def test_what_the_model_got_wrong_it_is_told(
    call: FunctionCall, result: str, autojump_clock: trio.abc.Clock
) -> None:
    held = Held(typing("One."))
    held.says(SettingsApplied(), FunctionCallRequest(functions=[call]), *ANSWER, REPORT)
    await held.hold()
    (answer,) = [m for m in held.sent() if m["type"] == "FunctionCallResponse"]
    assert result in msgspec.json.decode(answer["content"])["error"]
    assert held.status == 0


async def test_it_closes_when_all_is_said(autojump_clock: trio.abc.Clock) -> None:
    held = Held(typing("One."))
    held.says(SettingsApplied(), *ANSWER, REPORT)
    await held.hold()
    assert held.leg.farewell is not None
    assert held.leg.farewell[1] == 1000


async def test_a_relay_that_closes_first_is_an_error(autojump_clock: trio.abc.Clock) -> None:
    held = Held(typing("One."))
    held.leg.leaves(1011, "INTERNAL_SERVER_ERROR")
    await held.hold()
    assert held.status == 1
    assert "the relay closes with 1011 INTERNAL_SERVER_ERROR" in held.screen.getvalue()


async def test_what_the_user_talks_over_is_not_kept(autojump_clock: trio.abc.Clock) -> None:
    recording = Recording(bytes(PCM24K.nbytes(500)), PCM24K)
    held = Held(
        Dialogue(settings=SETTINGS, output=PCM24K, microphone=Microphone.WAITING), recording
    )
    second = b"\x01\x02" * 24000
    held.says(SettingsApplied(), THINKS, SPEAKS)
    held.leg.says(second)
    held.says(SAYS, DONE, REPORT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(held.hold)
        await trio.sleep(0.25)
        held.says(UserStartedSpeaking())
    assert len(held.conversation.heard) == pytest.approx(PCM24K.nbytes(250), abs=PCM24K.nbytes(10))
    assert held.conversation.dialogue.tally.barge_ins == 1
