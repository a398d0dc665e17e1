"""Updates in mid-session, KeepAlive and silence, and messages that mean nothing here."""

from typing import Any

import pytest

from tests.expected import ABSENT, Wire, like
from tests.scenes import (
    answering,
    assistant,
    calls,
    ends,
    error,
    pcm,
    ready,
    request,
    response_created,
    response_done,
    settings,
    types,
    user,
    voice,
    warning,
)


def prompt(text: str) -> Wire:
    return like("UpdatePrompt", prompt=text)


def think(text: str | None = None, *functions: str, **more: Any) -> Wire:
    """UpdateThink with this prompt and these functions."""
    new: dict[str, Any] = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, **more}
    if text is not None:
        new["prompt"] = text
    if functions:
        new["functions"] = [{"name": name} for name in functions]
    return like("UpdateThink", think=new)


def speak(voice: str = "", **more: Any) -> Wire:
    provider = {"type": "open_ai", "model": "tts-1", "voice": voice or "marin", **more}
    return like("UpdateSpeak", speak={"provider": provider})


def listen(**provider: Any) -> Wire:
    return like("UpdateListen", listen={"provider": {"type": "deepgram", **provider}})


def update(**session: Any) -> Wire:
    return like("session.update", session=session)


def sounds(voice: str) -> Wire:
    return update(audio={"output": {"voice": voice}})


# What each of them changes.


@pytest.mark.conformance("C-068", "C-069")
def test_update_prompt_appends_and_is_acknowledged_after_session_updated() -> None:
    (
        ready()
        .client(prompt("More."))
        .to_upstream(update(instructions="Be brief.\n\nMore.", audio=ABSENT, tools=ABSENT))
        .passes(3)
        .nothing()
        .updated()
        .to_client("PromptUpdated")
        .updated()
        .nothing()
    )


@pytest.mark.conformance("C-068")
def test_update_prompt_may_replace() -> None:
    ready(update_prompt="replace").client(prompt("More.")).to_upstream(update(instructions="More."))


@pytest.mark.conformance("C-045", "C-068")
def test_an_update_beyond_the_prompt_limit_is_cut_and_warned_of() -> None:
    (
        ready()
        .client(prompt("x" * 25_000))
        .to_upstream(update(instructions="Be brief.\n\n".ljust(25_000, "x")))
        .updated()
        .to_client(warning("PROMPT_TOO_LONG"), "PromptUpdated")
    )


@pytest.mark.conformance("C-070", "C-079")
def test_two_quick_prompts_go_one_after_the_other_and_add_up() -> None:
    (
        ready()
        .client(prompt("A"), prompt("B"))
        .to_upstream(update(instructions="Be brief.\n\nA"))
        .updated()
        .to_client("PromptUpdated")
        .to_upstream(update(instructions="Be brief.\n\nA\n\nB"))
        .updated()
        .to_client("PromptUpdated")
    )


@pytest.mark.conformance("C-071", "C-072")
def test_update_think_replaces_prompt_and_tools_and_resets_the_base() -> None:
    (
        ready(settings(functions=("f",)))
        .client(prompt("More."))
        .to_upstream("session.update")
        .updated()
        .to_client("PromptUpdated")
        .client(think("New."))
        .to_upstream(update(instructions="New.", tools=[]))
        .updated()
        .to_client("ThinkUpdated")
        .client(prompt("More."))
        .to_upstream(update(instructions="New.\n\nMore.", tools=ABSENT))
        .updated()
        .to_client("PromptUpdated")
    )


@pytest.mark.conformance("C-071")
def test_update_think_without_prompt_clears_it() -> None:
    (
        ready()
        .client(think(None, "g"))
        .to_upstream(update(instructions="", tools=[{"type": "function", "name": "g"}]))
    )


@pytest.mark.conformance("C-074")
def test_update_speak_before_any_audio_updates_the_voice() -> None:
    (
        ready()
        .client(speak("alloy"))
        .to_upstream(update(audio={"output": {"voice": "alloy"}, "input": ABSENT}))
        .updated()
        .to_client("SpeakUpdated")
    )


