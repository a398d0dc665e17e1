"""relay: Deepgram Voice Agent V1 clients hold their conversation on an OpenAI-Realtime upstream.

The nouns of the system, in the order in which data meets them:

Message
    What a Deepgram client says or hears: `Settings`, `InjectUserMessage`, `ConversationText`...
    `relay.voice_agent` has one struct for each. Deepgram has *messages*.

Event
    What the upstream says or hears: `session.update`, `response.output_audio.delta`...
    `relay.realtime` has one struct for each. OpenAI has *events*.

Session
    One conversation. `relay.session` decides what every message and event means; it is given the
    time and answers with actions. It has no clock, no sockets and no logger, and encodes to
    MessagePack at any moment.

Leg
    One WebSocket: the client's, or one of the numbered upstream legs. `relay.wire` carries text
    and bytes over it and knows no message.

Switchboard
    The one task that reads the sockets of all legs (`relay.switchboard`). Whoever hears a leg is
    called by it, and woken only by the end. What a leg waits for otherwise, the clock and a slow
    peer, is the affair of `relay.upkeep`, and so is the time for a session's deadlines.

Bridge
    One connection: a nursery with two pumps that feed a session and perform its actions. Its ears
    and mouth turn the client's audio format into the upstream's and back (`relay.audio`).

Server
    Accepts, authenticates, admits, drains. One bridge per connection.

Seat
    The place of one admitted connection. What is used there is held against the limits of its
    client and of all (`relay.limits` counts and decides, `relay.metering` is asked).

Worker
    One of several processes that serve the same sockets (`relay.worker`); their parent
    (`relay.workers`) looks after them and keeps the books that they share (`relay.hub`).

Observer
    Is told by a bridge of each step of a conversation and makes figures of it (`relay.observer`,
    `relay.metrics`), which `relay.admin` shows to whoever runs the relay.

Simulator
    An upstream of our own (`relay.simulator`), for trying and for tests.

Which room may import which is a lint rule (`[tool.ruff.lint.flake8-tidy-imports]`).
"""

import os

# numpy's BLAS would start a thread for each core of the machine, in each worker. What is multiplied
# here is far too small to be shared out.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
