"""Settings and updates, one field at a time: what goes up, what is refused, what is left out."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from relay import realtime, voice_agent
from relay.audio.formats import PCM24K, PCMA8K, PCMU8K, Encoding, Format
from relay.session.options import SessionOptions
from relay.settings import (
    Change,
    Dialect,
    Endpoint,
    MappingOptions,
    NoiseReduction,
    Passthrough,
    Plan,
    Refusal,
    Tracing,
    TurnOptions,
    Update,
    change,
    plan,
)
from tests.oracle import check_client_event

OPTIONS = MappingOptions()
SECRET = "sk-credential-of-a-third-party"


def conformance(*numbers: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(*numbers)


def settings(agent: Any = None, audio: Any = None, **others: Any) -> voice_agent.Settings:
    """Settings as they come off the wire; `{}` stands for a missing agent or audio."""
    message = {"type": "Settings", "audio": audio or {}, "agent": agent or {}, **others}
    decoded = voice_agent.decode_client(json.dumps(message))
    assert isinstance(decoded, voice_agent.Settings), decoded
    return decoded


def update(kind: str, **fields: Any) -> Update:
    decoded = voice_agent.decode_client(json.dumps({"type": kind, **fields}))
    assert isinstance(decoded, Update), decoded
    return decoded


def planned(
    agent: Any = None,
    audio: Any = None,
    *,
    options: MappingOptions = OPTIONS,
    dialect: Dialect = Dialect.DEEPGRAM,
    **flags: Any,
) -> Plan:
    made = plan(settings(agent, audio), options, dialect, **flags)
    assert isinstance(made, Plan), made
    return made


def refused(agent: Any = None, audio: Any = None, **flags: Any) -> Refusal:
    made = plan(settings(agent, audio), OPTIONS, Dialect.DEEPGRAM, **flags)
    assert isinstance(made, Refusal)
    return made


def changed(before: Plan, message: Update, **flags: Any) -> Change:
    made = change(before, message, flags.pop("options", OPTIONS), **flags)
    assert isinstance(made, Change), made
    return made


def sent(session: realtime.Session | None) -> dict[str, Any]:
    """The session object as the upstream reads it, which the vendor's types accept."""
    assert session is not None
    frame = realtime.encode(realtime.SessionUpdate(session=session))
    check_client_event(frame)
    body: dict[str, Any] = json.loads(frame)["session"]
    return body


def session(agent: Any = None, audio: Any = None, **flags: Any) -> dict[str, Any]:
    return sent(planned(agent, audio, **flags).session())


def think(**fields: Any) -> dict[str, Any]:
    return {"think": fields}


def listen(**provider: Any) -> dict[str, Any]:
    return {"listen": {"provider": {"type": "deepgram", **provider}}}


def speak(**provider: Any) -> dict[str, Any]:
    return {"speak": {"provider": provider}}


# The whole ---------------------------------------------------------------------------------------


@conformance("C-041", "C-047", "C-056", "C-065")
def test_the_least_settings_ask_for_everything_that_is_ever_needed() -> None:
    assert session() == {
        "type": "realtime",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "gpt-transcribe"},
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                    "create_response": True,
                    "interrupt_response": True,
                },
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
        },
    }


@conformance("C-209")
@pytest.mark.parametrize("missing", ["agent", "audio"])
@pytest.mark.parametrize("null", [True, False])
def test_settings_without_agent_or_audio_are_invalid(missing: str, null: bool) -> None:
    message: dict[str, Any] = {"type": "Settings", "agent": {}, "audio": {}, missing: None}
    if not null:
        del message[missing]
    decoded = voice_agent.decode_client(json.dumps(message))
    assert isinstance(decoded, voice_agent.Settings)
    assert plan(decoded, OPTIONS, Dialect.COMPONENT) == Refusal(
        "INVALID_SETTINGS", f"{missing}: missing"
    )


@conformance("C-208")
def test_null_is_absent_at_every_level() -> None:
    nothing = {
        "language": None,
        "context": {"messages": None},
        "listen": {"provider": {"model": None, "keyterms": None, "eot_threshold": None}},
        "think": {"provider": None, "prompt": None, "functions": None, "toolChoice": None},
        "speak": {"provider": {"speed": None, "voice": None}},
        "greeting": None,
        "sessionAudioOutput": None,
    }
    audio = {"input": {"encoding": None, "sample_rate": None}, "output": None}
    assert planned(nothing, audio) == planned()


@conformance("C-061")
def test_a_string_names_a_configured_agent() -> None:
    agent = voice_agent.Agent(think=voice_agent.Think(prompt="Sell tea."), greeting="Tea?")
    options = MappingOptions(agents={"tea-shop": agent})
    made = plan(settings("tea-shop"), options, Dialect.DEEPGRAM)
    assert isinstance(made, Plan)
    assert sent(made.session())["instructions"] == "Sell tea."
    assert made.greeting == "Tea?"


@conformance("C-061")
def test_an_agent_that_is_not_configured_is_refused_by_its_own_code() -> None:
    assert refused("tea-shop").code == "INVALID_AGENT_ID"


@conformance("C-067")
def test_unknown_keys_have_no_effect() -> None:
    agent = {"think": {"prompt": "Hi", "mood": {"deep": [1]}}, "avatar": "cat"}
    made = plan(settings(agent, {"reverb": 3}, colour="red"), OPTIONS, Dialect.DEEPGRAM)
    assert made == planned(think(prompt="Hi"))


def test_history_is_wanted_unless_the_flag_says_no() -> None:
    wanted = {
        flag: plan(settings(flags=flags), OPTIONS, Dialect.DEEPGRAM)
        for flag, flags in {"absent": None, "empty": {}, "on": {"history": True}}.items()
    }
    assert all(isinstance(made, Plan) and made.history for made in wanted.values())
    off = plan(settings(flags={"history": False}), OPTIONS, Dialect.DEEPGRAM)
    assert isinstance(off, Plan)
    assert not off.history


def test_tags_are_kept_for_the_log_and_not_sent() -> None:
    made = plan(settings(tags=["a", "b"]), OPTIONS, Dialect.DEEPGRAM)
    assert isinstance(made, Plan)
    assert made.tags == ("a", "b")
    assert made.session() == planned().session()


@pytest.mark.parametrize(
    "extension",
    [
        {"idleTimeoutMs": 10000},
        {"sessionAudioOutput": {}},
        think(toolChoice="auto"),
        think(outputModalities=["audio"]),
        {"think": [{"maxOutputTokens": 100}]},
        think(managedPrompt={"id": "p"}),
    ],
)
def test_keys_of_the_component_make_the_dialect_the_components(extension: dict[str, Any]) -> None:
    assert planned(extension).dialect is Dialect.COMPONENT


def test_without_them_the_dialect_is_that_of_the_path() -> None:
    assert planned().dialect is Dialect.DEEPGRAM
    assert planned(dialect=Dialect.COMPONENT).dialect is Dialect.COMPONENT


