"""The commands from outside: exit codes, what is printed, and how real processes start and stop."""

import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from relay import cli, voice_agent, wire
from tests import planted
from tests.test_server import AGENT, close_code, fetch, refusal

RELAY = (sys.executable, "-m", "relay")


@pytest.fixture(autouse=True)
def _nobodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RELAY_") or name in ("OPENAI_API_KEY", "NOTIFY_SOCKET"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


# What a command line comes to, in this process.


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nope"],
        ["nope"],
        ["serve", "nope"],
        ["serve", "--nope"],
        ["talk", "--nope", "hello"],
        ["simulate", "--nope"],
        ["check", "--nope"],
        ["token", "--nope"],
        ["--set"],
        ["talk", "--rate", "fast", "hello"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_answered_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("relay: ")
    assert "usage: relay [serve | talk | simulate | check | token]" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "listen.prot=1"], "listen.prot: unknown key"),
        (["--workers", "0"], "listen.workers: expected `int` >= 1"),
        (["--workers", "some"], "listen.workers: "),
        (["serve", "--set", "listen.port=x"], "listen.port: expected `int`, got `str`"),
        (["check", "--set", "x"], "--set x: expected section.key=value"),
        (["--listen", "x"], "--listen x: expected HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "listen.port: expected `int` <= 65535"),
        (["--config", "/nonexistent"], "--config: cannot read /nonexistent"),
        (["--upstream", "http://host"], "upstream.url: expected ws://"),
        (["--listen", "0.0.0.0:0"], "auth.mode: none would let anyone in"),
        (["--listen", "0.0.0.0:0", "--set", "auth.allow_anonymous=true"], "upstream: no key found"),
        (["--set", "auth.mode=keys"], "auth.keys_file: needed"),
        (["simulate", "--script", "/nonexistent"], "--script: cannot read /nonexistent"),
        (["talk"], "talk: say something"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_configuration_that_cannot_be_served_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"relay: {message}")
    assert err.count("\n") == 1


def test_nonsense_of_the_service_manager_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30s")
    assert cli.main(["--listen", "127.0.0.1:0"]) == 2
    assert capsys.readouterr().err == "relay: WATCHDOG_USEC: expected a number, got '30s'\n"


def test_a_service_without_a_key_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1")
    assert cli.main(["--listen", "127.0.0.1:0"]) == 2
    assert capsys.readouterr().err.startswith("relay: upstream: no key found")


def test_the_version_and_the_help_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() != ""
    assert cli.main(["--help"]) == 0
    assert {"serve", "talk", "simulate", "check", "token"} <= set(capsys.readouterr().out.split())


def test_check_passes_when_the_upstream_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--set", "listen.workers=2"]) == 0
    out, err = capsys.readouterr()
    assert "workers    2" in out
    assert "upstream   simulator" in out
    assert "a session was created" in out
    assert err == ""


def test_check_says_how_much_may_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--no-dial", "--upstream", "simulator"]
    assert cli.main(arguments) == 0
    assert "limits     all none; each none; 0 names have others\n" in capsys.readouterr().out
    limits = [
        "limits.sessions=9",
        "limits.key.tokens_per_day=1000000",
        "limits.key.session_minutes=1.5",
    ]
    assert cli.main([*arguments, *(f"--set={limit}" for limit in limits)]) == 0
    shown = "all sessions=9; each tokens_per_day=1000000 session_minutes=1.5; 0 names have others"
    assert f"limits     {shown}\n" in capsys.readouterr().out


def test_check_can_leave_the_upstream_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "relay.toml"
    arguments = ["check", "--no-dial", "--upstream", "ws://127.0.0.1:9", "--config", str(file)]
    file.write_text("")
    assert cli.main(arguments) == 0
    out, _ = capsys.readouterr()
    assert "upstream   ws://127.0.0.1:9, model" in out
    assert "failed" not in out
    file.write_text(f'[listen]\ntls_cert = "{file}"\ntls_key = "/nonexistent"')
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == (
        "relay: listen.tls_cert, listen.tls_key: /nonexistent: No such file or directory\n"
    )


@pytest.mark.conformance("C-007")
def test_check_says_what_failed_and_shows_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    upstream = f"ws://127.0.0.1:{port}/v1?api-key=sk-planted"
    assert cli.main(["check", "--upstream", upstream]) == 1
    out, err = capsys.readouterr()
    assert f"upstream   ws://127.0.0.1:{port}/v1, model" in out
    assert "failed     Connection refused" in out
    assert "sk-planted" not in out + err


def test_an_address_that_is_taken_is_no_matter_of_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert cli.main(["--listen", address]) == 1
        assert cli.main(["simulate", "--listen", address]) == 1
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["reason"] for line in said] == ["Address already in use"] * 2
    assert [f"{line['host']}:{line['port']}" for line in said] == [address] * 2


