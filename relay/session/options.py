"""The knobs of a conversation: every timer and bound, its unit in the name.

The configuration's `[session]` table is this struct. Knows nothing of files or the environment.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Milliseconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Pauses: TypeAlias = Annotated[tuple[Seconds, ...], msgspec.Meta(min_length=1)]


class SessionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a conversation is held. Defaults and their reasons are the protocol's (4.2, 4.7)."""

    strict: bool = False
    """Refuse what Deepgram refuses, also where a milder answer is possible."""

    settings_deadline_s: Seconds = 15.0
    """A connection that has sent no Settings by then is closed."""
    client_idle_s: Seconds = 60.0
    """A client that sends no frame for so long is closed; the agent's speech and open function
    rounds do not count as silence."""
    rollover: bool = True
    """Rebuild the upstream when its session ends or is lost, instead of ending the conversation."""
    rebuild_attempts: Count = 3
    """How often each upstream is tried for one rebuild."""
    proved_after_s: Seconds = 10.0
    """A leg that is lost sooner, and has completed no response, counts as one of these tries."""
    continue_after_loss: bool = True
    """Have the agent go on with an answer that a lost upstream cut off."""
    upstream_session_s: Seconds = 3600.0
    """How long an upstream session lasts that does not say when it ends."""
    prepare_before_s: Seconds = 120.0
    """So long before the upstream session ends the next one is prepared..."""
    switch_before_s: Seconds = 10.0
    """...and so long before, it takes over whatever is going on."""
    history_items: Count = 400
    history_chars: Count = 48_000
    """How much of the conversation a new upstream is told, the newest."""
    max_session_s: Seconds = 7200.0
    """Length of a session, from the first connection on."""
    session_warning_s: Seconds = 300.0
    """So long before that the client is warned."""
    upstream_ready_s: Seconds = 15.0
    """All attempts to reach and configure the upstream together, counted from Settings."""
    upstream_step_s: Seconds = 10.0
    """One step of an attempt: connecting, waiting for session.created, for session.updated."""
    redial_backoff_s: Pauses = (0.5, 1.0, 2.0)
    """Pause before the second, third... attempt; the last one repeats."""

    response_requested_s: Seconds = 10.0
    """An asked-for response that has not begun by then is asked for once more; an item that is
    not acknowledged by then counts as acknowledged."""
    response_tries: Count = 3
    """How often a failed response is asked for again."""
    response_backoff_s: Pauses = (0.5, 1.0, 2.0)
    """Pause before each of these tries; the last one repeats."""
    inferred_end_s: Seconds = 0.25
    """Where the upstream does not say that a response has ended: it has, when all that it began
    is done and nothing more came for so long."""
    slow_think_s: Seconds = 5.0
    """Warn when a response has brought nothing for so long, and again each time; 0 = never."""
    committed_wait_s: Seconds = 10.0
    """A user turn that gets no response is over after this time."""
    cancel_wait_s: Seconds = 1.0
    """How long a response that the relay cancelled may take to end, and the upstream to answer a
    turn that began by cancelling one."""

    call_timeout_s: Seconds = 60.0
    """A function call that the client has not answered by then fails; 0 = waits for ever."""
    max_call_output_bytes: Count = 256 * 1024
    """A longer function output is truncated."""
    max_call_arguments_bytes: Count = 1000 * 1024
    """A call with longer arguments is not announced but answered with an error; a little under
    the 1 MiB that the SDKs take in one message. So is one with which those of open rounds would
    be more than twice this."""
    max_open_calls: Count = 128
    """Calls of rounds that are not over; one more is not announced but answered with an error."""
    batch_function_calls: bool = False
    """One FunctionCallRequest for all calls of a response, instead of one for each."""
    cancel_calls_on_barge_in: bool = False
    """Void open calls when the user speaks, as Deepgram does."""

    user_text_wait_s: Seconds = 1.5
    """How long a finished assistant text waits for the text of the user's turn before it."""
    truncate_margin_ms: Milliseconds = 0.0
    """Taken off what the user is thought to have heard, for latency behind the socket."""

    early_messages: Count = 64
    """Messages kept before Settings (`strict`: none)."""
    early_audio_bytes: Count = 1024 * 1024
    """Audio kept before Settings; the oldest is dropped."""
    held_messages: Count = 256
    """Messages kept between Settings and a live upstream."""
    held_message_bytes: Count = 4 * 1024 * 1024
    """...and before Settings: the memory that they take together. One more than that or of these
    numbers ends the session; so do as many updates that the upstream has not taken."""
    held_audio_s: Seconds = 10.0
    """Audio kept between Settings and a live upstream; the oldest is dropped."""
    max_client_frame_bytes: Count = 1024 * 1024
    """A larger frame from the client ends the session."""
    append_min_ms: Milliseconds = 20.0
    """Shorter client frames are gathered into appends of at least this length."""
    append_max_wait_ms: Milliseconds = 100.0
    """...but no audio waits longer than this."""
    max_waiting_injects: Count = 32
    """User messages that wait for their answers; one more is refused with a Warning."""

    update_prompt: Literal["append", "replace"] = "append"
    """What UpdatePrompt does. Deepgram appends."""
    inject_user_interrupts: bool = False
    """InjectUserMessage cuts the agent's speech."""
    force_end_turn_strict: bool = False
    """Refuse ForceEndTurn unless listening with a Flux model, as Deepgram does."""
    interrupt_flush: Literal["none", "user_started_speaking"] = "none"
    """What tells the client to drop its buffer when InjectAgentMessage interrupts. V1 has only
    UserStartedSpeaking, which a client may show as the user's turn."""
    greeting_mode: Literal["speak", "text", "off"] = "speak"
    """Have the model speak the greeting, send it as text only, or not at all."""
    context_mode: Literal["items", "instructions"] = "items"
    """Replay `agent.context` as conversation items, or as text in the instructions."""
    wav_header: bool = False
    """With container `wav`, send a header at the start of each utterance."""

    resume_window_s: Seconds = 30.0
    """How long the conversation of a client that was lost waits for it; 0 = not at all."""
    resume_by_header: Literal["bare", "equal", "off"] = "bare"
    """What a client resumes by its `x-deepgram-session-id` alone: `bare` when its first message is
    anything but Settings, `equal` also when they are the same as before, `off` nothing. `equal` is
    for machines with one user."""
    max_parked: Count = 1000
    """So many conversations wait at once; the oldest is forgotten..."""
    max_parked_bytes: Count = 64 * 1024 * 1024
    """...and as well when they take more than this together, in memory or in the store."""
    drain_s: Seconds = 30.0
    """How long live sessions may go on after the daemon was told to stop."""
