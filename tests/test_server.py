"""The server: health pages, admission and its answers, failures that stay where they are, drain.

The conversation is a fake here; the sockets are real.
"""

import contextlib
import hashlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
import trio
import trustme
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from relay import admission, server, wire
from relay.bridge import GoingAway
from relay.config import Auth, Config, ConfigError, Listen
from relay.limits import ClientLimits, Limits, Rules, Spent
from relay.metering import Seat
from relay.observer import Observer
from relay.parking import Claim
from relay.served import Current, Served, build
from relay.server import Relay
from relay.session.facts import Admission, Dialect
from relay.session.options import SessionOptions
from tests.test_metrics import parsed

AGENT = "/v1/agent/converse"
KEYS = {hashlib.sha256(b"k1").digest(): "laptop"}


class Leaving:
    """Waits to be told to leave."""

    def __init__(self) -> None:
        self._told = trio.Event()
        self.leave = self._told.set
        self.wait = self._told.wait


class Talkers:
    """Conversations that say their request id and dialect, then wait: for the client to leave, or
    to be told that the server goes away (when they are polite)."""

    def __init__(self, *, polite: bool = True) -> None:
        self._polite = polite
        self.admissions: list[Admission] = []

    async def __call__(
        self,
        leg: wire.Leg,
        admission: Admission,
        claim: Claim,
        going_away: GoingAway,
        observer: Observer,
        seat: Seat,
    ) -> None:
        self.admissions.append(admission)
        leg.post(f"{admission.request_id} {admission.dialect.value}")
        leaving = Leaving()
        going_away.tell(leaving)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_gone, leg, nursery.cancel_scope)
            await leaving.wait()
            if not self._polite:
                await trio.sleep_forever()
            await leg.goodbye(1001, "SERVER_GOING_AWAY")
            nursery.cancel_scope.cancel()

    async def _until_gone(self, leg: wire.Leg, scope: trio.CancelScope) -> None:
        with contextlib.suppress(wire.LegGone):
            while True:
                if await leg.receive() == "fail":
                    raise RuntimeError("planted")
        scope.cancel()


