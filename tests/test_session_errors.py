"""What goes wrong upstream, and how little of it the client hears; and how a session ends."""

from typing import Any, Self, get_args

import msgspec
import pytest

from relay import realtime
from relay.session import Session
from relay.session.facts import Loss
from tests.expected import ANY, Wire, like
from tests.oracle import SERVER_EVENTS
from tests.playbook import Playbook
from tests.scenes import (
    answer,
    answering,
    assistant,
    begins,
    calls,
    configuring,
    created,
    ends,
    error,
    failure,
    message_added,
    message_done,
    opened,
    pcm,
    ready,
    reply,
    response_created,
    response_done,
    says,
    settings,
    speech,
    speech_started,
    transcribed,
    transcribing,
    types,
    user,
    voice,
    warning,
)

HARMLESS = (
    "conversation_already_has_active_response",
    "response_cancel_not_active",
    "input_audio_buffer_commit_empty",
)


def works(book: Playbook) -> Playbook:
    """The conversation goes on: what the user types goes upstream."""
    return book.client(types("Hi.")).to_client(user("Hi.")).to_upstream("conversation.item.create")


# Errors of the upstream.


@pytest.mark.parametrize("code", HARMLESS)
@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-179", "C-178")
def test_harmless_errors_stay_here(code: str, component: bool) -> None:
    works(ready(component=component).upstream(failure(code)).nothing())


@pytest.mark.conformance("C-178", "C-176")
def test_another_error_is_a_warning_that_names_it() -> None:
    book = ready().upstream(failure("odd_thing", "Something odd."))
    assert "odd_thing" in book.next_to_client()["description"]
    works(book.to_client(warning("THINK_REQUEST_FAILED")))


@pytest.mark.conformance("C-178")
def test_the_component_hears_the_upstreams_own_code() -> None:
    works(ready(component=True).upstream(failure("odd_thing")).to_client(warning("odd_thing")))


@pytest.mark.parametrize("kind", ["server_error", "invalid_request_error", "rate_limit_error", ""])
@pytest.mark.conformance("C-180", "C-178", "C-176")
def test_an_error_without_code_goes_by_its_type(kind: str) -> None:
    book = ready().upstream(failure(None, "", kind=kind or "x"))
    book.to_client(warning("THINK_REQUEST_FAILED"))
    works(book)


@pytest.mark.parametrize(
    "detail",
    [{}, {"type": None, "code": None, "message": None}, {"message": "x"}, {"code": "x"}],
)
@pytest.mark.conformance("C-180", "C-176")
def test_an_error_with_hardly_anything_in_it_breaks_nothing(detail: dict[str, Any]) -> None:
    book = ready().upstream_text({"type": "error", "event_id": "e", "error": detail})
    book.to_client("Warning")
    works(book)


@pytest.mark.conformance("C-180", "C-026")
def test_a_refused_session_update_is_known_by_its_id_whatever_its_code() -> None:
    book = configuring().refuses("session.update", None)
    book.to_client(error("INVALID_SETTINGS")).closes(1000)


@pytest.mark.conformance("C-153", "C-179")
def test_a_refused_truncate_retrieve_or_delete_stays_here() -> None:
    works(ready().upstream(failure("item_retrieve_invalid_item_id")).nothing())


@pytest.mark.conformance("C-178")
def test_a_bad_append_is_a_bad_audio_format() -> None:
    book = ready().client_audio(pcm(100)).audio_to_upstream()
    book.upstream(
        like(
            "error",
            error={
                "type": "invalid_request_error",
                "code": "invalid_value",
                "message": "Invalid 'audio'.",
                "param": "audio",
                "event_id": None,
            },
        )
    )
    book.to_client(error("USER_AUDIO_FORMAT")).closes(1000, "USER_AUDIO_FORMAT")


# Unknown and unreadable events.


