"""What has been heard: each item from its own start, never more than was sent."""

import itertools
import math
from typing import Any, Literal, TypeAlias

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.audio.playback import KEPT_STRETCHES, Item, Playback

# Milliseconds for every check on sums of floats: a thousandth of a sample at 24 kHz.
CLOSE = 4e-5


def test_before_anything_is_sent_nothing_plays() -> None:
    playback = Playback()
    assert playback.finished(0.0)
    assert playback.play_end == -math.inf
    assert playback.unheard(0.0) == []
    assert playback.heard_ms("item_1", 5.0) == 0
    assert playback.audio_end_ms("item_1", 5.0) == 0


def test_audio_plays_from_the_moment_it_is_sent() -> None:
    playback = Playback()
    playback.sent("item_1", 2000, now=10.0)
    assert playback.play_end == 12.0
    assert playback.audio_end_ms("item_1", 10.0) == 0
    assert playback.audio_end_ms("item_1", 11.5) == 1500
    assert not playback.finished(11.999)
    assert playback.finished(12.0)
    assert playback.audio_end_ms("item_1", 99.0) == 2000


@pytest.mark.conformance("C-155")
def test_each_item_is_measured_from_its_own_start() -> None:
    playback = Playback()
    playback.sent("item_1", 1000, now=0.0)
    playback.sent("item_2", 1000, now=0.1)
    assert playback.audio_end_ms("item_1", 1.5) == 1000
    assert playback.audio_end_ms("item_2", 1.5) == 500


@pytest.mark.conformance("C-151", "C-152")
def test_only_items_not_played_out_are_unheard_oldest_first() -> None:
    playback = Playback()
    for item in ("item_1", "item_2", "item_3"):
        playback.sent(item, 1000, now=0.0, leg=3, content_index=1)
    assert playback.unheard(1.0) == [Item("item_2", 3, 1), Item("item_3", 3, 1)]
    assert playback.unheard(3.0) == []


def test_an_item_that_goes_on_after_the_client_ran_dry_keeps_what_was_heard() -> None:
    playback = Playback()
    playback.sent("item_1", 500, now=0.0)
    playback.sent("item_1", 500, now=2.0)
    assert playback.audio_end_ms("item_1", 2.0) == 500
    assert playback.audio_end_ms("item_1", 2.25) == 750
    assert playback.play_end == 2.5


def test_the_margin_is_taken_off_and_never_gives_less_than_nothing() -> None:
    playback = Playback()
    playback.sent("item_1", 1000, now=0.0)
    assert playback.audio_end_ms("item_1", 0.5, margin_ms=85) == 415
    assert playback.audio_end_ms("item_1", 0.05, margin_ms=85) == 0


def test_dropped_audio_comes_off_the_newest_items() -> None:
    playback = Playback()
    playback.sent("item_1", 1000, now=0.0)
    playback.sent("item_2", 1000, now=0.0)
    playback.dropped(1500)
    assert playback.sent_ms("item_1") == 500
    assert playback.sent_ms("item_2") == 0
    assert playback.play_end == 0.5


def test_a_stalled_client_has_not_heard_what_was_dropped() -> None:
    playback = Playback()
    playback.sent("item_1", 5000, now=0.0)
    playback.dropped(5000)
    assert playback.audio_end_ms("item_1", 3.0) == 0
    assert playback.finished(3.0)


def test_after_a_cut_the_next_item_plays_at_once() -> None:
    playback = Playback()
    playback.sent("item_1", 5000, now=0.0)
    playback.cut(1.0)
    assert playback.play_end == 1.0
    playback.sent("item_2", 1000, now=1.5)
    assert playback.audio_end_ms("item_1", 9.0) == 1000
    assert playback.audio_end_ms("item_2", 2.0) == 500


def test_items_that_alternate_are_each_counted_whole() -> None:
    playback = Playback()
    for item in ("item_1", "item_2", "item_1", "item_2"):
        playback.sent(item, 100, now=0.0)
    assert playback.heard_ms("item_1", 0.25) == pytest.approx(150)
    assert playback.heard_ms("item_2", 0.25) == pytest.approx(100)
    assert [unheard.item for unheard in playback.unheard(0.25)] == ["item_1", "item_2"]


def test_the_same_id_on_a_later_leg_is_another_item() -> None:
    playback = Playback()
    playback.sent("item_1", 1000, now=0.0, leg=1)
    playback.sent("item_1", 300, now=5.0, leg=2)
    assert playback.audio_end_ms("item_1", 99.0) == 300


def test_old_items_do_not_accumulate() -> None:
    playback = Playback()
    for number in range(1000):
        playback.sent(f"item_{number}", 1000, now=float(number))
    assert len(playback.timeline) <= KEPT_STRETCHES + 1
    assert playback.audio_end_ms("item_999", 1000.0) == 1000


def test_what_has_not_been_played_is_never_forgotten() -> None:
    playback = Playback()
    for number in range(200):
        playback.sent(f"item_{number}", 1000, now=0.0)
    assert len(playback.unheard(0.5)) == 200


def test_what_was_never_written_was_not_heard_however_late_it_is() -> None:
    playback = Playback()
    playback.sent("item_1", 400, now=0.0)
    playback.sent("item_2", 400, now=0.0)
    assert playback.unheard(9.0) == []
    assert [item.item for item in playback.unheard(9.0, unwritten_ms=500)] == ["item_1", "item_2"]
    assert [item.item for item in playback.unheard(9.0, unwritten_ms=400)] == ["item_2"]


# Properties. A life is a list of things that happen, each some time after the one before.

