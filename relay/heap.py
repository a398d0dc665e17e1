"""heap: when Python looks for garbage that reference counts do not free.

A full look stops everything for as long as there are objects to look at: some 25 ms for what is
imported, 15 for each hundred sessions, and no frame moves meanwhile. Python has one whenever a
quarter has been added to what has survived: most of them while sessions come in. This knows nothing
of what is looked at.
"""

import gc
from typing import Final

FULL_EVERY: Final = 25
"""Looks at the middle generation to one at everything, if that has grown by a quarter. Python's 10
are 70,000 objects. A session is some 200, of which 90 are such garbage when it is over: as much
of it as 1300 sessions leave may wait, about 10 MB."""


def settle() -> None:
    """To be called when all that stays is there: it is not looked at any more."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_EVERY)
