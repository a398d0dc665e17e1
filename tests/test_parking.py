"""Who may take up which conversation: the lot's decisions, without a session or a socket."""

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.parking import (
    ByHeader,
    Claim,
    Decision,
    Deposit,
    Doubt,
    End,
    Forget,
    Lot,
    Spoil,
    Supersede,
    Trust,
    Watch,
)

MINE = Claim("key:mine", label="sdk-1")
SETTINGS = b"digest"


class Desk:
    """A lot, the time, and connections by number."""

    def __init__(self, **options: Any) -> None:
        self.lot = Lot(**options)
        self.now = 100.0
        self.orders: list[Any] = []
        self.count = 0

    def spoken(self) -> list[Any]:
        """The orders that last, without doubts and trust."""
        return [order for order in self.orders if not isinstance(order, Doubt | Trust | Watch)]

    def comes(self, claim: Claim = MINE) -> str:
        self.count += 1
        self.now += 0.001
        self.orders += self.lot.arrived(f"c{self.count}", claim, self.now)
        return f"c{self.count}"

    def says(self, connection: str, digest: bytes | None = None) -> Decision:
        decision = self.lot.decided(connection, digest)
        self.orders += decision.orders
        return decision

    def talks(self, claim: Claim = MINE) -> str:
        """A new conversation."""
        connection = self.comes(claim)
        assert self.says(connection, SETTINGS).key is None
        return connection

    def ends(self, connection: str, how: End = End.LOST, *, nbytes: int = 0) -> None:
        self.orders += self.lot.ended(connection, how, self.now, nbytes)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.orders += self.lot.time_passed(self.now)

    def returns(self, claim: Claim = MINE, digest: bytes | None = None) -> str | None:
        """A connection whose first message is bare, or Settings with a digest."""
        return self.says(self.comes(claim), digest).key


@pytest.mark.conformance("C-251")
def test_a_first_message_other_than_settings_resumes_by_label() -> None:
    desk = Desk()
    first = desk.talks()
    desk.ends(first)
    assert desk.returns() == first
    assert desk.orders == [Doubt("sdk-1"), Trust("sdk-1")] * 2


@pytest.mark.conformance("C-251")
def test_settings_begin_a_new_conversation() -> None:
    desk = Desk()
    desk.ends(desk.talks())
    assert desk.returns(digest=SETTINGS) is None


@pytest.mark.conformance("C-249")
def test_a_parked_conversation_is_forgotten_after_its_window() -> None:
    desk = Desk()
    first = desk.talks()
    desk.ends(first)
    assert desk.lot.next_deadline() == desk.now + 30
    desk.passes(29.9)
    assert desk.spoken() == []
    desk.passes(0.2)
    assert desk.spoken() == [Forget(first), Spoil("sdk-1")]
    assert desk.lot.parked == 0
    assert desk.returns(Claim("key:mine", resume=first)) is None


@pytest.mark.conformance("C-249")
def test_who_arrives_within_the_window_finds_it_also_later() -> None:
    desk = Desk()
    first = desk.talks()
    desk.ends(first)
    desk.passes(29)
    claimant = desk.comes(Claim("key:mine", resume=first))
    desk.passes(10)
    assert desk.says(claimant).key == first


@pytest.mark.conformance("C-249")
def test_a_claimant_that_leaves_without_a_word_delays_nothing() -> None:
    desk = Desk()
    first = desk.talks(Claim("key:mine"))
    desk.ends(first)
    desk.passes(29)
    claimant = desk.comes(Claim("key:mine", resume=first))
    desk.passes(10)
    assert desk.orders == []
    desk.ends(claimant, End.CLOSED)
    desk.passes(0)
    assert desk.orders == [Forget(first)]


