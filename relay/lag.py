"""lag: how late the event loop is, which is how overloaded the process is.

It sleeps and looks at the clock, and knows nothing of what keeps the loop busy. Whatever else is
late on this loop (audio, pongs, answers to health checks) is late by as much.
"""

from collections import deque
from collections.abc import Callable

import trio

INTERVAL_S = 0.25
"""Between two looks. Each costs one wake-up."""
WINDOW = 8
"""How many looks count as now: two seconds."""


class Lag:
    """Measures while `watch` runs; without it there is none."""

    def __init__(self, seen: Callable[[float], None] = lambda lag_s: None) -> None:
        """`seen` is told of each measurement, in seconds."""
        self._seen = seen
        # Before there was a loop it was not late: nor is one hiccup of a young one an overload.
        self._recent = deque([0.0] * WINDOW, WINDOW)
        self._due = trio.current_time()
        self._watching = False

    @property
    def mean_s(self) -> float:
        """Over the last two seconds: what load there is. One hiccup alone moves it by an eighth."""
        overdue_s = self._overdue_s
        recent = [*self._recent, overdue_s] if overdue_s else self._recent
        return sum(recent) / len(recent)

    @property
    def worst_s(self) -> float:
        """In the last two seconds."""
        return max([*self._recent, self._overdue_s])

    @property
    def _overdue_s(self) -> float:
        """Of the look under way: whoever asks in a late round of the loop knows at once."""
        return max(0.0, trio.current_time() - self._due) if self._watching else 0.0

    async def watch(self) -> None:
        """Measure for ever."""
        self._watching = True
        try:
            while True:
                self._due = trio.current_time() + INTERVAL_S
                await trio.sleep_until(self._due)
                late = trio.current_time() - self._due
                self._recent.append(late)
                self._seen(late)
        finally:
            self._watching = False
