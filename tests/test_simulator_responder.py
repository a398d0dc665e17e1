"""What the simulator's model says: the script, the built-in rules, and the arguments of calls."""

import json
from typing import Any

import msgspec
import pytest

from relay.simulator.requests import Tool
from relay.simulator.responder import Answer, Line, Question, Responder
from relay.simulator.script import Script, ScriptError, parse


def user(text: str) -> Line:
    return Line("user", text)


def question(
    *lines: Line, tools: tuple[Tool, ...] = (), instructions: str | None = None
) -> Question:
    return Question(list(lines), instructions, tools, "auto")


def answer(*lines: Line, script: str = "", **rest: Any) -> Answer:
    return Responder(parse(script)).answer(question(*lines, **rest))


def tools(*names: str) -> tuple[Tool, ...]:
    return tuple(Tool(name=name) for name in names)


@pytest.mark.parametrize(
    ("name", "text", "called"),
    [
        ("get_time", "what time is it", True),
        ("get_time", "What TIME, please?", True),
        ("get_time", "sometimes I wonder", False),
        ("get_current_weather", "how is the weather?", True),
        ("getWeather", "how is the weather?", True),
        ("search-restaurants", "is there a restaurant here", True),
        ("book_table", "book me a table", True),
        ("book_table", "the table is red", False),
        ("lookup", "look at this", False),
        ("lookup", "lookup this", True),
        ("end_call", "please call get_time", False),
        ("__", "anything", False),
        ("get_time", "use get_time", True),
    ],
)
def test_a_tool_is_called_when_the_words_of_its_name_are_said(
    name: str, text: str, called: bool
) -> None:
    assert bool(answer(user(text), tools=tools(name)).calls) is called


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "the weather in Paris, please?", "Paris, please"),
        ({"type": "string"}, 'mail "see you" to Bob', "see you"),
        ({"type": "string"}, "weather", "weather"),
        ({"type": "string", "enum": ["c", "f"]}, "x", "c"),
        ({"type": "string", "examples": ["e"]}, "x", "e"),
        ({"type": "string", "default": "d", "enum": ["e"]}, "x", "d"),
        ({"const": 7}, "x", 7),
        ({"type": "integer"}, "a table for 4", 4),
        ({"type": "number"}, "it is 2.5 degrees", 2.5),
        ({"type": "integer", "minimum": 3}, "x", 3),
        ({"type": "number"}, "x", 1.0),
        ({"type": "boolean"}, "x", True),
        ({"type": "null"}, "x", None),
        ({"type": ["integer", "null"]}, "9", 9),
        ({"type": "array", "items": {"type": "integer"}}, "9", [9]),
        ({"anyOf": [{"type": "integer"}]}, "9", 9),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, "9", {"a": 9}),
        ({"type": "object", "properties": 3}, "9", {}),
        ({}, "weather", "weather"),
        (True, "weather", None),
    ],
)
def test_arguments_are_filled_in_from_the_schema(schema: Any, text: str, value: Any) -> None:
    declared = Tool(name="f", parameters={"type": "object", "properties": {"p": schema}})
    (call,) = answer(user(f"f {text}"), tools=(declared,)).calls
    expected = {"weather": "f weather"}.get(value, value) if isinstance(value, str) else value
    assert json.loads(call.arguments) == {"p": expected}


def test_numbers_are_used_up_in_order() -> None:
    numbers = {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}}
    declared = Tool(name="add", parameters={"properties": numbers})
    (call,) = answer(user("add 3 and 4"), tools=(declared,)).calls
    assert json.loads(call.arguments) == {"a": 3, "b": 4, "c": 1}


def test_a_schema_without_end_is_cut_off() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(50):
        schema = {"type": "object", "properties": {"p": schema}}
    (call,) = answer(user("f"), tools=(Tool(name="f", parameters=schema),)).calls
    assert call.arguments.count("{") == 6


def test_only_results_that_nobody_answered_yet_are_told() -> None:
    call, result = Line("call", "{}", "get_time"), Line("result", '"noon"', "get_time")
    assert answer(user("time?"), call, result).say == "time: noon."
    assert answer(user("time?"), call, result, Line("assistant", "noon"), user("ok")).say == (
        "You said: ok"
    )
    assert answer(user("time?"), call, result, user("ok"), tools=tools("get_time")).calls == ()


@pytest.mark.parametrize(
    ("output", "told"),
    [("12:04", "12:04"), ("", "nothing"), ("{}", "nothing"), ("[1,2]", "[1,2]"), ("{x", "{x")],
)
def test_results_of_every_kind_are_told(output: str, told: str) -> None:
    assert answer(user("x"), Line("result", output, "get_time")).say == f"time: {told}."


def test_speech_that_nobody_transcribed_is_not_pretended_to_be_understood() -> None:
    assert answer(user("[speech, 1.8 s]")).say == "I heard you speak for 1.8 seconds."
    assert answer(user("")).say == "I am listening."