@contextlib.asynccontextmanager
async def serving(
    configured: Config = Config(),  # noqa: B008 - frozen
    converse: server.Converse | None = None,
    tokens: admission.Tokens = admission.no_tokens,
) -> AsyncIterator[tuple[Relay, str]]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    served = Served(configured, keys=KEYS, tokens=tokens)
    relay = Relay(Current(served), converse or Talkers(), listeners)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, relay.connection, listeners)
        yield relay, f"127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def fetch(
    address: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a plain HTTP request."""
    host, _, port = address.rpartition(":")
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        head = f"{method} {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n"
        await stream.send_all(head.encode())
        data = b"".join([chunk async for chunk in stream])
    answered, _, body = data.partition(b"\r\n\r\n")
    status, *fields = answered.decode().split("\r\n")
    found = {k.lower(): v for k, _, v in (field.partition(": ") for field in fields)}
    return int(status.split()[1]), found, body


async def refusal(address: str, path: str = AGENT, **headers: str) -> int | None:
    """The HTTP status with which an upgrade is refused."""
    with pytest.raises(wire.DialFailed) as failure:
        async with wire.dial(f"ws://{address}{path}", headers=headers):
            pass
    return failure.value.status


async def close_code(leg: wire.Leg) -> int | None:
    try:
        while True:
            await leg.receive()
    except wire.LegGone as gone:
        return gone.code


async def test_health_pages_answer_on_the_public_port() -> None:
    async with serving() as (relay, address):
        assert (await fetch(address, "/healthz"))[::2] == (200, b"alive\n")
        assert (await fetch(address, "/readyz"))[::2] == (200, b"ready\n")
        relay.draining = True
        assert (await fetch(address, "/healthz"))[0] == 200
        status, headers, body = await fetch(address, "/readyz")
        assert (status, body) == (503, b"draining\n")
        assert headers["retry-after"] == "1"
        assert (await fetch(address, "/healthz", "HEAD"))[::2] == (200, b"")


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "DELETE"])
async def test_health_pages_are_only_read(method: str) -> None:
    async with serving() as (_, address):
        for path in ("/healthz", "/readyz"):
            status, headers, _body = await fetch(address, path, method)
            assert (status, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.conformance("C-003")
async def test_other_paths_do_not_exist() -> None:
    async with serving() as (_, address):
        assert (await fetch(address, "/"))[0] == 404
        assert await refusal(address, "/v1/listen") == 404


async def test_a_plain_request_for_the_agent_is_told_to_upgrade() -> None:
    async with serving() as (_, address):
        assert (await fetch(address, AGENT))[0] == 426


@pytest.mark.conformance("C-001", "C-002", "C-011")
async def test_a_client_is_admitted_with_the_dialect_of_its_path() -> None:
    talkers = Talkers()
    async with serving(converse=talkers) as (relay, address):
        async with wire.dial(f"ws://{address}{AGENT}/?x=y") as leg:
            assert await leg.receive() == f"{talkers.admissions[0].request_id} deepgram"
            assert relay.live.value == 1
        async with wire.dial(f"ws://{address}/openai") as leg:
            assert await leg.receive() == f"{talkers.admissions[1].request_id} component"
        await relay.live.wait_value(0)
    assert [admitted.dialect for admitted in talkers.admissions] == list(Dialect)


@pytest.mark.conformance("C-011")
async def test_the_handshake_names_the_request_id() -> None:
    talkers = Talkers()
    async with serving(converse=talkers) as (_, address):
        host, _, port = address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(
                f"GET {AGENT} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some()
    named = f"dg-request-id: {talkers.admissions[0].request_id}"
    assert named in head.decode("latin-1").lower().split("\r\n")


@pytest.mark.conformance("C-016")
async def test_a_thousand_connections_have_a_thousand_request_ids() -> None:
    relay = Relay(Current(Served(Config())), Talkers())
    request = wire.Request("GET", AGENT, "", {}, "127.0.0.1")
    names = set()
    for _ in range(1000):
        pending = relay.route(request)
        assert isinstance(pending, wire.Pending)
        accepted = await pending.answer()
        assert isinstance(accepted, wire.Accept)
        names.add(accepted.headers)
    assert len(names) == 1000


@pytest.mark.conformance("C-007", "C-009")
async def test_without_a_key_there_is_no_websocket_and_no_key_in_any_line() -> None:
    talkers = Talkers()
    keyed = Config(auth=Auth(mode="keys"))
    with structlog.testing.capture_logs() as lines:
        async with serving(keyed, talkers) as (_, address):
            assert await refusal(address) == 401
            assert await refusal(address, Authorization="Token sk-planted") == 401
            assert await refusal(address, f"{AGENT}?token=sk-planted") == 401
            assert (await fetch(address, AGENT))[1]["www-authenticate"] == "Token"
            url = f"ws://{address}{AGENT}"
            async with wire.dial(url, subprotocols=["token", "k1"]) as leg:
                assert leg.subprotocol == "token"
                await leg.receive()
    assert len(talkers.admissions) == 1
    assert "sk-planted" not in str(lines)
    assert "k1" not in str(lines)
    assert [line["status"] for line in lines if line["event"] == "refused"] == [401] * 4


# Limits.


@contextlib.asynccontextmanager
async def limited(**key: float) -> AsyncIterator[tuple[Relay, str]]:
    """A relay for the bearers of keys, each of which has these limits."""
    keyed = Config(auth=Auth(mode="keys"))
    async with serving(keyed) as (relay, address):
        relay.metering.rules = Rules(key=ClientLimits(**key))  # type: ignore[arg-type]  # some are int
        yield relay, address


ALICE = {"Authorization": "Token k1"}


async def answer(address: str, **headers: str) -> tuple[int, str | None, bytes]:
    """Status, Retry-After and body for a plain request of the agent's page."""
    status, found, body = await fetch(address, AGENT, **headers)
    return status, found.get("retry-after"), body


