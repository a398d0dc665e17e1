"""config: every knob of the daemon, and where its value comes from.

It knows the keys, their defaults and their meaning, reads TOML, environment and command line into
one frozen `Config`, and says which upstream that means. It opens no socket and starts nothing.
A later source wins: the file, then `RELAY_SECTION__KEY`, then `--set`, then the named options of
the command line. What is not a key here is refused: a knob that does nothing does not exist.
"""

import datetime
import functools
import importlib.util
import ipaddress
import math
import os
import re
import tomllib
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from relay.limits import NO_LIMITS, ClientLimits, Limits, Rules
from relay.overload import OverloadTable
from relay.prices import Price
from relay.session.facts import Dialect, UpstreamTraits
from relay.session.options import SessionOptions
from relay.settings.endpoints import is_listable
from relay.settings.options import MappingOptions, Passthrough, TurnOptions
from relay.simulator.script import Script
from relay.voice_agent import Agent

SIMULATOR = "simulator"
"""The word that stands for the embedded simulator where a URL is expected."""
OPENAI_URL = "wss://api.openai.com/v1/realtime"

SQLITE = "sqlite:///"
CREDENTIALS = ("openai-api-key", "relay-keys", "relay-token-secret")
"""What is taken from systemd where no file is named."""

DEFAULTS = MappingOptions()