@conformance("C-057")
def test_the_components_idle_timeout_is_its_own() -> None:
    assert "idle_timeout_ms" not in json.dumps(session({"idleTimeoutMs": 10000}))


def test_the_greeting_is_kept_as_it_is() -> None:
    assert planned({"greeting": " Hello there. "}).greeting == " Hello there. "
    assert planned({"greeting": "  "}).greeting == ""
    assert planned().greeting == ""


def test_only_the_component_drops_its_greeting_beside_a_context() -> None:
    agent = {"greeting": "Hi", "context": {"messages": [{"role": "user", "content": "Me again"}]}}
    assert planned(agent).greeting == "Hi"
    assert planned(agent, dialect=Dialect.COMPONENT).greeting == ""
    empty = {"greeting": "Hi", "context": {"messages": []}}
    assert planned(empty, dialect=Dialect.COMPONENT).greeting == "Hi"


def test_think_live_is_left_out_and_strictly_refused() -> None:
    agent = {"think_live": {"provider": {"type": "deepgram", "version": "v1"}}}
    assert planned(agent).ignored == ("agent.think_live",)
    assert refused(agent, strict=True).code == "UNPARSABLE_CLIENT_MESSAGE"


def test_what_only_the_configuration_decides_is_passed_through() -> None:
    passthrough = Passthrough(
        noise_reduction=NoiseReduction(type="far_field", strength=0.4),
        tracing=Tracing(workflow_name="calls", group_id="g", metadata={"n": 1}),
        logprobs=True,
        parallel_tool_calls=False,
    )
    body = session(options=MappingOptions(passthrough=passthrough))
    assert body["audio"]["input"]["noise_reduction"] == {"type": "far_field", "strength": 0.4}
    assert body["tracing"] == {"workflow_name": "calls", "group_id": "g", "metadata": {"n": 1}}
    assert body["include"] == ["item.input_audio_transcription.logprobs"]
    assert body["parallel_tool_calls"] is False
    auto = session(options=MappingOptions(passthrough=Passthrough(tracing="auto")))
    assert auto["tracing"] == "auto"


def test_parallel_tool_calls_are_for_reasoning_models() -> None:
    options = MappingOptions(
        model="gpt-realtime-1.5", passthrough=Passthrough(parallel_tool_calls=True)
    )
    assert "parallel_tool_calls" not in session(options=options)


# Audio -------------------------------------------------------------------------------------------

PCM = {"type": "audio/pcm", "rate": 24000}


@pytest.mark.parametrize(
    ("client", "heard", "upstream", "name"),
    [
        ({}, PCM24K, PCM24K, PCM),
        ({"encoding": "linear16", "sample_rate": 24000}, PCM24K, PCM24K, PCM),
        (
            {"encoding": "linear16", "sample_rate": 16000},
            Format(Encoding.LINEAR16, 16000),
            PCM24K,
            PCM,
        ),
        (
            {"encoding": "linear32", "sample_rate": 48000},
            Format(Encoding.LINEAR32, 48000),
            PCM24K,
            PCM,
        ),
        ({"encoding": "mulaw", "sample_rate": 8000}, PCMU8K, PCMU8K, {"type": "audio/pcmu"}),
        ({"encoding": "mulaw"}, PCMU8K, PCMU8K, {"type": "audio/pcmu"}),
        ({"encoding": "alaw", "sample_rate": 8000}, PCMA8K, PCMA8K, {"type": "audio/pcma"}),
        ({"encoding": "alaw", "sample_rate": 16000}, Format(Encoding.ALAW, 16000), PCM24K, PCM),
        ({"sample_rate": 44100}, Format(Encoding.LINEAR16, 44100), PCM24K, PCM),
    ],
)
def test_the_upstream_is_asked_for_what_needs_least_work(
    client: dict[str, Any], heard: Format, upstream: Format, name: dict[str, Any]
) -> None:
    made = planned(audio={"input": client})
    assert (made.formats.client_input, made.formats.upstream_input) == (heard, upstream)
    assert sent(made.session())["audio"]["input"]["format"] == name
    if heard.encoding is Encoding.LINEAR32:
        return
    made = planned(audio={"output": client})
    assert (made.formats.client_output, made.formats.upstream_output) == (heard, upstream)
    assert sent(made.session())["audio"]["output"]["format"] == name


@conformance("C-063")
@pytest.mark.parametrize(
    "encoding", ["flac", "amr-nb", "amr-wb", "opus", "ogg-opus", "speex", "g729", "LINEAR16", "pcm"]
)
def test_input_that_cannot_be_decoded_is_refused(encoding: str) -> None:
    refusal = refused(audio={"input": {"encoding": encoding, "sample_rate": 16000}})
    assert refusal.code == "INVALID_SETTINGS"
    assert refusal.description.startswith("audio.input.encoding: supported are linear16, linear32")


def test_an_upstream_that_only_claims_to_speak_g711_is_asked_for_pcm() -> None:
    audio = {"input": {"encoding": "mulaw"}, "output": {"encoding": "alaw", "sample_rate": 8000}}
    made = planned(audio=audio, options=MappingOptions(g711=False)).formats
    assert (made.client_input, made.upstream_input) == (PCMU8K, PCM24K)
    assert (made.upstream_output, made.client_output) == (PCM24K, PCMA8K)


@conformance("C-064")
@pytest.mark.parametrize("encoding", ["mp3", "opus", "flac", "aac", "linear32"])
def test_output_that_cannot_be_encoded_is_refused(encoding: str) -> None:
    refusal = refused(audio={"output": {"encoding": encoding}})
    assert refusal.code == "INVALID_SETTINGS"
    assert refusal.description == "audio.output.encoding: supported are linear16, mulaw, alaw"


@conformance("C-064")
def test_a_container_that_cannot_be_written_is_refused() -> None:
    assert refused(audio={"output": {"container": "ogg"}}) == Refusal(
        "INVALID_SETTINGS", "audio.output.container: supported are none, wav"
    )


@conformance("C-064")
@pytest.mark.parametrize("encoding", ["linear16", "mulaw", "alaw"])
def test_wav_is_raw_samples_unless_a_header_is_configured(encoding: str) -> None:
    audio = {"output": {"encoding": encoding, "container": "wav"}}
    assert not planned(audio=audio).formats.wav_header
    assert planned(audio=audio, wav_header=True).formats.wav_header
    assert not planned(audio={"output": {"container": "none"}}, wav_header=True).formats.wav_header


@pytest.mark.parametrize("rate", [-1, 0, 3999, 23999, 192001, 2**62])
@pytest.mark.parametrize("end", ["input", "output"])
def test_a_rate_that_cannot_be_resampled_is_refused(end: str, rate: int) -> None:
    refusal = refused(audio={end: {"encoding": "linear16", "sample_rate": rate}})
    assert refusal.code == "INVALID_SETTINGS"
    assert refusal.description.startswith(f"audio.{end}.sample_rate: ")


# Think -------------------------------------------------------------------------------------------


