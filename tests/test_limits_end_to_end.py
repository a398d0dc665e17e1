"""Limits in a process of its own, with the simulator behind it: as whoever runs it sees them."""

import hashlib
import signal
from pathlib import Path

from relay import voice_agent, wire
from tests.test_cli import ANY_PORT, message, process, settings_applied
from tests.test_server import AGENT, close_code, fetch, refusal

ALICE = {"Authorization": "Token k1"}
BOB = {"Authorization": "Token k2"}


async def test_a_used_up_budget_ends_sessions_keeps_out_and_outlives_a_restart(
    tmp_path: Path,
) -> None:
    keys, table = tmp_path / "keys", tmp_path / "relay.toml"
    alice, bob = (hashlib.sha256(key).hexdigest() for key in (b"k1", b"k2"))
    keys.write_text(f"alice:{alice} tokens_per_day=1\nbob:{bob}\n")
    table.write_text(
        f'[auth]\nmode = "keys"\nkeys_file = "{keys}"\n'
        '[limits.key]\nsessions = 1\n[prices."gpt-realtime-2.1"]\noutput_text = 1e6\n'
        f'[store]\nurl = "sqlite:///{tmp_path / "store"}"\n'
    )
    served = ("--config", str(table), *ANY_PORT, "--upstream", "simulator")
    async with process(*served) as relay:
        url = f"ws://{relay.address}{AGENT}"
        async with wire.dial(url, headers=ALICE) as leg:
            await settings_applied(leg)
            assert await refusal(relay.address, **ALICE) == 429  # one at once
            leg.post(voice_agent.encode(voice_agent.InjectUserMessage(content="planted")))
            error = await message(leg, voice_agent.Error)
            assert (error.code, error.description) == (
                "FAILED_TO_THINK", "Too many tokens within a day."
            )  # fmt: skip
            assert await close_code(leg) == 1013
        usage = (await relay.until("disconnected"))["usage"]
        (tokens,) = usage["tokens"].values()
        assert usage["cost"] == {"USD": tokens["output_text"]}
        assert (usage["client"], usage["ended"], usage["user_chars"]) == ("alice", True, 7)
        assert await refusal(relay.address, **ALICE) == 429
        async with wire.dial(url, headers=BOB) as leg:
            await settings_applied(leg)
            leg.post(voice_agent.encode(voice_agent.InjectUserMessage(content="planted")))
            await message(leg, voice_agent.LatencyReport)
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
        assert "planted" not in str(relay.lines)
    async with process(*served, "--set", "limits.key.tokens_per_day=0") as relay:
        url = f"ws://{relay.address}{AGENT}"
        async with wire.dial(url, headers=BOB) as lost:  # it is there: nobody has noticed
            welcome = await message(lost, voice_agent.Welcome)
            await settings_applied(lost)
            assert await refusal(relay.address, **BOB) == 429
            async with wire.dial(f"{url}?resume={welcome.request_id}", headers=BOB) as back:
                await settings_applied(back)
                assert await close_code(lost) == 1000
                assert await refusal(relay.address, **BOB) == 429
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
    async with process(*served) as relay:
        status, headers, body = await fetch(relay.address, AGENT, **ALICE)
        assert (status, body) == (429, b"Too many tokens within a day.\n")
        assert 86_000 < int(headers["retry-after"]) <= 86_400 + 1440
        async with wire.dial(f"ws://{relay.address}{AGENT}", headers=BOB) as leg:
            await message(leg, voice_agent.Welcome)
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
