"""Reloading: what is served changes whole or not at all, and nobody who is connected notices."""

import contextlib
import hashlib
import os
import pty
import re
import shlex
import signal
import socket
import typing
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio
import trustme

from relay import config, server, wire
from relay.config import Config, Listen, Log, Store
from relay.reload import Reloader, changed, keep_fixed
from relay.served import Served, Sources
from relay.server import Relay
from relay.voice_agent import ConversationText, Error, Welcome
from tests.test_cli import ANY_PORT, RELAY, message, process, settings_applied
from tests.test_server import AGENT, certified, refusal

pytestmark = pytest.mark.usefixtures("_nobodys_environment")


@pytest.fixture
def _nobodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RELAY_") or name in ("OPENAI_API_KEY", "CREDENTIALS_DIRECTORY"):
            monkeypatch.delenv(name)


REFUSED = "reload refused, what was served before stays"


def line_for(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


def token(key: str) -> dict[str, str]:
    return {"Authorization": f"Token {key}"}


class Installed:
    """A configuration in a directory, and the relay that serves it."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "relay.toml"
        self.keys = directory / "keys"
        self.keys.write_text(line_for("alice", "k-alice"))
        self.assignments: list[str] = []
        self.relay: Relay
        self.reloader: Reloader
        self.write()

    def write(self, **sections: str) -> None:
        """Each section by its name, beside what every relay here has."""
        bodies = {
            "auth": f'mode = "keys"\nkeys_file = "{self.keys}"\n',
            "upstream": 'url = "ws://127.0.0.1:9/v1/realtime"\n',
        }
        for name, body in sections.items():
            bodies[name] = bodies.get(name, "") + body + "\n"
        self.file.write_text("".join(f"[{name}]\n{body}" for name, body in bodies.items()))

    def load(self) -> Config:
        calm = "overload.max_lag_ms=0"  # the machine may be busy with other tests
        return config.load(self.file, {}, ["listen.port=0", calm, *self.assignments])

    @property
    def address(self) -> str:
        return self.relay.urls[0].partition("://")[2]

    async def reload(self) -> str | None:
        """Why it was refused, or None."""
        await self.reloader.reload()
        return self.relay.reloads.fault


@contextlib.asynccontextmanager
async def serving(directory: Path, **sections: str) -> AsyncIterator[Installed]:
    installed = Installed(directory)
    if sections:
        installed.write(**sections)
    sources = Sources(installed.file, installed.load, {})
    served = sources.read()
    listeners = await server.open_listeners(served.config, {})
    async with server.running(served, {}, listeners) as relay:
        installed.relay = relay
        installed.reloader = Reloader(sources, relay, {}, wall=lambda: 1e9)
        yield installed


async def admitted(address: str, key: str) -> bool:
    try:
        async with wire.dial(f"ws://{address}{AGENT}", headers=token(key)) as leg:
            await message(leg, Welcome)
    except wire.DialFailed as failure:
        if failure.status != 401:
            raise
        return False
    return True


async def test_a_key_that_was_added_counts_and_one_that_was_removed_does_not(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as installed:
        url = f"ws://{installed.address}{AGENT}"
        async with wire.dial(url, headers=token("k-alice")) as leg:
            await message(leg, Welcome)
            installed.keys.write_text(line_for("bob", "k-bob"))
            assert not await admitted(installed.address, "k-bob")
            assert await installed.reload() is None
            assert await admitted(installed.address, "k-bob")
            assert not await admitted(installed.address, "k-alice")
            # Who is in stays in: the key opens the door, no more (as with OpenSSH).
            assert installed.relay.live.value == 1
            leg.post('{"type":"Nonsense"}')
            assert (await message(leg, Error)).code == "UNPARSABLE_CLIENT_MESSAGE"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("not toml", "relay.toml: Expected '='"),
        ("[listen]\nprot = 1", "listen.prot: unknown key"),
        (f"x = {'[' * 100_000}", "relay.toml: too deep"),
        ('[auth]\nmode = "keys"\nkeys_file = "/nonexistent"', "auth.keys_file: cannot read"),
        ('[auth]\nmode = "keys"\n', "auth.keys_file: needed"),
        ('[upstream]\nurl = "simulator"', "upstream.url: to serve the simulator, restart"),
        ('[upstream]\napi_key_file = "/nonexistent"', "upstream.api_key_file: cannot read"),
        (
            '[listen]\ntls_cert = "/nonexistent"\ntls_key = "/nonexistent"',
            "listen.tls_cert, listen.tls_key: ",
        ),
    ],
    ids=lambda value: value.split(":")[0] if ":" in value else "",
)
async def test_a_broken_configuration_is_refused_whole_and_the_old_one_stays(
    tmp_path: Path, broken: str, reason: str
) -> None:
    async with serving(tmp_path) as installed:
        before = installed.relay.served
        good = installed.file.read_text()
        installed.file.write_text(broken)
        with structlog.testing.capture_logs() as lines:
            fault = await installed.reload()
        assert fault is not None
        assert reason in fault
        assert [line["log_level"] for line in lines] == ["error"]
        assert lines[0]["reason"] == fault
        assert installed.relay.served is before
        assert await admitted(installed.address, "k-alice")
        installed.file.write_text(good)
        assert await installed.reload() is None
    assert (installed.relay.reloads.done, installed.relay.reloads.refused) == (1, 1)
    assert installed.relay.reloads.wall == 1e9


async def test_also_a_mistake_of_ours_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    async with serving(tmp_path) as installed:
        before = installed.relay.served

        async def fail(new: Served) -> None:
            raise RuntimeError("planted")

        installed.relay._prepare = fail
        with structlog.testing.capture_logs() as lines:
            assert await installed.reload() == "the relay failed, see the log"
        assert [line["event"] for line in lines] == ["reload failed, what was served before stays"]
        assert installed.relay.served is before
        assert await admitted(installed.address, "k-alice")


async def test_a_key_never_gets_into_the_report_of_a_broken_file(tmp_path: Path) -> None:
    async with serving(tmp_path) as installed:
        installed.keys.write_text("sk-planted\n")
        with structlog.testing.capture_logs() as lines:
            fault = await installed.reload()
        assert fault == f"auth.keys_file: {installed.keys}, line 1: expected name:sha256"
        assert "sk-planted" not in str(lines)


async def test_a_changed_file_counts_when_it_has_looked_the_same_twice(tmp_path: Path) -> None:
    async with serving(tmp_path) as installed:
        look, reloads = installed.reloader.look, installed.relay.reloads
        for _ in range(3):
            await look()
        assert reloads.done == 0
        installed.keys.write_text(line_for("bob", "k-bob"))
        await look()
        with installed.keys.open("a") as file:  # it was not whole yet
            file.write(line_for("carol", "k-carol"))
        await look()
        assert reloads.done == 0
        await look()
        assert reloads.done == 1
        assert set(installed.relay.served.keys.values()) == {"bob", "carol"}
        for _ in range(3):
            await look()
        assert (reloads.done, reloads.refused) == (1, 0)


async def test_a_broken_file_is_reported_once_and_noticed_when_it_is_mended(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as installed:
        look, reloads = installed.reloader.look, installed.relay.reloads
        missing = tmp_path / "missing"
        installed.write(auth=f'token_secret_file = "{missing}"\n')
        for _ in range(5):
            await look()
        assert (reloads.done, reloads.refused) == (0, 1)
        missing.write_text("a-secret-that-has-thirty-two-characters")
        for _ in range(5):
            await look()
        assert (reloads.done, reloads.refused) == (1, 1)


async def test_a_file_that_is_replaced_or_taken_away_has_changed(tmp_path: Path) -> None:
    async with serving(tmp_path) as installed:
        look, reloads = installed.reloader.look, installed.relay.reloads
        before = installed.keys.stat()
        draft = tmp_path / "draft"
        draft.write_text(line_for("carla", "k-carla"))  # of the same size...
        os.utime(draft, ns=(before.st_atime_ns, before.st_mtime_ns))  # ...and age
        draft.replace(installed.keys)
        await look()
        await look()
        assert set(installed.relay.served.keys.values()) == {"carla"}
        installed.keys.unlink()
        await look()
        await look()
        assert (reloads.done, reloads.refused) == (1, 1)


async def test_a_conversation_that_goes_on_dials_with_the_present_key(tmp_path: Path) -> None:
    key = tmp_path / "upstream-key"
    key.write_text("k-old")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/v1/realtime"
    upstream = f'api_key_file = "{key}"\n'

    async def dialled() -> tuple[trio.SocketStream, bytes]:
        """The relay's next dial, and the head of its request."""
        stream = await listener.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        return stream, head

    async with (
        listener,
        serving(tmp_path, upstream=upstream, session="redial_backoff_s = [0.01]") as installed,
    ):
        text = installed.file.read_text()
        installed.file.write_text(text.replace("ws://127.0.0.1:9/v1/realtime", url))
        assert await installed.reload() is None
        agent = f"ws://{installed.address}{AGENT}"
        async with wire.dial(agent, headers=token("k-alice")) as leg:
            leg.post('{"type":"Settings","audio":{},"agent":{}}')
            first, head = await dialled()
            assert b"Authorization: Bearer k-old\r\n" in head
            key.write_text("k-new")
            assert await installed.reload() is None
            await first.aclose()
            second, head = await dialled()
            assert b"Authorization: Bearer k-new\r\n" in head
            await second.aclose()


async def test_what_needs_a_restart_is_said_in_one_line_and_the_rest_counts(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as installed:
        url = installed.relay.urls
        installed.write(
            listen='host = "127.0.0.2"\ndeepgram_paths = ["/elsewhere"]',
            store=f'url = "sqlite:///{tmp_path}/store"',
            session="resume_window_s = 7\ndrain_s = 7",
        )
        with structlog.testing.capture_logs() as lines:
            assert await installed.reload() is None
        said, warned = lines
        assert said["event"] == "reloaded"
        assert said["keys"] == ["listen.deepgram_paths", "session.drain_s"]
        assert said["files"] == [str(installed.file)]
        assert warned["log_level"] == "warning"
        assert warned["keys"] == ["listen.host", "session.resume_window_s", "store"]
        assert installed.relay.urls == url
        assert await refusal(installed.address) == 404
        assert await refusal(installed.address, "/elsewhere") == 401


async def test_command_line_and_environment_still_win(tmp_path: Path) -> None:
    async with serving(tmp_path, session="drain_s = 5") as installed:
        installed.assignments = ["session.drain_s=9"]
        installed.write(session="drain_s = 6\nclient_idle_s = 6")
        assert await installed.reload() is None
        session = installed.relay.served.config.session
        assert (session.drain_s, session.client_idle_s) == (9, 6)


async def test_strangers_are_not_let_in_by_a_reload(tmp_path: Path) -> None:
    """The listener's own address counts, which socket activation may have chosen."""
    installed = Installed(tmp_path)
    sources = Sources(installed.file, installed.load, {})
    served = sources.read()
    listeners = await trio.open_tcp_listeners(0, host="0.0.0.0")
    async with server.running(served, {}, listeners) as relay:
        installed.file.write_text('[upstream]\nurl = "ws://127.0.0.1:9"')
        await Reloader(sources, relay, {}).reload()
        assert relay.reloads.fault is not None
        assert relay.reloads.fault.startswith("auth.mode: none would let anyone in")
        assert relay.served is served


async def test_new_handshakes_get_the_new_certificate_and_old_connections_go_on(
    tmp_path: Path,
) -> None:
    configured, trusting = certified(tmp_path)
    tls = f'tls_cert = "{configured.listen.tls_cert}"\ntls_key = "{configured.listen.tls_key}"'
    async with serving(tmp_path, listen=tls) as installed:
        url = f"{installed.relay.urls[0]}{AGENT}"
        assert url.startswith("wss://")
        async with wire.dial(url, headers=token("k-alice"), ssl_context=trusting) as old:
            await message(old, Welcome)
            _, trusting_anew = certified(tmp_path)
            assert await installed.reload() is None
            async with wire.dial(url, headers=token("k-alice"), ssl_context=trusting_anew) as new:
                await message(new, Welcome)
            with pytest.raises(wire.DialFailed, match="certificate verify failed"):
                async with wire.dial(url, ssl_context=trusting):
                    pass
            old.post('{"type":"Nonsense"}')
            await message(old, Error)


async def test_a_certificate_without_its_key_is_refused_until_both_are_there(
    tmp_path: Path,
) -> None:
    configured, trusting = certified(tmp_path)
    tls = f'tls_cert = "{configured.listen.tls_cert}"\ntls_key = "{configured.listen.tls_key}"'
    async with serving(tmp_path, listen=tls) as installed:
        another = trustme.CA().issue_cert("127.0.0.1")
        another.cert_chain_pems[0].write_to_path(str(configured.listen.tls_cert))
        fault = await installed.reload()
        assert fault is not None
        assert "KEY_VALUES_MISMATCH" in fault
        url = f"{installed.relay.urls[0]}{AGENT}"
        async with wire.dial(url, headers=token("k-alice"), ssl_context=trusting) as leg:
            await message(leg, Welcome)
        another.private_key_pem.write_to_path(str(configured.listen.tls_key))
        assert await installed.reload() is None


def test_only_what_can_be_changed_is_taken_over() -> None:
    old = Config(log=Log(level="info"))
    new = Config(
        listen=Listen(port=9, deepgram_paths=("/a",)),
        log=Log(level="debug"),
        store=Store(max_age_s=9),
    )
    kept, differing = keep_fixed(old, new)
    assert differing == ["listen.port", "store"]
    assert kept == Config(listen=Listen(deepgram_paths=("/a",)), log=Log(level="debug"))
    assert sorted(changed(old, kept)) == ["listen.deepgram_paths", "log.level"]


def test_every_file_that_the_configuration_names_is_watched() -> None:
    """A key of type Path that is added must be added to `config.files`, or here."""
    planted: dict[str, Any] = {}
    for section in msgspec.structs.fields(Config):
        kind, *_ = [*typing.get_args(section.type), section.type]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            named = [f.name for f in msgspec.structs.fields(kind) if f.type == Path | None]
            table = {name: f"/{section.name}/{name}" for name in named}
            is_array = kind is not section.type
            planted[section.name] = [{"url": "ws://h", **table}] if is_array else table
    watched = {str(file) for file in config.files(config.convert(planted), {})}
    unwatched = {"/store/key_file"}  # a part of the store, which stays
    assert watched | unwatched == set(re.findall(r"/\w+/\w+", str(planted)))
    assert len(watched) >= 7


# Real processes.


async def test_a_process_reloads_on_sighup_and_by_itself_and_systemd_hears_of_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[reload]\nwatch_s = 0\n")
    options = (*ANY_PORT, "--upstream", "simulator", "--config", str(file))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)

        async def told() -> str:
            return (await trio.to_thread.run_sync(manager.recv, 1000)).decode()

        async with process(*options, NOTIFY_SOCKET=str(tmp_path / "notify")) as relay:
            all_is_well = f"READY=1\nSTATUS=Serving {relay.url}"
            assert await told() == all_is_well
            async with wire.dial(relay.url + AGENT) as leg:
                await settings_applied(leg)
                file.write_text('[reload]\nwatch_s = 0.05\n[log]\nlevel = "debug"\n')
                relay.signal(signal.SIGHUP)
                assert (await relay.until("reloaded"))["keys"] == ["log.level", "reload.watch_s"]
                assert re.match(r"RELOADING=1\nMONOTONIC_USEC=\d+\n", await told())
                assert await told() == all_is_well

                file.write_text("[log]\nlevel = 3\n")
                refused = await relay.until(REFUSED)
                assert refused["reason"] == "log.level: expected `str`, got `int`"
                assert (await told()).startswith("RELOADING=1")
                assert await told() == f"{all_is_well}; reload refused: {refused['reason']}"

                leg.post('{"type":"InjectUserMessage","content":"Hello"}')
                await message(leg, ConversationText)
            relay.signal(signal.SIGTERM)
            relay.lines.remove(refused)
            assert await relay.ended() == 0
            assert (await told()).startswith("STOPPING=1")


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_a_hangup_while_draining_does_nothing(first: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("")
    async with process(*ANY_PORT, "--config", str(file)) as relay:
        async with wire.dial(relay.url + AGENT) as leg:
            await settings_applied(leg)
            relay.signal(first)
            await relay.until("draining")
            file.write_text("broken")
            relay.signal(signal.SIGHUP)
            leg.post('{"type":"InjectUserMessage","content":"Hello"}')
            await message(leg, ConversationText)
        assert await relay.ended() == 0
        assert relay.lines[-1]["event"] == "drained"
    events = {line["event"] for line in relay.lines}
    assert not events & {REFUSED, "reloaded"}


async def test_a_terminal_that_is_closed_ends_the_relay_that_was_run_in_it() -> None:
    ours, theirs = pty.openpty()
    async with process(*ANY_PORT, prefix=f"exec <&{theirs}", pass_fds=(theirs,)) as relay:
        os.close(theirs)
        relay.signal(signal.SIGHUP)
        await relay.until("reloaded")
        os.close(ours)
        relay.signal(signal.SIGHUP)
        assert await relay.ended() == 0
        assert relay.lines[-1]["event"] == "drained"


async def test_the_units_reload_checks_the_file_and_then_tells_the_process(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[reload]\nwatch_s = 0\n")
    unit = (Path(__file__).parent.parent / "systemd" / "relay.service").read_text()
    async with process(*ANY_PORT, "--upstream", "simulator", "--config", str(file)) as relay:
        ours = {
            # Needs root, and a service that has a view of its own.
            "+/usr/bin/nsenter --mount --target $MAINPID ": "",
            "/opt/relay/bin/relay": shlex.join(RELAY),
            "/etc/relay/relay.toml": str(file),
            "$MAINPID": str(relay.pid),
        }
        commands = re.findall("^ExecReload=(.*)$", unit, re.MULTILINE)
        # In no other view does systemd 252 let it read the credentials.
        assert commands[0].startswith("+/usr/bin/nsenter --mount --target $MAINPID /opt/relay/")
        for installed, here in ours.items():
            commands = [command.replace(installed, here) for command in commands]
        check, tell = (shlex.split(command) for command in commands)
        environment = {**os.environ, "RELAY_UPSTREAM__URL": "simulator"}

        await trio.run_process(check, env=environment, capture_stdout=True)
        await trio.run_process(tell)
        await relay.until("reloaded")
        file.write_text("broken")
        failed = await trio.run_process(check, env=environment, check=False, capture_stderr=True)
        assert failed.returncode == 2
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
