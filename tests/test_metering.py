"""Metering: connections held against the limits, with a real session and legs that are not."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import structlog
import trio
from trio.testing import MockClock

from relay import logs, realtime
from relay.audio.formats import PCM24K
from relay.limits import ClientLimits, Ledger, Limits, Reached, Rules, Spent
from relay.metering import KEEP_EVERY_S, PAGE, PARTS, Metering, Seat
from relay.parking import End
from relay.prices import Price
from relay.session import Admission, Session, SessionOptions
from relay.session.usage import Tokens, Used
from relay.settings import MappingOptions
from relay.store import Body, MemoryStore, sqlite_store
from tests.fakes import FakeLeg, FakeUpstreams
from tests.test_bridge import KEEP_ALIVE, WALL, Bridged, settle, types
from tests.test_bridge_visits import FakeVisit, visiting
from tests.test_pair import SETTINGS
from tests.test_wire import nothing_left

MODEL = "gpt-realtime-2.1"
CREATED = '{"type":"session.created","event_id":"e","session":{"type":"realtime"}}'
UPDATED = '{"type":"session.updated","event_id":"e","session":{"type":"realtime"}}'


def metering(rules: Rules = Rules(), **more: Any) -> Metering:  # noqa: B008 - frozen
    return Metering(rules, wall=lambda: WALL + trio.current_time(), **more)


def seated(meters: Metering, client: str = "laptop") -> Seat:
    seat = meters.seat(client)
    assert isinstance(seat, Seat)
    return seat


@contextlib.asynccontextmanager
async def ready(meters: Metering, **options: Any) -> AsyncIterator[Bridged]:
    """A conversation with a live upstream, until the client leaves."""
    session = Session(
        options=SessionOptions(client_idle_s=10_000.0),
        mapping=MappingOptions(),
        admission=Admission("request-1", client="laptop"),
    )
    at_work = Bridged(cast(Any, session), FakeLeg(), FakeUpstreams())
    with trio.fail_after(10_000):
        async with nothing_left(), trio.open_nursery() as nursery:
            at_work.seat = seated(meters)
            watching = trio.CancelScope()
            nursery.start_soon(watch, meters, watching)
            nursery.start_soon(lambda: at_work.run(seat=at_work.seat, **options))
            at_work.client.says(msgspec.json.encode(SETTINGS).decode())
            await settle()
            at_work.upstream.says(CREATED)
            await settle()
            at_work.upstream.says(UPDATED)
            await settle()
            assert types(at_work.client) == ["Welcome", "SettingsApplied"]
            yield at_work
            at_work.client.leaves()
            watching.cancel()


async def watch(meters: Metering, scope: trio.CancelScope) -> None:
    with scope:
        await meters.watch()


def ended_with(at_work: Bridged) -> tuple[str, str, int, str]:
    """The Error's code and description, the close code and its reason."""
    error = msgspec.json.decode(at_work.client.heard[-1])
    assert at_work.client.farewell is not None
    _, code, reason = at_work.client.farewell
    return error["code"], error["description"], code, reason


def responds(at_work: Bridged, name: str, tokens: int) -> None:
    """The upstream makes a response that takes so many tokens."""
    usage = realtime.Usage(input_tokens=tokens - 1, output_tokens=1)
    done = realtime.Response(id=name, status="completed", output=[], usage=usage)
    at_work.upstream.says(
        realtime.encode(
            realtime.ResponseCreated(event_id="e", response=realtime.Response(id=name))
        ),
        realtime.encode(realtime.ResponseDone(event_id="e", response=done)),
    )


def usage(at_work: Bridged) -> dict[str, Any]:
    """What is written down of the session at its end."""
    assert at_work.seat is not None
    assert at_work.seat.usage is not None
    return at_work.seat.usage


# Limits that bite.


async def test_tokens_end_the_conversation_within_a_second(autojump_clock: MockClock) -> None:
    meters = metering(Rules(key=ClientLimits(tokens_per_day=100)))
    with structlog.testing.capture_logs() as lines:
        async with ready(meters) as at_work:
            responds(at_work, "r1", 99)
            await settle(5)
            assert at_work.ended_at is None
            responds(at_work, "r2", 1)
            await settle(2)
            assert ended_with(at_work) == (
                "FAILED_TO_THINK", "Too many tokens within a day.", 1013, "FAILED_TO_THINK"
            )  # fmt: skip
            assert at_work.upstream.farewell is not None
    assert meters.ledger.ended == {"limits.key.tokens_per_day": 1}
    assert meters.ledger.total.sessions == 0
    assert isinstance(meters.seat("laptop"), Reached)
    reached = [line for line in lines if line["event"] == "limit reached"]
    assert [(line["client"], line["limit"]) for line in reached] == [
        ("laptop", "limits.key.tokens_per_day")
    ]
    line = usage(at_work)
    assert line["tokens"] == {MODEL: {"input_text": 98, "output_text": 2}}


