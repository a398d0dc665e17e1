"""parking: which conversation a connection may take up again, decided from what it brings.

It knows the claims of connections, when each conversation was left, and how long it waits. It holds
no conversation, has no clock (`now` is an argument, in seconds) and opens nothing: what is to be
done about a decision it answers as a list of orders, to be obeyed in their order before anything
else happens. All connections that may ever want the same conversation must be told to the same lot,
with times of one clock that never goes back; no call waits for anything, and none takes longer when
more conversations go on.

Two things tell a returning client. An id from one of its Welcomes is unguessable and proves it. The
`x-deepgram-session-id` that the official JavaScript SDK sends proves little: it belongs to one
client *object*, which in a backend may hold the conversations of many people. A fresh conversation
begins with Settings, and the SDK never sends those again when it reconnects; so a first message
other than Settings means that somebody is back, though not who. It is certain who it is while only
one conversation of that object can be meant: one is known, nobody of the object was lost in any
other way (`Spoil` says for which ways that can not be said), and no two of its connections were in
use at the same time. Otherwise nothing is resumed: no one may be handed another's conversation.
"""

import enum
import itertools
import math
from collections.abc import Collection
from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec

SPOILT_LABELS = 65_536
"""How many labels are remembered of which nothing is resumed any more; those seen last."""

T = TypeVar("T")
ByHeader: TypeAlias = Literal["bare", "equal", "off"]


class Claim(msgspec.Struct, frozen=True):
    """What the head of a connection says about where it belongs."""

    credentials: str = ""
    """Whose it is. Other credentials never resume (C-255)."""
    resume: str | None = None
    """`?resume=`: an id of an earlier Welcome."""
    label: str | None = None
    """`x-deepgram-session-id`."""


class Deposit(msgspec.Struct):
    """A conversation, as far as it can be claimed."""

    key: str
    """The id of its first Welcome."""
    credentials: str
    ids: list[str]
    """Of all its Welcomes."""
    label: str | None = None
    settings: bytes = b""
    """Digest of the Settings last accepted."""


class Connection(msgspec.Struct):
    """One client connection."""

    id: str
    """The id of its Welcome."""
    claim: Claim
    arrived_at: float
    watched: bool = False
    """A newer connection bears the same label (`Watch`)."""
    place: "Place | None" = None
    """The conversation that it holds; None before its first message."""


class Place(msgspec.Struct):
    """Where a conversation is."""

    deposit: Deposit
    holder: Connection | None = None
    """None: it is parked."""
    until: float = math.inf
    """When it is forgotten."""
    nbytes: int = 0
    """What it takes while it is parked."""


class End(enum.Enum):
    """How a connection ended."""

    LOST = "lost"
    """Without a close frame; its conversation waits."""
    CLOSED = "closed"
    """The client closed it, or we did with 1000: nobody comes back by itself."""
    BROKEN = "broken"
    """It ended otherwise, and its conversation with it."""
    KEPT = "kept"
    """The daemon stops, and the conversation waits for the next one."""


class Forget(msgspec.Struct, frozen=True):
    """The conversation is over: erase what was kept of it."""

    key: str


class Spoil(msgspec.Struct, frozen=True):
    """Nothing is resumed by this label any more, not by a later process either."""

    label: str


class Doubt(msgspec.Struct, frozen=True):
    """Somebody bears this label and has no conversation yet. If the process is killed now, they
    come back with nothing to find: for a later process the label is spoilt, unless..."""

    label: str


class Trust(msgspec.Struct, frozen=True):
    """...all who bear it have one."""

    label: str


class Supersede(msgspec.Struct, frozen=True):
    """Close this connection: another one claims the same conversation (C-256)."""

    connection: str


class Watch(msgspec.Struct, frozen=True):
    """A newer connection bears the same label as this one: say so (`came`) as soon as anything
    comes of it."""

    connection: str


Order: TypeAlias = Forget | Spoil | Doubt | Trust | Supersede | Watch