@conformance("C-042", "C-043")
@pytest.mark.parametrize(
    ("asked", "model"),
    [
        (None, "gpt-realtime-2.1"),
        ("gpt-4o-mini", "gpt-realtime-2.1"),
        ("gpt-4.1", "gpt-realtime-2.1"),
        ("claude-sonnet-4-20250514", "gpt-realtime-2.1"),
        ("gemini-2.5-flash", "gpt-realtime-2.1"),
        ("openai/gpt-oss-20b", "gpt-realtime-2.1"),
        ("gpt-realtime", "gpt-realtime"),
        ("gpt-realtime-2.1-mini", "gpt-realtime-2.1-mini"),
        ("gpt-4o-realtime-preview", "gpt-4o-realtime-preview"),
        ("gpt-4o-mini-realtime-preview", "gpt-4o-mini-realtime-preview"),
        ("gpt-4.1-mini", "gpt-realtime-2.1-mini"),
    ],
)
def test_the_model_is_mapped_and_never_sent(asked: str | None, model: str) -> None:
    options = MappingOptions(models={"gpt-4.1-mini": "gpt-realtime-2.1-mini"})
    made = planned(think(provider={"type": "open_ai", "model": asked}), options=options)
    assert made.model == model
    assert "model" not in sent(made.session())


def test_strictly_an_unknown_model_is_refused() -> None:
    refusal = refused(think(provider={"model": "gpt-4o-mini"}), strict=True)
    assert refusal.code == "INVALID_SETTINGS"
    assert refusal.description.startswith("agent.think.provider.model: ")
    assert planned(think(provider={"model": "gpt-realtime-2.1"}), strict=True)
    assert planned(strict=True)


@conformance("C-044")
def test_the_prompt_is_the_instructions() -> None:
    assert session(think(prompt="Be brief.\n"))["instructions"] == "Be brief.\n"
    assert session(think(prompt=""))["instructions"] == ""


@conformance("C-045", "C-210")
def test_a_prompt_over_the_limit_is_cut_and_warned_of() -> None:
    made = planned(think(prompt="a" * 25_000 + "b"))
    assert made.instructions == "a" * 25_000
    (warning,) = made.warnings
    assert warning.code == "PROMPT_TOO_LONG"
    assert warning.description.startswith("agent.think.prompt: 25001 characters")
    assert planned(think(prompt="a" * 25_000)).warnings == ()


@conformance("C-046")
def test_the_temperature_goes_nowhere() -> None:
    made = planned(think(provider={"model": "gpt-4o-mini", "temperature": 0.7}))
    assert "temperature" not in json.dumps(sent(made.session()))
    assert made.ignored == ("agent.think.provider.temperature",)


@conformance("C-048", "C-049")
def test_functions_become_tools_and_nothing_else_of_them_goes_up() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    entry = {
        "name": "weather",
        "description": "Says what the weather is",
        "parameters": parameters,
        "client_side": True,
        "endpoint": {"url": "https://x.test", "method": "POST", "headers": {"k": SECRET}},
        "defer_until_eot": True,
        "initial_agent_filler": True,
        "agent_filler_max_count": 2,
        "agent_filler_interval_ms": 500,
    }
    body = session(think(functions=[entry, {"name": "now"}, {"name": "then", "parameters": {}}]))
    nothing = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {
            "type": "function",
            "name": "weather",
            "description": "Says what the weather is",
            "parameters": parameters,
        },
        {"type": "function", "name": "now", "parameters": nothing},
        {"type": "function", "name": "then", "parameters": nothing},
    ]


def test_without_functions_there_is_no_word_of_tools() -> None:
    assert "tools" not in session(think(functions=[]))


@conformance("C-050")
@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        ([{"description": "nameless"}], "[0].name: missing"),
        ([{"name": "a"}, {"name": ""}], "[1].name: missing"),
        ([{"name": "a b"}], "[0].name: 1 to 64 of A-Z, a-z, 0-9, _ and -"),
        ([{"name": "a\n"}], "[0].name: 1 to 64 of A-Z, a-z, 0-9, _ and -"),
        ([{"name": "a" * 65}], "[0].name: 1 to 64 of A-Z, a-z, 0-9, _ and -"),
        ([{"name": "é"}], "[0].name: 1 to 64 of A-Z, a-z, 0-9, _ and -"),
        ([{"name": "a"}, {"name": "b"}, {"name": "a"}], "[2].name: a stands in the list twice"),
    ],
)
def test_a_bad_function_name_is_refused(functions: list[Any], reason: str) -> None:
    path = f"think.functions{reason}"
    assert refused(think(functions=functions)) == Refusal("INVALID_SETTINGS", f"agent.{path}")
    message = update("UpdateThink", think={"functions": functions})
    assert change(planned(), message, OPTIONS) == Refusal("THINK_REQUEST_FAILED", path)


def test_a_function_name_of_64_characters_is_fine() -> None:
    assert planned(think(functions=[{"name": "a" * 64}])).functions[0].name == "a" * 64


ENDPOINT: dict[str, Any] = {
    "url": "https://fns.test/v1/weather",
    "method": "post",
    "headers": {"key": SECRET},
}


def test_an_endpoint_that_is_not_called_is_said_once_for_all() -> None:
    functions = [{"name": n, "endpoint": {**ENDPOINT}} for n in ("a", "b")]
    made = planned(think(functions=[*functions, {"name": "c"}]))
    assert [f.server_side for f in made.functions] == [False, False, False]
    (warning,) = made.warnings
    assert warning.code == "FUNCTION_CALL_FAILED"
    assert warning.description.endswith(": a, b")


def test_an_allowed_endpoint_makes_the_function_the_relays() -> None:
    options = MappingOptions(function_endpoints=("https://fns.test/v1",))
    made = planned(think(functions=[{"name": "weather", "endpoint": ENDPOINT}]), options=options)
    (function,) = made.functions
    assert function.server_side
    assert function.endpoint == Endpoint(ENDPOINT["url"], "POST", {"key": SECRET})
    assert made.warnings == ()
    assert SECRET not in repr(made)
    assert SECRET not in json.dumps(sent(made.session()))


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://fns.test/v1", True),
        ("https://fns.test/v1/", True),
        ("https://fns.test/v1/a/b?c=d", True),
        ("https://FNS.test/v1/a", True),
        ("https://fns.test/v10", False),
        ("https://fns.test/", False),
        ("http://fns.test/v1", False),
        ("https://fns.test:8443/v1", False),
        ("https://fns.test.evil.org/v1", False),
        ("https://fns.test@evil.org/v1", False),
        ("https://me@fns.test/v1", False),
        ("https://fns.test/v1/../admin", False),
        ("https://fns.test/v1/%2e%2e/admin", False),
        ("https://fns.test/v1/..%5cadmin", False),
        ("https://fns.test/v1\n/a", False),
        ("https://[::1/v1", False),
        ("https://fns.test:port/v1", False),
        ("", False),
    ],
)
def test_only_what_is_below_an_allowed_url_is_allowed(url: str, allowed: bool) -> None:
    options = MappingOptions(function_endpoints=("https://other.test", "https://fns.test/v1/"))
    made = planned(think(functions=[{"name": "f", "endpoint": {"url": url}}]), options=options)
    assert made.functions[0].server_side is allowed


