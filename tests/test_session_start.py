"""From the first byte to SettingsApplied, and every way in which that fails."""

import re
from typing import Any

import msgspec
import pytest

from relay.session.facts import Loss
from tests.expected import ABSENT, like
from tests.playbook import START, Playbook
from tests.scenes import (
    MODEL,
    answer,
    assistant,
    configuring,
    created,
    error,
    failure,
    opened,
    pcm,
    ready,
    settings,
    speech_started,
    speech_stopped,
    types,
    user,
    warning,
)

PAUSES = (0.5, 1, 2, 2, 2, 2, 2, 2)
"""Between the attempts that fit into 15 s."""


# Welcome and Settings.


@pytest.mark.conformance("C-015", "C-017")
def test_welcome_comes_at_once_and_waits_for_no_upstream() -> None:
    opened().nothing().passes(1).nothing()


@pytest.mark.conformance("C-018", "C-019", "C-020", "C-042", "C-044")
def test_settings_dial_and_one_session_update_follows_session_created() -> None:
    (
        opened()
        .client(settings())
        .formats(client_input={"encoding": "linear16", "rate": 24000})
        .dials(model=MODEL)
        .upstream_opens()
        .passes(1)
        .nothing()
        .upstream(created())
        .to_upstream(like("session.update", session={"instructions": "Be brief.", "model": ABSENT}))
        .passes(1)
        .nothing()
    )


@pytest.mark.conformance("C-021", "C-081", "C-263")
def test_settings_applied_follows_the_first_session_updated_once_and_at_once() -> None:
    book = configuring().updated().to_client("SettingsApplied")
    assert book.now == START
    book.updated().nothing().passes(10).nothing()


@pytest.mark.conformance("C-022", "C-035", "C-262")
def test_input_waits_for_session_updated_and_then_goes_in_order() -> None:
    (
        configuring()
        .client(types("One."), "KeepAlive")
        .client_audio(pcm(100))
        .client(like("UpdatePrompt", prompt="More."))
        .nothing()
        .updated()
        .to_client("SettingsApplied", user("One."))
        .to_upstream(like("conversation.item.create", item={"role": "user"}))
        .audio_to_upstream(pcm(100))
        .to_upstream("session.update")
    )


@pytest.mark.conformance("C-023")
def test_a_client_that_sends_no_settings_is_closed_after_15_s() -> None:
    (
        opened()
        .passes(14.9)
        .nothing()
        .passes(0.2)
        .to_client(error("CLIENT_MESSAGE_TIMEOUT"))
        .closes(1000, "CLIENT_MESSAGE_TIMEOUT")
    )


@pytest.mark.conformance("C-023")
def test_the_settings_deadline_is_over_once_they_came() -> None:
    ready().passes(16).nothing()


# Reaching the upstream.


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-024")
def test_a_refusal_for_good_is_final(status: int, component: bool) -> None:
    (
        opened(component=component)
        .client(settings())
        .formats()
        .dials()
        .upstream_gone(Loss.REFUSED, status=status, reason="no")
        .to_client(error("FAILED_TO_THINK"))
        .closes(1000, "FAILED_TO_THINK")
    )


@pytest.mark.parametrize(
    ("component", "code"),
    [(False, "FAILED_TO_THINK"), (True, "upstream_closed_before_session_ready")],
)
@pytest.mark.parametrize(
    "loss",
    [
        {"how": Loss.REFUSED, "status": 429},
        {"how": Loss.REFUSED, "status": 503},
        {"how": Loss.UNREACHABLE},
    ],
)
@pytest.mark.conformance("C-024")
def test_other_refusals_are_retried_for_15_s(
    component: bool, code: str, loss: dict[str, Any]
) -> None:
    book = opened(component=component).client(settings()).formats().dials(model=MODEL)
    for pause in PAUSES:
        book.upstream_gone(**loss).nothing().passes(pause).dials(model=MODEL)
    book.upstream_gone(**loss).nothing()
    book.passes(START + 14.9 - book.now).nothing()
    book.passes(0.2).to_client(error(code)).closes(1011, code)


