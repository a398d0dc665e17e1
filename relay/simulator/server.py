"""server: the simulator on a real WebSocket.

It knows the address, the handshake and the clock, and makes the faults of a script happen. What an
event means is decided in `conversation`.
"""

import hmac
import math
import time
from collections.abc import Iterable
from functools import partial
from urllib.parse import parse_qs

import msgspec
import structlog
import trio

from relay import realtime, wire
from relay.simulator.conversation import Conversation, Hangup, Output, conversation
from relay.simulator.script import Faults, Script

PATH = "/v1/realtime"

LIMITS = wire.Limits(
    max_message=32 * wire.MIB, unsent_audio_ms=math.inf, unsent_bytes=256 * wire.MIB
)
"""15 MiB of audio in an append grow by a third; and at pace 0 a whole answer is posted at once."""

log = structlog.get_logger()


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How the simulator is served. The defaults are those of the embedded one."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free one."""
    api_key: str | None = None
    """Demanded as `Authorization: Bearer`; without it nobody is asked for a key."""
    script: Script = Script()


class Served(msgspec.Struct, frozen=True):
    """Where the simulator listens."""

    url: str
    """`ws://HOST:PORT/v1/realtime`, to which a client adds `?model=`."""
    port: int


async def serve_simulator(
    options: Options, *, task_status: trio.TaskStatus[Served] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; `await nursery.start(serve_simulator, options)` gives `Served`."""
    listeners = await trio.open_tcp_listeners(options.port, host=options.host)
    port = listeners[0].socket.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    gate = _Gate(options)
    connection = partial(wire.serve_connection, route=gate.route, report=_report)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, connection, listeners)
        task_status.started(Served(f"ws://{host}:{port}{PATH}", port))


class _Gate:
    """Who comes in, and as which connection."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._handshakes = 0

    def route(self, request: wire.Request) -> wire.Accept | wire.Response:
        if request.path.rstrip("/") != PATH:
            return _refused(404, "not_found", f"Invalid URL ({request.method} {request.path})")
        if not self._authorised(request):
            return _refused(401, "invalid_api_key", "Incorrect API key provided.")
        self._handshakes += 1
        faults = self._faults()
        if faults.refuse_status is not None:
            return _refused(faults.refuse_status, "simulated_fault", "A fault was asked for.")
        model = parse_qs(request.query).get("model")
        if model is None:
            return _refused(400, "missing_model", "You must provide a model parameter.")
        held = conversation(self._options.script, self._handshakes, model[0])
        return wire.Accept(_Line(held, faults).hold, _subprotocol(request), limits=LIMITS)

    def _authorised(self, request: wire.Request) -> bool:
        key = self._options.api_key
        if key is None:
            return True
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {key}".encode())

    def _faults(self) -> Faults:
        faults = self._options.script.faults
        faulty = faults.connections is None or self._handshakes <= faults.connections
        return faults if faulty else Faults()


class _Line:
    """One connection: a conversation, its leg and its alarm clock."""

    def __init__(self, held: Conversation, faults: Faults) -> None:
        self._conversation = held
        self._faults = faults
        self._alarm = trio.CancelScope()
        self._sent = 0
        self._ending: Hangup | None = None
        self._dropping = False
        self._over = trio.Event()

    async def hold(self, leg: wire.Leg) -> None:
        """Converse until either side ends it."""
        self._leg = leg
        await trio.sleep(self._faults.created_delay_s)
        self._perform(self._conversation.opened(trio.current_time(), time.time()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._watch_the_clock)
            await self._over.wait()
            nursery.cancel_scope.cancel()
        if self._dropping:
            leg.drop()
        elif self._ending is not None:
            await leg.goodbye(self._ending.code, self._ending.reason)

    async def _listen(self) -> None:
        try:
            while True:
                frame = await self._leg.receive()
                self._perform(self._conversation.received(frame, trio.current_time()))
        except wire.LegGone:
            self._over.set()

    async def _watch_the_clock(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._conversation.next_deadline()) as self._alarm:
                await trio.sleep_forever()
            self._perform(self._conversation.deadline_passed(trio.current_time()))

    def _perform(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if self._over.is_set():
                break
            if isinstance(output, Hangup):
                self._end(output)
            else:
                self._send(output)
        self._alarm.deadline = self._conversation.next_deadline()

    def _send(self, event: realtime.ServerEvent) -> None:
        faults = self._faults
        self._sent += 1
        if faults.silent_after_events is not None and self._sent > faults.silent_after_events:
            return
        self._leg.post(realtime.encode(event))
        if self._sent == faults.close_after_events:
            self._dropping = faults.drop
            self._end(Hangup(faults.close_code, faults.close_reason))

    def _end(self, hangup: Hangup) -> None:
        self._ending = hangup
        self._over.set()


def _subprotocol(request: wire.Request) -> str | None:
    """Browsers authenticate by sub-protocols and want `realtime` echoed."""
    return "realtime" if "realtime" in request.subprotocols else None


def _refused(status: int, code: str, message: str) -> wire.Response:
    """An HTTP answer with the API's error body."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = msgspec.json.encode({"error": error})
    return wire.Response(status, body, (("Content-Type", "application/json"),))


def _report(faults: ExceptionGroup[Exception]) -> None:
    log.error("simulated connection failed", exc_info=faults)
