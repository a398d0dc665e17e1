"""The words that a client reads where something went wrong, and the lines that the log gets.

The statements' own tests look at codes, types and order; here is what a person finds.
"""

from collections.abc import Callable
from typing import Any

import pytest

from relay import voice_agent
from relay.session.actions import Note, ToClient
from relay.session.facts import Loss
from relay.settings import MappingOptions
from tests.expected import like
from tests.playbook import Playbook
from tests.scenes import (
    MODEL,
    answer,
    answering,
    calls,
    configuring,
    created,
    failure,
    function_call,
    item_done,
    opened,
    ready,
    request,
    response_created,
    response_done,
    says,
    settings,
    speech,
    speech_started,
    transcribed,
    types,
    untranscribed,
    user,
    voice,
    warning,
)

FUNCTIONS = settings(functions=("f",))
SPEAK = {"provider": {"type": "open_ai", "voice": "coral"}}
THINK = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}}
LOST = warning("THINK_REQUEST_FAILED")
EMPTY = like("InjectAgentMessage")
PROMPT = like("UpdatePrompt", prompt="New.")


def spoken(book: Playbook) -> list[str]:
    """The descriptions in what is not listed yet."""
    told: list[Any] = [d.action.message for d in book.unlisted if isinstance(d.action, ToClient)]
    book.unlisted = []
    return [
        m.message if isinstance(m, voice_agent.InjectionRefused) else m.description
        for m in told
        if isinstance(m, voice_agent.InjectionRefused | voice_agent.Warning | voice_agent.Error)
    ]


def asked(**opening: Any) -> Playbook:
    """The user has written something, and the relay has asked for the answer."""
    book = ready(**opening).client(types("Hi.")).to_client(user("Hi."))
    return book.to_upstream("conversation.item.create").acks().to_upstream("response.create")


def calling(**opening: Any) -> Playbook:
    """A call of `f` waits for its answer."""
    book = ready(FUNCTIONS, **opening).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).to_client(request("call_1"))
    return book.upstream(response_done())


def strict_settings() -> Any:
    return settings(think={"provider": {"type": "open_ai", "model": MODEL}})


def endpoint_called() -> Playbook:
    """The relay itself calls `f`."""
    there = "https://fns.test/f"
    given = settings(think={"functions": [{"name": "f", "endpoint": {"url": there}}]})
    book = ready(given, mapping=MappingOptions(function_endpoints=(there,)))
    book.upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1")).calls_endpoint("f")
    return book.to_client("FunctionCallRequest")


def greeting() -> Playbook:
    """The greeting is asked for."""
    book = configuring(settings(greeting="Welcome!")).updated().to_client("SettingsApplied")
    return book.to_upstream("response.create")


def failing(**error: Any) -> Playbook:
    """The live response fails like this."""
    details = {"type": "failed", **({"error": error} if error else {})}
    failed: dict[str, Any] = {"id": "resp_1", "object": "realtime.response"}
    failed |= {"status": "failed", "output": []}
    book = asked().begins("resp_1").to_client("AgentThinking")
    return book.upstream_text(
        {"type": "response.done", "response": {**failed, "status_details": details}}
    )


def unreachable(book: Playbook, times: int) -> Playbook:
    """So many dials fail."""
    for _ in range(times):
        book.passes(2.1) if not book.unlisted else None
        book.unlisted = []
        leg = max(book.legs)
        book.upstream_gone(Loss.UNREACHABLE, reason="nobody there", leg=leg)
    return book


def detailed(**error: Any) -> Any:
    return {"type": "error", "event_id": "e", "error": error}


