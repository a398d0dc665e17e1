"""websocket, held against wsproto: the same bytes mean the same to both, in whatever pieces they
come, and what one writes the other reads."""

import itertools
import struct
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from relay import websocket
from relay.websocket import End, Incoming

LIMIT = 1 << 20
LETTERS = "a\u00e9\u20ac\U0001f600"
"""One, two, three and four bytes long."""
KEYS = st.binary(min_size=4, max_size=4)
PAYLOADS = st.one_of(
    st.binary(max_size=300),
    st.sampled_from((125, 126, 127, 65535, 65536)).map(bytes),
    st.text(LETTERS, max_size=50).map(str.encode),
)
SERVER, CLIENT = False, True
ROLES = pytest.mark.parametrize("client", [SERVER, CLIENT], ids=["server", "client"])


def raw(first: int, payload: bytes, key: bytes | None, *, width: int | None = None) -> bytes:
    """A frame with any first byte, and its length written in any width."""
    length = len(payload)
    if width is None:
        width = 0 if length <= 125 else 2 if length <= 0xFFFF else 8
    head = {
        0: lambda: struct.pack("!BB", first, min(length, 127)),
        2: lambda: struct.pack("!BBH", first, 126, length & 0xFFFF),
        8: lambda: struct.pack("!BBQ", first, 127, length),
    }[width]()
    if key is None:
        return head + payload
    head = bytes((head[0], head[1] | 0x80)) + head[2:]
    repeated = int.from_bytes((key * (length // 4 + 1))[:length])
    return head + key + (int.from_bytes(payload) ^ repeated).to_bytes(length)


def in_pieces(data: bytes, places: list[int]) -> Iterator[bytes]:
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    for start, end in itertools.pairwise(cuts):
        yield data[start:end]


def heard(incoming: Incoming) -> tuple[list[str | bytes], list[tuple[websocket.Opcode, bytes]]]:
    return list(incoming.messages), incoming.controls


def ours(data: bytes, places: list[int], *, client: bool) -> Incoming:
    incoming = Incoming(masked=not client, max_message=LIMIT)
    for piece in in_pieces(data, places):
        incoming.feed(piece)
    return incoming


def theirs(data: bytes, *, client: bool) -> Incoming:
    """What wsproto makes of it, in our words."""
    told = Incoming(masked=not client, max_message=LIMIT)
    parts: list[str | bytes] = []
    protocol = FrameProtocol(client, [])
    protocol.receive_bytes(data)
    try:
        for frame in protocol.received_frames():
            match frame.opcode:
                case Opcode.CLOSE:
                    assert isinstance(frame.payload, tuple)
                    code, reason = frame.payload
                    told.end = End(int(code), reason or "", refused=False)
                case Opcode.PING | Opcode.PONG:
                    said = bytes(frame.payload)  # type: ignore[arg-type] # it is bytes
                    told.controls.append((websocket.Opcode(frame.opcode), said))
                case _:
                    parts.append(frame.payload)  # type: ignore[arg-type] # str or bytes
                    if frame.message_finished:
                        told.messages.append(parts[0][:0].join(parts))  # type: ignore[arg-type]
                        parts.clear()
    except ParseFailed as failed:
        told.end = End(int(failed.code), "", refused=True)
    return told


FIRST_BYTES = st.one_of(
    st.sampled_from((0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A)),
    st.integers(0, 255),
)
CLOSINGS = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.one_of(st.integers(990, 1020), st.integers(2990, 5010), st.integers(0, 65535)),
    st.text(LETTERS, max_size=20).map(str.encode) | st.binary(max_size=20),
)


@st.composite
def streams(draw: st.DrawFn, *, client: bool) -> bytes:
    """Frames that mostly obey the rules, and now and then one that does not."""
    data = b""
    for _ in range(draw(st.integers(0, 6))):
        first = draw(FIRST_BYTES)
        payload = draw(CLOSINGS if first == 0x88 else PAYLOADS)
        if first & 0x08 and len(payload) > 125 and draw(st.booleans()):
            payload = payload[:125]
        masks = not client if draw(st.integers(0, 19)) else client
        width = draw(st.sampled_from((2, 8))) if not draw(st.integers(0, 19)) else None
        if width is None or len(payload) <= 0xFFFF or width == 8:
            data += raw(first, payload, draw(KEYS) if masks else None, width=width)
    return data + draw(st.just(b"") | st.binary(max_size=12))


@ROLES
@given(data=st.data())
def test_any_stream_means_to_us_what_it_means_to_wsproto(client: bool, data: st.DataObject) -> None:
    assert_agreement(data.draw(streams(client=client)), client=client)


def assert_agreement(stream: bytes, *, client: bool) -> None:
    us, them = ours(stream, [], client=client), theirs(stream, client=client)
    if them.end is not None and not them.end.refused and them.end.code >= 5000:
        return  # wsproto lets codes pass that RFC 6455 gives to nobody
    if us.end is not None and us.end.refused and us.end.code == 1009:
        return  # wsproto has no bounds
    if us.end is not None and us.end.code == 1014:
        return  # wsproto does not know this one
    if (us.end is None) != (them.end is None):
        # We refuse by a frame's first bytes, wsproto when all of it has come; and it decodes the
        # text in part of a frame.
        stream += bytes(LIMIT)
        us, them = ours(stream, [], client=client), theirs(stream, client=client)
    if us.end is not None and us.end.refused and us.end.code == 1009:
        return  # a frame of more than the rest
    if us.end == End(1002, "a close frame has no valid code", refused=True):
        assert them.end is None or them.end.refused or them.end.code in (1004, *range(5000, 65536))
    elif us.end is None or them.end is None:
        assert us.end is them.end is None
    else:
        assert (us.end.code, us.end.refused) == (them.end.code, them.end.refused)
    assert heard(us) == heard(them)


@ROLES
@given(data=st.data(), places=st.lists(st.integers(0, 1 << 20), max_size=20))
def test_a_stream_means_the_same_in_any_pieces(
    client: bool, data: st.DataObject, places: list[int]
) -> None:
    stream = data.draw(streams(client=client))
    whole, cut = ours(stream, [], client=client), ours(stream, places, client=client)
    assert (heard(whole), whole.end) == (heard(cut), cut.end)


@ROLES
def test_a_stream_means_the_same_byte_by_byte(client: bool) -> None:
    key = None if client else b"\xde\xad\xbe\xef"
    stream = b"".join(
        (
            raw(0x82, bytes(range(256)) * 2, key),
            raw(0x01, "caf\u00e9 ".encode()[:4], key),
            raw(0x89, b"between", key),
            raw(0x80, "caf\u00e9 ".encode()[4:], key),
            raw(0x82, bytes(70_000), key),
            raw(0x88, b"\x03\xe8bye", key),
            raw(0x82, b"nobody hears this", key),
        )
    )
    incoming = ours(stream, list(range(len(stream))), client=client)
    assert heard(incoming) == (
        [bytes(range(256)) * 2, "caf\u00e9 ", bytes(70_000)],
        [(websocket.Opcode.PING, b"between")],
    )
    assert incoming.end == End(1000, "bye", refused=False)


@ROLES
@given(frame=PAYLOADS | st.text(LETTERS, max_size=400), key=KEYS)
@example(frame="", key=bytes(4))
@example(frame=bytes(65536), key=b"\xff" * 4)
def test_wsproto_reads_what_we_write(client: bool, frame: str | bytes, key: bytes) -> None:
    sent = websocket.message(frame, key if client else None)
    them = theirs(sent, client=not client)
    assert (list(them.messages), them.end) == ([frame], None)
    # It is also the same to the last bit, as far as it is not a matter of choice.
    protocol = FrameProtocol(client=False, extensions=[])
    assert websocket.message(frame, None) == bytes(protocol.send_data(frame))


@ROLES
@given(payload=st.binary(max_size=125), key=KEYS)
def test_wsproto_reads_our_pings_and_pongs(client: bool, payload: bytes, key: bytes) -> None:
    chosen = key if client else None
    them = theirs(
        websocket.ping(payload, chosen) + websocket.pong(payload, chosen), client=not client
    )
    ping, pong = websocket.Opcode.PING, websocket.Opcode.PONG
    assert them.controls == [(ping, payload), (pong, payload)]
    assert them.end is None


@ROLES
@given(
    # wsproto does not know 1014, which IANA does.
    code=st.integers(0, 5100).filter(lambda code: code != 1014),
    reason=st.text(LETTERS, max_size=200),
    key=KEYS,
)
def test_whatever_is_said_at_the_end_is_a_close_frame_that_may_be_sent(
    client: bool, code: int, reason: str, key: bytes
) -> None:
    end = theirs(websocket.close(code, reason, key if client else None), client=not client).end
    assert end is not None
    assert not end.refused
    assert end.code in (code, CloseReason.NO_STATUS_RCVD)
    assert reason.startswith(end.reason)
    if 3000 <= code < 5000:
        assert end.code == code
        assert len(reason.encode()) > 123 or end.reason == reason


@given(payload=st.binary(max_size=40), key=KEYS)
def test_a_masked_payload_masked_again_is_as_it_was(payload: bytes, key: bytes) -> None:
    assert websocket.masked(websocket.masked(payload, key), key) == payload


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (raw(0xC1, b"", None), 1002),
        (raw(0x83, b"", None), 1002),
        (raw(0x8B, b"", None), 1002),
        (raw(0x09, b"", None), 1002),
        (raw(0x89, bytes(126), None), 1002),
        (raw(0x80, b"", None), 1002),
        (raw(0x01, b"", None) + raw(0x81, b"", None), 1002),
        (raw(0x82, b"", bytes(4)), 1002),
        (raw(0x82, bytes(125), None, width=2), 1002),
        (raw(0x82, bytes(65535), None, width=8), 1002),
        (b"\x82\x7f" + bytes([0x80, 0, 0, 0, 0, 1, 0, 0]), 1002),
        (raw(0x88, b"\x03", None), 1002),
        *((raw(0x88, code.to_bytes(2, "big"), None), 1002) for code in (0, 999, 1004, 1005, 1006)),
        *((raw(0x88, code.to_bytes(2, "big"), None), 1002) for code in (1015, 1016, 2999, 5000)),
        (raw(0x88, b"\x03\xe8\xff", None), 1007),
        (raw(0x81, b"caf\xe9", None), 1007),
        (raw(0x81, b"caf\xc3", None), 1007),
        (raw(0x01, b"caf\xe9.", None), 1007),  # the rest need not come
        (raw(0x01, b"caf\xc3", None) + raw(0x80, b"", None), 1007),
        (b"\x82\x7f" + (LIMIT + 1).to_bytes(8, "big"), 1009),  # nor the payload
        (raw(0x02, bytes(LIMIT), None) + raw(0x00, b"", None) + raw(0x00, b"x", None), 1009),
    ],
)
def test_what_breaks_the_rules_is_refused_with_its_code(stream: bytes, code: int) -> None:
    incoming = ours(raw(0x82, b"before", None) + stream, [], client=True)
    incoming.feed(raw(0x82, b"behind", None))
    assert list(incoming.messages) == [b"before"]
    assert incoming.end is not None
    assert (incoming.end.code, incoming.end.refused) == (code, True)