def test_a_text_for_functions_can_be_configured() -> None:
    options = MappingOptions(functions_prompt="Use the tools.")
    with_tools = think(prompt="Hi", functions=[{"name": "f"}])
    assert session(with_tools, options=options)["instructions"] == "Hi\n\nUse the tools."
    assert session(think(prompt="Hi"), options=options)["instructions"] == "Hi"
    assert session(with_tools)["instructions"] == "Hi"


@conformance("C-051")
@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "f", "x": 1}, {"type": "function", "name": "f"}),
        ({"type": "function", "name": "g"}, None),
        ({"type": "function"}, None),
        ({"name": "f"}, None),
        ("any", None),
        (1, None),
        (["auto"], None),
        (True, None),
    ],
)
def test_only_a_tool_choice_that_the_api_takes_is_passed_on(choice: Any, expected: Any) -> None:
    made = planned(think(functions=[{"name": "f"}], toolChoice=choice))
    assert sent(made.session()).get("tool_choice") == expected
    assert made.ignored == (() if expected else ("agent.think.toolChoice",))


@conformance("C-052")
@pytest.mark.parametrize(
    ("modalities", "expected"),
    [
        (["text", "audio"], ["audio"]),
        (["audio", "text"], ["audio"]),
        (["audio"], ["audio"]),
        (["text"], ["text"]),
        (["text", "video", 1, None], ["text"]),
        (["video"], None),
        ([], None),
        ("text", None),
        ({"text": 1}, None),
    ],
)
def test_one_output_modality_is_asked_for(modalities: Any, expected: Any) -> None:
    made = planned(think(outputModalities=modalities))
    assert sent(made.session()).get("output_modalities") == expected
    assert made.text_only is (expected == ["text"])


@conformance("C-053")
@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, 1),
        (4096, 4096),
        (4097, 4096),
        (10**18, 4096),
        (0, 1),
        (-5, 1),
        (100.0, 100),
        (1.5, None),
        ("100", None),
        ("inf", None),
        (True, None),
        ([1], None),
    ],
)
def test_output_tokens_are_clamped(tokens: Any, expected: int | None) -> None:
    body = session(think(maxOutputTokens=tokens))
    assert body.get("max_output_tokens") == expected


@conformance("C-054")
@pytest.mark.parametrize(
    ("managed", "expected"),
    [
        ({"id": " pmpt_1 "}, {"id": "pmpt_1"}),
        ({"id": "p", "version": " 2 "}, {"id": "p", "version": "2"}),
        ({"id": "p", "version": "  "}, {"id": "p"}),
        ({"id": "p", "version": 2}, {"id": "p"}),
        ({"id": "p", "variables": {"a": "b"}}, {"id": "p", "variables": {"a": "b"}}),
        ({"id": "p", "variables": ["a"]}, {"id": "p"}),
        ({"id": ""}, None),
        ({"id": "  "}, None),
        ({"id": 7}, None),
        ({"version": "1"}, None),
        ("p", None),
    ],
)
def test_a_managed_prompt_is_trimmed_or_left_out(managed: Any, expected: Any) -> None:
    assert session(think(managedPrompt=managed)).get("prompt") == expected


