"""Endpoints of server-side functions: what is called, how, and what becomes of everything that an
endpoint can do wrong. The HTTP server is real; so is the clock, where a time is bounded.
"""

import contextlib
import json
import logging
import socket
import ssl
import subprocess
import sys
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog.testing
import trio
import trio.lowlevel
import trustme

from relay import functions
from relay.config import Functions as Options
from relay.functions import Answer, Caller
from relay.session.actions import CallEndpoint
from relay.settings import Endpoint
from relay.settings.endpoints import METHODS
from tests.http_endpoint import Answering, Exchange, Server, serving

conformance = pytest.mark.conformance

SOON_S = 0.05
"""A bound that is meant to be reached."""
KIB = 1024


def asking(
    url: str, method: str = "POST", *, arguments: Any = None, call: str = "c1", **headers: str
) -> CallEndpoint:
    """`x_key="1"` is a header; arguments that are no text become JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return CallEndpoint(call, "weather", text, Endpoint(url, method, named))


@contextlib.asynccontextmanager
async def calling(
    *urls: str, tls: ssl.SSLContext | None = None, limit: int = 256 * KIB, **options: Any
) -> AsyncIterator[Caller]:
    """A conversation's caller, where these URLs are listed."""
    async with functions.opened(Options(endpoints=urls, **options), limit, tls) as shared:
        yield shared.for_session()


async def answered(answer: Answering, asked: str = "/f", **options: Any) -> Answer:
    """What becomes of one call when the endpoint answers like this."""
    async with serving(answer) as server, calling(server.url, **options) as call:
        return await call(asking(server.url + asked))


def failure(answer: Answer) -> dict[str, Any]:
    """What the model is told; fails for a success."""
    assert not answer.ok, answer
    told: dict[str, Any] = json.loads(answer.output)
    return told


async def echo(exchange: Exchange) -> None:
    await exchange.reply(200, b'{"ok":true}', content_type="application/json")


# The request.


@conformance("C-171")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_the_arguments_are_the_json_body_of_a_method_that_has_one(method: str) -> None:
    async with serving(echo) as server, calling(server.url) as call:
        asked = asking(server.url + "/f?v=1", method, arguments='{"city": "Łódź"}')
        assert await call(asked) == Answer('{"ok":true}', ok=True)
    (seen,) = server.seen
    assert (seen.method, seen.target) == (method, "/f?v=1")
    assert seen.body.decode() == '{"city": "Łódź"}'
    assert seen.header("content-type") == "application/json"


@conformance("C-171")
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_the_arguments_are_the_query_of_a_method_without_a_body(method: str) -> None:
    arguments = {
        "city": "Łódź & co",
        "days": 3,
        "exact": True,
        "tags": ["a", 2],
        "at": {"lat": 1.5},
        "none": None,
    }
    async with serving(echo) as server, calling(server.url) as call:
        await call(asking(server.url + "/f", method, arguments=arguments))
    (seen,) = server.seen
    assert (seen.method, seen.body) == (method, b"")
    assert urllib.parse.parse_qsl(seen.target.removeprefix("/f?")) == [
        ("city", "Łódź & co"),
        ("days", "3"),
        ("exact", "true"),
        ("tags", "a"),
        ("tags", "2"),
        ("at", '{"lat":1.5}'),
    ]


async def test_the_model_does_not_change_what_settings_fix_in_the_query() -> None:
    async with serving(echo) as server, calling(server.url) as call:
        arguments = {"tenant": "2", "city": "Oslo"}
        await call(asking(server.url + "/f?tenant=1&x", "GET", arguments=arguments))
        await call(asking(server.url + "/f", "GET"))
    assert [seen.target for seen in server.seen] == ["/f?tenant=1&x&city=Oslo", "/f"]


