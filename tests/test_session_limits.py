"""How long a message to the client may get (C-228)."""

from typing import Any

import pytest

from relay import voice_agent
from relay.session.limits import MAX_MESSAGE_BYTES, bounded, fits

conformance = pytest.mark.conformance

MUCH = 700_000


def record(response: str) -> voice_agent.FunctionCallRecord:
    return voice_agent.FunctionCallRecord(
        id="c", name="f", client_side=True, arguments="{}", response=response
    )


def transcript(text: str) -> voice_agent.Transcript:
    return voice_agent.Transcript(
        transcript=text,
        is_final=True,
        speech_final=True,
        start=0.0,
        duration=0.0,
        alternatives=[voice_agent.Alternative(transcript=text, confidence=1.0)],
    )


LONG: list[voice_agent.ServerMessage] = [
    voice_agent.ConversationText(role="user", content="a" * 2 * MUCH),
    voice_agent.ConversationText(role="user", content="\0" * MUCH),
    voice_agent.ConversationText(role="user", content="ü" * MUCH),
    voice_agent.Warning(code="X", description="a" * 2 * MUCH),
    voice_agent.Error(code="X", description="a" * 2 * MUCH),
    voice_agent.History(role="assistant", content="a" * 2 * MUCH),
    voice_agent.History(function_calls=[record("a" * MUCH), record("b" * MUCH)]),
    voice_agent.FunctionCallResponse(id="c", name="f", content="a" * 2 * MUCH),
    transcript("a" * MUCH),
]


def size(message: voice_agent.ServerMessage) -> int:
    return len(voice_agent.encode(message).encode())


@pytest.mark.parametrize("message", LONG, ids=lambda m: type(m).__name__)
@conformance("C-228")
def test_what_is_too_long_for_the_sdks_is_cut_and_no_further(
    message: voice_agent.ServerMessage,
) -> None:
    assert size(message) > MAX_MESSAGE_BYTES
    cut = bounded(message)
    assert type(cut) is type(message)
    assert MAX_MESSAGE_BYTES / 6 < size(cut) <= MAX_MESSAGE_BYTES


@conformance("C-228")
def test_the_longest_text_is_cut_and_the_others_are_whole() -> None:
    message = voice_agent.History(function_calls=[record("a" * MUCH * 2), record("b" * 1000)])
    cut = bounded(message)
    assert isinstance(cut, voice_agent.History)
    assert cut.function_calls is not None
    long, short = cut.function_calls
    assert set(long.response) == {"a"}
    assert short == record("b" * 1000)
    assert (long.id, long.name, long.arguments) == ("c", "f", "{}")


def exactly(size_wanted: int, letter: str) -> voice_agent.ConversationText:
    empty = size(voice_agent.ConversationText(role="user", content=""))
    room = size_wanted - empty
    width = len(letter.encode()) if letter != "\0" else 6
    text = letter * (room // width) + "a" * (room % width)
    return voice_agent.ConversationText(role="user", content=text)


@pytest.mark.parametrize("letter", ["a", "ü", "\0"])
@conformance("C-228")
def test_up_to_the_limit_nothing_is_cut(letter: str) -> None:
    whole = exactly(MAX_MESSAGE_BYTES, letter)
    assert fits(whole)
    assert size(whole) == MAX_MESSAGE_BYTES == 1024 * 1024 - 1
    assert bounded(whole) == whole
    over = exactly(MAX_MESSAGE_BYTES + 1, letter)
    assert not fits(over)
    cut = bounded(over)
    assert isinstance(cut, voice_agent.ConversationText)
    assert over.content.startswith(cut.content)
    assert MAX_MESSAGE_BYTES - 6 <= size(cut) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "message",
    [
        voice_agent.SettingsApplied(),
        voice_agent.Welcome(request_id="a" * 2 * MUCH),
        voice_agent.Warning(code="X", description="Short."),
        voice_agent.History(role="user", content="Short."),
    ],
    ids=lambda m: type(m).__name__,
)
def test_other_messages_are_left_alone(message: Any) -> None:
    assert bounded(message) is message