@pytest.mark.conformance("C-250")
@pytest.mark.parametrize("how", [End.CLOSED, End.BROKEN])
def test_what_was_ended_is_not_found(how: End) -> None:
    desk = Desk()
    first = desk.talks()
    desk.ends(first, how)
    assert Forget(first) in desk.orders
    assert desk.returns() is None
    assert desk.returns(Claim("key:mine", resume=first)) is None


@pytest.mark.conformance("C-254")
def test_every_id_that_a_conversation_ever_had_resumes_it() -> None:
    desk = Desk()
    first = desk.talks(Claim("key:mine"))
    for claimed in (first, "c2", first, "c3"):
        desk.ends(f"c{desk.count}")
        assert desk.returns(Claim("key:mine", resume=claimed), SETTINGS) == first


@pytest.mark.conformance("C-255")
def test_other_credentials_find_nothing() -> None:
    desk = Desk()
    first = desk.talks()
    desk.ends(first)
    assert desk.returns(Claim("key:theirs", resume=first)) is None
    assert desk.returns(Claim("key:mine", resume=first)) == first
    desk.ends("c3")
    assert desk.returns(Claim("key:theirs", label="sdk-1")) is None


@pytest.mark.conformance("C-253")
@pytest.mark.parametrize(
    ("by_header", "bare", "equal", "different"),
    [("off", False, False, False), ("bare", True, False, False), ("equal", True, True, False)],
)
def test_what_resumes_by_header(
    by_header: ByHeader, bare: bool, equal: bool, different: bool
) -> None:
    for digest, resumes in ((None, bare), (SETTINGS, equal), (b"other", different)):
        desk = Desk(by_header=by_header)
        first = desk.talks()
        desk.ends(first)
        assert (desk.returns(digest=digest) == first) == resumes


@pytest.mark.conformance("C-253")
def test_equal_means_the_settings_last_accepted() -> None:
    desk = Desk(by_header="equal")
    first = desk.talks()
    desk.ends(first)
    desk.returns(Claim("key:mine", resume=first, label="sdk-1"), b"newer")
    desk.ends("c2")
    assert desk.returns(digest=b"newer") == first


@pytest.mark.conformance("C-252")
def test_two_connections_in_use_at_once_spoil_their_label() -> None:
    desk = Desk()
    first = desk.comes()
    connection = desk.lot.deposit(first)
    assert connection is None
    desk.says(first, SETTINGS)
    desk.talks()
    desk.orders += desk.lot.came(first)
    assert Spoil("sdk-1") in desk.orders
    desk.ends("c2", End.CLOSED)
    desk.ends(first)
    assert desk.returns() is None
    assert desk.returns(Claim("key:mine", resume=first)) == first


@pytest.mark.conformance("C-252")
def test_only_the_older_of_two_is_watched_and_only_while_it_matters() -> None:
    lot = Lot()
    lot.arrived("a", MINE, 1.0)
    assert lot.arrived("b", MINE, 2.0) == [Watch("a")]
    assert Watch("c") not in lot.arrived("c", Claim("", label="sdk-2"), 3.0)
    assert lot.arrived("d", MINE, 4.0) == [Watch("b")]
    assert lot.came("a") == [Spoil("sdk-1")]
    assert lot.arrived("e", MINE, 5.0) == []


@pytest.mark.conformance("C-252")
def test_with_two_conversations_parked_under_one_label_nobody_gets_either() -> None:
    desk = Desk()
    desk.ends(desk.talks())
    desk.ends(desk.talks())
    assert desk.returns() is None


def test_of_two_conversations_one_was_closed_so_the_other_is_meant() -> None:
    desk = Desk()
    first = desk.talks()
    desk.ends(first)
    desk.ends(desk.talks(), End.CLOSED)
    assert desk.returns() == first


@pytest.mark.conformance("C-251")
def test_a_reconnect_may_overtake_the_news_of_its_own_loss() -> None:
    desk = Desk()
    first = desk.talks()
    decision = desk.says(desk.comes())
    assert (decision.key, decision.holder) == (first, first)
    assert Supersede(first) in decision.orders
    desk.ends(first)  # at last
    assert desk.lot.parked == 0
    assert desk.lot.deposit("c2") is not None


