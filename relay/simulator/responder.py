'''responder: what the model would say.

It knows the script and, where that is silent, a few plain rules. It does not know how an answer
becomes events (`response`) or sound (`voice`). The same questions always get the same answers.

The rules of the built-in responder, in this order:

1.  Told what to say. If the response's own instructions (not the session's) contain a text between
    double quotes, or a block fenced by ``` or """, the answer is that text and nothing else. The
    text reaches from the first such mark to the last, so it may contain quotes itself; fences go
    before quotes.
2.  Tool results. If tool results are the last thing in the conversation, the answer tells them.
3.  A forced tool. `tool_choice` naming a function calls it; `required` calls what the user
    mentions, or else the first tool. After results (rule 2) neither calls again.
4.  Tools that are mentioned. Each declared tool whose name's words all occur in the user's last
    text is called, all in one response; verbs such as "get" or "check" do not count as words unless
    the name has no others. "What time is it?" calls `get_time`. `tool_choice` `none` calls nothing.
5.  Otherwise the answer repeats what the user said. Of speech without a transcript it says only how
    long it was, and it never claims to have understood it.

An answer of which a part is the last thing in the conversation, as after a fault, is not begun
anew: only the rest of it is said. A response with instructions of its own does not even begin anew
what is complete: it says nothing.

Arguments are filled in from the tool's JSON schema: `const`, `default`, the first `enum` or
`examples` value, else by type: for a string what is quoted in the user's text, else what follows
its last "in", "for", "of", "at", "to" or "about", else the whole text; for a number the numbers of
the text in order, else the minimum, else 1.
'''

import itertools
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from relay.simulator.requests import ForcedFunction, Tool, ToolChoice
from relay.simulator.script import Failure, Script, Turn

_VERBS = frozenset(
    re.findall(
        r"\w+",
        "a an the my current get set fetch find look lookup check do run make call show tell give "
        "query search retrieve load read list",
    )
)
_DEPTH = 6
"""Schemas may be nested without end; arguments are not."""


class Line(msgspec.Struct, frozen=True):
    """One item of the conversation, as far as it says something."""

    kind: Literal["system", "user", "assistant", "call", "result"]
    text: str
    name: str = ""
    """The function of a call, or of the call that a result belongs to."""


class Question(msgspec.Struct, frozen=True):
    """What a model goes by when it is asked to respond."""

    lines: list[Line]
    instructions: str | None
    """The response's own; None if it has none."""
    tools: tuple[Tool, ...]
    tool_choice: ToolChoice


class Call(msgspec.Struct, frozen=True):
    """A function call to make; `arguments` is JSON text."""

    name: str
    arguments: str


class Answer(msgspec.Struct, frozen=True):
    """What to say, then what to call, then how to end."""

    say: str = ""
    calls: tuple[Call, ...] = ()
    fail: Failure | None = None
    incomplete: Literal["max_output_tokens", "content_filter"] | None = None
    delay_s: float | None = None


class Responder(msgspec.Struct):
    """A script being played. One for each connection."""

    script: Script
    asked: int = 0
    played: dict[int, int] = {}
    """How often each turn of the script was played."""

    def answer(self, question: Question) -> Answer:
        """What the model does now. Counts the response, and uses up scripted turns."""
        told = _told(question.instructions or "")
        if told is None:
            self.asked += 1
        for asked in _asked(question) if told is None else ():
            _, whole = self._chosen(asked, told)
            if (rest := _rest(whole, question)) is not None:
                return rest
        index, answer = self._chosen(question, told)
        if index is not None:
            self.played[index] = self.played.get(index, 0) + 1
        return answer

    def _chosen(self, question: Question, told: str | None) -> tuple[int | None, Answer]:
        """What to do, and the entry of the script that says so."""
        for index, turn in enumerate(self.script.turn):
            if self._fits(index, turn, question, told):
                return index, _scripted(turn, question)
        return None, _built_in(question) if told is None else Answer(say=told)

    def _fits(self, index: int, turn: Turn, question: Question, told: str | None) -> bool:
        results = bool(_results(question.lines))
        said = _last_user_text(question.lines).casefold()
        return (
            (turn.times is None or self.played.get(index, 0) < turn.times)
            and turn.verbatim == (told is not None)
            and (turn.nth is None or turn.nth == self.asked)
            and (turn.after_results is None or turn.after_results == results)
            and (turn.user is None or (turn.user.casefold() in said and not results))
        )


def transcript(heard_s: float) -> str:
    """What is written for speech that no script transcribes."""
    return f"[speech, {heard_s:.1f} s]"


def _scripted(turn: Turn, question: Question) -> Answer:
    say = (turn.say or "").replace("{user}", _last_user_text(question.lines))
    return Answer(
        say=say.replace("{results}", _told_results(_results(question.lines))),
        calls=tuple(Call(call.name, _json(call.arguments)) for call in turn.call),
        fail=turn.fail,
        incomplete=turn.incomplete,
        delay_s=turn.delay_s,
    )


def _built_in(question: Question) -> Answer:
    if results := _results(question.lines):
        return Answer(say=_told_results(results) + ".")
    said = _last_user_text(question.lines)
    if calls := tuple(Call(tool.name, _arguments(tool, said)) for tool in _called(question, said)):
        return Answer(calls=calls)
    if speech := re.fullmatch(r"\[speech, (.*) s\]", said):
        return Answer(say=f"I heard you speak for {speech[1]} seconds.")
    return Answer(say=f"You said: {said}" if said else "I am listening.")