WORDS: list[tuple[Callable[[], Playbook], list[str]]] = [
    # what the client did
    (lambda: ready().client_too_big(2**21), ["A frame of 2097152 bytes; the limit is 1048576."]),
    (lambda: opened(strict=True).client(types("Hi.")), ["Settings must come first."]),
    (
        lambda: opened(early_messages=1).client(types("1")).client(types("2")),
        ["Settings must come first."],
    ),
    (
        lambda: configuring(held_messages=1).client(types("1")).client(types("2")),
        ["Too many messages before the upstream."],
    ),
    (lambda: ready().client(settings()), ["Settings were applied already."]),
    (lambda: opened().passes(16), ["No Settings came in time."]),
    (lambda: ready().passes(61), ["The client sent nothing for 60 s."]),
    (lambda: ready().client_text('{"type": "Odd"}'), ["Unknown message type 'Odd'."]),
    (
        lambda: ready().client(like("UpdateThink_Live", think_live={})),
        ["UpdateThink_Live has no counterpart upstream."],
    ),
    (
        lambda: ready(strict_settings(), strict=True).client(
            like("UpdateThink_Live", think_live={})
        ),
        ["UpdateThink_Live has no counterpart upstream."],
    ),
    (
        lambda: ready().client(like("InjectAgentMessage", is_dynamic=True)),
        ["Dynamic injection (Think Live) is not supported.", "There is no text to say."],
    ),
    (
        lambda: ready(strict_settings(), strict=True).client(says("Hi.", "shout")),
        ["Unknown behavior of InjectAgentMessage."],
    ),
    (lambda: ready().client_text("[]"), ["Expected `object`, got `array`"]),
    (
        lambda: ready(component=True).client_text('{"type": "InjectUserMessage", "content": 7}'),
        ["Expected `str`, got `int` - at `$.content`"],
    ),
    (lambda: ready().client(EMPTY), ["InjectAgentMessage has no message."]),
    (lambda: ready(component=True).client(EMPTY), ["InjectAgentMessage has no message."]),
    (
        lambda: ready(force_end_turn_strict=True).client("ForceEndTurn"),
        ["ForceEndTurn needs a Flux listen model."],
    ),
    (
        lambda: ready(max_waiting_injects=0).client(types("Hi.")),
        ["Too many user messages wait for their answers."],
    ),
    (lambda: answering().client(says("Now.")), ["The agent is speaking."]),
    (
        lambda: (
            ready().upstream(speech_started()).to_client("UserStartedSpeaking").client(says("Now."))
        ),
        ["The user is speaking."],
    ),
    (
        lambda: asked().client(says("Later.")).upstream(speech_started()),
        ["The user began to speak."],
    ),
    # what became of calls
    (
        lambda: calling(call_timeout_s=5.0).passes(6),
        ["Function f was not answered in time."],
    ),
    (
        lambda: calling(max_call_output_bytes=20).client(answer("call_1", "x" * 21)),
        ["The result of f was too long and is truncated."],
    ),
    (
        lambda: (
            calling()
            .client(answer("call_1"))
            .to_upstream("conversation.item.create", "response.create")
            .refuses("conversation.item.create", message="No, thanks.")
        ),
        ["A function result was refused: No, thanks."],
    ),
    (
        lambda: endpoint_called().endpoint_answers("call_1", "{}", ok=False),
        ["The endpoint of function f failed."],
    ),
    # what the upstream did
    (
        lambda: (
            ready()
            .client(types("Hi."))
            .to_client(user("Hi."))
            .to_upstream("conversation.item.create")
            .refuses("conversation.item.create", message="No, thanks.")
        ),
        ["The message was refused: No, thanks."],
    ),
    (lambda: asked().refuses("response.create", message="No, thanks."), ["No, thanks."]),
    (lambda: greeting().refuses("response.create", message="No, thanks."), ["No, thanks."]),
    (
        lambda: asked().refuses("response.create", "insufficient_quota", message="Pay first."),
        ["Pay first."],
    ),
    (
        lambda: ready().upstream(failure("insufficient_quota", "Pay first.")),
        ["Pay first."],
    ),
    (
        lambda: configuring().upstream(failure("insufficient_quota", "Pay first.")),
        ["Pay first."],
    ),
    (
        lambda: configuring().refuses("session.update", message="Odd.", param="session.voice"),
        ["Odd. (session.voice)"],
    ),
    (lambda: configuring().refuses("session.update", message="Odd."), ["Odd."]),
    (lambda: configuring().refuses("session.update", "odd_thing", message=""), ["odd_thing"]),
    (lambda: ready().upstream(failure("odd_thing", "Odd.")), ["Odd. (odd_thing)"]),
    (lambda: ready(component=True).upstream(failure("odd_thing", "Odd.")), ["Odd."]),
    (lambda: ready().upstream_text(detailed(type="odd_type")), ["odd_type"]),
    (lambda: ready().upstream_text(detailed(message="Odd.")), ["Odd."]),
    (lambda: ready().upstream_text(detailed(code="odd_thing")), ["error (odd_thing)"]),
    (
        lambda: ready().upstream_text(detailed(type="invalid_request_error", param="audio")),
        ["The upstream could not decode the audio."],
    ),
    (lambda: failing(type="odd_type", code="odd_thing", message="Odd."), ["Odd."]),
    (lambda: failing(type="odd_type", code="odd_thing"), ["odd_thing"]),
    (lambda: failing(type="odd_type"), ["odd_type"]),
    (lambda: failing(), ["the response failed"]),
    (
        lambda: (
            greeting().begins("resp_1").upstream(response_done(status="failed", code="odd_thing"))
        ),
        ["odd_thing"],
    ),
    (
        lambda: (
            asked(response_tries=0, rollover=False)
            .begins("resp_1")
            .to_client("AgentThinking")
            .upstream(response_done(status="failed", code="server_error"))
        ),
        ["server_error", "server_error"],
    ),
    (lambda: failing(code="insufficient_quota", message="Pay first."), ["Pay first."]),
    (
        lambda: greeting().begins("resp_1").upstream(response_done()),
        ["The upstream gave no audio for the text."],
    ),
    (
        lambda: (
            asked()
            .begins("resp_1")
            .to_client("AgentThinking")
            .upstream(response_done(status="incomplete", reason="content_filter"))
        ),
        ["The answer was cut by the content filter."],
    ),
    (
        lambda: asked().passes(3).begins("resp_1").to_client("AgentThinking").passes(5.5),
        ["No output for 5 s; still waiting."],
    ),
    # updates
    (
        lambda: ready().client(PROMPT).to_upstream("session.update").passes(11),
        ["the upstream did not answer"],
    ),
    (
        lambda: (
            ready()
            .client(PROMPT)
            .to_upstream("session.update")
            .refuses("session.update", message="No, thanks.")
        ),
        ["No, thanks."],
    ),
    (
        lambda: (
            ready()
            .client(PROMPT)
            .to_upstream("session.update")
            .refuses("session.update", "odd_thing", message="")
        ),
        ["odd_thing"],
    ),
    (
        lambda: (
            ready()
            .client(PROMPT)
            .to_upstream("session.update")
            .refuses("session.update", None, message="")
        ),
        ["the upstream refused it"],
    ),
    (
        lambda: ready(rollover=False).client(like("UpdateThink", think=THINK)),
        ["That needs a new upstream session, and rollover is off."],
    ),
    (
        lambda: unreachable(ready().client(like("UpdateThink", think=THINK)), 3),
        ["No new upstream session: nobody there."],
    ),
    # the upstream comes and goes
    (
        lambda: configuring(upstream_ready_s=2.0).passes(3),
        ["The upstream was not ready within 2 s."],
    ),
    (
        lambda: (
            configuring(upstream_ready_s=2.0)
            .upstream_gone(Loss.CLOSED, code=1013, reason="busy")
            .passes(0.6)
            .dials()
            .passes(2)
        ),
        ["The upstream was not ready within 2 s. Last: busy."],
    ),
    (
        lambda: (
            opened()
            .client(settings())
            .formats()
            .dials()
            .upstream_gone(Loss.REFUSED, status=401, reason="HTTP status 401")
        ),
        ["The upstream refused the connection: HTTP status 401."],
    ),
    (
        lambda: (
            ready()
            .upstream_gone()
            .to_client(LOST)
            .dials()
            .upstream_gone(Loss.REFUSED, status=401, reason="HTTP status 401")
        ),
        ["The upstream refused the connection: HTTP status 401."],
    ),
    (
        lambda: (
            ready(rebuild_attempts=1)
            .upstream_gone()
            .to_client(LOST)
            .dials()
            .upstream_opens()
            .upstream(created())
            .to_upstream("session.update")
            .updated()
            .upstream_gone(Loss.CLOSED)
        ),
        [
            "The connection to the upstream was lost and is rebuilt.",
            "The upstream was not rebuilt: closed.",
        ],
    ),
    (
        lambda: (
            ready()
            .upstream_gone()
            .to_client(LOST)
            .dials()
            .client(like("UpdateThink", think={"functions": [{"name": ""}]}))
            .upstream_opens()
            .upstream(created())
        ),
        ["think.functions[0].name: missing"],
    ),
    (
        lambda: ready().upstream_gone(),
        ["The connection to the upstream was lost and is rebuilt."],
    ),
    (
        lambda: ready(rollover=False).upstream_gone(),
        ["The connection to the upstream was lost."],
    ),
    (
        lambda: unreachable(ready().upstream_gone(), 3),
        ["The upstream was not rebuilt: nobody there."],
    ),
    (
        lambda: ready().upstream(*speech()).to_client("UserStartedSpeaking").upstream_gone(),
        [
            "The connection to the upstream was lost and is rebuilt.",
            "The last turn was lost with the connection.",
        ],
    ),
    # the end
    (
        lambda: ready(rollover=False).upstream(failure("session_expired")),
        ["The session reached its maximum length."],
    ),
    (
        lambda: ready(max_session_s=400.0, client_idle_s=9000.0).passes(101),
        ["The session ends in 5 minutes."],
    ),
    (lambda: ready().going_away(), ["The server is shutting down."]),
]


