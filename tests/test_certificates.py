"""TLS on both sides, with real handshakes: what is verified, what is shown, what is refused."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from trio.testing import MockClock

from relay import config, probe, served, server, wire
from relay.config import Config, ConfigError, Listen, Upstream
from relay.probe import Probe
from relay.served import Current
from relay.server import Relay
from relay.simulator.server import Options, serve_simulator
from tests.test_cli import settings_applied
from tests.test_server import AGENT, Talkers, accepted, certified

AUTHORITY = trustme.CA()
ANOTHER = trustme.CA()


@contextlib.asynccontextmanager
async def secure_upstream(
    certificate: trustme.LeafCert, *, demands: trustme.CA | None = None
) -> AsyncIterator[int]:
    """The simulator behind TLS; its port. `demands` has to have signed the certificate of whoever
    dials."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    if demands:
        context.verify_mode = ssl.CERT_REQUIRED
        demands.configure_trust(context)

    async with trio.open_nursery() as nursery:
        simulator = await nursery.start(serve_simulator, Options())
        plain = int(simulator.url.split(":")[2].partition("/")[0])

        async def splice(outside: trio.SSLStream[trio.SocketStream]) -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                inside = await trio.open_tcp_stream("127.0.0.1", plain)
                async with outside, inside, trio.open_nursery() as pumps:
                    pumps.start_soon(pump, outside, inside, pumps.cancel_scope)
                    pumps.start_soon(pump, inside, outside, pumps.cancel_scope)

        async def pump(
            source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope
        ) -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in source:
                    await sink.send_all(data)
            scope.cancel()

        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener = trio.SSLListener(tcp, context, https_compatible=True)
        await nursery.start(trio.serve_listeners, splice, [listener])
        yield tcp.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def pem(directory: Path, authority: trustme.CA) -> Path:
    file = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


def identity(directory: Path, authority: trustme.CA) -> tuple[Path, Path]:
    """A client's certificate and its key."""
    leaf = authority.issue_cert("relay.example")
    cert, key = directory / "client.pem", directory / "client-key.pem"
    leaf.cert_chain_pems[0].write_to_path(str(cert))
    leaf.private_key_pem.write_to_path(str(key))
    return cert, key


async def probed(upstream: Upstream) -> Probe:
    offered = served.build(Config(upstream=upstream), {})
    with trio.fail_after(20):
        return await probe.probe(offered.destinations[0], "m")


# The listener.


def secured(directory: Path) -> tuple[Relay, ssl.SSLContext]:
    """A relay with a certificate, and a client's context that trusts it."""
    configured, trusting = certified(directory)
    return Relay(Current(served.build(configured, {})), Talkers()), trusting


async def handshake(relay: Relay, client: ssl.SSLContext) -> tuple[str | None, str | None]:
    """The version and the application protocol that were agreed upon."""
    async with accepted() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(relay.connection, theirs)
        stream = trio.SSLStream(ours, client, server_hostname="localhost", https_compatible=True)
        await stream.do_handshake()
        found = stream.version(), stream.selected_alpn_protocol()
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        page = b"".join([data async for data in stream])
        assert page.endswith(b"alive\n")
    return found


@pytest.mark.parametrize(
    ("newest", "agreed"),
    [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.MAXIMUM_SUPPORTED, "TLSv1.3")],
    ids=["1.2", "1.3"],
)
async def test_tls_is_spoken_from_1_2_on_and_http_over_it(
    newest: ssl.TLSVersion, agreed: str, tmp_path: Path
) -> None:
    relay, client = secured(tmp_path)
    client.maximum_version = newest
    client.set_alpn_protocols(["h2", "http/1.1"])
    assert await handshake(relay, client) == (agreed, "http/1.1")


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=str)
async def test_a_client_that_offers_less_is_refused_and_the_log_says_why(
    newest: ssl.TLSVersion, tmp_path: Path
) -> None:
    relay, client = secured(tmp_path)
    client.set_ciphers("DEFAULT:@SECLEVEL=0")  # else OpenSSL would not even offer it
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.minimum_version = client.maximum_version = newest
    with structlog.testing.capture_logs() as lines:
        async with accepted() as (ours, theirs), trio.open_nursery() as nursery:
            nursery.start_soon(relay.connection, theirs)
            stream = trio.SSLStream(ours, client, server_hostname="localhost")
            with pytest.raises(trio.BrokenResourceError) as failure:
                await stream.do_handshake()
    assert "TLSV1_ALERT_PROTOCOL_VERSION" in repr(failure.value.__cause__)
    assert [(line["event"], line["reason"], line["peer"]) for line in lines] == [
        ("handshake failed", "TLS: UNSUPPORTED_PROTOCOL", "127.0.0.1")
    ]


