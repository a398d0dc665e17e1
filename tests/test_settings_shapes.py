"""Settings as real clients send them: each is accepted, and what goes up is what it should be.

The shapes (keys, encodings, kinds of provider), not the texts, are those of the official SDKs'
examples, of telephony bridges and of the browser component. They are told apart by what they do
differently.
"""

import json
from typing import Any

import msgspec
import pytest

from relay import realtime, voice_agent
from relay.settings import Dialect, MappingOptions, Plan, plan
from tests.oracle import check_client_event

FUNCTION = {
    "name": "get_weather",
    "description": "Current weather",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string"},
            "unit": {"type": "string", "enum": ["fahrenheit", "celsius"], "default": "celsius"},
        },
        "required": ["location"],
    },
}


class Shape(msgspec.Struct, frozen=True):
    name: str
    audio: dict[str, Any]
    agent: dict[str, Any]
    expected: dict[str, Any]
    """Paths in the session object, and what stands there; None: nothing does."""
    others: dict[str, Any] = {}
    model: str = "gpt-realtime-2.1"
    dialect: Dialect = Dialect.DEEPGRAM


TWILIO = {
    "input": {"encoding": "mulaw", "sample_rate": 8000},
    "output": {"encoding": "mulaw", "sample_rate": 8000, "container": "none"},
}
BROWSER = {
    "input": {"encoding": "linear16", "sample_rate": 16000},
    "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
}
NOVA = {"provider": {"type": "deepgram", "model": "nova-3"}}
MINI = {"type": "open_ai", "model": "gpt-4o-mini"}
AURA = {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}}

PCM, PCMU, PCMA = "audio/pcm", "audio/pcmu", "audio/pcma"
INPUT, OUTPUT = "audio.input.format.type", "audio.output.format.type"
TURNS, WORDS = "audio.input.turn_detection", "audio.input.transcription"

