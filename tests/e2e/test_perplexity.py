"""scripts/perplexity on the demo model and the text that it never saw."""

import subprocess
import sys

from trireme_process import COMMAND_DEADLINE_S, REPO

HELD_OUT = REPO / "demo" / "heldout.txt"


def perplexity(surroundings, *options):
    return subprocess.run(
        [sys.executable, REPO / "scripts" / "perplexity", "demo", HELD_OUT, *options],
        env=surroundings.environment, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S)


def test_the_demo_model_knows_fairy_tales(surroundings):
    result = perplexity(surroundings, "--max-windows", "6", "--threads", "1", "--vs=--tp 2")
    assert result.returncode == 0, result.stderr
    windows, base, sharded = result.stdout.splitlines()
    assert windows == "6 windows of 384 tokens"
    assert 15 < float(base.split()[-1]) < 40  # 24.6 over all of the held-out text
    assert sharded.split()[-2:] == ["+0.000", "%"]  # the same bits on every layout
    surroundings.assert_nothing_left()


def test_an_unknown_option_is_refused_by_trireme(surroundings):
    result = perplexity(surroundings, "--max-windows", "1", "--dtype", "int3")
    assert result.returncode == 1
    assert "int3" in result.stderr.splitlines()[-1]
    surroundings.assert_nothing_left()


def test_a_text_of_less_than_a_window_is_refused(surroundings, tmp_path):
    (tmp_path / "text").write_text("Once upon a time.")
    result = subprocess.run(
        [sys.executable, REPO / "scripts" / "perplexity", "demo", tmp_path / "text"],
        env=surroundings.environment, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S)
    assert result.returncode == 1
    assert "too few for one window" in result.stderr
