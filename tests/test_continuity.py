"""A client that is lost, and comes back to a real relay over real sockets.

What it comes back to is told by the tap before the upstream: a new session is told what was said.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import trio

from relay import wire
from relay.simulator.script import Knobs, Script
from tests.clients.house import House, open_house
from tests.clients.tap import Record

AGENT = "/v1/agent/converse"
SETTINGS: dict[str, Any] = {
    "type": "Settings",
    "audio": {},
    "agent": {"think": {"prompt": "Be brief.", "functions": [{"name": "get_time"}]}},
}
FAST = Script(knobs=Knobs(pace=0, think_s=0, transcription_s=0))
SDK: dict[str, Any] = {"x-deepgram-session-id": "0d9f6b3e-8f3b-4f4e-9f0a-2b7a4a2f9c11"}
KEEP_ALIVE = {"type": "KeepAlive"}


def says(text: str) -> dict[str, Any]:
    return {"type": "InjectUserMessage", "content": text}


class Client:
    """One connection, with all that it was told."""

    def __init__(self, leg: wire.Leg) -> None:
        self.leg = leg
        self.heard: list[dict[str, Any]] = []

    def say(self, message: dict[str, Any]) -> Self:
        self.leg.post(msgspec.json.encode(message).decode())
        return self

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            frame = await self.leg.receive()
            if isinstance(frame, str):
                self.heard.append(msgspec.json.decode(frame))
                if self.heard[-1]["type"] == kind:
                    return self.heard[-1]

    async def end(self) -> wire.LegGone:
        """How the relay closes."""
        with pytest.raises(wire.LegGone) as gone:
            await self.until("")
        return gone.value

    async def asks(self, text: str) -> Self:
        """A whole turn."""
        self.say(says(text))
        await self.until("LatencyReport")
        return self

    @property
    def id(self) -> str:
        found: str = self.heard[0]["request_id"]
        return found

    def types(self) -> list[str]:
        return [message["type"] for message in self.heard]


@contextlib.asynccontextmanager
async def home(**options: Any) -> AsyncIterator[House]:
    with trio.fail_after(20):
        async with open_house(FAST, **options) as house:
            yield house


@contextlib.asynccontextmanager
async def connected(
    house: House,
    query: str = "",
    *,
    path: str = AGENT,
    protocols: tuple[str, ...] = (),
    **headers: str,
) -> AsyncIterator[Client]:
    """A connection that has its Welcome."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{house.relay}{path}{query}"
    async with wire.dial(url, headers=named, subprotocols=protocols) as leg:
        client = Client(leg)
        await client.until("Welcome")
        yield client


async def lost(house: House, question: str, **how: Any) -> Client:
    """A conversation of one turn whose client vanished without a word."""
    async with connected(house, **how) as client:
        client.say(SETTINGS)
        await client.until("SettingsApplied")
        await client.asks(question)
        client.leg.drop()
    await house.upstream.records[-1].ended.wait()
    return client


def told(record: Record) -> list[str]:
    """What an upstream session was told of the users' words, replayed or fresh."""
    events = [msgspec.json.decode(frame) for frame in record.sent]
    items = [e["item"] for e in events if e["type"] == "conversation.item.create"]
    return [
        part["text"] for item in items if item.get("role") == "user" for part in item["content"]
    ]


@pytest.mark.conformance("C-249", "C-254", "C-257")
async def test_an_id_of_any_welcome_resumes_also_over_another_path_and_without_settings() -> None:
    async with home() as house:
        first = await lost(house, "One")
        async with connected(house, f"?x=y&resume={first.id}") as second:
            await second.asks("Two")
            assert second.id != first.id
            assert "SettingsApplied" not in second.types()
            second.leg.drop()
        async with connected(house, f"?resume={first.id}") as third:
            await third.say(SETTINGS).until("SettingsApplied")
            await third.asks("Three")
            assert third.types()[:2] == ["Welcome", "SettingsApplied"]
        assert [told(record) for record in house.upstream.records] == [
            ["One"],
            ["One", "Two"],
            ["One", "Two", "Three"],
        ]


@pytest.mark.conformance("C-251")
@pytest.mark.parametrize("in_browser", [False, True])
async def test_the_header_resumes_a_client_that_does_not_repeat_its_settings(
    in_browser: bool,
) -> None:
    name, value = next(iter(SDK.items()))
    how: dict[str, Any] = dict(SDK)
    if in_browser:
        how = {"protocols": ("token", "k", name, value)}
    async with home() as house:
        await lost(house, "One", **how)
        async with connected(house, **how) as back:
            await back.asks("Two")
        async with connected(house, **how) as another:
            await another.say(SETTINGS).until("SettingsApplied")
            await another.asks("Three")
        assert [told(record) for record in house.upstream.records] == [
            ["One"],
            ["One", "Two"],
            ["Three"],
        ]


