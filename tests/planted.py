"""planted: no key, prompt, transcript or audio in the log at info or above, of any test.

A plugin of pytest. While the tests run it collects what they log, here and in the processes that
they start, and what the conversations in them are about; at the end none of the one may stand in
the other. It looks at what is handed to the loggers and changes nothing of it.

    secret   say that something is one, beyond what is found by itself
    wrote    hand in what a process has written to its log
"""

import functools
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from structlog._base import BoundLoggerBase

from relay import realtime, voice_agent
from relay.session import Session

KEY = re.compile(r"\b(?:sk|ek)-[\w-]{4,}|planted-secret[\w-]*")
"""What is a key by its looks. Tests that plant something call it `planted-secret`."""
SENTENCE = re.compile(r"(?=.*\s).{10,200}", re.DOTALL)
"""Of words that are spoken or prompted only such as are no everyday words of a log, too."""
QUIET = ("debug", "msg")

_secrets: dict[str, str] = {}
_lines: dict[str, str] = {}
_test = ""


def secret(text: str, kind: str) -> None:
    """`kind`: in a word or two, to be shown where the text is not."""
    _secrets.setdefault(text, kind)


def wrote(line: str) -> None:
    """One line of the log of a process."""
    try:
        level = json.loads(line).get("level", "")
    except (ValueError, AttributeError):
        level = ""  # a traceback, or whatever else: nobody should see it
    if level not in QUIET:
        _lines.setdefault(line, _test)


def breaches() -> list[str]:
    """Which kind of secret was logged by which test."""
    found = {f"a key, in {test}" for line, test in _lines.items() if KEY.search(line)}
    everything = "\n".join(_lines)
    for text, kind in _secrets.items():
        if text in everything:
            found |= {f"{kind}, in {test}" for line, test in _lines.items() if text in line}
    return sorted(found)


def _log(shown: object) -> None:
    _lines.setdefault(str(shown), _test)


def _spoken(said: object) -> Iterator[tuple[str | None, str]]:
    """The words of people and models in a message or event."""
    match said:
        case voice_agent.Settings():
            for word in re.findall(r'"(?:prompt|greeting|content)":"([^"]*)"', _json(said)):
                yield word, "a prompt, greeting or context"
        case voice_agent.UpdatePrompt(prompt=prompt):
            yield prompt, "a prompt"
        case voice_agent.InjectUserMessage(content=content):
            yield content, "a user's text"
        case voice_agent.InjectAgentMessage(message=message):
            yield message, "an agent's text"
        case realtime.ConversationItemInputAudioTranscriptionCompleted(transcript=transcript):
            yield transcript, "a transcript"
        case (
            realtime.ResponseOutputAudioTranscriptDone(transcript=transcript)
            | realtime.ResponseOutputTextDone(text=transcript)
        ):
            yield transcript, "an answer"
        case realtime.Error(error=error):
            yield error.message, "an upstream's words"
        case _:
            pass


def _json(message: voice_agent.Settings) -> str:
    return voice_agent.encode(message)


def _hearing(method: Callable[..., Any], at: int) -> Callable[..., Any]:
    @functools.wraps(method)
    def told(*arguments: Any, **more: Any) -> Any:
        for text, kind in _spoken(arguments[at]):
            if text and SENTENCE.fullmatch(text):
                secret(text, kind)
        return method(*arguments, **more)

    return told


def _collecting(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def logged(
        self: Any, method_name: str, event: str | None = None, *arguments: Any, **fields: Any
    ) -> Any:
        if method_name not in QUIET:
            bound = structlog.contextvars.get_contextvars()
            shown = {**self._context, **fields}
            fault = shown.pop("exc_info", None)
            if isinstance(fault, BaseException):
                shown["exception"] = "".join(traceback.format_exception(fault))
            elif fault:
                shown["exception"] = traceback.format_exc()
            _log(f"{method_name} {event} {arguments} {bound} {shown}")
        return method(self, method_name, event, *arguments, **fields)

    return logged


def _record(*arguments: Any, **more: Any) -> logging.LogRecord:
    """Lines of libraries, which come out from warning on."""
    record = logging.LogRecord(*arguments, **more)
    if record.levelno is not None and record.levelno >= logging.WARNING:  # None: a copy of one
        _log(f"{record.name} {record.getMessage()}")
    return record


@pytest.hookimpl
def pytest_configure() -> None:
    BoundLoggerBase._proxy_to_logger = _collecting(BoundLoggerBase._proxy_to_logger)  # type: ignore[method-assign]
    logging.setLogRecordFactory(_record)
    for name, at in (("client_message", 1), ("upstream_event", 2)):
        setattr(Session, name, _hearing(getattr(Session, name), at))


@pytest.hookimpl
def pytest_runtest_logstart(nodeid: str) -> None:
    global _test
    _test = nodeid


@pytest.hookimpl
def pytest_sessionfinish(session: pytest.Session) -> None:
    if breaches() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if found := breaches():
        terminalreporter.section("secrets in the log", red=True)
        for breach in found:
            terminalreporter.write_line(breach)
