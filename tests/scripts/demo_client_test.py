"""scripts/demo_client.py against a stub of the server."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CLIENT = HERE.parents[1] / "scripts" / "demo_client.py"


def start(mode, *options):
    return subprocess.Popen(
        [sys.executable, "-u", str(CLIENT), "--binary", str(HERE / "stub_server.py"), *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "STUB_MODE": mode})


def finish(process):
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_the_tale_the_throughput_and_the_curl_are_shown():
    status, output = finish(start(""))
    assert status == 0, output
    assert "Once upon a time there was a fox who word0 word1 word2 word3 word4\n" in output
    assert "5 tokens in " in output and " tokens/s" in output
    assert "curl -N http://127.0.0.1:" in output
    assert output.endswith("stopped cleanly\n")


@pytest.mark.parametrize("mode, message", [
    ("dies", "the server ended with status 1"),
    ("cuts", "the stream ended before data: [DONE]"),
    ("fails", "the server did not end cleanly (status 9)"),
])
def test_a_failure_is_named_and_fails(mode, message):
    status, output = finish(start(mode))
    assert status == 1
    assert message in output


def test_keep_serves_until_interrupted():
    process = start("", "--keep")
    for line in process.stdout:
        if line.startswith("Serving until Ctrl-C"):
            break
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, output = finish(process)
    assert (status, output) == (0, "\nstopping\nstopped cleanly\n")
