"""report: from runs to tables, a plot and JSON.

Every figure is the median of the rounds with their range; a ratio is the median of the rounds' own
ratios, since what disturbs a round disturbs its neighbours too.
"""

import platform
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from contestants import CONTESTANTS, RELAY
from runs import Capacity, Run

BEST_US = "µs of CPU per frame"


def noisy(run: Run) -> bool:
    """Whether others on this machine are in the figures."""
    load = run.load
    waited = load.wait_us_per_frame > 0.1 * load.us_per_frame
    if CONTESTANTS[run.contestant].workers > run.cores:
        waited = False  # for each other
    return waited or run.steal > 0.02 or load.generator_lag_p99_ms > 5


def line(run: Run) -> str:
    """One run, for who is watching."""
    load = run.load
    return (
        f"  {run.contestant:18} {load.sessions:4} sessions {load.us_per_frame:7.1f} µs/frame"
        f"  (waits {load.wait_us_per_frame:5.1f})  up {load.up.p50_ms:.2f}/{load.up.p99_ms:.2f} ms"
        f"  down {load.down.p50_ms:.2f}/{load.down.p99_ms:.2f} ms"
        f"  generator {load.generator_us_per_frame:.1f} µs{'  NOISY' if noisy(run) else ''}"
    )


def capacity_line(found: Capacity) -> str:
    generator = ", the generator's own limit" if found.generator_was_the_limit else ""
    return f"  {found.contestant:18} {found.capacity:5} sessions ({found.limit}{generator})"


def tables(runs: list[Run], more: list[Run], capacities: list[Capacity]) -> str:
    """Everything, as Markdown."""
    alone = without_workers(runs)
    parts = [cost(alone), latency(alone)] if alone else []
    parts += [latency(at) for at in _by_sessions(more)]
    parts += [sessions(alone, capacities), goals(alone, more, capacities)] if alone else []
    parts += [scaling(runs), caution([*runs, *more])]
    return "\n\n".join(part for part in parts if part)


def without_workers(runs: list[Run]) -> list[Run]:
    """Those of one process, all under the same load."""
    return [run for run in runs if CONTESTANTS[run.contestant].workers == 1]


def caution(runs: list[Run]) -> str:
    disturbed = sum(map(noisy, runs))
    short = min(run.load.frames for run in runs) < 10_000
    parts = [
        f"{disturbed} of {len(runs)} runs were noisy (docs/BENCHMARK.md)." if disturbed else "",
        "Some windows hold less than 10,000 frames." if short else "",
    ]
    said = " ".join(part for part in parts if part)
    return f"**Not a result:** {said}" if said else ""


def cost(runs: list[Run]) -> str:
    per_frame = {name: median(r.load.us_per_frame for r in own) for name, own in _grouped(runs)}
    rows = []
    for name, own in sorted(_grouped(runs), key=lambda item: per_frame[item[0]]):
        loads = [run.load for run in own]
        rows.append(
            [
                CONTESTANTS[name].title,
                _spread([each.us_per_frame for each in loads]),
                _ratio(runs, name) if CONTESTANTS[name].program != RELAY else "",
                _spread([each.wait_us_per_frame for each in loads]),
                f"{median(each.relay_busy for each in loads):.0%}",
                _spread([each.generator_us_per_frame for each in loads]),
                f"{sum(map(noisy, own))} of {len(own)}",
            ]
        )
    head = [
        f"at {runs[0].load.sessions} sessions",
        BEST_US,
        "relay / it",
        "waiting for a core, µs per frame",
        "its core busy",
        "generator, µs per frame",
        "noisy rounds",
    ]
    return _table(head, rows)


