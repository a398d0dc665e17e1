"""logs: what a log line looks like and where it goes.

JSON for machines, colours for a person at a terminal, always to standard error: standard output
belongs to what a command prints. It knows nothing of what is logged. The rule for all who log: no
key, prompt, transcript or audio at info or above.
"""

import contextlib
import hashlib
import io
import logging
import math
import sys
from functools import partial
from typing import Any, Literal, TextIO, cast

import structlog

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]


def set_up(level: Level = "info", form: Format = "auto", stream: TextIO | None = None) -> None:
    """Make `structlog.get_logger()` and the standard library's loggers write to `stream`
    (standard error). Harmless to repeat; loggers made before follow."""
    out = cast(TextIO, _Lasting(stream or sys.stderr))
    as_json = form == "json" or (form == "auto" and not out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    words = threshold <= logging.DEBUG
    if as_json:
        # Tracebacks as data, exception groups with every member.
        last = [
            structlog.processors.ExceptionRenderer(partial(_stacks, words=words)),
            _headed,
            structlog.processors.JSONRenderer(),
        ]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), exception_formatter=partial(_write_stacks, words=words)
            )
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _adopt_standard_loggers(shared, last, threshold, out)


def name_of(request_id: str) -> str:
    """What the log calls a connection. Not the `request_id` of its Welcome: with that, anybody who
    reads the log could come back to the conversation in its client's place. Whoever has the id
    finds the name: `printf %s ID | sha256sum | cut -c1-16`."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:16]


_TRANSFORMED = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


def _stacks(exc_info: structlog.typing.ExcInfo, *, words: bool) -> list[dict[str, Any]]:
    """Where and what. Without the locals of the frames, which hold keys and transcripts; and at
    info and above without the `words` of the exceptions, which may quote what they stumbled over:
    `invalid literal for int(): ...`."""
    stacks = _TRANSFORMED(exc_info)
    if not words:
        for stack in stacks:
            _silence(stack)
    return stacks


def _silence(stack: dict[str, Any]) -> None:
    stack["exc_value"], stack["exc_notes"], stack["syntax_error"] = "", [], None
    for member in stack["exceptions"]:
        for inner in member:
            _silence(inner)


def _write_stacks(out: TextIO, exc_info: structlog.typing.ExcInfo, *, words: bool) -> None:
    """For a person: the last line says what, those above it where."""
    for stack in reversed(_stacks(exc_info, words=words)):
        _write_stack(out, stack, "")


def _write_stack(out: TextIO, stack: dict[str, Any], indent: str) -> None:
    for frame in stack["frames"]:
        out.write(f"{indent}  {frame['filename']}:{frame['lineno']} in {frame['name']}\n")
    said = ": ".join(filter(None, [stack["exc_type"], stack["exc_value"]]))
    out.write(f"{indent}{said}\n")
    for member in stack["exceptions"]:
        for inner in reversed(member):
            _write_stack(out, inner, f"{indent}  | ")


def _headed(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """People read JSON lines too: what and when come first."""
    return {**{name: line.pop(name) for name in ("timestamp", "level", "event")}, **line}


class _Lasting(io.TextIOBase):
    """A stream that swallows lines which nobody can read any more: `relay 2>&1 | head` must not
    end the conversations that are going on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


class _Composed(logging.Filter):
    """Without a free descriptor trio says so ten times a second, and OpenTelemetry whenever its
    collector does not answer, each time with a traceback: whoever opens enough connections could
    fill a disk. Now and then is enough, and the message says all."""

    AGAIN_S = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != "trio.serve_listeners" and not record.name.startswith("opentelemetry."):
            return True
        record.exc_info = None
        due = record.created >= self._said.get(record.name, -math.inf) + self.AGAIN_S
        if due:
            self._said[record.name] = record.created
        return due


def _adopt_standard_loggers(
    shared: list[structlog.typing.Processor],
    last: list[structlog.typing.Processor],
    threshold: int,
    stream: TextIO,
) -> None:
    """Lines of libraries (trio.serve_listeners reports a full descriptor table there) come out in
    the same form. Below warning they are noise to whoever runs the relay."""
    handler = logging.StreamHandler(stream)
    handler.addFilter(_Composed())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
