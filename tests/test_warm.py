"""A leg dialled before Settings: `upstream.warm = "on_connect"`."""

from typing import Any

import pytest

from relay.session.facts import Admission, Dialect
from relay.simulator.script import parse
from tests.pair import Pair
from tests.test_pair import SETTINGS, assert_settled


def connected(*, warm: bool, script: str = "", latency_s: float = 0.05) -> Pair:
    """A round trip to the upstream takes 100 ms."""
    admission = Admission("request-1", Dialect.DEEPGRAM, warm)
    return Pair(parse(script), admission=admission, latency_s=latency_s)


def applied_after(pair: Pair) -> float:
    """Seconds from Settings to SettingsApplied."""
    began = pair.now
    return pair.client(SETTINGS).until("SettingsApplied").now - began


def test_a_warm_upstream_saves_the_dialling() -> None:
    assert applied_after(connected(warm=False).passes(2)) == pytest.approx(0.20)
    assert applied_after(connected(warm=True).passes(2)) == pytest.approx(0.10)


def test_settings_may_come_while_the_warm_leg_is_on_its_way() -> None:
    pair = connected(warm=True).passes(0.06)
    assert applied_after(pair) == pytest.approx(0.14)
    assert len(pair.dialled) == 1


def test_a_guess_that_was_wrong_is_hung_up() -> None:
    pair = connected(warm=True).passes(2)
    think = {"provider": {"type": "open_ai", "model": "gpt-realtime-mini"}}
    message: dict[str, Any] = SETTINGS | {"agent": {"think": think}}
    pair.client(message).until("SettingsApplied")
    assert [target.model for target in pair.dialled] == ["gpt-realtime-2.1", "gpt-realtime-mini"]
    assert list(pair.upstreams) == [2]


def test_a_warm_leg_that_fails_is_not_spoken_of() -> None:
    pair = connected(warm=True)
    pair.unreachable = 1
    pair.passes(5)
    assert pair.types() == ["Welcome"]
    assert len(pair.dialled) == 1
    pair.client(SETTINGS).until("SettingsApplied")
    assert len(pair.dialled) == 2
    assert_settled(pair)


def test_a_warm_leg_that_is_lost_is_not_spoken_of() -> None:
    pair = connected(warm=True).passes(2).loses_upstream()
    pair.client(SETTINGS).until("SettingsApplied").passes(1)
    assert pair.types() == ["Welcome", "SettingsApplied"]


def test_a_client_that_says_nothing_is_still_let_go() -> None:
    pair = connected(warm=True).passes(16)
    assert [e["code"] for e in pair.of("Error")] == ["CLIENT_MESSAGE_TIMEOUT"]
    assert pair.upstreams == {}
