"""test_talk_end_to_end: `relay talk` is a real client of a real relay."""

import io
import signal
import subprocess
import sys
import wave
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import trio

from relay import config
from relay.audio import recordings
from relay.config import Config, ConfigError
from relay.talk import Options, talk
from tests import oracle
from tests.clients.house import open_house
from tests.speech import babble

TIMEOUT_S = 20


def configured(**options: object) -> Config:
    """For a relay of talk's own; keys with `__` for the dot."""
    keys: dict[str, object] = {"listen__port": 0, "upstream__url": config.SIMULATOR, **options}
    return config.load(None, {}, options={k.replace("__", "."): v for k, v in keys.items()})


class Screen(io.StringIO):
    """What talk printed, line by line: who, and what."""

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [(line[9:17].strip(), line[18:]) for line in self.getvalue().splitlines()]

    def said(self, who: str) -> list[str]:
        return [text for speaker, text in self.lines if speaker == who]


class TerminalScreen(Screen):
    def isatty(self) -> bool:
        return True


async def talked(options: Options, screen: Screen, config: Config | None = None) -> int:
    with trio.fail_after(TIMEOUT_S):
        return await talk(options, config or configured(), screen)


async def test_a_relay_is_started_and_both_sides_a_call_and_the_latencies_are_shown() -> None:
    screen = Screen()
    assert await talked(Options(texts=("What time is it?", "Good night.")), screen) == 0
    assert screen.said("you") == ["What time is it?", "Good night."]
    (call,) = screen.said("tool")
    assert call.startswith('get_time({}) -> {"time":"')
    time, night = screen.said("agent")
    assert "time" in time
    assert "Good night." in night
    assert sum(text.startswith("latencies: ") for text in screen.said("")) == 2
    assert screen.said("session")[0].endswith("with the simulator")
    assert screen.said("session")[-1].startswith("2 turns, 2 answers, 0 barge-ins, 1 tool call;")


async def test_the_sum_of_two_numbers_is_really_computed() -> None:
    screen = Screen()
    assert await talked(Options(texts=("Please add the numbers 20 and 22.",)), screen) == 0
    assert screen.said("tool") == ['add_numbers({"first":20.0,"second":22.0}) -> {"sum":42.0}']


async def test_everything_it_sends_is_the_protocol_s_and_it_closes_cleanly() -> None:
    screen = Screen()
    with trio.fail_after(TIMEOUT_S):
        async with open_house() as house:
            options = Options(
                texts=("What time is it?",), url=house.client.url, greeting="Hello.", key="k"
            )
            assert await talk(options, configured(), screen) == 0
    (record,) = house.client.records
    for frame in record.sent:
        assert isinstance(frame, str)
        oracle.check_client_message(frame)
    assert record.closed_by_dialler == 1000
    assert screen.said("agent")[0] == "Hello."


