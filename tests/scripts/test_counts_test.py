"""scripts/test_counts.py on the reports of the three test runners."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from test_counts import (  # noqa: E402
    Counts,
    counts_of_cargo,
    counts_of_closing_line,
    counts_of_junit,
)

CTEST = """<testsuite name="x" tests="4">
<testcase name="A.Passes" classname="A.Passes" time="0.1" status="run"><system-out/></testcase>
<testcase name="A.Fails" classname="A.Fails" status="fail"><failure message=""/></testcase>
<testcase name="A.Skips" classname="A.Skips" status="notrun">
<skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/>
<system-out>[ RUN      ] A.Skips
/x/a_test.cpp:12: Skipped
no network namespaces here

[  SKIPPED ] A.Skips (0 ms)
</system-out></testcase>
<testcase name="A.Off" classname="A.Off" status="disabled"/>
</testsuite>"""

PYTEST = """<testsuites><testsuite>
<testcase classname="tests.e2e.a_test" name="test_a"/>
<testcase classname="tests.e2e.a_test" name="test_b"><skipped message="no mpirun"/></testcase>
<testcase classname="tests.e2e.a_test" name="test_c"><error message="fixture"/></testcase>
</testsuite></testsuites>"""

GTEST = """<testsuites><testsuite name="B">
<testcase name="Passes" status="run" result="completed" classname="B"/>
<testcase name="Fails" status="run" result="completed" classname="B"><failure message="1"/>
<failure message="2"/></testcase>
<testcase name="DISABLED_Off" status="notrun" result="suppressed" classname="B"/>
</testsuite></testsuites>"""


@pytest.mark.parametrize("text, expected", [
    (CTEST, Counts(1, ["A.Fails"],
                   [("A.Skips", "no network namespaces here"), ("A.Off", "disabled")])),
    (PYTEST, Counts(1, ["tests.e2e.a_test.test_c"], [("tests.e2e.a_test.test_b", "no mpirun")])),
    (GTEST, Counts(1, ["B.Fails"], [("B.DISABLED_Off", "disabled")])),
])
def test_junit_reports_are_counted(tmp_path, text, expected):
    path = tmp_path / "report.xml"
    path.write_text(text)
    assert counts_of_junit(path) == expected


def test_the_last_closing_line_counts():
    counts = counts_of_closing_line("1 passed, 0 failed\nrow\n7 passed, 2 failed, 1 skipped\n", "g")
    assert str(counts) == "7 passed, 2 failed, 1 skipped"


def test_no_closing_line_is_no_count():
    assert counts_of_closing_line("12 passed, 0 failed of 14\n", "g") is None


def test_cargo_results_are_counted():
    output = """running 3 tests
test guide::tests::masks ... ok
test guide::tests::bombs ... FAILED
test shield::tests::slow ... ignored, needs an hour

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
"""
    assert counts_of_cargo(output) == Counts(
        1, ["guide::tests::bombs"], [("shield::tests::slow", "needs an hour")])


def test_counts_add_up():
    total = Counts(1, ["a"], []) + Counts(2, [], [("b", "why")])
    assert str(total) == "3 passed, 1 failed, 1 skipped"