def test_a_message_has_a_bounded_number_of_fragments() -> None:
    start, empty = raw(0x02, b"", None), raw(0x00, b"", None)
    most = 1 + LIMIT // 64
    fits = start + empty * (most - 2) + raw(0x80, b"x", None)
    assert list(ours(fits, [], client=True).messages) == [b"x"]
    incoming = ours(start + empty * (most - 1) + raw(0x80, b"x", None), [], client=True)
    assert incoming.end == websocket.End(1009, "a message has too many fragments", refused=True)
    assert not incoming.messages


def test_what_is_under_way_of_a_message_counts_as_far_as_it_was_announced() -> None:
    incoming = ours(raw(0x82, bytes(100), None), [], client=True)
    assert incoming.under_way == 0
    incoming.feed(raw(0x82, bytes(300), None)[:50])
    assert incoming.under_way == 304
    incoming.feed(raw(0x82, bytes(300), None)[50:] + raw(0x01, bytes(10), None))
    assert incoming.under_way == 10
    incoming.feed(raw(0x00, bytes(20), None)[:1])
    assert incoming.under_way == 12


def test_a_message_of_just_the_allowed_size_passes_whole_and_in_parts() -> None:
    big = bytes(LIMIT)
    parts = raw(0x02, big[1:], None) + raw(0x00, b"", None) + raw(0x80, big[:1], None)
    incoming = ours(raw(0x82, big, None) + parts, [], client=True)
    assert list(incoming.messages) == [big, big]
    assert incoming.end is None
