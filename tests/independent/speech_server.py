"""speech_server: PyPI `speech-to-speech`'s own Realtime server, with models made of arithmetic.

The server, its sessions, its conversation, the stages that turn a transcript into a request and a
model's output into events: all of that is the package's own. Only the three stages that would load
a model are replaced, by handlers on the same queues, fed with the same messages as those of
`speech_to_speech.s2s_pipeline`: `Ear` for voice activity and recognition, `Model` for the language
model, `Voice` for synthesis. It knows nothing of the relay.

    python speech_server.py SLOTS

runs in an environment of its own (the dependency group `independent`), serves so many conversations
at a time, prints its port, and ends when its standard input does.
"""

# The package has no types, and is not installed where the tests are:
# mypy: disable-error-code="import-not-found, import-untyped, misc"

import functools
import re
import socket
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from queue import Queue
from typing import Any

import uvicorn
from openai.types.realtime import (
    RealtimeConversationItemAssistantMessage,
    RealtimeConversationItemFunctionCall,
    RealtimeConversationItemFunctionCallOutput,
    RealtimeConversationItemUserMessage,
)
from openai.types.realtime.realtime_conversation_item_assistant_message import Content
from openai.types.responses.response_function_tool_call import ResponseFunctionToolCall
from speech_to_speech.api.openai_realtime.pipeline_unit import PipelineUnit
from speech_to_speech.api.openai_realtime.service import RealtimeService
from speech_to_speech.api.openai_realtime.websocket_router import create_app
from speech_to_speech.baseHandler import BaseHandler
from speech_to_speech.LLM.lm_output_processor import LMOutputProcessor
from speech_to_speech.pipeline.cancel_scope import CancelScope
from speech_to_speech.pipeline.events import SpeechStartedEvent, SpeechStoppedEvent
from speech_to_speech.pipeline.history import ResponseHistory
from speech_to_speech.pipeline.messages import (
    AUDIO_RESPONSE_DONE,
    EndOfResponse,
    GenerateResponseRequest,
    LLMResponseChunk,
    Transcription,
    TTSInput,
)
from speech_to_speech.pipeline.speculative_turns import SpeculativeTurnTracker
from speech_to_speech.STT.transcription_notifier import TranscriptionNotifier

RATE = 16_000
"""The pipeline's, in Hz; its audio comes in chunks of 512 samples."""
CHUNK_MS = 32
LOUD = 1000
"""A chunk whose loudest sample is above this holds speech."""
SPEECH_CHUNKS = 4
SILENCE_CHUNKS = 10
"""So many chunks in a row begin and end a turn."""
MS_PER_WORD = 200
RESULT = "The function says"


class Ear(BaseHandler):
    """Speech is what is loud; what was said is how long it was."""

    def setup(self, text_output_queue: Queue[Any], turns: SpeculativeTurnTracker) -> None:
        self.text_output_queue = text_output_queue
        self.turns = turns
        self.on_session_end()

    def on_session_end(self) -> None:
        self.chunks = self.loud = self.quiet = self.began = 0
        self.turn: tuple[str, int] | None = None

    def process(self, heard: tuple[bytes, Any]) -> Iterator[Transcription]:
        samples = array("h", heard[0])
        is_loud = max(map(abs, samples)) > LOUD
        self.chunks += 1
        self.loud = self.loud + 1 if is_loud else 0
        self.quiet = 0 if is_loud else self.quiet + 1
        if self.turn is None and self.loud == SPEECH_CHUNKS:
            self.began = self.chunks - SPEECH_CHUNKS
            turn, revision, reopened = self.turns.speech_started(self.began * CHUNK_MS)
            self.turn = turn, revision
            self.text_output_queue.put(
                SpeechStartedEvent(
                    audio_start_ms=self.began * CHUNK_MS,
                    turn_id=turn,
                    turn_revision=revision,
                    reopened=reopened,
                )
            )
        elif self.turn is not None and self.quiet == SILENCE_CHUNKS:
            turn, revision = self.turn
            self.turn = None
            ended_ms = (self.chunks - SILENCE_CHUNKS) * CHUNK_MS
            spoken_s = ended_ms / 1000 - self.began * CHUNK_MS / 1000
            self.text_output_queue.put(
                SpeechStoppedEvent(
                    duration_s=spoken_s,
                    audio_end_ms=ended_ms,
                    turn_id=turn,
                    turn_revision=revision,
                )
            )
            self.turns.segment_finalized(ended_ms)
            yield Transcription(
                text=f"Speech of {spoken_s:.1f} seconds.",
                turn_id=turn,
                turn_revision=revision,
                speech_stopped_at_s=time.perf_counter(),
            )


