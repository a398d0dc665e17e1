"""systemd: what is told to the service manager, and a unit that it accepts."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from relay import systemd
from relay.config import ConfigError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind(str(tmp_path / "notify"))
        yield channel


def test_a_notification_is_one_datagram_of_assignments(manager: socket.socket) -> None:
    systemd.notify({"NOTIFY_SOCKET": manager.getsockname()}, READY=1, STATUS="Serving ws://x")
    assert manager.recv(1000) == b"READY=1\nSTATUS=Serving ws://x"


def test_an_abstract_address_begins_with_an_at_sign() -> None:
    name = f"relay-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind(f"\0{name}")
        systemd.notify({"NOTIFY_SOCKET": f"@{name}"}, STOPPING=1)
        assert channel.recv(1000) == b"STOPPING=1"


def test_a_manager_that_cannot_be_told_costs_a_log_line(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        systemd.notify({}, READY=1)
        assert lines == []
        systemd.notify({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, READY=1)
    assert [line["event"] for line in lines] == ["systemd not notified"]


async def test_the_watchdog_is_told_twice_a_period(
    manager: socket.socket, autojump_clock: MockClock
) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with trio.move_on_after(61):
        await systemd.watchdog(environment)
    assert [manager.recv(1000) for _ in range(5)] == [b"WATCHDOG=1"] * 5  # at 0, 15, ... 60 s
    with pytest.raises(BlockingIOError):
        manager.recv(1000)


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}], ids=["none", "other"]
)
async def test_a_watchdog_that_is_not_ours_ends_at_once(environment: dict[str, str]) -> None:
    with trio.fail_after(1):
        await systemd.watchdog(environment)


@pytest.mark.parametrize("name", systemd.NUMBERS)
@pytest.mark.parametrize("text", ["x", "-1", "1.5", "", "١"])
def test_a_number_that_is_none_is_an_error_as_with_libsystemd(name: str, text: str) -> None:
    systemd.check({})
    systemd.check({name: "30"})
    with pytest.raises(ConfigError) as refused:
        systemd.check({name: text})
    assert str(refused.value) == f"{name}: expected a number, got {text!r}"


INHERIT = """
import os
from relay import systemd
environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}
sockets = systemd.inherited_sockets(environment)
print([s.getsockname()[1] for s in sockets], [s.get_inheritable() for s in sockets])
print(systemd.inherited_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "2"}))
"""


def test_the_sockets_of_socket_activation_are_taken_over() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        # The shell puts them at 3 and 4, as systemd does.
        command = f'exec 3<&{one.fileno()} 4<&{two.fileno()}; exec $0 -c "$1"'
        result = subprocess.run(
            ["bash", "-c", command, sys.executable, INHERIT],
            pass_fds=(one.fileno(), two.fileno()),
            capture_output=True,
            text=True,
            check=True,
        )
        ports = [one.getsockname()[1], two.getsockname()[1]]
    assert result.stdout.splitlines() == [f"{ports} [False, False]", "[]"]


@pytest.mark.parametrize(
    ("opened", "complaint"),
    [
        ("3</dev/null", "LISTEN_FDS: descriptor 3: Socket operation on non-socket"),
        ("3<&{connected}", "LISTEN_FDS: descriptor 3 is no listening TCP socket"),
        ("3<&{local}", "LISTEN_FDS: descriptor 3 is no listening TCP socket"),
    ],
)
def test_what_is_no_listening_socket_ends_in_one_line_and_exit_code_2(
    opened: str, complaint: str, tmp_path: Path
) -> None:
    with (
        socket.socket() as connected,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(str(tmp_path / "socket"))
        local.listen()
        prefix = opened.format(connected=connected.fileno(), local=local.fileno())
        serve = f'exec {prefix}; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        relay = [sys.executable, "-m", "relay", "--upstream", "simulator"]
        result = subprocess.run(
            ["bash", "-c", serve, "bash", *relay],
            pass_fds=(connected.fileno(), local.fileno()),
            capture_output=True,
            text=True,
            check=False,
        )
    assert (result.returncode, result.stderr) == (2, f"relay: {complaint}\n")


def check_unit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts" / "check-unit"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


if shutil.which("systemd-analyze"):

    def test_systemd_accepts_the_units_and_their_sandbox() -> None:
        checked = check_unit()
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
        rows = [line.split() for line in checked.stdout.splitlines()]
        assert [(row[0], row[1], row[3]) for row in rows[1:]] == [
            ("verify", "relay.service", "ok"),
            ("verify", "relay.socket", "ok"),
            ("security", "relay.service", "ok"),
        ]

    @pytest.mark.parametrize(
        ("file", "line", "breach"),
        [
            ("relay.socket", "Nonsense=1", "verify     relay.socket"),
            ("relay.service", "Nonsense=1", "verify     relay.service"),
            (
                "relay.service",
                "[Service]\nPrivateUsers=no\nRestrictNamespaces=no\nSystemCallFilter=",
                "security",
            ),
        ],
    )
    def test_a_unit_with_a_fault_is_found(
        file: str, line: str, breach: str, tmp_path: Path
    ) -> None:
        for unit in ("relay.service", "relay.socket"):
            text = (ROOT / "systemd" / unit).read_text()
            (tmp_path / unit).write_text(f"{text}\n{line}\n" if unit == file else text)
        checked = check_unit(str(tmp_path))
        assert checked.returncode == 1
        failed = [row for row in checked.stdout.splitlines() if row.endswith(" failed")]
        assert any(row.startswith(breach) for row in failed), checked.stdout


def test_every_credential_of_the_unit_may_be_missing() -> None:
    text = (ROOT / "systemd" / "relay.service").read_text()
    loaded = re.findall(r"^LoadCredential=([\w-]+):", text, re.MULTILINE)
    blank = re.findall(r"^SetCredential=([\w-]+):\\n$", text, re.MULTILINE)
    assert loaded == blank
    assert {"openai-api-key", "relay-keys", "relay-token-secret"} <= set(loaded)
