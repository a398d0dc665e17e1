"""The oracle bites: every kind of defect fails, and everything we can send passes."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from msgspec import Struct

from relay import realtime as rt
from relay import voice_agent as va
from tests.oracle import (
    COMPONENT_MESSAGES,
    check_client_event,
    check_client_message,
    check_server_event,
    check_server_message,
)

PCM = rt.AudioFormat(type="audio/pcm", rate=24000)
SPOKEN = rt.Item(
    id="item_2",
    type="message",
    object="realtime.item",
    status="completed",
    role="assistant",
    content=[rt.ContentPart(type="output_audio", audio=b"\x00\x01", transcript="Hi.")],
)
TYPED = rt.Item(
    type="message", role="user", content=[rt.ContentPart(type="input_text", text="Hello.")]
)
SEEN = rt.Item(
    type="message",
    role="user",
    content=[rt.ContentPart(type="input_image", image_url="data:image/png,", detail="low")],
)
CALL = rt.Item(type="function_call", call_id="call_1", name="f", arguments="{}")
ANSWER = rt.Item(type="function_call_output", call_id="call_1", output="ok")
MCP = [
    rt.Item(
        id="item_3",
        type="mcp_call",
        server_label="s",
        name="f",
        arguments="{}",
        error=rt.McpError(type="http_error", code=500, message="m"),
    ),
    rt.Item(
        type="mcp_list_tools",
        server_label="s",
        tools=[rt.McpTool(name="f", input_schema={"type": "object"}, description="d")],
    ),
    rt.Item(id="i", type="mcp_approval_request", server_label="s", name="f", arguments="{}"),
    rt.Item(id="i", type="mcp_approval_response", approval_request_id="a", approve=True, reason=""),
]
FUNCTION = rt.Tool(name="f", description="d", parameters={"type": "object", "properties": {}})
SESSION = rt.Session(
    instructions="Be brief.",
    output_modalities=["audio"],
    audio=rt.SessionAudio(
        input=rt.AudioInput(
            format=PCM,
            noise_reduction=rt.NoiseReduction(type="near_field"),
            transcription=rt.Transcription(model="gpt-transcribe", language="en", keywords=["a"]),
            turn_detection=rt.TurnDetection(
                type="server_vad",
                threshold=0.5,
                prefix_padding_ms=300,
                silence_duration_ms=500,
                idle_timeout_ms=None,
                create_response=True,
                interrupt_response=True,
            ),
        ),
        output=rt.AudioOutput(format=PCM, voice="marin", speed=1.25),
    ),
    tools=[
        FUNCTION,
        rt.Tool(
            type="mcp",
            server_label="s",
            server_url="https://example.org",
            allowed_tools=["f"],
            require_approval={"never": {"tool_names": ["f"]}},
        ),
    ],
    tool_choice=rt.ToolChoice(type="function", name="f"),
    parallel_tool_calls=True,
    reasoning=rt.Reasoning(effort="low"),
    max_output_tokens=4096,
    truncation=rt.Truncation(
        retention_ratio=0.8, token_limits=rt.TokenLimits(post_instructions=8000)
    ),
    prompt=rt.Prompt(id="pmpt_1", version="2", variables={"city": "Oslo"}),
    include=["item.input_audio_transcription.logprobs"],
    tracing=rt.Tracing(workflow_name="w", group_id="g", metadata={"a": "b"}),
)
SEMANTIC = rt.Session(
    audio=rt.SessionAudio(
        input=rt.AudioInput(
            format=rt.AudioFormat(type="audio/pcmu"),
            turn_detection=rt.TurnDetection(type="semantic_vad", eagerness="high"),
        ),
        output=rt.AudioOutput(format=rt.AudioFormat(type="audio/pcma"), voice=rt.Voice(id="v")),
    ),
    tool_choice="auto",
    max_output_tokens="inf",
    truncation="auto",
    tracing="auto",
)
CLEARED = rt.Session(
    instructions="",
    tools=[],
    audio=rt.SessionAudio(
        input=rt.AudioInput(turn_detection=None, transcription=None, noise_reduction=None)
    ),
)

CLIENT_EVENTS: list[rt.ClientEvent] = [
    rt.SessionUpdate(session=SESSION, event_id="u1_1"),
    rt.SessionUpdate(session=SEMANTIC),
    rt.SessionUpdate(session=CLEARED),
    rt.InputAudioBufferAppend(b"\x00\x01\x02"),
    rt.InputAudioBufferCommit(),
    rt.InputAudioBufferClear(event_id="u1_2"),
    rt.OutputAudioBufferClear(),
    *(rt.ConversationItemCreate(item) for item in (TYPED, SPOKEN, SEEN, CALL, ANSWER, *MCP)),
    rt.ConversationItemCreate(TYPED, previous_item_id="root"),
    rt.ConversationItemRetrieve("item_1"),
    rt.ConversationItemDelete("item_1"),
    rt.ConversationItemTruncate("item_1", 0, 1500),
    rt.ResponseCreate(),
    rt.ResponseCreate(
        rt.ResponseParams(
            conversation="auto",
            input=[],
            instructions="Say it.",
            output_modalities=["audio"],
            audio=rt.SessionAudio(output=rt.AudioOutput(format=PCM, voice="marin")),
            tools=[FUNCTION],
            tool_choice="none",
            parallel_tool_calls=False,
            reasoning=rt.Reasoning(effort="high"),
            max_output_tokens=100,
            metadata={"relay": "inject", "n": "1"},
            prompt=rt.Prompt(id="p"),
        )
    ),
    rt.ResponseCreate(rt.ResponseParams(conversation="none", input=[TYPED])),
    rt.ResponseCancel(),
    rt.ResponseCancel("resp_1"),
]

E: Any = {"event_id": "event_1"}
I: Any = {**E, "item_id": "item_2"}  # noqa: E741  short, for a table
O: Any = {**I, "response_id": "resp_1", "output_index": 0}  # noqa: E741  short, for a table
C: Any = {**O, "content_index": 0}
USAGE = rt.Usage(
    total_tokens=3,
    input_tokens=1,
    output_tokens=2,
    input_token_details=rt.TokenDetails(
        text_tokens=1, cached_tokens=0, cached_tokens_details=rt.TokenDetails(text_tokens=0)
    ),
    output_token_details=rt.TokenDetails(audio_tokens=2),
)
RESPONSE = rt.Response(
    id="resp_1",
    object="realtime.response",
    status="failed",
    status_details=rt.StatusDetails(
        type="failed", error=rt.ErrorDetail(type="server_error", code="x", message="m")
    ),
    conversation_id="conv_1",
    output=[SPOKEN, CALL],
    output_modalities=["audio"],
    audio=rt.SessionAudio(output=rt.AudioOutput(format=PCM, voice="marin")),
    max_output_tokens="inf",
    metadata={"a": "b"},
    usage=USAGE,
)
TOKENS = rt.TranscriptionUsage(
    type="tokens",
    total_tokens=2,
    input_tokens=1,
    output_tokens=1,
    input_token_details=rt.TokenDetails(audio_tokens=1, text_tokens=0),
)
SECONDS = rt.TranscriptionUsage(type="duration", seconds=1.5)
LOGPROBS = [rt.LogProb(token="a", logprob=-0.5, bytes=[97])]
LIVE = rt.Session(id="sess_1", object="realtime.session", expires_at=1_800_000_000, model="m")

SERVER_EVENTS: list[rt.ServerEvent] = [
    rt.Error(
        error=rt.ErrorDetail(
            type="invalid_request_error", code="c", message="m", param="p", event_id="u1_1"
        ),
        **E,
    ),
    rt.SessionCreated(session=LIVE, **E),
    rt.SessionUpdated(session=SESSION, **E),
    rt.ConversationCreated(
        conversation=rt.Conversation(id="conv_1", object="realtime.conversation"), **E
    ),
    rt.ConversationItemAdded(item=SPOKEN, previous_item_id="item_1", **E),
    rt.ConversationItemCreated(item=TYPED, **E),
    rt.ConversationItemDone(item=CALL, **E),
    rt.ConversationItemRetrieved(item=ANSWER, **E),
    rt.ConversationItemDeleted(**I),
    rt.ConversationItemTruncated(content_index=0, audio_end_ms=1500, **I),
    rt.ConversationItemInputAudioTranscriptionDelta(delta="a", logprobs=LOGPROBS, **I),
    rt.ConversationItemInputAudioTranscriptionCompleted(
        transcript="a", usage=TOKENS, languages=[rt.Language("en")], logprobs=LOGPROBS, **I
    ),
    rt.ConversationItemInputAudioTranscriptionCompleted(transcript="a", usage=SECONDS, **I),
    rt.ConversationItemInputAudioTranscriptionFailed(error=rt.ErrorDetail(message="m"), **I),
    rt.ConversationItemInputAudioTranscriptionSegment(
        id="seg_1", text="a", speaker="A", start=0.0, end=1.5, **I
    ),
    rt.InputAudioBufferSpeechStarted(audio_start_ms=100, **I),
    rt.InputAudioBufferSpeechStopped(audio_end_ms=1100, **I),
    rt.InputAudioBufferCommitted(previous_item_id=None, **I),
    rt.InputAudioBufferCleared(**E),
    rt.InputAudioBufferTimeoutTriggered(audio_start_ms=0, audio_end_ms=5000, **I),
    rt.InputAudioBufferDtmfEventReceived(event="9", received_at=1_800_000_000),  # no event_id
    rt.OutputAudioBufferStarted(response_id="resp_1", **E),
    rt.OutputAudioBufferStopped(response_id="resp_1", **E),
    rt.OutputAudioBufferCleared(response_id="resp_1", **E),
    rt.ResponseCreated(response=rt.Response(id="resp_1", status="in_progress"), **E),
    rt.ResponseDone(response=RESPONSE, **E),
    rt.ResponseOutputItemAdded(response_id="resp_1", item=CALL, **E),
    rt.ResponseOutputItemDone(response_id="resp_1", item=MCP[0], **E),
    rt.ResponseContentPartAdded(part=rt.ContentPart(type="audio"), **C),
    rt.ResponseContentPartDone(part=rt.ContentPart(type="text", text="Hi."), **C),
    rt.ResponseOutputTextDelta(delta="Hi", **C),
    rt.ResponseOutputTextDone(text="Hi.", **C),
    rt.ResponseOutputAudioDelta(delta=b"\x00\x01\x02", **C),
    rt.ResponseOutputAudioDone(**C),
    rt.ResponseOutputAudioTranscriptDelta(delta="Hi", **C),
    rt.ResponseOutputAudioTranscriptDone(transcript="Hi.", **C),
    rt.ResponseFunctionCallArgumentsDelta(call_id="call_1", delta="{", **O),
    rt.ResponseFunctionCallArgumentsDone(call_id="call_1", name="f", arguments="{}", **O),
    rt.ResponseMcpCallArgumentsDelta(delta="{", obfuscation="x", **O),
    rt.ResponseMcpCallArgumentsDone(arguments="{}", **O),
    rt.ResponseMcpCallInProgress(**I),
    rt.ResponseMcpCallCompleted(**I),
    rt.ResponseMcpCallFailed(**I),
    rt.McpListToolsInProgress(**I),
    rt.McpListToolsCompleted(**I),
    rt.McpListToolsFailed(**I),
    rt.RateLimitsUpdated(
        rate_limits=[rt.RateLimit(name="tokens", limit=9, remaining=8, reset_seconds=0.5)], **E
    ),
]

THINK = va.Think(
    provider=va.ThinkProvider(type="open_ai", model="gpt-4o-mini", temperature=0.7),
    endpoint=va.Endpoint(url="https://example.org", headers={"a": "b"}),
    prompt="Be brief.",
    context_length="max",
    functions=[
        va.Function(
            name="f",
            description="d",
            parameters={"type": "object", "default": None},
            endpoint=va.FunctionEndpoint(url="https://example.org", method="post"),
        )
    ],
)
SPEAK = va.Speak(provider=va.SpeakProvider(type="deepgram", model="aura-2-thalia-en", speed=1.1))
FLUX = va.ListenProvider(
    type="deepgram", version="v2", model="flux-general-en", eot_threshold=0.7, eot_timeout_ms=5000
)
THINK_LIVE = va.ThinkLive(
    provider=va.ThinkLiveProvider(type="deepgram", version="v1", restricted_terms=["a"])
)
PAST = [
    va.ContextMessage(type="History", role="user", content="Hello."),
    va.ContextMessage(
        type="History",
        function_calls=[
            va.ContextFunctionCall(
                id="c", name="f", client_side=True, arguments="{}", response="ok"
            )
        ],
    ),
]

CLIENT_MESSAGES: list[va.ClientMessage] = [
    va.Settings(
        tags=["a"],
        experimental=False,
        flags=va.Flags(history=True),
        mip_opt_out=True,
        audio=va.Audio(
            input=va.AudioInput(encoding="linear16", sample_rate=16000),
            output=va.AudioOutput(encoding="linear16", sample_rate=24000, container="none"),
        ),
        agent=va.Agent(
            language="en",
            context=va.Context(messages=PAST),
            listen=va.Listen(provider=FLUX),
            think=[THINK],
            think_live=THINK_LIVE,
            speak=SPEAK,
            greeting="Hello!",
        ),
    ),
    va.Settings(audio=va.Audio(), agent="a-uuid"),
    va.UpdateListen(
        va.Listen(
            provider=va.ListenProvider(
                type="deepgram", version="v1", model="nova-3", language="en", smart_format=True
            )
        )
    ),
    va.UpdateThink(THINK),
    va.UpdateThink([THINK]),
    va.UpdateThinkLive(THINK_LIVE),
    va.UpdateSpeak([SPEAK]),
    va.UpdatePrompt("Be kind."),
    va.InjectUserMessage("Hello."),
    va.InjectAgentMessage(message="Hello.", behavior="queue"),
    va.InjectAgentMessage(is_dynamic=True),
    va.FunctionCallResponse(id="c", name="f", content="ok"),
    va.ForceEndTurn(),
    va.KeepAlive(),
    va.CustomToThinkProvider({"a": None}),
]

SERVER_MESSAGES: list[va.ServerMessage] = [
    va.Welcome("an-id"),
    va.SettingsApplied(),
    va.ConversationText("user", "Hello.", languages=["en"], languages_hinted=["en"]),
    va.ConversationText("assistant", "Hi.", conversational_behavior="default"),
    va.UserStartedSpeaking(),
    va.AgentThinking(""),
    va.AgentStartedSpeaking(total_latency=1.0, tts_latency=0.0, ttt_latency=0.25),
    va.AgentAudioDone(),
    va.LatencyReport(),
    va.LatencyReport(
        stt_latency=0.1,
        ttt_token_latency=0.1,
        ttt_text_latency=0.1,
        ttt_tool_latency=0.1,
        ttt_thinking_latency=0.1,
        tts_latency=0.1,
        total_latency=0.1,
    ),
    va.FunctionCallRequest([va.FunctionCall("c", "f", "{}", True, thought_signature="s")]),
    va.FunctionCallResponse(id="c", name="f", content="ok"),
    va.FunctionCallCancelled([va.CancelledFunction("c", "f")]),
    va.PromptUpdated(),
    va.SpeakUpdated(),
    va.ThinkUpdated(),
    va.ListenUpdated(),
    va.ThinkLiveUpdated(),
    va.InjectionRefused("The user is speaking."),
    va.History(role="user", content="Hello."),
    va.History(function_calls=[va.FunctionCallRecord("c", "f", True, "{}", "ok")]),
    va.Error(description="Why.", code="INTERNAL_SERVER_ERROR"),
    va.Warning(description="Why.", code="THINK_REQUEST_FAILED"),
    va.FrustrationDetected(1, False),
    va.CustomFromThinkProvider({"a": None}),
    va.AgentDone(),
    va.Transcript(
        transcript="Hello.",
        is_final=True,
        speech_final=True,
        start=0.5,
        duration=1.0,
        alternatives=[va.Alternative("Hello.", 1.0)],
    ),
    va.UtteranceEnd(last_word_end=1.5),
]


def hears(frame: Any) -> None:
    check_server_message(frame, component=True)


Check = Callable[[Any], None]
CODECS: list[tuple[str, Check, Callable[[Any], str], list[Any], Any]] = [
    ("client event", check_client_event, rt.encode, CLIENT_EVENTS, rt.ClientEvent),
    ("server event", check_server_event, rt.encode, SERVER_EVENTS, rt.ServerEvent),
    ("client message", check_client_message, va.encode, CLIENT_MESSAGES, va.ClientMessage),
    ("server message", hears, va.encode, SERVER_MESSAGES, va.ServerMessage),
]
SAMPLES = [
    pytest.param(check, encode(struct), id=f"{direction}: {type(struct).__name__}")
    for direction, check, encode, structs, _ in CODECS
    for struct in structs
]


# What we can send passes -------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "frame"), SAMPLES)
def test_what_we_can_send_passes(check: Check, frame: str) -> None:
    check(frame)
    check(json.loads(frame))


@pytest.mark.parametrize(
    ("structs", "union"), [case[3:] for case in CODECS], ids=[case[0] for case in CODECS]
)
def test_no_struct_is_missing_from_the_table(structs: list[Struct], union: Any) -> None:
    assert {type(struct) for struct in structs} == set(get_args(union))


# Every defect fails ------------------------------------------------------------------------------

FREE_FORM = {"parameters", "input_schema", "annotations", "metadata", "variables", "headers"}
"""Objects whose keys are anybody's: a new key there is no defect."""


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all objects inside, the outermost included, whose keys the protocol fixes."""
    if isinstance(value, dict):
        yield path
        for key, inner in value.items():
            if key not in FREE_FORM and not (key == "content" and isinstance(inner, dict)):
                yield from objects(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from objects(inner, (*path, index))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


@pytest.mark.parametrize(("check", "frame"), SAMPLES)
def test_an_unknown_key_fails_at_every_depth(check: Check, frame: str) -> None:
    sample = json.loads(frame)
    for path in objects(sample):
        damaged = copy.deepcopy(sample)
        at(damaged, path)["misspelt"] = "x"
        with pytest.raises(AssertionError, match="misspelt"):
            check(damaged)


@pytest.mark.parametrize(("check", "frame"), SAMPLES)
def test_a_misspelt_key_fails_at_every_depth(check: Check, frame: str) -> None:
    sample = json.loads(frame)
    for path in objects(sample):
        for key in at(sample, path):
            damaged = copy.deepcopy(sample)
            owner = at(damaged, path)
            owner[key + "s_"] = owner.pop(key)
            with pytest.raises(AssertionError):
                check(damaged)


@pytest.mark.parametrize(("check", "frame"), SAMPLES)
def test_a_number_as_a_string_and_an_array_for_anything_else_fail(check: Check, frame: str) -> None:
    sample = json.loads(frame)
    for path in objects(sample):
        for key, value in at(sample, path).items():
            if key in FREE_FORM or (key == "content" and sample["type"].startswith("__")):
                continue  # any JSON, or an object of it
            wrong = str(value) if isinstance(value, (int, float)) else [[12.5]]
            damaged = copy.deepcopy(sample)
            at(damaged, path)[key] = wrong
            with pytest.raises(AssertionError):
                check(damaged)


@pytest.mark.parametrize("check", [case[1] for case in CODECS], ids=[case[0] for case in CODECS])
@pytest.mark.parametrize(
    "frame", [{}, {"type": None}, {"type": 5}, {"type": "Nobody"}, "[]", '"Welcome"', "5"]
)
def test_what_is_no_message_fails(check: Check, frame: Any) -> None:
    with pytest.raises(AssertionError):
        check(frame)


def session(**fields: Any) -> dict[str, Any]:
    return {"type": "session.update", "session": {"type": "realtime", **fields}}


def heard(**fields: Any) -> dict[str, Any]:
    return session(audio={"input": fields})


def item(**fields: Any) -> dict[str, Any]:
    return {"type": "conversation.item.create", "item": {"type": "message", **fields}}


def agent(**fields: Any) -> dict[str, Any]:
    return {"type": "Settings", "audio": {}, "agent": fields}


BAD: list[tuple[Check, Any, str]] = [
    # OpenAI, client events
    (check_client_event, {"type": "session.update"}, "session: Field required"),
    (check_client_event, {"type": "session.update", "session": {}}, "type"),
    (check_client_event, session(voice="marin"), "session.voice: unknown"),
    (check_client_event, session(temperature=0.8), "session.temperature: unknown"),
    (check_client_event, session(id="sess_1"), "session.id: unknown"),
    (check_client_event, session(output_modalities=["speech"]), "output_modalities"),
    (check_client_event, session(reasoning={"effort": "none"}), "effort"),
    (check_client_event, session(instructions=None), "session.instructions: null"),
    (check_client_event, session(tools=[{"type": "function"}]), "tools.0.name: required"),
    (check_client_event, heard(format={"type": "audio/pcm", "rate": 16000}), "rate"),
    (check_client_event, heard(format={"type": "audio/pcm"}), "rate: required"),
    (check_client_event, heard(format={"type": "pcm16"}), "type"),
    (check_client_event, heard(format=None), "format: null"),
    (check_client_event, heard(turn_detection={"type": "server_vad", "eagerness": "low"}), "eager"),
    (check_client_event, heard(turn_detection={"type": "flux"}), "type"),
    (check_client_event, heard(turn_detection={"threshold": 0.5}), "type"),
    (check_client_event, item(role="user", content=[{"type": "text", "text": "x"}]), "content"),
    (check_client_event, item(role="assistant", content=[{"type": "input_text"}]), "content"),
    (check_client_event, item(role="user", content=[{"text": "x"}]), "type: required"),
    (check_client_event, item(role="agent", content=[]), "role"),
    (check_client_event, item(role="user"), "content"),
    (
        check_client_event,
        {
            "type": "conversation.item.truncate",
            "item_id": "i",
            "content_index": 0,
            "audio_end_ms": 1.5,
        },
        "audio_end_ms",
    ),
    (check_client_event, {"type": "input_audio_buffer.append", "audio": "YQ"}, "base64"),
    (check_client_event, {"type": "input_audio_buffer.append", "audio": "Y\nQ=="}, "base64"),
    (check_client_event, {"type": "response.create", "event_id": None}, "event_id: null"),
    (check_client_event, {"type": "session.updated", "session": {}}, "direction"),
    (check_client_event, '{"type":"response.create","type":"response.create"}', "twice"),
    # OpenAI, server events
    (check_server_event, {"type": "input_audio_buffer.cleared"}, "event_id: Field required"),
    (check_server_event, {"type": "response.audio.delta", "event_id": "e"}, "direction"),
    (
        check_server_event,
        {"type": "response.created", "event_id": "e", "response": {"status": "in_progress"}},
        "response.id: required",
    ),
    (
        check_server_event,
        {"type": "response.done", "event_id": "e", "response": {"id": "r", "status": "over"}},
        "status",
    ),
    (
        check_server_event,
        {"type": "session.created", "event_id": "e", "session": {"type": "realtime", "id": 5}},
        "session.id",
    ),
    (
        check_server_event,
        {
            "type": "session.created",
            "event_id": "e",
            "session": {"type": "realtime", "client_secret": "x"},
        },
        "client_secret",
    ),
    (
        check_server_event,
        json.loads(rt.encode(rt.ResponseOutputAudioDelta(delta=b"", **C))) | {"delta": "YQ"},
        "base64",
    ),
    # Deepgram, server messages
    (check_server_message, {"type": "Welcome"}, "request_id"),
    (check_server_message, {"type": "Welcome", "request_id": None}, "request_id"),
    (check_server_message, {"type": "AgentThinking"}, "content"),
    (
        check_server_message,
        {"type": "ConversationText", "role": "agent", "content": "x"},
        "role: 'agent' is none of",
    ),
    (
        check_server_message,
        {
            "type": "ConversationText",
            "role": "user",
            "content": "x",
            "conversational_behavior": "shouted",
        },
        "conversational_behavior",
    ),
    (
        check_server_message,
        {"type": "ConversationText", "role": "user", "content": "x", "languages": None},
        "languages: null",
    ),
    (check_server_message, {"type": "LatencyReport", "stt_latency": None}, "null"),
    (
        check_server_message,
        {"type": "AgentStartedSpeaking", "total_latency": 1.0, "tts_latency": 0.5},
        "ttt_latency",
    ),
    (check_server_message, {"type": "History", "role": "user"}, "content"),
    (check_server_message, {"type": "History"}, "History"),
    (
        check_server_message,
        {"type": "History", "role": "user", "content": "x", "function_calls": []},
        "function_calls",
    ),
    (check_server_message, {"type": "Error", "description": "", "code": "X"}, "description"),
    (check_server_message, {"type": "Warning", "description": "x", "code": " "}, "code"),
    (check_server_message, {"type": "Error", "description": "x"}, "code"),
    (
        check_server_message,
        {"type": "FunctionCallRequest", "functions": [{"id": "c", "name": "f", "arguments": {}}]},
        "arguments",
    ),
    (check_server_message, {"type": "AgentThinking", "content": "x" * 2**20}, "bytes"),
    (check_server_message, {"type": "AgentThinking", "content": "é" * 2**19}, "bytes"),
    (check_server_message, {"type": "UserStoppedSpeaking"}, "direction"),
    (check_server_message, {"type": "KeepAlive"}, "direction"),
    # The component's
    (hears, {"type": "UtteranceEnd", "channel": [0], "last_word_end": 1.0}, "channel"),
    (hears, {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": -1.0}, "last_word_end"),
    (hears, {"type": "AgentDone", "reason": "x"}, "reason"),
    # Deepgram, client messages
    (check_client_message, {"type": "Settings", "audio": {}}, "agent"),
    (check_client_message, {"type": "Settings", "agent": {}}, "audio"),
    (check_client_message, agent(greeting=None), "agent.greeting: null"),
    (check_client_message, agent(think={"prompt": "x"}), "provider"),
    (
        check_client_message,
        agent(think={"provider": {"type": "open_ai", "model": "m", "reasoning_mode": "much"}}),
        "reasoning_mode",
    ),
    (
        check_client_message,
        agent(think={"provider": {"type": "nobody", "model": "m"}}),
        "should be 'open_ai'",
    ),
    (check_client_message, agent(think={"provider": {"type": "open_ai", "model": 5}}), "no string"),
    (
        check_client_message,
        agent(listen={"provider": {"type": "deepgram", "model": "nova-3"}}),
        "version: required",
    ),
    (check_client_message, agent(context={"messages": [{"role": "user", "content": "x"}]}), "type"),
    (
        check_client_message,
        {
            "type": "Settings",
            "audio": {"input": {"encoding": "morse", "sample_rate": 16000}},
            "agent": {},
        },
        "audio.input.encoding",
    ),
    (check_client_message, {"type": "InjectAgentMessage", "content": "x"}, "message"),
    (
        check_client_message,
        {"type": "InjectAgentMessage", "message": "x", "behavior": "loud"},
        "behavior",
    ),
]


@pytest.mark.parametrize(("check", "frame", "names"), BAD, ids=lambda case: str(case)[:70])
def test_a_known_defect_fails_and_is_named(check: Check, frame: Any, names: str) -> None:
    with pytest.raises(AssertionError, match=names):
        check(frame)


@pytest.mark.parametrize("name", sorted(COMPONENT_MESSAGES))
def test_the_components_messages_are_for_the_component_only(name: str) -> None:
    [frame] = [va.encode(m) for m in SERVER_MESSAGES if type(m).__name__ == name]
    check_server_message(frame, component=True)
    with pytest.raises(AssertionError, match="direction"):
        check_server_message(frame)