@pytest.mark.conformance("C-024", "C-021")
def test_a_later_attempt_may_succeed() -> None:
    (
        opened()
        .client(settings())
        .formats()
        .dials()
        .client(types("Hi."))
        .upstream_gone(Loss.REFUSED, status=504)
        .passes(0.5)
        .dials()
        .upstream_opens()
        .upstream(created())
        .to_upstream("session.update")
        .updated()
        .to_client("SettingsApplied", user("Hi."))
        .to_upstream("conversation.item.create")
    )


@pytest.mark.conformance("C-236")
def test_an_attempt_that_takes_10_s_is_abandoned_and_its_late_success_ignored() -> None:
    book = opened().client(settings()).formats().dials().passes(9.9).nothing().passes(0.2)
    book.hangs_up(1).passes(2).dials()
    book.upstream_opens(leg=1).hangs_up(1).upstream(created(), leg=1).nothing()
    book.upstream_opens(leg=2).upstream(created(), leg=2).to_upstream("session.update", leg=2)


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-025")
def test_an_upstream_that_closes_before_it_is_ready_is_tried_again(component: bool) -> None:
    book = configuring(component=component)
    for pause in PAUSES:
        book.upstream_gone(Loss.CLOSED, code=1000).nothing().passes(pause)
        book.dials().upstream_opens().upstream(created()).to_upstream("session.update")
    book.upstream_gone(Loss.LOST).nothing().passes(2)
    code = "upstream_closed_before_session_ready" if component else "FAILED_TO_THINK"
    book.to_client(error(code)).closes(1011, code)


@pytest.mark.conformance("C-026")
def test_a_refused_session_update_means_invalid_settings() -> None:
    book = configuring().refuses(
        "session.update", message="Unknown voice.", param="session.audio.output.voice"
    )
    description = book.next_to_client()["description"]
    assert "Unknown voice." in description
    assert "session.audio.output.voice" in description
    book.to_client(error("INVALID_SETTINGS")).closes(1000, "INVALID_SETTINGS")


@pytest.mark.conformance("C-026", "C-178")
def test_another_error_while_configuring_is_only_logged() -> None:
    (
        configuring()
        .upstream(failure("x"), failure(None, kind="server_error"), failure("y", of="event_9"))
        .nothing()
        .updated()
        .to_client("SettingsApplied")
    )


@pytest.mark.parametrize("silent", ["open", "created"])
@pytest.mark.conformance("C-027")
def test_an_upstream_that_never_gets_ready_is_given_up_after_15_s(silent: str) -> None:
    book = opened().client(settings()).formats().dials().upstream_opens()
    if silent == "created":
        book.upstream(created()).to_upstream("session.update")
    book.passes(10).hangs_up(1).passes(1).dials()
    book.upstream_opens().passes(3.9).nothing()
    book.passes(0.2).to_client(error("FAILED_TO_THINK")).closes(1011, "FAILED_TO_THINK")


@pytest.mark.parametrize(
    ("half", "code"), [("output", "FAILED_TO_SPEAK"), ("input", "USER_AUDIO_FORMAT")]
)
@pytest.mark.conformance("C-226")
def test_another_audio_format_than_asked_is_an_error(half: str, code: str) -> None:
    (
        configuring()
        .updated(audio={half: {"format": {"type": "audio/pcmu"}}})
        .to_client(
            like(
                "Error",
                code=code,
                description="The upstream uses another audio format than asked.",
            )
        )
        .closes(1000, code)
    )


@pytest.mark.conformance("C-226")
def test_an_absent_audio_format_is_as_asked() -> None:
    configuring().upstream(like("session.updated", session={"type": "realtime"})).to_client(
        "SettingsApplied"
    )


# Settings again.


@pytest.mark.parametrize("book", [configuring, ready], ids=["configuring", "ready"])
@pytest.mark.conformance("C-028")
def test_second_settings_end_a_deepgram_session(book: Any) -> None:
    (
        book()
        .client(settings())
        .to_client(error("SETTINGS_ALREADY_APPLIED"))
        .closes(1000, "SETTINGS_ALREADY_APPLIED")
    )


@pytest.mark.conformance("C-029")
def test_second_settings_of_the_component_are_acknowledged_and_ignored() -> None:
    ready(component=True).client(settings(prompt="Other.")).to_client("SettingsApplied").passes(1)


