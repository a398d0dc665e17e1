"""Settings to the letter: which paths have no effect, the words of refusals, the last value that
is still accepted."""

from typing import Any

import pytest

from relay.settings import Change, MappingOptions, Refusal, TurnOptions
from relay.settings.endpoints import Place, is_listable, is_listed, place
from tests.test_settings import (
    changed,
    listen,
    planned,
    refused,
    sent,
    session,
    think,
    update,
)

conformance = pytest.mark.conformance


def output(**fields: Any) -> dict[str, Any]:
    return {"sessionAudioOutput": fields}


# What has no effect is named in one log line -----------------------------------------------------

WITHOUT_EFFECT: list[tuple[dict[str, Any], str]] = [
    (output(format={"type": "audio/opus"}), "sessionAudioOutput.format"),
    (output(format={"type": "audio/pcm", "rate": 16000}), "sessionAudioOutput.format"),
    (output(voice=7), "sessionAudioOutput.voice"),
    (output(voice=" "), "sessionAudioOutput.voice"),
    (output(speed=2), "sessionAudioOutput.speed"),
    (output(speed=True), "sessionAudioOutput.speed"),
    (output(speed="fast"), "sessionAudioOutput.speed"),
    ({"sessionAudioOutput": "loud"}, "sessionAudioOutput"),
    (listen(model="flux-general-en", eot_timeout_ms=500), "listen.provider.eot_timeout_ms"),
    (think(provider={"type": "anthropic"}), "think.provider.type"),
    (think(provider={"type": "open_ai", "temperature": 1}), "think.provider.temperature"),
    (think(provider={"reasoning_mode": "deep"}), "think.provider.reasoning_mode"),
    (think(functions=[{"name": "f", "defer_until_eot": True}]), "think.functions.defer_until_eot"),
    (think(toolChoice="any"), "think.toolChoice"),
    (think(outputModalities=["video"]), "think.outputModalities"),
    (think(outputModalities="text"), "think.outputModalities"),
    (think(maxOutputTokens=1.5), "think.maxOutputTokens"),
    (think(maxOutputTokens=True), "think.maxOutputTokens"),
    (think(managedPrompt={"id": " "}), "think.managedPrompt"),
    (think(context_length=1000), "think.context_length"),
    ({"context": {"messages": [{"role": "user", "content": " "}]}}, "context.messages"),
    ({"think": [{}, {}]}, "think[1:]"),
    ({"think_live": {}}, "think_live"),
    ({"speak": [{}, {}]}, "speak[1:]"),
]


@pytest.mark.parametrize(("agent", "path"), WITHOUT_EFFECT, ids=lambda value: str(value)[:50])
def test_what_has_no_effect_is_named_by_its_path(agent: dict[str, Any], path: str) -> None:
    assert planned(agent).ignored == (f"agent.{path}",)


