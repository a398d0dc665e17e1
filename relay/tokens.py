"""tokens: short-lived bearer tokens, read and minted.

They are what a browser is given in place of a key: JSON Web Tokens for one audience, with an expiry
and if need be an origin and a longest session. It knows their claims and the one algorithm that the
configuration allows; the time is told to it, and it reads no file. What it imports is an extra.
"""

from typing import Annotated, TypeAlias

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from relay.admission import Grant
from relay.config import ConfigError, TokenKey

MIN_SECRET_CHARS = 32
"""RFC 7518, 3.2: a secret for HS256 has 256 bits or more."""

Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]


class Claims(msgspec.Struct, omit_defaults=True):
    """RFC 7519, 4.1, and two of ours. What else a token carries says nothing to us."""

    aud: str | list[str]
    exp: float
    """Seconds since 1970. Only the way in closes then; a session that was let in goes on."""
    nbf: float = 0.0
    sub: str | msgspec.UnsetType = msgspec.UNSET
    """For the log, so no secret."""
    origin: str | list[str] | None = None
    """Browser origins from which it counts; without an Origin it does not count then."""
    session_minutes: Positive | None = None


class Verifier:
    """Says what a token grants."""

    def __init__(self, key: TokenKey, audience: str, leeway_s: float) -> None:
        """Raises `ConfigError` if the key is none for its algorithm."""
        self._algorithm = key.algorithm
        self._key = _secret(key) if key.algorithm == "HS256" else _public_key(key)
        self._audience = audience
        self._leeway_s = leeway_s

    def __call__(self, token: str, wall: float) -> Grant | None:
        """None: it is no token, not for us, not yet, or no longer. `wall`: seconds since 1970."""
        try:
            payload = jwt.decode(
                token,
                self._key,
                algorithms=[self._algorithm],  # never what the token says (RFC 8725, 3.1)
                audience=self._audience,
                options={
                    "require": ["aud", "exp"],
                    "verify_exp": False,  # These PyJWT would hold against a clock of its own.
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            claims = msgspec.convert(payload, Claims)
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        # In this form because json takes NaN, with which no comparison holds.
        if not claims.nbf - self._leeway_s <= wall < claims.exp + self._leeway_s:
            return None
        origins = [claims.origin] if isinstance(claims.origin, str) else claims.origin
        minutes = claims.session_minutes
        return Grant(
            None if claims.sub is msgspec.UNSET else claims.sub,
            None if origins is None else tuple(origins),
            None if minutes is None else minutes * 60,
        )


def mint(
    signing_key: str,
    audience: str,
    wall: float,
    ttl_s: float,
    *,
    name: str | None = None,
    origins: tuple[str, ...] = (),
    minutes: float | None = None,
) -> str:
    """A token that counts for `ttl_s` from `wall` on. `signing_key`: an Ed25519 private key as PEM,
    else the secret of HS256. Raises `ConfigError`."""
    origin = list(origins) or None
    sub = msgspec.UNSET if name is None else name
    claims = Claims(audience, wall + ttl_s, 0.0, sub, origin, minutes)
    payload = msgspec.to_builtins(claims)
    if "-----BEGIN" in signing_key:
        return jwt.encode(payload, _private_key(signing_key), algorithm="EdDSA")
    secret = _secret(TokenKey("HS256", signing_key.strip(), "the signing key"))
    return jwt.encode(payload, secret, algorithm="HS256")


def _secret(key: TokenKey) -> str:
    if "-----BEGIN" in key.text:
        raise ConfigError(f"{key.name}: this is a PEM file, not a secret")
    if len(key.text) < MIN_SECRET_CHARS:
        raise ConfigError(f"{key.name}: a secret has {MIN_SECRET_CHARS} characters or more")
    return key.text


def _public_key(key: TokenKey) -> Ed25519PublicKey:
    try:
        found = load_pem_public_key(key.text.encode())
    except (ValueError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PublicKey):
        raise ConfigError(f"{key.name}: expected an Ed25519 public key in PEM")
    return found


def _private_key(text: str) -> Ed25519PrivateKey:
    try:
        found = load_pem_private_key(text.encode(), password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise ConfigError("the signing key: expected an Ed25519 private key in PEM, unencrypted")
    return found
