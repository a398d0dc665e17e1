"""runs: one contestant under one load.

It starts the contestant on its core and the load generator on another, waits for the generator's
result and ends both. Whatever goes wrong is a `Failed` that names the contestant.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec
import trustme
from contestants import BUILT, Contestant

TLS_PEM, AUTHORITY = BUILT / "upstream.pem", BUILT / "authority.pem"
START_S = 30.0
"""For a contestant to listen."""
STOP_S = 5.0
"""For it to end when told to; then it is killed."""


class Failed(Exception):
    """A wrong byte, a dead contestant, or one that does not answer."""


class Way(msgspec.Struct):
    """One direction: latency is from the sender's socket to the receiver's."""

    frames: int
    messages: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Load(msgspec.Struct):
    """One window at a number of sessions."""

    sessions: int
    seconds: float
    frames: int
    delivered: float
    """Share of the frames that were due in the window."""
    us_per_frame: float
    wait_us_per_frame: float
    """Time that the contestant's threads were ready to run and had no core."""
    relay_busy: float
    generator_busy: float
    generator_us_per_frame: float
    generator_lag_p99_ms: float
    """How late the generator sent."""
    processes: int
    threads: int
    up: Way
    down: Way


class Run(msgspec.Struct):
    """A contestant's whole course: set-up of all sessions, idle, under load."""

    rss_empty_kb: float
    rss_idle_kb_per_session: float
    rss_active_kb_per_session: float
    setup_per_s: float
    setup_cpu_ms: float
    setup_wait_ms: float
    welcome_p50_ms: float
    applied_p50_ms: float
    load: Load
    contestant: str = ""
    round: int = 0
    start_s: float = 0.0
    """From its exec to its listening."""
    steal: float = 0.0
    """Share of its cores that the hypervisor gave to others."""
    cores: int = 1
    cpu_s: list[float] = []
    """Of each of its processes, the first one first, since it listens."""


class Capacity(msgspec.Struct):
    """The most sessions with p99 under 20 ms both ways."""

    capacity: int
    limit: str
    steps: list[Load]
    contestant: str = ""

    @property
    def generator_was_the_limit(self) -> bool:
        return self.steps[-1].generator_busy > 0.9 if self.steps else False


