"""Which URLs the relay may call for a client: those on the list and what is below them, however
they are read."""

import posixpath
import string
import urllib.parse

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.settings.endpoints import is_listable, is_listed, place

conformance = pytest.mark.conformance

LISTED = ("https://fns.test/v1", "http://127.0.0.1:8000", "https://[::1]:8443/a/b/")


@conformance("C-172")
@pytest.mark.parametrize(
    "url",
    [
        "https://fns.test/v1",
        "https://fns.test:443/v1/",
        "HTTPS://FNS.TEST/v1/weather?q=a/../b&x=%2e%2e",
        "https://fns.test/v1//x",
        "https://fns.test/v1/@me/a%20b/%C3%BC/.well-known/...",
        "https://fns.test/v1?x",
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8000/anything",
        "http://127.0.0.1:8000?x=1",
        "https://[::1]:8443/a/b",
        "https://[::1]:8443/a/b/c",
    ],
)
def test_what_is_at_or_below_a_listed_url_is_listed(url: str) -> None:
    assert is_listed(url, LISTED)


@conformance("C-172")
@pytest.mark.parametrize(
    "url",
    [
        # elsewhere
        "https://fns.test",
        "https://fns.test/",
        "https://fns.test/v10",
        "https://fns.test/V1",
        "https://fns.test//v1",
        "http://fns.test/v1",
        "https://fns.test:8443/v1",
        "https://fns.test.evil.example/v1",
        "https://fns.test./v1",
        "https://a.fns.test/v1",
        "http://127.0.0.1:8001/",
        "http://127.0.0.1/",
        "http://127.1:8000/",
        "http://localhost:8000/",
        "https://[::1]:8443/a",
        "https://[0:0:0:0:0:0:0:1]:8443/a/b",
        # disguised
        "https://fns.test@evil.example/v1",
        "https://fns.test:443@evil.example/v1",
        "https://me:pw@fns.test/v1",
        "https://@fns.test/v1",
        "https://evil.example\\@fns.test/v1",
        "https://fns.test\\.evil.example/v1",
        "https://fns.test#@evil.example/v1",
        "https://fns.test/v1#x",
        "https://fns%2etest/v1",
        "https://fns。test/v1",
        "https://fns.tеst/v1",
        "http\u017f://fns.test/v1",
        "https:/fns.test/v1",
        "https:fns.test/v1",
        "//fns.test/v1",
        "fns.test/v1",
        "ftp://fns.test/v1",
        "https://fns.test:/v1",
        "https://fns.test:0443x/v1",
        "https://fns.test:\u0664\u0664\u0663/v1",
        "https://fns.test:65979/v1",
        " https://fns.test/v1",
        "https://fns.test/v1 ",
        "https://fns.test/v1\n",
        "https://fns.test/v1/\tx",
        "https://fns.test/v1/ x",
        # upwards
        "https://fns.test/v1/..",
        "https://fns.test/v1/../admin",
        "https://fns.test/v1/./../admin",
        "https://fns.test/v1/.",
        "https://fns.test/v1/%2e%2e/admin",
        "https://fns.test/v1/.%2E/admin",
        "https://fns.test/v1/..;/admin",
        "https://fns.test/v1/..%3bx/admin",
        "https://fns.test/v1/..%2fadmin",
        "https://fns.test/v1/x%2f..%2f..%2fadmin",
        "https://fns.test/v1/..%5cadmin",
        "https://fns.test/v1/..\\admin",
        "https://fns.test/v1/%252e%252e/admin",
        "https://fns.test/v1/%25252e%25252e/admin",
        "https://fns.test/v1/%c0%ae%c0%ae/admin",
        "https://fns.test/v1/%00",
        "https://fns.test/v1/%0d%0aX:1",
        "https://fns.test/v1/%",
        "https://fns.test/v1/%zz",
        "",
    ],
)
def test_what_is_elsewhere_or_disguised_or_leads_upwards_is_not_listed(url: str) -> None:
    assert not is_listed(url, LISTED)


def test_nothing_is_listed_by_an_empty_list_or_by_nonsense() -> None:
    assert not is_listed("https://fns.test", ())
    assert not is_listed("https://fns.test", ("", "fns.test", "https://", "https://fns.test#"))


