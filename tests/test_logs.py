"""Logs: JSON for machines, text for people, exceptions whole and without anybody's data."""

import io
import json
import logging
from typing import Any

import pytest
import structlog

from relay import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_when_no_terminal_reads_it() -> None:
    stream = io.StringIO()
    logs.set_up(stream=stream)
    structlog.get_logger().info("listening", url="ws://127.0.0.1:1", text="a\nb")
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert {k: v for k, v in line.items() if k != "timestamp"} == {
        "event": "listening",
        "level": "info",
        "url": "ws://127.0.0.1:1",
        "text": "a\nb",
    }


def test_a_terminal_gets_text_unless_json_is_asked_for() -> None:
    terminal = Terminal()
    logs.set_up(stream=terminal)
    structlog.get_logger().info("listening")
    assert "listening" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    terminal = Terminal()
    logs.set_up(form="json", stream=terminal)
    structlog.get_logger().info("listening")
    assert lines(terminal)[0]["event"] == "listening"


def test_text_can_be_asked_for_where_no_terminal_is() -> None:
    stream = io.StringIO()
    logs.set_up(form="console", stream=stream)
    structlog.get_logger().info("listening")
    assert not stream.getvalue().startswith("{")
    assert "\x1b" not in stream.getvalue()


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.set_up("warning", stream=stream)
    log = structlog.get_logger()
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def fail(secret: str) -> None:
    assert secret
    try:
        int("cause")
    except ValueError as cause:
        raise ExceptionGroup(
            "both pumps", [ValueError("left"), ExceptionGroup("", [KeyError("right")])]
        ) from cause


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("form", ["json", "console"])
def test_every_member_of_an_exception_group_comes_out_and_no_local_variable(
    form: logs.Format, level: logs.Level
) -> None:
    stream = io.StringIO()
    logs.set_up(level, form, stream)
    try:
        fail("sk-" + "planted")
    except ExceptionGroup as group:
        structlog.get_logger().error("stopped by a failure", exc_info=group)
    written = stream.getvalue()
    assert all(text in written for text in ("ExceptionGroup", "ValueError", "KeyError"))
    for words in ("both pumps", "'cause'", "left", "right"):  # may be a client's
        assert (words in written) == (level == "debug")
    assert "test_logs.py" in written
    assert "sk-planted" not in written
    if form == "json":
        (line,) = lines(stream)
        group_, _cause = line["exception"]
        assert len(group_["exceptions"]) == 2


def test_lines_of_libraries_have_the_same_form() -> None:
    stream = io.StringIO()
    logs.set_up(stream=stream)
    logging.getLogger("trio.serve_listeners").error("accept returned %s", "EMFILE")
    logging.getLogger("trio.serve_listeners").info("noise")
    (line,) = lines(stream)
    assert line["event"] == "accept returned EMFILE"
    assert line["logger"] == "trio.serve_listeners"


@pytest.mark.parametrize(
    "logger", ["trio.serve_listeners", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_a_full_descriptor_table_or_a_collector_that_is_gone_is_told_now_and_then_and_in_a_line(
    logger: str,
) -> None:
    stream = io.StringIO()
    logs.set_up(form="json", stream=stream)
    reports = logging.getLogger(logger)
    full = OSError(24, "Too many open files")
    why = (OSError, full, None)
    for second in (0.0, 0.1, 9.9, 10.0, 10.1):
        record = reports.makeRecord(reports.name, logging.ERROR, "", 0, "no more", (), why)
        record.created = second
        reports.handle(record)
    assert [line["event"] for line in lines(stream)] == ["no more"] * 2
    assert not any("exception" in line for line in lines(stream))


def test_setting_up_again_moves_loggers_that_exist() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up(stream=first)
    log = structlog.get_logger()
    logs.set_up(stream=second)
    log.info("listening")
    logging.getLogger("library").warning("hm")
    assert first.getvalue() == ""
    assert len(lines(second)) == 2


def test_a_reader_that_went_away_ends_nothing() -> None:
    logs.set_up(stream=Broken())
    structlog.get_logger().info("listening")
    logging.getLogger("library").warning("hm")


def test_context_is_part_of_every_line() -> None:
    stream = io.StringIO()
    logs.set_up(stream=stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().info("opened")
    structlog.get_logger().info("idle")
    assert [line.get("request_id") for line in lines(stream)] == ["r1", None]
