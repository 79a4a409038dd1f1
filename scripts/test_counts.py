"""Counts of passed, failed and skipped tests, read from what the test runners leave behind."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree

CLOSING_LINE = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$")
CARGO_TEST = re.compile(r"^test (\S+) \.\.\. (ok|FAILED|ignored)(?:, (.*))?$", re.MULTILINE)
GTEST_SKIP = re.compile(r": Skipped\n(.*?)\n*(?:\n|\[)", re.DOTALL)


@dataclasses.dataclass
class Counts:
    n_passed: int = 0
    failed: list = dataclasses.field(default_factory=list)  # names
    skipped: list = dataclasses.field(default_factory=list)  # (name, reason)

    def __add__(self, other):
        return Counts(
            self.n_passed + other.n_passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
        )

    def __str__(self):
        return f"{self.n_passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"


def skip_reason(case, skipped):
    """pytest and GoogleTest give a message; ctest only the output of the skipped test."""
    match = GTEST_SKIP.search(case.findtext("system-out") or "")
    if match and match.group(1).strip():
        return match.group(1).strip()
    return (skipped.get("message") or "no reason given").strip()


def counts_of_junit(path):
    """Reads the JUnit XML of ctest, GoogleTest or pytest. OSError or ParseError where it cannot."""
    counts = Counts()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        if case.get("classname") == case.get("name"):
            name = case.get("name")  # ctest writes the name twice
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts.failed.append(name)
        elif skipped is not None:
            counts.skipped.append((name, skip_reason(case, skipped)))
        elif case.get("status") in ("notrun", "disabled"):
            counts.skipped.append((name, "disabled"))
        else:
            counts.n_passed += 1
    return counts


def counts_of_closing_line(output, name):
    """Reads the last line of the form 'N passed, N failed[, N skipped]'; None without one."""
    for line in reversed(output.splitlines()):
        match = CLOSING_LINE.match(line.strip())
        if match:
            passed, failed, skipped = (int(number or 0) for number in match.groups())
            reason = f"see the output of {name}"
            return Counts(passed, [f"{name} (see its output)"] * failed, [(name, reason)] * skipped)
    return None


def counts_of_cargo(output):
    """Reads the lines 'test NAME ... ok' of `cargo test`."""
    counts = Counts()
    for name, result, reason in CARGO_TEST.findall(output):
        if result == "ok":
            counts.n_passed += 1
        elif result == "FAILED":
            counts.failed.append(name)
        else:
            counts.skipped.append((name, reason or "ignored"))
    return counts
