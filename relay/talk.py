"""talk: a Deepgram client in the terminal.

It knows the command's options, one socket, the terminal, two files and two demonstration functions.
What to say and when it is over is decided in `relay.dialogue`. It talks to the relay as any client
does: with `--url` to a server of the protocol, else to a relay that it starts for the occasion.
"""

import datetime
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, TextIO, assert_never
from urllib.parse import urlsplit, urlunsplit

import msgspec
import trio

from relay import dialogue, served, server, voice_agent, wire
from relay.audio import recordings
from relay.audio.formats import PCM24K, Encoding, Format
from relay.audio.transcode import transcodable, transcoder
from relay.config import Config, ConfigError
from relay.dialogue import Dialogue, Microphone, Voice

PATH: Final = "/v1/agent/converse"
FRAME_MS: Final = 20
"""What a microphone usually gives at a time."""
KEEP_ALIVE_S: Final = 8.0
"""Deepgram's documents ask for a KeepAlive every 8 s while no audio is sent."""
PROMPT: Final = "You are a friendly voice assistant. Answer in one or two short sentences."


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `relay talk` is asked to do."""

    texts: tuple[str, ...] = ()
    """Turns to type, one after the other."""
    audio: Path | None = None
    """16-bit WAV file to speak in real time, after the texts."""
    save: Path | None = None
    """WAV file that receives the agent's voice, as far as it would have been heard."""
    url: str | None = None
    """ws or wss; None starts a relay with the simulator."""
    key: str | None = None
    """Sent as `Authorization: Token KEY`."""
    encoding: Literal["linear16", "linear32", "mulaw", "alaw"] = "linear16"
    """Of the audio, both ways; there is no linear32 from the agent, so linear16 answers it."""
    rate: int | None = None
    """Of the audio both ways, in Hz. None: 8000 for G.711, else the file's own one way and 24000
    the other."""
    prompt: str = PROMPT
    greeting: str | None = None


async def talk(options: Options, configured: Config, out: TextIO = sys.stdout) -> int:
    """Hold the conversation; the exit code: 0, or 1 after an error. `configured` is for the relay
    that is started without a `url`. Raises `ConfigError` for options that cannot be met, before
    anything is sent."""
    if not (options.texts or options.audio or options.greeting):
        raise ConfigError("talk: say something: TEXT, --audio FILE or --greeting TEXT")
    if options.rate is not None and options.rate <= 0:
        raise ConfigError(f"--rate {options.rate}: expected a number of samples a second")
    if options.key and not (options.key.isascii() and options.key.isprintable()):
        raise ConfigError("--key: holds characters that no HTTP header can carry")
    recording = Recording.of(options) if options.audio else None
    output = _output(options)
    if options.save:
        _save(options.save, b"", output)  # better to fail now than after the conversation
    terminal = Terminal(out, trio.current_time())
    async with _relay(options.url, configured, terminal) as url:
        conversation = Conversation(
            Dialogue(
                settings=_settings(options, recording, output),
                output=output,
                texts=list(options.texts),
                microphone=Microphone.WAITING if recording else Microphone.NONE,
            ),
            recording,
            terminal,
        )
        try:
            return await conversation.connect(url, options.key)
        finally:  # also after Ctrl-C: what was heard is worth keeping
            if options.save:
                _save(options.save, bytes(conversation.heard), output)