@dataclass(frozen=True)
class Bench:
    """Where and how hard."""

    contestant_cpus: list[int]
    """One process has the last of them; several have one each, if there are so many."""
    generator_cpu: int
    seconds: float
    warm_s: float
    spin: bool
    relay_options: list[str] = field(default_factory=list)

    def load(self, contestant: Contestant, sessions: int) -> Run:
        """Raises `Failed`."""
        cpus = self.cpus(contestant)
        with _serving(self, contestant) as served:
            before, spent = _steal(cpus), _cpu_s(served.process.pid)
            run = msgspec.json.decode(self._generator(served, sessions, self.seconds), type=Run)
            run.steal = (_steal(cpus) - before) / len(cpus)
            run.cpu_s = [
                cpu_s - spent.get(pid, 0.0) for pid, cpu_s in _cpu_s(served.process.pid).items()
            ]
        run.steal /= max(served.seconds, 1e-9)
        run.contestant, run.start_s, run.cores = contestant.name, served.start_s, len(cpus)
        return run

    def cpus(self, contestant: Contestant) -> list[int]:
        """Its cores."""
        return self.contestant_cpus[-contestant.workers :]

    def capacity(self, contestant: Contestant, begin: int, growth: float = 1.08) -> Capacity:
        """From `begin` sessions on, each step `growth` times the one before; raises `Failed`."""
        with _serving(self, contestant) as served:
            more = ["--capacity", str(growth), "--in-flight", "4"]
            found = msgspec.json.decode(self._generator(served, begin, 3.0, more), type=Capacity)
        found.contestant = contestant.name
        return found

    def _generator(
        self, served: "_Served", sessions: int, seconds: float, more: list[str] | None = None
    ) -> bytes:
        command = [
            str(BUILT / "loadgen"),
            *("--mock-fd", str(served.mock.fileno())),
            *("--port", str(served.port)),
            *("--pid", str(served.process.pid)),
            *("--sessions", str(sessions)),
            *("--seconds", str(seconds)),
            *("--warm", str(self.warm_s)),
            *("--rate", str(served.contestant.rate)),
            *(["--tls-pem", str(TLS_PEM)] if served.contestant.tls else []),
            *([] if served.contestant.translates else ["--splice"]),
            *(["--spin"] if self.spin else []),
            *(more or []),
        ]
        # Set-up may take 10 s without progress; a search for the limit takes many windows.
        patience_s = 600.0 if more else 60.0 + seconds + sessions * 0.2
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[served.mock.fileno()],
            preexec_fn=lambda: _settle([self.generator_cpu]),
        )
        try:
            output, complaint = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            raise served.failed(f"no result within {patience_s:.0f} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            raise served.failed(complaint.decode(errors="replace").strip())
        return output


@dataclass
class _Served:
    contestant: Contestant
    process: subprocess.Popen[bytes]
    mock: socket.socket
    port: int
    log: Path
    start_s: float = 0.0
    began: float = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def failed(self, why: str) -> Failed:
        code = self.process.poll()
        state = "" if code is None else f" (it ended with status {code})"
        tail = self.log.read_text(errors="replace").splitlines()[-20:]
        lines = [f"{self.contestant.name}: {why}{state}", f"  the end of {self.log}:"]
        return Failed("\n".join([*lines, *(f"    {line}" for line in tail)]))


@contextlib.contextmanager
def _serving(bench: Bench, contestant: Contestant) -> Iterator[_Served]:
    """A contestant that listens, and its upstream's socket; both end with the block."""
    log = BUILT / "logs" / f"{contestant.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as mock, log.open("wb") as output:
        port = _free_port()
        if contestant.tls:
            _make_certificate()
        scheme = "wss" if contestant.tls else "ws"
        url = f"{scheme}://127.0.0.1:{mock.getsockname()[1]}/v1/realtime"
        began = time.monotonic()
        command = contestant.command(port, url, bench.relay_options)
        trusted = {"SSL_CERT_FILE": str(AUTHORITY)} if contestant.tls else {}
        process = _start(command, output, bench.cpus(contestant), trusted)
        served = _Served(contestant, process, mock, port, log)
        try:
            _await_listener(served, began)
            yield served
            if process.poll() is not None:
                raise served.failed("died")
        finally:
            _stop(process)


def _start(
    command: list[str], output: IO[bytes], cpus: list[int], trusted: dict[str, str]
) -> subprocess.Popen[bytes]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**kept, "NODE_ENV": "production", **trusted},
        preexec_fn=lambda: _settle(cpus),
    )


def _make_certificate() -> None:
    """For the upstream, from an authority that the contestants trust."""
    if not TLS_PEM.exists():
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(AUTHORITY))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(TLS_PEM))


def _settle(cpus: list[int]) -> None:
    """In the child: these cores, and no life beyond ours."""
    os.sched_setaffinity(0, cpus)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    if process.poll() is None:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _await_listener(served: _Served, began: float) -> None:
    """Looks in the kernel's table: a trial connection would be the contestant's first client."""
    needle = f"0100007F:{served.port:04X} 00000000:0000 0A"
    while needle not in Path("/proc/net/tcp").read_text():
        if served.process.poll() is not None:
            raise served.failed("did not start")
        if time.monotonic() - began > START_S:
            raise served.failed(f"does not listen after {START_S:.0f} s")
        time.sleep(0.005)
    served.start_s = time.monotonic() - began
    served.began = time.monotonic()


def _steal(cpus: list[int]) -> float:
    """Seconds of these cores that their virtual machine did not get."""
    names = {f"cpu{cpu}" for cpu in cpus}
    lines = map(str.split, Path("/proc/stat").read_text().splitlines())
    return sum(int(ticks[7]) for name, *ticks in lines if name in names) / _TICKS_PER_S


def _cpu_s(pid: int) -> dict[int, float]:
    """CPU time of a process and of each of its children."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for thread in threads for child in thread.read_text().split()]
    spent = {}
    for each in [pid, *children]:
        ticks = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:13]
        spent[each] = sum(map(int, ticks)) / _TICKS_PER_S
    return spent


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
