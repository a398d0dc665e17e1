"""What holds of every session, whatever its client and its upstream do and in whatever order.

The steps are data: calls of the playbook's own methods, plausible and implausible ones mixed, with
few ids, so that they meet. `Fuzzed` lists nothing and checks what is always true; running the same
steps under other conditions must give the same transcript.
"""

import contextlib
from typing import Any, Self, TypeAlias

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from relay.audio.formats import PCM24K
from relay.session.actions import Action, AudioToClient, AudioToUpstream, Note, ToClient, ToUpstream
from relay.session.facts import Loss
from relay.settings import MappingOptions, TurnOptions
from tests import scenes
from tests.expected import Wire, like
from tests.playbook import Playbook
from tests.scenes import answer, pcm, says, settings, types

Step: TypeAlias = tuple[str, tuple[Any, ...], dict[str, Any]]
"""A method of the playbook, and what it is called with."""

few = hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class Fuzzed(Playbook):
    """Lists nothing: whatever the session does will do, if it keeps the rules of `_rules`."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.did: list[Action] = []
        self.heard: list[str] = []
        """Types of the messages to the client."""
        self.configured: set[int] = set()
        """Legs that have sent session.updated."""
        self.voice_of: tuple[int, str, str] | None = None
        """Leg, response and item of the event under way; another leg's ids are others (C-242)."""
        self.sent_ms: dict[tuple[int, str], float] = {}
        self.silenced: set[tuple[int, str]] = set()
        """Responses whose audio was out when the user began to speak."""
        self.audible: set[tuple[int, str]] = set()
        self.announced: list[str] = []

    def all_listed(self) -> Self:
        self.unlisted = []
        return self

    def rebuilds(self) -> Self:
        """The upstream answers the last dial, and accepts the session."""
        leg = max(number for number, state in self.legs.items() if state == "dialled")
        self.upstream_opens(leg).upstream(scenes.created(), leg=leg)
        return self.updated(leg=leg) if leg in self.sent else self

    def _event(self, leg: int, frame: bytes, shown: str) -> None:
        wire = about(frame)
        if wire.get("type") == "session.updated" and self.sent.get(leg):
            self.configured.add(leg)
        self.voice_of = (leg, wire.get("response_id") or "", wire.get("item_id") or "")
        super()._event(leg, frame, shown)
        self.voice_of = None

    def _note_down(self, action: Action) -> None:
        super()._note_down(action)
        if not isinstance(action, Note):
            self.did.append(action)
        match action:
            case ToClient(message):
                self._told(message)
            case AudioToClient(audio):
                self._voiced(audio)
            case ToUpstream(leg, _):
                wire = self.sent[leg][-1]
                self._must(
                    leg in self.configured or wire["type"] == "session.update",
                    "only session.update goes to a leg that is not configured",  # C-022
                )
                if wire["type"] == "conversation.item.truncate":
                    # Audio without an id is the item's that the session takes it for.
                    ids = (wire["item_id"], "")
                    sent = sum(self.sent_ms.get((leg, each), 0) for each in ids)
                    self._must(0 <= wire["audio_end_ms"] <= sent, "truncated beyond what was sent")
            case AudioToUpstream(leg, _):
                self._must(leg in self.configured, "audio for a leg that is not configured")
            case _:
                pass

    def _told(self, message: Any) -> None:
        kind = message.__struct_config__.tag
        welcomed = "Welcome" in self.heard
        self._must(welcomed == (kind != "Welcome"), "Welcome comes first, once")  # C-015
        applied = "SettingsApplied" in self.heard
        self._must(
            applied or kind in ("Welcome", "SettingsApplied", "Error", "Warning"),
            "nothing comes between Welcome and SettingsApplied",  # C-262
        )
        if kind == "SettingsApplied":
            self._must(not applied or self.component, "SettingsApplied comes once")  # C-021
        if kind == "UserStartedSpeaking":
            self.silenced |= self.audible
        if kind == "AgentAudioDone" and not self.component:
            self._must(self._speaks(), "AgentAudioDone ends what began after the user")  # C-154
        if kind == "FunctionCallRequest":
            for function in message.functions:
                self._must(function.id not in self.announced, "a call is announced once")  # C-224
                self.announced.append(function.id)
        self.heard.append(kind)

    def _speaks(self) -> bool:
        """The agent has begun to speak since it last ended, and since the user last did."""
        kinds = ("AgentStartedSpeaking", "AgentAudioDone", "UserStartedSpeaking")
        turns = [kind for kind in self.heard if kind in kinds]
        return turns[-1:] == ["AgentStartedSpeaking"]

    def _voiced(self, audio: bytes) -> None:
        self._must(len(audio) % 2 == 0, "whole samples")  # C-132
        self._must(self._speaks(), "AgentStartedSpeaking precedes audio")  # C-128, C-157
        self._must(self.voice_of is not None, "audio comes of audio")
        if self.voice_of is not None:
            leg, response, item = self.voice_of
            self._must((leg, response) not in self.silenced, "silenced is silent")  # C-149
            if response:
                self.audible.add((leg, response))
            sent = self.sent_ms.get((leg, item), 0)
            self.sent_ms[leg, item] = sent + PCM24K.ms(len(audio))