# Before Settings.


@pytest.mark.parametrize("frame", [types("Hi."), like("KeepAlive"), b"\1\0"])
@pytest.mark.conformance("C-030")
def test_strict_what_comes_before_settings_ends_the_session(frame: Any) -> None:
    book = opened(strict=True)
    book = book.client_audio(frame) if isinstance(frame, bytes) else book.client(frame)
    code = "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"
    book.to_client(error(code)).closes(1000, code)


@pytest.mark.conformance("C-030", "C-035")
def test_lenient_what_comes_before_settings_waits_in_order() -> None:
    (
        opened()
        .client("KeepAlive", types("One."))
        .client_audio(pcm(100))
        .client(types("Two."), settings())
        .formats()
        .dials()
        .upstream_opens()
        .upstream(created())
        .to_upstream("session.update")
        .updated()
        .to_client("SettingsApplied", user("One."), user("Two."))
        .to_upstream("conversation.item.create")
        .audio_to_upstream(pcm(100))
        .to_upstream("conversation.item.create")
    )


@pytest.mark.conformance("C-030", "C-232")
def test_the_65th_message_before_settings_is_too_many() -> None:
    code = "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"
    book = opened().client(*[types(str(n)) for n in range(64)]).nothing()
    book.client(types("64")).to_client(error(code)).closes(1000, code)


