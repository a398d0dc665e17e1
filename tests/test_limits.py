"""Limits: what each client has used and all together, in times that are made up."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.limits import (
    DAY_S,
    HOUR_S,
    SLOTS,
    Account,
    ClientLimits,
    Ledger,
    LimitName,
    Limits,
    Reached,
    Rules,
    Spent,
    client_of,
)

START = 1_800_000_000.0
"""A whole number of days since 1970: nothing here begins in the middle of a slot."""


def rules(total: Limits = Limits(), **key: Any) -> Rules:  # noqa: B008 - frozen
    return Rules(total, ClientLimits(**key))


def spend(ledger: Ledger, in_force: Rules, now: float, **spent: Any) -> Reached | None:
    return ledger.spend("a", Spent(**spent), in_force, now)


# Who is counted as one.


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("192.0.2.7", "[192.0.2.7]"),
        ("::ffff:192.0.2.7", "[192.0.2.7]"),
        ("2001:db8:1:2:3:4:5:6", "[2001:db8:1:2::/64]"),
        ("2001:db8:1:2::9", "[2001:db8:1:2::/64]"),
        ("fe80::1%eth0", "[fe80::/64]"),
        ("::1", "[::/64]"),
        ("", "[]"),
    ],
)
def test_who_shows_no_key_is_counted_by_address_or_network(peer: str, client: str) -> None:
    assert client_of(None, peer) == client


def test_the_bearer_of_a_key_is_counted_by_its_name_from_wherever() -> None:
    assert client_of("alice", "192.0.2.7") == client_of("alice", "2001:db8::1") == "alice"


# Sessions.


def test_without_limits_everybody_is_let_in() -> None:
    ledger = Ledger()
    assert [ledger.admit("a", Rules(), START) for _ in range(1000)] == [None] * 1000
    assert ledger.total.sessions == ledger.clients["a"].sessions == 1000


def test_a_client_has_so_many_sessions_and_another_has_its_own() -> None:
    ledger, in_force = Ledger(), rules(sessions=2)
    assert [ledger.admit("a", in_force, START) for _ in range(3)] == [
        None,
        None,
        Reached("sessions", by_all=False),
    ]
    assert ledger.admit("b", in_force, START) is None
    ledger.release("a", in_force, START)
    assert ledger.admit("a", in_force, START) is None
    assert ledger.refused == {"limits.key.sessions": 1}


def test_all_clients_together_have_so_many() -> None:
    ledger, in_force = Ledger(), rules(Limits(sessions=2))
    ledger.admit("a", in_force, START)
    ledger.admit("b", in_force, START)
    assert ledger.admit("c", in_force, START) == Reached("sessions", by_all=True)
    assert ledger.refused == {"limits.sessions": 1}
    assert "c" not in ledger.clients


def test_a_name_may_have_limits_of_its_own() -> None:
    in_force = Rules(key=ClientLimits(sessions=1), named={"a": ClientLimits(sessions=0)})
    ledger = Ledger()
    assert [ledger.admit("a", in_force, START) for _ in range(9)] == [None] * 9
    assert [ledger.admit("b", in_force, START) is None for _ in range(2)] == [True, False]


def test_other_limits_take_effect_at_once_and_leave_the_counts() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.admit("a", Rules(), START)
    spend(ledger, Rules(), START, tokens=100)
    lower = rules(sessions=2, tokens_per_day=100)
    assert ledger.admit("a", lower, START) == Reached("sessions", by_all=False)
    assert spend(ledger, lower, START) == Reached("tokens_per_day", False, DAY_S + DAY_S / SLOTS)
    assert spend(ledger, rules(tokens_per_day=101), START) is None
    assert ledger.total.sessions == 3


# Budgets.


@pytest.mark.parametrize(
    ("limit", "spent", "span_s"),
    [
        ({"audio_minutes_per_hour": 10}, {"audio_s": 60.0}, HOUR_S),
        ({"tokens_per_day": 1000}, {"tokens": 100}, DAY_S),
    ],
)
def test_a_budget_is_for_any_hour_or_day_and_says_when_there_is_more(
    limit: dict[LimitName, Any], spent: dict[str, Any], span_s: float
) -> None:
    ledger, in_force, slot_s = Ledger(), rules(**limit), span_s / SLOTS
    ledger.admit("a", in_force, START)
    begun = [spend(ledger, in_force, START + n * slot_s, **spent) for n in range(9)]
    assert begun == [None] * 9
    (name,) = limit
    now = START + 9 * slot_s
    again_in_s = span_s + slot_s - 9 * slot_s  # when the first of it is forgotten
    reached = spend(ledger, in_force, now, **spent)
    assert reached == Reached(name, by_all=False, again_in_s=again_in_s)
    assert ledger.admit("a", in_force, now) == reached
    assert ledger.admit("b", in_force, now) is None
    assert ledger.admit("a", in_force, now + again_in_s - 0.001) is not None
    assert ledger.admit("a", in_force, now + again_in_s) is None
    assert ledger.refused == {f"limits.key.{name}": 2}


def test_as_much_as_the_limit_is_not_below_it() -> None:
    ledger, in_force = Ledger(), rules(tokens_per_day=2)
    ledger.admit("a", in_force, START)
    spend(ledger, in_force, START, tokens=1)
    now = START + 2 * DAY_S / SLOTS
    reached = spend(ledger, in_force, now, tokens=2)
    assert reached == Reached("tokens_per_day", False, DAY_S + DAY_S / SLOTS)
    last_moment = now + DAY_S + DAY_S / SLOTS - 0.5
    assert spend(ledger, in_force, last_moment) == Reached("tokens_per_day", False, 0.5)


def test_what_is_used_bit_by_bit_adds_up_and_is_forgotten_part_by_part() -> None:
    ledger, slot_s = Ledger(), HOUR_S / SLOTS
    ledger.admit("a", Rules(), START)
    for seconds, audio_s in ((0.0, 1.0), (0.5 * slot_s, 2.0), (0.6 * slot_s, 3.0), (slot_s, 4.0)):
        spend(ledger, Rules(), START + seconds, audio_s=audio_s)
    audio = ledger.clients["a"].audio
    for seconds, left in ((2 * slot_s, 10), (HOUR_S, 10), (HOUR_S + slot_s, 4)):
        audio.pass_time(START + seconds)
        assert audio.used == left
    audio.pass_time(START + HOUR_S + 2 * slot_s)
    assert (audio.used, audio.slots) == (0, {})


@pytest.mark.parametrize(
    ("limit", "spent"),
    [
        ({"tokens_per_day": 1}, {"tokens": 1}),
        ({"audio_minutes_per_hour": 0.001}, {"audio_s": 0.06}),
        ({"frames_per_s": 0.01}, {"frames": 1}),
        ({"bytes_per_s": 0.01}, {"bytes": 1}),
    ],
)
def test_the_smallest_limit_is_one(limit: dict[str, Any], spent: dict[str, Any]) -> None:
    ledger, in_force = Ledger(), rules(**limit)
    ledger.admit("a", in_force, START)
    assert spend(ledger, in_force, START) is None
    assert spend(ledger, in_force, START, **spent) is not None


def test_a_rate_that_is_new_counts_from_now_on() -> None:
    ledger = Ledger()
    ledger.admit("a", Rules(), START)
    spend(ledger, rules(frames_per_s=100), START, frames=5000)
    spend(ledger, Rules(), START + 1, frames=10**9)
    assert spend(ledger, rules(frames_per_s=100), START + 1, frames=6000) is None


def test_a_budget_of_all_ends_the_sessions_of_each() -> None:
    ledger, in_force = Ledger(), rules(Limits(tokens_per_day=100))
    for client in ("a", "b"):
        ledger.admit(client, in_force, START)
    assert ledger.spend("a", Spent(tokens=99), in_force, START) is None
    reached = Reached("tokens_per_day", True, DAY_S + DAY_S / SLOTS)
    assert ledger.spend("b", Spent(tokens=1), in_force, START) == reached
    assert ledger.spend("a", Spent(), in_force, START) == reached
    for _ in range(2):
        ledger.stopped(Reached("tokens_per_day", by_all=True))
    assert ledger.ended == {"limits.tokens_per_day": 2}


def test_a_clock_that_was_wrong_does_not_keep_anybody_out() -> None:
    ledger, in_force = Ledger(), rules(tokens_per_day=10)
    ledger.admit("a", in_force, START)
    assert spend(ledger, in_force, START + 400 * DAY_S, tokens=10) is not None
    assert spend(ledger, in_force, START) is None


# Rates.


def test_a_burst_is_no_fault_and_a_flood_is() -> None:
    ledger, in_force = Ledger(), rules(frames_per_s=100)
    ledger.admit("a", in_force, START)
    assert spend(ledger, in_force, START, frames=6000) is None
    assert spend(ledger, in_force, START + 10, frames=1000) is None
    assert spend(ledger, in_force, START + 11, frames=200) == Reached("frames_per_s", False, 1.0)
    assert ledger.admit("a", in_force, START + 11.9) is not None
    assert ledger.admit("a", in_force, START + 12) is None


def test_what_is_below_the_rate_may_go_on_for_ever() -> None:
    ledger, in_force = Ledger(), rules(bytes_per_s=1000)
    ledger.admit("a", in_force, START)
    for second in range(10_000):
        assert spend(ledger, in_force, START + second, bytes=1000) is None


def test_all_too_fast_together_keeps_others_out_and_ends_nobody() -> None:
    ledger, in_force = Ledger(), rules(Limits(bytes_per_s=1000))
    ledger.admit("a", in_force, START)
    assert spend(ledger, in_force, START, bytes=61_000) is None
    assert ledger.admit("b", in_force, START) == Reached("bytes_per_s", True, 1.0)
    assert ledger.admit("b", in_force, START + 1) is None


# What is kept.


def test_who_left_nothing_behind_is_forgotten_at_once() -> None:
    ledger = Ledger()
    ledger.admit("a", Rules(), START)
    ledger.release("a", Rules(), START)
    assert ledger == Ledger(total=ledger.total)


def test_who_used_something_is_forgotten_when_that_counts_no_more() -> None:
    ledger, in_force = Ledger(), rules(frames_per_s=1)
    ledger.admit("a", in_force, START)
    spend(ledger, in_force, START, audio_s=1.0, frames=120)
    ledger.release("a", in_force, START)
    ledger.tick(in_force, START + HOUR_S)
    assert "a" in ledger.clients
    ledger.tick(in_force, START + HOUR_S + HOUR_S / SLOTS)
    assert not ledger.clients


@pytest.mark.parametrize("what", ["frames", "bytes"])
def test_who_was_too_fast_is_forgotten_when_that_is_made_up_for(what: str) -> None:
    ledger, rate = Ledger(), f"{what}_per_s"
    in_force = Rules(
        key=ClientLimits(**{rate: 1000}),
        named={"a": ClientLimits(**{rate: 2})},
    )
    ledger.admit("a", in_force, START)
    spend(ledger, in_force, START, **{what: 121})
    ledger.release("a", in_force, START)
    ledger.tick(in_force, START + 60)
    assert "a" in ledger.clients
    ledger.tick(in_force, START + 60.5)
    assert not ledger.clients


def test_a_window_stays_small() -> None:
    account = Account()
    for minute in range(5000):
        account.spend(Spent(audio_s=1.0, tokens=1), Limits(), START + 60 * minute)
    assert len(account.audio.slots) == len(account.tokens.slots) == SLOTS + 1


# Whatever happens.

CLIENTS = ("a", "b", "c")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "release", "spend", "tick", "encode"]),
        st.sampled_from(CLIENTS),
        st.floats(0, 1000),
        st.integers(0, 50),
    ),
    max_size=60,
)
RULES = st.builds(
    Rules,
    st.builds(Limits, sessions=st.integers(0, 4), tokens_per_day=st.integers(0, 200)),
    st.builds(
        ClientLimits,
        sessions=st.integers(0, 3),
        audio_minutes_per_hour=st.floats(0, 3),
        frames_per_s=st.just(0.0) | st.floats(0.1, 5),
    ),
)


@settings(max_examples=200, deadline=None)
@given(in_force=RULES, steps=STEPS)
def test_the_books_balance(in_force: Rules, steps: list[tuple[str, str, float, int]]) -> None:
    """No count is negative, who left is not counted, the sum of the clients is the total, the
    limits hold, nobody is refused without one, and a copy goes on like the original."""
    ledger, now = Ledger(), START
    inside = dict.fromkeys(CLIENTS, 0)
    for what, client, seconds, amount in steps:
        now += seconds
        if what == "admit":
            reached = ledger.admit(client, in_force, now)
            inside[client] += reached is None
            limits = in_force.total if reached and reached.by_all else in_force.of(client)
            assert reached is None or getattr(limits, reached.limit) > 0
        elif what == "release" and inside[client]:
            ledger.release(client, in_force, now)
            inside[client] -= 1
        elif what == "spend" and inside[client]:
            spent = Spent(amount, amount, float(amount), amount)
            ledger.spend(client, spent, in_force, now)
        elif what == "tick":
            ledger.tick(in_force, now)
        elif what == "encode":
            ledger = msgspec.msgpack.decode(msgspec.msgpack.encode(ledger), type=Ledger)
        counted = {name: account.sessions for name, account in ledger.clients.items()}
        assert {name: n for name, n in counted.items() if n} == {
            name: n for name, n in inside.items() if n
        }
        assert ledger.total.sessions == sum(inside.values())
        if in_force.total.sessions:
            assert ledger.total.sessions <= in_force.total.sessions
        for name in CLIENTS:
            assert not in_force.key.sessions or inside[name] <= in_force.key.sessions
        accounts = [ledger.total, *ledger.clients.values()]
        for account in accounts:
            assert account.audio.used >= 0
            assert account.tokens.used >= 0
            assert account.frames.level >= 0
            account.tokens.pass_time(now)
        assert sum(account.tokens.used for account in accounts[1:]) <= ledger.total.tokens.used


@settings(max_examples=200, deadline=None)
@given(in_force=RULES, steps=STEPS)
def test_who_is_refused_is_let_in_after_the_time_that_is_named(
    in_force: Rules, steps: list[tuple[str, str, float, int]]
) -> None:
    ledger, now = Ledger(), START
    for _, client, seconds, amount in steps:
        now += seconds
        if ledger.admit(client, in_force, now) is None:
            spent = Spent(amount, amount, float(amount), amount)
            ledger.spend(client, spent, in_force, now)
            ledger.release(client, in_force, now)
    for client in CLIENTS:
        # More than one limit may be in the way, one after the other.
        for _ in range(4):
            if (reached := ledger.admit(client, in_force, now)) is None:
                ledger.release(client, in_force, now)
                break
            assert reached.again_in_s is not None  # for nobody is in
            assert reached.again_in_s <= DAY_S + DAY_S / SLOTS
            now += reached.again_in_s + 1e-3
        else:
            pytest.fail("never let in again")