async def test_audio_minutes_end_the_conversation(autojump_clock: MockClock) -> None:
    meters = metering(Rules(key=ClientLimits(audio_minutes_per_hour=0.5)))
    async with ready(meters) as at_work:
        for _ in range(29):
            at_work.client.says(bytes(PCM24K.nbytes(1000)))
        await settle(3)
        assert at_work.ended_at is None
        at_work.client.says(bytes(PCM24K.nbytes(1000)))
        await settle(3)
        assert ended_with(at_work)[:3] == (
            "FAILED_TO_THINK", "Too many minutes of audio within an hour.", 1013
        )  # fmt: skip
    assert meters.used.input_ms == 30_000


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"frames_per_s": 1}, "Too many frames a second."),
        ({"bytes_per_s": 20}, "Too many bytes a second."),
    ],
)
async def test_a_flood_ends_the_conversation(
    limits: Any, complaint: str, autojump_clock: MockClock
) -> None:
    meters = metering(Rules(key=ClientLimits(**limits)))
    async with ready(meters) as at_work:
        for _ in range(55):
            at_work.client.says(KEEP_ALIVE)
            await settle(1)
        assert at_work.ended_at is None
        for _ in range(65):
            at_work.client.says(KEEP_ALIVE)
        await settle(2)
        code = "UNPARSABLE_CLIENT_MESSAGE"
        assert ended_with(at_work) == (code, complaint, 1013, code)


async def test_a_limit_of_all_ends_also_who_is_silent(autojump_clock: MockClock) -> None:
    meters = metering(Rules(total=Limits(tokens_per_day=100)))
    async with ready(meters) as at_work:
        other = seated(meters, "phone")
        assert other.spend(1, 1, Used(tokens={MODEL: Tokens(100)})) is not None
        await settle(2)
        assert ended_with(at_work)[1] == "Too many tokens within a day on this server."
        other.leave()
    assert meters.ledger.ended == {"limits.tokens_per_day": 1}


async def test_new_limits_hold_for_who_is_in_already(autojump_clock: MockClock) -> None:
    meters = metering()
    async with ready(meters) as at_work:
        responds(at_work, "r1", 100)
        await settle(5)
        assert at_work.ended_at is None
        meters.rules = Rules(named={"laptop": ClientLimits(tokens_per_day=100)})
        await settle(2)
        assert at_work.ended_at is not None


