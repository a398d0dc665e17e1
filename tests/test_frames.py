"""Free-form JSON is looked at twice only where that may find something, and then it is the same."""

import json
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.frames import MAX_DEPTH, FrameDecoder


class Free(msgspec.Struct, tag="free"):
    content: Any = None
    limit: int | Literal["inf"] = "inf"
    share: float = 0.0


class Other(msgspec.Struct, tag="other"):
    content: Any = None


ONCE: FrameDecoder[Free | Other] = FrameDecoder(Free | Other, free_form=(Free,))
EDGES = [2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30]
NUMBERS = st.one_of(
    st.sampled_from([*EDGES, *(-edge for edge in EDGES), *map(float, EDGES), -0.0]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
TREES = st.recursive(
    NUMBERS | st.text(max_size=5) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


def nested(levels: int) -> Any:
    tree: Any = 1.0
    for _ in range(levels):
        tree = [tree]
    return tree


@given(TREES, NUMBERS, NUMBERS)
@example(nested(MAX_DEPTH - 1), 1, 1)
@example(nested(MAX_DEPTH), 1, 1)
@example("\u03b1", 1, 1)
@example([0] * 40_000, 1, 1)
def test_one_look_finds_what_two_find(tree: Any, limit: float, share: float) -> None:
    frame = json.dumps({"type": "free", "content": tree, "limit": limit, "share": share})
    assert repr(ONCE.decode(frame)) == repr(ONCE._second_look(frame.encode()))


@pytest.mark.parametrize("number", ["1e400", "-1e400", "[1e400]", "NaN", "Infinity", "1.", "01"])
def test_what_is_no_number_is_none_at_any_look(number: str) -> None:
    frame = f'{{"type":"free","content":{number}}}'
    assert repr(ONCE.decode(frame)) == repr(ONCE._second_look(frame.encode()))
