"""bench: arguments, rounds, and where the result goes. `scripts/bench --help`."""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import report
from contestants import CONTESTANTS, Contestant
from runs import Bench, Capacity, Failed, Run

FRAMES_PER_S = 60
"""Of one session: 50 up, 10 down."""


def main() -> int:
    asked = arguments()
    chosen = [CONTESTANTS[name] for name in asked.contestants]
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("scripts/bench: needs a core for the generator besides the contestant's")
        return 2
    built = subprocess.run([Path(__file__).with_name("build")], stdout=subprocess.PIPE, text=True)
    if built.returncode:
        return built.returncode
    os.environ["PATH"] = built.stdout.strip()
    generator = cpus[0] if asked.generator_cpu is None else asked.generator_cpu
    bench = Bench(
        [cpu for cpu in cpus if cpu != generator] if asked.cpu is None else [asked.cpu],
        generator,
        asked.seconds,
        asked.warm,
        asked.spin,
        asked.relay_option,
    )
    try:
        runs, more = measured(bench, chosen, asked.sessions, asked.also, asked.rounds)
        capacities = limits(bench, chosen, runs) if asked.capacity else []
    except Failed as failed:
        print(f"\nscripts/bench: FAILED: {failed}", file=sys.stderr)
        return 1
    write(asked, runs, more, capacities)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/bench", description="Measure relay against what one would use instead."
    )
    add = parser.add_argument
    add("--contestants", type=_names, default=list(CONTESTANTS), help=", ".join(CONTESTANTS))
    add("--sessions", type=int, default=80, help="real-time sessions in each round (80)")
    add("--also", type=int, action="append", help="and so many, for who can (300); 0: none")
    add("--seconds", type=float, default=5.0, help="length of a window (5)")
    add("--warm", type=float, default=1.5, help="traffic before a window, in seconds (1.5)")
    add("--rounds", type=int, default=5, help="every contestant once in each (5)")
    add("--no-capacity", dest="capacity", action="store_false", help="do not look for the limits")
    add("--relay-option", action="append", default=[], metavar="OPTION", help="for relay serve")
    add("--cpu", type=int, help="core for the contestants (the last ones)")
    add("--generator-cpu", type=int, help="core for the load generator (the first one)")
    add("--spin", action="store_true", help="the generator never sleeps (docs/BENCHMARK.md)")
    add("--out", type=Path, default=Path(".bench/results"), help="directory for the results")
    add("--quick", action="store_true", help="does it run at all: 10 sessions, 1 s, 1 round")
    asked = parser.parse_args()
    if asked.quick:
        asked.sessions, asked.seconds, asked.warm, asked.rounds = 10, 1.0, 0.5, 1
        asked.also, asked.capacity = [0], False
    asked.also = [number for number in asked.also or [300] if number]
    return asked


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in CONTESTANTS:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(CONTESTANTS)}")
    return names


def measured(
    bench: Bench, chosen: list[Contestant], sessions: int, also: list[int], rounds: int
) -> tuple[list[Run], list[Run]]:
    """Every contestant once a round, each round beginning with another one: a machine that slows
    down or speeds up does so for all."""
    runs: list[Run] = []
    more: list[Run] = []
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        first = number % len(chosen)
        for contestant in [*chosen[first:], *chosen[:first]]:
            run = bench.load(contestant, sessions * contestant.workers)
            runs.append(run)
            _tell(run, number)
            for higher in also if contestant.workers == 1 else ():
                if run.load.us_per_frame * FRAMES_PER_S * higher < 0.9e6:
                    more.append(bench.load(contestant, higher))
                    _tell(more[-1], number)
    return runs, more


def _tell(run: Run, number: int) -> None:
    run.round = number
    print(report.line(run), flush=True)


def limits(bench: Bench, chosen: list[Contestant], runs: list[Run]) -> list[Capacity]:
    """Looked for from below: half of what the cost of a frame promises."""
    print("most sessions on one core with p99 under 20 ms", flush=True)
    found = []
    for contestant in chosen:
        if contestant.adds or contestant.workers > 1:
            continue
        own = [run.load.us_per_frame for run in runs if run.contestant == contestant.name]
        begin = max(1, int(0.5e6 / FRAMES_PER_S / min(own)))
        found.append(bench.capacity(contestant, begin))
        while found[-1].capacity == 0 and begin > 1:
            begin //= 2
            found[-1] = bench.capacity(contestant, begin)
        print(report.capacity_line(found[-1]), flush=True)
    return found


def write(
    asked: argparse.Namespace, runs: list[Run], more: list[Run], capacities: list[Capacity]
) -> None:
    text = report.tables(runs, more, capacities)
    print(f"\n{text}\n")
    now = datetime.now(UTC)
    machine = report.machine()
    asked.out.mkdir(parents=True, exist_ok=True)
    stem = asked.out / now.strftime("%Y%m%d-%H%M%S")
    head = "; ".join(f"{key} {value}" for key, value in machine.items())
    stem.with_suffix(".md").write_text(f"{now:%Y-%m-%d}. {head}.\n\n{text}\n")
    alone = report.without_workers(runs)
    if alone:  # else there is nothing to compare
        stem.with_suffix(".svg").write_text(report.plot(alone))
    everything = {
        "at": now.isoformat(),
        "machine": machine,
        "arguments": {key: str(value) for key, value in vars(asked).items()},
        "runs": msgspec.to_builtins([*runs, *more]),
        "capacities": msgspec.to_builtins(capacities),
    }
    stem.with_suffix(".json").write_text(json.dumps(everything, indent=1) + "\n")
    print(f"{stem}.md, .json{' and .svg' if alone else ''}")


if __name__ == "__main__":
    sys.exit(main())