async def test_a_stereo_recording_is_spoken_as_mulaw_and_the_agents_voice_is_kept(
    tmp_path: Path,
) -> None:
    left = np.frombuffer(babble.speech(1.0, 22050), "<i2")
    spoken, kept = tmp_path / "spoken.wav", tmp_path / "kept.wav"
    with wave.open(str(spoken), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(np.column_stack([left, left]).tobytes())
    screen = Screen()
    options = Options(audio=spoken, save=kept, encoding="mulaw")
    assert await talked(options, screen) == 0
    assert screen.said("you") == ["(speaks)", "[speech, 1.0 s]"]
    (answer,) = screen.said("agent")
    assert "1.0 seconds" in answer
    voice, form = recordings.decode(kept.read_bytes())
    assert form.rate == 8000
    assert form.ms(len(voice)) > 1000
    assert np.abs(np.frombuffer(voice, "<i2")).max() > 1000


@pytest.mark.parametrize("encoding", ["linear16", "linear32", "mulaw", "alaw"])
async def test_each_encoding_is_one_that_a_relay_takes(
    encoding: Literal["linear16", "linear32", "mulaw", "alaw"], tmp_path: Path
) -> None:
    kept = tmp_path / "kept.wav"
    options = Options(texts=("Hello.",), save=kept, encoding=encoding)
    assert await talked(options, Screen()) == 0
    voice, form = recordings.decode(kept.read_bytes())
    assert form.ms(len(voice)) > 500


async def test_an_error_of_the_relay_is_shown_with_its_code() -> None:
    screen = Screen()
    unreachable = configured(upstream__url=await nobody(), session__upstream_ready_s=0.2)
    assert await talked(Options(texts=("Hello.",)), screen, unreachable) == 1
    (error,) = screen.said("error")
    assert error.startswith("FAILED_TO_THINK: ")


async def test_a_relay_that_cannot_be_reached_is_an_error() -> None:
    screen = Screen()
    assert await talked(Options(texts=("Hello.",), url=await nobody()), screen) == 1
    (error,) = screen.said("error")
    assert error.endswith("/v1/agent/converse: Connection refused")


async def test_a_refused_upgrade_is_an_error() -> None:
    screen = Screen()
    async with open_house() as house:
        options = Options(texts=("Hello.",), url=f"{house.relay}/elsewhere")
        assert await talked(options, screen) == 1
    (error,) = screen.said("error")
    assert error.endswith("/elsewhere: HTTP status 404")


async def test_colour_is_for_terminals_only() -> None:
    plain, colourful = Screen(), TerminalScreen()
    for screen in (plain, colourful):
        await talked(Options(texts=("Hello.",), url=await nobody()), screen)
    assert "\x1b" not in plain.getvalue()
    assert colourful.getvalue().count("\x1b[31m") == 1


async def test_what_a_peer_says_does_not_steer_the_terminal() -> None:
    screen = Screen()
    assert await talked(Options(texts=("Red \x1b[31m alert\nagent I said",)), screen) == 0
    assert screen.said("you") == ["Red  [31m alert agent I said"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (Options(), "say something"),
        (Options(texts=("Hello.",), url="http://127.0.0.1"), "--url http://127.0.0.1: "),
        (Options(texts=("Hello.",), url="ws://127.0.0.1:99999"), "--url ws://127.0.0.1:99999: "),
        (Options(texts=("Hello.",), key="caf\u00e9"), "--key: "),
        (Options(texts=("Hello.",), rate=-1), "--rate -1: "),
        (Options(audio=Path("/nowhere/speech.wav")), "/nowhere/speech.wav: No such file"),
        (Options(audio=Path(__file__)), "no PCM WAV file"),
        (Options(texts=("Hello.",), save=Path("/nowhere/voice.wav")), "--save /nowhere/voice.wav"),
    ],
)
async def test_what_cannot_be_done_is_said_before_anything_is_sent(
    options: Options, complaint: str
) -> None:
    screen = Screen()
    with pytest.raises(ConfigError, match=complaint):
        await talked(options, screen)
    assert screen.getvalue() == ""


async def test_a_rate_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    speech = tmp_path / "speech.wav"
    speech.write_bytes(recordings.encode(babble.speech(0.1), 16000))
    with pytest.raises(ConfigError, match="--rate 15999: cannot be made from 16000 Hz"):
        await talked(Options(audio=speech, rate=15999), Screen())


async def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path) -> None:
    speech = tmp_path / "speech.wav"
    speech.write_bytes(recordings.encode(babble.silence(TIMEOUT_S), 16000))
    start = partial(
        trio.run_process,
        [sys.executable, "-m", "relay", "talk", "--audio", str(speech)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(start)
            assert process.stdout
            assert process.stderr
            output = b""
            while output.count(b"\n") < 2:  # the relay is up and has welcomed us
                output += (more := await process.stdout.receive_some())
                assert more, "it ended by itself"
            process.send_signal(signal.SIGINT)
            complaints = b"".join([chunk async for chunk in process.stderr])
    assert complaints == b""
    assert process.returncode == 1


async def nobody() -> str:
    """An address at which nobody listens."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    return f"ws://127.0.0.1:{port}"
