"""plan: everything a conversation needs from its Settings, and what an update makes of it."""

from typing import Literal, TypeAlias, TypeVar, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from relay import realtime, voice_agent
from relay.settings import audio, context, dialect, listen, speak, think
from relay.settings.audio import Formats
from relay.settings.dialect import Dialect
from relay.settings.findings import Findings, Unusable
from relay.settings.listen import Listen
from relay.settings.options import MappingOptions, NoiseReduction, Passthrough, Tracing
from relay.settings.speak import Speak
from relay.settings.think import Function, Think

Update: TypeAlias = (
    voice_agent.UpdatePrompt
    | voice_agent.UpdateThink
    | voice_agent.UpdateSpeak
    | voice_agent.UpdateListen
)


class Refusal(msgspec.Struct, frozen=True):
    """Why a message has no effect. Of Settings it is an Error, of an update a Warning."""

    code: str
    description: str
    """Starts with the path of the value at fault; never holds a credential."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was agreed. It encodes, so a session can be stored; credentials are in no part of it
    except the headers of function endpoints that the relay is to call itself."""

    dialect: Dialect
    """The path's, or the component's if its keys were in the Settings."""
    think: Think
    speak: Speak
    listen: Listen
    formats: Formats
    language: str | None
    """The deprecated `agent.language`, for when `listen` names none."""
    greeting: str
    """Empty: none, or one that the component does not want beside a context."""
    history: bool
    """History messages are wanted."""
    context: tuple[realtime.Item, ...]
    """To be created before anything else, without ids; empty in instructions mode."""
    transcript: str
    """The context as text behind the instructions; empty in items mode."""
    functions_prompt: str
    passthrough: Passthrough
    tags: tuple[str, ...]
    warnings: tuple[voice_agent.Warning, ...]
    """To be sent after SettingsApplied, in order (C-210)."""
    ignored: tuple[str, ...]
    """Paths in the Settings that have no effect, for one log line."""

    @property
    def model(self) -> str:
        """What the upstream's URL must name (C-042)."""
        return self.think.model

    @property
    def functions(self) -> tuple[Function, ...]:
        return self.think.functions

    @property
    def text_only(self) -> bool:
        """The agent writes and does not speak."""
        return self.think.output_modalities == ["text"]

    @property
    def transcribed(self) -> bool:
        """The user's speech is written down, so there is a text to wait for."""
        return self.listen.transcription is not None

    @property
    def manual(self) -> bool:
        """No turn detection: only ForceEndTurn ends a turn (PROTOCOL.md 5.2)."""
        return self.listen.turn_detection is None

    @property
    def create_response(self) -> bool:
        """The upstream answers a user turn by itself. Else only ForceEndTurn asks it to."""
        detection = self.listen.turn_detection
        return detection is not None and detection.create_response is True

    @property
    def flux(self) -> bool:
        """Listening with a Flux model."""
        return self.listen.flux

    @property
    def instructions(self) -> str | None:
        """All that the model is told; None leaves the upstream its default."""
        hook = self.functions_prompt if self.functions else ""
        texts = [text for text in (self.think.prompt, hook, self.transcript) if text]
        return "\n\n".join(texts) if texts else self.think.prompt

    def in_instructions(self) -> "Plan":
        """The same plan with its context as text, for an upstream that refuses the items."""
        if not self.context:
            return self
        text = context.transcript(self.context)
        return msgspec.structs.replace(self, context=(), transcript=text)

    def session(self) -> realtime.Session:
        """The whole session object, for the first session.update of any upstream leg."""
        agent, hearing, voice, extra = self.think, self.listen, self.speak, self.passthrough
        return realtime.Session(
            instructions=_set(self.instructions),
            output_modalities=_set(agent.output_modalities),
            audio=realtime.SessionAudio(
                input=realtime.AudioInput(
                    format=audio.named(self.formats.upstream_input),
                    transcription=_set(hearing.transcription),
                    turn_detection=hearing.turn_detection,  # always explicit, null too (C-056)
                    noise_reduction=_noise_reduction(extra.noise_reduction),
                ),
                output=realtime.AudioOutput(
                    format=audio.named(self.formats.upstream_output),
                    voice=voice.voice,
                    speed=UNSET if voice.speed == 1 else voice.speed,
                ),
            ),
            tools=[f.tool() for f in self.functions] or UNSET,
            tool_choice=_set(agent.tool_choice),
            max_output_tokens=_set(agent.max_output_tokens),
            prompt=_set(agent.managed_prompt),
            reasoning=_reasoning(agent),
            parallel_tool_calls=_set(extra.parallel_tool_calls if agent.reasoning else None),
            truncation=_set(agent.truncation),
            tracing=_tracing(extra.tracing),
            include=["item.input_audio_transcription.logprobs"] if extra.logprobs else UNSET,
        )