@pytest.mark.conformance("C-076")
def test_a_voice_that_cannot_change_is_neither_an_error_nor_acknowledged() -> None:
    (
        ready(rollover=False)
        .client(speak("alloy"))
        .to_upstream(sounds("alloy"))
        .refuses("session.update", "cannot_update_voice")
        .to_client(warning("SPEAK_REQUEST_FAILED"))
        .passes(10)
        .nothing()
    )


@pytest.mark.conformance("C-077")
def test_update_listen_changes_the_transcription_and_is_acknowledged_afterwards() -> None:
    (
        ready()
        .client(listen(model="nova-3", language="de-DE"))
        .to_upstream(update(audio={"input": {"transcription": {"language": "de"}}}))
        .passes(1)
        .nothing()
        .updated()
        .to_client("ListenUpdated")
    )


@pytest.mark.conformance("C-077", "C-239")
def test_flux_is_known_by_its_model_and_changes_the_turn_detection() -> None:
    (
        ready()
        .client(listen(version="v1", model="flux-general-en"))
        .to_upstream(update(audio={"input": {"turn_detection": {"type": "semantic_vad"}}}))
        .updated()
        .to_client("ListenUpdated")
        .client(listen(version="v2", model="nova-3"))
        .to_upstream(
            update(
                audio={
                    "input": {
                        "turn_detection": {
                            "type": "server_vad",
                            "threshold": 0.5,
                            "prefix_padding_ms": 300,
                            "silence_duration_ms": 500,
                            "create_response": True,
                            "interrupt_response": True,
                        }
                    }
                }
            )
        )
        .updated()
        .to_client("ListenUpdated")
        .client(listen(version="v2"))
        .to_upstream(update(audio={"input": {"turn_detection": {"type": "semantic_vad"}}}))
    )


# Refused ones.


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (prompt("Bad."), "THINK_REQUEST_FAILED"),
        (think("Bad."), "THINK_REQUEST_FAILED"),
        (listen(model="nova-3", language="xx"), "THINK_REQUEST_FAILED"),
        (speak("alloy"), "SPEAK_REQUEST_FAILED"),
    ],
)
@pytest.mark.conformance("C-078", "C-178")
def test_a_refused_update_is_warned_of_and_not_acknowledged(message: Wire, code: str) -> None:
    (
        ready()
        .client(message)
        .to_upstream("session.update")
        .refuses("session.update")
        .to_client(warning(code))
        .passes(10)
        .nothing()
    )


@pytest.mark.conformance("C-078")
def test_a_refused_update_leaves_the_base_and_the_acks_of_others_alone() -> None:
    (
        ready()
        .client(prompt("A"), prompt("B"), prompt("C"))
        .to_upstream(update(instructions="Be brief.\n\nA"))
        .updated()
        .to_client("PromptUpdated")
        .to_upstream(update(instructions="Be brief.\n\nA\n\nB"))
        .refuses("session.update")
        .to_client(warning("THINK_REQUEST_FAILED"))
        .to_upstream(update(instructions="Be brief.\n\nA\n\nC"))
        .updated()
        .to_client("PromptUpdated")
        .updated()
        .nothing()
    )


@pytest.mark.parametrize("functions", [("f", "f"), ("no spaces",), ("x" * 65,)])
@pytest.mark.conformance("C-050")
def test_bad_function_names_in_update_think_change_nothing(functions: tuple[str, ...]) -> None:
    (
        ready()
        .client(think("New.", *functions))
        .to_client(warning("THINK_REQUEST_FAILED"))
        .client(prompt("More."))
        .to_upstream(update(instructions="Be brief.\n\nMore."))
    )


@pytest.mark.conformance("C-050")
def test_a_function_without_a_name_in_update_think_changes_nothing() -> None:
    (
        ready()
        .client(think("New.", functions=[{"description": "x"}]))
        .to_client(warning("THINK_REQUEST_FAILED"))
        .passes(1)
        .nothing()
    )


# When, and in which order.


