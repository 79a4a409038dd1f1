"""A request that crashes whatever rank computes it: it ends with an error after the second time,
and everybody else's streams go on."""

import pytest
from faults import POISON_IDS, poison_ranks
from requests_under_test import (MODEL, Stream, join, long_requests, start_streams,
                                 wait_until_flowing)
from trireme_process import READY_DEADLINE_S, http_post, wait_until


@pytest.fixture
def poisoned(surroundings, tmp_path):
    if not poison_ranks(surroundings, tmp_path):
        pytest.skip("a request that crashes ranks was NOT tested: there is no C compiler (cc)")


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
    # Whoever comes after it is served, on the ranks of the second restart.
    wait_until(disturbed.is_ready, READY_DEADLINE_S, "ready again")
    status, answer = http_post(disturbed.url + "/v1/completions",
                               dict(model=MODEL, prompt="Once upon a time", max_tokens=4))
    assert status == 200, answer
    assert disturbed.metric("trireme_group_restarts_total") == 2
    assert disturbed.stop() == 0, disturbed.output()
    surroundings.assert_nothing_left()