async def test_a_client_with_too_many_sessions_gets_429_until_one_has_ended() -> None:
    with structlog.testing.capture_logs() as lines:
        async with limited(sessions=1) as (relay, address):
            url = f"ws://{address}{AGENT}"
            async with wire.dial(url, headers=ALICE) as leg:
                await leg.receive()
                assert await refusal(address, **ALICE) == 429
                too_many = (429, None, b"Too many conversations at once.\n")
                assert await answer(address, **ALICE) == too_many
            await relay.live.wait_value(0)
            async with wire.dial(url, headers=ALICE) as leg:
                await leg.receive()
    refused = [line for line in lines if line["event"] == "refused"]
    assert {(line["client"], line["limit"]) for line in refused} == {
        ("laptop", "limits.key.sessions")
    }
    assert relay.metering.ledger.refused == {"limits.key.sessions": 2}
    assert relay.metering.ledger.total.sessions == 0


async def test_when_all_have_too_many_it_is_503_and_who_may_not_come_is_not_told() -> None:
    async with limited() as (relay, address):
        relay.metering.rules = Rules(total=Limits(sessions=1))
        async with wire.dial(f"ws://{address}{AGENT}", headers=ALICE) as leg:
            await leg.receive()
            assert await answer(address, **ALICE) == (
                503, "1", b"Too many conversations at once on this server.\n"
            )  # fmt: skip
            assert await refusal(address) == 401


async def test_a_used_up_budget_says_when_there_is_more() -> None:
    async with limited(tokens_per_day=10) as (relay, address):
        metering = relay.metering
        metering.ledger.admit("laptop", metering.rules, time.time())
        metering.ledger.spend("laptop", Spent(tokens=10), metering.rules, time.time())
        metering.ledger.release("laptop", metering.rules, time.time())
        status, again, body = await answer(address, **ALICE)
        assert (status, body) == (429, b"Too many tokens within a day.\n")
        assert again is not None
        assert 86_400 <= int(again) <= 86_400 + 1440
        assert metering.ledger.total.sessions == 0