@pytest.mark.conformance("C-079", "C-217")
def test_updates_of_different_kinds_are_acknowledged_in_order_each_by_its_type() -> None:
    (
        ready()
        .client(
            prompt("A"),
            listen(model="nova-3", language="de"),
            speak("alloy"),
            think("T"),
            prompt("B"),
        )
        .to_upstream(update(instructions="Be brief.\n\nA"))
        .updated()
        .to_client("PromptUpdated")
        .to_upstream(update(audio={"input": {"transcription": {"language": "de"}}}))
        .updated()
        .to_client("ListenUpdated")
        .to_upstream(sounds("alloy"))
        .updated()
        .to_client("SpeakUpdated")
        .to_upstream(update(instructions="T"))
        .updated()
        .to_client("ThinkUpdated")
        .to_upstream(update(instructions="T\n\nB"))
        .updated()
        .to_client("PromptUpdated")
    )


@pytest.mark.conformance("C-216")
def test_update_think_goes_out_during_a_response() -> None:
    (
        answering()
        .client(think("New."))
        .to_upstream(update(instructions="New."))
        .updated()
        .to_client("ThinkUpdated")
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    )


@pytest.mark.conformance("C-216")
def test_a_speed_alone_waits_for_the_response_to_end() -> None:
    (
        answering()
        .client(speak("marin", speed=1.2))
        .passes(1)
        .nothing()
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .to_upstream(update(audio={"output": {"speed": 1.2, "voice": ABSENT}}))
        .updated()
        .to_client("SpeakUpdated")
    )


@pytest.mark.conformance("C-216", "C-217")
def test_what_stands_behind_a_waiting_speed_waits_too() -> None:
    (
        answering()
        .client(speak("marin", speed=1.2), prompt("More."))
        .nothing()
        .upstream(*ends())
        .to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
        .to_upstream(update(audio={"output": {"speed": 1.2}}))
        .updated()
        .to_client("SpeakUpdated")
        .to_upstream(update(instructions="Be brief.\n\nMore."))
        .updated()
        .to_client("PromptUpdated")
    )


@pytest.mark.conformance("C-216")
def test_an_unchanged_voice_is_acknowledged_at_once() -> None:
    ready().client(speak("marin")).to_client("SpeakUpdated").nothing()
    answering().client(speak("marin")).to_client("SpeakUpdated").nothing()


@pytest.mark.conformance("C-216", "C-217")
def test_at_once_still_means_behind_those_before_it() -> None:
    (
        ready()
        .client(prompt("A"), speak("marin"))
        .to_upstream("session.update")
        .nothing()
        .updated()
        .to_client("PromptUpdated", "SpeakUpdated")
    )


@pytest.mark.conformance("C-081")
def test_a_session_updated_that_nobody_asked_for_stays_here() -> None:
    ready().updated().updated(instructions="Other.").nothing()


# What has no counterpart.


@pytest.mark.parametrize(
    "message",
    [
        like("UpdateThink_Live", think_live={"provider": {"type": "deepgram", "version": "v1"}}),
        like("__customToThinkProvider", content={"a": [1]}),
    ],
)
@pytest.mark.conformance("C-178")
def test_messages_for_other_think_providers_are_warned_of(message: Wire) -> None:
    ready().client(message).to_client(warning("UNPARSABLE_CLIENT_MESSAGE")).passes(1).nothing()
    code = "UNPARSABLE_CLIENT_MESSAGE"
    if message["type"] == "UpdateThink_Live":
        known = settings(think={"provider": {"type": "open_ai", "model": "gpt-realtime"}})
        ready(known, strict=True).client(message).to_client(error(code)).closes(1000, code)


@pytest.mark.conformance("C-086")
def test_an_unknown_type_ends_a_deepgram_session() -> None:
    (
        ready()
        .client(like("response.create", response={}))
        .to_client(error("UNPARSABLE_CLIENT_MESSAGE"))
        .closes(1000, "UNPARSABLE_CLIENT_MESSAGE")
    )


