"""cli: the commands, their options and their exit codes.

0: drained, or the check passed. 2: the command line or the configuration, which a restart would not
mend. 1: anything else. Each command imports its own room, so that none waits for what it does not
use.
"""

import contextlib
import importlib.metadata
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import cyclopts
import structlog
import trio
from cyclopts import App, Parameter

from relay import config, logs
from relay.causes import causes
from relay.config import Config, ConfigError

app = App(
    name="relay",
    help="Deepgram Voice Agent V1 clients on an OpenAI-Realtime upstream.",
    version=lambda: importlib.metadata.version("voice-agent-relay"),
    result_action="return_value",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream]  # None: closed
    try:
        code = _ran(arguments)
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:  # nobody can read what it prints
        _complain(f"relay: {error}")
        code = 1
    for stream in streams:
        _give_up(stream)
    return code


def _ran(arguments: Sequence[str] | None) -> int:
    try:
        return int(app(arguments, exit_on_error=False, print_error=False) or 0)
    except cyclopts.CycloptsError as error:
        _complain(f"relay: {error}")
        _complain("usage: relay [serve | talk | simulate | check | token] [OPTIONS]")
        _complain("       relay [COMMAND] --help describes the options")
        return 2
    except ConfigError as error:
        _complain(f"relay: {error}")
        return 2
    except KeyboardInterrupt:
        return 1


def _complain(line: str) -> None:
    """To whoever started this, if they can be reached: the exit code says it, too."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def _give_up(stream: TextIO) -> None:
    """What cannot be written, as on a full device, is lost. Python would try it once more at the
    very end, and exit with 120."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the configuration comes from, besides the environment."""

    config: Path | None = None
    """TOML file with a table for each section."""
    assignments: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = ()
    """section.key=value; overrides the file and the environment. Repeatable."""

    def load(self, options: Mapping[str, Any], script: Path | None = None) -> Config:
        """`options` by dotted key; None leaves a key to the other sources."""
        given = {key: value for key, value in options.items() if value is not None}
        return config.load(self.config, os.environ, self.assignments, given, script=script)


NO_SOURCE = Source()


@app.default
def serve(
    *,
    listen: str | None = None,
    upstream: str | None = None,
    workers: str | None = None,
    ready_file: Path | None = None,
    source: Source = NO_SOURCE,
) -> int:
    """Serve (the default command).

    Parameters
    ----------
    listen
        HOST:PORT to listen on; port 0 picks one.
    upstream
        URL of the upstream, or the word simulator.
    workers
        Processes that share the work, or the word auto: one for each core.
    ready_file
        File that receives the URL once clients can connect.
    """
    host, port = _host_and_port(listen)
    options = {
        "listen.host": host,
        "listen.port": port,
        "listen.workers": _workers(workers),
        "upstream.url": upstream,
    }
    load = partial(source.load, options)
    if load().listen.processes == 1:
        from relay import server

        return _run(server.serve, load, os.environ, ready_file, source.config)
    from relay import workers as room

    return _run(room.serve, load, os.environ, ready_file, source.config)


app.command(serve)


@app.command
def talk(
    *texts: str,
    audio: Path | None = None,
    save: Path | None = None,
    url: str | None = None,
    key: str | None = None,
    encoding: Literal["linear16", "linear32", "mulaw", "alaw"] = "linear16",
    rate: int | None = None,
    prompt: str | None = None,
    greeting: str | None = None,
    source: Source = NO_SOURCE,
) -> int:
    """Talk to a relay from the terminal, as a Deepgram client.

    Without --url it starts one for the occasion, configured by --config and --set, whose upstream
    is the simulator.

    Parameters
    ----------
    texts
        Turns to type, one after the other; each waits for the answer to the one before.
    audio
        16-bit WAV file to speak in real time, after the texts.
    save
        WAV file that receives the agent's voice.
    url
        ws://HOST:PORT or wss://HOST.
    key
        Key for the relay at that URL.
    encoding
        Of the audio, both ways; what linear32 is answered with is linear16.
    rate
        Of the audio both ways, in Hz; else 8000 for mulaw and alaw, else the file's own.
    prompt
        What the agent is told to be.
    greeting
        What the agent says first.
    """
    logs.set_up("error", "auto")
    from relay import talk as room

    options = room.Options(
        texts=texts,
        audio=audio,
        save=save,
        url=url,
        key=key,
        encoding=encoding,
        rate=rate,
        prompt=room.PROMPT if prompt is None else prompt,
        greeting=greeting,
    )
    configured = source.load(
        {"listen.host": "127.0.0.1", "listen.port": 0, "upstream.url": config.SIMULATOR}
    )
    return _run(room.talk, options, configured)


