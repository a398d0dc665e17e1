"""The conversation's items in the simulator: created, retrieved, deleted, truncated, refused."""

import base64
from typing import Any

import pytest

from relay.audio.formats import PCM24K
from tests.simulated import Client, Event, audio, code, input_text, only, tone, types


def message(role: str, *content: Event, **fields: Any) -> Event:
    return {"type": "message", "role": role, "content": list(content), **fields}


def create(client: Client, item: Event, **fields: Any) -> list[Event]:
    return client.say("conversation.item.create", item=item, **fields)


def order(client: Client) -> list[str]:
    return [stored.id for stored in client.held.items.order]


def test_an_item_is_added_and_done_behind_the_last_one_with_the_id_the_client_chose() -> None:
    client = Client()
    create(client, message("user", input_text("a"), id="first"))
    added, done = create(client, message("user", input_text("b"), id="second"))
    assert types([added, done]) == ["conversation.item.added", "conversation.item.done"]
    assert added["previous_item_id"] == done["previous_item_id"] == "first"
    assert done["item"] == {
        "type": "message",
        "id": "second",
        "object": "realtime.item",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "b"}],
    }


def test_an_item_goes_behind_the_one_it_names_or_to_the_root() -> None:
    client = Client()
    create(client, message("user", input_text("a"), id="a"))
    create(client, message("user", input_text("c"), id="c"))
    create(client, message("user", input_text("b"), id="b"), previous_item_id="a")
    added, _ = create(client, message("system", input_text("0"), id="0"), previous_item_id="root")
    assert added["previous_item_id"] is None
    assert order(client) == ["0", "a", "b", "c"]


@pytest.mark.parametrize(
    "item",
    [
        message("system", input_text("x")),
        message("user", {"type": "input_audio", "audio": base64.b64encode(tone(0.1)).decode()}),
        message("user", {"type": "input_image", "image_url": "data:image/png;base64,AA=="}),
        message("assistant", {"type": "output_text", "text": "x"}),
        message("assistant", status="incomplete"),
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c1"},
    ],
)
def test_what_a_client_may_put_into_the_conversation(item: Event) -> None:
    assert types(create(Client(), item)) == ["conversation.item.added", "conversation.item.done"]


@pytest.mark.parametrize(
    ("item", "expected", "param"),
    [
        (message("user", {"type": "text", "text": "x"}), "invalid_value", "item.content[0].type"),
        (
            message("user", {"type": "output_text", "text": "x"}),
            "invalid_value",
            "item.content[0].type",
        ),
        (message("assistant", input_text("x")), "invalid_value", "item.content[0].type"),
        (
            message("assistant", {"type": "output_audio", "transcript": "x"}),
            "invalid_value",
            "item.content[0].type",
        ),
        (
            message("system", {"type": "input_audio", "audio": ""}),
            "invalid_value",
            "item.content[0].type",
        ),
        (
            message("user", {"type": "input_text"}),
            "missing_required_parameter",
            "item.content[0].text",
        ),
        (message("tool", input_text("x")), "invalid_value", "item.role"),
        ({"type": "message", "role": "user"}, "missing_required_parameter", "item.content"),
        ({"type": "note"}, "invalid_value", "item.type"),
        ({"type": "function_call", "name": "f"}, "missing_required_parameter", "item.arguments"),
        (
            {"type": "function_call_output", "call_id": "nobody", "output": "x"},
            "invalid_tool_call_id",
            None,
        ),
        (message("user", input_text("x"), id="known"), "invalid_value", "item.id"),
        (message("user", input_text("x"), id="x" * 33), "invalid_value", "item.id"),
        (message("user", input_text("x"), name="Ada"), "unknown_parameter", "item.name"),
    ],
)
def test_an_item_that_the_api_refuses_is_not_added(
    item: Event, expected: str, param: str | None
) -> None:
    client = Client()
    create(client, message("user", input_text("a"), id="known"))
    (error,) = create(client, item)
    assert (error["error"]["code"], error["error"].get("param")) == (expected, param)
    assert order(client) == ["known"]


