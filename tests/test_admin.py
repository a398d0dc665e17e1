"""The admin pages: what they show, and to whom. The sockets are real."""

import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
import trio

from relay import admin, wire
from relay.admin import Sources
from relay.config import Admin, Config
from relay.observer import About, Live, Overview
from tests.fakes import FakeLeg
from tests.test_metrics import parsed
from tests.test_server import AGENT, close_code, fetch, serving


@contextlib.asynccontextmanager
async def pages(sources: Sources, configured: Admin = Admin()) -> AsyncIterator[str]:  # noqa: B008
    """Where they are served."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with admin.serving(listeners, configured, sources):
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"


def sources(overview: Overview | None = None, *, not_ready: str | None = None) -> Sources:
    seen = overview or Overview()
    return Sources(seen.snapshot, lambda: seen.live(trio.current_time()), lambda: not_ready)


async def get(address: str, path: str, host: str, method: str = "GET") -> int:
    """The status for a request that names this host."""
    name, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(name, int(port)) as stream:
        await stream.send_all(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = b"".join([chunk async for chunk in stream])
    return int(answer.split()[1])


async def test_metrics_are_in_prometheuss_text_format() -> None:
    overview = Overview()
    overview.metrics.barge_ins.add(3)
    async with pages(sources(overview)) as address:
        status, headers, body = await fetch(address, "/metrics")
        assert (status, headers["content-type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        assert headers["cache-control"] == "no-store"
        assert b"\nrelay_barge_ins_total 3\n" in body
        assert (await fetch(address, "/metrics", "HEAD"))[::2] == (200, b"")


async def test_sessions_are_shown_without_a_word_of_theirs() -> None:
    overview = Overview()
    overview.observer(FakeLeg(), About(session="s1", key="laptop"), trio.current_time())
    async with pages(sources(overview)) as address:
        status, headers, body = await fetch(address, "/sessions")
        assert (status, headers["content-type"]) == (200, "application/json")
        (shown,) = msgspec.json.decode(body)
        assert (shown["session"], shown["key"]) == ("s1", "laptop")


async def test_health_is_that_of_the_daemon() -> None:
    async with pages(sources()) as address:
        assert (await fetch(address, "/healthz"))[::2] == (200, b"alive\n")
        assert (await fetch(address, "/readyz"))[::2] == (200, b"ready\n")
    async with pages(sources(not_ready="overloaded")) as address:
        assert (await fetch(address, "/readyz"))[::2] == (503, b"overloaded\n")


async def test_there_is_nothing_else_and_nothing_to_be_changed() -> None:
    async with pages(sources()) as address:
        assert (await fetch(address, "/"))[0] == 404
        assert (await fetch(address, AGENT))[0] == 404
        status, headers, _ = await fetch(address, "/metrics", "POST")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        with pytest.raises(wire.DialFailed) as failure:
            async with wire.dial(f"ws://{address}{AGENT}"):
                pass
        assert failure.value.status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9090", 200),
        ("127.0.0.1", 200),
        ("localhost:9090", 200),
        ("[::1]:9090", 200),
        ("rebound.example:9090", 403),
        ("rebound.example", 403),
        ("127.0.0.1.rebound.example", 403),
        ("", 403),
    ],
)
async def test_a_web_page_cannot_have_its_own_name_lead_here(host: str, status: int) -> None:
    async with pages(sources()) as address:
        assert await get(address, "/metrics", host) == status


async def test_beyond_loopback_any_name_will_do() -> None:
    meant = Admin(host="0.0.0.0", allow_anonymous=True)
    async with pages(sources(), meant) as address:
        assert await get(address, "/metrics", "relay.internal:9090") == 200


async def test_a_page_that_fails_is_no_end_of_the_others() -> None:
    def broken() -> list[Live]:
        raise RuntimeError("planted")

    async with pages(sources()._replace(live=broken)) as address:
        assert (await fetch(address, "/sessions"))[0] == 500
        assert (await fetch(address, "/healthz"))[0] == 200


async def test_without_a_port_there_are_none() -> None:
    assert await admin.open_listeners(Config().admin) == []


async def test_the_public_listener_has_none() -> None:
    async with serving() as (_, address):
        for path in ("/metrics", "/sessions"):
            assert (await fetch(address, path))[0] == 404


async def test_they_show_what_the_relay_does() -> None:
    async with serving() as (relay, address), pages(relay.shown) as shown:
        async with wire.dial(f"ws://{address}{AGENT}") as leg:
            await leg.receive()
            (session,) = msgspec.json.decode((await fetch(shown, "/sessions"))[2])
            assert session["dialect"] == "deepgram"
            assert len(session["session"]) == 16
            found = parsed(relay.snapshot())
            assert found["relay_sessions"] == found["relay_open_connections"] == 1
        assert await close_code(leg) == 1000
        await relay.live.wait_value(0)
        assert (await fetch(address, "/nowhere"))[0] == 404
        found = parsed(relay.snapshot())
        assert found["relay_sessions"] == 0
        assert found["relay_admissions_total reason=admitted status=101"] == 1
        assert found["relay_admissions_total reason=no voice agent at this path status=404"] == 1
        assert found["relay_connections_total"] == 2
        assert found["process_resident_memory_bytes"] > 10e6
        assert found["process_open_fds"] > 3
        assert found["process_cpu_seconds_total"] > 0
        assert found["process_max_fds"] >= found["process_open_fds"]
        relay.draining = True
        assert (await fetch(shown, "/readyz"))[::2] == (503, b"draining\n")
        assert parsed(relay.snapshot())["relay_draining"] == 1
