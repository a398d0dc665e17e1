"""functions: calls the HTTP endpoints of server-side functions.

It knows one HTTP request, the list of what may be called, and how many calls there may be at once.
It knows no message, no event and no conversation: what an answer means is the session's business.
Everything an endpoint can do wrong becomes an `Answer` that the model can read; a call is never
tried again (C-259). Importing this file needs the extra `functions`.

The list is the only wall between clients and the relay's own network (C-172): private and loopback
addresses can be called, because and only if they are listed. A listed *name* is resolved when it is
called and trusted to lead where its owner says. Whoever controls its DNS can point it into the
relay's network (rebinding), so list names of your own; with https the certificate must match too.
Proxies of the environment, `.netrc` and cookies play no part.

How Deepgram passes the arguments is not documented. Here: as the JSON body of POST, PUT and PATCH,
and in the query of GET and DELETE, whose bodies mean nothing (RFC 9110, 9.3).
"""

import codecs
import contextlib
import re
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import httpx2
import msgspec
import structlog
import trio

from relay.causes import in_words
from relay.config import Functions as Options
from relay.session.actions import CallEndpoint
from relay.settings import Endpoint
from relay.settings.endpoints import is_listed, place

IN_QUERY = ("GET", "DELETE")
"""Methods that carry the arguments in the query."""
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 3
MAX_ERROR_BODY_BYTES = 2048
"""How much of a refusal's body the model is shown."""
UTF8_MAX = 4
"""Bytes of the longest character."""
KEEP_ALIVE_S = 2.0
"""How long an idle connection is kept for the next call of a chain: less than the 5 s after which
common servers close theirs, because a request that meets the close is lost and not repeated."""
CHARSETS = ("utf-8", "utf8", "us-ascii", "iso-8859-1", "latin1", "windows-1252")
"""What a body may be declared as; some of Python's other codecs are slow or inflate."""
BINARY = re.compile(rb"[\x00-\x07\x0b\x0e-\x1f]")
"""Bytes that text does not have; in JSON each would take six (C-228)."""