def test_variables_of_a_managed_prompt_are_text_or_typed_content() -> None:
    good = {
        "text": {"type": "input_text", "text": "hi"},
        "image": {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
        "file": {"type": "input_file", "file_id": "file_1"},
    }
    bad: dict[str, Any] = {
        "number": 3,
        "null": None,
        "list": [],
        "untyped": {"text": "hi"},
        "alien": {"type": "input_text", "text": "hi", "x": "y"},
        "wrong": {"type": "input_text", "text": 1},
        "no_detail": {"type": "input_image", "image_url": "u"},
        "odd_file": {"type": "input_file", "path": "/etc/passwd"},
    }
    body = session(think(managedPrompt={"id": "p", "variables": {**good, **bad}}))
    assert body["prompt"]["variables"] == good


@pytest.mark.parametrize(
    ("model", "mode", "effort"),
    [
        ("gpt-realtime-2", "low", {"effort": "low"}),
        ("gpt-realtime-2.1-mini", "minimal", {"effort": "minimal"}),
        ("gpt-4o-mini", "high", {"effort": "high"}),
        ("gpt-realtime-2.1", "none", None),
        ("gpt-realtime-2.1", "extreme", None),
        ("gpt-realtime-2.1", None, None),
        ("gpt-realtime-2025-08-28", "low", None),
        ("gpt-realtime-1.5", "low", None),
    ],
)
def test_reasoning_is_for_reasoning_models(model: str, mode: str | None, effort: Any) -> None:
    body = session(think(provider={"model": model, "reasoning_mode": mode}))
    assert body.get("reasoning") == effort


@pytest.mark.parametrize(
    ("length", "ratio", "truncation"),
    [
        ("max", None, "auto"),
        ("max", 0.8, "auto"),
        (4000, None, None),
        ("4000", 0.8, None),
        (3, 0.8, None),
        (
            4000,
            0.8,
            {
                "type": "retention_ratio",
                "retention_ratio": 0.8,
                "token_limits": {"post_instructions": 1000},
            },
        ),
    ],
)
def test_a_context_length_becomes_a_truncation(length: Any, ratio: Any, truncation: Any) -> None:
    options = MappingOptions(retention_ratio=ratio)
    body = session(think(context_length=length), options=options)
    assert body.get("truncation") == truncation


@conformance("C-066")
def test_credentials_of_third_parties_go_nowhere() -> None:
    agent = {
        "think": {
            "provider": {
                "type": "aws_bedrock",
                "model": "anthropic/claude",
                "credentials": {"type": "iam", "secret_access_key": SECRET},
            },
            "endpoint": {"url": "https://llm.test", "headers": {"authorization": SECRET}},
            "functions": [{"name": "f", "endpoint": ENDPOINT}],
        },
        "speak": {
            "provider": {"type": "aws_polly", "credentials": {"secret_access_key": SECRET}},
            "endpoint": {"url": "https://tts.test", "headers": {"xi-api-key": SECRET}},
        },
    }
    made = planned(agent)
    assert SECRET not in repr(made)
    assert SECRET.encode() not in msgspec.msgpack.encode(made)
    assert made.ignored == (
        "agent.speak.endpoint",
        "agent.think.endpoint",
        "agent.think.provider.type",
    )


@conformance("C-062")
def test_of_fallbacks_the_first_counts() -> None:
    agent = {
        "think": [{"prompt": "one"}, {"prompt": "two", "provider": {"model": "gpt-realtime"}}],
        "speak": [
            {"provider": {"type": "open_ai", "voice": "echo"}},
            {"provider": {"voice": "ash"}},
        ],
    }
    made = planned(agent)
    assert (made.instructions, made.model, made.speak.voice) == ("one", "gpt-realtime-2.1", "echo")
    assert made.ignored == ("agent.think[1:]", "agent.speak[1:]")
    assert planned({"think": [], "speak": []}) == planned()


# Speak -------------------------------------------------------------------------------------------


@conformance("C-047")
@pytest.mark.parametrize(
    ("provider", "voice"),
    [
        ({"type": "open_ai", "model": "tts-1", "voice": "alloy"}, "alloy"),
        ({"type": "open_ai", "model": "tts-1", "voice": "shimmer"}, "shimmer"),
        ({"type": "open_ai", "model": "tts-1", "voice": "nova"}, "marin"),
        ({"type": "open_ai", "model": "tts-1", "voice": "ballad"}, "verse"),
        ({"type": "open_ai", "model": "tts-1", "voice": "cedar"}, "cedar"),
        ({"type": "deepgram", "model": "aura-2-thalia-en"}, "marin"),
        ({"type": "deepgram", "model": "aura-2-zeus-en"}, "ash"),
        ({"type": "eleven_labs", "model_id": "eleven_turbo_v2_5"}, "sage"),
        ({"type": "cartesia", "model_id": "sonic-2", "voice": {"mode": "id", "id": "c1"}}, "coral"),
        ({"type": "cartesia", "voice": {"mode": "id"}}, "marin"),
        ({"type": "aws_polly", "voice": "Matthew"}, {"id": "voice_42"}),
        ({}, "marin"),
    ],
)
def test_a_voice_is_mapped(provider: dict[str, Any], voice: Any) -> None:
    voices = {
        "aura-2-zeus-en": "ash",
        "eleven_turbo_v2_5": "sage",
        "c1": "coral",
        "ballad": "verse",
        "Matthew": "voice_42",
    }
    body = session(speak(**provider), options=MappingOptions(voices=voices))
    assert body["audio"]["output"]["voice"] == voice
    assert json.dumps(body).count('"voice"') == 1


@pytest.mark.parametrize(
    ("speed", "expected"), [(None, None), (1, None), (0.1, 0.25), (0.9, 0.9), (3, 1.5)]
)
def test_the_speed_is_clamped_and_left_out_when_it_is_1(speed: Any, expected: Any) -> None:
    body = session(speak(type="deepgram", model="aura-2-thalia-en", speed=speed))
    assert body["audio"]["output"].get("speed") == expected


@conformance("C-055")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"voice": " verse "}, {"voice": "verse"}),
        ({"voice": {"id": "voice_1"}}, {"voice": {"id": "voice_1"}}),
        ({"voice": " "}, {}),
        ({"voice": {"id": 1}}, {}),
        ({"voice": 1}, {}),
        ({"speed": 0.25}, {"speed": 0.25}),
        ({"speed": 1.5}, {"speed": 1.5}),
        ({"speed": 1.51}, {}),
        ({"speed": 0.2}, {}),
        ({"speed": "1.2"}, {}),
        ({"speed": True}, {}),
        ({"format": {"type": "audio/pcmu"}}, {"format": {"type": "audio/pcmu"}}),
        ({"format": {"type": "audio/pcma"}}, {"format": {"type": "audio/pcma"}}),
        ({"format": {"type": "audio/pcm", "rate": 24000}}, {}),
        ({"format": {"type": "audio/pcm", "rate": 16000}}, {}),
        ({"format": {"type": "audio/mp3"}}, {}),
        ({"format": {"type": ["audio/pcmu"]}}, {}),
        ({"format": "audio/pcmu"}, {}),
        ("audio/pcmu", {}),
    ],
)
def test_the_components_audio_output_wins_where_it_is_valid(asked: Any, expected: Any) -> None:
    usual = {"format": PCM, "voice": "alloy", "speed": 0.9}
    body = session({**speak(voice="alloy", speed=0.9), "sessionAudioOutput": asked})
    assert body["audio"]["output"] == {**usual, **expected}


def test_a_format_from_the_component_is_that_of_its_binary_frames_too() -> None:
    audio = {"output": {"encoding": "linear16", "sample_rate": 16000, "container": "wav"}}
    agent: dict[str, Any] = {"sessionAudioOutput": {"format": {"type": "audio/pcmu"}}}
    formats = planned(agent, audio, wav_header=True).formats
    assert (formats.upstream_output, formats.client_output) == (PCMU8K, PCMU8K)
    assert not formats.wav_header
    agent = {"sessionAudioOutput": {"voice": "ash", "speed": 9}}
    made = planned(agent, audio)
    assert made.formats.client_output == Format(Encoding.LINEAR16, 16000)
    assert made.ignored == ("agent.sessionAudioOutput.speed",)


# Listen ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        (None, "gpt-transcribe"),
        ("nova-3", "gpt-transcribe"),
        ("flux-general-en", "gpt-transcribe"),
        ("whisper-large", "gpt-transcribe"),
        ("gpt-4o", "gpt-transcribe"),
        ("whisper-1", "whisper-1"),
        ("gpt-4o-mini-transcribe", "gpt-4o-mini-transcribe"),
        ("gpt-realtime-whisper", "gpt-realtime-whisper"),
        ("nova-2-medical", "gpt-4o-transcribe"),
    ],
)
def test_a_listen_model_is_mapped(asked: str | None, model: str) -> None:
    options = MappingOptions(transcription_models={"nova-2-medical": "gpt-4o-transcribe"})
    made = planned(listen(model=asked), options=options)
    assert made.transcribed
    assert sent(made.session())["audio"]["input"]["transcription"] == {"model": model}


def test_transcription_can_be_off() -> None:
    made = planned(listen(model="nova-3"), options=MappingOptions(transcription_model=""))
    assert not made.transcribed
    assert "transcription" not in sent(made.session())["audio"]["input"]


@conformance("C-058", "C-059")
@pytest.mark.parametrize(
    ("spoken", "agents", "language"),
    [
        ("en-US", None, "en"),
        ("pt_BR", None, "pt"),
        ("ES", None, "es"),
        ("fil-PH", None, "fil"),
        ("multi", None, None),
        ("", "fr", "fr"),
        (None, "de-CH", "de"),
        ("nl", "en", "nl"),
        ("multi", "en", None),
        ("klingon", None, None),
        (None, None, None),
    ],
)
def test_the_language_is_its_primary_subtag(spoken: Any, agents: Any, language: Any) -> None:
    body = session({**listen(model="nova-3", language=spoken), "language": agents})
    assert body["audio"]["input"]["transcription"].get("language") == language


GPT = "gpt-transcribe"
FOUR_O = "gpt-4o-transcribe"