def test_an_unknown_previous_item_is_an_error_and_nothing_is_added() -> None:
    client = Client()
    (error,) = create(client, message("user", input_text("x")), previous_item_id="nobody")
    assert error["error"]["param"] == "previous_item_id"
    assert order(client) == []


def test_a_deleted_item_is_gone() -> None:
    client = Client()
    create(client, message("user", input_text("x"), id="x"))
    (deleted,) = client.say("conversation.item.delete", item_id="x")
    assert deleted["item_id"] == "x"
    gone = client.say("conversation.item.retrieve", item_id="x")
    assert code(gone) == "item_retrieve_invalid_item_id"


def test_truncation_cuts_the_audio_and_removes_the_transcript() -> None:
    client = Client()
    spoken = client.ask("hello there")
    item_id = only(spoken, "response.output_item.done")["item"]["id"]
    fields = {"item_id": item_id, "content_index": 0, "audio_end_ms": 500}
    (truncated,) = client.say("conversation.item.truncate", **fields)
    assert {key: truncated[key] for key in fields} == fields
    (retrieved,) = client.say("conversation.item.retrieve", item_id=item_id)
    (part,) = retrieved["item"]["content"]
    assert "transcript" not in part
    assert base64.b64decode(part["audio"]) == audio(spoken)[: PCM24K.nbytes(500)]


def test_truncation_beyond_the_real_length_is_an_error() -> None:
    client = Client()
    spoken = client.ask("hello there")
    item_id = only(spoken, "response.output_item.done")["item"]["id"]
    length = int(PCM24K.ms(len(audio(spoken))))
    fields = {"item_id": item_id, "content_index": 0}
    (error,) = client.say("conversation.item.truncate", **fields, audio_end_ms=length + 2)
    assert error["error"]["code"] == "invalid_value"
    assert f"already shorter than {length + 2}ms" in error["error"]["message"]
    (truncated,) = client.say("conversation.item.truncate", **fields, audio_end_ms=length)
    assert truncated["type"] == "conversation.item.truncated"
    assert (
        client.say("conversation.item.truncate", **fields, audio_end_ms=0)[0]["audio_end_ms"] == 0
    )
    assert (
        code(client.say("conversation.item.truncate", **fields, audio_end_ms=1)) == "invalid_value"
    )


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_only_what_the_model_spoke_can_be_truncated(role: str) -> None:
    client = Client()
    kind = "input_text" if role == "user" else "output_text"
    create(client, message(role, {"type": kind, "text": "x"}, id="x"))
    fields = {"item_id": "x", "content_index": 0, "audio_end_ms": 0}
    assert code(client.say("conversation.item.truncate", **fields)) == "invalid_value"


def test_an_item_of_another_content_index_cannot_be_truncated() -> None:
    client = Client()
    item_id = only(client.ask("hello"), "response.output_item.done")["item"]["id"]
    fields = {"item_id": item_id, "content_index": 1, "audio_end_ms": 0}
    assert code(client.say("conversation.item.truncate", **fields)) == "invalid_value"


def test_truncating_what_is_still_being_said_keeps_it_cut() -> None:
    client = Client()
    client.text("hello")
    client.say("response.create")
    added = client.until("response.output_audio.delta")
    item_id = only(added, "response.output_item.added")["item"]["id"]
    client.say("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=50)
    client.until("response.done")
    (retrieved,) = client.say("conversation.item.retrieve", item_id=item_id)
    (part,) = retrieved["item"]["content"]
    assert len(base64.b64decode(part["audio"])) == PCM24K.nbytes(50)
    assert "transcript" not in part


def test_audio_of_old_items_is_forgotten_before_it_fills_the_memory() -> None:
    client = Client()
    client.configure(audio={"input": {"turn_detection": None}})
    for _ in range(4):
        client.hear(bytes(12 * 1024 * 1024), 12 * 1024 * 1024)
        client.say("input_audio_buffer.commit")
    kept = [len(stored.audio) // (1024 * 1024) for stored in client.held.items.order]
    assert kept == [0, 0, 12, 12]
    first = client.held.items.order[0]
    assert first.audio_ms == PCM24K.ms(12 * 1024 * 1024)