class Change(msgspec.Struct, frozen=True):
    """What an accepted update does."""

    plan: Plan
    """In force once the upstream has accepted `session`."""
    session: realtime.Session | None
    """Only what changes; None: nothing does, acknowledge at once."""
    warnings: list[voice_agent.Warning]
    """To be sent whether or not the upstream accepts."""
    model_changed: bool = False
    """The model stands in the URL: only a new upstream leg has another one."""
    voice_changed: bool = False
    """Once the agent has spoken, only a new upstream leg has another voice."""
    speed_only: bool = False
    """To be sent between responses."""


def plan(
    message: voice_agent.Settings,
    options: MappingOptions,
    path: Dialect,
    *,
    strict: bool = False,
    context_mode: Literal["items", "instructions"] = "items",
    wav_header: bool = False,
) -> Plan | Refusal:
    """Read Settings. `path` is the dialect of the path that the client chose; the flags are those
    of the session's options. Never raises."""
    try:
        made = _plan(message, options, path, strict=strict, wav_header=wav_header)
    except Unusable as reason:
        return Refusal(reason.code, str(reason))
    return made if context_mode == "items" else made.in_instructions()


def change(
    plan: Plan,
    message: Update,
    options: MappingOptions,
    *,
    strict: bool = False,
    update_prompt: Literal["append", "replace"] = "append",
) -> Change | Refusal:
    """Read an update on top of `plan`. After a Refusal the plan stays in force. Never raises."""
    findings = Findings(root="")
    try:
        match message:
            case voice_agent.UpdatePrompt():
                return _prompted(plan, message.prompt, options, findings, update_prompt)
            case voice_agent.UpdateThink():
                return _rethought(plan, message.think, options, findings, strict=strict)
            case voice_agent.UpdateSpeak():
                return _respoken(plan, message.speak, options, findings)
            case voice_agent.UpdateListen():
                return _relistened(plan, message.listen, options, findings)
            case _:
                assert_never(message)
    except Unusable as reason:
        speaks = isinstance(message, voice_agent.UpdateSpeak)
        return Refusal("SPEAK_REQUEST_FAILED" if speaks else "THINK_REQUEST_FAILED", str(reason))


def _plan(
    message: voice_agent.Settings,
    options: MappingOptions,
    path: Dialect,
    *,
    strict: bool,
    wav_header: bool,
) -> Plan:
    findings = Findings(root="agent.")
    if message.audio is None:
        raise Unusable("audio", "missing")
    agent = _agent(message.agent, options)
    if agent.think_live is not None and strict:
        raise Unusable("agent.think_live", "not supported", "UNPARSABLE_CLIENT_MESSAGE")
    findings.ignore("think_live", agent.think_live)
    thinking = _first(agent.think, "think", findings)
    who = dialect.shown(agent, thinking, path)
    past = context.messages(agent)
    items = context.items(past or [], findings)
    formats = audio.formats(message.audio, g711=options.g711, wav_header=wav_header)
    voice = speak.speak(_first(agent.speak, "speak", findings), options, findings)
    if agent.session_audio_output is not None:
        voice = speak.overridden(voice, agent.session_audio_output, findings)
        formats = audio.overridden(formats, agent.session_audio_output, findings)
    return Plan(
        dialect=who,
        think=think.think(thinking, options, findings, strict=strict, otherwise=options.model),
        speak=voice,
        listen=listen.listen(
            agent.listen,
            agent.language,
            options,
            findings,
            manual=agent.use_openai_manual_audio_commit is True,
        ),
        formats=formats,
        language=agent.language,
        greeting=_greeting(agent, who, past),
        history=message.flags is None or message.flags.history is not False,
        context=tuple(items),
        transcript="",
        functions_prompt=options.functions_prompt,
        passthrough=options.passthrough,
        tags=tuple(message.tags or ()),
        warnings=tuple(findings.warnings),
        ignored=tuple(findings.ignored),
    )


def _agent(agent: voice_agent.Agent | str | None, options: MappingOptions) -> voice_agent.Agent:
    if agent is None:
        raise Unusable("agent", "missing")  # C-209
    if not isinstance(agent, str):
        return agent
    if agent not in options.agents:  # C-061
        raise Unusable("agent", "no agent with this id is configured", "INVALID_AGENT_ID")
    return options.agents[agent]


def _greeting(
    agent: voice_agent.Agent, who: Dialect, past: list[voice_agent.ContextMessage] | None
) -> str:
    """Deepgram greets beside a context too (U-16), the component does not (C-145, L-16)."""
    greeting = agent.greeting or ""
    return "" if not greeting.strip() or (past and who is Dialect.COMPONENT) else greeting


Entry = TypeVar("Entry")


def _first(entries: Entry | list[Entry] | None, path: str, findings: Findings) -> Entry | None:
    """Of a list of fallbacks the first is used (C-062)."""
    if not isinstance(entries, list):
        return entries
    findings.ignore(f"{path}[1:]", entries[1:])
    return entries[0] if entries else None


