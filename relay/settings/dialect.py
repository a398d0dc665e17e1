"""dialect: which client is at the other end, as far as its Settings show it."""

import enum

from relay import voice_agent


class Dialect(enum.Enum):
    """Which client is at the other end."""

    DEEPGRAM = "deepgram"
    """Official SDKs: nothing outside Voice Agent V1 is ever sent."""
    COMPONENT = "component"
    """The browser component: V1 plus AgentDone, Transcript and UtteranceEnd."""


def shown(agent: voice_agent.Agent, think: voice_agent.Think | None, path: Dialect) -> Dialect:
    """The dialect of the path, unless a key is there that only the component sends."""
    think = think or voice_agent.Think()
    extensions = (
        agent.idle_timeout_ms,
        agent.session_audio_output,
        think.tool_choice,
        think.output_modalities,
        think.max_output_tokens,
        think.managed_prompt,
    )
    return path if all(value is None for value in extensions) else Dialect.COMPONENT