@pytest.mark.conformance("C-256")
def test_of_two_claims_the_last_wins() -> None:
    desk = Desk()
    first = desk.talks(Claim("key:mine"))
    desk.ends(first)
    again = Claim("key:mine", resume=first)
    idle, winner, later = desk.comes(again), desk.comes(again), desk.comes(again)
    assert desk.says(winner).orders == [Supersede(idle)]
    decision = desk.says(later, SETTINGS)
    assert (decision.key, decision.holder) == (first, winner)
    assert decision.orders == [Supersede(winner)]


@pytest.mark.parametrize("how", [End.LOST, End.BROKEN, End.KEPT])
def test_a_client_lost_before_its_first_message_may_come_back_with_anything(how: End) -> None:
    desk = Desk()
    desk.ends(desk.talks())
    desk.ends(desk.comes(), how)
    assert desk.returns() is None


def test_while_somebody_has_not_decided_nobody_is_certain() -> None:
    desk = Desk()
    desk.ends(desk.talks())
    desk.comes()
    assert desk.returns() is None


def test_a_conversation_that_went_elsewhere_leaves_its_label_spoilt() -> None:
    desk = Desk()
    first = desk.talks()
    desk.ends(first)
    assert desk.returns(Claim("key:mine", resume=first, label="sdk-2")) == first
    assert Spoil("sdk-1") in desk.orders
    desk.ends("c2")
    assert desk.returns(Claim("key:mine", label="sdk-2")) == first


def test_the_oldest_is_forgotten_when_too_many_are_parked() -> None:
    desk = Desk(max_parked=2)
    for n in range(3):
        desk.passes(1)
        desk.ends(desk.talks(Claim("key:mine", label=f"sdk-{n}")))
    assert desk.spoken() == [Forget("c1"), Spoil("sdk-0")]


def test_the_oldest_are_forgotten_when_those_parked_take_too_many_bytes() -> None:
    desk = Desk(max_parked_bytes=100)
    first, second, third, fourth = (desk.talks(Claim("key:mine")) for _ in range(4))
    for connection in (first, second, third):
        desk.ends(connection, nbytes=40)
        desk.passes(1)
    assert desk.orders == [Forget(first)]
    assert desk.lot.parked_bytes == 80
    desk.ends(fourth, nbytes=100)
    assert desk.orders == [Forget(first), Forget(second), Forget(third)]
    assert desk.returns(Claim("key:mine", resume=fourth)) == fourth
    assert (desk.lot.parked, desk.lot.parked_bytes) == (0, 0)


def test_a_conversation_that_is_larger_than_the_bound_is_not_kept() -> None:
    desk = Desk(max_parked_bytes=100)
    first = desk.talks(Claim("key:mine"))
    desk.ends(first, nbytes=101)
    assert desk.orders == [Forget(first)]
    assert desk.lot.next_deadline() == math.inf


def test_what_an_earlier_process_left_counts_too() -> None:
    desk = Desk(max_parked_bytes=100)
    for key in ("old", "new"):
        desk.orders += desk.lot.restored(Deposit(key, "key:mine", [key]), desk.now, 60)
    assert desk.orders == [Forget("old")]


def test_without_a_window_nothing_is_parked() -> None:
    desk = Desk(window_s=0)
    first = desk.talks()
    desk.ends(first)
    assert desk.spoken() == [Forget(first), Spoil("sdk-1")]


@pytest.mark.conformance("C-260")
def test_what_an_earlier_process_left_is_found_for_a_window_from_now() -> None:
    desk = Desk()
    desk.lot.restored(Deposit("old", "key:mine", ["old", "older"], "sdk-1"), desk.now)
    assert desk.returns(Claim("key:mine", resume="older")) == "old"
    desk.lot.restored(Deposit("other", "key:mine", ["other"], "sdk-2"), desk.now)
    desk.passes(31)
    assert desk.orders[-2:] == [Forget("other"), Spoil("sdk-2")]