async def test_headers_go_along_except_those_that_are_the_connections() -> None:
    async with serving(echo) as server, calling(server.url) as call:
        asked = asking(
            server.url,
            authorization="Bearer s",
            X_Key="k",
            content_type="application/vnd.x+json",
            Host="evil.example",
            connection="close, X-Hop",
            x_hop="1",
            content_length="0",
            transfer_encoding="chunked",
            proxy_authorization="p",
            te="trailers",
            accept_encoding="gzip",
        )
        assert (await call(asked)).ok
    (seen,) = server.seen
    assert dict(seen.headers) == {
        "host": server.url.removeprefix("http://"),
        "authorization": "Bearer s",
        "x-key": "k",
        "content-type": "application/vnd.x+json",
        "content-length": "2",
        "accept-encoding": "identity",
        "user-agent": "voice-agent-relay",
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"x": "a\r\nx-injected: 1"},
        {"x\n": "a"},
        {"": "a"},
        {"x y": "a"},
        {"x": "ü"},
        {"x": "\0"},
    ],
)
async def test_a_header_that_is_none_is_not_sent_and_nothing_else(headers: dict[str, str]) -> None:
    async with serving(echo) as server, calling(server.url) as call:
        told = failure(await call(asking(server.url, **headers)))
    assert told == {"error": "a header of the endpoint cannot be sent"}
    assert server.connections == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"', "", "[" * 100_000, '{"a":"\\ud800"}'])
async def test_arguments_that_are_no_object_are_told_to_the_model_alone(
    method: str, arguments: str
) -> None:
    async with serving(echo) as server, calling(server.url) as call:
        told = failure(await call(asking(server.url, method, arguments=arguments)))
    assert told == {"error": "the arguments are no JSON object"}
    assert server.connections == 0


async def test_arguments_too_long_for_a_url_are_told_to_the_model() -> None:
    async with serving(echo) as server, calling(server.url) as call:
        asked = asking(server.url, "GET", arguments={"a": "x" * 70_000})
        assert failure(await call(asked)) == {"error": "no URL that can be called"}
    assert server.connections == 0


@conformance("C-172")
async def test_what_is_not_listed_is_not_called() -> None:
    async with serving(echo) as server, calling(server.url + "/a") as call:
        for path in ("/", "/ab", "/a/../b", "/a/%2e%2e/b"):
            told = failure(await call(asking(server.url + path)))
            assert told == {"error": "not on the list of endpoints"}
        assert server.connections == 0
        assert (await call(asking(server.url + "/a/b"))).ok


@conformance("C-172")
async def test_what_is_no_longer_listed_is_not_called_in_conversations_that_go_on_either() -> None:
    async with (
        serving(echo) as server,
        functions.opened(Options(endpoints=(server.url,)), KIB) as shared,
    ):
        call = shared.for_session()
        assert (await call(asking(server.url))).ok
        shared.change(Options(endpoints=(server.url + "/a",), max_calls=1), KIB)
        told = failure(await call(asking(server.url)))
        assert told == {"error": "not on the list of endpoints"}
        assert (await call(asking(server.url + "/a"))).ok
    assert len(server.seen) == 2


# The answer.


@conformance("C-171")
@pytest.mark.parametrize(
    ("body", "content_type", "output"),
    [
        (b'{ "t": 21 }', "application/json", '{ "t": 21 }'),
        ("21 °C".encode(), "application/json", "21 °C"),
        (b"sunny", "text/plain", "sunny"),
        ("föhnig".encode("latin-1"), "text/plain; charset=ISO-8859-1", "föhnig"),
        (b"", "text/plain", ""),
        (b"<p>\tsunny\r\n", "text/html; charset=utf-8", "<p>\tsunny\r\n"),
    ],
)
async def test_text_is_the_output_as_it_is(body: bytes, content_type: str, output: str) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(201, body, content_type=content_type)

    assert await answered(answer) == Answer(output, ok=True)


async def test_no_content_is_an_empty_output() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 204 No Content\r\n\r\n")

    assert await answered(answer) == Answer("", ok=True)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "image/png"),
        (b"a\0b", "text/plain"),
        (b"\x01\x02", "text/plain"),
        (b"\xff\xfe", "text/plain"),
        ("21 °".encode()[:-1], "text/plain"),
        (b"abc", "text/plain; charset=zlib"),
        (b"abc", "text/plain; charset=punycode"),
        (b"abc", "text/plain; charset=nonsense"),
    ],
)
async def test_what_is_not_text_is_a_failure(body: bytes, content_type: str) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(200, body, content_type=content_type)

    told = failure(await answered(answer))
    assert told == {"error": "the answer is not text", "status": 200}


