"""life: tells the life of a conversation in which everything breaks, and counts what was lost.

It knows what is to break and what must be true in the end, and how to print both. What breaks how
stands in `world`.
"""

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Iterable

import msgspec
import trio
import warm
from trio.testing import MockClock
from world import TOPICS, Due, Fault, Moment, Turn, World

from relay import realtime

FLAG = {
    "upstream": Fault.UPSTREAM,
    "down": Fault.DOWN,
    "client": Fault.CLIENT,
    "settings": Fault.CLIENT_SETTINGS,
    "killed": Fault.KILLED,
}
STORY = [
    Due(12 * 60, Fault.UPSTREAM, Moment.SPEAKING),
    Due(24 * 60, Fault.CLIENT, Moment.SPEAKING),
    Due(36 * 60, Fault.KILLED, Moment.THINKING),
    Due(48 * 60, Fault.UPSTREAM, Moment.CALLING),
    Due(66 * 60, Fault.DOWN, Moment.SPEAKING),
    Due(80 * 60, Fault.CLIENT_SETTINGS, Moment.CALLING),
    Due(92 * 60, Fault.KILLED, Moment.SPEAKING),
    Due(104 * 60, Fault.UPSTREAM, Moment.THINKING),
]
"""What happens to the one conversation that is told in full, if nothing else is asked for."""
ROLLOVER = "planned rollover of the upstream's session"


class Outcome(msgspec.Struct):
    """What became of one conversation."""

    turns: int
    rollovers: int
    faults: list[str]
    lost: list[str]
    """What is missing, doubled or wrong; empty if the history is intact."""
    silence_s: dict[str, float]
    """The longest silence that a fault of this kind, or a planned rollover, has added to an
    answer."""


def outcome(world: World) -> Outcome:
    lost = [*world.errors, *world.mistakes, *missing(world.turns, world.known)]
    silence: dict[str, float] = {}
    for turn in world.turns:
        usual_s = _usual_s(world.turns, calls=bool(turn.result))
        for cause in [fault.value for fault in turn.faults] or [ROLLOVER] * turn.rolled:
            if usual_s is not None:
                silence[cause] = max(silence.get(cause, 0.0), turn.silence_s - usual_s)
    kinds = [fault.value for _, fault, _ in world.injected]
    return Outcome(len(world.turns), world.rollovers, kinds, lost, silence)