UrlPath: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^/[^?#\s]*$")]


class ConfigError(Exception):
    """The configuration cannot be served; the text names the key and is meant for its author."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the configuration: immutable, and an unknown key in it is an error."""


class Listen(Section, frozen=True):
    """Where clients connect."""

    host: str = "127.0.0.1"
    """Name or address to listen on."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    """TCP port; 0 lets the system pick one, which the `listening` log line then names."""
    workers: Annotated[int, msgspec.Meta(ge=1)] | Literal["auto"] = 1
    """Processes that share the work, each of which can use one core; `auto`: as many as there are
    cores to use."""
    deepgram_paths: tuple[UrlPath, ...] = ("/v1/agent/converse",)
    """Paths that speak Voice Agent V1 and nothing else."""
    component_paths: tuple[UrlPath, ...] = ("/openai",)
    """Paths that speak the browser component's dialect."""
    tls_cert: Path | None = None
    """PEM file with the certificate chain; serves wss together with `tls_key`."""
    tls_key: Path | None = None
    """PEM file with the private key of `tls_cert`."""

    @property
    def processes(self) -> int:
        """How many workers that means here."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers


class Auth(Section, frozen=True):
    """Who may connect."""

    mode: Literal["none", "keys"] = "none"
    """`none` admits without credentials, `keys` demands a key in `keys_file` or a token."""
    keys_file: Path | None = None
    """One key a line, `name:sha256` with the hash in hexadecimal, and behind it limits of its own
    (`sessions=5 tokens_per_day=0`) instead of those in `[limits.key]`; else the systemd credential
    `relay-keys`."""
    query_token: tuple[Dialect, ...] = (Dialect.COMPONENT,)
    """Dialects in which `?token=KEY` counts as a credential."""
    token_secret_file: Path | None = None
    """Secret of 32 characters or more: short-lived tokens (JWT) signed with it (HS256) are taken
    beside the keys; else the systemd credential `relay-token-secret`. Needs the extra `tokens`."""
    token_public_key_file: Path | None = None
    """PEM file with an Ed25519 public key, instead of the secret: tokens signed with its private
    key (EdDSA) are taken, and nobody can mint one with what the relay has."""
    token_audience: Annotated[str, msgspec.Meta(min_length=1)] = "relay"
    """The `aud` of such tokens; those for something else are refused."""
    token_leeway_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """How far the clock of whoever mints them may be off."""
    origins: tuple[str, ...] | None = None
    """Browser origins that are admitted, `*` for any. Unset: loopback origins at a loopback Host
    while `mode` is `none`, else any."""
    allow_anonymous: bool = False
    """Serve a non-loopback address although `mode` is `none`."""


class Trust(Section, frozen=True):
    """With what an upstream and the relay are known to each other, where it is wss. The upstream's
    certificate is verified in any case."""

    ca_file: Path | None = None
    """PEM file with the authorities that count instead of the system's, for a private one."""
    client_cert: Path | None = None
    """PEM file with a certificate to show to an upstream that demands one."""
    client_key: Path | None = None
    """PEM file with the private key of `client_cert`, without a passphrase."""


class Upstream(Trust, frozen=True):
    """The server that holds the conversation."""

    url: str | None = None
    """Any OpenAI-Realtime-compatible server (ws or wss), or the word `simulator`."""
    api_key_file: Path | None = None
    """File with the upstream's key; else `OPENAI_API_KEY`, else the systemd credential
    `openai-api-key`."""
    warm: Literal["off", "on_connect"] = "off"
    """`on_connect` dials with `upstream.model` as soon as a client is admitted, before its
    Settings; never for clients without a key on a listener beyond loopback."""
    trace_context: bool = False
    """Tell it of which trace a session is a part (`traceparent`): of ours, else of the client's."""
    ends_responses: bool = True
    """It sends response.done; false for servers that never do, and the end is inferred."""
    g711: bool = DEFAULTS.g711
    """It speaks G.711 where the client does; false for servers that confirm it and send PCM all
    the same, and the relay transcodes."""
    model: str = DEFAULTS.model
    """Realtime model for every think model that is none itself and is not in `[models]`."""
    voice: str = DEFAULTS.voice
    """Voice for every voice that is not the upstream's own and is not in `[voices]`."""
    transcription_model: str = DEFAULTS.transcription_model
    """Transcription model for every listen model that is none of the upstream's and is not in
    `[transcription_models]`; empty: the user's words are not transcribed."""


class Fallback(Trust, frozen=True, kw_only=True):
    """Another server, for when those before it cannot be had. What is not given is as in
    `[upstream]`; keys, certificates and authorities are that only if scheme and host are the
    same."""

    url: str
    """Any OpenAI-Realtime-compatible server (ws or wss)."""
    api_key_file: Path | None = None
    """File with its key; a key never goes to a host that it was not given for."""
    model: str | None = None
    """Realtime model for every session here; unset: the one that Settings are mapped to."""
    ends_responses: bool | None = None
    """It sends response.done."""


class SettingsMapping(Section, frozen=True):
    """How Settings are turned into a session of the upstream, beyond models and voices."""

    reasoning_models: tuple[str, ...] = DEFAULTS.reasoning_models
    """Model families that take `reasoning` and `parallel_tool_calls`."""
    prompt_limit_chars: Annotated[int, msgspec.Meta(ge=1)] = DEFAULTS.prompt_limit_chars
    """A longer prompt is truncated, with a Warning."""
    functions_prompt: str = DEFAULTS.functions_prompt
    """Text added to the instructions while there are functions."""
    retention_ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = DEFAULTS.retention_ratio
    """Share of the conversation to keep when a numeric `context_length` is exceeded; unset, such a
    length is ignored."""


class Functions(Section, frozen=True):
    """Server-side functions: those with an endpoint that the relay itself calls. Needs the extra
    `functions`."""

    endpoints: tuple[str, ...] = ()
    """URLs that may be called, and everything below them; empty: none, the client is asked instead.
    The scheme, the host as it is written and the port must be the same. List only names of your
    own: whoever controls a name's DNS decides what it leads to."""
    connect_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """For connecting, and again for the TLS handshake."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """A call takes no longer, from the wait for its turn to the last byte of the answer; a longer
    answer than `session.max_call_output_bytes` is cut there."""
    max_calls_per_session: Annotated[int, msgspec.Meta(ge=1)] = 4
    """Calls of one conversation at once; others wait."""
    max_calls: Annotated[int, msgspec.Meta(ge=1)] = 64
    """Calls of all conversations at once; others wait."""


class LimitsTable(Limits, frozen=True):
    """What all clients together may use."""

    key: ClientLimits = NO_LIMITS
    """What one client may use: the bearers of a key, or of tokens with the same `sub`; while
    `auth.mode` is `none` whoever has the same address, or is in the same /64 network of IPv6."""

    @property
    def total(self) -> Limits:
        return Limits(**{name: getattr(self, name) for name in Limits.__struct_fields__})


class Store(Section, frozen=True):
    """Where conversations wait that may be resumed."""

    url: str | None = None
    """`sqlite:///PATH` keeps snapshots of live and of parked sessions in a file of mode 0600, so
    that a restart resumes them; PATH is relative unless it begins with another `/`. Unset: they
    are in memory and end with the process."""
    key_file: Path | None = None
    """File with Fernet keys, one a line: the first encrypts the snapshots, all decrypt. Needs the
    extra `store-encryption`."""
    max_age_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    """Older snapshots are erased at the start instead of resumed."""

    @property
    def path(self) -> Path:
        """Of the file that `url` names."""
        return Path((self.url or "").removeprefix(SQLITE))


class Admin(Section, frozen=True):
    """Pages for those who run the relay: metrics, health, what goes on."""

    host: str = "127.0.0.1"
    """Name or address to listen on."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """TCP port; 0: there are no such pages."""
    allow_anonymous: bool = False
    """Serve a non-loopback address. The pages ask nobody for a key: whoever reaches them reads
    them."""


class Tracing(Section, frozen=True):
    """Spans of sessions and turns, for a collector of OpenTelemetry. Needs the extra `otel`."""

    otlp_url: str | None = None
    """Where it takes OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`; unset: there are no
    spans."""
    service_name: Annotated[str, msgspec.Meta(min_length=1)] = "relay"
    """What the spans are of."""
    sample_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Share of the sessions that are recorded, of those whose client does not say."""


class Log(Section, frozen=True):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe lines that are written; a prompt or transcript is in `debug` at most."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto` is JSON unless standard error is a terminal."""


class Reload(Section, frozen=True):
    """How changed files are noticed: this file, and those that it names with keys and certificates.
    SIGHUP has them read again at once."""

    watch_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    """How often the files are looked at; one that changed counts when it has looked the same twice.
    0 = never."""


class Config(Section, frozen=True):
    """The whole configuration; a TOML file has one table for each field."""

    listen: Listen = Listen()
    auth: Auth = Auth()
    upstream: Upstream = Upstream()
    upstreams: tuple[Fallback, ...] = ()
    """Fallbacks in order of preference: the next takes over when one is lost or refuses."""
    session: SessionOptions = SessionOptions()
    mapping: SettingsMapping = SettingsMapping()
    turns: TurnOptions = TurnOptions()
    passthrough: Passthrough = Passthrough()
    models: dict[str, str] = {}
    """Think model -> Realtime model."""
    voices: dict[str, str] = {}
    """Speak voice or model -> the upstream's voice."""
    transcription_models: dict[str, str] = {}
    """Listen model -> transcription model."""
    prices: dict[str, Price] = {}
    """The upstream's model -> what its tokens cost, for the log."""
    agents: dict[str, Agent] = {}
    """Agent id -> what Settings would carry as `agent`, and read as leniently."""
    functions: Functions = Functions()
    limits: LimitsTable = LimitsTable()
    overload: OverloadTable = OverloadTable()
    store: Store = Store()
    simulator: Script = Script()
    reload: Reload = Reload()
    admin: Admin = Admin()
    tracing: Tracing = Tracing()
    log: Log = Log()

    @property
    def upstream_models(self) -> frozenset[str]:
        """The models that are named here; a client may name more."""
        names = {self.upstream.model, self.upstream.transcription_model, *self.prices}
        names |= {*self.models.values(), *self.transcription_models.values()}
        return frozenset(names | {each.model for each in self.upstreams if each.model})

    @property
    def upstream_traits(self) -> tuple[UpstreamTraits, ...]:
        """What sessions know of the upstreams, in order of preference."""
        ends = self.upstream.ends_responses
        preferred = UpstreamTraits(ends_responses=ends)
        rest = (
            UpstreamTraits(
                ends_responses=ends if other.ends_responses is None else other.ends_responses,
                model=other.model,
            )
            for other in self.upstreams
        )
        return (preferred, *rest)

    @property
    def mapping_options(self) -> MappingOptions:
        """What `relay.settings` reads of all this."""
        return MappingOptions(
            model=self.upstream.model,
            voice=self.upstream.voice,
            transcription_model=self.upstream.transcription_model,
            models=self.models,
            voices=self.voices,
            transcription_models=self.transcription_models,
            agents=self.agents,
            g711=self.upstream.g711,
            turns=self.turns,
            passthrough=self.passthrough,
            reasoning_models=self.mapping.reasoning_models,
            prompt_limit_chars=self.mapping.prompt_limit_chars,
            functions_prompt=self.mapping.functions_prompt,
            retention_ratio=self.mapping.retention_ratio,
            function_endpoints=self.functions.endpoints,
        )


class Address(msgspec.Struct, frozen=True):
    """An upstream and the key for it."""

    url: str
    """ws or wss, or `SIMULATOR`."""
    api_key: str | None = None
    chosen_by: Literal["upstream.url", "the key", "the lack of a key"] = "upstream.url"

    @property
    def simulated(self) -> bool:
        return self.url == SIMULATOR

    @property
    def shown(self) -> str:
        """For the log: without the query, which may hold a key."""
        return self.url.partition("?")[0]

    def url_for(self, model: str) -> str:
        """Where to dial for `model`: it is added to the query unless that names one (3.1)."""
        return _url_for(self.url, model)

    @property
    def headers(self) -> dict[str, str]:
        """What to dial with; never the client's credentials (C-012)."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def __repr__(self) -> str:  # a key must not reach a log through a traceback or a debug print
        return f"Address({self.url!r}, api_key={'...' if self.api_key else None})"


@functools.lru_cache(maxsize=256)
def _url_for(url: str, model: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if "model" in urllib.parse.parse_qs(parts.query, keep_blank_values=True):
        return url
    added = urllib.parse.urlencode({"model": model})
    query = f"{parts.query}&{added}" if parts.query else added
    return urllib.parse.urlunsplit(parts._replace(query=query))


def load(
    file: Path | None,
    environment: Mapping[str, str],
    assignments: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    script: Path | None = None,
) -> Config:
    """Merge the four sources and check every value; raises `ConfigError`.

    `assignments` are `section.key=value` texts, `options` maps dotted keys to values that the
    command line has already read. A `script` file stands in place of the file's `[simulator]`.
    """
    tree: dict[str, Any] = _read_toml(file, "--config") if file else {}
    if script:
        tree["simulator"] = _read_toml(script, "--script")
    for name, text in sorted(environment.items()):
        if path := _environment_path(name):
            _put(tree, path, _value(text))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected section.key=value")
        _put(tree, _key_path(key), _value(text))
    for key, value in (options or {}).items():
        _put(tree, key.split("."), value)
    config = convert(tree)
    _check(config)
    return config


def convert(tree: dict[str, Any]) -> Config:
    """Turn nested tables into a `Config`; raises `ConfigError` that names the offending path."""
    try:
        return msgspec.convert(tree, Config, dec_hook=_path)
    except msgspec.ValidationError as error:
        said = _explanation(error)
        table, unnamed, rest = said.partition("[...]")  # msgspec does not say which entry of it
        if unnamed and table in tree:
            said = f"{table}.{_wrong_entry(table, tree[table])}{rest}"
        raise ConfigError(said) from None


def _wrong_entry(name: str, table: dict[str, Any]) -> str:
    """The key of the first one that is wrong by itself, as TOML writes it."""

    def is_wrong(key: str) -> bool:
        try:
            msgspec.convert({name: {key: table[key]}}, Config, dec_hook=_path)
        except msgspec.ValidationError:
            return True
        return False

    key = next(filter(is_wrong, table))
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else msgspec.json.encode(key).decode()


def encoded(config: Config) -> bytes:
    """For another process of the same program."""
    return msgspec.msgpack.encode(config, enc_hook=str)


def decoded(encoded: bytes) -> Config:
    """What `encoded` was made of."""
    return msgspec.msgpack.decode(encoded, type=Config, dec_hook=_path)


def upstream(config: Config, environment: Mapping[str, str]) -> Address:
    """The upstream that this configuration means; raises `ConfigError` when it means none.

    The simulator is chosen by itself only for a person trying the relay at a loopback address: a
    service that lost its key must stop, not talk nonsense.
    """
    key = _api_key(config, environment)
    url = config.upstream.url
    if url is not None:
        return Address(url, None if url == SIMULATOR else key)
    if key is not None:
        return Address(OPENAI_URL, key, "the key")
    if not is_loopback(config.listen.host) or under_systemd(environment):
        raise ConfigError(
            "upstream: no key found (upstream.api_key_file, OPENAI_API_KEY or the credential "
            "openai-api-key); to serve the simulator here, say upstream.url=simulator"
        )
    return Address(SIMULATOR, None, "the lack of a key")


def fallbacks(config: Config, preferred: Address) -> list[Address]:
    """The upstreams that may take over; raises `ConfigError`."""
    found = []
    for number, fallback in enumerate(config.upstreams):
        name = f"upstreams[{number}]"
        key = preferred.api_key if same_host(fallback.url, preferred.url) else None
        if fallback.api_key_file:
            key = _key_in(fallback.api_key_file, f"{name}.api_key_file")
        found.append(Address(fallback.url, key))
    return found


def trusts(config: Config, preferred: Address) -> list[tuple[str, Trust]]:
    """How the upstreams are verified, in the order of preference, and the tables that say so."""
    found: list[tuple[str, Trust]] = [("upstream", config.upstream)]
    for number, fallback in enumerate(config.upstreams):
        own = fallback.ca_file or fallback.client_cert
        if own or not same_host(fallback.url, preferred.url):
            found.append((f"upstreams[{number}]", fallback))
        else:
            found.append(found[0])
    return found


def same_host(one: str, other: str) -> bool:
    """Whether two URLs have scheme, host and port in common."""
    return urllib.parse.urlsplit(one)[:2] == urllib.parse.urlsplit(other)[:2]


def keys_and_rules(
    config: Config, environment: Mapping[str, str]
) -> tuple[dict[bytes, str], Rules]:
    """The names of the client keys by their SHA-256, none while `auth.mode` is `none`, and how much
    may be used, by whom: of one reading of the file, so that they belong together. Raises
    `ConfigError`, which never quotes a line: it might hold the key itself."""
    lines = _keys(config, environment)
    return {entry.digest: entry.name for entry in lines}, _rules(config, lines)


def _rules(config: Config, lines: "list[_KeyLine]") -> Rules:
    default = config.limits.key
    named: dict[str, ClientLimits] = {}
    for entry in lines:
        own = msgspec.structs.replace(default, **entry.limits)
        if named.setdefault(entry.name, own) != own:
            raise ConfigError(f"{entry.line}: {entry.name} has other limits on another line")
    return Rules(config.limits.total, default, {k: v for k, v in named.items() if v != default})


class _KeyLine(msgspec.Struct, frozen=True):
    """A line of the keys file."""

    line: str
    """Where it is, for complaints."""
    name: str
    digest: bytes
    limits: dict[str, float]
    """Those of its own."""


def _keys(config: Config, environment: Mapping[str, str]) -> list[_KeyLine]:
    if config.auth.mode == "none":
        return []
    file = config.auth.keys_file or _credential("relay-keys", environment)
    tokens = token_key(config, environment) is not None
    if file is None and not tokens:
        raise ConfigError("auth.keys_file: needed by auth.mode=keys")
    return [] if file is None else _keys_in(file, may_be_empty=tokens)


def _keys_in(file: Path, *, may_be_empty: bool) -> list[_KeyLine]:
    found = []
    for number, line in enumerate(read_text(file, "auth.keys_file").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"auth.keys_file: {file}, line {number}"
        entry = re.fullmatch(r"\s*([^\s:]+)\s*:\s*([0-9a-fA-F]{64})(\s.*)?", line)
        if not entry:
            raise ConfigError(f"{where}: expected name:sha256")
        limits = _limits_in((entry[3] or "").split(), where)
        found.append(_KeyLine(where, entry[1], bytes.fromhex(entry[2]), limits))
    if not found and not may_be_empty:
        raise ConfigError(f"auth.keys_file: {file} holds no key, so nobody could connect")
    return found


def _limits_in(words: list[str], where: str) -> dict[str, float]:
    """`sessions=5` -> sessions: 5."""
    known = ClientLimits.__struct_fields__
    entries = [re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)", word) for word in words]
    given = {entry[1]: entry[2] for entry in entries if entry and entry[1] in known}
    if len(given) < len(words):
        raise ConfigError(
            f"{where}: behind name:sha256 only limits may stand, as sessions=5, each once; they "
            f"are {', '.join(known)}"
        )
    try:
        checked = msgspec.convert(given, ClientLimits, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explanation(error)}") from None
    return {name: getattr(checked, name) for name in given}


class TokenKey(msgspec.Struct, frozen=True):
    """What tokens are checked with. It comes with the one algorithm that it is for: what a token
    says of its own algorithm decides nothing."""

    algorithm: Literal["HS256", "EdDSA"]
    text: str
    """The secret, or the public key as PEM."""
    name: str
    """The configuration key that it came from, for complaints."""


def token_key(config: Config, environment: Mapping[str, str]) -> TokenKey | None:
    """What `auth.mode=keys` checks tokens with; None: it takes none. Raises `ConfigError`."""
    auth = config.auth
    if auth.mode == "none":
        return None
    found = None
    if file := auth.token_public_key_file:
        name = "auth.token_public_key_file"
        found = TokenKey("EdDSA", read_text(file, name), name)
    elif file := auth.token_secret_file or _credential("relay-token-secret", environment):
        name = "auth.token_secret_file"
        found = TokenKey("HS256", read_text(file, name).strip(), name)
    if found is not None:
        _demand_jwt(found.name)
    return found


def signing_key(config: Config, environment: Mapping[str, str], file: Path | None) -> str:
    """What `relay token` signs with: the content of `file`, else the secret that the relay checks
    with. Raises `ConfigError`."""
    auth = config.auth
    if file is None:
        file = auth.token_secret_file or _credential("relay-token-secret", environment)
    if file is None:
        raise ConfigError("--signing-key: needed unless there is an auth.token_secret_file")
    _demand_jwt("relay token")
    return read_text(file, "--signing-key")


def _demand_jwt(name: str) -> None:
    if importlib.util.find_spec("jwt") is None:
        raise ConfigError(
            f"{name}: tokens need PyJWT, which is not installed; "
            "pip install 'voice-agent-relay[tokens]'"
        )


def files(config: Config, environment: Mapping[str, str]) -> list[Path]:
    """What is read besides the configuration itself, and may change while it is served. Some of it
    may not exist."""
    listen, auth, directory = config.listen, config.auth, environment.get("CREDENTIALS_DIRECTORY")
    named = [
        listen.tls_cert,
        listen.tls_key,
        auth.keys_file,
        auth.token_secret_file,
        auth.token_public_key_file,
    ]
    upstreams: list[Upstream | Fallback] = [config.upstream, *config.upstreams]
    for each in upstreams:
        named += [each.api_key_file, each.ca_file, each.client_cert, each.client_key]
    if directory:
        named += [Path(directory, name) for name in CREDENTIALS]
    return [file for file in named if file is not None]


def ignored_names(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like ours and set nothing, such as RELAY_LISTEN_PORT. Not an error:
    orchestrators put names like RELAY_PORT into the environment of a service called relay."""
    return sorted(n for n in environment if n.startswith("RELAY_") and not _environment_path(n))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost counts as not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def demand_keys(auth: Auth, host: str) -> None:
    """Raises `ConfigError` if listening on `host` would let strangers in."""
    if auth.mode == "none" and not is_loopback(host) and not auth.allow_anonymous:
        raise ConfigError(
            f"auth.mode: none would let anyone in who reaches {host}; "
            "set auth.mode=keys, or auth.allow_anonymous=true if that is meant"
        )


def under_systemd(environment: Mapping[str, str]) -> bool:
    return "NOTIFY_SOCKET" in environment or "INVOCATION_ID" in environment


def _path(expected: type, value: Any) -> Path:
    if expected is not Path:
        raise NotImplementedError(expected)
    if not isinstance(value, str):
        raise ValueError("Expected a path")  # msgspec adds where
    return Path(value)


def _check(config: Config) -> None:
    """What no single key can say about itself."""
    listen, auth, url = config.listen, config.auth, config.upstream.url
    if (listen.tls_cert is None) != (listen.tls_key is None):
        raise ConfigError("listen.tls_cert and listen.tls_key: one needs the other")
    if shared := {_plain(p) for p in listen.deepgram_paths} & {
        _plain(p) for p in listen.component_paths
    }:
        raise ConfigError(f"listen.component_paths: {min(shared)} is in listen.deepgram_paths too")
    demand_keys(auth, listen.host)
    if auth.token_secret_file and auth.token_public_key_file:
        raise ConfigError("auth.token_secret_file, auth.token_public_key_file: one or the other")
    if url is not None and url != SIMULATOR and not _is_websocket_url(url):
        raise ConfigError(f"upstream.url: expected ws://HOST, wss://HOST or {SIMULATOR}")
    for number, fallback in enumerate(config.upstreams):
        if not _is_websocket_url(fallback.url):
            raise ConfigError(f"upstreams[{number}].url: expected ws://HOST or wss://HOST")
    _check_admin(config.admin)
    _check_tracing(config.tracing)
    _check_trust("upstream", config.upstream.url, config.upstream)
    for number, fallback in enumerate(config.upstreams):
        _check_trust(f"upstreams[{number}]", fallback.url, fallback)
    _check_functions(config.functions)
    _check_store(config.store)


def _check_admin(admin: Admin) -> None:
    if admin.port and not is_loopback(admin.host) and not admin.allow_anonymous:
        raise ConfigError(
            f"admin.host: the pages ask for no key, and {admin.host} is not loopback; "
            "set admin.allow_anonymous=true if that is meant"
        )


def _check_trust(name: str, url: str | None, trust: Trust) -> None:
    if (trust.client_cert is None) != (trust.client_key is None):
        raise ConfigError(f"{name}.client_cert and {name}.client_key: one needs the other")
    if (trust.ca_file or trust.client_cert) and url is not None and url.startswith("ws:"):
        raise ConfigError(f"{name}.url: ws has no certificates, so none would be verified; say wss")


def _check_tracing(tracing: Tracing) -> None:
    if tracing.otlp_url is None:
        return
    parts = urllib.parse.urlsplit(tracing.otlp_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("tracing.otlp_url: expected http://HOST/PATH or https://HOST/PATH")
    if importlib.util.find_spec("opentelemetry") is None:
        raise ConfigError(
            "tracing.otlp_url: spans need OpenTelemetry, which is not installed; "
            "pip install 'voice-agent-relay[otel]'"
        )


def _check_functions(functions: Functions) -> None:
    for i, url in enumerate(functions.endpoints):
        if not is_listable(url):
            raise ConfigError(
                f"functions.endpoints[{i}]: expected http://HOST/PATH or https://HOST/PATH, "
                "without user, query, fragment or dots that go up"
            )
    if functions.endpoints and importlib.util.find_spec("httpx2") is None:
        raise ConfigError(
            "functions.endpoints: calling them needs httpx2, which is not installed; "
            "pip install 'voice-agent-relay[functions]'"
        )


def _check_store(store: Store) -> None:
    if store.url is not None and (not store.url.startswith(SQLITE) or store.path == Path()):
        raise ConfigError("store.url: expected sqlite:///PATH")
    if store.key_file is None:
        return
    if store.url is None:
        raise ConfigError("store.key_file: encrypts nothing without store.url")
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError(
            "store.key_file: encryption needs cryptography, which is not installed; "
            "pip install 'voice-agent-relay[store-encryption]'"
        )


def _plain(path: str) -> str:
    return path.rstrip("/") or "/"


def _is_websocket_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 - reading it raises ValueError for what is no port
    except ValueError:
        return False
    # A user, a password or a fragment would have no effect.
    unused = "@" in parts.netloc or parts.fragment
    return parts.scheme in ("ws", "wss") and bool(parts.hostname) and not unused


def _api_key(config: Config, environment: Mapping[str, str]) -> str | None:
    if file := config.upstream.api_key_file:
        return _key_in(file, "upstream.api_key_file")
    if not (key := environment.get("OPENAI_API_KEY", "").strip()):
        credential = _credential("openai-api-key", environment)
        key = read_text(credential, "credential openai-api-key").strip() if credential else ""
    return _sendable(key, "upstream") or None


def _key_in(file: Path, name: str) -> str:
    key = read_text(file, name).strip()
    if not key:
        raise ConfigError(f"{name}: {file} is empty")
    return _sendable(key, name)


def _sendable(key: str, name: str) -> str:
    # Else the dial would fail later, out of sight of whoever can mend it.
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{name}: the key holds characters that no HTTP header can carry")
    return key


def _credential(name: str, environment: Mapping[str, str]) -> Path | None:
    """A file that systemd's LoadCredential= left for us; a blank one is what SetCredential= in the
    unit puts in place of one that does not exist."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    file = Path(directory, name)
    try:
        file.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"credential {name}: cannot read {file}: {_reason(error)}") from None
    return file if read_text(file, f"credential {name}").strip() else None


def read_text(file: Path, key: str) -> str:
    """The content of the file that `key` names; raises `ConfigError`."""
    try:
        return file.read_text(encoding="utf-8-sig")  # as some editors save it
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{key}: cannot read {file}: {_reason(error)}") from None


def _read_toml(file: Path, option: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(file, option), parse_float=_float)
    except RecursionError:
        raise ConfigError(f"{file}: too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _environment_path(name: str) -> list[str]:
    """`RELAY_LISTEN__PORT` -> listen, port; empty for every other variable."""
    path = name.removeprefix("RELAY_").lower().split("__")
    return path if name.startswith("RELAY_") and len(path) > 1 and all(path) else []


def _key_path(key: str) -> list[str]:
    """`voices."aura-2.en"` -> voices, aura-2.en: a TOML key, so that a name may hold dots."""
    try:
        tree: Any = tomllib.loads(f"{key.strip()} = 0")
    except (tomllib.TOMLDecodeError, RecursionError):
        raise ConfigError(f"--set {key}: expected section.key=value") from None
    path = []
    while isinstance(tree, dict):
        if len(tree) != 1:
            raise ConfigError(f"--set {key}: expected section.key=value")
        ((name, tree),) = tree.items()
        path.append(name)
    return path


def _value(text: str) -> Any:
    """A TOML value if `text` is one, else `text` itself. No key is a date, so a date is text."""
    text = text.strip()
    try:
        tree = tomllib.loads(f"value = {text}", parse_float=_float)
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = tree["value"]
    is_moment = isinstance(value, datetime.date | datetime.time)
    return text if len(tree) != 1 or is_moment else value


def _float(text: str) -> float:
    """TOML's, but for nan: it would pass every bound and fail much later, in a clock."""
    value = float(text.replace("_", ""))
    if math.isnan(value):
        raise tomllib.TOMLDecodeError("nan is not a value of any key")
    return value


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[path[-1]] = value


def _explanation(error: msgspec.ValidationError) -> str:
    """`Object contains unknown field `prot` - at `$.listen`` -> `listen.prot: unknown key`."""
    problem, _, where = str(error).partition(" - at `")
    path = re.sub(r"^\$\.?", "", where.rstrip("`"))
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", problem, re.DOTALL):
        return f"{path}.{unknown[1]}: unknown key".lstrip(".")
    problem = problem.replace("`object`", "a table")
    return f"{path or 'configuration'}: {problem[:1].lower()}{problem[1:]}"
