"""transcripts: conversations to read. Who said what to whom, in which order, and when.

`python -m tests.transcripts` writes them to tests/transcripts/, one file for each scenario;
test_transcripts holds the code to what is written there. The client is on the left, the upstream
(the simulator) on the right, the session between them; a stretch of audio is one row a way.
"""

import itertools
import math
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from relay.session import SessionOptions
from relay.session.facts import Dialect, UpstreamTraits
from relay.settings import MappingOptions
from relay.simulator.script import parse
from tests.pair import Line, Pair
from tests.returning import Returning

STREAMED = (
    "audio",
    "input_audio_buffer.append",
    "response.output_audio.delta",
    "response.output_audio_transcript.delta",
)
FOLDER = Path(__file__).parent / "transcripts"
TRANSCRIBED = """
transcripts = ["What time is it?", "Stop, that is enough."]

[[turn]]
user = "story"
say = "Once upon a time there was a relay, and it stood between two towns that spoke differently."
"""


def settings(**agent: Any) -> dict[str, Any]:
    think = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "prompt": "Be brief."}
    return {"type": "Settings", "audio": {}, "agent": {"think": think, **agent}}


def with_tools(*names: str) -> dict[str, Any]:
    message = settings()
    message["agent"]["think"]["functions"] = [{"name": name} for name in names]
    return message


def speech(seconds: float) -> bytes:
    """Something for the upstream's voice activity detection, and the silence that ends it."""
    samples = (int(12000 * math.sin(n * 0.05)) for n in range(int(24000 * seconds)))
    return b"".join(struct.pack("<h", sample) for sample in samples) + bytes(2 * 24000)


def says(text: str) -> dict[str, Any]:
    return {"type": "InjectUserMessage", "content": text}


def greeting() -> Pair:
    """The agent speaks first."""
    return Pair().client(settings(greeting="Good morning.")).until("AgentAudioDone")


def text_turn() -> Pair:
    """A written question and its spoken answer."""
    return Pair().client(settings()).until("SettingsApplied").client(says("Hello")).passes(5)


def voice_turn() -> Pair:
    """A spoken question: the user's text comes when it is transcribed, before the assistant's."""
    pair = Pair(parse("transcripts = ['What time is it?']")).client(settings())
    return pair.until("SettingsApplied").speaks(speech(1.0)).passes(5)


def function_round() -> Pair:
    """Two functions are called in one response; one more response uses both results."""
    pair = Pair().client(with_tools("get_time", "get_weather")).until("SettingsApplied")
    pair.client(says("Time and weather, please")).until(
        "FunctionCallRequest", "FunctionCallRequest"
    )
    for request, result in zip(pair.of("FunctionCallRequest"), ("noon", "sunny"), strict=True):
        call = request["functions"][0]
        answer = {"id": call["id"], "name": call["name"], "content": result}
        pair.passes(0.3).client({"type": "FunctionCallResponse", **answer})
    return pair.passes(5)


def barge_in() -> Pair:
    """The user speaks while the agent does: silence at once, and the model remembers only what was
    heard."""
    pair = Pair(parse(TRANSCRIBED)).client(settings()).until("SettingsApplied")
    pair.client(says("Tell me a story")).until("AgentStartedSpeaking").passes(1.5)
    return pair.speaks(speech(0.5)).passes(5)


def injected_agent_message() -> Pair:
    """The application has the agent say something; one refusal, one that waits its turn."""
    pair = Pair().client(settings()).until("SettingsApplied")
    pair.client(says("Hello")).until("AgentStartedSpeaking")
    pair.client({"type": "InjectAgentMessage", "message": "Not now."})
    pair.client({"type": "InjectAgentMessage", "message": "One more thing.", "behavior": "queue"})
    return pair.passes(8)


def updates() -> Pair:
    """The prompt grows, the voice changes before the agent has spoken; acks in order."""
    pair = Pair().client(settings()).until("SettingsApplied")
    pair.client({"type": "UpdatePrompt", "prompt": "Speak like a pirate."})
    pair.client(
        {"type": "UpdateSpeak", "speak": {"provider": {"type": "open_ai", "voice": "shimmer"}}}
    )
    return pair.passes(1)


def component_voice_turn() -> Pair:
    """The same spoken question in the browser component's dialect."""
    pair = Pair(parse("transcripts = ['What time is it?']"), dialect=Dialect.COMPONENT)
    return pair.client(settings()).until("SettingsApplied").speaks(speech(1.0)).passes(5)