@pytest.mark.parametrize(
    ("model", "provider", "expected"),
    [
        (GPT, {"language_hints": ["en-US", "es", "en", "multi"]}, {"languages": ["en", "es"]}),
        (GPT, {"language_hint": "de"}, {"languages": ["de"]}),
        (GPT, {"language_hint": ["de", "fr"]}, {"languages": ["de", "fr"]}),
        (GPT, {"language_hints": ["it"], "language_hint": ["de"]}, {"languages": ["it"]}),
        (
            GPT,
            {"language": "fr", "language_hints": ["it"]},
            {"language": "fr", "languages": ["it"]},
        ),
        (FOUR_O, {"language_hints": ["es-MX"]}, {"language": "es"}),
        (FOUR_O, {"language_hints": ["es", "en"]}, {}),
        (FOUR_O, {"language": "fr", "language_hints": ["es"]}, {"language": "fr"}),
    ],
)
def test_language_hints(model: str, provider: dict[str, Any], expected: dict[str, Any]) -> None:
    body = session({**listen(model=model, **provider), "language": "en"})
    assert body["audio"]["input"]["transcription"] == {"model": model, **expected}


@conformance("C-060")
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GPT, {"keywords": ["Deepgram", "Trio"]}),
        ("gpt-live-transcribe", {"keywords": ["Deepgram", "Trio"]}),
        (FOUR_O, {"prompt": "Deepgram, Trio"}),
        ("gpt-4o-mini-transcribe-2025-12-15", {"prompt": "Deepgram, Trio"}),
        ("whisper-1", {"prompt": "Deepgram, Trio"}),
        ("gpt-4o-transcribe-diarize", {}),
        ("gpt-realtime-whisper", {}),
    ],
)
def test_keyterms_go_where_the_model_takes_them(model: str, expected: dict[str, Any]) -> None:
    made = planned(listen(model=model, keyterms=["Deepgram", " ", "Trio"]))
    transcription = sent(made.session())["audio"]["input"]["transcription"]
    assert transcription == {"model": model, **expected}
    assert made.ignored == (() if expected else ("agent.listen.provider.keyterms",))


@conformance("C-239")
@pytest.mark.parametrize(
    ("provider", "flux"),
    [
        ({"model": "flux-general-en"}, True),
        ({"model": "flux-general-en", "version": "v1"}, True),
        ({"model": "Flux-general-multi", "version": "v2"}, True),
        ({"model": "nova-3", "version": "v2"}, False),
        ({"version": "v2"}, True),
        ({"version": "v1"}, False),
        ({}, False),
    ],
)
def test_the_model_says_whether_it_is_flux(provider: dict[str, Any], flux: bool) -> None:
    made = planned(listen(**provider))
    kind = "semantic_vad" if flux else "server_vad"
    assert made.flux is flux
    assert sent(made.session())["audio"]["input"]["turn_detection"]["type"] == kind
    after = changed(planned(), update("UpdateListen", listen={"provider": provider})).plan
    assert after.flux is flux


@conformance("C-056")
@pytest.mark.parametrize(
    ("provider", "eagerness", "create_response"),
    [
        ({}, "auto", True),
        ({"eot_threshold": 0.5}, "high", True),
        ({"eot_threshold": 0.59}, "high", True),
        ({"eot_threshold": 0.6}, "auto", True),
        ({"eot_threshold": 0.8}, "auto", True),
        ({"eot_threshold": 0.81}, "low", True),
        ({"eot_threshold": 0.9, "eager_eot_threshold": 0.4}, "high", True),
        ({"eot_threshold": 1.0}, "low", False),
    ],
)
def test_flux_turns(provider: dict[str, Any], eagerness: str, create_response: bool) -> None:
    made = planned(listen(model="flux-general-en", eot_timeout_ms=5000, **provider))
    assert made.create_response is create_response
    assert not made.manual
    assert sent(made.session())["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": eagerness,
        "create_response": create_response,
        "interrupt_response": True,
    }


@pytest.mark.parametrize(
    ("provider", "field"),
    [
        ({"eot_threshold": 0.4}, "eot_threshold"),
        ({"eot_threshold": 1.1}, "eot_threshold"),
        ({"eager_eot_threshold": 0.2}, "eager_eot_threshold"),
        ({"eager_eot_threshold": 0.95}, "eager_eot_threshold"),
    ],
)
def test_flux_thresholds_out_of_bounds_are_refused(provider: dict[str, Any], field: str) -> None:
    provider = {"model": "flux-general-en", **provider}
    refusal = refused(listen(**provider))
    assert refusal.code == "INVALID_SETTINGS"
    assert refusal.description.startswith(f"agent.listen.provider.{field}: from 0.")
    refusal_of_update = change(
        planned(), update("UpdateListen", listen={"provider": provider}), OPTIONS
    )
    assert isinstance(refusal_of_update, Refusal)
    assert refusal_of_update.code == "THINK_REQUEST_FAILED"
    assert planned(listen(**{**provider, "model": "nova-3"})).create_response


def test_turn_detection_can_be_configured() -> None:
    turns = TurnOptions(
        kind="server_vad",
        threshold=0.6,
        prefix_padding_ms=200,
        silence_duration_ms=700,
        idle_timeout_ms=6000,
        interrupt_response=False,
    )
    agent = listen(model="flux-general-en", eot_threshold=1.0)
    body = session(agent, options=MappingOptions(turns=turns))
    assert body["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.6,
        "prefix_padding_ms": 200,
        "silence_duration_ms": 700,
        "idle_timeout_ms": 6000,
        "create_response": False,
        "interrupt_response": False,
    }
    body = session(options=MappingOptions(turns=TurnOptions(kind="semantic_vad")))
    assert body["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"


def test_manual_mode_is_an_explicit_null() -> None:
    configured = MappingOptions(turns=TurnOptions(kind="off"))
    for made in (planned({"useOpenAIManualAudioCommit": True}), planned(options=configured)):
        assert made.manual
        assert not made.create_response
        assert sent(made.session())["audio"]["input"]["turn_detection"] is None
    assert not planned({"useOpenAIManualAudioCommit": "yes"}).manual


# Context -----------------------------------------------------------------------------------------

MESSAGES = [
    {"type": "History", "role": "user", "content": "What is the time in Rome?"},
    {
        "type": "History",
        "function_calls": [
            {
                "id": "call_1",
                "name": "clock",
                "client_side": True,
                "arguments": '{"city":"Rome"}',
                "response": "12:30",
            }
        ],
    },
    {"type": "History", "role": "assistant", "content": "Half past twelve."},
]


def created(items: Iterable[realtime.Item]) -> list[Any]:
    """The items as the upstream reads them, which the vendor's types accept."""
    frames = [realtime.encode(realtime.ConversationItemCreate(item=item)) for item in items]
    for frame in frames:
        check_client_event(frame)
    return [json.loads(frame)["item"] for frame in frames]


@conformance("C-037", "C-038")
@pytest.mark.parametrize(
    "agent", [{"context": {"messages": MESSAGES}}, {"context": MESSAGES}, {"messages": MESSAGES}]
)
def test_a_context_becomes_items_in_order(agent: dict[str, Any]) -> None:
    made = planned(agent)
    assert created(made.context) == [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "What is the time in Rome?"}],
        },
        {
            "type": "function_call",
            "call_id": "call_1",
            "name": "clock",
            "arguments": '{"city":"Rome"}',
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "12:30"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Half past twelve."}],
        },
    ]


