"""Whatever breaks, whenever: in the end the conversation is what it would have been.

Either socket and the process itself, at every frame and every dial of recorded conversations, once
(all of them) and any number of times (as many as Hypothesis tries).
"""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.cuts import (
    CONVERSATIONS,
    FIRST,
    Conversation,
    Cut,
    barge_in,
    check,
    cut,
    two_at_once,
    uncut,
    voice,
)

CONTINUITY = ("C-186", "C-244", "C-245", "C-246", "C-257", "C-258", "C-260", "C-261")
named = pytest.mark.parametrize(
    "conversation", CONVERSATIONS, ids=lambda conversation: conversation.__name__
)


@named
def test_a_conversation_that_is_not_cut_ends_well(conversation: Conversation) -> None:
    check(uncut(conversation), uncut(conversation))


@pytest.mark.conformance(*CONTINUITY)
@pytest.mark.parametrize("kind", Cut, ids=lambda kind: kind.name.lower())
@named
def test_one_cut_anywhere_changes_nothing_in_the_end(conversation: Conversation, kind: Cut) -> None:
    reference = uncut(conversation)
    for moment in range(FIRST, reference.moments + 1):
        check(cut(conversation, {moment: kind}), reference)


moments = st.integers(FIRST, 400)


@pytest.mark.conformance(*CONTINUITY)
@given(
    st.sampled_from(CONVERSATIONS),
    st.dictionaries(moments, st.sampled_from(Cut), min_size=2, max_size=6),
)
@example(voice, {8: Cut.CLIENT, 37: Cut.UPSTREAM})
@example(two_at_once, {9: Cut.CLIENT, 18: Cut.KILLED})
@example(two_at_once, {38: Cut.UPSTREAM, 40: Cut.CLIENT_SETTINGS})
@example(barge_in, {45: Cut.UPSTREAM, 65: Cut.CLIENT})
@example(barge_in, {91: Cut.UPSTREAM, 100: Cut.CLIENT_SETTINGS})
@example(barge_in, {44: Cut.CLIENT_SETTINGS, 58: Cut.UPSTREAM, 72: Cut.UPSTREAM})
@settings(max_examples=60, deadline=None)
def test_any_number_of_cuts_changes_nothing_in_the_end(
    conversation: Conversation, cuts: dict[int, Cut]
) -> None:
    check(cut(conversation, cuts), uncut(conversation))
