"""The playbook finds every mismatch, and shows it so that it can be read.

The session here is a small fake whose mistakes can be chosen; the real one has its own tests.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay import realtime, voice_agent
from relay.session.actions import (
    Action,
    AudioToUpstream,
    Close,
    Dial,
    Note,
    Redeliver,
    Target,
    ToClient,
    ToUpstream,
)
from relay.session.facts import ClientGone, Loss, UpstreamGone
from tests.expected import ABSENT, ANY, About, Captured, difference, like
from tests.playbook import ClientFrame, Mismatch, Playbook, UpstreamFrame, all_over, forget


class Fake(msgspec.Struct):
    """Welcomes, dials at Settings, answers what the user types 250 ms later, echoes audio."""

    mistake: str = ""
    answer_at: float = math.inf
    answer: str = ""
    serial: int = 0
    closed: bool = False
    seen: list[str] = []

    def opened(self, now: float, wall: float) -> list[Action]:
        return [ToClient(voice_agent.Welcome("r1")), Note("info", "opened", {"at": now})]

    def client_message(self, message: ClientFrame, now: float) -> list[Action]:
        match message:
            case voice_agent.Settings():
                early = (
                    [Redeliver([voice_agent.KeepAlive(), b"\0\0"])]
                    if self.mistake == "early"
                    else []
                )
                return [Dial(1, Target(0, "m")), *early]
            case voice_agent.InjectUserMessage(content):
                self.answer, self.answer_at = content, now + 0.25
                self.serial += 1
                part = realtime.ContentPart(type="input_text", text=content)
                item = realtime.Item(
                    type="message", id=f"u1_usr_{self.serial}", role="user", content=[part]
                )
                if self.mistake == "misspelt":
                    item.role = "usr"
                role = "robot" if self.mistake == "robot" else "user"
                return [
                    ToClient(voice_agent.ConversationText(role, content)),
                    ToUpstream(1, realtime.ConversationItemCreate(item=item, event_id="e1")),
                ]
            case voice_agent.KeepAlive():
                return []
            case voice_agent.Unknown(type):
                return self._fail(f"no {type}")
            case _:
                return self._fail("what?")

    def _fail(self, why: str) -> list[Action]:
        error = ToClient(voice_agent.Error(description=why, code="UNPARSABLE_CLIENT_MESSAGE"))
        close = Close(1000, "UNPARSABLE_CLIENT_MESSAGE")
        match self.mistake:
            case "no close":
                return [error]
            case "after close":
                return [error, close, ToClient(voice_agent.AgentAudioDone())]
            case _:
                return [error, close]

    def client_audio(self, chunk: bytes, now: float) -> bytes | None:
        return None if len(chunk) < 4 else chunk

    def client_media(self, chunk: bytes, now: float) -> list[Action]:
        return [] if self.mistake == "early" else [AudioToUpstream(1, chunk)]

    def client_too_big(self, size: int, now: float) -> list[Action]:
        return self._fail("too big")

    def client_gone(self, gone: ClientGone, now: float) -> list[Action]:
        return []

    def client_backlog(self, ms: float) -> None:
        self.seen.append(f"backlog {ms}")

    def upstream_opened(self, leg: int, now: float, wall: float) -> list[Action]:
        return []

    def upstream_event(self, leg: int, event: UpstreamFrame, now: float) -> list[Action]:
        match event:
            case realtime.SessionCreated():
                session = realtime.Session(instructions="Be brief.")
                return [ToUpstream(leg, realtime.SessionUpdate(session=session, event_id="e0"))]
            case realtime.SessionUpdated(session=session):
                text = "applied" if session.instructions == "Be brief." else "not applied"
                return [ToClient(voice_agent.InjectionRefused(text))]
            case realtime.Error(error=detail):
                return [ToClient(voice_agent.Warning("w", f"{detail.event_id}"))]
            case _:
                return []

    def upstream_audio(
        self, leg: int, delta: realtime.ResponseOutputAudioDelta, now: float
    ) -> bytes | None:
        return delta.delta

    def upstream_gone(self, leg: int, gone: UpstreamGone, now: float) -> list[Action]:
        return [] if self.mistake == "lost" else self._fail(gone.reason)

    def endpoint_answered(self, call: str, output: str, ok: bool, now: float) -> list[Action]:
        return []

    def going_away(self, now: float) -> list[Action]:
        return [Close(1001, "SERVER_GOING_AWAY")]

    def next_deadline(self) -> float:
        return self.answer_at

    def deadline_passed(self, now: float) -> list[Action]:
        if now < self.answer_at:
            return [ToClient(voice_agent.AgentAudioDone())] if self.mistake == "eager" else []
        if self.mistake != "spin":
            self.answer_at = math.inf
        return [ToClient(voice_agent.ConversationText("assistant", self.answer.upper()))]

    def rebased(self, now: float) -> None:
        if self.mistake == "forgets":
            self.answer_at += 1


ROOT = Path(__file__).parents[1]
SETTINGS = like("Settings", audio={}, agent={})
HELLO = like("InjectUserMessage", content="hello")


def opened(mistake: str = "") -> Playbook:
    return Playbook(Fake(mistake)).opens().to_client(like("Welcome", request_id="r1"))


def ready(mistake: str = "") -> Playbook:
    return opened(mistake).client(SETTINGS).dials(model="m").upstream_opens()


def said(role: str, content: str) -> Any:
    return like("ConversationText", role=role, content=content)


def test_a_whole_conversation_is_one_sentence() -> None:
    item = Captured("the user's item")
    (
        ready()
        .upstream(like("session.created", session={"type": "realtime"}))
        .to_upstream(like("session.update", session={"instructions": "Be brief."}))
        .updated()
        .to_client(like("InjectionRefused", message="applied"))
        .client(like("InjectUserMessage", content="hello"))
        .to_client(said("user", "hello"))
        .to_upstream(like("conversation.item.create", item={"id": item, "role": "user"}))
        .acks()
        .passes(0.249)
        .nothing()
        .passes(0.001)
        .to_client(said("assistant", "HELLO"))
        .refuses("conversation.item.create")
        .to_client(like("Warning", code="e1"))
        .client_audio(b"\1\2\3\4", b"\5\6")
        .audio_to_upstream(b"\1\2\3\4\5\6")
        .upstream(delta(b"\1\2"), delta(b"\3\4"))
        .audio_to_client(b"\1\2\3\4")
        .going_away()
        .closes(1001)
    )
    assert item.value == "u1_usr_1"


def test_what_is_not_listed_is_found_at_the_next_step_and_at_the_end() -> None:
    with pytest.raises(Mismatch, match="it did more than is listed"):
        opened().client(SETTINGS).passes(1)

    opened().client(SETTINGS)
    with pytest.raises(Mismatch, match="it did more than is listed"):
        all_over()
    all_over()


def test_notes_may_go_unlisted_and_may_be_asked_for() -> None:
    opened().notes("opened", at=1000.0)
    with pytest.raises(Mismatch, match="no such note"):
        opened().notes("closed")


@pytest.mark.parametrize(
    ("mismatch", "why"),
    [
        (lambda p: p.client(SETTINGS).nothing(), "it did more than is listed"),
        (lambda p: p.client(SETTINGS).dials(model="n"), "model: 'm' is not 'n'"),
        (lambda p: p.to_client("SettingsApplied"), "it did nothing of the kind"),
        (
            lambda p: p.client("Foo").closes(1000),
            "it did something else: Error description='no Foo' code='UNPARSABLE_CLIENT_MESSAGE'",
        ),
        (lambda p: p.client("Foo").to_client("Warning"), "type: 'Error' is not 'Warning'"),
        (
            lambda p: p.client("Foo").to_client(like("Error", code=ABSENT)),
            "code: 'UNPARSABLE_CLIENT_MESSAGE' should not be there",
        ),
        (lambda p: p.client_text("[").to_client("Error").closes(1011), "code: 1000 is not 1011"),
        (lambda p: p.client_too_big(9).to_client(like("Error", x=ANY)), "x: is missing"),
    ],
)
def test_each_kind_of_mismatch_says_why(mismatch: Callable[[Playbook], Playbook], why: str) -> None:
    with pytest.raises(Mismatch) as caught:
        mismatch(opened())
    forget()

    assert str(caught.value).splitlines()[0] == why


def test_unequal_audio_is_a_mismatch() -> None:
    live = ready().client_audio(b"\1\2\3\4")
    with pytest.raises(Mismatch, match="4 bytes instead of 3, the first 2 of them as expected"):
        live.audio_to_upstream(b"\1\2\7")
    with pytest.raises(Mismatch, match="no audio comes next"):
        live.audio_to_client()
    live.audio_to_upstream(b"\1\2\3\4")


def test_order_matters_for_one_peer_and_not_between_two() -> None:
    typed = ready().client(like("InjectUserMessage", content="hello"))
    typed.to_upstream("conversation.item.create").to_client("ConversationText")

    with pytest.raises(Mismatch, match="it did something else: Error"):
        opened().client("Foo").closes(1000)
    forget()


def test_a_mismatch_shows_the_exchange_with_times_and_arrows() -> None:
    with pytest.raises(Mismatch) as caught:
        (
            ready()
            .passes(0.5)
            .client(like("InjectUserMessage", content="hello"))
            .to_client(said("user", "hello"))
            .passes(0.25)
        )
    assert str(caught.value).splitlines() == [
        "it did more than is listed",
        "      0.000  client >>              (connects)",
        "      0.000  client <<              Welcome request_id='r1'",
        "      0.000  log <<                 info opened {at: 1000.0}",
        "      0.000  client >>              Settings audio={} agent={}",
        "      0.000              >> leg 1   (dial m)",
        "      0.000              << leg 1   (open)",
        "      0.500  client >>              InjectUserMessage content='hello'",
        "      0.500  client <<              ConversationText role='user' content='hello'",
        "+     0.500              >> leg 1   conversation.item.create "
        "item={type: 'message', id: 'u1_usr_1', role: 'user', content: ...",
    ]
    forget()

    with pytest.raises(Mismatch) as caught:
        opened().client("Foo").to_client(like("Error", code="INVALID_SETTINGS"))
    assert str(caught.value).splitlines()[-3:] == [
        "+     0.000  client <<              Error description='no Foo' "
        "code='UNPARSABLE_CLIENT_MESSAGE'",
        "+     0.000  client <<              (close 1000 UNPARSABLE_CLIENT_MESSAGE)",
        "-     0.000  client <<              Error code='INVALID_SETTINGS'",
    ]
    forget()


@pytest.mark.parametrize(
    ("mistake", "do", "why"),
    [
        ("no close", lambda p: p.client("Foo"), "an Error is followed by Close at once"),
        ("after close", lambda p: p.client("Foo"), "nothing comes after Close"),
        ("spin", lambda p: typed(p).passes(1), "deadlines spin"),
        ("forgets", lambda p: p.client(HELLO), "a decoded session has other deadlines"),
        ("eager", lambda p: p.client(HELLO), "an early alarm did something"),
    ],
)
def test_what_is_never_right_is_found_without_being_listed(
    mistake: str, do: Callable[[Playbook], Playbook], why: str
) -> None:
    with pytest.raises(Mismatch, match=why):
        do(ready(mistake))
    forget()


def test_an_event_for_a_leg_that_is_not_open_is_found() -> None:
    dialled = opened().client(SETTINGS).dials()
    with pytest.raises(Mismatch, match="leg 1 is not open"):
        dialled.client_audio(b"\0\0\0\0")
    forget()

    lost = ready("lost").upstream_gone(Loss.LOST)
    with pytest.raises(Mismatch, match="leg 1 is not open"):
        lost.client_audio(b"\0\0")
    forget()


def test_invalid_messages_and_events_are_found() -> None: ...


def test_early_frames_are_delivered_again() -> None:
    opened("early").client(SETTINGS).dials().nothing()


def test_time_passes_from_deadline_to_deadline() -> None:
    playbook = ready().client(HELLO)
    playbook.to_client("ConversationText").to_upstream("conversation.item.create")
    playbook.passes(10).to_client(said("assistant", "HELLO"))

    assert [f"{line}".split() for line in playbook.lines[-2:]] == [
        ["0.250", "alarm"],
        ["0.250", "client", "<<", "ConversationText", "role='assistant'", "content='HELLO'"],
    ]
    assert playbook.now == 1010.0


def test_captured_values_are_the_same_from_then_on() -> None:
    item = Captured("item")
    assert difference(item, "a") is None
    assert difference({"id": item}, {"id": "a"}) is None
    assert difference([item], ["b"]) == "[0]: 'b' is not the <item = 'a'>"
    with pytest.raises(LookupError):
        _ = Captured().value


@pytest.mark.parametrize(
    ("expected", "actual", "found"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}, None),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b: 2 is not 1"),
        ({"a": [1, ANY]}, {"a": [1, 2]}, None),
        ({"a": [1]}, {"a": [1, 2]}, "a: [1, 2] is not 1 values like [1]"),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, "a[1].b: 3 is not 2"),
        ({"a": {"b": 1}}, {"a": 1}, "a: 1 is no object"),
        ({"a": ABSENT}, {}, None),
        ({"a": ABSENT}, {"a": None}, "a: None should not be there"),
        ({"a": None}, {"a": None}, None),
        ({"a": None}, {}, "a: is missing"),
        ({"a": 1}, {"a": True}, "a: True is not 1"),
        ({"a": True}, {"a": 1}, "a: 1 is not True"),
        ({"a": 1.0}, {"a": 1}, None),
        ({"a": ANY}, {}, "a: is missing"),
        ({"a": About(0.3)}, {"a": 0.1 + 0.2}, None),
        ({"a": About(0.3)}, {"a": 0.31}, "a: 0.31 is not about 0.3"),
        ({"a": About(0.3)}, {"a": None}, "a: None is not about 0.3"),
    ],
)
def test_expectations_are_partial_for_objects_only(
    expected: Any, actual: Any, found: str | None
) -> None:
    assert difference(expected, actual) == found


def typed(playbook: Playbook) -> Playbook:
    return (
        playbook.client(HELLO).to_client("ConversationText").to_upstream("conversation.item.create")
    )


def delta(audio: bytes) -> Any:
    return realtime.ResponseOutputAudioDelta(
        response_id="resp_1", item_id="item_1", output_index=0, content_index=0, delta=audio
    )


def test_a_test_that_leaves_something_unlisted_fails(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        "from tests.test_playbook import SETTINGS, opened\n"
        "def test_left(): opened().client(SETTINGS)\n"
        "def test_other(): opened()\n"
    )
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "1 failed, 1 passed" in run.stdout
    assert "Mismatch: it did more than is listed" in run.stdout
