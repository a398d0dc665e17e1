"""admission: who may come in, decided from the head of the request alone.

It knows paths, origins and keys, and whom to ask about tokens (`relay.tokens`); how much somebody
has used is asked behind it, and what that means for the answer is said here. It opens nothing,
waits for nothing and costs next to nothing, so it comes before everything that does.
"""

import hashlib
import hmac
import math
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import msgspec

from relay.config import Auth, Listen, is_loopback
from relay.limits import ClientLimits, Reached
from relay.parking import Claim
from relay.session.facts import Dialect
from relay.wire import Request

SCHEMES = ("token", "bearer")
"""Of the Authorization header and of the sub-protocols: keys and short-lived tokens (1.1). Both are
taken for either, since the SDKs mix them."""
SDK_OBJECT = "x-deepgram-session-id"
"""Header or sub-protocol by which the official JavaScript SDK names its client object."""
MAX_CREDENTIALS = 8
"""Looked at in one request. A client has one, in up to three places; more would be guesses at our
cost."""


NAMELESS = "token"
"""What the bearers of tokens without a name are called."""


class Grant(msgspec.Struct, frozen=True):
    """What a valid token says of its bearer."""

    name: str | None
    """None: it does not say."""
    origins: tuple[str, ...] | None = None
    """Browser origins that it is for; None: it does not say."""
    max_session_s: float | None = None
    """How long the session may last; None: as long as any other."""


Tokens: TypeAlias = Callable[[str, float], Grant | None]
"""What a token grants at a time in seconds since 1970; None: it is none, or not then."""


def no_tokens(_token: str, _wall: float) -> None:
    """The feature is off."""


class Admitted(msgspec.Struct, frozen=True):
    dialect: Dialect
    key_name: str | None = None
    """Whose key or token it was; None where none was demanded."""
    subprotocol: str | None = None
    """To be selected in the response; a browser that offered some drops the connection without."""
    max_session_s: float | None = None
    """The token's limit; None: it has none."""
    bearer: str | None = None
    """Who it is of all who have this name: the digest of a token that names nobody. Two such tokens
    are two bearers, also to each other's conversations."""


class Refused(msgspec.Struct, frozen=True):
    status: int
    reason: str
    """For the body of the response and the log."""
    again_in_s: float | None = None
    """When it is worth while to try again; None: nobody knows."""


def admit(
    request: Request,
    listen: Listen,
    auth: Auth,
    keys: Mapping[bytes, str],
    *,
    tokens: Tokens = no_tokens,
    wall: float = math.inf,
) -> Admitted | Refused:
    """Decide on one upgrade request. `keys` maps the SHA-256 of each key to its name; `wall` is the
    time in seconds since 1970, without which every token has expired."""
    dialect = _dialect(request.path, listen)
    if dialect is None:
        return Refused(404, "no voice agent at this path")  # C-003
    if not _origin_admitted(request, auth):
        return Refused(403, "origin not allowed")  # C-014
    offers = request.subprotocols
    pairs = list(zip(offers[::2], offers[1::2], strict=False))
    subprotocol = next((name for name, _ in pairs if name in SCHEMES), None)  # C-006
    if auth.mode == "none":
        return Admitted(dialect, None, subprotocol)  # C-010
    offered = [value for name, value in pairs if name in SCHEMES]
    offered += _authorization(request)
    if dialect in auth.query_token:  # C-008
        offered += urllib.parse.parse_qs(request.query).get("token", [])
    offered = offered[:MAX_CREDENTIALS]
    name = _key_name(offered, keys)
    if name is not None:
        return Admitted(dialect, name, subprotocol)
    grants = ((credential, tokens(credential, wall)) for credential in offered)
    token, grant = next((pair for pair in grants if pair[1] is not None), ("", None))
    if grant is None:
        return Refused(401, "missing or invalid credentials")  # C-009
    if grant.origins is not None and not _is_one_of(request.origin, grant.origins):
        return Refused(403, "origin not allowed")
    limit = grant.max_session_s
    if grant.name is None:
        return Admitted(dialect, NAMELESS, subprotocol, limit, bearer=_digest(token))
    return Admitted(dialect, grant.name, subprotocol, limit)


def too_much(reached: Reached) -> Refused:
    """A client that has used enough is told so; where it is all of them, it is none's fault."""
    return Refused(503 if reached.by_all else 429, reached.text, reached.again_in_s)


def shortest(admitted: Admitted, limits: ClientLimits) -> float | None:
    """How long the session may last by the token and by the client's limits, in seconds; None:
    neither says."""
    limited = limits.session_minutes * 60 or None
    return min((s for s in (admitted.max_session_s, limited) if s is not None), default=None)


def claim(request: Request, admitted: Admitted) -> Claim:
    """Which conversation an admitted connection may take up again (4.9). What proves it is kept as
    a digest only."""
    offers = request.subprotocols
    pairs = dict(zip(offers[::2], offers[1::2], strict=False))
    label = request.headers.get(SDK_OBJECT) or pairs.get(SDK_OBJECT)
    asked = urllib.parse.parse_qs(request.query).get("resume", [])
    if admitted.bearer is not None:
        credentials = f"token {admitted.bearer}"
    elif admitted.key_name is not None:
        credentials = f"key {admitted.key_name}"
    else:  # nobody checked them, but a stranger would have to know them (C-255)
        shown = [request.headers.get("authorization", "")]
        shown += [value for name, value in pairs.items() if name in SCHEMES]
        shown += urllib.parse.parse_qs(request.query).get("token", [])
        credentials = _digest("\n".join(shown))
    return Claim(credentials, asked[-1] if asked else None, _digest(label) if label else None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _dialect(path: str, listen: Listen) -> Dialect | None:
    def is_one_of(paths: Iterable[str]) -> bool:
        return path.rstrip("/") in {known.rstrip("/") for known in paths}  # C-002

    if is_one_of(listen.deepgram_paths):
        return Dialect.DEEPGRAM
    return Dialect.COMPONENT if is_one_of(listen.component_paths) else None


def _origin_admitted(request: Request, auth: Auth) -> bool:
    """Any web page that a developer visits can open a WebSocket to 127.0.0.1. Only browsers send
    Origin, and pages cannot forge it; the Host tells a page whose name was rebound to 127.0.0.1."""
    origin = request.origin
    if origin is None:
        return True
    if auth.origins is not None:
        return "*" in auth.origins or _is_one_of(origin, auth.origins)
    if auth.mode != "none":
        return True
    return _is_loopback_url(origin) and _is_loopback_url(f"//{request.host}")


def _is_one_of(origin: str | None, allowed: Iterable[str]) -> bool:
    return origin is not None and origin.lower() in {known.lower().rstrip("/") for known in allowed}


def _is_loopback_url(url: str) -> bool:
    try:
        return is_loopback(urllib.parse.urlsplit(url).hostname or "")
    except ValueError:
        return False


def _authorization(request: Request) -> list[str]:
    """C-004, C-005: the credential of `Authorization: Token KEY`, the scheme in any case."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    return [credential.strip()] if scheme.lower() in SCHEMES else []


def _key_name(offered: Iterable[str], keys: Mapping[bytes, str]) -> str | None:
    """Takes as long for a wrong key as for a right one: every key is compared with every offer."""
    found = None
    for credential in offered:
        digest = hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()
        for known, name in keys.items():
            if hmac.compare_digest(digest, known):
                found = name
    return found