class Conversation:
    """Performs the steps of a dialogue on a leg, at once and in order: posting never waits."""

    def __init__(
        self, dialogue: Dialogue, recording: "Recording | None", terminal: "Terminal"
    ) -> None:
        self.dialogue = dialogue
        self.heard = bytearray()
        """The agent's voice, as far as it would have been heard."""
        self._recording = recording
        self._terminal = terminal
        self._status: int | None = None
        self._alarm = trio.CancelScope()

    async def connect(self, url: str, key: str | None) -> int:
        """Hold the conversation with the relay at `url`; the exit code."""
        headers = {"Authorization": f"Token {key}"} if key else {}
        try:
            async with wire.dial(url, headers=headers) as leg:
                return await self.hold(leg)
        except wire.DialFailed as failure:
            self._terminal.show(Voice.ERROR, f"no connection to {url}: {failure.reason}")
            return 1

    async def hold(self, leg: wire.Leg) -> int:
        """Hold the conversation on an open leg, and close it; the exit code."""
        self._leg = leg
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._listen)
            self._nursery.start_soon(self._watch_deadlines)
            self._nursery.start_soon(self._keep_alive)
            self._perform(self.dialogue.opened(trio.current_time()))
        await leg.goodbye()
        self._terminal.show(Voice.SESSION, str(self.dialogue.tally))
        assert self._status is not None
        return self._status

    def _perform(self, steps: Iterable[dialogue.Step]) -> None:
        for step in steps:
            match step:
                case dialogue.Print(voice=voice, text=text):
                    self._terminal.show(voice, text)
                case dialogue.Send(message=message):
                    self._leg.post(voice_agent.encode(message))
                case dialogue.Call(call=call):
                    result = _result(call)
                    self._perform(self.dialogue.called(call, result, trio.current_time()))
                case dialogue.OpenMicrophone():
                    self._nursery.start_soon(self._speak)
                case dialogue.StopPlayback(unheard_ms=unheard_ms):
                    unheard = self.dialogue.output.nbytes(unheard_ms)
                    del self.heard[max(0, len(self.heard) - unheard) :]
                case dialogue.Over(status=status):
                    self._status = status
                    self._nursery.cancel_scope.cancel()
                case _:
                    assert_never(step)
        self._alarm.deadline = self.dialogue.next_deadline()

    async def _listen(self) -> None:
        try:
            while True:
                frame = await self._leg.receive()
                now = trio.current_time()
                if isinstance(frame, bytes):
                    self.heard += frame
                    self._perform(self.dialogue.audio(len(frame), now))
                else:
                    self._perform(self.dialogue.message(voice_agent.decode_server(frame), now))
        except wire.LegGone as gone:
            self._perform(self.dialogue.gone(gone.code, gone.reason))

    async def _watch_deadlines(self) -> None:
        while True:
            with trio.CancelScope(deadline=self.dialogue.next_deadline()) as self._alarm:
                await trio.sleep_forever()
            self._perform(self.dialogue.deadline_passed(trio.current_time()))

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(KEEP_ALIVE_S)
            if self.dialogue.microphone in (Microphone.NONE, Microphone.WAITING):
                self._leg.post(voice_agent.encode(voice_agent.KeepAlive()))

    async def _speak(self) -> None:
        assert self._recording is not None
        due = trio.current_time()
        for frame in self._recording.frames():
            await trio.sleep_until(due)
            self._leg.post(frame, audio_ms=FRAME_MS)
            due += FRAME_MS / 1000
        self._perform(self.dialogue.recording_over(due))
        while True:  # a microphone that nobody speaks into; without it no turn would ever end
            await trio.sleep_until(due)
            self._leg.post(self._recording.silence, audio_ms=FRAME_MS)
            due += FRAME_MS / 1000


class Recording(msgspec.Struct, frozen=True):
    """What is spoken into the microphone."""

    audio: bytes
    format: Format

    @classmethod
    def of(cls, options: Options) -> "Recording":
        """The file's audio in the format that the relay is told; raises `ConfigError`."""
        assert options.audio is not None
        try:
            audio, source = recordings.decode(options.audio.read_bytes())
        except OSError as error:
            raise ConfigError(f"--audio {options.audio}: {error.strerror or error}") from None
        except recordings.RecordingError as error:
            raise ConfigError(f"--audio {options.audio}: {error}") from None
        target = Format(Encoding(options.encoding), _rate(options) or source.rate)
        if not transcodable(source, target):
            raise ConfigError(f"--rate {target.rate}: cannot be made from {source.rate} Hz")
        stream = transcoder(source, target)
        return cls(stream.feed(audio) + stream.flush(), target)

    def frames(self) -> Iterator[bytes]:
        size = self.format.nbytes(FRAME_MS)
        for start in range(0, len(self.audio), size):
            yield self.audio[start : start + size]

    @property
    def silence(self) -> bytes:
        """One frame of it."""
        return _SILENCE[self.format.encoding] * self.format.nbytes(FRAME_MS)


_SILENCE = {
    Encoding.LINEAR16: b"\x00",
    Encoding.LINEAR32: b"\x00",
    Encoding.MULAW: b"\xff",
    Encoding.ALAW: b"\xd5",
}
"""The byte of which silence is made."""


def _rate(options: Options) -> int | None:
    is_g711 = options.encoding in ("mulaw", "alaw")
    return options.rate or (8000 if is_g711 else None)


def _output(options: Options) -> Format:
    encoding = Encoding(options.encoding)
    spoken = Encoding.LINEAR16 if encoding is Encoding.LINEAR32 else encoding
    return Format(spoken, _rate(options) or PCM24K.rate)


