"""Tokens: what counts as one, for how long and for whom; and what a forger tries.

Tokens are made here by hand, as the RFC says, so that the library is not its own witness.
"""

import base64
import hashlib
import hmac
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from relay import cli, config, server, wire
from relay.admission import MAX_CREDENTIALS, Admitted, Grant, Refused, admit
from relay.config import Auth, ConfigError, Listen, TokenKey
from relay.session.facts import Admission, Dialect
from relay.session.options import SessionOptions
from relay.tokens import Verifier, mint
from tests.test_server import AGENT, Talkers, refusal, serving

NOW = 1_800_000_000.0
SECRET = "a secret that is long enough for HS256"
ISSUER = Ed25519PrivateKey.generate()
PRIVATE = ISSUER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = ISSUER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

SHARED = Verifier(TokenKey("HS256", SECRET, "auth.token_secret_file"), "relay", 10.0)
SIGNED = Verifier(TokenKey("EdDSA", PUBLIC, "auth.token_public_key_file"), "relay", 10.0)

VALID: dict[str, Any] = {"aud": "relay", "exp": NOW + 60}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(claims: Any, **header: Any) -> str:
    head = json.dumps({"typ": "JWT", **header}).encode()
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return f"{base64url(head)}.{base64url(body)}"


def hs256(claims: Any, secret: str = SECRET, **header: Any) -> str:
    text = unsigned(claims, **{"alg": "HS256", **header})
    return f"{text}.{base64url(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"


def eddsa(claims: Any, key: Ed25519PrivateKey = ISSUER, **header: Any) -> str:
    text = unsigned(claims, **{"alg": "EdDSA", **header})
    return f"{text}.{base64url(key.sign(text.encode()))}"


# What counts.


def test_a_token_says_who_bears_it_from_where_and_for_how_long() -> None:
    assert SHARED(hs256(VALID), NOW) == Grant(None)
    full = {**VALID, "sub": "alice", "origin": "https://app.example", "session_minutes": 1.5}
    assert SHARED(hs256(full), NOW) == Grant("alice", ("https://app.example",), 90.0)
    assert SIGNED(eddsa(full), NOW) == Grant("alice", ("https://app.example",), 90.0)
    both = {**VALID, "origin": ["https://a.example", "https://b.example"]}
    assert SHARED(hs256(both), NOW) == Grant(None, ("https://a.example", "https://b.example"))


def test_one_audience_of_several_is_enough_and_other_claims_say_nothing() -> None:
    claims = {**VALID, "aud": ["other", "relay"], "iss": "x", "iat": NOW + 1e6, "jti": "1", "n": {}}
    assert SHARED(hs256(claims), NOW) == Grant(None)


@pytest.mark.parametrize(
    ("wall", "counts"),
    [
        (NOW - 10.1, False),
        (NOW - 10.0, True),
        (NOW, True),
        (NOW + 69.9, True),
        (NOW + 70.0, False),
        (math.inf, False),
    ],
)
def test_it_counts_from_nbf_to_exp_by_the_time_it_is_told_and_the_leeway(
    wall: float, counts: bool
) -> None:
    assert (SHARED(hs256({**VALID, "nbf": NOW}), wall) is not None) is counts


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW + 60},
        {"aud": "relay"},
        {**VALID, "aud": "other"},
        {**VALID, "aud": []},
        {**VALID, "aud": None},
        {**VALID, "exp": None},
        {**VALID, "exp": str(NOW + 60)},
        {**VALID, "exp": True},
        {**VALID, "exp": math.nan},
        {**VALID, "exp": [NOW]},
        {**VALID, "nbf": math.nan},
        {**VALID, "nbf": "0"},
        {**VALID, "sub": 1},
        {**VALID, "origin": 1},
        {**VALID, "origin": {"https://app.example": 1}},
        {**VALID, "session_minutes": 0},
        {**VALID, "session_minutes": -1},
        {**VALID, "session_minutes": "5"},
        {**VALID, "session_minutes": math.nan},
        {**VALID, "session_minutes": True},
        [],
        "relay",
        b"",
        b"{",
        b"\xff",
        b"[" * 6000,
    ],
    ids=repr,
)
def test_claims_that_are_missing_or_nonsense_are_no_token(claims: Any) -> None:
    assert SHARED(hs256(claims), NOW) is None
    assert SIGNED(eddsa(claims), NOW) is None


