"""The search for secrets in what tests log bites: in runs of their own, with secrets planted."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """
import logging, pytest, structlog
from relay import realtime, voice_agent
from relay.session import Admission, Session, SessionOptions
from relay.settings import MappingOptions
from tests import planted
log = structlog.get_logger()

@pytest.fixture(autouse=True)
def conversation():
    session = Session(
        options=SessionOptions(), mapping=MappingOptions(), admission=Admission("r1")
    )
    session.opened(0.0, 0.0)
    session.client_message(voice_agent.InjectUserMessage("My name is Ann Example."), 0.0)
    session.upstream_event(
        1,
        realtime.ConversationItemInputAudioTranscriptionCompleted(
            event_id="e", item_id="i", content_index=0, transcript="I live in Planted Street."
        ),
        0.0,
    )

def fails():
    raise RuntimeError("My name is Ann Example.")
"""

BREACHES = {
    'log.info("refused", key="sk-planted")': "a key",
    'log.warning("refused", about={"deep": ["planted-secret-7"]})': "a key",
    'log.info("heard I live in Planted Street.")': "a transcript",
    'log.bind(said="My name is Ann Example.").info("x")': "a user's text",
    'with structlog.contextvars.bound_contextvars(k="ek-bound"): log.info("x")': "a key",
    "with pytest.raises(RuntimeError), planted_log(): fails()": "a user's text",
    'logging.getLogger("lib").warning("used %s", "sk-library")': "a key",
    'planted.wrote(\'{"level": "info", "event": "Hello sk-process"}\')': "a key",
    "planted.wrote('RuntimeError: I live in Planted Street.')": "a transcript",
    'planted.secret("hunter2", "a password"); log.error("x", y="hunter2")': "a password",
}
HARMLESS = [
    'log.info("connected", session="s1")',
    'log.debug("heard I live in Planted Street.", key="sk-planted")',
    'planted.wrote(\'{"level": "debug", "event": "sk-planted"}\')',
    'logging.getLogger("lib").info("I live in Planted Street.")',
    'print("sk-planted")',
]
LOGGING = """
import contextlib

@contextlib.contextmanager
def planted_log():
    try:
        yield
    except RuntimeError:
        log.exception("failed")
        raise
"""


def run(tmp_path: Path, bodies: list[str]) -> tuple[int, str]:
    """The exit code of a run with these tests, and what it says."""
    tests = "".join(f"\ndef test_{n}():\n    {body}\n" for n, body in enumerate(bodies))
    file = tmp_path / "test_it.py"
    file.write_text(HEAD + LOGGING + tests)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = ["-q", "-p", "tests.planted", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", str(tmp_path / "pytest.ini"), str(file)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_secrets_in_the_log_fail_a_run_of_tests_that_pass_and_are_not_shown(tmp_path: Path) -> None:
    code, said = run(tmp_path, list(BREACHES))
    assert f"{len(BREACHES)} passed" in said, said
    assert code == 1
    shown = said.partition("secrets in the log")[2]
    for number, kind in enumerate(BREACHES.values()):
        assert f"{kind}, in test_it.py::test_{number}\n" in shown
    assert not any(word in shown for word in ("sk-", "ek-", "hunter", "Planted", "Ann"))


def test_one_is_enough(tmp_path: Path) -> None:
    assert run(tmp_path, [*HARMLESS, next(iter(BREACHES))])[0] == 1


def test_a_log_without_secrets_is_none_and_so_is_debug(tmp_path: Path) -> None:
    code, said = run(tmp_path, HARMLESS)
    assert code == 0, said
