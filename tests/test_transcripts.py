"""The conversations in tests/transcripts/ are the ones that are held."""

from collections.abc import Callable

import pytest

from tests.pair import Pair
from tests.transcripts import FOLDER, SCENARIOS, written


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_conversation_goes_as_written(scenario: Callable[[], Pair]) -> None:
    assert written(scenario) == (FOLDER / f"{scenario.__name__}.txt").read_text()


def test_there_is_no_transcript_that_nobody_holds() -> None:
    names = {path.stem for path in FOLDER.iterdir()}
    assert names == {scenario.__name__ for scenario in SCENARIOS}
