"""prices: what usage costs, by the table in the configuration.

It knows what is counted (`relay.session.usage`) and multiplies. Which models there are, it is told.
"""

from collections.abc import Mapping
from typing import Annotated, TypeAlias

import msgspec

from relay.session.usage import Used

Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]

MILLION = 1_000_000


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one model. What is not given costs nothing."""

    currency: str = "USD"
    """Of the other keys; the log's `cost` has a sum for each currency."""
    input_text: Amount = 0.0
    """For a million text tokens that are not cached; so for the four below."""
    input_audio: Amount = 0.0
    input_cached: Amount = 0.0
    """Text and audio."""
    output_text: Amount = 0.0
    output_audio: Amount = 0.0
    transcribed_minute: Amount = 0.0
    """For a minute of speech, where a model that transcribes counts time instead of tokens."""


def cost(used: Used, prices: Mapping[str, Price]) -> tuple[dict[str, float], list[str]]:
    """The sum in each currency, and the models that have no price."""
    sums: dict[str, float] = {}
    for model, tokens in used.tokens.items():
        if price := prices.get(model):
            amounts = msgspec.structs.asdict(tokens)
            amount = sum(n * getattr(price, kind) for kind, n in amounts.items()) / MILLION
            sums[price.currency] = sums.get(price.currency, 0.0) + amount
    for model, seconds in used.transcribed_s.items():
        if price := prices.get(model):
            amount = seconds / 60 * price.transcribed_minute
            sums[price.currency] = sums.get(price.currency, 0.0) + amount
    unpriced = {*used.tokens, *used.transcribed_s} - prices.keys()
    return sums, sorted(unpriced)