@pytest.mark.parametrize(
    ("instructions", "say"),
    [
        ('Say: "Hello."', "Hello."),
        ('Say: "He said "no" to me."', 'He said "no" to me.'),
        ('Say exactly:\n```\nHello "you"\n```\nNothing else.', 'Hello "you"'),
        ('Say """Hi."""', "Hi."),
        ('A single " mark', "You said: x"),
        ('Nothing in ""', "You said: x"),
        ("Be kind.", "You said: x"),
    ],
)
def test_instructions_of_the_response_can_say_what_to_say(instructions: str, say: str) -> None:
    assert answer(user("x"), instructions=instructions).say == say


SCRIPT = """
[[turn]]
user = "Weather"
say = "Let me look."
call = [{ name = "f", arguments = { city = "Paris" } }, { name = "g", arguments = "{no json" }]

[[turn]]
after_results = true
say = "You asked {user} and I know {results}"

[[turn]]
verbatim = true
fail = { code = "server_error" }

[[turn]]
nth = 3
delay_s = 2.5
say = "third"
"""


def test_a_script_plays_the_first_turn_that_fits() -> None:
    responder = Responder(parse(SCRIPT))
    first = responder.answer(question(user("the weather?")))
    assert first.say == "Let me look."
    assert [(call.name, call.arguments) for call in first.calls] == [
        ("f", '{"city":"Paris"}'),
        ("g", "{no json"),
    ]
    results = [user("the weather?"), Line("call", "{}", "f"), Line("result", "rain", "f")]
    second = responder.answer(question(*results))
    assert second.say == "You asked the weather? and I know f: rain"
    greeting = responder.answer(question(instructions='Say "Hi"'))
    assert greeting.fail is not None
    third = responder.answer(question(user("x")))
    assert (third.say, third.delay_s) == ("third", 2.5), "what was told is not counted"
    assert responder.answer(question(user("x"))).say == "You said: x"


@pytest.mark.parametrize(
    "text",
    [
        "turn = 3",
        "[[turn]]\nsays = 'x'",
        "[knobs]\npace = -1.0",
        "[knobs]\nthink_s = 'x'",
        "[faults]\nclose_code = 3",
        "[faults",
        "[[turn]]\nnth = 0",
        "[[turn]]\nincomplete = 'tired'",
    ],
)
def test_a_script_with_a_mistake_is_refused_by_name(text: str) -> None:
    with pytest.raises(ScriptError):
        parse(text)


def test_a_mistake_in_a_script_is_named_by_its_path() -> None:
    with pytest.raises(ScriptError, match=r"\$\.knobs\.pace"):
        parse("[knobs]\npace = 'fast'")


def test_the_empty_script_is_the_default() -> None:
    assert parse("") == Script()
    assert msgspec.to_builtins(parse("")) == msgspec.to_builtins(Script())


@pytest.mark.parametrize(
    ("begun", "said"),
    [
        ("You said:", "Hello there"),
        ("You said: Hello ", "there"),
        ("You said: Hello there", "You said: Hello there"),
        ("Something else", "You said: Hello there"),
    ],
)
def test_an_answer_that_was_begun_goes_on(begun: str, said: str) -> None:
    assert answer(user("Hello there"), Line("assistant", begun)).say == said


def test_an_answer_that_was_cut_off_twice_goes_on_from_the_second_cut() -> None:
    pieces = (Line("assistant", "You said:"), Line("assistant", "One,"))
    assert answer(user("One, two"), *pieces).say == "two"


def test_a_scripted_answer_goes_on_too() -> None:
    script = "[[turn]]\nsay = 'One, two, three.'"
    assert answer(user("Count"), Line("assistant", "One,"), script=script).say == "two, three."


def test_an_answer_that_is_to_be_ended_and_is_complete_is_not_begun_anew() -> None:
    whole = Line("assistant", "You said: Hello")
    assert answer(user("Hello"), whole).say == "You said: Hello"
    assert answer(user("Hello"), whole, instructions="Go on.").say == ""


def test_an_answer_to_an_earlier_question_goes_on_behind_a_later_one() -> None:
    lines = (user("One"), user("Two"), Line("assistant", "You said:"))
    assert answer(*lines, instructions="Go on.").say == "Two"
    lines = (user("One or two"), user("Two"), Line("assistant", "You said: One"))
    assert answer(*lines, instructions="Go on.").say == "or two"


def test_an_answer_that_tells_results_goes_on_telling_them() -> None:
    lines = (user("What time is it?"), Line("call", "{}", "get_time"))
    results = (Line("result", "noon, as ever", "get_time"), Line("assistant", "time: noon,"))
    assert answer(*lines, *results, tools=tools("get_time")) == Answer(say="as ever.")
