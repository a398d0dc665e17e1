"""When a worker is started, asked, killed and given up: decisions alone, with the time as told."""

import math

import pytest

from relay.supervision import (
    ANSWER_S,
    ASK_EVERY_S,
    FIRST_PAUSE_S,
    LIVES,
    LONGEST_PAUSE_S,
    PATIENCE_S,
    START_S,
    YOUNG_S,
    Ask,
    Crew,
    Kill,
    Order,
    Start,
)


class Watch:
    """A crew and a clock that goes from one thing that is due to the next."""

    def __init__(self, count: int = 1) -> None:
        self.now = 100.0
        self.crew = Crew(count, self.now)

    def due(self) -> list[Order]:
        return self.crew.time_passed(self.now)

    def next(self) -> list[Order]:
        self.now = max(self.now, self.crew.next_deadline())
        return self.due()

    def serve(self, *workers: int) -> None:
        for worker in workers:
            self.crew.ready(worker, self.now)

    def dies(self, worker: int = 1) -> float:
        return self.crew.died(worker, self.now)


def test_all_are_started_at_once_and_it_serves_when_all_do() -> None:
    watch = Watch(3)
    assert watch.due() == [Start(1), Start(2), Start(3)]
    assert watch.due() == []
    watch.serve(1, 3)
    assert not watch.crew.complete
    watch.serve(2)
    assert watch.crew.complete


def test_one_that_has_served_a_while_is_replaced_at_once_and_the_others_are_left_alone() -> None:
    watch = Watch(2)
    watch.due()
    watch.serve(1, 2)
    watch.now += YOUNG_S
    watch.due()
    assert watch.dies(2) == 0
    assert watch.crew.serving == 1
    assert watch.due() == [Start(2)]


def test_the_pause_before_the_next_grows_with_each_young_death_and_has_an_end() -> None:
    watch = Watch(2)
    watch.due()
    watch.serve(2)
    pauses = []
    for _ in range(12):
        watch.now += YOUNG_S / 2
        watch.crew.heard(2, watch.now)
        pauses.append(watch.dies(1))
        while Start(1) not in watch.next():
            watch.crew.heard(2, watch.now)
    assert pauses[:4] == [FIRST_PAUSE_S * 2**n for n in range(4)]
    assert pauses[-2:] == [LONGEST_PAUSE_S] * 2
    assert not watch.crew.hopeless  # the other one serves


def test_a_long_life_makes_up_for_young_deaths() -> None:
    watch = Watch()
    for _ in range(LIVES - 1):
        assert watch.next() == [Start(1)]
        watch.dies()
    watch.next()
    watch.now += YOUNG_S
    watch.dies()
    watch.next()
    assert watch.dies() == FIRST_PAUSE_S
    assert not watch.crew.hopeless


def test_when_nobody_serves_and_one_dies_young_again_and_again_it_is_given_up() -> None:
    watch = Watch(2)
    watch.due()
    for death in range(LIVES):
        assert not watch.crew.hopeless
        watch.dies(1)
        if death < LIVES - 1:
            while Start(1) not in watch.next():
                pass
    assert watch.crew.hopeless


def test_who_answers_is_asked_for_ever_and_who_does_not_is_killed() -> None:
    watch = Watch(2)
    watch.due()
    watch.serve(1, 2)
    began = watch.now
    while Kill(2, PATIENCE_S) not in (orders := watch.next()):
        assert orders == [Ask(1), Ask(2)]
        watch.crew.heard(1, watch.now)
    assert watch.now - began == PATIENCE_S
    watch.crew.heard(1, watch.now)
    assert watch.next() == [Ask(1)]  # and the other one not again
    watch.dies(2)
    assert Start(2) in watch.due()


def test_when_the_parent_was_away_nobody_else_is_to_blame() -> None:
    watch = Watch(2)
    watch.due()
    watch.serve(1)
    watch.now += 10 * START_S
    assert watch.due() == [Ask(1)]
    while (orders := watch.next()) == [Ask(1)]:
        pass
    assert orders == [Kill(1, PATIENCE_S)]  # it had its time
    assert watch.next() == [Kill(2, START_S)]


def test_who_never_serves_is_killed() -> None:
    watch = Watch()
    watch.due()
    assert watch.next() == [Kill(1, START_S)]
    assert watch.crew.next_deadline() == math.inf


def test_systemd_is_told_that_all_is_well_only_while_all_answer() -> None:
    watch = Watch(2)
    watch.due()
    assert watch.crew.answering(watch.now)  # nobody is asked yet
    watch.serve(1, 2)
    watch.now += ASK_EVERY_S
    watch.due()
    watch.crew.heard(1, watch.now)
    assert watch.crew.answering(watch.now)
    watch.now += ANSWER_S - ASK_EVERY_S
    assert not watch.crew.answering(watch.now)
    watch.dies(2)
    assert watch.crew.answering(watch.now)


@pytest.mark.parametrize("code", [0, -9])
def test_who_leaves_is_asked_nothing_and_replaced_when_it_has_left(code: int) -> None:
    watch = Watch()
    watch.due()
    watch.serve(1)
    watch.crew.leaving(1)
    watch.now += 3600
    assert watch.due() == []
    assert watch.crew.answering(watch.now)
    assert watch.dies() == 0
    assert watch.due() == [Start(1)]


def test_after_the_dismissal_nobody_is_replaced() -> None:
    watch = Watch(2)
    watch.due()
    watch.serve(1)
    watch.crew.dismissed()
    assert watch.dies(1) == math.inf
    assert watch.dies(2) == math.inf
    assert watch.crew.next_deadline() == math.inf
    assert not watch.crew.hopeless