@conformance("C-040")
def test_in_instructions_mode_a_context_is_text_behind_the_prompt() -> None:
    agent = {**think(prompt="Be brief."), "context": {"messages": MESSAGES}}
    made = planned(agent, context_mode="instructions")
    assert made.context == ()
    assert sent(made.session())["instructions"] == (
        "Be brief.\n\n"
        "Previous conversation:\n"
        "user: What is the time in Rome?\n"
        '[called clock with {"city":"Rome"}]\n'
        "[result: 12:30]\n"
        "assistant: Half past twelve."
    )
    assert planned(agent).in_instructions() == made
    assert made.in_instructions() == made


@conformance("C-225")
@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("get weather.now", "get_weather_now"),
        ("é" * 70, "_" * 64),
        ("", "unnamed"),
        (None, "unnamed"),
        ("fine-1", "fine-1"),
    ],
)
def test_function_names_in_history_are_cleaned(name: str | None, clean: str) -> None:
    call = {"id": "c", "name": name}
    call_item, output = created(planned({"context": [{"function_calls": [call]}]}).context)
    assert call_item == {
        "type": "function_call",
        "call_id": "c",
        "name": clean,
        "arguments": "{}",
    }
    assert output == {"type": "function_call_output", "call_id": "c", "output": ""}


def test_calls_without_an_id_get_one_that_holds_them_together() -> None:
    calls = {"function_calls": [{"name": "a"}, {"name": "b"}]}
    ids = [item.call_id for item in planned({"context": [calls, calls]}).context]
    assert ids == [
        *("ctx_0_0", "ctx_0_0", "ctx_0_1", "ctx_0_1"),
        *("ctx_1_0", "ctx_1_0", "ctx_1_1", "ctx_1_1"),
    ]


def test_entries_that_say_nothing_are_left_out() -> None:
    messages = [
        {"role": "user"},
        {"role": "user", "content": " "},
        {"role": "narrator", "content": "Meanwhile..."},
        {"type": "History"},
        {"role": "system", "content": "It is Monday."},
    ]
    made = planned({"context": messages})
    assert [(i["role"], i["content"][0]["type"]) for i in created(made.context)] == [
        ("system", "input_text")
    ]
    assert made.ignored == ("agent.context.messages",)


# Updates -----------------------------------------------------------------------------------------


@conformance("C-068", "C-070")
def test_prompts_add_up() -> None:
    one = changed(planned(think(prompt="A")), update("UpdatePrompt", prompt="B"))
    assert sent(one.session) == {"type": "realtime", "instructions": "A\n\nB"}
    two = changed(one.plan, update("UpdatePrompt", prompt="C"))
    assert sent(two.session) == {"type": "realtime", "instructions": "A\n\nB\n\nC"}
    assert two.plan.session().instructions == "A\n\nB\n\nC"


def test_a_prompt_can_be_added_to_none_and_can_replace_one() -> None:
    assert sent(changed(planned(), update("UpdatePrompt", prompt="B")).session)["instructions"]
    before = planned(think(prompt="A"))
    replaced = changed(before, update("UpdatePrompt", prompt="B"), update_prompt="replace")
    assert sent(replaced.session)["instructions"] == "B"
    emptied = changed(before, update("UpdatePrompt", prompt=""), update_prompt="replace")
    assert sent(emptied.session)["instructions"] == ""


def test_an_empty_prompt_adds_nothing() -> None:
    assert changed(planned(think(prompt="A")), update("UpdatePrompt", prompt="")).session is None


@conformance("C-045")
def test_an_added_prompt_over_the_limit_is_cut() -> None:
    before = planned(think(prompt="a" * 24_000))
    after = changed(before, update("UpdatePrompt", prompt="b" * 2_000))
    assert sent(after.session)["instructions"] == "a" * 24_000 + "\n\n" + "b" * 998
    (warning,) = after.warnings
    assert warning.code == "PROMPT_TOO_LONG"
    assert warning.description.startswith("prompt: 26002 characters")


def test_the_context_text_stays_behind_a_changed_prompt() -> None:
    agent = {**think(prompt="A"), "context": MESSAGES[:1]}
    before = planned(agent, context_mode="instructions")
    tail = "\n\nPrevious conversation:\nuser: What is the time in Rome?"
    after = changed(before, update("UpdatePrompt", prompt="B"))
    assert sent(after.session)["instructions"] == "A\n\nB" + tail
    after = changed(after.plan, update("UpdateThink", think={"prompt": "C"}))
    assert sent(after.session)["instructions"] == "C" + tail


@conformance("C-071")
def test_a_think_update_replaces_everything() -> None:
    before = planned(
        think(
            prompt="A",
            functions=[{"name": "f"}],
            toolChoice="required",
            outputModalities=["text"],
            maxOutputTokens=100,
            managedPrompt={"id": "p"},
            context_length="max",
        )
    )
    after = changed(before, update("UpdateThink", think={}))
    assert sent(after.session) == {
        "type": "realtime",
        "instructions": "",
        "tools": [],
        "tool_choice": "auto",
        "output_modalities": ["audio"],
        "max_output_tokens": "inf",
        "prompt": None,
        "truncation": "auto",
    }
    assert not after.model_changed
    assert not after.plan.text_only
    assert sent(after.plan.session())["instructions"] == ""


def test_a_think_update_sends_what_is_new() -> None:
    new = {
        "prompt": "B",
        "functions": [{"name": "g"}],
        "toolChoice": {"type": "function", "name": "g"},
        "outputModalities": ["text"],
        "provider": {"type": "open_ai", "model": "gpt-4o", "reasoning_mode": "low"},
    }
    after = changed(planned(), update("UpdateThink", think=[new, {"prompt": "fallback"}]))
    assert sent(after.session) == {
        "type": "realtime",
        "instructions": "B",
        "tools": [
            {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}}
        ],
        "tool_choice": {"type": "function", "name": "g"},
        "output_modalities": ["text"],
        "reasoning": {"effort": "low"},
    }
    assert after.plan.functions[0].name == "g"


@conformance("C-072")
def test_a_prompt_after_a_think_update_adds_to_the_new_one() -> None:
    one = changed(planned(think(prompt="old")), update("UpdateThink", think={"prompt": "new"}))
    two = changed(one.plan, update("UpdatePrompt", prompt="more"))
    assert sent(two.session)["instructions"] == "new\n\nmore"


