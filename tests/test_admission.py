"""Admission: who may come in, from the head of the request alone."""

import hashlib

import pytest

from relay.admission import Admitted, Grant, Refused, admit, claim
from relay.config import Auth, Listen
from relay.session.facts import Dialect
from relay.wire import Request

KEYS = {hashlib.sha256(key.encode()).digest(): name for name, key in {"a": "k1", "b": "k2"}.items()}
OPEN = Auth()
KEYED = Auth(mode="keys")


def attempt(
    target: str = "/v1/agent/converse",
    auth: Auth = OPEN,
    protocols: str = "",
    **headers: str,
) -> Admitted | Refused:
    path, _, query = target.partition("?")
    head = {"host": "127.0.0.1:8080", "sec-websocket-protocol": protocols, **headers}
    request = Request("GET", path, query, head, "127.0.0.1")
    return admit(request, Listen(), auth, KEYS if auth.mode == "keys" else {})


def status(outcome: Admitted | Refused) -> int:
    return outcome.status if isinstance(outcome, Refused) else 101


@pytest.mark.conformance("C-001", "C-002", "C-010", "C-013")
@pytest.mark.parametrize(
    ("target", "dialect"),
    [
        ("/v1/agent/converse", Dialect.DEEPGRAM),
        ("/v1/agent/converse/", Dialect.DEEPGRAM),
        ("/v1/agent/converse?x=1&y", Dialect.DEEPGRAM),
        ("/openai", Dialect.COMPONENT),
        ("/openai/", Dialect.COMPONENT),
        ("/openai/?service=agent&traceId=1", Dialect.COMPONENT),
    ],
)
def test_the_path_says_which_dialect(target: str, dialect: Dialect) -> None:
    assert attempt(target) == Admitted(dialect)


@pytest.mark.conformance("C-003")
@pytest.mark.parametrize(
    "target",
    ["/", "", "/v1/agent", "/v1/agent/converse/x", "/V1/agent/converse", "//openai", "/openai%2f"],
)
def test_another_path_is_refused(target: str) -> None:
    assert status(attempt(target)) == 404


@pytest.mark.conformance("C-004", "C-005")
@pytest.mark.parametrize("scheme", ["Token", "token", "Bearer", "bearer", "BEARER"])
def test_a_key_is_accepted_under_either_scheme_in_any_case(scheme: str) -> None:
    outcome = attempt(auth=KEYED, authorization=f"{scheme} k2")
    assert outcome == Admitted(Dialect.DEEPGRAM, "b")


@pytest.mark.conformance("C-006")
@pytest.mark.parametrize(
    ("protocols", "selected"),
    [
        ("token,k1", "token"),
        ("bearer,k1", "bearer"),
        ("token,k1,x-deepgram-session-id,6f", "token"),
        ("x-deepgram-session-id,6f,bearer,k1", "bearer"),
    ],
)
def test_sub_protocols_are_pairs_and_the_scheme_alone_is_selected(
    protocols: str, selected: str
) -> None:
    outcome = attempt(auth=KEYED, protocols=protocols)
    assert outcome == Admitted(Dialect.DEEPGRAM, "a", selected)


@pytest.mark.conformance("C-006")
def test_the_scheme_is_selected_also_where_no_key_is_demanded() -> None:
    assert attempt(protocols="bearer,x") == Admitted(Dialect.DEEPGRAM, None, "bearer")
    assert attempt(protocols="x-deepgram-session-id,6f") == Admitted(Dialect.DEEPGRAM)


@pytest.mark.conformance("C-008")
def test_a_query_token_counts_in_the_dialects_that_take_it() -> None:
    assert attempt("/openai?a=1&token=k1", KEYED) == Admitted(Dialect.COMPONENT, "a")
    assert status(attempt("/v1/agent/converse?token=k1", KEYED)) == 401
    both = Auth(mode="keys", query_token=(Dialect.DEEPGRAM, Dialect.COMPONENT))
    assert status(attempt("/v1/agent/converse?token=k1", both)) == 101
    assert status(attempt("/openai?token=k1", Auth(mode="keys", query_token=()))) == 401


@pytest.mark.conformance("C-009")
@pytest.mark.parametrize(
    "authorization", ["", "Token", "Token ", "Token k3", "Token k", "Basic k1", "k1", "Tokenk1"]
)
def test_a_missing_or_wrong_credential_is_refused(authorization: str) -> None:
    assert status(attempt(auth=KEYED, authorization=authorization)) == 401
    assert status(attempt(auth=KEYED)) == 401