def about(frame: bytes) -> dict[str, Any]:
    """The frame as an object, as far as it is one."""
    with contextlib.suppress(msgspec.DecodeError):
        decoded = msgspec.json.decode(frame)
        return decoded if isinstance(decoded, dict) else {}
    return {}


class Whole(Fuzzed):
    """Never encoded and decoded."""

    def _survive(self) -> None:
        pass


class Moved(Fuzzed):
    """Decoded on another clock after every step."""

    jump = 512.0


# Steps.

user_ids = st.sampled_from(["item_u1", "item_u2", "item_u3"])
item_ids = st.sampled_from(["item_a1", "item_a2", "item_u1", ""])
response_ids = st.sampled_from(["resp_1", "resp_2", "resp_3"])
call_ids = st.sampled_from(["call_1", "call_2", "call_3"])
names = st.sampled_from(["f", "g", "undeclared"])
texts = st.sampled_from(["Hello.", "", "  ", "One two three.", "\u00fc\U0001f600"])
audio = st.builds(pcm, st.sampled_from([1, 7, 20, 100, 1000]), st.integers(-9, 9))
outcomes = st.sampled_from(["completed", "cancelled", "failed", "incomplete"])
indices = st.integers(0, 2)
codes = st.sampled_from(
    [
        None,
        "conversation_already_has_active_response",
        "response_cancel_not_active",
        "input_audio_buffer_commit_empty",
        "cannot_update_voice",
        "session_expired",
        "rate_limit_exceeded",
        "other",
    ]
)


def step(name: str, *arguments: Any, **more: Any) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(more))


def fed(builder: Any, *arguments: Any, **more: Any) -> st.SearchStrategy[Step]:
    """What a builder of events makes, as events of the upstream."""
    made = st.builds(builder, *arguments, **more)
    return made.map(lambda e: ("upstream", tuple(e) if isinstance(e, list) else (e,), {}))


