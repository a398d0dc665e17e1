"""systemd: what the service manager is told, and the sockets it hands over.

The three small protocols of sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3). Without
systemd every call does nothing. It knows nothing of what is served.
"""

import math
import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog
import trio

from relay.config import ConfigError

NUMBERS = ("LISTEN_PID", "LISTEN_FDS", "WATCHDOG_PID", "WATCHDOG_USEC")
FIRST_SOCKET = 3
"""SD_LISTEN_FDS_START: the descriptor after standard error."""


def check(environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` for what libsystemd would not understand either. To go on without would
    be to serve another address, or to be killed for silence."""
    for name in NUMBERS:
        text = environment.get(name, "0")
        if not (text.isascii() and text.isdigit()):
            raise ConfigError(f"{name}: expected a number, got {text!r}")


def notify(environment: Mapping[str, str], **state: str | int) -> None:
    """Send `READY=1` and the like in one datagram. Never waits; a manager that cannot be told is
    worth a log line and no more."""
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # abstract namespace
        address = "\0" + address[1:]
    text = "\n".join(f"{name}={value}" for name, value in state.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
            channel.sendto(text.encode(), address)
    except OSError as error:
        structlog.get_logger().warning("systemd not notified", reason=str(error))


def reloading(environment: Mapping[str, str]) -> None:
    """Say that a reload begins; READY=1 says that it is over. The time tells this reload from one
    that was asked for later."""
    now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify(environment, RELOADING=1, MONOTONIC_USEC=now_us, STATUS="Reloading")


def is_activated(environment: Mapping[str, str]) -> bool:
    """Whether there are sockets of socket activation for this process. They stay open, and keep
    whoever connects waiting, when it ends."""
    return environment.get("LISTEN_PID") == str(os.getpid())


def inherited_sockets(environment: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets of socket activation; empty when there are none for this process.
    Raises `ConfigError` for what is none."""
    if not is_activated(environment):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    descriptors = range(FIRST_SOCKET, FIRST_SOCKET + count)
    return [_listening(descriptor) for descriptor in descriptors]


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS: descriptor {descriptor}: {error.strerror}") from None
    if not listens or found.family not in (socket.AF_INET, socket.AF_INET6):
        raise ConfigError(f"LISTEN_FDS: descriptor {descriptor} is no listening TCP socket")
    return found


async def watchdog(
    environment: Mapping[str, str],
    is_well: Callable[[], bool] = lambda: True,
    longest_s: float = math.inf,
) -> None:
    """Tell systemd twice in each watchdog period, and every `longest_s` at least, that the event
    loop still turns, while all `is_well`; returns at once when no watchdog is set for this process.
    """
    period_us = int(environment.get("WATCHDOG_USEC", "0"))
    pid = environment.get("WATCHDOG_PID")
    if not period_us or pid not in (None, str(os.getpid())):
        return
    while True:
        if is_well():
            notify(environment, WATCHDOG=1)
        await trio.sleep(min(period_us / 2e6, longest_s))
