"""The simulator on a real socket, driven by the vendor's own client; and its faults.

The vendor's clients block or want asyncio, so they run in a thread.
"""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import trio
from openai.resources.realtime.realtime import RealtimeConnection
from trio_util import AsyncValue

from relay import wire
from relay.simulator.script import parse
from relay.simulator.server import Options, Served, serve_simulator
from tests.oracle import check_server_event
from tests.simulated import Event, calls, input_text, only, said, silence, tone, tool, types

DEADLINE_S = 20

# The vendor's synchronous client uses its WebSocket library in a way that library calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a:DeprecationWarning")


@asynccontextmanager
async def simulator(script: str = "", api_key: str | None = None) -> AsyncIterator[Served]:
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            options = Options(script=parse(script), api_key=api_key)
            yield await nursery.start(serve_simulator, options)
            nursery.cancel_scope.cancel()


class Official:
    """The vendor's synchronous client, with every event held to the oracle."""

    def __init__(self, connection: RealtimeConnection) -> None:
        self._connection = connection

    def send(self, kind: str, **fields: Any) -> None:
        event: Any = {"type": kind, **fields}
        self._connection.send(event)

    def until(self, kind: str) -> list[Event]:
        events: list[Event] = []
        while kind not in types(events):
            frame = self._connection.recv_bytes().decode()
            check_server_event(frame)
            # What the client makes of it; it would raise if it could not.
            assert self._connection.parse_event(frame).type == json.loads(frame)["type"]
            events.append(json.loads(frame))
        return events

    def hear(self, audio: bytes) -> None:
        for start in range(0, len(audio), 4800):
            chunk = base64.b64encode(audio[start : start + 4800]).decode()
            self.send("input_audio_buffer.append", audio=chunk)

    def text(self, text: str) -> None:
        item = {"type": "message", "role": "user", "content": [input_text(text)]}
        self.send("conversation.item.create", item=item)


async def official(served: Served, converse: Callable[[Official], None]) -> None:
    """Hold a conversation with the vendor's client, in a thread."""

    def run() -> None:
        base = served.url.removesuffix("/realtime")
        with (
            openai.OpenAI(api_key="sk-test", websocket_base_url=base) as client,
            client.realtime.connect(model="gpt-realtime") as connection,
        ):
            talker = Official(connection)
            assert types(talker.until("session.created")) == ["session.created"]
            converse(talker)

    await trio.to_thread.run_sync(run)


async def test_the_official_client_holds_a_written_turn() -> None:
    def converse(client: Official) -> None:
        client.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
        assert client.until("session.updated")[0]["session"]["output_modalities"] == ["text"]
        client.text("hello")
        client.send("response.create")
        assert said(client.until("response.done")) == "You said: hello"

    async with simulator() as served:
        await official(served, converse)


async def test_the_official_client_holds_a_turn_with_two_tools() -> None:
    def converse(client: Official) -> None:
        tools = [tool("get_time"), tool("get_weather")]
        client.send("session.update", session={"type": "realtime", "tools": tools})
        client.text("What time is it, and how is the weather?")
        client.send("response.create")
        done = client.until("response.done")
        assert [name for name, _ in calls(done)] == ["get_time", "get_weather"]
        for item in only(done, "response.done")["response"]["output"]:
            output = {"type": "function_call_output", "call_id": item["call_id"], "output": "fine"}
            client.send("conversation.item.create", item=output)
        client.send("response.create")
        assert said(client.until("response.done")) == "time: fine; weather: fine."

    async with simulator() as served:
        await official(served, converse)


async def test_the_official_client_holds_a_spoken_turn() -> None:
    def converse(client: Official) -> None:
        transcription = {"transcription": {"model": "gpt-transcribe"}}
        client.send(
            "session.update", session={"type": "realtime", "audio": {"input": transcription}}
        )
        client.hear(silence(0.5) + tone(1.5) + silence(0.7))
        events = client.until("response.done")
        kinds = types(events)
        assert kinds.index("input_audio_buffer.speech_started") < kinds.index("response.created")
        completed = only(events, "conversation.item.input_audio_transcription.completed")
        assert completed["transcript"] == "hello there"
        assert said(events) == "You said: hello there"

    async with simulator('transcripts = ["hello there"]') as served:
        await official(served, converse)


async def test_the_official_client_interrupts_and_truncates() -> None:
    def converse(client: Official) -> None:
        client.text("tell me a long story " * 20)
        client.send("response.create")
        spoken = client.until("response.output_audio.delta")
        client.hear(tone(0.5))
        interrupted = client.until("response.done")
        details = only(interrupted, "response.done")["response"]["status_details"]
        assert details == {"type": "cancelled", "reason": "turn_detected"}
        item_id = only(spoken, "response.output_item.added")["item"]["id"]
        client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=50)
        assert client.until("conversation.item.truncated")[-1]["item_id"] == item_id
        client.hear(silence(0.7))
        assert only(client.until("response.done"), "response.done")["response"]["status"] == (
            "completed"
        )

    async with simulator() as served:
        await official(served, converse)


async def test_the_official_asynchronous_client_holds_a_turn() -> None:
    async def converse(base: str) -> str:
        async with (
            openai.AsyncOpenAI(api_key="sk-test", websocket_base_url=base) as client,
            client.realtime.connect(model="gpt-realtime") as connection,
        ):
            await connection.conversation.item.create(
                item={
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "hello"}],
                }
            )
            await connection.response.create()
            async for event in connection:
                if event.type == "response.output_audio_transcript.done":
                    return event.transcript
        raise AssertionError("the connection ended early")

    async with simulator() as served:
        base = served.url.removesuffix("/realtime")
        text = await trio.to_thread.run_sync(lambda: asyncio.run(converse(base)))
        assert text == "You said: hello"