@pytest.mark.conformance("C-252", "C-260")
def test_a_later_process_knows_what_was_spoilt_and_doubts_what_was_doubted() -> None:
    desk = Desk()
    desk.talks()
    assert desk.orders == [Doubt("sdk-1"), Trust("sdk-1")]
    first, second = desk.comes(), desk.comes()
    desk.says(first, SETTINGS)
    assert desk.orders[2:] == [Watch("c1"), Doubt("sdk-1"), Watch(first)]
    desk.says(second, SETTINGS)
    assert desk.orders[5:] == [Trust("sdk-1")]
    later = Desk()
    later.lot.spoilt("sdk-1")
    later.ends(later.talks())
    assert later.returns() is None


@pytest.mark.conformance("C-260")
def test_what_the_daemon_leaves_to_the_next_is_not_forgotten() -> None:
    desk = Desk()
    desk.ends(desk.talks(), End.KEPT)
    assert desk.spoken() == []
    assert desk.lot.parked == 0


# -- no one is ever handed another's conversation -------------------------------------------------

PEOPLE = range(3)
OBJECT = ["sdk-1", "sdk-1", "sdk-2"]
"""The client object of each person; two share one."""
KEY = ["key:1", "key:1", "key:2"]


class Crowd(RuleBasedStateMachine):
    """People whose clients keep the SDK's habits: a fresh conversation begins with Settings, a
    client that lost its connection comes back and says anything else. Networks fail without a word,
    and the relay notices when it does, or is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.lot = Lot()
        self.now = 0.0
        self.count = 0
        self.owner: dict[str, int] = {}  # of conversations
        self.mine: dict[int, list[str]] = {p: [] for p in PEOPLE}  # Welcomes they have seen
        self.line: dict[int, str | None] = dict.fromkeys(PEOPLE)  # what they believe is open
        self.begun: dict[int, bool] = dict.fromkeys(PEOPLE, False)  # they have sent Settings
        self.first: dict[str, bytes | None] = {}  # not arrived yet, by connection
        self.open: dict[str, int] = {}  # what the lot believes is open
        self.decided: set[str] = set()
        self.watched: set[str] = set()
        self.kept: dict[str, Deposit] = {}  # what a later process would find
        self.spoilt: list[str] = []
        self.doubted: set[str] = set()

    def obey(self, orders: list[Any]) -> None:
        for order in orders:
            match order:
                case Spoil(label):
                    self.spoilt.append(label)
                case Forget(key):
                    self.kept.pop(key, None)
                case Supersede(connection):
                    superseded = self.open.pop(connection)
                    if self.line[superseded] == connection:  # close 1000 reached the SDK
                        self.line[superseded] = None
                        self.begun[superseded] = False
                case Doubt(label):
                    self.doubted.add(label)
                case Trust(label):
                    self.doubted.discard(label)
                case Watch(connection):
                    self.watched.add(connection)
        for connection in self.open:
            if deposit := self.lot.deposit(connection):
                self.kept[deposit.key] = Deposit(
                    deposit.key, deposit.credentials, [*deposit.ids], deposit.label,
                    deposit.settings,
                )  # fmt: skip

    def offline(self) -> list[int]:
        return [p for p in PEOPLE if self.line[p] is None]

    def online(self) -> list[int]:
        return [p for p in PEOPLE if self.line[p] in self.open]

    @precondition(lambda self: self.offline())
    @rule(data=st.data(), by_id=st.booleans(), speaks=st.booleans())
    def somebody_connects(self, data: st.DataObject, by_id: bool, speaks: bool) -> None:
        p = data.draw(st.sampled_from(self.offline()))
        self.count += 1
        self.now += 0.01
        name = f"c{self.count}"
        resume = self.mine[p][-1] if by_id and self.mine[p] else None
        claim = Claim(KEY[p], resume=resume, label=OBJECT[p])
        orders = self.lot.arrived(name, claim, self.now)
        self.open[name], self.line[p] = p, name
        self.first[name] = None if self.begun[p] else b"settings"
        self.begun[p] = True
        self.obey(orders)
        if speaks:
            self.speaks(p)

    @precondition(lambda self: self.online())
    @rule(data=st.data())
    def somebody_speaks(self, data: st.DataObject) -> None:
        self.speaks(data.draw(st.sampled_from(self.online())))

    def speaks(self, p: int) -> None:
        name = self.line[p]
        assert name is not None
        if name in self.watched:
            self.watched.remove(name)
            self.obey(self.lot.came(name))
        if name not in self.decided:
            self.decided.add(name)
            decision = self.lot.decided(name, self.first[name])
            self.obey(decision.orders)
            if decision.key is None:
                self.owner[name] = p
            else:
                assert self.owner[decision.key] == p
            self.mine[p].append(name)

    @precondition(lambda self: self.online())
    @rule(data=st.data(), noticed=st.booleans())
    def somebody_is_lost(self, data: st.DataObject, noticed: bool) -> None:
        p = data.draw(st.sampled_from(self.online()))
        name, self.line[p] = self.line[p], None
        if noticed:
            self.notice(str(name))

    @precondition(lambda self: any(self.line[p] != c for c, p in self.open.items()))
    @rule(data=st.data())
    def the_relay_notices(self, data: st.DataObject) -> None:
        dead = [c for c, p in self.open.items() if self.line[p] != c]
        self.notice(data.draw(st.sampled_from(dead)))

    def notice(self, name: str) -> None:
        del self.open[name]
        how = End.LOST if name in self.decided else End.BROKEN
        self.obey(self.lot.ended(name, how, self.now))

    @precondition(lambda self: self.online())
    @rule(data=st.data(), how=st.sampled_from([End.CLOSED, End.BROKEN]))
    def somebody_is_closed(self, data: st.DataObject, how: End) -> None:
        """By the client, or by us with 1011: then the SDK comes back."""
        p = data.draw(st.sampled_from(self.online()))
        name, self.line[p] = str(self.line[p]), None
        if how is End.CLOSED:
            self.begun[p] = False
        del self.open[name]
        self.obey(self.lot.ended(name, how, self.now))

    @rule(seconds=st.sampled_from([1.0, 16.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.obey(self.lot.time_passed(self.now))

    @rule(thief=st.sampled_from(PEOPLE), victim=st.sampled_from(PEOPLE))
    def somebody_steals_an_id(self, thief: int, victim: int) -> None:
        if KEY[thief] == KEY[victim] or not self.mine[victim]:
            return
        self.count += 1
        claim = Claim(KEY[thief], resume=self.mine[victim][-1], label=OBJECT[victim])
        name = f"c{self.count}"
        self.lot.arrived(name, claim, self.now)
        assert self.lot.decided(name).key is None
        self.lot.ended(name, End.CLOSED, self.now)
        if OBJECT[victim] is not None:
            self.spoilt.append(str(OBJECT[victim]))

    @rule()
    def the_relay_is_killed(self) -> None:
        self.lot = Lot()
        self.spoilt += sorted(self.doubted)
        self.doubted.clear()
        for label in self.spoilt:
            self.lot.spoilt(label)
        for deposit in self.kept.values():
            for order in self.lot.restored(deposit, self.now):
                assert isinstance(order, Spoil)
                self.spoilt.append(order.label)
        self.open.clear()
        self.line = dict.fromkeys(PEOPLE)

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        if not self.open:
            self.obey(self.lot.time_passed(self.now))
            assert self.lot.next_deadline() > self.now


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=600, stateful_step_count=20, deadline=None)