async def test_a_plain_request_at_the_tls_port_is_refused(tmp_path: Path) -> None:
    relay, _ = secured(tmp_path)
    with structlog.testing.capture_logs() as lines:
        async with accepted() as (ours, theirs), trio.open_nursery() as nursery:
            nursery.start_soon(relay.connection, theirs)
            await ours.send_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = b"".join([data async for data in ours])
    assert b"alive" not in answer
    assert [line["reason"] for line in lines] == ["TLS: HTTP_REQUEST"]


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["nothing", "a beginning"])
async def test_a_handshake_that_does_not_come_is_waited_for_ten_seconds(
    said: bytes, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay, _ = secured(tmp_path)
    began = trio.current_time()
    with structlog.testing.capture_logs() as lines:
        async with accepted() as (ours, theirs):
            await ours.send_all(said)
            await relay.connection(theirs)
            assert await ours.receive_some() == b""
    assert trio.current_time() - began == pytest.approx(10, abs=0.1)
    assert [line["reason"] for line in lines] == ["no TLS handshake within 10 s"]


# Upstreams.


async def test_an_authority_that_is_not_known_is_refused_with_the_reason() -> None:
    async with secure_upstream(AUTHORITY.issue_cert("127.0.0.1")) as port:
        found = await probed(Upstream(url=f"wss://127.0.0.1:{port}/v1/realtime"))
    assert found.fault == "certificate verify failed: unable to get local issuer certificate"


async def test_an_authority_of_ones_own_is_accepted_and_only_that(tmp_path: Path) -> None:
    async with secure_upstream(AUTHORITY.issue_cert("127.0.0.1")) as port:
        url = f"wss://127.0.0.1:{port}/v1/realtime"
        assert (await probed(Upstream(url=url, ca_file=pem(tmp_path, AUTHORITY)))).fault is None
        refused = await probed(Upstream(url=url, ca_file=pem(tmp_path, ANOTHER)))
    assert refused.fault == "certificate verify failed: unable to get local issuer certificate"


async def test_a_certificate_for_another_host_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with secure_upstream(AUTHORITY.issue_cert("elsewhere.example")) as port:
        url = f"wss://localhost:{port}/v1/realtime"
        found = await probed(Upstream(url=url, ca_file=pem(tmp_path, AUTHORITY)))
    assert found.fault is not None
    assert found.fault.startswith("certificate verify failed: Hostname mismatch")
    assert "'localhost'" in found.fault


async def test_an_upstream_that_demands_a_certificate_is_shown_it(tmp_path: Path) -> None:
    ours = AUTHORITY.issue_cert("127.0.0.1")
    async with secure_upstream(ours, demands=AUTHORITY) as port:
        url, ca = f"wss://127.0.0.1:{port}/v1/realtime", pem(tmp_path, AUTHORITY)
        cert, key = identity(tmp_path, AUTHORITY)
        shown = Upstream(url=url, ca_file=ca, client_cert=cert, client_key=key)
        assert (await probed(shown)).fault is None
        unknown = await probed(Upstream(url=url, ca_file=ca))
    assert unknown.fault is not None


async def test_a_conversation_is_held_behind_a_private_authority_and_a_fallback_has_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "other").mkdir()
    async with secure_upstream(ANOTHER.issue_cert("127.0.0.1")) as port:
        configured = config.convert(
            {
                "listen": {"port": 0},
                "upstream": {
                    "url": "wss://127.0.0.1:9/v1/realtime",
                    "ca_file": str(pem(tmp_path, AUTHORITY)),
                },
                "upstreams": [
                    {
                        "url": f"wss://127.0.0.1:{port}/v1/realtime",
                        "ca_file": str(pem(tmp_path / "other", ANOTHER)),
                    }
                ],
            }
        )
        listeners = await server.open_listeners(configured, {})
        offered = served.build(configured, {})
        async with (
            server.running(offered, {}, listeners) as relay,
            wire.dial(relay.urls[0] + AGENT) as leg,
        ):
            await settings_applied(leg)


def test_authorities_and_certificates_go_to_no_other_host(tmp_path: Path) -> None:
    cert, key = identity(tmp_path, AUTHORITY)
    configured = config.convert(
        {
            "upstream": {
                "url": "wss://a.example/v1",
                "ca_file": str(pem(tmp_path, AUTHORITY)),
                "client_cert": str(cert),
                "client_key": str(key),
            },
            "upstreams": [{"url": "wss://a.example/v2"}, {"url": "wss://b.example/v1"}],
        }
    )
    first, same, other = served.build(configured, {}).destinations
    assert first.trust is same.trust
    assert other.trust is not None
    assert other.trust is not first.trust
    ours = ssl.PEM_cert_to_DER_cert(AUTHORITY.cert_pem.bytes().decode())
    assert first.trust is not None
    assert first.trust.get_ca_certs(binary_form=True) == [ours]
    assert ours not in other.trust.get_ca_certs(binary_form=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ca_file": "/nonexistent"}, "upstream.ca_file: No such file or directory"),
        ({"ca_file": "/dev/null"}, "upstream.ca_file: NO_CERTIFICATE_OR_CRL_FOUND"),
        (
            {"client_cert": "/nonexistent"},
            "upstream.client_cert and upstream.client_key: one needs the other",
        ),
        (
            {"client_cert": "/nonexistent", "client_key": "/nonexistent"},
            "upstream.client_cert, upstream.client_key: /nonexistent: No such file or directory",
        ),
        (
            {"url": "ws://h", "ca_file": "/nonexistent"},
            "upstream.url: ws has no certificates, so none would be verified; say wss",
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_a_matter_of_configuration(
    table: dict[str, str], message: str
) -> None:
    keys = {f"upstream.{key}": value for key, value in {"url": "wss://h", **table}.items()}
    with pytest.raises(ConfigError) as refused:
        served.build(config.load(None, {}, options=keys), {})
    assert str(refused.value) == message


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    cert, key = identity(tmp_path, AUTHORITY)
    plain = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(ConfigError, match=r"^listen\.tls_cert, listen\.tls_key: .*encrypted"):
        served.build(Config(listen=Listen(tls_cert=cert, tls_key=key)), {})