@pytest.mark.conformance("C-251")
async def test_audio_is_a_first_message_too() -> None:
    async with home() as house:
        await lost(house, "One", **SDK)
        async with connected(house, **SDK) as back:
            back.leg.post(bytes(960))
            await back.asks("Two")
        assert told(house.upstream.records[-1]) == ["One", "Two"]


@pytest.mark.conformance("C-253")
async def test_equal_settings_resume_where_that_is_wanted() -> None:
    async with home(session__resume_by_header="equal") as house:
        await lost(house, "One", **SDK)
        async with connected(house, **SDK) as back:
            await back.say(dict(reversed(SETTINGS.items()))).until("SettingsApplied")
            await back.asks("Two")
            back.leg.drop()
        assert told(house.upstream.records[-1]) == ["One", "Two"]
        async with connected(house, **SDK) as other:
            await other.say(SETTINGS | {"audio": {"output": {"encoding": "mulaw"}}}).until(
                "SettingsApplied"
            )
            await other.asks("Three")
        assert told(house.upstream.records[-1]) == ["Three"]


@pytest.mark.conformance("C-250")
@pytest.mark.parametrize("code", [1000, 1001, 4000])
async def test_after_a_close_frame_there_is_nothing_to_come_back_to(code: int) -> None:
    async with home() as house:
        async with connected(house) as client:
            await client.say(SETTINGS).until("SettingsApplied")
            await client.leg.goodbye(code)
        await house.upstream.records[-1].ended.wait()
        async with connected(house, f"?resume={client.id}") as back:
            await back.say(SETTINGS).until("SettingsApplied")
            await back.asks("Two")
        assert told(house.upstream.records[-1]) == ["Two"]


@pytest.mark.conformance("C-249")
async def test_the_window_passes() -> None:
    async with home(session__resume_window_s=0.2) as house:
        first = await lost(house, "One")
        await trio.sleep(0.4)  # the window is what is tested
        async with connected(house, f"?resume={first.id}") as back:
            await back.say(SETTINGS).until("SettingsApplied")
            await back.asks("Two")
        assert told(house.upstream.records[-1]) == ["Two"]


@pytest.mark.conformance("C-023")
async def test_who_comes_back_to_what_had_to_make_room_is_told_that_settings_are_missing() -> None:
    """As anybody whose claim finds nothing: this is a new session (4.9)."""
    options = {"session__max_parked_bytes": 1, "session__settings_deadline_s": 0.2}
    async with home(**options) as house:
        first = await lost(house, "One")
        async with connected(house, f"?resume={first.id}") as back:
            back.say(KEEP_ALIVE)
            await back.until("Error")
            assert back.types() == ["Welcome", "Error"]
            assert back.heard[-1]["code"] == "CLIENT_MESSAGE_TIMEOUT"
            with pytest.raises(wire.LegGone) as gone:
                await back.leg.receive()
            assert gone.value.code == 1000
        async with connected(house, f"?resume={first.id}") as anew:
            await anew.say(SETTINGS).until("SettingsApplied")
            await anew.asks("Two")
        assert told(house.upstream.records[-1]) == ["Two"]


@pytest.mark.conformance("C-255")
async def test_another_authorization_is_another_person_also_where_nobody_checks_it() -> None:
    async with home() as house:
        first = await lost(house, "One", Authorization="Token mine", **SDK)
        for how in ({"Authorization": "Token theirs"}, {}, {"protocols": ("token", "mine")}):
            more: dict[str, Any] = {**how, "query": f"?resume={first.id}"}
            async with connected(house, **more) as stranger:
                await stranger.say(SETTINGS).until("SettingsApplied")
                await stranger.asks("Two")
            assert told(house.upstream.records[-1]) == ["Two"]
        async with connected(house, f"?resume={first.id}", Authorization="Token mine") as back:
            await back.asks("Three")
        assert told(house.upstream.records[-1]) == ["One", "Three"]