def latency(runs: list[Run]) -> str:
    rows = [
        [
            CONTESTANTS[name].title,
            _spread([run.load.up.p50_ms for run in own], 2),
            _spread([run.load.up.p99_ms for run in own], 2),
            _spread([run.load.down.p50_ms for run in own], 2),
            _spread([run.load.down.p99_ms for run in own], 2),
            f"{min(run.load.delivered for run in own):.1%}",
        ]
        for name, own in _grouped(runs)
    ]
    head = [
        f"added latency in ms at {runs[0].load.sessions} sessions",
        "up, p50",
        "up, p99",
        "down, p50",
        "down, p99",
        "frames in time, worst round",
    ]
    return _table(head, rows)


def sessions(runs: list[Run], capacities: list[Capacity]) -> str:
    limit = {found.contestant: found for found in capacities}
    rows = []
    for name, own in _grouped(runs):
        found = limit.get(name)
        bound = " (generator's limit)" if found and found.generator_was_the_limit else ""
        rows.append(
            [
                CONTESTANTS[name].title,
                f"{found.capacity}{bound}" if found else "",
                _spread([run.setup_per_s for run in own], 0),
                _spread([run.setup_cpu_ms for run in own], 2),
                _spread([run.applied_p50_ms for run in own], 1),
                _spread([run.rss_idle_kb_per_session for run in own], 0),
                _spread([run.rss_active_kb_per_session for run in own], 0),
                f"{median(run.rss_empty_kb for run in own) / 1024:.1f}",
                _spread([run.start_s for run in own], 2),
            ]
        )
    head = [
        "sessions",
        "most on one core with p99 < 20 ms",
        "set up per s",
        "CPU ms per set-up",
        "Settings to SettingsApplied, ms",
        "RSS kB, idle",
        "RSS kB, active",
        "RSS MB without any",
        "s to listen",
    ]
    return _table(head, rows)


def scaling(runs: list[Run]) -> str:
    """What it costs to share the work out: sessions grow with the workers, so each worker has the
    same to do."""
    if len(without_workers(runs)) == len(runs):
        return ""
    rows = []
    for name, own in _grouped(runs):
        contestant = CONTESTANTS[name]
        several = contestant.workers > 1
        if several or name == "relay":
            shares = [sorted(run.cpu_s[1:]) for run in own]
            rows.append(
                [
                    contestant.title,
                    str(own[0].load.sessions),
                    str(own[0].cores),
                    _spread([run.load.us_per_frame for run in own]),
                    _spread([run.load.wait_us_per_frame for run in own]),
                    _spread([max(run.load.up.p99_ms, run.load.down.p99_ms) for run in own], 2),
                    f"{median(run.cpu_s[0] / sum(run.cpu_s) for run in own):.1%}"
                    if several
                    else "",
                    _spread([each[0] / each[-1] for each in shares], 2) if several else "",
                ]
            )
    head = [
        "sharing the work",
        "sessions",
        "cores",
        BEST_US,
        "waiting for a core, µs per frame",
        "p99, ms",
        "of it the parent's",
        "CPU of the least busy worker / of the busiest",
    ]
    return _table(head, rows)


def goals(runs: list[Run], more: list[Run], capacities: list[Capacity]) -> str:
    ours = [run for run in runs if run.contestant == "relay"]
    if not ours:
        return ""
    rows = []

    def goal(what: str, bound: float, reached: float | None, at_least: bool = False) -> None:
        word = "at least" if at_least else "at most"
        met = reached is not None and (reached >= bound if at_least else reached <= bound)
        shown = "not measured" if reached is None else f"{reached:.2f}"
        verdict = "" if reached is None else "yes" if met else "NO"
        rows.append([what, f"{word} {bound:g}", shown, verdict])

    for name, _ in _grouped(runs):
        contestant = CONTESTANTS[name]
        if contestant.goal is not None:
            what = f"CPU per frame / {contestant.title}"
            goal(what, contestant.goal, median(_ratios(runs, name)))
        if contestant.adds:
            more_us = [t.load.us_per_frame - o.load.us_per_frame for o, t in _pairs(runs, name)]
            goal(*contestant.adds, median(more_us))
    at_300 = [
        max(run.load.up.p99_ms, run.load.down.p99_ms)
        for run in more
        if run.contestant == "relay" and run.load.sessions == 300
    ]
    goal("p99 at 300 sessions, ms", 5, median(at_300) if at_300 else None)
    own_limit = [found.capacity for found in capacities if found.contestant == "relay"]
    goal("sessions a core", 350, own_limit[0] if own_limit else None, at_least=True)
    goal("RSS of an idle session, kB", 20, median(run.rss_idle_kb_per_session for run in ours))
    return _table(["goal", "", "reached", "met"], rows)


