"""SIGTERM drains; nothing outlives the server, however it ends."""

import signal

import openai
import pytest
from requests_under_test import (MODEL, PROMPT, join, long_requests, make_client, start_streams,
                                 wait_until_flowing)
from trireme_process import STOP_DEADLINE_S, http_get, wait_until

LAYOUTS = (("--tp", 1), ("--tp", 2, "--pp", 2), ("--tp", 2, "--launcher", "mpirun"))


@pytest.fixture(scope="module")
def undisturbed(server):
    return long_requests(server, n_wanted=2)


@pytest.mark.parametrize("options", LAYOUTS, ids=lambda o: "-".join(map(str, o)))
def test_sigterm_lets_running_streams_finish(start_server, surroundings, undisturbed, options):
    server = start_server(*options)
    streams = start_streams(server, [request for request, _ in undisturbed])
    wait_until_flowing(streams)
    server.terminate()

    def refuses():
        try:
            return http_get(server.url + "/ready")[0] == 503
        except ConnectionError:
            return True

    wait_until(refuses, STOP_DEADLINE_S, "/ready says no")
    with pytest.raises((openai.InternalServerError, openai.APIConnectionError)):
        make_client(server).completions.create(model=MODEL, prompt=PROMPT, max_tokens=2)
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in undisturbed]
    assert server.wait_ended() == 0, server.output()
    surroundings.assert_nothing_left()


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_idle_server_ends_at_once(start_server, surroundings, number):
    server = start_server()
    server.process.send_signal(number)
    assert server.wait_ended() == 0, server.output()
    surroundings.assert_nothing_left()


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_ranks_end_when_the_coordinator_is_killed(start_server, surroundings, launcher):
    server = start_server("--tp", 2, "--launcher", launcher)
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not surroundings.processes(), STOP_DEADLINE_S, "end of the ranks")


def test_client_that_goes_away_frees_its_request(start_server):
    server = start_server()
    stream = make_client(server).completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=900, temperature=1.0, seed=1, stream=True)
    next(iter(stream))
    stream.close()
    server.wait_until_idle()  # the request is cancelled and its blocks are free
