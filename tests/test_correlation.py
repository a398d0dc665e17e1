"""What a request says of itself, and what is not believed."""

import pytest

from relay.correlation import TRACESTATE_CHARS, Trace, read

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@pytest.mark.parametrize("given", ["a", "3f0c8e1e-7a52-4f0e", "lb:1/2+3=4~5@x_y.z", "x" * 128])
def test_a_request_id_is_kept_as_it_is(given: str) -> None:
    assert read({"x-request-id": given}).fields == {"request_id": given}


@pytest.mark.parametrize(
    "given", ["", " ", "a b", "a\tb", 'a"b', "é", "a, b", "x" * 129, "{}", "a\nb", "<script>"]
)
def test_what_is_no_request_id_was_not_said(given: str) -> None:
    assert read({"x-request-id": given}).fields == {}


def test_a_trace_is_read_and_passed_on() -> None:
    found = read({"traceparent": PARENT, "tracestate": "a=1,b=2"})
    assert found.trace == Trace(TRACE_ID, PARENT_ID, 1, "a=1,b=2")
    assert found.fields == {"trace_id": TRACE_ID}
    assert found.trace.sampled
    assert found.trace.headers == {"traceparent": PARENT, "tracestate": "a=1,b=2"}


def test_a_later_version_is_read_as_the_first_and_its_flags_are_not_passed_on() -> None:
    trace = read({"traceparent": f"cc-{TRACE_ID}-{PARENT_ID}-fe-what-the-future-will-be"}).trace
    assert trace is not None
    assert not trace.sampled
    assert trace.headers == {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}


@pytest.mark.parametrize(
    "given",
    [
        "",
        PARENT + "-more",
        PARENT + "-",
        PARENT + " ",
        PARENT.upper(),
        f"{PARENT}, {PARENT}",  # the header twice
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"0-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{TRACE_ID[1:]}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID[1:]}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-1",
        f"00-{TRACE_ID}-{PARENT_ID}-0g",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"cc-{TRACE_ID}-{PARENT_ID}-01.more",
    ],
)
def test_what_is_no_trace_was_not_said_and_its_state_neither(given: str) -> None:
    assert read({"traceparent": given, "tracestate": "a=1"}).trace is None


@pytest.mark.parametrize("state", ["", "a=\x7f", "é=1", "a=" + "x" * TRACESTATE_CHARS])
def test_a_trace_survives_a_state_that_is_none(state: str) -> None:
    trace = read({"traceparent": PARENT, "tracestate": state}).trace
    assert trace is not None
    assert trace.headers == {"traceparent": PARENT}
