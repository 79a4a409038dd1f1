"""A short run of scripts/soak, with a seed of its own each time: it is printed when it fails."""

import subprocess
import sys

import pytest
from trireme_process import BINARY, REPO

SECONDS = 20
DEADLINE_S = 240


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_soak(surroundings, launcher):
    result = subprocess.run(
        [sys.executable, REPO / "scripts" / "soak", "--seconds", str(SECONDS), "--launcher",
         launcher], env=surroundings.environment | {"TRIREME_BIN": str(BINARY)},
        capture_output=True, text=True, timeout=DEADLINE_S)
    assert result.returncode == 0, result.stdout + result.stderr
