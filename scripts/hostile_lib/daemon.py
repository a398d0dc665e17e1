"""daemon: a relay in a process of its own, and what can be seen of it from outside.

It knows the command line, /proc and the log file. It does not know what is done to the relay.
"""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
START_S = 60.0
STOP_S = 15.0


@dataclass(frozen=True)
class State:
    """What a relay holds at one moment."""

    descriptors: int
    tasks: int
    threads: int
    rss_mib: float


@dataclass
class Process:
    """A running command of relay."""

    child: subprocess.Popen[bytes]
    url: str
    directory: Path
    log: Path
    _read: int = 0
    secrets: tuple[str, ...] = field(default=())

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    async def state(self) -> State:
        """Of this moment; raises if the process does not answer."""
        file = self.directory / "observations.json"
        file.unlink(missing_ok=True)
        with trio.fail_after(20):
            while not file.exists():
                self.child.send_signal(signal.SIGUSR1)
                with trio.move_on_after(1):
                    while not file.exists():  # noqa: ASYNC110 - another process makes it
                        await trio.sleep(0.01)
        seen = json.loads(file.read_text())
        descriptors = len(os.listdir(f"/proc/{self.child.pid}/fd"))
        return State(descriptors, seen["tasks"], seen["threads"], self._memory("VmRSS"))

    def forget_peak(self) -> None:
        Path(f"/proc/{self.child.pid}/clear_refs").write_text("5")

    @property
    def peak_mib(self) -> float:
        """Largest resident size since `forget_peak`."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> float:
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    async def stopped(self) -> int:
        """Tell it to stop; its exit code."""
        await _stop(self.child)
        return self.child.returncode

    def complaints(self) -> list[str]:
        """What must not be in the log, of the lines written since the last call."""
        text = self.log.read_text(errors="replace")
        new, self._read = text[self._read :], len(text)
        found = [f"secret {secret!r} in the log" for secret in self.secrets if secret in new]
        for line in new.splitlines():
            try:
                level = json.loads(line)["level"]
            except (ValueError, KeyError, TypeError):
                found.append(f"no log line: {line[:200]}")
            else:
                if "Too many open files" in line and '"exception"' not in line:
                    continue  # the truth, and somebody has to hear it
                if level not in ("debug", "info", "warning") or '"exception"' in line:
                    found.append(line[:1000])
        return found


@contextlib.asynccontextmanager
async def running(
    directory: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    descriptors: int | None = None,
) -> AsyncIterator[Process]:
    """`relay ARGUMENTS` until the block ends; killed if it does not end then."""
    directory.mkdir()  # noqa: ASYNC240 - nothing else is going on
    ready, log = directory / "ready", directory / "log"
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("RELAY_", "OPENAI_"))}
    variables |= {"OBSERVATIONS": str(directory / "observations.json"), **(environment or {})}
    command = [sys.executable, str(Path(__file__).with_name("observed.py")), *arguments]
    with log.open("wb") as stderr:
        child = subprocess.Popen(  # noqa: ASYNC220 - nothing else is going on
            [*command, "--ready-file", str(ready), "--set", "log.format=json"],
            cwd=ROOT,
            env=variables,
            stderr=stderr,
            preexec_fn=_limited(descriptors),
        )
    try:
        with trio.fail_after(START_S):
            while not ready.exists():
                if child.poll() is not None:
                    raise RuntimeError(f"relay ended: {log.read_text()}")
                await trio.sleep(0.02)
        yield Process(child, ready.read_text().strip(), directory, log)
    finally:
        with trio.CancelScope(shield=True):
            await _stop(child)


def _limited(descriptors: int | None) -> Callable[[], None] | None:
    if descriptors is None:
        return None
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


async def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        with trio.move_on_after(STOP_S):
            while child.poll() is None:  # noqa: ASYNC110 - another process ends
                await trio.sleep(0.02)
    if child.poll() is None:
        child.kill()
    child.wait()