ITEMS = ["item_1", "item_2", "item_3", "item_4"]

Happening: TypeAlias = tuple[Literal["sent", "dropped", "cut"], Any, float]

durations = st.floats(0.1, 3000)
pauses = st.one_of(st.just(0.0), st.floats(0, 2))
happenings = st.one_of(
    st.tuples(st.just("sent"), st.tuples(st.sampled_from(ITEMS), durations), pauses),
    st.tuples(st.just("dropped"), durations, pauses),
    st.tuples(st.just("cut"), st.none(), pauses),
)
lives: st.SearchStrategy[list[Any]] = st.lists(happenings, max_size=25)
moments = st.lists(st.floats(0, 30), min_size=2, max_size=6).map(sorted)
beginnings = st.sampled_from([0.0, 5.0, 123456.789])


def live(playback: Playback, life: list[Happening], now: float) -> float:
    """Let everything happen to `playback`; the time at which it is over."""
    for what, argument, pause in life:
        now += pause
        match what:
            case "sent":
                item, ms = argument
                playback.sent(item, ms, now)
            case "dropped":
                playback.dropped(argument)
            case "cut":
                playback.cut(now)
    return now


@given(lives, beginnings, moments)
@pytest.mark.conformance("C-151")
def test_the_end_of_audio_is_within_what_was_sent(
    life: list[Happening], begun: float, later: list[float]
) -> None:
    playback = Playback()
    now = live(playback, life, begun)
    posted = dict.fromkeys(ITEMS, 0.0)
    for what, argument, _ in life:
        if what == "sent":
            posted[argument[0]] += argument[1]
    for item in ITEMS:
        for moment in later:
            end = playback.audio_end_ms(item, now + moment)
            assert 0 <= end <= playback.sent_ms(item) + CLOSE
            assert end <= posted[item] + CLOSE


@given(lives, beginnings, moments)
def test_what_was_heard_only_grows(life: list[Happening], begun: float, later: list[float]) -> None:
    playback = Playback()
    now = live(playback, life, begun)
    for item in ITEMS:
        heard = [playback.audio_end_ms(item, now + moment) for moment in later]
        assert heard == sorted(heard)


@given(st.lists(st.tuples(st.sampled_from(ITEMS), durations, pauses), max_size=25), beginnings)
def test_sending_never_takes_back_what_was_heard(
    sends: list[tuple[str, float, float]], begun: float
) -> None:
    playback, now = Playback(), begun
    for item, ms, pause in sends:
        now += pause
        before = {known: playback.heard_ms(known, now) for known in ITEMS}
        playback.sent(item, ms, now)
        for known in ITEMS:
            assert playback.heard_ms(known, now) == pytest.approx(before[known], abs=CLOSE)


@given(lives, beginnings, moments)
def test_nobody_hears_more_than_the_time_that_has_passed(
    life: list[Happening], begun: float, later: list[float]
) -> None:
    playback = Playback()
    now = live(playback, life, begun)
    for moment in later:
        heard = sum(playback.heard_ms(item, now + moment) for item in ITEMS)
        assert heard <= (now + moment - begun) * 1000 + CLOSE


@given(lives, beginnings)
def test_items_do_not_overlap_in_what_is_still_to_be_played(
    life: list[Happening], begun: float
) -> None:
    playback = Playback()
    now = live(playback, life, begun)
    ahead = [stretch for stretch in playback.timeline if stretch.end > now]
    for earlier, later in itertools.pairwise(ahead):
        assert earlier.end == pytest.approx(later.start, abs=CLOSE / 1000)


@given(lives, beginnings, st.sampled_from(ITEMS), durations)
def test_dropped_and_sent_again_is_as_if_sent_once(
    life: list[Happening], begun: float, item: str, ms: float
) -> None:
    once, twice = Playback(), Playback()
    now = live(once, life, begun)
    live(twice, life, begun)
    once.sent(item, ms, now)
    twice.sent(item, ms, now)
    twice.dropped(ms)
    twice.sent(item, ms, now)
    for moment in (now, now + 0.5, now + 60):
        for known in ITEMS:
            assert once.heard_ms(known, moment) == pytest.approx(
                twice.heard_ms(known, moment), abs=CLOSE
            )


@given(lives, lives, beginnings)
def test_encoding_half_way_changes_nothing(
    first: list[Happening], second: list[Happening], begun: float
) -> None:
    through, straight = Playback(), Playback()
    now = live(straight, first, begun)
    live(through, first, begun)
    through = msgspec.msgpack.decode(msgspec.msgpack.encode(through), type=Playback)
    live(straight, second, now)
    live(through, second, now)
    assert through == straight


@given(lives, beginnings, moments)
def test_after_a_cut_nothing_more_is_heard(
    life: list[Happening], begun: float, later: list[float]
) -> None:
    playback = Playback()
    now = live(playback, life, begun)
    heard = {item: playback.heard_ms(item, now) for item in ITEMS}
    playback.cut(now)
    assert playback.finished(now + CLOSE / 1000)
    for moment in later:
        for item in ITEMS:
            assert playback.heard_ms(item, now + moment) == pytest.approx(heard[item], abs=CLOSE)


def test_an_item_that_is_called_otherwise_keeps_what_was_heard_of_it() -> None:
    play = Playback()
    play.sent("one", 100, 0.0)
    play.sent("two", 100, 0.0)
    play.renamed({"one": "was_one", "three": "was_three"})
    assert [play.heard_ms(item, 1.0) for item in ("one", "was_one", "two")] == [0, 100, 100]
    assert [item.item for item in play.unheard(0.05)] == ["was_one", "two"]
