"""settings: what a client's Settings and updates mean to the upstream.

It knows every field of Settings, what the configuration says about it, and the upstream's session
object (PROTOCOL.md 3.2). It has no clock, no state and no logger: `plan` reads Settings, `change`
reads an update on top of a plan, and both return data, refusals included.

    dialect     which client is at the other end
    options     what the configuration says
    audio       formats of the four ends
    listen      transcription, turn detection
    think       model, instructions, functions, limits
    speak       voice, speed
    context     the conversation that the client remembers
    plan        all of it together, and what updates change
"""

from relay.settings.audio import Formats
from relay.settings.dialect import Dialect
from relay.settings.listen import Listen
from relay.settings.options import MappingOptions, NoiseReduction, Passthrough, Tracing, TurnOptions
from relay.settings.plan import Change, Plan, Refusal, Update, change, plan
from relay.settings.speak import Speak
from relay.settings.think import Endpoint, Function, Think

__all__ = [
    "Change",
    "Dialect",
    "Endpoint",
    "Formats",
    "Function",
    "Listen",
    "MappingOptions",
    "NoiseReduction",
    "Passthrough",
    "Plan",
    "Refusal",
    "Speak",
    "Think",
    "Tracing",
    "TurnOptions",
    "Update",
    "change",
    "plan",
]