class Model(BaseHandler):
    """Says what it is told to say, asks for the time, tells the result, or repeats the user."""

    def setup(self, cancel_scope: CancelScope) -> None:
        self.cancel_scope = cancel_scope

    def process(self, request: GenerateResponseRequest) -> Iterator[LLMResponseChunk]:
        chat = request.runtime_config.chat
        anchor = chat.history_anchor_id()
        common = {
            "turn_id": request.turn_id,
            "turn_revision": request.turn_revision,
            "cancel_generation": self.cancel_scope.generation,
            "response_key": request.response_key,
        }
        said: list[Any] = []
        if _last(request) == "Fail.":
            yield EndOfResponse(error="The model is out of order.", **common)
            return
        for output in _answer(request):
            said.append(_remembered(output))
            is_call = isinstance(output, ResponseFunctionToolCall)
            history = ResponseHistory.capture(chat, said, after_item_id=anchor)
            yield LLMResponseChunk(
                text="" if is_call else output,
                tools=[output] if is_call else [],
                runtime_config=request.runtime_config,
                response=request.response,
                history=history if is_call else None,
                prefetch_transaction=request.prefetch_transaction,
                **common,
            )
        if request.prefetch_transaction is not None:
            request.prefetch_transaction.complete(lambda: None)
        yield EndOfResponse(
            history=ResponseHistory.capture(chat, said, after_item_id=anchor, complete=True),
            input_tool_call_ids=chat.tool_output_call_ids(),
            **common,
        )


def _answer(request: GenerateResponseRequest) -> Iterator[str | ResponseFunctionToolCall]:
    told = request.response.instructions if request.response is not None else None
    if told and (quoted := re.search(r'"(.*)"', told, re.DOTALL)):
        yield quoted[1]
        return
    text = _last(request)
    if text.startswith(RESULT):
        yield text
    elif "time" in text:
        yield "Let me look."
        yield ResponseFunctionToolCall(
            type="function_call", call_id=f"call_{time.monotonic_ns()}", name="time", arguments="{}"
        )
    else:
        yield "You said:"
        yield text


def _last(request: GenerateResponseRequest) -> str:
    """What there is to answer: the user's last words, or a function's result."""
    for item in reversed(request.runtime_config.chat.copy().buffer):
        if isinstance(item, RealtimeConversationItemFunctionCallOutput):
            return f"{RESULT} {item.output}."
        if isinstance(item, RealtimeConversationItemUserMessage):
            return " ".join(part.text or "" for part in item.content)
    return "nothing"


def _remembered(output: str | ResponseFunctionToolCall) -> Any:
    if isinstance(output, ResponseFunctionToolCall):
        return RealtimeConversationItemFunctionCall(
            type="function_call",
            call_id=output.call_id,
            name=output.name,
            arguments=output.arguments,
        )
    return RealtimeConversationItemAssistantMessage(
        type="message", role="assistant", content=[Content(type="output_text", text=output)]
    )


class Voice(BaseHandler):
    """A buzz as long as the words. A text that says it is endless is spoken until it is cancelled,
    in real time, as a slow synthesis would be."""

    def setup(self, cancel_scope: CancelScope) -> None:
        self.cancel_scope = cancel_scope

    def process(self, spoken: TTSInput | EndOfResponse) -> Iterator[bytes]:
        if isinstance(spoken, EndOfResponse):
            yield AUDIO_RESPONSE_DONE
        elif "endless" in spoken.text:
            while not self.cancel_scope.is_stale(spoken.cancel_generation):
                yield _buzz(100)
                if self.stop_event.wait(0.1):
                    return
        else:
            yield _buzz(MS_PER_WORD * len(spoken.text.split()))


def _buzz(ms: int) -> bytes:
    samples = RATE * ms // 1000
    return array("h", (4000 if n // 40 % 2 else -4000 for n in range(samples))).tobytes()


def main() -> None:
    stop = threading.Event()
    pool = [_pipeline(index, stop) for index in range(int(sys.argv[1]))]
    stages = [handler for unit in pool for handler in unit.handlers]
    threads = [threading.Thread(target=stage.run) for stage in stages]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(pool, stop), log_level="warning"))
    serving = threading.Thread(target=functools.partial(server.run, sockets=[listener]))
    for thread in (*threads, serving):
        thread.start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
    stop.set()
    server.should_exit = True
    for thread in (serving, *threads):
        thread.join()


def _pipeline(index: int, stop: threading.Event) -> PipelineUnit:
    """The queues and stages of `s2s_pipeline._build_pipeline_unit`."""
    queues: list[Queue[Any]] = [Queue() for _ in range(7)]
    heard, transcribed, prompts, written, spoken, out, events = queues
    cancel_scope, turns = CancelScope(), SpeculativeTurnTracker()
    should_listen = threading.Event()
    stages: list[Any] = [
        (Ear, heard, transcribed, {"text_output_queue": events, "turns": turns}),
        (TranscriptionNotifier, transcribed, prompts, {"text_output_queue": events}),
        (Model, prompts, written, {"cancel_scope": cancel_scope}),
        (
            LMOutputProcessor,
            written,
            spoken,
            {"speculative_turns": turns, "text_output_queue": events},
        ),
        (Voice, spoken, out, {"cancel_scope": cancel_scope}),
    ]
    return PipelineUnit(
        index=index,
        service=RealtimeService(prompts, should_listen, speculative_turns=turns),
        cancel_scope=cancel_scope,
        should_listen=should_listen,
        response_playing=threading.Event(),
        input_queue=heard,
        output_queue=out,
        text_output_queue=events,
        text_prompt_queue=prompts,
        handlers=[stage(stop, source, sink, setup_kwargs=kw) for stage, source, sink, kw in stages],
    )


if __name__ == "__main__":
    main()
