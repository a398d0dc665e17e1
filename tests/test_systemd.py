"""systemd: what is told to the service manager, and a unit that it accepts."""

import os
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


if ANALYZE := shutil.which("systemd-analyze"):

    def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
        text = (ROOT / "systemd" / "relay.service").read_text()
        assert "/opt/relay/bin/relay" in text
        unit = tmp_path / "relay.service"
        unit.write_text(text.replace("/opt/relay/bin/relay", sys.executable))
        # It exits 0 also for keys that it does not know, and says so on standard error only.
        verify = [str(ANALYZE), "verify", str(unit)]
        verified = subprocess.run(verify, capture_output=True, text=True, check=False)
        assert (verified.returncode, verified.stderr) == (0, "")
        score = [str(ANALYZE), "security", "--offline=true", "--threshold=20", str(unit)]
        assert subprocess.run(score, capture_output=True, check=False).returncode == 0
