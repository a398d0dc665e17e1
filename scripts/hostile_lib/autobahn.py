"""autobahn: an echo behind `relay.wire`, held to RFC 6455 by the Autobahn test suite.

It knows how the suite is called and what its report looks like. Compression cases are left out: the
relay negotiates none. Usage: autobahn.py WSTEST [CASE...], with cases like `6.*` or `7.1.1`.
"""

import contextlib
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import trio

from relay import switchboard, wire

LIMITS = wire.Limits(unsent_bytes=math.inf)
"""The relay's own towards clients, but an echo of 16 MiB has to wait somewhere."""
GIVE_UP_S = 300.0
PASSED = ("OK", "INFORMATIONAL")
NON_STRICT = "NON-STRICT"


async def main(wstest: str, cases: list[str]) -> int:
    faults: list[BaseException] = []
    with tempfile.TemporaryDirectory() as directory:
        async with switchboard.opened() as switched, trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            accept = wire.Accept(echo, limits=LIMITS)
            connection = partial(
                wire.serve_connection,
                route=lambda request: accept,
                report=faults.append,
                switchboard=switched,
            )
            await nursery.start(trio.serve_listeners, connection, [listener])
            with trio.fail_after(GIVE_UP_S):
                await run_suite(wstest, port, cases, Path(directory))
            nursery.cancel_scope.cancel()
        report = json.loads((Path(directory) / "index.json").read_text())["relay"]
    for fault in faults:
        print(f"raised in the server: {fault!r}")
    return verdict(report) or len(faults) > 0


async def echo(leg: wire.Leg) -> None:
    with contextlib.suppress(wire.LegGone):
        await leg.hear(leg.post)


async def run_suite(wstest: str, port: int, cases: list[str], directory: Path) -> None:
    spec = {
        "outdir": str(directory),
        "servers": [{"agent": "relay", "url": f"ws://127.0.0.1:{port}"}],
        "cases": cases or ["*"],
        "exclude-cases": ["12.*", "13.*"],
        "exclude-agent-cases": {},
    }
    file = directory / "spec.json"
    file.write_text(json.dumps(spec))
    await trio.run_process(
        [wstest, "--mode", "fuzzingclient", "--spec", str(file)],
        stdout=subprocess.DEVNULL,
        cwd=directory,
    )


def verdict(report: dict[str, dict[str, str]]) -> bool:
    """Print the table; whether anything failed, or nothing ran."""
    groups: dict[str, Counter[str]] = {}
    for case in sorted(report, key=lambda number: [int(part) for part in number.split(".")]):
        outcome = report[case]
        kinds = {outcome["behavior"], outcome["behaviorClose"]} - set(PASSED)
        kind = "passed" if not kinds else "non-strict" if kinds == {NON_STRICT} else "failed"
        groups.setdefault(case.split(".")[0], Counter())[kind] += 1
        if kind != "passed":
            print(f"{case}: {outcome['behavior']}, close {outcome['behaviorClose']}")
    columns = ("passed", "non-strict", "failed")
    print(f"{'section':>8}", *(f"{column:>10}" for column in columns))
    for name, counts in [*groups.items(), ("all", sum(groups.values(), Counter()))]:
        print(f"{name:>8}", *(f"{counts[column]:>10}" for column in columns))
    return not report or any(counts["failed"] for counts in groups.values())


if __name__ == "__main__":
    sys.exit(trio.run(main, str(Path(sys.argv[1]).resolve()), sys.argv[2:]))
