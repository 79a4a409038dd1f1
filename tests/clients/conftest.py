"""One server of the demo model for all clients, and what plain HTTP says that it answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "e2e"))

from conversation import plain_answers, specification  # noqa: E402
from trireme_process import Server, Surroundings  # noqa: E402

TOOLS = Path(sys.prefix) / "bin"  # of the virtual environment that has the clients
COMMAND_DEADLINE_S = 900


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """In float32, so that scores can be compared with another implementation's."""
    surroundings = Surroundings(tmp_path_factory.mktemp("cache"))
    running = Server(surroundings, "--dtype", "float32", "--tool-call-parser", "hermes")
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.output()
        surroundings.assert_nothing_left()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        running.log.unlink()
        surroundings.clean_up()


@pytest.fixture(scope="session")
def spec(server):
    return specification(server.url)


@pytest.fixture(scope="session")
def expected(server, spec):
    return plain_answers(server.url, spec)


@pytest.fixture(scope="session")
def run():
    """A function that runs a client and gives what it prints; the test fails where it does."""
    def run_command(*command, stdin="", cwd=None, **environment):
        done = subprocess.run(
            [str(word) for word in command], input=stdin.encode(), cwd=cwd, capture_output=True,
            env={**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", **environment},
            timeout=COMMAND_DEADLINE_S)
        output, errors = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        assert done.returncode == 0, f"{command}: {done.returncode}\n{output}\n{errors}"
        return output
    return run_command
