"""What a new upstream is told of the conversation, and what is dropped of it for its bounds."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from relay.realtime import ContentPart, Item
from relay.session import Session, history
from relay.session.state import Call, Round, State
from tests.expected import Wire
from tests.playbook import Playbook
from tests.scenes import (
    answer,
    answering,
    assistant,
    calls,
    cancelled,
    committed,
    created,
    pcm,
    ready,
    reply,
    request,
    response_created,
    response_done,
    settings,
    speech,
    speech_started,
    speech_stopped,
    transcribed,
    types,
    untranscribed,
    user,
    warning,
)

FUNCTIONS = settings(functions=("f",))


def turn(book: Playbook, n: int, text: str = "") -> Playbook:
    """The user asks in writing, the agent answers."""
    resp, said = f"resp_t{n}", text or f"Answer {n}"
    book.client(types(f"Question {n}")).to_client(user(f"Question {n}"))
    book.to_upstream("conversation.item.create").acks().to_upstream("response.create")
    book.begins(resp).to_client("AgentThinking")
    book.upstream(*reply(resp, f"item_t{n}", said)[1:]).to_client("AgentStartedSpeaking")
    book.audio_to_client().to_client(assistant(said))
    return book.to_client("AgentAudioDone", "LatencyReport")


def told(book: Playbook) -> list[str]:
    """What the next upstream is told, in short, after the live one is lost."""
    before = book.leg()
    book.upstream_gone().to_client(warning("THINK_REQUEST_FAILED")).dials().upstream_opens()
    book.upstream(created()).to_upstream("session.update").updated()
    book.unlisted = []
    return [short(event["item"]) for event in book.sent[before + 1] if "item" in event]


def short(item: Wire) -> str:
    match item["type"]:
        case "message":
            return "".join(part["text"] for part in item["content"])
        case "function_call":
            return f"{item['name']}({item['arguments']})"
        case kind:
            return f"{kind}: {item['output']}"


@pytest.mark.conformance("C-186")
def test_all_that_was_said_is_told_in_order() -> None:
    book = turn(turn(ready(), 1), 2)
    assert told(book) == ["Question 1", "Answer 1", "Question 2", "Answer 2"]


@pytest.mark.conformance("C-186", "C-125")
def test_what_the_user_said_without_words_is_left_out() -> None:
    """It was spoken, and never transcribed."""
    book = turn(ready(), 1).passes(1).upstream(*speech(), untranscribed("item_u1"))
    book.to_client("UserStartedSpeaking").passes(11)
    assert told(book) == ["Question 1", "Answer 1"]


@pytest.mark.conformance("C-186", "C-121")
def test_a_spoken_turn_has_its_place_before_its_words_are_known() -> None:
    book = ready().upstream(*speech()).to_client("UserStartedSpeaking")
    book.upstream(*reply()).to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
    book.upstream(transcribed("item_u1", "Hi."))
    book.to_client(user("Hi."), assistant("Hello."), "AgentAudioDone", "LatencyReport")
    assert told(book) == ["Hi.", "Hello."]


@pytest.mark.parametrize(
    ("bound", "kept"),
    [
        ({"history_items": 4}, ["Question 2", "Answer 2", "Question 3", "Answer 3"]),
        ({"history_items": 5}, ["Question 2", "Answer 2", "Question 3", "Answer 3"]),
        ({"history_chars": 36}, ["Question 2", "Answer 2", "Question 3", "Answer 3"]),
        ({"history_chars": 35}, ["Question 3", "Answer 3"]),
    ],
)
@pytest.mark.conformance("C-243")
def test_the_newest_turns_within_the_bounds_are_told(bound: Any, kept: list[str]) -> None:
    book = ready(**bound)
    for n in (1, 2, 3):
        turn(book, n)
    assert told(book) == kept


@pytest.mark.conformance("C-243")
def test_one_turn_that_is_too_long_is_told_whole() -> None:
    book = turn(turn(ready(history_chars=20), 1), 2, "A very long answer, longer than the bound.")
    assert told(book) == ["Question 2", "A very long answer, longer than the bound."]


@pytest.mark.conformance("C-243", "C-244")
def test_a_cut_never_parts_a_call_from_its_result() -> None:
    """The user goes on talking while a function is busy."""
    book = turn(ready(FUNCTIONS, history_items=4), 1)
    book.upstream(response_created(), *calls("resp_1", "call_1", arguments='{"a":1}'))
    book.to_client("AgentThinking", request("call_1", "f", '{"a":1}')).upstream(response_done())
    turn(book, 2)
    book.client(answer("call_1")).to_upstream("conversation.item.create", "response.create")
    book.begins("resp_9").to_client("AgentThinking")
    book.upstream(response_done("resp_9")).to_client("LatencyReport")
    assert told(book) == ['f({"a":1})', "Question 2", "Answer 2", "function_call_output: 42"]


@pytest.mark.conformance("C-243", "C-244")
def test_an_open_round_is_told_whatever_its_age_with_the_results_it_has() -> None:
    book = turn(ready(FUNCTIONS, history_items=4), 1).upstream(response_created())
    book.to_client("AgentThinking")
    for n, call in enumerate(("call_1", "call_2")):
        book.upstream(*calls("resp_1", call, arguments=f"[{n}]", index=n))
        book.to_client(request(call, "f", f"[{n}]"))
    book.upstream(response_done()).client(answer("call_1")).to_upstream("conversation.item.create")
    turn(turn(turn(book, 2), 3), 4)
    calls_told = ["f([0])", "f([1])", "function_call_output: 42"]
    assert told(book) == [*calls_told, "Question 3", "Answer 3", "Question 4", "Answer 4"]


@pytest.mark.parametrize(
    ("after_s", "text"),
    [(0.0, ""), (0.52, "One two"), (0.99, "One two three four."), (1.0, "One two three four.")],
)
@pytest.mark.conformance("C-246", "C-156")
def test_of_an_answer_that_was_cut_whole_words_are_told(after_s: float, text: str) -> None:
    book = answering("One two three four.").passes(after_s).upstream(speech_started("item_u2"))
    book.unlisted = []
    book.upstream(cancelled())
    assert told(book) == ["Hi.", *([text] if text else [])]


@pytest.mark.conformance("C-246")
def test_an_answer_of_one_long_word_is_cut_in_it() -> None:
    book = answering("Donaudampfschifffahrt").passes(0.5).upstream(speech_started("item_u2"))
    book.unlisted = []
    assert told(book.upstream(cancelled())) == ["Hi.", "Donaudampf"]


def test_an_item_is_told_with_an_id_of_the_new_leg() -> None:
    book = turn(ready(), 1)
    told(book)
    ids = [event["item"]["id"] for event in book.sent[2] if "item" in event]
    assert all(name.startswith("u2_ctx_") for name in ids)
    assert len(set(ids)) == 2


@pytest.mark.conformance("C-224")
def test_an_id_that_serves_both_sides_mixes_up_nothing() -> None:
    book = turn(ready(), 1).passes(20)
    book.upstream(*speech("item_t1"), transcribed("item_t1", "Hm?"))
    book.to_client("UserStartedSpeaking", user("Hm?")).passes(20)
    assert told(book) == ["Question 1", "Answer 1", "Hm?"]


def test_a_call_without_arguments_is_told_with_none() -> None:
    book = ready(FUNCTIONS).upstream(response_created()).to_client("AgentThinking")
    book.upstream(*calls("resp_1", "call_1", arguments="")).to_client(request("call_1"))
    book.upstream(response_done())
    assert told(book) == ["f({})"]


@pytest.mark.conformance("C-243")
def test_no_cut_is_made_between_a_call_and_a_result_that_came_a_turn_later() -> None:
    book = turn(ready(FUNCTIONS, history_items=8), 1).upstream(response_created())
    book.to_client("AgentThinking").upstream(*calls("resp_1", "call_1")).to_client(
        request("call_1")
    )
    turn(book.upstream(response_done()), 2)
    book.client(answer("call_1")).to_upstream("conversation.item.create", "response.create")
    book.begins("resp_9").to_client("AgentThinking")
    book.upstream(response_done("resp_9")).to_client("LatencyReport")
    turn(turn(book, 3), 4)
    assert told(book) == ["Question 3", "Answer 3", "Question 4", "Answer 4"]


@pytest.mark.conformance("C-186")
def test_a_turn_that_is_written_down_before_it_is_committed_is_one_turn() -> None:
    book = ready().upstream(speech_started(), speech_stopped(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi.")).upstream(committed(), *reply())
    book.to_client("AgentThinking", "AgentStartedSpeaking").audio_to_client()
    book.to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    assert told(book.passes(1)) == ["Hi.", "Hello."]


@pytest.mark.conformance("C-243")
def test_what_is_exactly_within_the_bound_is_told() -> None:
    book = turn(turn(ready(history_chars=30), 1), 2, "Twenty characters...")
    assert told(book) == ["Question 2", "Twenty characters..."]


def calling(arguments: str = "{}", **opening: Any) -> Playbook:
    """The second question of a conversation is answered by a call."""
    book = turn(ready(FUNCTIONS, **opening), 1).client(types("Question 2"))
    book.to_client(user("Question 2")).to_upstream("conversation.item.create").acks()
    book.to_upstream("response.create").begins("resp_2").to_client("AgentThinking")
    return book.upstream(*calls("resp_2", "call_1", arguments=arguments))


@pytest.mark.conformance("C-243", "C-244")
def test_a_call_and_its_result_that_stay_together_are_no_reason_to_keep_more() -> None:
    book = calling(history_items=4).to_client(request("call_1")).upstream(response_done("resp_2"))
    book.client(answer("call_1")).to_upstream("conversation.item.create", "response.create")
    assert told(book) == ["Question 2", "f({})", "function_call_output: 42"]


@pytest.mark.conformance("C-228")
def test_of_a_call_that_was_too_long_the_arguments_are_not_told() -> None:
    book = calling('{"a":1}', max_call_arguments_bytes=4).to_upstream("conversation.item.create")
    book.upstream(response_done("resp_2")).to_upstream("response.create")
    refusal = 'function_call_output: {"error":"the arguments are too long"}'
    assert told(book)[2:] == ["Question 2", "f({})", refusal]


@pytest.mark.conformance("C-229", "C-174")
def test_a_result_that_was_sent_twice_is_told_once() -> None:
    book = calling().to_client(request("call_1")).client(answer("call_1"))
    book.to_upstream("conversation.item.create").refuses("conversation.item.create")
    book.upstream(response_done("resp_2"))
    book.to_upstream("conversation.item.create", "response.create")
    assert told(book)[2:] == ["Question 2", "f({})", "function_call_output: 42"]


@pytest.mark.conformance("C-242")
def test_an_item_is_renamed_once_however_often_the_upstream_is_lost() -> None:
    book = turn(ready(), 1)
    told(book)
    names = [item.id for item in session_of(book).log]
    told(book.passes(20))
    assert [item.id for item in session_of(book).log] == names


@pytest.mark.conformance("C-245", "C-186")
def test_a_turn_that_was_written_down_before_its_commit_is_asked_again() -> None:
    book = ready().upstream(speech_started(), speech_stopped(), transcribed("item_u1", "Hi."))
    book.to_client("UserStartedSpeaking", user("Hi.")).upstream(committed()).upstream_gone()
    book.to_client(warning("THINK_REQUEST_FAILED")).dials().upstream_opens().upstream(created())
    book.to_upstream("session.update").updated()
    book.to_upstream("conversation.item.create", "response.create")


@pytest.mark.conformance("C-260")
def test_whatever_a_crash_should_not_undo_raises_the_revision() -> None:
    """More than once, or the second time would be lost."""
    book = ready(FUNCTIONS)
    seen = [session_of(book).revision]

    def raised() -> None:
        seen.append(session_of(book).revision)

    for n in (1, 2):
        book.upstream(*speech(f"item_u{n}")).to_client("UserStartedSpeaking")
        book.upstream(transcribed(f"item_u{n}", "Hi.")).to_client(user("Hi."))
        raised()
        book.upstream(response_created(f"resp_{n}")).to_client("AgentThinking")
        book.upstream(*calls(f"resp_{n}", f"call_{n}")).to_client(request(f"call_{n}"))
        raised()
        book.upstream(response_done(f"resp_{n}"))
        raised()
    book.upstream_gone().to_client(warning("THINK_REQUEST_FAILED")).dials()
    for text in ("One?", "Two?"):
        book.client(types(text))
        raised()
    assert seen == sorted(set(seen))


def session_of(book: Playbook) -> Session:
    assert isinstance(book.session, Session)
    return book.session


def item(kind: str, call: int = 0, size: int = 1) -> Item:
    match kind:
        case "call":
            return Item(type="function_call", call_id=f"c{call}", name="f", arguments="a" * size)
        case "result":
            return Item(type="function_call_output", call_id=f"c{call}", output="o" * size)
        case role:
            text = ContentPart(type="input_text", text="t" * size)
            return Item(type="message", role=role, content=[text])


ITEMS = some.builds(
    item,
    some.sampled_from(["call", "result", "user", "assistant"]),
    some.integers(0, 3),
    some.integers(0, 9),
)


def kept_in_words(s: State, log: list[Item]) -> list[Item]:
    """What C-243 says, with no regard to what it takes."""

    def within(items: list[Item]) -> bool:
        texts = [history.text_of(i) + (i.arguments or "") + (i.output or "") for i in items]
        few = len(items) <= s.options.history_items
        return few and sum(map(len, texts)) <= s.options.history_chars

    def parts_a_call(at: int) -> bool:
        before = {i.call_id for i in log[:at] if i.type == "function_call"}
        return any(i.type == "function_call_output" and i.call_id in before for i in log[at:])

    is_open = {call for round_ in s.rounds for call in round_.calls}
    if within(log):
        return log
    for at in range(1, len(log)):
        if log[at].role == "user" and within(log[at:]) and not parts_a_call(at):
            return [*(i for i in log[:at] if i.call_id in is_open), *log[at:]]
    return log


@pytest.mark.conformance("C-243")
@given(
    some.lists(ITEMS, min_size=1, max_size=30),
    some.sets(some.integers(0, 3)),
    some.integers(1, 12),
    some.integers(1, 60),
)
def test_any_history_is_kept_from_a_users_turn_on_that_parts_no_call_from_its_result(
    log: list[Item], pending: set[int], most: int, chars: int
) -> None:
    s = ready().session
    assert isinstance(s, State)
    s.options = msgspec.structs.replace(s.options, history_items=most, history_chars=chars)
    calls = {f"c{n}": Call(id=f"c{n}", name="f", arguments="") for n in pending}
    s.rounds = (Round(response="r", calls=calls),)
    s.log = log[:-1]
    history.wrote(s, log[-1])
    assert s.log == kept_in_words(s, log)


@pytest.mark.conformance("C-243")
def test_what_is_too_long_stays_until_the_user_begins_another_turn() -> None:
    s = ready().session
    assert isinstance(s, State)
    s.options = msgspec.structs.replace(s.options, history_chars=30)
    log = [item("user"), item("assistant"), item("user"), item("assistant", size=99), item("user")]
    for entry in log[:4]:
        history.wrote(s, entry)
    assert s.log == log[:4]
    history.wrote(s, log[4])
    assert s.log == log[4:]


@pytest.mark.parametrize(
    ("arguments", "output"), [('{"a":"' + "x" * 30 + '"}', "42"), ("{}", "x" * 40)]
)
@pytest.mark.conformance("C-243")
def test_what_was_asked_of_a_function_and_its_result_count_too(arguments: str, output: str) -> None:
    book = calling(arguments, history_chars=55).to_client(request("call_1", "f", arguments))
    book.upstream(response_done("resp_2")).client(answer("call_1", output))
    book.to_upstream("conversation.item.create", "response.create")
    assert told(book)[0] == "Question 2"


@pytest.mark.conformance("C-187")
def test_what_was_heard_after_a_turn_is_no_part_of_it() -> None:
    book = (
        ready().upstream(*speech(), transcribed("item_u1", "Hi.")).to_client("UserStartedSpeaking")
    )
    book.to_client(user("Hi.")).upstream(*reply()).to_client(
        "AgentThinking", "AgentStartedSpeaking"
    )
    book.audio_to_client().to_client(assistant("Hello."), "AgentAudioDone", "LatencyReport")
    for n in range(1, 21):
        book.client_audio(pcm(100, n)).audio_to_upstream(pcm(100, n)).passes(0.125)
    book.upstream_gone().to_client(warning("THINK_REQUEST_FAILED")).dials().upstream_opens()
    book.upstream(created()).to_upstream("session.update").updated()
    book.to_upstream(*["conversation.item.create"] * 2)
    book.audio_to_upstream(b"".join(pcm(100, n) for n in range(13, 21)))
