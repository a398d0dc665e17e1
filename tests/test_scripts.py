"""scripts: what they say on a machine that lacks what they need. One line, and no success.

What they do where everything can be had is not looked at here: it takes minutes and a network.
"""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory of commands in which there is what a shell script uses, and nothing more."""
    for name in ("bash", "env", "dirname", "realpath", "mktemp", "rm", "id", "cat"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    return tmp_path


def run(path: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script, *arguments = command
    return subprocess.run(
        [str(ROOT / "scripts" / script), *arguments],
        env={"PATH": str(path), "HOME": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def pretended_python(directory: Path, name: str, *, fails_at: str) -> None:
    """One that can do everything but run code with `fails_at` in it."""
    python = directory / name
    python.write_text(f'#!/bin/sh\ncase "$*" in *{fails_at}*) exit 1 ;; esac\n')
    python.chmod(0o755)


@pytest.mark.parametrize("script", ["setup", "run", "test", "check", "soak", "fuzz", "autobahn"])
@pytest.mark.parametrize("python", ["none", "old"])
def test_without_a_python_the_one_line_says_which_is_needed(
    bare: Path, script: str, python: str
) -> None:
    if python == "old":
        pretended_python(bare, "python3", fails_at="version_info")
    done = run(bare, script)
    assert done.returncode == 1
    assert done.stderr == "scripts/setup: needs Python 3.11 or newer; name one with PYTHON=...\n"


def test_a_newer_python_beside_an_old_one_is_found(bare: Path) -> None:
    pretended_python(bare, "python3", fails_at="version_info")
    (bare / "python3.12").symlink_to(os.path.realpath(ROOT / ".venv/bin/python"))
    done = run(bare, "setup", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_python_that_makes_no_environments_is_told_apart(bare: Path, tmp_path: Path) -> None:
    pretended_python(bare, "python3", fails_at="ensurepip")
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    (checkout / "scripts/setup").write_bytes((ROOT / "scripts/setup").read_bytes())
    done = subprocess.run(
        ["/usr/bin/bash", str(checkout / "scripts/setup")],
        env={"PATH": str(bare)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "scripts/setup: python3 has no venv; on Debian it is in the package python3-venv\n"
    )


def test_an_unit_is_not_judged_without_systemd(bare: Path) -> None:
    done = run(bare, "check-unit")
    assert done.returncode == 1
    assert done.stderr == "scripts/check-unit: needs systemd-analyze, of the package systemd\n"


@pytest.mark.parametrize("room", [[], ["wire"]], ids=["none", "another"])
def test_what_has_no_mutants_is_not_looked_for(bare: Path, room: list[str]) -> None:
    done = run(bare, "mutate", *room)
    assert done.returncode == 2
    assert done.stderr == "scripts/mutate: which room? session or settings\n"