async def test_the_model_is_shown_why_it_was_refused_but_not_all_of_it() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(404, b"No such order. " + b"x" * 10_000)

    told = failure(await answered(answer))
    assert (told["error"], told["status"]) == ("HTTP status 404", 404)
    assert told["body"].startswith("No such order. x")
    assert 2048 <= len(told["body"]) < 2060


async def test_the_inside_of_a_server_that_failed_is_not_the_models_business() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(500, b"Traceback: password=hunter2")

    assert failure(await answered(answer)) == {"error": "HTTP status 500", "status": 500}


@conformance("C-228")
async def test_an_endless_answer_is_cut_and_the_endpoint_let_go() -> None:
    let_go = trio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.begin(200, transfer_encoding="chunked")
        try:
            while True:
                await exchange.go_on("ü".encode() * 8 * KIB)
        except trio.BrokenResourceError:
            let_go.set()

    async with serving(answer) as server, calling(server.url) as call:
        output, ok = await call(asking(server.url))
        assert ok
        # More than the session takes, so that it says that the output is cut; not much more.
        assert 256 * KIB < len(output.encode()) <= 256 * KIB + 4
        assert set(output) == {"ü"}
        with trio.fail_after(5):
            await let_go.wait()


@pytest.mark.parametrize("size", [1000, 1001, 1003, 1004, 1005, 2000])
@pytest.mark.parametrize("character", ["x", "ü", "€", "🌍"])
async def test_what_is_cut_stays_longer_than_allowed_and_what_is_not_is_whole(
    size: int, character: str
) -> None:
    text = (character * size)[: size // len(character.encode())] + "x" * (
        size % len(character.encode())
    )
    assert len(text.encode()) == size

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(200, text.encode())

    output, ok = await answered(answer, limit=1000)
    assert ok
    assert text.startswith(output)
    assert (output == text) if size <= 1000 else len(output.encode()) > 1000


async def test_a_compressed_answer_is_refused_because_its_size_is_a_lie() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(200, b"...", content_encoding="gzip")

    told = failure(await answered(answer))
    assert told == {"error": "the answer is compressed, unasked", "status": 200}


# Redirects.


def redirecting(status: int, location: str) -> Answering:
    async def answer(exchange: Exchange) -> None:
        if exchange.target.startswith("/from"):
            await exchange.reply(status, b"moved", location=location)
        else:
            await echo(exchange)

    return answer


@pytest.mark.parametrize(
    ("status", "method", "body"),
    [
        (301, "GET", b""),
        (302, "GET", b""),
        (303, "GET", b""),
        (307, "POST", b'{"a": 1}'),
        (308, "POST", b'{"a": 1}'),
    ],
)
async def test_a_redirect_on_the_list_is_followed(status: int, method: str, body: bytes) -> None:
    async with serving(redirecting(status, "/to?x=1#y")) as server, calling(server.url) as call:
        asked = asking(server.url + "/from", arguments={"a": 1}, x_key="k")
        assert (await call(asked)).ok
    before, after = server.seen
    assert (before.method, before.body) == ("POST", b'{"a": 1}')
    assert (after.method, after.target, after.body) == (method, "/to?x=1", body)
    assert after.header("x-key") == "k"
    assert (after.header("content-type") == "application/json") is bool(body)