OWN_HEADERS = {
    "accept-encoding": "identity",  # so that a size is a size, and nothing inflates
    "user-agent": "voice-agent-relay",
}
NOT_PASSED_ON = {
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""Headers of an endpoint that would speak about the connection, or for another host."""
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")

log = structlog.get_logger()


class Answer(NamedTuple):
    """How a call went."""

    output: str
    """For the model: the endpoint's text, or a JSON object with `error` and, if the endpoint
    answered, its `status` and what it said to a refusal as `body`. An answer that was cut is a
    little longer than `max_output_bytes`: the session cuts it there and says so (C-228)."""
    ok: bool


@contextlib.asynccontextmanager
async def opened(
    options: Options, max_output_bytes: int, tls: ssl.SSLContext | None = None
) -> "AsyncIterator[Functions]":
    """What the connections of a daemon share; open it around them. `tls` verifies the endpoints,
    by default with the system's certificates."""
    transport = httpx2.AsyncHTTPTransport(
        # Made here, because loading certificates takes tens of milliseconds.
        verify=tls or ssl.create_default_context(),
        trust_env=False,
        limits=httpx2.Limits(
            max_connections=None,  # the turns bound them
            max_keepalive_connections=options.max_calls,
            keepalive_expiry=KEEP_ALIVE_S,
        ),
    )
    async with transport:
        yield Functions(options, max_output_bytes, transport)


class Functions:
    """Calls endpoints for everyone. Holds the idle connections and the daemon's limit."""

    def __init__(
        self, options: Options, max_output_bytes: int, transport: httpx2.AsyncHTTPTransport
    ) -> None:
        self._options = options
        self._max_output_bytes = max_output_bytes
        self._transport = transport
        self._turns = trio.CapacityLimiter(options.max_calls)

    def change(self, options: Options, max_output_bytes: int) -> None:
        """From the next call on, these count; for conversations that are going on, too: what is no
        longer listed is no longer called."""
        self._options = options
        self._max_output_bytes = max_output_bytes
        self._turns.total_tokens = options.max_calls

    def for_session(self) -> "Caller":
        """What one conversation calls endpoints with; its turns are its own."""
        return Caller(self, trio.CapacityLimiter(self._options.max_calls_per_session))

    async def call(self, asked: CallEndpoint, turns: trio.CapacityLimiter) -> Answer:
        """Call an endpoint as soon as there is a turn in `turns` and one of the daemon's. Answers
        within `timeout_s` in any case and raises nothing that is not a mistake of ours. To give up,
        cancel: the request's connection is closed."""
        there = place(asked.endpoint.url)
        # No more than this: the path may name a person, the query hold a key.
        about = {"name": asked.name, "host": there.host if there else None}
        began = trio.current_time()
        try:
            with trio.fail_after(self._options.timeout_s):
                # The session's first: one with many calls must not queue for all in the other.
                async with turns, self._turns:
                    status, text = await self._exchange(asked.endpoint, asked.arguments)
        except trio.TooSlowError:
            failed = _Failed("no answer in time")
        except _Failed as error:
            failed = error
        else:
            log.info("endpoint called", **about, status=status, took_s=_since(began))
            return Answer(text, ok=True)
        about["reason"] = failed.reason
        log.warning("endpoint failed", **about, status=failed.status, took_s=_since(began))
        return failed.answer()

    async def _exchange(self, endpoint: Endpoint, arguments: str) -> tuple[int, str]:
        """Make the request, and those that its answers redirect to; the status and the text of the
        last one. Raises `_Failed`."""
        request = self._request(endpoint, arguments)
        for _ in range(1 + MAX_REDIRECTS):
            async with self._response(request) as response:
                if not _is_redirect(response):
                    return response.status_code, await self._read(response)
                request = self._redirected(request, response, endpoint)
        raise _Failed("redirected too often", response.status_code)

    def _request(self, endpoint: Endpoint, arguments: str) -> httpx2.Request:
        # The session asked the same before it made the call a server-side one; a snapshot may be
        # older than the list.
        there = place(endpoint.url)
        if there is None or not is_listed(endpoint.url, self._options.endpoints):
            raise _Failed("not on the list of endpoints")
        headers = {**OWN_HEADERS, **_passed_on(endpoint.headers)}
        named = _arguments(arguments)
        if endpoint.method not in IN_QUERY:
            headers.setdefault("content-type", "application/json")
            return self._built(endpoint.method, endpoint.url, headers, arguments.encode())
        fixed = dict(urllib.parse.parse_qsl(there.query, keep_blank_values=True))
        # What Settings fix in the URL is not the model's to change.
        free = {name: value for name, value in named.items() if name not in fixed}
        query = "&".join(part for part in (there.query, _query(free)) if part)
        url = endpoint.url.partition("?")[0]
        return self._built(endpoint.method, f"{url}?{query}" if query else url, headers)

    def _redirected(
        self, request: httpx2.Request, response: httpx2.Response, endpoint: Endpoint
    ) -> httpx2.Request:
        """The request to make instead. One that may not be repeated as it is becomes a GET without
        arguments (RFC 9110, 15.4). The endpoint's headers may hold credentials: they stay with its
        origin."""
        status = response.status_code
        try:
            url = str(request.url.join(response.headers["location"]).copy_with(fragment=None))
        except (httpx2.InvalidURL, ValueError):
            raise _Failed("redirected to no URL", status) from None
        there, home = place(url), place(endpoint.url)
        if there is None or home is None or not is_listed(url, self._options.endpoints):
            raise _Failed("redirected off the list of endpoints", status)
        passed_on = _passed_on(endpoint.headers) if there.origin == home.origin else {}
        headers = {**OWN_HEADERS, **passed_on}
        if status not in (307, 308):
            headers.pop("content-type", None)
            return self._built("GET", url, headers)
        if content := request.content:
            headers.setdefault("content-type", "application/json")
        return self._built(request.method, url, headers, content)

    def _built(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes = b""
    ) -> httpx2.Request:
        # The time as a whole is bounded around it.
        timeout = httpx2.Timeout(None, connect=self._options.connect_timeout_s)
        extensions = {"timeout": timeout.as_dict()}
        try:
            return httpx2.Request(
                method, url, headers=headers, content=content, extensions=extensions
            )
        except httpx2.InvalidURL:  # among them those of more than 64 KiB
            raise _Failed("no URL that can be called") from None

    @contextlib.asynccontextmanager
    async def _response(self, request: httpx2.Request) -> AsyncIterator[httpx2.Response]:
        """Its head has come, its body has not. Raises `_Failed`, also for what happens inside."""
        status = None
        try:
            # Not through httpx2.AsyncClient: its cookies would go from one session to another, and
            # it logs whole URLs.
            response = await self._transport.handle_async_request(request)
            status = response.status_code
            try:
                yield response
            finally:
                await response.aclose()
        except httpx2.ConnectTimeout:
            raise _Failed("no connection in time") from None
        except httpx2.ConnectError as error:
            raise _Failed(f"no connection: {in_words(error)}") from None
        except httpx2.TransportError:
            raise _Failed("the connection broke", status) from None

    async def _read(self, response: httpx2.Response) -> str:
        status = response.status_code
        if response.is_success:
            body = await _body(response, self._max_output_bytes)
            return _text(response, body, self._max_output_bytes)
        if not response.is_client_error:
            # The body of a 5xx is about the server's inside, and none of the model's business.
            raise _Failed(f"HTTP status {status}", status)
        # That of a 4xx is about the request: "no such order" is something to tell the user.
        body = await _body(response, MAX_ERROR_BODY_BYTES)
        raise _Failed(f"HTTP status {status}", status, _text(response, body, MAX_ERROR_BODY_BYTES))


class Caller:
    """The calls of one conversation."""

    def __init__(self, functions: Functions, turns: trio.CapacityLimiter) -> None:
        self._functions = functions
        self._turns = turns

    async def __call__(self, call: CallEndpoint) -> Answer:
        """See `Functions.call`."""
        return await self._functions.call(call, self._turns)


class _Failed(Exception):
    """A call that has no result; the reason holds no URL and no secret."""

    def __init__(self, reason: str, status: int | None = None, body: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.body = body

    def answer(self) -> Answer:
        told: dict[str, str | int] = {"error": self.reason}
        if self.status is not None:
            told["status"] = self.status
        if self.body:
            told["body"] = self.body
        return Answer(msgspec.json.encode(told).decode(), ok=False)


def _since(began: float) -> float:
    return round(trio.current_time() - began, 3)


def _arguments(text: str) -> dict[str, Any]:
    """Raises `_Failed` unless it is a JSON object: models do write broken ones."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise _Failed("the arguments are no JSON object") from None


def _query(arguments: dict[str, Any]) -> str:
    """Text as it is, anything else as JSON; a list repeats its name, null is left out."""
    return urllib.parse.urlencode(
        [
            (name, each if isinstance(each, str) else msgspec.json.encode(each))
            for name, value in arguments.items()
            for each in (value if isinstance(value, list) else [value])
            if each is not None
        ]
    )


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """The endpoint's headers in lower case, without those that are not the client's to say."""
    passed_on = {name.lower(): value for name, value in headers.items()}
    for name, value in passed_on.items():
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            raise _Failed("a header of the endpoint cannot be sent")
    hop_by_hop = {each.strip().lower() for each in passed_on.get("connection", "").split(",")}
    return {n: v for n, v in passed_on.items() if n not in NOT_PASSED_ON | hop_by_hop}


def _is_redirect(response: httpx2.Response) -> bool:
    return response.status_code in REDIRECTS and "location" in response.headers


async def _body(response: httpx2.Response, limit: int) -> bytes:
    """The body, cut a character's length after `limit`: a cut one stays longer than it is to be."""
    if response.headers.get("content-encoding", "").lower() not in ("", "identity"):
        raise _Failed("the answer is compressed, unasked", response.status_code)
    body = bytearray()
    # Cancelling ends the library's nested generators in their order; leaving the loop would leave
    # them to the garbage collector.
    with trio.CancelScope() as enough:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit + UTF8_MAX:
                enough.cancel()
    return bytes(body[: limit + UTF8_MAX])


def _text(response: httpx2.Response, body: bytes, limit: int) -> str:
    """The body as text; of one that was cut, without the character that was cut in two. Raises
    `_Failed` for what no model can read."""
    charset = (response.charset_encoding or "utf-8").lower()
    if charset in CHARSETS and not BINARY.search(body):
        try:
            decoder = codecs.getincrementaldecoder(charset)()
            return decoder.decode(body, final=len(body) <= limit)
        except UnicodeDecodeError:
            pass
    raise _Failed("the answer is not text", response.status_code)
