"""server: listens, admits, and ends well.

It knows the listeners, the health pages, the signals and how many conversations are going on; who
may come in is decided in `relay.admission`, and a conversation is held by whoever it is given to
(`relay.bridge`). Whatever happens on one connection ends that connection and nothing else.
"""

import contextlib
import math
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import msgspec
import structlog
import trio
from trio_util import AsyncValue

from relay import (
    admin,
    admission,
    bridge,
    config,
    continuity,
    correlation,
    descriptors,
    heap,
    logs,
    switchboard,
    systemd,
    wire,
)
from relay.admission import Admitted, Refused
from relay.config import Address, Config, ConfigError
from relay.continuity import Books
from relay.limits import Reached, client_of
from relay.lines import LineListener, SocketLine
from relay.metering import Metering, Seat
from relay.metrics import Snapshot
from relay.observer import About, Observer
from relay.overload import Overload
from relay.parking import Claim
from relay.probe import probe
from relay.ready import write_ready_file
from relay.reload import Reloader, Reloads
from relay.served import Current, Destination, Served, Sources
from relay.session import Admission, Session
from relay.session.actions import Target
from relay.session.options import SessionOptions
from relay.simulator import server as simulator
from relay.switchboard import Switchboard
from relay.watch import Watch

if TYPE_CHECKING:
    from relay import functions

Converse: TypeAlias = Callable[
    [wire.Leg, Admission, Claim, bridge.GoingAway, Observer, Seat], Awaitable[None]
]
"""Holds one conversation over a client's leg, to its end; it may be the claimed one. It is told
that the daemon is going away; the observer is told what happens."""
Listeners: TypeAlias = list[trio.SocketListener]

GOODBYE_S = 10.0
"""Time for the goodbyes of all sessions after `session.drain_s`: more than `wire` takes for one."""

log = structlog.get_logger()


