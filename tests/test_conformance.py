"""The table of statements tells the truth: about marks, about results, about gaps."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conformance import (
    MISSING,
    NOT_RUN,
    Outcome,
    Statement,
    counts,
    gaps,
    main,
    rows,
    statements,
    table,
)

ROOT = Path(__file__).parents[1]


def test_every_statement_of_the_contract_is_listed_once() -> None:
    assert [s.number for s in statements()] == [f"C-{n:03}" for n in range(1, 267)]
    assert {s.part for s in statements()} == {"conversation", "continuity", "daemon"}
    assert all(s.title for s in statements())


def test_a_statement_is_as_good_as_the_worst_of_its_tests() -> None:
    stated = [Statement(f"C-00{n}", "conversation", "x") for n in range(1, 6)]
    found = rows(
        stated,
        {
            "a": Outcome(["C-001", "C-002"], "passed"),
            "b": Outcome(["C-002"], "failed"),
            "c": Outcome(["C-003"], "skipped"),
            "d": Outcome(["C-004", "C-001"], "passed"),
            "e": Outcome(["C-004"], NOT_RUN),
        },
    )

    assert [row.result for row in found] == ["passed", "failed", "skipped", NOT_RUN, MISSING]
    assert list(found[0].tests) == ["a", "d"]
    assert [row.statement.number for row in gaps(found)] == ["C-002", "C-003", "C-004", "C-005"]
    assert counts(found) == "conformance: conversation 1 of 5"


def test_the_table_counts_cases_instead_of_listing_them_and_names_what_failed() -> None:
    report = {f"tests/test_x.py::test_y[{n}]": Outcome(["C-001"], "passed") for n in range(3)}
    report["tests/test_x.py::test_z"] = Outcome(["C-001"], "failed")
    found = rows([Statement("C-001", "daemon", "a title")], report)

    assert [line.strip() for line in table(found).splitlines()] == [
        "C-001  daemon        failed   a title",
        "tests/test_x.py::test_y (3 cases)",
        "tests/test_x.py::test_z: failed",
    ]


def test_a_run_writes_down_what_became_of_marked_tests(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run = run_pytest(
        tmp_path,
        """
        @pytest.mark.conformance("C-001", "C-003")
        def test_good(): pass

        @pytest.mark.conformance("C-002")
        def test_bad(): assert False

        @pytest.fixture
        def broken():
            yield
            raise OSError

        @pytest.mark.conformance("C-011")
        def test_bad_afterwards(broken): pass

        def test_unmarked(): pass
        """,
        f"--conformance-report={report}",
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout

    table = command("--report", str(report), "--part", "conversation")
    results = {
        line.split()[0]: line.split()[2] for line in table.stdout.splitlines() if "C-0" in line
    }
    assert results["C-001"] == results["C-003"] == "passed"
    assert results["C-002"] == results["C-011"] == "failed"
    assert results["C-012"] == MISSING
    assert "conversation 2 of 225" in table.stdout
    assert table.returncode == 0


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ('"C-999"', "there is no statement 'C-999'"),
        ("165", "there is no statement 165"),
        ("", "takes statement numbers"),
        ('number="C-001"', "takes statement numbers"),
    ],
)
def test_a_mark_that_names_no_statement_stops_the_run(
    mark: str, complaint: str, tmp_path: Path
) -> None:
    run = run_pytest(tmp_path, f"@pytest.mark.conformance({mark})\ndef test_x(): pass")

    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert complaint in run.stderr


def test_a_gap_is_required_of_its_own_part_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    daemon = {s.number for s in statements() if s.part == "daemon"}
    write(report, daemon)
    assert main(["--report", str(report), "--require", "--part", "daemon", "--quiet"]) == 0
    assert main(["--report", str(report), "--require"]) == 1

    write(report, daemon - {"C-192"})
    capsys.readouterr()
    assert main(["--report", str(report), "--require", "--part", "daemon", "--quiet"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "C-192  daemon        -        shutdown: SERVER_GOING_AWAY, 1001",
        "conformance: daemon 8 of 9",
    ]


def test_the_parts_of_a_run_are_told_together(tmp_path: Path) -> None:
    daemon = {s.number for s in statements() if s.part == "daemon"}
    parts = [tmp_path / "one.json", tmp_path / "other.json"]
    write(parts[0], {"C-192"}, test="a")
    write(parts[1], daemon - {"C-192"}, test="b")
    required = ["--require", "--part", "daemon", "--quiet"]
    assert main(["--report", *map(str, parts), *required]) == 0
    assert main(["--report", str(parts[1]), *required]) == 1


def write(report: Path, numbers: set[str], test: str = "t") -> None:
    listed = ", ".join(f'"{number}"' for number in sorted(numbers))
    report.write_text(f'{{"{test}": {{"statements": [{listed}], "result": "passed"}}}}')


def run_pytest(directory: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A run of its own, with the plugin, of a file with this text."""
    file = directory / "test_it.py"
    file.write_text("import pytest\n" + textwrap.dedent(text))
    plugins = ["-p", "tests.conformance", "-p", "no:cacheprovider"]
    return python("-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *plugins, *options, str(file))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "tests.conformance", *arguments)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
