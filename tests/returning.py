"""returning: a pair whose client can be lost and come back, and whose relay can be killed.

It does what a server does: welcomes the newcomer with a session of its own, lets its first message
decide, and goes on with the session that the old connection left behind.
"""

from typing import Any, Self

import msgspec

from relay import voice_agent
from relay.session import Admission, ClientGone, Session
from relay.session.actions import Action
from tests.pair import START, WALL, Pair


class Returning(Pair):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.written = b""
        """What is in the store of the running session."""
        self.left = b""
        """What a lost connection left behind."""
        self.connections: list[list[str]] = [[]]
        """Types of the messages to the client, by connection."""
        self._revision = 0
        super().__init__(*arguments, **more)

    @property
    def wall(self) -> float:
        return WALL + self.now - START

    def lost(self) -> Self:
        """The client is lost without a close frame."""
        self.left = self.session.parked(self.now, self.wall)
        self._perform(self.session.client_gone(ClientGone(), self.now))
        self._cut()
        return self

    def killed(self) -> Self:
        """The relay's process ends; what it had written is all that is left."""
        self.left = self.written
        self.session.end()
        self._cut()
        return self

    def away(self, seconds: float) -> Self:
        """Nothing runs."""
        self.now += seconds
        return self

    def back(self, message: dict[str, Any], *, repeated: bool = False) -> Self:
        """A new connection, whose first message this is."""
        number = len(self.connections) + 1
        admission = Admission(f"request-{number}", self.session.admission.dialect)
        self.connections.append([])
        options, mapping = self.session.options, self.session.mapping
        newcomer = Session(options=options, mapping=mapping, admission=admission)
        self._perform(newcomer.opened(self.now, self.wall))
        self.session = Session.restored(
            self.left,
            options=options,
            mapping=mapping,
            upstreams=self.session.upstreams,
            lost_wall=self.wall,
        )
        frame = msgspec.json.encode(message).decode()
        first = voice_agent.decode_client(frame)
        sent = first if isinstance(first, voice_agent.Settings) else None
        self._line("client", ">", message["type"], message)
        self._perform(self.session.resumed(admission, self.now, self.wall, sent, repeated=repeated))
        if sent is None:
            self._perform(self.session.client_message(first, self.now))
        return self

    def _cut(self) -> None:
        self.upstreams.clear()
        self._arrivals.clear()

    def _perform(self, actions: list[Action]) -> None:
        super()._perform(actions)
        if self.session.revision != self._revision and self.session.worth_keeping:
            self._revision = self.session.revision
            self.written = self.session.snapshot(self.wall)

    def _line(self, side: Any, way: Any, what: str, message: Any) -> None:
        super()._line(side, way, what, message)
        if (side, way) == ("client", "<"):
            self.connections[-1].append(what)
