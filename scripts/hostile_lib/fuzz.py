"""fuzz: runs the targets of tests/fuzzing.py under libFuzzer, one after another, each in a process
of its own. Prints a table; exits 1 on a finding.

What is new goes to .fuzz/corpus, and a finding to .fuzz/findings, from where it belongs into
tests/corpus as soon as it is understood.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
WORK = ROOT / ".fuzz"
MAX_BYTES = 4096
HANGS_S = 20
"""An input that takes longer is a finding."""
NAMES = ["head", "frames", "client_messages", "upstream_events", "settings", "session"]


def fuzzed(target: str, seconds: int) -> bool:
    """Whether nothing was found."""
    corpus, findings = WORK / "corpus" / target, WORK / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    command = [
        *(sys.executable, __file__, "--inside", target),
        *(f"-max_total_time={seconds}", f"-timeout={HANGS_S}", f"-max_len={MAX_BYTES}"),
        *(f"-artifact_prefix={findings}/{target}-", "-print_final_stats=1", "-rss_limit_mb=2048"),
        *(str(corpus), str(ROOT / "tests" / "corpus" / target)),
    ]
    before, began = set(findings.iterdir()), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    text = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
    runs = _last(r"number_of_executed_units:\s+(\d+)", text)
    reached, features = _last(r"cov: (\d+)", text), _last(r"ft: (\d+)", text)
    print(
        f"{target:18} {time.monotonic() - began:5.0f} {runs:>10} {reached:>9}"
        f" {features:>9} {len(list(corpus.iterdir())):>7}"
        f" {'ok' if done.returncode == 0 else 'FOUND'}",
        flush=True,
    )
    if done.returncode != 0:
        print(text[-6000:])
        for file in set(findings.iterdir()) - before:
            print(f"    {file.relative_to(ROOT)}: {file.read_bytes()[:300]!r}")
    return done.returncode == 0


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return found[-1] if found else "?"


def inside(target: str, arguments: list[str]) -> None:
    """Never returns."""
    import atheris

    with atheris.instrument_imports(include=["relay"]):
        from tests.fuzzing import TARGETS
    assert list(TARGETS) == NAMES
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    chosen = parser.parse_args()
    if unknown := set(chosen.target) - set(NAMES):
        parser.error(f"no target: {', '.join(sorted(unknown))}")
    print(f"{'':18} {'s':>5} {'runs':>10} {'coverage':>9} {'features':>9} {'corpus':>7}")
    results = [fuzzed(target, chosen.seconds) for target in chosen.target]
    sys.exit(0 if all(results) else 1)