@pytest.mark.conformance("C-009")
@pytest.mark.parametrize("protocols", ["token", "k1", "token,k3", "k1,token", "x,token,k1"])
def test_a_wrong_pair_of_sub_protocols_is_refused(protocols: str) -> None:
    assert status(attempt(auth=KEYED, protocols=protocols)) == 401


def test_one_right_credential_among_wrong_ones_is_enough() -> None:
    assert status(attempt("/openai?token=k1", KEYED, authorization="Token old")) == 101


def test_a_credential_that_is_no_text_is_refused() -> None:
    assert status(attempt(auth=KEYED, authorization="Token \udcff")) == 401


LOOPBACK = ["http://localhost:3000", "https://LOCALHOST", "http://127.0.0.1", "http://[::1]:5173"]
ELSEWHERE = [
    "https://evil.example",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://localhost@evil.example",
    "http://0.0.0.0:8080",
    "null",
    "",
    "http://[",
    "http://localhost, https://evil.example",
]


@pytest.mark.conformance("C-010", "C-014")
def test_without_a_key_a_browser_comes_from_loopback_only() -> None:
    assert {origin: status(attempt(origin=origin)) for origin in LOOPBACK + ELSEWHERE} == {
        **dict.fromkeys(LOOPBACK, 101),
        **dict.fromkeys(ELSEWHERE, 403),
    }


@pytest.mark.conformance("C-014")
@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost:8080", 101),
        ("[::1]:8080", 101),
        ("rebound.example:8080", 403),
        ("192.168.1.5", 403),
        ("", 403),
    ],
)
def test_without_a_key_a_browser_names_a_loopback_host(host: str, code: int) -> None:
    assert status(attempt(origin="http://localhost:3000", host=host)) == code


def test_without_an_origin_the_host_does_not_matter() -> None:
    assert status(attempt(host="relay.internal")) == 101


def test_with_keys_any_origin_may_try() -> None:
    origin = "https://app.example"
    assert status(attempt(auth=KEYED, origin=origin, authorization="Token k1")) == 101
    assert status(attempt(auth=KEYED, origin=origin)) == 401


@pytest.mark.conformance("C-014")
@pytest.mark.parametrize("mode", ["none", "keys"])
def test_a_list_of_origins_is_all_that_counts(mode: str) -> None:
    auth = Auth(mode=mode, origins=("https://App.example/",))  # type: ignore[arg-type]  # parametrised
    key = "Token k1"
    assert status(attempt(auth=auth, origin="https://app.example", authorization=key)) == 101
    assert status(attempt(auth=auth, origin="http://localhost", authorization=key)) == 403
    assert status(attempt(auth=auth, authorization=key)) == 101
    anyone = Auth(mode="none", origins=("*",))
    assert status(attempt(auth=anyone, origin="https://any.example")) == 101


# Who may take up a conversation again.


def credentials(authorization: str, protocols: str = "") -> str:
    """Who it is, where k1 is a key, `t-` begins tokens without a name, and `n-` those with one."""

    def tokens(text: str, _wall: float) -> Grant | None:
        kind, _, name = text.partition("-")
        return {"t": Grant(None), "n": Grant(name)}.get(kind)

    head = {"authorization": authorization, "sec-websocket-protocol": protocols}
    request = Request("GET", "/v1/agent/converse", "", head, "127.0.0.1")
    outcome = admit(request, Listen(), KEYED, KEYS, tokens=tokens, wall=0.0)
    assert isinstance(outcome, Admitted)
    return claim(request, outcome).credentials


@pytest.mark.conformance("C-255")
def test_a_token_without_a_name_is_a_bearer_of_its_own_wherever_it_is_shown() -> None:
    assert credentials("Token t-1") == credentials("Bearer t-1")
    assert credentials("Token t-1") == credentials("", "bearer,t-1")
    assert credentials("Token t-1") != credentials("Token t-2")
    assert credentials("Token t-1") != credentials("Token n-token")
    assert "t-1" not in credentials("Token t-1")


@pytest.mark.conformance("C-255")
def test_a_name_is_the_same_bearer_with_each_of_its_tokens_and_keys() -> None:
    assert credentials("Token n-alice") == credentials("Bearer n-alice")
    assert credentials("Token n-a") == credentials("Token k1")
    assert credentials("Token n-a") != credentials("Token n-b")