async def test_conversations_have_their_turns_one_after_the_other(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    meters = metering()
    began = trio.current_time()
    turns: list[float] = []
    seats = [seated(meters) for _ in range(2 * PARTS)]
    for seat in seats:
        seat.metered(lambda: turns.append(round(trio.current_time() - began, 3)))
    nursery.start_soon(meters.watch)
    await trio.sleep(1.05)
    assert turns == [round(part / PARTS, 3) for part in range(1, PARTS + 1) for _ in range(2)]
    for seat in seats:
        seat.leave()
    await trio.sleep(5)
    assert len(turns) == 2 * PARTS


# The seat.


async def test_the_seat_is_free_before_the_goodbyes_are_said(autojump_clock: MockClock) -> None:
    meters = metering()
    async with ready(meters) as at_work:
        at_work.upstream.stalls()
        at_work.client.leaves()
        await settle(0.1)
        assert at_work.ended_at is None
        assert meters.ledger.total.sessions == 0


async def test_a_client_that_is_answered_its_goodbye_finds_its_seat_free(
    autojump_clock: MockClock,
) -> None:
    class Elsewhere(Metering):
        """It takes a while to be told."""

        async def settled(self) -> None:
            assert self.ledger.total.sessions == 0
            await trio.sleep(0.3)

    meters = Elsewhere(Rules())
    async with ready(meters) as at_work:
        at_work.client.leaves()
        await settle(0.3)
        assert at_work.ended_at is None
        await settle(0.1)
        assert at_work.ended_at is not None


def test_two_connections_of_one_conversation_have_one_place_together() -> None:
    in_force = Rules(total=Limits(sessions=1), key=ClientLimits(sessions=1))
    for first_to_leave in (0, 1):
        meters = Metering(in_force, wall=lambda: WALL)
        older = meters.seat("laptop", "a")
        assert isinstance(meters.seat("phone", "b", "a"), Reached)  # who is another
        newer = meters.seat("laptop", "c", "a")
        assert isinstance(older, Seat)
        assert isinstance(newer, Seat)
        assert isinstance(meters.seat("laptop", "d", "a"), Reached)  # no third one
        assert isinstance(meters.seat("laptop", "d", "c"), Reached)
        assert meters.ledger.total.sessions == 1
        leaving, staying = (older, newer)[:: 1 if first_to_leave == 0 else -1]
        leaving.leave()
        leaving.leave()
        assert meters.ledger.total.sessions == 1
        assert isinstance(meters.seat("laptop", "d"), Reached)
        staying.leave()
        assert meters.ledger.total.sessions == 0
        assert meters.ledger.clients == {}


def test_who_takes_over_a_place_still_has_to_have_something_left() -> None:
    meters = Metering(Rules(key=ClientLimits(tokens_per_day=10)), wall=lambda: WALL)
    older = meters.seat("laptop", "a")
    assert isinstance(older, Seat)
    meters.spend(older, Spent(tokens=10), Used())
    reached = meters.seat("laptop", "b", "a")
    assert isinstance(reached, Reached)
    assert reached.limit == "tokens_per_day"


async def test_a_seat_is_left_once_and_counts_no_more_then() -> None:
    meters = metering()
    seat, other = seated(meters), seated(meters)
    seat.leave()
    seat.leave()
    assert meters.ledger.clients["laptop"].sessions == 1
    assert seat.spend(1, 1, Used(responses=1)) is None
    assert meters.used == Used()
    other.leave()
    assert meters.ledger.clients == {}


async def test_a_cancelled_conversation_leaves_its_seat_and_its_line(
    autojump_clock: MockClock,
) -> None:
    meters = metering()
    async with ready(meters) as at_work:
        responds(at_work, "r1", 5)
        await settle(0.1)
        at_work.scope.cancel()
        await settle(10)
        assert meters.ledger.total.sessions == 0
    line = usage(at_work)
    assert line["tokens"] == {MODEL: {"input_text": 4, "output_text": 1}}


async def test_clients_are_forgotten_in_time(autojump_clock: MockClock) -> None:
    meters = metering()
    seat = seated(meters)
    seat.spend(1, 1, Used(input_ms=1.0))
    seat.leave()
    async with meters.kept_in(MemoryStore()):
        await trio.sleep(3600)
        assert "laptop" in meters.ledger.clients
        await trio.sleep(60 + 2 * KEEP_EVERY_S)
        assert meters.ledger.clients == {}


async def test_a_later_process_goes_on_with_what_was_used(tmp_path: Path) -> None:
    rules = Rules(key=ClientLimits(tokens_per_day=10, sessions=1))
    async with sqlite_store(tmp_path / "store") as store:
        earlier = metering(rules)
        async with earlier.kept_in(store):
            seat = seated(earlier)
            seated(earlier, "phone")
            assert earlier.seat("phone") == Reached("sessions", by_all=False)
            seat.spend(1, 1, Used(tokens={MODEL: Tokens(10)}))
    async with sqlite_store(tmp_path / "store") as store:
        later = metering(rules)
        async with later.kept_in(store):
            reached = later.seat("laptop")
            assert isinstance(reached, Reached)
            assert reached.limit == "tokens_per_day"
            assert isinstance(later.seat("phone"), Seat)
            assert later.ledger.refused == {"limits.key.tokens_per_day": 1}
            assert later.ledger.total.sessions == 1


async def test_a_killed_process_loses_the_last_minute_of_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with sqlite_store(tmp_path / "store") as store:
        killed = metering()
        async with killed.kept_in(store):
            seat = seated(killed)
            seat.spend(1, 1, Used(tokens={MODEL: Tokens(10)}))
            await trio.sleep(KEEP_EVERY_S + 1)
            seat.spend(1, 1, Used(tokens={MODEL: Tokens(5)}))
            await store.written()
            with closing(sqlite3.connect(tmp_path / "copy")) as copy:
                store._file.backup(copy)
    async with sqlite_store(tmp_path / "copy") as store:
        later = metering()
        async with later.kept_in(store):
            assert later.ledger.total.tokens.used == 10


class CountingStore(MemoryStore):
    pages = 0

    def keep(self, name: str, body: Body) -> None:
        self.pages += 1


async def test_where_nothing_happens_nothing_is_written(autojump_clock: MockClock) -> None:
    store, meters = CountingStore(), metering()
    async with meters.kept_in(store):
        seat = seated(meters)
        await trio.sleep(10 * KEEP_EVERY_S + 1)
        assert store.pages == 1
        seat.spend(1, 1, Used(tokens={MODEL: Tokens(1)}))
        await trio.sleep(10 * KEEP_EVERY_S)
        assert store.pages == 2
        seat.leave()
    assert store.pages == 3


def test_a_seat_tells_what_is_new() -> None:
    meters = Metering(Rules(key=ClientLimits(frames_per_s=1, bytes_per_s=1)), wall=lambda: WALL)
    seat = seated(meters)
    for frames, nbytes in ((2, 20), (5, 21)):
        seat.spend(frames, nbytes, Used(input_ms=500, output_ms=250, tokens={MODEL: Tokens(3)}))
    account = meters.ledger.clients["laptop"]
    assert (account.frames.level, account.bytes.level) == (5, 21)
    assert (account.audio.used, account.tokens.used) == (1.5, 6)


async def test_counts_that_cannot_be_read_are_left_alone(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with sqlite_store(tmp_path / "store") as store:
            store.keep(PAGE, lambda: b"\xc1")
            meters = metering()
            async with meters.kept_in(store):
                assert meters.ledger == Ledger()
    assert [line["event"] for line in lines] == ["counts of another version left alone"]


# What is written down.


async def test_a_session_is_one_line_with_its_cost_and_nothing_that_was_said(
    autojump_clock: MockClock,
) -> None:
    prices = {MODEL: Price(input_text=4_000, output_text=16_000, currency="EUR")}
    meters = metering(prices=prices)
    async with ready(meters) as at_work:
        at_work.client.says('{"type":"InjectUserMessage","content":"planted"}')
        at_work.client.says(bytes(PCM24K.nbytes(500)))
        await settle()
        responds(at_work, "r1", 1000)
        await settle(5)
    line = usage(at_work)
    line.pop("lasted_s")
    assert line == {
        "conversation": logs.name_of("request-1"),
        "client": "laptop",
        "connections": 1,
        "input_audio_s": 0.5,
        "output_audio_s": 0.0,
        "user_chars": len("planted"),
        "agent_chars": 0,
        "responses": 1,
        "function_calls": 0,
        "tokens": {MODEL: {"input_text": 999, "output_text": 1}},
        "transcribed_s": {},
        "cost": {"EUR": 4.012},
        "unpriced": [],
        "ended": True,
    }
    assert meters.cost == {"EUR": pytest.approx(4.012)}
    assert meters.used.responses == 1


@pytest.mark.parametrize(("code", "ended"), [(None, False), (1000, True)])
async def test_what_may_go_on_elsewhere_has_not_ended(
    code: int | None, ended: bool, autojump_clock: MockClock
) -> None:
    visit = FakeVisit()
    async with ready(metering(), visit=visiting(visit)) as at_work:
        responds(at_work, "r1", 5)
        await settle(0.2)
        at_work.client.leaves(code)
        await settle(5)
    assert usage(at_work)["ended"] is ended
    assert [how for _, how, _ in visit.ends] == [End.CLOSED if ended else End.LOST]
    if not ended:
        left = visit.ends[0][2]
        assert left is not None
        resumed = Session.restored(
            left, options=SessionOptions(), mapping=MappingOptions(), lost_wall=WALL
        )
        assert resumed.spent() == Used()  # it was counted here
        assert resumed.bill().used.total_tokens == 5


def test_the_counts_encode_and_go_on() -> None:
    ledger = Ledger()
    ledger.admit("laptop", Rules(), WALL)
    ledger.spend("laptop", Spent(1, 2, 3.0, 4), Rules(key=ClientLimits(frames_per_s=1)), WALL)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ledger), type=Ledger) == ledger
    assert msgspec.json.decode(msgspec.json.encode(ledger), type=Ledger) == ledger
