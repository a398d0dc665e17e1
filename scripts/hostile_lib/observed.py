"""observed: `python -m relay`, which on SIGUSR1 writes to the file named by OBSERVATIONS how many
tasks are alive. What it reads of memory is what is in use: what could be given back to the system
is given back first."""

import contextlib
import ctypes
import gc
import json
import os
import runpy
import signal
import threading
from pathlib import Path
from types import FrameType

import trio

FILE = Path(os.environ["OBSERVATIONS"])


def observe(_signal: int, _frame: FrameType | None) -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    tasks = trio.lowlevel.current_statistics().tasks_living
    with contextlib.suppress(OSError):  # no descriptor free; whoever asks will ask again
        draft = FILE.with_suffix(".draft")
        draft.write_text(json.dumps({"tasks": tasks, "threads": threading.active_count()}))
        draft.replace(FILE)


signal.signal(signal.SIGUSR1, observe)
runpy.run_module("relay", run_name="__main__", alter_sys=True)
