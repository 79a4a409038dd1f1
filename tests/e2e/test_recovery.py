"""A rank killed in the middle of several streams: no client notices."""

import os
import signal
import time

import pytest
from faults import ReadyWatch
from requests_under_test import (join, long_requests, sample_answers, start_streams,
                                 wait_until_flowing)
from trireme_process import READY_DEADLINE_S, http_get, wait_until

LAUNCHERS = ("local", "mpirun")
NOT_READY_LIMIT_S = 1.0  # after a lost rank


@pytest.fixture(scope="module")
def undisturbed(server):
    return long_requests(server)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("victim", (0, 3))
def test_streams_survive_a_killed_rank(start_server, surroundings, undisturbed, launcher, victim):
    server = start_server("--tp", 2, "--pp", 2, "--launcher", launcher)
    requests = [request for request, _ in undisturbed]
    ranks_before = server.rank_pids()
    watch = ReadyWatch(server)
    streams = start_streams(server, requests)
    wait_until_flowing(streams)

    killed_at = time.monotonic()
    os.kill(ranks_before[victim], signal.SIGKILL)
    assert all(stream.is_alive() for stream in streams), "the streams ended before the kill"
    join(streams)

    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in undisturbed]
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
    watch.stop()
    assert watch.first_503 is not None, "/ready never said 503"
    assert watch.first_503 - killed_at < NOT_READY_LIMIT_S
    assert not set(ranks_before) & set(server.rank_pids()), "the whole group is relaunched"
    assert server.metric("trireme_group_restarts_total") == 1
    assert server.metric("trireme_replayed_requests_total") == len(streams)

    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def test_serves_the_same_after_two_kills(start_server, surroundings, server):
    expected = sample_answers(server)
    disturbed = start_server("--tp", 2)
    for _ in range(2):
        ranks = disturbed.rank_pids()
        os.kill(ranks[-1], signal.SIGKILL)
        disturbed.wait_for_new_ranks(ranks)
        assert sample_answers(disturbed) == expected
    assert http_get(disturbed.url + "/health")[0] == 200
    assert disturbed.stop() == 0, disturbed.output()
    surroundings.assert_nothing_left()


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("killed_by", (signal.SIGKILL, signal.SIGSEGV))
def test_kv_cache_outlives_a_killed_rank(start_server, undisturbed, launcher, killed_by):
    """What was computed is not computed again, unless the rank crashed by its own fault."""
    server = start_server("--tp", 2, "--launcher", launcher)
    request, text = undisturbed[0]
    stream, = start_streams(server, [request])
    wait_until_flowing([stream], n_pieces=300)
    os.kill(server.rank_pids()[1], killed_by)
    join([stream])
    assert stream.error is None
    assert stream.text() == text
    n_computed = server.metric("vllm:iteration_tokens_total_sum")
    n_needed = server.metric("vllm:prompt_tokens_total") + 950 - 1
    if killed_by == signal.SIGKILL:
        assert n_computed < n_needed + 10, "only what was in flight"
    else:
        assert n_computed > n_needed + 250, "all of it"
    assert server.stop() == 0, server.output()