@pytest.mark.conformance("C-255")
async def test_the_key_tells_whose_a_conversation_is_not_the_way_it_was_shown(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    lines = [f"{name}:{hashlib.sha256(name.encode()).hexdigest()}" for name in ("mine", "theirs")]
    keys.write_text("\n".join(lines))
    async with home(auth__mode="keys", auth__keys_file=str(keys)) as house:
        first = await lost(house, "One", Authorization="Token mine")
        query = f"?resume={first.id}"
        async with connected(house, query, Authorization="Token theirs") as stranger:
            await stranger.say(SETTINGS).until("SettingsApplied")
            await stranger.asks("Two")
        assert told(house.upstream.records[-1]) == ["Two"]
        async with connected(house, query, protocols=("token", "mine")) as back:
            await back.asks("Three")
        assert told(house.upstream.records[-1]) == ["One", "Three"]


@pytest.mark.conformance("C-256")
async def test_of_two_claims_the_last_wins_and_the_older_is_closed_without_an_error() -> None:
    async with home() as house:
        first = await lost(house, "One")
        query = f"?resume={first.id}"
        async with connected(house, query) as idle, connected(house, query) as second:
            await second.asks("Two")
            gone = await idle.end()
            assert (gone.code, gone.reason) == (1000, "superseded")
            assert idle.types() == ["Welcome"]
            async with connected(house, query) as third:
                await third.asks("Three")
                gone = await second.end()
                assert (gone.code, gone.reason) == (1000, "superseded")
                assert "Error" not in second.types()
        assert told(house.upstream.records[-1]) == ["One", "Two", "Three"]


@pytest.mark.conformance("C-251", "C-256")
async def test_a_reconnect_takes_the_conversation_over_from_a_silent_connection() -> None:
    async with home() as house, connected(house, **SDK) as silent:
        await silent.say(SETTINGS).until("SettingsApplied")
        await silent.asks("One")
        async with connected(house, **SDK) as back:
            await back.asks("Two")
            assert (await silent.end()).reason == "superseded"
        assert told(house.upstream.records[-1]) == ["One", "Two"]


@pytest.mark.conformance("C-252")
async def test_one_client_object_that_serves_two_people_never_mixes_them() -> None:
    async with home() as house:
        async with connected(house, **SDK) as anna, connected(house, **SDK) as bert:
            for person, name in ((anna, "Anna"), (bert, "Bert")):
                await person.say(SETTINGS).until("SettingsApplied")
                await person.asks(f"I am {name}")
            await anna.asks("Still Anna")
            anna.leg.drop()
            bert.leg.drop()
        for _ in range(2):  # both SDKs come back, in whatever order
            async with connected(house, **SDK) as somebody:
                somebody.say(KEEP_ALIVE).say(says("Who am I?"))
                await somebody.leg.goodbye()
            assert somebody.types() == ["Welcome"]
        async with connected(house, f"?resume={anna.id}", **SDK) as back:
            await back.asks("Who am I?")
        assert told(house.upstream.records[-1]) == ["I am Anna", "Still Anna", "Who am I?"]


@pytest.mark.conformance("C-258", "C-244")
async def test_an_open_call_is_answered_over_the_next_connection() -> None:
    async with home() as house:
        async with connected(house) as client:
            await client.say(SETTINGS).until("SettingsApplied")
            client.say(says("what time is it"))
            asked = await client.until("FunctionCallRequest")
            client.leg.drop()
        async with connected(house, f"?resume={client.id}") as back:
            assert await back.say(KEEP_ALIVE).until("FunctionCallRequest") == asked
            call = asked["functions"][0]
            answer = {"id": call["id"], "name": call["name"], "content": "noon"}
            back.say({"type": "FunctionCallResponse", **answer})
            while (text := await back.until("ConversationText"))["role"] != "assistant":
                pass
            assert "noon" in text["content"]


@pytest.mark.conformance("C-260", "C-192")
async def test_a_relay_that_goes_away_leaves_the_conversation_to_the_next(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "store__url": f"sqlite:///{tmp_path}/store",
        "session__drain_s": 0,
    }
    async with home(**options) as house, connected(house, **SDK) as client:
        await client.say(SETTINGS).until("SettingsApplied")
        await client.asks("One")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.daemon.drain)
            gone = await client.end()
        assert gone.code == 1001
        assert client.types()[-1] == "Error"
    async with home(**options) as house, connected(house, **SDK) as back:
        await back.asks("Two")
        assert told(house.upstream.records[-1]) == ["One", "Two"]


async def test_what_ends_normally_is_not_left_in_the_store(tmp_path: Path) -> None:
    def on_disk() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.iterdir())

    async with home(store__url=f"sqlite:///{tmp_path}/store") as house:
        async with connected(house) as client:
            await client.say(SETTINGS).until("SettingsApplied")
            await client.asks("A word to remember")
            await trio.sleep(0.05)  # the writer is in no hurry
            assert b"A word to remember" in on_disk()
        await house.upstream.records[-1].ended.wait()
    assert b"A word to remember" not in on_disk()
