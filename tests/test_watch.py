"""What can be seen of a process: its own use of the machine, and what its conversations used."""

import os
from typing import Any

import trio

from relay import process
from relay.config import Config
from relay.limits import Ledger, Rules
from relay.metering import Metering
from relay.metrics import OTHER
from relay.prices import Price
from relay.reload import Reloads
from relay.session.usage import Tokens, Used
from relay.watch import Watch
from tests.test_metrics import parsed

MODEL = Config().upstream.model


def metered(used: Used, **ledger: Any) -> dict[str, float]:
    """The figures that are not 0, for what was used and refused."""
    prices = {MODEL: Price(output_audio=64.0), "whisper": Price(transcribed_minute=0.5)}
    meter = Metering(Rules(), prices=prices, ledger=Ledger(**ledger))
    meter.used.add(used)
    watch = Watch()
    watch.metered(meter, {MODEL, "whisper"})
    return {name: n for name, n in parsed(watch.metrics.snapshot()).items() if n}


async def test_tokens_are_counted_by_the_models_that_are_configured() -> None:
    used = Used(
        tokens={
            MODEL: Tokens(input_text=10, output_audio=500_000),
            "a-client's-word": Tokens(input_text=1),
            "another": Tokens(input_text=2),
        }
    )
    assert metered(used) == {
        f"relay_upstream_tokens_total kind=input_text model={MODEL}": 10,
        f"relay_upstream_tokens_total kind=output_audio model={MODEL}": 500_000,
        f"relay_upstream_tokens_total kind=input_text model={OTHER}": 3,
        "relay_upstream_cost_total currency=USD": 32.0,
    }


async def test_audio_and_what_is_transcribed_is_counted_in_seconds() -> None:
    used = Used(
        input_ms=1500.0,
        output_ms=250.0,
        responses=3,
        transcribed_s={"whisper": 120.0, "x": 1.0, "y": 2.0},
    )
    assert metered(used) == {
        "relay_upstream_audio_seconds_total direction=in": 1.5,
        "relay_upstream_audio_seconds_total direction=out": 0.25,
        "relay_upstream_responses_total": 3,
        "relay_upstream_transcribed_seconds_total model=whisper": 120.0,
        f"relay_upstream_transcribed_seconds_total model={OTHER}": 3.0,
        "relay_upstream_cost_total currency=USD": 1.0,
    }


async def test_limits_are_counted_by_which_and_what_they_did() -> None:
    key = "limits.key.sessions"
    assert metered(Used(), refused={key: 2}, ended={"limits.tokens_per_day": 1}) == {
        f"relay_limit_refusals_total limit={key}": 2,
        "relay_limit_ends_total limit=limits.tokens_per_day": 1,
    }


async def test_connections_are_open_until_they_are_not() -> None:
    watch = Watch()
    watch.connected()
    assert parsed(watch.snapshot())["relay_open_connections"] == 1
    watch.disconnected()
    found = parsed(watch.snapshot())
    assert (found["relay_open_connections"], found["relay_connections_total"]) == (0, 1)


async def test_the_process_is_this_one() -> None:
    used = process.usage()
    assert used is not None
    assert used.resident_bytes > 10e6
    assert 0 < used.cpu_s <= sum(os.times()[:2])
    before = used.descriptors
    async with await opened():
        more = process.usage()
        assert more is not None
        assert more.descriptors == before + 1


async def opened() -> trio.SocketListener:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener


def test_the_models_with_a_label_are_those_of_the_configuration() -> None:
    configured = Config(models={"a": "b"}, transcription_models={"c": "d"}, prices={"e": Price()})
    known = {MODEL, configured.upstream.transcription_model, "b", "d", "e"}
    assert configured.upstream_models == known


async def test_a_refused_reload_is_seen_until_one_is_done() -> None:
    watch, reloads = Watch(), Reloads(done=1)
    seen = []
    for fault in (None, "listen.port: expected int", None):
        reloads.fault = fault
        watch.reloaded(reloads)
        seen.append(parsed(watch.metrics.snapshot())["relay_reload_refused"])
    assert seen == [0, 1, 0]