@pytest.mark.conformance("C-036")
def test_before_settings_a_mebibyte_of_audio_is_kept_and_the_oldest_dropped() -> None:
    chunks = [pcm(2000, value) for value in range(1, 13)]
    book = opened(held_audio_s=60.0).client(types("One.")).client_audio(*chunks).client(settings())
    book.formats().dials().upstream_opens().upstream(created()).to_upstream("session.update")
    book.updated().to_client("SettingsApplied", user("One."))
    book.to_upstream("conversation.item.create")
    kept = b"".join(chunks[-(2**20 // len(chunks[0])) :])
    book.audio_to_upstream(kept)


@pytest.mark.conformance("C-031")
def test_settings_may_come_in_a_first_binary_frame() -> None:
    (
        opened()
        .client_audio(msgspec.json.encode(settings()))
        .formats()
        .dials()
        .upstream_opens()
        .upstream(created())
        .to_upstream(like("session.update", session={"instructions": "Be brief."}))
        .updated()
        .to_client("SettingsApplied")
    )


@pytest.mark.conformance("C-032")
def test_after_settings_a_binary_frame_is_audio_even_if_it_is_json() -> None:
    json = b'{"type":"InjectUserMessage","content":"Hi."}'.ljust(1000)
    configuring().client_audio(json).updated().to_client("SettingsApplied").audio_to_upstream(json)
    ready().client_audio(json).audio_to_upstream(json)


@pytest.mark.conformance("C-036")
def test_before_ready_10_s_of_audio_are_kept_and_the_oldest_dropped() -> None:
    seconds = [pcm(1000, value) for value in range(1, 14)]
    (
        configuring()
        .client_audio(*seconds[:2])
        .client(types("One."))
        .client_audio(*seconds[2:])
        .updated()
        .to_client("SettingsApplied", user("One."))
        .to_upstream("conversation.item.create")
        .audio_to_upstream(b"".join(seconds[-10:]))
    )


@pytest.mark.conformance("C-036")
def test_the_bound_on_held_audio_is_an_option() -> None:
    seconds = [pcm(1000, value) for value in range(1, 5)]
    book = (
        configuring(held_audio_s=2.0).client_audio(*seconds).updated().to_client("SettingsApplied")
    )
    book.audio_to_upstream(seconds[2] + seconds[3])


@pytest.mark.conformance("C-035")
def test_256_text_frames_wait_in_order() -> None:
    book = configuring().client(*[like("UpdatePrompt", prompt=f"p{n}") for n in range(256)])
    book.nothing().updated().to_client("SettingsApplied")
    instructions = "Be brief."
    for n in range(256):
        instructions += f"\n\np{n}"
        book.to_upstream(like("session.update", session={"instructions": instructions}))
        book.updated().to_client("PromptUpdated")


@pytest.mark.conformance("C-232")
def test_the_257th_text_frame_is_too_many() -> None:
    (
        configuring()
        .client(*[like("UpdatePrompt", prompt="p")] * 256)
        .nothing()
        .client(like("UpdatePrompt", prompt="p"))
        .to_client(error("INTERNAL_SERVER_ERROR"))
        .closes(1011, "INTERNAL_SERVER_ERROR")
    )


# Frames that are no messages.

NOT_JSON = ["", "{", "hello", '{"type": "Settings"', "{'type': 'KeepAlive'}", "[" * 100_000]
NOT_A_MESSAGE = ["[]", "1", '"Settings"', "null", "true", "{}", '{"type": 1}', '{"type": null}']


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.parametrize("book", [opened, configuring, ready])
@pytest.mark.parametrize("frame", NOT_JSON, ids=range(len(NOT_JSON)))
@pytest.mark.conformance("C-033")
def test_text_that_is_no_json_ends_the_session(book: Any, frame: str, component: bool) -> None:
    (
        book(component=component)
        .client_text(frame)
        .to_client(error("UNPARSABLE_CLIENT_MESSAGE"))
        .closes(1000, "UNPARSABLE_CLIENT_MESSAGE")
    )


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.parametrize("book", [opened, configuring, ready])
@pytest.mark.parametrize("frame", NOT_A_MESSAGE)
@pytest.mark.conformance("C-034")
def test_json_that_is_no_message_ends_the_session(book: Any, frame: str, component: bool) -> None:
    (
        book(component=component)
        .client_text(frame)
        .to_client(error("UNPARSABLE_CLIENT_MESSAGE"))
        .closes(1000, "UNPARSABLE_CLIENT_MESSAGE")
    )


@pytest.mark.parametrize("missing", ["agent", "audio"])
@pytest.mark.parametrize("how", ["absent", "null"])
@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-209", "C-208")
def test_settings_without_agent_or_audio_are_invalid(
    missing: str, how: str, component: bool
) -> None:
    given = {key: value for key, value in settings().items() if key != missing}
    if how == "null":
        given[missing] = None
    (
        opened(component=component)
        .client(given)
        .to_client(error("INVALID_SETTINGS"))
        .closes(1000, "INVALID_SETTINGS")
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"audio": []},
        {"audio": {"input": {"encoding": 1, "sample_rate": 24000}}},
        {"agent": 1},
        {"agent": {"think": "gpt"}},
        {"agent": {"greeting": {}}},
        {"flags": {"history": "yes"}},
    ],
)
@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-209")
def test_wrong_types_in_settings_are_unparsable_in_both_dialects(
    wrong: dict[str, Any], component: bool
) -> None:
    (
        opened(component=component)
        .client({**settings(), **wrong})
        .to_client(error("UNPARSABLE_CLIENT_MESSAGE"))
        .closes(1000, "UNPARSABLE_CLIENT_MESSAGE")
    )


WRONG_TYPES = [
    like("InjectUserMessage", content=1),
    like("InjectUserMessage"),
    like("UpdatePrompt", prompt=["x"]),
    like("UpdatePrompt", prompt=None),
    like("UpdateThink", think="x"),
    like("UpdateSpeak", speak=1),
    like("UpdateListen"),
    like("InjectAgentMessage", message={}),
]


@pytest.mark.parametrize("wrong", WRONG_TYPES, ids=range(len(WRONG_TYPES)))
@pytest.mark.conformance("C-209", "C-208")
def test_wrong_types_in_other_messages_are_unparsable_by_dialect(wrong: Any) -> None:
    (
        ready()
        .client(wrong)
        .to_client(error("UNPARSABLE_CLIENT_MESSAGE"))
        .closes(1000, "UNPARSABLE_CLIENT_MESSAGE")
    )
    (
        ready(component=True)
        .client(wrong)
        .to_client(warning("UNPARSABLE_CLIENT_MESSAGE"))
        .client(types("Hi."))
        .to_client(user("Hi."))
        .to_upstream("conversation.item.create")
    )


@pytest.mark.conformance("C-208")
def test_null_is_absent_at_every_level_of_settings() -> None:
    given = {
        "type": "Settings",
        "tags": None,
        "experimental": None,
        "flags": None,
        "mip_opt_out": None,
        "audio": {"input": None, "output": {"encoding": None, "sample_rate": None}},
        "agent": {
            "language": None,
            "context": {"messages": None},
            "greeting": None,
            "listen": {"provider": None},
            "think": {
                "provider": {"type": "open_ai", "model": None},
                "prompt": "P",
                "functions": None,
            },
            "speak": {"provider": {"type": "deepgram", "model": None, "speed": None}},
        },
    }
    configuring(given).updated().to_client("SettingsApplied")


@pytest.mark.conformance("C-208")
def test_null_is_absent_in_other_messages() -> None:
    (
        ready()
        .client(like("InjectAgentMessage", message=None, content="Hi.", behavior=None))
        .to_upstream("response.create")
        .client({**answer("call_9"), "output": None, "result": None, "error": None, "id": None})
        .client(like("UpdateSpeak", speak={"provider": {"type": "deepgram", "speed": None}}))
        .to_client("SpeakUpdated")
    )


@pytest.mark.parametrize(
    "given",
    [
        settings(think={"provider": {"type": "anthropic", "model": "claude-4"}}),
        {**settings(), "agent": {"think": [{"provider": {"type": "open_ai", "model": "gpt-4o"}}]}},
        settings(speak=[{"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}}]),
        settings(listen={"provider": {"type": "deepgram", "model": "flux-general-en"}}),
        settings(
            listen={"provider": {"type": "deepgram", "model": "nova-3", "language_hint": "en"}}
        ),
        settings(
            audio={
                "input": {"encoding": "linear16", "sample_rate": 24000},
                "output": {"encoding": "linear16", "sample_rate": 24000, "container": "wav"},
            }
        ),
        settings(audio={"input": {"encoding": "mulaw", "sample_rate": 8000}}),
        {**settings(), "experimental": True, "mip_opt_out": True},
        dict(reversed(list(settings().items()))),
        {**settings(), "agent": {}},
    ],
)
@pytest.mark.conformance("C-264")
def test_settings_as_found_in_the_wild_are_accepted(given: Any) -> None:
    configuring(given).updated().to_client("SettingsApplied")


@pytest.mark.conformance("C-045", "C-210", "C-262")
def test_warnings_about_settings_follow_settings_applied() -> None:
    (
        configuring(settings(think={"prompt": "x" * 25_001}))
        .nothing()
        .updated()
        .to_client("SettingsApplied", warning("PROMPT_TOO_LONG"))
    )


@pytest.mark.conformance("C-210", "C-212")
def test_warnings_precede_what_the_greeting_brings() -> None:
    (
        configuring(
            settings(think={"prompt": "x" * 25_001}, greeting="Hello!"), greeting_mode="text"
        )
        .updated()
        .to_client("SettingsApplied", warning("PROMPT_TOO_LONG"), assistant("Hello!"))
        .to_upstream("conversation.item.create")
    )


@pytest.mark.parametrize(
    "agent",
    [
        {"idleTimeoutMs": 10_000},
        {"sessionAudioOutput": {"speed": 1.1}},
        {"think": {"toolChoice": "auto"}},
        {"think": {"maxOutputTokens": 100}},
    ],
)
def test_settings_of_the_component_make_the_client_one(agent: dict[str, Any]) -> None:
    book = configuring(settings(**agent)).updated().to_client("SettingsApplied")
    book.component = True
    book.upstream(speech_started(), speech_stopped())
    book.to_client("UserStartedSpeaking", "UtteranceEnd")


# Context.

CONTEXT = {
    "messages": [
        {"type": "History", "role": "user", "content": "Hi."},
        {"type": "History", "role": "assistant", "content": "Hello."},
        {
            "type": "History",
            "function_calls": [
                {
                    "id": "c1",
                    "name": "get weather!",
                    "client_side": True,
                    "arguments": "{}",
                    "response": "rain",
                }
            ],
        },
    ]
}


def item(**fields: Any) -> Any:
    return like("conversation.item.create", item=fields)


@pytest.mark.conformance("C-037", "C-038", "C-225")
def test_context_becomes_items_in_order_before_queued_input() -> None:
    book = configuring(settings(context=CONTEXT)).client(types("Now?")).nothing().updated()
    book.to_upstream(
        item(type="message", role="user", content=[{"type": "input_text", "text": "Hi."}]),
        item(type="message", role="assistant", content=[{"type": "output_text", "text": "Hello."}]),
        item(type="function_call", call_id="c1", arguments="{}"),
        item(type="function_call_output", call_id="c1", output="rain"),
        item(role="user", content=[{"type": "input_text", "text": "Now?"}]),
    ).to_client("SettingsApplied", user("Now?"))
    ids = [event["item"]["id"] for event in book.sent[1][1:]]
    assert len(set(ids)) == 5
    assert all(re.fullmatch("u1_[a-z0-9_]{1,27}", name) for name in ids)
    assert re.fullmatch("[A-Za-z0-9_-]{1,64}", book.sent[1][3]["item"]["name"])


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.conformance("C-039")
def test_echoes_of_the_context_stay_silent(component: bool) -> None:
    book = configuring(settings(context=CONTEXT, history=True), component=component)
    book.updated().to_client("SettingsApplied").to_upstream(*["conversation.item.create"] * 4)
    book.acks().nothing().passes(5).nothing()


@pytest.mark.conformance("C-039", "C-178")
def test_a_refused_context_item_is_left_out() -> None:
    book = configuring(settings(context=CONTEXT)).updated().to_client("SettingsApplied")
    book.to_upstream(*["conversation.item.create"] * 4)
    book.refuses("conversation.item.create").nothing()


@pytest.mark.conformance("C-040")
def test_context_may_go_into_the_instructions() -> None:
    book = configuring(settings(context=CONTEXT), context_mode="instructions")
    instructions = book.last("session.update")["session"]["instructions"]
    assert instructions.startswith("Be brief.")
    assert all(text in instructions for text in ("Hi.", "Hello.", "rain"))
    book.updated().to_client("SettingsApplied").nothing()


@pytest.mark.parametrize(
    "agent", [{"messages": CONTEXT["messages"]}, {"context": CONTEXT["messages"]}]
)
@pytest.mark.conformance("C-037")
def test_older_shapes_of_the_context_are_understood(agent: dict[str, Any]) -> None:
    book = configuring(settings(**agent)).updated().to_client("SettingsApplied")
    book.to_upstream(*["conversation.item.create"] * 4)


# The greeting.


def greeted(**opening: Any) -> Playbook:
    """Ready, with a greeting asked for."""
    return (
        configuring(settings(greeting="Welcome!"), **opening)
        .updated()
        .to_client("SettingsApplied")
        .to_upstream(like("response.create", response={"metadata": {"relay": "greeting"}}))
    )


@pytest.mark.conformance("C-212")
def test_the_greeting_is_asked_for_before_queued_input_is_sent() -> None:
    (
        configuring(settings(greeting="Welcome!"))
        .client(types("Hi."))
        .updated()
        .to_upstream("response.create", "conversation.item.create")
        .to_client("SettingsApplied", user("Hi."))
    )


@pytest.mark.conformance("C-145")
def test_the_component_hears_no_greeting_beside_a_context() -> None:
    (
        configuring(settings(greeting="Welcome!", context=CONTEXT), component=True)
        .updated()
        .to_client("SettingsApplied")
        .to_upstream(*["conversation.item.create"] * 4)
        .passes(1)
        .nothing()
    )


@pytest.mark.conformance("C-145")
def test_deepgram_hears_a_greeting_beside_a_context() -> None:
    (
        configuring(settings(greeting="Welcome!", context=CONTEXT))
        .updated()
        .to_client("SettingsApplied")
        .to_upstream(*["conversation.item.create"] * 4, "response.create")
    )


@pytest.mark.parametrize("mode", ["off", "speak"])
@pytest.mark.conformance("C-146")
def test_without_greeting_nothing_is_said(mode: str) -> None:
    given = settings(greeting="Welcome!") if mode == "off" else settings(greeting="  ")
    ready(given, greeting_mode=mode).passes(5).nothing()