def _prompted(
    plan: Plan,
    addition: str,
    options: MappingOptions,
    findings: Findings,
    mode: Literal["append", "replace"],
) -> Change:
    """Deepgram adds to the prompt (C-068); the base is the plan's, so updates add up (C-070)."""
    parts = [plan.think.prompt, addition] if mode == "append" else [addition]
    prompt = think.limited("\n\n".join(p for p in parts if p), options, findings, "prompt")
    after = msgspec.structs.replace(plan, think=msgspec.structs.replace(plan.think, prompt=prompt))
    changed = after.instructions != plan.instructions
    update = realtime.Session(instructions=after.instructions or "") if changed else None
    return Change(after, update, findings.warnings)


def _rethought(
    plan: Plan,
    entries: voice_agent.Think | list[voice_agent.Think],
    options: MappingOptions,
    findings: Findings,
    *,
    strict: bool,
) -> Change:
    """Everything of the old configuration goes; what is absent goes back to its default (C-071).
    Only a model that is not named stays: a new one would cost a new upstream leg."""
    settings = _first(entries, "think", findings)
    if settings is None:
        raise Unusable("think", "empty")
    old = plan.think
    new = think.think(settings, options, findings, strict=strict, otherwise=old.model)
    new = msgspec.structs.replace(new, prompt=new.prompt or "")
    after = msgspec.structs.replace(plan, think=new)
    model_changed = new.model != old.model
    effort_changed = new.effort is not None and new.effort != old.effort
    update = realtime.Session(
        instructions=after.instructions or "",
        tools=[f.tool() for f in new.functions],
        tool_choice=_changed(old.tool_choice, new.tool_choice, "auto"),
        output_modalities=_changed(old.output_modalities, new.output_modalities, ["audio"]),
        max_output_tokens=_changed(old.max_output_tokens, new.max_output_tokens, "inf"),
        prompt=_changed(old.managed_prompt, new.managed_prompt, None),
        truncation=_changed(old.truncation, new.truncation, "auto"),
        # The present model may take no effort; the next leg hears of it in its own session.
        reasoning=_reasoning(new) if effort_changed and not model_changed else UNSET,
    )
    return Change(after, update, findings.warnings, model_changed=model_changed)


def _respoken(
    plan: Plan,
    entries: voice_agent.Speak | list[voice_agent.Speak],
    options: MappingOptions,
    findings: Findings,
) -> Change:
    settings = _first(entries, "speak", findings)
    if settings is None:
        raise Unusable("speak", "empty")
    old, new = plan.speak, speak.speak(settings, options, findings)
    after = msgspec.structs.replace(plan, speak=new)
    if new == old:
        return Change(after, None, findings.warnings)
    voice_changed, speed_changed = new.voice != old.voice, new.speed != old.speed
    output = realtime.AudioOutput(
        voice=new.voice if voice_changed else UNSET,
        speed=new.speed if speed_changed else UNSET,
    )
    return Change(
        after,
        realtime.Session(audio=realtime.SessionAudio(output=output)),
        findings.warnings,
        voice_changed=voice_changed,
        speed_only=not voice_changed,
    )


def _relistened(
    plan: Plan, settings: voice_agent.Listen, options: MappingOptions, findings: Findings
) -> Change:
    """The transcription is always sent anew, turn detection only when it changes: to set it again
    might end the turn that is under way."""
    old = plan.listen
    new = listen.listen(settings, plan.language, options, findings, manual=plan.manual)
    after = msgspec.structs.replace(plan, listen=new)
    if new == old and new.transcription is None:
        return Change(after, None, findings.warnings)
    same_turns = new.turn_detection == old.turn_detection
    heard = realtime.AudioInput(
        transcription=new.transcription,
        turn_detection=UNSET if same_turns else new.turn_detection,
    )
    update = realtime.Session(audio=realtime.SessionAudio(input=heard))
    return Change(after, update, findings.warnings)


T = TypeVar("T")
D = TypeVar("D")


def _set(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def _changed(old: T | None, new: T | None, otherwise: D) -> T | D | UnsetType:
    """What to send for a value that may have changed; `otherwise` puts the API's default back."""
    if new == old:
        return UNSET
    return otherwise if new is None else new


def _reasoning(agent: Think) -> realtime.Reasoning | UnsetType:
    return UNSET if agent.effort is None else realtime.Reasoning(effort=agent.effort)


def _noise_reduction(asked: NoiseReduction | None) -> realtime.NoiseReduction | UnsetType:
    if asked is None:
        return UNSET
    return realtime.NoiseReduction(type=asked.type, strength=_set(asked.strength))


def _tracing(asked: Literal["auto"] | Tracing | None) -> str | realtime.Tracing | UnsetType:
    if not isinstance(asked, Tracing):
        return _set(asked)
    return realtime.Tracing(
        workflow_name=_set(asked.workflow_name),
        group_id=_set(asked.group_id),
        metadata=_set(asked.metadata),
    )
