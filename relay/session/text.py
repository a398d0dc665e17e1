"""What was said, in words: both sides' ConversationText, History, and the order between them.

Transcription is asynchronous, so the assistant's text may be ready before the user's. Then it is
held, and what follows it in the turn waits behind it in one lane; audio is never held (3.4.5).
"""

import math

from relay import realtime, voice_agent
from relay.session import history, limits
from relay.session.actions import word
from relay.session.state import State, Timer, TurnPhase, UserItem

ENDS = (voice_agent.AgentDone, voice_agent.AgentAudioDone, voice_agent.LatencyReport)
"""What is said of a response at its end."""
USER_ITEMS = 64
"""How many spoken user items are remembered; a transcription comes within a few turns."""


def say(s: State, message: voice_agent.ServerMessage) -> None:
    """Post what follows assistant text in its turn: behind held text, if there is any (C-203)."""
    if s.lane:
        s.lane += (message,)
    else:
        s.tell(message)


def assistant_said(s: State, content: str) -> None:
    """Post an assistant text, or hold it while the user's text before it is awaited (C-138)."""
    s.usage.counting().agent_chars += len(content)
    messages: list[voice_agent.ServerMessage] = [
        voice_agent.ConversationText(role="assistant", content=content)
    ]
    if s.applied.history:
        messages.append(voice_agent.History(role="assistant", content=content))  # C-143
    if s.awaited:
        if not s.lane:
            s.arm(Timer.USER_TEXT, s.options.user_text_wait_s)  # C-139
        s.lane += tuple(messages)
    else:
        for message in messages:
            say(s, message)


def user_wrote(s: State, content: str) -> None:
    """An InjectUserMessage is on its way (C-088)."""
    _user_said(s, content, transcript=None)


def await_user_text(s: State) -> None:
    """A response begins: its text comes after that of every turn still being transcribed."""
    s.awaited = tuple(
        item
        for item, user in s.user_items.items()
        if user.pending and user.committed_at is not None
    )


def release(s: State) -> None:
    """Post everything held, in order; nothing is awaited any more."""
    s.awaited = ()
    s.disarm(Timer.USER_TEXT)
    lane, s.lane = s.lane, ()
    for message in lane:
        s.tell(message)


def overtaken(s: State) -> None:
    """The agent begins to speak again: the end of what it said before is not held any longer, or
    it would seem to be the end of this."""
    ends = [n for n, message in enumerate(s.lane) if isinstance(message, ENDS)]
    if ends:
        before, s.lane = s.lane[: ends[-1] + 1], s.lane[ends[-1] + 1 :]
        for message in before:
            s.tell(message)
        if not s.lane:
            s.disarm(Timer.USER_TEXT)


def user_item(s: State, item: str) -> UserItem:
    """The user's spoken item, remembered from now on."""
    if item not in s.user_items:
        s.user_items[item] = UserItem(pending=s.applied.transcribed)
        while len(s.user_items) > USER_ITEMS:
            del s.user_items[next(iter(s.user_items))]
    return s.user_items[item]


def transcribing(s: State, event: realtime.ConversationItemInputAudioTranscriptionDelta) -> None:
    """Interim user text: only the component hears of it (C-123, C-124)."""
    if not s.component:
        return
    user = user_item(s, event.item_id)
    index = event.content_index or 0  # C-219
    heard = user.heard.get(index, "")
    if len(heard) < limits.MAX_MESSAGE_BYTES:  # more could not be told
        user.heard[index] = heard + (event.delta or "")[: limits.MAX_MESSAGE_BYTES]
    s.tell(_transcript(user, user.heard[index], is_final=False, confidence=1.0))


def transcribed(s: State, event: realtime.ConversationItemInputAudioTranscriptionCompleted) -> None:
    """Final user text: sent at once, late or not (C-121, C-218)."""
    known = event.item_id in s.user_items
    user = user_item(s, event.item_id)
    if known and not user.pending:
        s.note("debug", "transcription_repeated", item=word(event.item_id))  # C-224
        return
    model = s.applied.listen.transcription
    if event.usage and model is not None:
        s.usage.transcribed(model.model or "", event.usage)
    if user.committed_at is not None:
        _measured(s, event.item_id, user, round(s.now - user.committed_at, 6))
    s.unwritten.pop(event.item_id, None)
    content = event.transcript.strip()
    if content:
        history.transcribed(s, event.item_id, content)
        logprobs = [entry.logprob for entry in event.logprobs or []]
        confidence = math.exp(sum(logprobs) / len(logprobs)) if logprobs else 1.0
        _user_said(s, content, _transcript(user, content, is_final=True, confidence=confidence))
    _resolved(s, event.item_id, user)


def not_transcribed(
    s: State, event: realtime.ConversationItemInputAudioTranscriptionFailed
) -> None:
    """No text for this item: nothing waits for it (C-125)."""
    s.note("info", "transcription_failed", item=word(event.item_id), code=word(event.error.code))
    _resolved(s, event.item_id, user_item(s, event.item_id))


def not_told(s: State, item: str) -> None:
    """Nobody will tell the text of this item any more."""
    if (user := s.user_items.get(item)) is not None:
        _resolved(s, item, user)


def _measured(s: State, item: str, user: UserItem, stt: float) -> None:
    """Into the report of the turn it belongs to, and of no other, though that be held already."""
    user.stt = stt
    if s.measured.item == item:
        s.measured.stt = stt
        for held in s.lane:
            if isinstance(held, voice_agent.LatencyReport):
                held.stt_latency = stt


def _resolved(s: State, item: str, user: UserItem) -> None:
    user.pending = False
    user.heard = {}
    if item in s.awaited:
        s.awaited = tuple(each for each in s.awaited if each != item)
        if not s.awaited:
            release(s)
    if s.turn is TurnPhase.WAITING and s.turn_item == item and not s.applied.create_response:
        end_turn(s)  # nothing else will come of it (4.3)


def end_turn(s: State) -> None:
    """The user's turn is over: a response follows it, or nothing does."""
    s.turn = TurnPhase.IDLE
    s.turn_item = ""
    s.disarm(Timer.TURN)


def _user_said(s: State, content: str, transcript: voice_agent.Transcript | None) -> None:
    """One order for everybody: text, Transcript, History. The component drops a Transcript only
    right behind an equal text (C-122, L-39)."""
    s.usage.counting().user_chars += len(content)
    s.tell(voice_agent.ConversationText(role="user", content=content))
    if transcript is not None and s.component:
        s.tell(transcript)
    if s.applied.history:
        s.tell(voice_agent.History(role="user", content=content))


def _transcript(
    user: UserItem, content: str, *, is_final: bool, confidence: float
) -> voice_agent.Transcript:
    start = (user.started_ms or 0) / 1000
    known = user.started_ms is not None and user.ended_ms is not None
    return voice_agent.Transcript(
        transcript=content,
        is_final=is_final,
        speech_final=is_final,
        start=start,
        duration=((user.ended_ms or 0) - (user.started_ms or 0)) / 1000 if known else 0.0,
        alternatives=[voice_agent.Alternative(transcript=content, confidence=confidence)],
    )
