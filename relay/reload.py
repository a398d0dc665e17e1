"""reload: replaces what is served while it is served.

It knows when to look (SIGHUP, a file that changed), what cannot change while the daemon runs, and
whom to tell how it went. What is read is a new `Served`, whole; if that cannot be had, the old one
stays. What happens to those who are connected is not decided here: they hold what they began with
(`relay.server`).
"""

import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec
import structlog
import trio

from relay import systemd
from relay.config import Config, ConfigError
from relay.served import Served, Sources, Stamp

FIXED = (
    "listen.host",
    "listen.port",
    "listen.workers",
    "session.resume_window_s",
    "session.resume_by_header",
    "session.max_parked",
    "session.max_parked_bytes",
    "store",
    "simulator",
    "admin",
    "tracing",
)
"""Keys that count from the start of the daemon to its end: who waits, waits by one rule."""

log = structlog.get_logger()


class Reloads(msgspec.Struct):
    """How reloading has gone so far."""

    done: int = 0
    refused: int = 0
    fault: str | None = None
    """Why the last attempt was refused; None: it was not."""
    wall: float = 0.0
    """When what is served now was read, in seconds since 1970."""


class Serving(Protocol):
    """Whose value is replaced."""

    reloads: Reloads

    @property
    def served(self) -> Served: ...

    @property
    def status(self) -> str:
        """What systemd shows when all is well."""

    async def change(self, new: Served) -> None:
        """Serve this from now on, or raise `ConfigError` and go on as before."""


class Reloader:
    """Reads the sources again when there is reason to."""

    def __init__(
        self,
        sources: Sources,
        serving: Serving,
        environment: Mapping[str, str],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sources = sources
        self._serving = serving
        self._environment = environment
        self._wall = wall
        self._seen = sources.stamps
        self._at_terminal = os.isatty(0)
        serving.reloads.wall = wall()

    async def run(self, hangups: AsyncIterator[object]) -> None:
        """Reload for each of `hangups`, and look at the files in between; until cancelled."""
        while True:
            watch_s = self._serving.served.config.reload.watch_s or math.inf
            with trio.move_on_after(watch_s) as patience:
                await anext(hangups)
            if patience.cancelled_caught:
                await self.look()
            elif self._at_terminal and not os.isatty(0):
                signal.raise_signal(signal.SIGTERM)  # it was closed: whoever ran us has gone
            else:
                await self.reload()

    async def look(self) -> None:
        """Reload if files have changed and look as they did the last time: a half-written one is
        left alone until it is whole."""
        seen = await trio.to_thread.run_sync(self._sources.look)
        if seen == self._seen and seen != self._sources.stamps:
            await self.reload()
        self._seen = seen

    async def reload(self) -> None:
        """Once. Raises nothing: also a mistake of ours must not end the conversations."""
        systemd.reloading(self._environment)
        old, stamps = self._serving.served, self._sources.stamps
        fixed: list[str] = []

        def adapt(read: Config) -> Config:
            adapted, differing = keep_fixed(old.config, read)
            fixed.extend(differing)
            return adapted

        reloads = self._serving.reloads
        try:
            new = await trio.to_thread.run_sync(self._sources.read, adapt)
            await self._serving.change(new)
        except ConfigError as error:
            reloads.refused += 1
            reloads.fault = str(error)
            log.error("reload refused, what was served before stays", reason=reloads.fault)
        except Exception:
            reloads.refused += 1
            reloads.fault = "the relay failed, see the log"
            log.exception("reload failed, what was served before stays")
        else:
            reloads.done += 1
            reloads.fault = None
            reloads.wall = self._wall()
            keys = sorted(changed(old.config, new.config))
            log.info("reloaded", keys=keys, files=_renewed(stamps, self._sources.stamps))
            if fixed:
                log.warning("a restart is needed for some keys", keys=fixed)
        refused = f"; reload refused: {reloads.fault}" if reloads.fault else ""
        systemd.notify(self._environment, READY=1, STATUS=f"{self._serving.status}{refused}")


def keep_fixed(old: Config, new: Config) -> tuple[Config, list[str]]:
    """`new` with the fixed values of `old`, and the keys in which they differ."""
    differing = []
    for key in FIXED:
        path = key.split(".")
        kept = _value(old, path)
        if _value(new, path) != kept:
            differing.append(key)
            new = _with(new, path, kept)
    return new, differing


def changed(old: msgspec.Struct, new: msgspec.Struct, under: str = "") -> Iterator[str]:
    """The dotted keys whose values differ."""
    for name in old.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            yield from changed(before, after, f"{under}{name}.")
        else:
            yield f"{under}{name}"


def _renewed(before: Mapping[Any, Stamp], after: Mapping[Any, Stamp]) -> list[str]:
    return sorted(str(file) for file, stamp in after.items() if before.get(file, ()) != stamp)


def _value(of: Any, path: list[str]) -> Any:
    for name in path:
        of = getattr(of, name)
    return of


def _with(struct: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    inner = _with(getattr(struct, name), rest, value) if rest else value
    return msgspec.structs.replace(struct, **{name: inner})