# Real processes.


class Running:
    """A relay in a process of its own, with its log."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._unread = b""
        self.lines: list[dict[str, Any]] = []
        self.url = ""

    @property
    def address(self) -> str:
        return self.url.partition("://")[2].partition("/")[0]

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def until(self, event: str) -> dict[str, Any]:
        """Read the log up to this event."""
        with trio.fail_after(20):
            while True:
                line = await self._line()
                assert line is not None, f"no {event!r} in {self.lines}"
                if line["event"] == event:
                    return line

    async def ended(self) -> int:
        """The exit code; the log is complete then, and without a traceback."""
        with trio.fail_after(20):
            while await self._line() is not None:
                pass
            code = await self._process.wait()
        assert [line for line in self.lines if line["level"] == "error"] == []
        return code

    async def _line(self) -> dict[str, Any] | None:
        assert self._process.stderr is not None
        while b"\n" not in self._unread:
            data = await self._process.stderr.receive_some()
            if not data:
                assert self._unread == b""
                return None
            self._unread += data
        text, _, self._unread = self._unread.partition(b"\n")
        planted.wrote(text.decode())
        line: dict[str, Any] = json.loads(text)  # a traceback would be no JSON
        self.lines.append(line)
        return line


@contextlib.asynccontextmanager
async def process(
    *arguments: str, prefix: str = "", pass_fds: tuple[int, ...] = (), **environment: str
) -> AsyncIterator[Running]:
    """A relay that listens. `prefix` is shell code to run before it, in the same process."""
    command = [*RELAY, *arguments]
    if prefix:
        command = ["bash", "-c", f'{prefix}; exec "$@"', "bash", *command]
    child = await trio.lowlevel.open_process(
        command, stderr=subprocess.PIPE, env={**os.environ, **environment}, pass_fds=pass_fds
    )
    running = Running(child)
    try:
        running.url = (await running.until("listening"))["url"]
        yield running
    finally:
        if child.returncode is None:
            child.kill()
            with trio.CancelScope(shield=True):
                await child.wait()
        assert child.stderr is not None
        await child.stderr.aclose()


ANY_PORT = ("--listen", "127.0.0.1:0")


async def settings_applied(leg: wire.Leg) -> None:
    """Become a live session."""
    think = '{"provider":{"type":"open_ai","model":"gpt-4o-mini"}}'
    leg.post(f'{{"type":"Settings","audio":{{}},"agent":{{"think":{think}}}}}')
    await message(leg, voice_agent.SettingsApplied)


async def message(leg: wire.Leg, kind: type[Any]) -> Any:
    """The next message of this kind."""
    with trio.fail_after(10):
        while True:
            frame = await leg.receive()
            found = voice_agent.decode_server(frame) if isinstance(frame, str) else None
            if isinstance(found, kind):
                return found


async def test_it_says_first_that_the_simulator_is_the_upstream_and_then_where_it_listens(
    tmp_path: Path,
) -> None:
    ready = tmp_path / "ready"
    async with process(*ANY_PORT, "--ready-file", str(ready)) as relay:
        assert relay.lines[0]["event"] == "the embedded simulator is the upstream"
        assert [line["event"] for line in relay.lines][1:] == ["the simulator answers", "listening"]
        assert relay.lines[-1]["upstream"] == "simulator"
        assert ready.read_text() == f"{relay.url}\n"
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_idle_relay_at_once(number: signal.Signals) -> None:
    async with process(*ANY_PORT) as relay:
        assert (await fetch(relay.address, "/healthz"))[0] == 200
        assert (await fetch(relay.address, "/readyz"))[0] == 200
        assert (await fetch(relay.address, "/"))[0] == 404
        assert await refusal(relay.address, Origin="https://evil.example") == 403
        relay.signal(number)
        assert await relay.ended() == 0
        assert relay.lines[-1]["event"] == "drained"


@pytest.mark.conformance("C-192")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_middle_of_a_session_lets_it_go_on_and_then_says_goodbye(
    number: signal.Signals,
) -> None:
    async with (
        process(*ANY_PORT, "--set", "session.drain_s=0.5") as relay,
        wire.dial(relay.url + AGENT) as leg,
    ):
        await settings_applied(leg)
        relay.signal(number)
        await relay.until("draining")
        assert (await fetch(relay.address, "/readyz"))[0] == 503
        assert await refusal(relay.address) == 503
        leg.post('{"type":"InjectUserMessage","content":"Hello"}')
        await message(leg, voice_agent.ConversationText)
        assert (await message(leg, voice_agent.Error)).code == "SERVER_GOING_AWAY"
        assert await close_code(leg) == 1001
        assert await relay.ended() == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGINT, signal.SIGINT),
    ],
)
async def test_a_second_signal_ends_it_at_once_and_is_no_success(
    first: signal.Signals, second: signal.Signals
) -> None:
    async with process(*ANY_PORT) as relay, wire.dial(relay.url + AGENT) as leg:
        await settings_applied(leg)
        relay.signal(first)
        await relay.until("draining")
        relay.signal(second)
        assert await close_code(leg) == 1001
        assert await relay.ended() == 1
        assert relay.lines[-1]["event"] == "stopped"


@pytest.mark.conformance("C-004", "C-009")
async def test_with_keys_a_client_needs_one(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"laptop:{hashlib.sha256(b'sk-planted').hexdigest()}\n")
    async with process(
        *ANY_PORT, RELAY_AUTH__MODE="keys", RELAY_AUTH__KEYS_FILE=str(keys)
    ) as relay:
        assert await refusal(relay.address) == 401
        headers = {"Authorization": "Token sk-planted"}
        async with wire.dial(relay.url + AGENT, headers=headers) as leg:
            await message(leg, voice_agent.Welcome)
        connected = await relay.until("connected")
        assert connected["key"] == "laptop"
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
    assert "sk-planted" not in str(relay.lines)


@pytest.mark.conformance("C-006", "C-007", "C-008")
async def test_a_browser_needs_a_minted_token_and_no_key(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("planted-secret-of-thirty-two-chars\n")
    options = ("--set", "auth.mode=keys", "--set", f"auth.token_secret_file={secret}")
    mint = [*RELAY, "token", "--name", "page", "--origin", "https://app.example", *options]
    minted = await trio.run_process(mint, capture_stdout=True)
    token = minted.stdout.decode().strip()
    async with process(*ANY_PORT, *options) as relay:
        page = {"Origin": "https://app.example"}
        assert await refusal(relay.address, **page) == 401
        assert await refusal(relay.address, f"/openai?token={token}x", **page) == 401
        assert await refusal(relay.address, f"/openai?token={token}") == 403
        async with wire.dial(f"{relay.url}/openai?token={token}", headers=page) as leg:
            await message(leg, voice_agent.Welcome)
        assert (await relay.until("connected"))["key"] == "page"
        offers = ("bearer", token)
        async with wire.dial(relay.url + AGENT, headers=page, subprotocols=offers) as leg:
            await message(leg, voice_agent.Welcome)
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
    log = str(relay.lines)
    assert "planted-secret" not in log
    assert not any(part in log for part in token.split("."))


async def test_it_takes_as_many_descriptors_as_it_may_have(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[limits]\nsessions = 100\n")
    prefix = "ulimit -Sn 100 && ulimit -Hn 264"
    async with process(*ANY_PORT, "--config", str(file), prefix=prefix) as relay:
        assert resource.prlimit(relay.pid, resource.RLIMIT_NOFILE) == (264, 264)
        file.write_text("[limits]\nsessions = 101\n")
        relay.signal(signal.SIGHUP)
        short = await relay.until("too few descriptors for limits.sessions")
        assert (short["available"], short["needed"]) == (264, 266)
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0


async def test_running_out_of_descriptors_passes() -> None:
    async with process(*ANY_PORT, prefix="ulimit -n 40") as relay:
        async with contextlib.AsyncExitStack() as stack:
            host, _, port = relay.address.rpartition(":")
            for _ in range(50):
                stream = await trio.open_tcp_stream(host, int(port))
                await stack.enter_async_context(stream)
            exhausted = {"accept returned EMFILE (Too many open files); retrying in 0.1 seconds"}
            while relay.lines[-1]["event"] not in exhausted:
                await relay._line()
        assert (await fetch(relay.address, "/healthz"))[0] == 200


async def test_systemd_is_told_and_hands_over_its_socket(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        activation = f"exec 3<&{listener.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1"
        async with process(
            "--upstream",
            "simulator",
            prefix=activation,
            pass_fds=(listener.fileno(),),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        ) as relay:
            assert relay.url == f"ws://127.0.0.1:{listener.getsockname()[1]}"
            told = await trio.to_thread.run_sync(manager.recv, 1000)
            assert told == f"READY=1\nSTATUS=Serving {relay.url}".encode()
            relay.signal(signal.SIGTERM)
            assert await relay.ended() == 0
            told = await trio.to_thread.run_sync(manager.recv, 1000)
            assert told == b"STOPPING=1\nSTATUS=Draining"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_simulator_alone_listens_and_stops(
    number: signal.Signals, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    arguments = (*ANY_PORT, "--key", "sk-1", "--ready-file", str(ready))
    async with process("simulate", *arguments) as simulator:
        assert ready.read_text() == f"{simulator.url}\n"
        assert simulator.url.endswith("/v1/realtime")
        environment = {**os.environ, "OPENAI_API_KEY": "sk-1"}
        check = [*RELAY, "check", "--upstream", simulator.url]
        passed = await trio.run_process(check, env=environment, capture_stdout=True)
        assert b"a session was created" in passed.stdout
        failed = await trio.run_process(check, check=False, capture_stdout=True)
        assert failed.returncode == 1
        assert b"failed     HTTP status 401" in failed.stdout
        simulator.signal(number)
        assert await simulator.ended() == 0


def test_what_is_imported_starts_no_threads() -> None:
    shown = "import os, relay.server; print(len(os.listdir('/proc/self/task')))"
    environment = {name: os.environ[name] for name in os.environ if name != "OPENBLAS_NUM_THREADS"}
    started = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, check=True, env=environment
    )
    assert started.stdout == b"1\n"


def test_ctrl_c_while_modules_are_imported_just_ends_the_process() -> None:
    shown = "import signal, relay.__main__; print(signal.getsignal(signal.SIGINT).name)"
    started = subprocess.run([sys.executable, "-c", shown], capture_output=True, check=True)
    assert started.stdout == b"SIG_DFL\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [(("serve", "--listen", "x"), 2), (("serve", "--nonsense"), 2), (("--version",), 0)],
)
def test_a_log_that_cannot_be_written_does_not_change_how_it_ends(
    command: tuple[str, ...], code: int
) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([*RELAY, *command], stdout=subprocess.PIPE, stderr=full)
    assert ended.returncode == code


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_what_cannot_be_printed_is_a_failure_in_one_line(option: str) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([*RELAY, option], stdout=full, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (1, b"relay: [Errno 28] No space left on device\n")


async def test_ctrl_c_in_the_middle_of_a_talk_is_quiet() -> None:
    child = await trio.lowlevel.open_process(
        [*RELAY, "talk", "Hello"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    async with child.stdout, child.stderr:
        with trio.fail_after(20):
            assert await child.stdout.receive_some() != b""
            child.send_signal(signal.SIGINT)
            assert await child.wait() == 1
            assert b"".join([chunk async for chunk in child.stderr]) == b""