@pytest.mark.parametrize(
    ("url", "listable"),
    [
        ("https://fns.test", True),
        ("http://10.0.0.1:8000/a/", True),
        ("http://my_service", True),
        ("https://fns.test/a?b", False),
        ("https://fns.test/../a", False),
        ("https://me@fns.test", False),
        ("https://*.fns.test", False),
        (f"https://{'a' * 64}.test", False),
        (f"https://{'a.' * 126}aa", False),
        (f"https://{'a.' * 126}a", True),
    ],
)
def test_only_a_plain_url_can_be_on_the_list(url: str, listable: bool) -> None:
    assert is_listable(url) is listable


SEGMENTS = st.text(string.ascii_letters + string.digits + "-_~.", min_size=1).filter(
    lambda text: set(text) != {"."}
)
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda segments: "".join(f"/{s}" for s in segments))
HOSTS = st.sampled_from(["fns.test", "127.0.0.1", "[::1]", "a-b.c_d"])
PORTS = st.sampled_from(["", ":443", ":80", ":8443"])
SCHEMES = st.sampled_from(["http", "https"])
BASES = st.builds("{}://{}{}{}".format, SCHEMES, HOSTS, PORTS, PATHS)
MARKS = st.sampled_from(["/", "//", ".", "..", "../", "/..", "\\", ";", "..;/", "@", ":", "#", "?"])
WORDS = st.sampled_from(["[", "]", "&", "=", "1", "a", "evil.test", ":443"])
ENCODED = st.sampled_from(
    ["%2e", "%2E%2e", "%2f", "%5c", "%3b", "%252e", "%c0%ae", "%00", "%", "\u2044", "\uff0e"]
)


@given(BASES, PATHS, st.sampled_from(["", "/", "?", "?a=b/../c"]))
def test_every_plain_path_below_a_listed_url_is_listed(base: str, path: str, end: str) -> None:
    assert is_listable(base)
    assert is_listed(base + path + end, [base])
    assert is_listed(base + path + end, [base + "/"])


@given(st.data())
def test_what_is_listed_is_there_however_it_is_read(data: st.DataObject) -> None:
    """Whatever is done to a URL: if it is still listed, then the library that makes the request,
    and a server that decodes as often as it likes, find it below the listed one."""
    base = data.draw(BASES, "base")
    url = base
    for _ in range(data.draw(st.integers(1, 5), "tricks")):
        at = data.draw(st.integers(0, len(url)), "at")
        trick = data.draw(MARKS | WORDS | ENCODED | st.text(max_size=2), "trick")
        url = url[:at] + trick + url[at:]
    if not is_listed(url, [base]):
        return
    there, listed = httpx2.URL(url), place(base)
    assert listed is not None
    port = there.port or {"http": 80, "https": 443}[there.scheme]
    assert (there.scheme, there.host.strip("[]"), port) == (
        listed.scheme,
        listed.host.strip("[]"),
        listed.port,
    )
    assert there.userinfo == b""
    assert there.fragment == ""
    path = there.raw_path.decode().partition("?")[0]
    for _ in range(4):
        path = urllib.parse.unquote(path, errors="replace").replace("\\", "/")
    path = "/".join(segment.partition(";")[0] for segment in path.split("/"))
    above = "/".join(segment.partition(";")[0] for segment in ("", *listed.path)).rstrip("/")
    real = posixpath.normpath(f"/{path}").replace("//", "/")
    assert f"{real}/".startswith(f"{posixpath.normpath(f'/{above}')}/".replace("//", "/"))


@given(st.text(alphabet=st.characters(max_codepoint=0x2FFF)) | st.text(string.printable))
def test_no_text_is_listed_that_is_no_url_or_breaks_the_reader(text: str) -> None:
    there = place(text)
    assert there is None or text.isascii()
    assert not is_listed(text, ["https://fns.test/v1"]) or text.lower().startswith(
        "https://fns.test"
    )


@given(st.from_regex(r"https?://[A-Za-z0-9._-]{1,80}(:[0-9]{1,5})?(/[!-~]*)?", fullmatch=True))
def test_the_library_finds_the_same_host_in_every_url_that_we_read(url: str) -> None:
    there = place(url)
    if there is None:
        return
    try:
        read = httpx2.URL(url)
    except httpx2.InvalidURL:
        return
    assert read.host.lower() == there.host
