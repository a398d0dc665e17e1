"""process: what this process uses of the machine, as Linux says it in /proc."""

import os
from pathlib import Path
from typing import NamedTuple

STATM = Path("/proc/self/statm")
DESCRIPTORS = Path("/proc/self/fd")
LIMITS = Path("/proc/self/limits")


class Usage(NamedTuple):
    resident_bytes: int
    cpu_s: float
    """Of user and system."""
    descriptors: int
    """Open ones."""
    most_descriptors: int | None
    """As many may be open; None: any number."""


def usage() -> Usage | None:
    """None: this is no Linux."""
    if not STATM.exists():
        return None
    times = os.times()
    return Usage(
        resident_bytes=int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        cpu_s=times.user + times.system,
        descriptors=len(os.listdir(DESCRIPTORS)) - 1,  # one of them lists the others
        most_descriptors=_limit("Max open files"),
    )


def _limit(name: str) -> int | None:
    """The soft one."""
    line = next(line for line in LIMITS.read_text().splitlines() if line.startswith(name))
    soft = line.removeprefix(name).split()[0]
    return None if soft == "unlimited" else int(soft)