async def test_a_redirected_get_stays_one_without_a_body() -> None:
    async with serving(redirecting(307, "/to")) as server, calling(server.url) as call:
        assert (await call(asking(server.url + "/from", "GET"))).ok
    after = server.seen[-1]
    assert (after.method, after.target, after.body) == ("GET", "/to", b"")
    assert after.header("content-type") is None


@conformance("C-172")
@pytest.mark.parametrize("path", ["/to", "/from/../to", "/fro", ""])
async def test_a_redirect_off_the_list_is_not_followed(path: str) -> None:
    async with serving(echo) as other, serving(redirecting(302, other.url + path)) as server:
        async with calling(server.url + "/from", other.url + "/from") as call:
            told = failure(await call(asking(server.url + "/from")))
        assert told == {"error": "redirected off the list of endpoints", "status": 302}
        assert other.connections == 0
        assert len(server.seen) == 1


@conformance("C-066", "C-172")
async def test_credentials_do_not_follow_a_redirect_to_another_origin() -> None:
    async with (
        serving(echo) as other,
        serving(redirecting(307, other.url + "/to")) as server,
        calling(server.url, other.url) as call,
    ):
        asked = asking(server.url + "/from", arguments={"a": 1}, authorization="s", x_key="k")
        assert (await call(asked)).ok
    (seen,) = other.seen
    assert seen.body == b'{"a": 1}'
    assert seen.header("authorization") is None
    assert seen.header("x-key") is None
    assert seen.header("content-type") == "application/json"
    assert seen.header("host") == other.url.removeprefix("http://")


async def test_a_redirect_in_a_circle_ends() -> None:
    async with serving(redirecting(302, "/from")) as server, calling(server.url) as call:
        told = failure(await call(asking(server.url + "/from")))
    assert told == {"error": "redirected too often", "status": 302}
    assert len(server.seen) == 1 + functions.MAX_REDIRECTS


@pytest.mark.parametrize(
    "location",
    ["http://[", "https://", "javascript:alert(1)", "http://me@127.0.0.1", "\\\\x", "//x:y"],
)
async def test_a_redirect_to_nonsense_is_a_failure(location: str) -> None:
    async with serving(redirecting(302, location)) as server, calling(server.url + "/from") as call:
        told = failure(await call(asking(server.url + "/from")))
    assert told["error"] in ("redirected off the list of endpoints", "redirected to no URL")
    assert told["status"] == 302
    assert len(server.seen) == 1


async def test_a_redirect_without_a_target_is_a_failure() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(302)

    assert failure(await answered(answer)) == {"error": "HTTP status 302", "status": 302}


# Connections that fail.


async def test_a_refused_connection_is_a_failure() -> None:
    async with serving(echo) as server:
        url = server.url
    async with calling(url) as call:
        assert failure(await call(asking(url))) == {"error": "no connection: Connection refused"}