@pytest.mark.conformance("C-086")
def test_an_unknown_type_of_the_component_is_warned_of_and_not_forwarded() -> None:
    (
        ready(component=True)
        .client(like("session.update", session={"instructions": "x"}))
        .to_client(warning("UNPARSABLE_CLIENT_MESSAGE"))
        .client(types("Hi."))
        .to_client(user("Hi."))
        .to_upstream("conversation.item.create")
    )


@pytest.mark.conformance("C-086")
def test_the_components_close_stream_is_ignored() -> None:
    ready(component=True).client("CloseStream").passes(1).nothing()


# KeepAlive and silence.


@pytest.mark.conformance("C-082")
def test_keep_alive_is_swallowed() -> None:
    ready().client("KeepAlive", "KeepAlive").passes(1).nothing()


@pytest.mark.conformance("C-083", "C-084")
def test_a_silent_client_is_closed_60_s_after_its_last_frame() -> None:
    (
        ready()
        .passes(59)
        .client("KeepAlive")
        .passes(59.9)
        .nothing()
        .passes(0.2)
        .to_client(error("CLIENT_MESSAGE_TIMEOUT"))
        .closes(1000, "CLIENT_MESSAGE_TIMEOUT")
    )


@pytest.mark.conformance("C-084")
def test_the_component_has_a_code_of_its_own_for_silence() -> None:
    (
        ready(component=True)
        .passes(60.1)
        .to_client(error("idle_timeout"))
        .closes(1000, "idle_timeout")
    )


@pytest.mark.parametrize(
    ("chunk", "gathered_s"), [(b"", 0), (pcm(1), 0.1), (pcm(20), 0), (pcm(500), 0)]
)
@pytest.mark.conformance("C-083", "C-113")
def test_every_binary_frame_is_a_sign_of_life(chunk: bytes, gathered_s: float) -> None:
    book = ready().passes(59).client_audio(chunk)
    if gathered_s:
        book.passes(gathered_s)
    if chunk:
        book.audio_to_upstream(chunk)
    book.passes(59.8).nothing().passes(0.3).to_client(error("CLIENT_MESSAGE_TIMEOUT")).closes(1000)


@pytest.mark.conformance("C-084")
def test_silence_counts_from_the_start_of_the_conversation_too() -> None:
    ready(client_idle_s=5.0).passes(5.1).to_client(error("CLIENT_MESSAGE_TIMEOUT")).closes(1000)


@pytest.mark.conformance("C-085")
def test_silence_is_counted_anew_from_the_end_of_playback() -> None:
    book = answering(ms=90_000).upstream(*ends())
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    (
        book.passes(90 + 59.9)
        .nothing()
        .passes(0.2)
        .to_client(error("CLIENT_MESSAGE_TIMEOUT"))
        .closes(1000, "CLIENT_MESSAGE_TIMEOUT")
    )


@pytest.mark.conformance("C-085")
def test_silence_does_not_count_while_the_agent_is_speaking() -> None:
    book = answering(ms=1000)
    for _ in range(100):
        book.passes(1).upstream(voice("resp_1", "item_a1", pcm(1000))).audio_to_client(pcm(1000))
    book.passes(1).upstream(*ends())
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    book.passes(59.9).nothing().passes(0.2).to_client("Error").closes(1000)


@pytest.mark.conformance("C-085")
def test_silence_is_counted_anew_from_the_close_of_a_function_round() -> None:
    book = (
        ready(settings(functions=("f",)), call_timeout_s=200.0)
        .upstream(response_created("resp_1"), *calls("resp_1", "call_1"), response_done("resp_1"))
        .to_client("AgentThinking", request("call_1"))
        .passes(199.9)
        .nothing()
        .passes(0.1)
        .to_client(warning("FUNCTION_CALL_FAILED"))
        .to_upstream("conversation.item.create", "response.create")
        .upstream(response_created("resp_2"), response_done("resp_2"))
        .to_client("AgentThinking", "LatencyReport")
    )
    book.passes(59.9).nothing().passes(0.2).to_client("Error").closes(1000)
