"""Server-side functions, whole: a client, a relay on real sockets, the simulator as its upstream,
and an HTTP server as the endpoint.
"""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from relay import config, served, server, wire
from relay.config import Config, Functions, Listen, Upstream
from relay.session.options import SessionOptions
from relay.simulator.script import Knobs, Script, ScriptedCall, Turn
from tests import oracle
from tests.http_endpoint import Answering, Exchange, Server, serving
from tests.speech import babble

conformance = pytest.mark.conformance

TIMEOUT_S = 20
RATE = 24000
SCRIPT = Script(
    turn=(
        Turn(user="weather", call=(ScriptedCall(name="weather", arguments={"city": "Oslo"}),)),
        Turn(after_results=True, say="I hear: {results}"),
    ),
    knobs=Knobs(pace=0, think_s=0),
)


class Client:
    """A Deepgram client that hears everything."""

    def __init__(self, leg: wire.Leg) -> None:
        self._leg = leg
        self.heard: list[dict[str, Any]] = []

    def say(self, kind: str, **fields: Any) -> None:
        self._leg.post(json.dumps({"type": kind, **fields}))

    def speak(self, seconds: float) -> None:
        self._leg.post(babble.speech(seconds, RATE))

    async def until(self, kind: str) -> dict[str, Any]:
        """The next message of this type; all others are heard too."""
        while True:
            frame = await self._leg.receive()
            if isinstance(frame, str):
                oracle.check_server_message(frame)
                self.heard.append(json.loads(frame))
                if self.heard[-1]["type"] == kind:
                    return self.heard[-1]

    def warned(self) -> list[str]:
        return [m["code"] for m in self.heard if m["type"] == "Warning"]


@contextlib.asynccontextmanager
async def conversing(endpoint: str, *listed: str, **session: Any) -> AsyncIterator[Client]:
    """A client whose function `weather` has this endpoint, at a relay that lists these URLs and has
    these options of `[session]`."""
    configured = Config(
        listen=Listen(port=0),
        upstream=Upstream(url=config.SIMULATOR),
        functions=Functions(endpoints=listed),
        session=SessionOptions(**session),
        simulator=SCRIPT,
    )
    listeners = await server.open_listeners(configured, {})
    functions = [
        {"name": "weather", "endpoint": {"url": endpoint, "headers": {"authorization": "s"}}}
    ]
    with trio.fail_after(TIMEOUT_S):
        async with (
            server.running(served.build(configured, {}), {}, listeners) as relay,
            wire.dial(f"{relay.urls[0]}/v1/agent/converse") as leg,
        ):
            client = Client(leg)
            client.say("Settings", audio={}, agent={"think": {"functions": functions}})
            await client.until("SettingsApplied")
            yield client


def answering(status: int, body: bytes) -> Answering:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(status, body)

    return answer


class Silent:
    """An endpoint that never answers, and notices when nobody waits for it any more."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.let_go = trio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        self.asked.set()
        await exchange.gone()
        self.let_go.set()


def only_call(endpoint: Server) -> Exchange:
    (exchange,) = endpoint.seen
    return exchange


@conformance("C-171")
async def test_the_relay_calls_and_the_agent_uses_what_it_got() -> None:
    async with (
        serving(answering(200, b'{"celsius": 21}')) as endpoint,
        conversing(f"{endpoint.url}/w", endpoint.url) as client,
    ):
        client.say("InjectUserMessage", content="How is the weather?")
        (asked,) = (await client.until("FunctionCallRequest"))["functions"]
        assert (asked["name"], asked["client_side"]) == ("weather", False)
        # An answer of the client's own is ignored, also one that comes before the endpoint's.
        client.say("FunctionCallResponse", id=asked["id"], name="weather", content="snow")
        answer = await client.until("FunctionCallResponse")
        assert (answer["id"], answer["name"]) == (asked["id"], "weather")
        assert answer["content"] == '{"celsius": 21}'
        while (text := await client.until("ConversationText"))["role"] != "assistant":
            pass
        assert "21" in text["content"]
        assert "snow" not in text["content"]
    called = only_call(endpoint)
    assert (called.method, called.target) == ("POST", "/w")
    assert json.loads(called.body) == {"city": "Oslo"}
    assert called.header("authorization") == "s"
    assert client.warned() == []


@conformance("C-172")
@pytest.mark.parametrize("listed", [(), ("http://127.0.0.1:1",)])
async def test_an_endpoint_that_is_not_listed_is_the_clients_to_call(
    listed: tuple[str, ...],
) -> None:
    async with (
        serving(answering(200, b"{}")) as endpoint,
        conversing(endpoint.url, *listed) as client,
    ):
        assert "weather" in (await client.until("Warning"))["description"]
        client.say("InjectUserMessage", content="How is the weather?")
        (asked,) = (await client.until("FunctionCallRequest"))["functions"]
        assert asked["client_side"]
        client.say("FunctionCallResponse", id=asked["id"], name="weather", content="snow")
        while (text := await client.until("ConversationText"))["role"] != "assistant":
            pass
        assert "snow" in text["content"]
    assert endpoint.connections == 0
    assert client.warned() == ["FUNCTION_CALL_FAILED"]


@conformance("C-171")
async def test_a_failure_is_told_to_the_client_and_to_the_model() -> None:
    async with (
        serving(answering(404, b"no such town")) as endpoint,
        conversing(endpoint.url, endpoint.url) as client,
    ):
        client.say("InjectUserMessage", content="How is the weather?")
        answer = await client.until("FunctionCallResponse")
        assert json.loads(answer["content"]) == {
            "error": "HTTP status 404",
            "status": 404,
            "body": "no such town",
        }
        while (text := await client.until("ConversationText"))["role"] != "assistant":
            pass
        assert "no such town" in text["content"]
    assert client.warned() == ["FUNCTION_CALL_FAILED"]


@conformance("C-228")
async def test_an_answer_that_is_too_long_is_truncated_with_a_marker_and_a_warning() -> None:
    async with (
        serving(answering(200, b"x" * 300_000)) as endpoint,
        conversing(endpoint.url, endpoint.url) as client,
    ):
        client.say("InjectUserMessage", content="How is the weather?")
        answer = await client.until("FunctionCallResponse")
        assert answer["content"].endswith("x [truncated]")
        assert len(answer["content"]) == 256 * 1024
    assert client.warned() == ["FUNCTION_CALL_FAILED"]


@conformance("C-259")
async def test_a_call_ends_with_its_connection_and_is_not_made_again() -> None:
    silent = Silent()
    async with serving(silent) as endpoint:
        async with conversing(endpoint.url, endpoint.url) as client:
            client.say("InjectUserMessage", content="How is the weather?")
            await silent.asked.wait()
        with trio.fail_after(TIMEOUT_S):
            await silent.let_go.wait()
    only_call(endpoint)


@conformance("C-173")
async def test_a_call_in_flight_holds_up_no_speech_and_can_be_voided_by_it() -> None:
    silent = Silent()
    async with (
        serving(silent) as endpoint,
        conversing(endpoint.url, endpoint.url, cancel_calls_on_barge_in=True) as client,
    ):
        client.say("InjectUserMessage", content="How is the weather?")
        (asked,) = (await client.until("FunctionCallRequest"))["functions"]
        await silent.asked.wait()
        client.speak(1.0)
        await client.until("UserStartedSpeaking")
        (void,) = (await client.until("FunctionCallCancelled"))["functions"]
        assert void["id"] == asked["id"]
        await silent.let_go.wait()
    assert not any(m["type"] == "FunctionCallResponse" for m in client.heard)
    only_call(endpoint)