def test_an_enormous_expiry_is_no_accident() -> None:
    assert SHARED(hs256(b'{"aud":"relay","exp":1' + b"0" * 400 + b"}"), NOW) is None
    assert SHARED(hs256(b'{"aud":"relay","exp":1' + b"0" * 5000 + b"}"), NOW) is None


# What a forger tries.


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None])
@pytest.mark.parametrize("signature", ["", ".", ".AAAA"])
def test_an_unsigned_token_is_refused(alg: str | None, signature: str) -> None:
    token = unsigned(VALID, alg=alg) + signature
    assert SHARED(token, NOW) is None
    assert SIGNED(token, NOW) is None


def test_the_public_key_is_not_a_secret_to_sign_with() -> None:
    for text in (PUBLIC, PUBLIC.strip(), PUBLIC.rstrip("\n")):
        assert SIGNED(hs256(VALID, text), NOW) is None
        assert SIGNED(hs256(VALID, text, alg="EdDSA"), NOW) is None
    assert SHARED(eddsa(VALID), NOW) is None


def test_the_token_does_not_choose_the_algorithm_or_bring_a_key() -> None:
    digest = unsigned(VALID, alg="HS512")
    signature = base64url(hmac.digest(SECRET.encode(), digest.encode(), hashlib.sha512))
    assert SHARED(f"{digest}.{signature}", NOW) is None
    stranger = Ed25519PrivateKey.generate()
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": base64url(stranger.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)),
    }
    assert SIGNED(eddsa(VALID, stranger, jwk=jwk), NOW) is None
    assert SIGNED(eddsa(VALID, stranger, jku="https://evil.example/keys"), NOW) is None
    assert SHARED(hs256(VALID, "another secret that is long enough too"), NOW) is None


@pytest.mark.parametrize("verifier", [SHARED, SIGNED], ids=["HS256", "EdDSA"])
def test_a_token_that_was_changed_anywhere_is_refused(verifier: Verifier) -> None:
    token = hs256(VALID) if verifier is SHARED else eddsa(VALID)
    assert verifier(token, NOW) is not None
    head, body, _ = token.split(".")
    for place in range(len(head) + len(body) + 1):
        swapped = "A" if token[place] != "A" else "B"
        assert verifier(token[:place] + swapped + token[place + 1 :], NOW) is None, place
    assert verifier(f"{head}.{body}.", NOW) is None
    assert verifier(f"{head}.{body}", NOW) is None


def test_an_extension_that_must_be_understood_is_not() -> None:
    assert SHARED(hs256(VALID, crit=["x"], x=1), NOW) is None


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b.c", "....", "\udcff", "é.é.é", "a" * 20_000, "." * 20_000, "\0.\0.\0"],
    ids=range(10),
)
def test_what_is_no_token_at_all_is_refused(text: str) -> None:
    assert SHARED(text, NOW) is None
    assert SIGNED(text, NOW) is None


def test_a_head_of_brackets_is_refused() -> None:
    head = base64url(b"[" * 100_000)
    assert SHARED(f"{head}.{head}.{head}", NOW) is None


