"""admin: the pages for those who run the relay, on a listener of their own.

It knows their paths and forms; where the figures come from is told to it. There is no
authentication: whoever reaches the listener reads the pages, which is why they are never on the
public one, and why it is loopback unless `admin.allow_anonymous` says that others may.

    /metrics    for Prometheus
    /healthz    200: the daemon lives
    /readyz     200: it admits; 503: it does not
    /sessions   what goes on, as JSON: ids, keys' names, ages, sizes; not a word of what is said
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NamedTuple

import msgspec
import structlog
import trio

from relay import metrics, wire
from relay.config import Admin, is_loopback
from relay.metrics import Snapshot
from relay.observer import Live

TEXT = "text/plain; charset=utf-8"

log = structlog.get_logger()


class Sources(NamedTuple):
    """Where the pages come from; each is asked for each page anew."""

    snapshot: Callable[[], Snapshot]
    live: Callable[[], list[Live]]
    not_ready: Callable[[], str | None]
    """Why nobody is admitted, in a word; None: everybody is."""
    renew: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    """Has figures of other processes brought up to date, before they are shown."""


async def open_listeners(admin: Admin) -> list[trio.SocketListener]:
    """Those of `admin.host` and `admin.port`; none while that is 0. Raises `OSError`."""
    if not admin.port:
        return []
    return await trio.open_tcp_listeners(admin.port, host=admin.host)


@contextlib.asynccontextmanager
async def serving(
    listeners: list[trio.SocketListener], admin: Admin, sources: Sources
) -> AsyncIterator[None]:
    """Answer while the block lasts, and own the listeners."""

    async def answer(request: wire.Request) -> wire.Response:
        if request.path in ("/metrics", "/sessions"):
            await sources.renew()
        return page(admin, sources, request)

    def route(request: wire.Request) -> wire.Pending:
        return wire.Pending(partial(answer, request))

    connection = partial(wire.serve_connection, route=route, report=_report)
    async with trio.open_nursery() as nursery:
        if listeners:
            await nursery.start(trio.serve_listeners, connection, listeners)
            for listener in listeners:
                host, port = listener.socket.getsockname()[:2]
                log.info("admin pages", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
        yield
        nursery.cancel_scope.cancel()


def page(admin: Admin, sources: Sources, request: wire.Request) -> wire.Response:
    """The answer to one request."""
    if is_loopback(admin.host) and not is_loopback(_name(request.host)):
        # A page that a developer visits can have its own name lead to 127.0.0.1.
        return _response(403, "only by a loopback name\n")
    if request.method not in ("GET", "HEAD"):
        return wire.Response(405, headers=(("Allow", "GET, HEAD"),))
    match request.path:
        case "/metrics":
            text = metrics.exposition(sources.snapshot())
            return _response(200, text, metrics.CONTENT_TYPE)
        case "/healthz":
            return _response(200, "alive\n")
        case "/readyz":
            why_not = sources.not_ready()
            return _response(503, f"{why_not}\n") if why_not else _response(200, "ready\n")
        case "/sessions":
            body = msgspec.json.format(msgspec.json.encode(sources.live())).decode()
            return _response(200, f"{body}\n", "application/json")
        case _:
            return _response(404, "/metrics, /healthz, /readyz, /sessions\n")


def _response(status: int, text: str, content_type: str = TEXT) -> wire.Response:
    headers = (("Content-Type", content_type), ("Cache-Control", "no-store"))
    return wire.Response(status, text.encode(), headers)


def _name(host: str) -> str:
    """`127.0.0.1:9090`, `[::1]:9090` and `localhost` without the port; HTTP/1.0 need not say."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _report(faults: ExceptionGroup[Exception]) -> None:
    log.error("admin page failed", exc_info=faults)
