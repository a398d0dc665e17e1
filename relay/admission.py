"""admission: who may come in, decided from the head of the request alone.

It knows paths, origins and keys. It opens nothing, waits for nothing and costs nothing, so it comes
before everything that does.
"""

import hashlib
import hmac
import urllib.parse
from collections.abc import Iterable, Mapping

import msgspec

from relay.config import Auth, Listen, is_loopback
from relay.session.facts import Dialect
from relay.wire import Request

SCHEMES = ("token", "bearer")
"""Of the Authorization header and of the sub-protocols: keys and short-lived tokens (1.1). Both are
taken for either, since the SDKs mix them."""


class Admitted(msgspec.Struct, frozen=True):
    dialect: Dialect
    key_name: str | None = None
    """Whose key it was; None where none was demanded."""
    subprotocol: str | None = None
    """To be selected in the response; a browser that offered some drops the connection without."""


class Refused(msgspec.Struct, frozen=True):
    status: int
    reason: str
    """For the body of the response and the log."""


def admit(
    request: Request, listen: Listen, auth: Auth, keys: Mapping[bytes, str]
) -> Admitted | Refused:
    """Decide on one upgrade request. `keys` maps the SHA-256 of each key to its name."""
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
    name = _key_name(offered, keys)
    if name is None:
        return Refused(401, "missing or invalid credentials")  # C-009
    return Admitted(dialect, name, subprotocol)


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
        allowed = {known.lower().rstrip("/") for known in auth.origins}
        return "*" in allowed or origin.lower() in allowed
    if auth.mode != "none":
        return True
    return _is_loopback_url(origin) and _is_loopback_url(f"//{request.host}")


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