def plot(runs: list[Run]) -> str:
    """CPU per frame as bars, in SVG; the thin line is the range of the rounds."""
    bars = sorted(
        ((median(r.load.us_per_frame for r in own), name, own) for name, own in _grouped(runs)),
        key=lambda bar: bar[0],
    )
    widest = max(run.load.us_per_frame for run in runs)
    left, width, step = 250, 420, 30
    height = step * len(bars) + 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" '
        'font-family="sans-serif" font-size="14">',
        f'<rect width="{left + width + 70}" height="{height}" fill="white"/>',
        f'<text x="10" y="22" font-weight="bold">{BEST_US}, {runs[0].load.sessions} sessions, '
        "one core</text>",
    ]
    for index, (middle, name, own) in enumerate(bars):
        y = 38 + step * index
        low, high = (f(run.load.us_per_frame for run in own) for f in (min, max))
        scale = width / widest
        colour = "#2563eb" if CONTESTANTS[name].program == RELAY else "#9ca3af"
        title = CONTESTANTS[name].title.replace("`", "")
        out += [
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{title}</text>',
            f'<rect x="{left}" y="{y}" width="{middle * scale:.1f}" height="20" fill="{colour}"/>',
            f'<path d="M{left + low * scale:.1f} {y + 10}H{left + high * scale:.1f}" '
            'stroke="black"/>',
            f'<text x="{left + high * scale + 6:.1f}" y="{y + 15}">{middle:.0f}</text>',
        ]
    return "\n".join([*out, "</svg>"]) + "\n"


def machine() -> dict[str, str]:
    """What the figures hold for."""
    cpu = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text().splitlines()
            if text.startswith("model name")
        ),
        platform.machine(),
    )
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "node": node.stdout.strip(),
        "commit": commit.stdout.strip(),
    }


def _grouped(runs: Iterable[Run]) -> list[tuple[str, list[Run]]]:
    """By contestant, in the order of the list of contestants."""
    runs = list(runs)
    groups = [(name, [run for run in runs if run.contestant == name]) for name in CONTESTANTS]
    return [(name, own) for name, own in groups if own]


def _by_sessions(runs: list[Run]) -> list[list[Run]]:
    numbers = sorted({run.load.sessions for run in runs})
    return [[run for run in runs if run.load.sessions == number] for number in numbers]


def _pairs(runs: list[Run], name: str) -> list[tuple[Run, Run]]:
    """Ours and theirs of each round."""
    ours = {run.round: run for run in runs if run.contestant == "relay"}
    theirs = [run for run in runs if run.contestant == name]
    return [(ours[run.round], run) for run in theirs if run.round in ours]


def _ratios(runs: list[Run], name: str) -> list[float]:
    return [o.load.us_per_frame / t.load.us_per_frame for o, t in _pairs(runs, name)]


def _ratio(runs: list[Run], name: str) -> str:
    ratios = _ratios(runs, name)
    return _spread(ratios, 2) if ratios else ""


def _spread(values: list[float], digits: int = 1) -> str:
    low, high = (f"{each(values):.{digits}f}" for each in _EXTREMES)
    middle = f"{median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


_EXTREMES: tuple[Callable[[list[float]], float], ...] = (min, max)


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def shown(row: list[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([shown(head), rule, *map(shown, rows)])
