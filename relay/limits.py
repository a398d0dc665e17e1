"""limits: how much each client may use, and all together, and how much they have used.

The limits (`Rules`) are the configuration's and may be replaced at any time; the counts (`Ledger`)
live on, are plain data, and encode. Whoever serves asks with `admit` before anything that costs,
tells with `spend` what was used meanwhile, and gives back with `release`; each is one step.

It knows names, numbers and the time, which is an argument in seconds since 1970, because counts
outlive a process. Of connections, messages and money it knows nothing.
"""

import ipaddress
from typing import Annotated, Literal, TypeAlias

import msgspec

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Number: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
SLOTS = 60
"""Into how many parts an hour or a day is divided: what was used is forgotten part by part."""
BURST_S = 60.0
"""A rate is an average over so long. Recipes of the vendor's send half a minute of audio at once;
a burst is no fault."""
IPV6_NETWORK = 64
"""Bits of an IPv6 address that tell clients apart: within such a network anyone can have any."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be used. 0, the default of each: no limit."""

    sessions: Count = 0
    """Conversations at once."""
    audio_minutes_per_hour: Number = 0.0
    """Audio, what the upstream is sent and what it says together, within any hour."""
    tokens_per_day: Count = 0
    """Tokens that the upstream reports, in and out, within any 24 hours."""
    frames_per_s: Number = 0.0
    """Frames that come from the client, on average over a minute."""
    bytes_per_s: Number = 0.0
    """Bytes that come from the client, on average over a minute."""


class ClientLimits(Limits, frozen=True, kw_only=True):
    """What one client may use."""

    session_minutes: Number = 0.0
    """Length of a session, where that is less than `session.max_session_s`."""


LimitName: TypeAlias = Literal[
    "sessions", "audio_minutes_per_hour", "tokens_per_day", "frames_per_s", "bytes_per_s"
]

NO_LIMITS = ClientLimits()

_WORDS: dict[LimitName, str] = {
    "sessions": "conversations at once",
    "audio_minutes_per_hour": "minutes of audio within an hour",
    "tokens_per_day": "tokens within a day",
    "frames_per_s": "frames a second",
    "bytes_per_s": "bytes a second",
}


class Rules(msgspec.Struct, frozen=True):
    """All limits that are in force."""

    total: Limits = Limits()
    """Of all clients together."""
    key: ClientLimits = NO_LIMITS
    """Of each client of which nothing else is said."""
    named: dict[str, ClientLimits] = {}
    """Of the clients with these names."""

    def of(self, client: str) -> ClientLimits:
        return self.named.get(client, self.key)


class Reached(msgspec.Struct, frozen=True):
    """The limit that is in the way."""

    limit: LimitName
    by_all: bool
    """By all clients together; else by this one."""
    again_in_s: float | None = None
    """When it will be out of the way if nobody uses anything; None: when somebody leaves."""

    @property
    def is_rate(self) -> bool:
        return self.limit in ("frames_per_s", "bytes_per_s")

    @property
    def key(self) -> str:
        """Of the configuration: `limits.key.sessions`."""
        return f"limits.{self.limit}" if self.by_all else f"limits.key.{self.limit}"

    @property
    def text(self) -> str:
        return f"Too many {_WORDS[self.limit]}{' on this server' if self.by_all else ''}."


class Spent(msgspec.Struct, frozen=True):
    """What was used since the last time."""

    frames: int = 0
    bytes: int = 0
    audio_s: float = 0.0
    tokens: int = 0


def client_of(key_name: str | None, peer: str) -> str:
    """What a client is counted by: the name of its key or token; without one its address, or for
    IPv6 its network, in brackets."""
    if key_name is not None:
        return key_name
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return f"[{peer}]"
    if isinstance(address, ipaddress.IPv4Address):
        return f"[{address}]"
    if address.ipv4_mapped is not None:
        return f"[{address.ipv4_mapped}]"
    return f"[{ipaddress.ip_network((address, IPV6_NETWORK), strict=False)}]"