def _usual_s(turns: list[Turn], *, calls: bool) -> float | None:
    """The silence where nothing breaks and nothing is switched, with a function or without; None:
    nothing to compare with."""
    usual = [t for t in turns if t.heard and not t.faults and not t.rolled]
    alike = sorted(t.silence_s for t in usual if bool(t.result) is calls)
    return alike[len(alike) // 2] if alike else None


def missing(turns: list[Turn], known: list[realtime.Item]) -> Iterable[str]:
    """What the last upstream does not know of what was said, or knows twice, or never answered."""
    texts = [_text(item) for item in known if item.role == "user"]
    outputs = [item.output for item in known if item.type == "function_call_output"]
    if texts != [turn.text for turn in turns]:
        yield f"the user's {len(turns)} texts became {len(texts)}, or changed their order"
    results = [turn.result for turn in turns if turn.result]
    if outputs != results:
        yield f"{len(results)} results of functions became {len(outputs)}: {outputs} {results}"
    answers = _answers(known)
    for turn in turns:
        said = " ".join(answers.get(turn.text, []))
        whole = f"time: {turn.result}." if turn.result else _topic(turn.text)
        if not said:
            yield f"no answer to {turn.text!r}"
        elif not whole.startswith(said):
            yield f"{said!r} is no answer to {turn.text!r}"
        elif said != whole and not turn.faults:
            yield f"{said!r} is but the beginning of the answer to {turn.text!r}"


def _answers(known: list[realtime.Item]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    asked = ""
    for item in known:
        if item.role == "user":
            asked = _text(item)
        elif item.role == "assistant" and _text(item):
            found.setdefault(asked, []).append(_text(item))
    return found


def _text(item: realtime.Item) -> str:
    return "".join(part.transcript or part.text or "" for part in item.content or [])


def _topic(text: str) -> str:
    return next(answer for topic, answer in TOPICS.items() if topic in text)


# -- what is to break -----------------------------------------------------------------------------


def drawn(seed: int, minutes: float, counts: dict[Fault, int]) -> list[Due]:
    """So many faults of each kind, at random times and moments."""
    rnd = random.Random(seed)
    return [
        Due(rnd.uniform(0.02, 0.9) * minutes * 60, fault, rnd.choice(list(Moment)))
        for fault, count in counts.items()
        for _ in range(count)
    ]


def counts_in(text: str) -> dict[Fault, int]:
    """`upstream=3,client=1` as numbers by kind. Raises `ValueError`."""
    found = re.findall(r"(\w+)=(\d+)", text)
    if ",".join(f"{name}={count}" for name, count in found) != text:
        raise ValueError(f"expected NAME=COUNT,... with the names {', '.join(FLAG)}")
    try:
        return {FLAG[name]: int(count) for name, count in found}
    except KeyError as name:
        raise ValueError(f"no such fault: {name}") from None


# -- printing -------------------------------------------------------------------------------------


class Teller:
    """Prints what happens; of long stretches in which nothing breaks only how long they are."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._after = 0

    def tell(self, at: float, who: str, what: str) -> None:
        clock = f"{int(at) // 3600}:{int(at) // 60 % 60:02}:{at % 60:04.1f}"
        line = f"{clock}  {who:<7} {what}"
        if who in ("!", "relay", "client"):
            self._catch_up()
            self._after = 3
        if self._after > 0:
            print(f"\033[1m{line}\033[0m" if who == "!" and sys.stdout.isatty() else line)
            self._after -= who in ("user", "agent")
        else:
            self._waiting.append(line)

    def _catch_up(self) -> None:
        questions = sum("  user " in line for line in self._waiting)
        if len(self._waiting) > 2:
            print(f"{'...':>9}  {questions} questions and their answers")
            del self._waiting[:-2]
        for line in self._waiting:
            print(line)
        self._waiting.clear()


def table(outcomes: list[Outcome], took_s: float, minutes: float) -> str:
    rows = ["| fault | injected | longest silence it added |", "|---|---|---|"]
    rollovers = sum(each.rollovers for each in outcomes)
    counts = {f.value: sum(k == f.value for o in outcomes for k in o.faults) for f in Fault}
    for kind, count in {**counts, ROLLOVER: rollovers}.items():
        longest = max((each.silence_s.get(kind, 0.0) for each in outcomes), default=0.0)
        if count:
            rows.append(f"| {kind} | {count:,} | {longest:.1f} s |")
    survived = sum(not each.lost for each in outcomes)
    turns = sum(each.turns for each in outcomes)
    lost = sum(len(each.lost) for each in outcomes)
    hours = len(outcomes) * minutes / 60
    rows += [
        "",
        f"Conversations survived: {survived} of {len(outcomes)}. Questions asked: {turns:,}. "
        f"Messages lost: {lost}. {hours:,.0f} hours of conversation in {took_s:.0f} s.",
    ]
    return "\n".join(rows)


# -- the command ----------------------------------------------------------------------------------


def lived(world: World) -> Outcome:
    trio.run(world.live, clock=MockClock(autojump_threshold=0))
    return outcome(world)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/life",
        description="Lives through a conversation of two hours in seconds: the real session, bridge"
        " and store against the simulator, on virtual time, while upstreams crash, the client is"
        " lost and the relay is killed. Exit code 1 if anything of it is lost.",
    )
    parser.add_argument("--seed", type=int, default=1, help="another conversation (%(default)s)")
    parser.add_argument("--minutes", type=float, default=119.0, help="its length (%(default)g)")
    parser.add_argument(
        "--upstream-minutes",
        type=float,
        default=15.0,
        help="how long an upstream session lasts (%(default)g; with OpenAI 60)",
    )
    parser.add_argument(
        "--faults",
        metavar="NAME=COUNT,...",
        help=f"what breaks, at random: {', '.join(FLAG)}; without it, a story that has them all",
    )
    parser.add_argument(
        "--many", type=int, default=0, metavar="N", help="N random conversations, and only figures"
    )
    parser.add_argument("--quiet", action="store_true", help="print the figures only")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    parser.add_argument(
        "--warm",
        type=int,
        metavar="ROUNDS",
        help="instead: how long clients wait for SettingsApplied, with real processes",
    )
    options = parser.parse_args()
    if options.warm:
        print(warm.table(warm.measured(options.warm)))
        return 0
    try:
        counts = counts_in(options.faults) if options.faults else None
    except ValueError as error:
        parser.error(str(error))
    began = time.monotonic()
    outcomes = []
    for seed in range(options.seed, options.seed + max(1, options.many)):
        if counts is None and not options.many:
            dues = [msgspec.structs.replace(due) for due in STORY]
        else:
            dues = drawn(seed, options.minutes, counts or dict.fromkeys(Fault, 1))
        silent = options.many or options.quiet or options.json
        world = World(
            seed=seed,
            minutes=options.minutes,
            dues=dues,
            upstream_minutes=options.upstream_minutes,
            tell=None if silent else Teller().tell,
        )
        outcomes.append(lived(world))
    took_s = time.monotonic() - began
    if options.json:
        print(json.dumps([msgspec.to_builtins(each) for each in outcomes], indent=1))
    else:
        print(f"\n{table(outcomes, took_s, options.minutes)}")
        for number, each in enumerate(outcomes, options.seed):
            for what in each.lost:
                print(f"seed {number}: {what}")
    return int(any(each.lost for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
