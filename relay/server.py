"""server: listens, admits, and ends well.

It knows the listeners, the health pages, the signals and how many conversations are going on; who
may come in is decided in `relay.admission`, and a conversation is held by whoever it is given to
(`relay.bridge`). Whatever happens on one connection ends that connection and nothing else.
"""

import contextlib
import math
import signal
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

import msgspec
import structlog
import trio
from trio_util import AsyncValue

from relay import admission, bridge, config, continuity, systemd, wire
from relay.admission import Admitted, Refused
from relay.config import Address, Config, ConfigError
from relay.continuity import Continuity
from relay.limits import Reached, Rules, client_of
from relay.metering import Metering
from relay.parking import Claim
from relay.probe import probe
from relay.ready import write_ready_file
from relay.session import Admission, Session
from relay.session.actions import Target
from relay.session.options import SessionOptions
from relay.simulator import server as simulator

Converse: TypeAlias = Callable[[wire.Leg, Admission, Claim, trio.Event], Awaitable[None]]
"""Holds one conversation over a client's leg, to its end; it may be the claimed one. The event
says that the daemon is going away."""
Listener: TypeAlias = trio.SocketListener | trio.SSLListener[trio.SocketStream]
Listeners: TypeAlias = list[Listener]

GOODBYE_S = 10.0
"""Time for the goodbyes of all sessions after `session.drain_s`: more than `wire` takes for one."""

log = structlog.get_logger()


async def serve(
    configured: Config, environment: Mapping[str, str], ready_file: Path | None = None
) -> int:
    """Serve until SIGTERM or SIGINT, then drain; the exit code: 0 drained, 1 stopped by a second
    signal. Raises `ConfigError` before anything is served."""
    address = config.upstream(configured, environment)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            listeners = await open_listeners(configured, environment)
        except OSError as error:
            host, port = configured.listen.host, configured.listen.port
            log.error("cannot listen", host=host, port=port, reason=error.strerror or str(error))
            return 1
        async with running(configured, environment, address, listeners) as relay:
            if ready_file:
                write_ready_file(ready_file, relay.urls)
            for url in relay.urls:
                log.info("listening", url=url, upstream=address.shown)
            systemd.notify(environment, READY=1, STATUS=f"Serving {' '.join(relay.urls)}")
            await anext(signals)
            systemd.notify(environment, STOPPING=1, STATUS="Draining")
            drained = False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on_next, signals, nursery.cancel_scope)
                drained = await relay.drain()
                nursery.cancel_scope.cancel()
        log.info("drained" if drained else "stopped", left=relay.live.value)
    return 0 if drained else 1


async def open_listeners(configured: Config, environment: Mapping[str, str]) -> Listeners:
    """The sockets of socket activation, else those of `listen.host` and `listen.port`, with TLS if
    there is a certificate. Raises `OSError` when the address cannot be had, and `ConfigError`."""
    tls = tls_context(configured)
    if inherited := systemd.inherited_sockets(environment):
        for each in inherited:
            config.demand_keys(configured.auth, str(each.getsockname()[0]))
        sockets = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in inherited]
    else:
        listen = configured.listen
        sockets = await trio.open_tcp_listeners(listen.port, host=listen.host)
    if tls is None:
        return [*sockets]
    return [trio.SSLListener(socket, tls, https_compatible=True) for socket in sockets]


def tls_context(configured: Config) -> ssl.SSLContext | None:
    """The certificate to serve with; None: plain ws. Raises `ConfigError`."""
    listen = configured.listen
    if listen.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(listen.tls_cert, listen.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"listen.tls_cert, listen.tls_key: {error}") from None
    return context


def tokens_of(configured: Config, environment: Mapping[str, str]) -> admission.Tokens:
    """Who reads the tokens. Raises `ConfigError`."""
    key = config.token_key(configured, environment)
    if key is None:
        return admission.no_tokens
    from relay.tokens import Verifier  # what it imports is an extra, and off by default

    return Verifier(key, configured.auth.token_audience, configured.auth.token_leeway_s)


def url_of(listener: Listener) -> str:
    """What clients connect to, without path."""
    scheme = "ws"
    if isinstance(listener, trio.SSLListener):
        scheme, listener = "wss", cast("trio.SocketListener", listener.transport_listener)
    host, port = listener.socket.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