@given(st.text(max_size=40), st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=64))
def test_no_text_raises(text: str, head: bytes, body: bytes, signature: bytes) -> None:
    for verifier in (SHARED, SIGNED):
        assert verifier(text, NOW) is None
        assert verifier(".".join(map(base64url, (head, body, signature))), NOW) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {"aud": st.just("relay") | json_values, "exp": st.just(NOW + 60) | json_values},
        optional=dict.fromkeys(("nbf", "sub", "origin", "session_minutes", "iat"), json_values),
    )
)
def test_no_claims_raise_and_what_they_grant_is_bounded(claims: dict[str, Any]) -> None:
    grant = SHARED(hs256(claims), NOW)
    assert grant is None or grant.max_session_s is None or grant.max_session_s > 0


# Keys that are none.


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (TokenKey("HS256", "short", "auth.x"), "^auth.x: a secret has 32 characters or more"),
        (TokenKey("HS256", "", "auth.x"), "^auth.x: a secret has 32"),
        (TokenKey("HS256", PUBLIC, "auth.x"), "^auth.x: this is a PEM file, not a secret"),
        (TokenKey("EdDSA", SECRET, "auth.x"), "^auth.x: expected an Ed25519 public key"),
        (TokenKey("EdDSA", PRIVATE, "auth.x"), "^auth.x: expected an Ed25519 public key"),
        (
            TokenKey(
                "EdDSA",
                generate_private_key(SECP256R1())
                .public_key()
                .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                .decode(),
                "auth.x",
            ),
            "^auth.x: expected an Ed25519 public key",
        ),
    ],
    ids=["short", "empty", "pem", "no pem", "private", "another curve"],
)
def test_a_key_that_is_none_is_refused_without_quoting_it(key: TokenKey, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as failure:
        Verifier(key, "relay", 10.0)
    assert not key.text or key.text not in str(failure.value)


# Minting.


@pytest.mark.parametrize(
    ("signing_key", "verifier"),
    [(f"{SECRET}\n", SHARED), (PRIVATE, SIGNED)],
    ids=["HS256", "EdDSA"],
)
def test_what_is_minted_counts_until_it_expires(signing_key: str, verifier: Verifier) -> None:
    token = mint(signing_key, "relay", NOW, 60.0)
    assert verifier(token, NOW + 69.9) == Grant(None)
    assert verifier(token, NOW + 70.0) is None
    token = mint(
        signing_key, "relay", NOW, 60.0, name="alice", origins=("https://a.example",), minutes=5
    )
    assert verifier(token, NOW) == Grant("alice", ("https://a.example",), 300.0)
    assert verifier(mint(signing_key, "other", NOW, 60.0), NOW) is None


@pytest.mark.parametrize("signing_key", [PUBLIC, "-----BEGIN PRIVATE KEY-----", "short"])
def test_a_signing_key_that_is_none_is_refused(signing_key: str) -> None:
    with pytest.raises(ConfigError, match=r"^the signing key: "):
        mint(signing_key, "relay", NOW, 60.0)


# At the door.

KEYS = {hashlib.sha256(b"k1").digest(): "laptop"}
KEYED = Auth(mode="keys")
GOOD = hs256(VALID)


def attempt(
    target: str = AGENT, auth: Auth = KEYED, protocols: str = "", **headers: str
) -> Admitted | Refused:
    path, _, query = target.partition("?")
    head = {"host": "relay.example", "sec-websocket-protocol": protocols, **headers}
    request = wire.Request("GET", path, query, head, "127.0.0.1")
    return admit(request, Listen(), auth, KEYS, tokens=SHARED, wall=NOW)


def status(outcome: Admitted | Refused) -> int:
    return outcome.status if isinstance(outcome, Refused) else 101


@pytest.mark.conformance("C-005", "C-006", "C-008")
def test_a_token_comes_in_wherever_a_key_does() -> None:
    bearer = hashlib.sha256(GOOD.encode()).hexdigest()
    admitted = Admitted(Dialect.DEEPGRAM, "token", bearer=bearer)
    assert attempt(authorization=f"Bearer {GOOD}") == admitted
    assert attempt(authorization=f"Token {GOOD}") == admitted
    as_protocol = Admitted(Dialect.DEEPGRAM, "token", "bearer", bearer=bearer)
    assert attempt(protocols=f"bearer,{GOOD}") == as_protocol
    in_query = Admitted(Dialect.COMPONENT, "token", bearer=bearer)
    assert attempt(f"/openai?token={GOOD}") == in_query
    assert status(attempt(f"{AGENT}?token={GOOD}")) == 401
    assert status(attempt(f"/openai?token={GOOD}", Auth(mode="keys", query_token=()))) == 401


def test_keys_go_on_to_count_beside_tokens() -> None:
    assert attempt(authorization="Token k1") == Admitted(Dialect.DEEPGRAM, "laptop")
    assert status(attempt(authorization="Token k2")) == 401
    expired = hs256({**VALID, "exp": NOW - 60})
    assert status(attempt(authorization=f"Bearer {expired}")) == 401
    assert attempt(f"/openai?token={expired}", authorization="Token k1").key_name == "laptop"  # type: ignore[union-attr]  # it would be no Refused


def test_a_token_for_an_origin_counts_from_there_only() -> None:
    bound = hs256({**VALID, "origin": "https://App.example"})
    authorization = f"Bearer {bound}"
    assert status(attempt(authorization=authorization, origin="https://app.example")) == 101
    assert status(attempt(authorization=authorization, origin="https://evil.example")) == 403
    assert status(attempt(authorization=authorization)) == 403
    nowhere = hs256({**VALID, "origin": []})
    assert status(attempt(authorization=f"Bearer {nowhere}", origin="https://a.example")) == 403


def test_a_token_does_not_widen_the_list_of_origins() -> None:
    auth = Auth(mode="keys", origins=("https://app.example",))
    bound = f"Bearer {hs256({**VALID, 'origin': 'https://evil.example'})}"
    assert status(attempt(auth=auth, authorization=bound, origin="https://evil.example")) == 403
    anyone = f"Bearer {GOOD}"
    assert status(attempt(auth=auth, authorization=anyone, origin="https://app.example")) == 101
    assert status(attempt(auth=auth, authorization=anyone, origin="https://evil.example")) == 403


def test_without_a_clock_every_token_has_expired() -> None:
    head = {"authorization": f"Bearer {GOOD}"}
    request = wire.Request("GET", AGENT, "", head, "127.0.0.1")
    assert status(admit(request, Listen(), KEYED, KEYS, tokens=SHARED)) == 401


def test_a_request_has_a_few_credentials_looked_at_and_no_more() -> None:
    wrong = "token=x&" * (MAX_CREDENTIALS - 1)
    assert status(attempt(f"/openai?{wrong}token={GOOD}")) == 101
    assert status(attempt(f"/openai?token=x&{wrong}token={GOOD}")) == 401


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, (7200, 300)), (9000.0, (7200, 300)), (600.0, (600, 300)), (60.0, (60, 30))],
)
def test_a_token_makes_a_session_shorter_and_never_longer(
    limit: float | None, expected: tuple[float, float]
) -> None:
    options = server.options_for(Admission("r", max_session_s=limit), SessionOptions())
    assert (options.max_session_s, options.session_warning_s) == expected