def _settings(
    options: Options, recording: Recording | None, output: Format
) -> voice_agent.Settings:
    spoken = recording and recording.format
    return voice_agent.Settings(
        audio=voice_agent.Audio(
            input=voice_agent.AudioInput(encoding=spoken.encoding.value, sample_rate=spoken.rate)
            if spoken
            else None,
            output=voice_agent.AudioOutput(
                encoding=output.encoding.value, sample_rate=output.rate, container="none"
            ),
        ),
        agent=voice_agent.Agent(
            think=voice_agent.Think(
                provider=voice_agent.ThinkProvider(type="open_ai", model="gpt-4o-mini"),
                prompt=options.prompt,
                functions=[function.declaration for function in FUNCTIONS.values()],
            ),
            greeting=options.greeting,
        ),
    )


def _save(path: Path, audio: bytes, form: Format) -> None:
    stream = transcoder(form, Format(Encoding.LINEAR16, form.rate))
    try:
        path.write_bytes(recordings.encode(stream.feed(audio) + stream.flush(), form.rate))
    except OSError as error:
        raise ConfigError(f"--save {path}: {error.strerror or error}") from None


# Demonstration functions -------------------------------------------------------------------------


class _Function(msgspec.Struct, frozen=True):
    """A function that the model may call and that really runs here."""

    declaration: voice_agent.Function
    run: Callable[[dict[str, Any]], Any]
    """From decoded arguments to anything JSON can say."""


def _result(call: voice_agent.FunctionCall) -> str:
    """The result as JSON text. What the model got wrong, it is told."""
    try:
        result = FUNCTIONS[call.name].run(msgspec.json.decode(call.arguments, type=dict[str, Any]))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    return msgspec.json.encode(result).decode()


def _time(_: dict[str, Any]) -> dict[str, str]:
    now = datetime.datetime.now().astimezone()
    return {"time": now.strftime("%H:%M"), "date": now.date().isoformat(), "zone": str(now.tzinfo)}


def _sum(arguments: dict[str, Any]) -> dict[str, float]:
    return {"sum": math.fsum([float(arguments["first"]), float(arguments["second"])])}


FUNCTIONS: Final = {
    "get_time": _Function(
        voice_agent.Function(
            name="get_time",
            description="The time and date where the user is.",
            parameters={"type": "object", "properties": {}},
        ),
        _time,
    ),
    "add_numbers": _Function(
        voice_agent.Function(
            name="add_numbers",
            description="The sum of two numbers.",
            parameters={
                "type": "object",
                "properties": {"first": {"type": "number"}, "second": {"type": "number"}},
                "required": ["first", "second"],
            },
        ),
        _sum,
    ),
}


# Surroundings ------------------------------------------------------------------------------------


class Terminal:
    """Plain lines; colour only where it is seen by a person."""

    _COLOURS: Final = {
        Voice.SESSION: "2",
        Voice.YOU: "36",
        Voice.AGENT: "32",
        Voice.TOOL: "33",
        Voice.TIMING: "2",
        Voice.WARNING: "35",
        Voice.ERROR: "31",
    }

    def __init__(self, out: TextIO, start: float) -> None:
        self._out = out
        self._start = start

    def show(self, voice: Voice, text: str) -> None:
        # What a peer says must not steer the terminal.
        printable = "".join(c if c.isprintable() else " " for c in text)
        elapsed_s = trio.current_time() - self._start
        line = f"{elapsed_s:7.2f}  {voice.value:<8} {printable}"
        if self._out.isatty():
            line = f"\x1b[{self._COLOURS[voice]}m{line}\x1b[0m"
        print(line, file=self._out, flush=True)


@asynccontextmanager
async def _relay(url: str | None, configured: Config, terminal: Terminal) -> AsyncIterator[str]:
    """The address to talk to; without one, a relay of our own for as long as the block lasts."""
    if url is not None:
        yield _with_path(url)
        return
    offered = served.build(configured, {})
    address = offered.destinations[0].address
    upstream = "the simulator" if address.simulated else address.shown
    listeners = await server.open_listeners(configured, {})
    async with server.running(offered, {}, listeners) as relay:
        terminal.show(
            Voice.SESSION, f"a relay on {relay.urls[0]} for the occasion, with {upstream}"
        )
        yield _with_path(relay.urls[0])


def _with_path(url: str) -> str:
    try:
        parts = urlsplit(url)
        understood = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:  # of the port
        understood = False
    if not understood:
        raise ConfigError(f"--url {url}: expected ws://HOST:PORT or wss://HOST")
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path=PATH))
