"""What scripts/bench_peers and scripts/bench_serving do alike."""

import argparse
import os
import sys
from pathlib import Path

import engines
import machine
from shell import run

REPO = Path(__file__).resolve().parents[2]
TRIREME = Path(os.environ.get("TRIREME_BIN", REPO / "build" / "release" / "trireme"))
BENCH_BINARY = REPO / "build" / "release" / "tests" / "bench" / "trireme_bench"
BUILD_DEADLINE_S = 3600


def some_of(known):
    """A parser of comma-separated names, or "none"."""
    def parse(text):
        if text == "none":
            return []
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(sorted(unknown))} is unknown; there are: {', '.join(known)}")
        return text.split(",")
    return parse


def cache_of(shape):
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return engines.Cache(base / "trireme-bench", shape)


def make_probe(cache):
    """Builds what tells the machine's state."""
    run([REPO / "scripts" / "bench", "--peaks"], BUILD_DEADLINE_S, cache.log)
    return machine.Probe(cache, BENCH_BINARY)


def trireme_version(cache):
    return f"trireme {run([TRIREME, '--version'], 60, cache.log).strip()}"


def command_line(program):
    """As it was given. Files by name: where they lie is this machine's business."""
    words = (Path(word).name if "/" in word else word for word in sys.argv[1:])
    return f"scripts/{program} {' '.join(words)}".strip()