# Handshakes --------------------------------------------------------------------------------------


async def status(url: str, **headers: str) -> int | None:
    """The HTTP status of a refusal, or None if the server answers with session.created."""
    try:
        async with wire.dial(url, headers=headers) as leg:
            assert json.loads(await leg.receive())["type"] == "session.created"
    except wire.DialFailed as failed:
        return failed.status
    return None


async def test_only_the_path_and_model_of_the_api_open_a_session() -> None:
    async with simulator() as served:
        assert await status(f"{served.url}?model=gpt-realtime") is None
        assert await status(served.url) == 400
        assert await status(f"ws://127.0.0.1:{served.port}/v1/other?model=x") == 404


async def test_a_key_is_asked_for_when_one_is_configured() -> None:
    async with simulator(api_key="sk-right") as served:
        url = f"{served.url}?model=gpt-realtime"
        assert await status(url) == 401
        assert await status(url, Authorization="Bearer sk-wrong") == 401
        assert await status(url, Authorization="Bearer sk-right") is None


@pytest.mark.parametrize("refusal", [401, 429, 503])
async def test_the_first_handshakes_are_refused_if_the_script_says_so(refusal: int) -> None:
    async with simulator(f"[faults]\nconnections = 2\nrefuse_status = {refusal}") as served:
        url = f"{served.url}?model=gpt-realtime"
        assert [await status(url) for _ in range(3)] == [refusal, refusal, None]


# Ends and other faults ---------------------------------------------------------------------------


async def events_until_gone(leg: wire.Leg) -> tuple[list[str], int | None]:
    kinds: list[str] = []
    while True:
        try:
            kinds.append(json.loads(await leg.receive())["type"])
        except wire.LegGone as gone:
            return kinds, gone.code


ASK = '{"type": "response.create"}'


async def test_a_connection_is_closed_after_as_many_events_as_the_script_says() -> None:
    script = "[faults]\nclose_after_events = 3\nclose_code = 1013"
    async with simulator(script) as served, wire.dial(f"{served.url}?model=m") as leg:
        leg.post(ASK)
        assert await events_until_gone(leg) == (
            ["session.created", "response.created", "rate_limits.updated"],
            1013,
        )


async def test_a_connection_is_dropped_without_a_close_frame_if_the_script_says_so() -> None:
    script = "[faults]\nclose_after_events = 2\ndrop = true"
    async with simulator(script) as served, wire.dial(f"{served.url}?model=m") as leg:
        leg.post(ASK)
        kinds, code = await events_until_gone(leg)
        assert len(kinds) <= 2
        assert code is None


async def test_a_silent_server_stays_open_and_says_nothing() -> None:
    script = "[knobs]\npace = 0.0\nsession_s = 0.5\n[faults]\nsilent_after_events = 1"
    async with simulator(script) as served, wire.dial(f"{served.url}?model=m") as leg:
        leg.post(ASK)
        assert await events_until_gone(leg) == (["session.created"], 1001)


async def test_session_created_comes_late_if_the_script_says_so() -> None:
    async with simulator("[faults]\ncreated_delay_s = 0.3") as served:
        began = trio.current_time()
        assert await status(f"{served.url}?model=m") is None
        assert trio.current_time() - began >= 0.3


async def test_a_session_that_is_too_old_gets_its_error_and_close_1001() -> None:
    script = "[knobs]\nsession_s = 0.1"
    async with simulator(script) as served, wire.dial(f"{served.url}?model=m") as leg:
        assert await events_until_gone(leg) == (["session.created", "error"], 1001)


async def test_every_connection_is_a_conversation_of_its_own() -> None:
    async with simulator() as served:
        url = f"{served.url}?model=m"
        async with wire.dial(url) as one, wire.dial(url) as two:
            sessions = [json.loads(await leg.receive())["session"]["id"] for leg in (one, two)]
            assert len(set(sessions)) == 2


async def test_binary_frames_and_nonsense_are_answered_with_errors() -> None:
    async with simulator() as served, wire.dial(f"{served.url}?model=m") as leg:
        for frame in (b"\x00\x01", "nonsense", b'{"type": "response.cancel"}'):
            leg.post(frame)
        kinds = [json.loads(await leg.receive())["type"] for _ in range(4)]
        assert kinds == ["session.created", "error", "error", "error"]


class Living(trio.abc.Instrument):
    """How many tasks there are, by the name of what they run."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.number: AsyncValue[int] = AsyncValue(0)

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.names[task.name] += 1
        self.number.value += 1

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.names[task.name] -= 1
        self.number.value -= 1


@pytest.mark.parametrize("how", ["goodbye", "drop"])
async def test_a_lost_client_leaves_no_task_behind(how: str) -> None:
    async with simulator() as served:
        living = Living()
        trio.lowlevel.add_instrument(living)
        async with wire.dial(f"{served.url}?model=m") as leg:
            leg.post(ASK)
            while json.loads(await leg.receive())["type"] != "response.output_audio.delta":
                pass
            assert living.number.value > 0
            if how == "drop":
                leg.drop()
            else:
                await leg.goodbye()
        await living.number.wait_value(0)
        trio.lowlevel.remove_instrument(living)
        assert not +living.names
