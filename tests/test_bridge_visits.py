"""What a bridge says of its connection to those who keep conversations, in virtual time."""

from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from relay.continuity import Visit
from relay.parking import End
from relay.session.actions import CallEndpoint, Close
from relay.settings import Endpoint
from tests.fakes import FakeLeg, FakeSession
from tests.test_bridge import KEEP_ALIVE, bridged, settle

LEFT = b"what is left"


class KeptSession(FakeSession):
    """A session that is worth keeping."""

    worth_keeping = True
    revision = 0

    def parked(self, now: float, wall: float) -> bytes:
        return LEFT


class FakeVisit:
    """Writes down what it is told, and takes its time to write."""

    undecided = False
    watched = False

    def __init__(self, *, durable: bool = True) -> None:
        self.durable = durable
        self.superseded: Any = None
        self.ends: list[tuple[float, End, bytes | None]] = []
        self.changes = 0
        self.is_written = trio.Event()
        self.came_of_it = 0

    def came(self) -> None:
        self.came_of_it += 1

    def changed(self, session: Any) -> None:
        self.changes += 1

    async def written(self) -> None:
        await self.is_written.wait()

    def ended(self, how: End, encoded: bytes | None = None) -> None:
        self.ends.append((trio.current_time(), how, encoded))


def visiting(visit: FakeVisit) -> Visit:
    return cast(Visit, visit)


@pytest.mark.conformance("C-249", "C-250")
@pytest.mark.parametrize(
    ("code", "how", "left"),
    [
        (None, End.LOST, LEFT),
        (1000, End.CLOSED, None),
        (1005, End.CLOSED, None),
        (4000, End.CLOSED, None),
        (1007, End.BROKEN, None),
    ],
)
async def test_how_a_client_left_decides_whether_its_conversation_waits(
    code: int | None, how: End, left: bytes | None, autojump_clock: MockClock
) -> None:
    visit = FakeVisit()
    async with bridged(KeptSession(), visit=visiting(visit)) as at_work:
        await settle()
        at_work.client.leaves(code)
        await settle(5)
        assert [end[1:] for end in visit.ends] == [(how, left)]


async def test_before_settings_there_is_nothing_to_wait_for(autojump_clock: MockClock) -> None:
    session, visit = KeptSession(), FakeVisit()
    session.worth_keeping = False
    async with bridged(session, visit=visiting(visit)) as at_work:
        await settle()
        at_work.client.leaves(None)
        await settle(5)
        assert [end[1:] for end in visit.ends] == [(End.BROKEN, None)]


@pytest.mark.parametrize(("code", "how"), [(1000, End.CLOSED), (1011, End.BROKEN)])
async def test_a_close_of_ours_is_told_before_the_goodbye_and_once(
    code: int, how: End, autojump_clock: MockClock
) -> None:
    visit = FakeVisit()
    session = KeptSession(client_message=[Close(code, "BYE")])
    async with bridged(session, FakeLeg(stalled=True), visit=visiting(visit)) as at_work:
        await settle()
        at_work.client.says(KEEP_ALIVE)
        await settle(20)
        assert at_work.ended_at is not None
        assert [end[1:] for end in visit.ends] == [(how, None)]
        assert at_work.since(visit.ends[0][0]) < at_work.ended_at


@pytest.mark.conformance("C-260")
@pytest.mark.parametrize("durable", [True, False])
async def test_what_a_stopping_daemon_can_keep_it_keeps(
    durable: bool, autojump_clock: MockClock
) -> None:
    kept = (End.KEPT, LEFT) if durable else (End.BROKEN, None)
    for polite in (True, False):
        visit = FakeVisit(durable=durable)
        session = KeptSession(going_away=[Close(1001, "SERVER_GOING_AWAY")])
        async with bridged(session, visit=visiting(visit)) as at_work:
            await settle()
            if polite:
                at_work.going_away.announce()
            else:
                at_work.scope.cancel()
            await settle(10)
            assert visit.ends[0][1:] == kept


@pytest.mark.conformance("C-256")
async def test_a_superseded_connection_is_closed_without_a_word(
    autojump_clock: MockClock,
) -> None:
    session, visit = KeptSession(), FakeVisit()
    async with bridged(session, visit=visiting(visit)) as at_work:
        await settle()
        assert visit.superseded() == LEFT
        assert visit.superseded() is None
        await settle(5)
        assert at_work.client.farewell is not None
        assert at_work.client.farewell[1:] == (1000, "superseded")
        assert at_work.client.heard == []
        assert visit.ends == []


@pytest.mark.conformance("C-259")
async def test_an_endpoint_is_called_when_a_crash_cannot_undo_it_any_more(
    autojump_clock: MockClock,
) -> None:
    called: list[str] = []

    async def functions(call: CallEndpoint) -> tuple[str, bool]:
        called.append(call.call)
        return "done", True

    visit = FakeVisit()
    call = CallEndpoint("c1", "f", "{}", Endpoint("https://e.example/", "POST", {}))
    session = KeptSession(opened=[call])
    async with bridged(session, functions=functions, visit=visiting(visit)):
        await settle(5)
        assert called == []
        visit.is_written.set()
        await settle()
        assert called == ["c1"]


async def test_a_change_is_told_after_the_step_that_made_it(autojump_clock: MockClock) -> None:
    session, visit = KeptSession(), FakeVisit()

    def changes(message: Any) -> list[Any]:
        session.revision += 1
        return []

    session.script["client_message"] = changes
    async with bridged(session, visit=visiting(visit)) as at_work:
        await settle()
        at_work.client.says(KEEP_ALIVE, KEEP_ALIVE)
        await settle()
        assert visit.changes == 2


@pytest.mark.conformance("C-252")
async def test_a_watched_connection_says_when_anything_comes(autojump_clock: MockClock) -> None:
    visit = FakeVisit()
    async with bridged(KeptSession(), visit=visiting(visit)) as at_work:
        at_work.client.says(KEEP_ALIVE)
        await settle()
        assert visit.came_of_it == 0
        visit.watched = True
        at_work.client.says(KEEP_ALIVE, bytes(960))
        await settle()
        assert visit.came_of_it == 2
