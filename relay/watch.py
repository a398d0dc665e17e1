"""watch: what can be seen of this process from outside.

It holds the figures (`relay.observer`), measures the loop, asks the system what the process uses
and the meter what conversations do (`relay.metering`), and brings that together when somebody
looks. It decides nothing and serves nothing.
"""

import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Callable, Container

import msgspec
import trio

from relay import process
from relay.lag import Lag
from relay.metering import Metering
from relay.metrics import OTHER, Metrics, Snapshot
from relay.observer import Live, Overview
from relay.reload import Reloads

_VERSION = importlib.metadata.version("voice-agent-relay")
_PYTHON = platform.python_version()


class Watch:
    """One for a process; `lag.watch` is a task that whoever holds this runs."""

    def __init__(self, *, is_serving: bool = True, wall: Callable[[], float] = time.time) -> None:
        """`is_serving`: it accepts connections."""
        self._is_serving = is_serving
        self.overview = Overview()
        self.lag = Lag(self.metrics.lag.observe)
        self._began_wall = wall()
        self._connections = 0

    @property
    def metrics(self) -> Metrics:
        return self.overview.metrics

    def connected(self) -> None:
        """A TCP connection was accepted."""
        self.metrics.connections.add(1)
        self._connections += 1

    def disconnected(self) -> None:
        """It is closed."""
        self._connections -= 1

    def metered(self, meter: Metering, models: Container[str]) -> None:
        """What was used and which limits were reached. `models`: those that have a label of their
        own; a client may name others."""
        metrics, used = self.metrics, meter.used
        metrics.audio.reach(used.input_ms / 1000, "in")
        metrics.audio.reach(used.output_ms / 1000, "out")
        metrics.responses.reach(used.responses)
        tokens: Counter[tuple[str, str]] = Counter()
        for model, counted in used.tokens.items():
            for kind, count in msgspec.structs.asdict(counted).items():
                tokens[model if model in models else OTHER, kind] += count
        for labels, count in tokens.items():
            metrics.tokens.reach(count, *labels)
        transcribed: dict[str, float] = {}
        for model, seconds in used.transcribed_s.items():
            label = model if model in models else OTHER
            transcribed[label] = transcribed.get(label, 0.0) + seconds
        for label, seconds in transcribed.items():
            metrics.transcribed.reach(seconds, label)
        for currency, amount in meter.cost.items():
            metrics.cost.reach(amount, currency)
        for limit, times in meter.ledger.refused.items():
            metrics.limits_refused.reach(times, limit)
        for limit, times in meter.ledger.ended.items():
            metrics.limits_ended.reach(times, limit)

    def reloaded(self, reloads: Reloads) -> None:
        """How often what is served was read again, and how that went."""
        self.metrics.reloads.reach(reloads.done, "done")
        self.metrics.reloads.reach(reloads.refused, "refused")
        self.metrics.reload_refused.put(float(reloads.fault is not None))

    def live(self) -> list[Live]:
        """The sessions that are going on."""
        return self.overview.live(trio.current_time())

    def snapshot(self) -> Snapshot:
        """All figures, as they are now."""
        metrics = self.metrics
        metrics.open_connections.put(self._connections)
        metrics.lag_mean.put(self.lag.mean_s)
        metrics.processes.put(int(self._is_serving))
        metrics.info.put(1, _VERSION, _PYTHON)
        metrics.started.put(self._began_wall)
        if (used := process.usage()) is not None:
            metrics.resident.put(used.resident_bytes)
            metrics.cpu.reach(used.cpu_s)
            metrics.descriptors.put(used.descriptors)
            if used.most_descriptors is not None:
                metrics.most_descriptors.put(used.most_descriptors)
        return self.overview.snapshot()
