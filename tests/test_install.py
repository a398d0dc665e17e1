"""scripts/install: what it says it would do, what it does, and that it takes it away again."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def install(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts" / "install"), "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def actions(output: str) -> list[str]:
    """What it printed before its advice; comments say what it leaves alone."""
    lines = output.partition("\n\n")[0].splitlines()
    return [line for line in lines if not line.startswith("#")]


def files(root: Path) -> set[str]:
    """Without what is inside the environment."""
    return {
        str(Path(directory, name).relative_to(root))
        for directory, _, names in os.walk(root)
        for name in names
        if "opt/relay" not in directory
    }


def test_what_is_installed_runs_and_is_taken_away_again(tmp_path: Path) -> None:
    announced = install(tmp_path, "--dry-run")
    assert announced.returncode == 0, announced.stderr
    assert list(tmp_path.iterdir()) == []

    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    assert actions(done.stdout) == actions(announced.stdout)
    units = {"etc/systemd/system/relay.service", "etc/systemd/system/relay.socket"}
    assert files(tmp_path) == {"etc/relay/relay.toml", "usr/local/bin/relay", *units}
    assert os.readlink(tmp_path / "usr/local/bin/relay") == "/opt/relay/bin/relay"
    check = [str(tmp_path / "opt/relay/bin/relay"), "check", "--upstream", "simulator"]
    settings = ["--config", str(tmp_path / "etc/relay/relay.toml")]
    # From elsewhere: what runs is what was installed, not this checkout.
    ran = subprocess.run([*check, *settings], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "a session was created" in ran.stdout
    package = next((tmp_path / "opt/relay/lib").glob("python3.*/site-packages/relay"))
    assert (package / "tokens.py").is_file()
    for path in package.parent.rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044, f"{path} is not for the service to read"

    assert (tmp_path / "etc/relay/credentials").stat().st_mode & 0o777 == 0o700

    edited = tmp_path / "etc/relay/relay.toml"
    edited.write_text("[log]\nlevel = 'debug'\n")
    again = install(tmp_path)
    assert again.returncode == 0, again.stderr
    assert edited.read_text() == "[log]\nlevel = 'debug'\n"

    before = files(tmp_path)
    announced = install(tmp_path, "--remove", "--dry-run")
    assert files(tmp_path) == before
    done = install(tmp_path, "--remove")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == announced.stdout
    assert files(tmp_path) == {"etc/relay/relay.toml"}
    assert not (tmp_path / "opt/relay").exists()
    assert install(tmp_path, "--remove", "--purge").returncode == 0
    assert files(tmp_path) == set()
    assert not (tmp_path / "etc/relay").exists()


@pytest.mark.parametrize("place", ["opt/relay/precious", "usr/local/bin/relay"])
def test_what_is_not_ours_is_neither_overwritten_nor_removed(tmp_path: Path, place: str) -> None:
    precious = tmp_path / place
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    refused = install(tmp_path)
    assert refused.returncode == 1
    assert "is there and is not ours" in refused.stderr
    assert files(tmp_path) | {place} == {place}
    assert install(tmp_path, "--remove").returncode == 0
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--nope"], "--nope: unknown"), (["--purge"], "--purge: only with --remove")],
    ids=["unknown", "purge"],
)
def test_a_wrong_option_does_nothing(tmp_path: Path, arguments: list[str], reason: str) -> None:
    refused = install(tmp_path, *arguments)
    assert refused.returncode == 2
    assert reason in refused.stderr
    assert list(tmp_path.iterdir()) == []