@pytest.mark.parametrize(
    "agent",
    [
        {},
        output(format={"type": "audio/pcmu"}, voice="coral", speed=1.5),
        output(format={"type": "audio/pcm", "rate": 24000}, voice={"id": "voice_1"}, speed=0.25),
        think(provider={"type": "open_ai", "reasoning_mode": "none"}),
        think(provider={"type": "open_ai", "reasoning_mode": "low"}),
        think(functions=[{"name": "f"}], toolChoice="auto", outputModalities=["text"]),
        think(maxOutputTokens=1, managedPrompt={"id": "p"}, context_length="max"),
        {"context": {"messages": [{"role": "user", "content": "Hi"}]}},
        {"think": [{}], "speak": [{}]},
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_has_an_effect_is_not(agent: dict[str, Any]) -> None:
    assert planned(agent).ignored == ()


@pytest.mark.parametrize(
    ("provider", "ignored"),
    [
        ({"language": "en", "language_hint": "de"}, True),
        ({"language_hints": ["en", "de"]}, True),
        ({"language_hints": ["en", "de", "fr"]}, True),
        ({"language_hint": "de"}, False),
        ({"language": "en"}, False),
    ],
)
def test_hints_that_a_model_of_one_language_cannot_take_are_named(
    provider: dict[str, Any], ignored: bool
) -> None:
    made = planned(listen(model="whisper-1", **provider))
    assert made.ignored == ("agent.listen.provider.language_hints",) * ignored


# The words of refusals and warnings --------------------------------------------------------------

REFUSALS: list[tuple[Any, Any, dict[str, Any], str, str]] = [
    (
        {},
        {"input": {"encoding": "linear16", "sample_rate": 1}},
        {},
        "INVALID_SETTINGS",
        "audio.input.sample_rate: not supported; usual are 8000 to 48000",
    ),
    (
        think(provider={"model": "gpt-4o-mini"}),
        {},
        {"strict": True},
        "INVALID_SETTINGS",
        "agent.think.provider.model: no Realtime model is configured for it",
    ),
    (
        {"think_live": {}},
        {},
        {"strict": True},
        "UNPARSABLE_CLIENT_MESSAGE",
        "agent.think_live: not supported",
    ),
    ("nobody", {}, {}, "INVALID_AGENT_ID", "agent: no agent with this id is configured"),
]


@pytest.mark.parametrize(("agent", "audio", "flags", "code", "words"), REFUSALS)
def test_a_refusal_names_the_path_and_the_reason(
    agent: Any, audio: Any, flags: dict[str, Any], code: str, words: str
) -> None:
    assert refused(agent, audio, **flags) == Refusal(code, words)


def test_a_warning_names_the_functions_that_the_client_is_asked_for() -> None:
    there = {"url": "https://elsewhere.test/f"}
    functions = [{"name": "f", "endpoint": there}, {"name": "g"}, {"name": "h", "endpoint": there}]
    (warning,) = planned(think(functions=functions)).warnings
    assert warning.code == "FUNCTION_CALL_FAILED"
    assert warning.description == (
        "agent.think.functions: endpoints are not called from here, the client is asked instead:"
        " f, h"
    )


# The last values that are accepted ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("eager", "taken"), [(0.3, True), (0.9, True), (0.29, False), (0.91, False)]
)
def test_the_bounds_of_the_eager_threshold_belong_to_it(eager: float, taken: bool) -> None:
    agent = listen(model="flux-general-en", eager_eot_threshold=eager)
    if taken:
        assert planned(agent).listen.turn_detection is not None
    else:
        assert refused(agent).description.endswith("from 0.3 to 0.9")


def test_only_flux_is_eager() -> None:
    options = MappingOptions(turns=TurnOptions(kind="semantic_vad"))
    made = session(listen(model="nova-3", eager_eot_threshold=0.5), options=options)
    assert made["audio"]["input"]["turn_detection"]["eagerness"] == "auto"


@pytest.mark.parametrize(
    ("length", "tokens"), [(3, None), (4, 1), (7, 1), (8, 2), (10**9, 2_500_000)]
)
def test_a_context_of_less_than_a_token_has_no_effect(length: int, tokens: int | None) -> None:
    made = session(think(context_length=length), options=MappingOptions(retention_ratio=0.5))
    limits = made.get("truncation", {}).get("token_limits", {})
    assert limits.get("post_instructions") == tokens


@pytest.mark.parametrize("mode", ["minimal", "low", "medium", "high"])
def test_every_effort_that_the_api_has_is_passed_on(mode: str) -> None:
    assert session(think(provider={"reasoning_mode": mode}))["reasoning"] == {"effort": mode}


IMAGE = {"type": "input_image"}
FILE = {"type": "input_file"}


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("text", True),
        ({"type": "input_text", "text": "t"}, True),
        ({"type": "input_text", "text": "t", "more": "m"}, False),
        ({"type": "input_text", "text": 1}, False),
        *(({**IMAGE, "detail": detail}, True) for detail in ("low", "high", "auto")),
        ({**IMAGE, "detail": "low", "image_url": "u", "file_id": "f"}, True),
        ({**IMAGE, "detail": "low", "url": "u"}, False),
        ({**IMAGE, "detail": "best"}, False),
        (IMAGE, False),
        (FILE, True),
        ({**FILE, "file_id": "i", "file_data": "d", "file_url": "u", "filename": "n"}, True),
        ({**FILE, "path": "p"}, False),
        ({"type": "input_audio"}, False),
        (["text"], False),
        (None, False),
    ],
)
@conformance("C-054")
def test_a_variable_is_text_or_the_content_that_the_api_takes(value: Any, taken: bool) -> None:
    managed = {"id": "p", "variables": {"v": value}}
    variables = session(think(managedPrompt=managed))["prompt"]["variables"]
    assert variables == ({"v": value} if taken else {})


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("get_Weather-2", "get_Weather-2"),
        ("Get Weather!", "Get_Weather_"),
        ("x" * 65, "x" * 64),
        (None, "unnamed"),
    ],
)
@conformance("C-225")
def test_a_function_of_the_context_gets_a_name_that_the_api_takes(name: Any, becomes: str) -> None:
    call = {"name": name, "arguments": "{}", "response": "r"}
    made = planned({"context": {"messages": [{"function_calls": [call]}]}})
    assert made.context[0].name == becomes