client_messages: st.SearchStrategy[Wire] = st.one_of(
    st.builds(types, texts),
    st.builds(says, texts, st.sampled_from([None, "default", "queue", "interrupt", "odd"])),
    st.builds(answer, call_ids, texts | st.integers() | st.none(), names),
    st.builds(lambda name: like("FunctionCallResponse", name=name, content="x"), names),
    st.builds(lambda text: like("UpdatePrompt", prompt=text), texts),
    st.builds(
        lambda text: like("UpdateThink", think={"prompt": text, "functions": [{"name": "g"}]}),
        texts,
    ),
    st.builds(
        lambda voice, speed: like(
            "UpdateSpeak", speak={"provider": {"type": "open_ai", "voice": voice, "speed": speed}}
        ),
        st.sampled_from(["alloy", "marin", "echo"]),
        st.sampled_from([None, 1, 1.2]),
    ),
    st.builds(
        lambda model: like("UpdateThink", think={"provider": {"model": model}}),
        st.sampled_from(["gpt-realtime-2", "gpt-realtime-1.5"]),
    ),
    st.builds(
        lambda model: like("UpdateListen", listen={"provider": {"model": model}}),
        st.sampled_from(["nova-3", "flux-general-en"]),
    ),
    st.sampled_from(
        [
            like("KeepAlive"),
            like("ForceEndTurn"),
            like("InjectAgentMessage", is_dynamic=True),
            like("UpdateThink_Live", think_live={}),
            like("__customToThinkProvider", content=[1]),
        ]
    ),
)
fatal_frames = st.one_of(
    step("client", st.sampled_from([like("Foo"), settings(), like("InjectUserMessage")])),
    step("client_text", st.sampled_from(["", "{", "[]", "null"])),
    step("client_too_big", st.just(2**21)),
    step("client_closes", st.sampled_from([1000, 1005])),
    step("client_lost"),
    step("going_away"),
    step("upstream_gone", st.sampled_from(Loss), status=st.sampled_from([None, 401, 503])),
)
upstream_events = st.one_of(
    fed(scenes.speech_started, user_ids),
    fed(scenes.speech_stopped, user_ids),
    fed(scenes.committed, user_ids),
    fed(scenes.user_item, user_ids),
    fed(scenes.speech, user_ids),
    fed(scenes.transcribed, user_ids, texts),
    fed(scenes.transcribing, user_ids, texts),
    fed(scenes.untranscribed, user_ids),
    fed(scenes.response_created, response_ids),
    fed(scenes.response_done, response_ids, outcomes, code=codes),
    fed(scenes.cancelled, response_ids),
    fed(scenes.begins, response_ids, item_ids),
    fed(scenes.message_added, response_ids, item_ids, indices),
    fed(scenes.voice, response_ids, item_ids, audio, indices),
    fed(scenes.voice, response_ids, item_ids, st.binary(max_size=5), indices),
    fed(scenes.heard, response_ids, item_ids, texts, indices),
    fed(scenes.transcript_done, response_ids, item_ids, texts, indices),
    fed(scenes.message_done, response_ids, item_ids, texts, indices),
    fed(scenes.ends, response_ids, item_ids, texts, status=outcomes),
    fed(scenes.reply, response_ids, item_ids, texts, audio),
    fed(scenes.written, response_ids, item_ids, texts, indices),
    fed(
        scenes.calls,
        response_ids,
        call_ids,
        names,
        st.sampled_from(["", "{}", "{"]),
        indices,
        st.sampled_from(["completed", "incomplete"]),
    ),
    fed(scenes.failure, codes),
    fed(
        lambda item: like(
            "input_audio_buffer.timeout_triggered", item_id=item, audio_start_ms=0, audio_end_ms=1
        ),
        user_ids,
    ),
)
answers = st.one_of(
    step("updated"),
    step("acks"),
    step("acks", st.just(1)),
    step("begins", response_ids),
    step(
        "refuses",
        st.sampled_from(["response.create", "conversation.item.create", "session.update"]),
        codes,
    ),
    step("upstream_opens"),
    step("upstream", st.just(scenes.created())),
    step("rebuilds"),
    step("rebuilds"),
)
odd_frames = st.one_of(
    step("upstream_text", st.sampled_from(["", "{", "[]", '{"type":"odd"}', '{"type":1}'])),
    step(
        "upstream_text",
        st.sampled_from(
            [
                {**scenes.voice("resp_1", "item_a1", b""), "delta": "%%%"},
                {"type": "response.done", "response": {}},
                {"type": "response.created", "response": {}},
                {"type": "response.output_audio.delta", "delta": "AQAB"},
                {"type": "response.output_item.done", "item": {"type": "function_call"}},
                {"type": "error", "error": {}},
                {"type": "conversation.item.added", "item": {"type": "message"}},
            ]
        ),
    ),
)
others = st.one_of(
    step("passes", st.sampled_from([0.0501, 0.3007, 1.1013, 2.7019, 10.3021, 31.1027, 61.7031])),
    step("client_audio", audio),
    step("client_audio", st.sampled_from([b"", b"\1\0"])),
    step("upstream_gone", st.sampled_from([Loss.LOST, Loss.CLOSED])),
    step("backlog", st.sampled_from([0.0, 5.0, 200.0])),
    step("endpoint_answers", call_ids, texts, st.booleans()),
)
client_steps: st.SearchStrategy[Step] = client_messages.map(
    lambda message: ("client", (message,), {})
)
any_step = st.one_of(
    client_steps,
    upstream_events,
    upstream_events,
    upstream_events,
    answers,
    answers,
    others,
    odd_frames,
)
steps = st.lists(any_step, max_size=20) | st.lists(any_step, min_size=20, max_size=60)
courses = st.tuples(steps, st.none() | fatal_frames, st.lists(client_steps | others, max_size=5))
"""Steps, an end, and what goes on regardless."""