def _asked(question: Question) -> Iterator[Question]:
    """If the conversation ends with words of the assistant's: what they may have been the beginning
    of an answer to, the likeliest first."""
    lines = question.lines
    end = len(lines) - len(_begun(question))
    if end < len(lines):
        yield msgspec.structs.replace(question, lines=lines[:end])
        while end and lines[end - 1].kind == "user":
            end -= 1
            yield msgspec.structs.replace(question, lines=lines[:end])


def _begun(question: Question) -> list[str]:
    """What the assistant has said last, in pieces."""
    last = itertools.takewhile(lambda line: line.kind == "assistant", reversed(question.lines))
    return [line.text.strip() for line in last][::-1]


def _rest(whole: Answer, question: Question) -> Answer | None:
    """What is left of an answer with which the conversation ends; None: it does not, or is to be
    answered again."""
    pieces = _begun(question)
    while pieces:
        begun = " ".join(pieces)
        rest = whole.say.removeprefix(begun)
        if begun and rest != whole.say and not rest[:1].isalnum():
            again = not rest and question.instructions is None
            return None if again else msgspec.structs.replace(whole, say=rest.strip())
        del pieces[0]
    return None


def _told(instructions: str) -> str | None:
    for mark in ("```", '"""', '"'):
        begin, end = instructions.find(mark), instructions.rfind(mark)
        if begin != -1 and end >= begin + len(mark):
            text = instructions[begin + len(mark) : end].strip()
            if text:
                return text
    return None


def _results(lines: list[Line]) -> list[Line]:
    """The tool results that nobody has answered yet, in order."""
    found = []
    for line in reversed(lines):
        if line.kind == "result":
            found.append(line)
        elif line.kind not in ("call", "system"):
            break
    return found[::-1]


def _last_user_text(lines: list[Line]) -> str:
    return next((line.text for line in reversed(lines) if line.kind == "user"), "").strip()


def _told_results(results: list[Line]) -> str:
    return "; ".join(f"{' '.join(_nouns(line.name))}: {_plain(line.text)}" for line in results)


def _plain(output: str) -> str:
    """A result as it would be said: an object as its fields (of one only the value), anything else
    as it is."""
    try:
        value = msgspec.json.decode(output)
    except (msgspec.DecodeError, RecursionError):
        return output.strip() or "nothing"
    if isinstance(value, dict) and len(value) == 1:
        return _spoken(*value.values())
    if isinstance(value, dict):
        return ", ".join(f"{key} {_spoken(part)}" for key, part in value.items()) or "nothing"
    return _spoken(value)


def _spoken(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _called(question: Question, said: str) -> list[Tool]:
    match question.tool_choice:
        case "none":
            return []
        case ForcedFunction(name=name):
            return [tool for tool in question.tools if tool.name == name]
        case "auto":
            return [tool for tool in question.tools if _mentioned(tool.name, said)]
        case "required":
            mentioned = [tool for tool in question.tools if _mentioned(tool.name, said)]
            return mentioned or list(question.tools[:1])


def _mentioned(name: str, said: str) -> bool:
    words = {_stem(word) for word in re.findall(r"\w+", said.casefold())}
    wanted = _nouns(name)
    if name.casefold() in said.casefold():
        return True
    return bool(wanted) and all(_stem(word) in words for word in wanted)


def _nouns(name: str) -> list[str]:
    """The words of a name that say what it is about, or all if none does."""
    words = _words(name)
    return [word for word in words if word not in _VERBS] or words


def _words(name: str) -> list[str]:
    """The words of get_time, get-time and getTime."""
    return (
        re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
        .replace("_", " ")
        .replace("-", " ")
        .lower()
        .split()
    )


def _stem(word: str) -> str:
    return word.removesuffix("s")


def _arguments(tool: Tool, said: str) -> str:
    numbers = iter(re.findall(r"-?\d{1,15}(?:\.\d{1,6})?", said))
    value = _filled({"type": "object", **(tool.parameters or {})}, said, numbers, _DEPTH)
    return _json(value)


def _filled(schema: Any, said: str, numbers: Iterator[str], depth: int) -> Any:
    if not isinstance(schema, dict) or depth == 0:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return _filled(schema[key][0], said, numbers, depth - 1)
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties = schema.get("properties")
            named = properties if isinstance(properties, dict) else {}
            return {k: _filled(part, said, numbers, depth - 1) for k, part in named.items()}
        case "array":
            return [_filled(schema.get("items", {}), said, numbers, depth - 1)]
        case "integer":
            return int(_number(schema, numbers))
        case "number":
            return _number(schema, numbers)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return _subject(said)


def _number(schema: dict[str, Any], numbers: Iterator[str]) -> float:
    found = next(numbers, None)
    if found is not None:
        return float(found)
    minimum = schema.get("minimum")
    return float(minimum) if isinstance(minimum, int | float) else 1.0


def _subject(said: str) -> str:
    if quoted := re.search(r'["“](.+?)["”]', said):
        return quoted[1]
    if named := re.search(r".*\b(?:in|for|of|at|to|about)\s+(\w.*?)[\s.?!]*$", said, re.I | re.S):
        return named[1]
    return said


def _json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