async def test_the_server_tells_the_conversation_what_the_token_grants() -> None:
    talkers = Talkers()
    configured = config.Config(auth=KEYED)
    async with serving(configured, talkers, SHARED) as (_, address):
        claims = {"aud": "relay", "exp": time.time() + 60, "session_minutes": 2}
        headers = {"Authorization": f"Bearer {hs256(claims)}"}
        async with wire.dial(f"ws://{address}{AGENT}", headers=headers) as leg:
            await leg.receive()
        claims["exp"] = time.time() - 60
        headers = {"Authorization": f"Bearer {hs256(claims)}"}
        assert await refusal(address, **headers) == 401
    assert [admitted.max_session_s for admitted in talkers.admissions] == [120.0]


# The configuration and the command.


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "public.pem").write_text(PUBLIC)
    (tmp_path / "private.pem").write_text(PRIVATE)
    (tmp_path / "keys").write_text("")
    return tmp_path


def loaded(*assignments: str) -> config.Config:
    return config.load(None, {}, ["auth.mode=keys", *assignments])


def test_tokens_alone_are_enough_and_keys_may_be_none(files: Path) -> None:
    shared = loaded(f"auth.token_secret_file={files}/secret")
    assert config.token_key(shared, {}) == TokenKey("HS256", SECRET, "auth.token_secret_file")
    assert config.keys_and_rules(shared, {})[0] == {}
    signed = loaded(
        f"auth.token_public_key_file={files}/public.pem", f"auth.keys_file={files}/keys"
    )
    found = config.token_key(signed, {})
    assert found == TokenKey("EdDSA", PUBLIC, "auth.token_public_key_file")
    assert config.keys_and_rules(signed, {})[0] == {}