def early_input() -> Pair:
    """Everything sent before the upstream is ready is kept, in order; the greeting comes first."""
    pair = Pair(latency_s=0.2).client(settings(greeting="Welcome."))
    pair.client(says("Are you there?")).client({"type": "KeepAlive"})
    return pair.passes(8)


def silent_client() -> Pair:
    """A client that sends nothing for a minute is told, and let go."""
    pair = Pair(options=SessionOptions(client_idle_s=60)).client(settings())
    return pair.until("SettingsApplied").passes(61)


def failing_response() -> Pair:
    """A failure that another try may mend gets one; the client hears of it."""
    fails = '[[turn]]\nnth = 1\nfail = { code = "rate_limit_exceeded", message = "Slow down." }'
    pair = Pair(parse(fails)).client(settings()).until("SettingsApplied")
    return pair.client(says("Hello")).passes(8)


def upstream_lost() -> Pair:
    """The upstream breaks in the middle of an answer: a new one is told what was said, and goes
    on from there."""
    pair = Pair(parse(TRANSCRIBED)).client(settings()).until("SettingsApplied")
    pair.client(says("Tell me a story")).until("AgentStartedSpeaking").passes(0.5)
    return pair.loses_upstream().passes(8)


def old_age() -> Pair:
    """The upstream's session nears its end: the next one is ready before that, and takes over
    when nobody speaks. The client hears nothing of it."""
    pair = Pair(parse("[knobs]\nsession_s = 180\n")).client(settings()).until("SettingsApplied")
    pair.client(says("Hello")).until("LatencyReport").passes(50).client({"type": "KeepAlive"})
    return pair.passes(20).client(says("Still there?")).passes(5)


def client_back() -> Pair:
    """The client is lost while the agent speaks, and back with a bare message: it is welcomed, no
    Settings are applied, what it had not heard was never said, and the next move is the user's."""
    pair = Returning(parse(TRANSCRIBED))
    pair.client(settings()).until("SettingsApplied").client(says("Tell me a story"))
    pair.until("AgentStartedSpeaking").passes(1.5).lost().away(4)
    return pair.back({"type": "KeepAlive"}).passes(1).client(says("Where were we?")).passes(5)


def client_back_with_settings() -> Pair:
    """The client is lost while it runs a function, and sends its Settings again: they are applied
    on top, the call is announced again with its id, and its second answer is ignored."""
    pair = Returning()
    pair.client(with_tools("get_time")).until("SettingsApplied").client(says("What time is it?"))
    pair.until("FunctionCallRequest").lost().away(4).back(with_tools("get_time"))
    pair.until("SettingsApplied", "FunctionCallRequest")
    call = pair.of("FunctionCallRequest")[0]["functions"][0]
    answer = {"id": call["id"], "name": call["name"], "content": "noon"}
    for _ in range(2):
        pair.client({"type": "FunctionCallResponse", **answer})
    return pair.passes(5)


def relay_killed() -> Pair:
    """The relay is killed while the question waits for its answer; another process finds it in the
    store and asks again, once."""
    pair = Returning()
    pair.client(settings()).until("SettingsApplied").client(says("Hello")).until("AgentThinking")
    return pair.killed().away(3).back({"type": "KeepAlive"}).passes(5)


def endpoint_call_lost() -> Pair:
    """The relay is killed while it calls a function on a server: whether that has run nobody knows,
    so it is not run again, and the model is told."""
    message = with_tools("get_time")
    endpoint = {"url": "https://tools.example/time"}
    message["agent"]["think"]["functions"][0]["endpoint"] = endpoint
    pair = Returning(mapping=MappingOptions(function_endpoints=(endpoint["url"],)))
    pair.client(message).until("SettingsApplied").client(says("What time is it?"))
    pair.until("FunctionCallRequest").killed().away(3)
    return pair.back({"type": "KeepAlive"}).passes(5)


def words_lost() -> Pair:
    """The upstream breaks before it has written down what the user said: the next one is told how
    it sounded."""
    pair = Pair().client(settings()).until("SettingsApplied").speaks(speech(0.8)[: 48 * 1450])
    return pair.loses_upstream().passes(6)


