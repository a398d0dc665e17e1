"""The demonstration of scripts/life: it lives, and it would notice a loss."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from relay import realtime

LIBRARY = Path(__file__).parent.parent / "scripts" / "life_lib"


def lives(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LIBRARY / "life.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.conformance("C-185", "C-240", "C-249", "C-251", "C-254", "C-260")
def test_conversations_outlive_everything_and_nothing_of_them_is_lost() -> None:
    done = lives("--many", "4", "--minutes", "15", "--upstream-minutes", "5", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)
    assert [each["lost"] for each in outcomes] == [[]] * 4
    assert sum(each["rollovers"] for each in outcomes) >= 4
    assert sum(len(each["faults"]) for each in outcomes) >= 14
    assert all(s < 30 for each in outcomes for s in each["silence_s"].values())
    rolled = [s for each in outcomes for kind, s in each["silence_s"].items() if "planned" in kind]
    assert rolled
    assert all(s < 0.1 for s in rolled)


def test_the_same_seed_is_the_same_life() -> None:
    once, again = (
        lives("--minutes", "10", "--faults", "killed=1", "--seed", "7") for _ in range(2)
    )
    assert once.stdout.rpartition("\n\n")[0] == again.stdout.rpartition("\n\n")[0]
    assert "relay killed" in once.stdout


def test_what_cannot_break_is_refused() -> None:
    done = lives("--faults", "moon=1")
    assert done.returncode == 2
    assert "moon" in done.stderr


def message(role: str, text: str) -> realtime.Item:
    part = realtime.ContentPart(type="input_text", text=text)
    return realtime.Item(type="message", role=role, content=[part])


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LIBRARY))


@pytest.mark.usefixtures("library")
def test_what_is_missing_doubled_or_wrong_is_a_loss() -> None:
    import life
    import world

    question, answer = "Question 1: tell me about the bread.", world.TOPICS["bread"]
    turns = [world.Turn(question, 0.0, heard=[(1.0, 2.0)])]
    whole = [message("user", question), message("assistant", answer)]
    assert list(life.missing(turns, whole)) == []
    for known in (
        [],
        whole[:1],
        whole[1:],
        [*whole, whole[0]],
        [*whole, whole[1]],
        [whole[0], message("assistant", "You said: bread")],
        [whole[0], message("assistant", answer[:10])],
    ):
        assert list(life.missing(turns, known)), known
    output = realtime.Item(type="function_call_output", output="1 past noon")
    assert list(life.missing(turns, [*whole, output]))