class Decision(msgspec.Struct, frozen=True):
    """What the first message of a connection has come to."""

    key: str | None
    """The conversation to go on with; None: it is a new one."""
    holder: str | None
    """The connection that has it; None: it is parked."""
    repeated: bool
    """It was found by Settings that are equal to those of before."""
    orders: list[Order]


class _Grouped(Generic[T]):
    """Things under names that several of them may share, each group in the order of its coming.
    None is no name."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, T]] = {}

    def add(self, name: str | None, key: str, thing: T) -> None:
        if name is not None:
            self._groups.setdefault(name, {})[key] = thing

    def remove(self, name: str | None, key: str) -> None:
        if name is not None:
            del self._groups[name][key]
            if not self._groups[name]:
                del self._groups[name]

    def under(self, name: str | None) -> Collection[T]:
        return self._groups[name].values() if name in self._groups else ()


class Lot:
    """All conversations that somebody holds or may come back to."""

    def __init__(
        self,
        *,
        window_s: float = 30.0,
        max_parked: int = 1000,
        max_parked_bytes: float = math.inf,
        by_header: ByHeader = "bare",
    ) -> None:
        """`window_s` 0: nothing is parked."""
        self._window_s = window_s
        self._max_parked = max_parked
        self._max_parked_bytes = max_parked_bytes
        self._by_header = by_header
        self._connections: dict[str, Connection] = {}  # in the order of their arrival
        self._connected: _Grouped[Connection] = _Grouped()  # the same, by label
        self._undecided: dict[str, Connection] = {}
        self._wanting: _Grouped[Connection] = _Grouped()  # the undecided, by the id they claim
        self._bearing: _Grouped[Connection] = _Grouped()  # the undecided, by label
        self._parked: dict[str, Place] = {}  # by key; whose time is up first, first
        self._parked_bytes = 0
        self._ids: dict[str, Place] = {}
        self._labelled: _Grouped[Place] = _Grouped()
        self._spoilt: dict[str, None] = {}  # those seen last at the end
        self._orders: list[Order] = []

    # -- what happens -----------------------------------------------------------------------------

    def restored(self, deposit: Deposit, now: float, nbytes: int = 0) -> list[Order]:
        """An earlier process left this, in so many bytes; its window begins now (C-260)."""
        self._park(self._add(Place(deposit)), now, nbytes)
        return self._bounded()

    def spoilt(self, label: str) -> None:
        """An earlier process said so, or doubted it to its end."""
        self._spoilt[label] = None

    def arrived(self, connection: str, claim: Claim, now: float) -> list[Order]:
        """A connection was accepted. What it may claim waits for its first message."""
        newcomer = Connection(connection, claim, now)
        if claim.label in self._spoilt:
            self._spoilt[claim.label] = self._spoilt.pop(claim.label)
        elif claim.label is not None:
            for older in self._connected.under(claim.label):
                if not older.watched:
                    older.watched = True
                    self._orders.append(Watch(older.id))
        if self._is_certain(claim.label):
            self._orders.append(Doubt(claim.label or ""))
        self._connections[connection] = self._undecided[connection] = newcomer
        self._connected.add(claim.label, connection, newcomer)
        self._wanting.add(claim.resume, connection, newcomer)
        self._bearing.add(claim.label, connection, newcomer)
        return self._taken()

    def came(self, connection: str) -> list[Order]:
        """Something came of a watched connection: it and a newer one are both in use (C-252)."""
        if (held := self._connections.get(connection)) is not None:
            self._spoil(held.claim.label)
        return self._taken()

    def decided(self, connection: str, settings: bytes | None = None) -> Decision:
        """The first message came: Settings with this digest, or anything else."""
        newcomer = self._undecided[connection]
        self._is_decided(newcomer)
        place = self._by_id(newcomer)
        by_id = place is not None
        place = place or self._by_label(newcomer, settings)
        if place is None:
            if settings is None:
                self._spoil(newcomer.claim.label)  # somebody is back of whom we do not know
            deposit = Deposit(connection, newcomer.claim.credentials, [], newcomer.claim.label)
            place = self._add(Place(deposit))
            key, holder = None, None
        else:
            key, holder = place.deposit.key, self._displaced(place, newcomer)
        self._take(place, newcomer, settings)
        self._less_doubt(newcomer)
        repeated = key is not None and settings is not None and not by_id
        return Decision(key, holder.id if holder else None, repeated, self._taken())

    def ended(self, connection: str, how: End, now: float, nbytes: int = 0) -> list[Order]:
        """A connection is no more. What it leaves takes so many bytes."""
        gone = self._connections.get(connection)
        if gone is None:
            return []  # superseded
        self._disconnect(gone)
        place = gone.place
        if place is None:
            self._is_decided(gone)
            if how is not End.CLOSED:
                self._spoil(gone.claim.label)  # its Settings may be on the way for ever
            self._less_doubt(gone)
        elif how is End.LOST and self._window_s > 0:
            self._park(place, now, nbytes)
            return self._bounded()
        elif how is End.KEPT:
            self._remove(place)
        else:
            self._forget(place, clean=how is End.CLOSED)
        return self._taken()

    def time_passed(self, now: float) -> list[Order]:
        """What nobody came back for is forgotten (C-249). Early calls do nothing."""
        due = itertools.takewhile(lambda place: place.until <= now, self._parked.values())
        for place in [place for place in due if not self._is_awaited(place)]:
            self._forget(place, clean=False)
        return self._taken()

    def next_deadline(self) -> float:
        """When `time_passed` is to be called; inf when there is no need. What a newcomer may be
        about to claim is looked at again when that has decided or ended."""
        waiting = (p.until for p in self._parked.values() if not self._is_awaited(p))
        return next(waiting, math.inf)

    # -- what is known ----------------------------------------------------------------------------

    def deposit(self, connection: str) -> Deposit | None:
        """The conversation that a connection holds."""
        held = self._connections.get(connection)
        return held.place.deposit if held is not None and held.place is not None else None

    def holder(self, claim: Claim) -> str | None:
        """The connection whose conversation this claim is certain to take over; None: there is
        none. A label alone is not certain before the first message."""
        place = self._ids.get(claim.resume or "")
        if place is None or place.holder is None or place.deposit.credentials != claim.credentials:
            return None
        return place.holder.id

    def knows(self, key: str) -> bool:
        """Whether this conversation is held or waits."""
        return key in self._ids

    @property
    def parked(self) -> int:
        """How many conversations wait."""
        return len(self._parked)

    @property
    def parked_bytes(self) -> int:
        """How much they take together."""
        return self._parked_bytes

    # -- inside -----------------------------------------------------------------------------------

    def _by_id(self, newcomer: Connection) -> Place | None:
        """What it claims by the id of a Welcome (C-254)."""
        place = self._ids.get(newcomer.claim.resume or "")
        return place if place is not None and self._may_have(newcomer, place) else None

    def _by_label(self, newcomer: Connection, settings: bytes | None) -> Place | None:
        """What can only be meant by its label."""
        claim = newcomer.claim
        if claim.label is None or claim.label in self._spoilt:
            return None
        places = list(self._labelled.under(claim.label))
        others = self._bearing.under(claim.label)
        if len(places) != 1 or others or not self._may_have(newcomer, places[0]):
            return None
        bare = settings is None
        match self._by_header:
            case "bare":
                return places[0] if bare else None  # C-251
            case "equal":
                return places[0] if bare or settings == places[0].deposit.settings else None
            case "off":
                return None

    def _may_have(self, newcomer: Connection, place: Place) -> bool:
        """Not another's, and not come too late."""
        ours = place.deposit.credentials == newcomer.claim.credentials
        return ours and newcomer.arrived_at < place.until

    def _is_awaited(self, place: Place) -> bool:
        """Somebody has arrived in time who may be about to claim it."""
        deposit = place.deposit
        claimants = [c for known in deposit.ids for c in self._wanting.under(known)]
        if deposit.label not in self._spoilt:
            claimants += self._bearing.under(deposit.label)
        return any(self._may_have(c, place) for c in claimants)

    def _displaced(self, place: Place, newcomer: Connection) -> Connection | None:
        """Of two claims the last wins (C-256). Returns who had the conversation."""
        claimants = [c for known in place.deposit.ids for c in self._wanting.under(known)]
        for other in claimants:
            older = other.arrived_at < newcomer.arrived_at  # a later one may yet have its turn
            if older and self._may_have(other, place):
                self._supersede(other)
        holder, place.holder = place.holder, None
        if holder is not None:
            self._supersede(holder)
        return holder

    def _supersede(self, connection: Connection) -> None:
        self._disconnect(connection)
        self._orders.append(Supersede(connection.id))
        if connection.id in self._undecided:
            self._is_decided(connection)
            self._less_doubt(connection)

    def _disconnect(self, connection: Connection) -> None:
        del self._connections[connection.id]
        self._connected.remove(connection.claim.label, connection.id)

    def _is_decided(self, connection: Connection) -> None:
        del self._undecided[connection.id]
        self._wanting.remove(connection.claim.resume, connection.id)
        self._bearing.remove(connection.claim.label, connection.id)

    def _take(self, place: Place, newcomer: Connection, settings: bytes | None) -> None:
        deposit = place.deposit
        if deposit.label != newcomer.claim.label:
            self._spoil(deposit.label)  # who bears it may yet look for what has gone elsewhere
            self._labelled.remove(deposit.label, deposit.key)
            deposit.label = newcomer.claim.label
            self._labelled.add(deposit.label, deposit.key, place)
        if settings is not None:
            deposit.settings = settings
        deposit.ids.append(newcomer.id)
        self._ids[newcomer.id] = place
        self._unpark(place)
        place.holder = newcomer
        newcomer.place = place

    def _add(self, place: Place) -> Place:
        deposit = place.deposit
        self._labelled.add(deposit.label, deposit.key, place)
        for known in deposit.ids:
            self._ids[known] = place
        return place

    def _park(self, place: Place, now: float, nbytes: int) -> None:
        place.holder, place.until, place.nbytes = None, now + self._window_s, nbytes
        self._parked[place.deposit.key] = place
        self._parked_bytes += nbytes

    def _unpark(self, place: Place) -> None:
        if self._parked.pop(place.deposit.key, None) is not None:
            self._parked_bytes -= place.nbytes
            place.until, place.nbytes = math.inf, 0

    def _bounded(self) -> list[Order]:
        while self._parked and (
            len(self._parked) > self._max_parked or self._parked_bytes > self._max_parked_bytes
        ):
            self._forget(next(iter(self._parked.values())), clean=False)
        return self._taken()

    def _forget(self, place: Place, *, clean: bool) -> None:
        self._remove(place)
        self._orders.append(Forget(place.deposit.key))
        if not clean:
            self._spoil(place.deposit.label)  # its client may still come back

    def _remove(self, place: Place) -> None:
        self._unpark(place)
        self._labelled.remove(place.deposit.label, place.deposit.key)
        for known in place.deposit.ids:
            del self._ids[known]

    def _is_certain(self, label: str | None) -> bool:
        """Whether all who bear it have a conversation."""
        others = self._bearing.under(label)
        return label is not None and label not in self._spoilt and not others

    def _less_doubt(self, decided: Connection) -> None:
        if self._is_certain(decided.claim.label):
            self._orders.append(Trust(decided.claim.label or ""))

    def _spoil(self, label: str | None) -> None:
        if label is None or label in self._spoilt:
            return
        self._spoilt[label] = None
        if len(self._spoilt) > SPOILT_LABELS:
            del self._spoilt[next(iter(self._spoilt))]
        for connection in self._connected.under(label):
            connection.watched = False
        self._orders.append(Spoil(label))

    def _taken(self) -> list[Order]:
        orders, self._orders = self._orders, []
        return orders