class NoNames(trio.abc.HostnameResolver):
    async def getaddrinfo(self, *_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def test_a_name_that_nobody_knows_is_a_failure() -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    async with calling("http://fns.test") as call:
        told = failure(await call(asking("http://fns.test/f")))
    assert told == {"error": "no connection: Name or service not known"}


@conformance("C-259")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", None),
        (b"HTTP/1.1 ", None),
        (b"HTTP/9 what?\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 200),
    ],
)
async def test_a_broken_answer_is_a_failure_and_the_call_is_not_repeated(
    data: bytes, status: int | None
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.raw(data)
        await exchange.hang_up()

    async with serving(answer) as server, calling(server.url) as call:
        told = failure(await call(asking(server.url)))
    expected = {"error": "the connection broke", "status": status}
    assert told == {key: value for key, value in expected.items() if value is not None}
    assert len(server.seen) == 1


@conformance("C-259")
async def test_a_call_that_is_lost_on_a_kept_connection_is_not_repeated() -> None:
    async def answer(exchange: Exchange) -> None:
        if len(server.seen) == 1:
            await echo(exchange)
        else:
            await exchange.hang_up()

    async with serving(answer) as server, calling(server.url) as call:
        assert (await call(asking(server.url))).ok
        assert failure(await call(asking(server.url))) == {"error": "the connection broke"}
        assert (server.connections, len(server.seen)) == (1, 2)


async def test_calls_in_a_chain_share_a_connection_but_no_cookies() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(200, b"x", set_cookie="session=1")

    async with serving(answer) as server, calling(server.url) as call:
        await call(asking(server.url))
        await call(asking(server.url))
    assert server.connections == 1
    assert [seen.header("cookie") for seen in server.seen] == [None, None]


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(echo) as proxy, serving(echo) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with calling(server.url) as call:
            assert (await call(asking(server.url))).ok
    assert (proxy.connections, server.connections) == (0, 1)


# TLS.

AUTHORITY = trustme.CA()


def presenting(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_an_endpoint_with_a_certificate_is_called() -> None:
    async with (
        serving(echo, presenting(AUTHORITY, "127.0.0.1")) as server,
        calling(server.url, tls=trusting(AUTHORITY)) as call,
    ):
        assert await call(asking(server.url)) == Answer('{"ok":true}', ok=True)


@pytest.mark.parametrize(
    ("authority", "name", "reason"),
    [
        (trustme.CA(), "127.0.0.1", "unable to get local issuer certificate"),
        (AUTHORITY, "other.test", "IP address mismatch"),
    ],
)
async def test_an_endpoint_whose_certificate_is_not_its_own_gets_no_request(
    authority: trustme.CA, name: str, reason: str
) -> None:
    async with (
        serving(echo, presenting(authority, name)) as server,
        calling(server.url, tls=trusting(AUTHORITY)) as call,
    ):
        told = failure(await call(asking(server.url, authorization="s")))
    assert told["error"].startswith("no connection: certificate verify failed: ")
    assert reason in told["error"]
    assert server.seen == []


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_an_endpoint_that_does_not_speak_tls_is_a_failure(data: bytes) -> None:
    async def plain(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(data)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery, calling(url) as call:
        nursery.start_soon(trio.serve_listeners, plain, [listener])
        told = failure(await call(asking(url)))
        nursery.cancel_scope.cancel()
    assert told["error"].startswith("no connection: TLS: ")


async def test_without_a_context_the_systems_certificates_are_asked() -> None:
    secure = presenting(AUTHORITY, "127.0.0.1")
    async with serving(echo, secure) as server, calling(server.url) as call:
        assert "certificate verify failed" in failure(await call(asking(server.url)))["error"]


# Time.


async def nothing(exchange: Exchange) -> None:
    await exchange.gone()


async def half(exchange: Exchange) -> None:
    await exchange.begin(200, content_length="9")
    await exchange.go_on(b"half")
    await exchange.gone()


async def drops(exchange: Exchange) -> None:
    await exchange.begin(200, content_length="1000000")
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await exchange.go_on(b".")
            await trio.sleep(SOON_S / 10)


@pytest.mark.parametrize("answer", [nothing, half, drops])
async def test_an_answer_that_does_not_end_in_time_is_a_failure(answer: Answering) -> None:
    told = failure(await answered(answer, timeout_s=SOON_S))
    assert told == {"error": "no answer in time"}


async def test_a_handshake_that_does_not_end_in_time_is_a_failure() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with listener, calling(url, connect_timeout_s=SOON_S) as call:
        assert failure(await call(asking(url))) == {"error": "no connection in time"}


@pytest.mark.parametrize("answer", [nothing, half])
async def test_a_cancelled_call_closes_its_connection(answer: Answering) -> None:
    begun, let_go = trio.Event(), trio.Event()

    async def watched(exchange: Exchange) -> None:
        begun.set()
        await answer(exchange)
        let_go.set()

    async with serving(watched) as server, calling(server.url) as call:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, asking(server.url))
                await begun.wait()
                nursery.cancel_scope.cancel()
            await let_go.wait()


# Many at once.


class Crowd:
    """Answers nobody until it is told to."""

    def __init__(self) -> None:
        self.open = trio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await self.open.wait()
        await echo(exchange)


async def until_waiting(server: Server, number: int) -> None:
    """Until so many requests are there, and no more come."""
    with trio.fail_after(5):
        await server.at_once.wait_value(lambda n: n >= number)
    await trio.testing.wait_all_tasks_blocked(SOON_S)
    assert server.at_once.value == number


async def test_a_session_calls_so_many_at_once_and_another_has_turns_of_its_own() -> None:
    crowd, answers = Crowd(), []

    async def note(caller: Caller, url: str) -> None:
        answers.append(await caller(asking(url)))

    async with serving(crowd) as server:
        options = Options(endpoints=(server.url,), max_calls_per_session=3, max_calls=5)
        async with functions.opened(options, KIB) as shared, trio.open_nursery() as nursery:
            first, second = shared.for_session(), shared.for_session()
            for _ in range(10):
                nursery.start_soon(note, first, server.url)
            await until_waiting(server, 3)
            for _ in range(10):
                nursery.start_soon(note, second, server.url)
            await until_waiting(server, 5)
            crowd.open.set()
    assert answers == [Answer('{"ok":true}', ok=True)] * 20
    assert server.most_at_once == 5


async def test_a_call_waits_for_its_turn_no_longer_than_for_its_answer() -> None:
    async with (
        serving(Crowd()) as server,
        calling(server.url, timeout_s=SOON_S, max_calls_per_session=1) as call,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(call, asking(server.url))
        assert failure(await call(asking(server.url))) == {"error": "no answer in time"}
    assert len(server.seen) == 1


async def test_cancelled_calls_give_their_turns_back() -> None:
    crowd = Crowd()
    async with (
        serving(crowd) as server,
        calling(server.url, max_calls_per_session=2, max_calls=2) as call,
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(call, asking(server.url))
            await until_waiting(server, 2)
            nursery.cancel_scope.cancel()
        crowd.open.set()
        with trio.fail_after(5):
            assert (await call(asking(server.url))).ok


# The log.


@conformance("C-066")
@pytest.mark.parametrize("status", [200, 403])
async def test_the_log_has_name_host_status_and_duration(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "s3cr3t"

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(status, secret.encode(), x_key=secret)

    caplog.set_level(logging.INFO)
    async with serving(answer) as server, calling(server.url) as call:
        asked = asking(
            f"{server.url}/{secret}?key={secret}", arguments={"a": secret}, authorization=secret
        )
        with structlog.testing.capture_logs() as lines:
            await call(asked)
    (line,) = lines
    assert line.pop("took_s") >= 0
    expected = {"name": "weather", "host": "127.0.0.1", "status": status}
    if status == 200:
        assert line == {"event": "endpoint called", "log_level": "info", **expected}
    else:
        reason = {"log_level": "warning", "reason": "HTTP status 403"}
        assert line == {"event": "endpoint failed", **expected, **reason}
    assert caplog.text == ""  # the library's own lines name the URL


# The extra.


def relay_without_httpx2(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, where importing the library fails."""
    code = "import sys; sys.modules['httpx2'] = None; from relay.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


CHECK = ("check", "--upstream", "simulator", "--set", "simulator.knobs.pace=0")


def test_a_list_without_the_extra_is_refused_with_the_words_to_install_it() -> None:
    done = relay_without_httpx2(*CHECK, "--set", "functions.endpoints=['https://fns.test']")
    assert done.returncode == 2
    assert "pip install 'voice-agent-relay[functions]'" in done.stderr
    assert "Traceback" not in done.stderr


@conformance("C-172")
def test_without_a_list_the_extra_is_not_needed() -> None:
    done = relay_without_httpx2(*CHECK)
    assert done.returncode == 0, done.stderr