def words_late() -> Pair:
    """The upstream's session ends before it has written down what the user said: it is listened to
    for that, while the next one goes on with the answer."""
    script = parse("[knobs]\nsession_s = 30\ntranscription_s = 3\n")
    pair = Pair(script, options=SessionOptions(prepare_before_s=15.0))
    pair.client(settings()).until("SettingsApplied").passes(14.7)
    return pair.speaks(speech(3.2)).passes(6)


def another_voice() -> Pair:
    """The agent's voice changes after it has spoken: the next upstream session has it, and takes
    over in a pause."""
    pair = Pair().client(settings()).until("SettingsApplied").client(says("Hello"))
    pair.until("LatencyReport").client(
        {"type": "UpdateSpeak", "speak": {"provider": {"type": "open_ai", "voice": "shimmer"}}}
    )
    return pair.until("SpeakUpdated").client(says("And now?")).passes(4)


def failover() -> Pair:
    """The upstream breaks and cannot be had again: the next one in order of preference takes over
    in the middle of the conversation."""
    pair = Pair(upstreams=(UpstreamTraits(), UpstreamTraits(model="their-model")))
    pair.client(settings()).until("SettingsApplied").client(says("Hello"))
    pair.until("LatencyReport").passes(2).loses_upstream()
    pair.unreachable = 1
    return pair.passes(3).client(says("Still there?")).passes(4)


def given_up() -> Pair:
    """Three attempts at another upstream fail: the client is told, and let go."""
    pair = Pair().client(settings()).until("SettingsApplied").client(says("Hello"))
    pair.until("LatencyReport").loses_upstream()
    pair.unreachable = 3
    return pair.passes(10)


SCENARIOS: tuple[Callable[[], Pair], ...] = (
    greeting,
    text_turn,
    voice_turn,
    function_round,
    barge_in,
    injected_agent_message,
    updates,
    component_voice_turn,
    early_input,
    silent_client,
    failing_response,
    upstream_lost,
    old_age,
    another_voice,
    words_lost,
    words_late,
    failover,
    given_up,
    client_back,
    client_back_with_settings,
    relay_killed,
    endpoint_call_lost,
)


def written(scenario: Callable[[], Pair]) -> str:
    """The transcript of a scenario, as text."""
    heading = " ".join((scenario.__doc__ or "").split())
    return "\n".join([heading, "", *_shown(scenario().lines)]) + "\n"


def _shown(lines: Iterable[Line]) -> Iterable[str]:
    for streams, group in itertools.groupby(lines, key=lambda line: line.what in STREAMED):
        run = list(group)
        if streams:
            yield from _streamed(run)
        else:
            yield from (_row(line, f"{line.what} {_brief(line.message)}".rstrip()) for line in run)


def _streamed(run: list[Line]) -> Iterable[str]:
    """A stretch of audio: one row for each way it takes."""
    for _, group in itertools.groupby(sorted(run, key=_path), key=_path):
        part = list(group)
        seconds = sum(map(_audio_s, part))
        words = "".join(line.message["delta"] for line in part if "transcript" in line.what)
        said = f", saying {words.strip()!r}" if words else ""
        yield _row(part[0], f"audio until {part[-1].at:.3f}, {seconds:.2f} s{said}")


def _row(line: Line, text: str) -> str:
    indent = "" if line.side == "client" else " " * 14
    return f"{line.at:8.3f}  {indent}{line.way} {text}"


def _path(line: Line) -> int:
    """The way that audio goes: in from the client, on to the upstream, and back."""
    return [("client", ">"), ("upstream", ">"), ("upstream", "<"), ("client", "<")].index(
        (line.side, line.way)
    )


def _audio_s(line: Line) -> float:
    match line.message:
        case float(ms):
            return ms / 1000
        case {"type": "response.output_audio.delta", "delta": str(audio)} | {"audio": str(audio)}:
            return len(audio) * 3 / 4 / 48000
        case _:
            return 0.0


def _brief(message: dict[str, Any]) -> str:
    """What matters for the reader: small values, not ids of events."""
    shown = {k: v for k, v in message.items() if k not in ("type", "event_id")}
    text = ", ".join(f"{k}={_value(v)}" for k, v in shown.items())
    return text if len(text) <= 120 else text[:119] + "…"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(
            f"{k}: {_value(v)}" for k, v in value.items() if v is not None and k != "object"
        )
        return "{" + inside + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in SCENARIOS:
        (FOLDER / f"{each.__name__}.txt").write_text(written(each))
