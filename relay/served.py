"""served: what is served now, as one immutable value.

It is built whole, from the configuration and the files that this names, or not at all; so whoever
holds one holds keys, certificates, tables and options that belong together. It knows which files it
was built from, and nothing of who is connected.
"""

import dataclasses
import functools
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from relay import admission, certificates, config
from relay.config import Address, Config, Listen, Trust
from relay.limits import Rules
from relay.session.facts import UpstreamTraits
from relay.settings.options import MappingOptions

Stamp: TypeAlias = tuple[int, int, int, int] | None
"""By what a changed file is told: device, inode, size and time of the last change. None: it cannot
be had."""


@dataclasses.dataclass(frozen=True)
class Destination:
    """An upstream, and what its certificate is verified with; None where there is none (ws)."""

    address: Address
    trust: ssl.SSLContext | None = None


@dataclasses.dataclass(frozen=True)
class Served:
    """Configuration and secrets of one moment. Its repr shows none of them."""

    config: Config = dataclasses.field(repr=False)
    destinations: tuple[Destination, ...] = dataclasses.field(default=(), repr=False)
    """Upstreams in order of preference; a conversation names them by their index."""
    keys: Mapping[bytes, str] = dataclasses.field(default_factory=dict, repr=False)
    """Names of the client keys by their SHA-256."""
    tokens: admission.Tokens = dataclasses.field(default=admission.no_tokens, repr=False)
    rules: Rules = dataclasses.field(default_factory=Rules)
    """How much may be used, by whom."""
    tls: ssl.SSLContext | None = None
    """The certificate for clients; None: plain ws."""

    @functools.cached_property
    def mapping(self) -> MappingOptions:
        return self.config.mapping_options

    @functools.cached_property
    def traits(self) -> tuple[UpstreamTraits, ...]:
        return self.config.upstream_traits

    def destination(self, url: str) -> Destination | None:
        """The upstream with this URL."""
        return next((each for each in self.destinations if each.address.url == url), None)


def build(configured: Config, environment: Mapping[str, str]) -> Served:
    """Read everything that the configuration names. Raises `ConfigError`. Takes tens of
    milliseconds, in which certificates are loaded: beside live conversations, call it in a
    thread."""
    address = config.upstream(configured, environment)
    keys, rules = config.keys_and_rules(configured, environment)
    addresses = (address, *config.fallbacks(configured, address))
    return Served(
        configured,
        tuple(_destinations(addresses, config.trusts(configured, address))),
        keys,
        _tokens(configured, environment),
        rules,
        _tls(configured.listen),
    )


class Sources:
    """Where it all comes from. Reading again finds what has changed since, with the precedence of
    the first time."""

    def __init__(
        self, file: Path | None, load: Callable[[], Config], environment: Mapping[str, str]
    ) -> None:
        """`load` reads `file` and whatever else the configuration is made of."""
        self._file = file
        self._load = load
        self._environment = environment
        self._named: list[Path] = []
        self.stamps: Mapping[Path, Stamp] = {}
        """Of the files, as they were before they were last read. Files that a configuration names
        which was refused are among them: whoever mends them should not have to ask again."""

    def read(self, adapt: Callable[[Config], Config] = lambda read: read) -> Served:
        """Build what is to be served, of the configuration as `adapt` returns it. Raises
        `ConfigError`."""
        self.stamps = self.look()
        configured = self._load()
        self._named = config.files(configured, self._environment)
        self.stamps = {path: self.stamps.get(path, stamp) for path, stamp in self.look().items()}
        return build(adapt(configured), self._environment)

    def look(self) -> Mapping[Path, Stamp]:
        """What the files look like now."""
        return _stamps([self._file, *self._named] if self._file else self._named)


class Current:
    """What is served now. It changes by one assignment, between two steps of the event loop, so
    every decision sees the whole of the old value or the whole of the new one."""

    def __init__(self, value: Served) -> None:
        self.value = value


def _stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _destinations(
    addresses: Iterable[Address], trusts: Iterable[tuple[str, Trust]]
) -> Iterator[Destination]:
    contexts: dict[str, ssl.SSLContext] = {}  # the system's authorities take long to load
    for address, (table, trust) in zip(addresses, trusts, strict=True):
        if not address.url.startswith("wss:"):
            yield Destination(address)
            continue
        plain = trust.ca_file is None and trust.client_cert is None
        name = "" if plain else table
        if name not in contexts:
            contexts[name] = certificates.dialling(trust, table)
        yield Destination(address, contexts[name])


def _tls(listen: Listen) -> ssl.SSLContext | None:
    if listen.tls_cert is None or listen.tls_key is None:
        return None
    return certificates.serving(listen.tls_cert, listen.tls_key)


def _tokens(configured: Config, environment: Mapping[str, str]) -> admission.Tokens:
    key = config.token_key(configured, environment)
    if key is None:
        return admission.no_tokens
    from relay.tokens import Verifier  # what it imports is an extra, and off by default

    return Verifier(key, configured.auth.token_audience, configured.auth.token_leeway_s)