@pytest.mark.conformance("C-181")
def test_unknown_events_are_ignored_logged_once_and_counted() -> None:
    odd = like("response.output_text.added", secret="the user's words")
    book = ready().upstream_text(odd).notes("unknown_upstream_event", type=odd["type"])
    assert not any("words" in str(line) for line in book.lines if line.side.startswith("log"))
    logged = len(book.logged)
    book.upstream_text(odd, odd, odd).nothing()
    assert len(book.logged) == logged
    assert counted(book) == {odd["type"]: 4}
    book.upstream_text(like("other.event")).notes("unknown_upstream_event", type="other.event")


def counted(book: Playbook) -> dict[str, int]:
    """The unknown events that the session has counted."""
    assert isinstance(book.session, Session)
    return book.session.unknown


KNOWN = sorted(SERVER_EVENTS)


def least(kind: str) -> bytes:
    """The smallest event of a type: what our own structs require and no more."""
    structs = {s.__struct_config__.tag: s for s in get_args(realtime.ServerEvent)}
    empty: dict[str, Any] = {
        "item": {"type": "message"},
        "session": {"type": "realtime"},
        "response": {},
        "error": {},
        "conversation": {},
        "part": {},
        "rate_limits": [],
    }
    required = [f.name for f in msgspec.structs.fields(structs[kind]) if f.required]
    return msgspec.json.encode({"type": kind, **{n: empty.get(n, "") for n in required}})


def test_the_vendor_has_46_server_events() -> None:
    assert len(KNOWN) == 46


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.conformance("C-182")
def test_every_server_event_is_handled_in_its_smallest_form_everywhere(kind: str) -> None:
    """No event raises, is unknown, or ends the session, whenever it comes."""
    for scene in (opened, configuring, ready, answering):
        book: Playbook = scene()
        leg = book.leg() or 1
        event = realtime.decode_server(least(kind))
        assert not isinstance(event, realtime.Unknown | realtime.Unparsable), event
        actions = book.session.upstream_event(leg, event, book.now)
        assert not [a for a in actions if type(a).__name__ == "Close"]
        assert not counted(book)


