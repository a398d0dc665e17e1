"""What an upstream complains of or gets wrong, beyond the errors of test_session_errors."""

from typing import Any

import pytest

from tests.expected import ABSENT, like
from tests.playbook import Playbook
from tests.scenes import (
    configuring,
    created,
    error,
    failure,
    ready,
    types,
    user,
    warning,
)

FATAL = ("insufficient_quota", "invalid_api_key", "model_not_found")
PROMPT = {"type": "UpdatePrompt", "prompt": "Be kind."}


@pytest.mark.parametrize("code", FATAL)
@pytest.mark.conformance("C-233")
def test_an_error_that_no_try_will_mend_is_the_end_before_and_after_ready(code: str) -> None:
    for book in (configuring(), ready()):
        book.upstream(failure(code)).to_client(error("FAILED_TO_THINK")).closes(1000)


@pytest.mark.parametrize("about", ["event_1", "u1_odd_7", "u1_usr_7_8"])
@pytest.mark.conformance("C-178")
def test_an_error_about_an_event_that_is_not_ours_is_told(about: str) -> None:
    ready().upstream(failure("odd_thing", of=about)).to_client(warning("THINK_REQUEST_FAILED"))


@pytest.mark.conformance("C-181")
def test_of_unknown_types_a_limited_number_is_logged() -> None:
    book = ready()
    for _ in range(2):
        for n in range(70):
            book.upstream_text({"type": f"odd.{n}"}).nothing()
    logged = [note for note in book.logged if note.event == "unknown_upstream_event"]
    assert [note.fields["type"] for note in logged] == [*(f"odd.{n}" for n in range(64)), "*"]


FORMATS: list[Any] = [
    {"audio": ABSENT},
    {"audio": {"input": ABSENT}},
    {"audio": {"output": ABSENT}},
    {"audio": {"input": {"format": ABSENT}, "output": {"format": ABSENT}}},
]


@pytest.mark.parametrize("shown", FORMATS)
@pytest.mark.conformance("C-226")
def test_a_format_that_the_upstream_does_not_show_is_the_one_asked_for(shown: Any) -> None:
    configuring().updated(**shown).to_client("SettingsApplied")


OTHER = [
    ({"output": {"format": {"type": "audio/pcmu"}}}, "FAILED_TO_SPEAK"),
    ({"output": {"format": {"type": "audio/pcm", "rate": 16000}}}, "FAILED_TO_SPEAK"),
    ({"input": {"format": {"type": "audio/pcmu"}}}, "USER_AUDIO_FORMAT"),
]


def drifted(audio: Any, **opening: Any) -> Playbook:
    """An update is answered with another audio format."""
    book = ready(**opening).client(PROMPT).to_upstream("session.update")
    wire = {"type": "session.updated", "session": {"type": "realtime", "audio": audio}}
    return book.upstream_text(wire)


@pytest.mark.parametrize(("audio", "code"), OTHER)
@pytest.mark.conformance("C-226")
def test_a_format_that_changes_later_is_an_error_where_there_is_no_second_upstream(
    audio: Any, code: str
) -> None:
    said = "The upstream uses another audio format than asked."
    told = like("Error", code=code, description=said)
    drifted(audio, rollover=False).to_client(told).closes(1000, code)


@pytest.mark.parametrize(("audio", "code"), OTHER)
@pytest.mark.conformance("C-226")
def test_a_format_that_changes_later_is_left_for_a_new_upstream(audio: Any, code: str) -> None:
    (
        drifted(audio)
        .to_client(warning("THINK_REQUEST_FAILED"))
        .hangs_up(1)
        .dials()
        .upstream_opens()
        .upstream(created())
        .to_upstream("session.update")
        .updated()
        .to_client("PromptUpdated")
        .client(types("Hi."))
        .to_client(user("Hi."))
        .to_upstream("conversation.item.create")
    )


@pytest.mark.conformance("C-181")
def test_a_type_that_is_no_word_is_not_logged_as_it_came() -> None:
    book = ready().upstream_text({"type": "my secret is 42"}, {"type": "odd.event"})
    book.notes("unknown_upstream_event", type="?")
    book.notes("unknown_upstream_event", type="odd.event")
    book.upstream_text(*({"type": f"odd_{n}"} for n in range(100)))
    book.notes("unknown_upstream_event", type="*")