FUNCTIONS = settings(functions=("f", "g"), history=True)
BEGINNINGS: dict[str, Any] = {
    "opened": lambda **how: scenes.opened(**how),
    "configuring": lambda **how: scenes.configuring(FUNCTIONS, **how),
    "ready": lambda **how: scenes.ready(FUNCTIONS, **how),
    "component": lambda **how: scenes.ready(FUNCTIONS, component=True, **how),
    "greeting": lambda **how: scenes.configuring(settings(greeting="Welcome!"), **how),
    "answering": lambda **how: scenes.answering(given=FUNCTIONS, **how),
    "in a round": lambda **how: (
        scenes.ready(FUNCTIONS, **how)
        .upstream(scenes.response_created(), *scenes.calls("resp_1", "call_1"))
        .to_client("AgentThinking", "FunctionCallRequest")
    ),
    "manual": lambda **how: scenes.ready(
        FUNCTIONS, mapping=MappingOptions(turns=TurnOptions(kind="off")), **how
    ),
    "own cancel": lambda **how: scenes.answering(
        mapping=MappingOptions(turns=TurnOptions(interrupt_response=False)), **how
    ),
    "rolling": lambda **how: scenes.answering(given=FUNCTIONS, **how).upstream_gone(Loss.LOST),
    "inexact": lambda **how: scenes.ready(FUNCTIONS, ends_responses=False, **how),
}
beginnings = st.sampled_from(sorted(BEGINNINGS))


def run(beginning: str, course: Any, playbook: type[Playbook] = Fuzzed) -> Any:
    """The playbook after a beginning and the steps that are possible."""
    book = BEGINNINGS[beginning](playbook=playbook)
    first, end, rest = course
    for name, arguments, more in [*first, *([end] if end else []), *rest]:
        if possible(book, name, arguments):
            getattr(book, name)(*arguments, **more)
    return book.passes(100)


def possible(book: Playbook, name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether the upstream's answer has something that it answers."""
    sent = book.sent.get(book.leg(), [])
    match name:
        case "upstream_opens" | "rebuilds":
            return "dialled" in book.legs.values()
        case "upstream_gone":
            return book.leg() != 0
        case "acks":
            ids = {e["item"]["id"] for e in sent if e["type"] == "conversation.item.create"}
            return bool(ids - book.acknowledged)
        case "updated":
            return any(event["type"] == "session.update" for event in sent)
        case "begins":
            return any(event["type"] == "response.create" for event in sent)
        case "refuses":
            return any(event["type"] == arguments[0] for event in sent)
        case _:
            return True


def transcript(book: Any) -> list[Any]:
    """All that was done, but for the rounding errors of different clocks."""
    return [rounded(msgspec.to_builtins(action)) for action in book.did]


def rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 6)
        case dict():
            return {key: rounded(inner) for key, inner in value.items()}
        case list() | tuple():
            return [rounded(inner) for inner in value]
        case _:
            return value


# Properties.


@given(beginnings, courses)
@hypothesis_settings(few, max_examples=300)
@pytest.mark.conformance("C-015", "C-022", "C-149", "C-151", "C-176", "C-177", "C-222", "C-224")
def test_no_input_raises_and_the_rules_hold_in_every_phase(beginning: str, course: Any) -> None:
    run(beginning, course)


@given(beginnings, courses)
@few
@pytest.mark.conformance("C-196")
def test_the_same_steps_have_the_same_outcome(beginning: str, course: Any) -> None:
    assert run(beginning, course).did == run(beginning, course).did


@given(beginnings, courses)
@few
def test_encoding_and_decoding_in_the_middle_changes_nothing(beginning: str, course: Any) -> None:
    assert transcript(run(beginning, course)) == transcript(run(beginning, course, Whole))


@given(beginnings, courses)
@few
def test_another_clock_changes_nothing(beginning: str, course: Any) -> None:
    assert transcript(run(beginning, course)) == transcript(run(beginning, course, Moved))


# Audio.

cuts = st.lists(st.integers(1, 4000), max_size=30)
noise = st.one_of(
    st.builds(types, st.just("Hi.")).map(lambda m: ("client", (m,), {})),
    st.just(("client", (like("UpdatePrompt", prompt="More."),), {})),
    fed(scenes.speech_started, user_ids),
    fed(scenes.committed, user_ids),
    fed(scenes.reply, response_ids, item_ids, texts, audio),
    step("updated"),
    step("acks"),
    step("begins", response_ids),
    step("passes", st.sampled_from([0.0101, 0.0503, 0.2507])),
)