class Window(msgspec.Struct):
    """What was used within the last hour or day, and up to one slot longer."""

    slot_s: float
    slot: int = 0
    """The one in which it was looked through last."""
    used: float = 0.0
    slots: dict[int, float] = {}

    def use(self, amount: float, now: float) -> None:
        self.pass_time(now)
        if amount:
            self.slot = int(now // self.slot_s)
            self.used += amount
            self.slots[self.slot] = self.slots.get(self.slot, 0.0) + amount

    def pass_time(self, now: float) -> None:
        """Forget what is too old; and what is yet to come, in case the clock was wrong."""
        slot = int(now // self.slot_s)
        if self.slots and slot != self.slot:
            self.slot = slot
            self.slots = {n: used for n, used in self.slots.items() if slot - SLOTS <= n <= slot}
            self.used = sum(self.slots.values())

    def below_in_s(self, limit: float, now: float) -> float:
        """How long it takes until less than `limit` was used."""
        left, last = self.used, self.slot
        for last in sorted(self.slots):
            left -= self.slots[last]
            if left < limit:
                break
        return max(0.0, (last + SLOTS + 1) * self.slot_s - now)


class Bucket(msgspec.Struct):
    """What was used faster than it may be: it runs out at the rate that is allowed."""

    level: float = 0.0
    at: float = 0.0

    def use(self, amount: float, rate: float, now: float) -> None:
        ran_out = max(0.0, now - self.at) * rate if rate else self.level
        self.level = max(0.0, self.level - ran_out) + (amount if rate else 0.0)
        self.at = now

    def overflows(self, rate: float) -> bool:
        return self.level > rate * BURST_S > 0

    def below_in_s(self, rate: float) -> float:
        """How long it takes until it does not overflow: a day at most, as rates may be tiny."""
        return min(self.level / rate - BURST_S, DAY_S)

    def empty(self, rate: float, now: float) -> bool:
        return not rate or self.level <= (now - self.at) * rate


class Account(msgspec.Struct):
    """What a client has used, or all together."""

    sessions: int = 0
    audio: Window = msgspec.field(default_factory=lambda: Window(HOUR_S / SLOTS))
    """In seconds."""
    tokens: Window = msgspec.field(default_factory=lambda: Window(DAY_S / SLOTS))
    frames: Bucket = msgspec.field(default_factory=Bucket)
    bytes: Bucket = msgspec.field(default_factory=Bucket)

    def spend(self, spent: Spent, limits: Limits, now: float) -> None:
        self.audio.use(spent.audio_s, now)
        self.tokens.use(spent.tokens, now)
        self.frames.use(spent.frames, limits.frames_per_s, now)
        self.bytes.use(spent.bytes, limits.bytes_per_s, now)

    def used_up(self, limits: Limits, now: float) -> tuple[LimitName, float] | None:
        """The budget of which nothing is left, and for how long."""
        audio_s = limits.audio_minutes_per_hour * 60
        if 0 < audio_s <= self.audio.used:
            return "audio_minutes_per_hour", self.audio.below_in_s(audio_s, now)
        if 0 < limits.tokens_per_day <= self.tokens.used:
            return "tokens_per_day", self.tokens.below_in_s(limits.tokens_per_day, now)
        return None

    def too_fast(self, limits: Limits) -> tuple[LimitName, float] | None:
        """The rate that was exceeded, and how long it takes to make up for it."""
        if self.frames.overflows(limits.frames_per_s):
            return "frames_per_s", self.frames.below_in_s(limits.frames_per_s)
        if self.bytes.overflows(limits.bytes_per_s):
            return "bytes_per_s", self.bytes.below_in_s(limits.bytes_per_s)
        return None

    def forgettable(self, limits: Limits, now: float) -> bool:
        """Nothing would be different without it."""
        self.audio.pass_time(now)
        self.tokens.pass_time(now)
        return (
            not self.sessions
            and not self.audio.slots
            and not self.tokens.slots
            and self.frames.empty(limits.frames_per_s, now)
            and self.bytes.empty(limits.bytes_per_s, now)
        )


class Ledger(msgspec.Struct):
    """The counts, of all and of each client that is there or has used something lately."""

    total: Account = msgspec.field(default_factory=Account)
    clients: dict[str, Account] = {}
    refused: dict[str, int] = {}
    """How many were not let in, by the `key` of the limit."""
    ended: dict[str, int] = {}
    """How many sessions were ended, by the `key` of the limit."""

    def admit(
        self, client: str, rules: Rules, now: float, *, takes_over: bool = False
    ) -> Reached | None:
        """Let one more session in, or not. `takes_over`: it has another's place, and is none."""
        account, more = self.clients.get(client) or Account(), not takes_over
        reached = _no_more(account, rules.of(client), now, by_all=False, more=more)
        reached = reached or _no_more(self.total, rules.total, now, by_all=True, more=more)
        if reached is not None:
            self.refused[reached.key] = self.refused.get(reached.key, 0) + 1
            return reached
        self.clients[client] = account
        account.sessions += more
        self.total.sessions += more
        return None

    def release(self, client: str, rules: Rules, now: float) -> None:
        """A session that was admitted is over."""
        account = self.clients[client]
        account.sessions -= 1
        self.total.sessions -= 1
        if account.forgettable(rules.of(client), now):
            del self.clients[client]

    def spend(self, client: str, spent: Spent, rules: Rules, now: float) -> Reached | None:
        """A session of this client's has used this. If a limit is reached, the session is to be
        ended (`stopped`). By all together only a budget ends sessions, a rate keeps others out."""
        account, limits = self.clients[client], rules.of(client)
        account.spend(spent, limits, now)
        self.total.spend(spent, rules.total, now)
        if found := account.used_up(limits, now) or account.too_fast(limits):
            return Reached(found[0], False, found[1])
        if found := self.total.used_up(rules.total, now):
            return Reached(found[0], True, found[1])
        return None

    def stopped(self, reached: Reached) -> None:
        """A session was ended because of this."""
        self.ended[reached.key] = self.ended.get(reached.key, 0) + 1

    def carried_over(self) -> "Ledger":
        """For a later process: what was used lately. Nobody is in there yet."""
        clients = {name: _alone(account) for name, account in self.clients.items()}
        return Ledger(_alone(self.total), clients)

    def tick(self, rules: Rules, now: float) -> None:
        """Forget who has not been there for long. To be called now and then."""
        for client, account in list(self.clients.items()):
            if account.forgettable(rules.of(client), now):
                del self.clients[client]


def _alone(account: Account) -> Account:
    return msgspec.structs.replace(account, sessions=0)


def _no_more(
    account: Account, limits: Limits, now: float, *, by_all: bool, more: bool
) -> Reached | None:
    """What is in the way of a session, which is one `more` or takes another's place."""
    if more and 0 < limits.sessions <= account.sessions:
        return Reached("sessions", by_all)
    account.spend(Spent(), limits, now)
    found = account.used_up(limits, now) or account.too_fast(limits)
    return Reached(found[0], by_all, found[1]) if found else None