@pytest.mark.parametrize(("scene", "words"), WORDS, ids=[words[0][:40] for _, words in WORDS])
@pytest.mark.conformance("C-176")
def test_the_client_reads_what_went_wrong(scene: Callable[[], Playbook], words: list[str]) -> None:
    assert spoken(scene()) == words


def gone(leg: int, how: str, **more: Any) -> dict[str, Any]:
    return {"leg": leg, "how": how, "status": None, "code": None, "reason": "", **more}


LINES: list[tuple[Callable[[], Playbook], str, str, dict[str, Any]]] = [
    (
        lambda: opened().client_audio(b'{"type":"Settings","agent":{},"audio":{}}'),
        "info",
        "settings_in_binary_frame",
        {},
    ),
    (
        lambda: opened(early_audio_bytes=10).client_audio(b"x" * 8, b"y" * 8, b"z" * 8),
        "info",
        "held_audio_dropped",
        {"bytes": 16},
    ),
    (
        lambda: opened().client(settings(think={"temperature": 1}, speak=[SPEAK, SPEAK])),
        "info",
        "settings_ignored",
        {"paths": "agent.speak[1:]"},
    ),
    (
        lambda: configuring().upstream(response_created()),
        "debug",
        "early_upstream_event",
        {"type": "response.created"},
    ),
    (lambda: ready().upstream(created()), "warning", "session_created_again", {}),
    (
        lambda: ready().upstream_text('{"type": "response.created"}'),
        "warning",
        "unreadable_upstream_event",
        {"type": "response.created"},
    ),
    (
        lambda: configuring().upstream(failure("odd_thing", kind="odd_type")),
        "warning",
        "upstream_error",
        {"code": "odd_thing", "type": "odd_type"},
    ),
    (
        lambda: ready().upstream(failure("odd_thing", kind="odd_type", of="event_1")),
        "info",
        "upstream_error",
        {"code": "odd_thing", "type": "odd_type", "about": "event_1"},
    ),
    (
        lambda: ready().upstream_text(f'{{"type":"{"o" * 101}"}}'),
        "warning",
        "unknown_upstream_event",
        {"type": "o" * 100, "size": 112},
    ),
    (
        lambda: (
            opened()
            .client(settings())
            .formats()
            .dials()
            .upstream_gone(Loss.REFUSED, status=503, reason="busy")
        ),
        "warning",
        "upstream_attempt_failed",
        gone(1, "refused", status=503, reason="busy"),
    ),
    (
        lambda: configuring().upstream_gone(Loss.CLOSED, code=1013, reason="busy"),
        "warning",
        "upstream_attempt_failed",
        gone(1, "closed", code=1013),
    ),
    (
        lambda: ready().upstream_text({**voice("r", "", b""), "delta": "AQA="}),
        "info",
        "inexact_upstream",
        {"leg": 1, "way": "response_not_created"},
    ),
    (
        lambda: ready().upstream_gone(Loss.CLOSED, code=1013, reason="busy"),
        "warning",
        "upstream_lost",
        {"how": "closed", "code": 1013, "reason": ""},
    ),
    (
        lambda: opened().client(settings()).formats().dials().passes(10.1),
        "warning",
        "upstream_attempt_failed",
        gone(1, "lost", reason="dialling too long"),
    ),
    (
        lambda: ready().upstream(failure("session_expired")),
        "warning",
        "upstream_lost",
        {"how": "lost", "code": None, "reason": "session expired"},
    ),
    (
        lambda: ready().upstream_text("{", "{", "{"),
        "warning",
        "upstream_lost",
        {"how": "lost", "code": None, "reason": "unreadable events"},
    ),
    (
        lambda: (
            asked()
            .upstream_gone()
            .to_client(LOST)
            .dials()
            .upstream_opens()
            .upstream(created())
            .to_upstream("session.update")
            .updated()
        ),
        "info",
        "upstream_switched",
        {"leg": 2, "items": 1},
    ),
    (
        lambda: (
            ready()
            .client(types("Hi."))
            .to_client(user("Hi."))
            .to_upstream("conversation.item.create")
            .passes(11)
        ),
        "warning",
        "item_unacknowledged",
        {"items": 1},
    ),
    (
        lambda: (
            asked()
            .begins("resp_1")
            .to_client("AgentThinking")
            .client(says("Stop.", "interrupt"))
            .audio_dropped()
            .to_upstream("response.cancel")
            .passes(1.1)
        ),
        "warning",
        "cancelled_response_did_not_end",
        {},
    ),
    (
        lambda: ready(upstream_session_s=5.0),
        "warning",
        "upstream_lost",
        {"how": "lost", "code": None, "reason": "session about to end"},
    ),
    (lambda: asked().passes(11), "warning", "response_unanswered", {"reason": "inject_user"}),
    (
        lambda: (
            asked()
            .begins("resp_1")
            .to_client("AgentThinking")
            .upstream(response_done(status="incomplete", reason="max_output_tokens"))
        ),
        "info",
        "response_incomplete",
        {"reason": "max_output_tokens"},
    ),
    (
        lambda: greeting().begins("resp_1").upstream(response_done(status="cancelled")),
        "info",
        "recital_cancelled",
        {"reason": "greeting"},
    ),
    (
        lambda: calling().upstream(
            response_created("resp_2"),
            *item_done("resp_2", {**function_call("call_1"), "id": "item_other"}),
        ),
        "info",
        "call_repeated",
        {"call": "call_1"},
    ),
    (
        lambda: (
            ready(FUNCTIONS)
            .upstream(response_created())
            .to_client("AgentThinking")
            .upstream(calls("resp_1", "call_1")[-3])
        ),
        "info",
        "inexact_upstream",
        {"leg": 1, "way": "call_without_item"},
    ),
    (
        lambda: ready().client(answer("call_x")),
        "info",
        "call_response_dropped",
        {"known": False},
    ),
    (
        lambda: (
            calling()
            .client(answer("call_1"))
            .to_upstream("conversation.item.create", "response.create")
            .client(answer("call_1"))
        ),
        "info",
        "call_response_dropped",
        {"known": False},
    ),
    (
        lambda: (
            ready(FUNCTIONS)
            .upstream(response_created())
            .to_client("AgentThinking")
            .upstream(*calls("resp_1", "call_1", "unknown"))
        ),
        "warning",
        "call_rejected",
        {"call": "call_1", "reason": "there is no such function"},
    ),
    (
        lambda: (
            ready(FUNCTIONS, max_call_arguments_bytes=3)
            .upstream(response_created())
            .to_client("AgentThinking")
            .upstream(*calls("resp_1", "call_1"))
        ),
        "warning",
        "call_rejected",
        {"call": "call_1", "reason": "the arguments are too long"},
    ),
    (
        lambda: (
            ready()
            .upstream(*speech(), transcribed("item_u1", "Hi."))
            .to_client("UserStartedSpeaking", user("Hi."))
            .upstream(transcribed("item_u1", "Hi."))
        ),
        "debug",
        "transcription_repeated",
        {"item": "item_u1"},
    ),
    (
        lambda: (
            ready()
            .upstream(*speech())
            .to_client("UserStartedSpeaking")
            .upstream(untranscribed("item_u1"))
        ),
        "info",
        "transcription_failed",
        {"item": "item_u1", "code": "x"},
    ),
    (lambda: ready().client(types(" ")), "info", "empty_inject_ignored", {}),
]


@pytest.mark.parametrize(
    ("scene", "level", "event", "fields"), LINES, ids=[line[2] for line in LINES]
)
def test_the_log_gets_a_line(
    scene: Callable[[], Playbook], level: str, event: str, fields: dict[str, Any]
) -> None:
    book = scene()
    book.unlisted = []
    (line, *_) = [note for note in book.logged if note.event == event]
    if event == "unreadable_upstream_event":
        assert line.fields.pop("reason")
    assert line == Note(level, event, fields)  # type: ignore[arg-type]  # a literal, at the table