# Updates -----------------------------------------------------------------------------------------

THINKING = {
    "maxOutputTokens": 100,
    "managedPrompt": {"id": "p"},
    "context_length": "max",
    "provider": {"reasoning_mode": "low"},
}


def test_an_update_sends_what_was_not_there_before() -> None:
    made = changed(planned(), update("UpdateThink", think=THINKING))
    body = sent(made.session)
    assert body["max_output_tokens"] == 100
    assert body["prompt"] == {"id": "p"}
    assert body["truncation"] == "auto"
    assert body["reasoning"] == {"effort": "low"}


def test_an_update_does_not_send_what_is_as_before() -> None:
    made = changed(planned({"think": THINKING}), update("UpdateThink", think=THINKING))
    assert set(sent(made.session)) == {"type", "instructions", "tools"}


@pytest.mark.parametrize(
    "message",
    [
        update("UpdateSpeak", speak={"provider": {"voice": "marin"}}),
        update("UpdateListen", listen={"provider": {"type": "deepgram"}}),
    ],
)
def test_an_update_that_changes_nothing_keeps_the_plan(message: Any) -> None:
    before = planned(options=MappingOptions(transcription_model=""))
    options = MappingOptions(transcription_model="")
    assert changed(before, message, options=options) == Change(before, None, [])


@pytest.mark.parametrize(
    "message",
    [
        update("UpdateSpeak", speak={"provider": {"voice": "coral"}}),
        update("UpdateListen", listen={"provider": {"type": "deepgram", "language": "de"}}),
        update("UpdateThink", think={"prompt": "New."}),
        update("UpdatePrompt", prompt="New."),
    ],
)
def test_an_update_without_anything_odd_has_no_warnings(message: Any) -> None:
    assert changed(planned(), message).warnings == []


# URLs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("port", "taken"), [(0, False), (1, True), (65535, True), (65536, False)])
def test_a_port_is_one_that_there_is(port: int, taken: bool) -> None:
    assert is_listable(f"https://fns.test:{port}/") is taken


def test_a_url_is_read_into_its_parts() -> None:
    assert place("HTTPS://FNS.Test/A/b?c=d") == Place("https", "fns.test", 443, ("A", "b"), "c=d")
    assert place("http://fns.test") == Place("http", "fns.test", 80, (), "")


def test_another_scheme_on_the_same_port_is_another_place() -> None:
    assert not is_listed("http://fns.test:443/v1", ["https://fns.test/v1"])


def test_a_capital_letter_is_plain() -> None:
    assert is_listed("https://fns.test/v1/X", ["https://fns.test/v1"])
