"""overload: whether newcomers are turned away because those who are in have all there is.

It knows how late the event loop is, as it is told, and the time, which is an argument in seconds.
A loop that is late is late for everybody's audio; one more session would be served badly and make
the others worse. Who is in stays in.
"""

import math
from typing import Annotated

import msgspec


class OverloadTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When new sessions are refused, with 503 and Retry-After, and `/readyz` says so."""

    max_lag_ms: Annotated[float, msgspec.Meta(ge=0)] = 250.0
    """While the event loop is later than this, on average over two seconds; 0: never."""
    calm_s: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    """...and for so long after it was last later than half of that: newcomers come in waves, and
    the first wave must not be followed by the second before its load is seen."""


class Overload:
    """Remembers only when it will be over."""

    def __init__(self, table: OverloadTable) -> None:
        self.table = table
        """May be replaced at any time."""
        self._until = -math.inf

    def sheds(self, lag_s: float, now: float) -> bool:
        """Whether to refuse who comes now. Ask at any time, as often as you like."""
        max_lag_s = self.table.max_lag_ms / 1000
        begun = now < self._until
        if max_lag_s and lag_s > (max_lag_s / 2 if begun else max_lag_s):
            self._until = now + self.table.calm_s
        return bool(max_lag_s) and now < self._until

    @property
    def again_in_s(self) -> float:
        """When those who were refused should try again."""
        return self.table.calm_s
