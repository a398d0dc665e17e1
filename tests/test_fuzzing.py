"""What `scripts/fuzz` starts from and what it has found holds for good: tests/corpus, a directory
for each target, a file for each input."""

from pathlib import Path

import pytest

from tests.fuzzing import TARGETS

CORPUS = Path(__file__).with_name("corpus")
INPUTS = sorted(CORPUS.glob("*/*"))


def test_every_target_has_inputs_and_every_input_a_target() -> None:
    assert {file.parent.name for file in INPUTS} == set(TARGETS)


@pytest.mark.parametrize("file", INPUTS, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_an_input_keeps_what_is_promised(file: Path) -> None:
    TARGETS[file.parent.name](file.read_bytes())