SHAPES = [
    Shape(
        "python sdk: microphone at 44.1 kHz, no output",
        {"input": {"encoding": "linear16", "sample_rate": 44100}},
        {
            "listen": {"provider": {"type": "deepgram", "model": "nova-3", "smart_format": True}},
            "think": {"provider": {**MINI, "temperature": 0.7}, "prompt": "You help."},
            "speak": {"provider": {"type": "deepgram", "model": "aura-2-asteria-en"}},
        },
        {INPUT: PCM, OUTPUT: PCM, "instructions": "You help.", "tools": None},
    ),
    Shape(
        "python sdk: nulls where nothing is set, whole floats as integers",
        {"input": {"encoding": "linear16", "sample_rate": 24000.0}, "output": None},
        {
            "language": None,
            "context": None,
            "listen": {"provider": {**NOVA["provider"], "version": "v1", "keyterms": None}},
            "think": {
                "provider": {**MINI, "temperature": 1, "reasoning_mode": None},
                "endpoint": None,
                "functions": None,
                "prompt": "You help.",
                "context_length": None,
            },
            "speak": {"provider": {**AURA["provider"], "speed": 1}, "endpoint": None},
            "greeting": None,
        },
        {INPUT: PCM, "instructions": "You help.", "audio.output.speed": None},
        {"tags": None, "experimental": False, "mip_opt_out": False, "flags": {"history": None}},
    ),
    Shape(
        "python sdk: flux without a version, for ForceEndTurn",
        {"input": {"encoding": "linear16", "sample_rate": 44100}},
        {
            "listen": {"provider": {"type": "deepgram", "model": "flux-general-en"}},
            "think": {"provider": MINI, "prompt": "Reply briefly."},
            "speak": AURA,
        },
        {f"{TURNS}.type": "semantic_vad", f"{TURNS}.eagerness": "auto"},
    ),
    Shape(
        "python sdk: flux with hints in the older spelling and the wrong version",
        {"input": {"encoding": "linear16", "sample_rate": 16000}},
        {
            "listen": {
                "provider": {
                    "version": "v1",
                    "type": "deepgram",
                    "model": "flux-general-multi",
                    "language_hint": ["en", "es"],
                    "eot_threshold": 0.7,
                    "eot_timeout_ms": 5000,
                }
            },
            "think": {"provider": MINI},
            "speak": AURA,
        },
        {f"{TURNS}.type": "semantic_vad", f"{WORDS}.languages": ["en", "es"]},
    ),
    Shape(
        "python sdk: voices with fallback",
        {"input": {"encoding": "linear16", "sample_rate": 24000}},
        {
            "language": "en",
            "listen": {"provider": {**NOVA["provider"], "keyterms": ["hello", "goodbye"]}},
            "think": [{"provider": MINI, "prompt": "One."}, {"provider": {"type": "anthropic"}}],
            "speak": [
                {"provider": {"type": "open_ai", "model": "tts-1", "voice": "shimmer"}},
                {
                    "provider": {"type": "eleven_labs", "model_id": "eleven_turbo_v2_5"},
                    "endpoint": {
                        "url": "https://tts.test/stream",
                        "headers": {"authorization": "Bearer {{OPENAI_API_KEY}}"},
                    },
                },
            ],
        },
        {
            "instructions": "One.",
            "audio.output.voice": "shimmer",
            f"{WORDS}.language": "en",
            f"{WORDS}.keywords": ["hello", "goodbye"],
        },
    ),
    Shape(
        "python sdk: history, functions, flags and tags",
        {"input": {"encoding": "linear16", "sample_rate": 16000}},
        {
            "language": "en",
            "context": {
                "messages": [
                    {"type": "History", "role": "user", "content": "Hello"},
                    {"type": "History", "role": "assistant", "content": "Hello! Which city?"},
                ]
            },
            "listen": NOVA,
            "think": {"provider": MINI, "functions": [FUNCTION]},
            "speak": AURA,
            "greeting": "What would you like to know?",
        },
        {"tools": [{"type": "function", **FUNCTION}], "instructions": None},
        {"flags": {"history": True}, "tags": ["history-example"]},
    ),
    Shape(
        "javascript sdk: any key order, container left out, top-level switches",
        {
            "output": {"sample_rate": 16000, "encoding": "linear16"},
            "input": {"sample_rate": 24000, "encoding": "linear16"},
        },
        {
            "greeting": "Hello! How can I help?",
            "speak": {"provider": {"model": "aura-2-thalia-en", "type": "deepgram"}},
            "think": {"prompt": "You help.", "provider": {"model": "gpt-4o-mini"}},
            "listen": {"provider": {"model": "nova-3", "language": "multi", "type": "deepgram"}},
        },
        {OUTPUT: PCM, f"{WORDS}.language": None},
        {"experimental": True, "mip_opt_out": True},
    ),
    Shape(
        "recipe: output container wav",
        {
            "input": {"encoding": "linear16", "sample_rate": 24000},
            "output": {"encoding": "linear16", "sample_rate": 24000, "container": "wav"},
        },
        {"language": "en", "listen": NOVA, "think": {"provider": MINI}, "speak": AURA},
        {OUTPUT: PCM},
    ),
    Shape(
        "browser agent: rate of the AudioContext, groq",
        {"input": {"encoding": "linear16", "sample_rate": 48000}, "output": {}},
        {
            "listen": NOVA,
            "think": {"provider": {"type": "groq", "model": "openai/gpt-oss-20b"}},
            "speak": AURA,
        },
        {INPUT: PCM, OUTPUT: PCM},
        {"experimental": True},
    ),
    Shape(
        "telephony: mulaw both ways, functions of the client",
        TWILIO,
        {
            "language": "en",
            "listen": {"provider": {**NOVA["provider"], "keyterms": ["oxacillin"]}},
            "think": {
                "provider": {**MINI, "temperature": 0.7},
                "prompt": "You are a pharmacist.",
                "functions": [FUNCTION, {"name": "end_call", "description": "Hang up"}],
            },
            "speak": AURA,
            "greeting": "Hello, how may I help you?",
        },
        {INPUT: PCMU, OUTPUT: PCMU, "audio.input.format.rate": None},
    ),
    Shape(
        "telephony: alaw in Europe, language by locale, Flux in a hurry",
        {
            "input": {"encoding": "alaw", "sample_rate": 8000},
            "output": {"encoding": "alaw", "sample_rate": 8000},
        },
        {
            "listen": {
                "provider": {
                    "type": "deepgram",
                    "version": "v2",
                    "model": "flux-general-multi",
                    "language_hints": ["de-DE"],
                    "eager_eot_threshold": 0.4,
                    "eot_threshold": 0.8,
                }
            },
            "think": {"provider": {"type": "google", "model": "gemini-2.5-flash"}},
            "speak": {
                "provider": {
                    "type": "cartesia",
                    "model_id": "sonic-2",
                    "voice": {"mode": "id", "id": "a167e0f3"},
                    "language": "de",
                },
                "endpoint": {"url": "https://api.cartesia.test", "headers": {"x-api-key": "k"}},
            },
        },
        {INPUT: PCMA, OUTPUT: PCMA, f"{TURNS}.eagerness": "high", f"{WORDS}.languages": ["de"]},
    ),
    Shape(
        "telephony: softswitch at 8 kHz linear",
        {
            "input": {"encoding": "linear16", "sample_rate": 8000},
            "output": {"encoding": "linear16", "sample_rate": 8000, "container": "none"},
        },
        {"listen": NOVA, "think": {"provider": MINI, "prompt": "You help."}, "speak": AURA},
        {INPUT: PCM, OUTPUT: PCM},
    ),
    Shape(
        "receptionist: a language model of its own, extra recogniser options",
        {
            "input": {"encoding": "linear16", "sample_rate": 24000},
            "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
        },
        {
            "language": "en",
            "listen": {
                "provider": {
                    "type": "deepgram",
                    "model": "nova-3-general",
                    "language": "en",
                    "smart_format": True,
                    "interim_results": True,
                }
            },
            "think": {
                "provider": {"type": "custom"},
                "endpoint": {"url": "https://llm.test/chat", "headers": {"authorization": "k"}},
                "context_length": 20000,
                "prompt": "You are a receptionist.",
                "functions": [
                    {**FUNCTION, "endpoint": {"url": "https://fn.test", "method": "POST"}},
                ],
            },
            "speak": AURA,
            "greeting": "Thank you for calling.",
        },
        {f"{WORDS}.language": "en", "truncation": None},
    ),
    Shape(
        "bedrock and polly, with credentials",
        {"input": {"encoding": "linear16", "sample_rate": 24000}},
        {
            "listen": NOVA,
            "think": {
                "provider": {
                    "type": "aws_bedrock",
                    "model": "anthropic/claude-3-5-haiku",
                    "credentials": {"type": "sts", "region": "us-east-1", "session_token": "t"},
                },
                "endpoint": {"url": "https://bedrock.test"},
            },
            "speak": {
                "provider": {
                    "type": "aws_polly",
                    "voice": "Matthew",
                    "language_code": "en-US",
                    "engine": "standard",
                    "credentials": {"type": "iam", "region": "r", "secret_access_key": "s"},
                },
                "endpoint": {"url": "https://polly.test/v1/speech"},
            },
        },
        {"audio.output.voice": "marin"},
    ),
    Shape(
        "a client that knows the upstream",
        {"input": {"encoding": "linear16", "sample_rate": 24000}},
        {
            "listen": {"provider": {"type": "deepgram", "model": "gpt-4o-mini-transcribe"}},
            "think": {
                "provider": {
                    "type": "open_ai",
                    "model": "gpt-realtime-2.1-mini",
                    "reasoning_mode": "low",
                }
            },
            "speak": {"provider": {"type": "open_ai", "model": "tts-1", "voice": "cedar"}},
        },
        {
            f"{WORDS}.model": "gpt-4o-mini-transcribe",
            "reasoning.effort": "low",
            "audio.output.voice": "cedar",
        },
        model="gpt-realtime-2.1-mini",
    ),
    Shape(
        "component: first connection",
        BROWSER,
        {
            "language": "en",
            "idleTimeoutMs": 10000,
            "listen": {"provider": {"type": "deepgram", "model": "nova-2"}},
            "think": {"provider": MINI, "prompt": "You are helpful.", "functions": [FUNCTION]},
            "speak": {"provider": {"type": "deepgram", "model": "aura-asteria-en"}},
            "greeting": "Hello!",
        },
        {f"{TURNS}.type": "server_vad", f"{TURNS}.idle_timeout_ms": None},
        dialect=Dialect.COMPONENT,
    ),
    Shape(
        "component: reconnection with a bare context and every extension",
        BROWSER,
        {
            "language": "en",
            "idleTimeoutMs": -1,
            "listen": {"provider": {"type": "deepgram", "model": "nova-2"}},
            "think": {
                "provider": MINI,
                "prompt": "You are helpful.",
                "functions": [{**FUNCTION, "client_side": True}],
                "toolChoice": {"type": "function", "name": "get_weather"},
                "outputModalities": ["text", "audio"],
                "maxOutputTokens": 100000,
                "managedPrompt": {"id": " pmpt_1 ", "version": "", "variables": {"a": "b"}},
            },
            "speak": {"provider": {"type": "deepgram", "model": "aura-asteria-en"}},
            "sessionAudioOutput": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "speed": 1.1,
                "voice": "verse",
            },
            "context": [
                {"type": "History", "role": "user", "content": "Hello"},
                {"type": "History", "role": "assistant", "content": "Hello!"},
            ],
        },
        {
            "tool_choice": {"type": "function", "name": "get_weather"},
            "output_modalities": ["audio"],
            "max_output_tokens": 4096,
            "prompt": {"id": "pmpt_1", "variables": {"a": "b"}},
            "audio.output.voice": "verse",
            "audio.output.speed": 1.1,
        },
        dialect=Dialect.COMPONENT,
    ),
]


@pytest.mark.conformance("C-264", "C-208", "C-067")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_settings_in_the_wild(shape: Shape) -> None:
    message = {"type": "Settings", "audio": shape.audio, "agent": shape.agent, **shape.others}
    decoded = voice_agent.decode_client(json.dumps(message))
    assert isinstance(decoded, voice_agent.Settings), decoded
    made = plan(decoded, MappingOptions(), Dialect.DEEPGRAM)
    assert isinstance(made, Plan), made
    assert (made.model, made.dialect) == (shape.model, shape.dialect)

    frame = realtime.encode(realtime.SessionUpdate(session=made.session()))
    check_client_event(frame)
    session = json.loads(frame)["session"]
    assert {path: _at(session, path) for path in shape.expected} == shape.expected
    for item in made.context:
        check_client_event(realtime.encode(realtime.ConversationItemCreate(item=item)))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Plan) == made


def _at(session: Any, path: str) -> Any:
    for step in path.split("."):
        session = session.get(step) if session is not None else None
    return session