@contextlib.asynccontextmanager
async def running(
    configured: Config, environment: Mapping[str, str], address: Address, listeners: Listeners
) -> "AsyncIterator[Relay]":
    """A relay that accepts connections while the block lasts, and owns the listeners. Whoever is
    connected when it ends is cut off with a goodbye; see `Relay.drain`. Raises `ConfigError`."""
    async with contextlib.AsyncExitStack() as stack:
        for listener in listeners:
            await stack.enter_async_context(listener)
        keys = config.keys(configured, environment)
        tokens = tokens_of(configured, environment)
        _announce(address, environment)
        functions = await stack.enter_async_context(_functions(configured))
        continuing = await stack.enter_async_context(continuity.opened(configured))
        nursery = await stack.enter_async_context(trio.open_nursery())
        converse = await _conversations(configured, address, functions, continuing, nursery)
        metering = Metering(config.rules(configured, environment))
        relay = Relay(configured, keys, converse, tokens, metering)
        relay.urls = [url_of(listener) for listener in listeners]
        relay.socket_stays = systemd.is_activated(environment)
        await nursery.start(relay.accept, listeners)
        nursery.start_soon(systemd.watchdog, environment)
        nursery.start_soon(metering.forget_in_time)
        yield relay
        nursery.cancel_scope.cancel()


