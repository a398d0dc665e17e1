"""Prices: what usage costs."""

import pytest

from relay import config
from relay.prices import Price, cost
from relay.session.usage import Tokens, Used

DEAR = Price(input_text=4, input_audio=32, input_cached=0.4, output_text=16, output_audio=64)


def test_each_kind_has_its_price_for_a_million() -> None:
    million = 1_000_000
    used = Used(tokens={"m": Tokens(million, million, million, million, million)})
    sums, unpriced = cost(used, {"m": DEAR})
    assert sums == {"USD": pytest.approx(4 + 32 + 0.4 + 16 + 64)}
    assert unpriced == []


def test_currencies_are_not_added_up_and_models_without_a_price_are_named() -> None:
    used = Used(
        tokens={
            "a": Tokens(input_text=500_000),
            "b": Tokens(output_text=1),
            "c": Tokens(1),
            "d": Tokens(output_audio=500_000),
        },
        transcribed_s={"t": 90.0, "u": 1.0},
    )
    prices = {
        "a": Price(input_text=2),
        "b": Price(output_text=3_000_000, currency="EUR"),
        "d": Price(output_audio=4),
        "t": Price(transcribed_minute=0.006),
    }
    assert cost(used, prices) == ({"USD": pytest.approx(3.009), "EUR": 3.0}, ["c", "u"])


def test_what_is_transcribed_has_a_sum_of_its_own_currency() -> None:
    used = Used(transcribed_s={"t": 60.0, "u": 120.0})
    price = Price(transcribed_minute=2, currency="EUR")
    assert cost(used, {"t": price, "u": price}) == ({"EUR": 6.0}, [])


def test_nothing_costs_nothing() -> None:
    assert cost(Used(), {"m": DEAR}) == ({}, [])


def test_prices_come_from_the_configuration() -> None:
    read = config.load(None, {}, ['prices."gpt-realtime-2.1"={ input_audio = 32 }'])
    assert read.prices == {"gpt-realtime-2.1": Price(input_audio=32)}


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["prices.m={ input_voice = 32 }"], "prices.m.input_voice: unknown key"),
        (
            ['prices."gpt-realtime-2.1"={ input_audio = "32" }', "prices.m={ input_audio = 3 }"],
            'prices."gpt-realtime-2.1".input_audio: expected `float`, got `str`',
        ),
        (["prices.m=4"], "prices.m: expected a table, got `int`"),
        (["prices.m={ input_text = -1 }"], "prices.m.input_text: expected `float` >= 0.0"),
        (["prices=4"], "prices: expected a table, got `int`"),
        (
            ["upstream.headers={ a = 1 }", "prices.m=4"],
            "upstream.headers: unknown key",
        ),
    ],
)
def test_a_price_that_is_none_is_named(assignments: list[str], said: str) -> None:
    with pytest.raises(config.ConfigError) as refused:
        config.load(None, {}, assignments)
    assert str(refused.value) == said