def frames(whole: bytes, sizes: list[int], sample: int = 1) -> list[bytes]:
    """The same bytes in frames of so many samples; what is left comes last."""
    cut, at = [], 0
    for size in sizes:
        cut.append(whole[at : at + size * sample])
        at += size * sample
    return [frame for frame in [*cut, whole[at:]] if frame]


@given(st.lists(st.tuples(st.integers(1, 2000), st.none() | noise), max_size=30), st.booleans())
@few
@pytest.mark.conformance("C-107", "C-108", "C-266")
def test_the_users_audio_is_neither_lost_nor_reordered(course: Any, early: bool) -> None:
    beginning = "configuring" if early else "ready"
    book = BEGINNINGS[beginning](playbook=Fuzzed)
    spoken = b""
    for n, (samples, other) in enumerate(course):
        chunk = (n + 1).to_bytes(2, "little") * samples
        spoken += chunk
        book.client_audio(chunk)
        if other and possible(book, other[0], other[1]):
            getattr(book, other[0])(*other[1], **other[2])
    if not book.configured:
        book.updated()
    book.passes(0.2)
    assert b"".join(a.audio for a in book.did if isinstance(a, AudioToUpstream)) == spoken


@given(st.integers(1, 20000), cuts, cuts)
@few
@pytest.mark.conformance("C-107", "C-108")
def test_other_frames_from_the_client_give_the_same_bytes_upstream(
    samples: int, one: list[int], other: list[int]
) -> None:
    whole = b"".join((n % 30000).to_bytes(2, "little") for n in range(samples))
    for sizes in (one, other):
        book = scenes.ready().client_audio(*frames(whole, sizes, sample=2))
        while book.unlisted:
            book.audio_to_upstream()
        sent = scenes.ready(playbook=Fuzzed)
        assert isinstance(sent, Fuzzed)
        sent.client_audio(*frames(whole, sizes, sample=2)).passes(0.2)
        appended = [a.audio for a in sent.did if isinstance(a, AudioToUpstream)]
        assert b"".join(appended) == whole
        assert all(len(audio) % 2 == 0 for audio in appended)
        book.passes(0.2)
        while book.unlisted:
            book.audio_to_upstream()


@given(st.binary(min_size=1, max_size=20000), cuts, st.floats(0, 1), st.booleans())
@few
@pytest.mark.conformance("C-130", "C-132", "C-151", "C-227")
def test_other_deltas_from_the_upstream_give_the_same_bytes_and_the_same_cut(
    whole: bytes, sizes: list[int], after: float, cut: bool
) -> None:
    def told(deltas: list[bytes]) -> tuple[bytes, list[Wire]]:
        book = scenes.ready(playbook=Fuzzed).upstream(*scenes.speech(), *scenes.begins())
        book.upstream(*[scenes.voice("resp_1", "item_a1", delta) for delta in deltas])
        book.passes(after).upstream(*([scenes.speech_started("item_u2")] if cut else []))
        book.upstream(*scenes.ends())
        assert isinstance(book, Fuzzed)
        audio = b"".join(a.audio for a in book.did if isinstance(a, AudioToClient))
        cuts = [e for e in book.sent[1] if e["type"] == "conversation.item.truncate"]
        return audio, [{**event, "event_id": ""} for event in cuts]

    once = told([whole])
    assert told(frames(whole, sizes)) == once
    assert once[0] == whole[: len(whole) // 2 * 2]


@given(
    st.lists(
        st.tuples(st.sampled_from([20, 100, 1000]), st.floats(0, 1.5)), min_size=1, max_size=8
    ),
    st.floats(0, 3000),
    st.floats(0, 200),
)
@few
@pytest.mark.conformance("C-151", "C-155")
def test_what_was_heard_never_exceeds_what_was_sent_nor_the_time_since(
    chunks: list[tuple[int, float]], backlog: float, margin: float
) -> None:
    book = scenes.answering(ms=100, playbook=Fuzzed, truncate_margin_ms=margin)
    began = book.now
    for ms, pause in chunks:
        book.passes(pause).upstream(scenes.voice("resp_1", "item_a1", pcm(ms)))
    total = 100 + sum(ms for ms, _ in chunks)
    book.backlog(min(backlog, total)).upstream(scenes.speech_started("item_u2"))
    for event in book.sent[1]:
        if event["type"] == "conversation.item.truncate":
            written = total - min(backlog, total)
            elapsed = (book.now - began) * 1000
            assert 0 <= event["audio_end_ms"] <= max(0, min(written, elapsed)) + 1e-6