def test_the_credential_of_systemd_is_the_secret_unless_it_is_blank(files: Path) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(files)}
    (files / "relay-token-secret").write_text(SECRET)
    assert config.token_key(loaded(), environment) is not None
    (files / "relay-token-secret").write_text("\n")
    assert config.token_key(loaded(), environment) is None
    (files / "relay-keys").write_text(" ")
    with pytest.raises(ConfigError, match=r"^auth\.keys_file: needed"):
        config.keys_and_rules(loaded(), environment)


def test_without_keys_demanded_there_are_no_tokens(files: Path) -> None:
    configured = config.load(None, {}, [f"auth.token_secret_file={files}/secret"])
    assert config.token_key(configured, {}) is None


def test_one_algorithm_at_a_time(files: Path) -> None:
    with pytest.raises(ConfigError, match="one or the other"):
        loaded(
            f"auth.token_secret_file={files}/secret",
            f"auth.token_public_key_file={files}/public.pem",
        )


def test_the_command_mints_what_the_relay_takes(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "auth.mode=keys", "--set", f"auth.token_secret_file={files}/secret"]
    asked = ["--name", "alice", "--origin", "https://a.example", "--minutes", "5", "--ttl", "60"]
    assert cli.main(["token", *settings, *asked]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    grant = Grant("alice", ("https://a.example",), 300.0)
    now = time.time()
    assert SHARED(out.strip(), now) == grant
    assert SHARED(out.strip(), now + 71) is None
    audience = ["--set", "auth.token_audience=relay"]
    assert cli.main(["token", *audience, "--signing-key", f"{files}/private.pem"]) == 0
    assert SIGNED(capsys.readouterr().out.strip(), now) == Grant(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--signing-key: needed unless there is an auth.token_secret_file"),
        (["--signing-key", "/nonexistent"], "--signing-key: cannot read /nonexistent"),
        (["--ttl", "0"], "--ttl 0: expected a number above 0"),
        (["--ttl", "nan"], "--ttl nan: expected a number above 0"),
        (["--minutes", "-1"], "--minutes -1: expected a number above 0"),
    ],
    ids=" ".join,
)
def test_a_token_that_cannot_be_minted_is_one_line(
    arguments: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--signing-key" in message else ["--signing-key", f"{files}/secret"]
    assert cli.main(["token", *arguments, *given]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"relay: {err.removeprefix('relay: ')}")
    assert err.startswith(f"relay: {message}")
    assert err.count("\n") == 1


def test_check_says_that_tokens_are_taken(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = f"auth.token_public_key_file={files}/public.pem"
    simulator = ["--upstream", "simulator", "--set", "auth.mode=keys"]
    assert cli.main(["check", *simulator, "--set", key]) == 0
    assert "auth       keys, 0 keys, EdDSA tokens for relay" in capsys.readouterr().out
    wrong = f"auth.token_public_key_file={files}/private.pem"
    assert cli.main(["check", *simulator, "--set", wrong]) == 2
    assert capsys.readouterr().err.startswith("relay: auth.token_public_key_file: expected")