@conformance("C-073")
def test_another_model_is_told_and_never_sent() -> None:
    provider = {"model": "gpt-realtime-1.5", "reasoning_mode": "low"}
    after = changed(planned(), update("UpdateThink", think={"provider": provider}))
    assert after.model_changed
    assert after.plan.model == "gpt-realtime-1.5"
    assert sent(after.session) == {"type": "realtime", "instructions": "", "tools": []}
    provider = {"model": "gpt-realtime-2", "reasoning_mode": "low"}
    back = changed(after.plan, update("UpdateThink", think={"provider": provider}))
    assert back.model_changed
    assert "reasoning" not in sent(back.session)
    assert sent(back.plan.session())["reasoning"] == {"effort": "low"}


def test_a_model_that_is_not_named_stays() -> None:
    before = planned(think(provider={"model": "gpt-realtime-1.5"}))
    after = changed(before, update("UpdateThink", think={"prompt": "B"}))
    assert not after.model_changed
    assert after.plan.model == "gpt-realtime-1.5"


def test_warnings_of_a_think_update_are_its_own() -> None:
    before = planned(think(prompt="a" * 25_001))
    new = {"functions": [{"name": "f", "endpoint": ENDPOINT}], "prompt": "b" * 25_001}
    after = changed(before, update("UpdateThink", think=new))
    assert [w.code for w in after.warnings] == ["FUNCTION_CALL_FAILED", "PROMPT_TOO_LONG"]
    assert len(before.warnings) == 1


def test_strictly_a_think_update_to_an_unknown_model_is_refused() -> None:
    message = update("UpdateThink", think={"provider": {"model": "gpt-4o"}})
    refusal = change(planned(), message, OPTIONS, strict=True)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "THINK_REQUEST_FAILED"
    assert refusal.description.startswith("think.provider.model: ")


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (update("UpdateThink", think=[]), Refusal("THINK_REQUEST_FAILED", "think: empty")),
        (update("UpdateSpeak", speak=[]), Refusal("SPEAK_REQUEST_FAILED", "speak: empty")),
    ],
)
def test_an_update_without_an_entry_is_refused(message: Update, refusal: Refusal) -> None:
    assert change(planned(), message, OPTIONS) == refusal


@conformance("C-074")
def test_another_voice_is_sent() -> None:
    after = changed(
        planned(), update("UpdateSpeak", speak={"provider": {"type": "open_ai", "voice": "ash"}})
    )
    assert sent(after.session) == {"type": "realtime", "audio": {"output": {"voice": "ash"}}}
    assert after.voice_changed
    assert not after.speed_only
    assert sent(after.plan.session())["audio"]["output"]["voice"] == "ash"


def test_another_speed_is_sent_alone() -> None:
    before = planned(speak(voice="alloy", speed=1.2))
    after = changed(before, update("UpdateSpeak", speak=[{"provider": {"voice": "alloy"}}]))
    assert sent(after.session) == {"type": "realtime", "audio": {"output": {"speed": 1.0}}}
    assert after.speed_only
    assert not after.voice_changed
    both = changed(after.plan, update("UpdateSpeak", speak={"provider": {"speed": 0.8}}))
    assert sent(both.session)["audio"]["output"] == {"voice": "marin", "speed": 0.8}
    assert both.voice_changed
    assert not both.speed_only


@conformance("C-216")
def test_unchanged_speech_needs_no_update() -> None:
    before = planned(speak(type="deepgram", model="aura-asteria-en"))
    message = update(
        "UpdateSpeak", speak={"provider": {"type": "deepgram", "model": "aura-2-luna-en"}}
    )
    assert changed(before, message).session is None


@conformance("C-077")
def test_a_listen_update_sends_transcription_and_other_turns() -> None:
    provider = {"model": "flux-general-multi", "language_hints": ["es", "en"]}
    after = changed(
        planned(listen(model="nova-3")), update("UpdateListen", listen={"provider": provider})
    )
    assert sent(after.session) == {
        "type": "realtime",
        "audio": {
            "input": {
                "transcription": {"model": "gpt-transcribe", "languages": ["es", "en"]},
                "turn_detection": {
                    "type": "semantic_vad",
                    "eagerness": "auto",
                    "create_response": True,
                    "interrupt_response": True,
                },
            }
        },
    }


@conformance("C-077")
def test_turns_that_stay_are_not_sent_again() -> None:
    agent = {**listen(model="nova-3", language="en"), "language": "de"}
    after = changed(
        planned(agent), update("UpdateListen", listen={"provider": {"model": "nova-2"}})
    )
    assert sent(after.session)["audio"]["input"] == {
        "transcription": {"model": "gpt-transcribe", "language": "de"}
    }


def test_manual_mode_outlives_a_listen_update() -> None:
    before = planned({"useOpenAIManualAudioCommit": True})
    after = changed(before, update("UpdateListen", listen={"provider": {"model": "flux-x"}}))
    assert after.plan.manual
    assert "turn_detection" not in sent(after.session)["audio"]["input"]


def test_a_listen_update_can_switch_transcription_on_and_off() -> None:
    options = MappingOptions(transcription_model="", transcription_models={"nova-3": GPT})
    off = planned(options=options)
    nothing = changed(off, update("UpdateListen", listen={}), options=options)
    assert nothing.session is None
    nova = {"provider": {"model": "nova-3"}}
    on = changed(off, update("UpdateListen", listen=nova), options=options)
    assert sent(on.session)["audio"]["input"] == {"transcription": {"model": GPT}}
    again = changed(on.plan, update("UpdateListen", listen={}), options=options)
    assert sent(again.session)["audio"]["input"] == {"transcription": None}


def test_a_message_that_is_no_update_is_a_bug_of_the_caller() -> None:
    with pytest.raises(AssertionError):
        change(planned(), voice_agent.KeepAlive(), OPTIONS)  # type: ignore[arg-type]  # the bug


# Agreement with the neighbours -------------------------------------------------------------------


def test_the_sessions_options_are_what_plan_and_change_take() -> None:
    """They are parameters here and keys there; their defaults must agree."""
    theirs = SessionOptions()
    made = plan(
        settings(),
        OPTIONS,
        Dialect.DEEPGRAM,
        strict=theirs.strict,
        context_mode=theirs.context_mode,
        wav_header=theirs.wav_header,
    )
    assert made == planned()
    before, message = planned(think(prompt="A")), update("UpdatePrompt", prompt="B")
    with_theirs = change(
        before, message, OPTIONS, strict=theirs.strict, update_prompt=theirs.update_prompt
    )
    assert with_theirs == change(before, message, OPTIONS)


def test_options_can_be_read_from_a_configuration_file() -> None:
    tree = {
        "models": {"gpt-4o": "gpt-realtime"},
        "turns": {"kind": "off"},
        "agents": {"tea-shop": {"think": {"prompt": "Sell tea."}, "greeting": "Tea?"}},
        "function_endpoints": ["https://fns.test"],
        "passthrough": {"tracing": {"workflow_name": "calls"}},
    }
    options = msgspec.convert(tree, MappingOptions)
    assert options.agents["tea-shop"].greeting == "Tea?"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(options), type=MappingOptions) == options
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"modle": "x"}, MappingOptions)