async def test_what_becomes_no_websocket_takes_no_place() -> None:
    async with limited(sessions=1) as (relay, address):
        for _ in range(3):
            assert (await answer(address, **ALICE))[0] == 426
        ours, theirs = memory_stream_pair()
        head = (
            f"GET {AGENT} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nAuthorization: Token k1\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await theirs.send_all(head.encode())
        await theirs.aclose()  # gone before there is anything to hold
        await relay.connection(ours)
        assert relay.metering.ledger.total.sessions == 0
        assert relay.metering.ledger.refused == {}


async def test_a_clients_session_minutes_and_a_tokens_can_only_shorten() -> None:
    def lasts(token_s: float | None, minutes: float) -> float | None:
        admitted = admission.Admitted(Dialect.DEEPGRAM, "a", max_session_s=token_s)
        return admission.shortest(admitted, ClientLimits(session_minutes=minutes))

    assert [lasts(None, 0), lasts(60, 0), lasts(None, 2), lasts(60, 2), lasts(180, 2)] == [
        None, 60, 120, 60, 120
    ]  # fmt: skip
    talkers = Talkers()
    async with serving(converse=talkers) as (relay, address):
        relay.metering.rules = Rules(key=ClientLimits(session_minutes=2))
        async with wire.dial(f"ws://{address}{AGENT}") as leg:
            await leg.receive()
    assert talkers.admissions[0].max_session_s == 120


@pytest.mark.conformance("C-014")
async def test_a_page_from_elsewhere_is_refused() -> None:
    async with serving() as (_, address):
        assert await refusal(address, Origin="https://evil.example") == 403
        headers = {"Origin": "http://localhost:3000"}
        async with wire.dial(f"ws://{address}{AGENT}", headers=headers) as leg:
            await leg.receive()


async def test_a_failure_ends_its_own_connection_and_nothing_else() -> None:
    with structlog.testing.capture_logs() as lines:
        async with serving() as (relay, address):
            url = f"ws://{address}{AGENT}"
            async with wire.dial(url) as bystander, wire.dial(url) as unlucky:
                unlucky.post("fail")
                assert await close_code(unlucky) == 1011
                await bystander.receive()
                assert relay.live.value == 1
            assert (await fetch(address, "/healthz"))[0] == 200
    (failure,) = [line for line in lines if line["log_level"] == "error"]
    assert failure["event"] == "connection failed"


UPGRADE = (
    f"GET {AGENT} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


@contextlib.asynccontextmanager
async def accepted() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """The two ends of a TCP connection: the client's, and the server's."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.open_tcp_stream(*listener.socket.getsockname())
        server_end = await listener.accept()
    async with client, server_end:
        yield client, server_end


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_who_has_left_by_the_time_that_its_request_is_read_costs_no_conversation(
    how: str,
) -> None:
    talkers = Talkers()
    relay = Relay(Current(Served(Config())), talkers)
    async with accepted() as (client, server_end):
        await client.send_all(UPGRADE)
        if how == "half-close":
            await client.send_eof()
        else:
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.aclose()
        with structlog.testing.capture_logs() as lines:
            await relay.connection(server_end)
    assert talkers.admissions == []
    assert lines == []


async def test_a_plain_request_is_answered_also_when_nothing_will_follow_it() -> None:
    relay = Relay(Current(Served(Config())), Talkers())
    async with accepted() as (client, server_end), trio.open_nursery() as nursery:
        await client.send_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.send_eof()
        nursery.start_soon(relay.connection, server_end)
        page = b"".join([data async for data in client])
    assert page.endswith(b"\r\n\r\nalive\n")


# Draining. Time is short because it is configuration.


def draining_after(seconds: float) -> Config:
    return Config(session=SessionOptions(drain_s=seconds))


async def test_with_nobody_there_draining_is_immediate() -> None:
    async with serving(draining_after(60)) as (relay, _):
        with trio.fail_after(1):
            assert await relay.drain()


async def test_while_draining_nobody_is_admitted_and_who_is_there_may_finish() -> None:
    async with (
        serving(draining_after(60)) as (relay, address),
        trio.open_nursery() as nursery,
        wire.dial(f"ws://{address}{AGENT}") as leg,
    ):
        await leg.receive()
        nursery.start_soon(relay.drain)
        await wait_all_tasks_blocked()
        assert await refusal(address) == 503
        assert (await fetch(address, "/healthz"))[0] == 200
        assert relay.live.value == 1


@pytest.mark.conformance("C-192")
async def test_who_stays_longer_is_told_to_go() -> None:
    async with serving(draining_after(0.01)) as (relay, address):
        async with wire.dial(f"ws://{address}{AGENT}") as leg, trio.open_nursery() as nursery:
            await leg.receive()
            nursery.start_soon(relay.drain)
            assert await close_code(leg) == 1001
        assert relay.live.value == 0


async def test_who_cannot_be_told_is_left_behind() -> None:
    async with (
        serving(draining_after(0.01), Talkers(polite=False)) as (relay, address),
        wire.dial(f"ws://{address}{AGENT}") as leg,
    ):
        await leg.receive()
        assert not await relay.drain(goodbye_s=0.01)
        assert relay.live.value == 1


# TLS.


def certified(directory: Path) -> tuple[Config, ssl.SSLContext]:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    listen = Listen(port=0, tls_cert=directory / "cert.pem", tls_key=directory / "key.pem")
    return Config(listen=listen), trusting


async def test_with_a_certificate_it_serves_wss_only(tmp_path: Path) -> None:
    configured, trusting = certified(tmp_path)
    listeners = await server.open_listeners(configured, {})
    relay = Relay(Current(build(configured, {})), Talkers(), listeners)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, relay.connection, listeners)
        (url,) = relay.urls
        assert url.startswith("wss://127.0.0.1:")
        async with wire.dial(url + AGENT, ssl_context=trusting) as leg:
            await leg.receive()
        assert await refusal(url.removeprefix("wss://")) is None
        assert parsed(relay.snapshot())["relay_handshakes_failed_total"] == 1
        async with wire.dial(url + AGENT, ssl_context=trusting) as leg:
            await leg.receive()
        nursery.cancel_scope.cancel()


def test_a_certificate_that_cannot_be_read_is_a_matter_of_configuration(tmp_path: Path) -> None:
    configured, _ = certified(tmp_path)
    (tmp_path / "cert.pem").write_text("none")
    with pytest.raises(ConfigError, match=r"^listen\.tls_cert"):
        build(configured, {})
    (tmp_path / "cert.pem").unlink()
    with pytest.raises(ConfigError, match=r"^listen\.tls_cert"):
        build(configured, {})
