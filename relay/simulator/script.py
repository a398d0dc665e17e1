"""script: what a run of the simulator is told in advance.

It knows the TOML file and its defaults. It does not know what any of it leads to: turns are played
by `responder`, knobs are obeyed by the machines they name, faults by `server`.

    # What the user's spoken turns say, in order of their commits. An entry may fail instead.
    transcripts = ["what time is it", { fail = "audio_unintelligible" }]

    [[turn]]                      # the first entry that fits a response is played
    user = "weather"              # words of the user's last text, in any case
    call = [{ name = "get_weather", arguments = { city = "Paris" } }]

    [[turn]]
    nth = 2                       # the second response of the connection
    say = "You asked: {user}. The answer: {results}."

    [[turn]]
    user = "break"
    times = 1                     # the entry is used up after that
    fail = { code = "rate_limit_exceeded", type = "invalid_request_error", message = "Slow down." }

    [knobs]                       # how the simulator behaves
    pace = 1.0

    [faults]                      # what goes wrong on purpose
    close_after_events = 40
"""

import tomllib
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
CloseCode: TypeAlias = Annotated[int, msgspec.Meta(ge=1000, le=4999)]


class ScriptError(Exception):
    """The script cannot be played; the text names the key and is meant for its author."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the script: immutable, and an unknown key in it is an error."""


class Failure(Table, frozen=True):
    """The error of a failed response or transcription."""

    code: str
    type: str = "server_error"
    message: str = "The simulator was told to fail here."


class Unheard(Table, frozen=True):
    """A spoken turn whose transcription fails."""

    fail: str
    """The error's code."""


class ScriptedCall(Table, frozen=True):
    """A function call that the model makes, whether the tool is declared or not."""

    name: str
    arguments: dict[str, Any] | str = {}
    """An object, or the literal text of the arguments (which need not be JSON)."""


class Turn(Table, frozen=True):
    """What the model does when it is asked to respond, and when that is.

    All conditions given must hold; an entry without any fits every response. A response that was
    told what to say (see `responder`) is neither counted nor scripted, unless by `verbatim`.
    """

    user: str | None = None
    """The user's last text contains this, in any case; never fits a response to tool results."""
    nth: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """It is the n-th response of the connection, counted from 1."""
    after_results: bool | None = None
    """The response does (true) or does not (false) follow tool results."""
    verbatim: bool = False
    """The response was told what to say: fits those and no others."""
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How often the entry may be played; without it, always."""

    say: str | None = None
    """Spoken, or written in a text response. `{user}` and `{results}` are filled in."""
    call: tuple[ScriptedCall, ...] = ()
    """Called in one response, after what is said."""
    fail: Failure | None = None
    """The response ends `failed` with this error, after what is said and called."""
    incomplete: Literal["max_output_tokens", "content_filter"] | None = None
    """The response ends `incomplete` for this reason, its last item cut short."""
    delay_s: Seconds | None = None
    """Time to think, instead of the knob's."""


class Knobs(Table, frozen=True):
    """How the simulator behaves."""

    pace: Annotated[float, msgspec.Meta(ge=0)] = 4.0
    """How many times faster than it plays audio is sent; 1.0 is real time, 0 is all at once. The
    API is several times faster than real time."""
    delta_ms: Annotated[int, msgspec.Meta(ge=10, le=1000)] = 100
    """How much audio is in one delta."""
    think_s: Seconds = 0.1
    """Time from response.created to the first output."""
    transcription_s: Seconds = 0.3
    """Time from a commit to the transcription, which the API makes beside the response."""
    session_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    """Age at which a session expires; the API's limit is 60 minutes."""


class Faults(Table, frozen=True):
    """What goes wrong on purpose. Nothing does by default."""

    connections: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many connections, from the first, are faulty; without it, all."""
    refuse_status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    """The upgrade is answered with this HTTP status."""
    created_delay_s: Seconds = 0.0
    """session.created comes this late."""
    close_after_events: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """After so many server events the connection is closed with `close_code`."""
    close_code: CloseCode = 1011
    close_reason: str = "simulated fault"
    drop: bool = False
    """`close_after_events` ends the connection without a close frame."""
    silent_after_events: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """After so many server events nothing more is sent, and the connection stays open."""


class Script(Table, frozen=True):
    """A whole file. The empty script is the built-in responder at the default pace."""

    transcripts: tuple[str | Unheard, ...] = ()
    turn: tuple[Turn, ...] = ()
    knobs: Knobs = Knobs()
    faults: Faults = Faults()


def parse(text: str) -> Script:
    """The script in a TOML file's text. Raises `ScriptError`."""
    try:
        return msgspec.convert(tomllib.loads(text), Script)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as reason:
        raise ScriptError(str(reason)) from reason
