"""certificates: how TLS is spoken, with clients and with upstreams.

It reads PEM files into contexts, and says which file is at fault in words that name the
configuration's key. Which protocols and ciphers are good is left to OpenSSL, which is told of by
those who maintain the machine; here is only what must not depend on them.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from relay.config import ConfigError, Trust

FLOOR = ssl.TLSVersion.TLSv1_2
"""Older versions are neither offered nor taken (RFC 8996)."""


def serving(cert: Path, key: Path) -> ssl.SSLContext:
    """What is shown to clients. Raises `ConfigError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = FLOOR
    context.set_alpn_protocols(["http/1.1"])
    with _blaming("listen.tls_cert, listen.tls_key"):
        _load(context, cert, key)
    return context


def dialling(trust: Trust, name: str) -> ssl.SSLContext:
    """What an upstream is verified with, and what it is shown. `name` is its table in the
    configuration. Raises `ConfigError`."""
    with _blaming(f"{name}.ca_file"):
        context = ssl.create_default_context(cafile=trust.ca_file)
    context.minimum_version = FLOOR
    context.set_alpn_protocols(["http/1.1"])
    if trust.client_cert is not None and trust.client_key is not None:
        with _blaming(f"{name}.client_cert, {name}.client_key"):
            _load(context, trust.client_cert, trust.client_key)
    return context


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    for file in (cert, key):
        file.open("rb").close()  # OpenSSL does not say which of them it cannot read
    context.load_cert_chain(cert, key, _no_passphrase)


def _no_passphrase() -> NoReturn:
    """Without this OpenSSL would ask for one at the terminal, and wait."""
    raise ValueError("the key is encrypted; without a passphrase it can be used")


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise ConfigError(f"{key}: {error.reason or error}") from None
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise ConfigError(f"{key}: {reason}") from None
