"""heap: a process of its own, because it is about all objects of a process."""

import subprocess
import sys

PROGRAM = """
import gc
from relay import heap
gc.set_threshold(700, 10, 10)
lasting = [[] for _ in range(1000)]
heap.settle()
assert gc.get_threshold() == (700, 10, heap.FULL_EVERY)
assert gc.get_freeze_count() > 1000
looked_at = gc.get_objects()
assert len(looked_at) < 1000
loop = []
loop.append(loop)
del loop, looked_at
assert gc.collect() == 1
"""


def test_what_lasts_is_not_looked_at_any_more_and_other_garbage_is() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
