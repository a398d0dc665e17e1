"""The conversations in tests/transcripts/ are the ones that are held."""

from collections.abc import Callable

import pytest

from tests.pair import Pair
from tests.transcripts import FOLDER, SCENARIOS, written

PROVES = {
    "old_age": ("C-185", "C-186", "C-240"),
    "another_voice": ("C-240",),
    "upstream_lost": ("C-186", "C-245"),
    "failover": ("C-186",),
    "client_back": ("C-246", "C-249", "C-257", "C-261"),
    "client_back_with_settings": ("C-244", "C-254", "C-258"),
    "relay_killed": ("C-245", "C-260"),
    "endpoint_call_lost": ("C-259", "C-260"),
}
"""Statements that can be read off a conversation."""


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(
            scenario,
            id=scenario.__name__,
            marks=[pytest.mark.conformance(*numbers)] if numbers else [],
        )
        for scenario, numbers in ((s, PROVES.get(s.__name__)) for s in SCENARIOS)
    ],
)
def test_a_conversation_goes_as_written(scenario: Callable[[], Pair]) -> None:
    assert written(scenario) == (FOLDER / f"{scenario.__name__}.txt").read_text()


def test_there_is_no_transcript_that_nobody_holds() -> None:
    names = {path.stem for path in FOLDER.iterdir()}
    assert names == {scenario.__name__ for scenario in SCENARIOS}
