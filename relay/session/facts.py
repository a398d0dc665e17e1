"""What the shell tells a session besides messages and events."""

import enum

import msgspec

from relay.settings import Dialect as Dialect  # told at admission, so it is found here too


class Admission(msgspec.Struct, frozen=True):
    """A connection that was let in."""

    request_id: str
    """Unguessable, fresh for each connection; the Welcome carries it."""
    dialect: Dialect = Dialect.DEEPGRAM
    warm: bool = False
    """Worth dialling the upstream for before it has said what it wants."""
    max_session_s: float | None = None
    """The session may last no longer, whatever the options say; None: they alone decide."""
    client: str = ""
    """Whose it is, for the books."""


class UpstreamTraits(msgspec.Struct, frozen=True):
    """How far a configured upstream keeps to the API."""

    ends_responses: bool = True
    """It sends response.done. False: the end of a response is inferred (C-230)."""
    model: str | None = None
    """What to dial it with, whatever the Settings name; None: what they are mapped to."""


class ClientGone(msgspec.Struct, frozen=True):
    """The client's leg ended by itself (never reported after a `Close` action)."""

    code: int | None = None
    """The close frame's code (1005 if the frame had none), or None: lost without a close frame."""
    reason: str = ""


class Loss(enum.Enum):
    """How an upstream leg ended."""

    REFUSED = "refused"
    """The server answered the upgrade with an HTTP status other than 101."""
    UNREACHABLE = "unreachable"
    """No connection: name, address, TLS, or no answer in time."""
    CLOSED = "closed"
    """An open leg ended with a close frame."""
    LOST = "lost"
    """An open leg ended without one: EOF, reset, no pong in time, a missed send deadline."""


class UpstreamGone(msgspec.Struct, frozen=True):
    """An upstream leg ended by itself (never reported after its `Hangup`)."""

    how: Loss
    status: int | None = None
    """HTTP status, when REFUSED."""
    code: int | None = None
    """Close code, when CLOSED."""
    reason: str = ""
    """The cause in a few words, without secrets, for error descriptions; beside a close code, the
    upstream's own."""

    @property
    def cause(self) -> str:
        """As much of the reason as a log may have: an upstream's words may quote what was said, or
        a prompt (C-197)."""
        return self.reason if self.code is None else ""