async def serve(
    load: Callable[[], Config],
    environment: Mapping[str, str],
    ready_file: Path | None = None,
    file: Path | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then drain; the exit code: 0 drained, 1 stopped by a second
    signal. SIGHUP, and any change of `file` or of what it names, has `load` read the configuration
    again. Raises `ConfigError` before anything is served."""
    sources = Sources(file, load, environment)
    with (
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
        trio.open_signal_receiver(signal.SIGHUP) as hangups,
    ):
        served = sources.read()
        logs.set_up(served.config.log.level, served.config.log.format)
        bound = await bind(served.config, environment)
        if bound is None:
            return 1
        listeners, pages = bound
        async with (
            running(served, environment, listeners) as relay,
            admin.serving(pages, served.config.admin, relay.shown),
        ):
            heap.settle()
            if ready_file:
                write_ready_file(ready_file, relay.urls)
            for url in relay.urls:
                log.info("listening", url=url, upstream=served.destinations[0].address.shown)
            systemd.notify(environment, READY=1, STATUS=relay.status)
            reloader = Reloader(sources, relay, environment)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reloader.run, hangups)
                await anext(signals)
                nursery.cancel_scope.cancel()
            systemd.notify(environment, STOPPING=1, STATUS="Draining")
            drained = False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on_next, signals, nursery.cancel_scope)
                nursery.start_soon(ignore, hangups)
                drained = await relay.drain()
                nursery.cancel_scope.cancel()
        log.info("drained" if drained else "stopped", left=relay.live.value)
    return 0 if drained else 1


async def bind(
    configured: Config, environment: Mapping[str, str]
) -> tuple[Listeners, Listeners] | None:
    """The sockets for clients and those for the admin pages; None: one cannot be had, which the log
    says. Raises `ConfigError`."""
    systemd.check(environment)
    try:
        place: config.Listen | config.Admin = configured.admin
        pages = await admin.open_listeners(configured.admin)
        place = configured.listen
        return await open_listeners(configured, environment), pages
    except OSError as error:
        reason = error.strerror or str(error)
        log.error("cannot listen", host=place.host, port=place.port, reason=reason)
        return None


async def open_listeners(configured: Config, environment: Mapping[str, str]) -> Listeners:
    """The sockets of socket activation, else those of `listen.host` and `listen.port`. Raises
    `OSError` when the address cannot be had, and `ConfigError`."""
    if inherited := systemd.inherited_sockets(environment):
        for each in inherited:
            config.demand_keys(configured.auth, str(each.getsockname()[0]))
        return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in inherited]
    listen = configured.listen
    return await trio.open_tcp_listeners(listen.port, host=listen.host)


class Shared(NamedTuple):
    """What several processes have in common, as one of them sees it."""

    books: Books
    metering: Metering


@contextlib.asynccontextmanager
async def running(
    served: Served,
    environment: Mapping[str, str],
    listeners: Listeners,
    *,
    shared: Shared | None = None,
) -> "AsyncIterator[Relay]":
    """A relay that accepts connections while the block lasts, and owns the listeners. Whoever is
    connected when it ends is cut off with a goodbye; see `Relay.drain`. `shared`: it is one of
    several, and what they serve was announced. Raises `ConfigError`."""
    async with contextlib.AsyncExitStack() as stack:
        for listener in listeners:
            await stack.enter_async_context(listener)
        if shared is None:
            announce(served.destinations[0].address, environment)
            books = await stack.enter_async_context(continuity.opened(served.config))
            metering = Metering(served.rules, served.config.prices)
            metering.holder = books.holder
            await stack.enter_async_context(metering.kept_in(books.store))
            shared = Shared(books, metering)
        descriptors.provide(served.rules)
        opened = await stack.enter_async_context(contextlib.AsyncExitStack())
        switched = await stack.enter_async_context(switchboard.opened())
        traced = await stack.enter_async_context(contextlib.AsyncExitStack())
        nursery = await stack.enter_async_context(trio.open_nursery())
        simulated = await _simulated(served, nursery)
        current = Current(served)
        conversations = Conversations(current, shared.books, simulated, opened, switched)
        await conversations.prepare(served)
        prepare, metering = conversations.prepare, shared.metering
        relay = Relay(current, conversations, listeners, prepare, metering, switched)
        relay.parked = partial(getattr, shared.books, "parked")
        if served.config.tracing.otlp_url is not None:
            from relay import tracing  # what it imports is an extra, and off by default

            spans = await traced.enter_async_context(tracing.opened(served.config.tracing))
            relay.watch.overview.followed = spans
        relay.socket_stays = systemd.is_activated(environment)
        await nursery.start(relay.accept, listeners)
        nursery.start_soon(systemd.watchdog, environment)
        nursery.start_soon(relay.watch.lag.watch)
        nursery.start_soon(metering.watch)
        yield relay
        nursery.cancel_scope.cancel()


class Places:
    """Where clients connect."""

    def __init__(self, listeners: Iterable[trio.SocketListener]) -> None:
        self._places = [each.socket.getsockname()[:2] for each in listeners]
        self.is_local = all(config.is_loopback(str(host)) for host, _ in self._places)
        """Only this machine can connect."""

    def urls(self, served: Served) -> list[str]:
        """Without path."""
        scheme = "ws" if served.tls is None else "wss"
        hosts = [(f"[{host}]" if ":" in host else host, port) for host, port in self._places]
        return [f"{scheme}://{host}:{port}" for host, port in hosts]

    def status(self, served: Served) -> str:
        """For a person, in a line."""
        return f"Serving {' '.join(self.urls(served))}"

    def demand_keys(self, served: Served) -> None:
        """Raises `ConfigError` if this would let strangers in."""
        for host, _ in self._places:
            config.demand_keys(served.config.auth, host)


class Relay:
    """What the connections of a daemon share: what is served, who may come in, how many are in, and
    whether it is over."""

    def __init__(
        self,
        current: Current,
        converse: Converse,
        listeners: Iterable[trio.SocketListener] = (),
        prepare: Callable[[Served], Awaitable[None]] | None = None,
        metering: Metering | None = None,
        switched: Switchboard | None = None,
    ) -> None:
        """`prepare` opens what a new value needs before it is served, or refuses it with
        `ConfigError`."""
        self._current = current
        self._converse = converse
        self._places = Places(listeners)
        self._prepare = prepare
        self.metering = metering or Metering(current.value.rules, current.value.config.prices)
        """How much is used, and by whom."""
        self._serve = partial(
            wire.serve_connection, route=self.route, report=self._report, switchboard=switched
        )
        self._going_away = bridge.GoingAway()
        self._accepting = trio.CancelScope()
        self._accepted_ended = trio.Event()
        self.socket_stays = False
        """Systemd holds the listening socket: who connects when this process no longer accepts
        waits there for the next one."""
        self.draining = False
        """No new sessions; `/readyz` says so."""
        self._admits_accepted = False
        self._overload = Overload(current.value.config.overload)
        self.live: AsyncValue[int] = AsyncValue(0)
        """Conversations that are going on."""
        self.reloads = Reloads()
        self.watch = Watch()
        self.parked: Callable[[], int] = lambda: 0
        """How many conversations wait for their client."""

    @property
    def served(self) -> Served:
        """What is served now. Whoever needs two things of it that belong together asks once."""
        return self._current.value

    @property
    def urls(self) -> list[str]:
        """Where clients connect, without path."""
        return self._places.urls(self.served)

    @property
    def status(self) -> str:
        """For a person, in a line."""
        return self._places.status(self.served)

    async def change(self, new: Served) -> None:
        """Serve this from now on; who is connected stays. Raises `ConfigError` for what cannot be
        served here, and goes on as before."""
        self._places.demand_keys(new)
        if self._prepare is not None:
            await self._prepare(new)
        descriptors.provide(new.rules)
        if new.config.log != self.served.config.log:
            logs.set_up(new.config.log.level, new.config.log.format)
        self.metering.rules, self.metering.prices = new.rules, new.config.prices
        self._overload.table = new.config.overload
        self._current.value = new

    async def accept(
        self,
        listeners: Listeners,
        *,
        task_status: trio.TaskStatus[Listeners] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve whoever connects, until `drain` leaves that to another process. Closes the
        listeners."""
        async with trio.open_nursery() as handlers:
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    lines = [LineListener(each) for each in listeners]
                    served = partial(
                        trio.serve_listeners, self.connection, lines, handler_nursery=handlers
                    )
                    await nursery.start(served)
                    task_status.started(listeners)
        self._accepted_ended.set()

    async def connection(self, stream: trio.abc.Stream) -> None:
        """Serve one accepted connection, whatever it asks for. Never raises an `Exception`."""
        self.watch.connected()
        try:
            if tls := self.served.tls:
                stream = await wire.secured(cast("SocketLine", stream), tls)
            await self._serve(stream)
        except wire.HandshakeFailed as failure:
            self.watch.metrics.handshakes_failed.add(1)
            log.info("handshake failed", reason=failure.reason, peer=failure.peer)
        finally:
            self.watch.disconnected()

    def route(self, request: wire.Request) -> wire.Response | wire.Pending:
        """Health pages, refusals with their HTTP status, or a conversation."""
        match request.path:
            case "/healthz" | "/readyz" if request.method not in ("GET", "HEAD"):
                return wire.Response(405, headers=(("Allow", "GET, HEAD"),))
            case "/healthz":
                return _page(request, 200, "alive")
            case "/readyz":
                why_not = self._not_ready()
                again_in_s = self._overload.again_in_s if why_not == "overloaded" else None
                return _page(request, 503 if why_not else 200, why_not or "ready", again_in_s)
            case _:
                pass
        served = self.served
        listen, auth = served.config.listen, served.config.auth
        outcome = admission.admit(
            request, listen, auth, served.keys, tokens=served.tokens, wall=time.time()
        )
        if isinstance(outcome, Admitted) and self.draining and not self._admits_accepted:
            outcome = Refused(503, "draining")
        if isinstance(outcome, Admitted) and self._is_overloaded:
            outcome = Refused(503, "overloaded", self._overload.again_in_s)
        if isinstance(outcome, Refused):
            return self._refusal(request, outcome)
        return wire.Pending(partial(self._seated, request, outcome))

    async def _seated(
        self, request: wire.Request, outcome: Admitted
    ) -> wire.Accept | wire.Response:
        """A conversation, if the limits allow one more."""
        client = client_of(outcome.key_name, request.peer)
        known = outcome.key_name is not None or self._places.is_local
        warm = known and self.served.config.upstream.warm == "on_connect"
        admitted = Admission(
            str(uuid.uuid4()),
            outcome.dialect,
            warm,
            max_session_s=admission.shortest(outcome, self.metering.rules.of(client)),
            client=client,
        )
        about = About(
            session=logs.name_of(admitted.request_id),
            key=outcome.key_name,
            dialect=outcome.dialect.value,
            peer=request.peer,
            said=correlation.read(request.headers),
        )
        headers = [("dg-request-id", admitted.request_id)]  # C-011
        if about.said.request_id:
            headers.append((correlation.REQUEST_ID, about.said.request_id))
        claim = admission.claim(request, outcome)
        # Last: with the answer goes who gives it back.
        seat = await self.metering.enter(client, admitted.request_id, claim)
        if isinstance(seat, Reached):
            return self._refusal(request, admission.too_much(seat), client=client, limit=seat.key)
        return wire.Accept(
            partial(self._hold, admitted, claim, about, seat),
            outcome.subprotocol,
            tuple(headers),
            over=seat.leave,
        )

    def _not_ready(self) -> str | None:
        """Why nobody is admitted, in a word."""
        if self.draining:
            return "draining"
        return "overloaded" if self._is_overloaded else None

    @property
    def _is_overloaded(self) -> bool:
        return self._overload.sheds(self.watch.lag.mean_s, trio.current_time())

    def _refusal(self, request: wire.Request, refused: Refused, **why: str) -> wire.Response:
        log.info(
            "refused",
            status=refused.status,
            reason=refused.reason,
            peer=request.peer,
            **why,
            **correlation.read(request.headers).fields,
        )
        self.watch.metrics.admissions.add(1, str(refused.status), refused.reason)
        return _page(request, refused.status, refused.reason, refused.again_in_s)

    async def drain(self, goodbye_s: float = GOODBYE_S) -> bool:
        """Admit nobody any more and wait for the conversations to end: `session.drain_s` by
        themselves, then `goodbye_s` told that the server is going away. True if none is left.

        Where the socket stays, nobody is turned away: who was accepted is still admitted, everybody
        else waits for the next process."""
        self.draining = True
        if self.socket_stays:
            self._admits_accepted = True
            self._accepting.cancel()
        drain_s = self.served.config.session.drain_s
        log.info("draining", live=self.live.value, drain_s=drain_s)
        with trio.move_on_after(drain_s):
            if self.socket_stays:
                await self._accepted_ended.wait()
            await self.live.wait_value(0)
            return True
        self._admits_accepted = False
        self._going_away.announce()  # C-192
        with trio.move_on_after(goodbye_s):
            await self.live.wait_value(0)
            return True
        return False

    async def _hold(
        self, admitted: Admission, claim: Claim, about: About, seat: Seat, leg: wire.Leg
    ) -> None:
        self.watch.metrics.admissions.add(1, "101", "admitted")
        observer = self.watch.overview.observer(leg, about, trio.current_time())
        # For good: a connection has a task of its own.
        structlog.contextvars.bind_contextvars(session=about.session, **about.said.fields)
        log.info("connected", peer=about.peer, dialect=about.dialect, key=about.key)
        self.live.value += 1
        try:
            await self._converse(leg, admitted, claim, self._going_away, observer, seat)
        finally:
            self.live.value -= 1
            now = trio.current_time()
            observer.over(now)
            log.info("disconnected", **observer.life(now), usage=seat.usage)

    @property
    def shown(self) -> admin.Sources:
        """What the admin pages show."""
        return admin.Sources(self.snapshot, self.watch.live, self._not_ready)

    def snapshot(self) -> Snapshot:
        """All figures of this process, as they are now."""
        metrics = self.watch.metrics
        metrics.draining.put(float(self.draining))
        metrics.parked.put(self.parked())
        self.watch.reloaded(self.reloads)
        self.watch.metered(self.metering, self.served.config.upstream_models)
        return self.watch.snapshot()

    def _report(self, faults: ExceptionGroup[Exception]) -> None:
        """A mistake of ours on one connection, which has ended; the others go on."""
        self.watch.metrics.failures.add(1)
        log.error("connection failed", exc_info=faults)


class Conversations:
    """Holds conversations with the upstreams that are served. Each goes on with the options and
    tables that it began with; but the upstreams' keys and the list of endpoints are the present
    ones: what was withdrawn is not used any more."""

    def __init__(
        self,
        current: Current,
        books: Books,
        simulated: Address | None,
        opened: contextlib.AsyncExitStack,
        switched: Switchboard,
    ) -> None:
        """`simulated`: where the simulator is served, if it is. `opened` closes what is opened
        here, after the last conversation."""
        self._current = current
        self._books = books
        self._simulated = simulated
        self._opened = opened
        self._switched = switched
        self._endpoints: functions.Functions | None = None
        self._plain: tuple[Served, bridge.Dialler] | None = None

    async def prepare(self, served: Served) -> None:
        """Open what conversations with these options need. Raises `ConfigError`."""
        if self._simulated is None and served.destinations[0].address.simulated:
            raise ConfigError("upstream.url: to serve the simulator, restart with it")
        options, limit = served.config.functions, served.config.session.max_call_output_bytes
        if self._endpoints is not None:
            self._endpoints.change(options, limit)
        elif options.endpoints:
            from relay import functions  # what it imports is an extra, and off by default (C-172)

            shared = functions.opened(options, limit)
            self._endpoints = await self._opened.enter_async_context(shared)

    def __call__(
        self,
        leg: wire.Leg,
        admitted: Admission,
        claim: Claim,
        going_away: bridge.GoingAway,
        observer: Observer,
        seat: Seat,
    ) -> Awaitable[None]:
        served = self._current.value
        session = Session(
            options=options_for(admitted, served.config.session),
            mapping=served.mapping,
            admission=admitted,
            upstreams=served.traits,
        )
        visit = self._books.visit(admitted.request_id, claim)
        endpoints = self._endpoints
        calling = endpoints.for_session() if endpoints else bridge.no_functions
        traced = observer.trace_headers if served.config.upstream.trace_context else {}
        dial = partial(self._dial, served, traced) if traced else self._plainly(served)
        return bridge.run(
            leg,
            session,
            dial,
            going_away,
            self._switched.upkeep,
            functions=calling,
            visit=visit,
            observer=observer,
            seat=seat,
        )

    def _plainly(self, served: Served) -> bridge.Dialler:
        """The same for all conversations that begin with this."""
        if self._plain is None or self._plain[0] is not served:
            self._plain = served, partial(self._dial, served, {})
        return self._plain[1]

    def _dial(
        self, began: Served, headers: Mapping[str, str], target: Target
    ) -> AbstractAsyncContextManager[wire.Leg]:
        known = began.destinations[target.upstream]
        chosen = self._current.value.destination(known.address.url) or known
        address = chosen.address
        if address.simulated and self._simulated:
            address = self._simulated
        return wire.dial(
            address.url_for(target.model),
            headers={**headers, **address.headers},
            deadline_s=began.config.session.upstream_step_s,
            ssl_context=chosen.trust,
            switchboard=self._switched,
        )


async def _simulated(served: Served, nursery: trio.Nursery) -> Address | None:
    """Where the simulator answers, if it is the upstream; starts and probes it."""
    if not served.destinations[0].address.simulated:
        return None
    options = simulator.Options(script=served.config.simulator)
    started = await nursery.start(simulator.serve_simulator, options)
    address = Address(started.url)
    found = await probe(Destination(address), served.config.upstream.model)
    if found.fault is not None:
        raise ConfigError(f"simulator: it does not answer ({found.fault})")
    log.info("the simulator answers", after_s=round(found.seconds, 3))
    return address


def options_for(admitted: Admission, options: SessionOptions) -> SessionOptions:
    """A token can make the session shorter, never longer. The warning that it ends comes halfway
    at the earliest: with the Welcome it would be none."""
    limit = admitted.max_session_s
    if limit is None or limit >= options.max_session_s:
        return options
    warning_s = min(options.session_warning_s, limit / 2)
    return msgspec.structs.replace(options, max_session_s=limit, session_warning_s=warning_s)


def _page(
    request: wire.Request, status: int, text: str, again_in_s: float | None = None
) -> wire.Response:
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
    if status == 401:
        headers.append(("WWW-Authenticate", "Token"))
    if status == 503 or again_in_s is not None:
        headers.append(("Retry-After", str(max(1, math.ceil(again_in_s or 0)))))
    body = b"" if request.method == "HEAD" else f"{text}\n".encode()
    return wire.Response(status, body, tuple(headers))


def announce(address: Address, environment: Mapping[str, str]) -> None:
    """The first log line."""
    if address.simulated:
        log.warning("the embedded simulator is the upstream", chosen_by=address.chosen_by)
    else:
        log.info("upstream", url=address.shown, chosen_by=address.chosen_by)
    if ignored := config.ignored_names(environment):
        log.warning("environment variables without effect", names=ignored)


async def _cancel_on_next(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    log.warning("stopping at once")
    scope.cancel()


async def ignore(hangups: AsyncIterator[int]) -> None:
    """One that nobody takes would come again when nobody listens any more, and end the process."""
    async for _ in hangups:
        log.info("not reloaded, since the relay is stopping")
