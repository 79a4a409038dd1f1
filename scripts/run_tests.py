"""Runs the parts of the test suite and sums their counts. Called by scripts/test."""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from test_counts import Counts, counts_of_cargo, counts_of_closing_line, counts_of_junit

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "test-results"
VENV_PYTHON = ROOT / "build" / "venv" / "bin" / "python"
CLIENTS_PYTHON = ROOT / "build" / "venv-clients" / "bin" / "python"
REQUIREMENTS = {VENV_PYTHON: ROOT / "tests" / "requirements.txt",
                CLIENTS_PYTHON: ROOT / "tests" / "clients" / "requirements.txt"}
BINARY = ROOT / "build" / "release" / "trireme"

SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "second_deadlock_stack=1",
}


class PartFailed(Exception):
    """A part ended without counts: what stood in the way."""


class Runner:
    """Runs the commands of one part within its time bound; shows their output and keeps it."""

    def __init__(self, name, bound_s, jobs):
        self.name = name
        self.jobs = jobs
        self.bound_s = bound_s
        self.deadline = time.monotonic() + bound_s
        self.log = OUT / f"{name}.log"
        self.log.write_text("")

    def run(self, *command, check=True):
        """Exit status and output. PartFailed past the time bound or, with check, on failure."""
        command = [str(word) for word in command]
        environment = {**os.environ, **SANITIZER_OPTIONS, "TRIREME_BIN": str(BINARY)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
        timed_out = threading.Event()

        def kill():
            timed_out.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(max(self.deadline - time.monotonic(), 1), kill)
        timer.start()
        lines = []
        try:
            with self.log.open("a") as log:
                for line in process.stdout:
                    lines.append(line)
                    log.write(line)
                    sys.stdout.write(line)
                    sys.stdout.flush()
            status = process.wait()
        finally:
            timer.cancel()
        if timed_out.is_set():
            raise PartFailed(f"no end within {self.bound_s} s: {' '.join(command)}")
        if check and status != 0:
            raise PartFailed(f"exit status {status}: {' '.join(command)}")
        return status, "".join(lines)

    def run_with_junit(self, *command, junit):
        """Counts from the JUnit file that the command writes; a crash outside any test counts."""
        junit.unlink(missing_ok=True)
        status, _ = self.run(*command, check=False)
        try:
            counts = counts_of_junit(junit)
        except (OSError, ElementTree.ParseError) as error:
            raise PartFailed(f"exit status {status}, no test report ({error})") from error
        if status != 0 and not counts.failed:
            counts.failed.append(f"{self.name}: exit status {status} of {command[0]}")
        return counts

    def run_with_closing_line(self, *command):
        """Counts from the last line that the command prints."""
        status, output = self.run(*command, check=False)
        counts = counts_of_closing_line(output, self.name)
        if counts is None or (status != 0 and not counts.failed):
            raise PartFailed(f"exit status {status} of {command[0]}")
        return counts

    def run_check(self, name, *command):
        """A command that is one test."""
        status, _ = self.run(*command, check=False)
        return Counts(1) if status == 0 else Counts(failed=[name])


def source_files():
    for folder in ("kernels", "comm", "model", "worker", "coordinator", "tests"):
        for suffix in ("h", "cpp", "cu"):
            yield from sorted((ROOT / folder).rglob(f"*.{suffix}"))
    yield ROOT / "main.cpp"


def make_venv(runner, python=VENV_PYTHON):
    """Makes a virtual environment again when its requirements have changed."""
    requirements = REQUIREMENTS[python]
    stamp = python.parent.parent / "requirements.sha256"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    runner.run("python3", "-m", "venv", "--clear", python.parent.parent)
    runner.run(python, "-m", "pip", "install", "--quiet", "-r", requirements)
    stamp.write_text(digest)


def pytest(runner, folder, python=VENV_PYTHON):
    make_venv(runner, python)
    junit = OUT / f"{runner.name}.xml"
    return runner.run_with_junit(
        python, "-m", "pytest", "-p", "no:cacheprovider", "-v", "--durations=5",
        f"--junitxml={junit}", folder, junit=junit)


def ctest(runner, preset):
    junit = OUT / f"{runner.name}.xml"
    return runner.run_with_junit(
        "ctest", "--test-dir", ROOT / "build" / preset, "--output-on-failure", "--no-tests=error",
        "--parallel", runner.jobs, "--output-junit", junit, junit=junit)


def golden(runner, *options):
    return runner.run_with_closing_line(
        "tests/golden/check_golden.py", "--binary", BINARY, *options)


def part_house(runner):
    return runner.run_check("check_includes", "scripts/check_includes") + runner.run_check(
        "clang-format", "clang-format", "--dry-run", "--Werror", *source_files())


def part_scripts(runner):
    return pytest(runner, "tests/scripts")


def part_build(runner):
    runner.run("scripts/build", "--tests", "release")
    return Counts(1)


def part_unit(runner):
    return ctest(runner, "release")


def part_rust(runner):
    """cargo prints one 'test result:' line for each kind of test (unit, doc)."""
    status, output = runner.run(
        "env", f"CARGO_TARGET_DIR={ROOT}/build/cargo", "cargo", "test", "--release", "--locked",
        "--manifest-path", "coordinator/text/rust/Cargo.toml", check=False)
    counts = counts_of_cargo(output)
    if status != 0 and not counts.failed:
        raise PartFailed(f"exit status {status} of cargo test")
    return counts


def part_golden(runner):
    return golden(runner)


def part_layouts(runner):
    return golden(runner, "--layouts", "--launcher", "local") + golden(
        runner, "--layouts", "--launcher", "mpirun", "--only", "llama,qwen3")


def part_e2e(runner):
    return pytest(runner, "tests/e2e")


def part_clients(runner):
    return pytest(runner, "tests/clients", CLIENTS_PYTHON)


def part_asan(runner):
    runner.run("scripts/build", "--tests", "asan")
    return ctest(runner, "asan")


# The tests in which threads meet. Forked processes and the Rust library are not ThreadSanitizer's.
TSAN_TESTS = {
    "kernels_tests": "*",
    "comm_tests": "*",
    "coordinator_tests": "Http*:InferenceCore*",
}


def part_tsan(runner):
    runner.run("scripts/build", "--tests", "tsan", *TSAN_TESTS)
    counts = Counts()
    for program, tests in TSAN_TESTS.items():
        path = next((ROOT / "build" / "tsan").rglob(program))
        junit = OUT / f"{runner.name}-{program}.xml"
        counts += runner.run_with_junit(
            path, f"--gtest_filter={tests}", f"--gtest_output=xml:{junit}", junit=junit)
    return counts


def part_aarch64(runner):
    return runner.run_with_closing_line("scripts/test_aarch64")


SOAK_S = 900


def part_soak(runner):
    make_venv(runner)
    launchers = ["local", "mpirun"] + ["two-hosts"] * (os.geteuid() == 0)  # network namespaces
    return runner.run_check("soak", VENV_PYTHON, "scripts/soak", "--seconds",
                            SOAK_S // len(launchers), "--launcher", ",".join(launchers),
                            "--report", OUT / "reliability.md")


def part_fuzz(runner):
    """A minute a target. The unit tests run each for seconds, without libFuzzer."""
    return runner.run_with_closing_line("scripts/fuzz")


# name -> (function, bound in seconds, needs the release binary, only with --full), in order of
# running: what fails fastest comes first.
PARTS = {
    "house": (part_house, 120, False, False),
    "scripts": (part_scripts, 300, False, False),
    "build": (part_build, 1800, False, False),
    "unit": (part_unit, 900, True, False),
    "rust": (part_rust, 900, False, False),
    "golden": (part_golden, 600, True, False),
    "layouts": (part_layouts, 900, True, False),
    "e2e": (part_e2e, 1200, True, False),
    "clients": (part_clients, 2400, True, True),
    "soak": (part_soak, 1500, True, True),
    "asan": (part_asan, 2400, False, True),
    "tsan": (part_tsan, 2400, False, True),
    "aarch64": (part_aarch64, 2400, False, True),
    "fuzz": (part_fuzz, 2400, False, True),
}


def run_part(name, jobs):
    function, bound_s, needs_binary, _ = PARTS[name]
    print(f"\n=== {name} ===", flush=True)
    start = time.monotonic()
    try:
        if needs_binary and not BINARY.exists():
            raise PartFailed(f"{BINARY} is not there")
        counts = function(Runner(name, bound_s, jobs))
    except PartFailed as failure:
        print(f"{name}: {failure}", flush=True)
        counts = Counts(failed=[f"{name}: {failure}"])
    print(f"=== {name}: {counts} in {time.monotonic() - start:.0f} s ===", flush=True)
    return counts


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/test", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="add the long parts")
    parser.add_argument("--only", default="", help="names of parts, separated by commas")
    args = parser.parse_args()
    args.only = [name for name in args.only.split(",") if name]
    unknown = set(args.only) - set(PARTS)
    if unknown:
        parser.error(f"no part named {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    return args


def main():
    args = parse_arguments()
    OUT.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    total = Counts()
    for name, (_, _, _, only_full) in PARTS.items():
        if name in args.only or (not args.only and (args.full or not only_full)):
            total += run_part(name, args.jobs)

    print(f"\n{time.monotonic() - start:.0f} s in all; logs and reports are in {OUT}")
    for name, reason in total.skipped:
        print(f"SKIPPED {name}: {reason}")
    for name in total.failed:
        print(f"FAILED {name}")
    print(total, flush=True)
    return 1 if total.failed or total.n_passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