@pytest.mark.parametrize(
    ("beta", "ga"),
    [
        ("response.audio.delta", "response.output_audio.delta"),
        ("response.audio_transcript.delta", "response.output_audio_transcript.delta"),
        ("response.audio_transcript.done", "response.output_audio_transcript.done"),
        ("response.audio.done", "response.output_audio.done"),
    ],
)
@pytest.mark.conformance("C-183")
def test_beta_names_are_understood(beta: str, ga: str) -> None:
    renamed = [
        {**event, "event_id": "e", "type": beta if event["type"] == ga else event["type"]}
        for event in reply()
    ]
    book = ready().upstream(*speech(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi."))
    book.upstream_text(*renamed).to_client("AgentThinking", "AgentStartedSpeaking")
    book.audio_to_client().to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")


@pytest.mark.conformance("C-183")
def test_beta_text_events_are_understood() -> None:
    of = {"response_id": "resp_1", "item_id": "item_a1", "output_index": 0, "content_index": 0}
    book = ready().upstream(*begins()).to_client("AgentThinking")
    book.upstream_text(
        {"type": "response.text.delta", **of, "delta": "Hel"},
        {"type": "response.text.done", **of, "text": "Hello."},
    ).to_client(assistant("Hello."))


@pytest.mark.parametrize("frame", ["", "{", "[]", '"x"', '{"type": 1}', "\x00", "[" * 100_000])
@pytest.mark.conformance("C-181", "C-191")
def test_an_unreadable_frame_is_ignored_and_three_in_a_row_are_a_loss(frame: str) -> None:
    book = ready(rollover=False).upstream_text(frame, frame).nothing()
    book.updated().nothing().upstream_text(frame, frame).nothing()
    works(book).upstream_text(frame)
    book.hangs_up(1).to_client("Error").closes(1011)


@pytest.mark.conformance("C-224")
def test_a_repeated_response_created_is_ignored() -> None:
    book = answering().upstream(response_created("resp_1")).nothing()
    book.upstream(*ends()).to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")


# Sizes.


@pytest.mark.parametrize("size", [2**20, 3 * 2**20])
@pytest.mark.parametrize("letter", ["x", "ä", '"', "\x01"])
@pytest.mark.conformance("C-228")
def test_no_message_to_the_client_reaches_a_mebibyte(size: int, letter: str) -> None:
    """The playbook checks every message's size."""
    text = letter * (size // len(letter.encode()))
    book = ready(settings(history=True)).upstream(*speech(), transcribed("item_u1", text))
    book.to_client("UserStartedSpeaking", like("ConversationText", role="user"), "History")
    book.upstream(failure("x", text)).to_client("Warning")
    book.client(types(text)).to_client(like("ConversationText", role="user"), "History")
    book.to_upstream("conversation.item.create")


@pytest.mark.conformance("C-228")
def test_what_is_cut_begins_as_it_was() -> None:
    book = ready().upstream(*begins()).to_client("AgentThinking")
    book.upstream(*message_done("resp_1", "item_a1", "abc" * 2**20))
    told = book.next_to_client()["content"]
    book.to_client(assistant(told))
    assert told.startswith("abc" * 1000)


# The end.


SCENES = [opened, configuring, ready, answering]


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("code", [1000, 1001, 1005, 4000])
@pytest.mark.conformance("C-190")
def test_a_client_that_closes_ends_everything_without_commit(scene: Any, code: int) -> None:
    gone(scene().client_closes(code))


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.conformance("C-190", "C-195")
def test_a_lost_client_ends_everything_without_commit(scene: Any) -> None:
    gone(scene().client_lost())


def gone(book: Playbook) -> None:
    """Nothing but the end of the leg, now and later."""
    if book.legs:
        book.hangs_up(1)
    book.passes(8000).nothing()
    assert book.session.next_deadline() == float("inf")


@pytest.mark.parametrize("when", [configuring, ready])
@pytest.mark.conformance("C-195")
def test_after_the_close_nothing_is_left_that_could_fall_due(when: Any) -> None:
    book: Playbook = when().client_text("{").to_client("Error").closes(1000)
    assert book.session.next_deadline() == float("inf")
    book.passes(8000)


@pytest.mark.conformance("C-177")
def test_after_the_close_nothing_happens_any_more() -> None:
    book = answering().client_text("{").to_client("Error").closes(1000)
    book.client(types("Hi.")).client_audio(pcm(100), pcm(1)).upstream(
        voice("resp_1", "item_a1", pcm(10)), *ends(), speech_started("item_u9"), leg=1
    ).nothing()
    book.client_closes(1000).nothing().passes(100).nothing()


@pytest.mark.conformance("C-192", "C-177")
def test_a_daemon_that_goes_away_says_so() -> None:
    book = ready().going_away().to_client(error("SERVER_GOING_AWAY"))
    book.closes(1001, "SERVER_GOING_AWAY")


# The log.


@pytest.mark.conformance("C-197", "C-066")
def test_no_line_of_the_log_holds_what_was_said_or_a_credential() -> None:
    """SECRET stands in every text, argument, header and reason on the way."""
    given = settings(
        context={"messages": [{"type": "History", "role": "user", "content": "SECRET past"}]},
        think={
            "prompt": "SECRET prompt",
            "endpoint": {"url": "https://llm.example.com", "headers": {"authorization": "SECRET"}},
            "functions": [
                {
                    "name": "f",
                    "description": "SECRET",
                    "endpoint": {"url": "https://x.example.com/", "headers": {"key": "SECRET"}},
                }
            ],
        },
        speak={"provider": {"type": "eleven_labs"}, "endpoint": {"headers": {"key": "SECRET"}}},
    )
    book = ready_with(given)
    book.upstream(*speech(), transcribing("item_u1", "SECRET"), transcribed("item_u1", "SECRET"))
    book.upstream(*reply(text="SECRET answer"), *begins("resp_2", "item_a2"))
    book.upstream(*calls("resp_2", "call_1", arguments='{"a": "SECRET"}', index=1))
    book.upstream(*calls("resp_2", "call_2", name="SECRET_f", index=2))
    book.client(answer("call_1", "SECRET"), answer("call_9", "SECRET"), types("SECRET"))
    book.client(says("SECRET"), like("UpdatePrompt", prompt="SECRET"), says("Hi.", "SECRET"))
    book.upstream(failure("odd", "SECRET"), failure(None, "SECRET"))
    book.upstream_text('{"type": "response.done", "response": "SECRET"}', '"SECRET')
    book.upstream_text(like("odd.event", text="SECRET"))
    book.client_audio(b"SECRET" * 1000).upstream(voice("resp_2", "item_a2", b"SECRET" * 1000))
    book.client_text('{"type": "InjectUserMessage", "content": ["SECRET"]}')
    assert len(book.logged) > 5
    assert not [note for note in book.logged if "SECRET" in str(note)]


class Unlisted(Playbook):
    """Whatever it does will do."""

    def all_listed(self) -> Self:
        self.unlisted = []
        return self


def ready_with(given: Wire) -> Playbook:
    book = opened(playbook=Unlisted).client(given).upstream_opens().upstream(created())
    return book.updated()


FAULTS: dict[str, Any] = {
    "settings late": lambda: opened().passes(15.1),
    "not json": lambda: ready().client_text("x"),
    "unknown": lambda: ready().client("Foo"),
    "frame": lambda: ready().client_too_big(2**21),
    "twice": lambda: ready().client(settings()),
    "no agent": lambda: opened().client({"type": "Settings", "audio": {}}),
    "agent id": lambda: opened().client({"type": "Settings", "audio": {}, "agent": "x"}),
    "encoding": lambda: opened().client(settings(audio={"input": {"encoding": "opus"}})),
    "refused": lambda: (
        opened().client(settings()).formats().dials().upstream_gone(Loss.REFUSED, status=401)
    ),
    "settings refused": lambda: configuring().refuses("session.update", None, message=""),
    "format": lambda: configuring().updated(audio={"output": {"format": {"type": "audio/pcmu"}}}),
    "silence": lambda: ready().passes(60.1),
    "quota": lambda: (
        ready()
        .upstream(response_created("r"))
        .to_client("AgentThinking")
        .upstream(response_done("r", "failed", code="insufficient_quota"))
    ),
    "away": lambda: ready().going_away(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.conformance("C-176", "C-177")
def test_every_error_has_code_and_description_and_is_followed_by_a_close(fault: str) -> None:
    book: Playbook = FAULTS[fault]()
    code = book.next_to_client()["code"]
    book.to_client(like("Error", code=code, description=ANY)).closes(ANY, code)
    assert book.closed


# Two sessions.


@pytest.mark.conformance("C-196")
def test_two_interleaved_sessions_do_not_mix() -> None:
    """Each says the same as it does alone."""

    def course(book: Playbook) -> list[Any]:
        return [
            lambda: book.client(types("Hi.")),
            lambda: book.to_client(user("Hi.")).to_upstream("conversation.item.create").acks(),
            lambda: book.to_upstream("response.create").begins("resp_1"),
            lambda: book.to_client("AgentThinking").upstream(*message_added("resp_1", "item_a1")),
            lambda: book.upstream(voice("resp_1", "item_a1", pcm(10)), *ends()),
        ]

    def run(*books: Playbook) -> None:
        for steps in zip(*map(course, books), strict=True):
            for step in steps:
                step()
        for book in books:
            book.to_client("AgentStartedSpeaking").audio_to_client()
            book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")

    alone, left, right = ready(), ready(), ready()
    run(alone)
    run(left, right)
    assert left.sent == right.sent == alone.sent
    assert list(map(str, left.lines)) == list(map(str, alone.lines))
