"""A request that crashes whatever rank computes it: it ends with an error after the second time, and
everybody else's streams go on."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from requests_under_test import (MODEL, Stream, join, long_requests, start_streams,
                                 wait_until_flowing)
from trireme_process import READY_DEADLINE_S, http_post, wait_until

POISON_IDS = [2001 + 2 * i for i in range(12)]  # in no other prompt
BUILD_DEADLINE_S = 60


def as_sent(ids):
    """The bytes of token ids in a plan: protobuf's packed sint32, here of two bytes each."""
    assert all(64 <= i < 8192 for i in ids)
    return b"".join(bytes((2 * i & 0x7F | 0x80, 2 * i >> 7)) for i in ids)


@pytest.fixture
def poisoned(surroundings, tmp_path):
    """Every rank started from now on crashes when it is told to compute these ids."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a request that crashes ranks was NOT tested: there is no C compiler (cc)")
    library = tmp_path / "poison.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library,
                    Path(__file__).parent / "poison.c"], check=True, timeout=BUILD_DEADLINE_S)
    surroundings.environment["LD_PRELOAD"] = str(library)
    surroundings.environment["TRIREME_TEST_POISON"] = os.fsdecode(as_sent(POISON_IDS))


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_a_request_that_crashes_its_ranks(start_server, surroundings, server, poisoned, launcher):
    wanted = long_requests(server)
    disturbed = start_server("--tp", 2, "--launcher", launcher)
    streams = start_streams(disturbed, [request for request, _ in wanted])
    wait_until_flowing(streams)
    poison = Stream(disturbed, dict(prompt=POISON_IDS, max_tokens=4))
    poison.start()
    join([poison])
    assert poison.text() == ""
    assert "the ranks failed twice while they computed this request" in str(poison.error)
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in wanted]
    assert disturbed.metric("trireme_group_restarts_total") == 2, disturbed.output()
    assert disturbed.output().count("signal 11") >= 2, disturbed.output()
    # Whoever comes after it is served, on the ranks of the second restart.
    wait_until(disturbed.is_ready, READY_DEADLINE_S, "ready again")
    status, answer = http_post(disturbed.url + "/v1/completions",
                               dict(model=MODEL, prompt="Once upon a time", max_tokens=4))
    assert status == 200, answer
    assert disturbed.metric("trireme_group_restarts_total") == 2
    assert disturbed.stop() == 0, disturbed.output()
    surroundings.assert_nothing_left()