@app.command
def simulate(
    *,
    listen: str = "127.0.0.1:8081",
    script: Path | None = None,
    key: str | None = None,
    ready_file: Path | None = None,
    source: Source = NO_SOURCE,
) -> int:
    """Run the simulator alone, as an OpenAI-Realtime-compatible server.

    Parameters
    ----------
    listen
        HOST:PORT to listen on; port 0 picks one.
    script
        TOML file with what it hears, says and gets wrong; else the configuration's [simulator].
    key
        Demand it as Authorization: Bearer KEY.
    ready_file
        File that receives the URL once clients can connect.
    """
    host, port = _host_and_port(listen)
    configured = source.load({}, script)
    logs.set_up(configured.log.level, configured.log.format)
    from relay import simulate as room
    from relay.simulator.server import Options

    options = Options(
        host=host or "127.0.0.1", port=port or 0, api_key=key, script=configured.simulator
    )
    return _run(room.simulate, options, ready_file)


@app.command
def check(*, upstream: str | None = None, dial: bool = True, source: Source = NO_SOURCE) -> int:
    """Read the configuration, say what would be served, dial the upstream once.

    Parameters
    ----------
    upstream
        URL of the upstream, or the word simulator.
    dial
        Without it, only the configuration and the files that it names are checked.
    """
    configured = source.load({"upstream.url": upstream})
    logs.set_up("error", configured.log.format)
    from relay import check as room

    return _run(room.check, configured, os.environ, dial)


@app.command
def token(
    *,
    name: str | None = None,
    origin: tuple[str, ...] = (),
    minutes: float | None = None,
    ttl: float = 300.0,
    signing_key: Path | None = None,
    source: Source = NO_SOURCE,
) -> int:
    """Mint a token with which a browser may connect for a while, in place of a key.

    Parameters
    ----------
    name
        Who bears it, for the log of the relay.
    origin
        Browser origin that it is for, such as https://app.example; else any. Repeatable.
    minutes
        Longest session; else as long as any other.
    ttl
        Seconds in which to connect; a session that has begun goes on.
    signing_key
        File with the secret, or with the Ed25519 private key in PEM that belongs to
        auth.token_public_key_file; else auth.token_secret_file.
    """
    configured = source.load({})
    text = config.signing_key(configured, os.environ, signing_key)
    for option, value in (("--ttl", ttl), ("--minutes", 1 if minutes is None else minutes)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{option} {value:g}: expected a number above 0")
    from relay import tokens as room

    audience = configured.auth.token_audience
    print(room.mint(text, audience, time.time(), ttl, name=name, origins=origin, minutes=minutes))
    return 0


def _host_and_port(listen: str | None) -> tuple[str | None, int | None]:
    """`127.0.0.1:8080`, `[::1]:8080`, `:8080` or `8080`."""
    if listen is None:
        return None, None
    host, _, port = listen.rpartition(":")
    if not (port.isascii() and port.isdigit()):
        raise ConfigError(f"--listen {listen}: expected HOST:PORT")
    return host.removeprefix("[").removesuffix("]") or None, int(port)


def _workers(number: str | None) -> int | str | None:
    """A number as one; of anything else the configuration says what it is."""
    try:
        return int(number or "")
    except ValueError:
        return number


def _run(command: Callable[..., Awaitable[int]], *arguments: Any) -> int:
    """Run a command to its exit code."""
    try:
        return trio.run(_until_interrupted, command, arguments)
    except Exception as error:
        return _verdict(error)


async def _until_interrupted(
    command: Callable[..., Awaitable[int]], arguments: tuple[Any, ...]
) -> int:
    """Ctrl-C cancels the command; `serve` and `simulate` hear it themselves. Not left to
    KeyboardInterrupt, which comes up in whatever task happens to run, and which others then report
    as a failure of their own."""
    code = 1
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on, signals, nursery.cancel_scope)
            code = await command(*arguments)
            nursery.cancel_scope.cancel()
    return code


async def _cancel_on(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


def _verdict(error: Exception) -> int:
    """The exit code of a failure, which nurseries have wrapped. What only we can mend is one log
    line, not a traceback between other lines."""
    found = list(causes(error))
    for cause in found:
        if isinstance(cause, ConfigError):
            raise cause
    if all(isinstance(cause, OSError) for cause in found):
        _complain(f"relay: {'; '.join(map(str, found))}")
    else:
        structlog.get_logger().error("stopped by a failure", exc_info=error)
    return 1