class Relay:
    """What the connections of a daemon share: who may come in, how many are in, and whether it is
    over."""

    def __init__(
        self,
        configured: Config,
        keys: Mapping[bytes, str],
        converse: Converse,
        tokens: admission.Tokens = admission.no_tokens,
        metering: Metering | None = None,
    ) -> None:
        self._config = configured
        self._keys = keys
        self._tokens = tokens
        self._converse = converse
        self.metering = metering or Metering(Rules())
        """How much is used, and by whom."""
        self._going_away = trio.Event()
        self._accepting = trio.CancelScope()
        self._accepted_ended = trio.Event()
        self.socket_stays = False
        """Systemd holds the listening socket: who connects when this process no longer accepts
        waits there for the next one."""
        self.draining = False
        """No new sessions; `/readyz` says so."""
        self._admits_accepted = False
        self.live: AsyncValue[int] = AsyncValue(0)
        """Conversations that are going on."""
        self.urls: list[str] = []
        """Where clients connect, without path."""

    async def accept(
        self,
        listeners: Listeners,
        *,
        task_status: trio.TaskStatus[list[Listener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve whoever connects, until `drain` leaves that to another process. Closes the
        listeners."""
        async with trio.open_nursery() as handlers:
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    served = partial(
                        trio.serve_listeners, self.connection, listeners, handler_nursery=handlers
                    )
                    task_status.started(await nursery.start(served))
        self._accepted_ended.set()

    async def connection(self, stream: trio.abc.Stream) -> None:
        """Serve one accepted connection, whatever it asks for. Never raises an `Exception`."""
        await wire.serve_connection(stream, self.route, _report)

    def route(self, request: wire.Request) -> wire.Accept | wire.Response:
        """Health pages, refusals with their HTTP status, or a conversation."""
        match request.path:
            case "/healthz" | "/readyz" if request.method not in ("GET", "HEAD"):
                return wire.Response(405, headers=(("Allow", "GET, HEAD"),))
            case "/healthz":
                return _page(request, 200, "alive")
            case "/readyz" if self.draining:
                return _page(request, 503, "draining")
            case "/readyz":
                return _page(request, 200, "ready")
            case _:
                pass
        listen, auth = self._config.listen, self._config.auth
        outcome = admission.admit(
            request, listen, auth, self._keys, tokens=self._tokens, wall=time.time()
        )
        if isinstance(outcome, Admitted) and self.draining and not self._admits_accepted:
            outcome = Refused(503, "draining")
        if isinstance(outcome, Refused):
            return self._refusal(request, outcome)
        client = client_of(outcome.key_name, request.peer)
        seat = self.metering.seat(client)
        if isinstance(seat, Reached):
            return self._refusal(request, admission.too_much(seat), client=client, limit=seat.key)
        known = outcome.key_name is not None or config.is_loopback(listen.host)
        warm = known and self._config.upstream.warm == "on_connect"
        admitted = Admission(
            str(uuid.uuid4()),
            outcome.dialect,
            warm,
            max_session_s=admission.shortest(outcome, self.metering.rules.of(client)),
        )
        return wire.Accept(
            partial(
                self._hold,
                admitted,
                admission.claim(request, outcome.key_name),
                outcome.key_name,
                request.peer,
            ),
            outcome.subprotocol,
            (("dg-request-id", admitted.request_id),),  # C-011
            over=seat.leave,
        )

    def _refusal(self, request: wire.Request, refused: Refused, **why: str) -> wire.Response:
        log.info("refused", status=refused.status, reason=refused.reason, peer=request.peer, **why)
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
        drain_s = self._config.session.drain_s
        log.info("draining", live=self.live.value, drain_s=drain_s)
        with trio.move_on_after(drain_s):
            if self.socket_stays:
                await self._accepted_ended.wait()
            await self.live.wait_value(0)
            return True
        self._admits_accepted = False
        self._going_away.set()  # C-192
        with trio.move_on_after(goodbye_s):
            await self.live.wait_value(0)
            return True
        return False

    async def _hold(
        self, admitted: Admission, claim: Claim, key_name: str | None, peer: str, leg: wire.Leg
    ) -> None:
        began = trio.current_time()
        with structlog.contextvars.bound_contextvars(request_id=admitted.request_id):
            log.info("connected", peer=peer, dialect=admitted.dialect.value, key=key_name)
            self.live.value += 1
            try:
                await self._converse(leg, admitted, claim, self._going_away)
            finally:
                self.live.value -= 1
                log.info("disconnected", lasted_s=round(trio.current_time() - began, 3))


@contextlib.asynccontextmanager
async def _functions(configured: Config) -> AsyncIterator[Callable[[], bridge.Functions]]:
    """Who calls the endpoints of server-side functions, for each conversation."""
    if not configured.functions.endpoints:
        yield lambda: bridge.no_functions
        return
    from relay import functions  # what it imports is an extra, and off by default (C-172)

    limit = configured.session.max_call_output_bytes
    async with functions.opened(configured.functions, limit) as shared:
        yield shared.for_session


async def _conversations(
    configured: Config,
    address: Address,
    functions: Callable[[], bridge.Functions],
    continuing: Continuity,
    nursery: trio.Nursery,
) -> Converse:
    """Who holds the conversations, with this upstream; the simulator is started and probed."""
    if address.simulated:
        options = simulator.Options(script=configured.simulator)
        served = await nursery.start(simulator.serve_simulator, options)
        address = Address(served.url)
        found = await probe(address, configured.upstream.model)
        if found.fault is not None:
            raise ConfigError(f"simulator: it does not answer ({found.fault})")
        log.info("the simulator answers", after_s=round(found.seconds, 3))
    mapping = configured.mapping_options
    addresses = [address, *config.fallbacks(configured, address)]
    traits = configured.upstream_traits
    secure = any(each.url.startswith("wss:") for each in addresses)
    trust = ssl.create_default_context() if secure else None

    def dial(target: Target) -> AbstractAsyncContextManager[wire.Leg]:
        chosen = addresses[target.upstream]
        return wire.dial(
            chosen.url_for(target.model),
            headers=chosen.headers,
            deadline_s=configured.session.upstream_step_s,
            ssl_context=trust,
        )

    async def converse(
        leg: wire.Leg, admitted: Admission, claim: Claim, going_away: trio.Event
    ) -> None:
        options = options_for(admitted, configured.session)
        session = Session(options=options, mapping=mapping, admission=admitted, upstreams=traits)
        visit = continuing.visit(admitted.request_id, claim)
        await bridge.run(leg, session, dial, going_away, functions=functions(), visit=visit)

    return converse


def options_for(admitted: Admission, options: SessionOptions) -> SessionOptions:
    """A token can make the session shorter, never longer. The warning that it ends comes halfway
    at the earliest: with the Welcome it would be none."""
    limit = admitted.max_session_s
    if limit is None or limit >= options.max_session_s:
        return options
    warning_s = min(options.session_warning_s, limit / 2)
    return msgspec.structs.replace(options, max_session_s=limit, session_warning_s=warning_s)


def _report(faults: ExceptionGroup[Exception]) -> None:
    """A mistake of ours on one connection, which has ended; the others go on."""
    log.error("connection failed", exc_info=faults)


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


def _announce(address: Address, environment: Mapping[str, str]) -> None:
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
