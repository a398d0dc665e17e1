"""conformance: which statement of the contract is proven by which test, and did it pass.

It knows the numbers (`statements.toml`) and pytest's marks and outcomes. It does not know what a
statement means: that is between the contract and the test.

As a pytest plugin (loaded by `conftest.py`) it refuses marks with numbers that do not exist, and
with `--conformance-report FILE` writes down what became of every marked test. As a command it
prints the table:

    python -m tests.conformance                        run the marked tests, print the table
    python -m tests.conformance --report FILE...       print the table of an earlier run
    python -m tests.conformance --part conversation    only the statements of one part
    python -m tests.conformance ... --require          exit 1 if one of them has no passing test
    python -m tests.conformance ... --quiet            with --require the gaps, and the counts, only
"""

import argparse
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

STATEMENTS_FILE = Path(__file__).with_name("statements.toml")

MISSING = "-"
"""The result of a statement without tests."""
NOT_RUN = "not run"
"""The result of a test that was collected and then left out."""


class Statement(msgspec.Struct, frozen=True):
    number: str
    """`C-001` and so on."""
    part: str
    """Whose gap it is if it has no test: conversation, continuity or daemon."""
    title: str


class Outcome(msgspec.Struct):
    """What became of one test."""

    statements: list[str]
    result: str = NOT_RUN
    """passed, failed, skipped or NOT_RUN."""


Report = dict[str, Outcome]
"""Outcomes by test id; what `--conformance-report` writes, as JSON."""


class Row(msgspec.Struct, frozen=True):
    """A statement with its tests, and their results taken together."""

    statement: Statement
    tests: dict[str, str]
    """Results by test id."""
    result: str
    """passed if all its tests passed, MISSING if there are none, else the worst of them."""


def statements(file: Path = STATEMENTS_FILE) -> list[Statement]:
    """All statements, by number."""
    parts = tomllib.loads(file.read_text())
    found = [
        Statement(number, part, title)
        for part, titles in parts.items()
        for number, title in titles.items()
    ]
    return sorted(found, key=lambda statement: statement.number)


def rows(stated: Iterable[Statement], report: Report) -> list[Row]:
    """One row for each statement, in the order given."""
    return [_row(statement, report) for statement in stated]


def _row(statement: Statement, report: Report) -> Row:
    tests = {
        test: outcome.result
        for test, outcome in sorted(report.items())
        if statement.number in outcome.statements
    }
    return Row(statement, tests, _taken_together(tests.values()))


def _taken_together(results: Iterable[str]) -> str:
    by_badness = ["failed", "skipped", NOT_RUN, "passed"]
    return min(results, key=by_badness.index, default=MISSING)


def table(found: Sequence[Row]) -> str:
    """Number, part, result, title and tests, a line for each test."""
    lines = []
    for row in found:
        stated = row.statement
        lines.append(f"{stated.number}  {stated.part:12}  {row.result:7}  {stated.title}")
        lines += [f"{'':31}{test}" for test in _by_function(row.tests)]
    return "\n".join(lines)


def _by_function(tests: Mapping[str, str]) -> list[str]:
    """The cases of one parametrised test taken together; what did not pass says so."""
    cases: dict[str, list[str]] = {}
    for test, result in tests.items():
        cases.setdefault(test.partition("[")[0], []).append(result)
    lines = []
    for name, results in cases.items():
        count = f" ({len(results)} cases)" if len(results) > 1 else ""
        result = _taken_together(results)
        lines.append(name + count + ("" if result == "passed" else f": {result}"))
    return lines


def counts(found: Sequence[Row]) -> str:
    """How many statements of each part are proven, one line."""
    parts = list(dict.fromkeys(row.statement.part for row in found))
    return "conformance: " + ", ".join(_count(part, found) for part in parts)


def _count(part: str, found: Sequence[Row]) -> str:
    mine = [row for row in found if row.statement.part == part]
    proven = sum(row.result == "passed" for row in mine)
    return f"{part} {proven} of {len(mine)}"


def gaps(found: Iterable[Row]) -> list[Row]:
    """The statements that no passing test proves."""
    return [row for row in found if row.result != "passed"]


# As a pytest plugin.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--conformance-report",
        type=Path,
        metavar="FILE",
        help="write what became of every test with a conformance mark, as JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config.getoption("conformance_report")), "conformance")


class Recorder:
    """Checks the marks of all tests collected, and writes down their outcomes."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.report: Report = {}
        self.known = {statement.number for statement in statements()}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            numbers = [
                n for mark in item.iter_markers("conformance") for n in self._numbers(item, mark)
            ]
            if numbers:
                self.report[item.nodeid] = Outcome(sorted(set(numbers)))

    def _numbers(self, item: pytest.Item, mark: pytest.Mark) -> Sequence[str]:
        if not mark.args or mark.kwargs:
            raise pytest.UsageError(
                f"{item.nodeid}: conformance takes statement numbers, nothing else"
            )
        for number in mark.args:
            if number not in self.known:
                raise pytest.UsageError(f"{item.nodeid}: there is no statement {number!r}")
        return mark.args

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = self.report.get(report.nodeid)
        if outcome is None:
            return
        # A set-up or tear-down that passed says nothing; one that did not is as bad as a call.
        if report.when == "call" or not report.passed:
            before = [] if outcome.result == NOT_RUN else [outcome.result]
            outcome.result = _taken_together([report.outcome, *before])

    def pytest_sessionfinish(self) -> None:
        if self.file is not None:
            self.file.write_bytes(msgspec.json.format(msgspec.json.encode(self.report)))


# As a command.


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--report", type=Path, nargs="+", help="what --conformance-report wrote, of parts of a run"
    )
    parser.add_argument("--part", choices=sorted({s.part for s in statements()}))
    parser.add_argument("--require", action="store_true", help="exit 1 on a gap")
    parser.add_argument("--quiet", action="store_true", help="gaps and counts only")
    options = parser.parse_args(arguments)

    report = _read(options.report) if options.report else _run()
    found = rows((s for s in statements() if options.part in (None, s.part)), report)
    if not options.quiet:
        print(table(found))
    elif options.require:
        print(table(gaps(found)))
    print(counts(found))
    return 1 if options.require and gaps(found) else 0


def _read(files: Iterable[Path]) -> Report:
    report: Report = {}
    for file in files:
        report |= msgspec.json.decode(file.read_bytes(), type=Report)
    return report


def _run() -> Report:
    """What became of the marked tests, run now. A run that cannot start ends the command."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "report.json"
        code = pytest.main(["-q", "-m", "conformance", f"--conformance-report={file}"])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            sys.exit(int(code))
        return _read([file])


if __name__ == "__main__":
    sys.exit(main())
