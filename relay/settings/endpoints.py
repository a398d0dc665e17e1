"""endpoints: which URLs the relay may call for a client, and how.

It knows the text of URLs and nothing of names, addresses or requests. What a URL leads to is
decided by libraries, proxies and servers that each read it a little differently, so only URLs
that all of them read alike can be on a list at all: a narrow ASCII grammar, and nothing encoded
that could mean a separator. Whatever else a client has is left to the client to call.
"""

import re
import urllib.parse
from collections.abc import Iterable

import msgspec

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""What a function's endpoint may be called with."""
PORTS = {"http": 80, "https": 443}

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"  # pchar of RFC 3986
_URL = re.compile(
    rf"(?P<scheme>(?i:https?))://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])"
    rf"(?::(?P<port>[0-9]{{1,5}}))?(?P<path>(?:/{_CHARACTER}*)*)"
    rf"(?:\?(?P<query>(?:{_CHARACTER}|[/?])*))?",
    re.ASCII,  # else (?i:s) is also U+017F
)
_MAX_HOST = 253


class Place(msgspec.Struct, frozen=True):
    """A URL, read."""

    scheme: str
    host: str
    """Lower case; an IPv6 address has its brackets."""
    port: int
    path: tuple[str, ...]
    """The segments, as they are written."""
    query: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def place(url: str) -> Place | None:
    """Where `url` leads, or None if it is no http or https URL that all read alike."""
    read = _URL.fullmatch(url)
    if read is None or len(read["host"]) > _MAX_HOST:
        return None
    scheme = read["scheme"].lower()
    port = int(read["port"]) if read["port"] else PORTS[scheme]
    path = tuple(read["path"].split("/")[1:])
    if not 0 < port < 2**16 or not all(map(_is_plain, path)):
        return None
    return Place(scheme, read["host"].lower(), port, path, read["query"] or "")


def is_listable(url: str) -> bool:
    """Whether `url` can stand on a list of endpoints: it has no query, which would not count."""
    return "?" not in url and place(url) is not None


def is_listed(url: str, listed: Iterable[str]) -> bool:
    """Whether `url` is one of `listed` or below one: same scheme, host and port, and the same
    leading segments of the path. As text, `https://api.example` would also be the start of
    `https://api.example.evil.example`."""
    there = place(url)
    return there is not None and any(_is_below(there, place(each)) for each in listed)


def _is_below(there: Place, base: Place | None) -> bool:
    if base is None or there.origin != base.origin:
        return False
    above = base.path[:-1] if base.path[-1:] == ("",) else base.path  # a slash at the end
    return there.path[: len(above)] == above


def _is_plain(segment: str) -> bool:
    """Whether the segment means itself, however often and by whom it is decoded: no dots that go
    up (`..;x` does in servers that cut parameters), no separator, control or percent sign inside,
    no bytes that only a careless decoder makes a dot of."""
    try:
        text = urllib.parse.unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return False
    dots = text.partition(";")[0] in (".", "..")
    return text.isprintable() and not dots and not set(text) & set("/\\%")
